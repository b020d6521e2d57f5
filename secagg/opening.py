"""After a sum that failed its sanity tests: who it was (design, section 5 "Sanity tests").

In two steps, so that nobody can be made to show more than it must:

    Shown    every survivor tells its *masked* integers of one drawn chunk. All masks that do not cancel are
             known by now, so everyone adds up the chunk; if that is not what the part's owner published, the
             owner lied, and nobody opens anything.
    Opening  the sum is true, and insane: every survivor tells the keys of its masks in that chunk, each with
             its proof in the pair's root. A single survivor that keeps them back changes nothing: its
             partners' keys are its own.

The promise: what is computed from this are the very integers that a survivor masked. The tests of the sum
add up the bounds of its members, so in a chunk that fails, some member's own integers fail.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from proto.canonical import PeerID
from proto.errors import MessageRefused
from proto.merkle import inclusion_proof, leaf_hash
from secagg.keys import self_seed
from secagg.masks import Masker, chunk_key, sign_towards
from secagg.messages import (
    Advert,
    Evidence,
    Opening,
    Part,
    PartSum,
    Receipt,
    SessionMessage,
    Shown,
)
from secagg.parts import Cut
from secagg.sharing import Recovery, Sharing

Sane = Callable[[np.ndarray, int], bool]
"""(integers of one member in the chunk, its weight) -> whether they may be as they are."""


def open_chunk(sharing: Sharing, index: int) -> Opening:
    """The keys of this member's masks in chunk `index`."""
    keys: list[bytes] = []
    proofs: list[tuple[bytes, ...]] = []
    for dealer in sharing.dealt:
        leaves = [] if dealer == sharing.me else sharing.pair_keys(dealer)
        keys.append(leaves[index] if leaves else bytes(32))
        proofs.append(tuple(inclusion_proof([leaf_hash(key) for key in leaves], index)) if leaves else ())
    return Opening(session=sharing.session, chunk=index, keys=tuple(keys), proofs=tuple(proofs))


@dataclass(frozen=True)
class Claim:
    """The sum that failed: what the owner of its part received and published, signed and opened."""

    owner: PeerID
    receipt: Receipt
    published: tuple[bytes, PartSum]
    proposal: bytes  # the signed SurvivorSet; the receipt is in it


class OwnChunks:
    """What a member tells of its own chunks: of the one its sum fails in, and of those that others ask for.

    A liar may let members see different sums, none in time, or not all that is shown. So everyone shows each
    member the first chunk that it shows itself (its owner knows it), and opens a chunk that more than
    `colluders` open, for then an honest one has seen that its true sum is insane.

    `update` and `headers` are the session's own: masked in place, and signed once masked.
    """

    def __init__(
        self,
        session: bytes,
        sharing: Sharing | None,
        update: np.ndarray,
        headers: Mapping[int, tuple[bytes, Part]],
        colluders: int,
    ) -> None:
        self.cut = Cut(0, (), (), 1)
        self._session, self._sharing, self._update = session, sharing, update
        self._headers, self._colluders = headers, colluders
        self._shown_to: set[PeerID] = set()
        self._asked: dict[PeerID, int] = {}
        self._has_opened = False

    def show(self, index: int) -> Shown:
        """The masked integers in a chunk; its owner has them."""
        part, where = self.cut.holding(index)
        header, data = self._headers[part][0], self._update[where].tobytes()
        return Shown(session=self._session, chunk=index, header=header, data=data)

    def open(self, index: int) -> Opening | None:
        """The keys of a chunk's masks; None where nothing is masked, and for a second one."""
        if self._has_opened or self._sharing is None or not self._headers:
            return None
        self._has_opened = True
        return open_chunk(self._sharing, index)

    def answer(self, sender: PeerID, message: SessionMessage) -> Shown | Opening | None:
        """What is told, to `sender` or to all, of a chunk that `sender` shows or opens; nothing else."""
        if not isinstance(message, Shown | Opening):
            return None
        if isinstance(message, Opening):
            self._asked.setdefault(sender, message.chunk)
            enough = list(self._asked.values()).count(message.chunk) > self._colluders
            return self.open(message.chunk) if enough else None
        masked = bool(self._headers) and self.cut.holding(message.chunk)[0] in self._headers
        if not masked or sender in self._shown_to:
            return None
        self._shown_to.add(sender)
        return self.show(message.chunk)


class Openings:
    """One chunk as the survivors show and open it. Without masks, `sharing` and `recovery` are None."""

    def __init__(
        self,
        sharing: Sharing | None,
        recovery: Recovery | None,
        adverts: Mapping[PeerID, tuple[bytes, Advert]],
        survivors: Sequence[PeerID],
        cut: Cut,
        chunk: int,
        dtype: np.dtype,
        claim: Claim,
        sane: Sane,
    ) -> None:
        self.chunk, self.survivors = chunk, set(survivors)
        self.may_open = False
        """Whether the sum is what was shown adds up to."""
        part, where = cut.holding(chunk)
        self._place, self._elements = chunk - cut.first(part), where.stop - where.start
        self._sharing, self._recovery, self._adverts = sharing, recovery, adverts
        self._claim, self._sane = claim, sane
        self._masker, self._dtype = Masker(dtype, cut.chunk), dtype
        self._shown: dict[PeerID, tuple[bytes, np.ndarray]] = {}
        self._disputed: set[PeerID] = set()  # who signed another header than the owner has signed for
        self._opened: dict[PeerID, bytes] = {}
        self._keys: dict[tuple[PeerID, PeerID], bytes] = {}
        self._solved = False

    def show(self, author: PeerID, raw: bytes, message: Shown, header: Part) -> list[Evidence]:
        """Take a survivor's masked integers. Raises MessageRefused unless they are what it sent the owner."""
        if author in self._shown and self._shown[author][0] == raw:
            return []  # told again
        self._check_asked(author, message.chunk, self._shown)
        receipt = self._claim.receipt
        if dict(zip(receipt.senders, receipt.headers, strict=True))[author] != header.digest():
            if header.part == receipt.part:
                self._disputed.add(author)
            raise MessageRefused(f"shown: {author} shows another header than the owner's receipt names")
        # The header of an owner's own part is looked at by nobody else before.
        if len(header.hashes) <= self._place or blake3(message.data).digest() != header.hashes[self._place]:
            raise MessageRefused(f"shown: {author} shows other integers than it sent")
        if len(message.data) != self._elements * self._dtype.itemsize:
            raise MessageRefused(f"shown: {len(message.data)} bytes for {self._elements} elements")
        self._shown[author] = (raw, np.frombuffer(message.data, self._dtype))
        if self._shown.keys() != self.survivors:
            return []
        published_raw, published = self._claim.published
        total = np.sum([masked for _, masked in self._shown.values()], axis=0, dtype=self._dtype)
        if self._recovery is not None:
            self._masker.add(total, self.chunk, [(seed, -sign) for seed, sign in self._recovery.masks()])
        if blake3(total.data.cast("B")).digest() != published.hashes[self._place]:
            self._solved = True
            papers = self._papers(self._claim.owner)
            shown = [self._shown[survivor][0] for survivor in sorted(self.survivors)]
            return [Evidence("sum", self._claim.owner, (published_raw, *papers, *shown))]
        self.may_open = True
        return self._garbage()

    def open(self, author: PeerID, raw: bytes, message: Opening) -> list[Evidence]:
        """Take a survivor's keys. Raises MessageRefused unless each stands in the root that it signed."""
        self._check_asked(author, message.chunk, self._opened)
        if self._sharing is None:
            raise MessageRefused("opening: nothing is masked here")
        wrong = self._sharing.unproved(author, message)
        if wrong is not None:
            raise MessageRefused(f"opening: the key of {author}'s mask with {wrong} is not in its root")
        for dealer, key in zip(self._sharing.dealt, message.keys, strict=True):
            self._keys[author, dealer] = self._keys[dealer, author] = key
        self._opened[author] = raw
        return self._garbage()

    def silent(self, me: PeerID, minimum: int, colluders: int) -> set[PeerID]:
        """Who kept back what almost `minimum` others told, as long as nobody is convicted.

        Where a survivor signed another header than the owner has signed for, one of the two lies: both are
        among them; the owner alone, if more survivors say so than may lie, or `me` is one.
        """
        if self._solved:
            return set()
        if me in self._disputed or len(self._disputed) > colluders:
            return {self._claim.owner}
        told = set(self._opened if self.may_open else self._shown) | self._disputed
        silent = self.survivors - told if len(told) >= minimum - 1 else set()
        return silent | self._disputed | ({self._claim.owner} if self._disputed else set())

    def _garbage(self) -> list[Evidence]:
        found = []
        for survivor in sorted(self.survivors):
            update, (_, advert) = self._update_of(survivor), self._adverts[survivor]
            if update is not None and not self._sane(update, advert.weight):
                self._solved = True
                papers = () if self._recovery is None else self._papers(survivor)
                statements = (self._shown[survivor][0], *papers, *self._openings_of(survivor))
                found.append(Evidence("garbage", survivor, statements))
        return found

    def _papers(self, accused: PeerID) -> tuple[bytes, ...]:
        """What binds the accused to the lists and the set, and the releases that take off the masks."""
        if self._recovery is None:
            return (self._claim.proposal,)
        return (*self._recovery.papers(accused), *self._recovery.releases)

    def _openings_of(self, survivor: PeerID) -> list[bytes]:
        """The fewest openings with the keys of its pairs: its own, or those of its partners."""
        if survivor in self._opened:
            return [self._opened[survivor]]
        return [self._opened[author] for author in sorted(self._opened)]

    def _update_of(self, survivor: PeerID) -> np.ndarray | None:
        """A survivor's own integers; None while a key of its masks is missing."""
        update = self._shown[survivor][1].copy()
        if self._sharing is None or self._recovery is None:
            return update
        own = self_seed(self._recovery.seeds[survivor], self._sharing.session)
        self._masker.add(update, self.chunk, [(own, -1)])
        for dealer in self._sharing.dealt:
            if dealer == survivor:
                continue
            key = self._keys.get((survivor, dealer))
            if dealer in self._recovery.keys:  # two that lie alike agree on a root; a rebuilt key tells
                key = chunk_key(self._recovery.pair_seed(dealer, survivor), self.chunk)
            if key is None:
                return None
            self._masker.add_stream(update, key, -sign_towards(survivor, dealer))
        return update

    def _check_asked(self, author: PeerID, chunk: int, said: Mapping[PeerID, object]) -> None:
        if chunk != self.chunk or author not in self.survivors or author in said:
            raise MessageRefused(f"opening: chunk {chunk} of {author} was not asked for")
