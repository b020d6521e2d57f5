"""A whole swarm on loopback: an entry node and peers, each a process of its own.

The promise: whatever happens, an exception and Ctrl-C included, no process and no socket of it is left.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from proto.errors import SwarmError
from swarm.cli.children import Child, Event, Family

log = logging.getLogger(__name__)

START_SECONDS = 60.0
GONE_SECONDS = 8.0
"""How long the children of a peer may take to notice that it is gone."""


class DemoFailed(SwarmError):
    """The swarm did not do what it should."""

    exit_code = 1


@dataclass(eq=False)
class DemoSwarm:
    """`folder` holds peers/I, bootstrap/ and logs/. `on_event` gets a peer's number and its event.

    `data`: the file that all peers read, where the manifest names one.
    """

    folder: Path
    run: bytes
    on_event: Callable[[int, Event], None]
    data: Path | None = None
    family: Family = field(default_factory=Family)
    peers: dict[int, Child] = field(default_factory=dict)
    leftovers: int = 0
    entry: str = ""
    _bootstrap: Child | None = None
    _tasks: list[asyncio.Task[int]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        ready: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        folder = self.folder / "bootstrap"
        arguments = ["--host-maddrs", "/ip4/127.0.0.1/tcp/0", "--state-dir", str(folder)]
        errors = self.folder / "logs" / "bootstrap.err"
        self._bootstrap = await Child.start(
            self.family, "swarm.cli.bootstrap", arguments, errors, ready.set_result
        )
        ended = asyncio.create_task(self._bootstrap.finished())
        self._tasks.append(ended)
        first: set[asyncio.Future[Any]] = {ended, ready}
        await asyncio.wait(first, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            reason = self._bootstrap.last_error or "it does not say why"
            await self._end()
            raise DemoFailed(f"the entry node did not start: {reason}; see {errors}")
        self.entry = str(ready.result()["multiaddrs"][0])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def keep(self, number: int) -> None:
        """Run a peer until it ends by itself, and start it again whenever `kill` struck it.

        Raises DemoFailed if it fails.
        """
        while True:
            child = await self._start(number, "swarm.cli.peer", [])
            code = await child.finished()
            log.info("peer %d left with exit code %d", number, code)
            if child.was_killed:
                await self._wait_for_children_of(child)
                continue
            if code:
                reason = child.last_error or f"exit code {code}, see {self._errors(number)}"
                raise DemoFailed(f"peer {number} failed: {reason}")
            return

    @asynccontextmanager
    async def attacked(self, attack: str | None, numbers: Sequence[int]) -> AsyncIterator[None]:
        """Meanwhile these peers attack. How they end is their own affair; who is left then is stopped."""
        started = [asyncio.create_task(self._attack(number, str(attack))) for number in numbers]
        self._tasks += started
        yield
        await asyncio.gather(*(self.peers[number].stop() for number in numbers if number in self.peers))

    async def _attack(self, number: int, attack: str) -> int:
        child = await self._start(number, "swarm.cli.attacker", ["--attack", attack])
        code = await child.finished()
        log.info("peer %d, which attacked, left with exit code %d: %s", number, code, child.last_error)
        return code

    async def _start(self, number: int, module: str, more: list[str]) -> Child:
        state = self.folder / "peers" / str(number)
        arguments = ["--run", self.run.hex(), "--join", self.entry, "--threads", "1", *more]
        arguments += ["--shared-machine"]
        if self.data is not None:
            arguments += ["--data", str(self.data)]
        arguments += ["--state-dir", str(state)]
        child = self.peers[number] = await Child.start(
            self.family,
            module,
            arguments,
            self._errors(number),
            lambda event: self.on_event(number, event),
        )
        return child

    def _errors(self, number: int) -> Path:
        return self.folder / "logs" / f"peer-{number}.err"

    def kill(self, number: int) -> None:
        """Strike a peer down as `kill -9` does."""
        self.peers[number].kill()

    async def _wait_for_children_of(self, child: Child) -> None:
        """Until then they hold the libp2p sockets of the peer that is to come back."""
        for _ in range(int(GONE_SECONDS / 0.1)):
            if not list(Path("/tmp").glob(f"hivemind-{child.pid}-*")):
                return
            await asyncio.sleep(0.1)

    async def _end(self) -> None:
        children = [*self.peers.values(), *([self._bootstrap] if self._bootstrap else [])]
        try:
            await asyncio.gather(*(child.stop() for child in children))
            if not await self.family.gone(GONE_SECONDS):
                self.leftovers = len(self.family.alive()) + len(self.family.sockets())
        finally:
            self.family.kill()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
