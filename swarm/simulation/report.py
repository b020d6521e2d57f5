"""A simulation from what its user asks for to what it says: scaling, starting, repeating, summing up.

The promise: intervals are the middle 90 % of runs whose figures were all drawn from their ranges; a forecast
is compared with the run that it was made for, and nothing is fitted to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from proto.errors import SwarmError
from swarm.plan.cost import OF_WORLD, Job, World, draw_values
from swarm.plan.devices import MOST_DEVICES, Device
from swarm.plan.plan import Interval, Plan
from swarm.simulation.crowd import Crowd, Terms, crowd_of, planned_layers, shards_for, terms_for
from swarm.simulation.outcome import Outcome
from swarm.simulation.roster import NOBODY
from swarm.simulation.run import Progress, Setting, Start, simulate
from swarm.simulation.traces import DAY, PARAMETERS, Stretch, habits, made_up, with_crashes
from swarm.simulation.training import planned_window

FIGURES = ("tokens_per_second", "round_seconds", "joules_per_token", "gco2e_per_token", "useful_share")


class AskRefused(SwarmError):
    """Something that cannot be simulated."""


@dataclass(frozen=True)
class Ask:
    """What is to be simulated. `always`: every device is always there and never crashes; `traces`: of the
    devices that are ever there, in place of made-up ones; `values`: of swarm/simulation/parameters.csv."""

    devices: tuple[Device, ...]
    world: World
    job: Job
    days: float
    seed: int
    rate: float
    attackers: float
    values: Mapping[str, float]
    always: bool = False
    traces: Mapping[str, Sequence[Stretch]] | None = None
    plan: Plan | None = None

    def __post_init__(self) -> None:
        if not 0 < self.days <= 366:
            raise AskRefused(f"--days {self.days:g}: more than 0, at most 366")
        for name, share in (("--attackers", self.attackers), ("--check-rate", self.rate)):
            if not 0 <= share <= 1:
                raise AskRefused(f"{name} {share:g}: a share, from 0 to 1")


@dataclass(frozen=True)
class Simulated:
    """What was asked, the terms that followed, and what came of it. `drawn`: of FIGURES, of the runs with
    drawn figures."""

    ask: Ask
    terms: Terms
    outcome: Outcome
    drawn: Mapping[str, Interval]


def scaled(devices: Sequence[Device], count: int) -> tuple[Device, ...]:
    """So many devices in the same proportions, by largest remainders. Raises AskRefused."""
    total = sum(device.count for device in devices)
    if not len(devices) <= count <= MOST_DEVICES:
        raise AskRefused(f"--count {count}: {len(devices)} (one of each kind) to {MOST_DEVICES}")
    exact = [device.count * count / total for device in devices]
    whole = [max(1, int(share)) for share in exact]
    while sum(whole) != count:
        step = 1 if sum(whole) < count else -1
        able = [at for at in range(len(whole)) if step > 0 or whole[at] > 1]
        whole[max(able, key=lambda at: step * (exact[at] - whole[at]))] += step
    return tuple(replace(device, count=own) for device, own in zip(devices, whole, strict=True))


def carry_out(ask: Ask, draws: int = 0, progress: Progress = lambda share: None) -> Simulated:
    """Simulate what is asked, and as often again with drawn figures. Raises CrowdRefused."""
    terms, outcome = _one(ask, None, lambda share: progress(share / (1 + draws)))
    found: dict[str, list[float]] = {name: [] for name in FIGURES}
    drawn = draw_values(ask.devices, ask.world, max(draws, 1), ask.seed)
    for at in range(draws):
        values = [{name: float(column[at]) for name, column in own.items()} for own in drawn]
        share = (at + 1) / (1 + draws)
        _, other = _one(ask, values, lambda part, share=share: progress(share + part / (1 + draws)))  # type: ignore[misc]
        told = figures(other)
        for name in FIGURES:
            if told[name] is not None:
                found[name].append(told[name])
    own = figures(outcome)
    intervals = {
        name: Interval(own[name], *(float(x) for x in np.quantile(values, (0.05, 0.95))))
        for name, values in found.items()
        if values and own[name] is not None
    }
    return Simulated(ask, terms, outcome, intervals)


def _one(ask: Ask, drawn: Sequence[Mapping[str, float]] | None, progress: Progress) -> tuple[Terms, Outcome]:
    crowd = crowd_of(ask.devices, ask.world, drawn)
    given = {name: getattr(ask.world, name).value for name in OF_WORLD}
    given |= drawn[0] if drawn is not None else {}
    world = {
        "cell.cpu-seconds": given["cpu_seconds"],
        "cell.outer-seconds": given["outer"],
        "round.fixed-seconds": given["fixed"],
        "edge.checks": given["checks"],
    }
    layers = shards_for(crowd, ask.job) if ask.plan is None else planned_layers(ask.plan, crowd)
    terms = terms_for(crowd, ask.job, layers, {**ask.values, **world}, ask.rate, ask.plan is not None)
    start = None
    if ask.plan is not None:
        start = start_of(ask.plan, crowd)
        terms = replace(terms, window=planned_window(crowd, terms, start.chains))
    terms = replace(terms, window=terms.window * (1 + world["edge.checks"]))
    setting = Setting(
        seconds=ask.days * DAY,
        seed=ask.seed,
        attackers=ask.attackers,
        heat_seconds=ask.values["heat-seconds"],
        recovery_seconds=ask.values["recovery-seconds"],
        goodbye_waits=ask.values["goodbye-waits"] >= 0.5,
    )
    return terms, simulate(crowd, terms, traces_of(ask, crowd), setting, start, progress)


def traces_of(ask: Ask, crowd: Crowd) -> list[Sequence[Stretch]]:
    """When each device is there."""
    ways, seconds = habits(ask.values), ask.days * DAY
    if ask.always:
        return [[Stretch(0.0, seconds, False)]] * len(crowd)
    if ask.traces is not None:
        return [
            with_crashes(ask.traces.get(name, ()), ways, (ask.seed, at)) for at, name in enumerate(crowd.ids)
        ]
    return [made_up(float(share), ways, seconds, (ask.seed, at)) for at, share in enumerate(crowd.share)]


def start_of(plan: Plan, crowd: Crowd) -> Start:
    """A plan's holders and chains, by rows of the crowd."""
    row = {name: at for at, name in enumerate(crowd.ids)}
    shard = [NOBODY] * len(crowd)
    for number, own in enumerate(plan.replicas):
        for name in own:
            shard[row[name]] = number
    return Start(tuple(shard), tuple(tuple(row[name] for name in path) for path in plan.chains))


def figures(outcome: Outcome) -> dict[str, Any]:
    """The figures that a run comes down to; None where there was no record."""
    tokens = outcome.tokens
    return {
        "tokens_per_second": tokens / outcome.seconds if outcome.seconds else None,
        "round_seconds": outcome.round_seconds if outcome.rows else None,
        "joules_per_token": outcome.total_joules / tokens if tokens else None,
        "gco2e_per_token": outcome.grams / tokens if tokens else None,
        "useful_share": outcome.useful if tokens else None,
    }


@dataclass(frozen=True)
class Against:
    """A forecast beside what was simulated, a round."""

    name: str
    forecast: Interval
    simulated: float

    @property
    def lies(self) -> Literal["below", "within", "above"]:
        """Where it lies of the forecast's interval."""
        if self.simulated < self.forecast.low:
            return "below"
        return "above" if self.simulated > self.forecast.high else "within"


def against_plan(done: Simulated) -> list[Against]:
    """The plan's forecast beside the run. A round is 1 / records of the whole time, joules and grams."""
    plan, out = done.ask.plan, done.outcome
    if plan is None or not out.rows:
        return []
    told = plan.forecast
    # A run that counts fewer tokens a round than planned must not look cheaper for it.
    rounds = out.tokens / plan.tokens
    if not rounds:
        return []
    return [
        Against("seconds", told.seconds if done.ask.always else told.day_seconds, out.seconds / rounds),
        Against("joules", told.joules, out.total_joules / rounds),
        Against("gco2e", told.gco2e, (out.grams + out.made) / rounds),
        Against("gco2e_marginal", told.gco2e_marginal, out.grams / rounds),
    ]


def summary(done: Simulated) -> dict[str, Any]:
    """All of it for programs."""
    ask, terms, out = done.ask, done.terms, done.outcome
    return {
        "devices": {device.name: device.count for device in ask.devices},
        "model": terms.job.model,
        "layers": list(terms.layers),
        "sequence_length": terms.job.sequence_length,
        "sequences_per_slice": terms.job.sequences_per_slice,
        "slices": terms.job.slices,
        "window_seconds": terms.window,
        "round_timeout_seconds": terms.timeout,
        "seed": ask.seed,
        "simulated_seconds": out.seconds,
        "records": out.records,
        "attempts": out.attempts,
        "voids": dict(out.voids),
        "paused_seconds": out.paused,
        "tokens": out.tokens,
        **figures(out),
        "intervals": {name: [one.low, one.high] for name, one in done.drawn.items()},
        "energy_kind": "modelled",
        "joules": dict(out.joules),
        "gco2e": {"electricity": out.grams, "embodied_amortised": out.made},
        "busy_seconds": dict(out.busy),
        "phase_seconds": {name: spent / max(1, out.attempts) for name, spent in out.phases.items()},
        "joins": out.joins,
        "goodbyes": out.goodbyes,
        "suspensions": out.suspensions,
        "recoveries": out.recoveries,
        "moves": out.moves,
        "attackers": out.attackers,
        "attackers_banned": len(out.caught_after),
        "rounds_before_ban": out.caught_after,
        "poisoned_share": out.poisoned / out.slices if out.slices else None,
        "forecast": {
            one.name: {
                "forecast": [one.forecast.value, one.forecast.low, one.forecast.high],
                "simulated": one.simulated,
                "lies": one.lies,
            }
            for one in against_plan(done)
        },
    }


def parameter_values(stated: Mapping[str, float]) -> dict[str, float]:
    """The parameters' own values, and those that are stated in their place."""
    return {**{name: parameter.value for name, parameter in PARAMETERS.items()}, **stated}
