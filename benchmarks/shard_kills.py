"""A demo of whole peers in shards, with kills and without: what counts, and how much is still done.

Throughput is that of the rounds in which peers may be killed: after the first, before the last quarter.
"""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chained import own_model
from benchmarks.report import progress
from benchmarks.shard_replay import Counting, lost_or_doubled
from swarm.cli.demo_run import LAST_QUARTER

MANIFEST = """[run]
rounds = {rounds}
[model]
source = "{model}"
shards = {shards}
[work]
slices = 8
sequences_per_slice = 4
window_seconds = {window}
[aggregation]
mode = "plain"
[verification]
rate = 0.0
[membership]
round_timeout_seconds = 20.0
snapshots_kept = 1000
"""


@dataclass(frozen=True)
class Ran:
    """What a demo came to. `hashes`: final snapshots that peers ended on."""

    counting: Counting
    kills: int
    attempts: int
    tokens_a_second: float
    hashes: int


def demo(*, shards: int, peers: int, rounds: int, window: float, kill_every: float | None) -> Ran:
    """Run one. Raises CalledProcessError if it ends without a summary."""
    what = "no kills" if kill_every is None else f"a kill every {kill_every:g} s"
    progress(f"shards: {peers} peers, {shards} shards, {what}")
    with tempfile.TemporaryDirectory(prefix="edgeswarm-kills-") as folder:
        model, manifest, out = (Path(folder) / name for name in ("model", "run.toml", "demo"))
        own_model(model, layers=max(2, shards), width=64, heads=4, inner=256, vocabulary=50_272)
        manifest.write_text(MANIFEST.format(rounds=rounds, model=model, shards=shards, window=window))
        command = [sys.executable, "-m", "swarm.cli.demo", "--peers", str(peers), "--manifest", str(manifest)]
        command += ["--out", str(out), "--json"]
        command += [] if kill_every is None else ["--kill-every", str(kill_every)]
        ends, code = followed(command)
        if not (out / "summary.json").exists():
            raise subprocess.CalledProcessError(code, command)
        summary = json.loads((out / "summary.json").read_text())
        states = [out / "peers" / str(number) for number in range(peers)]
        kills = sum(file.read_text().count("exit code -9") for file in (out / "logs").glob("swarm-demo*.log"))
        counting = asyncio.run(lost_or_doubled(states, bytes.fromhex(summary["run_id"]), out / "cache"))
    attempts = sum(one["attempts"] for one in summary["rounds"])
    hashes = len({one["snapshot_hash"] for one in summary["peers"]})
    return Ran(counting, kills, attempts, speed(ends, rounds), hashes)


def followed(command: list[str]) -> tuple[dict[int, tuple[float, int]], int]:
    """When each round was first said to be over, with its tokens; and the exit code."""
    ends: dict[int, tuple[float, int]] = {}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        for line in child.stdout:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "round":
                ends.setdefault(event["round"], (time.monotonic(), event["tokens"]))
    except BaseException:
        child.send_signal(signal.SIGINT)
        child.wait()
        raise
    return ends, child.wait()


def speed(ends: dict[int, tuple[float, int]], rounds: int) -> float:
    """Tokens a second after the first round, while peers are killed."""
    last = max(2, int(LAST_QUARTER * rounds))
    tokens = sum(ends[at][1] for at in range(2, last + 1))
    return tokens / (ends[last][0] - ends[1][0])
