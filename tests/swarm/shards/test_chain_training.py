"""Chains that really train: whoever computes, whatever fails, every shard's gradient has the same bits."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers import OPTConfig

from proto.canonical import PeerID
from swarm.model import NO_CHANCE, layout_of, read_vector
from swarm.shards.boundary import decode, encode
from swarm.shards.chain import Backward, Forward, Replaced
from swarm.shards.slicing import Cut, Shard
from swarm.shards.stage import Slice, Stage, run_slice
from tests.swarm.shards.chain_network import ChainNetwork, Key, Worker
from verify.chains import Codec

SHARDS, MICROBATCHES, SLICES, ROWS, LENGTH, WIDTH = 3, 3, 2, 2, 8, 16
CONFIG = OPTConfig(
    vocab_size=64,
    hidden_size=WIDTH,
    word_embed_proj_dim=WIDTH,
    num_hidden_layers=SHARDS,
    num_attention_heads=2,
    ffn_dim=32,
    max_position_embeddings=32,
    tie_word_embeddings=False,
    **NO_CHANCE,
)
CONFIG._attn_implementation = "sdpa"
TEXT = np.random.default_rng(0).integers(0, 64, (SLICES, MICROBATCHES * ROWS, LENGTH + 1)).astype(np.int32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def new_stage(shard: int) -> Stage:
    torch.manual_seed(shard)
    return Stage(Shard(CONFIG, Cut(shard, SHARDS, range(shard, shard + 1))).train())


class TrainingNetwork(ChainNetwork):
    """Real stages in place of symbols; boundary tensors in `codec`."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.stages: dict[int, tuple[Worker, Stage, dict[int, Slice]]] = {}
        super().__init__(shards=SHARDS, replicas=2, microbatches=MICROBATCHES, slices=SLICES)

    def _value(self, key: Key, worker: Worker, effect: Forward | Backward) -> bytes:
        super()._value(key, worker, effect)
        shard, microbatch = self.posts[key].shard, effect.microbatch
        stage, work, rows = self._at(worker, shard, microbatch)
        if isinstance(effect, Forward):
            tokens = np.ascontiguousarray(rows[:, :-1])
            return encode(stage.forward(work, microbatch, self._read(effect.tensor, tokens)), self.codec)
        if shard == SHARDS - 1:
            targets = np.ascontiguousarray(rows[:, 1:])
            given = stage.turn(work, microbatch, self._read(effect.tensor, targets), targets)
        else:
            given = stage.backward(work, microbatch, self._read(effect.tensor, rows))
        return b"" if given is None else encode(given, self.codec)

    def _at(self, worker: Worker, shard: int, microbatch: int) -> tuple[Stage, Slice, np.ndarray]:
        _, stage, slices = self.stages.setdefault(id(worker), (worker, new_stage(shard), {}))
        number, at = divmod(microbatch, MICROBATCHES)
        first = number * MICROBATCHES
        batches = tuple(range(first, first + MICROBATCHES))
        work = slices.setdefault(number, Slice(batches, tokens=MICROBATCHES * ROWS * LENGTH))
        return stage, work, TEXT[number][at * ROWS : (at + 1) * ROWS]

    def _read(self, raw: bytes | None, tokens: np.ndarray) -> np.ndarray:
        return tokens if raw is None else decode(raw, self.codec, (ROWS, LENGTH, WIDTH))

    def counted(self) -> dict[int, list[bytes]]:
        """The gradients that the certificate names, as bytes, by shard."""
        (leader,) = self.leaders()
        found = defaultdict[int, list[bytes]](list)
        for shard, peer in enumerate(self.ended()[leader].counted.path):
            _, stage, slices = self.stages[id(self.workers[0, peer])]
            found[shard] = [stage.finish(slices[number]).tobytes() for number in range(SLICES)]
        return found


def trained(
    codec: Codec, kill: tuple[int, float] | None = None
) -> tuple[dict[int, list[bytes]], PeerID | None]:
    """Gradients by shard; who was killed and replaced."""
    network, victim = TrainingNetwork(codec), None
    if kill is not None:
        victim = network.holders[kill[0]][0]
        network.at(kill[1], lambda: network.kill(network.holders[kill[0]][0]))
    network.run()
    replaced = [effect.was for effect in network.said(Replaced) if isinstance(effect, Replaced)]
    assert replaced == ([victim] if victim else [])
    return network.counted(), victim


def test_a_chain_computes_what_the_stages_compute_without_one() -> None:
    found, _ = trained("fp32")
    stages = [new_stage(shard) for shard in range(SHARDS)]
    vectors = [read_vector(stage._shard, layout_of(stage._shard)) for stage in stages]
    assert len({vector.tobytes() for vector in vectors}) == SHARDS
    for number in range(SLICES):
        gradients, _ = run_slice(stages, TEXT[number])
        for shard, gradient in enumerate(gradients):
            ours = np.frombuffer(found[shard][number], np.float32)
            assert np.linalg.norm(ours - gradient) < 1e-6 * np.linalg.norm(gradient)


@pytest.mark.parametrize("codec", ["fp32", "int8"])
@pytest.mark.parametrize("kill", [(1, 4.5), (1, 9.5), (2, 6.5)])
def test_a_replica_that_steps_in_leaves_the_same_bits_in_every_shard(
    codec: Codec, kill: tuple[int, float]
) -> None:
    assert trained(codec, kill)[0] == trained(codec)[0]
