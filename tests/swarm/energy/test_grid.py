"""Grams: a known country by year and source, a stated number, or a refusal; and what making a device
emitted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.energy.grid import SECONDS_PER_YEAR, CountryUnknown, Embodied, Grid, countries, grid_of
from swarm.energy.reading import BadFigure

KNOWN = {"GBR": 238, "USA": 369, "DEU": 381, "FRA": 56, "CHN": 582, "IND": 713, "SWE": 41}


@pytest.mark.parametrize(("country", "grams"), KNOWN.items())
def test_countries_have_the_intensity_of_the_facts(country: str, grams: float) -> None:
    grid = grid_of(country)
    assert (grid.grams_per_kwh, grid.country, grid.year) == (grams, country, 2023)
    assert "codecarbon" in str(grid)


def test_every_country_of_the_table_has_an_intensity() -> None:
    assert len(countries()) > 70
    assert all(0 < grid_of(country).grams_per_kwh < 1000 for country in countries())


def test_a_number_is_taken_as_stated() -> None:
    assert grid_of("123.5") == Grid(123.5, None, None, "stated by the user")


@pytest.mark.parametrize("text", ["Atlantis", "", "GB", "QQQ"])
def test_a_country_nobody_knows_is_refused_with_what_is_known(text: str) -> None:
    with pytest.raises(CountryUnknown, match="DEU"):
        grid_of(text)


def test_a_near_miss_is_told_what_is_near() -> None:
    with pytest.raises(CountryUnknown, match="near: Germany"):
        grid_of("Germny")


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "99999"])
def test_an_intensity_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(BadFigure, match="g/kWh"):
        grid_of(text)


def test_a_kilowatt_hour_is_3_6_megajoules() -> None:
    assert grid_of("GBR").grams(3.6e6) == 238


def test_over_its_whole_life_a_device_pays_what_it_was_made_with() -> None:
    made = Embodied(200.0, 4.0, "Boavizta")
    assert made.amortised_grams(4 * SECONDS_PER_YEAR) == pytest.approx(200_000)
    assert made.marginal_grams() == 0.0


@given(st.floats(0, 1e4), st.floats(0.1, 50), st.floats(0.1, 50), st.floats(0, 1e9))
def test_a_longer_life_never_costs_more(kilograms: float, a: float, b: float, seconds: float) -> None:
    short, long = sorted((a, b))
    more, less = (Embodied(kilograms, years, "x").amortised_grams(seconds) for years in (short, long))
    assert less <= more


@pytest.mark.parametrize(
    ("kilograms", "years", "share"), [(-1, 3, 1), (1, 0, 1), (1, 3, 1.1), (math.nan, 3, 1), (1, math.inf, 1)]
)
def test_a_device_that_cannot_be_is_refused(kilograms: float, years: float, share: float) -> None:
    with pytest.raises(BadFigure):
        Embodied(kilograms, years, "x", share)
