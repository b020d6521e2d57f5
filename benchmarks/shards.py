"""What shards cost beside the whole model, and what boundary codecs lose.

`in_process_ratio_*`: tokens a second of a slice through 2 and 4 stages, one after the other in one process
and thread, over those of the bare whole model with the same microbatches, forward and backward, in turn. It
shows what recomputation costs; not what pipelining gains, nor links: `throughput_ratio_*` and
`link_limit_ratio` need peers that are wired, and are not measured yet. `boundary_*`: relative L2 of hidden
states and gradients through a codec, and of the shard-0 gradient that comes of it. `peak_*`: bytes that a
process takes at most for a round's work on one shard, less its start.
"""

import ctypes
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import shard_memory
from benchmarks.report import Report, Row, command_line, progress, ratio
from swarm.manifest import Model
from swarm.model import bind_gradients, layout_of, load_vector
from swarm.shards.boundary import CODECS, decode, encode, encoded_bytes, error
from swarm.shards.slicing import (
    build_shard,
    build_untied,
    cut_of,
    first_vector,
    join_vectors,
    untied,
)
from swarm.shards.stage import Slice, Stage, microbatches, run_slice
from swarm.sizes import PASSES, PASSES_LAST
from verify.chains import Codec

SEED = bytes(32)
LENGTH = 128
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""
NOTES = (
    "One thread of one process for both sides; random first weights (what codecs lose of a trained model is "
    "not measured); random tokens; sequences of 128. The whole model is the untied one. No optimizer step.",
    "glibc keeps freed memory (mallopt): else its heaps, not the stages, decide, by a tenth either way.",
    "All stages but the last compute forward twice: expected_* is what multiply-adds alone leave of it.",
)


def measure(quick: bool) -> Report:
    """Codecs, and stages against the whole model; without `quick` also OPT-125m."""
    figures: dict[str, float] = {}
    rows: list[Row] = []
    torch.set_num_threads(1)
    keep_freed_memory()
    figures |= boundary_figures(Model(preset="tiny"), "tiny")
    for preset, counts, sequences, times in [("tiny", (2,), 16, 8 if quick else 30)] + (
        [] if quick else [("opt-125m", (2, 4), 2, 4)]
    ):
        table = Model.model_validate({"preset": preset})
        for count in counts:
            progress(f"shards: {preset} in {count} stages")
            name = f"{preset.replace('-', '_').replace('.', '_')}_{count}"
            found = compare(table, count, sequences, times)
            rows += [Row(f"{preset}, {side} ({count})", "tokens/s", tuple(v)) for side, v in found.items()]
            figures[f"in_process_ratio_{name}"] = ratio(found["stages"], found["whole model"])
            figures[f"expected_ratio_{name}"] = expected(table, count)
    if not quick:
        figures |= boundary_figures(Model(preset="opt-125m"), "opt_125m")
    for preset, count in [("tiny", 2)] + ([] if quick else [("opt-125m", 4)]):
        for index in range(count):
            progress(f"shards: memory of {preset}, shard {index} of {count}")
            name = f"peak_{preset.replace('-', '_')}_{count}_{index}_bytes"
            figures[name] = float(shard_memory.measure(preset, count, index))
    return Report("shards", figures, {}, tuple(rows), NOTES)


def compare(table: Model, count: int, sequences: int, times: int) -> dict[str, list[float]]:
    """Tokens a second of `times` slices, in turn."""
    parts = [first_vector(table, index, count, SEED) for index in range(count)]
    stages = [loaded(table, index, count, part) for index, part in enumerate(parts)]
    model = build_untied(table)
    layout = layout_of(model)
    load_vector(model, layout, join_vectors(table, parts))
    flat = bind_gradients(model, layout)
    text = tokens_of(table, sequences)

    def whole() -> None:
        flat.zero_()
        for batch in microbatches(sequences, LENGTH, model.config.vocab_size):
            tokens = torch.from_numpy(text[batch.start : batch.stop].astype(np.int64))
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
            torch.autograd.backward(loss / (sequences * LENGTH))

    sides: dict[str, Callable[[], object]] = {"whole model": whole, "stages": lambda: run_slice(stages, text)}
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(times + 1):
        for side in list(sides)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            sides[side]()
            if turn:  # the first is to warm up
                speeds[side].append(sequences * LENGTH / (time.perf_counter() - start))
    return speeds


def keep_freed_memory() -> None:
    """Large tensors from the heap, which is never given back: pages are faulted in once."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(TRIM_THRESHOLD, 1 << 30)


def expected(table: Model, count: int) -> float:
    """The ratio that recomputation alone leaves: passes of the whole over those of the stages, by work."""
    config = untied(table)
    layer = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.ffn_dim
    head = config.vocab_size * config.word_embed_proj_dim
    once = config.num_hidden_layers * layer + head
    last = len(cut_of(table, count - 1, count).layers) * layer + head
    return PASSES_LAST * once / (PASSES * (once - last) + PASSES_LAST * last)


def boundary_figures(table: Model, name: str) -> dict[str, float]:
    """What each codec loses of one microbatch between two stages, and of shard 0's gradient behind it."""
    first, last = (loaded(table, index, 2, first_vector(table, index, 2, SEED)) for index in range(2))
    text = tokens_of(table, 1)
    tokens, targets = np.ascontiguousarray(text[:, :-1]), np.ascontiguousarray(text[:, 1:])
    found: dict[str, float] = {}
    exact = np.zeros(0, np.float32)
    for codec in CODECS:
        work, after = Slice((0,), tokens.size), Slice((0,), tokens.size)
        hidden = first.forward(work, 0, tokens)
        gradient = last.turn(after, 0, through(hidden, codec), targets)
        if gradient is None:
            raise ValueError("the last stage has a gradient for the one before")
        first.backward(work, 0, through(gradient, codec))
        flat = first.finish(work)
        exact = flat if codec == "fp32" else exact
        shape = (hidden.shape[0], hidden.shape[1], hidden.shape[2])
        found[f"boundary_{name}_{codec}_bytes_a_token"] = encoded_bytes(shape, codec) / tokens.size
        found[f"boundary_{name}_{codec}_hidden"] = error(hidden, codec)
        found[f"boundary_{name}_{codec}_gradient"] = error(gradient, codec)
        found[f"boundary_{name}_{codec}_update"] = float(np.linalg.norm(flat - exact) / np.linalg.norm(exact))
    return found


def through(x: np.ndarray, codec: Codec) -> np.ndarray:
    return decode(encode(x, codec), codec, (x.shape[0], x.shape[1], x.shape[2]))


def loaded(table: Model, index: int, count: int, vector: np.ndarray) -> Stage:
    stage = Stage(build_shard(table, index, count))
    stage.load(vector)
    return stage


def tokens_of(table: Model, sequences: int) -> np.ndarray:
    vocabulary = untied(table).vocab_size
    return np.random.default_rng(0).integers(4, vocabulary, (sequences, LENGTH + 1)).astype(np.int32)


if __name__ == "__main__":
    command_line("shards", measure, __doc__ or "")
