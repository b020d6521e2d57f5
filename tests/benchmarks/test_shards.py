"""The shards benchmark counts what it says: one slice more or less in any shard shows."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chained import Task, own_model
from benchmarks.shard_parity import MANIFEST, apply, begin, one_attempt
from benchmarks.shard_replay import computed_again, miscounted
from swarm.data import Dataset
from swarm.manifest import parse_manifest
from swarm.order import DataView, wire_chains
from swarm.shards.crew import EVALUATED
from swarm.shards.slicing import first_vector
from verify.chains import Counted
from verify.record import Record

TEXT = np.random.default_rng(0).integers(2, 64, (64, 128)).astype(np.int32)
DATA = Dataset(TEXT[:48], TEXT[48:], "random")


def test_a_round_computed_again_has_its_snapshots_unless_a_slice_is_left_out(tmp_path: Path) -> None:
    model = tmp_path / "model"
    own_model(model, layers=2, width=16, heads=2, inner=16, vocabulary=64)
    raw = MANIFEST.format(rounds=1, model=model, shards=2, mode="plain", slices=2).encode()
    manifest = parse_manifest(raw)
    first = [first_vector(manifest.model, shard, 2, bytes(32)) for shard in range(2)]

    async def check() -> None:
        async with AsyncExitStack() as stack:
            history, peers = await begin(manifest, raw, DATA, first, tmp_path, stack)
            folders = [tmp_path / peer for peer in peers]
            works, _ = await one_attempt(history, peers, manifest, DataView(len(DATA.sequences)))
            chains = wire_chains(history, 0)
            counted = [Counted(one.chain, manifest.work.slices + EVALUATED, one.path) for one in chains]
            again = await computed_again(history, 0, counted, manifest, DATA, folders)
            fewer = [replace(counted[0], slices=EVALUATED + 1), *counted[1:]]
            less = await computed_again(history, 0, fewer, manifest, DATA, folders)
            names = [await apply(history, shard, peers, works, manifest) for shard in range(2)]
            assert [set(some) for some in names] == [{name} for name in again]
            assert not set(less) & set(again)

    asyncio.run(check())


@pytest.mark.parametrize(
    ("counted", "weights", "wrong"),
    [
        ([Counted(0, 3, ("a", "c")), Counted(1, 2, ("b", "c"))], (2, 1, 3), 0),
        ([Counted(0, 3, ("a", "c")), Counted(1, 2, ("b", "c"))], (2, 1, 2), 1),
        ([Counted(0, 3, ("a", "c"))], (2, 1, 2), 1),
        ([Counted(0, 3, ("a", "c")), Counted(0, 2, ("a", "c"))], (1, 0, 1), 3),
    ],
)
def test_weights_that_certificates_do_not_give_are_counted(
    counted: list[Counted], weights: tuple[int, ...], wrong: int
) -> None:
    record = Record.model_construct(survivors=("a", "b", "c"), weights=weights)
    assert miscounted(record, counted, 2) == wrong


def test_a_links_limit_is_that_of_all_activations(tmp_path: Path) -> None:
    own_model(tmp_path, layers=2, width=16, heads=2, inner=16, vocabulary=64)
    raw = MANIFEST.format(rounds=1, model=tmp_path, shards=2, mode="plain", slices=3).encode()
    task = Task(parse_manifest(raw), (4, 7))
    assert task.link_seconds(1e6) == pytest.approx((3 + 1) * 2 * 127 * (16 * 2 + 4) / 1e6)
    assert [task.core_of(shard) for shard in range(2)] == [(4,), (7,)]
