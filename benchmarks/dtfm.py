"""DT-FM's problem and a genetic algorithm of its form, written anew, for `benchmarks.planning` to compare with.

Cost: `swarm.plan.links.price`, DataP + 2 x PipeP. Problem: GPT-3 XL (1.3 billion parameters, 24 layers) in 8
stages of 8 machines, in 8 regions of 8; latency and bandwidth between regions from their distance, drawn from a seed.
Algorithm, as the paper and its public code tell it: a population of 100 random partitions; two parents at
random; five genes of one go into the other, which is balanced again; cycles of moves to the stage that gains
most; the child takes the place of the worse parent if it is better. It goes on until its time is up, with our own pricing, which is
faster than theirs, so it sees more candidates than theirs would.
"""

import time

import numpy as np

from swarm.plan.links import Links, price

REGIONS, MACHINES, STAGES = 8, 8, 8
GRADIENT = 1.3e9 * 4 / STAGES
"""Bytes of a stage's gradient, in float32."""
ACTIVATION = 125_000 * 2048 * 2.0
"""Bytes of what a stage hands on: an eighth of a million tokens, fp16."""
POPULATION = 100
GENES = 5


def regions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Latency in seconds and bandwidth in bytes a second between each two of 64 machines, [64, 64]."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(REGIONS, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    apart = np.arccos(np.clip(points @ points.T, -1, 1)) / np.pi
    noise = np.triu(random.uniform(0.8, 1.25, (REGIONS, REGIONS)), 1)
    noise = noise + noise.T
    latency = 0.010 + 0.240 * apart
    bits = (0.3 + 1.0 * (1 - apart)) * 1e9 * noise
    np.fill_diagonal(latency, 0.005)
    np.fill_diagonal(bits, 2e9)
    where = np.repeat(np.arange(REGIONS), MACHINES)
    return latency[np.ix_(where, where)], bits[np.ix_(where, where)] / 8


def problem(seed: int) -> Links:
    """The machines in an order that tells nothing, with the seconds of their links."""
    latency, bandwidth = regions(seed)
    order = np.random.default_rng(seed + 1_000).permutation(len(latency))
    latency, bandwidth = latency[np.ix_(order, order)], bandwidth[np.ix_(order, order)]
    size = len(latency) // STAGES
    return Links(2 * (latency + GRADIENT / (bandwidth * size)), latency + ACTIVATION / bandwidth, STAGES)


def evolve(links: Links, seconds: float, seed: int) -> tuple[float, int]:
    """The least cost that the genetic algorithm finds within so many seconds, and how many children it had."""
    random = np.random.default_rng(seed)
    until = time.monotonic() + seconds
    n, size = len(links.data), links.size
    people = [random.permutation(n).reshape(links.stages, size) for _ in range(POPULATION)]
    costs = [price(links, own) for own in people]
    children = 0
    while time.monotonic() < until:
        a, b = random.choice(POPULATION, 2, replace=False)
        child = _cycled(links, _crossed(people[a], people[b], random))
        own = price(links, child)
        children += 1
        worse = a if costs[a] > costs[b] else b
        if own < costs[worse]:
            people[worse], costs[worse] = child, own
    return min(costs), children


def _crossed(a: np.ndarray, b: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Five machines of b go where a has them; stages too full give to those with room."""
    stages, size = a.shape
    n = stages * size
    of_a, of_b = np.empty(n, int), np.empty(n, int)
    for own, of in ((a, of_a), (b, of_b)):
        of[own.ravel()] = np.repeat(np.arange(stages), size)
    genes = random.choice(n, GENES, replace=False)
    of_b[genes] = of_a[genes]
    counts = np.bincount(of_b, minlength=stages)
    for machine in range(n):
        if counts[of_b[machine]] > size:
            room = int(np.argmin(counts))
            counts[of_b[machine]] -= 1
            counts[room] += 1
            of_b[machine] = room
    return np.argsort(of_b, kind="stable").reshape(stages, size)


def _cycled(links: Links, partition: np.ndarray) -> np.ndarray:
    """Cycles of moves: a machine goes where its links are shortest, pushes out the one there that gains most by
    going on, and so on, until the last goes where the first came from; while the sum within stages falls."""
    stages, size = partition.shape
    partition = partition.copy()
    for _ in range(stages):
        to = links.data[:, partition].sum(2)  # [machine, stage]
        own = np.repeat(np.arange(stages), size)
        flat = partition.ravel()
        gain = to[flat, own][:, None] - to[flat]
        gain[np.arange(len(flat)), own] = -np.inf
        first, target = divmod(int(np.argmax(gain)), stages)
        start, moves, total, seen = int(own[first]), [first], float(gain[first, target]), {int(own[first])}
        while target not in seen and len(seen) < stages:
            seen.add(target)
            rows = range(target * size, (target + 1) * size)
            open_to = [stage for stage in range(stages) if stage not in seen] + [start]
            best = max(((gain[row, stage], row, stage) for row in rows for stage in open_to))
            moves.append(best[1])
            total += float(best[0])
            target = best[2]
        machines = [int(flat[row]) for row in moves]
        changed = flat.copy()
        for place, machine in zip(moves, [machines[-1], *machines[:-1]], strict=True):
            changed[place] = machine
        after = changed.reshape(stages, size)
        if _within(links, after) >= _within(links, partition):
            return partition
        partition = after
    return partition


def _within(links: Links, partition: np.ndarray) -> float:
    return float(links.data[partition[:, :, None], partition[:, None, :]].sum())
