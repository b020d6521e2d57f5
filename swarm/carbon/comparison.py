"""One training step in the cloud and at the edge: seconds, joules, grams, and their ratios.

The promise: pure functions of named values; a value may be a number or an array of numbers, so that tens of
thousands of assumptions are one call. Ratios are cloud over edge: above 1 the edge is better.

Work is 6 x parameters x tokens. A pipeline of n devices passes m microbatches through, forward and then back
(two thirds of the work); its time is that of a flow shop of equal jobs, the sum of all stages and links
once, and m - 1 times the slowest. Activations (and their gradients) cross n - 1 links, each megabyte is paid
for where it is sent and where it arrives. Carbon is ISO/IEC 21031: electricity x intensity + embodied x time
/ the time the device is used in its life.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from proto.errors import SwarmError
from swarm.carbon.parameters import EDGES, MODELS, Model
from swarm.energy.grid import JOULES_PER_KWH, SECONDS_PER_YEAR

Number = Any
"""A float, or a float64 array: all arrays of one call have one shape."""

ENDS = 2
"""A megabyte costs its sender and its receiver."""


class UnknownCase(SwarmError):
    """A comparison that is not one of CASES."""


class DoesNotFit(SwarmError):
    """The model does not fit into the devices' memory."""


@dataclass(frozen=True)
class Case:
    """Which devices train which model, alone or as a pipeline."""

    name: str
    edge: str
    model: Model
    sharded: bool


CASES = {
    case.name: case
    for case in (
        Case(f"{edge}{'s' * sharded}-{size}", edge, model, sharded)
        for size, model in MODELS.items()
        for sharded in (False, True)
        for edge in EDGES
    )
}


@dataclass(frozen=True)
class Step:
    """One step at one place. Joules are at the wall; grams of CO2e; `amortised` is the embodied share by
    time."""

    seconds: Number
    compute: Number
    wait: Number
    network: Number
    operational: Number
    amortised: Number

    @property
    def joules(self) -> Number:
        return self.compute + self.wait + self.network


@dataclass(frozen=True)
class Comparison:
    """A step in the cloud and at the edge."""

    tflop: Number
    boundary_megabytes: Number
    hop_seconds: Number
    cloud: Step
    edge: Step

    @property
    def energy(self) -> Number:
        """Cloud over edge, joules."""
        return self.cloud.joules / self.edge.joules

    @property
    def carbon_amortised(self) -> Number:
        """Cloud over edge, grams, where the edge's devices pay their share of having been made."""
        return (self.cloud.operational + self.cloud.amortised) / (self.edge.operational + self.edge.amortised)

    @property
    def carbon_marginal(self) -> Number:
        """Cloud over edge, grams, where the edge's devices exist anyway; the cloud's are bought for the
        work."""
        return (self.cloud.operational + self.cloud.amortised) / self.edge.operational


METRICS = ("energy", "carbon_amortised", "carbon_marginal")


def case_of(name: str) -> Case:
    """A case by its name. Raises UnknownCase."""
    if name not in CASES:
        raise UnknownCase(f"--case {name!r}: give one of {', '.join(CASES)} (plural: sharded over several)")
    return CASES[name]


def devices_of(values: Mapping[str, Number], case: Case) -> Number:
    """How many devices share the model."""
    return values[f"{case.edge}.count"] if case.sharded else 1.0


def memory_needed(values: Mapping[str, Number], case: Case) -> Number:
    """GB a device: weights, gradients and optimizer; activations come on top."""
    return case.model.parameters * values["bytes-per-parameter"] / devices_of(values, case) / 1e9


def check_fit(values: Mapping[str, Number], case: Case) -> None:
    """Raises DoesNotFit."""
    needed, has = memory_needed(values, case), values[f"{case.edge}.memory-gb"]
    if np.any(needed > has):
        raise DoesNotFit(
            f"{case.name}: {case.model.name} needs {needed:.1f} GB on each of "
            f"{devices_of(values, case):.0f} and has {has:g} GB: shard it (--case {case.edge}s-...) or "
            f"set {case.edge}.count or {case.edge}.memory-gb"
        )


def compare(values: Mapping[str, Number], case: Case, cloud: str) -> Comparison:
    """A step of the case against one GPU named `cloud`; whether the model fits is not asked here."""
    tokens = values["batch"] * values["sequence"]
    tflop = values["flop-factor"] * case.model.parameters * tokens / 1e12
    boundary = tokens * case.model.hidden * values["bytes-per-activation"] / 1e6
    return Comparison(
        tflop,
        boundary,
        boundary / values["edge.bandwidth"],
        _in_the_cloud(values, tflop, cloud),
        _at_the_edge(values, case, tflop, boundary),
    )


def _in_the_cloud(values: Mapping[str, Number], tflop: Number, cloud: str) -> Step:
    seconds = tflop / (values[f"{cloud}.peak-tflops"] * values[f"{cloud}.reached"])
    joules = (values[f"{cloud}.watts"] + values["cloud.server-watts"]) * values["cloud.pue"] * seconds
    made = (values[f"{cloud}.embodied-kg"] + values["cloud.server-kg"]) * 1000
    used = values["cloud.lifetime-years"] * SECONDS_PER_YEAR * values["cloud.utilisation"]
    operational = joules / JOULES_PER_KWH * values["cloud.grid"]
    return Step(seconds, joules, 0.0, 0.0, operational, made * seconds / used)


def _at_the_edge(values: Mapping[str, Number], case: Case, tflop: Number, boundary: Number) -> Step:
    def of(key: str) -> Number:
        return values[f"{case.edge}.{key}"]

    devices = devices_of(values, case)
    again = 1 + of("redo")
    speed = of("peak-tflops") * of("reached") * of("thermal")
    busy = tflop * again * (1 + values["edge.checks"]) / devices / speed
    hop = boundary * again / values["edge.bandwidth"] if case.sharded else 0.0
    m = values["microbatches"]
    seconds = sum(_flow_shop(part * busy / m, hop / m, devices, m) for part in (1 / 3, 2 / 3))
    compute = devices * busy * of("watts") * of("charger")
    idle = of("idle-watts") * values["edge.idle-charged"] * of("charger")
    moved = 2 * (devices - 1) * boundary * again * ENDS
    network = moved * values["edge.joules-per-megabyte"] * of("charger")
    wait = devices * np.maximum(seconds - busy, 0.0) * idle
    used = of("lifetime-years") * SECONDS_PER_YEAR * np.minimum(1.0, of("own-use") + of("availability"))
    operational = (compute + wait + network) / JOULES_PER_KWH * values["edge.grid"]
    return Step(
        seconds, compute, wait, network, operational, devices * of("embodied-kg") * 1000 * seconds / used
    )


def _flow_shop(stage: Number, link: Number, devices: Number, jobs: Number) -> Number:
    """Seconds for equal jobs through `devices` stages with a link between neighbours."""
    return devices * stage + (devices - 1) * link + (jobs - 1) * np.maximum(stage, link)
