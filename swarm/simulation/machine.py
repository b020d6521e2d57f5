"""The real round machine on a virtual clock with links: what the simulator's phase times are fitted to.

`LinkedSwarm` is `swarm.testing.VirtualSwarm` whose statements take up to `latency` seconds (drawn evenly from
a tenth of it) and whose transfers share their sender's and their receiver's link evenly. The machines, the
sessions, the votes and their time-outs are the real ones; computing takes no time but where the virtual
swarm says so (0.05 s for an outer step), which is taken off again.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from proto.canonical import PeerID
from secagg.interface import SendPart, SendSum
from swarm.effects import Adopt, Effect, Phase
from swarm.manifest import parse_manifest
from swarm.phases import PHASES, PhaseClock, phase_of
from swarm.testing import CHUNK, VirtualSwarm

WINDOW = 5.0
MANIFEST = """
[run]
rounds = {rounds}
[membership]
round_timeout_seconds = {timeout}
[work]
window_seconds = {window}
sequences_per_slice = 1
[verification]
rate = 0.0
probation_checks = 0
"""
APPLY = 0.05
"""Seconds of an outer step in the virtual swarm."""
TINY = 1e-9
LARGEST = 16
"""Members that the round machine was run with, at most; larger cells are extrapolated."""


@dataclass(frozen=True)
class Link:
    """Of every member: seconds that a statement takes at most, and seconds that a whole encoded vector takes
    through the link one way."""

    latency: float
    vector: float


@dataclass
class Seen:
    """One peer's rounds: seconds by phase, of each round that moved."""

    clock: PhaseClock
    rounds: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Flow:
    """A transfer under way: seconds that it still needs on a link of its own."""

    sender: PeerID
    sent: SendPart | SendSum
    left: float


class LinkedSwarm(VirtualSwarm):
    """`members` peers whose links are all alike."""

    def __init__(self, members: int, rounds: int, link: Link, seed: int = 0, timeout: float = 600.0) -> None:
        self.link, self.seen = link, dict[PeerID, Seen]()
        self._flows, self._at, self._turn = list[Flow](), 0.0, 0
        manifest = parse_manifest(MANIFEST.format(rounds=rounds, timeout=timeout, window=WINDOW).encode())
        super().__init__(members, rounds, seed, manifest, size=4 * CHUNK * members)
        for peer in self.peers:
            self.seen[peer] = Seen(PhaseClock(lambda: self.now))
        self.on_effect = self._note

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        def then_look() -> None:
            action()
            for peer in self.seen:
                self._look(peer)

        super().at(seconds, then_look)

    def _look(self, peer: PeerID) -> None:
        machine = self.peers[peer].machine
        if machine is not None:
            inside = machine.session if machine.phase is Phase.SESSION else None
            self.seen[peer].clock.enter(machine.phase.value if inside is None else phase_of(inside.step))

    def _note(self, peer: PeerID, effect: Effect) -> None:
        if isinstance(effect, Adopt):
            seen = self.seen[peer]
            seen.rounds.append(seen.clock.seconds())
            seen.clock.reset()

    def _delay(self) -> float:
        return self.random.uniform(self.link.latency / 10, self.link.latency)

    def _transfer(self, me: PeerID, sent: SendPart | SendSum) -> None:
        self._advance()
        left = self.link.vector * len(sent.data) / self.size
        self._flows.append(Flow(me, replace(sent, data=sent.data.copy()), left))
        self._await_next()

    def _advance(self) -> None:
        """Move the transfers under way to now, and hand over those that are complete."""
        passed, self._at = self.now - self._at, self.now
        for flow, rate in zip(self._flows, self._rates(), strict=True):
            flow.left -= passed * rate
        done = [flow for flow in self._flows if flow.left <= TINY]
        self._flows = [flow for flow in self._flows if flow.left > TINY]
        for flow in done:
            if self.peers[flow.sender].machine is not None:
                VirtualSwarm._transfer(self, flow.sender, flow.sent)

    def _await_next(self) -> None:
        if not self._flows:
            return
        soonest = min(flow.left / rate for flow, rate in zip(self._flows, self._rates(), strict=True))
        self._turn += 1
        turn = self._turn

        def finish() -> None:
            if turn == self._turn:  # else another began or ended since, and made its own appointment
                self._advance()
                self._await_next()

        self.at(self.now + soonest, finish)

    def _rates(self) -> list[float]:
        """Of the links, for each transfer: both ends are shared out evenly among those that use them."""
        up, down = Counter(flow.sender for flow in self._flows), Counter(flow.sent.to for flow in self._flows)
        return [1 / max(up[flow.sender], down[flow.sent.to]) for flow in self._flows]


def measure(members: int, link: Link, rounds: int = 3, seed: int = 0) -> dict[str, float]:
    """Mean seconds of each phase but training, over the peers and the rounds after the first."""
    swarm = LinkedSwarm(members, rounds, link, seed)
    swarm.run()
    found = [seconds for seen in swarm.seen.values() for seconds in seen.rounds[1:]]
    means = {phase: sum(one[phase] for one in found) / len(found) for phase in PHASES if phase != "train"}
    return {**means, "apply": means["apply"] - APPLY}
