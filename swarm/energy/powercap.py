"""RAPL: the energy counters of Intel's and AMD's processors, through Linux's powercap folder.

The promise: every joule once. Counted are the `package-N` zones and the `dram` zones in them. Not counted:
`core` and `uncore` (they lie inside a package), a second control type that shows the same packages
(`intel-rapl-mmio`), and `psys` (it contains the packages), unless there is nothing else.

Linux Documentation/power/powercap/powercap.rst. Since 2020 only root may read the counters (CVE-2020-8694).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swarm.energy.counters import Counter, boot_clock, read_number, read_word
from swarm.energy.reading import CounterUnreadable, Kind, MeterFailed, MeterNotPermitted, Reading

ROOT = Path("/sys/class/powercap")
ZONES = "intel-rapl:*"
"""AMD's processors are shown under this name too."""
MOST_WATTS = 1000.0
"""Of one zone, where it does not say. More than any socket sold draws; an assumption on the safe side."""
UNCERTAINTY = 0.10
"""Assumed. Khan et al. 2018 (RAPL in Action) find the readings highly correlated with plug power, Desrochers
et al. 2016 offsets in DRAM; neither gives one bound for all processors."""


@dataclass(frozen=True)
class Zone:
    """A folder of powercap, and what it says it is: package-0, dram, core, uncore, psys."""

    path: Path
    name: str


def counted_zones(root: Path) -> list[Zone]:
    """The zones whose sum is the machine's, each joule once; empty if there are none."""
    zones = [Zone(path, read_word(path / "name")) for path in sorted(root.glob(ZONES))]
    packages = [zone for zone in zones if zone.name.startswith("package")]
    memories = [zone for zone in zones if zone.name == "dram"]
    return packages + memories if packages else [zone for zone in zones if zone.name == "psys"][:1]


class Rapl:
    """Joules of the processors, and of their memory where it is counted. Not of disks, fans, supply or GPUs.

    Raises CounterUnreadable if the machine has no such counters, MeterNotPermitted.
    """

    kind = Kind.MEASURED
    uncertainty = UNCERTAINTY

    def __init__(self, root: Path = ROOT, clock: Callable[[], float] = boot_clock) -> None:
        zones = counted_zones(root)
        if not zones:
            raise CounterUnreadable(
                f"{root} has no RAPL zones (a virtual machine, or another kind of processor)"
            )
        self.name = f"RAPL ({', '.join(_label(zone) for zone in zones)})"
        self._clock, self._joules, self._gaps = clock, 0.0, 0
        self._counters = [(zone.path / "energy_uj", _counter(zone)) for zone in zones]
        self.read()

    @property
    def longest_seconds(self) -> float:
        """The time within which it must be read."""
        return min(counter.longest_seconds or float("inf") for _, counter in self._counters)

    def read(self) -> Reading:
        used, failed = 0.0, None
        for path, counter in self._counters:  # all of them, also after a failure: they start afresh together
            try:
                used += counter.advance(_read_energy(path), self._clock())
            except MeterFailed as error:
                failed = failed or error
        if failed is not None:
            self._gaps += 1
            raise failed
        self._joules += used
        return Reading(self._joules, self._clock(), self.kind, self.name, self.uncertainty, self._gaps)


def _counter(zone: Zone) -> Counter:
    try:
        wraps_at = read_number(zone.path / "max_energy_range_uj", least=1)
    except CounterUnreadable as error:
        raise CounterUnreadable(f"{error}: without it a wrap-around cannot be told from a fault") from None
    limits = sorted(zone.path.glob("constraint_*_max_power_uw"))
    stated = [int(word) / 1e6 for word in map(read_word, limits) if word.isdigit()]
    # A socket may pass its stated limit for a while.
    return Counter(_label(zone), 1e-6, wraps_at, max(MOST_WATTS, 2 * max(stated, default=0.0)))


def _label(zone: Zone) -> str:
    socket = zone.path.name.split(":")[1]
    return f"dram of package-{socket}" if zone.name == "dram" else zone.name


def _read_energy(path: Path) -> int:
    try:
        return read_number(path)
    except MeterNotPermitted:
        raise MeterNotPermitted(
            f"{path} may be read by root only: `sudo chmod a+r "
            "/sys/class/powercap/intel-rapl:*/energy_uj` allows it until the next start. Whoever can "
            "read it can, with effort, learn about secrets that other programs on this machine compute "
            "with (CVE-2020-8694): do it where you trust its users"
        ) from None
