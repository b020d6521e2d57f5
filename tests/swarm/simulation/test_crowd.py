"""Devices one by one, cells, and the terms that follow; who holds what by the run's own placement."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.plan.cost import Job, World
from swarm.plan.devices import Device, named_devices
from swarm.plan.solve import stated_grid
from swarm.shards.placement import SCALE, Holder, Need, next_move, place, share
from swarm.simulation.crowd import Crowd, CrowdRefused, Terms, crowd_of, even_cut, shards_for, terms_for
from swarm.simulation.report import AskRefused, parameter_values, scaled
from swarm.simulation.roster import NOBODY, Rosters, speed_of
from swarm.sizes import PRESETS

WORLD = World(stated_grid(369.0, "USA"))
WORLDS = {"cell.cpu-seconds": 0.0024, "cell.outer-seconds": 0.08, "round.fixed-seconds": 5.0}
VALUES = {**parameter_values({}), **WORLDS}


def crowd(fleet: str = "laptops-40+phones-60") -> Crowd:
    return crowd_of(named_devices(fleet), WORLD)


def terms(crowd: Crowd, model: str = "opt-1.3b", **changes: Any) -> Terms:
    job = Job(model, 128)
    return replace(terms_for(crowd, job, shards_for(crowd, job), VALUES, 0.2, False), **changes)


def test_devices_are_the_planners_one_by_one() -> None:
    found = crowd("laptops-2+phones-1")
    assert found.ids == ("laptop-1", "laptop-2", "phone-1")
    assert found.lasting.tolist() == pytest.approx([2.72e12, 2.72e12, 0.4128e12])
    assert found.busy.tolist() == pytest.approx([30 * 1.15, 30 * 1.15, 4 * 1.25])
    drawn = crowd_of(named_devices("laptops-2"), WORLD, [{"speed": 1e12, "thermal": 0.5}])
    assert drawn.lasting.tolist() == [0.5e12, 0.5e12]


@pytest.mark.parametrize("model", list(PRESETS))
def test_the_model_is_cut_as_shards_are(model: str) -> None:
    from swarm.manifest import Model
    from swarm.shards.slicing import cut_of

    job = Job(model)
    for count in range(2, job.layers + 1):
        ranges = [cut_of(Model(preset=model), at, count).layers for at in range(count)]
        assert even_cut(job, count) == tuple(map(len, ranges))
    assert even_cut(job, 1) == (job.layers,)


def test_shards_fit_the_memory_and_fill_the_crowd() -> None:
    assert len(shards_for(crowd("laptops-4"), Job("opt-125m"))) == 1
    assert len(shards_for(crowd("laptops-4"), Job("opt-1.3b"))) >= 3
    assert len(shards_for(crowd("laptops-1000"), Job("opt-1.3b"))) == 10
    assert len(shards_for(crowd("laptops-9000"), Job("opt-1.3b"))) == 24
    tiny = replace(crowd("phones-4"), memory=np.full(4, 1e8))
    with pytest.raises(CrowdRefused, match="fits nowhere: cut into 24 shards"):
        shards_for(tiny, Job("opt-1.3b"))
    with pytest.raises(CrowdRefused, match=r"cut into \d+ shards, and there are 3 devices"):
        shards_for(crowd("phones-3"), Job("opt-1.3b"))


def test_slices_are_so_large_that_the_window_has_its_share() -> None:
    many = crowd("laptops-400+phones-600")
    half, most = (
        terms_for(many, Job("opt-1.3b"), [6] * 4, {**VALUES, "training-share": share}, 0.2, False)
        for share in (0.5, 0.9)
    )
    assert most.window > half.window
    planned = terms_for(many, Job("opt-1.3b", 128, 16), [6] * 4, VALUES, 0.2, True)
    assert planned.job.sequences_per_slice == 16


def test_a_fleet_is_scaled_in_proportion() -> None:
    def counts(fleet: tuple[Device, ...]) -> list[int]:
        return [device.count for device in fleet]

    assert counts(scaled(named_devices("laptops-4+phones-6"), 1000)) == [400, 600]
    assert counts(scaled(named_devices("laptops-1+phones-2"), 10)) == [3, 7]
    assert counts(scaled(named_devices("laptops-1+phones-900"), 2)) == [1, 1]
    with pytest.raises(AskRefused, match="--count 1"):
        scaled(named_devices("laptops-1+phones-2"), 1)


# -- rosters ----------------------------------------------------------------------------------------------


@given(st.integers(1, 10**12), st.integers(SCALE, 10**10))
def test_a_summed_holder_has_exactly_the_share_of_all(whole: int, work: int) -> None:
    need = Need(1, work, 1)
    assert share(speed_of(whole, need), need) == whole


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=4, max_size=40), st.booleans())
def test_summing_members_up_changes_no_placement_and_no_move(
    held: list[tuple[bool, int]], laptop: bool
) -> None:
    found = crowd("laptops-45+phones-45")
    rosters = Rosters(found, terms(found, "opt-125m", layers=(3, 3, 3, 3)))
    laptops, phones = iter(range(45)), iter(range(45, 90))
    for fast, shard in held:
        rosters.shard[next(laptops if fast else phones)] = shard
    device = next(laptops if laptop else phones)
    each = [
        Holder(str(at), int(found.memory[at]), int(found.lasting[at] / 2), int(rosters.shard[at]))
        for at in np.flatnonzero(rosters.shard != NOBODY)
    ]
    needs = rosters.needs([True] * 4)
    alone = place(str(device), int(found.memory[device]), int(found.lasting[device] / 2), each, needs)
    assert rosters._place(device, np.ones(4, bool)) == alone
    one, summed = next_move(each, needs), next_move(rosters._summary(), needs)
    assert (one is None) == (summed is None)
    if one is not None and summed is not None:
        assert (one.shard, one.to, one.before, one.after) == (
            summed.shard,
            summed.to,
            summed.before,
            summed.after,
        )


def test_founding_fills_every_cell_and_leaves_the_rest_as_spares() -> None:
    found = crowd("laptops-200")
    rosters = Rosters(found, terms(found, layers=(6, 6, 6, 6)))
    assert rosters.found(np.arange(200))
    assert rosters.sizes().tolist() == [32, 32, 32, 32]
    assert not Rosters(found, terms(found)).found(np.arange(1))


def test_newcomers_download_prove_themselves_and_are_let_in_a_few_at_a_time() -> None:
    found = crowd("laptops-40")
    rosters = Rosters(found, terms(found, "opt-125m", layers=(6, 6)))
    rosters.found(np.arange(20))
    online = np.ones(40, bool)
    begun = rosters.invite(range(20, 40), now=0.0, record=5)
    assert {one.shard for one in begun} == {0, 1}
    assert len(begun) == 2  # a trial for each eighth of a roster of ten, in each cell
    assert all(one.download > 0 and one.trial_tokens > 0 for one in begun)
    assert rosters.admit(1.0, 9, online) == 0
    assert rosters.admit(1e9, 6, online) == 0
    assert rosters.admit(1e9, 7, online) == 2


def test_members_who_miss_three_records_are_suspended() -> None:
    found = crowd("laptops-8")
    rosters = Rosters(found, terms(found, "opt-125m", layers=(6, 6)))
    rosters.found(np.arange(8))
    there = np.ones(8, bool)
    there[3] = False
    assert [rosters.count_missed(there) for _ in range(3)] == [[], [], [3]]
    assert rosters.shard[3] == NOBODY


def test_a_plans_cells_are_as_large_as_planned() -> None:
    found = crowd("laptops-8")
    rosters = Rosters(
        found, terms(found, "opt-125m", layers=(6, 6)), [0, 0, 1, 1, NOBODY, NOBODY, NOBODY, NOBODY]
    )
    assert rosters.found(np.arange(8))
    assert rosters.sizes().tolist() == [2, 2]
    assert rosters.invite(range(4, 8), 0.0, 0) == []
    rosters.leave(2)
    assert [one.shard for one in rosters.invite(range(4, 8), 0.0, 0)] == [1]
