"""One peer of the parity benchmark: the peer's own computing, in a process with its own threads and kernels.

It is asked over a pipe: train an order; apply a sum. Voting and transport are left out, nothing else.
"""

import asyncio
import math
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from swarm.compute import Compute
from swarm.data import load_dataset
from swarm.manifest import Manifest
from swarm.order import Order


@dataclass(frozen=True)
class Kind:
    """How a peer's machine differs: torch threads, and whether it may use AVX-512."""

    name: str
    threads: int = 1
    avx512: bool = True

    @property
    def environment(self) -> dict[str, str]:
        """Variables that give a process this kind of machine, on x86-64."""
        if self.avx512:
            return {}
        return {"ATEN_CPU_CAPABILITY": "avx2", "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"}


KINDS = (
    Kind("as the baseline"),
    Kind("the same again"),
    Kind("2 threads", threads=2),
    Kind("no AVX-512", avx512=False),
)


@dataclass(frozen=True)
class Trained:
    """What `train` gave: the update in the ring, its weight in slices."""

    update: np.ndarray
    weight: int


def serve(
    index: int,
    pipe: Connection,
    barrier: Barrier,
    manifest: Manifest,
    cache: Path,
    first: Path,
    directories: Path,
) -> None:
    """The peer's process: take the snapshot in file `first`, then do as asked until the pipe closes."""
    asyncio.run(_serve(KINDS[index], pipe, manifest, cache, first, directories / str(index)))


async def _serve(
    kind: Kind, pipe: Connection, manifest: Manifest, cache: Path, first: Path, directory: Path
) -> None:
    directory.mkdir(parents=True)
    (directory / first.name).write_bytes(first.read_bytes())
    name = bytes.fromhex(first.name.split(".")[0])
    dataset = load_dataset(manifest, path=None, cache=cache)
    compute = Compute(manifest, dataset, directory, threads=kind.threads)
    await compute.prepare()
    await compute.load(name)
    pipe.send("ready")
    try:
        while True:
            match pipe.recv():
                case Order() as order:
                    work = await compute.train(order, math.inf, threading.Event())
                    pipe.send(Trained(work.update, work.weight))
                case np.ndarray() as total, int(weight):
                    old, name = name, await compute.apply(name, total, weight)
                    compute.adopt(name)
                    (directory / f"{old.hex()}.snapshot").unlink()
                    pipe.send(name)
    except EOFError:
        compute.close()
