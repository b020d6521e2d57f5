"""A newcomer's trial at one shard: whoever holds the shard gets the same, and nothing else passes for it."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swarm.data import load_dataset
from swarm.effects import Recompute
from swarm.genesis import read_genesis
from swarm.order import DataView, Order, trial_order
from swarm.shards.compute import ShardCompute
from tests.swarm.sharded import founded, write_text
from verify.chains import BoundaryRefused
from verify.identity import Identity
from verify.probation import sketch_seed
from verify.sketch import agree, sketch

NEW = Identity.from_seed(bytes(32)).peer_id
SLICES = 3
Trials = tuple[Callable[[int], ShardCompute], Callable[[int], Order]]


def computed(machine: ShardCompute, order: Order, index: int) -> np.ndarray:
    """What a member gets for a slice of a trial."""
    found = asyncio.run(machine.again(Recompute(0, order, index, None, DataView(0)))).encoded
    assert found is not None
    return found


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """What makes a machine that holds a shard; and what is a newcomer's trial for one."""
    folder: Path = tmp_path_factory.mktemp("trials")
    threads = torch.get_num_threads()
    text = folder / "text.txt"
    write_text(text)
    made = founded(folder, text)
    history, manifest = read_genesis(made.genesis, made.run)
    dataset = load_dataset(manifest, path=text, cache=folder / "cache")
    snapshots = folder / "state" / "runs" / made.run.hex() / "snapshots"
    machines: list[ShardCompute] = []

    def machine(shard: int) -> ShardCompute:
        machines.append(ShardCompute(manifest, dataset, snapshots, shard))
        asyncio.run(machines[-1].prepare())
        return machines[-1]

    yield machine, lambda shard: trial_order(history, NEW, shard, manifest.work, SLICES)
    for one in machines:
        one.close()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("shard", [0, 1])
def test_a_member_finds_what_the_newcomer_sketched_and_no_other_slice_of_it(at: Trials, shard: int) -> None:
    make, trial_of = at
    order = trial_of(shard)
    told = asyncio.run(make(shard).trial(order))
    member = make(shard)
    for index in range(SLICES):
        encoded = computed(member, order, index)
        assert agree(sketch(encoded, sketch_seed(order.seed, index)), told[index])
        other = sketch(encoded, sketch_seed(order.seed, (index + 1) % SLICES))
        assert not agree(other, told[(index + 1) % SLICES])


@pytest.mark.parametrize("shard", [0, 1])
def test_another_newcomers_trial_does_not_pass_for_ones_own(at: Trials, shard: int) -> None:
    make, trial_of = at
    own = trial_of(shard)
    other = replace(own, seed=bytes(32))
    machine = make(shard)
    for index in range(SLICES):
        mine, theirs = (computed(machine, order, index) for order in (own, other))
        seed = sketch_seed(own.seed, index)
        assert not agree(sketch(mine, seed), sketch(theirs, seed))


def test_rounding_alone_is_not_what_a_trial_shows(at: Trials) -> None:
    """Elements that are nothing but dither would be known without computing anything."""
    make, trial_of = at
    for shard in (0, 1):
        encoded = computed(make(shard), trial_of(shard), 0)
        touched = encoded[encoded != 0].astype(float)  # token ids that no text has stay at zero
        assert len(touched) > 40_000  # a layer of `tiny` has 50,000
        assert abs(touched).mean() > 4


def test_who_holds_another_shard_refuses(at: Trials) -> None:
    make, trial_of = at
    with pytest.raises(BoundaryRefused, match="shard 1; this peer holds shard 0"):
        computed(make(0), trial_of(1), 0)
