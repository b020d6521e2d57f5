"""What this peer holds of the model: all of it, or one shard and a place in chains. It may move."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from proto.canonical import Message, PeerID
from swarm.chains import ChainRunner
from swarm.compute import Compute
from swarm.data import Dataset
from swarm.manifest import Manifest
from swarm.net.rpc import Speaker
from swarm.settings import Settings
from swarm.shards.compute import ShardCompute
from swarm.shards.needs import choose_move, choose_shard, room_of
from swarm.shards.stage import Halved
from swarm.store import Store
from verify.record import History

log = logging.getLogger(__name__)


class Holding:
    """`compute` for what is held now; `chains`: None where the run has one shard. `busy`: as of Compute;
    `spawn`: in the background; `moved`: bytes that came or went."""

    def __init__(
        self,
        me: PeerID,
        run: bytes,
        manifest: Manifest,
        dataset: Dataset,
        store: Store,
        settings: Settings,
        speaker: Speaker,
        sign: Callable[[Message], bytes],
        emit: Callable[[dict[str, Any]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        moved: Callable[[int], None],
        busy: Callable[[str], None],
    ) -> None:
        self._me, self._run, self._manifest, self._dataset = me, run, manifest, dataset
        self._store, self._settings, self._speaker, self._sign = store, settings, speaker, sign
        self._emit, self._spawn, self._moved, self._busy = emit, spawn, moved, busy
        self._loop = asyncio.get_running_loop()
        self.shard = 0
        self.compute: Compute
        self.chains: ChainRunner | None = None

    def first(self, history: History) -> int:
        """The shard that this peer holds, or would take. Raises FitsNowhere."""
        held = self._me in history.roster
        return (
            history.shard_of(self._me)
            if held
            else choose_shard(history, self._manifest, self._settings.memory)
        )

    async def take(self, shard: int) -> None:
        """Hold a shard from now on, without its snapshot. Raises ModelRefused."""
        manifest, settings, folder = self._manifest, self._settings, self._store.snapshots
        self.shard = shard
        if manifest.model.shards == 1:
            self.compute = Compute(
                manifest, self._dataset, folder, settings.device, settings.threads, self._busy
            )
            return await self.compute.prepare()
        if self.chains is not None:
            await asyncio.to_thread(self.compute.close)
            self.chains.close()
        compute = ShardCompute(
            manifest,
            self._dataset,
            folder,
            shard,
            settings.device,
            settings.threads,
            self._busy,
            self._halved,
            room_of(manifest, shard, settings.memory),
        )
        await compute.prepare()
        self.compute = compute
        self.chains = ChainRunner(
            self._me,
            self._run,
            manifest,
            compute,
            self._speaker,
            self._sign,
            self._store,
            self._emit,
            self._spawn,
            self._moved,
        )

    def better(self, history: History) -> int | None:
        """The shard that this member should move to, if that is worth it."""
        if self.chains is None or self._me not in history.roster:
            return None
        return choose_move(history, self._manifest, self._me, self._settings.memory)

    def _halved(self, halved: Halved) -> None:
        log.warning("out of memory with %d rows, %d from now on: %s", halved.rows, halved.now, halved.reason)
        told = {"event": "halved", "rows": halved.rows, "now": halved.now, "reason": halved.reason}
        self._loop.call_soon_threadsafe(self._emit, told)
