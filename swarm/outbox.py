"""Statements on their way to members: in order for each, told again for a while to who does not answer."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from proto.canonical import PeerID
from swarm.net.rpc import Refused, Transport, Unreachable

log = logging.getLogger(__name__)

TELL_AGAIN_SECONDS = 3.0
"""How long a statement is told again to a peer that does not answer."""
TELL_PAUSE_SECONDS = 0.25
WAITING = 256


class Outbox:
    """`spawn`: in the background; `moved`: so many bytes went."""

    def __init__(
        self,
        client: Transport,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        moved: Callable[[int], None],
    ) -> None:
        self._client, self._spawn, self._moved = client, spawn, moved
        self._waiting: dict[PeerID, asyncio.Queue[tuple[float, bytes]]] = {}

    def tell(self, to: PeerID, raw: bytes) -> None:
        """Tell a member, soon."""
        queue = self._waiting.get(to)
        if queue is None:
            queue = self._waiting[to] = asyncio.Queue(WAITING)
            self._spawn(self._post(to, queue))
        if queue.full():
            queue.get_nowait()  # the oldest matters least: votes are said again
        queue.put_nowait((time.monotonic() + TELL_AGAIN_SECONDS, raw))

    async def _post(self, to: PeerID, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            until, raw = await queue.get()
            while True:
                try:
                    await self._client.tell(to, raw)
                    self._moved(len(raw))
                except Unreachable as error:  # it may be back at another address in a moment
                    log.debug("telling %s: %s", to, error)
                    if time.monotonic() < until:
                        await asyncio.sleep(TELL_PAUSE_SECONDS)
                        continue
                except Refused as error:
                    log.debug("telling %s: %s", to, error)
                break
