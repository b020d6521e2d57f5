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
from proto.energy import EnergyClaim, EnergyKind
from proto.errors import MessageRefused, SwarmError
from secagg.messages import MAX_CELL, MAX_STATEMENT, Each, Some, Weight
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

M = TypeVar("M", bound=Message)
S = TypeVar("S", Verdict, Judgement)
Raw = Annotated[bytes, Field(max_length=MAX_STATEMENT)]


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

    `trial`: a sketch of each slice that the beacon of record `round` makes up for it, while on probation.
    """

    DOMAIN: ClassVar[str] = "join"

    run: Digest
    round: Count  # the last record the peer has seen
    data_root: Digest | None
    data_count: Count
    invitation: Annotated[bytes, Field(max_length=1024)] | None
    trial: Each[Sketch]


class Goodbye(Message):
    """A peer leaves the roster."""

    DOMAIN: ClassVar[str] = "goodbye"

    run: Digest
    round: Count


class Record(Message):
    """The agreed outcome of a round."""

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
    statements: Annotated[tuple[Raw, ...], Field(max_length=MOST_CARRIED), FailFast()]


class Recovery(Message):
    """The stewards' way out when a quorum is gone for good: changes the roster and nothing else."""

    DOMAIN: ClassVar[str] = "recovery"

    run: Digest
    round: Annotated[int, Field(ge=1, lt=1 << 40)]
    previous: Digest
    members: Some[PeerID]


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


RANK = {Judgement.DOMAIN: 0, Goodbye.DOMAIN: 1, Join.DOMAIN: 1, Verdict.DOMAIN: 2}
"""Which statements come first where not all fit, by the first word of their subject."""


@dataclass(frozen=True)
class Standing:
    """A roster member: records missed in a row, and the commitment to its own data (None: shared)."""

    missed: int = 0
    data_root: bytes | None = None
    data_count: int = 0


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
        roster = {member: Standing() for member in genesis.members}
        proved = frozenset(members)
        beacon = tagged_hash("beacon", name)
        return cls(name, genesis, roster, 0, 0, name, genesis.snapshot, beacon, proved=proved)

    @property
    def members(self) -> tuple[PeerID, ...]:
        """The roster in order."""
        return tuple(sorted(self.roster))

    @property
    def quorum(self) -> int:
        return quorum(len(self.roster))

    def is_proved(self, peer: PeerID) -> bool:
        """Whether a join of `peer` takes it in: it was a member before, or has done its probation."""
        checks = self.genesis.probation_checks
        may_collude = colluders(len(self.roster))
        done = self.probation.done(peer, checks, may_collude, self.roster)
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
            beacon=record.beacon,
            last=record,
            changed=self._changes(roster),
            conduct=conduct,
            sessions=dict([*self.sessions.items(), (record.session, record)][-REMEMBERED:]),
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
        if domain_of(raw) == Goodbye.DOMAIN:
            goodbye = open_signed(raw, Goodbye)
            self._check_fresh(goodbye.signer, goodbye.message.run, goodbye.message.round)
            if goodbye.signer not in self.roster:
                raise RecordRefused(f"goodbye: {goodbye.signer} is not in the roster")
            return goodbye.signer
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
        self._check_trial(join.signer, join.message)
        return join.signer

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
        if record is None:
            return
        weights, checked = dict(zip(record.survivors, record.weights, strict=True)), verdict.checked
        drawn = checkers(record.beacon, record.survivors, checked)[:ALTERNATES]
        if checked not in weights or signer not in drawn:
            raise RecordRefused(f"verdict: {signer} was not drawn to look at {checked}")
        wanted = drawn_slice(record.beacon, checked, weights[checked])
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

    def _said_in(self, record: Record, kind: type[M]) -> list[tuple[PeerID, M]]:
        signed = (open_signed(raw, kind) for raw in record.statements if domain_of(raw) == kind.DOMAIN)
        return [(one.signer, one.message) for one in signed]

    def _next_probation(self, record: Record, verdicts: Sequence[tuple[PeerID, Verdict]]) -> Probation:
        tried = [
            (peer, join.round, join.digest(), join.trial)
            for peer, join in self._said_in(record, Join)
            if not self.is_proved(peer)
        ]
        return self.probation.after(record.round, record.beacon, self.members, tried, verdicts)

    def _next_conduct(self, record: Record, verdicts: Sequence[tuple[PeerID, Verdict]]) -> Conduct:
        return self.conduct.after(
            record.round,
            verdicts,
            self._said_in(record, Judgement),
            record.survivors,
            self.sessions,
            self.roster,
            colluders(len(self.roster)),
            self.genesis.strikes,
        )

    def _next_roster(self, record: Record, bans: Mapping[PeerID, Ban]) -> Roster:
        own = {peer: (root, count) for peer, root, count in record.data}
        roster: dict[PeerID, Standing] = {}
        for peer, standing in self.roster.items():
            missed = 0 if peer in record.survivors else standing.missed + 1
            if missed < self.genesis.suspend_after and peer not in bans:
                root, count = own.get(peer, (standing.data_root, standing.data_count))
                roster[peer] = Standing(missed, root, count)
        for raw in record.statements:
            domain = domain_of(raw)
            if domain == Goodbye.DOMAIN:
                roster.pop(open_signed(raw, Goodbye).signer, None)
            elif domain == Join.DOMAIN and len(roster) < self.genesis.largest_cell:
                join = open_signed(raw, Join)
                if join.signer in bans or not self.is_proved(join.signer):
                    continue  # banned since this very record, or on trial
                roster[join.signer] = Standing(0, join.message.data_root, join.message.data_count)
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
        roster = {peer: replace(self.roster.get(peer, Standing()), missed=0) for peer in recovery.members}
        return replace(
            self,
            roster=roster,
            round=recovery.round,
            head=recovery.digest(),
            beacon=tagged_hash("beacon", recovery.digest()),
            proved=self.proved | set(members),
            changed=self._changes(roster),
        )


def energy_of(
    claims: Iterable[tuple[PeerID, EnergyClaim | None]],
) -> tuple[tuple[PeerID, EnergyKind, int | None, int], ...]:
    """What a record says of its survivors' energy, from their adverts."""
    return tuple(
        (peer, claim.kind, claim.millijoules, claim.network_bytes)
        for peer, claim in claims
        if claim is not None
    )


def union_of_statements(history: History, carried: Iterable[Sequence[bytes]]) -> tuple[bytes, ...]:
    """What a record must carry: all that is admissible, one a subject, in order.

    Where it is more than a record holds, judgements come first, and verdicts last.
    """
    chosen: dict[Subject, bytes] = {}
    said = {raw for statements in carried for raw in statements}
    for raw in sorted(said, key=lambda raw: (not binds(raw), raw)):
        try:
            chosen.setdefault(history.subject(raw), raw)
        except MessageRefused:
            continue  # it was admissible where it was signed, at another height; the record goes without
    return tuple(sorted(in_fair_order(history, chosen)[:MOST_CARRIED]))


def in_fair_order(history: History, statements: Mapping[Subject, bytes]) -> list[bytes]:
    """Which go first where not all fit: everybody's first of each kind before anybody's second, judgements
    before the rest; of one signer no more than `MOST_OF_ONE`, and no joins but those that are taken."""
    joins = {raw for subject, raw in statements.items() if subject[0] == Join.DOMAIN}
    late = joins - set(history.taken(joins))
    of_one: Counter[tuple[str, PeerID]] = Counter()
    in_all: Counter[PeerID] = Counter()
    ranked: list[tuple[int, int, bytes, PeerID]] = []
    for subject, raw in sorted(statements.items(), key=lambda item: item[1]):
        domain, signer = subject[:2]
        if raw in late:
            continue
        ranked.append((of_one[domain, signer], RANK[domain], raw, signer))
        of_one[domain, signer] += 1
    kept: list[bytes] = []
    for _, _, raw, signer in sorted(ranked):
        in_all[signer] += 1
        if in_all[signer] <= MOST_OF_ONE:
            kept.append(raw)
    return kept


def binds(raw: bytes) -> bool:
    """Whether a statement cannot be taken back: that evidence holds, or what its author computed.

    False, never an error, on anything that is neither.
    """
    try:
        if domain_of(raw) == Judgement.DOMAIN:
            return open_signed(raw, Judgement).message.holds
        return domain_of(raw) == Verdict.DOMAIN and open_signed(raw, Verdict).message.sketch is not None
    except MessageRefused:
        return False


def median(values: Sequence[int]) -> int:
    """The lower median: at least half of the values are at least this, so a minority cannot move it far."""
    return sorted(values)[(len(values) - 1) // 2]
