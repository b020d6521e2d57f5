"""Sharded runs against one process: the same sequences, the same loss; replicas with the same snapshots.

Every peer is a `ShardCompute` of its own, all in this process; wiring, slices and rounding are those of the
round's own draws, boundary tensors are encoded, updates summed by real sessions (masked ones where the run is
secure), each replica tests the sum and takes the outer step itself. Votes and transport are left out. The
baseline is torch.optim.AdamW on the whole untied model; its batch is the sequences of all chains.
"""

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.chained import own_model
from benchmarks.in_process import InProcess, identity_of
from benchmarks.parity import CACHE, evaluate, train_plainly
from benchmarks.report import progress
from benchmarks.shard_replay import run_chain, work_of
from proto.canonical import PeerID, tagged_hash
from secagg.ring import Ring
from swarm.data import Dataset, load_dataset
from swarm.effects import Work
from swarm.manifest import Manifest, parse_manifest
from swarm.model import layout_of, load_vector
from swarm.order import DataView
from swarm.rules import terms
from swarm.shards.compute import ShardCompute
from swarm.shards.crew import EVALUATED
from swarm.shards.slicing import build_untied, first_vector, join_vectors
from swarm.snapshot import first_snapshot, path_of, read
from verify.chains import Counted
from verify.record import History, whole
from verify.statement import sign

MANIFEST = """[run]
rounds = {rounds}
min_peers = 8
[model]
source = "{model}"
shards = {shards}
[work]
slices = {slices}
sequences_per_slice = 2
[outer]
learning_rate = 5e-3
warmup_rounds = 5
[aggregation]
mode = "{mode}"
[verification]
rate = 0.0
probation_checks = 0
"""
PEERS = 8


@dataclass(frozen=True)
class Compared:
    """Held-out losses, in nats a token, and the most snapshots that one shard's replicas ever had."""

    swarm: float
    torch: float
    before: float
    distinct: int

    @property
    def gap(self) -> float:
        return abs(self.swarm - self.torch) / self.torch


class CellSum(InProcess):
    """The real sessions of one cell over given updates."""

    def __init__(self, updates: Mapping[PeerID, np.ndarray], ring: Ring, secure: bool) -> None:
        super().__init__(len(updates), len(next(iter(updates.values()))), secure=secure)
        self.ring, self._given = ring, list(updates.values())

    def _update(self, peer: PeerID) -> np.ndarray:
        return self._given[self._places[peer]].copy()

    def totals(self) -> list[np.ndarray]:
        """What each member unmasks. Raises RoundFailed unless all are the exact sum."""
        done = self.round()
        return [done.completed[peer].total for peer in self.identities]


def compare(shards: int, mode: str, rounds: int, heldout: int) -> Compared:
    """`PEERS` peers in so many shards. `heldout`: sequences that the loss is measured on."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="edgeswarm-shard-parity-") as folder:
        model = Path(folder) / "model"
        own_model(model, layers=4, width=64, heads=4, inner=256, vocabulary=50_272)
        raw = MANIFEST.format(rounds=rounds, model=model, shards=shards, mode=mode, slices=shards).encode()
        manifest = parse_manifest(raw)
        dataset = load_dataset(manifest, path=None, cache=CACHE)
        table = manifest.model
        first = [first_vector(table, shard, shards, bytes(32)) for shard in range(shards)]
        last, batches, distinct = asyncio.run(train(manifest, raw, dataset, first, Path(folder)))
        plain = build_untied(table)
        layout = layout_of(plain)
        sample = dataset.heldout[:heldout]

        def loss(vectors: list[np.ndarray]) -> float:
            load_vector(plain, layout, join_vectors(table, vectors))
            return evaluate(plain, sample)

        ours, before = loss(last), loss(first)  # in this order: it is trained from the first weights
        progress(f"shards: the baseline of {shards} x {PEERS // shards} {mode}")
        train_plainly(plain, manifest, dataset, batches)
        return Compared(ours, evaluate(plain, sample), before, distinct)


async def train(
    manifest: Manifest, raw: bytes, dataset: Dataset, first: list[np.ndarray], root: Path
) -> tuple[list[np.ndarray], list[list[int]], int]:
    """All rounds: the last parameters of each shard, the sequences of each round, distinct snapshots."""
    shards = manifest.model.shards
    async with AsyncExitStack() as stack:
        history, peers = await begin(manifest, raw, dataset, first, root, stack)
        batches, distinct = list[list[int]](), 1
        for round_ in range(manifest.run.rounds):
            works, chosen = await one_attempt(history, peers, manifest, DataView(len(dataset.sequences)))
            batches.append(chosen)
            names = [await apply(history, shard, peers, works, manifest) for shard in range(shards)]
            distinct = max(distinct, *(len(set(some)) for some in names))
            history = after(history, tuple(some[0] for some in names))
            if round_ % 10 == 9:
                progress(f"shards: parity, {shards} shards, round {round_ + 1} of {manifest.run.rounds}")
        ends = []
        for shard, name in enumerate(history.shards):
            ends.append(read(path_of(root / history.cells[shard][0], name), name).params)
        return ends, batches, distinct


async def begin(
    manifest: Manifest,
    raw: bytes,
    dataset: Dataset,
    first: list[np.ndarray],
    root: Path,
    stack: AsyncExitStack,
) -> tuple[History, dict[PeerID, ShardCompute]]:
    """The start of the run, and its peers with their snapshots."""
    peers: dict[PeerID, ShardCompute] = {}
    founder, members = identity_of(0), tuple(sorted(identity_of(at).peer_id for at in range(PEERS)))
    holders = {peer: at % manifest.model.shards for at, peer in enumerate(members)}
    names = dict[int, bytes]()
    for peer, shard in holders.items():
        (root / peer).mkdir()
        compute = peers[peer] = ShardCompute(manifest, dataset, root / peer, shard, room=1 << 28)
        stack.callback(compute.close)
        await compute.prepare()
        snapshot = first_snapshot(compute.layout, first[shard], manifest.aggregation.initial_scale)
        snapshot.write(root / peer)
        names[shard] = snapshot.hash
        await compute.load(snapshot.hash)
    genesis = terms(manifest, raw, founder.peer_id, [names[at] for at in sorted(names)], bytes(32), 0)
    history = History.begin(sign(founder, genesis.model_copy(update={"members": members})))
    if any(history.shard_of(peer) != shard for peer, shard in holders.items()):
        raise RuntimeError("genesis gives the shards to other peers")
    return history, peers


async def one_attempt(
    history: History, peers: dict[PeerID, ShardCompute], manifest: Manifest, data: DataView
) -> tuple[dict[PeerID, Work], list[int]]:
    """All chains, one after another: each peer's work, and the sequences of all."""
    effects = {peer: work_of(history, 0, peer, manifest, data) for peer in peers}
    for peer, compute in peers.items():
        await compute.begin(effects[peer])
    effect = next(iter(effects.values()))
    slices = manifest.work.slices + EVALUATED
    for wired in effect.wired:
        await run_chain([peers[peer] for peer in wired.path], wired.chain, slices)
    works = {}
    for peer, compute in peers.items():
        counted = [Counted(one.chain, slices, one.path) for one in effect.wired if peer in one.path]
        works[peer] = await compute.finish(counted, [() for _ in counted])
    chosen = [index for chain in effect.slices for some in chain for index in some]
    return works, chosen


async def apply(
    history: History,
    shard: int,
    peers: dict[PeerID, ShardCompute],
    works: dict[PeerID, Work],
    manifest: Manifest,
) -> list[bytes]:
    """One cell's sum, and the snapshot that each replica makes of it."""
    cell, base = history.cells[shard], history.shards[shard]
    updates = {peer: works[peer].update for peer in cell}
    weight = sum(works[peer].weight for peer in cell)
    secure = manifest.aggregation.mode == "secure"
    totals = CellSum(updates, manifest.ring, secure).totals()
    names = []
    for peer, total in zip(cell, totals, strict=True):
        compute = peers[peer]
        names.append(await compute.apply(base, total, weight))
        await compute.load(names[-1])
        path_of(compute._directory, base).unlink()
    return names


def after(history: History, shards: tuple[bytes, ...]) -> History:
    """The history with a round more."""
    beacon = tagged_hash("beacon", history.beacon, *shards)
    return replace(history, round=history.round + 1, beacon=beacon, shards=shards, snapshot=whole(shards))
