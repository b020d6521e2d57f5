"""Where the shards of a model are, for whoever holds one of them: folders of other peers, and their ports.

The promise: what is found is the snapshot that the run's record names, every byte of it, or it is refused.
"""

import asyncio
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proto.errors import SwarmError
from swarm.cli import common
from swarm.manifest import Manifest
from swarm.snapshot import path_of
from verify.record import History

log = logging.getLogger(__name__)

ATTEMPTS = 3
Fetch = Callable[[Manifest, Mapping[int, bytes], Path], None]
"""Given shards and the names of their snapshots: put those that can be had into a folder."""


class NothingToExport(SwarmError):
    """The run has no whole snapshot here, or a shard is missing."""


@contextmanager
def found_shards(
    history: History, manifest: Manifest, own: Path, others: Sequence[Path], fetch: Fetch | None
) -> Iterator[list[Path]]:
    """The file of each shard's last snapshot; what had to be fetched is gone afterwards.

    `own`: a run's folder, where it is written; `others`: peers' state folders. Raises NothingToExport.
    """
    folders = [own / "snapshots", *(_snapshots(folder, history.run) for folder in others)]
    with tempfile.TemporaryDirectory(prefix="shards-", dir=own) as scratch:
        wanted = dict(enumerate(history.shards or (history.snapshot,)))
        missing = {shard: name for shard, name in wanted.items() if _find(folders, name) is None}
        if missing and fetch is not None:
            fetch(manifest, missing, Path(scratch))
        files = {shard: _find([*folders, Path(scratch)], name) for shard, name in wanted.items()}
        for shard, file in files.items():
            if file is None:
                raise NothingToExport(_missing(history, shard, others, fetch is not None))
        yield [file for _, file in sorted(files.items()) if file is not None]


@contextmanager
def fetching(joins: Sequence[str], run: bytes) -> Iterator[Fetch | None]:
    """From any peers that serve them, found by way of these entry nodes; None without any.

    Entering takes seconds, in which a run moves on: read its history afterwards.
    """
    if not joins:
        yield None
        return
    from swarm.net.dht import start_dht

    common.quiet_hivemind()
    dht = start_dht(None, joins)

    def fetch(manifest: Manifest, missing: Mapping[int, bytes], folder: Path) -> None:
        asyncio.run(download(dht, run, manifest, missing, folder))

    try:
        yield fetch
    finally:
        with common.ending_at_once():
            dht.shutdown()


async def download(
    dht: Any, run: bytes, manifest: Manifest, missing: Mapping[int, bytes], folder: Path
) -> None:
    """Put these snapshots into `folder`, as far as the run's peers have them."""
    from swarm.download import fetch_snapshot
    from swarm.genesis import layouts

    shapes = layouts(manifest.model)
    peers = list((await dht.lookup(run)).values())
    for shard, name in missing.items():
        for _ in range(ATTEMPTS):
            if await fetch_snapshot(folder, name, shapes[shard], peers, lambda done, total: None):
                log.info("shard %d came from the run's peers", shard)
                break


def _snapshots(folder: Path, run: bytes) -> Path:
    for place in (folder / "runs" / run.hex() / "snapshots", folder / "snapshots"):
        if place.is_dir():
            return place
    raise NothingToExport(
        f"--from {folder}: there is no state of run {run.hex()} in it; name a peer's state folder"
    )


def _find(folders: Sequence[Path], name: bytes) -> Path | None:
    return next((path for folder in folders if (path := path_of(folder, name)).exists()), None)


def _missing(history: History, shard: int, others: Sequence[Path], asked: bool) -> str:
    if not history.shards:
        return (
            f"the snapshot of round {history.round} is not here yet: let the peer catch up "
            f"(`swarm-peer --run {history.run.hex()}`), then export again"
        )
    where = f"here{''.join(f', nor in {folder}' for folder in others)}{', and no peer serves it' * asked}"
    return (
        f"shard {shard} of {len(history.shards)} is missing: its snapshot of round {history.round}, "
        f"{history.shards[shard].hex()}, is not {where}; name the state folder of a peer that holds "
        "it with --from DIR, or an entry node of the run with --join MULTIADDR"
    )
