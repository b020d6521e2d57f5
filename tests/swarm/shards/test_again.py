"""A chain member's slice computed again by another peer of its shard: the same bits, and lies that show."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from proto.canonical import PeerID
from swarm.attacks import World, attack_named
from swarm.attempt import start_work
from swarm.cli.attacker import BentShard
from swarm.data import load_dataset
from swarm.effects import Again, Recompute, TrainChains, Work
from swarm.genesis import read_genesis
from swarm.manifest import Work as WorkTable
from swarm.order import DataView, Order, chained_order
from swarm.shards.boundary import decode, encode
from swarm.shards.compute import ShardCompute
from tests.swarm.sharded import founded, write_text
from verify.chains import BoundaryRefused, Counted
from verify.identity import Identity
from verify.opened import SENT_TOLERANCE, Key, Tensors
from verify.record import History

LENGTH = 32
UNUSED: dict[str, Any] = dict.fromkeys(("sign", "members"))
"""Of a World, by attacks that only compute."""


@dataclass
class Passing:
    """One slice of one chain, of two stages: what each shard committed to, and what came and went."""

    history: History
    stages: list[ShardCompute]
    works: list[Work]
    orders: list[Order]
    tensors: list[Tensors]

    def again(self, shard: int, tensors: Tensors | None = None) -> Again:
        asked = Recompute(0, self.orders[shard], 0, None, DataView(0), tensors or self.tensors[shard])
        return asyncio.run(self.stages[shard].again(asked))


@pytest.fixture(scope="module")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passing]:
    with passed(tmp_path_factory.mktemp("again")) as one:
        yield one


@contextmanager
def passed(
    folder: Path, bend: Callable[[ShardCompute], ShardCompute] = lambda honest: honest
) -> Iterator[Passing]:
    """`bend`: what takes the place of each shard's computing."""
    threads = torch.get_num_threads()
    text = folder / "text.txt"
    write_text(text)
    made = founded(folder, text, length=LENGTH)
    history, manifest = read_genesis(made.genesis, made.run)
    others = sorted(Identity.from_seed(bytes([at]) * 32).peer_id for at in range(3))
    standing = history.roster[history.genesis.founder]
    roster = {peer: replace(standing, shard=at % 2) for at, peer in enumerate(others)}
    history = replace(history, roster=roster)
    dataset = load_dataset(manifest, path=text, cache=folder / "cache")
    snapshots = folder / "state" / "runs" / made.run.hex() / "snapshots"
    stages = [bend(ShardCompute(manifest, dataset, snapshots, shard)) for shard in range(2)]
    yield asyncio.run(_pass(history, stages, others, DataView(len(dataset.sequences)), manifest.work))
    for stage in stages:
        stage.close()
    torch.set_num_threads(threads)


async def _pass(
    history: History, stages: list[ShardCompute], peers: list[PeerID], data: DataView, work: WorkTable
) -> Passing:
    effects = []
    for stage, peer in zip(stages, peers, strict=False):
        await stage.prepare()
        effect = start_work(history, 0, peer, data, work)
        assert isinstance(effect, TrainChains)
        await stage.begin(effect)
        effects.append(effect)
    first, last = stages
    count = len(first.batches)
    forward, backward = {}, {}
    for number in range(2 * count):  # the slice for evaluation, and one that counts
        hidden = await first.microbatch(0, number, False, None)
        gradient = await last.microbatch(0, number, True, hidden)
        await first.microbatch(0, number, True, gradient)
        forward[number - count], backward[number - count] = hidden, gradient
    counted = [Counted(0, 2, tuple(peers[:2]))]
    came: dict[Key, bytes] = {(False, "backward", at): backward[at] for at in range(count)}
    went: dict[Key, bytes] = {(True, "forward", at): forward[at] for at in range(count)}
    other = {(not sent, way, at): raw for (sent, way, at), raw in (came | went).items()}
    tensors: list[Tensors] = [came | went, other]
    orders = [chained_order(history, 0, peer, data, work, [(0, 1)]) for peer in peers[:2]]
    works = [await stage.finish(counted, [()]) for stage in stages]
    return Passing(history, stages, works, orders, tensors)


@pytest.mark.parametrize("shard", [0, 1])
def test_a_slice_computed_again_has_the_same_bits_and_sends_the_same(passing: Passing, shard: int) -> None:
    found = passing.again(shard)
    assert found.encoded is not None
    assert np.array_equal(found.encoded, passing.works[shard].own.encoded(0))
    assert set(found.apart.values()) == {0.0}


@pytest.mark.parametrize(
    ("attack", "shard", "apart", "committed", "sent"),
    [("wrong_activations", 0, 2.0, True, True), ("sign_flip", 1, 0.0, False, False)],
)
def test_what_an_attacker_bends_a_checker_finds(
    tmp_path: Path, attack: str, shard: int, apart: float, committed: bool, sent: bool
) -> None:
    own = Order(b"", 1, 0, shard, b"", ((0,),), bytes(32))
    world = World(
        PeerID("liar"), np.dtype("<i2"), 100, 1e9, np.zeros(0), 1, 1, 1, order_of=lambda _: own, **UNUSED
    )

    def bend(honest: ShardCompute) -> ShardCompute:
        return BentShard(honest, attack_named(attack)(world)) if honest.shard == shard else honest

    with passed(tmp_path, bend) as bent:
        found, work = bent.again(shard), bent.works[shard]
        assert found.encoded is not None
        assert found.apart["forward" if shard == 0 else "backward", 0] == pytest.approx(apart, abs=1e-3)
        assert np.array_equal(found.encoded, work.own.encoded(0)) is committed
        assert np.array_equal(found.encoded, work.update) is sent
        other = bent.again(1 - shard)  # of what came to it, the neighbour made what it should
        assert set(other.apart.values()) == {0.0}


@pytest.mark.parametrize("shard", [0, 1])
def test_what_was_not_computed_is_far_from_what_was_sent(passing: Passing, shard: int) -> None:
    (wrong,) = [key for key in passing.tensors[shard] if key[0] and key[2] == 0]
    stage = passing.stages[shard]
    true = passing.tensors[shard][wrong]
    shape = stage._shape(stage.batches[0])
    for factor, held in ((-1.0, False), (1 + 3 * SENT_TOLERANCE, False), (1 + SENT_TOLERANCE / 4, True)):
        bent = encode(decode(true, "fp16", shape) * np.float32(factor), "fp16")
        found = passing.again(shard, {**passing.tensors[shard], wrong: bent})
        far = found.apart[wrong[1], 0]
        assert (far <= SENT_TOLERANCE) is held
        assert far == pytest.approx(abs(factor - 1), rel=0.1)


@pytest.mark.parametrize("shard", [0, 1])
def test_a_gradient_of_other_tensors_is_another(passing: Passing, shard: int) -> None:
    key = next(key for key in passing.tensors[shard] if not key[0])
    stage = passing.stages[shard]
    x = decode(passing.tensors[shard][key], "fp16", stage._shape(stage.batches[key[2]]))
    found = passing.again(shard, {**passing.tensors[shard], key: encode(-x, "fp16")})
    assert found.encoded is not None
    assert not np.array_equal(found.encoded, passing.works[shard].own.encoded(0))


def test_one_microbatch_alone_is_enough_to_judge_a_tensor(passing: Passing) -> None:
    last = len(passing.stages[0].batches) - 1
    one = {key: raw for key, raw in passing.tensors[0].items() if key[2] == last}
    found = passing.again(0, one)
    assert found.apart == {("forward", last): 0.0}
    assert (found.encoded is None) is (last > 0)


def test_what_cannot_be_computed_is_refused_by_name(passing: Passing) -> None:
    without = {key: raw for key, raw in passing.tensors[0].items() if key[0]}
    with pytest.raises(BoundaryRefused, match="without what came backward"):
        passing.again(0, without)
    short = {key: raw[:-1] for key, raw in passing.tensors[1].items()}
    with pytest.raises(BoundaryRefused, match="bytes of fp16"):
        passing.again(1, short)
    order = replace(passing.orders[0], shard=1)
    with pytest.raises(BoundaryRefused, match="holds shard 0"):
        asyncio.run(passing.stages[0].again(Recompute(0, order, 0, None, DataView(0), passing.tensors[0])))


def test_chains_go_on_where_they_were_after_a_check(passing: Passing) -> None:
    """A check loads another snapshot between two microbatches: here its own, once more."""
    before = passing.again(1).encoded
    passing.again(1, {key: raw for key, raw in passing.tensors[1].items() if key[2] == 0})
    after = passing.again(1).encoded
    assert before is not None
    assert after is not None
    assert np.array_equal(before, after)
