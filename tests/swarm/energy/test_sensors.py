"""A battery speaks only while it alone feeds the machine; of hwmon only the whole machine's meter counts."""

from pathlib import Path

import pytest

from swarm.energy.reading import CounterUnreadable, MeterFailed
from swarm.energy.sensors import Battery, Hwmon
from tests.swarm.energy.machines import Clock, supply


def laptop(root: Path, status: str = "Discharging", online: int = 0) -> Path:
    supply(root, "AC", type="Mains", online=online)
    return supply(root, "BAT0", type="Battery", status=status, power_now=12_000_000)


def test_what_leaves_a_battery_is_integrated(tmp_path: Path) -> None:
    battery, clock = laptop(tmp_path), Clock()
    meter = Battery(tmp_path, clock)
    (battery / "power_now").write_text("18000000")
    clock.now += 2
    assert meter.read().joules == pytest.approx(30.0)


def test_current_and_voltage_do_as_well_whatever_their_sign(tmp_path: Path) -> None:
    supply(
        tmp_path, "battery", type="Battery", status="Discharging", current_now=-500_000, voltage_now=4_000_000
    )
    clock = Clock()
    meter = Battery(tmp_path, clock)
    clock.now += 3
    assert meter.read().joules == pytest.approx(6.0)


@pytest.mark.parametrize(("status", "online"), [("Charging", 1), ("Full", 1), ("Discharging", 1), ("", 0)])
def test_on_mains_a_battery_says_nothing(tmp_path: Path, status: str, online: int) -> None:
    laptop(tmp_path, status, online)
    with pytest.raises(CounterUnreadable, match="unplug the machine"):
        Battery(tmp_path)


def test_plugging_in_leaves_a_gap_and_no_energy(tmp_path: Path) -> None:
    battery, clock = laptop(tmp_path), Clock()
    meter = Battery(tmp_path, clock)
    (battery / "status").write_text("Charging")
    clock.now += 5
    with pytest.raises(MeterFailed):
        meter.read()
    (battery / "status").write_text("Discharging")
    clock.now += 5
    after = meter.read()
    assert (after.joules, after.gaps) == (0.0, 1)


def test_a_mouse_is_no_machine(tmp_path: Path) -> None:
    supply(tmp_path, "mouse", type="Battery", scope="Device", status="Discharging", power_now=1)
    with pytest.raises(CounterUnreadable, match="no battery"):
        Battery(tmp_path)


def test_of_all_sensors_only_the_machines_own_meter_counts(tmp_path: Path) -> None:
    supply(tmp_path, "hwmon0", name="coretemp", power1_average=999_000_000)
    supply(tmp_path, "hwmon1", name="power_meter", power1_average=100_000_000)
    clock = Clock()
    meter = Hwmon(tmp_path, clock)
    clock.now += 2
    assert meter.read().joules == pytest.approx(200.0)
    with pytest.raises(CounterUnreadable, match="whole machine"):
        Hwmon(tmp_path / "hwmon0")
