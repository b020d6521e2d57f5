"""Batteries and board sensors: power of the whole machine, through Linux's power_supply and hwmon folders.

The promise: a battery speaks only while it is being drained and nothing else feeds the machine; of the many
hwmon sensors only those count that are known to see the whole machine. Linux Documentation/ABI/testing/
sysfs-class-power, Documentation/hwmon/sysfs-interface, Documentation/hwmon/acpi_power_meter.
"""

from collections.abc import Callable
from pathlib import Path

from swarm.energy.counters import Integrator, boot_clock, read_number, read_word
from swarm.energy.reading import CounterUnreadable, Kind, MeterFailed, MeterNotPermitted, Reading

SUPPLIES = Path("/sys/class/power_supply")
HWMON = Path("/sys/class/hwmon")
WHOLE_MACHINE = ("power_meter",)
"""hwmon drivers whose power is the machine's: ACPI 4.0 power meters."""
LONGEST_SECONDS = 10.0
BATTERY_UNCERTAINTY = 0.10
"""Assumed: fuel gauges are not specified. Losses of the charger are not in it."""
HWMON_UNCERTAINTY = 0.10
"""Assumed: firmware states an accuracy in ACPI _PMC, which hwmon shows on few machines."""


class _PowerMeter:
    """Integrates what `_watts` says."""

    kind = Kind.MEASURED
    name: str
    uncertainty: float

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._joules, self._gaps = clock, 0.0, 0
        self._power = Integrator(self.name, LONGEST_SECONDS)
        self.read()

    def read(self) -> Reading:
        try:
            self._joules += self._power.advance(self._watts(), self._clock())
        except MeterFailed:
            self._gaps += 1
            raise
        return Reading(self._joules, self._clock(), self.kind, self.name, self.uncertainty, self._gaps)

    def _watts(self) -> float:
        raise NotImplementedError


class Battery(_PowerMeter):
    """Joules that leave the batteries. Raises CounterUnreadable if there is none, or none being drained."""

    uncertainty = BATTERY_UNCERTAINTY

    def __init__(self, root: Path = SUPPLIES, clock: Callable[[], float] = boot_clock) -> None:
        self._root = root
        self._batteries = [path for path in sorted(root.glob("*")) if _is_battery(path)]
        if not self._batteries:
            raise CounterUnreadable(f"{root} has no battery")
        self.name = f"battery ({', '.join(path.name for path in self._batteries)})"
        super().__init__(clock)

    def _watts(self) -> float:
        fed = [path.name for path in sorted(self._root.glob("*")) if read_word(path / "online") == "1"]
        states = {path.name: read_word(path / "status") for path in self._batteries}
        if fed or "Discharging" not in states.values():
            self._power.forget()
            states_text = ", ".join(f"{name}: {state or 'no status'}" for name, state in states.items())
            raise CounterUnreadable(
                f"{states_text}{'; fed by ' + ', '.join(fed) if fed else ''}: a battery tells what the "
                "machine draws only while it alone feeds it; unplug the machine, or give its watts"
            )
        return sum(map(_battery_watts, self._batteries))


class Hwmon(_PowerMeter):
    """Joules of the whole machine by its own power meter. Raises CounterUnreadable, MeterNotPermitted."""

    uncertainty = HWMON_UNCERTAINTY

    def __init__(self, root: Path = HWMON, clock: Callable[[], float] = boot_clock) -> None:
        for path in sorted(root.glob("hwmon*")):
            driver = read_word(path / "name")
            if driver in WHOLE_MACHINE and read_word(path / "power1_is_battery") != "1":
                self._file, self.name = path / "power1_average", f"hwmon {driver}"
                break
        else:
            raise CounterUnreadable(
                f"{root} has no sensor that sees the whole machine ({', '.join(WHOLE_MACHINE)})"
            )
        super().__init__(clock)

    def _watts(self) -> float:
        try:
            return read_number(self._file) / 1e6
        except MeterNotPermitted:
            raise MeterNotPermitted(f"{self._file} may not be read: `sudo chmod a+r {self._file}`") from None


def _is_battery(path: Path) -> bool:
    """A mouse or a headset has a battery too, of scope Device."""
    return read_word(path / "type") == "Battery" and read_word(path / "scope") != "Device"


def _battery_watts(path: Path) -> float:
    """Microwatts if it tells them, else microamperes times microvolts; some drivers count what leaves as
    less than 0."""
    if (path / "power_now").exists():
        return abs(read_number(path / "power_now", least=-(10**9))) / 1e6
    current = abs(read_number(path / "current_now", least=-(10**9)))
    return current * read_number(path / "voltage_now") / 1e12
