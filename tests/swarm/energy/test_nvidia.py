"""GPUs by counter or by power, and the library's functions as ctypes calls them."""

import ctypes
from typing import Any

import pytest

from swarm.energy.nvidia import Nvidia
from swarm.energy.nvml import NOT_SUPPORTED, Nvml
from swarm.energy.reading import CounterBackwards, CounterUnreadable, Kind, ReadTooLate
from tests.swarm.energy.machines import Boards, Clock


def test_counters_of_several_gpus_add_up() -> None:
    boards, clock = Boards(1000.0, 500.0), Clock()
    meter = Nvidia(boards, clock=clock)
    boards.joules = [1100.0, 520.0]
    clock.now += 1
    reading = meter.read()
    assert (reading.joules, reading.kind) == (pytest.approx(120.0), Kind.MEASURED)
    assert meter.name == "NVML energy counter (Card 0, Card 1)"


def test_a_gpu_can_be_picked() -> None:
    boards, clock = Boards(0.0, 0.0), Clock()
    meter = Nvidia(boards, indices=[1], clock=clock)
    boards.joules = [50.0, 7.0]
    clock.now += 1
    assert meter.read().joules == 7.0
    with pytest.raises(CounterUnreadable, match="shows 2 GPUs"):
        Nvidia(boards, indices=[2])


def test_without_a_counter_power_is_integrated_and_less_sure() -> None:
    boards, clock = Boards(None, watts=100.0), Clock()
    meter = Nvidia(boards, clock=clock)
    boards.watts = 200.0
    clock.now += 2
    assert meter.read().joules == pytest.approx(300.0)
    assert meter.uncertainty > Nvidia(Boards(0.0)).uncertainty
    assert "power over time" in meter.name


def test_a_power_that_was_not_looked_at_for_long_is_not_guessed() -> None:
    boards, clock = Boards(None), Clock()
    meter = Nvidia(boards, clock=clock)
    clock.now += 60
    with pytest.raises(ReadTooLate, match="60 s"):
        meter.read()


def test_a_counter_that_starts_again_with_its_driver_is_an_error() -> None:
    boards, clock = Boards(1000.0), Clock()
    meter = Nvidia(boards, clock=clock)
    boards.joules = [1.0]
    clock.now += 1
    with pytest.raises(CounterBackwards):
        meter.read()


def test_a_machine_without_gpus_says_so() -> None:
    with pytest.raises(CounterUnreadable, match="0 GPUs"):
        Nvidia(Boards())


class Library:
    """libnvidia-ml.so.1 with one old and one new card."""

    def __init__(self, init: int = 0) -> None:
        self.init = init

    def nvmlInit_v2(self) -> int:
        return self.init

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: Any) -> int:
        handle._obj.value = 100 + index.value
        return 0

    def nvmlDeviceGetName(self, handle: ctypes.c_void_p, text: Any, size: ctypes.c_uint) -> int:
        text.value = f"Card {handle.value}".encode()
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, value: Any) -> int:
        value._obj.value = 2**40
        return NOT_SUPPORTED if handle.value == 100 else 0

    def nvmlDeviceGetPowerUsage(self, handle: ctypes.c_void_p, value: Any) -> int:
        value._obj.value = 75_000
        return 0


def test_the_library_is_called_as_nvidia_describes_it() -> None:
    nvml = Nvml(Library())
    assert nvml.devices() == ["Card 100", "Card 101"]
    assert (nvml.millijoules(0), nvml.millijoules(1), nvml.milliwatts(0)) == (None, 2**40, 75_000)
    assert Nvidia(nvml).name == "NVML counters and power (Card 100, Card 101)"


def test_a_driver_that_does_not_work_is_named() -> None:
    with pytest.raises(CounterUnreadable, match=r"nvmlInit_v2 .* error 9.*nvidia-smi"):
        Nvml(Library(init=9))
