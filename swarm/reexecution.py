"""Evidence and whole rounds, computed again by whoever has the snapshot and torch: a peer's state is enough.

The promise: what is computed is what peers and jurors compute, by the same functions that train and step.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from proto.errors import SwarmError
from swarm.compute import Compute
from swarm.data import load_dataset
from swarm.effects import Again, Recompute
from swarm.manifest import Manifest
from swarm.order import DataView, Order
from swarm.shards.compute import ShardCompute
from swarm.snapshot import path_of
from verify.opened import Tensors
from verify.work_evidence import BoundaryCase, UpdateCase


class NotAtHand(SwarmError):
    """What computing again would take and is not here."""


def replay_orders(
    orders: Sequence[tuple[Order, int]], manifest: Manifest, run_dir: Path, data: Path | None
) -> bytes:
    """The hash of the snapshot that follows if every order, so many slices of it, was done as it should be.

    On machines whose rounding is that of the swarm it is the record's. `orders`: all survivors' of a round of
    shared text. Raises NotAtHand, DataRefused.
    """
    base = orders[0][0].snapshot
    kept = path_of(_holding(run_dir, base), base)
    dataset = load_dataset(manifest, path=data, cache=run_dir.parent.parent / "cache")

    async def compute(folder: Path) -> bytes:
        path_of(folder, base).symlink_to(kept.resolve())
        machine = Compute(manifest, dataset, folder)
        try:
            await machine.prepare()
            await machine.load(base)
            total = np.zeros(machine.layout.size, manifest.ring.dtype)
            view = DataView(len(dataset.sequences))
            for order, weight in orders:
                for index in range(weight):
                    np.add(total, await machine.recompute(order, index, None, view), out=total)
            return await machine.apply(base, total, sum(weight for _, weight in orders))
        finally:
            machine.close()

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(compute(Path(folder)))


def _holding(run_dir: Path, snapshot: bytes) -> Path:
    for folder in (run_dir / "snapshots", run_dir / "evidence"):
        if path_of(folder, snapshot).exists():
            return folder
    raise NotAtHand(f"the snapshot {snapshot.hex()} is not in {run_dir}: ask a peer that keeps it")


def compute_again(
    read: UpdateCase | BoundaryCase,
    order: Order,
    manifest: Manifest,
    run_dir: Path,
    data: Path | None,
    tensors: Tensors | None = None,
) -> Again:
    """What the accused's slice gives here. Raises NotAtHand, DataRefused, MessageRefused.

    `tensors`: of a chain member's slice, as its evidence has them.
    `run_dir`: a run's folder in a peer's state. `data`: the text, where it is a file of the user's.
    """
    snapshots = _holding(run_dir, order.snapshot)
    dataset = load_dataset(manifest, path=data, cache=run_dir.parent.parent / "cache")
    view = DataView(read.advert.data_count, read.advert.data_root)

    async def compute() -> Again:
        shards = manifest.model.shards > 1
        machine = (
            ShardCompute(manifest, dataset, snapshots, order.shard)
            if shards
            else Compute(manifest, dataset, snapshots)
        )
        try:
            await machine.prepare()
            text = None if shards else read.text or None
            return await machine.again(Recompute(0, order, read.slice, text, view, tensors))
        finally:
            machine.close()

    return asyncio.run(compute())
