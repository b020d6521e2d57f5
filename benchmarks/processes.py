"""A group of member processes that a benchmark drives in step: one pipe each, and one barrier.

Processes are spawned, not forked, so that each is as fresh as a peer; they end when their pipe closes.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

Main = Callable[..., None]
"""main(index, pipe, barrier, *arguments), in the member's process; importable by name."""


class Group:
    """`size` processes running `main`. `ask` sends each its question and collects the answers in order."""

    def __init__(
        self, main: Main, size: int, *arguments: Any, environments: Sequence[Mapping[str, str]] = ()
    ) -> None:
        """`environments`: variables for each member's process, besides ours."""
        context = multiprocessing.get_context("spawn")
        self._barrier: Barrier = context.Barrier(size)
        self._pipes: list[Connection] = []
        self._processes = []
        ours_alone = dict(os.environ)
        for index in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=main, args=(index, theirs, self._barrier, *arguments))
            # A spawned process reads them before it imports anything.
            os.environ.update({"OMP_NUM_THREADS": "1", **(environments[index] if environments else {})})
            process.start()
            os.environ.clear()
            os.environ.update(ours_alone)
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(20)
            if process.is_alive() and process.pid is not None:
                for pid in tree([process.pid]):
                    os.kill(pid, signal.SIGKILL)
                process.join()

    @property
    def pids(self) -> list[int]:
        """The members' process ids."""
        return [process.pid for process in self._processes if process.pid is not None]

    def ask(self, question: Any) -> list[Any]:
        """Send all members the same question; their answers, in the members' order. Raises EOFError."""
        return self.ask_each([question] * len(self._pipes))

    def ask_each(self, questions: Sequence[Any]) -> list[Any]:
        """Send each member its own question; their answers, in the members' order. Raises EOFError."""
        for pipe, question in zip(self._pipes, questions, strict=True):
            pipe.send(question)
        return self.told()

    def told(self) -> list[Any]:
        """What each member says unasked. Raises EOFError if one has died; the others end too."""
        try:
            return [pipe.recv() for pipe in self._pipes]
        except EOFError:  # a member died, and said why on stderr
            self.__exit__()
            raise


def tree(pids: Iterable[int]) -> list[int]:
    """These processes and everything they started that still runs."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], list(pids)
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor seconds that these processes have used, all threads, in ticks of the kernel's clock."""
    ticks = sum(int(fields[11]) + int(fields[12]) for fields in map(_stat, pids) if fields)
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mib(pids: Iterable[int]) -> float:
    """Memory of these processes, pages they share counted once (PSS)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5)); none if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
