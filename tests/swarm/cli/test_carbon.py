"""`swarm-carbon` as a command: fast, without torch, in 80 columns, and plain about what it cannot take."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proto.errors import SwarmError
from swarm.carbon.comparison import DoesNotFit, UnknownCase
from swarm.carbon.parameters import PARAMETERS, OutOfRange, UnknownParameter
from swarm.cli import carbon
from swarm.cli.common import BadArgument
from swarm.energy.grid import CountryUnknown
from swarm.energy.reading import BadFigure
from swarm.picture import NoPlot


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "swarm.cli.carbon", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def answer(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    done = run("--json", "--samples", 200, "--state-dir", tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_it_prints_the_comparison_in_80_columns_and_draws_it(tmp_path: Path) -> None:
    done = run("--state-dir", tmp_path, "--out", tmp_path / "plots")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith("wrote ")) <= 80
    for said in (
        "1.5 to 4 times less energy",
        "3.5 to 8 times less carbon",
        "contrary",
        "does not fit",
        "docs/energy.md",
    ):
        assert said in done.stdout
    for name in ("tornado.png", "heat.png", "draws.png"):
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_every_input_is_listed_with_its_source_in_80_columns(tmp_path: Path) -> None:
    done = run("--parameters", "--set", "cloud.pue=1.1", "--state-dir", tmp_path)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line[:1].isalnum()][1 : len(PARAMETERS) + 1] == [
        p.name for p in PARAMETERS
    ]
    assert any("cloud.pue" in line and "1.1*" in line for line in lines)
    listed = answer(tmp_path, "--parameters")["parameters"]
    assert {entry["name"]: entry["source"] for entry in listed} == {p.name: p.source for p in PARAMETERS}


def test_countries_and_settings_reach_every_scenario(tmp_path: Path) -> None:
    said = answer(tmp_path, "--country", "SWE", "--cloud-country", "India", "--set", "laptop.watts=25")
    for scenario in said["scenarios"].values():
        assert (scenario["parameters"]["edge.grid"], scenario["parameters"]["cloud.grid"]) == (41, 713)
        assert scenario["parameters"]["laptop.watts"] == 25
    one = answer(tmp_path, "--country", "300")["parameters"]
    assert one["edge.grid"] == one["cloud.grid"] == 300


def test_it_needs_no_torch_and_plots_only_when_asked() -> None:
    heavy = {"torch", "matplotlib", "hivemind", "grpc", "scipy"}
    code = f"import sys, swarm.cli.carbon\nprint(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_bad_input_ends_the_command_with_a_named_error_and_no_traceback(tmp_path: Path) -> None:
    done = run("--json", "--state-dir", tmp_path, "--country", "Atlantis")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert json.loads(done.stdout)["error"] == "CountryUnknown"


@pytest.mark.parametrize(
    ("arguments", "name", "fix"),
    [
        ({"country": "Atlantis"}, CountryUnknown, "grams a kilowatt-hour"),
        ({"country": "-5"}, BadFigure, "between 0 and"),
        ({"country": "5"}, OutOfRange, "20 to 900"),
        ({"settings": ["laptop.watts=-30"]}, OutOfRange, "20 to 45"),
        ({"settings": ["laptop.wats=30"]}, UnknownParameter, "near: laptop.watts"),
        ({"settings": ["laptop.watts"]}, UnknownParameter, "name=value"),
        ({"case": "desktops-7b"}, UnknownCase, "laptops-1.3b"),
        ({"case": "phone-1.3b"}, DoesNotFit, "phones-..."),
        ({"scenario": "rosy"}, BadArgument, "paper, full, tensor, contrary"),
        ({"cloud": "tpu"}, BadArgument, "a5000, a100, h100"),
        ({"out": Path("/dev/null/plots")}, NoPlot, "another file or folder"),
    ],
    ids=str,
)
def test_bad_input_is_named_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], name: type[SwarmError], fix: str
) -> None:
    monkeypatch.setattr(carbon.common, "start_log", lambda *_: None)
    with pytest.raises(name, match=re.escape(fix)):
        carbon.carbon(samples=100, **arguments)
