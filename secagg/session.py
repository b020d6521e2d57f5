"""One member's side of one aggregation session, sans-I/O.

The promise: `Completed` carries the exact integer sum of the updates of one survivor set, the same
at every member that completes; anything else is `Failed` with its reason, and nothing was applied.

An instance performs just one session. The caller feeds it what arrives (statements, parts, sums,
timers) and carries out the effects it returns. The steps, each entered once and in this order:

    MASK    parts go to their owners, who answer with signed receipts; an owner that does not
            answer is replaced by the next in the chain; a member with all receipts says `Delivered`
    AGREE   the proposer names the survivor set with its receipts; members sign it, once a session;
            a quorum of signatures makes it final
    UNMASK  owners publish their part's sum over exactly that set, signed and hashed by chunk

With `aggregation = "plain"` the parts are the updates themselves: the same path without masks.

>>> from secagg.parts import part_slices
>>> [s.stop - s.start for s in part_slices(200_000, 2, 65_536)]
[131072, 68928]
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from proto.canonical import Message, PeerID, tagged_hash
from proto.errors import MessageRefused
from secagg.messages import (
    Advert,
    Delivered,
    FinalSet,
    Part,
    PartSum,
    Receipt,
    SessionMessage,
    SetVote,
    SurvivorSet,
    chunk_hashes,
    seed_commitment,
    session_id,
)
from secagg.parts import owner_chain, part_slices

M = TypeVar("M", bound=Message)
S = TypeVar("S", bound=SessionMessage)
T = TypeVar("T", bound=Part | PartSum)
Sign = Callable[[Message], bytes]


class Check(Protocol):
    """Opens a signed statement: (signer, message). Raises MessageRefused."""

    def __call__(self, raw: bytes, kind: type[M], /) -> tuple[PeerID, M]: ...


class NotYet(MessageRefused):
    """A transfer that comes before what it rests on; the caller may hold it for a while and ask again."""


@dataclass(frozen=True)
class Tell:
    to: PeerID
    raw: bytes


@dataclass(frozen=True)
class SendPart:
    """Stream a part; its reply goes to `part_acknowledged`, its failure to `part_failed`."""

    to: PeerID
    session: bytes
    part: int
    header: bytes
    data: np.ndarray


@dataclass(frozen=True)
class SendSum:
    """Stream a part's sum; nobody waits for the reply."""

    to: PeerID
    session: bytes
    part: int
    header: bytes
    data: np.ndarray


@dataclass(frozen=True)
class Wait:
    """Call `elapsed(name)` after so many seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Completed:
    """The sum over the survivors, in the ring, and what the record is made of."""

    total: np.ndarray
    survivors: tuple[PeerID, ...]
    survivor_set: bytes
    votes: tuple[tuple[PeerID, SetVote], ...]


@dataclass(frozen=True)
class Failed:
    reason: str


Effect = Tell | SendPart | SendSum | Wait | Completed | Failed


class Step(enum.Enum):
    MASK = "mask"
    AGREE = "agree"
    UNMASK = "unmask"
    DONE = "done"
    VOID = "void"


@dataclass(frozen=True)
class Terms:
    """What a session is held to; all of it from the manifest and the last record.

    `minimum`: members a survivor set needs, and signatures that make it final. `owners`: the members
    that own a part each, in order; empty for all of them.
    `mask_seconds`, `agree_seconds`: time for parts to arrive, and for each of the steps after.
    `chunk`: elements in a chunk.
    """

    minimum: int
    proposer: PeerID
    mask_seconds: float
    agree_seconds: float
    chunk: int
    owners: tuple[PeerID, ...] = ()


@dataclass
class Session:
    """One member's side. `adverts` maps every member to its signed advert and the advert itself.

    `update`: integers of the ring, shape [size]. `statements`: what this member wants in the record; with
    them its vote must stay below `MAX_VOTE` bytes.
    """

    me: PeerID
    adverts: Mapping[PeerID, tuple[bytes, Advert]]
    update: np.ndarray
    seed: bytes
    statements: Sequence[bytes]
    terms: Terms
    sign: Sign
    check: Check
    evidence: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.members = sorted(self.adverts)
        self.id = session_id(self.adverts[self.me][1], [raw for raw, _ in self.adverts.values()])
        self.step = Step.MASK
        self.owners = self.terms.owners or tuple(self.members)
        self.slices = part_slices(len(self.update), len(self.owners), self.terms.chunk)
        self.parts = [p for p, s in enumerate(self.slices) if s.start < s.stop]
        self._chains = {p: owner_chain(p, self.owners, self.members) for p in self.parts}
        self._headers: dict[int, bytes] = {}
        self._receipts: dict[int, bytes] = {}
        self._inputs: dict[tuple[int, PeerID], tuple[bytes, np.ndarray]] = {}
        self._delivered: dict[PeerID, tuple[bytes, dict[int, PeerID]]] = {}
        self._signed_set: tuple[bytes, bytes] | None = None  # the proposal and this member's vote
        self._proposal: bytes | None = None
        self._votes: dict[PeerID, bytes] = {}
        self._final: FinalSet | None = None
        self._set: SurvivorSet | None = None
        self._final_votes: tuple[tuple[PeerID, SetVote], ...] = ()
        self._total = np.empty_like(self.update)
        self._summed: set[int] = set()
        self._caught: set[PeerID] = set()

    # -- what the caller feeds ------------------------------------------------------------------

    def start(self) -> list[Effect]:
        """Send every part to its owner."""
        effects: list[Effect] = [
            Wait("mask", self.terms.mask_seconds),
            Wait("set", self.terms.mask_seconds + 2 * self.terms.agree_seconds),
        ]
        for part in self.parts:
            data = self.update[self.slices[part]]
            header = Part(session=self.id, part=part, hashes=chunk_hashes(data, self.terms.chunk))
            self._headers[part] = self.sign(header)
            effects += self._send_part(part)
        return effects

    def expect(self, sender: PeerID, header: bytes, kind: type[Part | PartSum]) -> int:
        """How many elements must follow this header. Raises MessageRefused, or NotYet."""
        return self._size(self._awaited(sender, header, kind).part)

    def part_arrived(self, sender: PeerID, header: bytes, data: np.ndarray) -> bytes:
        """A member's part is here in full: this owner's signed receipt for it."""
        message = self._awaited(sender, header, Part)
        self._check_chunks(message, data)
        self._inputs[message.part, sender] = (header, data)
        return self._receipt(message.part, sender, header)

    def sum_arrived(self, sender: PeerID, header: bytes, data: np.ndarray) -> list[Effect]:
        """An owner's part sum is here in full."""
        message = self._awaited(sender, header, PartSum)
        self._check_chunks(message, data)
        return self._keep_sum(message.part, data)

    def part_acknowledged(self, part: int, owner: PeerID, receipt: bytes) -> list[Effect]:
        """An owner's reply to a part. A false receipt counts as no answer."""
        if part in self._receipts or self.step in (Step.DONE, Step.VOID):
            return []
        try:
            self._check_receipt(receipt, part, owner, self.me, self._headers[part])
        except MessageRefused:
            return self.part_failed(part, owner)
        return self._keep_receipt(part, receipt)

    def part_failed(self, part: int, owner: PeerID) -> list[Effect]:
        """`owner` did not take the part: the next in the chain is asked."""
        chain = self._chains[part]
        if self.step is not Step.MASK or part in self._receipts or not chain or chain[0] != owner:
            return []
        chain.pop(0)
        if not chain:
            return self._fail(f"no member took part {part}")
        return self._send_part(part)

    def receive(self, sender: PeerID, raw: bytes, kind: type[Message]) -> list[Effect]:
        """A statement for this session. Raises MessageRefused; a refusal changes nothing."""
        if self.step is Step.VOID:
            return []
        if kind is Delivered:
            return self._on_delivered(sender, raw)
        if kind is SurvivorSet:
            return self._on_survivor_set(sender, raw)
        if kind is SetVote:
            return self._on_set_vote(sender, raw)
        if kind is FinalSet:
            return self._on_final_set(sender, raw)
        raise MessageRefused(f"{kind.DOMAIN}: not a statement of a session")

    def elapsed(self, name: str) -> list[Effect]:
        """A timer asked for by `Wait` has run out."""
        if self.step in (Step.DONE, Step.VOID):
            return []
        if name in ("mask", "straggle") and self._proposing and self._proposal is None:
            return self._propose() if name == "mask" or self._enough() else []
        if name == "votes" and self._final is None:
            return self._finish_votes()
        if name == "set" and self._final is None:
            return self._fail("no survivor set became final in time")
        if name == "sums":
            missing = [p for p in self.parts if p not in self._summed]
            return self._fail(f"no sum came for part {missing[0]} of {len(self.parts)}")
        return []

    # -- MASK -------------------------------------------------------------------------------------

    def _send_part(self, part: int) -> list[Effect]:
        owner = self._chains[part][0]
        header, data = self._headers[part], self.update[self.slices[part]]
        if owner != self.me:
            return [SendPart(owner, self.id, part, header, data)]
        self._inputs[part, self.me] = (header, data)
        return self._keep_receipt(part, self._receipt(part, self.me, header))

    def _receipt(self, part: int, sender: PeerID, header: bytes) -> bytes:
        digest = _header_digest(header)
        return self.sign(Receipt(session=self.id, part=part, sender=sender, header=digest))

    def _keep_receipt(self, part: int, receipt: bytes) -> list[Effect]:
        self._receipts[part] = receipt
        if len(self._receipts) < len(self.parts):
            return []
        raw = self.sign(
            Delivered(session=self.id, receipts=tuple(self._receipts[part] for part in self.parts))
        )
        return self._tell(self.terms.proposer, raw, self._on_delivered)

    # -- AGREE ------------------------------------------------------------------------------------

    @property
    def _proposing(self) -> bool:
        return self.me == self.terms.proposer

    def _enough(self) -> bool:
        return len(self._delivered) >= self.terms.minimum

    def _on_delivered(self, sender: PeerID, raw: bytes) -> list[Effect]:
        if not self._proposing:
            raise MessageRefused("delivered: this member is not the proposer")
        message = self._open(sender, raw, Delivered)
        if self._proposal is not None or sender in self._delivered:
            return []
        self._delivered[sender] = (raw, self._receipt_owners(sender, message))
        if len(self._delivered) == len(self.members):
            return self._propose()
        if len(self._delivered) == self.terms.minimum:
            return [Wait("straggle", self.terms.mask_seconds / 4)]
        return []

    def _receipt_owners(self, sender: PeerID, message: Delivered) -> dict[int, PeerID]:
        """Who gave `sender` a receipt for each part; raises MessageRefused if one does not hold."""
        if len(message.receipts) != len(self.parts):
            raise MessageRefused(f"delivered: {len(message.receipts)} receipts for {len(self.parts)} parts")
        owners: dict[int, PeerID] = {}
        for part, raw in zip(self.parts, message.receipts, strict=True):
            owner, receipt = self.check(raw, Receipt)
            right = (receipt.session, receipt.part, receipt.sender) == (self.id, part, sender)
            if not right or owner not in self.adverts:
                raise MessageRefused(f"delivered: the receipt for part {part} is for something else")
            owners[part] = owner
        return owners

    def _propose(self) -> list[Effect]:
        owners = tuple(self._choose_owner(part) for part in range(len(self.owners)))
        survivors = tuple(
            member
            for member in self.members
            if member in self._delivered
            and all(self._delivered[member][1][part] == owners[part] for part in self.parts)
        )
        if len(survivors) < self.terms.minimum:
            return self._fail(f"{len(survivors)} members delivered, {self.terms.minimum} are needed")
        delivered = tuple(self._delivered[member][0] for member in survivors)
        self._proposal = self.sign(
            SurvivorSet(session=self.id, survivors=survivors, owners=owners, delivered=delivered)
        )
        effects: list[Effect] = [Tell(member, self._proposal) for member in self.members if member != self.me]
        return [
            *effects,
            Wait("votes", self.terms.agree_seconds),
            *self._on_survivor_set(self.me, self._proposal),
        ]

    def _choose_owner(self, part: int) -> PeerID:
        # The one most receipts name; where they name several alike, one that is here to publish the sum.
        chain = owner_chain(part, self.owners, self.members)
        if part not in self.parts:
            return chain[0]
        named = [owners[part] for _, owners in self._delivered.values()]
        return max(
            chain, key=lambda owner: (named.count(owner), owner in self._delivered, -chain.index(owner))
        )

    def _on_survivor_set(self, sender: PeerID, raw: bytes) -> list[Effect]:
        proposed = self._open(sender, raw, SurvivorSet)
        if sender != self.terms.proposer:
            raise MessageRefused(f"survivor-set: {sender} is not the proposer")
        if self._signed_set is not None:
            if self._signed_set[0] != raw:
                self._convict(sender, self._signed_set[0], raw)
                raise MessageRefused("survivor-set: the proposer sent two different sets")
            return self._tell(sender, self._signed_set[1], self._on_set_vote)
        self._check_set(proposed)
        if self._final is not None:
            return []
        vote = self.sign(
            SetVote(
                session=self.id,
                survivor_set=proposed.digest(),
                seed=self.seed,
                statements=tuple(self.statements),
            )
        )
        self._signed_set = (raw, vote)
        self.step = Step.AGREE
        return self._tell(sender, vote, self._on_set_vote)

    def _check_set(self, proposed: SurvivorSet) -> None:
        survivors, owners = proposed.survivors, proposed.owners
        if list(survivors) != sorted(set(survivors)) or not set(survivors) <= set(self.members):
            raise MessageRefused("survivor-set: survivors must be members, each once, in order")
        if len(survivors) < self.terms.minimum:
            raise MessageRefused(f"survivor-set: {len(survivors)} survivors, at least {self.terms.minimum}")
        if len(owners) != len(self.owners) or not set(owners) <= set(self.members):
            raise MessageRefused("survivor-set: each part needs an owner among the members")
        if len(proposed.delivered) != len(survivors):
            raise MessageRefused("survivor-set: each survivor's receipts must be listed")
        for survivor, raw in zip(survivors, proposed.delivered, strict=True):
            named = self._receipt_owners(survivor, self._open(survivor, raw, Delivered))
            if any(named[part] != owners[part] for part in self.parts):
                raise MessageRefused(f"survivor-set: {survivor} has receipts from other owners")

    def _on_set_vote(self, sender: PeerID, raw: bytes) -> list[Effect]:
        if not self._proposing or self._proposal is None:
            raise MessageRefused("set-vote: this member proposed nothing")
        self._check_vote(sender, raw, self.check(self._proposal, SurvivorSet)[1].digest())
        if self._final is not None or sender in self._votes:
            return []
        self._votes[sender] = raw
        return self._finish_votes() if len(self._votes) == len(self.members) else []

    def _check_vote(self, sender: PeerID, raw: bytes, digest: bytes) -> SetVote:
        vote = self._open(sender, raw, SetVote)
        if vote.survivor_set != digest:
            raise MessageRefused("set-vote: for another survivor set")
        if seed_commitment(vote.seed) != self.adverts[sender][1].seed_commitment:
            raise MessageRefused(f"set-vote: {sender} reveals a seed its advert did not commit to")
        return vote

    def _finish_votes(self) -> list[Effect]:
        if len(self._votes) < self.terms.minimum:
            return self._fail(f"{len(self._votes)} members signed the set, {self.terms.minimum} are needed")
        assert self._proposal is not None
        votes = tuple(self._votes[member] for member in sorted(self._votes))
        digest = self.check(self._proposal, SurvivorSet)[1].digest()
        raw = self.sign(FinalSet(session=self.id, survivor_set=digest, proposal=self._proposal, votes=votes))
        tells: list[Effect] = [Tell(member, raw) for member in self.members if member != self.me]
        return [*tells, *self._on_final_set(self.me, raw)]

    def _on_final_set(self, sender: PeerID, raw: bytes) -> list[Effect]:
        final = self._open(sender, raw, FinalSet)
        if self._final is not None:
            return []
        proposed = self._open(self.terms.proposer, final.proposal, SurvivorSet)
        if proposed.digest() != final.survivor_set:
            raise MessageRefused("final-set: the votes are for another proposal")
        self._check_set(proposed)
        votes: dict[PeerID, SetVote] = {}
        for vote in final.votes:
            signer, _ = self.check(vote, SetVote)
            votes[signer] = self._check_vote(signer, vote, final.survivor_set)
        if len(votes) < self.terms.minimum or list(votes) != sorted(votes):
            raise MessageRefused(f"final-set: {len(votes)} votes in order, {self.terms.minimum} are needed")
        self._final, self._set, self.step = final, proposed, Step.UNMASK
        self._final_votes = tuple(votes.items())
        return [Wait("sums", self.terms.mask_seconds), *self._publish_sums()]

    # -- UNMASK -----------------------------------------------------------------------------------

    def _publish_sums(self) -> list[Effect]:
        assert self._set is not None
        effects: list[Effect] = []
        for part in self.parts:
            if self._set.owners[part] != self.me:
                continue
            inputs = [self._inputs.get((part, survivor)) for survivor in self._set.survivors]
            total = self._total[self.slices[part]]
            total[:] = 0
            for held in inputs:
                if held is None:
                    return self._fail(f"part {part}: this owner lacks an input it has a receipt out for")
                np.add(total, held[1], out=total)
            header = self.sign(
                PartSum(
                    session=self.id,
                    part=part,
                    survivor_set=self._set.digest(),
                    hashes=chunk_hashes(total, self.terms.chunk),
                )
            )
            effects += [
                SendSum(peer, self.id, part, header, total) for peer in self.members if peer != self.me
            ]
            effects += self._keep_sum(part, total)
        return effects

    def _keep_sum(self, part: int, data: np.ndarray) -> list[Effect]:
        assert self._set is not None
        if part in self._summed or self.step is not Step.UNMASK:
            return []
        self._summed.add(part)
        target = self._total[self.slices[part]]
        if target is not data:
            target[:] = data
        if len(self._summed) < len(self.parts):
            return []
        self.step = Step.DONE
        digest = self._set.digest()
        return [Completed(self._total, self._set.survivors, digest, self._final_votes)]

    # -- shared -----------------------------------------------------------------------------------

    def _awaited(self, sender: PeerID, header: bytes, kind: type[T]) -> T:
        """The header of a transfer that may come now. Raises MessageRefused, or NotYet."""
        message = self._open(sender, header, kind)
        if message.part not in self.parts:
            raise MessageRefused(f"{kind.DOMAIN}: part {message.part} of {len(self.owners)} does not exist")
        chunks = -(-self._size(message.part) // self.terms.chunk)
        if len(message.hashes) != chunks:
            raise MessageRefused(f"{kind.DOMAIN}: {len(message.hashes)} chunk hashes for {chunks} chunks")
        if isinstance(message, PartSum):
            if self._set is None:
                raise NotYet("part-sum: the survivor set is not final here")
            if self._set.owners[message.part] != sender:
                raise MessageRefused(f"part-sum: {sender} does not own part {message.part}")
            if message.survivor_set != self._set.digest():
                raise MessageRefused("part-sum: a sum over another survivor set")
        else:
            held = self._inputs.get((message.part, sender))
            if held is not None and held[0] != header:
                self._convict(sender, held[0], header)
                raise MessageRefused(f"part: {sender} sent two different parts {message.part}")
            if self._set is not None or self.step is Step.VOID:
                raise MessageRefused("part: the survivor set is final or out of reach, inputs are closed")
        return message

    def _open(self, sender: PeerID, raw: bytes, kind: type[S]) -> S:
        signer, message = self.check(raw, kind)
        if signer != sender or sender not in self.adverts:
            raise MessageRefused(f"{kind.DOMAIN}: {sender} brought a statement of {signer}")
        if message.session != self.id:
            raise MessageRefused(f"{kind.DOMAIN}: for another session")
        return message

    def _check_receipt(self, raw: bytes, part: int, owner: PeerID, sender: PeerID, header: bytes) -> None:
        receipt = self._open(owner, raw, Receipt)
        if (receipt.part, receipt.sender, receipt.header) != (part, sender, _header_digest(header)):
            raise MessageRefused(f"receipt: not for part {part} as it was sent")

    def _size(self, part: int) -> int:
        return int(self.slices[part].stop - self.slices[part].start)

    def _check_chunks(self, message: Part | PartSum, data: np.ndarray) -> None:
        right = data.dtype == self.update.dtype and data.shape == (self._size(message.part),)
        if not right or chunk_hashes(data, self.terms.chunk) != message.hashes:
            raise MessageRefused(f"{message.DOMAIN}: the data are not those of the signed header")

    def _tell(self, to: PeerID, raw: bytes, locally: Callable[[PeerID, bytes], list[Effect]]) -> list[Effect]:
        return locally(self.me, raw) if to == self.me else [Tell(to, raw)]

    def _convict(self, member: PeerID, first: bytes, second: bytes) -> None:
        # One piece a member is enough, and bounds what it can make others keep.
        if member not in self._caught:
            self._caught.add(member)
            self.evidence.append((first, second))

    def _fail(self, reason: str) -> list[Effect]:
        self.step = Step.VOID
        return [Failed(reason)]


def _header_digest(header: bytes) -> bytes:
    return tagged_hash("header", header)
