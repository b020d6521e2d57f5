"""One attempt's window: which chains are wired, who steps in for whom, and what comes of it.

The chains are those of `verify.wiring`. A member that is not there, or goes, is replaced by the next of
its shard after three ticks of silence, which computes again what it had computed, at its shard alone; a chain
whose leader is not there, or goes, counts for nothing (`swarm.shards.chain`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from proto.canonical import tagged_hash
from swarm.shards.chain import PATIENCE
from swarm.simulation.chains import busiest, fill_seconds, handshake_seconds
from swarm.simulation.crowd import Crowd, Terms
from verify.wiring import draw_paths, stand_ins

SCALE = 1000
"""Throughputs are told to the wiring in thousandths of a token a second."""


@dataclass(frozen=True)
class Window:
    """What an attempt's window begins with. `roster`: each shard's members, in order; `there`: which devices
    take part; `gone`: devices that go within it, and after how many seconds; `speed`: FLOP/s of each device
    now. `paths`: the plan's chains, where its members still hold their shards."""

    number: int
    attempt: int
    roster: Sequence[np.ndarray]
    there: np.ndarray
    gone: Mapping[int, float]
    speed: np.ndarray
    paths: Sequence[Sequence[int]] | None


@dataclass(frozen=True)
class Trained:
    """`posts`: chains x shards, who did the work in the end. `slices`: that each chain counts. `done`,
    `again`: microbatches computed by each post, and those of a lost peer's that were computed anew.
    `seconds`: busy, of each device; `bytes`: sent and received between stages."""

    posts: np.ndarray
    slices: np.ndarray
    done: np.ndarray
    seconds: np.ndarray
    again_seconds: np.ndarray
    bytes: np.ndarray


def train(crowd: Crowd, terms: Terms, window: Window, seed: bytes) -> Trained:
    """Let the chains work until the window ends."""
    beacon = tagged_hash("simulated-beacon", seed, window.number.to_bytes(8, "big"))
    paths = np.array(window.paths if window.paths is not None else _drawn(crowd, terms, window, beacon))
    posts, leads = _stood_in(crowd, terms, window, beacon, paths)
    held = posts >= 0
    whole = held.all(axis=1)
    alone, pace, fill = paces(crowd, terms, posts, window.speed)
    size = terms.job.boundary_bytes

    seconds, again, moved = (np.zeros(len(crowd)) for _ in range(3))
    each, total = terms.job.microbatches, terms.job.slices * terms.job.microbatches
    left = np.full(len(paths), terms.window)
    starved = ~whole | ~leads
    for chain, shard in zip(*np.nonzero(np.isin(posts, list(window.gone))), strict=True):
        device = int(posts[chain, shard])
        at = window.gone[device]
        if starved[chain]:
            continue
        had = np.clip(1 + (at - fill[chain]) / pace[chain], 0, total)
        seconds[device] += had * alone[chain, shard]
        after = None if shard == 0 else _next(crowd, terms, window, beacon, int(chain), int(shard), device)
        if after is None:
            starved[chain], left[chain] = True, min(left[chain], at)
            continue
        redo = had * terms.flops[shard] * terms.row_tokens / window.speed[after]
        left[chain] -= PATIENCE * alone[chain].max() + redo
        again[after] += redo
        posts[chain, shard] = after
        alone[chain, shard] = terms.flops[shard] * terms.row_tokens / window.speed[after]

    runs = whole & leads
    rest = np.where(runs, left - fill, -1.0)
    done = np.where(rest >= 0, np.minimum(total, 1 + np.floor(rest / np.where(runs, pace, 1.0))), 0.0)
    slices = np.where(starved, 0, done // each).astype(int)
    for shard in range(terms.shards):
        own = posts[:, shard]
        here = own >= 0
        lived = here & ~np.isin(own, list(window.gone))
        np.add.at(seconds, own[lived], (done * alone[:, shard])[lived])
        ends = 2 - (shard == 0) - (shard == terms.shards - 1)
        np.add.at(moved, own[here], (2 * ends * size * done)[here])
    return Trained(posts, slices, done, seconds, again, moved)


def paces(
    crowd: Crowd, terms: Terms, posts: np.ndarray, speed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds of chains: of a microbatch at each post, were it in one chain only, [chains, shards]; of each
    further microbatch, where a device is shared by the chains that it is in; of the first one, with
    opening and closing. `posts`: -1 where nobody is."""
    held = posts >= 0
    alone = np.where(held, terms.flops * terms.row_tokens / speed[posts], 0.0)
    turns = np.where(held, np.bincount(posts[held], minlength=len(crowd))[posts], 1)
    up, down, late = crowd.up[posts], crowd.down[posts], crowd.latency[posts]
    ways = np.minimum(np.minimum(up[:, :-1], down[:, 1:]), np.minimum(up[:, 1:], down[:, :-1]))
    busy = terms.job.boundary_bytes / ways
    latency = np.maximum(late[:, :-1], late[:, 1:])
    pace = busiest(alone * turns, busy * np.maximum(turns[:, :-1], turns[:, 1:]))
    return alone, pace, fill_seconds(alone, busy, latency) + handshake_seconds(latency)


def planned_window(crowd: Crowd, terms: Terms, chains: Sequence[Sequence[int]]) -> float:
    """Seconds in which all the chains of a plan do all their slices, on warm devices."""
    _, pace, fill = paces(crowd, terms, np.array(chains), crowd.lasting)
    return float((fill + (terms.job.slices * terms.job.microbatches - 1) * pace).max())


def _drawn(crowd: Crowd, terms: Terms, window: Window, beacon: bytes) -> tuple[tuple[int, ...], ...]:
    """The wiring's own draw, over the whole roster: nobody knows yet who is not there."""
    drawn = draw_paths(beacon, window.number, window.attempt, _throughput(crowd, terms, window.roster))
    return tuple(tuple(int(device) for device in path) for path in drawn)


def _throughput(crowd: Crowd, terms: Terms, roster: Sequence[np.ndarray]) -> list[dict[str, int]]:
    return [_of_shard(crowd, terms, roster, shard) for shard in range(terms.shards)]


def _of_shard(crowd: Crowd, terms: Terms, roster: Sequence[np.ndarray], shard: int) -> dict[str, int]:
    """What records have counted of a shard's members, as the wiring takes it."""
    speeds = crowd.lasting[roster[shard]] / terms.flops[shard] * SCALE
    return {str(device): int(speed) for device, speed in zip(roster[shard], speeds, strict=True)}


def _stood_in(
    crowd: Crowd, terms: Terms, window: Window, beacon: bytes, paths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Paths with somebody who is there in every post, -1 where nobody is; and which chains have their
    leader."""
    posts, leads = paths.copy(), window.there[paths[:, 0]]
    for chain, shard in zip(*np.nonzero(~window.there[paths]), strict=True):
        after = _next(crowd, terms, window, beacon, int(chain), int(shard), int(paths[chain, shard]))
        posts[chain, shard] = -1 if after is None or shard == 0 else after
    return posts, leads


def _next(
    crowd: Crowd, terms: Terms, window: Window, beacon: bytes, chain: int, shard: int, own: int
) -> int | None:
    """Who steps in: the next in turn who is there and stays."""
    peers = _of_shard(crowd, terms, window.roster, shard)
    peers.setdefault(str(own), 1)
    for name in stand_ins(beacon, window.number, window.attempt, peers, chain, shard, str(own)):
        if window.there[int(name)] and int(name) not in window.gone:
            return int(name)
    return None
