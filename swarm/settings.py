"""What the user chose for one peer; the rest is the run's manifest."""

from dataclasses import dataclass
from pathlib import Path

from swarm.energy.account import EnergyAccount
from swarm.energy.grid import Embodied, Grid
from swarm.energy.reading import Meter
from swarm.manifest import Manifest
from swarm.shards.placement import MOST_MEMORY


@dataclass(frozen=True)
class Settings:
    """`data`: the peer's own text. `archive`: whether every snapshot is kept. `meters`, `grid`, `embodied`:
    of its account of energy; without meters it claims none. `memory`: bytes that a shard may take."""

    data: Path | None = None
    cache: Path = Path("cache")
    device: str = "cpu"
    threads: int = 1
    invitation: bytes | None = None
    archive: bool = False
    meters: tuple[Meter, ...] = ()
    grid: Grid | None = None
    embodied: Embodied | None = None
    memory: int = MOST_MEMORY

    def account(self, manifest: Manifest) -> EnergyAccount:
        """An account of what this peer will use."""
        price = manifest.energy.joules_per_megabyte
        return EnergyAccount(self.meters, price, self.grid, self.embodied)
