"""Commands of ours as child processes that say what they do in JSON, and that nothing outlives.

Each child leads a process group of its own, so that a Ctrl-C in the terminal reaches only the parent. A
marker in the environment, which every descendant inherits, finds also those that leave the group.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

Event = dict[str, Any]
MARKER = "EDGESWARM_FAMILY"
GRACE_SECONDS = 15.0
"""How long a child that was asked to stop may take."""
LINE_BYTES = 1 << 20


class Family:
    """The processes of one demo."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.leaders: list[int] = []

    def alive(self) -> list[int]:
        """Our descendants that still run (zombies do not)."""
        if not Path("/proc/self/environ").exists():
            return self._alive_by_group()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"{MARKER}={self.name}".encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:
                continue  # it ended, or is another user's
        return found

    def sockets(self) -> list[Path]:
        """What our descendants left in the folder of libp2p's sockets."""
        return [path for leader in self.leaders for path in Path("/tmp").glob(f"hivemind-{leader}-*")]

    def kill(self) -> None:
        """End whoever is left, at once."""
        for pid in self.alive():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    async def gone(self, seconds: float) -> bool:
        """Whether nobody and nothing is left, after at most so long."""
        for _ in range(int(seconds / 0.1)):
            if not self.alive() and not self.sockets():
                return True
            await asyncio.sleep(0.1)
        return False

    def _alive_by_group(self) -> list[int]:
        lines = subprocess.run(
            ["ps", "-axo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split() for line in lines.splitlines()]
        return [int(pid) for pid, group, state in rows if int(group) in self.leaders and state[0] != "Z"]


class Child:
    """One run of a command with `--json`. `on_event` gets every object it prints."""

    def __init__(self, process: asyncio.subprocess.Process, on_event: Callable[[Event], None]) -> None:
        self.pid = process.pid
        self.was_killed = False
        self.last_error = ""
        self._process, self._on_event = process, on_event

    @classmethod
    async def start(
        cls, family: Family, module: str, arguments: list[str], log: Path, on_event: Callable[[Event], None]
    ) -> "Child":
        """Start `python -m module arguments --json`, with standard error in `log`."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                "--json",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                limit=LINE_BYTES,
                start_new_session=True,
                env={**os.environ, MARKER: family.name},
            )
        family.leaders.append(process.pid)
        return cls(process, on_event)

    async def finished(self) -> int:
        """Pass on its events until it ends; the exit code (negative: the signal)."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            event = json.loads(line)
            if "error" in event:
                self.last_error = f"{event['error']}: {event['message']}"
            else:
                self._on_event(event)
        return await self._process.wait()

    def kill(self) -> None:
        """Kill the command itself, as a crash would: what it started must notice."""
        self.was_killed = True
        if self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """Ask it to leave; kill it if it does not."""
        if self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
