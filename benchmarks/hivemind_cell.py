"""The baseline: hivemind's own `DecentralizedAverager`, unchanged, in as many processes.

A round is `_run_allreduce_inplace_`, from the first member's start to the last member's end: forming
the group and its load balancing are left out, as meeting is on our side.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from hivemind.averaging.averager import DecentralizedAverager
from hivemind.averaging.control import AveragingStage
from hivemind.compression import Float16Compression, NoCompression
from hivemind.dht import DHT
from hivemind.p2p import P2P

from benchmarks.processes import Group, cpu_seconds, tree

WAIT_SECONDS = 60.0
COMPRESSIONS = {"fp32": NoCompression, "fp16": Float16Compression}


class BaselineFailed(Exception):
    """hivemind returned, with a warning in its log, from an all-reduce that had lost parts of the mean."""


class TimedAverager(DecentralizedAverager):  # type: ignore[misc]
    """Writes down when its all-reduce began and ended; changes nothing."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.timed = multiprocessing.Array("d", 2)
        super().__init__(*arguments, **settings)

    async def _run_allreduce_inplace_(self, *arguments: Any, **settings: Any) -> None:
        self.timed[0] = time.monotonic()
        await super()._run_allreduce_inplace_(*arguments, **settings)
        self.timed[1] = time.monotonic()


class HivemindCell:
    """`with HivemindCell(n, elements, "fp32") as cell:` and then `cell.round()`, as often as wanted."""

    def __init__(self, members: int, size: int, compression: str) -> None:
        self.cpu = 0.0
        """Processor seconds of the last round, all of the members' processes."""
        self._group = Group(serve, members, members, size, compression)
        addresses = self._group.told()
        self._group.ask(addresses[0])

    def __enter__(self) -> "HivemindCell":
        return self

    def __exit__(self, *_: object) -> None:
        self._group.__exit__()

    def round(self) -> float:
        """Wall seconds of one all-reduce. Raises BaselineFailed if a member's mean is not the mean."""
        self._group.ask("meet")
        pids = tree(self._group.pids)
        before = cpu_seconds(pids)
        timed: list[tuple[float, float, bool]] = self._group.ask("reduce")
        self.cpu = cpu_seconds(pids) - before
        if not all(right for _, _, right in timed):
            raise BaselineFailed("hivemind's members ended on another mean than the true one")
        return max(end for _, end, _ in timed) - min(start for start, _, _ in timed)


def serve(index: int, pipe: Connection, barrier: Barrier, members: int, size: int, compression: str) -> None:
    """One member's process; the DHT and the averager are its children, and end with it."""
    os.setsid()
    sockets = tempfile.mkdtemp(prefix="hivemind-", dir="/tmp")
    P2P._UNIX_SOCKET_PREFIX = f"/unix{sockets}/"
    multiprocessing.set_start_method("fork", force=True)  # hivemind's processes cannot be spawned
    torch.set_num_threads(1)
    try:
        _serve(index, pipe, barrier, members, size, compression)
    except EOFError:
        pass
    finally:
        # Its own shutdown is slow and loud, so the whole session is killed; an error is told before.
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        shutil.rmtree(sockets)
        os.killpg(0, signal.SIGKILL)


def _serve(index: int, pipe: Connection, barrier: Barrier, members: int, size: int, compression: str) -> None:
    # Every member but the first waits for the first one's address.
    dht = DHT(start=True) if index == 0 else None
    pipe.send(dht and [str(address) for address in dht.get_visible_maddrs()])
    first = pipe.recv()
    dht = dht or DHT(initial_peers=first, start=True)
    mine = torch.full((size,), float(index))
    averager = TimedAverager(
        [mine.clone()],
        dht,
        start=True,
        prefix="benchmark",
        target_group_size=members,
        min_group_size=members,
        min_matchmaking_time=2.0,
        request_timeout=1.0,
        compression=COMPRESSIONS[compression](),
    )
    pipe.send("ready")
    while True:
        pipe.recv()
        with averager.get_tensors() as tensors:
            tensors[0].copy_(mine)
        step = averager.step(timeout=WAIT_SECONDS, require_trigger=True, wait=False)
        while step.stage != AveragingStage.AWAITING_TRIGGER:
            time.sleep(0.005)
        pipe.send("met")
        pipe.recv()
        barrier.wait()
        step.allow_allreduce()
        step.result(timeout=WAIT_SECONDS)
        with averager.get_tensors() as tensors:
            right = bool(torch.allclose(tensors[0], torch.tensor((members - 1) / 2), atol=1e-2))
        pipe.send((averager.timed[0], averager.timed[1], right))
