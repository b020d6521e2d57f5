"""What a round of a plan takes and costs: seconds, joules, grams of CO2e.

The promise: pure functions; a figure may be a number or an array of numbers, so that thousands of assumptions
are one call. The planner, its exact solver, the simulator and the forecast all price a plan here.

A round is: every chain streams `microbatches` through its stages and back (1F1B), then the holders of each
shard add up their updates, all shards side by side. docs/planning.md has the formulas. In short:

    train = sum of all stages and hops once + the busiest device or link for all its further microbatches
    round = train + the slowest cell's sum
    joules = busy seconds x (busy - idle watts) + seconds there x idle watts + bytes x J/byte, at the wall

With `day`, seconds are averages over days: a device that is there a third of the time takes three times as
long. Work is 2 FLOP a multiply-add of the matrices; attention's own products are left out, as in the 6 x
parameters x tokens by which devices' speeds are told.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from proto.errors import SwarmError
from swarm.carbon.sensitivity import place
from swarm.energy.grid import JOULES_PER_KWH
from swarm.manifest import CELL_LIMIT
from swarm.plan.devices import FIGURES, Device, Figure, parameter_figure
from swarm.shards.boundary import encoded_bytes
from swarm.sizes import (
    LOGITS,
    PASSES,
    PASSES_LAST,
    PRESETS,
    PROCESS_BYTES,
    VOCABULARY,
    bytes_a_parameter,
    rows_at_once,
)
from verify.chains import Codec

Number = Any
"""A float, or a float64 array: all arrays of one call have one shape."""
OPT_OFFSET = 2
"""Rows more than positions in OPT's table of positions."""
ACTIVATION_BYTES = 68
"""A token, layer and unit of width, in float32: twice the 34 of Korthikanti et al. 2022 (fp16), without the
square of the sequence length, which fused attention does not keep."""


MOST_SLICES = 1_024
"""Of a chain in a round: a manifest takes no more."""


class JobRefused(SwarmError):
    """Work that cannot be planned: an unknown model, a sequence it cannot read, a number out of bounds."""


@dataclass(frozen=True)
class Job:
    """What is trained: a preset, and how much of it a chain does in a round."""

    model: str
    sequence_length: int = 128
    sequences_per_slice: int = 16
    slices: int = 4
    codec: Codec = "fp16"

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            raise JobRefused(f"--model {self.model!r}: give one of {', '.join(PRESETS)}")
        if not 8 <= self.sequence_length <= PRESETS[self.model].positions:
            raise JobRefused(
                f"--sequence-length {self.sequence_length}: {self.model} reads 8 to "
                f"{PRESETS[self.model].positions} tokens"
            )
        if not (1 <= self.slices <= MOST_SLICES and 1 <= self.sequences_per_slice <= 4096):
            raise JobRefused(
                f"--sequences-per-slice {self.sequences_per_slice}, and {self.slices} slices a chain: at "
                f"least 1, at most 4096 and {MOST_SLICES}"
            )

    @property
    def layers(self) -> int:
        return PRESETS[self.model].layers

    @property
    def rows(self) -> int:
        """Sequences of a microbatch, as in `swarm.shards.stage.microbatches`."""
        return min(self.sequences_per_slice, rows_at_once(self.sequence_length, VOCABULARY))

    @property
    def microbatches(self) -> int:
        """Of a slice."""
        return -(-self.sequences_per_slice // self.rows)

    @property
    def tokens(self) -> int:
        """That a chain trains in a round."""
        return self.slices * self.sequences_per_slice * self.sequence_length

    @property
    def boundary_bytes(self) -> int:
        """Of a microbatch between two stages, each way."""
        width = PRESETS[self.model].width
        return encoded_bytes((self.rows, self.sequence_length, width), self.codec)


@dataclass(frozen=True)
class Load:
    """What a shard is: parameters, FLOP of a token forward and back, bytes of memory it takes."""

    parameters: int
    forward: float
    backward: float
    memory: float


@cache
def shard_load(job: Job, layers: int, first: bool, last: bool, ring_bytes: int = 2) -> Load:
    """A shard of so many decoder layers. First and last: the whole model, whose head is tied."""
    shape = PRESETS[job.model]
    width, inner = shape.width, shape.inner
    products = layers * (4 * width * width + 2 * width * inner)
    parameters = products + layers * (9 * width + inner)
    embedding = VOCABULARY * width
    if first:
        parameters += embedding + (shape.positions + OPT_OFFSET) * width
    if last:
        products += embedding
        parameters += 2 * width + (0 if first else embedding)
    passes = PASSES_LAST if last else PASSES
    tokens = job.rows * job.sequence_length
    logits = 3 * 4 * max(LOGITS, tokens * VOCABULARY) if last else 0
    memory = (
        PROCESS_BYTES
        + parameters * bytes_a_parameter(ring_bytes)
        + layers * ACTIVATION_BYTES * tokens * width
        + logits
    )
    return Load(parameters, 2.0 * products, 2.0 * products * (passes - 1), float(memory))


@dataclass(frozen=True)
class World:
    """What is the same for all devices. `grid`: g/kWh; `cpu_seconds`: of a member, for each other member and
    million parameters; `outer`: of an outer step, a million parameters; `fixed`: seconds a round beside
    training and sums."""

    grid: Figure
    checks: Figure = field(default_factory=lambda: parameter_figure("edge.checks"))
    cpu_seconds: Figure = field(default_factory=lambda: parameter_figure("cell.cpu-seconds"))
    outer: Figure = field(default_factory=lambda: parameter_figure("cell.outer-seconds"))
    fixed: Figure = field(default_factory=lambda: parameter_figure("round.fixed-seconds"))
    ring_bytes: int = 2


OF_WORLD = ("grid", "checks", "cpu_seconds", "outer", "fixed")
"""A world's figures."""


@dataclass(frozen=True)
class Rates:
    """One kind of device and the world around it, as numbers. `speed`: FLOP/s that are kept under lasting
    load; `busy`, `idle`: watts at the wall; `per_byte`: joules at the wall; `made`: grams for each second it
    is held; `slower`: seconds of the clock for one that it is there; `grams`: of a joule."""

    speed: Number
    busy: Number
    idle: Number
    per_byte: Number
    link: Number
    latency: Number
    availability: Number
    slower: Number
    made: Number
    work: Number
    traffic: Number
    cpu_seconds: Number
    outer: Number
    fixed: Number
    grams: Number


def rates(device: Device, world: World, *, day: bool, values: dict[str, Number] | None = None) -> Rates:
    """A device's numbers: its figures' own values, but for those in `values`, by field of Device or World."""
    given = {name: figure.value for name, figure in device.figures().items()}
    given |= {name: getattr(world, name).value for name in OF_WORLD}
    given |= values or {}
    again = 1 + given["redo"]
    there = given["availability"]
    return Rates(
        speed=given["speed"] * given["thermal"],
        busy=given["watts_busy"] * given["wall"],
        idle=given["watts_idle"] * given["wall"],
        per_byte=given["joules_per_byte"] * given["wall"],
        link=most_of(given["up"], given["down"], least=True),
        latency=given["latency"],
        availability=there if day else 1.0,
        slower=1 / there if day else 1.0,
        made=given["embodied_kg"] * 1000 / (given["lifespan"] * given["used"]),
        work=again * (1 + given["checks"]),
        traffic=again,
        cpu_seconds=given["cpu_seconds"],
        outer=given["outer"],
        fixed=given["fixed"],
        grams=given["grid"] / JOULES_PER_KWH,
    )


@dataclass(frozen=True)
class Group:
    """`count` holders of a shard that are alike: their kind, and in how many chains each of them is."""

    kind: int
    count: int
    chains: int


@dataclass(frozen=True)
class Stage:
    """A shard and its holders."""

    layers: int
    groups: tuple[Group, ...]

    @property
    def holders(self) -> int:
        return sum(group.count for group in self.groups)


@dataclass(frozen=True)
class StageCost:
    """A stage's part of a round. Seconds: `fill` of one microbatch at its slowest holder, `hop` of one
    boundary tensor at its slowest link, `busiest` of all further microbatches, `cell` of adding updates up,
    of the outer step, and of the round's fixed part. `joules`: of work and bytes, above what idling takes;
    `grams`: of these. `idle_watts`, `idle_grams`: for each second of the round, of its holders' idling, and
    grams of idling and of their having been made (`made_grams`: of that alone)."""

    fill: Number
    hop: Number
    busiest: Number
    cell: Number
    joules: Number
    grams: Number
    idle_watts: Number
    idle_grams: Number
    made_grams: Number


def paces(job: Job, load: Load, ends: int, r: Rates) -> tuple[Number, Number]:
    """Seconds of a microbatch at one device: to compute it, forward and back; to send a boundary tensor."""
    compute = (load.forward + load.backward) * job.rows * job.sequence_length * r.work / r.speed
    return compute * r.slower, job.boundary_bytes * (ends > 0) * r.traffic / r.link * r.slower


def stage_cost(
    job: Job, stage: Stage, first: bool, last: bool, kinds: Sequence[Rates], ring_bytes: int = 2
) -> StageCost:
    """What holds of a stage whatever the others are."""
    load = shard_load(job, stage.layers, first, last, ring_bytes)
    ends = 2 - first - last
    size = job.boundary_bytes * (ends > 0)
    holders, jobs = stage.holders, job.slices * job.microbatches
    shared = 2 * load.parameters * ring_bytes * (holders - 1) / holders
    millions = load.parameters / 1e6
    fill = hop = busiest = cell = 0.0
    joules = grams = idle_watts = idle_grams = made_grams = 0.0
    for group in stage.groups:
        r = kinds[group.kind]
        turns = group.chains * jobs
        compute, link = paces(job, load, ends, r)
        fill = most_of(fill, compute)
        hop = most_of(hop, (link + r.latency * r.slower) * (ends > 0))
        busiest = most_of(busiest, (turns - 1) * compute, (turns - 1) * ends * link)
        adding = millions * ((holders - 1) * r.cpu_seconds + r.outer)
        cell = most_of(cell, (shared / r.link + adding + r.fixed) * r.slower)
        moved = 2 * ends * turns * size * r.traffic + 2 * shared
        own = (turns * compute / r.slower + adding) * (r.busy - r.idle) + moved * r.per_byte
        idle = r.idle * r.availability
        made = r.made * r.availability
        joules, grams = joules + group.count * own, grams + group.count * own * r.grams
        idle_watts = idle_watts + group.count * idle
        made_grams = made_grams + group.count * made
        idle_grams = idle_grams + group.count * (idle * r.grams + made)
    return StageCost(fill, hop, busiest, cell, joules, grams, idle_watts, idle_grams, made_grams)


@dataclass(frozen=True)
class RoundCost:
    """A round: seconds in all and of training, joules, grams, and of them those of electricity alone."""

    seconds: Number
    train: Number
    joules: Number
    grams: Number
    marginal: Number


def combine(costs: Sequence[StageCost]) -> RoundCost:
    """The round that these stages make, in their order."""
    train = sum(cost.fill for cost in costs)
    for before, after in pairwise(costs):
        train = train + 2 * most_of(before.hop, after.hop)
    train = train + most_of(*(cost.busiest for cost in costs))
    seconds = train + most_of(*(cost.cell for cost in costs))
    joules = sum(cost.joules for cost in costs) + seconds * sum(cost.idle_watts for cost in costs)
    grams = sum(cost.grams for cost in costs) + seconds * sum(cost.idle_grams for cost in costs)
    made = seconds * sum(cost.made_grams for cost in costs)
    return RoundCost(seconds, train, joules, grams, grams - made)


def round_cost(job: Job, stages: Sequence[Stage], kinds: Sequence[Rates], ring_bytes: int = 2) -> RoundCost:
    """A round of these stages on devices of these kinds."""
    end = len(stages) - 1
    return combine(
        [stage_cost(job, stage, at == 0, at == end, kinds, ring_bytes) for at, stage in enumerate(stages)]
    )


def step_seconds(job: Job, stages: Sequence[Stage], kinds: Sequence[Rates]) -> Number:
    """One slice through one chain of the slowest holders, alone: the paper's step, which has 16 sequences."""
    alone = Job(job.model, job.sequence_length, job.sequences_per_slice, 1, job.codec)
    one = [
        Stage(stage.layers, tuple(Group(group.kind, group.count, 1) for group in stage.groups))
        for stage in stages
    ]
    return round_cost(alone, one, kinds).train


def covered(stages: Sequence[Stage], devices: Sequence[Device]) -> float:
    """The share of time in which every shard has a holder there, if devices come and go independently."""
    share = 1.0
    for stage in stages:
        nobody = 1.0
        for group in stage.groups:
            nobody *= (1 - devices[group.kind].availability.value) ** group.count
        share *= 1 - nobody
    return share


def secure(stages: Sequence[Stage]) -> bool:
    """Whether every shard's cell is large enough for masks against malicious members, and no larger than a
    cell can be."""
    return all(4 <= stage.holders <= CELL_LIMIT for stage in stages)


def draw_values(
    devices: Sequence[Device], world: World, samples: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """For each kind every figure's values [samples], drawn from its range; the world's are the same for all.

    Equal seeds give equal draws.
    """
    random = np.random.default_rng(seed)
    ours = {
        name: place(figure.low, figure.high, random.random(samples))
        for name in OF_WORLD
        for figure in [getattr(world, name)]
    }
    return [
        {
            **ours,
            **{
                name: place(device.figures()[name].low, device.figures()[name].high, random.random(samples))
                for name in FIGURES
            },
        }
        for device in devices
    ]


def most_of(*values: Number, least: bool = False) -> Number:
    """The largest (or least), elementwise."""
    if all(isinstance(value, float | int) for value in values):
        return min(values) if least else max(values)
    pick = np.minimum if least else np.maximum
    found = values[0]
    for value in values[1:]:
        found = pick(found, value)
    return found
