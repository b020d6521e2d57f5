"""What a file of evidence holds, and the session that it is from, read without believing anything in it.

Every statement is opened here by its place: the refusal of one that is not what it must be names it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, TypeVar

import numpy as np
from pydantic import FailFast, Field

from proto.canonical import MAX_MESSAGE, Digest, Message, PeerID, tagged_hash
from proto.errors import MessageRefused
from secagg.keys import agree, pair_seed, public_key, self_seed
from secagg.messages import (
    Advert,
    Each,
    Ready,
    Release,
    SessionMessage,
    ShareList,
    ShareLists,
    SurvivorSet,
    seed_commitment,
    session_id,
)
from secagg.shamir import combine
from verify.standing import Kind
from verify.statement import Signed, open_signed

M = TypeVar("M", bound=Message)
S = TypeVar("S", bound=SessionMessage)

MOST_STATEMENTS = 1_024
MOST_ITEMS = MOST_STATEMENTS + 128
"""CBOR items in a file of evidence: they are counted before any is read."""


class EvidenceRefused(MessageRefused):
    """Evidence that does not show what it says. It convicts nobody; who signed it as true may have lied."""


class PortableEvidence(Message):
    """Signed statements that convict `against` of what `kind` says, with all that a stranger needs.

    `adverts`: all that the session's id binds, in its order; none where the offence is not in a session.
    """

    DOMAIN: ClassVar[str] = "evidence"
    MOST_BYTES: ClassVar[int] = 32 << 20
    MOST_ITEMS: ClassVar[int] = MOST_ITEMS

    run: Digest
    kind: Kind
    against: PeerID
    adverts: Each[Annotated[bytes, Field(max_length=1 << 16)]]
    statements: Annotated[
        tuple[Annotated[bytes, Field(max_length=MAX_MESSAGE)], ...],
        Field(max_length=MOST_STATEMENTS),
        FailFast(),
    ]


@dataclass(frozen=True)
class Rules:
    """What the manifest says: the ring's dtype, and elements in a chunk.

    `sane(integers, weight)`: whether a member's integers in one chunk may be what `weight` slices give. It
    must let through whatever an honest member can have in any chunk and at any snapshot.
    """

    dtype: np.dtype
    chunk: int
    sane: Callable[[np.ndarray, int], bool]


# -- a session, from its adverts ------------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """The session that a piece of evidence is from: who was in it, in order, and what is said in it."""

    evidence: PortableEvidence
    rules: Rules
    adverts: Mapping[PeerID, Advert]
    id: bytes

    @classmethod
    def of(cls, evidence: PortableEvidence, rules: Rules) -> "Session":
        """Raises EvidenceRefused unless the adverts make one session of this run, with the accused in it."""
        opened = [open_named(raw, Advert, f"advert {at}") for at, raw in enumerate(evidence.adverts)]
        adverts = {one.signer: one.message for one in sorted(opened, key=lambda one: one.signer)}
        if list(evidence.adverts) != sorted(evidence.adverts) or len(adverts) != len(opened):
            raise EvidenceRefused("adverts: they must be one of each member, in the order of their bytes")
        if evidence.against not in adverts:
            raise EvidenceRefused(f"adverts: none is of {evidence.against}, who is no member of this session")
        slots = {(one.run, one.round, one.attempt, one.shard, one.snapshot) for one in adverts.values()}
        if len(slots) != 1 or adverts[evidence.against].run != evidence.run:
            raise EvidenceRefused("adverts: they are not all of one attempt of this run")
        if len({one.mask_key is None for one in adverts.values()}) != 1:
            raise EvidenceRefused("adverts: some have a mask key and some have none")
        return cls(evidence, rules, adverts, session_id(adverts[evidence.against], evidence.adverts))

    @cached_property
    def members(self) -> list[PeerID]:
        """In order: a member's place is that of its share in every list."""
        return list(self.adverts)

    @property
    def masked(self) -> bool:
        return self.adverts[self.evidence.against].mask_key is not None

    @property
    def where(self) -> str:
        """The session in words."""
        advert = self.adverts[self.evidence.against]
        return f"in round {advert.round}, attempt {advert.attempt} (session {self.id.hex()[:16]})"

    def said(self, at: int, kind: type[S], by: PeerID | None = None) -> Signed[S]:
        """Statement `at`, which is a `kind` of this session, by a member or by this one."""
        if at >= len(self.evidence.statements):
            raise EvidenceRefused(f"{self.evidence.kind}: statement {at}, a {kind.DOMAIN}, is missing")
        return self.inner(self.evidence.statements[at], kind, f"statement {at}", by)

    def inner(self, raw: bytes, kind: type[S], name: str, by: PeerID | None = None) -> Signed[S]:
        """The same for a statement inside another."""
        signed = open_named(raw, kind, name)
        if signed.message.session != self.id:
            raise EvidenceRefused(f"{name}: a {kind.DOMAIN} of another session")
        if signed.signer not in self.adverts if by is None else signed.signer != by:
            raise EvidenceRefused(f"{name}: a {kind.DOMAIN} by {signed.signer}, not by {by or 'a member'}")
        return signed

    def by_accused(self, at: int, kind: type[S]) -> S:
        """Statement `at`, which the accused must have made."""
        return self.said(at, kind, self.evidence.against).message

    def check_list(self, dealer: PeerID, dealt: ShareList) -> None:
        """Raises EvidenceRefused unless the list has an entry for each member."""
        lengths = {len(dealt.sealed), len(dealt.mask_shares), len(dealt.seed_shares), len(dealt.pair_roots)}
        if lengths != {len(self.members)}:
            raise EvidenceRefused(f"share-list: that of {dealer} is not for the {len(self.members)} members")

    def check_advert(self, at: int) -> PeerID:
        """The author of the advert that statement `at` is; it must be one of the session's."""
        raw = self.evidence.statements[at]
        if raw not in self.evidence.adverts:
            raise EvidenceRefused(f"statement {at}: not an advert of this session")
        return open_named(raw, Advert, f"statement {at}").signer

    def mask_key(self, member: PeerID) -> bytes:
        return self._key(member, self.adverts[member].mask_key)

    def seal_key(self, member: PeerID) -> bytes:
        return self._key(member, self.adverts[member].seal_key)

    def _key(self, member: PeerID, key: bytes | None) -> bytes:
        if key is None:
            raise EvidenceRefused(f"advert: {member} has no such key, nothing is masked in this session")
        return key

    def share_hash(self, dealer: PeerID, holder: PeerID, kind: str, share: bytes) -> bytes:
        """What a share list shows of one share."""
        return tagged_hash("share", self.id, dealer.encode(), holder.encode(), kind.encode(), share)

    def count(self, expected: int) -> None:
        """Raises EvidenceRefused unless there are so many statements."""
        found = len(self.evidence.statements)
        if found != expected:
            raise EvidenceRefused(f"{self.evidence.kind}: {found} statements, it takes {expected}")


# -- what masks are made of -------------------------------------------------------------------------------


class Papers:
    """Statements 1 to 3: the accused's Ready, the share lists that it names, and a survivor set."""

    def __init__(self, session: Session) -> None:
        self.session = session
        ready = session.by_accused(1, Ready)
        lists = session.said(2, ShareLists).message
        if ready.lists != lists.digest():
            raise EvidenceRefused(
                f"statement 2: not the share lists that {session.evidence.against} was ready for"
            )
        self.survivor_set = session.said(3, SurvivorSet).message
        self.survivors = check_order(self.survivor_set.survivors, "survivor-set: its survivors")
        self.dealt: dict[PeerID, ShareList] = {}
        for at, raw in enumerate(lists.lists):
            one = session.inner(raw, ShareList, f"share list {at}")
            session.check_list(one.signer, one.message)
            self.dealt[one.signer] = one.message
        check_order(list(self.dealt), "share-lists: their authors")
        numbers = {(one.threshold, one.chunks) for one in self.dealt.values()}
        if len(self.dealt) != len(lists.lists) or len(numbers) != 1:
            raise EvidenceRefused("share-lists: one of each dealer, with the same numbers, is needed")
        ((self.threshold, self.chunks),) = numbers
        if not {session.evidence.against, *self.survivors} <= self.dealt.keys():
            raise EvidenceRefused("survivor-set: it names members that dealt nothing")
        self.seeds: dict[PeerID, bytes] = {}
        self.keys: dict[PeerID, bytes] = {}
        self._shares: dict[PeerID, dict[int, bytes]] = {dealer: {} for dealer in self.dealt}

    def share_holds(self, dealer: PeerID, holder: PeerID, share: bytes) -> bool:
        """Whether this is the share that `dealer` dealt `holder`, of the kind that the set asks for."""
        dealt, place = self.dealt[dealer], self.session.members.index(holder)
        kind = "seed" if dealer in self.survivors else "mask"
        hashes = dealt.seed_shares if kind == "seed" else dealt.mask_shares
        return self.session.share_hash(dealer, holder, kind, share) == hashes[place]

    def check_release(self, release: Release) -> None:
        """Raises EvidenceRefused unless it is for these lists and this set."""
        if release.survivor_set != self.survivor_set.digest():
            raise EvidenceRefused("release: for another survivor set")
        if len(release.shares) != len(self.dealt):
            raise EvidenceRefused(f"release: {len(release.shares)} shares of {len(self.dealt)} dealers")

    def recover(self, first: int, last: int) -> None:
        """Take the releases that statements `first` to `last` - 1 are; each secret is that of its advert.

        Where more shares than needed are here the first count, as they did for whoever kept the evidence.
        """
        holders: set[PeerID] = set()
        for at in range(first, last):
            signed = self.session.said(at, Release)
            holder, release = signed.signer, signed.message
            self.check_release(release)
            if holder in holders:
                raise EvidenceRefused(f"statement {at}: a second release of {holder}")
            holders.add(holder)
            if release.seed is not None:
                if holder not in self.survivors:
                    raise EvidenceRefused(f"statement {at}: a seed of {holder}, who is no survivor")
                self._take(holder, release.seed, f"statement {at}")
            for dealer, share in zip(self.dealt, release.shares, strict=True):
                if share and not self.share_holds(dealer, holder, share):
                    raise EvidenceRefused(
                        f"statement {at}: {holder}'s share of {dealer} is not the one dealt"
                    )
                if share and len(self._shares[dealer]) < self.threshold:
                    self._shares[dealer][self.session.members.index(holder)] = share

    def _take(self, member: PeerID, secret: bytes, name: str) -> None:
        """A secret that is the one of the advert, or none: who gave it does not matter."""
        advert = self.session.adverts[member]
        if member in self.survivors:
            if seed_commitment(secret) != advert.seed_commitment:
                raise EvidenceRefused(f"{name}: a seed of {member} that its advert does not commit to")
            self.seeds[member] = secret
        elif public_key(secret) != advert.mask_key:
            raise EvidenceRefused(f"{name}: a mask key of {member} that is not its advert's")
        else:
            self.keys[member] = secret

    def seed(self, survivor: PeerID) -> bytes:
        """The seed of a survivor's own mask."""
        if survivor not in self.seeds:
            self._rebuild(survivor)
        return self_seed(self.seeds[survivor], self.session.id)

    def pair(self, gone: PeerID, survivor: PeerID) -> bytes:
        """The seed of the mask that a survivor has with a dealer that is none."""
        if gone not in self.keys:
            self._rebuild(gone)
        shared = agree(self.keys[gone], self.session.mask_key(survivor))
        return pair_seed(shared, self.session.id, gone, survivor)

    def _rebuild(self, dealer: PeerID) -> None:
        shares = self._shares[dealer]
        if len(shares) != self.threshold:
            raise EvidenceRefused(f"releases: {len(shares)} shares of {dealer}, {self.threshold} are needed")
        self._take(dealer, combine(shares), f"shares of {dealer}")

    @property
    def gone(self) -> list[PeerID]:
        """The dealers that are no survivors."""
        return [dealer for dealer in self.dealt if dealer not in self.survivors]


# -- small things ------------------------------------------------------------


def open_named(raw: bytes, kind: type[M], name: str) -> Signed[M]:
    """The statement that is called `name`. Raises EvidenceRefused, with that name."""
    try:
        return open_signed(raw, kind)
    except MessageRefused as refusal:
        raise EvidenceRefused(f"{name}: {refusal}") from None


def check_order(members: Sequence[PeerID], what: str) -> Sequence[PeerID]:
    """The members, if each is there once, in order. Raises EvidenceRefused."""
    if list(members) != sorted(set(members)):
        raise EvidenceRefused(f"{what} must be in order, each once")
    return members
