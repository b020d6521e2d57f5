"""A chain's time: event by event, in closed form, and as the planner has it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.plan.cost import Group, Job, Stage, World, rates, round_cost
from swarm.plan.devices import named_devices
from swarm.plan.solve import stated_grid
from swarm.simulation.chains import Hop, StageTime, chain_seconds, fill_seconds, handshake_seconds, stream
from swarm.simulation.crowd import crowd_of, even_cut, typical_seconds

SECONDS = st.floats(0.1, 3.0)
CHAINS = st.lists(st.tuples(SECONDS, SECONDS, SECONDS), min_size=1, max_size=6)


def closed(stages: list[StageTime], hops: list[Hop], microbatches: int) -> float:
    compute = np.array([stage.forward + stage.backward for stage in stages])
    busy, late = np.array([hop.busy for hop in hops]), np.array([hop.latency for hop in hops])
    return float(chain_seconds(compute, busy, late, microbatches))


def test_two_stages_by_hand() -> None:
    """Forward 1 and hop 1, then 2 at the last stage, hop 1 and backward 2; while a second one follows."""
    stages, hops = [StageTime(1.0, 2.0), StageTime(1.0, 1.0)], [Hop(1.0, 0.0)]
    assert stream(stages, hops, 1) == 7.0
    assert stream(stages, hops, 2) == 9.0  # its gradient arrives when the first one's backward is done


@given(CHAINS)
def test_one_microbatch_takes_everything_once(chain: list[tuple[float, float, float]]) -> None:
    stages = [StageTime(forward, backward) for forward, backward, _ in chain]
    hops = [Hop(busy, 0.1) for _, _, busy in chain[1:]]
    assert stream(stages, hops, 1) == pytest.approx(closed(stages, hops, 1))


@given(CHAINS, st.integers(2, 24))
def test_the_closed_form_is_near_the_schedule(chain: list[tuple[float, float, float]], count: int) -> None:
    stages = [StageTime(forward, backward) for forward, backward, _ in chain]
    hops = [Hop(busy, 0.1) for _, _, busy in chain[1:]]
    assert closed(stages, hops, count) == pytest.approx(stream(stages, hops, count), rel=0.35)


@pytest.mark.parametrize("hop", [0.1, 0.5, 1.0])
def test_on_equal_devices_the_closed_form_is_within_a_tenth(hop: float) -> None:
    stages, hops = [StageTime(0.5, 1.5)] * 8, [Hop(hop, 0.005)] * 7
    assert closed(stages, hops, 64) == pytest.approx(stream(stages, hops, 64), rel=0.1)


@given(CHAINS)
def test_more_in_flight_is_hardly_ever_slower(chain: list[tuple[float, float, float]]) -> None:
    """Not never: a schedule without foresight can lose a little."""
    stages = [StageTime(forward, backward) for forward, backward, _ in chain]
    hops = [Hop(busy, 0.1) for _, _, busy in chain[1:]]
    assert stream(stages, hops, 12) <= stream(stages, hops, 12, 1) * 1.1


def test_as_many_in_flight_as_stages_leave_slow_links_idle() -> None:
    stages, hops = [StageTime(0.1, 0.2)] * 4, [Hop(0.15, 0.3)] * 3
    assert stream(stages, hops, 64, 4) > 1.5 * stream(stages, hops, 64)


def test_the_planner_prices_a_chain_alike() -> None:
    (device,) = named_devices("laptops-4")
    world = World(stated_grid(369.0, "USA"))
    job, layers = Job("opt-1.3b", 512, 16, 2), even_cut(Job("opt-1.3b"), 4)
    kinds = [rates(device, world, day=False, values={"redo": 0.0, "checks": 0.0})]
    stages = [Stage(own, (Group(0, 1, 1),)) for own in layers]
    planned = round_cost(job, stages, kinds).train
    assert typical_seconds(crowd_of([device], world), job, layers) == pytest.approx(planned)


def test_a_chain_without_links_is_its_one_stage() -> None:
    nothing = np.zeros((3, 0))
    assert fill_seconds(np.ones((3, 1)), nothing, nothing).tolist() == [1.0, 1.0, 1.0]
    assert handshake_seconds(nothing).tolist() == [0.0, 0.0, 0.0]
    assert chain_seconds(np.ones((3, 1)), nothing, nothing, 5).tolist() == [5.0, 5.0, 5.0]


def test_a_chain_is_opened_and_closed_by_answers_along_it() -> None:
    assert handshake_seconds(np.array([[0.1, 0.1, 0.1], [0.0, 0.2, 0.0]])).tolist() == pytest.approx(
        [1.3, 1.0]
    )
