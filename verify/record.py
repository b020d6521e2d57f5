"""Round records: the agreed history of a run, and who has standing in it.

The history starts with genesis, whose hash is the run's name, and goes on with one record a round.
Each record names the hash of the one before and the hash of the snapshot it leads to. `History`
promises that every record it holds was signed by a quorum of the roster of its time (or by the
stewards, for a recovery), so that whoever holds `run_id` can check everything else.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, TypeVar

from pydantic import FailFast, Field

from proto.canonical import MAX_MESSAGE, Count, Digest, Message, PeerID, tagged_hash
from proto.energy import EnergyKind
from proto.errors import MessageRefused, SwarmError
from secagg.messages import MAX_CELL, MAX_SHARDS, MAX_STATEMENT, Each, ShardIndex, Some, Weight
from verify.lottery import ALTERNATES, checkers, drawn_slice, in_turn
from verify.probation import Probation
from verify.sketch import Sketch
from verify.standing import Ban, Conduct, Judgement, Verdict
from verify.statement import domain_of, open_signed

MICRO = 1_000_000
"""Losses travel as integers: micronats a token."""

FLOOR = 3
"""Survivors without whom no masked sum is made, however small the roster."""
JOIN_LIFETIME = 64
"""Records after which a join that was not taken in must be signed anew."""

MOST_CARRIED = 4 * MAX_CELL
"""Statements in a record: joins, goodbyes, verdicts, judgements."""
MOST_OF_ONE = 16
"""Statements of one signer in a record: nobody fills it alone."""
REMEMBERED = 8
"""Records whose sessions are told by name: a verdict on them must come from a drawn checker."""
Subject = tuple[str, ...]
"""What a statement is about: a record carries one for each."""

P = TypeVar("P")
M = TypeVar("M", bound=Message)
S = TypeVar("S", Verdict, Judgement)
Raw = Annotated[bytes, Field(max_length=MAX_STATEMENT)]
Shards = Annotated[tuple[P, ...], Field(max_length=MAX_SHARDS), FailFast()]


class RecordRefused(MessageRefused):
    """A record, certificate or genesis that does not follow from what is known."""


class WrongRun(SwarmError):
    """What a peer served is not the run that was asked for."""


class Genesis(Message):
    """What a run is: the manifest's exact bytes, the initial snapshot, and who is there from the start."""

    DOMAIN: ClassVar[str] = "genesis"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    manifest: Annotated[bytes, Field(max_length=65_536)]
    snapshot: Digest
    shards: Shards[Digest]  # each shard's snapshot, of which `snapshot` is the `whole`; none: one shard
    data: Digest | None  # the shared data set; None where peers bring their own
    founder: PeerID
    members: Some[PeerID]
    stewards: Some[PeerID]
    recovery_threshold: Annotated[int, Field(ge=1, le=MAX_CELL)]
    suspend_after: Annotated[int, Field(ge=1)]
    strikes: Annotated[int, Field(ge=1)]
    probation_checks: Annotated[int, Field(ge=0, le=MAX_CELL)]
    largest_cell: Annotated[int, Field(ge=1, le=MAX_CELL)]
    invited: bool
    created: Count  # Unix time, ms


class Invitation(Message):
    """A steward's word that a peer may join a run with `admission = "invited"`."""

    DOMAIN: ClassVar[str] = "invitation"

    run: Digest
    peer: PeerID


class Join(Message):
    """A peer asks to be in the roster. With data of its own it commits to them here.

    `shard`: what it will hold. `trial`: a sketch of each slice that the beacon of record `round` makes up for
    it, while on probation.
    """

    DOMAIN: ClassVar[str] = "join"

    run: Digest
    round: Count  # the last record the peer has seen
    shard: ShardIndex
    data_root: Digest | None
    data_count: Count
    invitation: Annotated[bytes, Field(max_length=1024)] | None
    trial: Each[Sketch]


class Goodbye(Message):
    """A peer leaves the roster."""

    DOMAIN: ClassVar[str] = "goodbye"

    run: Digest
    round: Count


class Move(Message):
    """A peer of the roster will hold another shard after the next record."""

    DOMAIN: ClassVar[str] = "move"

    run: Digest
    round: Count
    shard: ShardIndex


class Cell(Message):
    """What became of one shard in a round: its cell's session, who survived it, and where it led."""

    DOMAIN: ClassVar[str] = "cell"

    session: Digest
    survivors: Some[PeerID]
    snapshot: Digest
    beacon: Digest


class Record(Message):
    """The agreed outcome of a round. In a run of several shards `cells` has one for each, and `session`,
    `snapshot` and `beacon` are the `whole` of theirs; `survivors` and `weights` are those of all."""

    DOMAIN: ClassVar[str] = "record"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    run: Digest
    round: Annotated[int, Field(ge=1, lt=1 << 40)]
    attempt: Count
    previous: Digest
    snapshot: Digest
    session: Digest
    survivors: Some[PeerID]
    weights: Some[Weight]
    tokens: Count
    loss: Count  # survivors' training loss, weighted, at the snapshot before, in micronats a token
    heldout: Count  # median of what the survivors measured of the snapshot before
    beacon: Digest
    data: Each[tuple[PeerID, Digest, Count]]  # own, first seen
    heads: Each[tuple[PeerID, Count, Digest]]  # size and root of each survivor's ledger, from its advert
    energy: Each[tuple[PeerID, EnergyKind, Count | None, Count]]  # claimed so far: mJ, network bytes
    cells: Shards[Cell]
    statements: Annotated[tuple[Raw, ...], Field(max_length=MOST_CARRIED), FailFast()]

    @property
    def sessions(self) -> tuple[Cell, ...]:
        """What was drawn of each session: one, or those of all shards."""
        one = {name: getattr(self, name) for name in Cell.model_fields}
        return self.cells or (Cell(**one),)

    def cell_of(self, session: bytes) -> Cell | None:
        """What this record says of a session; None if it is none of its own."""
        return next((cell for cell in self.sessions if cell.session == session), None)


class Recovery(Message):
    """The stewards' way out when a quorum is gone for good: changes the roster and nothing else."""

    DOMAIN: ClassVar[str] = "recovery"

    run: Digest
    round: Annotated[int, Field(ge=1, lt=1 << 40)]
    previous: Digest
    members: Some[PeerID]
    shards: Each[ShardIndex]  # of each member in a run of several shards; else none


class Vote(Message):
    """A vote on an attempt's outcome: step 0 is a prevote, 1 a precommit; no value is a vote for none."""

    DOMAIN: ClassVar[str] = "vote"

    run: Digest
    round: Count
    attempt: Count
    view: Annotated[int, Field(ge=0, lt=1 << 32)]
    step: Annotated[int, Field(ge=0, le=1)]
    value: Digest | None


class Decided(Message):
    """An outcome with the signatures that make it final. `body` is the record's (or recovery's)
    encoding, empty for VOID; `votes` are signed precommits (or signed recoveries)."""

    DOMAIN: ClassVar[str] = "decided"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    round: Count
    attempt: Count
    recovery: bool
    body: Annotated[bytes, Field(max_length=1 << 20)]
    votes: Each[Annotated[bytes, Field(max_length=4096)]]


@dataclass(frozen=True)
class Standing:
    """A roster member: records missed in a row, the commitment to its own data (None: shared), its shard."""

    missed: int = 0
    data_root: bytes | None = None
    data_count: int = 0
    shard: int = 0


Roster = Mapping[PeerID, Standing]


def quorum(roster_size: int) -> int:
    """Signatures that make an outcome final: floor(2R/3)+1; below R = 4 a majority, crash-tolerant only."""
    return 2 * roster_size // 3 + 1 if roster_size >= 4 else roster_size // 2 + 1


def colluders(roster_size: int) -> int:
    """c: colluding members that are tolerated."""
    return max(1, roster_size // 4) if roster_size >= 4 else 0


def thresholds(roster_size: int, members: int, secure: bool) -> tuple[int, int]:
    """Shares that rebuild a secret (t; 0 where nothing is masked), and the least survivors and signatures.

    2t > members + c, so that only one of two sets of shares can come together; survivors are never fewer than
    `FLOOR`, nor than c + 2, where sums are masked.
    """
    may_collude, needed = colluders(roster_size), quorum(roster_size)
    if not secure:
        return 0, max(needed, min(members, may_collude + 2))
    threshold = (members + may_collude) // 2 + 1
    return threshold, max(needed, threshold, may_collude + 2, FLOOR)


def newcomers(roster_size: int) -> int:
    """Peers that one record may take in: so many that the old roster alone is a quorum of the new one.

    One at least, or small rosters could not grow.
    """
    return max([1, *(more for more in range(2, MAX_CELL) if quorum(roster_size + more) <= roster_size)])


def trials(roster_size: int) -> int:
    """Trials that one record may carry: each costs members the computing of one slice of their own."""
    return max(1, roster_size // 8)


def run_id(signed_genesis: bytes) -> bytes:
    """The run's name: SHA-256 of the signed genesis statement."""
    return tagged_hash("run", signed_genesis)


def whole(parts: Sequence[bytes]) -> bytes:
    """One name for what all shards have one of: snapshots, sessions, beacons."""
    return tagged_hash("shards", *parts)


def void_value(run: bytes, round_: int, attempt: int) -> bytes:
    """What is voted for when an attempt came to nothing."""
    return tagged_hash("void", run, round_.to_bytes(8, "big"), attempt.to_bytes(8, "big"))


@dataclass(frozen=True)
class History:
    """The chain so far, as a value: `extend` returns the next one or raises RecordRefused."""

    run: bytes
    genesis: Genesis
    roster: Roster
    round: int = 0
    moved: int = 0  # records that moved the snapshot
    head: bytes = b""
    snapshot: bytes = b""
    shards: tuple[bytes, ...] = ()  # each shard's snapshot; none: one shard
    beacon: bytes = b""
    last: Record | None = None
    changed: Mapping[PeerID, int] = field(default_factory=dict)  # record in which a peer last came or went
    conduct: Conduct = field(default_factory=Conduct)
    sessions: Mapping[bytes, Record] = field(default_factory=dict)
    """The last records, by their sessions."""
    probation: Probation = field(default_factory=Probation)
    proved: frozenset[PeerID] = frozenset()
    """Whoever has been in the roster: nobody is on probation twice."""

    @classmethod
    def begin(cls, signed_genesis: bytes, run: bytes | None = None) -> "History":
        """Height 0. Raises WrongRun if the genesis is not the one `run` names."""
        name = run_id(signed_genesis)
        if run is not None and name != run:
            raise WrongRun(
                f"the genesis offered is that of run {name.hex()}, not of {run.hex()}: the peer that "
                "served it is wrong or hostile; ask another, or check the run id"
            )
        signed = open_signed(signed_genesis, Genesis)
        genesis = signed.message
        if signed.signer != genesis.founder or genesis.founder not in genesis.members:
            raise RecordRefused("genesis: it must be signed by its founder, who is a member")
        members = genesis.members
        if list(members) != sorted(set(members)) or len(members) > genesis.largest_cell:
            raise RecordRefused("genesis: members must be distinct, in order, and fit the largest cell")
        shards = genesis.shards
        if shards and (len(shards) < 2 or whole(shards) != genesis.snapshot):
            raise RecordRefused("genesis: its snapshot is not the whole of two shards or more")
        roster = {peer: Standing(shard=at % max(1, len(shards))) for at, peer in enumerate(members)}
        proved = frozenset(members)
        beacon = tagged_hash("beacon", name)
        return cls(name, genesis, roster, 0, 0, name, genesis.snapshot, shards, beacon, proved=proved)

    @property
    def members(self) -> tuple[PeerID, ...]:
        """The roster in order."""
        return tuple(sorted(self.roster))

    @property
    def quorum(self) -> int:
        return quorum(len(self.roster))

    def cell(self, shard: int) -> tuple[PeerID, ...]:
        """The members that hold a shard, in order."""
        return tuple(peer for peer in self.members if self.roster[peer].shard == shard)

    @property
    def cells(self) -> tuple[tuple[PeerID, ...], ...]:
        """The members of each shard."""
        return tuple(self.cell(shard) for shard in range(max(1, len(self.shards))))

    def shard_of(self, peer: PeerID) -> int:
        """The shard that a peer holds; 0 for strangers."""
        return self.roster.get(peer, Standing()).shard

    def snapshot_of(self, shard: int) -> bytes:
        """The name of a shard's snapshot."""
        return self.shards[shard] if self.shards else self.snapshot

    def peers_of(self, peer: PeerID) -> int:
        """How many members can compute what `peer` does: its cell, or all, where it is not known any more."""
        return len(self.cell(self.shard_of(peer)) if peer in self.roster else self.roster)

    def is_proved(self, peer: PeerID) -> bool:
        """Whether a join of `peer` takes it in: it was a member before, or has done its probation."""
        checks = self.genesis.probation_checks
        done = self.probation.done(peer, checks, self.roster, lambda shard: colluders(len(self.cell(shard))))
        return checks == 0 or peer in self.proved or done

    @property
    def trial_slices(self) -> int:
        """Slices of a trial: so many that all of them found right end a probation."""
        return max(self.genesis.probation_checks, colluders(len(self.roster)) + 1)

    def taken(self, joins: Iterable[bytes]) -> list[bytes]:
        """Which of these joins, all admissible, the next record carries: members to be, then trials."""
        proved: list[bytes] = []
        tried: dict[PeerID, bytes] = {}
        for raw in sorted(joins):
            join = open_signed(raw, Join)
            if self.is_proved(join.signer):
                proved.append(raw)
            elif join.message.trial:
                tried[join.signer] = raw
        turns = in_turn(tagged_hash("trials", self.beacon), list(tried))[: trials(len(self.roster))]
        return [*proved[: newcomers(len(self.roster))], *(tried[peer] for peer in turns)]

    def extend(self, raw: bytes) -> "History":
        """The history with one more record, checked in full. Raises RecordRefused."""
        decided = Decided.parse(raw)
        if decided.recovery:
            return self._recover(decided)
        record = Record.parse(decided.body)
        if record.run != self.run or record.round != self.round + 1 or record.previous != self.head:
            raise RecordRefused(f"record {record.round} does not follow record {self.round} of this run")
        if decided.round != record.round or decided.attempt != record.attempt:
            raise RecordRefused("record: the certificate is for another attempt")
        self.check_certificate(decided, record.digest())
        self._check_content(record)
        verdicts = self._said_in(record, Verdict)
        conduct = self._next_conduct(record, verdicts)
        roster = self._next_roster(record, conduct.bans)
        return replace(
            self,
            roster=roster,
            proved=self.proved | roster.keys(),
            probation=self._next_probation(record, verdicts),
            round=record.round,
            moved=self.moved + 1,
            head=record.digest(),
            snapshot=record.snapshot,
            shards=tuple(cell.snapshot for cell in record.cells),
            beacon=record.beacon,
            last=record,
            changed=self._changes(roster),
            conduct=conduct,
            sessions=self._next_sessions(record),
        )

    def check_certificate(self, decided: Decided, value: bytes) -> None:
        """A quorum of this roster precommitted `value` in one view. Raises RecordRefused."""
        views: set[int] = set()
        voters: set[PeerID] = set()
        for raw in decided.votes:
            signed = open_signed(raw, Vote)
            vote = signed.message
            right = (vote.run, vote.round, vote.attempt) == (self.run, decided.round, decided.attempt)
            if not right or vote.step != 1 or vote.value != value or signed.signer not in self.roster:
                raise RecordRefused(f"certificate: a vote of {signed.signer} is for something else")
            views.add(vote.view)
            voters.add(signed.signer)
        if len(views) != 1 or len(voters) < self.quorum:
            raise RecordRefused(f"certificate: {len(voters)} votes, a quorum is {self.quorum} in one view")

    def check_void(self, decided: Decided) -> None:
        """A quorum found that the attempt came to nothing. Raises RecordRefused."""
        if decided.round != self.round + 1 or decided.recovery or decided.body:
            raise RecordRefused(f"void: not an outcome of round {self.round + 1}")
        self.check_certificate(decided, void_value(self.run, decided.round, decided.attempt))

    def admits(self, raw: bytes) -> PeerID:
        """The peer whose join or goodbye this is, if the next record may carry it. Raises RecordRefused."""
        if domain_of(raw) in (Goodbye.DOMAIN, Move.DOMAIN):
            return self._check_member(raw, Goodbye if domain_of(raw) == Goodbye.DOMAIN else Move)
        join = open_signed(raw, Join)
        self._check_fresh(join.signer, join.message.run, join.message.round)
        if join.signer in self.roster:
            raise RecordRefused(f"join: {join.signer} is in the roster already")
        ban = self.conduct.bans.get(join.signer)
        if ban is not None:
            raise RecordRefused(f"join: {join.signer} is banned since record {ban.round}, for {ban.reason}")
        if self.genesis.invited:
            self._check_invitation(join.message.invitation, join.signer)
        elif join.message.invitation is not None:
            raise RecordRefused("join: this run asks for no invitation; leave it out")
        self._check_shard("join", join.message.shard)
        self._check_trial(join.signer, join.message)
        return join.signer

    def _check_member(self, raw: bytes, kind: type[Goodbye | Move]) -> PeerID:
        """The member that says goodbye or moves. Raises RecordRefused."""
        said = open_signed(raw, kind)
        self._check_fresh(said.signer, said.message.run, said.message.round)
        if said.signer not in self.roster:
            raise RecordRefused(f"{kind.DOMAIN}: {said.signer} is not in the roster")
        if isinstance(said.message, Move):
            if said.message.round != self.round:
                raise RecordRefused(f"move: it is of record {said.message.round}, now is {self.round}")
            self._check_shard(kind.DOMAIN, said.message.shard)
            if len(self.cell(self.shard_of(said.signer))) == 1:
                raise RecordRefused(
                    f"move: nobody but {said.signer} holds shard {self.shard_of(said.signer)}"
                )
        return said.signer

    def _check_shard(self, what: str, shard: int) -> None:
        if not shard < max(1, len(self.shards)):
            raise RecordRefused(f"{what}: shard {shard} of {max(1, len(self.shards))}")

    def _check_trial(self, peer: PeerID, join: Join) -> None:
        if self.is_proved(peer):
            needed = 0
        elif not join.trial and not self.moved:
            return  # the stewards may take it in before the first round
        elif len(self.roster) >= self.genesis.largest_cell:
            raise RecordRefused(f"join: the roster is full ({len(self.roster)}); ask again when one has left")
        elif self.probation.under_way(peer, self.round):
            raise RecordRefused(f"join: members still look at the trial of {peer}; ask again after it")
        elif join.round < self.round - 1:
            raise RecordRefused(
                f"join: its trial is of record {join.round}, now is {self.round}; do a new one"
            )
        else:
            needed = self.trial_slices
        if len(join.trial) != needed:
            raise RecordRefused(f"join: a trial of {len(join.trial)} slices, {needed} are asked of {peer}")

    def subject(self, raw: bytes) -> Subject:
        """What a statement is about, if the next record may carry it. Raises MessageRefused."""
        domain = domain_of(raw)
        if domain == Verdict.DOMAIN:
            signer, verdict = self._said(raw, Verdict)
            if verdict.session in self.probation.slices:
                self._check_trial_drawn(signer, verdict)
            else:
                self._check_known(domain, signer, verdict.checked)
                self._check_drawn(signer, verdict)
            self.conduct.check_verdict(signer, verdict)
            return domain, signer, verdict.session.hex(), verdict.checked
        if domain == Judgement.DOMAIN:
            signer, judgement = self._said(raw, Judgement)
            self._check_known(domain, signer, judgement.against)
            self.conduct.check_judgement(signer, judgement)
            return domain, signer, judgement.evidence.hex(), judgement.kind, judgement.against
        return domain, self.admits(raw)

    def _said(self, raw: bytes, kind: type[S]) -> tuple[PeerID, S]:
        signed = open_signed(raw, kind)
        self._check_fresh(signer=signed.signer, run=signed.message.run, round_=signed.message.round)
        return signed.signer, signed.message

    def _check_known(self, domain: str, signer: PeerID, about: PeerID) -> None:
        if signer not in self.roster:
            raise RecordRefused(f"{domain}: {signer} is not in the roster")
        if about not in self.roster and about not in self.changed:  # who cheats and leaves is still judged
            raise RecordRefused(f"{domain}: {about} was not in the roster lately")

    def _check_trial_drawn(self, signer: PeerID, verdict: Verdict) -> None:
        one = self.probation.slices[verdict.session]
        drawn = (one.checker, one.peer, one.index)
        here = signer in self.roster
        if (signer, verdict.checked, verdict.slice) != drawn or not here or verdict.outcome == "silent":
            raise RecordRefused(f"verdict: {signer} was not drawn to look at that trial of {verdict.checked}")

    def _check_drawn(self, signer: PeerID, verdict: Verdict) -> None:
        """Of a session that a late record names, only those who were drawn may say what they found.

        Who could not make a peer answer may always say so: it takes more than c of them.
        """
        record = self.sessions.get(verdict.session) if verdict.outcome != "silent" else None
        cell = None if record is None else record.cell_of(verdict.session)
        if record is None or cell is None:
            return
        weights, checked = dict(zip(record.survivors, record.weights, strict=True)), verdict.checked
        drawn = checkers(cell.beacon, cell.survivors, checked)[:ALTERNATES]
        if checked not in cell.survivors or signer not in drawn or not weights[checked]:
            raise RecordRefused(f"verdict: {signer} was not drawn to look at {checked}")
        wanted = drawn_slice(cell.beacon, checked, weights[checked])
        if verdict.slice != wanted:
            what = f"slice {verdict.slice} of {checked}, slice {wanted} was drawn"
            raise RecordRefused(f"verdict: {signer} looked at {what}")

    def _check_fresh(self, signer: PeerID, run: bytes, round_: int) -> None:
        oldest = max(self.round - JOIN_LIFETIME, self.changed.get(signer, 0))  # no replay after a goodbye
        if run != self.run or not oldest <= round_ <= self.round:
            raise RecordRefused(f"statement: for another run or time (round {round_}, now {self.round})")

    def _check_invitation(self, raw: bytes | None, peer: PeerID) -> None:
        if raw is None:
            raise RecordRefused("join: this run admits by invitation only; ask a steward for one")
        invitation = open_signed(raw, Invitation)
        right = (invitation.message.run, invitation.message.peer) == (self.run, peer)
        if not right or invitation.signer not in self.genesis.stewards:
            raise RecordRefused(f"join: the invitation is not a steward's for {peer}")

    def _check_content(self, record: Record) -> None:
        survivors = record.survivors
        if list(survivors) != sorted(set(survivors)) or not set(survivors) <= set(self.roster):
            raise RecordRefused("record: survivors must be of the roster, each once, in order")
        if len(record.weights) != len(survivors):
            raise RecordRefused("record: one weight for each survivor")
        if [peer for peer, _, _ in record.heads] != list(survivors):
            raise RecordRefused("record: one ledger head for each survivor")
        if not {peer for peer, *_ in record.energy} <= set(survivors):
            raise RecordRefused("record: energy of who is no survivor")
        self._check_cells(record)
        subjects = [self.subject(raw) for raw in record.statements]
        if len(set(subjects)) != len(subjects) or list(record.statements) != sorted(record.statements):
            raise RecordRefused("record: statements must be of distinct subjects and in order")
        most = Counter(signer for _, signer, *_ in subjects).most_common(1)
        if most and most[0][1] > MOST_OF_ONE:
            raise RecordRefused(f"record: {most[0][1]} statements of {most[0][0]}, at most {MOST_OF_ONE}")
        joins = [raw for raw in record.statements if domain_of(raw) == Join.DOMAIN]
        if set(self.taken(joins)) != set(joins):
            size = len(self.roster)
            raise RecordRefused(
                f"record: {len(joins)} joins; at most {newcomers(size)} are let in and {trials(size)} tried"
            )

    def _check_cells(self, record: Record) -> None:
        """One cell a shard, of its own members; all shards have done the same slices (docs/shards.md)."""
        if len(record.cells) != len(self.shards):
            raise RecordRefused(f"record: {len(record.cells)} cells, the run has {len(self.shards)}")
        if not record.cells:
            if not all(record.weights):
                raise RecordRefused("record: a survivor without a slice")
            return
        weights = dict(zip(record.survivors, record.weights, strict=True))
        for shard, cell in enumerate(record.cells):
            mine = [peer for peer in record.survivors if self.roster[peer].shard == shard]
            if list(cell.survivors) != mine:
                raise RecordRefused(f"record: the survivors of shard {shard} are not those of its cell")
        done = [sum(weights[peer] for peer in cell.survivors) for cell in record.cells]
        if len(set(done)) != 1 or not done[0]:
            raise RecordRefused(f"record: the shards did {done} slices; each must have done the same")
        for name in ("session", "snapshot", "beacon"):
            if getattr(record, name) != whole([getattr(cell, name) for cell in record.cells]):
                raise RecordRefused(f"record: its {name} is not the whole of its cells'")

    def _next_sessions(self, record: Record) -> Mapping[bytes, Record]:
        named = [(cell.session, record) for cell in record.sessions]
        return dict([*self.sessions.items(), *named][-REMEMBERED * len(named) :])

    def _said_in(self, record: Record, kind: type[M]) -> list[tuple[PeerID, M]]:
        signed = (open_signed(raw, kind) for raw in record.statements if domain_of(raw) == kind.DOMAIN)
        return [(one.signer, one.message) for one in signed]

    def _next_probation(self, record: Record, verdicts: Sequence[tuple[PeerID, Verdict]]) -> Probation:
        tried = [
            (peer, join.shard, join.round, join.digest(), join.trial)
            for peer, join in self._said_in(record, Join)
            if not self.is_proved(peer)
        ]
        return self.probation.after(record.round, record.beacon, self.cells, tried, verdicts)

    def _next_conduct(self, record: Record, verdicts: Sequence[tuple[PeerID, Verdict]]) -> Conduct:
        return self.conduct.after(
            record.round,
            verdicts,
            self._said_in(record, Judgement),
            record.survivors,
            self.sessions,
            self.roster,
            lambda peer: colluders(len(self.roster) if peer is None else self.peers_of(peer)),
            self.genesis.strikes,
        )

    def _next_roster(self, record: Record, bans: Mapping[PeerID, Ban]) -> Roster:
        own = {peer: (root, count) for peer, root, count in record.data}
        roster: dict[PeerID, Standing] = {}
        moves = 0
        for peer, standing in self.roster.items():
            missed = 0 if peer in record.survivors else standing.missed + 1
            last = (
                bool(self.shards) and len(self.cell(standing.shard)) == 1
            )  # without it the run stands still
            if (missed < self.genesis.suspend_after or last) and peer not in bans:
                root, count = own.get(peer, (standing.data_root, standing.data_count))
                roster[peer] = Standing(missed, root, count, standing.shard)
        for raw in record.statements:
            domain = domain_of(raw)
            if domain == Goodbye.DOMAIN:
                roster.pop(open_signed(raw, Goodbye).signer, None)
            elif domain == Move.DOMAIN:
                moved = open_signed(raw, Move)
                # One at a time: whoever else wanted to looks again at what is left to gain.
                left = [one.shard for one in roster.values()].count(self.shard_of(moved.signer))
                if moved.signer in roster and not moves and left > 1:
                    roster[moved.signer] = replace(roster[moved.signer], shard=moved.message.shard)
                    moves += 1
            elif domain == Join.DOMAIN and len(roster) < self.genesis.largest_cell:
                join = open_signed(raw, Join)
                if join.signer in bans or not self.is_proved(join.signer):
                    continue  # banned since this very record, or on trial
                said = join.message
                roster[join.signer] = Standing(0, said.data_root, said.data_count, said.shard)
        return roster

    def _changes(self, roster: Roster) -> Mapping[PeerID, int]:
        now = self.round + 1
        recent = {peer: at for peer, at in self.changed.items() if at > now - JOIN_LIFETIME}
        return recent | dict.fromkeys(self.roster.keys() ^ roster.keys(), now)

    def _recover(self, decided: Decided) -> "History":
        recovery = Recovery.parse(decided.body)
        if (decided.round, decided.attempt) != (recovery.round, 0):
            raise RecordRefused("recovery: its certificate is for another round")
        if (recovery.run, recovery.round, recovery.previous) != (self.run, self.round + 1, self.head):
            raise RecordRefused(f"recovery: it does not follow record {self.round} of this run")
        signers = {open_signed(vote, Recovery) for vote in decided.votes}
        stewards = {s.signer for s in signers if s.message == recovery} & set(self.genesis.stewards)
        if len(stewards) < self.genesis.recovery_threshold:
            raise RecordRefused(
                f"recovery: {len(stewards)} stewards signed, {self.genesis.recovery_threshold} are needed"
            )
        members = recovery.members
        if list(members) != sorted(set(members)) or len(members) > self.genesis.largest_cell:
            raise RecordRefused("recovery: members must be distinct, in order, and fit the largest cell")
        banned = set(members) & set(self.conduct.bans)
        if banned:
            raise RecordRefused(f"recovery: {min(banned)} is banned; leave it out")
        shards = recovery.shards
        if len(shards) != (len(members) if self.shards else 0) or not all(
            s < len(self.shards) for s in shards
        ):
            raise RecordRefused("recovery: a shard of the run for each member, or none where it has one")
        roster = {
            peer: replace(self.roster.get(peer, Standing()), missed=0, shard=shard)
            for peer, shard in zip(members, shards or [0] * len(members), strict=True)
        }
        return replace(
            self,
            roster=roster,
            round=recovery.round,
            head=recovery.digest(),
            beacon=tagged_hash("beacon", recovery.digest()),
            proved=self.proved | set(members),
            changed=self._changes(roster),
        )
