"""When each device is there: made up from parameters, day by day, or read from a CSV.

The promise: a trace is a list of stretches of time, [begin, end) in seconds since the start, in order and
apart; each device's own share of the day comes out on average. Leaving at the end of a stretch is orderly (it
says goodbye), or a crash, of which nobody hears. Made-up traces depend on the seed and the device alone.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from proto.errors import SwarmError
from swarm.carbon.parameters import read_parameters

DAY = 86_400.0
MOST_ROWS = 5_000_000
ALWAYS = 0.999
"""Of the day: devices that are there so much are always there, but for crashes."""
PARAMETERS = {parameter.name: parameter for parameter in read_parameters("swarm.simulation")}
HEADER = ["device", "begin_seconds", "end_seconds"]


class TraceRefused(SwarmError):
    """A file of traces that is none, or that does not fit the devices."""


@dataclass(frozen=True)
class Stretch:
    """A device is there from `begin` to before `end`; `crash`: it goes without a word."""

    begin: float
    end: float
    crash: bool


@dataclass(frozen=True)
class Habits:
    """How devices come and go: the values of swarm/simulation/parameters.csv, in its units."""

    night_hour: float
    night_spread_hours: float
    night_zones_hours: float
    session_spread: float
    interruptions_per_hour: float
    interruption_seconds: float
    crashes_per_day: float
    crash_seconds: float


def habits(values: Mapping[str, float]) -> Habits:
    """The habits among the parameters' values."""
    return Habits(**{name: values[name.replace("_", "-")] for name in Habits.__dataclass_fields__})


def made_up(share: float, ways: Habits, seconds: float, seed: Sequence[int]) -> list[Stretch]:
    """A trace of one device that is there for `share` of the day on average, in one night of each day."""
    random = np.random.default_rng(list(seed))
    if share >= ALWAYS:
        nights = [(0.0, seconds)]
    else:
        # Interruptions take part of a night away: it is so much longer. A mean of exp is not exp of a mean.
        lost = ways.interruptions_per_hour * ways.interruption_seconds / 3600
        mean = min(0.98, share * (1 + lost)) * math.exp(-(ways.session_spread**2) / 2)
        zone = random.uniform(-0.5, 0.5) * ways.night_zones_hours
        usual = (random.normal(ways.night_hour, ways.night_spread_hours) + zone) * 3600
        nights = []
        for day in range(-1, math.ceil(seconds / DAY) + 2):
            length = min(0.99, mean * math.exp(random.normal(0.0, ways.session_spread))) * DAY
            middle = day * DAY + usual + random.normal(0.0, ways.night_spread_hours) * 3600 / 2
            nights.append((middle - length / 2, middle + length / 2))
    found: list[Stretch] = []
    for begin, end in _apart(nights):
        found += _broken(begin, end, ways, share < ALWAYS, random)
    return _within(found, seconds)


def read_traces(path: Path, devices: Sequence[str], seconds: float) -> dict[str, list[Stretch]]:
    """The traces of a CSV with the columns device, begin_seconds, end_seconds; who is not in it is never
    there. Every leave is orderly; crashes come on top of it. Raises TraceRefused."""
    known, found = set(devices), dict[str, list[tuple[float, float]]]()
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if (head := next(rows, None)) != HEADER:
                raise TraceRefused(f"{path}: its first line is {head}; write {','.join(HEADER)}")
            for number, row in enumerate(rows, 2):
                if number > MOST_ROWS or len(row) != len(HEADER):
                    raise TraceRefused(f"{path} line {number}: three columns, at most {MOST_ROWS} lines")
                if row[0] not in known:
                    raise TraceRefused(
                        f"{path} line {number}: no device {row[0]!r}; they are {devices[0]} to {devices[-1]}"
                    )
                found.setdefault(row[0], []).append(_stretch(row, f"{path} line {number}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceRefused(f"{path} cannot be read as CSV ({error}): name a UTF-8 file") from None
    for device, stretches in found.items():
        if any(after[0] < before[1] for before, after in pairwise(stretches)):
            raise TraceRefused(f"{path}: stretches of {device} overlap or are out of order; sort them")
    return {
        device: _within([Stretch(*one, False) for one in stretches], seconds)
        for device, stretches in found.items()
    }


def with_crashes(trace: Sequence[Stretch], ways: Habits, seed: Sequence[int]) -> list[Stretch]:
    """A trace with made-up crashes in it."""
    random = np.random.default_rng(list(seed))
    found = list[Stretch]()
    for one in trace:
        parts = _broken(one.begin, one.end, ways, False, random)
        if parts[-1].end == one.end:
            parts[-1] = one if len(parts) == 1 else Stretch(parts[-1].begin, one.end, one.crash)
        found += parts
    return found


def _stretch(row: list[str], where: str) -> tuple[float, float]:
    try:
        begin, end = float(row[1]), float(row[2])
    except ValueError:
        raise TraceRefused(f"{where}: {row[1]!r}, {row[2]!r} are no seconds") from None
    if not (math.isfinite(begin) and math.isfinite(end) and 0 <= begin < end):
        raise TraceRefused(f"{where}: from {begin} to {end}; a stretch begins at 0 or later and then ends")
    return begin, end


def _apart(nights: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Stretches that touch become one."""
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(nights):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined


def _broken(
    begin: float, end: float, ways: Habits, interrupted: bool, random: np.random.Generator
) -> list[Stretch]:
    """A stretch with interruptions and crashes."""
    orderly = ways.interruptions_per_hour / 3600 if interrupted else 0.0
    sudden = ways.crashes_per_day / DAY
    found, at = list[Stretch](), begin
    while at < end:
        wait = random.exponential(1 / (orderly + sudden)) if orderly + sudden else math.inf
        crash = random.random() * (orderly + sudden) < sudden
        if at + wait >= end:
            found.append(Stretch(at, end, False))
            break
        found.append(Stretch(at, at + wait, crash))
        at += wait + random.exponential(ways.crash_seconds if crash else ways.interruption_seconds)
    return found


def _within(trace: Sequence[Stretch], seconds: float) -> list[Stretch]:
    return [
        Stretch(max(0.0, one.begin), min(seconds, one.end), one.crash and one.end < seconds)
        for one in trace
        if one.end > 0 and one.begin < seconds
    ]
