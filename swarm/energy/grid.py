"""Grams of CO2e: of electricity, by country and year, and of making a device.

The promise: every gram has a source. A country that the table does not have is refused, never replaced by
another. Formula: ISO/IEC 21031 (SCI): C = E x I + TE x (time reserved / lifespan) x (share reserved).

>>> grid_of("gbr").grams_per_kwh, grid_of("France").country
(238.0, 'FRA')
"""

import csv
import difflib
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from proto.errors import SwarmError
from swarm.energy.reading import BadFigure

JOULES_PER_KWH = 3.6e6
SECONDS_PER_YEAR = 365.25 * 86400
SOURCE = "codecarbon 3.3.2, from Our World in Data"
MOST_GRAMS = 2000.0
"""A kilowatt-hour from the worst coal plant emits less than this."""


class CountryUnknown(SwarmError):
    """A country without an intensity in the table."""


@dataclass(frozen=True)
class Grid:
    """How much CO2e a kilowatt-hour emits. `country` is ISO 3166 alpha-3; it and `year` are None for a
    stated number."""

    grams_per_kwh: float
    country: str | None
    year: int | None
    source: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.grams_per_kwh) and 0 <= self.grams_per_kwh <= MOST_GRAMS):
            raise BadFigure(
                f"{self.grams_per_kwh} g/kWh: an intensity is between 0 and {MOST_GRAMS:.0f} g/kWh"
            )

    def grams(self, joules: float) -> float:
        """CO2e of so much electricity."""
        return joules / JOULES_PER_KWH * self.grams_per_kwh

    def __str__(self) -> str:
        where = f"{self.country} {self.year}, " if self.country else ""
        return f"{self.grams_per_kwh:g} g/kWh ({where}{self.source})"


@dataclass(frozen=True)
class Embodied:
    """What making a device emitted. Amortised: its share by time (`share`: of the device). Marginal:
    nothing, for the device exists anyway and is not made again for this work; right only as long as it does
    not wear out sooner."""

    kilograms: float
    lifetime_years: float
    source: str
    share: float = 1.0

    def __post_init__(self) -> None:
        figures = (self.kilograms, self.lifetime_years, self.share)
        if (
            not all(map(math.isfinite, figures))
            or self.kilograms < 0
            or self.lifetime_years <= 0
            or not 0 <= self.share <= 1
        ):
            raise BadFigure(
                f"{self.kilograms} kg over {self.lifetime_years} years, share {self.share}: mass is 0 or "
                "more, a lifetime above 0, a share between 0 and 1"
            )

    def amortised_grams(self, seconds: float) -> float:
        """CO2e of having the device for so long."""
        return self.kilograms * 1000 * seconds / (self.lifetime_years * SECONDS_PER_YEAR) * self.share

    def marginal_grams(self) -> float:
        """CO2e of making one device more: none is made."""
        return 0.0


def grid_of(text: str) -> Grid:
    """The grid of a country, by its ISO 3166 alpha-3 code or English name, or of a stated number of g/kWh.

    Raises CountryUnknown, BadFigure.
    """
    try:
        return Grid(float(text), None, None, "stated by the user")
    except ValueError:
        pass
    wanted = text.strip().casefold()
    for country, name, grid in _table():
        if wanted in (country.casefold(), name.casefold()):
            return grid
    near = difflib.get_close_matches(
        wanted, [word for c, n, _ in _table() for word in (c.casefold(), n.casefold())], 3
    )
    hint = (
        f"; near: {', '.join(word.upper() if len(word) == 3 else word.title() for word in near)}"
        if near
        else ""
    )
    raise CountryUnknown(
        f"{text!r} is no country of the table of intensities{hint}: give one of {' '.join(countries())}, "
        "or the number of grams a kilowatt-hour"
    )


def countries() -> tuple[str, ...]:
    """The codes that `grid_of` knows."""
    return tuple(country for country, _, _ in _table())


@cache
def _table() -> list[tuple[str, str, Grid]]:
    text = files("swarm.energy").joinpath("grid_intensities.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return [
        (
            row["country"],
            row["name"],
            Grid(float(row["grams_per_kwh"]), row["country"], int(row["year"]), SOURCE),
        )
        for row in rows
    ]
