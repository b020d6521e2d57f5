"""What every benchmark shares: its command line, the machine it ran on, goals, the table and the JSON.

A benchmark is a function from `quick` to a `Report`. Its JSON is
`{"benchmark", "command", "quick", "figures", "goals", "machine", "rows", "notes"}`: figures are numbers
by name, goals `[op, number]` by the same names, rows the repetitions behind the figures. A goal is only
judged where its figure was measured in this very call.
"""

import argparse
import json
import operator
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
}
PACKAGES = ("numpy", "torch", "transformers", "hivemind", "grpcio", "protobuf", "cryptography", "blake3")
WIDTH = 80


@dataclass(frozen=True)
class Row:
    """Repetitions of one measurement, in `unit`."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Report:
    """What a benchmark found. `notes`: what the numbers include, leave out, and fall short of."""

    name: str
    figures: dict[str, float]
    goals: dict[str, tuple[str, float]]
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    quick: bool = False
    machine: dict[str, Any] = field(default_factory=dict)

    def missed(self) -> list[str]:
        """The goals whose figure was measured and does not meet them."""
        return [
            name
            for name, (op, number) in self.goals.items()
            if name in self.figures and not OPERATORS[op](self.figures[name], number)
        ]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        values = asdict(self)
        return {"benchmark": values.pop("name"), **values}


def machine() -> dict[str, Any]:
    """The machine: processor, cores this process may use, memory in MiB, system, versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def command_line(name: str, measure: Callable[[bool], Report], promise: str) -> None:
    """Run one benchmark as a command: table on stdout, progress on stderr, JSON where asked for."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=promise.split("\n\n")[0],
        epilog=f"example: python -m benchmarks.{name} --quick --json /tmp/{name}.json",
    )
    parser.add_argument("--quick", action="store_true", help="under 2 minutes on 2 cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures, goals and machine there")
    given = parser.parse_args()
    found = measure(given.quick)
    command = f"python -m benchmarks.{name}{' --quick' if given.quick else ''}"
    report = Report(
        found.name,
        found.figures,
        found.goals,
        found.rows,
        found.notes,
        command,
        given.quick,
        machine(),
    )
    show(report)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report.to_json(), indent=1) + "\n")


def show(report: Report) -> None:
    """Print repetitions, figures against goals, and notes, in 80 columns."""
    console = Console(width=WIDTH, highlight=False)
    if report.rows:
        rows = Table(title=f"{report.name}: medians", title_justify="left", expand=True)
        for title in ("measured", "median", "least", "most", "times", "unit"):
            rows.add_column(title, justify="left" if title in ("measured", "unit") else "right")
        for row in report.rows:
            least, most = number(min(row.values)), number(max(row.values))
            rows.add_row(row.name, number(row.median), least, most, str(len(row.values)), row.unit)
        console.print(rows)
    figures = Table(title=f"{report.name}: figures", title_justify="left", expand=True)
    for title in ("figure", "value", "goal", ""):
        figures.add_column(title, justify="right" if title in ("value", "goal") else "left")
    missed = report.missed()
    for name, value in report.figures.items():
        op, goal = report.goals.get(name, ("", 0.0))
        verdict = "" if not op else "MISSED" if name in missed else "met"
        figures.add_row(name, number(value), f"{op} {number(goal)}" if op else "", verdict)
    console.print(figures)
    for note in report.notes:
        console.print(f"- {note}")


def number(value: float) -> str:
    """Four significant digits, or the integer."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def progress(text: str) -> None:
    """A line on stderr, so that a table or a pipe on stdout stays clean."""
    print(text, file=sys.stderr, flush=True)


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median ratio of repetitions that were taken in turn: a noisy moment touches both of a pair."""
    return statistics.median(a / b for a, b in zip(over, under, strict=False))
