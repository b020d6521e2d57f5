"""The peer's one computing thread: training, held-out loss, sanity tests and the outer step.

Everything torch and everything long runs here, one thing at a time, off the event loop, so that a
reply to a groupmate never waits for a matrix product. What it returns is a function of the order or
the sum alone; the window's end decides only how many slices there are.
"""

import asyncio
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from proto.errors import MessageRefused, SwarmError
from secagg.ring import BLOCK, CHUNK, NonFinite, check_sum
from swarm.data import Dataset, read_openings
from swarm.effects import Again, OwnWork, Recompute, Work
from swarm.layout import Layout
from swarm.manifest import Manifest
from swarm.model import build_model
from swarm.order import DataView, Order, trial_text
from swarm.outer import outer_step
from swarm.shards.stage import OutOfMemory
from swarm.snapshot import DiskFull, Snapshot, SnapshotCorrupt, path_of, read
from swarm.work import Trainer
from verify.commitment import Committed, chunk_digests
from verify.probation import sketch_seed
from verify.record import MICRO
from verify.sketch import sketch

log = logging.getLogger(__name__)

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


class WorkFile:
    """The slices of one order, on disk until nobody refers to them: memory is for training.

    One is written while the next is computed. The file has no name: nothing of it outlives the process.
    """

    def __init__(self, directory: Path, size: int, dtype: np.dtype) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        self._size, self._dtype = size, dtype
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="slices")
        self._writing: Future[None] | None = None

    def add(self, encoded: np.ndarray) -> None:
        """Append a slice's integers, [size], which nobody changes any more. Raises DiskFull."""
        self.finish()
        self._writing = self._writer.submit(self._write, encoded)

    def finish(self) -> None:
        """Wait until all that was added is in the file. Raises DiskFull."""
        if self._writing is not None:
            self._writing.result()

    def _write(self, encoded: np.ndarray) -> None:
        try:
            self._file.write(encoded.data.cast("B"))
            self._file.flush()
        except OSError as error:
            raise DiskFull(f"the slices of an order: {error.strerror}; free disk space") from None

    def slice(self, index: int) -> np.ndarray:
        """The integers of a slice, [size], read as they are used."""
        self.finish()
        at = index * self._size * self._dtype.itemsize
        return np.memmap(self._file, self._dtype, "r", at, (self._size,))


class Compute:
    """Trains, tests and steps. `device`: "cpu" or "cuda"; `threads`: torch threads. `busy` is told, on the
    event loop, what the thread does: "compute", "checks" or "wait" (swarm.energy.account)."""

    def __init__(
        self,
        manifest: Manifest,
        dataset: Dataset,
        directory: Path,
        device: str = "cpu",
        threads: int = 1,
        busy: Callable[[str], None] = lambda phase: None,
    ) -> None:
        self._manifest, self._dataset, self._directory = manifest, dataset, directory
        self._device, self._threads, self._busy = device, threads, busy
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._snapshots: dict[bytes, Snapshot] = {}
        self._heldout: dict[bytes, int] = {}
        self._trainer: Trainer

    async def prepare(self) -> None:
        """Build the model. Raises ModelRefused."""
        await self.run(self._prepare)

    @property
    def layout(self) -> Layout:
        """The layout of the run's vector."""
        return self._trainer.layout

    @property
    def vocabulary(self) -> int:
        """Token ids of the model."""
        return self._trainer.vocabulary

    async def load(self, name: bytes) -> None:
        """Take the stored snapshot `name` as the one to work from. Raises SnapshotCorrupt."""
        self._snapshots = {name: await self.run(lambda: read(path_of(self._directory, name), name))}

    async def train(self, order: Order, seconds: float, stop: threading.Event) -> Work:
        """Do slices of the order until the window ends, at least one. Raises Abandoned when stopped."""
        return await self.run(lambda: self._train(order, seconds, stop))

    async def recompute(
        self, order: Order, index: int, text: Sequence[bytes] | None, data: DataView
    ) -> np.ndarray:
        """One slice of another peer's order, integers [size]. `text`: its opened sequences.

        Raises SnapshotCorrupt where the snapshot is gone, OpeningRefused for other text than was drawn.
        """
        return await self.run(lambda: self._recompute(order, index, text, data), "checks")

    async def again(self, asked: Recompute) -> Again:
        """What a check, or a judge, wants computed again.

        Raises SnapshotCorrupt, NonFinite, MessageRefused.
        """
        return Again(await self.recompute(asked.order, asked.slice, asked.text, asked.data))

    async def try_again(self, asked: Recompute) -> tuple[Again, bool]:
        """The same, nothing where it cannot be had; and whether what was opened is what was drawn."""
        try:
            return await self.again(asked), True
        except (SnapshotCorrupt, NonFinite, OutOfMemory) as error:
            log.warning("computing a slice again: %s", error)
            return Again(None), True
        except MessageRefused as refusal:
            log.warning("computing a slice again: %s", refusal)
            return Again(None), False

    async def trial(self, order: Order) -> tuple[tuple[int, ...], ...]:
        """The sketches of a trial, one for each slice of its order. Raises SnapshotCorrupt, NonFinite."""
        sketches = []
        for index in range(len(order.slices)):
            encoded = await self.recompute(order, index, None, DataView(0))
            sketches.append(sketch(encoded, sketch_seed(order.seed, index)))
        return tuple(sketches)

    async def apply(self, base: bytes, total: np.ndarray, weight: int) -> bytes:
        """Test the sum, take the outer step from `base`, store the next snapshot; its hash.

        Raises SumRefused, DiskFull.
        """
        return await self.run(lambda: self._apply(base, total, weight))

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
        return await self.run(lambda: self._measure(name)) / MICRO

    def close(self) -> None:
        """End the thread; what is queued is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def run(self, work: Callable[[], T], phase: str = "compute") -> T:
        """Do something in the computing thread."""
        loop = asyncio.get_running_loop()

        def told() -> T:
            loop.call_soon_threadsafe(self._busy, phase)
            try:
                return work()
            finally:
                loop.call_soon_threadsafe(self._busy, "wait")

        return await loop.run_in_executor(self._thread, told)

    # -- in the thread ----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        torch.set_num_threads(self._threads)
        model = build_model(self._manifest.model)
        self._trainer = Trainer(
            model, self._manifest.ring, self._manifest.aggregation.sanity_rms, self._device
        )

    def _train(self, order: Order, seconds: float, stop: threading.Event) -> Work:
        end = time.monotonic() + seconds
        snapshot, size, dtype = self._snapshots[order.snapshot], self.layout.size, self._manifest.ring.dtype
        update, kept = np.zeros(size, dtype), WorkFile(self._directory, size, dtype)
        digests: list[list[bytes]] = []
        tokens, loss = 0, 0.0
        for done in self._trainer.train(order, snapshot, self._dataset.sequences):
            np.add(update, done.encoded, out=update)
            digests.append(chunk_digests(done.encoded, CHUNK))
            kept.add(done.encoded)
            tokens, loss = tokens + done.tokens, loss + done.loss
            if stop.is_set():
                raise Abandoned
            if time.monotonic() >= end:
                break
        own = OwnWork(Committed(order.digest(), digests, os.urandom(32)), kept.slice)
        weight, heldout = len(digests), self._measure(order.snapshot)
        kept.finish()
        return Work(update, weight, tokens, micronats(loss / weight), heldout, own)

    def _recompute(
        self, order: Order, index: int, text: Sequence[bytes] | None, data: DataView
    ) -> np.ndarray:
        snapshot = self._snapshot(order.snapshot)
        chosen, vocabulary = order.slices[index], self._trainer.vocabulary
        length = self._manifest.data.sequence_length
        if order.trial:
            sequences = trial_text(order, index, length, vocabulary)
        elif text is None:
            sequences = self._dataset.sequences[list(chosen)]
        else:
            sequences = read_openings(
                text, chosen, root=data.root, count=data.count, length=length, vocabulary=vocabulary
            )
        return self._trainer.compute_slice(order, index, snapshot, sequences).encoded

    def _snapshot(self, name: bytes) -> Snapshot:
        return self._snapshots.get(name) or read(path_of(self._directory, name), name)

    def _heldout_sample(self) -> np.ndarray:
        """What the held-out loss is measured on: token ids, int32 [sequences_per_slice at most, length]."""
        heldout, most = self._dataset.heldout, self._manifest.work.sequences_per_slice
        chosen = [at * len(heldout) // most for at in range(most)]  # spread: neighbours are alike
        return heldout[sorted(set(chosen))]

    def _measure(self, name: bytes) -> int:
        if name not in self._heldout:
            loss = self._trainer.heldout_loss(self._snapshots[name], self._heldout_sample())
            self._heldout = {name: micronats(loss)}
        return self._heldout[name]

    def _apply(self, base: bytes, total: np.ndarray, weight: int) -> bytes:
        manifest, layout, ring = self._manifest, self.layout, self._manifest.ring
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


def micronats(loss: float) -> int:
    """A loss as it travels."""
    return round(min(loss, MOST_LOSS) * MICRO)
