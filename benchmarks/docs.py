"""Writes docs/benchmarks.md from the benchmarks' JSON: `python -m benchmarks.docs [FILE_OR_DIR ...]`.

Without arguments it reads benchmarks/results/. Nothing in the page is written by hand.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.report import Report, Row, number

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
PROMISES = {
    "parity": "Four peers against one process of PyTorch on the same sequences.",
    "utilisation": "What a peer's training costs beside a bare PyTorch loop.",
    "averaging": "A whole plain cell round against hivemind's own all-reduce.",
}
HEAD = """# Benchmarks

This page is generated: `python -m benchmarks.docs` writes it from the JSON in `benchmarks/results/`, which
the commands below write with `--json FILE`. Compared systems ran in the same call, in turn; a figure is a
median. A goal stands beside its figure, and what misses its goal says so.
"""


def load(paths: Iterable[Path]) -> list[Report]:
    """The reports in these files, and in the JSON files of these folders, by benchmark."""
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    reports = []
    for file in files:
        values: dict[str, Any] = json.loads(file.read_text())
        rows = [Row(row["name"], row["unit"], tuple(row["values"])) for row in values.pop("rows")]
        goals = {name: (op, goal) for name, (op, goal) in values.pop("goals").items()}
        reports.append(Report(name=values.pop("benchmark"), goals=goals, rows=tuple(rows), **values))
    order = list(PROMISES)
    return sorted(reports, key=lambda report: (order.index(report.name), report.quick))


def page(reports: list[Report]) -> str:
    """The whole page, Markdown."""
    return "\n".join([HEAD, summary(reports), *map(section, reports)])


def summary(reports: list[Report]) -> str:
    """What meets its goal and what does not, before any detail."""
    lines = []
    for report in reports:
        for name in report.missed():
            op, goal = report.goals[name]
            value = number(report.figures[name])
            lines.append(
                f"- **Missed**: `{name}` is {value}, the goal is {op} {number(goal)} (`{report.command}`)."
            )
        unmeasured = [name for name in report.goals if name not in report.figures]
        lines += [f"- Not measured: `{name}` (`{report.command}` leaves it out)." for name in unmeasured]
    judged = sum(len(set(report.goals) & set(report.figures)) for report in reports)
    missed = sum(len(report.missed()) for report in reports)
    return "\n".join([f"{judged - missed} of {judged} measured goals are met.", *lines, ""])


def section(report: Report) -> str:
    """One benchmark: command, machine, figures against goals, repetitions, notes."""
    missed = report.missed()
    machine = report.machine
    versions = [f"{key} {machine[key]}" for key in ("python", "torch", "numpy", "hivemind", "grpcio")]
    lines = [
        f"## {report.name}{' (quick)' if report.quick else ''}",
        "",
        PROMISES[report.name],
        "",
        f"`{report.command}` on {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_mib'] // 1024} GiB, {machine['system']}; {', '.join(versions)}.",
        "",
        "| figure | value | goal | |",
        "|---|---:|---:|---|",
    ]
    for name, value in report.figures.items():
        op, goal = report.goals.get(name, ("", 0.0))
        verdict = "" if not op else "**missed**" if name in missed else "met"
        lines.append(f"| `{name}` | {number(value)} | {f'{op} {number(goal)}' if op else ''} | {verdict} |")
    if report.rows:
        lines += ["", "| measured | median | least | most | times | unit |", "|---|---:|---:|---:|---:|---|"]
    for row in report.rows:
        spread = f"{number(min(row.values))} | {number(max(row.values))}"
        lines.append(f"| {row.name} | {number(row.median)} | {spread} | {len(row.values)} | {row.unit} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in report.notes), ""])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docs", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=[HERE / "results"], metavar="FILE_OR_DIR")
    reports = load(parser.parse_args().paths)
    PAGE.write_text(page(reports))
    print(
        f"{PAGE}: {len(reports)} benchmarks, {sum(len(report.missed()) for report in reports)} goals missed"
    )


if __name__ == "__main__":
    main()
