"""Sharded training: what chains cost, what a slow link leaves and kills lose, and whether it learns the same.

`throughput_ratio_K`: tokens a second of K peers in a chain (`benchmarks.chained`) over those of one process
of plain PyTorch with a thread for each of the same cores, in turn. `core_ratio_K`: the same for a processor
second, over a bare loop of one thread: a busy machine changes it less. `link_ratio_CODEC`: the time that a
chain's activations take at the link's rate over what the chain took, where the link is the limit;
`link_limit_ratio` is the least of them. `lost_or_doubled`: microbatches that do not count exactly once in
every shard of a swarm whose peers are killed (`benchmarks.shard_replay`); `kept_share`: of the throughput of
the same swarm without kills. `loss_gap`: the larger of two settings' (`benchmarks.shard_parity`).
`boundary_*`: what codecs lose. `peak_*_bytes`: the most that a process takes for a round's work on one shard,
less its start; `peak_*_over_share`: over the bytes of that shard's parameters.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks import shard_memory
from benchmarks.chained import LENGTH, WINDOW, BareLoop, Chained, Task, Trained, manifest_of, own_model
from benchmarks.report import Report, Row, command_line, progress, ratio
from benchmarks.shaping import LINKS
from benchmarks.shard_codecs import boundary_figures
from benchmarks.shard_kills import demo
from benchmarks.shard_parity import compare
from swarm.manifest import Model, Work
from swarm.shards.boundary import Codec
from swarm.shards.slicing import shard_sizes

GOALS = {
    "throughput_ratio_2": (">=", 0.85),
    "throughput_ratio_4": (">=", 0.85),
    "link_limit_ratio": (">=", 0.8),
    "lost_or_doubled": ("==", 0.0),
    "loss_gap": ("<=", 0.005),
}
LINK = LINKS["10MBs"]
CODECS: tuple[Codec, ...] = ("fp16", "int8")
NOTES = (
    "Peers: one a shard, pinned; neighbours share a core where there are fewer cores than shards. With 2 "
    "cores and 4 shards the ratio says what work and wiring cost, not what four machines would gain.",
    "Both sides: random text and first weights, sequences of 128, the run's microbatches, and one slice "
    "evaluated beside those trained; the bare loop has no optimizer step, peers encode their slices.",
    "A bare loop of several threads waits for the slowest at each product: other load on its cores costs it "
    "more than it costs peers. core_ratio_* is for that.",
    "Link: 10 MB/s and 20 ms each way by benchmarks.shaping, two stages of one layer, 64 wide, microbatches "
    "of 8,192 tokens; the limit is activation bytes over the rate, without frames, TLS and the last one's "
    "way back. loopback_ratio_*: the same without the link: near 1, the machine is as narrow as the link.",
    "lost_or_doubled: whole peers, killed with SIGKILL and started again, one after the other; records, "
    "certificates, and every round computed again in one process: its snapshots must have the records' "
    "hashes.",
)
QUICK_NOTES = (
    "throughput_ratio_2 here: 8 layers of 256, 16,384 token ids; OPT-125m takes longer than this run may.",
)


def measure(quick: bool) -> Report:
    """All of it; with `quick` a small model in two shards, and a short swarm."""
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    rows: list[Row] = []
    for count in (2,) if quick else (2, 4):
        found, more = throughput(count, quick)
        figures |= found
        rows += more
    figures |= links(40 if quick else 120)
    figures |= kills(quick)
    if not quick:
        figures |= parity()
    for preset, cuts in [("tiny", 2)] if quick else [("tiny", 2), ("opt-125m", 4)]:
        figures |= boundary_figures(Model.model_validate({"preset": preset}), name_of(preset))
        figures |= memory(preset, cuts)
    return Report("shards", figures, GOALS, tuple(rows), NOTES + (QUICK_NOTES if quick else ()))


def throughput(count: int, quick: bool) -> tuple[dict[str, float], list[Row]]:
    """Peers of `count` shards and bare loops, in turn."""
    progress(f"shards: {count} peers in a chain and bare loops")
    cores = tuple(sorted(os.sched_getaffinity(0)))[:count] if hasattr(os, "sched_getaffinity") else ()
    with ExitStack() as stack:
        if quick:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeswarm-shards-")))
            table = own_model(folder, layers=8, width=256, heads=4, inner=1024, vocabulary=16_384)
            work = Work(slices=3, sequences_per_slice=16, window_seconds=WINDOW)
        else:
            table, work = (
                Model(preset="opt-125m"),
                Work(slices=2, sequences_per_slice=8, window_seconds=WINDOW),
            )
        task = Task(manifest_of(table, count, work, LENGTH), cores)
        sides = {
            f"{count} peers": stack.enter_context(Chained(task)),
            f"bare loop, {max(1, len(cores))} threads": stack.enter_context(
                BareLoop(task, max(1, len(cores)))
            ),
            "bare loop, 1 thread": stack.enter_context(BareLoop(task, 1)),
        }
        found: dict[str, list[Trained]] = {side: [] for side in sides}
        for turn in range(3):
            for side in list(sides)[:: 1 if turn % 2 else -1]:
                trained = sides[side].train()
                if turn:  # the first is to warm up
                    found[side].append(trained)
    speeds = {side: [task.tokens / (one.end - one.start) for one in some] for side, some in found.items()}
    costs = {side: [task.tokens / one.cpu for one in some] for side, some in found.items()}
    peers, many, one = sides
    figures = {
        f"throughput_ratio_{count}": ratio(speeds[peers], speeds[many]),
        f"core_ratio_{count}": ratio(costs[peers], costs[one]),
    }
    rows = [Row(f"{side} ({count})", "tokens/s", tuple(some)) for side, some in speeds.items()]
    return figures, [
        *rows,
        *(Row(f"{side} ({count})", "tokens/CPU s", tuple(v)) for side, v in costs.items()),
    ]


def links(slices: int) -> dict[str, float]:
    """Two peers over the link with each codec; and the same without it, which shows what the limit is."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="edgeswarm-shards-") as folder:
        table = own_model(Path(folder), layers=2, width=64, heads=1, inner=8, vocabulary=16)
        for codec in CODECS:
            progress(f"shards: a link of 10 MB/s and 20 ms, {codec}")
            work = Work(slices=slices, sequences_per_slice=256, window_seconds=WINDOW)
            cut = table.model_copy(update={"boundary": codec})
            task = Task(manifest_of(cut, 2, work, 32))
            limit = task.link_seconds(LINK.rate)
            for name, link in (("link", LINK), ("loopback", None)):
                with Chained(task, link) as chain:
                    once = chain.train()
                figures[f"{name}_ratio_{codec}"] = limit / (once.end - once.start)
                figures[f"{name}_tokens_{codec}"] = task.tokens / (once.end - once.start)
    figures["link_limit_ratio"] = min(figures[f"link_ratio_{codec}"] for codec in CODECS)
    return figures


def kills(quick: bool) -> dict[str, float]:
    """A swarm with kills; in full also the same one without."""
    if quick:
        ran = demo(shards=2, peers=4, rounds=8, window=2.0, kill_every=15.0)
    else:
        ran = demo(shards=4, peers=8, rounds=12, window=10.0, kill_every=30.0)
    if not ran.kills:
        raise RuntimeError("the swarm was done before anybody was killed; the benchmark needs more rounds")
    figures = {
        "lost_or_doubled": float(ran.counting.wrong),
        "counted_microbatches": float(ran.counting.microbatches),
        "replayed_rounds": float(ran.counting.rounds),
        "kills": float(ran.kills),
        "kills_attempts": float(ran.attempts),
        "kills_final_hashes": float(ran.hashes),
    }
    if not quick:
        calm = demo(shards=4, peers=8, rounds=8, window=10.0, kill_every=None)
        figures["kept_share"] = ran.tokens_a_second / calm.tokens_a_second
        figures["calm_lost_or_doubled"] = float(calm.counting.wrong)
    return figures


def parity() -> dict[str, float]:
    """Eight peers in two shards with masks and in four without, against one process each."""
    figures: dict[str, float] = {}
    for shards, mode in ((2, "secure"), (4, "plain")):
        found = compare(shards, mode, rounds=12, heldout=64)
        figures |= {
            f"loss_gap_{shards}_{mode}": found.gap,
            f"loss_{shards}_{mode}": found.swarm,
            f"loss_torch_{shards}_{mode}": found.torch,
            f"replica_hashes_{shards}_{mode}": float(found.distinct),
            "loss_before": found.before,
        }
    figures["loss_gap"] = max(value for name, value in figures.items() if name.startswith("loss_gap_"))
    return figures


def memory(preset: str, count: int) -> dict[str, float]:
    """What each shard's work takes."""
    figures: dict[str, float] = {}
    sizes = shard_sizes(Model.model_validate({"preset": preset}), count)
    for index, size in enumerate(sizes):
        progress(f"shards: memory of {preset}, shard {index} of {count}")
        name = f"peak_{name_of(preset)}_{count}_{index}"
        figures[f"{name}_bytes"] = float(shard_memory.measure(preset, count, index))
        figures[f"{name}_over_share"] = figures[f"{name}_bytes"] / (4 * size.parameters)
    return figures


def name_of(preset: str) -> str:
    return preset.replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    command_line("shards", measure, __doc__ or "")
