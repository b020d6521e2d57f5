"""What chains must have computed: one process, one microbatch after another, and the sums of whole rounds.

`lost_or_doubled` reads a swarm's disks: each record and the certificates that its survivors' adverts brought.
A microbatch is counted wrong where a chain has two certificates, where a peer's weight is not that of the
certificates, or where the snapshot that the record names is not the one that comes of computing exactly the
microbatches that count, once each in every shard: sums of integers and the outer step are exact, so one
microbatch more or less is another hash.
"""

import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.report import progress
from proto.canonical import PeerID
from secagg.messages import Advert
from swarm.data import Dataset, load_dataset
from swarm.effects import TrainChains
from swarm.manifest import Manifest, parse_manifest
from swarm.model import config_of
from swarm.order import DataView, chain_rounding, chain_slices, chained_order, wire_chains
from swarm.shards.compute import ShardCompute
from swarm.shards.crew import EVALUATED
from swarm.shards.stage import microbatches
from swarm.snapshot import path_of
from swarm.store import Store, replay
from verify.chains import Confirmation, Counted, Place, open_certificate, weights
from verify.ledger import Entry
from verify.record import Decided, History, Record
from verify.statement import open_signed

Adverts = dict[tuple[int, int, PeerID], list[Advert]]
"""By round, attempt and signer."""


@dataclass(frozen=True)
class Counting:
    """Microbatches that count in all rounds, those of them that are lost or doubled in some shard, and rounds
    whose every shard was computed again."""

    microbatches: int
    wrong: int
    rounds: int


async def run_chain(stages: Sequence[ShardCompute], chain: int, slices: int) -> None:
    """A chain's first slices, evaluated ones included, through all shards in order; all have begun."""
    for number in range(slices * len(stages[0].batches)):
        tensor: bytes | None = None
        for stage in stages[:-1]:
            tensor = await stage.microbatch(chain, number, False, tensor)
        for stage in reversed(stages):
            tensor = await stage.microbatch(chain, number, True, tensor)


def work_of(history: History, attempt: int, peer: PeerID, manifest: Manifest, data: DataView) -> TrainChains:
    """What the round's state machine would ask of a peer."""
    wired = wire_chains(history, attempt)
    return TrainChains(
        (history.round + 1, attempt),
        history.shard_of(peer),
        history.snapshot_of(history.shard_of(peer)),
        wired,
        chain_slices(history, attempt, len(wired), data, manifest.work),
        lambda counted: chained_order(history, attempt, peer, data, manifest.work, counted),
        chain_rounding(history, attempt, peer),
        0.0,
    )


async def lost_or_doubled(states: Sequence[Path], run: bytes, text: Path) -> Counting:
    """Count a run's microbatches. `states`: its peers' folders; `text`: the cache with the data set.

    All snapshots must be there. Raises MessageRefused for certificates that hold for nothing.
    """
    stores = [Store(folder, run, alone=False) for folder in states]
    try:
        manifest = parse_manifest(stores[0].history(run)[0].genesis.manifest)
        data = load_dataset(manifest, path=None, cache=text)
        adverts: Adverts = {}
        for raw in {raw for store in stores for raw in adverts_of(store)}:
            signed = open_signed(raw, Advert)
            slot = (signed.message.round, signed.message.attempt, signed.signer)
            adverts.setdefault(slot, []).append(signed.message)
        folders = [store.snapshots for store in stores]
        sequences, length = manifest.work.sequences_per_slice, manifest.data.sequence_length - 1
        each = microbatches(sequences, length, config_of(manifest.model).vocab_size)
        total = wrong = rounds = 0
        for before, record in steps(stores, run):
            counted = certified(before, record, adverts)
            found = await computed_again(before, record.attempt, counted, manifest, data, folders)
            slices = sum(one.slices - EVALUATED for one in counted)
            other = sum(name != cell.snapshot for name, cell in zip(found, record.cells, strict=True))
            total += slices * len(each)
            wrong += (miscounted(record, counted, len(before.shards)) + slices * other) * len(each)
            rounds += 1
            progress(f"round {record.round}: {slices} slices count, {other} shards differ")
        return Counting(total, wrong, rounds)
    finally:
        for store in stores:
            store.close()


def adverts_of(store: Store) -> Iterator[bytes]:
    """All adverts in a peer's ledger."""
    for raw in store.ledger.entries(0, store.ledger.size):
        entry = Entry.parse(raw)
        if entry.kind == "advert":
            content = entry.content if entry.content is not None else store.ledger.large(entry.sha256)
            if content is not None:
                yield content


def steps(stores: Sequence[Store], run: bytes) -> Iterator[tuple[History, Record]]:
    """Every record with the history before it, from the peer that knows most."""
    most = max(stores, key=lambda store: store.history(run)[0].round)
    genesis = most.genesis()
    assert genesis is not None
    history = History.begin(genesis, run)
    for raw in most.decided():
        decided = Decided.parse(raw)
        if decided.body and not decided.recovery:
            yield history, Record.parse(decided.body)
        history, _ = replay(history, 0, raw)


def certified(before: History, record: Record, adverts: Adverts) -> set[Counted]:
    """What the certificates of a record's survivors count, each once."""
    wired = wire_chains(before, record.attempt)
    found = set[Counted]()
    for peer in record.survivors:
        for advert in adverts.get((record.round, record.attempt, peer), []):
            for statements in advert.chains:
                chain = open_signed(statements[0], Confirmation).message.chain
                place = Place(before.run, record.round, record.attempt, chain)
                replicas = wired[chain].replicas
                found.add(open_certificate(statements, place, replicas[0][0], replicas))
    return found


def miscounted(record: Record, counted: Collection[Counted], shards: int) -> int:
    """Slices by which certificates and weights differ: chains closed in two ways, and peers' weights."""
    once = {one.chain: one for one in sorted(counted, key=lambda one: one.slices)}
    twice = sum(one.slices - EVALUATED for one in set(counted) - set(once.values()))
    named: dict[PeerID, int] = {}
    for peers in weights([replace(one, slices=one.slices - EVALUATED) for one in once.values()], shards):
        named |= peers
    said = dict(zip(record.survivors, record.weights, strict=True))
    return twice + sum(abs(said.get(peer, 0) - named.get(peer, 0)) for peer in said.keys() | named.keys())


async def computed_again(
    before: History,
    attempt: int,
    counted: Collection[Counted],
    manifest: Manifest,
    data: Dataset,
    folders: Sequence[Path],
) -> list[bytes]:
    """The snapshot of each shard that follows from the chains' slices. Raises FileNotFoundError."""
    view, shards = DataView(len(data.sequences)), len(before.shards)
    with tempfile.TemporaryDirectory(prefix="edgeswarm-replay-") as name:
        for base in before.shards:
            kept = next((path for path in (path_of(each, base) for each in folders) if path.exists()), None)
            if kept is None:
                raise FileNotFoundError(f"nobody keeps the snapshot {base.hex()}")
            path_of(Path(name), base).symlink_to(kept.resolve())
        stages = [ShardCompute(manifest, data, Path(name), shard) for shard in range(shards)]
        try:
            for stage, base in zip(stages, before.shards, strict=True):
                await stage.prepare()
                await stage.load(base)
            totals = [np.zeros(stage.layout.size, manifest.ring.dtype) for stage in stages]
            for one in sorted(counted, key=lambda one: one.chain):
                for stage, peer in zip(stages, one.path, strict=True):
                    await stage.begin(work_of(before, attempt, peer, manifest, view))
                await run_chain(stages, one.chain, one.slices)
                for total, stage in zip(totals, stages, strict=True):
                    np.add(total, (await stage.finish([one], ())).update, out=total)
            weight = sum(one.slices - EVALUATED for one in counted)
            return [
                await stage.apply(base, total, weight)
                for stage, base, total in zip(stages, before.shards, totals, strict=True)
            ]
        finally:
            for stage in stages:
                stage.close()
