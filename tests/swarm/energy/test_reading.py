"""Energy of different kinds is never added up by accident, and "nobody knows" is never a zero."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.energy.reading import (
    BadFigure,
    Energy,
    Kind,
    KindsMixed,
    MeterFailed,
    Reading,
    Unavailable,
    as_one,
    between,
    by_kind,
    unavailable,
)

JOULES = st.floats(0, 1e12)
KNOWN = st.sampled_from([Kind.MEASURED, Kind.MODELLED])
AMOUNTS = st.builds(Energy, JOULES, KNOWN, st.sampled_from(["RAPL", "model"]), st.floats(0, 2))


@given(AMOUNTS, AMOUNTS)
def test_amounts_add_up_exactly_if_they_are_of_one_kind(a: Energy, b: Energy) -> None:
    if a.kind is b.kind:
        assert (a + b).joules == math.fsum([a.joules or 0, b.joules or 0])
        assert (a + b).kind is a.kind
    else:
        with pytest.raises(KindsMixed, match="as_one"):
            a + b


@given(AMOUNTS)
def test_what_nobody_knows_is_added_to_nothing(amount: Energy) -> None:
    with pytest.raises(KindsMixed):
        amount + unavailable("no counter")


def test_the_builtin_sum_refuses_mixed_kinds_too() -> None:
    measured, modelled = Energy(1, Kind.MEASURED, "RAPL", 0.1), Energy(1, Kind.MODELLED, "radio", 1)
    with pytest.raises(KindsMixed):
        sum([modelled, modelled], start=measured)


@given(st.lists(AMOUNTS, min_size=1))
def test_on_purpose_everything_counts_as_the_weakest_kind(amounts: list[Energy]) -> None:
    one = as_one(amounts)
    all_measured = all(amount.kind is Kind.MEASURED for amount in amounts)
    assert one.kind is (Kind.MEASURED if all_measured else Kind.MODELLED)
    assert one.joules == math.fsum(amount.joules or 0 for amount in amounts)
    assert one.uncertainty <= max(amount.uncertainty for amount in amounts) * (1 + 1e-9)


@given(st.lists(AMOUNTS))
def test_one_unknown_part_makes_the_whole_unknown(amounts: list[Energy]) -> None:
    one = as_one([*amounts, unavailable("the GPU: no driver")])
    assert (one.joules, one.kind, one.source) == (None, Kind.UNAVAILABLE, "the GPU: no driver")


@given(st.lists(AMOUNTS))
def test_kinds_stay_apart_in_a_table(amounts: list[Energy]) -> None:
    assert {kind: sums.kind for kind, sums in by_kind(amounts).items()} == {a.kind: a.kind for a in amounts}


@pytest.mark.parametrize(
    ("joules", "kind", "source", "uncertainty"),
    [
        (None, Kind.MEASURED, "RAPL", 0.1),
        (0.0, Kind.UNAVAILABLE, "RAPL", 0.1),
        (-1.0, Kind.MEASURED, "RAPL", 0.1),
        (math.nan, Kind.MEASURED, "RAPL", 0.1),
        (math.inf, Kind.MEASURED, "RAPL", 0.1),
        (1.0, Kind.MEASURED, "", 0.1),
        (1.0, Kind.MEASURED, "RAPL", -0.1),
    ],
)
def test_an_amount_that_cannot_be_meant_is_refused(
    joules: float | None, kind: Kind, source: str, uncertainty: float
) -> None:
    with pytest.raises(BadFigure):
        Energy(joules, kind, source, uncertainty)


def test_a_difference_over_a_gap_is_refused() -> None:
    before = Reading(10.0, 0.0, Kind.MEASURED, "RAPL", 0.1, gaps=0)
    with pytest.raises(MeterFailed, match="not counted"):
        between(before, Reading(30.0, 9.0, Kind.MEASURED, "RAPL", 0.1, gaps=1))
    assert between(before, Reading(30.0, 9.0, Kind.MEASURED, "RAPL", 0.1)).joules == 20.0


def test_an_unavailable_meter_says_why_and_never_zero() -> None:
    meter = Unavailable("no counter here")
    used = between(meter.read(), meter.read())
    assert (used.joules, used.source) == (None, "no counter here")
