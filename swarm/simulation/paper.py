"""The paper's set-ups, step by step: 4 laptops and 15 phones train OPT-125m and OPT-1.3b in a pipeline.

One step is 16 sequences of 512 tokens through a chain of all the devices (at most one a decoder layer), on
warm devices that are always there, with the chain's own schedule event by event (`chains.stream`); without
checks, faults and rounds, which the paper has not. Intervals: the middle 90 % of steps whose figures were
drawn from their ranges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from swarm.plan.cost import Job, World, draw_values, shard_load
from swarm.plan.devices import Device, named_devices
from swarm.plan.plan import Interval
from swarm.simulation.chains import Hop, StageTime, stream
from swarm.simulation.crowd import Crowd, crowd_of, even_cut

SETUPS = tuple((fleet, model) for model in ("opt-125m", "opt-1.3b") for fleet in ("laptops-4", "phones-15"))
SEQUENCES, LENGTH = 16, 512


@dataclass(frozen=True)
class PaperStep:
    """A step of one set-up. `used`: of the fleet's devices. Joules at the wall, modelled; grams of CO2e with
    the devices' share of having been made (`grams`), and of electricity alone (`marginal`)."""

    fleet: str
    model: str
    used: int
    seconds: Interval
    joules: Interval
    grams: Interval
    marginal: Interval


def paper_steps(world: World, draws: int = 200, seed: int = 0) -> list[PaperStep]:
    """All set-ups."""
    return [_setup(fleet, model, world, draws, seed) for fleet, model in SETUPS]


def _setup(fleet: str, model: str, world: World, draws: int, seed: int) -> PaperStep:
    (device,) = named_devices(fleet)
    job = Job(model, LENGTH, SEQUENCES, 1)
    drawn = draw_values([device], world, draws, seed)[0]
    rows = [
        _step(device, job, world, {name: float(column[at]) for name, column in drawn.items()})
        for at in range(draws)
    ]
    own = _step(device, job, world, {})
    low, high = np.quantile(np.array(rows), (0.05, 0.95), axis=0)
    told = [Interval(*map(float, one)) for one in zip(own, low, high, strict=True)]
    return PaperStep(fleet, model, min(device.count, job.layers), *told)


def _step(
    device: Device, job: Job, world: World, values: Mapping[str, float]
) -> tuple[float, float, float, float]:
    crowd = crowd_of([device], world, [values])
    layers = even_cut(job, min(device.count, job.layers))
    seconds, busy = step_of(crowd, job, layers)
    ends = 2 * (len(layers) - 1)
    moved = 2 * ends * job.boundary_bytes * job.microbatches
    joules = float(
        sum(own * (crowd.busy[0] - crowd.idle[0]) for own in busy)
        + len(layers) * seconds * crowd.idle[0]
        + moved * crowd.per_byte[0]
    )
    marginal = joules * float(crowd.grams[0])
    return seconds, joules, marginal + len(layers) * seconds * float(crowd.made[0]), marginal


def step_of(crowd: Crowd, job: Job, layers: Sequence[int]) -> tuple[float, list[float]]:
    """Seconds of one slice through the crowd's first devices, one a shard, warm; and how long each
    computes."""
    tokens, end = job.rows * job.sequence_length, len(layers) - 1
    loads = [shard_load(job, own, at == 0, at == end) for at, own in enumerate(layers)]
    speed = crowd.lasting
    stages = [
        StageTime(load.forward * tokens / speed[at], load.backward * tokens / speed[at])
        for at, load in enumerate(loads)
    ]
    hops = [
        Hop(
            job.boundary_bytes
            / float(min(crowd.up[at], crowd.down[at + 1], crowd.up[at + 1], crowd.down[at])),
            float(max(crowd.latency[at], crowd.latency[at + 1])),
        )
        for at in range(end)
    ]
    computing = [(stage.forward + stage.backward) * job.microbatches for stage in stages]
    return stream(stages, hops, job.microbatches), computing
