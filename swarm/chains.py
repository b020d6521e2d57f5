"""The rim of chains: one peer's crew with its sockets, its clock and its computing thread.

The promise: a chain is led once, also by a peer that is started anew, so it is closed in one way; a frame
that comes before its attempt is held a while; whoever asks after the end is told how a chain was closed.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from swarm.effects import TrainChains, Work
from swarm.manifest import Manifest
from swarm.net.rpc import Refused, Speaker, Unreachable
from swarm.shards.chain import ChainRefused, ChainSpeech, Replaced, Starved
from swarm.shards.compute import ShardCompute
from swarm.shards.crew import Crew, CrewEffect, Done, Run, Speak, Task, Tick
from swarm.shards.frames import decode, encode
from swarm.store import Store
from verify.chains import EVALUATED, BoundaryList, Counted, Place
from verify.opened import Passed

log = logging.getLogger(__name__)

TICKS = 10
"""Ticks of a window; each outlasts a microbatch, or its peer is taken for one that hangs."""
LEAST_TICK = 1.0
HELD = 64
"""Frames that came before their attempt, at most."""
OUTGOING = 256
PAUSE_SECONDS = 0.2


class ChainRunner:
    """Runs the chains of one attempt after the other. `spawn`: in the background, errors end the peer.

    `compute`: whatever computes; it may be exchanged between attempts.
    """

    def __init__(
        self,
        me: PeerID,
        run: bytes,
        manifest: Manifest,
        compute: ShardCompute,
        speaker: Speaker,
        sign: Callable[[Message], bytes],
        store: Store,
        emit: Callable[[dict[str, Any]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        moved: Callable[[int], None],
    ) -> None:
        self._me, self._run, self._manifest, self.compute = me, run, manifest, compute
        self._speaker, self._sign, self._store, self._emit = speaker, sign, store, emit
        self._spawn, self._moved = spawn, moved
        self._crew: Crew | None = None
        self._slot = (0, 0)
        self._work: asyncio.Queue[Run] = asyncio.Queue()
        self._done: asyncio.Future[Done] | None = None
        self._outgoing: dict[PeerID, asyncio.Queue[Speak]] = {}
        self._lost: set[PeerID] = set()
        self._closed = False
        self._held: list[tuple[PeerID, Place, ChainSpeech]] = []
        self.tick = max(LEAST_TICK, manifest.work.window_seconds / TICKS)

    def close(self) -> None:
        """This peer holds another shard now: nobody speaks for this one any more."""
        self._crew, self._closed = None, True

    @property
    def crew(self) -> Crew | None:
        """That of the attempt under way, or of the last one."""
        return self._crew

    async def train(self, effect: TrainChains) -> Work:
        """Take part in an attempt's chains until they are over. Raises NonFinite, OutOfMemory."""
        await self.compute.begin(effect)
        self._slot, self._work = effect.slot, asyncio.Queue()
        self._done = asyncio.get_running_loop().create_future()
        crew = self._crew = self._make_crew(effect)
        computing = asyncio.create_task(self._compute_all(crew))
        try:
            self._do(crew.begin())
            held, self._held = self._held, []
            for sender, place, message in held:
                if (place.round, place.attempt) == self._slot:
                    self._hear(sender, place, message)
            ticking = asyncio.create_task(self._ticks(crew))
            try:
                first: set[asyncio.Future[Any]] = {self._done, computing}
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ticking.cancel()
            if computing.done():
                computing.result()
            done = self._done.result()
            work = await self.compute.finish(done.counted, done.certificates)
            return replace(work, own=replace(work.own, passed=_passed(crew, done.counted)))
        finally:
            computing.cancel()

    def _make_crew(self, effect: TrainChains) -> Crew:
        manifest = self._manifest
        grace = manifest.membership.round_timeout_seconds / 6
        task = Task(
            Place(self._run, *effect.slot, 0),
            effect.shard,
            effect.wired,
            len(self.compute.batches),
            manifest.work.slices,
            manifest.model.boundary,
            math.ceil(effect.seconds / self.tick),
            max(2, math.ceil(grace / self.tick)),
        )
        led, compute = self._store.led(effect.slot), self.compute
        crew = Crew(self._me, task, self._sign_once, compute.check_tensor, led, compute.alike)
        for chain in crew.leading:
            self._store.save_led(effect.slot, chain)
        return crew

    def _sign_once(self, message: Message) -> bytes:
        """Sign; nothing of a list that this peer, before it was started anew, gave other hashes."""
        if isinstance(message, BoundaryList):
            name = f"{message.chain} {message.direction} {message.microbatches[0]}"
            if not self._store.save_listed((message.round, message.attempt), name, message.digest()):
                log.warning("chain %d: computed again, its tensors have other bits", message.chain)
                return b""
        return self._sign(message)

    async def _compute_all(self, crew: Crew) -> None:
        while True:
            run = await self._work.get()
            tensor = await self.compute.microbatch(run.chain, run.microbatch, run.backward, run.tensor)
            self._do(crew.computed(run.chain, tensor))

    async def _ticks(self, crew: Crew) -> None:
        while True:
            await asyncio.sleep(self.tick)
            for peer in sorted(self._lost):
                self._do(crew.came(peer))  # whoever is still gone is lost again at once
            self._do(crew.tick())

    async def on_frame(self, sender: PeerID, header: bytes, tensor: bytes) -> None:
        """A peer of the roster speaks. Raises MessageRefused for what is no frame of this run."""
        place, message = decode(header, tensor)
        self._moved(len(header) + len(tensor))
        self._lost.discard(sender)
        if place.run != self._run:
            raise ChainRefused("chain: of another run")
        if (place.round, place.attempt) > self._slot:
            if len(self._held) < HELD:
                self._held.append((sender, place, message))
            return
        if (place.round, place.attempt) == self._slot and self._crew is not None:
            self._hear(sender, place, message)

    def _hear(self, sender: PeerID, place: Place, message: ChainSpeech) -> None:
        assert self._crew is not None
        try:
            self._do(self._crew.heard(sender, place, message))
        except MessageRefused as refusal:
            log.info("a frame of %s: %s", sender, refusal)

    def _do(self, effects: list[CrewEffect]) -> None:
        for effect in effects:
            match effect:
                case Run():
                    self._work.put_nowait(effect)
                case Speak():
                    self._speak(effect)
                case Done():
                    if self._done is not None and not self._done.done():
                        self._done.set_result(effect)
                case Replaced(shard, was, now):
                    log.info("shard %d: %s steps in for %s", shard, now, was)
                    self._emit({"event": "replaced", "shard": shard, "was": was, "now": now})
                case Starved(shard):
                    log.info("nobody of shard %d can be reached", shard)
                case Tick():
                    continue

    def _speak(self, effect: Speak) -> None:
        queue = self._outgoing.get(effect.to)
        if queue is None:
            queue = self._outgoing[effect.to] = asyncio.Queue(OUTGOING)
            self._spawn(self._post(effect.to, queue))
        if queue.full():
            queue.get_nowait()  # it is asked for again
        queue.put_nowait(effect)

    async def _say(self, to: PeerID, header: bytes, tensor: bytes) -> None:
        """Speak; a peer that just comes up, or breaks off, gets a tick to be there."""
        end = time.monotonic() + self.tick
        while True:
            try:
                return await self._speaker.speak(to, header, tensor)
            except Unreachable:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)

    async def _post(self, to: PeerID, queue: "asyncio.Queue[Speak]") -> None:
        while not self._closed:
            effect = await queue.get()
            try:
                header, tensor = encode(effect.place, effect.message)
                await self._say(to, header, tensor)
                self._moved(len(header) + len(tensor))
                self._lost.discard(to)
            except (Refused, MessageRefused) as error:
                log.info("a frame for %s: %s", to, error)
            except Unreachable as error:
                log.info("a frame for %s: %s", to, error)
                while not queue.empty():
                    queue.get_nowait()
                self._lost.add(to)
                if self._crew is not None:
                    self._do(self._crew.lost(to))


def _passed(crew: Crew, counted: Sequence[Counted]) -> Callable[[int], Passed]:
    """What came and went with each slice that counts, in the order's order; nothing else is kept."""
    places = [(one.chain, index) for one in counted for index in range(one.slices - EVALUATED)]
    return [crew.passed(*place) for place in places].__getitem__
