"""What a round of work took: energy by component and phase, bytes on the network, and what that emitted.

The promise: a report is a sum of parts, each with its source, kind and uncertainty; a meter that fails in a
phase makes that part unavailable, and nothing else. `EnergyReport` is plain data: what a peer signs is made
from it elsewhere.

>>> from swarm.energy.reading import Unavailable
>>> account = EnergyAccount([Unavailable("no counter")], joules_per_megabyte=0.05)
>>> account.enter("compute")
>>> account.count(tokens=8192, network_bytes=2_000_000)
>>> report = account.close()
>>> report.kind.value, report.joules, report.by_kind()[Kind.MODELLED].joules
('unavailable', None, 0.1)
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from swarm.energy.grid import Embodied, Grid
from swarm.energy.reading import (
    PHASES,
    BadFigure,
    Energy,
    Kind,
    Meter,
    MeterFailed,
    Reading,
    as_one,
    between,
    by_kind,
    unavailable,
)

NETWORK = "network"
NETWORK_UNCERTAINTY = 1.0
"""The paper's 0.05 J/MB is 0.5 W at 10 MB/s; a vendor gives 1 to 17 J/MB: not even the order is known."""
SAMPLE_SECONDS = 1.0
"""Between two readings: within the wrap-around of any counter, and short enough for a power to be steady."""


@dataclass(frozen=True)
class Part:
    """One component in one phase. `component`: the meter's name, or NETWORK."""

    component: str
    phase: str
    energy: Energy


@dataclass(frozen=True)
class EnergyReport:
    """A peer's account of a round. `network_bytes` counts what was sent and what was received."""

    seconds: float
    tokens: int
    parts: tuple[Part, ...]
    network_bytes: int
    joules_per_megabyte: float
    grid: Grid | None
    embodied: Embodied | None

    def by_kind(self) -> dict[Kind, Energy]:
        """The parts' sums, measured and modelled apart."""
        return by_kind(part.energy for part in self.parts)

    def by_phase(self) -> dict[str, Energy]:
        """Each phase's energy, as the weakest kind in it."""
        phases = dict.fromkeys(part.phase for part in self.parts)
        return {phase: as_one(part.energy for part in self.parts if part.phase == phase) for phase in phases}

    @property
    def total(self) -> Energy:
        """All parts as one amount of the weakest kind among them, by `as_one`."""
        return as_one(part.energy for part in self.parts)

    @property
    def kind(self) -> Kind:
        return self.total.kind

    @property
    def joules(self) -> float | None:
        """Of `total`; None if any part is unavailable."""
        return self.total.joules

    @property
    def joules_per_token(self) -> float | None:
        return None if self.joules is None or not self.tokens else self.joules / self.tokens

    @property
    def gco2e(self) -> float | None:
        """Grams from the electricity of `total`; None without joules or grid."""
        return None if self.joules is None or self.grid is None else self.grid.grams(self.joules)

    @property
    def embodied_amortised_gco2e(self) -> float | None:
        return None if self.embodied is None else self.embodied.amortised_grams(self.seconds)

    @property
    def embodied_marginal_gco2e(self) -> float | None:
        return None if self.embodied is None else self.embodied.marginal_grams()

    def to_json(self) -> dict[str, Any]:
        """Every figure with its source, as JSON values."""
        total = self.total
        return {
            "joules": total.joules,
            "energy_kind": total.kind.value,
            "energy_source": total.source,
            "energy_uncertainty": total.uncertainty,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "parts": [
                {
                    "component": part.component,
                    "phase": part.phase,
                    "joules": part.energy.joules,
                    "kind": part.energy.kind.value,
                    "source": part.energy.source,
                    "uncertainty": part.energy.uncertainty,
                }
                for part in self.parts
            ],
            "network_bytes": self.network_bytes,
            "joules_per_megabyte": self.joules_per_megabyte,
            "gco2e": self.gco2e,
            "grid": None
            if self.grid is None
            else {
                "grams_per_kwh": self.grid.grams_per_kwh,
                "country": self.grid.country,
                "year": self.grid.year,
                "source": self.grid.source,
            },
            "embodied": None
            if self.embodied is None
            else {
                "amortised_gco2e": self.embodied_amortised_gco2e,
                "marginal_gco2e": self.embodied_marginal_gco2e,
                "kilograms": self.embodied.kilograms,
                "lifetime_years": self.embodied.lifetime_years,
                "source": self.embodied.source,
            },
        }


class EnergyAccount:
    """Adds up what meters say, by phase, until `close` makes a report of it and begins anew.

    Not thread-safe: it lives on the event loop, like the round. `clock` gives seconds.
    """

    def __init__(
        self,
        meters: Sequence[Meter],
        joules_per_megabyte: float,
        grid: Grid | None = None,
        embodied: Embodied | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not (math.isfinite(joules_per_megabyte) and joules_per_megabyte >= 0):
            raise BadFigure(f"{joules_per_megabyte} J/MB: must be a finite number of 0 or more")
        self._meters, self._price, self._grid, self._embodied = (
            tuple(meters),
            joules_per_megabyte,
            grid,
            embodied,
        )
        self._clock, self._phase = clock, "wait"
        self._last: dict[int, Reading | None] = dict.fromkeys(range(len(self._meters)))
        self._begin()
        self.sample()

    def enter(self, phase: str) -> None:
        """The phase from now on, one of PHASES."""
        if phase not in PHASES:
            raise BadFigure(f"{phase!r} is no phase of energy: {', '.join(PHASES)}")
        if phase != self._phase:
            self.sample()
            self._phase = phase

    def count(self, tokens: int = 0, network_bytes: int = 0) -> None:
        """So many tokens were trained on, so many bytes sent or received. Raises BadFigure."""
        if tokens < 0 or network_bytes < 0:
            raise BadFigure(f"{tokens} tokens and {network_bytes} bytes: neither can be less than 0")
        self._tokens += tokens
        self._bytes += network_bytes

    def sample(self) -> None:
        """Read every meter now; at least every SAMPLE_SECONDS (`keep_sampling`)."""
        for at, meter in enumerate(self._meters):
            before = self._last[at]
            try:
                self._last[at] = now = meter.read()
                used = None if before is None else between(before, now)
            except MeterFailed as error:
                self._last[at], used = None, unavailable(f"{meter.name}: {error}")
            if used is not None:
                self._spent.setdefault((at, self._phase), []).append(used)
                if len(self._spent[at, self._phase]) > 64:
                    self._spent[at, self._phase] = [as_one(self._spent[at, self._phase])]

    def close(self) -> EnergyReport:
        """The report since the last one, or since the account was opened."""
        self.sample()
        parts = [
            Part(meter.name, phase, as_one(self._spent[at, phase]))
            for at, meter in enumerate(self._meters)
            for phase in PHASES
            if (at, phase) in self._spent
        ]
        network = Energy(
            self._bytes / 1e6 * self._price, Kind.MODELLED, f"{self._price:g} J/MB", NETWORK_UNCERTAINTY
        )
        report = EnergyReport(
            seconds=self._clock() - self._since,
            tokens=self._tokens,
            parts=(*parts, Part(NETWORK, NETWORK, network)),
            network_bytes=self._bytes,
            joules_per_megabyte=self._price,
            grid=self._grid,
            embodied=self._embodied,
        )
        self._begin()
        return report

    def _begin(self) -> None:
        self._since, self._tokens, self._bytes = self._clock(), 0, 0
        self._spent: dict[tuple[int, str], list[Energy]] = {}


async def keep_sampling(account: EnergyAccount, every: float = SAMPLE_SECONDS) -> None:
    """Samples for as long as the task lives."""
    while True:
        account.sample()
        await asyncio.sleep(every)
