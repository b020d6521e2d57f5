"""What verification costs: signed statements that an audit checks a second, on one core."""

import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.report import Report, Row, command_line, progress
from benchmarks.synthetic_ledger import SyntheticRun
from swarm.cli.audit_sources import audit_rules
from verify.audit import Source, audit
from verify.ledger import Ledger

PEERS = 8
GOALS = {"statements_per_second": (">=", 5000.0)}


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
    return Report("verification", figures, GOALS, (row,), notes)


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
