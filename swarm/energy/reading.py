"""An amount of energy that says where it comes from, and the interface of everything that gives one.

The promise: no joule without a source, a kind and an uncertainty. What was measured, what was modelled and
what nobody knows are never added up: the type refuses. "Nobody knows" is no zero; it has no joules at all.

>>> battery = Energy(30.0, Kind.MEASURED, "battery", 0.05)
>>> (battery + Energy(10.0, Kind.MEASURED, "battery", 0.05)).joules
40.0
>>> battery + Energy(10.0, Kind.MODELLED, "radio at 0.05 J/MB", 1.0)
Traceback (most recent call last):
swarm.energy.reading.KindsMixed: measured (battery) and modelled (radio at 0.05 J/MB) energy are not added \
up: show them side by side, or call `as_one` to count all of it as the weaker kind
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from proto.errors import SwarmError

PHASES = ("compute", "checks", "wait")
"""Training and the outer step; spot checks; everything else, above all waiting for others."""


class Kind(StrEnum):
    """How an amount of energy is known."""

    MEASURED = "measured"
    MODELLED = "modelled"
    UNAVAILABLE = "unavailable"


WEAKEST_FIRST = (Kind.UNAVAILABLE, Kind.MODELLED, Kind.MEASURED)


class MeterFailed(SwarmError):
    """A meter that cannot say what was used."""


class CounterUnreadable(MeterFailed):
    """A counter's file or function gives nothing, or no number."""


class MeterNotPermitted(MeterFailed):
    """The counter is there, and this user may not read it."""


class CounterBackwards(MeterFailed):
    """A counter fell by more than its wrap-around explains."""


class ReadTooLate(MeterFailed):
    """So much time has passed since the last reading that energy may have gone by unseen."""


class KindsMixed(SwarmError):
    """Amounts of different kinds were to be added."""


class BadFigure(SwarmError):
    """A watt, joule, gram or share that cannot be meant."""


@dataclass(frozen=True)
class Energy:
    """An amount of energy. `joules` is None exactly if the kind is UNAVAILABLE; `source` then says why.

    `uncertainty` is relative: the amount is taken to lie within joules x (1 - u) and joules x (1 + u). It
    is no standard deviation; where no source gives one it is an assumption, and docs/energy.md says so.
    """

    joules: float | None
    kind: Kind
    source: str
    uncertainty: float

    def __post_init__(self) -> None:
        if (self.joules is None) != (self.kind is Kind.UNAVAILABLE):
            raise BadFigure(
                f"{self.source}: {self.kind} energy of {self.joules} J; only what is unavailable has none"
            )
        for name, value in (("joules", self.joules), ("uncertainty", self.uncertainty)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise BadFigure(f"{self.source}: {name} {value} must be a finite number of 0 or more")
        if not self.source:
            raise BadFigure(f"{self.joules} J without a source: name the meter or the model")

    def __add__(self, other: "Energy") -> "Energy":
        if other.kind is not self.kind:
            raise KindsMixed(
                f"{self.kind} ({self.source}) and {other.kind} ({other.source}) energy are not added up: "
                "show them side by side, or call `as_one` to count all of it as the weaker kind"
            )
        return as_one((self, other))


def unavailable(why: str) -> Energy:
    """Nobody knows, and why."""
    return Energy(None, Kind.UNAVAILABLE, why, 0.0)


def by_kind(amounts: Iterable[Energy]) -> dict[Kind, Energy]:
    """The sum of each kind that occurs; the sums stay apart."""
    found: dict[Kind, Energy] = {}
    for amount in amounts:
        found[amount.kind] = found[amount.kind] + amount if amount.kind in found else amount
    return found


def as_one(amounts: Iterable[Energy]) -> Energy:
    """Everything as one amount of the weakest kind among it: on purpose, never by `+` or `sum`.

    One unavailable amount makes the whole unavailable. Errors are taken to point the same way, so
    uncertainties add up, weighted by joules.
    """
    given = list(amounts)
    if not given:
        return unavailable("nothing was read")
    kind = next(kind for kind in WEAKEST_FIRST if any(amount.kind is kind for amount in given))
    if kind is Kind.UNAVAILABLE:
        return unavailable("; ".join(_once(amount.source for amount in given if amount.joules is None)))
    joules = [amount.joules or 0.0 for amount in given]
    total = math.fsum(joules)
    off = math.fsum(j * amount.uncertainty for j, amount in zip(joules, given, strict=True))
    widest = max(amount.uncertainty for amount in given)
    sources = " + ".join(_once(amount.source for amount in given))
    # Of denormal numbers a mean can come out above the largest.
    return Energy(total, kind, sources, min(off / total, widest) if total else widest)


@dataclass(frozen=True)
class Reading:
    """What a meter says: joules since it was made, at `seconds` on its clock.

    `joules` is None where the kind is UNAVAILABLE. `gaps` counts the stretches of time that the meter had
    to leave out, each of which it reported by an error.
    """

    joules: float | None
    seconds: float
    kind: Kind
    source: str
    uncertainty: float
    gaps: int = 0


def between(before: Reading, after: Reading) -> Energy:
    """What was used from one reading of a meter to a later one. Raises MeterFailed over a gap."""
    if before.source != after.source:
        raise MeterFailed(f"readings of {before.source} and of {after.source} have no difference")
    if before.joules is None or after.joules is None:
        return unavailable(after.source)
    if after.gaps != before.gaps or after.joules < before.joules:
        raise MeterFailed(f"{after.source}: part of this time was not counted")
    return Energy(after.joules - before.joules, after.kind, after.source, after.uncertainty)


class Meter(Protocol):
    """Anything that counts energy. `read` may be called from one thread at a time, as often as one likes,
    and at least every `SAMPLE_SECONDS` (swarm.energy.account); it raises MeterFailed."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def uncertainty(self) -> float: ...

    def read(self) -> Reading: ...


class Unavailable:
    """The meter of a device that nobody can measure: it says why in every reading."""

    kind = Kind.UNAVAILABLE
    uncertainty = 0.0

    def __init__(self, why: str) -> None:
        self.name = why

    def read(self) -> Reading:
        return Reading(None, 0.0, self.kind, self.name, self.uncertainty)


def _once(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
