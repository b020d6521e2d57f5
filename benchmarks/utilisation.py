"""What a peer's training costs beside a bare PyTorch loop, how much of a round is training, and memory.

`train_tokens_ratio`: tokens a second of a peer's train phase (`Compute`: gradients, encoding, summing,
commitment) over those of a bare loop: the same model, batches and microbatches, forward, backward and,
for each order, one step of torch.optim.AdamW. One thread each, in one process, taking turns.
`train_share`: the train phase over the wall time of whole rounds in a demo of real peers.
`peer_memory_mib`: the largest peer of that demo with all its processes, shared pages counted once.
"""

import asyncio
import json
import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from platformdirs import user_cache_path
from transformers import OPTForCausalLM

from benchmarks.processes import memory_mib, tree
from benchmarks.report import Report, Row, command_line, progress, ratio
from swarm.compute import Compute
from swarm.data import Dataset, load_dataset
from swarm.manifest import parse_manifest
from swarm.model import FROZEN, build_model, layout_of, load_vector, read_vector
from swarm.order import Order
from swarm.sizes import rows_at_once
from swarm.snapshot import first_snapshot

CACHE = user_cache_path("edgeswarm") / "benchmarks"
GOALS = {"train_tokens_ratio": (">=", 0.95)}
WINDOW = 30.0
DEMO = f"""[run]
rounds = 4
[work]
slices = 32
sequences_per_slice = 32
window_seconds = {WINDOW}
[membership]
round_timeout_seconds = 20.0
"""
NOTES = (
    "Both sides: the tiny preset on MMLU, orders of one slice of 16 sequences, the same microbatches, "
    "k_proj.bias frozen, one thread of one process, the peer's (glibc's heaps alone make two differ by 5 %).",
    "The bare loop makes a step of AdamW an order, bare_step_share of its time; a peer's outer step is "
    "another phase. Once a round a peer also measures the held-out loss of its snapshot, before the window "
    "opens: train_share counts it, train_tokens_ratio does not.",
)
DEMO_NOTE = (
    f"train_share and peer_memory_mib: a demo of 4 peers on this machine, a window of {WINDOW:g} s; the "
    "train phase over the wall time of rounds 2 and later.",
)


def measure(quick: bool) -> Report:
    """Peer and bare loop in turn; without `quick` also a demo of real peers."""
    times = 16 if quick else 60
    figures, rows = asyncio.run(compare(times))
    if quick:
        return Report("utilisation", figures, GOALS, rows, NOTES)
    progress("utilisation: a demo with a 30 s window")
    return Report("utilisation", figures | demo_figures(), GOALS, rows, NOTES + DEMO_NOTE)


async def compare(times: int) -> tuple[dict[str, float], tuple[Row, ...]]:
    """Tokens a second of the train phase and of the bare loop: `times` orders of one slice each, in turn."""
    manifest = parse_manifest(b"[work]\nslices = 1\n")
    dataset = load_dataset(manifest, path=None, cache=CACHE)
    torch.set_num_threads(1)
    model = build_model(manifest.model)
    layout = layout_of(model)
    first = first_snapshot(layout, read_vector(model, layout), manifest.aggregation.initial_scale)
    bare = BareLoop(build_model(manifest.model), dataset)
    load_vector(bare.model, layout, first.params)
    speeds: dict[str, list[float]] = {"train phase": [], "bare loop": []}
    with tempfile.TemporaryDirectory(prefix="edgeswarm-utilisation-") as folder:
        first.write(Path(folder))
        compute = Compute(manifest, dataset, Path(folder), threads=1)
        await compute.prepare()
        await compute.load(first.hash)
        await compute.heldout(first.hash)
        for turn in range(times + 1):
            at = turn * manifest.work.sequences_per_slice
            chosen = tuple(range(at, at + manifest.work.sequences_per_slice))
            order = Order(bytes(32), 1, turn, 0, first.hash, (chosen,), bytes(32))
            names = list(speeds) if turn % 2 else list(speeds)[::-1]
            for name in names:
                start = time.perf_counter()
                if name == "train phase":
                    await compute.train(order, math.inf, threading.Event())
                else:
                    await in_thread_of(compute, partial(bare.train, order))
                tokens = len(chosen) * (dataset.sequences.shape[1] - 1)
                speeds[name].append(tokens / (time.perf_counter() - start))
        compute.close()
    rows = tuple(Row(name, "tokens/s", tuple(values[1:])) for name, values in speeds.items())
    figures = {
        "train_tokens_ratio": ratio(rows[0].values, rows[1].values),
        "bare_step_share": bare.stepping / bare.seconds,
    }
    return figures, rows


async def in_thread_of(compute: Compute, work: Callable[[], None]) -> None:
    """Run `work` on the peer's computing thread: the same allocator, the same everything."""
    await compute._run(work)


class BareLoop:
    """What anyone would write: forward, backward, and a step of AdamW for each order."""

    def __init__(self, model: OPTForCausalLM, dataset: Dataset) -> None:
        self.model = model
        self._sequences = dataset.sequences
        for name, tensor in model.named_parameters():
            tensor.requires_grad_(not name.endswith(FROZEN))
        trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-3)
        self.seconds = self.stepping = 0.0

    def train(self, order: Order) -> None:
        """One order's sequences, in the trainer's microbatches."""
        start = time.perf_counter()
        indices = [index for chosen in order.slices for index in chosen]
        length = self._sequences.shape[1] - 1
        rows = rows_at_once(length, self.model.config.vocab_size)
        self._optimizer.zero_grad()
        for at in range(0, len(indices), rows):
            batch = torch.from_numpy(self._sequences[indices[at : at + rows]]).long()
            logits = self.model(input_ids=batch[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            torch.autograd.backward(loss * (len(batch) / len(indices)))
        stepping = time.perf_counter()
        self._optimizer.step()
        end = time.perf_counter()
        self.seconds, self.stepping = self.seconds + end - start, self.stepping + end - stepping


def demo_figures() -> dict[str, float]:
    """Train share and memory of a demo of 4 peers. Raises CalledProcessError if the demo fails."""
    with tempfile.TemporaryDirectory(prefix="edgeswarm-utilisation-") as folder:
        manifest, out = Path(folder) / "run.toml", Path(folder) / "demo"
        manifest.write_text(DEMO)
        command = [sys.executable, "-m", "swarm.cli.demo", "--peers", "4", "--manifest", str(manifest)]
        command += ["--out", str(out), "--json"]
        demo = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        memory = 0.0
        try:
            while demo.poll() is None:
                memory = max(memory, largest_peer(demo.pid))
                time.sleep(2.0)
        except BaseException:
            demo.send_signal(signal.SIGINT)
            demo.wait()
            raise
        if demo.returncode:
            raise subprocess.CalledProcessError(demo.returncode, command)
        rounds = json.loads((out / "summary.json").read_text())["rounds"][1:]
    shares = [round_["seconds"]["train"] / sum(round_["seconds"].values()) for round_ in rounds]
    return {"train_share": sum(shares) / len(shares), "peer_memory_mib": memory}


def largest_peer(demo: int) -> float:
    """MiB of the largest peer that the demo runs now, with its DHT and matchmaking processes."""
    memory = 0.0
    for pid in tree([demo]):
        try:
            if b"swarm.cli.peer" in Path(f"/proc/{pid}/cmdline").read_bytes():
                memory = max(memory, memory_mib(tree([pid])))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return memory


if __name__ == "__main__":
    command_line("utilisation", measure, __doc__ or "")
