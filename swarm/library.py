"""What a peer gives anyone to read: the run's records and snapshots, its own ledger and evidence."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from proto.errors import MessageRefused
from swarm.snapshot import SnapshotFile, path_of
from swarm.store import Store
from verify.checkpoint import Checkpoint, origin_of, write_checkpoint
from verify.identity import Identity
from verify.record import Genesis
from verify.statement import open_signed


class RunLibrary:
    """See swarm.net.public.Library. `status` gives the peer's view; `take` gets a statement handed in,
    `served` the bytes of what was read and is not small."""

    def __init__(
        self,
        identity: Identity,
        run: bytes,
        store: Store,
        status: Callable[[], dict[str, Any]],
        take: Callable[[bytes], None],
        served: Callable[[int], None],
    ) -> None:
        self._identity, self._run, self._store = identity, run, store
        self._status, self._take, self._served = status, take, served
        self.last_asked = time.monotonic()
        """When somebody last read something; on the monotonic clock, in seconds."""

    async def genesis(self) -> tuple[bytes, bytes]:
        """See Library."""
        self.last_asked = time.monotonic()
        genesis = self._store.genesis()
        if genesis is None:
            raise MessageRefused("genesis: not known here yet; ask another peer")
        return genesis, open_signed(genesis, Genesis).message.manifest

    async def records(self, start: int, limit: int) -> list[bytes]:
        """See Library."""
        self.last_asked = time.monotonic()
        return self._store.decided(min(start, 1 << 62), limit)

    async def snapshot_index(self, digest: bytes) -> bytes:
        """See Library."""
        return await asyncio.to_thread(lambda: self._stored(digest, lambda file: file.raw_index))

    async def snapshot_piece(self, digest: bytes, index: int) -> bytes:
        """See Library."""
        piece = await asyncio.to_thread(lambda: self._stored(digest, lambda file: file.read_piece(index)))
        self._served(len(piece))
        return piece

    def _stored(self, digest: bytes, read: Callable[[SnapshotFile], bytes]) -> bytes:
        self.last_asked = time.monotonic()
        path = path_of(self._store.snapshots, digest)
        if not path.exists():
            raise MessageRefused(f"snapshot: {digest.hex()} is not kept here; ask another peer")
        with SnapshotFile(path, digest) as file:
            try:
                return read(file)
            except IndexError as error:
                raise MessageRefused(f"snapshot: there is no {error}") from None

    async def ledger_head(self) -> str:
        """See Library."""
        self.last_asked = time.monotonic()
        head = Checkpoint(origin_of(self._run, self._identity.peer_id), *self._store.ledger.head())
        return write_checkpoint(head, self._identity)

    async def ledger_entries(self, start: int, limit: int) -> list[bytes]:
        """See Library."""
        self.last_asked = time.monotonic()
        return await asyncio.to_thread(self._store.ledger.entries, start, limit)

    async def ledger_inclusion(self, index: int, size: int) -> list[bytes]:
        """See Library."""
        return self._store.ledger.inclusion(index, size)

    async def ledger_consistency(self, old: int, new: int) -> list[bytes]:
        """See Library."""
        return self._store.ledger.consistency(old, new)

    async def large_piece(self, digest: bytes, index: int) -> bytes:
        """See Library."""
        self.last_asked = time.monotonic()
        return await asyncio.to_thread(self._store.ledger.large_piece, digest, index)

    async def status(self) -> bytes:
        """See Library."""
        return json.dumps(self._status()).encode()

    async def join(self, raw: bytes) -> bytes:
        """See Library."""
        self._take(raw)
        return b""
