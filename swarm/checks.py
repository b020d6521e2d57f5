"""Spot checks as one peer takes part in them; sans-I/O.

`Checks` belongs to a `Participant`. It is told of every session whose seeds came out, whether a record
followed or not (or a cheat could void what it does not want looked at), and runs the checks that the
lottery gives this peer. What it opens of its own is in openings.py, how it judges evidence in judging.py.
The promise: a checker's verdict is its own finding, and an accusation is told only if its evidence holds.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused, SwarmError
from secagg.interface import Tell
from secagg.messages import Evidence, FinalSet, Part, Shown
from secagg.transcript import Transcript
from swarm.effects import Ask, Effect, OwnWork, Recompute
from swarm.judging import Judge, said_at
from swarm.manifest import Manifest
from swarm.openings import Drawn, Openings, ShownAsked, ShownRounds, looking
from swarm.order import DataView, Order, post_of
from swarm.trials import Trials
from verify import check as checking
from verify.chains import two_lists
from verify.check import Check, Computed
from verify.evidence import Rules as EvidenceRules
from verify.lottery import Draw, draw_checks, draw_sums, looked_at_twice, session_beacon
from verify.opened import Apart, ListAsked, Opened, gather, read_opening
from verify.record import History, Record
from verify.standing import Ban, Judgement, Verdict
from verify.statement import domain_of, open_signed

KEPT = 2
"""Sessions that can still be checked: the next draws begin while the last ones end."""


class PeerBanned(SwarmError):
    """This peer's key is banned from its run."""

    exit_code = 1

    def __init__(self, ban: Ban) -> None:
        super().__init__(
            f"this key is banned from the run since record {ban.round}, for {ban.reason} (evidence "
            f"{ban.evidence.hex()}, which `swarm-audit evidence` reads). If you did not cheat, check this "
            "machine's memory and that its torch is the pinned one; a banned key cannot come back"
        )


@dataclass
class Running:
    """A check under way, and the record at which it asked its last question."""

    drawn: Drawn
    check: Check
    asked: int


@dataclass
class SumCheck:
    """Survivors' masked integers of one chunk, until all have come."""

    drawn: Drawn
    chunk: int
    shown: dict[PeerID, tuple[bytes, Shown]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparing:
    """A list that a checked peer opened, and the neighbour that is asked for its copy, the `tries`th time."""

    opened: bytes
    neighbour: PeerID
    asked: ListAsked
    tries: int = 1


class Checks:
    """One peer's part in checks. `sign` signs as `me`; `evidence` is what sessions and agreements add to.

    `open_text(indices)`: encoded openings of own sequences, for own data. `recall(name)`: saved evidence.
    `shown`: rounds of own text that checkers have seen.
    """

    def __init__(
        self,
        me: PeerID,
        manifest: Manifest,
        shared: DataView,
        sign: Callable[[Message], bytes],
        rules: EvidenceRules,
        evidence: list[Evidence],
        open_text: Callable[[Sequence[int]], list[bytes]],
        recall: Callable[[bytes], bytes | None],
        shown: ShownRounds,
    ) -> None:
        self._me, self._manifest, self._sign, self._evidence = me, manifest, sign, evidence
        verification = manifest.verification
        self._rules = checking.Rules(verification.tolerance, verification.chunk_fraction)
        self._keys = itertools.count()
        self._drawn: dict[bytes, Drawn] = {}
        self._running: dict[int, Running] = {}
        self._summing: dict[int, tuple[SumCheck, PeerID, int]] = {}
        self._comparing: dict[int, Comparing] = {}
        self._heard: set[tuple[bytes, PeerID]] = set()  # verdicts of drawn checkers, by session and checked
        self._looked: set[tuple[bytes, PeerID]] = set()  # what this peer has begun to look at
        self._judge = Judge(me, manifest, shared, sign, rules, self._keys)
        self._trials = Trials(me, manifest, self._keys, self._judge.history_at)
        self._openings = Openings(me, manifest, sign, self._drawn, self._order_of, recall, open_text, shown)

    @property
    def spent(self) -> bool:
        """Whether no more rounds of this peer's own text may be shown."""
        return self._openings.spent

    # -- what the round tells -------------------------------------------------------------------------

    def drawn(
        self,
        transcript: Transcript,
        history: History,
        attempt: int,
        work: OwnWork | None,
        record: Record | None,
    ) -> list[Effect]:
        """A session's seeds are out: begin the checks that fall to this peer. `history`: before its round.

        What a `record` of the session says of its beacon is what counts: where nothing is masked, a lying
        proposer can show one member other seeds than the rest.
        """
        verification = self._manifest.verification
        beacon = session_beacon(transcript.session, transcript.agreed.digest(), transcript.beacon)
        cell = None if record is None else record.cell_of(transcript.session)
        if cell is not None:
            beacon = cell.beacon
        weights = {peer: transcript.adverts[peer][1].weight for peer in transcript.survivors}
        fraction, rate = verification.chunk_fraction, verification.rate
        checks = draw_checks(beacon, weights, transcript.chunks, rate, fraction)
        effects: list[Effect] = []
        for before in list(self._drawn.values())[-1:]:
            if before.history.shard_of(self._me) == history.shard_of(self._me):
                effects += self._draw_late(before, beacon, history)
        now = self._drawn[transcript.session] = Drawn(transcript, history, attempt, work, checks)
        while len(self._drawn) > KEPT:
            effects += self._close(next(iter(self._drawn)), history)
        for draw in now.checks:
            if draw.checkers[:1] == (self._me,):
                effects += self._begin(now, draw, history)
        return effects

    def _draw_late(self, before: Drawn, beacon: bytes, history: History) -> list[Effect]:
        """Of the session before: checks whose checker said nothing or that are drawn again, and the sums."""
        kept, effects = before.transcript, list[Effect]()
        again = looked_at_twice(beacon, before.checks, self._manifest.verification.rate)
        for draw in before.checks:
            unheard = (kept.session, draw.checked) not in self._heard
            if (unheard or draw.checked in again) and draw.checkers[1:2] == (self._me,):
                effects += self._begin(before, draw, history)
        self._draw_sums(before, beacon)
        for draw in before.sums:
            if draw.checkers[:1] == (self._me,):
                effects += self._begin_sum(before, draw)
        return effects

    def _draw_sums(self, before: Drawn, beacon: bytes) -> None:
        kept = before.transcript
        owners = {part: (owner, kept.cut.chunks_of(part)) for part, owner in kept.owners.items()}
        rules = self._manifest.verification
        before.sums = draw_sums(beacon, owners, kept.survivors, rules.rate, rules.chunk_fraction)

    def _close(self, session: bytes, history: History) -> list[Effect]:
        """A session is no longer open: who was asked and has not answered all this time is silent."""
        self._drawn.pop(session)
        self._heard = {heard for heard in self._heard if heard[0] in self._drawn}
        self._looked = {looked for looked in self._looked if looked[0] in self._drawn}
        effects: list[Effect] = []
        for key, running in list(self._running.items()):
            if running.drawn.transcript.session == session:
                silent = running.check.waiting and history.round > running.asked
                found = checking.Found("silent" if silent else "unclear")
                effects += self._found(key, found, history)
        return effects

    def moved(self, history: History) -> list[Effect]:
        """A record is final. Its beacon draws the sums of the last session, whoever was in its own."""
        last = history.last
        if (
            last is not None
            and self._drawn
            and not any(cell.session in self._drawn for cell in last.sessions)
        ):
            before = next(reversed(self._drawn.values()))
            self._draw_sums(before, last.sessions[before.history.shard_of(self._me)].beacon)
        return [*self._judge.moved(history), *self._two_results(history)]

    def _two_results(self, history: History) -> list[Effect]:
        """Accuse a checker that says another thing in a record than it told this peer, whom it checked."""
        effects: list[Effect] = []
        for raw in () if history.last is None else history.last.statements:
            said = open_signed(raw, Verdict) if domain_of(raw) == Verdict.DOMAIN else None
            told = None if said is None else self._openings.computed.get((said.message.session, said.signer))
            if said is None or told is None or said.message.checked != self._me:
                continue
            if said.message.sketch not in (None, open_signed(told, Computed).message.sketch):
                effects += (
                    self._judge.accuse(Evidence("two results", said.signer, (told, raw), ()), history) or []
                )
        return effects

    def bring(self, history: History) -> list[Effect]:
        """Make judgements of evidence that came up since, and look at newcomers' trials, for all members."""
        return [*self._judge.bring(self._evidence, history), *self._trials.begin(history)]

    def heard(self, raw: bytes, history: History) -> list[Effect]:
        """A member's verdict or judgement, admissible by the history."""
        if domain_of(raw) == Judgement.DOMAIN:
            return self._judge.heard(raw, history)
        signed = open_signed(raw, Verdict)
        said, drawn = signed.message, self._drawn.get(signed.message.session)
        for draw in drawn.checks if drawn is not None else ():
            if draw.checked == said.checked and signed.signer in draw.checkers[: looking(history)]:
                first = signed.signer == draw.checkers[0]
                if first and said.slice == draw.what and said.outcome in ("clean", "wrong"):
                    self._heard.add((said.session, draw.checked))
                if drawn is not None and first and said.outcome == "silent":
                    return self._look_too(drawn, draw, history)
        return []

    def _look_too(self, drawn: Drawn, draw: Draw, history: History) -> list[Effect]:
        """The first checker got no answer: the next ones ask as well, so that more than c can say so."""
        mine = self._me in draw.checkers[1 : looking(history)]
        return self._begin(drawn, draw, history) if mine else []

    # -- questions and answers --------------------------------------------------------------------------

    def answer(self, sender: PeerID, raw: bytes) -> list[bytes]:
        """What this peer opens to `sender`, statements in order. Raises MessageRefused."""
        return self._openings.answer(sender, raw)

    def answered(self, key: int, raws: Sequence[bytes] | None, history: History) -> list[Effect]:
        """The answer to an `Ask`; None: there was none."""
        if key in self._running:
            return self._from_check(key, self._running[key].check.answered(raws), history)
        if key in self._summing:
            return self._on_shown(*self._summing.pop(key), raws, history)
        if key in self._comparing:
            return self._on_list(self._comparing.pop(key), raws, history)
        return self._judge.answered(key, raws, history) or []

    def recomputed(
        self, key: int, encoded: np.ndarray | None, text_held: bool, apart: Apart, history: History
    ) -> list[Effect]:
        """The answer to a `Recompute`: integers [size], or None; `text_held`: it was the drawn text; `apart`:
        how far what a chain member sent is from what it had to send."""
        if key in self._running:
            found = self._running[key].check.computed(encoded, text_held, apart)
            return self._from_check(key, found, history)
        tried = self._trials.recomputed(key, encoded)
        if tried is not None:
            name, one, outcome, mine = tried
            return self._verdict(name, one.peer, one.index, outcome, mine, history)
        return self._judge.recomputed(key, encoded, apart, history) or []

    # -- checks ---------------------------------------------------------------------------------------

    def _begin(self, drawn: Drawn, draw: Draw, history: History) -> list[Effect]:
        name = (drawn.transcript.session, draw.checked)
        if name in self._looked:
            return []
        self._looked.add(name)
        order = self._order_of(drawn, draw.checked)
        own = self._manifest.data.mode == "own"
        chained = bool(drawn.history.shards)
        check = Check(draw, drawn.transcript, order.digest(), own, self._rules, self._sign, chained)
        key = next(self._keys)
        self._running[key] = Running(drawn, check, history.round)
        return self._from_check(key, check.start(), history)

    def _from_check(self, key: int, effects: Iterable[checking.Effect], history: History) -> list[Effect]:
        given: list[Effect] = []
        for effect in effects:
            match effect:
                case checking.Ask(to, raw):
                    self._running[key].asked = history.round
                    given.append(Ask(key, to, raw))
                case checking.Compute(text):
                    given += self._recompute(key, text, history)
                case checking.Found():
                    given += self._found(key, effect, history)
        return given

    def _recompute(self, key: int, text: tuple[bytes, ...] | None, history: History) -> list[Effect]:
        drawn, check = self._running[key].drawn, self._running[key].check
        draw, order = check.draw, self._order_of(drawn, check.draw.checked)
        advert = drawn.transcript.adverts[draw.checked][1]
        view = DataView(advert.data_count, advert.data_root)
        if not order.chained:
            return [Recompute(key, order, draw.what, text, view)]
        post = post_of(drawn.history, order, draw.what, draw.checked, self._manifest.model.boundary)
        try:
            opened = read_opening(text[0] if text else b"", drawn.transcript.session, post)
            tensors = gather((text or ())[1:])
            opened.check(tensors)
            if set(tensors) != {*opened.keys(sent=False), *opened.keys(sent=True)}:
                raise MessageRefused("boundary-opening: not with all tensors of the slice")
        except MessageRefused:
            return self._from_check(key, check.computed(None, text_held=False), history)
        compared = [self._compare(one) for one in _copies(opened)]
        return [*compared, Recompute(key, order, draw.what, None, view, tensors)]

    def _compare(self, one: Comparing) -> Effect:
        key = next(self._keys)
        self._comparing[key] = one
        return Ask(key, one.neighbour, self._sign(one.asked))

    def _on_list(self, one: Comparing, raws: Sequence[bytes] | None, history: History) -> list[Effect]:
        """A neighbour has another list than the checked peer opens: that one signed both."""
        if not raws:
            return [self._compare(replace(one, tries=one.tries + 1))] if one.tries < checking.TRIES else []
        try:
            lie = two_lists(one.opened, raws[0])
        except MessageRefused:
            return []
        return [] if lie is None else self._judge.accuse(lie, history) or []

    def _found(self, key: int, found: checking.Found, history: History) -> list[Effect]:
        running, outcome, told = self._running.pop(key), found.outcome, list[Effect]()
        if found.evidence is not None:
            accused = self._judge.accuse(found.evidence, history)
            if accused is None:  # signed nonsense that convicts nobody is no answer
                outcome = "silent"
            told = accused or []
        draw, session = running.check.draw, running.drawn.transcript.session
        if outcome == "silent" and not self._all_know(session, history):
            outcome = "unclear"
        sketch = None if outcome == "silent" else found.sketch
        return [*told, *self._verdict(session, draw.checked, draw.what, outcome, sketch, history)]

    def _all_know(self, session: bytes, history: History) -> bool:
        """Whether everyone draws alike of a session: where nothing is masked, only if a record names it."""
        return self._manifest.aggregation.mode == "secure" or session in history.sessions

    def _verdict(
        self,
        session: bytes,
        checked: PeerID,
        index: int,
        outcome: str,
        sketch: tuple[int, ...] | None,
        history: History,
    ) -> list[Effect]:
        verdict = Verdict(
            run=history.run,
            round=said_at(history, self._me),
            session=session,
            checked=checked,
            slice=index,
            outcome=outcome,  # type: ignore[arg-type]
            sketch=sketch,
        )
        raw = self._sign(verdict)
        return [Tell(peer, raw) for peer in history.members]  # to itself too: it carries what all do

    def _order_of(self, drawn: Drawn, peer: PeerID) -> Order:
        return self._judge.order(drawn.history, drawn.attempt, peer, drawn.transcript.adverts[peer][1])

    # -- sums -----------------------------------------------------------------------------------------

    def _begin_sum(self, drawn: Drawn, draw: Draw) -> list[Effect]:
        kept, effects = drawn.transcript, list[Effect]()
        if draw.what not in kept.sums:
            return []  # it was never published: nothing was claimed
        for chunk in draw.chunks:
            check = SumCheck(drawn, chunk)
            if self._me in kept.survivors:
                own = kept.shown(chunk)
                check.shown[self._me] = (self._sign(own), own)
            effects += [self._ask_shown(check, peer, 1) for peer in kept.survivors if peer != self._me]
        return effects

    def _ask_shown(self, check: SumCheck, peer: PeerID, tries: int) -> Effect:
        key = next(self._keys)
        self._summing[key] = (check, peer, tries)
        asked = ShownAsked(session=check.drawn.transcript.session, chunk=check.chunk)
        return Ask(key, peer, self._sign(asked))

    def _on_shown(
        self, check: SumCheck, sender: PeerID, tries: int, raws: Sequence[bytes] | None, history: History
    ) -> list[Effect]:
        kept = check.drawn.transcript
        try:
            check.shown[sender] = self._read_shown(check, sender, raws or ())
        except MessageRefused:  # it may be a step behind
            if tries < checking.TRIES:
                return [self._ask_shown(check, sender, tries + 1)]
            if not self._all_know(kept.session, history):
                return []
            return self._verdict(kept.session, sender, 0, "silent", None, history)
        messages = {peer: message for peer, (_, message) in check.shown.items()}
        if messages.keys() < set(kept.survivors) or kept.check_sum(check.chunk, messages):
            return []
        proposal = open_signed(kept.final_set, FinalSet).message.proposal
        shown = {peer: raw for peer, (raw, _) in check.shown.items()}
        return self._judge.accuse(kept.false_sum(check.chunk, shown, proposal), history) or []

    def _read_shown(self, check: SumCheck, sender: PeerID, raws: Sequence[bytes]) -> tuple[bytes, Shown]:
        if len(raws) != 1:
            raise MessageRefused(f"shown: {len(raws)} statements of {sender}, not one")
        signed, kept = open_signed(raws[0], Shown), check.drawn.transcript
        if (signed.signer, signed.message.session, signed.message.chunk) != (
            sender,
            kept.session,
            check.chunk,
        ):
            raise MessageRefused(f"shown: {sender} answered with another chunk")
        header = open_signed(signed.message.header, Part)
        if header.signer != sender or header.message.session != kept.session:
            raise MessageRefused(f"shown: {sender} shows a header of another")
        kept.check_shown(sender, signed.message, header.message)
        return raws[0], signed.message


def _copies(opened: Opened) -> list[Comparing]:
    """The lists of what was sent, and whom they went to: who answers in the other direction."""
    place, found = opened.post.place, list[Comparing]()
    for way, raw in zip(opened.post.ways(sent=True), opened.opening.sent, strict=True):
        to = opened.signers["backward" if way == "forward" else "forward"]
        asked = ListAsked(
            run=place.run,
            round=place.round,
            attempt=place.attempt,
            chain=place.chain,
            author=opened.post.peer,
            direction=way,
            slice=opened.post.slice,
        )
        found.append(Comparing(raw, to, asked))
    return found
