"""The choice of meters: the best that is there, honest about the rest; also on this very machine."""

from pathlib import Path

import pytest

from swarm.energy.choose import Places, choose, stated
from swarm.energy.reading import BadFigure, Kind, between
from tests.swarm.energy.machines import EPYC, Boards, supply, zone


def machine(tmp_path: Path, cpuinfo: str = "") -> Places:
    """A machine with nothing but what a test puts there."""
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    return Places(tmp_path / "powercap", tmp_path / "power_supply", tmp_path / "hwmon", tmp_path / "cpuinfo")


def test_a_counter_goes_before_the_model_and_each_candidate_says_why(tmp_path: Path) -> None:
    places = machine(tmp_path, EPYC)
    zone(places.powercap, "intel-rapl:0", "package-0", 0)
    choice = choose(places=places)
    assert [meter.kind for meter in choice.meters] == [Kind.MEASURED]
    assert "no sensor that sees the whole machine" in choice.why[0]
    assert choice.why[-1] == "RAPL: RAPL (package-0): used"


def test_without_counters_the_table_speaks_and_calls_it_modelled(tmp_path: Path) -> None:
    choice = choose(places=machine(tmp_path, EPYC))
    assert [meter.kind for meter in choice.meters] == [Kind.MODELLED]
    assert "EPYC 4th Gen" in choice.meters[0].name


def test_where_nothing_is_known_nothing_is_invented(tmp_path: Path) -> None:
    (meter,) = choose(places=machine(tmp_path)).meters
    assert (meter.kind, meter.read().joules) == (Kind.UNAVAILABLE, None)


def test_a_gpu_and_its_machine_are_two_meters_and_none_counts_the_gpu_again(tmp_path: Path) -> None:
    places = machine(tmp_path, EPYC)
    supply(places.hwmon, "hwmon0", name="power_meter", power1_average=500_000_000)
    choice = choose("cuda", places=places, boards=Boards(0.0))
    assert [meter.kind for meter in choice.meters] == [Kind.MEASURED, Kind.MODELLED]
    assert not any("hwmon" in meter.name for meter in choice.meters)


def test_a_gpu_that_cannot_be_read_is_unavailable_and_not_left_out(tmp_path: Path) -> None:
    choice = choose("cuda", places=machine(tmp_path, EPYC), boards=Boards())
    assert choice.meters[0].kind is Kind.UNAVAILABLE


def test_peers_that_share_a_machine_each_count_their_part(tmp_path: Path) -> None:
    places = machine(tmp_path, EPYC)
    assert "of the process" in choose(places=places, shared=True).meters[0].name
    zone(places.powercap, "intel-rapl:0", "package-0", 0)
    shared = choose(places=places, shared=True).meters[0]
    assert (shared.kind, shared.name) == (Kind.MODELLED, "share by CPU time of RAPL (package-0)")
    assert choose("cuda", places=places, shared=True, boards=Boards(0.0)).meters[0].kind is Kind.UNAVAILABLE


def test_the_users_own_watts_come_first(tmp_path: Path) -> None:
    places = machine(tmp_path, EPYC)
    zone(places.powercap, "intel-rapl:0", "package-0", 0)
    (meter,) = choose(watts=stated(3, 40), places=places).meters
    assert (meter.kind, "3.0 to 40.0 W" in meter.name) == (Kind.MODELLED, True)
    gpu, rest = choose("cuda", watts=stated(3, 40), places=places, boards=Boards(0.0)).meters
    assert (gpu.kind, rest.name) == (Kind.MEASURED, meter.name)


def test_half_of_the_users_watts_are_not_enough() -> None:
    assert stated(None, None) is None
    with pytest.raises(BadFigure, match="go together"):
        stated(5.0, None)


def test_on_this_machine_the_choice_is_honest_and_readable() -> None:
    """Whatever it has: a counter that moves, a model with its table named, or a reason."""
    for meter in choose().meters:
        used = between(meter.read(), meter.read())
        assert used.kind is meter.kind
        assert (used.joules is None) == (used.kind is Kind.UNAVAILABLE)
        assert used.source
