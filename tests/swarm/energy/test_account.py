"""A round's account: by component and phase, kinds apart, and a failing meter never a zero."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.energy.account import EnergyAccount, keep_sampling
from swarm.energy.cpu_model import CpuModel, Watts
from swarm.energy.grid import Embodied, grid_of
from swarm.energy.nvidia import Nvidia
from swarm.energy.reading import BadFigure, Kind, Reading, Unavailable
from tests.swarm.energy.machines import Boards, Clock


def model(clock: Clock, watts: float = 10.0) -> CpuModel:
    """A machine that always draws the same."""
    return CpuModel(Watts(watts, watts, "a test"), 1, "machine", lambda: 0.0, clock)


def test_energy_goes_to_the_phase_it_was_used_in() -> None:
    clock = Clock()
    account = EnergyAccount([model(clock)], 0.05, clock=clock)
    for phase, seconds in (("compute", 8.0), ("checks", 2.0), ("compute", 1.0), ("wait", 4.0)):
        account.enter(phase)
        clock.now += seconds
    account.count(tokens=100, network_bytes=3_000_000)
    account.count(tokens=50, network_bytes=1_000_000)
    report = account.close()
    phases = {phase: used.joules for phase, used in report.by_phase().items()}
    assert phases == pytest.approx({"compute": 90.0, "checks": 20.0, "wait": 40.0, "network": 0.2})
    assert (report.seconds, report.tokens, report.network_bytes) == (15.0, 150, 4_000_000)
    assert report.joules_per_token == pytest.approx(150.2 / 150)


def test_a_report_begins_where_the_last_one_ended() -> None:
    clock = Clock()
    account = EnergyAccount([model(clock)], 0.0, clock=clock)
    total = 0.0
    for seconds in (1.0, 5.0, 2.5):
        clock.now += seconds
        total += account.close().joules or 0
    assert total == pytest.approx(85.0)


def test_measured_and_modelled_parts_stay_apart_and_the_total_is_the_weaker_kind() -> None:
    clock, boards = Clock(), Boards(0.0)
    account = EnergyAccount([Nvidia(boards, clock=clock), model(clock)], 0.05, clock=clock)
    account.enter("compute")
    boards.joules, clock.now = [500.0], clock.now + 10
    report = account.close()
    assert {kind: used.joules for kind, used in report.by_kind().items()} == {
        Kind.MEASURED: 500.0,
        Kind.MODELLED: 100.0,
    }
    assert (report.kind, report.joules) == (Kind.MODELLED, 600.0)


def test_one_unavailable_part_leaves_the_total_unknown_and_the_rest_known() -> None:
    clock = Clock()
    account = EnergyAccount([Unavailable("no GPU counter"), model(clock)], 0.05, grid_of("GBR"), clock=clock)
    clock.now += 10
    report = account.close()
    assert (report.kind, report.joules, report.gco2e) == (Kind.UNAVAILABLE, None, None)
    assert report.by_kind()[Kind.MODELLED].joules == pytest.approx(100.0)
    assert "no GPU counter" in report.total.source


def test_a_meter_that_fails_in_a_phase_takes_that_phase_only() -> None:
    clock, boards = Clock(), Boards(1000.0)
    account = EnergyAccount([Nvidia(boards, clock=clock)], 0.0, clock=clock)
    account.enter("compute")
    boards.joules, clock.now = [1200.0], clock.now + 1
    account.enter("checks")
    boards.joules, clock.now = [5.0], clock.now + 1  # the driver was loaded again
    account.enter("wait")
    account.sample()
    boards.joules, clock.now = [35.0], clock.now + 1
    report = account.close()
    phases = {phase: used.joules for phase, used in report.by_phase().items()}
    assert phases == {"compute": 200.0, "checks": None, "wait": 30.0, "network": 0.0}
    assert "1200000 to 5000" in report.total.source


def test_samples_in_between_change_nothing() -> None:
    def spent(samples: int) -> float:
        clock = Clock()
        account = EnergyAccount([model(clock)], 0.0, clock=clock)
        for _ in range(samples):
            clock.now += 300 / samples
            account.sample()
        return account.close().joules or 0

    assert spent(1) == pytest.approx(spent(300)) == pytest.approx(3000.0)


def test_grams_and_embodied_carbon_stand_side_by_side_with_their_sources() -> None:
    clock = Clock()
    made = Embodied(192.0, 4.0, "Boavizta")
    account = EnergyAccount([model(clock, 1000.0)], 0.0, grid_of("FRA"), made, clock)
    clock.now += 3600
    said = json.loads(json.dumps(account.close().to_json()))
    assert said["gco2e"] == pytest.approx(56.0)
    assert said["grid"] == {
        "grams_per_kwh": 56.0,
        "country": "FRA",
        "year": 2023,
        "source": "codecarbon 3.3.2, from Our World in Data",
    }
    assert said["embodied"]["amortised_gco2e"] == pytest.approx(192_000 * 3600 / (4 * 365.25 * 86400))
    assert said["embodied"]["marginal_gco2e"] == 0.0
    assert said["parts"][0]["kind"] == said["energy_kind"] == "modelled"


def test_what_cannot_be_counted_is_refused() -> None:
    account = EnergyAccount([], 0.05)
    with pytest.raises(BadFigure, match="no phase"):
        account.enter("party")
    with pytest.raises(BadFigure, match="less than 0"):
        account.count(tokens=-1)
    with pytest.raises(BadFigure, match="J/MB"):
        EnergyAccount([], -0.05)


def test_the_sampler_samples_until_it_is_cancelled() -> None:
    class Counted(Unavailable):
        reads = 0

        def read(self) -> Reading:
            self.reads += 1
            if self.reads == 5:
                raise asyncio.CancelledError
            return super().read()

    meter = Counted("none")
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(keep_sampling(EnergyAccount([meter], 0.0), every=0))
    assert meter.reads == 5


def test_the_example_of_the_documentation_runs() -> None:
    page = Path(__file__).parents[3] / "docs" / "energy.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    example += "print(report.network_bytes, report.kind)\n"
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "1500000"
