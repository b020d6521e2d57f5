"""What this peer opens of its own work when it is drawn, and to whom; sans-I/O.

The promise: nothing is opened but to a drawn checker, and to it only what the draw names, once: one slice,
the drawn chunks of the others, and as many chunks again in which the checker's own integers differ. Of own
text nothing leaves but the sequences of that slice, in no more rounds than the manifest's opening budget.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Protocol, TypeVar

import numpy as np
from pydantic import Field

from proto.canonical import Digest, Message, PeerID
from proto.errors import MessageRefused, SwarmError
from secagg.messages import MAX_CELL, SessionMessage
from secagg.ring import CHUNK
from secagg.transcript import Transcript
from swarm.effects import OwnWork
from swarm.manifest import Manifest
from swarm.order import Order
from verify.chains import BoundaryList
from verify.check import ChunksAsked, Computed, SequencesAsked
from verify.lottery import ALTERNATES, Draw, chunks_to_open
from verify.opened import BoundaryAsked, ListAsked, pieces_of
from verify.record import History, colluders
from verify.statement import domain_of, open_signed

MAX_ANSWER = 256 << 20
"""Bytes of an answer to a question."""
PIECE = 1 << 20
REMEMBERED = 64
M = TypeVar("M", bound=Message)


class EvidenceAsked(Message):
    """A member asks for the evidence that a judgement names."""

    DOMAIN: ClassVar[str] = "evidence-asked"

    evidence: Digest


class ShownAsked(SessionMessage):
    """A checker of part sums asks a survivor for its masked integers in one chunk."""

    DOMAIN: ClassVar[str] = "shown-asked"

    chunk: Annotated[int, Field(ge=0, lt=1 << 40)]


class BudgetSpent(SwarmError):
    """A peer has shown its own text in as many rounds as it may: nobody could check it, so it leaves."""

    def __init__(self, budget: int) -> None:
        super().__init__(
            f"text of this peer was shown to checkers in {budget} rounds, all that the manifest's "
            "verification.opening_budget allows: it has said goodbye. Its work stays in the model. To go on, "
            "join a run with a larger budget"
        )


class ShownRounds(Protocol):
    """The sessions of which own text was opened to a checker; `add` is durable when it returns."""

    def add(self, session: bytes, /) -> None: ...

    def __contains__(self, session: object, /) -> bool: ...

    def __len__(self) -> int: ...


@dataclass
class Drawn:
    """A session whose seeds came out, and what the lottery draws of it.

    `history`: before its round. `sums` are drawn by the next session's beacon: an owner knows that of its own
    session before it publishes. `asked`: the questions that were answered, by who asked, and their kind.
    """

    transcript: Transcript
    history: History
    attempt: int
    work: OwnWork | None
    checks: tuple[Draw, ...]
    sums: tuple[Draw, ...] = ()
    asked: dict[tuple[PeerID, str], bytes] = field(default_factory=dict)


def opened_bytes(manifest: Manifest, chunks: int) -> int:
    """Bytes that a check of a whole order opens, at most; `chunks`: of the vector."""
    opened = chunks_to_open(chunks, manifest.verification.chunk_fraction)
    proof = 40 * 34
    return opened * (manifest.work.slices * (CHUNK * manifest.ring.dtype.itemsize + proof) + MAX_CELL * proof)


def looking(history: History) -> int:
    """How many of a draw's checkers may look: the first, who stands in for it, and whoever it takes to
    complain of silence."""
    return max(ALTERNATES, colluders(len(history.roster)) + 1)


@dataclass
class Openings:
    """The checked side. `sessions`: those still open, by id; `evidence(name)`: a file, if it is kept."""

    me: PeerID
    manifest: Manifest
    sign: Callable[[Message], bytes]
    sessions: dict[bytes, Drawn]
    order_of: Callable[[Drawn, PeerID], Order]
    evidence: Callable[[bytes], bytes | None]
    open_text: Callable[[Sequence[int]], list[bytes]]
    shown: ShownRounds
    computed: dict[tuple[bytes, PeerID], bytes] = field(default_factory=dict)
    """What checkers of late sessions told, by session and checker: they must not say another thing later."""

    @property
    def spent(self) -> bool:
        """Whether no more rounds of this peer's own text may be shown."""
        own = self.manifest.data.mode == "own"
        return own and len(self.shown) >= self.manifest.verification.opening_budget

    def answer(self, sender: PeerID, raw: bytes) -> list[bytes]:
        """What this peer opens to `sender`, statements in order. Raises MessageRefused."""
        domain = domain_of(raw)
        kinds: dict[str, Callable[[PeerID, bytes], list[bytes]]] = {
            EvidenceAsked.DOMAIN: self._evidence,
            SequencesAsked.DOMAIN: self._sequences,
            Computed.DOMAIN: self._work,
            ChunksAsked.DOMAIN: self._chunks,
            ShownAsked.DOMAIN: self._shown,
            BoundaryAsked.DOMAIN: self._boundary,
            ListAsked.DOMAIN: self._list,
        }
        if domain not in kinds:
            raise MessageRefused(f"{domain}: not a question that peers ask each other")
        return kinds[domain](sender, raw)

    def _evidence(self, sender: PeerID, raw: bytes) -> list[bytes]:
        asked = open_signed(raw, EvidenceAsked).message.evidence
        case = self.evidence(asked)
        if case is None:
            raise MessageRefused(f"evidence: {asked.hex()} is not kept here; ask another member")
        return [case[at : at + PIECE] for at in range(0, len(case), PIECE)]

    def _sequences(self, sender: PeerID, raw: bytes) -> list[bytes]:
        asked = self._asked(sender, raw, SequencesAsked)
        drawn, draw, _ = self._for(sender, asked.session)
        if self.spent and asked.session not in self.shown:
            raise MessageRefused(f"check: the opening budget of {len(self.shown)} rounds is spent")
        self.shown.add(asked.session)
        return self.open_text(self.order_of(drawn, self.me).slices[draw.what])

    def _work(self, sender: PeerID, raw: bytes) -> list[bytes]:
        asked = self._asked(sender, raw, Computed)
        drawn, draw, work = self._for(sender, asked.session)
        if asked.checked != self.me:
            raise MessageRefused(f"computed: of {asked.checked}'s work, not of this peer's")
        self._once(drawn, sender, raw)
        self.computed[asked.session, sender] = raw
        while len(self.computed) > REMEMBERED:
            self.computed.pop(next(iter(self.computed)))
        kept = drawn.transcript
        answer = [self.sign(work.committed.open_slice(asked.session, draw.what))]
        answer += [kept.headers[part] for part in kept.cut.parts]
        for chunk in draw.chunks:
            masks = kept.open_masks(chunk)
            answer += [] if masks is None else [self.sign(masks)]
            for index in range(kept.adverts[self.me][1].weight):
                answer.append(self._chunk(drawn, work, index, chunk))
        return answer

    def _boundary(self, sender: PeerID, raw: bytes) -> list[bytes]:
        asked = self._asked(sender, raw, BoundaryAsked)
        _, draw, work = self._for(sender, asked.session)
        if work.passed is None:
            raise MessageRefused("boundary-asked: this run has one shard")
        passed = work.passed(draw.what)
        opening = self.sign(passed.opening(asked.session, draw.what))
        return [opening, *pieces_of(passed.tensors, passed.tensors)]

    def _list(self, sender: PeerID, raw: bytes) -> list[bytes]:
        """A neighbour's list, which shows hashes only: any member may see it."""
        asked = self._asked(sender, raw, ListAsked)
        for drawn in self.sessions.values():
            slot = (drawn.history.run, drawn.history.round + 1, drawn.attempt)
            if slot != (asked.run, asked.round, asked.attempt) or drawn.work is None:
                continue
            chained = self.order_of(drawn, self.me).chained
            if (asked.chain, asked.slice) in chained and drawn.work.passed is not None:
                passed = drawn.work.passed(chained.index((asked.chain, asked.slice)))
                signed = [open_signed(one, BoundaryList) for one in passed.received]
                named = (asked.author, asked.direction)
                found = [one.raw for one in signed if (one.signer, one.message.direction) == named]
                if found:
                    return found
        raise MessageRefused(f"{ListAsked.DOMAIN}: no list of {asked.author} over that slice is kept here")

    def _chunks(self, sender: PeerID, raw: bytes) -> list[bytes]:
        asked = self._asked(sender, raw, ChunksAsked)
        drawn, draw, work = self._for(sender, asked.session)
        most = chunks_to_open(drawn.transcript.chunks, self.manifest.verification.chunk_fraction)
        if len(asked.chunks) > most or max(asked.chunks) >= drawn.transcript.chunks:
            raise MessageRefused(f"chunks-asked: {len(asked.chunks)} chunks, at most {most} are opened")
        if (sender, Computed.DOMAIN) not in drawn.asked:
            raise MessageRefused("chunks-asked: its author has not said what it computed itself")
        self._once(drawn, sender, raw)
        return [self._chunk(drawn, work, draw.what, chunk) for chunk in asked.chunks]

    def _shown(self, sender: PeerID, raw: bytes) -> list[bytes]:
        asked = self._asked(sender, raw, ShownAsked)
        drawn = self.sessions.get(asked.session)
        draws = [] if drawn is None else [draw for draw in drawn.sums if asked.chunk in draw.chunks]
        if drawn is None or not any(sender == draw.checkers[0] for draw in draws):
            raise MessageRefused(f"shown-asked: {sender} is not drawn to look at chunk {asked.chunk}")
        return [self.sign(drawn.transcript.shown(asked.chunk))]

    def _asked(self, sender: PeerID, raw: bytes, kind: type[M]) -> M:
        signed = open_signed(raw, kind)
        if signed.signer != sender:
            raise MessageRefused(f"{kind.DOMAIN}: {sender} brought a question of {signed.signer}")
        return signed.message

    def _once(self, drawn: Drawn, sender: PeerID, raw: bytes) -> None:
        if drawn.asked.setdefault((sender, domain_of(raw)), raw) != raw:
            raise MessageRefused(f"{domain_of(raw)}: {sender} has asked another thing before")

    def _for(self, sender: PeerID, session: bytes) -> tuple[Drawn, Draw, OwnWork]:
        drawn = self.sessions.get(session)
        if drawn is None or drawn.work is None:
            raise MessageRefused(f"check: session {session.hex()} is not, or no longer, open here")
        for draw in drawn.checks:
            if draw.checked == self.me and sender in draw.checkers[: looking(drawn.history)]:
                return drawn, draw, drawn.work
        raise MessageRefused(f"check: {sender} is not drawn to look at this peer's work")

    def _chunk(self, drawn: Drawn, work: OwnWork, index: int, chunk: int) -> bytes:
        size = drawn.transcript.cut.chunk
        integers = np.ascontiguousarray(work.encoded(index)[chunk * size : (chunk + 1) * size])
        return self.sign(work.committed.open_chunk(drawn.transcript.session, index, chunk, integers))
