"""The model: between idle and busy watts, for processors that the table knows, and for no other."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.energy.cpu_model import (
    CpuModel,
    Processor,
    SharedByCpuTime,
    Watts,
    machine_busy_seconds,
    read_processor,
    table_watts,
)
from swarm.energy.reading import BadFigure, CounterUnreadable, Kind
from tests.swarm.energy.machines import EPYC, Clock

WATTS = Watts(10.0, 50.0, "a plug meter")


class Busy(Clock):
    """CPU seconds, by hand."""


def test_the_table_is_found_by_family_and_model(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(EPYC)
    watts = table_watts(read_processor(tmp_path / "cpuinfo"))
    assert (watts.idle, watts.busy) == (pytest.approx(2 * 0.739), pytest.approx(2 * 2.282))
    assert "EPYC 4th Gen, 2 threads" in watts.source


@pytest.mark.parametrize(("stepping", "generation"), [(4, "Skylake"), (7, "Cascade Lake")])
def test_processors_of_one_model_are_told_apart_by_stepping(stepping: int, generation: str) -> None:
    processor = Processor("GenuineIntel", "Intel(R) Xeon(R) Gold 6248", 6, 85, stepping, 40)
    assert table_watts(processor).source.startswith(f"{generation}, 40 threads")


@pytest.mark.parametrize(
    "processor",
    [
        Processor("AuthenticAMD", "AMD Ryzen 7 7700X", 25, 17, 1, 16),
        Processor("AuthenticAMD", "AMD EPYC 9999", 27, 1, 0, 8),
        Processor("GenuineIntel", "Intel(R) Xeon(R) Platinum", 6, 200, 1, 8),
        Processor("GenuineIntel", "Intel(R) Core(TM) i7", 6, 85, 4, 8),
    ],
)
def test_an_unknown_processor_has_no_watts(processor: Processor) -> None:
    with pytest.raises(CounterUnreadable, match="--watts-idle and --watts-busy"):
        table_watts(processor)


@pytest.mark.parametrize("text", ["", "processor : 0\nmodel name : ARMv8\n"])
def test_a_processor_that_is_not_described_has_no_watts(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    with pytest.raises(CounterUnreadable):
        read_processor(tmp_path / "cpuinfo")


@given(st.integers(1, 64), st.floats(0, 1), st.floats(0, 1e5))
def test_a_machine_lies_between_idle_and_busy(threads: int, load: float, seconds: float) -> None:
    clock, busy = Clock(), Busy()
    meter = CpuModel(WATTS, threads, "machine", busy, clock)
    clock.now += seconds
    busy.now += seconds * threads * load
    joules = meter.read().joules
    assert joules == pytest.approx(seconds * (10 + 40 * load), rel=1e-6, abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_processes_of_a_machine_never_sum_to_more_than_it(loads: list[float]) -> None:
    clock, threads, used = Clock(), len(loads), 0.0
    everybody = Busy()
    machine = CpuModel(WATTS, threads, "machine", everybody, clock)
    processes = [Busy() for _ in loads]
    meters = [CpuModel(WATTS, threads, "process", busy, clock) for busy in processes]
    clock.now += 100
    for busy, load in zip(processes, loads, strict=True):
        busy.now += 100 * load
    everybody.now += 100 * math.fsum(loads)
    used = math.fsum(meter.read().joules or 0 for meter in meters)
    whole = machine.read().joules or 0
    assert used <= whole * (1 + 1e-6)
    assert used == pytest.approx(whole) or min(loads) < 1


def test_a_process_gets_its_part_of_a_measured_machine_and_it_is_modelled() -> None:
    clock, own, everybody = Clock(), Busy(), Busy()
    whole = CpuModel(WATTS, 1, "machine", everybody, clock)
    part = SharedByCpuTime(whole, own, everybody)
    clock.now += 10
    own.now += 2
    everybody.now += 8
    reading = part.read()
    assert reading.joules == pytest.approx((10 * 10 + 40 * 8) * 2 / 8)
    assert (reading.kind, part.name.startswith("share by CPU time of")) == (Kind.MODELLED, True)


def test_time_in_the_kernel_counts_and_waiting_does_not(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 20 30 9999 888 4 6 77 0 0\ncpu0 1 2 3\n")
    assert machine_busy_seconds(tmp_path / "stat") == pytest.approx(1.6)
    with pytest.raises(CounterUnreadable, match="scope `process`"):
        machine_busy_seconds(tmp_path / "none")


@pytest.mark.parametrize(
    ("idle", "busy"), [(-1, 50), (10, -50), (60, 50), (0, 0), (math.nan, 50), (1, math.inf)]
)
def test_watts_that_cannot_be_are_refused(idle: float, busy: float) -> None:
    with pytest.raises(BadFigure, match="--watts-idle"):
        Watts(idle, busy, "stated")
