"""Chains of a virtual swarm: real crews on its clock, over made-up tensors.

A tensor is a few numbers that a hash of what goes in makes up; a slice's gradient, integers that a hash of
all that came for it makes up. So computing again gives the same, and one other bit gives something else.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from proto.canonical import Message, PeerID, tagged_hash
from proto.errors import MessageRefused
from swarm.effects import Again, TrainChains
from swarm.order import Order
from swarm.shards.boundary import Shape, apart, decode, encode
from swarm.shards.crew import Crew, CrewEffect, Done, Run, Speak, Task, Tick
from swarm.shards.frames import decode as read_frame
from swarm.shards.frames import encode as frame_of
from verify.chains import EVALUATED, BoundaryList, Codec, Direction, Place
from verify.opened import Tensors
from verify.statement import sign

if TYPE_CHECKING:
    from swarm.testing import VirtualSwarm

MOST = 100
"""What a slice's element saturates to in virtual work."""
MICROBATCHES = 2
TICKS = 10
COMPUTE_SECONDS = 0.2
SHAPE: Shape = (1, 1, 8)


def text_of(sequences: Sequence[int], at: int) -> bytes:
    """What stands for the token ids of a slice's microbatch."""
    return tagged_hash("virtual-text", *(index.to_bytes(8, "big") for index in (*sequences, at)))


def tensor_of(*parts: bytes) -> np.ndarray:
    """Made-up numbers, float32 [1, 1, 8]: a function of the parts."""
    chance = np.random.default_rng(list(tagged_hash("virtual-tensor", *parts)))
    return chance.standard_normal(SHAPE).astype(np.float32)


def integers_of(size: int, *parts: bytes) -> np.ndarray:
    """A made-up slice, int16 [size]: a function of the parts."""
    seed = hashlib.sha256(tagged_hash("virtual-chained", *parts)).digest()
    return np.random.default_rng(list(seed)).integers(-MOST, MOST, size, dtype=np.int16)


def slice_of(order: Order, index: int, inputs: Sequence[bytes], size: int) -> np.ndarray:
    """A slice's integers, of what came for it. `inputs`: of all its microbatches, both ways."""
    return integers_of(size, order.snapshot, order.seed, order.dither(index).to_bytes(8, "big"), *inputs)


def again(order: Order, index: int, tensors: Tensors, shards: int, codec: Codec, size: int) -> Again:
    """What a checker gets for a slice, or one microbatch of it. Raises MessageRefused."""
    inputs, far = list[bytes](), dict[tuple[Direction, int], float]()
    places = sorted({at for _, _, at in tensors})
    for at in places:
        text = text_of(order.slices[index], at)
        x = text if order.shard == 0 else tensors[False, "forward", at]
        g = text if order.shard == shards - 1 else tensors[False, "backward", at]
        inputs += [x, g]
        made: dict[Direction, bytes] = {}
        if order.shard < shards - 1:
            made["forward"] = encode(tensor_of(order.snapshot, x), codec)
        if order.shard > 0:
            made["backward"] = encode(tensor_of(order.snapshot, x, g), codec)
        for way, mine in made.items():
            if (True, way, at) in tensors:
                far[way, at] = apart(mine, tensors[True, way, at], codec, SHAPE)
    whole = len(places) == MICROBATCHES
    return Again(slice_of(order, index, inputs, size) if whole else None, far)


@dataclass
class Taken:
    """A peer's part in the chains of one attempt: what it computed from, by chain and microbatch."""

    effect: TrainChains
    crew: Crew
    work: int
    x: dict[tuple[int, int], bytes] = field(default_factory=dict)
    g: dict[tuple[int, int], bytes] = field(default_factory=dict)
    busy: float = 0.0


class VirtualChains:
    """The chains of all peers of `swarm`."""

    def __init__(self, swarm: "VirtualSwarm") -> None:
        self._swarm = swarm
        self._taken: dict[PeerID, Taken] = {}
        self._held: dict[PeerID, list[tuple[PeerID, Speak]]] = {}
        self._arriving: dict[tuple[PeerID, PeerID], float] = {}  # streams keep their order

    @property
    def _codec(self) -> Codec:
        return self._swarm.manifest.model.boundary

    def train(self, me: PeerID, effect: TrainChains) -> None:
        """Take up a peer's posts of an attempt."""
        swarm, manifest = self._swarm, self._swarm.manifest
        disk = swarm.peers[me].disk
        tick = manifest.work.window_seconds / TICKS
        grace = math.ceil(manifest.membership.round_timeout_seconds / 6 / tick)
        task = Task(
            Place(swarm.machine(me).history.run, *effect.slot, 0),
            effect.shard,
            effect.wired,
            MICROBATCHES,
            manifest.work.slices,
            self._codec,
            TICKS,
            grace,
        )

        def signed(message: Message) -> bytes:
            if isinstance(message, BoundaryList):
                name = (*effect.slot, message.chain, message.direction, message.microbatches)
                if disk.listed.setdefault(name, message.digest()) != message.digest():
                    return b""
            return sign(swarm.peers[me].identity, message)

        led = {chain for *slot, chain in disk.led if tuple(slot) == effect.slot}
        crew = Crew(me, task, signed, self._check, led)
        disk.led |= {(*effect.slot, chain) for chain in crew.leading}
        self._taken[me] = Taken(effect, crew, swarm.peers[me].work, busy=swarm.now)
        self._do(me, self._taken[me], crew.begin())
        for sender, speak in self._held.pop(me, []):
            self._arrive(sender, me, speak)

    def _check(self, raw: bytes) -> None:
        decode(raw, self._codec, SHAPE)

    def _do(self, me: PeerID, taken: Taken, effects: Sequence[CrewEffect]) -> None:
        for effect in effects:
            match effect:
                case Run():
                    self._compute(me, taken, effect)
                case Speak():
                    self._speak(me, effect)
                case Tick():
                    tick = self._swarm.manifest.work.window_seconds / TICKS
                    self._after(tick, me, taken, taken.crew.tick)
                case Done():
                    self._finish(me, taken, effect)

    def _after(
        self, seconds: float, me: PeerID, taken: Taken, action: Callable[[], Sequence[CrewEffect]]
    ) -> None:
        peer, life = self._swarm.peers[me], self._swarm.peers[me].life

        def act() -> None:
            if peer.machine is not None and peer.life == life and self._taken.get(me) is taken:
                self._do(me, taken, action())

        self._swarm.at(self._swarm.now + seconds, act)

    def _compute(self, me: PeerID, taken: Taken, run: Run) -> None:
        effect, name = taken.effect, (run.chain, run.microbatch)
        slice_, at = divmod(run.microbatch, MICROBATCHES)
        evaluated, last = slice_ < EVALUATED, effect.shard == len(effect.wired[0].replicas) - 1
        sequences = () if evaluated else effect.slices[run.chain][slice_ - EVALUATED]
        text = text_of(self._swarm.chain_text(me, sequences), at)
        way: Direction = "backward" if run.backward else "forward"
        if way == "forward" or last:
            taken.x[name] = run.tensor if run.tensor is not None else text
        if run.backward:
            taken.g[name] = text if last else run.tensor or b""
        inputs = (taken.x[name], taken.g[name]) if run.backward else (taken.x[name],)
        made = b""
        if not run.backward or (effect.shard > 0 and not evaluated):
            made = encode(self._swarm.chain_tensor(me, way, tensor_of(effect.snapshot, *inputs)), self._codec)
        taken.busy = max(self._swarm.now, taken.busy) + COMPUTE_SECONDS
        seconds = taken.busy - self._swarm.now
        self._after(seconds, me, taken, lambda: taken.crew.computed(run.chain, made))

    def _finish(self, me: PeerID, taken: Taken, done: Done) -> None:
        swarm, effect = self._swarm, taken.effect
        order = effect.order([(one.chain, one.slices - EVALUATED) for one in done.counted])
        slices = []
        for index, (chain, slice_) in enumerate(order.chained):
            first = (slice_ + EVALUATED) * MICROBATCHES
            names = [(chain, at) for at in range(first, first + MICROBATCHES)]
            inputs = [raw for name in names for raw in (taken.x[name], taken.g[name])]
            slices.append(slice_of(order, index, inputs, swarm.size))
        passed = [taken.crew.passed(*place) for place in order.chained]
        made = swarm.train_chained(me, order, slices)
        work = replace(made, chains=done.certificates, own=replace(made.own, passed=passed.__getitem__))
        swarm.did_chains(me, effect.slot, work, taken.work)

    def _speak(self, me: PeerID, speak: Speak) -> None:
        swarm, pair = self._swarm, (me, speak.to)
        when = max(swarm.now + swarm.random.uniform(0.001, 0.01), self._arriving.get(pair, 0.0))
        self._arriving[pair] = when
        swarm.at(when, lambda: self._arrive(me, speak.to, speak))

    def _arrive(self, me: PeerID, to: PeerID, speak: Speak) -> None:
        swarm, mine = self._swarm, self._taken.get(me)
        target = swarm.peers.get(to)
        if target is None or target.machine is None or swarm.cut(me, to):
            if mine is not None:
                self._after(0.1, me, mine, lambda: mine.crew.lost(to))
            return
        taken, (place, message) = self._taken.get(to), read_frame(*frame_of(speak.place, speak.message))
        slot = (place.round, place.attempt)
        if taken is None or slot > taken.effect.slot:
            self._held.setdefault(to, []).append((me, speak))
        elif slot == taken.effect.slot:
            try:
                self._do(to, taken, taken.crew.heard(me, place, message))
            except MessageRefused as refusal:
                target.refusals.append(str(refusal))
