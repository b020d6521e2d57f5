"""Evidence of a wrong update, computed again by whoever has the snapshot and torch: a peer's state is enough.

The promise: what is compared is what a juror compares, by the same function that trains.
"""

import asyncio
from pathlib import Path

import numpy as np

from proto.errors import SwarmError
from swarm.compute import Compute
from swarm.data import load_dataset
from swarm.manifest import Manifest
from swarm.order import DataView, Order
from swarm.snapshot import path_of
from verify.work_evidence import UpdateCase


class NotAtHand(SwarmError):
    """What computing again would take and is not here."""


def compute_again(
    read: UpdateCase, order: Order, manifest: Manifest, run_dir: Path, data: Path | None
) -> np.ndarray:
    """The integers [size] that the accused's slice gives here. Raises NotAtHand, DataRefused.

    `run_dir`: a run's folder in a peer's state. `data`: the text, where it is a file of the user's.
    """
    folders = (run_dir / "snapshots", run_dir / "evidence")
    snapshots = next((one for one in folders if path_of(one, order.snapshot).exists()), None)
    if snapshots is None:
        raise NotAtHand(f"the snapshot {order.snapshot.hex()} is not in {run_dir}: ask a peer that keeps it")
    dataset = load_dataset(manifest, path=data, cache=run_dir.parent.parent / "cache")
    view = DataView(read.advert.data_count, read.advert.data_root)

    async def compute() -> np.ndarray:
        machine = Compute(manifest, dataset, snapshots)
        try:
            await machine.prepare()
            return await machine.recompute(order, read.opening.slice, read.text or None, view)
        finally:
            machine.close()

    return asyncio.run(compute())
