"""Getting a snapshot: its pieces from several peers at once, each checked as it comes.

Nothing a peer serves is believed: the index must hash to the agreed name, each piece to what the index
says. A peer that serves a wrong piece is not asked again; what is here survives an interruption.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from proto.errors import MessageRefused
from swarm.layout import Layout
from swarm.net.peer_record import PeerRecord
from swarm.net.public import PublicClient
from swarm.net.rpc import Refused, Unreachable
from swarm.snapshot import Download

log = logging.getLogger(__name__)

SOURCES = 4
"""Peers asked at once."""


async def fetch_snapshot(
    directory: Path,
    name: bytes,
    layout: Layout,
    peers: Sequence[PeerRecord],
    progress: Callable[[int, int], None],
) -> bool:
    """Download the snapshot `name` into `directory`; whether it is complete. `progress`: pieces done, all.

    Call it again, with whoever is known by then, to go on with what is missing. Raises DiskFull.
    """
    clients = [PublicClient(record) for record in peers]
    try:
        download = await _begin(directory, name, layout, clients)
        if download is None:
            return False
        total = len(download.index.pieces)
        wanted = download.wanted()
        progress(total - len(wanted), total)

        async def drain(client: PublicClient) -> None:
            while wanted:
                piece = wanted.pop(0)
                try:
                    download.offer(piece, await client.snapshot_piece(name, piece))
                except (Unreachable, Refused, MessageRefused) as error:
                    wanted.append(piece)
                    log.info("piece %d from %s: %s", piece, client.address, error)
                    return
                progress(total - len(download.wanted()), total)

        for at in range(0, len(clients), SOURCES):
            await asyncio.gather(*(drain(client) for client in clients[at : at + SOURCES]))
        if download.wanted():
            return False
        download.finish()
        return True
    finally:
        for client in clients:
            await client.close()


async def _begin(
    directory: Path, name: bytes, layout: Layout, clients: Sequence[PublicClient]
) -> Download | None:
    for client in clients:
        try:
            return Download(directory, name, await client.snapshot_index(name), layout)
        except (Unreachable, Refused, MessageRefused) as error:
            log.info("index from %s: %s", client.address, error)
    return None
