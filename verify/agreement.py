"""Deciding an attempt: single-shot Byzantine agreement over {this record, VOID}, sans-I/O.

Tendermint's prevote and precommit with locks (Buchman, Kwon, Milosevic 2018, arXiv 1807.04938,
algorithm 1) for one height, where a height is one (round, attempt). Promises, with at most R - Q
members faulty: never two outcomes; and once messages flow, an outcome. Below R = 4 the quorum is a
majority, and the first promise holds against crashes only.

The value is 32 bytes: the record's hash, or VOID's. What is acceptable differs from the paper's
`valid(v)`, because a member that was late cannot compute the record:

* either is acceptable to anyone once a quorum prevoted it (a polka);
* the record is acceptable to whoever computed the same one, and to anyone once more members than can
  be faulty prevoted it in one view, for then an honest one computed it: a late member waits for them
  until the time for proposing is over;
* VOID is acceptable to whoever has no record, and to everyone after view R - Q.

Up to view R - Q a proposer proposes what it has, so one honest proposer gets the record through; later
ones propose VOID or what they are locked on, which every honest member then accepts.

Votes are handed out as `Save` before `Broadcast`: a vote that was sent is on disk, so that a member
killed and restarted says nothing else than it said before. With a lock the polka behind it is saved
too: a restarted member can still show the others why it holds on to its value.

A member that votes twice in a step leaves evidence. Its second vote counts as well if another member
voted alike, because it may be part of a polka that somebody locked on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import Evidence
from verify.record import Vote, quorum, void_value
from verify.statement import Signed, open_signed


@dataclass(frozen=True)
class Save:
    """Write a vote to disk before anything that follows it is carried out."""

    raw: bytes


@dataclass(frozen=True)
class Broadcast:
    """Tell every other roster member; it may get lost."""

    raw: bytes


@dataclass(frozen=True)
class WaitView:
    """Call `elapsed(step, view)` after so many seconds."""

    step: int
    view: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The agreed value, with the precommits that prove it."""

    value: bytes
    votes: tuple[bytes, ...]


Effect = Save | Broadcast | WaitView | Outcome

PROPOSE, PREVOTE, PRECOMMIT = -1, 0, 1

FORESIGHT = 64
"""Views ahead of one's own in which votes are kept: a bound on what a member can make others store."""

LONGEST = 16
"""Views after which they get no longer: a run that was paused for days goes on within minutes."""


@dataclass
class Agreement:
    """One roster member's side of one attempt's decision.

    `turns`: the roster in the order of proposing. `patience`: seconds a view's steps may take; views
    get longer one by one, up to `LONGEST`. `said`: what this member saved of this attempt, after a restart.

    A proposer's proposal is its prevote: it is the first to prevote, and the others follow it or not.
    """

    me: PeerID
    turns: Sequence[PeerID]
    run: bytes
    round: int
    attempt: int
    patience: float
    sign: Callable[[Vote], bytes]
    said: Iterable[bytes] = ()
    evidence: list[Evidence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.view = 0
        self.step = PROPOSE
        self.started = False
        self.outcome: Outcome | None = None
        self._void = void_value(self.run, self.round, self.attempt)
        self._mine: bytes | None = None
        self._quorum = quorum(len(self.turns))
        self._locked: tuple[bytes, int] | None = None  # value, view
        self._votes: dict[tuple[int, int], dict[tuple[PeerID, bytes | None], Signed[Vote]]] = {}
        self._far: dict[PeerID, int] = {}
        self._caught: set[PeerID] = set()
        self._timed: set[tuple[int, int]] = set()
        for raw in self.said:
            signed = open_signed(raw, Vote)
            vote = signed.message
            self._keep(signed)
            if signed.signer != self.me:
                continue
            self.view = max(self.view, vote.view)
            if vote.step == PRECOMMIT and vote.value is not None:
                locked = (vote.value, vote.view)
                if self._locked is None or vote.view > self._locked[1]:
                    self._locked = locked

    # -- what the caller feeds ------------------------------------------------------------------

    def start(self, record: bytes | None) -> list[Effect]:
        """Begin voting, for the record with this hash or, without one, for VOID."""
        if self.started:
            return []
        self.started, self._mine = True, record
        return [*self._enter(self.view), *self._advance()]

    def receive(self, raw: bytes) -> list[Effect]:
        """A vote of this attempt. Raises MessageRefused; two different votes are kept as evidence."""
        signed = open_signed(raw, Vote)
        vote = signed.message
        if (vote.run, vote.round, vote.attempt) != (self.run, self.round, self.attempt):
            raise MessageRefused("vote: for another attempt")
        if signed.signer not in self.turns:
            raise MessageRefused(f"vote: {signed.signer} is not in the roster")
        if vote.view > self.view + FORESIGHT:
            return self._from_afar(signed)
        votes = self._in(vote.view, vote.step)
        earlier = [held for (peer, _), held in votes.items() if peer == signed.signer]
        if earlier and (signed.signer, vote.value) not in votes:
            if signed.signer not in self._caught:
                self._caught.add(signed.signer)
                self.evidence.append(Evidence("two votes", signed.signer, (earlier[0].raw, raw)))
            if all(peer == signed.signer or value != vote.value for peer, value in votes):
                raise MessageRefused(f"vote: {signed.signer} voted twice in view {vote.view}")
        self._keep(signed)
        return self._advance()

    def elapsed(self, step: int, view: int) -> list[Effect]:
        """A timer asked for by `WaitView` has run out."""
        if self.outcome is not None or not self.started or view != self.view:
            return []
        if step == PROPOSE and self.step == PROPOSE:
            return [*self._prevote(None), *self._advance()]
        if step == PREVOTE and self.step == PREVOTE:
            return [*self._precommit(None), *self._advance()]
        if step == PRECOMMIT:
            # Trouble: messages were lost or members are away. Say again what others may lack.
            return [*self._repeat(), *self._enter(view + 1), *self._advance()]
        return []

    # -- the algorithm ------------------------------------------------------------------------------

    def _from_afar(self, signed: Signed[Vote]) -> list[Effect]:
        """Follow to a view that at least one honest member has reached; keep nothing else of it."""
        self._far[signed.signer] = max(self._far.get(signed.signer, 0), signed.message.view)
        reached = sorted(self._far.values(), reverse=True)[len(self.turns) - self._quorum :]
        if not self.started or self.outcome is not None or not reached or reached[0] <= self.view:
            raise MessageRefused(f"vote: view {signed.message.view} is out of reach of view {self.view}")
        return [*self._enter(reached[0]), *self._advance()]

    def _enter(self, view: int) -> list[Effect]:
        self.view, self.step = view, PROPOSE
        seconds = self._seconds()
        effects: list[Effect] = [WaitView(PROPOSE, view, seconds), WaitView(PRECOMMIT, view, 3 * seconds)]
        said = [vote for step in (PREVOTE, PRECOMMIT) if (vote := self._own(step)) is not None]
        if said:
            self.step = PREVOTE
            effects += [Broadcast(vote.raw) for vote in said]
        elif self._proposer(view) == self.me:
            effects += self._prevote(self._proposal())
        return effects

    def _advance(self) -> list[Effect]:
        """Apply rules until none applies any more."""
        effects: list[Effect] = []
        while self.outcome is None and (more := self._rule()):
            effects += more
        return effects

    def _rule(self) -> list[Effect]:
        """The first rule that applies now (algorithm 1, lines 22 to 58)."""
        for view, step in self._votes:
            value = self._decided_by(view, step) if step == PRECOMMIT else None
            if value is not None:
                return self._decide(view, value)
        if not self.started:
            return []
        later = (votes for (view, _), votes in self._votes.items() if view > self.view)
        ahead = {peer for votes in later for peer, _ in votes}
        if len(ahead) > len(self.turns) - self._quorum:
            return self._enter(min(view for view, _ in self._votes if view > self.view))
        if self.step == PROPOSE:
            return self._answer_proposal()
        if self.step == PREVOTE:
            value = self._decided_by(self.view, PREVOTE)
            if value is not None or self._none_possible():
                return self._precommit(value)
        voters = {peer for peer, _ in self._in(self.view, self.step)}
        if self.step == PRECOMMIT and len(voters) == len(self.turns):
            return self._enter(self.view + 1)
        if len(voters) >= self._quorum:
            return self._wait_once(self.step)
        return []

    def _answer_proposal(self) -> list[Effect]:
        proposer = self._proposer(self.view)
        proposals = [value for peer, value in self._in(self.view, PREVOTE) if peer == proposer]
        if not proposals:
            return []
        value = proposals[0]
        if value is None or (value == self._void and not self._acceptable(value)):
            return self._prevote(None)
        if not self._acceptable(value):
            return []  # others may vouch for it before the time for proposing is over
        if self._locked is not None and self._locked[0] != value:
            unlocking = self._latest_polka(value)
            if unlocking is None or unlocking <= self._locked[1]:
                return self._prevote(None)
        return self._prevote(value)

    def _acceptable(self, value: bytes) -> bool:
        if value == self._void:
            return self._mine is None or not self._early or self._latest_polka(value) is not None
        return value == self._mine or self._vouched(value)

    def _vouched(self, value: bytes) -> bool:
        """More members than can be faulty prevoted it in one view: an honest one computed it."""
        faulty = len(self.turns) - self._quorum
        counts = (
            sum(voted == value for _, voted in votes)
            for (_, step), votes in self._votes.items()
            if step == PREVOTE
        )
        return any(count > faulty for count in counts)

    def _proposal(self) -> bytes:
        # A polka later than the lock opens it; a lock restored after a restart may have no polka here.
        known = [(view, value) for value in self._values() if (view := self._latest_polka(value)) is not None]
        if self._locked is not None:
            known.append((self._locked[1], self._locked[0]))
        if known:
            return max(known)[1]
        return self._mine if self._mine is not None and self._early else self._void

    @property
    def _early(self) -> bool:
        return self.view <= len(self.turns) - self._quorum

    def _prevote(self, value: bytes | None) -> list[Effect]:
        self.step = PREVOTE
        return self._vote(PREVOTE, value)

    def _precommit(self, value: bytes | None) -> list[Effect]:
        self.step = PRECOMMIT
        polka: list[Effect] = []
        if value is not None:
            self._locked = (value, self.view)
            prevotes = self._in(self.view, PREVOTE).items()
            polka = [Save(s.raw) for (peer, voted), s in prevotes if voted == value and peer != self.me]
        return [*polka, *self._vote(PRECOMMIT, value)]

    def _vote(self, step: int, value: bytes | None) -> list[Effect]:
        earlier = self._own(step)
        if earlier is not None:
            return [Broadcast(earlier.raw)]
        vote = Vote(
            run=self.run, round=self.round, attempt=self.attempt, view=self.view, step=step, value=value
        )
        raw = self.sign(vote)
        self._keep(Signed(self.me, vote, raw))
        return [Save(raw), Broadcast(raw)]

    def _decide(self, view: int, value: bytes) -> list[Effect]:
        votes = self._in(view, PRECOMMIT)
        voters = sorted(peer for peer, voted in votes if voted == value)
        self.outcome = Outcome(value, tuple(votes[peer, value].raw for peer in voters))
        return [self.outcome]

    def _repeat(self) -> list[Effect]:
        # The latest polka and everything of this view: what the gossip of the paper would deliver.
        polkas = [view for value in self._values() if (view := self._latest_polka(value)) is not None]
        views = {self.view, max(polkas, default=self.view)}
        return [
            Broadcast(signed.raw)
            for (view, _), votes in self._votes.items()
            if view in views
            for signed in votes.values()
        ]

    # -- counting -----------------------------------------------------------------------------------

    def _proposer(self, view: int) -> PeerID:
        return self.turns[view % len(self.turns)]

    def _keep(self, signed: Signed[Vote]) -> None:
        vote = signed.message
        self._votes.setdefault((vote.view, vote.step), {}).setdefault((signed.signer, vote.value), signed)

    def _in(self, view: int, step: int) -> dict[tuple[PeerID, bytes | None], Signed[Vote]]:
        return self._votes.get((view, step), {})

    def _own(self, step: int) -> Signed[Vote] | None:
        return next((s for (peer, _), s in self._in(self.view, step).items() if peer == self.me), None)

    def _values(self) -> set[bytes]:
        return {value for votes in self._votes.values() for _, value in votes if value is not None}

    def _decided_by(self, view: int, step: int) -> bytes | None:
        """The value a quorum voted for in this view and step, if there is one."""
        counts: dict[bytes, int] = {}
        for _, value in self._in(view, step):
            if value is not None:
                counts[value] = counts.get(value, 0) + 1
                if counts[value] >= self._quorum:
                    return value
        return None

    def _none_possible(self) -> bool:
        """A quorum prevoted for no value: none can get a quorum in this view any more."""
        return sum(value is None for _, value in self._in(self.view, PREVOTE)) >= self._quorum

    def _latest_polka(self, value: bytes) -> int | None:
        """The last view in which a quorum prevoted `value`."""
        views = [view for view, step in self._votes if step == PREVOTE]
        return max((view for view in views if self._decided_by(view, PREVOTE) == value), default=None)

    def _wait_once(self, step: int) -> list[Effect]:
        if (self.view, step) in self._timed:
            return []
        self._timed.add((self.view, step))
        return [WaitView(step, self.view, self._seconds())]

    def _seconds(self) -> float:
        return self.patience * (1 + min(self.view, LONGEST) / 2)
