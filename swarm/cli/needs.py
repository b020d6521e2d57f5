"""What a run asks of this machine: disk and memory, known before anything is downloaded."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from proto.errors import SwarmError
from swarm.cli.common import show_size
from swarm.manifest import Manifest
from swarm.model import build_layout
from swarm.sizes import LOGITS, PROCESS_BYTES, bytes_a_parameter
from swarm.snapshot import DiskFull, snapshot_bytes


class NotEnoughMemory(SwarmError):
    """The run needs more memory than the user allows."""


@dataclass(frozen=True)
class Needs:
    """Bytes. `disk`: all snapshots that are kept, and one that is being written."""

    parameters: int
    disk: int
    memory: int

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.1f} M parameters need about {show_size(self.memory)} of memory and "
            f"{show_size(self.disk)} of disk"
        )


def needs_of(manifest: Manifest, archive: bool = False) -> Needs:
    """What a peer needs; with `archive` it keeps the snapshots of all rounds.

    32 MiB of logits exist three times. Raises ModelRefused.
    """
    layout = build_layout(manifest.model)
    kept = manifest.run.rounds if archive else manifest.membership.snapshots_kept
    each = bytes_a_parameter(manifest.ring.dtype.itemsize)
    return Needs(
        parameters=int(layout.counts.sum()),
        disk=(kept + 1) * snapshot_bytes(layout),
        memory=PROCESS_BYTES + layout.size * each + 3 * 4 * LOGITS,
    )


def check_needs(needs: Needs, snapshots: Path, memory: int | None) -> None:
    """Raises NotEnoughMemory against the user's limit, DiskFull where `snapshots` lie."""
    if memory is not None and memory < needs.memory:
        raise NotEnoughMemory(
            f"this run needs about {show_size(needs.memory)} of memory and --memory allows "
            f"{show_size(memory)}: allow more, or join a run with a smaller model"
        )
    held = sum(file.stat().st_size for file in snapshots.glob("*.snapshot"))
    free = shutil.disk_usage(snapshots).free
    if free + held < needs.disk:
        raise DiskFull(
            f"{snapshots}: this run keeps {show_size(needs.disk)} of snapshots, {show_size(held)} are there "
            f"and {show_size(free)} are free; free some space, or choose another disk with `--state-dir DIR`"
        )
