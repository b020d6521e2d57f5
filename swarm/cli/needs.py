"""What a run asks of this machine: disk and memory, known before anything is downloaded."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from proto.errors import SwarmError
from swarm.cli.common import show_size
from swarm.genesis import layouts
from swarm.manifest import Manifest
from swarm.shards.needs import shard_needs, vector_bytes
from swarm.sizes import LOGITS, PROCESS_BYTES
from swarm.snapshot import DiskFull, snapshot_bytes


class NotEnoughMemory(SwarmError):
    """The run needs more memory than the user allows."""


@dataclass(frozen=True)
class Needs:
    """Bytes. `disk`: all snapshots that are kept, and one being written. `of`: the shard, if it is one."""

    parameters: int
    disk: int
    memory: int
    of: str = ""

    def __str__(self) -> str:
        return (
            f"{self.of and f'{self.of}: '}{self.parameters / 1e6:.1f} M parameters need about "
            f"{show_size(self.memory)} of memory and {show_size(self.disk)} of disk"
        )


def needs_of(manifest: Manifest, archive: bool = False, shard: int = 0) -> Needs:
    """What a peer of a shard needs; with `archive` it keeps the snapshots of all rounds. Raises ModelRefused.

    Besides what is as long as the vector, 32 MiB of logits exist three times, where the head is.
    """
    count = manifest.model.shards
    layout = layouts(manifest.model)[shard]
    kept = manifest.run.rounds if archive else manifest.membership.snapshots_kept
    memory = PROCESS_BYTES + vector_bytes(manifest, layout) + 3 * 4 * LOGITS
    return Needs(
        parameters=int(layout.counts.sum()),
        disk=(kept + 1) * snapshot_bytes(layout),
        memory=memory if count == 1 else shard_needs(manifest)[shard].memory,
        of="" if count == 1 else f"shard {shard} of {count}",
    )


def check_needs(needs: Needs, snapshots: Path, memory: int | None) -> None:
    """Raises NotEnoughMemory against the user's limit, DiskFull where `snapshots` lie."""
    if memory is not None and memory < needs.memory:
        smaller = "join a run with more shards" if needs.of else "join a run with a smaller model"
        raise NotEnoughMemory(
            f"{needs.of or 'this run'} needs about {show_size(needs.memory)} of memory and --memory allows "
            f"{show_size(memory)}: allow more, or {smaller}"
        )
    held = sum(file.stat().st_size for file in snapshots.glob("*.snapshot"))
    free = shutil.disk_usage(snapshots).free
    if free + held < needs.disk:
        raise DiskFull(
            f"{snapshots}: this run keeps {show_size(needs.disk)} of snapshots, {show_size(held)} are there "
            f"and {show_size(free)} are free; free some space, or choose another disk with `--state-dir DIR`"
        )
