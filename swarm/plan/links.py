"""Who stands with whom where links differ pair by pair: devices into equal stages, stages into a line.

The promise: the cost is the one by which DT-FM plans (Yuan et al. 2022), DataP + 2 x PipeP, exactly; the
partition is the best that swaps of two devices found from several starts; the same seed gives the same one.

    DataP  max over stages and members i of the sum over members j of 2 (latency_ij + gradient seconds_ij)
    PipeP  the cheapest line through the stages; two in a row cost the slowest link of their best matching

Matchings and lines are exact, by dynamic programs over sets, many candidates at once: stages and their sizes
are at most MOST. `swarm-plan` itself takes a link as its device's own, and has no pairs.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from proto.errors import SwarmError

MOST = 10
"""Stages, and members of one: a program over sets has 2 to this power of them."""
BATCH = 24
"""Swaps that are priced at once."""


class LinksRefused(SwarmError):
    """Links that are no square of numbers, or that do not go into stages of equal size."""


@dataclass(frozen=True)
class Links:
    """Seconds between each two devices, float64 [n, n]: `data` to exchange a gradient's part with, there and
    back; `pipe` to hand an activation on. The diagonals count nothing."""

    data: np.ndarray
    pipe: np.ndarray
    stages: int

    def __post_init__(self) -> None:
        n = len(self.data)
        size = n // max(1, self.stages)
        if self.data.shape != (n, n) or self.pipe.shape != (n, n) or size * self.stages != n or not size:
            raise LinksRefused(
                f"links {list(self.data.shape)} and {list(self.pipe.shape)} for {self.stages} stages: two "
                "squares, with as many devices in each stage"
            )
        if max(size, self.stages) > MOST:
            raise LinksRefused(f"{self.stages} stages of {size}: at most {MOST} of either")

    @property
    def size(self) -> int:
        """Members of a stage."""
        return len(self.data) // self.stages


def price(links: Links, partition: np.ndarray) -> float:
    """DataP + 2 PipeP of a partition, int [stages, size], each device once."""
    data = _data(links, partition[None]).max()
    first, second = np.triu_indices(links.stages, 1)
    across = np.zeros((1, links.stages, links.stages))
    cost = _matched(links.pipe[partition[first][:, :, None], partition[second][:, None, :]])
    across[0, first, second] = across[0, second, first] = cost
    return float(data + 2 * _lines(across)[0])


def arrange(links: Links, seed: int = 0, looks: int = 2_400, seconds: float = math.inf) -> np.ndarray:
    """The best partition found, int [stages, size], with so many swaps looked at in all, or until the time is
    up; only then it depends on the machine."""
    until = time.monotonic() + seconds
    random = np.random.default_rng(seed)
    begin = sorted(_starts(links, random), key=lambda partition: price(links, partition))[:2]
    best, value = begin[0], price(links, begin[0])
    for start in begin:
        found, own = _improve(links, start, random, looks // len(begin), until)
        if own < value:
            best, value = found, own
    return best


def _starts(links: Links, random: np.random.Generator) -> list[np.ndarray]:
    """Near devices together; near devices apart, so that lines stay near; and what lies between."""
    near = _grouped(links.data + links.data.T, links.stages, random)
    across = np.array([[_mean(links.pipe, a, b) for b in near] for a in near])
    order = near[_line_order(across)]
    found = [near, near.T.copy() if near.shape[0] == near.shape[1] else near]
    # Each stage from `span` groups, and `span` stages in a row from the same groups.
    for span in range(2, links.stages):
        if links.stages % span or links.size % span:
            continue
        for rows in (order, near[_paired(across, span)]):
            blocks = rows.reshape(links.stages // span, span, span, links.size // span)
            found.append(blocks.transpose(0, 2, 1, 3).reshape(links.stages, links.size))
    return found


def _grouped(distance: np.ndarray, groups: int, random: np.random.Generator) -> np.ndarray:
    """Equal groups of near devices: from a far one on, each takes its nearest."""
    left = list(range(len(distance)))
    size, found = len(distance) // groups, []
    at = int(random.integers(len(left)))
    while left:
        seed = left[at]
        own = sorted(left, key=lambda other: (other != seed, distance[seed, other]))[:size]
        found.append(own)
        left = [other for other in left if other not in own]
        if left:
            at = int(np.argmax(distance[np.ix_(left, own)].sum(1)))
    return np.array(found)


def _paired(across: np.ndarray, span: int) -> list[int]:
    """Groups in an order in which each `span` in a row are near each other."""
    left, found = list(range(len(across))), list[int]()
    while left:
        seed = max(left, key=lambda at: across[at, left].sum())
        own = sorted(left, key=lambda other: (other != seed, across[seed, other]))[:span]
        found += own
        left = [other for other in left if other not in own]
    return found


def _mean(seconds: np.ndarray, a: Sequence[int], b: Sequence[int]) -> float:
    return float(seconds[np.ix_(a, b)].mean())


def _line_order(across: np.ndarray) -> list[int]:
    """A short line through all: the best of nearest-next from each."""
    best: tuple[float, list[int]] | None = None
    for start in range(len(across)):
        order, length = [start], 0.0
        while len(order) < len(across):
            after = min(
                (other for other in range(len(across)) if other not in order),
                key=lambda other: across[order[-1], other],
            )
            length += float(across[order[-1], after])
            order.append(after)
        if best is None or length < best[0]:
            best = length, order
    return best[1] if best else []


def _improve(
    links: Links, partition: np.ndarray, random: np.random.Generator, looks: int, until: float
) -> tuple[np.ndarray, float]:
    """Swaps of two devices of two stages, the best of each handful, while they gain or the looks last."""
    stages, size = partition.shape
    partition = partition.copy()
    data = _data(links, partition[None])[0]
    first, second = np.triu_indices(stages, 1)
    across = np.zeros((stages, stages))
    across[first, second] = across[second, first] = _matched(
        links.pipe[partition[first][:, :, None], partition[second][:, None, :]]
    )
    value = float(data.max() + 2 * _lines(across[None])[0])
    best, best_value = partition.copy(), value
    heat = value * 0.02
    rounds = max(1, looks // BATCH)
    for turn in range(rounds):
        if time.monotonic() > until:
            break
        a = random.integers(stages, size=BATCH)
        b = (a + random.integers(1, stages, size=BATCH)) % stages
        x, y = random.integers(size, size=BATCH), random.integers(size, size=BATCH)
        tried = np.repeat(partition[None], BATCH, 0)
        each = np.arange(BATCH)
        tried[each, a, x], tried[each, b, y] = partition[b, y], partition[a, x]
        new_data = np.repeat(data[None], BATCH, 0)
        for side in (a, b):
            new_data[each, side] = _data(links, tried[each, side][:, None])[:, 0]
        new_across = np.repeat(across[None], BATCH, 0)
        for side in (a, b):
            own = tried[each, side]
            cost = _matched(
                links.pipe[own[:, None, :, None], tried[:, :, None, :]].reshape(BATCH * stages, size, size)
            ).reshape(BATCH, stages)
            cost[each, side] = 0.0
            new_across[each, side, :] = cost
            new_across[each, :, side] = cost
        values = new_data.max(1) + 2 * _lines(new_across)
        at = int(np.argmin(values))
        # A little worse is taken at first, so that plateaus of equal links are crossed.
        if values[at] < value + heat * (1 - turn / rounds) * random.random():
            partition, data, across, value = tried[at], new_data[at], new_across[at], float(values[at])
            if value < best_value:
                best, best_value = partition.copy(), value
    return best, best_value


def _data(links: Links, partitions: np.ndarray) -> np.ndarray:
    """DataP of each stage, [..., stages], of partitions int [..., stages, size]."""
    within = links.data[partitions[..., :, None], partitions[..., None, :]]
    within[..., np.arange(partitions.shape[-1]), np.arange(partitions.shape[-1])] = 0.0
    worst: np.ndarray = within.sum(-1).max(-1)
    return worst


def _matched(costs: np.ndarray) -> np.ndarray:
    """For each matrix of [many, size, size] the least possible worst entry of a perfect matching."""
    many, size, _ = costs.shape
    layers = _layers(size)
    worst = np.full((1 << size, many), np.inf)
    worst[0] = 0.0
    for row, steps in enumerate(layers):
        for column, masks in enumerate(steps):
            after = masks | 1 << column
            through = np.maximum(worst[masks], costs[:, row, column])
            worst[after] = np.minimum(worst[after], through)
    found: np.ndarray = worst[-1]
    return found


def _lines(across: np.ndarray) -> np.ndarray:
    """For each matrix of [many, stages, stages] the length of the cheapest line through all stages."""
    many, stages, _ = across.shape
    steps = np.ascontiguousarray(across.transpose(1, 2, 0))
    length = np.full((1 << stages, stages, many), np.inf)
    for start in range(stages):
        length[1 << start, start] = 0.0
    for layer in _layers(stages)[1:]:
        for column, masks in enumerate(layer):
            length[masks | 1 << column, column] = (length[masks] + steps[None, :, column]).min(1)
    return np.asarray(length[-1].min(0))


@cache
def _layers(size: int) -> list[list[np.ndarray]]:
    """For each number of members, and each column: the sets of so many that have not this column."""
    masks = np.arange(1 << size)
    count = np.array([int(mask).bit_count() for mask in masks])
    return [
        [masks[(count == row) & (masks >> column & 1 == 0)] for column in range(size)] for row in range(size)
    ]
