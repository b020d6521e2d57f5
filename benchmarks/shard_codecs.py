"""What boundary codecs lose: relative L2 of hidden states and gradients, and of shard 0's gradient behind."""

import numpy as np

from benchmarks.chained import LENGTH, SEED
from swarm.manifest import Model
from swarm.shards.boundary import CODECS, Codec, decode, encode, encoded_bytes, error
from swarm.shards.slicing import build_shard, first_vector, untied
from swarm.shards.stage import Slice, Stage


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
