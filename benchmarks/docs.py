"""Writes docs/benchmarks.md from the benchmarks' JSON: `python -m benchmarks.docs [FILE_OR_DIR ...]`.

Without arguments it reads benchmarks/results/. Nothing in the page is written by hand, nor in its image.
"""

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.report import Report, Row, number
from swarm.picture import new_figure, write_png

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
GROWTH = Path("images") / "secagg-growth.png"
"""Beside the page: how a peer's part of secure aggregation grows."""
PROMISES = {
    "parity": "Four peers against one process of PyTorch on the same sequences.",
    "utilisation": "What a peer's training costs beside a bare PyTorch loop.",
    "averaging": "A whole plain cell round against hivemind's own all-reduce.",
    "secagg": "Secure aggregation: processor time against Flower's SecAgg+, wall time against hivemind.",
    "tolerance": "How far honest machines are apart that compute one slice, and the least cheat from them.",
    "attacks": "Every attack against a swarm that checks, and against plain averaging.",
    "verification": "What commitments, checks and an audit cost.",
    "shards": "A model in parts: chains of peers against a bare loop, over a slow link, and with kills.",
    "shaping": "How true the emulated link is to its delay and rate, and a stream of frames over it.",
    "planning": "Plans against DT-FM's genetic algorithm, and what the paper's set-ups should take.",
    "energy": "What metering costs, and what the model says of this machine under three loads.",
    "ring": "The demo's run in a 16-bit ring, in a 32-bit ring, and averaged in fp32.",
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
    lines += ["", *(f"- {note}" for note in report.notes), ""]
    if growth(report, "cpu_seconds"):
        lines += [f"![Growth with members and elements, a peer]({GROWTH.as_posix()})", ""]
    if report.name == "ring" and not report.quick:
        lines += ["![Held-out loss of the three runs](images/ring-loss.png)", ""]
    return "\n".join(lines)


def growth(report: Report, what: str) -> dict[tuple[int, int], float]:
    """The report's growth figures of `what`, by members and elements; figures are named as in secagg.py."""
    found = {}
    for name, value in report.figures.items():
        match = re.fullmatch(rf"growth_{what}_n(\d+)_d(\d+)M", name)
        if match:
            found[int(match[1]), int(match[2]) * 1_000_000] = value
    return found


def plot_growth(report: Report, path: Path) -> None:
    """Draw processor time and bytes a peer, by members at 1M elements and by elements at 8 members: a PNG."""
    from matplotlib.ticker import LogLocator, NullFormatter

    cpu, megabytes = growth(report, "cpu_seconds"), growth(report, "megabytes")
    figure = new_figure(9, 4, dpi=130)
    panels = (
        (0, 1_000_000, 1, "members, 1M elements (16-bit ring)"),
        (1, 8, 1_000_000, "million elements, 8 members (16-bit ring)"),
    )
    for axes, (free, fixed, unit, label) in zip(figure.subplots(1, 2), panels, strict=True):
        points = sorted(point for point in cpu if point[1 - free] == fixed)
        x = [point[free] / unit for point in points]
        lines = axes.plot(x, [cpu[point] for point in points], color="#c0392b", marker="o", label="CPU")
        other = axes.twinx()
        sent = [megabytes[point] for point in points]
        lines += other.plot(x, sent, color="#2c5f8a", marker="s", linestyle="--", label="sent")
        axes.set_xlabel(label)
        axes.set_ylabel("CPU seconds a peer", color="#c0392b")
        other.set_ylabel("MB sent a peer", color="#2c5f8a")
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_minor_locator(LogLocator(subs=()))
        if free == 1:
            axes.set_yscale("log")
            other.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
            other.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(handles=lines, loc="upper left")
    figure.suptitle("Secure aggregation: what a peer's round costs")
    write_png(figure, path)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docs", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=[HERE / "results"], metavar="FILE_OR_DIR")
    reports = load(parser.parse_args().paths)
    PAGE.write_text(page(reports))
    for report in reports:
        if growth(report, "cpu_seconds"):
            plot_growth(report, PAGE.parent / GROWTH)
    print(
        f"{PAGE}: {len(reports)} benchmarks, {sum(len(report.missed()) for report in reports)} goals missed"
    )


if __name__ == "__main__":
    main()
