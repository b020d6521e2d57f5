"""RAPL counts each joule once, over wrap-arounds, and says what it cannot read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.energy import powercap
from swarm.energy.counters import Counter
from swarm.energy.powercap import Rapl
from swarm.energy.reading import (
    CounterBackwards,
    CounterUnreadable,
    MeterFailed,
    MeterNotPermitted,
    ReadTooLate,
    between,
)
from tests.swarm.energy.machines import Clock, add, readable_by_root_only, zone


def intel(root: Path) -> dict[str, Path]:
    """A laptop: package with core, uncore and dram, the platform, and the package again by MMIO."""
    return {
        "package": zone(root, "intel-rapl:0", "package-0", 5_000_000),
        "core": zone(root, "intel-rapl:0:0", "core", 1_000_000),
        "uncore": zone(root, "intel-rapl:0:1", "uncore", 1_000_000),
        "dram": zone(root, "intel-rapl:0:2", "dram", 1_000_000),
        "psys": zone(root, "intel-rapl:1", "psys", 9_000_000),
        "again": zone(root, "intel-rapl-mmio:0", "package-0", 5_000_000),
    }


def test_a_package_and_its_memory_count_and_what_they_hold_or_are_held_by_does_not(tmp_path: Path) -> None:
    files, clock = intel(tmp_path), Clock()
    meter = Rapl(tmp_path, clock)
    before = meter.read()
    for counter in files.values():
        add(counter, 2_000_000)
    clock.now += 1
    assert between(before, meter.read()).joules == pytest.approx(4.0)
    assert meter.name == "RAPL (package-0, dram of package-0)"


def test_the_platform_counts_where_there_is_nothing_else(tmp_path: Path) -> None:
    counter, clock = zone(tmp_path, "intel-rapl:0", "psys", 0), Clock()
    meter = Rapl(tmp_path, clock)
    add(counter, 7_000_000)
    clock.now += 1
    assert (meter.read().joules, meter.name) == (7.0, "RAPL (psys)")


def test_the_sockets_of_a_server_add_up(tmp_path: Path) -> None:
    counters = [zone(tmp_path, f"intel-rapl:{n}", f"package-{n}", 0) for n in range(2)]
    clock = Clock()
    meter = Rapl(tmp_path, clock)
    for counter in counters:
        add(counter, 3_000_000)
    clock.now += 1
    assert meter.read().joules == 6.0


def test_a_32_bit_counter_is_followed_over_its_end(tmp_path: Path) -> None:
    """AMD's: 2^32 units of 15.3 microjoules."""
    counter, clock = zone(tmp_path, "intel-rapl:0", "package-0", 65_532_000_000, 65_532_610_987), Clock()
    meter = Rapl(tmp_path, clock)
    counter.write_text("389013")
    clock.now += 1
    assert meter.read().joules == pytest.approx(1.0)
    assert 60 < meter.longest_seconds < 70


@given(st.lists(st.integers(0, 900_000), min_size=1, max_size=30), st.integers(0, 999_999))
def test_however_it_wraps_the_counter_gives_what_was_used(steps: list[int], start: int) -> None:
    counter = Counter("zone", 1e-6, wraps_at=1_000_000, most_watts=1.0)
    count, used = start, counter.advance(start, 0.0)
    for second, step in enumerate(steps, 1):
        count = (count + step) % 1_000_000
        used += counter.advance(count, second * 0.95)
    assert used == pytest.approx(sum(steps) * 1e-6)


def test_a_counter_that_runs_backwards_is_an_error_and_not_energy(tmp_path: Path) -> None:
    counter, clock = zone(tmp_path, "intel-rapl:0", "package-0", 60_000_000_000), Clock()
    meter = Rapl(tmp_path, clock)
    before = meter.read()
    counter.write_text("1000000")
    clock.now += 1
    with pytest.raises(CounterBackwards, match="60000000000 to 1000000"):
        meter.read()
    add(counter, 5_000_000)
    clock.now += 1
    after = meter.read()
    assert after.joules == 5.0, "it goes on from there"
    with pytest.raises(MeterFailed):
        between(before, after)


def test_a_reading_that_may_have_missed_a_wrap_around_is_refused(tmp_path: Path) -> None:
    counter, clock = zone(tmp_path, "intel-rapl:0", "package-0", 0, 65_532_610_987), Clock()
    meter = Rapl(tmp_path, clock)
    add(counter, 1_000_000)
    clock.now += 600
    with pytest.raises(ReadTooLate, match="600 s since the last reading"):
        meter.read()


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    with pytest.raises(CounterUnreadable, match="no RAPL zones"):
        Rapl(tmp_path)


def test_missing_permission_is_told_with_the_command_that_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    if not readable_by_root_only(counter):  # root reads it all the same

        def deny(path: Path, least: int = 0) -> int:
            if path.name == "energy_uj":
                raise MeterNotPermitted(f"{path} may not be read by this user")
            return 1_000_000

        monkeypatch.setattr(powercap, "read_number", deny)
    with pytest.raises(MeterNotPermitted, match=r"sudo chmod a\+r .*energy_uj"):
        Rapl(tmp_path)


@pytest.mark.parametrize("content", ["", "many", "-5", "1.5", "\udcff"])
def test_a_counter_that_holds_no_number_is_refused(tmp_path: Path, content: str) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CounterUnreadable, match="energy_uj"):
        Rapl(tmp_path)


def test_a_counter_without_its_range_is_refused(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (counter.parent / "max_energy_range_uj").unlink()
    with pytest.raises(CounterUnreadable, match="wrap-around"):
        Rapl(tmp_path)
