"""`swarm-plan` as a command: out of the box, in 80 columns, without torch; what it cannot take it names."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from proto.errors import SwarmError
from swarm.cli import plan
from swarm.cli.common import BadArgument, CannotWrite
from swarm.energy.grid import CountryUnknown
from swarm.picture import NoPlot
from swarm.plan.cost import JobRefused
from swarm.plan.devices import DevicesRefused
from swarm.plan.plan import read_plan
from swarm.plan.search import FitsNowhere
from swarm.plan.solve import AskRefused


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "swarm.cli.plan", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def answer(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    done = run("--json", "--state-dir", tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_it_plans_the_papers_laptops_in_80_columns_and_writes_and_draws_it(tmp_path: Path) -> None:
    out, plot = tmp_path / "plan.toml", tmp_path / "plan.png"
    done = run(
        "--devices", "laptops-4", "--model", "opt-1.3b", "--out", out, "--plot", plot, "--state-dir", tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith("wrote ")) <= 80
    for said in ("proved", "laptop-4", "joules at the wall", "Assumed", "shards = 4", "docs/planning.md"):
        assert said in done.stdout
    found = read_plan(out)
    assert (found.shards, found.method, found.spares) == (4, "exact", ())
    assert tomllib.loads(out.read_text())["model"]["layers"] == list(found.layers)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_json_holds_the_plan_its_figures_and_what_a_token_costs(tmp_path: Path) -> None:
    said = answer(
        tmp_path, "--devices", "phones-2", "--model", "opt-125m", "--objective", "carbon", "--grid", "SWE"
    )
    one = said["plans"][0]
    assert one["plan"]["objective"] == "carbon"
    assert "SWE 2023" in said["grid"]
    assert one["a_token"]["joules"] * one["tokens"] == pytest.approx(one["plan"]["forecast"]["joules"][0])
    assert {device["name"] for device in said["devices"]} == {"phone"}
    assert said["devices"][0]["train_tflops"]["basis"] == "assumed"
    clean = answer(tmp_path, "--devices", "phones-2", "--model", "opt-125m", "--marginal", "--grid", "0")
    assert clean["plans"][0]["a_token"]["gco2e"] == 0


def test_the_front_is_listed_and_the_figures_with_their_sources(tmp_path: Path) -> None:
    done = run("--devices", "laptops-3", "--model", "opt-125m", "--front", "--state-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    figures = run("--devices", "laptops-3+phones-1", "--figures", "--state-dir", tmp_path)
    assert max(map(len, (done.stdout + figures.stdout).splitlines())) <= 80
    assert "no plan is better than another in everything" in done.stdout
    for said in ("train_tflops", "assumed", "[laptop.watts]", "[phone.watts]", "arXiv 2507.01803"):
        assert said in figures.stdout


def test_it_needs_no_torch_and_scipy_and_plots_only_when_asked() -> None:
    heavy = {"torch", "matplotlib", "hivemind", "grpc", "scipy", "transformers"}
    code = f"import sys, swarm.cli.plan\nprint(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_bad_input_ends_the_command_with_a_named_error_and_no_traceback(tmp_path: Path) -> None:
    done = run("--json", "--state-dir", tmp_path, "--devices", "phones-2")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert json.loads(done.stdout)["error"] == "FitsNowhere"


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        ({"devices": "tablets-3"}, DevicesRefused, "laptops-COUNT"),
        ({"devices": "phones-2"}, FitsNowhere, "GB"),
        ({"model": "opt-175b"}, JobRefused, "opt-1.3b"),
        ({"grid": "Atlantis"}, CountryUnknown, "Atlantis"),
        ({"weights": "1:2"}, BadArgument, "three numbers"),
        ({"objective": "weighted", "weights": "0:0:0"}, AskRefused, "one above it"),
        ({"objective": "weighted", "weights": "nan:1:1"}, AskRefused, "none below 0"),
        ({"replicas": 9}, AskRefused, "--replicas 9"),
        ({"slices": -1}, AskRefused, "--slices -1"),
        ({"out": Path("/proc/no/plan.toml")}, CannotWrite, "another file"),
        ({"plot": Path("/proc/no/plan.png")}, NoPlot, "another file"),
        ({"pareto": True, "out": Path("x")}, BadArgument, "choose one"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    tmp_path: Path, wrong: dict[str, Any], error: type[SwarmError], told: str
) -> None:
    model = "opt-1.3b" if error is FitsNowhere else "opt-125m"
    with pytest.raises(error, match=told) as refused:
        plan.plan(**{"devices": "laptops-3", "model": model, "state_dir": tmp_path, **wrong})
    assert refused.value.exit_code == 2
