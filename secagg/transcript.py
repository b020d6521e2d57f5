"""What a member keeps of a session whose masks came off: all that later checks of it rest on.

Updates stay hidden: what opens one is each member's own, and is handed out chunk by chunk. The promise of
`check_masked`: integers that pass, with the masks the author opened for them, are the very ones that the
owner of their part summed; a member cannot open other integers than it sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from blake3 import blake3

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.keys import self_seed
from secagg.masks import Masker, sign_towards
from secagg.messages import Advert, Evidence, Opening, Part, PartSum, Receipt, Shown, SurvivorSet
from secagg.opening import open_chunk
from secagg.parts import Cut
from secagg.sharing import Recovery, Sharing


class NotWhatWasSent(MessageRefused):
    """Opened integers, or masks, that are not those of the author's signed part."""


@dataclass(frozen=True)
class Transcript:
    """One session, as one of its members keeps it; without masks `sharing` and `recovery` are None.

    `masked`: what this member sent, [size]; `headers`: its signed parts; `receipts`, `owners`, `sums`: the
    owners', of each part; `beacon`: what the survivors' seeds give it, in their order; `final_set`: signed.
    """

    session: bytes
    me: PeerID
    adverts: Mapping[PeerID, tuple[bytes, Advert]]
    agreed: SurvivorSet
    final_set: bytes = field(repr=False)
    beacon: tuple[bytes, ...]
    cut: Cut
    chunks: int
    masked: np.ndarray = field(repr=False)
    headers: Mapping[int, bytes] = field(repr=False)
    receipts: Mapping[int, Receipt] = field(repr=False)
    owners: Mapping[int, PeerID]
    sums: Mapping[int, tuple[bytes, PartSum]] = field(repr=False)
    sharing: Sharing | None = field(repr=False)
    recovery: Recovery | None = field(repr=False)

    @property
    def survivors(self) -> tuple[PeerID, ...]:
        """Whose updates were summed, in order."""
        return self.agreed.survivors

    @property
    def releases(self) -> tuple[bytes, ...]:
        """The members' signed releases; none where nothing is masked."""
        return () if self.recovery is None else self.recovery.releases

    def papers(self, member: PeerID) -> tuple[bytes, ...]:
        """What binds a masker to share lists and set: `Recovery.papers`. Raises MessageRefused."""
        return () if self.recovery is None else self.recovery.papers(member)

    @property
    def dtype(self) -> np.dtype:
        """The ring's."""
        return self.masked.dtype

    def elements(self, chunk: int) -> int:
        """How many elements a chunk has."""
        where = self.cut.holding(chunk)[1]
        return int(where.stop - where.start)

    def open_masks(self, chunk: int) -> Opening | None:
        """The keys of this member's masks in a chunk; None where nothing is masked."""
        return None if self.sharing is None else open_chunk(self.sharing, chunk)

    def shown(self, chunk: int) -> Shown:
        """This member's masked integers in a chunk, as its owner has them."""
        part, where = self.cut.holding(chunk)
        return Shown(
            session=self.session, chunk=chunk, header=self.headers[part], data=self.masked[where].tobytes()
        )

    def check_shown(self, author: PeerID, shown: Shown, header: Part) -> None:
        """Raises NotWhatWasSent unless these are the integers that the owner of their part signed for.

        `header`: the one in `shown`, opened.
        """
        part, _ = self.cut.holding(shown.chunk)
        if header.part != part:
            raise NotWhatWasSent(f"shown: {author} shows the header of part {header.part}, not {part}")
        self._check_receipt(author, header)
        place = shown.chunk - self.cut.first(part)
        if blake3(shown.data).digest() != header.hashes[place]:
            raise NotWhatWasSent(f"shown: {author} shows other integers than it sent")
        if len(shown.data) != self.elements(shown.chunk) * self.dtype.itemsize:
            raise NotWhatWasSent(f"shown: {len(shown.data)} bytes of {author}, the chunk has others")

    def check_headers(self, author: PeerID, headers: Sequence[Part]) -> None:
        """Raises NotWhatWasSent unless these are the author's parts that the owners signed receipts for."""
        if [header.part for header in headers] != self.cut.parts:
            raise NotWhatWasSent(f"part: {author} opens {len(headers)} parts of {len(self.cut.parts)}")
        for header in headers:
            self._check_receipt(author, header)

    def check_opening(self, author: PeerID, opening: Opening) -> None:
        """Raises NotWhatWasSent unless every key stands in the root that the author signed for its pair.

        Raises MessageRefused for another number of them.
        """
        wrong = self._masks.unproved(author, opening)
        if wrong is not None:
            raise NotWhatWasSent(f"opening: the key of {author}'s mask with {wrong} is not in its root")

    def check_masked(
        self, author: PeerID, chunk: int, update: np.ndarray, headers: Sequence[Part], opening: Opening | None
    ) -> None:
        """Raises NotWhatWasSent unless `update`, the author's own integers in a chunk, with its masks on, is
        what it sent. Headers and opening have been checked."""
        masked = update.copy()
        if opening is not None and self.recovery is not None:
            masker = Masker(masked.dtype, self.cut.chunk)
            masker.add(masked, chunk, [(self_seed(self.recovery.seeds[author], self.session), 1)])
            for dealer, key in zip(self._masks.dealt, opening.keys, strict=True):
                if dealer != author:
                    masker.add_stream(masked, key, sign_towards(author, dealer))
        part, _ = self.cut.holding(chunk)
        header = next(header for header in headers if header.part == part)
        if blake3(masked.data.cast("B")).digest() != header.hashes[chunk - self.cut.first(part)]:
            raise NotWhatWasSent(
                f"chunk {chunk}: the slices that {author} opens do not add up to what it sent"
            )

    def check_sum(self, chunk: int, shown: Mapping[PeerID, Shown]) -> bool:
        """Whether the owner's sum of a chunk is what all survivors show, each checked by `check_shown`."""
        part, _ = self.cut.holding(chunk)
        place, total = chunk - self.cut.first(part), np.zeros(self.elements(chunk), self.dtype)
        for author in self.survivors:
            np.add(total, np.frombuffer(shown[author].data, self.dtype), out=total)
        if self.recovery is not None:
            off = [(seed, -sign) for seed, sign in self.recovery.masks()]
            Masker(self.dtype, self.cut.chunk).add(total, chunk, off)
        return blake3(total.data.cast("B")).digest() == self.sums[part][1].hashes[place]

    def false_sum(self, chunk: int, shown: Mapping[PeerID, bytes], proposal: bytes) -> Evidence:
        """What convicts the owner of a chunk whose sum is not what all survivors, signed, show."""
        part, _ = self.cut.holding(chunk)
        papers = (*self.papers(self.owners[part]), *self.releases) or (proposal,)
        statements = (self.sums[part][0], *papers, *(shown[survivor] for survivor in self.survivors))
        adverts = tuple(sorted(raw for raw, _ in self.adverts.values()))
        return Evidence("sum", self.owners[part], statements, adverts)

    def _check_receipt(self, author: PeerID, header: Part) -> None:
        self.cut.check_header(header)
        receipt = self.receipts[header.part]
        if dict(zip(receipt.senders, receipt.headers, strict=True)).get(author) != header.digest():
            raise NotWhatWasSent(f"part: not the one of {author} that the owner signed for")

    @property
    def _masks(self) -> Sharing:
        if self.sharing is None:
            raise NotWhatWasSent("opening: nothing is masked in this session")
        return self.sharing
