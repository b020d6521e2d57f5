"""Everything again, from the outside: what holds of a run, from its id and one or more ledgers.

    tree      each ledger's entries give the root that its author signed
    records   from genesis on: quorums, rosters, bans, void outcomes
    sessions  each record follows from the adverts, votes, releases and sums that led to it
    checks    who signed a verdict was drawn to check; what a ban rests on holds
    heads     what peers said of their ledgers' heads is true of those that are here, and never goes back
    between   two ledgers tell the same records, and no peer says two things

The promise: nothing is believed that can be computed. What is wrong is named with its ledger, its entry
and why; the audit goes on behind it, on another ledger's word where there is one. Memory does not grow
with the run. Signatures of sessions may be checked in other processes: `spread` is then their `map`.
"""

import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial

from proto.canonical import PeerID
from proto.errors import MessageRefused, SwarmError
from verify.audit_claims import Heads, history_before, judge_evidence
from verify.audit_entries import Chapter, Reader, Reading, Source
from verify.audit_record import Shown, cell_of, differences, is_whole, sessions_shown, survivors_of
from verify.audit_report import (
    AuditRules,
    Finding,
    HeldEvidence,
    LedgerView,
    Reexecute,
    Report,
    RoundView,
    RulesOf,
    SessionView,
    Watch,
)
from verify.audit_session import RoundFacts, RoundTask, SessionFacts, Stage, check_any, check_round
from verify.evidence import PortableEvidence
from verify.ledger import Entry
from verify.lottery import ALTERNATES, Draw, draw_checks
from verify.record import Decided, History, Record, Vote, run_id
from verify.standing import FALSE_ACCUSATION, SILENCE, Verdict
from verify.statement import domain_of, open_signed
from verify.wiring import throughput_of

__all__ = ["AuditRules", "Reader", "Report", "Source", "audit", "find_genesis", "judge_evidence"]

AHEAD = 32
"""Rounds that are read before their sessions are checked together."""
SESSIONS_KEPT = 1_024
"""Sessions whose draws are at hand for verdicts that come later."""
HISTORIES_KEPT = 64
EVIDENCE_KEPT = 1_024

Spread = Callable[[Callable[[RoundTask], RoundFacts], Iterable[RoundTask]], Iterable[RoundFacts]]


def audit(
    run: bytes,
    sources: Sequence[Source],
    rules: RulesOf,
    spread: Spread = map,
    watch: Watch | None = None,
    reexecute: Reexecute | None = None,
) -> Report:
    """Audit a run's ledgers, at least one. `watch` is told of every round once it is checked, in order."""
    if not sources:
        raise ValueError("an audit needs a ledger")
    return _Audit(run, sources, rules, spread, watch, reexecute).report


def find_genesis(run: bytes, sources: Iterable[Source]) -> bytes | None:
    """The signed genesis that `run` names, from whichever ledger has it."""
    for source in sources:
        kept = source.file("genesis")
        if kept is not None and run_id(kept) == run:
            return kept
        for raw in _first_entry(source):
            if run_id(raw) == run:
                return raw
    return None


def _first_entry(source: Source) -> list[bytes]:
    try:
        entries = [Entry.parse(raw) for raw in source.reader.entries(0, 1)]
        contents = [entry.content or source.reader.large(entry.sha256) for entry in entries]
    except SwarmError:
        return []  # said when the ledger is read
    return [content for content in contents if content is not None]


@dataclass(frozen=True)
class _Unproven(History):
    """A history that goes on where a certificate did not hold, so that what follows can be checked too."""

    def check_certificate(self, decided: Decided, value: bytes) -> None:
        """The refusal was named before."""


@dataclass(frozen=True)
class _Seen:
    """A session whose seeds came out, for the verdicts that follow."""

    slot: tuple[int, int]
    shard: int
    beacon: bytes
    weights: Mapping[PeerID, int]


@dataclass
class _Step:
    """A round that was read, on its way to be checked."""

    round: int
    before: History | None
    after: History | None
    decided: Decided | None
    where: list[tuple[Reading, int]]
    chapters: list[tuple[Reading, Chapter]]
    task: RoundTask
    findings: list[Finding] = field(default_factory=list)

    @property
    def record(self) -> Record | None:
        """The round's record; None for a recovery, or where there is none that holds."""
        if self.decided is None or self.decided.recovery or self.after is None:
            return None
        return self.after.last


class _Audit:
    """One audit, from beginning to end; `report` is its outcome."""

    def __init__(
        self,
        run: bytes,
        sources: Sequence[Source],
        rules: RulesOf,
        spread: Spread,
        watch: Watch | None,
        reexecute: Reexecute | None,
    ) -> None:
        self.report = Report(run)
        self._run, self._watch, self._reexecute = run, watch, reexecute
        self._rules: AuditRules | None = None
        self._chain: History | None = None
        self._broken = False
        self._known: dict[int, bytes] = {}  # rounds and what was decided in them
        self._said_void: set[tuple[int, int]] = set()
        self._sessions: OrderedDict[bytes, _Seen] = OrderedDict()
        self._draws: OrderedDict[bytes, Mapping[PeerID, Draw]] = OrderedDict()
        self._histories: deque[History] = deque(maxlen=HISTORIES_KEPT)
        self._chunks: dict[int, int] = {}  # of each shard's vector
        self._unseen: Counter[int] = Counter()  # records of which no ledger shows a shard's session
        self._current: _Step | None = None
        self._readings = [Reading(source, run, self._say, self.report.note) for source in sources]
        self._heads = Heads(self._readings, self.report.note)
        self._names = tuple(reading.name for reading in self._readings)
        self._begin(sources, rules)
        self._go(spread)
        self._end()

    def _say(self, finding: Finding) -> None:
        self.report.say(finding)
        if self._current is not None:
            self._current.findings.append(finding)

    # -- genesis ----------------------------------------------------------------------------------------

    def _begin(self, sources: Sequence[Source], rules: RulesOf) -> None:
        raw = find_genesis(self._run, sources)
        if raw is None:
            self._say(Finding(self._names[0], 0, "no genesis here has the run's id as its hash"))
            self._broken = True
            return
        try:
            self._chain = History.begin(raw, self._run)
            self._histories.append(self._chain)
            self.report.statements += 1
            self.report.genesis = self._chain.genesis
            self._rules = rules(self._chain.genesis)
            self.report.joules_per_megabyte = self._rules.joules_per_megabyte
        except SwarmError as refusal:
            self._say(Finding(self._names[0], 0, str(refusal)))
            self._broken = self._chain is None
        for source in sources:
            self._check_files(source, raw)

    def _check_files(self, source: Source, genesis: bytes) -> None:
        manifest = source.file("manifest.toml")
        if self._chain is not None and manifest not in (None, self._chain.genesis.manifest):
            self._say(Finding(source.name, None, "manifest.toml is not the manifest in the run's genesis"))
        if source.file("genesis") not in (None, genesis):
            self._say(Finding(source.name, None, "the file genesis is not the run's"))

    # -- rounds -----------------------------------------------------------------------------------------

    def _go(self, spread: Spread) -> None:
        while True:
            steps: list[_Step] = []
            while len(steps) < AHEAD and (step := self._next()) is not None:
                steps.append(step)
            if not steps:
                return
            for step, facts in zip(steps, spread(check_round, [step.task for step in steps]), strict=True):
                self._current = step
                self._merge(step, facts)
                self._current = None

    def _next(self) -> _Step | None:
        """Read one more round of every ledger; None at the end of all."""
        read = [(reading, chapter) for reading in self._readings if (chapter := self._read(reading))]
        if not read:
            return None
        if any(chapter.goes_on for _, chapter in read):  # the others wait where they are
            for reading, chapter in read:
                reading.held = None if chapter.goes_on else chapter
            return self._decide(self._want, [(one, chapter) for one, chapter in read if chapter.goes_on])
        rounds = [chapter.outcome[2].round for _, chapter in read if chapter.outcome]
        want = min(rounds, default=self._want)
        if self._chain is not None and rounds and want > self._want:
            self._miss(read, want)
        here: list[tuple[Reading, Chapter]] = []
        for reading, chapter in read:
            if chapter.outcome is not None and chapter.outcome[2].round > want:
                if reading.last_round < want:
                    self._lacks(reading, chapter, want)
                reading.held = chapter
            else:
                here.append((reading, chapter))
        step = self._decide(want, here)
        for reading, chapter in here:
            if chapter.outcome is not None:
                reading.last_round = want
        return step

    @property
    def _want(self) -> int:
        return 1 if self._chain is None else self._chain.round + 1

    def _read(self, reading: Reading) -> Chapter | None:
        """The next chapter that brings something new; a record told twice adds nothing."""
        chapter = reading.chapter()
        oldest = reading.last_round + 1 if self._chain is None else self._want
        while chapter is not None and chapter.outcome is not None and chapter.outcome[2].round < oldest:
            index, _, decided = chapter.outcome
            if self._known.get(decided.round) != _name(decided):
                text = f"a record of round {decided.round} where round {oldest} is under way"
                reading.wrong(index, f"{text}, and not the one known")
            later = reading.chapter()
            chapter.outcome = None
            if later is None:
                break
            chapter.take(later)
        return chapter

    def _lacks(self, reading: Reading, chapter: Chapter, want: int) -> None:
        assert chapter.outcome is not None
        index, found = chapter.outcome[0], chapter.outcome[2].round
        text = f"record {found} comes where record {want} belongs: one is missing or out of order"
        reading.wrong(index, text, unreadable=chapter.gap or reading.gap)
        reading.last_round = want

    def _miss(self, read: Sequence[tuple[Reading, Chapter]], want: int) -> None:
        """No ledger has the next record."""
        wanted = self._want
        for reading, chapter in read:
            if chapter.outcome is not None:
                self._lacks(reading, chapter, wanted)
        self._break(wanted)

    def _break(self, wanted: int) -> None:
        self.report.history = self._chain
        self._chain, self._broken = None, True
        self.report.note(f"from round {wanted} on rosters are not known: only signatures were checked there")

    def _decide(self, want: int, here: list[tuple[Reading, Chapter]]) -> _Step:
        """Check the round's outcome, and say what its sessions are to be checked against."""
        before, findings = self._chain, list[Finding]()
        step = _Step(want, before, None, None, [], here, RoundTask(self._run, None, ()), findings)
        self._current = step
        for reading, chapter in here:
            self._check_voids(reading, chapter, before)
        candidates = [(reading, *chapter.outcome) for reading, chapter in here if chapter.outcome]
        for reading, index, raw, decided in candidates:
            self._check_outcome(step, reading, index, raw, decided)
        if step.after is not None:
            self._chain = step.after
            self._histories.append(step.after)
        self._current = None
        stage = None if before is None else self._stage(before)
        numbers = {id(reading): number for number, reading in enumerate(self._readings)}
        lines = tuple((numbers[id(reading)], tuple(chapter.lines)) for reading, chapter in here)
        step.task = RoundTask(self._run, stage, lines, self._names)
        return step

    def _stage(self, history: History) -> Stage | None:
        if self._rules is None:
            return None
        return Stage(
            history.round + 1,
            history.roster,
            history.shards or (history.snapshot,),
            history.beacon,
            throughput_of(history),
            self._rules.secure,
            self._rules.own,
            self._rules.slices,
            self._rules.slice_tokens,
        )

    def _check_voids(self, reading: Reading, chapter: Chapter, before: History | None) -> None:
        for index, _, decided in chapter.voids:
            if before is None:
                for vote in decided.votes:
                    self._check_signature(reading, index, vote)
                continue
            if (decided.round, decided.attempt) in self._said_void:
                continue
            try:
                before.check_void(decided)
            except MessageRefused as refusal:
                reading.wrong(index, str(refusal))
                continue
            self._said_void.add((decided.round, decided.attempt))
            self.report.voids += 1
            self.report.statements += len(decided.votes)

    def _check_outcome(self, step: _Step, reading: Reading, index: int, raw: bytes, decided: Decided) -> None:
        if step.before is None:
            self._known.setdefault(step.round, _name(decided))
            for vote in decided.votes:
                self._check_signature(reading, index, vote)
            return
        if step.decided is not None and step.decided.body == decided.body:
            step.where.append((reading, index))
            if decided.votes != step.decided.votes and not decided.recovery:
                self._check_votes(step, reading, index, decided)
            return
        after = self._extend(step.before, reading, index, raw, decided)
        if after is None:
            return
        if step.decided is not None:
            self._fork(step, reading, index, decided)
            return
        step.after, step.decided = after, decided
        step.where.append((reading, index))
        self._known[step.round] = _name(decided)
        self._said_void.clear()
        if decided.recovery:
            self.report.recoveries += 1
        else:
            self.report.records += 1
        carried = 0 if decided.recovery or after.last is None else len(after.last.statements)
        self.report.statements += len(decided.votes) + carried

    def _extend(
        self, before: History, reading: Reading, index: int, raw: bytes, decided: Decided
    ) -> History | None:
        try:
            return before.extend(raw)
        except MessageRefused as refusal:
            reading.wrong(index, str(refusal))
            if decided.recovery:
                return None
        try:  # perhaps only its certificate is wrong: what follows can be checked all the same
            after = _Unproven(**{one.name: getattr(before, one.name) for one in fields(History)}).extend(raw)
        except MessageRefused:
            return None
        proven = History(**{one.name: getattr(after, one.name) for one in fields(History)})
        named = _voted_for(decided)  # what the next record names, if this one was changed afterwards
        return proven if named is None else replace(proven, head=named)

    def _check_votes(self, step: _Step, reading: Reading, index: int, decided: Decided) -> None:
        """Another certificate of the record that is known."""
        assert step.before is not None
        assert step.record is not None
        try:
            step.before.check_certificate(decided, step.record.digest())
            self.report.statements += len(decided.votes)
        except MessageRefused as refusal:
            reading.wrong(index, str(refusal))

    def _check_signature(self, reading: Reading, index: int, raw: bytes) -> bool:
        """Whether it has the form of a signed statement; one whose signature does not hold is named."""
        try:
            signed = check_any(raw)
        except MessageRefused as refusal:
            reading.wrong(index, str(refusal))
            return True
        self.report.statements += signed
        return signed

    def _fork(self, step: _Step, reading: Reading, index: int, decided: Decided) -> None:
        assert step.decided is not None
        other, at = step.where[0]
        text = f"another record of round {step.round} than entry {at} of {other.name}, both with quorums"
        reading.wrong(index, text)
        if step.decided.recovery or decided.recovery:
            return
        said = {}
        for raw in step.decided.votes:
            signed = open_signed(raw, Vote)
            said[signed.signer] = signed.message
        for raw in decided.votes:
            signed = open_signed(raw, Vote)
            vote, first = signed.message, said.get(signed.signer)
            if first is not None and (first.attempt, first.view) == (vote.attempt, vote.view):
                text = f"{signed.signer} voted for two records of round {step.round} in one view"
                reading.wrong(index, text, by=signed.signer)

    # -- sessions ---------------------------------------------------------------------------------------

    def _merge(self, step: _Step, facts: RoundFacts) -> None:
        self.report.statements += facts.statements
        gaps = {id(reading): chapter.gap for reading, chapter in step.chapters}
        for slip in facts.slips:
            reading = self._readings[slip.ledger]
            reading.wrong(slip.index, slip.what, slip.by, unreadable=gaps.get(id(reading), False))
        record = step.record
        shown = {} if record is None else sessions_shown(record, facts.sessions)
        for session in facts.sessions:
            reading = self._readings[session.ledger]
            self._check_session(step, reading, session, shown, gaps.get(id(reading), False))
        if record is not None and step.before is not None:
            self._check_verdicts(step, record)
            self._count(record)
            self._unseen.update(
                set(range(len(record.cells))) - {one.shard for one in facts.sessions if cell_of(record, one)}
            )
            reading, index = step.where[0]
            for peer, size, root in record.heads:
                self._heads.claim(reading, index, peer, (record.round, record.attempt), size, root)
        for reading, chapter in step.chapters:
            self._check_others(reading, chapter)
        if self._watch is not None and not any(chapter.goes_on for _, chapter in step.chapters):
            self._watch(self._view(step, facts))

    def _check_session(
        self, step: _Step, reading: Reading, facts: SessionFacts, shown: Shown, gap: bool
    ) -> None:
        record = step.record
        if facts.id is not None and facts.final is not None:
            reading.sessions += 1
            if facts.id not in self._sessions:
                self._keep_session(facts)
        for peer, member in facts.members.items():
            if record is None or peer not in record.survivors or record.cell_of(facts.id or b"") is None:
                size, root = member.head_size, member.head_root
                self._heads.claim(reading, member.index, peer, facts.slot, size, root)
        if facts.chunks is not None:
            chunks = self._chunks.setdefault(facts.shard, facts.chunks)
            if facts.chunks != chunks:
                text = f"sums of {facts.chunks} chunks, the run's vector has {chunks}"
                reading.wrong(facts.first, text, unreadable=gap)
        cell = None if record is None else cell_of(record, facts)
        if cell is None or facts.id is None:
            return
        if facts.id != cell.session:
            assert facts.final is not None
            reading.wrong(
                facts.final,
                f"a final set of session {facts.id.hex()[:16]} in the very attempt whose record "
                f"names session {cell.session.hex()[:16]}",
                unreadable=gap,
            )
        else:
            self._check_record(step, reading, facts, shown, gap)

    def _keep_session(self, facts: SessionFacts) -> None:
        assert facts.id is not None
        self.report.sessions += 1
        if facts.beacon is None or not set(facts.survivors) <= facts.members.keys():
            return
        weights = {peer: facts.members[peer].weight for peer in facts.survivors}
        self._sessions[facts.id] = _Seen(facts.slot, facts.shard, facts.beacon, weights)
        while len(self._sessions) > SESSIONS_KEPT:
            gone, _ = self._sessions.popitem(last=False)
            self._draws.pop(gone, None)

    def _check_record(
        self, step: _Step, reading: Reading, facts: SessionFacts, shown: Shown, gap: bool
    ) -> None:
        """The record says what the session's statements make of it."""
        assert step.before is not None
        assert step.record is not None
        index = next((at for other, at in step.where if other is reading), step.where[0][1])
        for text in differences(step.before, step.record, facts, shown):
            reading.wrong(index, f"record {step.round}: {text}", unreadable=gap)
        if not is_whole(facts, step.record.sessions[facts.shard]):
            return
        chunk = 0 if self._rules is None else self._rules.evidence.chunk
        for peer, member in survivors_of(facts):
            if member.energy is not None:
                self.report.peer(peer).claim(member.energy, (facts.chunks or 0) * chunk)

    # -- checks -----------------------------------------------------------------------------------------

    def _drawn(self, session: bytes) -> Mapping[PeerID, Draw] | None:
        """What the lottery draws of a session; None where that is not shown."""
        seen = self._sessions.get(session)
        chunks = None if seen is None else self._chunks.get(seen.shard)
        if seen is None or chunks is None or self._rules is None:
            return None
        if session not in self._draws:
            rules = self._rules
            draws = draw_checks(seen.beacon, seen.weights, chunks, rules.rate, rules.fraction)
            self._draws[session] = {draw.checked: draw for draw in draws}
        return self._draws[session]

    def _check_verdicts(self, step: _Step, record: Record) -> None:
        reading, index = step.where[0]
        for raw in record.statements:
            if domain_of(raw) != Verdict.DOMAIN:
                continue
            signed = open_signed(raw, Verdict)
            signer, verdict = signed.signer, signed.message
            self.report.count(signer, verdict)
            drawn = self._drawn(verdict.session)
            if drawn is None:
                self.report.verdicts_unseen += 1
                continue
            if verdict.outcome == "silent":
                continue  # whoever could not make it answer may say so, also of other questions
            draw = drawn.get(verdict.checked)
            if draw is None or signer not in draw.checkers[:ALTERNATES]:
                why = "is not drawn to be checked" if draw is None else "has other checkers"
                text = f"record {record.round}: a verdict of {signer} on {verdict.checked}, who {why}"
                reading.wrong(index, f"{text} in session {verdict.session.hex()[:16]}", by=signer)

    def _count(self, record: Record) -> None:
        for peer, weight in zip(record.survivors, record.weights, strict=True):
            one = self.report.peer(peer)
            one.rounds += 1
            one.weight += weight
        for cell in record.sessions:
            for peer in self._drawn(cell.session) or ():
                self.report.peer(peer).drawn += 1

    def _check_others(self, reading: Reading, chapter: Chapter) -> None:
        for index, entry in chapter.evidence:
            content = reading.content(index, entry)
            if content is None:
                self.report.note(f"{reading.name} entry {index}: this evidence is not kept here")
            else:
                self._hold(reading, index, content)
        for index, kind, content in chapter.others:
            if not self._check_signature(reading, index, content):
                self.report.note(f"{reading.name}: entries of kind {kind} are not known to this version")

    def _hold(self, reading: Reading, index: int, content: bytes) -> None:
        try:
            case = PortableEvidence.parse(content)
        except MessageRefused as refusal:
            reading.wrong(index, str(refusal))
            return
        name = case.digest()
        if name in self.report.evidence or self._rules is None:
            return
        if len(self.report.evidence) >= EVIDENCE_KEPT:
            self.report.note(f"more than {EVIDENCE_KEPT} pieces of evidence: the others were not examined")
            return
        again = None
        if self._reexecute is not None:
            again = partial(self._reexecute, case, history_before(case, self._histories))
        holds, text = judge_evidence(case, self._rules.evidence, again)
        self.report.evidence[name] = HeldEvidence(case.kind, case.against, holds, text, reading.name, index)

    # -- the end ----------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._heads.check_same_author()
        self.report.heads = self._heads.compared
        if self._chain is not None:
            self.report.history = self._chain
        self._check_bans()
        self._note_unseen()
        for reading in self._readings:
            self.report.ledgers.append(
                LedgerView(
                    reading.name,
                    reading.author,
                    reading.size,
                    reading.head,
                    reading.signed,
                    reading.records,
                    reading.sessions,
                )
            )
        if self.report.verdicts_unseen:
            count = self.report.verdicts_unseen
            self.report.note(f"{count} verdicts are of sessions that no ledger here shows: draws not checked")
        self.report.close()

    def _note_unseen(self) -> None:
        for shard, count in sorted(self._unseen.items()):
            cell = () if self.report.history is None else self.report.history.cell(shard)
            who = f" (such as {cell[0]})" if cell else ""
            self.report.note(
                f"shard {shard}: no ledger here shows its session in {count} of {self.report.records} "
                "records, so its adverts, sums and beacons were not checked there; add that of a peer of its "
                f"cell{who}"
            )

    def _check_bans(self) -> None:
        history = self.report.history
        if history is None:
            return
        for peer, strikes in history.conduct.strikes.items():
            self.report.peer(peer).strikes = len(strikes)
        for peer, standing in history.roster.items():
            self.report.peer(peer).member = True
            self.report.peer(peer).shard = standing.shard if history.shards else None
        for peer, ban in sorted(history.conduct.bans.items()):
            self.report.peer(peer).ban = ban
            if ban.reason == SILENCE:
                continue
            held = self.report.evidence.get(ban.evidence)
            name = ban.evidence.hex()[:16]
            if held is None:
                self.report.note(f"{peer} is banned for {ban.reason}: its evidence {name} is not here")
                continue
            false = ban.reason == FALSE_ACCUSATION
            wrong = "holds" if false else "does not hold"
            mismatch = not false and (held.kind, held.against) != (ban.reason, peer)
            if held.holds == wrong or mismatch:
                text = f"{peer} is banned since record {ban.round} for {ban.reason}, and evidence {name}"
                self._say(Finding(held.ledger, held.index, f"{text} {held.holds}: {held.text}"))
            elif held.holds not in ("holds", "does not hold"):
                self.report.note(
                    f"{peer} is banned for {ban.reason}: {held.holds} to tell whether that holds"
                )

    def _view(self, step: _Step, facts: RoundFacts) -> RoundView:
        voids = len({decided.attempt for _, chapter in step.chapters for _, _, decided in chapter.voids})
        sessions: dict[tuple[object, ...], SessionView] = {}
        for one in facts.sessions:
            if one.id is None:
                continue
            sessions.setdefault(
                (one.id, one.final is None),
                SessionView(
                    one.id,
                    one.slot,
                    one.shard,
                    one.members,
                    None if one.final is None else one.survivors,
                    one.proposer,
                    one.owners,
                    one.beacon,
                    one.chunks,
                ),
            )
        voters: tuple[PeerID, ...] = ()
        if step.decided is not None and not step.decided.recovery:
            voters = tuple(open_signed(raw, Vote).signer for raw in step.decided.votes)
        where = [(reading.name, index) for reading, index in step.where]
        return RoundView(
            step.round,
            step.record,
            step.decided,
            voters,
            step.before,
            step.after,
            voids,
            tuple(sessions.values()),
            where,
            tuple(step.findings),
        )


def _voted_for(decided: Decided) -> bytes | None:
    """What most votes of a certificate are for."""
    values: Counter[bytes] = Counter()
    for raw in decided.votes:
        try:
            value = open_signed(raw, Vote).message.value
        except MessageRefused:
            continue
        values.update([] if value is None else [value])
    return values.most_common(1)[0][0] if values else None


def _name(decided: Decided) -> bytes:
    """What was decided, whoever signed it: 32 bytes."""
    return hashlib.sha256(decided.body).digest()
