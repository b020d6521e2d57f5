"""A model of a machine without counters: between its idle and busy watts, by how busy its processors are.

The promise: it models only what a table with a source knows, or what its owner says; an unknown processor
has no watts here. Straight line between the two ends, as Cloud Carbon Footprint has it; a measured server
(codecarbon's load profile of an EPYC 8024P) lies up to 45 % above such a line from 60 % load on, and more
below.
"""

import csv
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from swarm.energy.counters import boot_clock
from swarm.energy.reading import BadFigure, CounterUnreadable, Kind, Meter, Reading

CPUINFO, STAT = Path("/proc/cpuinfo"), Path("/proc/stat")
UNCERTAINTY = 0.5
"""Assumed, from the measured load profile above and the spread of servers of one generation."""
TABLE = "Cloud Carbon Footprint, from SPECpower"
MOST_WATTS = 100_000.0

Scope = Literal["machine", "process"]


@dataclass(frozen=True)
class Watts:
    """Of a whole machine, idle and with every processor busy. Raises BadFigure."""

    idle: float
    busy: float
    source: str
    uncertainty: float = UNCERTAINTY

    def __post_init__(self) -> None:
        if not 0 <= self.idle <= self.busy <= MOST_WATTS or self.busy == 0:
            raise BadFigure(
                f"idle {self.idle} W and busy {self.busy} W: watts are 0 or more, busy at least idle and "
                f"above 0, and at most {MOST_WATTS:.0f}; check --watts-idle and --watts-busy"
            )


@dataclass(frozen=True)
class Processor:
    """As /proc/cpuinfo describes it. `threads`: logical processors."""

    vendor: str
    name: str
    family: int
    model: int
    stepping: int
    threads: int


def read_processor(cpuinfo: Path = CPUINFO) -> Processor:
    """This machine's processor. Raises CounterUnreadable."""
    try:
        text = cpuinfo.read_text()
    except OSError as error:
        raise CounterUnreadable(f"{cpuinfo}: {error.strerror}; the processor is not known") from None
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    threads = sum(line.startswith("processor") for line in text.splitlines())
    try:
        family, model, stepping = (int(fields[key]) for key in ("cpu family", "model", "stepping"))
        return Processor(fields["vendor_id"], fields["model name"], family, model, stepping, threads)
    except (KeyError, ValueError):
        name = fields.get("model name") or fields.get("Hardware") or "a processor without a name"
        raise CounterUnreadable(f"{cpuinfo} describes {name}, for which there is no table of watts") from None


def table_watts(processor: Processor) -> Watts:
    """The table's watts for all threads of the processor. Raises CounterUnreadable if it is not in it."""
    for row in _table():
        if (
            row["vendor"] == processor.vendor
            and row["brand"] in processor.name
            and int(row["family"]) == processor.family
            and processor.model in _span(row["models"])
            and processor.stepping in _span(row["steppings"])
        ):
            each = (float(row["idle_watts"]), float(row["busy_watts"]))
            source = f"{row['generation']}, {processor.threads} threads: {TABLE}"
            return Watts(each[0] * processor.threads, each[1] * processor.threads, source)
    raise CounterUnreadable(
        f"{processor.name} (family {processor.family}, model {processor.model}) is not in the table of "
        "watts: give --watts-idle and --watts-busy, from a plug meter or the maker's data"
    )


def machine_busy_seconds(stat: Path = STAT) -> float:
    """CPU seconds in use by anybody since the machine started, over all threads. Raises CounterUnreadable."""
    try:
        words = stat.read_text().split("\n", 1)[0].split()
        user, nice, system, _idle, _iowait, irq, softirq = map(int, words[1:8])
    except (OSError, ValueError):
        raise CounterUnreadable(
            f"{stat} does not tell how busy the machine is; give scope `process`"
        ) from None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def process_busy_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system


class CpuModel:
    """Modelled joules. Scope `machine`: idle watts all the time, and more by its use. Scope `process`: full
    watts of a thread for every CPU second of this process, and nothing for idling: the sum over the
    processes of a machine is then at most the machine's. `busy_seconds` counts CPU seconds; `threads`: how
    many at once.
    """

    kind = Kind.MODELLED

    def __init__(
        self,
        watts: Watts,
        threads: int,
        scope: Scope = "machine",
        busy_seconds: Callable[[], float] | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        if threads < 1:
            raise BadFigure(f"{threads} threads: a machine has at least one")
        self.uncertainty = watts.uncertainty
        self.name = f"model {watts.idle:.1f} to {watts.busy:.1f} W of the {scope} ({watts.source})"
        self._watts, self._threads, self._scope, self._clock = watts, threads, scope, clock
        self._busy = busy_seconds or (machine_busy_seconds if scope == "machine" else process_busy_seconds)
        self._start = (self._clock(), self._busy())

    def read(self) -> Reading:
        now = self._clock()
        wall, busy = now - self._start[0], self._busy() - self._start[1]
        if self._scope == "machine":
            joules = self._watts.idle * wall + (self._watts.busy - self._watts.idle) * busy / self._threads
        else:
            joules = self._watts.busy * busy / self._threads
        return Reading(joules, now, self.kind, self.name, self.uncertainty)


class SharedByCpuTime:
    """A process's part of what a meter of the whole machine counts, by CPU time: modelled, even if the whole
    is measured. What goes by while nobody computes is nobody's."""

    kind = Kind.MODELLED

    def __init__(
        self,
        meter: Meter,
        own: Callable[[], float] = process_busy_seconds,
        everybody: Callable[[], float] = machine_busy_seconds,
    ) -> None:
        self.name = f"share by CPU time of {meter.name}"
        self.uncertainty = max(meter.uncertainty, UNCERTAINTY)
        self._meter, self._own, self._all = meter, own, everybody
        self._joules, self._last = 0.0, (meter.read(), own(), everybody())

    def read(self) -> Reading:
        whole, own, everybody = self._meter.read(), self._own(), self._all()
        before, self._last = self._last, (whole, own, everybody)
        used, busy = (whole.joules or 0.0) - (before[0].joules or 0.0), everybody - before[2]
        if busy > 0:  # the machine's clock ticks in hundredths of a second, the process's in nanoseconds
            self._joules += used * min(1.0, (own - before[1]) / busy)
        return Reading(self._joules, whole.seconds, self.kind, self.name, self.uncertainty, whole.gaps)


@cache
def _table() -> list[dict[str, str]]:
    text = files("swarm.energy").joinpath("cpu_watts.csv").read_text()
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def _span(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)
