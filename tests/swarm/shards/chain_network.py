"""Chains with replicas on a virtual clock: messages lost, late, doubled, reordered; peers die and stall.

Compute is symbolic: a tensor is the hash of everything it is a function of, so a value that came from two
paths, out of order or from another microbatch is another value.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from proto.canonical import PeerID, tagged_hash
from swarm.shards.chain import (
    Backward,
    Chain,
    ChainEffect,
    ChainSpeech,
    Ended,
    Forward,
    Post,
    Replaced,
    Send,
    Starved,
    Timer,
)
from tests.verify.chain import KEYS, PEERS
from verify.chains import Place
from verify.statement import sign

TICK = 10.0
COMPUTE = 1.0
Key = tuple[int, PeerID]


def forward_value(shard: int, microbatch: int) -> bytes:
    """What shard `shard` sends on for a microbatch, if everybody computes what they must."""
    before = forward_value(shard - 1, microbatch) if shard else b"tokens"
    return tagged_hash("forward", bytes([shard]), microbatch.to_bytes(4, "big"), before)


def backward_value(shard: int, shards: int, microbatch: int) -> bytes:
    """The gradient that shard `shard` sends back for a microbatch."""
    after = (
        forward_value(shard - 1, microbatch)
        if shard == shards - 1
        else backward_value(shard + 1, shards, microbatch)
    )
    return tagged_hash("backward", bytes([shard]), microbatch.to_bytes(4, "big"), after)


@dataclass
class Worker:
    """One peer in one chain: its machine, and the microbatches whose gradients it has added, in order."""

    chain: Chain
    added: list[int] = field(default_factory=list)
    ran: list[tuple[str, int]] = field(default_factory=list)
    most_in_flight: int = 0


class ChainNetwork:
    """Chains over `shards` shards of `replicas` peers each; chain c is led by replica c of shard 0."""

    def __init__(
        self,
        chains: int = 1,
        shards: int = 3,
        replicas: int = 2,
        microbatches: int = 3,
        slices: int = 3,
        in_flight: int = 4,
        seed: int = 0,
        loss: float = 0.0,
        doubles: float = 0.0,
        delay: float = 0.0,
    ) -> None:
        self.random = random.Random(seed)
        self.now, self.loss, self.doubles, self.delay = 0.0, loss, doubles, delay
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.holders = [PEERS[shard * replicas : (shard + 1) * replicas] for shard in range(shards)]
        self.dead: set[PeerID] = set()
        self.fallen: set[PeerID] = set()  # who died at least once: a leader among them leads no more
        self.stalled: dict[PeerID, float] = {}
        self.effects: list[tuple[Key, ChainEffect]] = []
        self.workers: dict[Key, Worker] = {}
        self.posts: dict[Key, Post] = {}
        for number in range(chains):
            turned = tuple(
                tuple(holders[(number + at) % replicas] for at in range(replicas)) for holders in self.holders
            )
            post = Post(Place(bytes(32), 1, 0, number), 0, turned, microbatches, slices, in_flight)
            for shard, holders in enumerate(turned):
                for peer in holders[:1] if shard == 0 else holders:
                    self.posts[number, peer] = replace(post, shard=shard)
        for key in self.posts:
            self.start(key)

    # -- what a test does -----------------------------------------------------------------------------------

    def start(self, key: Key) -> None:
        """A fresh machine for a post: whatever was there before is forgotten."""
        worker = Worker(Chain(key[1], self.posts[key], lambda message: sign(KEYS[key[1]], message)))
        self.workers[key] = worker
        self._do(key, worker, worker.chain.begin())

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), action))

    def kill(self, peer: PeerID, noticed: bool = True) -> None:
        """The peer and all it computed are gone. `noticed`: the others' connections break."""
        self.dead.add(peer)
        self.fallen.add(peer)
        if noticed:
            self._tell_all(lambda chain: chain.lost(peer))

    def restart(self, peer: PeerID) -> None:
        """The peer is back, with nothing. A leader leads no more."""
        self.dead.discard(peer)
        for key in [key for key in self.workers if key[1] == peer]:
            if self.posts[key].shard:
                self.start(key)
        self._tell_all(lambda chain: chain.came(peer))

    def stall(self, peer: PeerID, seconds: float) -> None:
        """The peer does nothing until then, and then does all that came meanwhile."""
        self.stalled[peer] = self.now + seconds

    def run(self, until: float = 100_000.0) -> None:
        """Until all living leaders' chains are closed and everybody on their paths knows, or time is up."""
        while self._queue and self._queue[0][0] < until and not self.finished():
            self.run_one()

    def run_one(self) -> None:
        """The next thing that happens."""
        self.now, _, action = heapq.heappop(self._queue)
        action()

    # -- what a test looks at -------------------------------------------------------------------------------

    def leaders(self) -> list[Key]:
        """The posts of leaders that never died."""
        return [key for key, post in self.posts.items() if post.shard == 0 and key[1] not in self.fallen]

    def finished(self) -> bool:
        for number, leader in self.leaders():
            ended = self.workers[number, leader].chain.ended
            if ended is None:
                return False
            waiting = [peer for peer in ended.counted.path if peer not in self.fallen]
            if any(self.workers[number, peer].chain.ended is None for peer in waiting):
                return False
        return True

    def ended(self) -> dict[Key, Ended]:
        return {
            key: worker.chain.ended
            for key, worker in self.workers.items()
            if worker.chain.ended is not None and key[1] not in self.dead
        }

    def said(self, kind: type[Replaced] | type[Starved]) -> list[ChainEffect]:
        return [effect for _, effect in self.effects if isinstance(effect, kind)]

    # -- effects --------------------------------------------------------------------------------------------

    def _tell_all(self, what: Callable[[Chain], list[ChainEffect]]) -> None:
        for key, worker in list(self.workers.items()):
            if key[1] not in self.dead:
                self._do(key, worker, what(worker.chain))

    def _later(self, key: Key, worker: Worker, seconds: float, what: Callable[[], list[ChainEffect]]) -> None:
        def action() -> None:
            if key[1] in self.dead or self.workers[key] is not worker:
                return
            if self.stalled.get(key[1], 0.0) > self.now:
                self.at(self.stalled[key[1]], action)
                return
            self._do(key, worker, what())

        self.at(self.now + seconds, action)

    def _do(self, key: Key, worker: Worker, effects: Sequence[ChainEffect]) -> None:
        chain = worker.chain
        worker.most_in_flight = max(worker.most_in_flight, chain.in_flight)
        for effect in effects:
            self.effects.append((key, effect))
            match effect:
                case Timer():
                    self._later(key, worker, TICK, chain.tick)
                case Send(to, message):
                    self._send(key, to, message)
                case Forward() | Backward():
                    value = self._value(key, worker, effect)
                    self._later(key, worker, COMPUTE, lambda value=value: chain.computed(value))  # type: ignore[misc]

    def _value(self, key: Key, worker: Worker, effect: Forward | Backward) -> bytes:
        shard, microbatch = self.posts[key].shard, effect.microbatch
        name = "forward" if isinstance(effect, Forward) else "backward"
        worker.ran.append((name, microbatch))
        if name == "backward":
            worker.added.append(microbatch)
        given = b"tokens" if effect.tensor is None else effect.tensor
        return tagged_hash(name, bytes([shard]), microbatch.to_bytes(4, "big"), given)

    def _send(self, key: Key, to: PeerID, message: ChainSpeech) -> None:
        copies = 2 if self.random.random() < self.doubles else 1
        for _ in range(copies):
            if self.random.random() < self.loss:
                continue
            target = (key[0], to)
            worker = self.workers.get(target)
            if worker is None:
                continue

            def heard(target: Key = target) -> list[ChainEffect]:
                return self.workers[target].chain.heard(key[1], message)

            self._later(target, worker, 0.01 + self.random.random() * self.delay, heard)
