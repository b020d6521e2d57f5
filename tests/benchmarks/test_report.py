"""A figure that misses its goal says so, in the table's verdict and on the generated page."""

import json
from pathlib import Path

import pytest

from benchmarks.docs import load, page
from benchmarks.report import Report, Row, machine, ratio

REPORT = Report(
    "averaging",
    {"slow": 0.7, "exact": 1.0, "unjudged": 3.0},
    {"slow": ("<=", 0.6), "exact": ("==", 1.0), "elsewhere": (">=", 5.0)},
    (Row("ours", "s", (1.0, 3.0, 2.0)),),
    ("what is left out",),
    "python -m benchmarks.averaging",
    machine=machine(),
)


def test_only_measured_figures_are_judged() -> None:
    assert REPORT.missed() == ["slow"]


def test_the_page_names_what_is_missed_and_what_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "averaging.json").write_text(json.dumps(REPORT.to_json()))
    text = page(load([tmp_path]))
    assert "**Missed**: `slow` is 0.7, the goal is <= 0.6" in text
    assert "Not measured: `elsewhere`" in text
    assert "1 of 2 measured goals are met." in text
    assert "| ours | 2 | 1 | 3 | 3 | s |" in text


def test_a_ratio_pairs_repetitions_that_were_taken_in_turn() -> None:
    assert ratio([1.0, 20.0, 3.0], [2.0, 40.0, 6.0]) == pytest.approx(0.5)
