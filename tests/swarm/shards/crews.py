"""Crews of one attempt on a virtual network and clock: what tests of chains drive."""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from swarm.shards.crew import Crew, CrewEffect, Done, Run, Speak, Task, Tick
from swarm.shards.frames import decode, encode
from tests.verify.chain import KEYS, PEERS
from verify.chains import Place, tensor_hash
from verify.statement import sign
from verify.wiring import wire

TICK = 1.0
COMPUTE = 0.02
RUN = bytes([3]) * 32


class Crews:
    """`cells`: how many peers hold each shard. A computation is a hash of what goes in."""

    def __init__(self, cells: Sequence[int], seed: int = 0, slices: int = 3, window: int = 6) -> None:
        self.random, self.now, self.slices = random.Random(seed), 0.0, slices
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        names = iter(PEERS)
        self.cells = [[next(names) for _ in range(count)] for count in cells]
        self.shard = {peer: at for at, cell in enumerate(self.cells) for peer in cell}
        wired = wire(bytes(32), 1, 0, [dict.fromkeys(cell, 0) for cell in self.cells])
        self.tasks = {
            peer: Task(Place(RUN, 1, 0, 0), shard, wired, 2, slices, "fp32", window, 4)
            for peer, shard in self.shard.items()
        }
        self.led: dict[PeerID, set[int]] = {peer: set() for peer in self.shard}
        self.crews: dict[PeerID, Crew] = {}
        self.life = dict.fromkeys(self.shard, 0)
        self.done: dict[PeerID, Done] = {}
        self.lost: Callable[[PeerID, PeerID], bool] = lambda a, b: False
        self.computed: dict[PeerID, list[Run]] = {peer: [] for peer in self.shard}
        self._busy: dict[PeerID, float] = {}
        for peer in self.shard:
            self.start(peer)

    def start(self, peer: PeerID) -> None:
        self.life[peer] += 1
        self._busy[peer] = self.now

        def signed(message: Message) -> bytes:
            return sign(KEYS[peer], message)

        crew = Crew(peer, self.tasks[peer], signed, lambda raw: None, self.led[peer])
        self.led[peer].update(crew.leading)
        self.crews[peer] = crew
        self.do(peer, crew.begin())

    def kill(self, peer: PeerID) -> None:
        self.life[peer] += 1
        self.crews.pop(peer, None)

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._order), action))

    def run(self, seconds: float = 60.0) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
            if all(peer in self.done for peer in self.crews):
                return

    def do(self, me: PeerID, effects: Sequence[CrewEffect]) -> None:
        for effect in effects:
            match effect:
                case Run():
                    self._compute(me, effect)
                case Speak():
                    self._speak(me, effect)
                case Tick():
                    self._later(TICK, me, lambda: self.crews[me].tick())
                case Done():
                    self.done[me] = effect

    def _later(self, seconds: float, me: PeerID, action: Callable[[], Sequence[CrewEffect]]) -> None:
        life = self.life[me]

        def act() -> None:
            if self.life[me] == life and me in self.crews:
                self.do(me, action())

        self.at(self.now + seconds, act)

    def _compute(self, me: PeerID, run: Run) -> None:
        self.computed[me].append(run)
        self._busy[me] = max(self.now, self._busy[me]) + COMPUTE
        evaluation = run.microbatch < 2
        last, first = self.shard[me] == len(self.cells) - 1, self.shard[me] == 0
        given = tensor_hash(bytes([run.backward]) + (run.tensor or run.microbatch.to_bytes(4, "big")))
        tensor = b"" if run.backward and (evaluation or first) else given
        assert not last or run.backward
        self._later(self._busy[me] - self.now, me, lambda: self.crews[me].computed(run.chain, tensor))

    def _speak(self, me: PeerID, speak: Speak) -> None:
        header, tensor = encode(speak.place, speak.message)

        def arrive() -> None:
            if self.lost(me, speak.to):
                return
            if speak.to not in self.crews:
                self._later(0.1, me, lambda: self.crews[me].lost(speak.to))
                return
            place, message = decode(header, tensor)
            try:
                self.do(speak.to, self.crews[speak.to].heard(me, place, message))
            except MessageRefused as refusal:
                self.refused(me, speak.to, refusal)

        self.at(self.now + self.random.uniform(0.001, 0.01), arrive)

    def refused(self, sender: PeerID, to: PeerID, refusal: MessageRefused) -> None:
        """A frame was refused: not among the honest, whose streams keep their order."""
