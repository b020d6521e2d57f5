"""When devices are there: shares that come out, files that are checked, seeds that repeat."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.simulation.traces import (
    DAY,
    PARAMETERS,
    Stretch,
    TraceRefused,
    habits,
    made_up,
    read_traces,
    with_crashes,
)

WAYS = habits({name: parameter.value for name, parameter in PARAMETERS.items()})
CALM = replace(WAYS, crashes_per_day=0.0, interruptions_per_hour=0.0)


@given(st.floats(0.01, 1.0), st.integers(0, 10**6), st.floats(0, 24))
def test_stretches_are_in_order_apart_and_within_the_run(share: float, seed: int, zones: float) -> None:
    trace = made_up(share, replace(WAYS, night_zones_hours=zones), 3 * DAY, (seed, 1))
    assert all(0 <= one.begin < one.end <= 3 * DAY for one in trace)
    assert all(before.end <= after.begin for before, after in pairwise(trace))
    assert trace == made_up(share, replace(WAYS, night_zones_hours=zones), 3 * DAY, (seed, 1))


@pytest.mark.parametrize("share", [0.1, 0.33, 0.6])
def test_a_devices_share_of_the_day_comes_out_on_average(share: float) -> None:
    days = 10
    there = [
        sum(
            one.end - one.begin
            for one in made_up(share, replace(WAYS, crashes_per_day=0.0), days * DAY, (7, at))
        )
        for at in range(300)
    ]
    assert sum(there) / len(there) / (days * DAY) == pytest.approx(share, rel=0.07)


def test_who_is_always_there_only_crashes() -> None:
    assert made_up(1.0, CALM, DAY, (1, 1)) == [Stretch(0.0, DAY, False)]
    often = made_up(1.0, replace(CALM, crashes_per_day=50.0), DAY, (1, 1))
    assert len(often) > 10
    assert all(one.crash for one in often[:-1])


def test_nights_of_one_country_lie_together_and_those_of_the_world_do_not() -> None:
    def at_noon(zones: float) -> int:
        ways = replace(CALM, night_zones_hours=zones)
        return sum(
            any(one.begin <= DAY / 2 < one.end for one in made_up(0.33, ways, DAY, (3, at)))
            for at in range(200)
        )

    assert at_noon(0.0) < 10
    assert at_noon(24.0) == pytest.approx(0.33 * 200, abs=25)


def test_a_file_is_read_and_crashes_come_on_top(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("device,begin_seconds,end_seconds\na-1,0,100\na-1,200,1e9\na-2,50,60\n")
    found = read_traces(file, ["a-1", "a-2", "a-3"], 1000.0)
    assert found["a-1"] == [Stretch(0.0, 100.0, False), Stretch(200.0, 1000.0, False)]
    assert "a-3" not in found
    broken = with_crashes([Stretch(0.0, DAY, False)], replace(CALM, crashes_per_day=50.0), (1, 2))
    assert sum(one.crash for one in broken) > 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("device,on,off\n", "its first line is"),
        ("device,begin_seconds,end_seconds\nb-1,0,1\n", "line 2: no device 'b-1'"),
        ("device,begin_seconds,end_seconds\na-1,0\n", "line 2: three columns"),
        ("device,begin_seconds,end_seconds\na-1,zero,1\n", "are no seconds"),
        ("device,begin_seconds,end_seconds\na-1,5,5\n", "and then ends"),
        ("device,begin_seconds,end_seconds\na-1,0,nan\n", "and then ends"),
        ("device,begin_seconds,end_seconds\na-1,0,9\na-1,5,12\n", "overlap or are out of order"),
        ("", "its first line is None"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(TraceRefused, match=said):
        read_traces(file, ["a-1"], 1000.0)
    with pytest.raises(TraceRefused, match="cannot be read"):
        read_traces(tmp_path, ["a-1"], 1000.0)
