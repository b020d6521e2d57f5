"""The peer's one computing thread: training, held-out loss, sanity tests and the outer step.

Everything torch and everything long runs here, one thing at a time, off the event loop, so that a
reply to a groupmate never waits for a matrix product. What it returns is a function of the order or
the sum alone; the window's end decides only how many slices there are.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from blake3 import blake3

from proto.canonical import tagged_hash
from proto.errors import SwarmError
from secagg.ring import BLOCK, CHUNK, check_sum
from swarm.data import Dataset
from swarm.effects import Work
from swarm.layout import Layout
from swarm.manifest import Manifest
from swarm.model import build_model
from swarm.order import Order
from swarm.outer import outer_step
from swarm.snapshot import Snapshot, path_of, read
from swarm.work import Trainer
from verify.record import MICRO

T = TypeVar("T")
MOST_LOSS = 1_000.0


class SumRefused(SwarmError):
    """A sum that no honest cell can produce."""

    exit_code = 1

    def __init__(self, text: str, chunks: list[int]) -> None:
        super().__init__(text)
        self.chunks = chunks
        """The chunks in which it failed."""


class Abandoned(Exception):
    """Work that is no longer wanted."""


class Compute:
    """Trains, tests and steps. `device`: "cpu" or "cuda"; `threads`: torch threads."""

    def __init__(
        self, manifest: Manifest, dataset: Dataset, directory: Path, device: str = "cpu", threads: int = 1
    ) -> None:
        self._manifest, self._dataset, self._directory = manifest, dataset, directory
        self._device, self._threads = device, threads
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._snapshots: dict[bytes, Snapshot] = {}
        self._heldout: dict[bytes, int] = {}
        self._trainer: Trainer

    async def prepare(self) -> None:
        """Build the model. Raises ModelRefused."""
        await self._run(self._prepare)

    @property
    def layout(self) -> Layout:
        """The layout of the run's vector."""
        return self._trainer.layout

    async def load(self, name: bytes) -> None:
        """Take the stored snapshot `name` as the one to work from. Raises SnapshotCorrupt."""
        self._snapshots = {name: await self._run(lambda: read(path_of(self._directory, name), name))}

    async def train(self, order: Order, seconds: float, stop: threading.Event) -> Work:
        """Do slices of the order until the window ends, at least one. Raises Abandoned when stopped."""
        return await self._run(lambda: self._train(order, seconds, stop))

    async def apply(self, base: bytes, total: np.ndarray, weight: int) -> bytes:
        """Test the sum, take the outer step from `base`, store the next snapshot; its hash.

        Raises SumRefused, DiskFull.
        """
        return await self._run(lambda: self._apply(base, total, weight))

    def sane(self, chunk: int, update: np.ndarray, weight: int) -> bool:
        """Whether one member's integers in a chunk may be what `weight` slices give."""
        first = chunk * CHUNK // BLOCK
        counts = self.layout.counts[first : first + len(update) // BLOCK]
        manifest = self._manifest
        return not len(check_sum(update, weight, counts, manifest.ring, manifest.aggregation.sanity_rms))

    def adopt(self, name: bytes) -> None:
        """The agreed snapshot is `name`: measure its held-out loss now, and forget the others."""
        if name in self._snapshots:
            self._snapshots = {name: self._snapshots[name]}
            self._thread.submit(self._measure, name)

    async def heldout(self, name: bytes) -> float:
        """Held-out loss of a loaded snapshot, in nats a token."""
        return await self._run(lambda: self._measure(name)) / MICRO

    def close(self) -> None:
        """End the thread; what is queued is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # -- in the thread ----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        torch.set_num_threads(self._threads)
        model = build_model(self._manifest.model)
        self._trainer = Trainer(
            model, self._manifest.ring, self._manifest.aggregation.sanity_rms, self._device
        )

    def _train(self, order: Order, seconds: float, stop: threading.Event) -> Work:
        end = time.monotonic() + seconds
        snapshot = self._snapshots[order.snapshot]
        update = np.zeros(self.layout.size, self._manifest.ring.dtype)
        weight = tokens = 0
        loss = 0.0
        for done in self._trainer.train(order, snapshot, self._dataset.sequences):
            np.add(update, done.encoded, out=update)
            weight, tokens, loss = weight + 1, tokens + done.tokens, loss + done.loss
            if stop.is_set():
                raise Abandoned
            if time.monotonic() >= end:
                break
        commitment = tagged_hash(
            "commitment",
            order.digest(),
            weight.to_bytes(8, "big"),
            blake3(update.data.cast("B")).digest(),
        )
        heldout = self._measure(order.snapshot)
        return Work(update, weight, tokens, _micro(loss / weight), heldout, commitment)

    def _measure(self, name: bytes) -> int:
        if name not in self._heldout:
            heldout, most = self._dataset.heldout, self._manifest.work.sequences_per_slice
            chosen = [at * len(heldout) // most for at in range(most)]  # spread: neighbours are alike
            sample = heldout[sorted(set(chosen))]
            self._heldout = {name: _micro(self._trainer.heldout_loss(self._snapshots[name], sample))}
        return self._heldout[name]

    def _apply(self, base: bytes, total: np.ndarray, weight: int) -> bytes:
        manifest, layout, ring = self._manifest, self._trainer.layout, self._manifest.ring
        failing = check_sum(total, weight, layout.counts, ring, manifest.aggregation.sanity_rms)
        if len(failing):
            raise SumRefused(
                f"{len(failing)} blocks of the sum fail the sanity tests, first block {failing[0]}",
                sorted({int(block) * BLOCK // CHUNK for block in failing}),
            )
        following = outer_step(
            self._snapshots[base], total, weight, layout, manifest.outer, ring, manifest.run.rounds
        )
        following.write(self._directory)
        self._snapshots[following.hash] = following
        return following.hash


def _micro(loss: float) -> int:
    return round(min(loss, MOST_LOSS) * MICRO)
