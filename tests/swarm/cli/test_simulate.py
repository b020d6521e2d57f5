"""`swarm-simulate` as a command: without torch, in 80 columns, and plain about what it cannot take."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proto.errors import SwarmError
from swarm.carbon.parameters import OutOfRange, UnknownParameter
from swarm.cli import simulate as cli
from swarm.cli.common import BadArgument
from swarm.picture import NoPlot
from swarm.plan.cost import Job, JobRefused, World
from swarm.plan.devices import DevicesRefused, named_devices
from swarm.plan.plan import PlanRefused
from swarm.plan.solve import Ask, solve, stated_grid
from swarm.simulation.report import AskRefused
from swarm.simulation.traces import TraceRefused


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "swarm.cli.simulate", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.common, "start_log", lambda *_: None)


def test_it_simulates_and_draws_without_torch_in_80_columns(tmp_path: Path) -> None:
    code = (
        "import sys, swarm.cli.simulate\nprint(*{'torch', 'matplotlib', 'scipy', 'grpc'} & set(sys.modules))"
    )
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy.stdout.strip() == ""
    picture = tmp_path / "run.png"
    done = run(
        "--devices",
        "laptops-40",
        "--days",
        0.1,
        "--attackers",
        0.1,
        "--plot",
        picture,
        "--state-dir",
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("wrote")]
    assert max(map(len, lines)) <= 80
    for said in ("tokens a second", "useful share", "all of it modelled", "docs/simulation.md"):
        assert said in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_is_one_object_and_the_same_for_one_seed(here: None, capsys: Any) -> None:
    told = []
    for seed in (1, 1, 2):
        cli.simulate(devices="laptops-4+phones-6", count=60, model="opt-125m", days=0.2, seed=seed, json=True)
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1] != told[2]
    assert told[0]["devices"] == {"laptop": 24, "phone": 36}
    assert told[0]["energy_kind"] == "modelled"


def test_a_plan_is_held_to_its_forecast(here: None, tmp_path: Path, capsys: Any) -> None:
    world = World(stated_grid(369.0, "USA"))
    found = solve(Ask(named_devices("laptops-4"), Job("opt-1.3b", 512), world), "time")
    file = tmp_path / "plan.toml"
    file.write_text(found.plan.to_toml())
    cli.simulate(devices="laptops-4", plan=file, always=True, days=0.05)
    out = capsys.readouterr().out
    ratio = re.search(r"seconds +\d+ .* x ([0-9.]+)  (below|within|above)\n", out)
    assert ratio is not None
    assert 0.85 <= float(ratio[1]) <= 1.15
    assert max(map(len, out.splitlines())) <= 80


def test_the_papers_set_ups_and_the_parameters_are_told(here: None, capsys: Any) -> None:
    cli.simulate(paper=True, draws=10)
    out = capsys.readouterr().out
    assert out.count("phones-15") == out.count("laptops-4") == 2
    cli.simulate(parameters=True, settings=["crashes-per-day=2"])
    out += capsys.readouterr().out
    assert "2*" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "name", "fix"),
    [
        ({"devices": "desktops-3"}, DevicesRefused, "laptops-COUNT"),
        ({"count": 200_000}, AskRefused, "--count 200000"),
        ({"model": "opt-7b"}, JobRefused, "opt-125m"),
        ({"days": -1.0}, AskRefused, "more than 0"),
        ({"attackers": 2.0}, AskRefused, "from 0 to 1"),
        ({"settings": ["crashes=1"]}, UnknownParameter, "crashes-per-day"),
        ({"settings": ["crashes-per-day=-1"]}, OutOfRange, "0 to 10"),
        ({"settings": ["crashes-per-day=few"]}, OutOfRange, "is no number"),
        ({"plan": Path("/dev/null/plan")}, PlanRefused, "cannot be read"),
        ({"traces": Path("/dev/null/trace")}, TraceRefused, "cannot be read"),
        ({"traces": Path("/dev/null"), "always": True}, BadArgument, "one of them"),
        ({"plot": Path("/dev/null/run.png"), "days": 0.01, "always": True}, NoPlot, "another file"),
    ],
    ids=str,
)
def test_bad_input_is_named_with_its_fix(
    here: None, arguments: dict[str, Any], name: type[SwarmError], fix: str
) -> None:
    with pytest.raises(name, match=re.escape(fix)):
        cli.simulate(**arguments)


def test_a_refusal_ends_the_command_with_its_exit_code_and_no_traceback(tmp_path: Path) -> None:
    done = run("--json", "--devices", "laptops-0", "--state-dir", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert json.loads(done.stdout)["error"] == "DevicesRefused"
