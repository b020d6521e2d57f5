"""The devices of a simulated run, one by one, and the terms that the run has.

The promise: what a device can do is the planner's own figures (`swarm.plan.devices`, `swarm.plan.cost`), with
their own values or with values drawn from their ranges; nothing about the world is stated twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from proto.errors import SwarmError
from secagg.messages import MAX_CELL
from swarm.plan.cost import Job, Load, Rates, World, rates, shard_load
from swarm.plan.devices import Device
from swarm.plan.plan import Plan
from swarm.shards.placement import Need
from swarm.simulation.chains import chain_seconds
from swarm.simulation.phases import Cell, exchange_seconds

MOST_SEQUENCES = 4096
LEAST_TIMEOUT = 60.0
MASK_PATIENCE = 6
"""A round's time-out in typical times of a vector through a link: a session gives a third of it to masks."""
SNAPSHOT_BYTES = 12
SECURE_CELL = 4


class CrowdRefused(SwarmError):
    """Devices that no run can be made of."""


@dataclass(frozen=True)
class Crowd:
    """Devices as columns, one row each. `speed`: FLOP/s of a cold device, `thermal`: the share it keeps;
    `busy`, `idle`: watts at the wall; `per_byte`: joules at the wall; `made`: grams a second of having it;
    `grams`: of a joule; `share`: of the day it is there."""

    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    kind: np.ndarray
    memory: np.ndarray
    speed: np.ndarray
    thermal: np.ndarray
    busy: np.ndarray
    idle: np.ndarray
    up: np.ndarray
    down: np.ndarray
    latency: np.ndarray
    per_byte: np.ndarray
    made: np.ndarray
    grams: np.ndarray
    share: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lasting(self) -> np.ndarray:
        """FLOP/s under lasting load."""
        return np.asarray(self.speed * self.thermal)


def crowd_of(
    devices: Sequence[Device], world: World, values: Sequence[Mapping[str, float]] | None = None
) -> Crowd:
    """The devices one by one. `values`: of each kind, figures in place of their own values, by field."""
    given: list[dict[str, float]] = []
    priced: list[Rates] = []
    for at, device in enumerate(devices):
        drawn = dict(values[at]) if values is not None else {}
        given.append({name: figure.value for name, figure in device.figures().items()} | drawn)
        priced.append(rates(device, world, day=False, values=drawn))
    counts = [device.count for device in devices]

    def column(of: Sequence[float]) -> np.ndarray:
        return np.repeat(np.array(of, float), counts)

    return Crowd(
        ids=tuple(name for device in devices for name in device.ids()),
        kinds=tuple(device.name for device in devices),
        kind=np.repeat(np.arange(len(devices)), counts),
        memory=column([one["memory"] for one in given]),
        speed=column([one["speed"] for one in given]),
        thermal=column([one["thermal"] for one in given]),
        busy=column([one.busy for one in priced]),
        idle=column([one.idle for one in priced]),
        up=column([one["up"] for one in given]),
        down=column([one["down"] for one in given]),
        latency=column([one["latency"] for one in given]),
        per_byte=column([one.per_byte for one in priced]),
        made=column([one.made for one in priced]),
        grams=column([one.grams for one in priced]),
        share=column([one["availability"] for one in given]),
    )


@dataclass(frozen=True)
class Terms:
    """What every member of the simulated run is held to. `layers`: of each shard; `window`: seconds of
    training; `timeout`: of a round; `rate`: the chance that a member is checked. `masking`, `fixed`, `outer`:
    see `phases.Cell`. The rest are a manifest's defaults."""

    job: Job
    layers: tuple[int, ...]
    window: float
    timeout: float
    rate: float
    masking: float
    fixed: float
    outer: float
    ring_bytes: int = 2
    suspend_after: int = 3
    probation_checks: int = 3
    largest_cell: int = MAX_CELL

    @property
    def shards(self) -> int:
        return len(self.layers)

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """What each shard is."""
        return loads_of(self.job, self.layers, self.ring_bytes)

    @cached_property
    def flops(self) -> np.ndarray:
        """Of a token at each shard, forward and back."""
        return np.array([load.forward + load.backward for load in self.loads])

    @cached_property
    def needs(self) -> tuple[Need, ...]:
        """The shards as placement sees them: work in multiply-adds."""
        return needs_of(self.loads)

    @property
    def row_tokens(self) -> int:
        """Of a microbatch."""
        return self.job.rows * self.job.sequence_length

    @property
    def slice_tokens(self) -> int:
        return self.job.sequences_per_slice * self.job.sequence_length

    def cell(self, shard: int, members: int, latency: float, link: float) -> Cell:
        """A shard's cell, whose slowest member has this latency (s) and link (bytes a second)."""
        parameters = self.loads[shard].parameters
        vector = parameters * self.ring_bytes / link
        fixed = self.fixed if self.shards * members > 1 else 0.0  # who is alone meets nobody
        return Cell(members, parameters, latency, vector, fixed, self.masking, self.outer)


def loads_of(job: Job, layers: Sequence[int], ring_bytes: int = 2) -> tuple[Load, ...]:
    """What each shard is."""
    end = len(layers) - 1
    return tuple(shard_load(job, own, at == 0, at == end, ring_bytes) for at, own in enumerate(layers))


def needs_of(loads: Sequence[Load]) -> tuple[Need, ...]:
    """Shards as placement sees them."""
    return tuple(
        Need(
            memory=int(load.memory),
            work=int((load.forward + load.backward) / 2),
            download=load.parameters * SNAPSHOT_BYTES,
        )
        for load in loads
    )


def shards_for(crowd: Crowd, job: Job) -> tuple[int, ...]:
    """Layers of each shard where no plan says: so few shards as fit the memory, so many that their cells hold
    the devices that are usually there. Raises CrowdRefused."""
    usual = float(crowd.share.sum())
    for count in range(min(job.layers, max(1, round(usual / MAX_CELL))), job.layers + 1):
        layers = even_cut(job, count)
        needed = np.array([load.memory for load in loads_of(job, layers)])
        if (crowd.memory >= needed.max()).mean() >= 0.5:
            if count > len(crowd):
                raise CrowdRefused(
                    f"{job.model} fits only where it is cut into {count} shards, and there are {len(crowd)} "
                    "devices: bring one for each shard at least, or larger ones"
                )
            return layers
    smallest = max(load.memory for load in loads_of(job, even_cut(job, job.layers)))
    raise CrowdRefused(
        f"{job.model} fits nowhere: cut into {job.layers} shards, one takes {smallest / 1e9:.1f} GB, and "
        f"half the devices have less than {np.median(crowd.memory) / 1e9:.1f} GB; bring larger ones, or a "
        "smaller model"
    )


def even_cut(job: Job, count: int) -> tuple[int, ...]:
    """Layers of each shard, cut as `swarm.shards.slicing.cut_layers` does, which needs torch: the last one,
    with the head, takes so many that the slowest shard is as fast as can be; the others are even."""
    if count == 1:
        return (job.layers,)

    def flops(layers: int, last: bool) -> float:
        load = shard_load(job, layers, False, last)
        return load.forward + load.backward

    def slowest(last: int) -> float:
        longest = -(-(job.layers - last) // (count - 1))
        return max(flops(longest, False), flops(last, True))

    last = min(range(job.layers - count + 1, 0, -1), key=slowest)
    edges = [(job.layers - last) * index // (count - 1) for index in range(count)]
    return (*(after - before for before, after in pairwise(edges)), last)


def terms_for(
    crowd: Crowd, job: Job, layers: Sequence[int], values: Mapping[str, float], rate: float, planned: bool
) -> Terms:
    """The terms of a run of these devices. `values`: of the parameters cell.cpu-seconds,
    cell.outer-seconds, round.fixed-seconds and training-share.

    The window lets the typical chain do all its slices. Without a plan slices are made so large that
    training has its share of a round: a power of two of sequences.
    """
    shape = {
        "layers": tuple(layers),
        "rate": rate,
        "masking": values["cell.cpu-seconds"],
        "fixed": values["round.fixed-seconds"],
        "outer": values["cell.outer-seconds"],
    }
    members = min(MAX_CELL, max(1, int(len(crowd) / len(layers))))
    link, late = float(np.median(np.minimum(crowd.up, crowd.down))), float(crowd.latency.max())
    loads = loads_of(job, layers)
    sizes = [job.sequences_per_slice]
    while not planned and sizes[-1] * 2 <= MOST_SEQUENCES:
        sizes.append(sizes[-1] * 2)
    for size in sizes:
        job = Job(job.model, job.sequence_length, size, job.slices, job.codec)
        window = typical_seconds(crowd, job, layers)
        vector = max(load.parameters for load in loads) * 2 / link
        timeout = max(LEAST_TIMEOUT, MASK_PATIENCE * vector)
        terms = Terms(job, window=window, timeout=timeout, **shape)  # type: ignore[arg-type]
        rest = max(
            sum(exchange_seconds(terms.cell(shard, members, late, link)).values())
            for shard in range(len(layers))
        )
        if window >= values["training-share"] * (window + rest):
            break
    return terms


def typical_seconds(crowd: Crowd, job: Job, layers: Sequence[int]) -> float:
    """Seconds of all slices of a round through a chain of devices that are half-way, warm."""
    loads = loads_of(job, layers)
    speed = float(np.median(crowd.lasting))
    tokens = job.rows * job.sequence_length
    compute = np.array([(load.forward + load.backward) * tokens / speed for load in loads])
    link = float(np.median(np.minimum(crowd.up, crowd.down)))
    busy = np.full(len(layers) - 1, job.boundary_bytes / link)
    late = np.full(len(layers) - 1, float(np.median(crowd.latency)))
    return float(chain_seconds(compute, busy, late, job.slices * job.microbatches))


def planned_layers(plan: Plan, crowd: Crowd) -> tuple[int, ...]:
    """The plan's cut. Raises CrowdRefused if the plan is for other devices."""
    known = set(crowd.ids)
    named = {device for own in plan.replicas for device in own} | set(plan.spares)
    if missing := sorted(named - known):
        raise CrowdRefused(
            f"the plan names {missing[0]}, and {len(missing)} in all, that --devices does not have: give "
            "both the same devices"
        )
    return plan.layers
