"""What verification costs: an audit's statements a second on one core; commitments and checks in a round."""

import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.report import Report, Row, command_line, progress
from benchmarks.synthetic_ledger import SyntheticRun
from swarm.cli.audit_sources import audit_rules
from swarm.manifest import parse_manifest
from verify.audit import Source, audit
from verify.ledger import Ledger

PEERS = 8
GOALS = {
    "statements_per_second": (">=", 5000.0),
    "share_of_round": ("<=", 0.06),
    "commit_share_125M": ("<=", 0.03),
}
CHECK_NOTES = (
    "share_of_round: committing, and at the default rate of 0.2, with second looks, one check as checker and "
    "one as checked, over the training of an order (4 slices of the tiny preset), which is less than a "
    "round; one thread.",
    "commit_share_125M: hashing, keeping and committing to 4 slices of OPT-125m's integers of 16 bits, over "
    "the default window; writing one while the next is computed is not counted. Bytes of a check: "
    "opened_bytes.",
)


def measure(quick: bool) -> Report:
    """An audit of a ledger of many rounds, in one process, in seconds of its processor time."""
    rounds, times = (200, 3) if quick else (10_000, 1)
    with tempfile.TemporaryDirectory() as folder:
        made = SyntheticRun(PEERS, Path(folder))
        progress(f"signing {rounds} rounds of {PEERS} peers")
        for _ in range(rounds):
            made.add_round()
        made.ledger.close()
        rates, memory = list[float](), 0.0
        for _ in range(times):  # each in a process of its own: signatures that were checked are remembered
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as one:
                count, seconds, memory = one.submit(_audited, folder, made.run, made.author).result()
            rates.append(count / seconds)
            progress(f"{count} statements, {rates[-1]:.0f} a second, {memory:.0f} MiB")
    row = Row(f"audit, {rounds} rounds of {PEERS} peers", "statements/s", tuple(rates))
    notes = (
        f"{count} signatures with parsing, tree, chain, sessions and draws; processor time of one core. "
        "A statement that comes several times (a verdict in each vote) counts once.",
    )
    figures = {"statements_per_second": row.median, "audit_memory_mib": memory}
    # They import torch, which an audit does not need.
    from benchmarks.check_cost import SIZE_125M, WINDOW, commit_seconds

    progress("one slice, one commitment, one check")
    figures |= _check_figures()
    if not quick:
        progress("a commitment at 125 M parameters")
        figures["commit_seconds_125M"] = commit_seconds(SIZE_125M)
        figures["commit_share_125M"] = figures["commit_seconds_125M"] / WINDOW
    return Report("verification", figures, GOALS, (row,), notes + CHECK_NOTES)


def _check_figures() -> dict[str, float]:
    from benchmarks.check_cost import check_seconds, slice_seconds
    from benchmarks.in_process import SLICES

    slice_, size = slice_seconds()
    opening, looking, opened, committing = check_seconds(size)
    drawn = parse_manifest(b"").verification.rate
    rate = drawn * (1 + drawn**2)  # now and then a second checker looks too
    spent = committing + rate * (slice_ + opening + looking)
    return {
        "slice_seconds": slice_,
        "commit_seconds": committing,
        "opening_seconds": opening,
        "looking_seconds": looking,
        "opened_bytes": float(opened),
        "share_of_compute": rate / SLICES,
        "share_of_round": spent / (SLICES * slice_),
    }


def _audited(folder: str, run: bytes, author: str) -> tuple[int, float, float]:
    """Statements, seconds of the processor, and the process's memory in MiB."""
    ledger = Ledger(Path(folder) / "ledger.sqlite", None, run, read_only=True)
    began = time.process_time()
    report = audit(run, [Source("synthetic", ledger, author=author)], audit_rules)
    seconds = time.process_time() - began
    assert report.ok, report.findings
    return report.statements, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    command_line("verification", measure, __doc__ or "")
