"""The round as a pure state machine: one peer's side of a run, attempt after attempt.

`Participant` takes what happened (work done, a meeting, statements, timers) and returns what to do
(effects); it has no sockets, clocks, threads or torch, so that every crash and attack is a unit test.
Its promises: it moves to the next snapshot only on a record that a quorum signed; it trains attempt
a+1 only once VOID of attempt a is final; it puts one update into one session only; and everything it
signs that must not be contradicted is handed out as `Save...` before it is told to anyone.

    TRAIN -> MEET -> SESSION -> APPLY -> DECIDE -> the next attempt or round
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from proto.canonical import Message, PeerID, tagged_hash
from proto.energy import EnergyClaim
from proto.errors import MessageRefused
from secagg import interface as aggregation
from secagg.interface import FROM, Job, NotYet, SendPart, Tell
from secagg.keys import Secrets, public_key
from secagg.messages import (
    Advert,
    Evidence,
    Part,
    PartSum,
    SessionMessage,
    seed_commitment,
)
from secagg.ring import CHUNK
from secagg.session import Session
from swarm.attempt import Attempt, resume_voting, start_work
from swarm.carried import Carried
from swarm.cells import CellResult, Results, Unequal, record_of
from swarm.checks import Checks
from swarm.effects import (
    Abandon,
    Adopt,
    Apply,
    Banned,
    CatchUp,
    Effect,
    Ended,
    Fetch,
    Log,
    Meet,
    OwnWork,
    Phase,
    SaveDecided,
    SaveEntered,
    SaveVote,
    Slot,
    Spent,
    Stalled,
    Timer,
    Voided,
    Work,
)
from swarm.held import Held
from swarm.manifest import Manifest
from swarm.meeting import Adverts, believed, in_whole_chains, ledger_lies, two_ways
from swarm.openings import ShownRounds
from swarm.order import DataView, Order, trial_order
from swarm.rules import evidence_rules
from verify import agreement as voting
from verify.agreement import Agreement
from verify.carrying import union_of_statements
from verify.evidence import Rules as EvidenceRules
from verify.identity import Identity
from verify.lottery import attempt_seed, session_beacon
from verify.opened import Apart
from verify.record import (
    Decided,
    Goodbye,
    History,
    Join,
    Move,
    Record,
    Vote,
    void_value,
)
from verify.standing import Judgement, Verdict
from verify.statement import domain_of, open_signed, sign
from verify.wiring import wire_chains

M = TypeVar("M", bound=Message)

MOST_EVIDENCE = 256
SESSION_KINDS: dict[str, type[SessionMessage]] = {kind.DOMAIN: kind for kind in FROM}
CARRIED = (Join, Goodbye, Move, Verdict, Judgement)
TOLD = (Advert, CellResult, Part, PartSum, Vote, Decided, Record, *CARRIED)
REASONS = {*SESSION_KINDS, *(kind.DOMAIN for kind in TOLD)} | {
    "certificate",
    "void",
    "recovery",
    "statement",
    "transfer",
}
"""What refusals are counted under."""


@dataclass
class Participant:
    """One peer's side of a run.

    `snapshot`: the hash of the snapshot this peer has. `attempt`, `said`, `entered`: what was saved
    before a restart. `entropy`: 32 fresh random bytes a call. `sane(chunk, update, weight)`: whether a
    member's integers in that chunk may be what `weight` slices give. `head`: size and root of its ledger.
    `energy(tokens)`: what it claims to have used, so many tokens later; saved when it returns. `open_text`:
    openings of its own sequences. `recall(name)`: evidence that was saved. `shown`: sessions of which its
    own text was opened to a checker. `rules`: of evidence. `wanted`: the shard that it asks to hold.
    """

    identity: Identity
    manifest: Manifest
    history: History
    data: DataView
    snapshot: bytes
    entropy: Callable[[], bytes]
    attempt: int = 0
    said: tuple[bytes, ...] = ()
    entered: Slot | None = None
    chunk: int = CHUNK
    phase: Phase = Phase.WATCH
    refused: dict[str, int] = field(default_factory=dict)
    sane: Callable[[int, np.ndarray, int], bool] = lambda chunk, update, weight: True
    evidence: list[Evidence] = field(default_factory=list)
    head: Callable[[], tuple[int, bytes]] = lambda: (0, bytes(32))
    energy: Callable[[int], EnergyClaim | None] = lambda tokens: None
    open_text: Callable[[Sequence[int]], list[bytes]] = lambda indices: []
    recall: Callable[[bytes], bytes | None] = lambda name: None
    shown: ShownRounds = field(default_factory=set[bytes])
    rules: EvidenceRules | None = None
    wanted: int = 0

    def __post_init__(self) -> None:
        self.me = self.identity.peer_id
        self.session: Session | None = None
        self.agreement: Agreement | None = None
        self._work: Work | None = None
        self._advert = b""
        self._applied: bytes | None = None  # the snapshot that this attempt's sum led to
        self._secrets: Secrets | None = None
        self._opened: Session | None = None  # the last session, until the next begins or a record is final
        self._beacon: tuple[bytes, ...] = ()
        self._sequence = 0
        self._record: Record | None = None
        self._why: str | None = None
        self._carried = Carried()
        self._seen: Adverts = {}  # everyone's last advert: no ledger goes back
        self._made: OwnWork | None = None
        self._held = Held()
        self._met: Adverts = {}  # of all who met in this attempt
        self._results: Results | None = None
        self._result: CellResult | None = None  # of this peer's own cell
        self._outcomes: dict[Slot, bytes] = {}
        self.checks = Checks(
            self.me,
            self.manifest,
            DataView(self.data.count),
            lambda message: sign(self.identity, message),
            self.rules or evidence_rules(self.manifest),
            self.evidence,
            self.open_text,
            self.recall,
            self.shown,
        )
        self.checks.moved(self.history)
        timeout = self.manifest.membership.round_timeout_seconds
        self.meet_seconds, self.patience = timeout / 4, timeout / 15

    # -- what the rim asks and feeds ----------------------------------------------------------------

    @property
    def slot(self) -> Slot:
        """The (round, attempt) this peer is in."""
        return self.history.round + 1, self.attempt

    @property
    def shard(self) -> int:
        """The shard it holds, or will."""
        return self.history.shard_of(self.me) if self.me in self.history.roster else self.wanted

    @property
    def target(self) -> bytes:
        """The snapshot that the last record leaves its shard at."""
        return self.history.snapshot_of(self.shard)

    @property
    def ended(self) -> bool:
        """Whether the last record ends the run: rounds done, or the held-out loss reached."""
        run, last = self.manifest.run, self.history.last
        reached = last is not None and 0 < last.heldout <= run.heldout_loss * 1_000_000
        return self.history.moved >= run.rounds or reached

    def begin(self) -> list[Effect]:
        """Take the place the saved state gives: at the start, and after everything `learn` brought."""
        if self.ended:
            self.phase = Phase.ENDED
            return [Ended(self.target)]
        ban = self.history.conduct.bans.get(self.me)
        if ban is not None:
            self.phase = Phase.ENDED
            return [Banned(ban)]
        if self.checks.spent and self.me in self.history.roster:
            self.phase = Phase.ENDED
            return [Spent(self.manifest.verification.opening_budget)]
        brought = self.checks.bring(self.history)
        self.phase = Phase.WATCH
        self.session = self._work = self._secrets = self._why = self._applied = None
        self._met, self._results, self._result = {}, None, None
        kept = {(found.kind, found.against): found for found in reversed(self.evidence)}
        self.evidence[:] = [*reversed(kept.values())][-MOST_EVIDENCE:]
        waiting = self.history.moved == 0 and len(self.history.roster) < self.manifest.run.min_peers
        if self.me not in self.history.roster or waiting:
            self.agreement = self._record = None
            return brought
        if self.agreement is None or (self.agreement.round, self.agreement.attempt) != self.slot:
            self.agreement, self._record = resume_voting(
                self.identity, self.history, self.slot, self.patience, self.said, self.evidence
            )
            self.said = ()
        effects: list[Effect] = brought
        if self.snapshot != self.target:
            effects.append(Fetch(self.target))
        elif self._record is not None:
            self.phase = Phase.DECIDE
            effects += self._from_agreement(self._voting.start(self._record.digest()))
        elif self.entered == self.slot:
            effects += self._vote_void("restarted after its update had left")
        else:
            work = start_work(self.history, self.attempt, self.me, self.data, self.manifest.work)
            self.phase = Phase.WATCH if isinstance(work, Stalled) else Phase.TRAIN
            effects.append(work)
        return [*effects, *self._retry_held()]

    def trained(self, slot: Slot, work: Work) -> list[Effect]:
        """The window is over."""
        if slot != self.slot or self.phase is not Phase.TRAIN:
            return []
        self.phase, self._work = Phase.MEET, work
        secrets = self._secrets = Secrets.fresh(self.entropy)
        self._sequence += 1
        size, root = self.head()
        advert = Advert(
            run=self.history.run,
            round=slot[0],
            attempt=slot[1],
            shard=self.shard,
            snapshot=self.target,
            sequence=self._sequence,
            weight=work.weight,
            tokens=work.tokens,
            commitment=work.own.committed.commitment,
            seed_commitment=seed_commitment(secrets.seed),
            loss=work.loss,
            heldout=work.heldout,
            seal_key=public_key(secrets.seal) if self._secure else None,
            mask_key=public_key(secrets.mask) if self._secure else None,
            accused=tuple(sorted(self._accused())),
            data_root=self.data.root,
            data_count=self.data.count,
            head_size=size,
            head_root=root,
            energy=self.energy(work.tokens),
            chains=work.chains,
        )
        key = attempt_seed(self.history.head, *slot, "meet")
        roster, minimum = self.history.members, self.history.quorum
        self._advert = sign(self.identity, advert)
        return [Meet(slot, key, roster, minimum, self._advert, self.meet_seconds)]

    def met(self, slot: Slot, gathered: Mapping[PeerID, bytes] | None) -> list[Effect]:
        """The group that was formed, with everyone's advert; None if there was none in time."""
        if slot != self.slot or self.phase is not Phase.MEET or self._work is None:
            return []
        history = self.history
        wired = wire_chains(history, self.attempt) if history.shards else ()
        adverts, refusals = believed(gathered or {}, history, self.slot, self.manifest, wired)
        for refusal in refusals:
            self._count(refusal)
        self.evidence += [*ledger_lies(self._seen, adverts), *two_ways(adverts)]
        self._seen |= adverts
        adverts = in_whole_chains(adverts, wired)
        if gathered is not None:
            self._opened = None  # the advert has named its suspects, once
        if gathered is not None and gathered.get(self.me) != self._advert:
            return self._vote_void("its own advert was left out or replaced where the group formed")
        if gathered is not None and self.me not in adverts:
            return self._vote_void("it was left out: too many accuse it, or a peer of its chain")
        lacking = self._attempt.lacking(adverts)
        if lacking is not None:
            return self._vote_void(lacking)
        assert self._secrets is not None
        self.phase, self._met = Phase.SESSION, adverts
        self._results = Results(history, slot, {peer: advert for peer, (_, advert) in adverts.items()})
        mine = {peer: advert for peer, advert in adverts.items() if advert[1].shard == self.shard}
        terms = self._attempt.terms(sorted(mine), self.shard)
        self.session = Session(
            self.me,
            mine,
            self._work.update,
            self._secrets,
            self._carried.admissible(self.history),
            terms,
            lambda message: sign(self.identity, message),
            _open,
            self.evidence,
        )
        self._made = self._work.own
        self._opened, self._work, self._secrets = self.session, None, None  # one update, one session
        effects: list[Effect] = [SaveEntered(slot), *self._from_session(self.session.start())]
        return [*effects, *self._retry_held()]

    def _accused(self) -> set[PeerID]:
        """Whom this peer holds evidence against, and, once, the suspects of a sum that failed."""
        convicted = {found.against for found in self.evidence}
        silent = set() if self._opened is None else self._opened.silent
        return (convicted | silent) & set(self.history.roster)

    @property
    def _secure(self) -> bool:
        return self.manifest.aggregation.mode == "secure"

    @property
    def _attempt(self) -> Attempt:
        return Attempt(self.history, self.manifest, self.slot, self.chunk)

    def room(self, sender: PeerID, header: bytes) -> np.ndarray:
        """Where a transfer's data go. Raises MessageRefused; NotYet: ask again soon."""
        kind = _transfer_kind(header)
        named = open_signed(header, kind).message.session
        if self.session is None or named != self.session.id:
            if self.phase is Phase.MEET and sender in self.history.roster:
                raise NotYet(f"{kind.DOMAIN}: its session has not begun here")
            raise MessageRefused(f"{kind.DOMAIN}: for another session")
        return self.session.room(sender, header, kind)

    def arrived(self, sender: PeerID, header: bytes, data: np.ndarray) -> list[Effect]:
        """The data of a transfer are where `room` wanted them."""
        if self.session is None:
            raise MessageRefused("transfer: for another session")
        return self._from_session(self.session.arrived(sender, header, _transfer_kind(header), data))

    def job_done(self, job: Job, value: Any) -> list[Effect]:
        """What `job` gave. Raises MessageRefused if it shows that data are not those of their header."""
        if self.session is None or self.session.id != job.session:
            return []
        return self._from_session(self.session.job_done(job.name, value))

    def part_failed(self, sent: SendPart) -> list[Effect]:
        """`sent` did not reach its owner."""
        if self.session is None or self.session.id != sent.session:
            return []
        return self._from_session(self.session.part_failed(sent.part, sent.to))

    def refused_sum(self, slot: Slot, reason: str, chunks: list[int]) -> list[Effect]:
        """The sum failed the sanity tests in these chunks: every survivor opens one of them, drawn."""
        if slot != self.slot or self.phase is not Phase.APPLY or self.session is None:
            return []
        seed = tagged_hash("opened-chunk", self.session.id, *self._beacon)
        chunk = min(chunks, key=lambda index: tagged_hash("turn", seed, index.to_bytes(8, "big")))
        opened = self.session.open_chunk(chunk, lambda update, weight: self.sane(chunk, update, weight))
        return [*self._from_session(opened), *self._vote_void(reason)]

    def applied(self, slot: Slot, snapshot: bytes) -> list[Effect]:
        """The next snapshot's hash, durably stored."""
        if slot != self.slot or self.phase is not Phase.APPLY:
            return []
        assert self._result is not None
        self.phase, self._applied = Phase.DECIDE, snapshot
        self._result = self._result.model_copy(update={"snapshot": snapshot})
        if not self.history.shards:
            return self._gather()
        said = sign(self.identity, self._result)
        told: list[Effect] = [Tell(peer, said) for peer in self.history.members if peer != self.me]
        patience = self.manifest.membership.round_timeout_seconds / 3
        return [*told, Timer(("cells", slot, ()), patience), *self._gather()]

    def _gather(self) -> list[Effect]:
        """Vote for the record once the results of all shards are here."""
        if self.phase is not Phase.DECIDE or self._results is None or self._result is None:
            return []
        results = self._results.complete(self._result)
        if results is None:
            return []
        adverts = {peer: advert for peer, (_, advert) in self._met.items()}
        try:
            record = record_of(self.history, self.slot, results, adverts)
        except Unequal as unequal:
            return self._vote_void(str(unequal))
        self._record, self._results = record, None
        saved = SaveVote(self.slot, sign(self.identity, record))  # a decided record outlives all who knew it
        return [saved, *self._from_agreement(self._voting.start(record.digest()))]

    def receive(self, sender: PeerID, raw: bytes) -> list[Effect]:
        """A statement a roster member told this peer. Raises MessageRefused."""
        try:
            return self._receive(sender, raw)
        except MessageRefused as refusal:
            self._count(refusal)
            raise

    def elapsed(self, key: tuple[str, Slot, tuple[str | int, ...]]) -> list[Effect]:
        """A `Timer` has run out."""
        machine, slot, rest = key
        if slot != self.slot:
            return []
        if machine == "session" and self.session is not None:
            return self._from_session(self.session.elapsed(str(rest[0])))
        if machine == "cells" and self._results is not None and self.phase is Phase.DECIDE:
            return self._vote_void(f"no result of shard {self._results.missing(self.shard)} came")
        if machine == "vote" and self.agreement is not None:
            step, view = int(rest[0]), int(rest[1])
            behind = step == voting.PRECOMMIT and view == self.agreement.view  # others may have decided
            effects = self._from_agreement(self.agreement.elapsed(step, view))
            return [*effects, CatchUp(self.history.round + 1)] if behind else effects
        return []

    def learn(self, decided: Iterable[bytes]) -> list[Effect]:
        """Outcomes served by a peer, in order, up to the first that does not hold. Raises RecordRefused if
        that is the first new one: what was followed is in the effects, and must be carried out."""
        effects: list[Effect] = []
        for raw in decided:
            try:
                if Decided.parse(raw).round > self.history.round:
                    effects += self._follow(raw)
            except MessageRefused as refusal:
                self._count(refusal)
                if not effects:
                    raise
                break
        return effects

    def fetched(self, snapshot: bytes) -> list[Effect]:
        """The snapshot asked for with `Fetch` is here, checked."""
        self.snapshot = snapshot
        return self.begin() if self.phase is Phase.WATCH and snapshot == self.target else []

    def carry(self, raw: bytes) -> bool:
        """Take a statement to put into the next record; whether it is news. Raises MessageRefused."""
        return self._carried.take(raw, self.history)

    def trial(self) -> Order | None:
        """What this peer must compute for its next join; None where a join needs no trial."""
        history, enough = self.history, len(self.history.roster) >= self.manifest.run.min_peers
        if history.is_proved(self.me) or (history.moved == 0 and not enough):
            return None
        return trial_order(history, self.me, self.shard, self.manifest.work, history.trial_slices)

    def join(
        self, order: Order | None, trial: tuple[tuple[int, ...], ...], invitation: bytes | None
    ) -> bytes:
        """The statement that asks to be taken in. `trial`: sketches of the slices of `order`, a `trial()`."""
        own = self.data.root is not None
        said = Join(
            run=self.history.run,
            round=self.history.round if order is None else order.round,
            data_root=self.data.root,
            data_count=self.data.count if own else 0,
            shard=self.shard,
            invitation=invitation,
            trial=trial,
        )
        return sign(self.identity, said)

    def move(self, shard: int) -> bytes:
        """The statement by which this member takes another shard after the next record."""
        return sign(self.identity, Move(run=self.history.run, round=self.history.round, shard=shard))

    def waiting(self) -> list[PeerID]:
        """Peers that asked to join and are not in the roster yet."""
        return self._carried.waiting(self.history)

    # -- checks -----------------------------------------------------------------------------------------

    def answer(self, sender: PeerID, raw: bytes) -> list[bytes]:
        """What a member asks of this peer's work or evidence. Raises MessageRefused."""
        if sender not in self.history.roster:
            raise MessageRefused(f"{domain_of(raw)}: {sender} is not in the roster")
        return self.checks.answer(sender, raw)

    def answered(self, key: int, raws: Sequence[bytes] | None) -> list[Effect]:
        """The answer to an `Ask`; None: none came."""
        return self.checks.answered(key, raws, self.history)

    def recomputed(
        self, key: int, encoded: np.ndarray | None, held: bool = True, apart: Apart | None = None
    ) -> list[Effect]:
        """The answer to a `Recompute`; None: it cannot be computed, or what was opened is not `held`."""
        return self.checks.recomputed(key, encoded, held, apart or {}, self.history)

    def _end_session(self, slot: Slot, outcome: bytes, record: Record | None) -> list[Effect]:
        """What the ledger keeps of the attempt that is over, and the checks that its seeds draw."""
        session, checks = self.session, list[Effect]()
        said: list[tuple[str, bytes]] = []
        if session is not None and slot == self.slot:
            said = [("advert", raw) for raw, _ in session.adverts.values()]
            kept = session.transcript()
            if kept is not None:
                said += [("final-set", kept.final_set), *(("release", raw) for raw in kept.releases)]
                said += [("part-sum", raw) for raw, _ in kept.sums.values()]
                work = self._made if self.me in kept.survivors else None
                checks = self.checks.drawn(kept, self.history, self.attempt, work, record)
        return [Log((*said, ("decided", outcome))), *checks]

    # -- statements -----------------------------------------------------------------------------------

    def _receive(self, sender: PeerID, raw: bytes) -> list[Effect]:
        domain = domain_of(raw)
        if domain in {kind.DOMAIN for kind in CARRIED}:
            self.carry(raw)
            return (
                self.checks.heard(raw, self.history) if domain in (Verdict.DOMAIN, Judgement.DOMAIN) else []
            )
        if sender not in self.history.roster:
            raise MessageRefused(f"{domain}: {sender} is not in the roster")
        if domain == Vote.DOMAIN:
            return self._on_vote(sender, raw)
        if domain == Decided.DOMAIN:
            return self._on_decided(open_signed(raw, Decided).message)
        if domain == CellResult.DOMAIN:
            return self._on_cell_result(sender, raw)
        if domain in SESSION_KINDS:
            return self._on_session_statement(sender, raw, SESSION_KINDS[domain])
        raise MessageRefused(f"{domain}: not a statement peers tell each other")

    def _on_vote(self, sender: PeerID, raw: bytes) -> list[Effect]:
        vote = open_signed(raw, Vote).message
        slot = (vote.round, vote.attempt)
        if vote.run != self.history.run:
            raise MessageRefused("vote: for another run")
        if slot == self.slot and self.agreement is not None:
            return self._from_agreement(self.agreement.receive(raw))
        if slot in self._outcomes:
            return [Tell(sender, self._outcomes[slot])]
        if slot > self.slot or self.agreement is None:
            self._hold(sender, raw)
            return [CatchUp(self.history.round + 1)] if slot[0] > self.slot[0] else []
        return []

    def _on_decided(self, decided: Decided) -> list[Effect]:
        if (decided.round, decided.attempt) < self.slot and not decided.recovery:
            return []
        if decided.round > self.history.round + 1:
            return [CatchUp(self.history.round + 1)]
        return self._follow(decided.encode())

    def _on_session_statement(self, sender: PeerID, raw: bytes, kind: type[SessionMessage]) -> list[Effect]:
        named = open_signed(raw, kind).message.session
        for session in (self.session, self._opened):
            if session is not None and session.id == named:
                return self._from_session(session.receive(sender, raw, kind))
        if self.phase is Phase.MEET:
            self._hold(sender, raw)
        return []

    def _on_cell_result(self, sender: PeerID, raw: bytes) -> list[Effect]:
        said = open_signed(raw, CellResult).message
        if (said.round, said.attempt) == self.slot and self._results is not None:
            self._results.receive(raw)
            return self._gather()
        if (said.round, said.attempt) == self.slot and self.phase in (Phase.TRAIN, Phase.MEET):
            self._hold(sender, raw)
        return []

    def _hold(self, sender: PeerID, raw: bytes) -> None:
        self._held.keep(sender, raw, max(1, len(self.history.roster)))

    def _retry_held(self) -> list[Effect]:
        effects: list[Effect] = []
        for sender, raw in self._held.take():
            try:
                effects += self._receive(sender, raw)
            except MessageRefused as refusal:
                self._count(refusal)
        return effects

    # -- inner machines -------------------------------------------------------------------------------

    @property
    def _voting(self) -> Agreement:
        assert self.agreement is not None
        return self.agreement

    def _from_session(self, effects: list[aggregation.Effect]) -> list[Effect]:
        given: list[Effect] = []
        for effect in effects:
            match effect:
                case aggregation.Wait(name, seconds):
                    given.append(Timer(("session", self.slot, (name,)), seconds))
                case aggregation.Failed(reason):
                    given += self._vote_void(reason)
                case aggregation.Completed():
                    given += self._complete(effect)
                case _:
                    given.append(effect)
        return given

    def _complete(self, done: aggregation.Completed) -> list[Effect]:
        assert self.session is not None
        self.phase = Phase.APPLY
        weight = sum(self.session.adverts[peer][1].weight for peer in done.survivors)
        if not weight:
            return self._vote_void("nobody who did a slice is left in its cell")
        self._beacon = done.beacon
        self._result = CellResult(
            run=self.history.run,
            round=self.slot[0],
            attempt=self.slot[1],
            shard=self.shard,
            session=self.session.id,
            survivors=done.survivors,
            snapshot=bytes(32),  # known once the sum is applied
            beacon=session_beacon(self.session.id, done.survivor_set, done.beacon),
            statements=union_of_statements(self.history, [vote.statements for _, vote in done.votes]),
        )
        return [Apply(self.slot, done.total, weight)]

    def _vote_void(self, reason: str) -> list[Effect]:
        self.phase, self._record, self._why = Phase.DECIDE, None, reason
        self._results = None
        return self._from_agreement(self._voting.start(None))

    def _from_agreement(self, effects: list[voting.Effect]) -> list[Effect]:
        given: list[Effect] = []
        slot = self.slot
        for effect in effects:
            match effect:
                case voting.Save(raw):
                    given.append(SaveVote(slot, raw))
                case voting.Broadcast(raw):
                    given += [Tell(peer, raw) for peer in self.history.members if peer != self.me]
                case voting.WaitView(step, view, seconds):
                    given.append(Timer(("vote", slot, (step, view)), seconds))
                case voting.Outcome():
                    given += self._decide(effect)
        return given

    # -- outcomes -------------------------------------------------------------------------------------

    def _decide(self, outcome: voting.Outcome) -> list[Effect]:
        body = b""
        if outcome.value != void_value(self.history.run, *self.slot):
            if self._record is None or self._record.digest() != outcome.value:
                return [CatchUp(self.history.round + 1)]
            body = self._record.encode()
        decided = Decided(
            round=self.slot[0], attempt=self.slot[1], recovery=False, body=body, votes=outcome.votes
        )
        told = {open_signed(raw, Vote).signer for raw in outcome.votes} | {self.me}
        news = sign(self.identity, decided)
        late: list[Effect] = [Tell(peer, news) for peer in self.history.members if peer not in told]
        return [*late, *self._follow(decided.encode())]

    def _follow(self, raw: bytes) -> list[Effect]:
        """Move to where a final outcome leads. Raises RecordRefused if it is not final."""
        decided = Decided.parse(raw)
        slot = (decided.round, decided.attempt)
        if not decided.recovery and not decided.body:
            if slot < self.slot:
                return []
            self.history.check_void(decided)
            given: list[Effect] = [SaveDecided(slot, raw), Abandon(), *self._end_session(slot, raw, None)]
            given.append(Voided(slot, self._why))
            self.attempt = decided.attempt + 1
        else:
            following = self.history.extend(raw)
            given = [SaveDecided(slot, raw), Abandon(), *self._end_session(slot, raw, following.last)]
            self.history, self.attempt, self._opened = following, 0, None
            given += self.checks.moved(self.history)
            record = self.history.last
            if self._applied == self.target:
                self.snapshot = self.target
            if record is not None and record.round == decided.round:
                given.append(Adopt(record, decided.attempt + 1))
        self._outcomes[slot] = sign(self.identity, decided)
        while len(self._outcomes) > 8:
            self._outcomes.pop(next(iter(self._outcomes)))
        return [*given, *self.begin()]

    def _count(self, refusal: MessageRefused) -> None:
        said = str(refusal).split(":", 1)[0]
        reason = said if said in REASONS else "other"  # a sender writes some of the text
        self.refused[reason] = self.refused.get(reason, 0) + 1


def _open(raw: bytes, kind: type[M]) -> tuple[PeerID, M]:
    signed = open_signed(raw, kind)
    return signed.signer, signed.message


def _transfer_kind(header: bytes) -> type[Part | PartSum]:
    kinds: dict[str, type[Part | PartSum]] = {Part.DOMAIN: Part, PartSum.DOMAIN: PartSum}
    domain = domain_of(header)
    if domain not in kinds:
        raise MessageRefused(f"{domain}: not the header of a transfer")
    return kinds[domain]
