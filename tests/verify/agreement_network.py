"""A network of `Agreement`s for tests: messages lost, late, doubled and reordered; crashes; liars.

Time is a number; whatever is chosen by chance comes from one seeded generator, so that a failing seed
is the whole report. Signatures are real.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from proto.canonical import PeerID
from proto.errors import MessageRefused
from verify.agreement import Agreement, Broadcast, Effect, Outcome, Save, WaitView
from verify.identity import Identity
from verify.record import Vote, void_value
from verify.statement import open_signed, sign

RUN = bytes(32)
VOID = void_value(RUN, 1, 0)
RECORD = bytes([1]) * 32
IDENTITIES = {
    identity.peer_id: identity
    for identity in (Identity.from_seed(bytes([200, index]) + bytes(30)) for index in range(32))
}


def vote(view: int, step: int, value: bytes | None, **changes: object) -> Vote:
    fields: dict[str, object] = {
        "run": RUN,
        "round": 1,
        "attempt": 0,
        "view": view,
        "step": step,
        "value": value,
    }
    return Vote.model_validate(fields | changes)


@dataclass
class Member:
    """An honest member; `disk` survives a crash."""

    record: bytes | None
    disk: list[bytes] = field(default_factory=list)
    machine: Agreement | None = None
    life: int = 0
    outcome: Outcome | None = None


class Network:
    """`members`: honest ones and the record each has; `liars`: Byzantine ones, driven by `lie`."""

    def __init__(
        self, records: dict[PeerID, bytes | None], liars: list[PeerID], turns: list[PeerID], seed: int = 0
    ) -> None:
        self.random = random.Random(seed)
        self.turns, self.liars = turns, liars
        self.members = {peer: Member(record) for peer, record in records.items()}
        self.now, self.stable = 0.0, 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.seen: list[bytes] = []  # everything an honest member said, for liars to replay
        self.lie: Callable[[PeerID, PeerID, Vote], list[bytes]] = lambda liar, to, said: []
        self.loss = 0.0

    def start(self, peer: PeerID) -> None:
        """Start or restart a member; a restarted one has only what it saved."""
        member = self.members[peer]
        restarted, member.life = bool(member.life), member.life + 1
        machine = Agreement(
            peer, self.turns, RUN, 1, 0, 1.0, lambda v: sign(IDENTITIES[peer], v), tuple(member.disk)
        )
        member.machine = machine
        self._do(peer, machine.start(None if restarted else member.record))

    def crash(self, peer: PeerID) -> None:
        self.members[peer].machine = None

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end and not self.decided:
            self.now, _, action = heapq.heappop(self._events)
            action()

    @property
    def decided(self) -> bool:
        return all(member.outcome is not None for member in self.members.values())

    def outcomes(self) -> set[bytes]:
        return {member.outcome.value for member in self.members.values() if member.outcome is not None}

    def send(self, to: PeerID, raw: bytes) -> None:
        """One statement on its way; before `stable` it may be lost, late or doubled."""
        if to not in self.members:
            return
        copies = 1
        slow = 0.2
        if self.now < self.stable:
            copies = 0 if self.random.random() < self.loss else self.random.choice([1, 1, 1, 2])
            slow = self.random.choice([0.2, 1.0, 6.0])
        for _ in range(copies):
            self.at(self.now + self.random.uniform(0.01, slow), lambda: self._arrive(to, raw))

    def _arrive(self, to: PeerID, raw: bytes) -> None:
        machine = self.members[to].machine
        if machine is None:
            return
        try:
            effects = machine.receive(raw)
        except MessageRefused:
            return
        self._do(to, effects)

    def _do(self, me: PeerID, effects: list[Effect]) -> None:
        member = self.members[me]
        life = member.life
        for effect in effects:
            if member.machine is None or member.life != life:
                return
            match effect:
                case Save(raw):
                    member.disk.append(raw)
                case Broadcast(raw):
                    self._broadcast(me, raw)
                case WaitView(step, view, seconds):
                    self.at(self.now + seconds, lambda s=step, v=view: self._elapsed(me, life, s, v))  # type: ignore[misc]
                case Outcome():
                    assert member.outcome is None or member.outcome.value == effect.value
                    member.outcome = effect
                    self._serve()

    def _elapsed(self, me: PeerID, life: int, step: int, view: int) -> None:
        member = self.members[me]
        if member.machine is not None and member.life == life:
            self._do(me, member.machine.elapsed(step, view))

    def _broadcast(self, me: PeerID, raw: bytes) -> None:
        signed = open_signed(raw, Vote)
        if signed.signer == me:
            self.seen.append(raw)
        for peer in self.turns:
            if peer in self.liars:
                for to in self.members:
                    for lie in self.lie(peer, to, signed.message):
                        self.send(to, lie)
            elif peer != me:
                self.send(peer, raw)

    def _serve(self) -> None:
        # What `CatchUp` does for the round: an outcome with its certificate reaches who asks for it.
        for peer, member in self.members.items():
            if member.outcome is None:
                self.at(max(self.now, self.stable) + 40.0, lambda p=peer: self._learn(p))  # type: ignore[misc]

    def _learn(self, peer: PeerID) -> None:
        member = self.members[peer]
        known = [m.outcome for m in self.members.values() if m.outcome is not None and m.machine is not None]
        if member.outcome is None and known:
            member.outcome = known[0]


def assert_never_two_votes(network: Network) -> None:
    """No honest member signed two different votes for one view and step."""
    said: dict[tuple[PeerID, int, int], bytes | None] = {}
    for raw in network.seen:
        signed = open_signed(raw, Vote)
        key = (signed.signer, signed.message.view, signed.message.step)
        assert said.setdefault(key, signed.message.value) == signed.message.value
