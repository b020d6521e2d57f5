"""The start of a run: what the founder signs, and how everybody else reads it.

The promise: a run's name covers its manifest byte for byte, its initial weights, its founder, and in
shared mode its data, so that two peers of one run cannot mean different things by it. A model in shards is
made shard by shard: founding needs memory for the largest of them.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from proto.errors import SwarmError
from secagg.ring import CHUNK
from swarm.data import Dataset, dataset_hash, load_dataset
from swarm.layout import Layout
from swarm.manifest import Manifest, ManifestRefused, Model, boundary_clashes, load_manifest
from swarm.model import build_layout, build_model, config_of, layout_of, read_vector
from swarm.openings import MAX_ANSWER, opened_bytes
from swarm.rules import read_terms, terms
from swarm.shards.slicing import first_vector, shard_layout
from swarm.snapshot import first_snapshot
from swarm.store import Store
from verify.identity import Identity
from verify.record import Genesis, History, run_id
from verify.statement import sign


class SharedDataDiffer(SwarmError):
    """The shared data set here is another one than the run's."""


@dataclass(frozen=True)
class Founded:
    """A new run: its name, its signed genesis, and the store that holds it and the first snapshots."""

    run: bytes
    genesis: bytes
    store: Store


def found(
    path: Path,
    identity: Identity,
    state_dir: Path,
    data: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Founded:
    """Found the run that a manifest describes, with fresh weights or those of its `source`.

    `data`: the user's own file in place of the manifest's source. Call it before any fork: it leaves torch
    with one thread. Raises ManifestRefused, ModelRefused, CutRefused, DataRefused, VectorRefused,
    StoreFailed, DiskFull.
    """
    manifest, raw = load_manifest(path)
    for layout in layouts(manifest.model):
        check_openings(manifest, layout)
    check_boundary(manifest)
    progress("reading the data")
    dataset = load_dataset(manifest, path=data or manifest.data.file, cache=state_dir / "cache")
    shared = dataset_hash(dataset) if manifest.data.mode == "shared" else None
    torch.set_num_threads(1)
    state_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="founding-", dir=state_dir) as folder:
        files = _write_first(manifest, Path(folder), progress)
        created = int(time.time() * 1000)
        names = [bytes.fromhex(file.stem) for file in files]
        genesis = sign(identity, terms(manifest, raw, identity.peer_id, names, shared, created))
        run = run_id(genesis)
        store = Store(state_dir, run)
        for file in files:
            file.replace(store.snapshots / file.name)
    own = History.begin(genesis, run).shard_of(identity.peer_id)
    (store.snapshots / files[own].name).touch()  # the newest: the others' are the first to be pruned
    store.save_genesis(genesis)
    return Founded(run, genesis, store)


def layouts(table: Model) -> tuple[Layout, ...]:
    """The layouts of all shards, or of the whole model, without weights. Raises ModelRefused, CutRefused."""
    if table.shards == 1:
        return (build_layout(table),)
    return tuple(shard_layout(table, index, table.shards) for index in range(table.shards))


def _write_first(manifest: Manifest, folder: Path, progress: Callable[[str], None]) -> list[Path]:
    """The first snapshot of each shard, as files whose names are their hashes; one is in memory at a time."""
    table, seed = manifest.model, os.urandom(32)

    def write(layout: Layout, vector: np.ndarray) -> Path:
        return first_snapshot(layout, vector, manifest.aggregation.initial_scale).write(folder)

    files = []
    for index in range(table.shards):
        progress(f"writing the first snapshot{f' of shard {index}' if table.shards > 1 else ''}")
        files.append(write(*_first(table, index, seed)))
    return files


def _first(table: Model, index: int, seed: bytes) -> tuple[Layout, np.ndarray]:
    if table.shards > 1:
        return shard_layout(table, index, table.shards), first_vector(table, index, table.shards, seed)
    model = build_model(table)
    layout = layout_of(model)
    return layout, read_vector(model, layout)


def check_boundary(manifest: Manifest) -> None:
    """Raises ManifestRefused where a boundary tensor of a source is too large; a preset's was checked."""
    if manifest.model.source is None or manifest.model.shards == 1:
        return
    config = config_of(manifest.model)
    for where, reason in boundary_clashes(manifest, config.hidden_size, config.vocab_size):
        table, key = where.split(".")
        raise ManifestRefused(f"[{table}] {key}: {reason}")


def check_openings(manifest: Manifest, layout: Layout) -> None:
    """Raises ManifestRefused where a checked peer would have to open more than one answer holds."""
    size = opened_bytes(manifest, -(-layout.size // CHUNK))
    if manifest.verification.rate and size > MAX_ANSWER:
        fraction = manifest.verification.chunk_fraction
        most = int(1e4 * fraction * MAX_ANSWER / size) / 1e4
        raise ManifestRefused(
            f"[verification] chunk_fraction = {fraction:g}: a check of this model opens {size >> 20} MiB, "
            f"an answer holds {MAX_ANSWER >> 20}; set it to at most {most:g}, or lower work.slices or "
            "aggregation.ring_bits"
        )


def read_genesis(raw: bytes, run: bytes) -> tuple[History, Manifest]:
    """A run's history at its start, and its manifest. Raises WrongRun, RecordRefused, TermsDiffer."""
    history = History.begin(raw, run)
    return history, read_terms(history.genesis)


def check_shared_data(genesis: Genesis, dataset: Dataset) -> None:
    """Raises SharedDataDiffer if this machine's copy of the shared data is not the run's."""
    if genesis.data is not None and dataset_hash(dataset) != genesis.data:
        raise SharedDataDiffer(
            f"{dataset.name}: its sequences are not those this run was founded with, so orders would mean "
            "other text here: leave out `--data`, or pass the very file the founder used"
        )
