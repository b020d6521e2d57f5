"""How long a chain of shards takes for its microbatches.

`stream` is the chain's own schedule, event by event: each stage does one thing at a time, backward before
forward (1F1B), at most so many microbatches in flight; a device sends one tensor at a time and receives one
at a time, in either direction of the chain. `chain_seconds` is the closed form that the planner uses too:
everything once for the first microbatch, and for each further one the busiest stage or link. A test holds
them together.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hop:
    """A link between two stages: seconds that it is busy with a tensor, and seconds on the way."""

    busy: float
    latency: float


@dataclass(frozen=True)
class StageTime:
    """Seconds of a microbatch at a stage. The last stage's forward is part of its backward."""

    forward: float
    backward: float


def stream(stages: Sequence[StageTime], hops: Sequence[Hop], microbatches: int, in_flight: int = 0) -> float:
    """Seconds until the first stage has the last gradient. `in_flight`: at most so many; 0: no limit.

    This is what predicts the time of a step of a real chain from the seconds of its stages and links alone.
    """
    last = len(stages) - 1
    limit = in_flight or microbatches
    ready: list[tuple[list[int], list[int]]] = [([], []) for _ in stages]  # backward, forward
    ready[0][1].extend(range(microbatches))
    open_, free = [0] * len(stages), [0.0] * len(stages)
    up, down = [0.0] * len(stages), [0.0] * len(stages)
    # Time, order, stage, what (backward done, forward done, gradient here, activation here), which.
    events: list[tuple[float, int, int, int, int]] = []
    order, now, done = 0, 0.0, 0.0

    def push(time: float, stage: int, way: int, microbatch: int) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (time, order, stage, way, microbatch))

    def send(at: int, way: int, to: int, microbatch: int) -> None:
        sender = at if way else at + 1
        begin, busy = max(now, up[sender]), hops[at].busy
        up[sender] = begin + busy
        # It is received while it is sent, as soon as the receiver's link has room for it.
        arrived = down[to] = max(begin, down[to]) + busy
        push(arrived + hops[at].latency, to, 2 + way, microbatch)

    def work(stage: int) -> None:
        back, forth = ready[stage]
        if free[stage] > now:
            return
        if back:
            free[stage] = now + stages[stage].backward
            push(free[stage], stage, 0, back.pop(0))
        elif forth and (stage == last or open_[stage] < limit):
            open_[stage] += 1
            alone = stages[stage].forward + (stages[stage].backward if stage == last else 0.0)
            free[stage] = now + alone
            push(free[stage], stage, 0 if stage == last else 1, forth.pop(0))

    work(0)
    while events:
        now, _, stage, what, microbatch = heapq.heappop(events)
        if what == 1:
            send(stage, 1, stage + 1, microbatch)
        elif what == 0:
            open_[stage] -= 1
            done = now if stage == 0 else done
            if stage:
                send(stage - 1, 0, stage - 1, microbatch)
        else:
            ready[stage][what - 2].append(microbatch)
        work(stage)
    return done


def chain_seconds(
    compute: np.ndarray, busy: np.ndarray, latency: np.ndarray, microbatches: np.ndarray | int
) -> np.ndarray:
    """Seconds of so many microbatches. `compute`: [..., stages], forward and backward; `busy`, `latency`:
    [..., stages - 1] of each hop, one way."""
    slowest = busiest(compute, busy)
    return np.asarray(fill_seconds(compute, busy, latency) + (microbatches - 1) * slowest)


def busiest(compute: np.ndarray, busy: np.ndarray) -> np.ndarray:
    """Seconds that the busiest stage or link of a chain needs for each microbatch: a device sends to both its
    neighbours, activations to one and gradients to the other."""
    slowest = compute.max(-1)
    if busy.shape[-1]:
        apart = np.zeros((*busy.shape[:-1], busy.shape[-1] + 1))
        apart[..., :-1] += busy
        apart[..., 1:] += busy
        slowest = np.maximum(slowest, apart.max(-1))
    return np.asarray(slowest)


def fill_seconds(compute: np.ndarray, busy: np.ndarray, latency: np.ndarray) -> np.ndarray:
    """Seconds of one microbatch, through all stages and back."""
    return np.asarray(compute.sum(-1) + 2 * (busy + latency).sum(-1))


def handshake_seconds(latency: np.ndarray) -> np.ndarray:
    """Seconds of opening a chain and of closing it. `latency`: [..., stages - 1] of each hop, one way.

    Each stage asks the next one whether it is there, and in the end where it stands, and is answered; the
    certificate is sent once. Counted in real chains of two, three and four stages.
    """
    return np.asarray(4 * latency.sum(-1) + latency.max(-1, initial=0.0))
