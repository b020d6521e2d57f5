"""What a round costs: the numbers of the real shards, sums done by hand, and what must move how."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.carbon.comparison import CASES, compare
from swarm.carbon.parameters import defaults
from swarm.manifest import Model
from swarm.model import build_layout
from swarm.plan.cost import (
    Group,
    Job,
    JobRefused,
    Stage,
    World,
    covered,
    draw_values,
    rates,
    round_cost,
    shard_load,
    step_seconds,
)
from swarm.plan.devices import Device, Figure, named_devices
from swarm.shards.slicing import cut_of, shard_sizes
from swarm.sizes import PRESETS


def figure(value: float) -> Figure:
    return Figure(value, value, value, "stated", "test")


WORLD = World(figure(360.0), figure(0.0), figure(0.0), figure(0.0), figure(0.0))
"""No checks, no masks, no outer step, nothing fixed: 0.0001 g a joule."""
PLAIN = Device(
    "plain", 8, *map(figure, (64e9, 1e12, 1.0, 50.0, 10.0, 1.0, 10e6, 10e6, 0.0, 0.0, 1.0, 0.0)),
    figure(100.0), figure(1e9), figure(0.5),
)  # fmt: skip
JOB = Job("opt-125m", 512, 16, 1)


def line(*layers: int, chains: int = 1) -> tuple[Stage, ...]:
    return tuple(Stage(own, (Group(0, 1, chains),)) for own in layers)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("count", [1, 2])
def test_shards_have_the_parameters_and_the_work_of_the_real_ones(preset: str, count: int) -> None:
    table = Model.model_validate({"preset": preset})
    job = Job(preset)
    if count == 1:
        load = shard_load(job, job.layers, True, True)
        assert load.parameters == sum(map(math.prod, build_layout(table).shapes))
        return
    for index, size in enumerate(shard_sizes(table, count)):
        layers = len(cut_of(table, index, count).layers)
        load = shard_load(job, layers, index == 0, index == count - 1)
        assert load.parameters == size.parameters
        # `Size.work` counts biases and norms as products too.
        assert (load.forward + load.backward) / 2 == pytest.approx(size.work, rel=0.02)


def test_a_pipeline_is_all_its_stages_once_and_the_slowest_for_all_the_rest() -> None:
    kind = rates(PLAIN, WORLD, day=False)
    tokens = 512
    loads = [shard_load(JOB, 7, True, False), shard_load(JOB, 5, False, True)]
    first, last = ((load.forward + load.backward) * tokens / 1e12 for load in loads)
    hop = JOB.boundary_bytes / 10e6
    told = round_cost(JOB, line(7, 5), [kind]).seconds
    assert told == pytest.approx(first + last + 2 * hop + 15 * max(first, last, hop))
    assert step_seconds(JOB, line(7, 5), [kind]) == pytest.approx(told)


def test_joules_are_work_idling_and_bytes_at_both_ends_and_grams_follow() -> None:
    device = replace(PLAIN, joules_per_byte=figure(1e-7), wall=figure(1.5))
    kind = rates(device, WORLD, day=False)
    done = round_cost(JOB, line(7, 5), [kind])
    loads = [shard_load(JOB, 7, True, False), shard_load(JOB, 5, False, True)]
    busy = sum((load.forward + load.backward) * 16 * 512 / 1e12 for load in loads)
    moved = 16 * JOB.boundary_bytes * 2 * 2  # there and back, sent and received
    joules = 1.5 * (busy * 50 + (2 * done.seconds - busy) * 10 + moved * 1e-7)
    assert done.joules == pytest.approx(joules)
    assert done.marginal == pytest.approx(joules * 360 / 3.6e6)
    made = 2 * 100_000 * done.seconds / (1e9 * 0.5)
    assert done.grams == pytest.approx(done.marginal + made)


def test_a_cell_sends_twice_its_vector_but_for_its_own_part() -> None:
    kind = rates(PLAIN, WORLD, day=False)
    alone = round_cost(JOB, [Stage(12, (Group(0, 1, 4),))], [kind])
    four = round_cost(JOB, [Stage(12, (Group(0, 4, 1),))], [kind])
    whole = shard_load(JOB, 12, True, True).parameters
    assert alone.seconds == pytest.approx(alone.train)
    assert four.seconds - four.train == pytest.approx(2 * whole * 2 * 3 / 4 / 10e6)
    assert four.train == pytest.approx(alone.train / 4)


def test_a_device_that_is_there_half_the_day_takes_twice_as_long_and_no_more_energy() -> None:
    half = replace(PLAIN, availability=figure(0.5))
    whole = round_cost(JOB, line(7, 5), [rates(half, WORLD, day=False)])
    days = round_cost(JOB, line(7, 5), [rates(half, WORLD, day=True)])
    assert days.seconds == pytest.approx(2 * whole.seconds)
    assert (days.joules, days.grams) == pytest.approx((whole.joules, whole.grams))
    assert covered(line(7, 5), [half]) == pytest.approx(0.25)


@pytest.mark.parametrize("case", ["laptops-1.3b", "phones-125m"])
def test_it_agrees_with_swarm_carbon_on_what_both_can_say(case: str) -> None:
    """Work as in the comparison, but for recomputation and the head; seconds no more than its flow shop's."""
    values = {**defaults(), "laptop.redo": 0.0, "phone.redo": 0.0, "edge.checks": 0.0}
    edge = compare(values, CASES[case], "a5000").edge
    name = "laptops-4" if case.startswith("laptops") else "phones-15"
    device = replace(named_devices(name)[0], redo=figure(0.0), latency=figure(0.0))
    count = device.count
    job = Job(f"opt-{case.split('-')[1]}", 512, 16, 1)
    stages = line(*(len(part) for part in np.array_split(np.arange(job.layers), min(count, job.layers))))
    done = round_cost(job, stages, [rates(device, replace(WORLD, grid=figure(369)), day=False)])
    work = sum(
        load.forward + load.backward
        for at, stage in enumerate(stages)
        for load in [shard_load(job, stage.layers, at == 0, at == len(stages) - 1)]
    )
    kaplan = values["flop-factor"] * CASES[case].model.parameters
    assert kaplan <= work <= kaplan * 1.4
    assert done.seconds <= edge.seconds * work / kaplan * 1.4


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=5),
    st.floats(0.5, 50.0),
    st.floats(0.1, 1.0),
)
def test_arrays_of_figures_cost_what_each_of_them_does(
    layers: list[int], busy: float, thermal: float
) -> None:
    stages = line(*layers)
    both = {"watts_busy": np.array([50.0, busy]), "thermal": np.array([1.0, thermal])}
    arrays = round_cost(JOB, stages, [rates(PLAIN, WORLD, day=True, values=both)])
    second = replace(PLAIN, watts_busy=figure(busy), thermal=figure(thermal))
    for at, device in enumerate((PLAIN, second)):
        one = round_cost(JOB, stages, [rates(device, WORLD, day=True)])
        assert arrays.seconds[at] == pytest.approx(one.seconds)
        assert arrays.joules[at] == pytest.approx(one.joules)
        assert arrays.grams[at] == pytest.approx(one.grams)


def test_draws_stay_in_their_ranges_and_repeat() -> None:
    devices = named_devices("laptops-2+phones-2")
    first, again = (draw_values(devices, WORLD, 200, 3) for _ in range(2))
    for device, values, other in zip(devices, first, again, strict=True):
        for name, own in device.figures().items():
            assert own.low * (1 - 1e-12) <= values[name].min() <= values[name].max() <= own.high * (1 + 1e-12)
            assert (values[name] == other[name]).all()
    assert (first[0]["fixed"] == first[1]["fixed"]).all(), "the world is the same for all"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "opt-175b"}, "give one of tiny, opt-125m, opt-1.3b"),
        ({"sequence_length": 4096}, "opt-125m reads 8 to 2048"),
        ({"slices": 0}, "at least 1"),
    ],
)
def test_work_that_cannot_be_is_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(JobRefused, match=told):
        Job(**{"model": "opt-125m", **change})  # type: ignore[arg-type]
