"""A whole plain cell round against hivemind's own all-reduce, wall time, meeting left out on both sides.

Ours: from the encoded update at every member to the decoded mean (float32) at every member: parts,
receipts, survivor set, part sums, decoding; real sessions over mutual TLS. hivemind's: from the start
of `_run_allreduce_inplace_` to its end, over its own encrypted streams. Members are processes on this
machine that start together; a round is as slow as its slowest member. The systems take turns.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from types import MappingProxyType

from benchmarks.cell import Cell
from benchmarks.hivemind_cell import BaselineFailed, HivemindCell
from benchmarks.report import Report, Row, command_line, progress, ratio

QUICK = ((4, 1_000_000),)
FULL = ((2, 1_000_000), (2, 10_000_000), (4, 1_000_000), (4, 10_000_000), (8, 1_000_000), (8, 10_000_000))
GOALS = {"wall_ratio_hivemind_fp32_n8_d10M": ("<=", 0.6)}
NOTES = (
    "A ratio is the median of our time over hivemind's, round by round in turn in this call, after one round "
    "of each that does not count (connections, TLS handshakes). cpu_ratio is the same for processor time.",
    "Included: hashing, signing, receipts, survivor set, sums, decoding to float32. Left out: training, "
    "encoding, meeting, voting, the outer step; on hivemind's side matchmaking and its load balancing.",
    "Ours moves 16-bit integers and returns the exact sum; hivemind moves float32 or float16 and adds in "
    "float32. Its float16 is therefore the like-for-like in bytes.",
)


def measure(quick: bool) -> Report:
    """Every size, with every compression of hivemind's (quick: one size, float32)."""
    figures: dict[str, float] = {}
    rows: list[Row] = []
    failures = 0
    compressions = ("fp32",) if quick else ("fp32", "fp16")
    for members, size in QUICK if quick else FULL:
        where = f"n{members}_d{size // 1_000_000}M"
        progress(f"averaging: {where}")
        wall, cpu, failed = compare(members, size, compressions, 5 if quick else 9)
        failures += failed
        for system, values in wall.items():
            rows.append(Row(f"{system} {where}", "s", tuple(values)))
            rows.append(Row(f"{system} {where} CPU", "s", tuple(cpu[system])))
        for compression in compressions:
            theirs = f"hivemind {compression}"
            figures[f"wall_ratio_hivemind_{compression}_{where}"] = ratio(wall["ours"], wall[theirs])
            figures[f"cpu_ratio_hivemind_{compression}_{where}"] = ratio(cpu["ours"], cpu[theirs])
    lost = (
        (f"{failures} of hivemind's rounds lost parts of the mean and were taken again.",) if failures else ()
    )
    return Report("averaging", figures, GOALS, tuple(rows), NOTES + lost)


def compare(
    members: int,
    size: int,
    compressions: tuple[str, ...],
    times: int,
    ours: Mapping[str, bool] = MappingProxyType({"ours": False}),
) -> tuple[dict[str, list[float]], dict[str, list[float]], int]:
    """Wall and processor seconds of `times` rounds of each system, in turn; rounds the baseline lost.

    `ours`: the names of our cells, and whether each is secure.
    """
    failures = 0
    with ExitStack() as cells:
        systems: dict[str, Cell | HivemindCell] = {}
        for name, secure in ours.items():
            systems[name] = cells.enter_context(Cell(members, size, secure))
        for name in compressions:
            systems[f"hivemind {name}"] = cells.enter_context(HivemindCell(members, size, name))
        wall: dict[str, list[float]] = {system: [] for system in systems}
        cpu: dict[str, list[float]] = {system: [] for system in systems}
        for cell in systems.values():
            warm(cell)
        while min(map(len, wall.values())) < times:
            for system, cell in systems.items():
                try:
                    seconds = cell.round()
                except BaselineFailed:
                    failures += 1
                    if failures > times:
                        raise
                    continue
                wall[system].append(seconds)
                cpu[system].append(cell.cpu)
    return wall, cpu, failures


def warm(cell: Cell | HivemindCell) -> None:
    """A round that does not count: it opens the connections."""
    try:
        cell.round()
    except BaselineFailed:
        progress("hivemind's first round lost parts")


if __name__ == "__main__":
    command_line("averaging", measure, __doc__ or "")
