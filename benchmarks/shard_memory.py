"""What holding one shard takes: the peak of a process that does all of a round's work on it, less its start.

`measure(preset, count, index)` runs this module in a process of its own: two slices of the manifest's size
forward and backward with recomputation, four microbatches in flight, each encoded and added up; then the
outer step, and the next snapshot written. What it prints are bytes. No sessions and no sockets.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from secagg.ring import Encoder
from swarm.manifest import Manifest, Model
from swarm.outer import outer_step
from swarm.shards.slicing import build_shard, config_of, first_vector, shard_layout
from swarm.shards.stage import Slice, Stage, microbatches
from swarm.snapshot import first_snapshot

IN_FLIGHT = 4
SLICES = 2


def measure(preset: str, count: int, index: int) -> int:
    """Bytes that shard `index` of `count` took at most."""
    words = [sys.executable, "-m", "benchmarks.shard_memory", preset, str(count), str(index)]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1])


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """The most it had: of this program alone, where ru_maxrss would count what started it as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def hold(preset: str, count: int, index: int) -> None:
    """A round's work on one shard."""
    manifest = Manifest(model=Model.model_validate({"preset": preset, "shards": count}))
    table, ring, bound = manifest.model, manifest.ring, manifest.aggregation.sanity_rms
    layout = shard_layout(table, index, count)
    snapshot = first_snapshot(layout, first_vector(table, index, count, bytes(32)), 1e-3)
    for moment in (snapshot.m, snapshot.v):
        moment.fill(1e-6)  # zeros that nobody wrote take no memory
    stage = Stage(build_shard(table, index, count))
    stage.load(snapshot.params)
    encoder = Encoder(ring, snapshot.scales, layout.counts, bytes(32), bound)
    update = np.zeros(layout.size, ring.dtype)
    for number in range(SLICES):
        np.add(update, encoder.encode(gradient_of(stage, manifest), number), out=update)
    total = update.copy()
    after = outer_step(snapshot, total, SLICES, layout, manifest.outer, ring, manifest.run.rounds)
    with tempfile.TemporaryDirectory() as folder:
        after.write(Path(folder))


def gradient_of(stage: Stage, manifest: Manifest) -> np.ndarray:
    """One slice of noise through one stage."""
    sequences, length = manifest.work.sequences_per_slice, manifest.data.sequence_length - 1
    chance, width = np.random.default_rng(0), config_of(manifest.model).hidden_size
    batches = microbatches(sequences, length, stage.vocabulary)
    work = Slice(tuple(range(len(batches))), sequences * length)

    def noise(rows: int) -> np.ndarray:
        return chance.standard_normal((rows, length, width), np.float32)

    def tokens(rows: int) -> np.ndarray:
        return chance.integers(4, stage.vocabulary, (rows, length)).astype(np.int32)

    if stage.cut.last:
        for at, batch in enumerate(batches):
            stage.turn(work, at, noise(len(batch)), tokens(len(batch)))
        return stage.finish(work)
    for at in range(len(batches) + IN_FLIGHT):
        if at < len(batches):
            rows = len(batches[at])
            stage.forward(work, at, tokens(rows) if stage.cut.first else noise(rows))
        if at >= IN_FLIGHT:
            stage.backward(work, at - IN_FLIGHT, noise(len(batches[at - IN_FLIGHT])))
    return stage.finish(work)


if __name__ == "__main__":
    torch.set_num_threads(1)
    before = resident()
    hold(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print(peak() - before)
