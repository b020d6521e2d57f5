"""Pairwise links: the price of a partition against trying everything; the search against all partitions."""

import itertools

import numpy as np
import pytest

from benchmarks.dtfm import _crossed, _cycled, evolve, problem
from swarm.plan.links import Links, LinksRefused, arrange, price


def drawn(stages: int, size: int, seed: int) -> Links:
    random = np.random.default_rng(seed)
    n = stages * size
    data, pipe = random.uniform(1, 10, (2, n, n))
    return Links(data + data.T, pipe + pipe.T, stages)


def by_hand(links: Links, partition: np.ndarray) -> float:
    stages = len(partition)
    data = max(sum(links.data[i, j] for j in own if j != i) for own in partition for i in own)
    across = np.zeros((stages, stages))
    for a, b in itertools.permutations(range(stages), 2):
        across[a, b] = min(
            max(links.pipe[i, j] for i, j in zip(partition[a], order, strict=True))
            for order in itertools.permutations(partition[b])
        )
    line = min(
        sum(across[a, b] for a, b in itertools.pairwise(order))
        for order in itertools.permutations(range(stages))
    )
    return float(data + 2 * line)


@pytest.mark.parametrize(("stages", "size"), [(2, 3), (3, 2), (4, 3), (5, 1)])
def test_the_price_is_dtfms_cost_exactly(stages: int, size: int) -> None:
    for seed in range(4):
        links = drawn(stages, size, seed)
        partition = np.random.default_rng(seed).permutation(stages * size).reshape(stages, size)
        assert price(links, partition) == pytest.approx(by_hand(links, partition))


@pytest.mark.parametrize("seed", range(4))
def test_the_search_comes_near_the_best_of_all_partitions_of_six(seed: int) -> None:
    links = drawn(3, 2, seed)
    best = min(price(links, np.array(order).reshape(3, 2)) for order in itertools.permutations(range(6)))
    assert best * (1 - 1e-9) <= price(links, arrange(links)) <= best * 1.05


def test_it_places_each_device_once_and_the_same_each_time() -> None:
    links = problem(1, uneven=True)
    found = arrange(links, seed=2, looks=100)
    assert sorted(found.ravel()) == list(range(64))
    assert (found == arrange(links, seed=2, looks=100)).all()


def test_it_is_no_worse_than_the_genetic_algorithm_on_its_own_problem() -> None:
    links = problem(0)
    theirs, children = evolve(links, 600.0, 0, most=60)
    assert children == 60
    assert price(links, arrange(links, looks=400)) <= theirs * (1 + 1e-9)


def test_the_genetic_algorithms_children_keep_stages_equal() -> None:
    links, random = problem(3), np.random.default_rng(0)
    for _ in range(10):
        a, b = (random.permutation(64).reshape(8, 8) for _ in range(2))
        stage = _cycled(links, _crossed(a, b, random))
        assert np.bincount(stage, minlength=8).tolist() == [8] * 8


def test_links_that_cannot_be_are_refused() -> None:
    square = np.ones((6, 6))
    for data, pipe, stages in ((square, square, 4), (square, square[:5], 3), (square, square, 0)):
        with pytest.raises(LinksRefused, match="as many devices in each stage"):
            Links(data, pipe, stages)
    with pytest.raises(LinksRefused, match="at most 10"):
        Links(np.ones((22, 22)), np.ones((22, 22)), 2)
