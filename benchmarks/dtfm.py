"""DT-FM's problem and a genetic algorithm of its form, written anew, for `benchmarks.planning`.

Cost: `swarm.plan.links.price`, DataP + 2 x PipeP. Problem: GPT-3 XL (1.3 billion parameters, 24 layers) in 8
stages of 8 machines, in 8 regions of 8; latency and bandwidth between regions follow from their distance,
drawn from a seed. Algorithm, as the paper (Yuan et al. 2022) and its public code tell it: a population of 100
random partitions; two parents at random; five machines of one go where the other has them, and stages are
made equal again; cycles of moves (Kernighan and Lin's idea) send machines with a fast link inside their stage
where links are slow; the child takes the place of the worse parent unless it is worse than both. It goes on
until its time is up, with our own pricing, which is faster than theirs: it sees more children than their
4,900 in ten minutes.
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


def problem(seed: int, uneven: bool = False) -> Links:
    """The machines in an order that tells nothing, with the seconds of their links. `uneven`: each machine's
    own link is 0.5 to 1 times as fast as its region's."""
    latency, bandwidth = regions(seed)
    if uneven:
        own = np.random.default_rng(seed + 2_000).uniform(0.5, 1.0, len(latency))
        bandwidth = bandwidth * np.minimum(own[:, None], own[None])
    order = np.random.default_rng(seed + 1_000).permutation(len(latency))
    latency, bandwidth = latency[np.ix_(order, order)], bandwidth[np.ix_(order, order)]
    size = len(latency) // STAGES
    return Links(2 * (latency + GRADIENT / (bandwidth * size)), latency + ACTIVATION / bandwidth, STAGES)


def evolve(links: Links, seconds: float, seed: int, most: int = 1 << 30) -> tuple[float, int]:
    """The least cost that the genetic algorithm finds in so many seconds, with at most so many children; and
    how many it had."""
    random = np.random.default_rng(seed)
    until = time.monotonic() + seconds
    n, size = len(links.data), links.size
    people = [random.permutation(n).reshape(links.stages, size) for _ in range(POPULATION)]
    costs = [price(links, own) for own in people]
    children = 0
    while children < most and time.monotonic() < until:
        a, b = random.choice(POPULATION, 2, replace=False)
        stage = _cycled(links, _crossed(people[a], people[b], random))
        child = np.argsort(stage, kind="stable").reshape(links.stages, size)
        own = price(links, child)
        children += 1
        worse = a if costs[a] > costs[b] else b
        if own <= costs[worse]:
            people[worse], costs[worse] = child, own
    return min(costs), children


def _crossed(a: np.ndarray, b: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The stage of each machine, int [n]: five machines of b go where a has them; stages too full give."""
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
            room = int(np.argmax(counts < size))
            counts[of_b[machine]] -= 1
            counts[room] += 1
            of_b[machine] = room
    return of_b


def _cycled(links: Links, stage: np.ndarray) -> np.ndarray:
    """Cycles of moves: of each stage the machine with the fastest link to a mate may go where its links are
    slowest on average, for fast links are worth most between stages; one that comes pushes one out, until the
    first stage has as many as before. Nobody moves twice; cycles count as far as their gains add up."""
    stages, n = links.stages, len(stage)
    pipe = links.pipe + np.diag(np.full(n, np.inf))
    locked, touched = np.zeros(n, bool), np.zeros(stages, bool)
    best, best_sum, gained = stage, 0.0, 0.0
    current = stage.copy()
    for _ in range(stages):
        moves, gains, closing = list[tuple[int, int, int]](), list[float](), list[float]()
        start = at = -1
        for _ in range(n):
            mover, gain = _gains(links, pipe, current, locked)
            if at < 0:
                start = at = int(np.argmax(gain.max(1)))
            if mover[at] < 0:
                break
            target = int(np.argmax(gain[at]))
            gains.append(float(gain[at, target]))
            closing.append(float(gain[at, start]) if at != start else -np.inf)
            moves.append((int(mover[at]), at, target))
            current[mover[at]] = target
            locked[mover[at]] = touched[target] = True
            at = target
            if at == start:
                break
        totals = [sum(gains[:last]) + closing[last] for last in range(1, len(moves))]
        keep = int(np.argmax(totals)) + 1 if totals and max(totals) > 0 else 0
        for machine, came, _ in reversed(moves[keep + (keep > 0) :]):
            current[machine] = came
        if keep:
            current[moves[keep][0]] = start
            gained += totals[keep - 1]
            if gained > best_sum:
                best, best_sum = current.copy(), gained
        if touched.all() or not moves:
            break
    return best


def _gains(
    links: Links, pipe: np.ndarray, stage: np.ndarray, locked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each stage who would move (-1: nobody), int [stages]; and what it gains by going to each, [stages,
    stages]: the mean of its links there, less its fastest link at home."""
    stages, n = links.stages, len(stage)
    member = stage[:, None] == np.arange(stages)
    mean = links.pipe @ member / np.maximum(1, member.sum(0))
    home = np.where(stage[:, None] == stage[None], pipe, np.inf).min(1)
    home = np.where(locked, np.inf, home)
    mover, gain = np.full(stages, -1), np.full((stages, stages), -np.inf)
    for own in range(stages):
        free = np.flatnonzero(member[:, own] & ~locked)
        if len(free) and n:
            machine = int(free[np.argmin(home[free])])
            mover[own] = machine
            gain[own] = mean[machine] - (home[machine] if np.isfinite(home[machine]) else 0.0)
            gain[own, own] = -np.inf
    return mover, gain
