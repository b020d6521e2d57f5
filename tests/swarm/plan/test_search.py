"""The planner against every plan there is, on problems small enough to try them all; and what it refuses."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.plan.cost import Group, Job, World, rates
from swarm.plan.devices import Figure, named_devices
from swarm.plan.exact import solve_exactly
from swarm.plan.search import Aim, Counts, FitsNowhere, Form, Problem, deal, search, starts
from swarm.plan.solve import AIMS, Ask, AskRefused, front, solve, stated_grid

WORLD = World(stated_grid(369.0, "test"))
EVERY = Aim(time=1e-3, energy=1e-4, carbon=0.3)


def every_form(problem: Problem) -> Iterator[Form]:
    """All cuts, and all ways to hold their shards."""
    deep, kinds = problem.job.layers, len(problem.counts)
    holders = [
        counts for counts in itertools.product(*(range(count + 1) for count in problem.counts)) if sum(counts)
    ]
    for shards in range(1, sum(problem.counts) + 1):
        for edges in itertools.combinations(range(1, deep), shards - 1):
            layers = tuple(b - a for a, b in itertools.pairwise((0, *edges, deep)))
            for counts in _dealt(holders, problem.counts, shards, kinds):
                form = Form(layers, counts)
                if problem.allowed(form):
                    yield form


def _dealt(holders: list[Counts], left: Counts, shards: int, kinds: int) -> Iterator[tuple[Counts, ...]]:
    if not shards:
        yield ()
        return
    for own in holders:
        rest = tuple(a - b for a, b in zip(left, own, strict=True))
        if min(rest) >= 0:
            for more in _dealt(holders, rest, shards - 1, kinds):
                yield (own, *more)


def problem(seed: int, aim: Aim, counts: Counts = (2, 2), model: str = "tiny", least: int = 1) -> Problem:
    """Two kinds whose figures follow from the seed; memory for the whole model in some, for parts in more."""
    strong, weak = named_devices(f"laptops-{counts[0]}+phones-{counts[1]}")
    factor = 1 + seed % 5
    watts = _times(strong.watts_busy, 1 + seed % 3)
    strong = replace(strong, up=_times(strong.up, factor / 3), watts_busy=watts)
    weak = replace(weak, speed=_times(weak.speed, factor), latency=_times(weak.latency, 7.0 * (seed % 2)))
    memory = [(16e9, 8e9), (2.9e9, 2.2e9), (16e9, 1.2e9)][seed % 3]
    kinds = [rates(device, WORLD, day=True) for device in (strong, weak)]
    return Problem(Job(model, 128, 4), counts, memory, kinds, aim, batch=4, least=least)


def _times(figure: Figure, factor: float) -> Figure:
    return figure.scaled(factor)


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("aim", [AIMS["time"], AIMS["energy"], EVERY, replace(EVERY, marginal=True)])
def test_the_exact_planner_finds_the_best_of_all_plans(seed: int, aim: Aim) -> None:
    own = problem(seed, aim, (2, 1), "opt-125m")
    best = min(map(own.value, every_form(own)))
    worst = max(starts(own), key=own.value)
    found = solve_exactly(own, worst)
    assert own.allowed(found.form)
    assert own.value(found.form) == pytest.approx(best, rel=1e-5)
    assert found.gap <= 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_it_is_exact_where_one_kind_idles_for_nothing(seed: int) -> None:
    own = problem(seed, AIMS["energy"], (2, 1), "opt-125m")
    own.kinds = [own.kinds[0], replace(own.kinds[1], idle=0.0)]
    best = min(map(own.value, every_form(own)))
    found = solve_exactly(own, max(starts(own), key=own.value))
    assert own.value(found.form) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_exact_with_least_holders_and_many_replicas_too(seed: int) -> None:
    own = problem(seed, EVERY, (3, 3), least=2)
    best = min(map(own.value, every_form(own)))
    found = solve_exactly(own, max(starts(own), key=own.value))
    assert own.value(found.form) == pytest.approx(best, rel=1e-5)
    assert min(map(sum, found.form.counts)) >= 2


@pytest.mark.parametrize("seed", range(9))
def test_the_search_comes_near_the_best_and_never_leaves_what_is_allowed(seed: int) -> None:
    own = problem(seed, EVERY, (2, 1), "opt-125m")
    form = search(own)
    assert own.allowed(form)
    best = min(map(own.value, every_form(own)))
    assert best * (1 - 1e-9) <= own.value(form) <= best * 1.15


def test_unequal_devices_get_unequal_shards() -> None:
    own = problem(0, AIMS["time"], (1, 1), "opt-125m")
    own.memory = (5e9, 4.0e9)
    own.kinds = [replace(kind, outer=0.0) for kind in own.kinds]  # else it outweighs so little work
    form = search(own)
    assert len(form.layers) == 2
    laptop = 0 if form.counts[0][0] else 1
    assert form.layers[laptop] > form.layers[1 - laptop]


@given(
    st.lists(st.tuples(st.integers(1, 3), st.floats(0.1, 10.0)), min_size=1, max_size=3), st.integers(0, 6)
)
@settings(max_examples=60)
def test_chains_are_dealt_so_that_the_slowest_holder_is_done_soonest(
    kinds: list[tuple[int, float]], more: int
) -> None:
    counts, pace = tuple(count for count, _ in kinds), [own for _, own in kinds]
    holders = [pace[kind] for kind, count in enumerate(counts) for _ in range(count)]
    chains = len(holders) + more
    groups = deal(counts, chains, pace)
    assert sum(group.count * group.chains for group in groups) == chains
    assert min(group.chains for group in groups) >= 1
    for kind, count in enumerate(counts):
        assert sum(group.count for group in groups if group.kind == kind) == count
    load = [1] * len(holders)
    for _ in range(more):
        at = min(range(len(holders)), key=lambda at: (load[at] + 1) * holders[at])
        load[at] += 1
    best = max(own * at for own, at in zip(load, holders, strict=True))
    assert max(group.chains * pace[group.kind] for group in groups) <= best * (1 + 1e-9)


def test_a_large_fleet_is_searched_and_every_device_counted_once() -> None:
    ask = Ask(named_devices("laptops-40+phones-160"), Job("opt-1.3b", 512), WORLD)
    found = solve(ask, "time")
    plan = found.plan
    assert (plan.method, plan.gap) == ("heuristic", None)
    assert sum(map(len, plan.replicas)) + len(plan.spares) == 200
    one = solve(Ask(named_devices("laptops-4"), Job("opt-1.3b", 512), WORLD), "time")
    assert found.seconds < one.seconds / 5
    assert found.stages == solve(ask, "time").stages, "the same ask gives the same plan"


def test_a_model_that_fits_nowhere_is_refused_with_the_numbers() -> None:
    with pytest.raises(FitsNowhere, match=r"opt-1\.3b needs 4\d\.\d GB as a whole.*2 devices have 16\.0 GB"):
        solve(Ask(named_devices("phones-2"), Job("opt-1.3b"), WORLD), "time")
    small = replace(named_devices("phones-15")[0], memory=Figure(2e9, 2e9, 2e9, "stated", "test"))
    with pytest.raises(
        FitsNowhere, match=r"the first shard, of one layer, needs .* largest device has 2\.0 GB"
    ):
        solve(Ask((small,), Job("opt-1.3b"), WORLD), "time")


def test_more_slices_than_chains_can_train_are_refused() -> None:
    with pytest.raises(FitsNowhere, match="2000 slices a round; ask for fewer"):
        solve(Ask(named_devices("laptops-4"), Job("opt-1.3b"), WORLD, batch=2000), "time")
    ask = Ask(named_devices("a100s-5000"), Job("tiny"), WORLD)
    plan = solve(ask, "time").plan
    assert len(plan.chains) <= 1024, "no attempt wires more"


def test_where_nothing_is_emitted_every_plan_is_as_good() -> None:
    clean = Ask(named_devices("laptops-2"), Job("opt-125m"), World(stated_grid(0.0, "test")), marginal=True)
    for aim in ("carbon", "weighted"):
        assert solve(clean, aim).grams == 0


def test_more_replicas_than_devices_are_refused() -> None:
    with pytest.raises(AskRefused, match="there are 4 devices"):
        Ask(named_devices("laptops-4"), Job("opt-125m"), WORLD, least=5)


def test_each_aim_is_best_at_its_own_and_the_front_has_nobody_who_is_beaten() -> None:
    ask = Ask(named_devices("laptops-3"), Job("opt-125m", 512), WORLD)
    time, energy, carbon = (solve(ask, aim) for aim in ("time", "energy", "carbon"))
    assert time.seconds <= min(energy.seconds, carbon.seconds) * (1 + 1e-6)
    assert energy.joules <= min(time.joules, carbon.joules) * (1 + 1e-6)
    assert carbon.grams <= min(time.grams, energy.grams) * (1 + 1e-6)
    kept = front(ask, 3)
    assert len(kept) >= 2
    for a, b in itertools.permutations(kept, 2):
        assert a.seconds < b.seconds or a.joules < b.joules or a.grams < b.grams


def test_groups_say_who_is_in_how_many_chains() -> None:
    assert deal((1, 2), 4, (1.0, 2.0)) == (Group(0, 1, 2), Group(1, 2, 1))
