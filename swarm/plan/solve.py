"""The best plan for devices, a model and an aim: searched, and where it is small enough proved.

The promise: the plan fits the devices' memory, its forecast is `swarm.plan.cost`'s, and `gap` says how far at
most it is from the best of all forms; a search alone has no gap to tell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from proto.errors import SwarmError
from swarm.plan.cost import (
    Job,
    Number,
    Stage,
    World,
    draw_values,
    rates,
    round_cost,
    step_seconds,
)
from swarm.plan.devices import Device, Figure
from swarm.plan.exact import can_solve, small_enough, solve_exactly
from swarm.plan.plan import Forecast, Interval, Method, Objective, Plan
from swarm.plan.search import Aim, Form, Problem, search

AIMS: dict[str, Aim] = {
    "time": Aim(time=1.0),
    "energy": Aim(energy=1.0),
    "carbon": Aim(carbon=1.0),
}
SAMPLES = 2_000
SECONDS = 20.0
"""Most that the exact solver takes."""


TELLING = 0.9
"""A gap above it tells nothing: then the plan counts as searched."""


class AskRefused(SwarmError):
    """Something that no plan can be made for."""


@dataclass(frozen=True)
class Ask:
    """What is to be planned. `batch`: slices a round of all chains together; 0: 16, or one a device if those
    are more. `least`: holders of each shard. `marginal`: carbon without the devices' having been made."""

    devices: tuple[Device, ...]
    job: Job
    world: World
    batch: int = 0
    least: int = 1
    marginal: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        total = sum(device.count for device in self.devices)
        if self.batch < 0 or self.least < 1:
            raise AskRefused(f"--slices {self.batch}, --replicas {self.least}: whole numbers of at least 1")
        if self.batch == 0:
            object.__setattr__(self, "batch", max(16, total))
        if self.least > min(self.batch, total):
            raise AskRefused(
                f"--replicas {self.least}: there are {total} devices and {self.batch} slices a round; ask "
                "for fewer replicas, or give more devices or slices"
            )


@dataclass(frozen=True)
class Found:
    """A plan, and what it is made of: stages with their groups, and its value for a token of the aim."""

    plan: Plan
    stages: tuple[Stage, ...]
    seconds: float
    joules: float
    grams: float


def problem_of(ask: Ask, aim: Aim) -> Problem:
    """The ask as numbers: figures' own values, averages over days."""
    return Problem(
        job=ask.job,
        counts=tuple(device.count for device in ask.devices),
        memory=tuple(device.memory.value for device in ask.devices),
        kinds=[rates(device, ask.world, day=True) for device in ask.devices],
        aim=replace(aim, marginal=ask.marginal),
        batch=ask.batch,
        least=ask.least,
        ring_bytes=ask.world.ring_bytes,
    )


def solve(ask: Ask, objective: Objective, weights: tuple[float, float, float] | None = None) -> Found:
    """The best plan. `weights`: of seconds, joules and grams, each as a share of the least there is.

    Raises FitsNowhere, AskRefused.
    """
    if objective != "weighted":
        return _solve(ask, objective, AIMS[objective])
    given = weights or (1.0, 1.0, 1.0)
    if not (min(given) >= 0 and 0 < sum(given) < math.inf):
        raise AskRefused(f"--weights {given}: none below 0, one above it")
    return _solve(ask, objective, _weighted(ask, given))


def front(ask: Ask, steps: int = 5) -> list[Found]:
    """Plans of which none is better than another in seconds, joules and grams at once, by seconds.

    Each alone, and weighted sums between each two of them; searched, not proved.
    """
    shares = [at / steps for at in range(steps + 1)]
    weights = {
        tuple(weight)
        for a, b in ((0, 1), (0, 2), (1, 2))
        for share in shares
        for weight in [[share if at == a else 1 - share if at == b else 0.0 for at in range(3)]]
    }
    found = {}
    for weight in sorted(weights):
        one = _solve(ask, "weighted", _weighted(ask, (weight[0], weight[1], weight[2])), prove=False)
        found[one.stages] = one
    kept = [one for one in found.values() if not any(_better(other, one) for other in found.values())]
    return sorted(kept, key=lambda one: one.seconds)


def forecast(ask: Ask, stages: Sequence[Stage], slices: int) -> Forecast:
    """What a round of these stages should take, each chain with so many slices, with intervals."""
    drawn = draw_values(ask.devices, ask.world, SAMPLES, ask.seed)
    job = replace(ask.job, slices=slices)
    told: dict[str, list[Number]] = {name: [] for name in Forecast.__dataclass_fields__}
    for values in (None, drawn):
        each = [None] * len(ask.devices) if values is None else values
        there, day = (
            [
                rates(device, ask.world, day=by_day, values=own)
                for device, own in zip(ask.devices, each, strict=True)
            ]
            for by_day in (False, True)
        )
        now = round_cost(job, stages, there, ask.world.ring_bytes)
        over_days = round_cost(job, stages, day, ask.world.ring_bytes)
        told["seconds"].append(now.seconds)
        told["day_seconds"].append(over_days.seconds)
        told["step_seconds"].append(step_seconds(job, stages, there))
        told["joules"].append(over_days.joules)
        told["gco2e"].append(over_days.grams)
        told["gco2e_marginal"].append(over_days.marginal)
    return Forecast(**{name: _interval(*pair) for name, pair in told.items()})


def _weighted(ask: Ask, weights: tuple[float, float, float]) -> Aim:
    """The weights as prices of a second, a joule and a gram: each over the least of it."""
    least = []
    for at, name in enumerate(("time", "energy", "carbon")):
        problem = problem_of(ask, AIMS[name])
        least.append(problem.value(search(problem)) if weights[at] else 1.0)
    time, energy, carbon = (weight / own if own else 0.0 for weight, own in zip(weights, least, strict=True))
    return Aim(time, energy, carbon)


def _solve(ask: Ask, objective: Objective, aim: Aim, prove: bool = True) -> Found:
    problem = problem_of(ask, aim)
    form = search(problem)
    if prove and small_enough(problem) and can_solve():
        solved = solve_exactly(problem, form, SECONDS)
        if solved.gap < TELLING:
            return _found(ask, problem, solved.form, objective, "exact", round(solved.gap, 6))
        form = solved.form
    return _found(ask, problem, form, objective, "heuristic", None)


def _found(
    ask: Ask, problem: Problem, form: Form, objective: Objective, method: Method, gap: float | None
) -> Found:
    stages, cost, tokens = problem.stages(form), problem.cost(form), problem.tokens(form.chains)
    left = [iter(device.ids()) for device in ask.devices]
    replicas, dealt = [], []
    for stage in stages:
        own = [(next(left[group.kind]), group.chains) for group in stage.groups for _ in range(group.count)]
        replicas.append(tuple(device for device, _ in own))
        dealt.append([device for device, chains in own for _ in range(chains)])
    slices = problem.job_of(form.chains).slices
    plan = Plan(
        model=ask.job.model,
        sequence_length=ask.job.sequence_length,
        codec=ask.job.codec,
        sequences_per_slice=ask.job.sequences_per_slice,
        slices=slices,
        layers=form.layers,
        replicas=tuple(replicas),
        chains=tuple(zip(*dealt, strict=True)),
        spares=tuple(device for own in left for device in own),
        objective=objective,
        method=method,
        gap=gap,
        forecast=forecast(ask, stages, slices),
    )
    grams = cost.marginal if ask.marginal else cost.grams
    return Found(plan, stages, cost.seconds / tokens, cost.joules / tokens, grams / tokens)


def _better(a: Found, b: Found) -> bool:
    """Whether a is no worse in anything and better in something."""
    ours, theirs = (a.seconds, a.joules, a.grams), (b.seconds, b.joules, b.grams)
    return all(x <= y * (1 + 1e-9) for x, y in zip(ours, theirs, strict=True)) and any(
        x < y * (1 - 1e-9) for x, y in zip(ours, theirs, strict=True)
    )


def _interval(value: Number, drawn: Number) -> Interval:
    low, high = (float(q) for q in np.percentile(np.asarray(drawn), (5, 95)))
    return Interval(float(value), low, high)


def stated_grid(grams_per_kwh: float, source: str) -> Figure:
    """A grid's intensity as a figure without a range: it is chosen."""
    return Figure(grams_per_kwh, grams_per_kwh, grams_per_kwh, "stated", source)
