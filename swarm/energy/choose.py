"""Which meters this machine has, and why these.

The promise: the choice is automatic, and every candidate that was passed over says why. The best that is
there wins: the machine's own power meter, RAPL, a battery being drained, a model with a source; else
"unavailable". What the user states (`watts`) comes before all of it but a GPU's counter.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swarm.energy import apple, cpu_model, powercap, sensors
from swarm.energy.cpu_model import CpuModel, SharedByCpuTime, Watts
from swarm.energy.nvidia import Boards, Nvidia
from swarm.energy.reading import BadFigure, Meter, MeterFailed, Unavailable


@dataclass(frozen=True)
class Choice:
    """The meters to read, one a component, and a line for each candidate."""

    meters: tuple[Meter, ...]
    why: tuple[str, ...]


@dataclass(frozen=True)
class Places:
    """Where Linux shows what it knows; a test has its own tree."""

    powercap: Path = powercap.ROOT
    supplies: Path = sensors.SUPPLIES
    hwmon: Path = sensors.HWMON
    cpuinfo: Path = cpu_model.CPUINFO


def choose(
    device: Literal["cpu", "cuda"] = "cpu",
    *,
    watts: Watts | None = None,
    shared: bool = False,
    places: Places | None = None,
    boards: Boards | None = None,
) -> Choice:
    """The meters of this machine for work on `device`. `shared`: other peers work on this machine too, so
    each counts its own part. `boards`: NVML, or a test's. Raises nothing: what cannot be had is said."""
    at, why = places or Places(), list[str]()
    meters = [_gpu(boards, shared, why)] if device == "cuda" else []
    if watts is not None:
        why.append(f"the user states {watts.idle:g} W idle and {watts.busy:g} W busy: used")
        machine = _modelled(watts, os.cpu_count() or 1, shared)
    else:
        machine = _machine(at, shared, device == "cuda", why)
    return Choice((*meters, machine), tuple(why))


def stated(idle: float | None, busy: float | None) -> Watts | None:
    """What --watts-idle and --watts-busy say: of the machine, without a GPU that is counted by itself.

    Raises BadFigure.
    """
    if idle is None and busy is None:
        return None
    if idle is None or busy is None:
        raise BadFigure("--watts-idle and --watts-busy go together: give both, or neither")
    return Watts(idle, busy, "stated by the user")


def _gpu(boards: Boards | None, shared: bool, why: list[str]) -> Meter:
    try:
        meter = Nvidia(boards)
    except MeterFailed as error:
        why.append(f"NVIDIA: {error}")
        return Unavailable(f"the GPU's energy: {error}")
    if shared:
        why.append(
            "NVIDIA: several peers work on this machine, and what a GPU does for each cannot be told apart"
        )
        return Unavailable("the GPU's energy: several peers share the machine")
    why.append(f"NVIDIA: {meter.name}: used")
    return meter


def _machine(at: Places, shared: bool, beside_gpu: bool, why: list[str]) -> Meter:
    """The meter of all but the GPU where a GPU is counted by itself, else of the whole machine."""
    candidates: list[tuple[str, Callable[[], Meter]]] = [("RAPL", lambda: powercap.Rapl(at.powercap))]
    if not beside_gpu:  # these see the GPU too, which would count twice
        candidates.insert(0, ("hwmon", lambda: sensors.Hwmon(at.hwmon)))
        candidates.append(("battery", lambda: sensors.Battery(at.supplies)))
    candidates.append(("Apple", apple.open_meter))
    for label, make in candidates:
        try:
            meter = make()
            used = SharedByCpuTime(meter) if shared else meter
        except MeterFailed as error:
            why.append(f"{label}: {error}")
            continue
        why.append(f"{label}: {used.name}: used")
        return used
    try:
        processor = cpu_model.read_processor(at.cpuinfo)
        modelled = _modelled(cpu_model.table_watts(processor), processor.threads, shared)
    except MeterFailed as error:
        why.append(f"model: {error}")
        return Unavailable(f"the machine's energy: {error}")
    why.append(f"model: {modelled.name}: used")
    return modelled


def _modelled(watts: Watts, threads: int, shared: bool) -> Meter:
    try:
        return CpuModel(watts, threads, "process" if shared else "machine")
    except MeterFailed as error:
        return Unavailable(str(error))
