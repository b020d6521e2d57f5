"""Peers that do nothing but chains, each a process of its own, over the real members port.

Runner, crew, signed lists, streams, TLS, encoding and the computing thread are a peer's own; orders, cells
and agreement are left out. `BareLoop` is what anyone would write: one process with the whole untied model,
the same sequences in the same microbatches. Both evaluate as many sequences as a slice has, forward alone,
before they train.
"""

import asyncio
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import uvloop
from transformers import OPTConfig, OPTForCausalLM

from benchmarks.processes import Group
from benchmarks.shaping import Link, Shaper
from proto.canonical import Message
from swarm.chains import ChainRunner
from swarm.data import GPT2_EOS, Dataset
from swarm.effects import TrainChains
from swarm.manifest import Aggregation, Data, Manifest, Model, Run, Work
from swarm.model import NO_CHANCE, bind_gradients, layout_of, load_vector
from swarm.net.members import MembersClient, MembersServer
from swarm.net.peer_record import PeerRecord
from swarm.net.streams import Streams
from swarm.net.tls import TrustStore
from swarm.order import Order
from swarm.shards.boundary import encode, encoded_bytes
from swarm.shards.compute import ShardCompute
from swarm.shards.crew import EVALUATED
from swarm.shards.slicing import build_untied, first_vector, join_vectors, untied
from swarm.shards.stage import microbatches
from swarm.snapshot import first_snapshot
from swarm.store import Store
from verify.identity import Identity, certificate_der, make_certificate
from verify.statement import sign
from verify.wiring import Wired

RUN = bytes(32)
SEED = bytes(32)
LENGTH = 128
"""Predicted tokens of a sequence."""
WINDOW = 3600.0
"""Longer than any measurement: chains end when all slices are done."""


@dataclass(frozen=True)
class Task:
    """What is trained: all slices of the manifest's work, by each of so many chains of one peer a shard.

    `cores`: to be pinned to; none: wherever. `room`: each peer's, as of `Stage`.
    """

    manifest: Manifest
    cores: tuple[int, ...] = ()
    room: int = 1 << 30
    chains: int = 1

    @property
    def tokens(self) -> int:
        """Predicted tokens of a chain that count."""
        work = self.manifest.work
        return work.slices * work.sequences_per_slice * self.length

    @property
    def length(self) -> int:
        return self.manifest.data.sequence_length - 1

    @property
    def text(self) -> Dataset:
        """Random tokens, the same in every process."""
        manifest, chance = self.manifest, np.random.default_rng(0)
        work, vocabulary = manifest.work, untied(manifest.model).vocab_size
        shape = ((work.slices + 1) * work.sequences_per_slice, manifest.data.sequence_length)
        drawn = chance.integers(4, vocabulary, shape).astype(np.int32)
        return Dataset(drawn[work.sequences_per_slice :], drawn[: work.sequences_per_slice], "random")

    @property
    def slices(self) -> tuple[tuple[int, ...], ...]:
        """The sequences of each slice."""
        size = self.manifest.work.sequences_per_slice
        return tuple(tuple(range(at * size, (at + 1) * size)) for at in range(self.manifest.work.slices))

    def core_of(self, shard: int) -> tuple[int, ...]:
        """Neighbours share a core where there are fewer cores than shards."""
        if not self.cores:
            return ()
        return (self.cores[shard * len(self.cores) // self.manifest.model.shards],)

    @property
    def boundary_bytes(self) -> list[int]:
        """Of each microbatch of a slice, in its order: its activations, and its gradients."""
        manifest = self.manifest
        config = untied(manifest.model)
        batches = microbatches(manifest.work.sequences_per_slice, self.length, config.vocab_size)
        shapes = [(len(batch), self.length, config.hidden_size) for batch in batches]
        return [encoded_bytes(shape, manifest.model.boundary) for shape in shapes]

    def link_seconds(self, rate: float) -> float:
        """What the activations of all slices, the evaluated one's too, take over a link of `rate` bytes/s."""
        return (self.manifest.work.slices + EVALUATED) * sum(self.boundary_bytes) / rate


@dataclass(frozen=True)
class Trained:
    """What one attempt took: the machine's monotonic clock, processor seconds, and slices that count."""

    start: float
    end: float
    cpu: float
    slices: int


@dataclass(frozen=True)
class Timed:
    """Seconds of a peer's stage for one microbatch, alone. The last stage's forward is that of evaluation."""

    forward: float
    backward: float


TIMED = 0
"""Asked instead of a round's number: each member in turn times its stage."""


class Chained:
    """`with Chained(task) as chain:` and then `chain.train()`, as often as wanted.

    `link`: between any two peers, each way; None: loopback as it is.
    """

    def __init__(self, task: Task, link: Link | None = None) -> None:
        self._task, self._round = task, 0
        shards = task.manifest.model.shards
        self._group = Group(serve_member, shards * task.chains, task)
        told: list[tuple[str, bytes, int]] = self._group.told()
        self._links = shaped(link, [port for _, _, port in told])
        ports = self._links.__enter__()
        records = {
            peer: record_of(certificate, port)
            for (peer, certificate, _), port in zip(told, ports, strict=True)
        }
        cells = [[peer for peer, _, _ in told[shard::shards]] for shard in range(shards)]
        wired = tuple(
            Wired(chain, tuple((*cell[chain:], *cell[:chain]) for cell in cells))
            for chain in range(task.chains)
        )
        self._group.ask((records, wired))

    def __enter__(self) -> "Chained":
        return self

    def __exit__(self, *_: object) -> None:
        self._group.__exit__()
        self._links.__exit__(None, None, None)

    def train(self) -> Trained:
        """One attempt. Raises RuntimeError if not all slices count at every peer."""
        self._round += 1
        found: list[Trained] = self._group.ask(self._round)
        if {one.slices for one in found} != {self._task.manifest.work.slices}:
            raise RuntimeError(f"slices that count: {[one.slices for one in found]}")
        start, end = min(one.start for one in found), max(one.end for one in found)
        return Trained(start, end, sum(one.cpu for one in found), found[0].slices)

    def stages(self) -> list[Timed]:
        """Each member's stage, in the members' order: chain after chain, each from its first shard on."""
        found: list[Timed] = self._group.ask(TIMED)
        return found

    @property
    def pids(self) -> list[int]:
        return self._group.pids


class BareLoop:
    """One process of plain PyTorch; `with BareLoop(task, threads) as bare:` and then `bare.train()`."""

    def __init__(self, task: Task, threads: int) -> None:
        passive = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin on a busy machine take their own time
        self._group = Group(serve_bare, 1, task, threads, environments=[passive])
        self._group.told()

    def __enter__(self) -> "BareLoop":
        return self

    def __exit__(self, *_: object) -> None:
        self._group.__exit__()

    def train(self) -> Trained:
        """The same slices."""
        found: Trained = self._group.ask(0)[0]
        return found


def record_of(certificate: bytes, port: int) -> PeerRecord:
    address = f"127.0.0.1:{port}"
    return PeerRecord(
        run_id=RUN, public=address, members=address, certificate=certificate, sequence=1, agent="benchmark"
    )


@contextmanager
def shaped(link: Link | None, ports: Sequence[int]) -> Iterator[list[int]]:
    """Ports through which the given ones are reached over the link, relayed in a thread of this process."""
    if link is None:
        yield list(ports)
        return
    ready, found = threading.Event(), list[int]()
    loop, over = asyncio.new_event_loop(), asyncio.Event()

    async def relay() -> None:
        shapers = [Shaper(link, port) for port in ports]
        for one in shapers:
            await one.__aenter__()
            found.append(one.port)
        ready.set()
        await over.wait()
        for one in shapers:
            await one.__aexit__()

    thread = threading.Thread(target=lambda: loop.run_until_complete(relay()), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


# -- in the peers' processes --------------------------------------------------------------------------------


def serve_member(index: int, pipe: Connection, barrier: Barrier, task: Task) -> None:
    """A chain's peer of one shard."""
    chain, shard = divmod(index, task.manifest.model.shards)
    pin(task.core_of(shard))

    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="edgeswarm-chained-") as folder:
            await Member(chain, shard, task, Path(folder)).serve(pipe, barrier)

    uvloop.run(run())


class Member:
    """Takes part in chains, as a peer does."""

    def __init__(self, chain: int, shard: int, task: Task, folder: Path) -> None:
        self._chain, self._shard, self._task = chain, shard, task
        self._identity = Identity.generate()
        self._trust = TrustStore(make_certificate(self._identity))
        self._streams = Streams(self._trust, self)
        self._server = MembersServer(self._trust, self, streams=self._streams)
        self._client = MembersClient(self._trust, self._streams)
        self._store = Store(folder, RUN)
        self._compute = ShardCompute(task.manifest, task.text, self._store.snapshots, shard, room=task.room)
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: ChainRunner

    async def serve(self, pipe: Connection, barrier: Barrier) -> None:
        """Open the port, learn the others' records, and train as asked until the pipe closes."""
        manifest, folder = self._task.manifest, self._store.snapshots
        table = manifest.model
        compute = self._compute
        await compute.prepare()
        vector = first_vector(table, self._shard, table.shards, SEED)
        snapshot = first_snapshot(compute.layout, vector, manifest.aggregation.initial_scale)
        snapshot.write(folder)
        await compute.load(snapshot.hash)
        self._runner = ChainRunner(
            self._identity.peer_id,
            RUN,
            manifest,
            compute,
            self._client,
            self._sign,
            self._store,
            lambda event: None,
            self._spawn,
            lambda moved: None,
        )
        port = await self._server.start("127.0.0.1:0")
        pipe.send((self._identity.peer_id, certificate_der(self._trust.own.certificate_pem), port))
        records, wired = await asyncio.to_thread(pipe.recv)
        self._trust.set(records)
        pipe.send(None)
        try:
            while True:
                asked = await asyncio.to_thread(pipe.recv)
                effect = self._effect(asked, snapshot.hash, wired)
                if asked == TIMED:
                    for turn in range(barrier.parties):
                        await asyncio.to_thread(barrier.wait)
                        if turn == self._chain * manifest.model.shards + self._shard:
                            pipe.send(await self._time(effect))
                    continue
                await asyncio.to_thread(barrier.wait)
                start, before = time.monotonic(), time.process_time()
                work = await self._runner.train(effect)
                end, cpu = time.monotonic(), time.process_time() - before
                pipe.send(Trained(start, end, cpu, work.weight))
        except EOFError:
            self._runner.close()
            for one in self._tasks:
                one.cancel()
            await self._client.close()
            await self._server.stop()
            await asyncio.to_thread(compute.close)
            self._store.close()

    def _effect(self, round_: int, snapshot: bytes, wired: tuple[Wired, ...]) -> TrainChains:
        slices = self._task.slices

        def order(counted: Sequence[tuple[int, int]]) -> Order:
            places = tuple((chain, index) for chain, done in counted for index in range(done))
            chosen = tuple(slices[index] for _, index in places)
            return Order(RUN, round_, 0, self._shard, snapshot, chosen, SEED, chained=places)

        work = (slices,) * len(wired)
        return TrainChains((round_, 0), self._shard, snapshot, wired, work, order, SEED, WINDOW)

    async def _time(self, effect: TrainChains) -> Timed:
        """Microbatches of all slices from tensors made up, as chains hand them to the computing thread."""
        compute, manifest = self._compute, self._task.manifest
        await compute.begin(effect)
        found: dict[str, list[float]] = {"evaluated": [], "forward": [], "backward": []}
        chance, last = np.random.default_rng(0), self._shard == manifest.model.shards - 1
        width = untied(manifest.model).hidden_size
        count = len(compute.batches)
        for number in range((manifest.work.slices + EVALUATED) * count):
            shape = len(compute.batches[number % count]), self._task.length, width
            tensor = encode(chance.normal(size=shape).astype(np.float32) / 100, manifest.model.boundary)
            for backward in (True,) if last else (False, True):
                given = None if self._shard == 0 and not backward else tensor
                start = time.perf_counter()
                await compute.microbatch(self._chain, number, backward, given)
                what = "evaluated" if number < EVALUATED * count else "backward" if backward else "forward"
                found[what].append(time.perf_counter() - start)
        forward = found["evaluated"] if last else found["forward"]
        return Timed(statistics.median(forward), statistics.median(found["backward"]))

    def _sign(self, message: Message) -> bytes:
        return sign(self._identity, message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

    # -- Inbox --------------------------------------------------------------------------------------

    async def on_frame(self, sender: str, header: bytes, tensor: bytes) -> None:
        """See FrameInbox."""
        await self._runner.on_frame(sender, header, tensor)

    async def on_tell(self, sender: str, raw: bytes) -> None:
        """Nobody tells anything here."""

    async def expect(self, sender: str, header: bytes) -> memoryview:
        """Nobody sends parts here."""
        raise NotImplementedError

    async def on_transfer(self, sender: str, header: bytes, data: memoryview) -> None:
        """Nobody sends parts here."""


def serve_bare(index: int, pipe: Connection, barrier: Barrier, task: Task, threads: int) -> None:
    """The whole model in one process."""
    pin(task.cores)
    torch.set_num_threads(threads)
    table, text = task.manifest.model, task.text
    parts = [first_vector(table, at, table.shards, SEED) for at in range(table.shards)]
    model = build_untied(table)
    layout = layout_of(model)
    load_vector(model, layout, join_vectors(table, parts))
    flat = bind_gradients(model, layout)
    size = task.manifest.work.sequences_per_slice
    batches = microbatches(size, task.length, model.config.vocab_size)

    def loss_of(sequences: np.ndarray) -> torch.Tensor:
        tokens = torch.from_numpy(sequences.astype(np.int64))
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")

    def train() -> None:
        with torch.no_grad():
            for batch in batches:
                loss_of(text.heldout[batch.start : batch.stop]).item()
        for chosen in task.slices:
            flat.zero_()
            sequences = text.sequences[list(chosen)]
            for batch in batches:
                loss = loss_of(sequences[batch.start : batch.stop])
                torch.autograd.backward(loss / (size * task.length))

    pipe.send(None)
    try:
        while True:
            pipe.recv()
            start, before = time.monotonic(), time.process_time()
            train()
            pipe.send(Trained(start, time.monotonic(), time.process_time() - before, len(task.slices)))
    except EOFError:
        return


def pin(cores: Sequence[int]) -> None:
    """To these cores alone, where the system can."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def manifest_of(table: Model, count: int, work: Work, length: int) -> Manifest:
    """Peers in a clear run of `count` shards; `length`: predicted tokens of a sequence."""
    return Manifest(
        run=Run(min_peers=count),
        model=table.model_copy(update={"shards": count}),
        data=Data(sequence_length=length + 1),
        work=work,
        aggregation=Aggregation(mode="plain"),
    )


def own_model(folder: Path, *, layers: int, width: int, heads: int, inner: int, vocabulary: int) -> Model:
    """A model with random weights in a folder, as `model.source` takes it; in one shard."""
    torch.manual_seed(0)
    config = OPTConfig(
        hidden_size=width,
        word_embed_proj_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        ffn_dim=inner,
        vocab_size=vocabulary,
        max_position_embeddings=512,
        bos_token_id=min(GPT2_EOS, vocabulary - 1),
        eos_token_id=min(GPT2_EOS, vocabulary - 1),
        pad_token_id=1,
        **NO_CHANCE,
    )
    OPTForCausalLM(config).save_pretrained(folder)
    return Model(source=str(folder))
