"""What `swarm-plan` shows: lines of at most 80 columns."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from swarm.energy.grid import Grid
from swarm.plan.cost import covered, secure, shard_load
from swarm.plan.devices import KEYS, Device, Figure
from swarm.plan.plan import Interval, Plan
from swarm.plan.solve import Ask, Found

WIDTH = 80
UNITS = {key.field: (name, key) for name, key in KEYS.items()}


def figure_lines(devices: Sequence[Device]) -> list[str]:
    """Every figure of every kind: value, range, unit, how it is known, and from where."""
    lines = []
    for device in devices:
        lines.append(f"{device.name}: {device.count}")
        lines.append(f"  {'key of a device file':26}{'value':>9}  {'range':20} known by")
        for field, figure in device.figures().items():
            name, key = UNITS[field]
            value, low, high = (x / key.factor for x in (figure.value, figure.low, figure.high))
            span = f"{low:.4g} to {high:.4g}" if low != high else "held"
            lines.append(f"  {name:26}{value:9.4g}  {span:20} {figure.basis}")
            lines += textwrap.wrap(
                figure.source, WIDTH - 6, initial_indent="      ", subsequent_indent="      "
            )
    lines += textwrap.wrap(
        "known by: paper = arXiv 2507.01803 states it; source = the public source below it; assumed = nobody "
        "was found who says, and the range is the statement; stated = by you; held = not drawn",
        WIDTH,
    )
    return lines


def figures_json(devices: Sequence[Device]) -> list[dict[str, Any]]:
    """The same as JSON values, in the units of a device file."""
    found = []
    for device in devices:
        own: dict[str, Any] = {"name": device.name, "count": device.count}
        for field, figure in device.figures().items():
            name, key = UNITS[field]
            scaled: Figure = figure.scaled(1 / key.factor)
            own[name] = asdict(scaled)
        found.append(own)
    return found


def plan_lines(ask: Ask, found: Found, grid: Grid) -> list[str]:
    """One plan: shards and holders, what a round takes, what it rests on."""
    plan, job = found.plan, ask.job
    fleet = " + ".join(f"{device.count} {device.name}" for device in ask.devices)
    lines = [
        *_wrapped(f"{job.model} on {fleet}: best for {plan.objective} a token, {_proof(plan)}"),
        f"A round: {len(plan.chains)} x {plan.slices} slices of {job.sequences_per_slice} sequences of "
        f"{job.sequence_length} tokens = {plan.tokens} tokens",
        f"  {'shard':>5}{'layers':>8}  {'of them':12}{'GB':>6}  held by",
    ]
    at = 0
    end = plan.shards - 1
    for shard, (stage, holders) in enumerate(zip(found.stages, plan.replicas, strict=True)):
        span = f"{at} to {at + stage.layers - 1}" if stage.layers > 1 else f"{at}"
        at += stage.layers
        load = shard_load(job, stage.layers, shard == 0, shard == end, ask.world.ring_bytes)
        groups = ", ".join(
            f"{group.count} {ask.devices[group.kind].name}"
            + (f" in {group.chains} chains" if group.chains > 1 else "")
            for group in stage.groups
        )
        text = f"{groups}: {holders[0]}" + (f" ... {holders[-1]}" if len(holders) > 1 else "")
        lines += _hang(f"  {shard:5}{stage.layers:8}  {span:12}{load.memory / 1e9:6.1f}  ", text)
    lines.append(f"  spare: {len(plan.spares)}" + (f" ({plan.spares[0]} ...)" if plan.spares else ""))
    told = plan.forecast
    thousand = plan.tokens / 1000
    lines += [
        "",
        f"  {'a round':34}{'own values':>10}   middle 90 % of the ranges",
        _told("seconds, while all are there", told.seconds),
        _told("seconds, averaged over days", told.day_seconds),
        _told("joules at the wall", told.joules),
        _told("g CO2e, devices' making shared out", told.gco2e),
        _told("g CO2e, electricity alone", told.gco2e_marginal),
        _told("seconds a step: 1 slice, 1 chain", told.step_seconds),
        f"  1,000 tokens: {found.seconds * 1000:.3g} s (averaged over days), "
        f"{told.joules.value / thousand:.3g} J, {told.gco2e.value / thousand:.3g} g",
        "",
    ]
    lines += _wrapped(f"Electricity: {grid}.")
    share = covered_share(ask, found)
    lines += _wrapped(
        f"If devices come and go independently, every shard has a holder {share:.2g} of the time; the "
        "seconds over days take them to come and go together."
    )
    if not secure(found.stages):
        lines += _wrapped(
            "A shard with fewer than 4 holders has no secure sums and no check by another holder of it, and "
            "one with more than 32 fills several cells: --replicas 4 asks for more holders."
        )
    assumed = [
        f"{device.name}.{UNITS[field][0]}"
        for device in ask.devices
        for field, figure in device.figures().items()
        if figure.basis == "assumed" and figure.low != figure.high
    ]
    if assumed:
        lines += _wrapped(f"Assumed, for nobody was found who says: {', '.join(assumed)}.")
    lines += ["", "For the run's manifest:", *(f"  {line}" for line in plan.manifest_fragment().splitlines())]
    lines.append("Figures and sources: --figures. How to read this: docs/planning.md")
    return lines


def front_lines(ask: Ask, found: Sequence[Found], grid: Grid) -> list[str]:
    """Plans of which none is better than another in everything."""
    fleet = " + ".join(f"{device.count} {device.name}" for device in ask.devices)
    lines = [
        f"{ask.job.model} on {fleet}: no plan is better than another in everything",
        f"  {'1,000 tokens:':14}{'seconds':>9}{'joules':>9}{'g CO2e':>9}  shards  chains  devices  spare",
    ]
    for one in found:
        plan = one.plan
        devices = sum(map(len, plan.replicas))
        lines.append(
            f"  {'':14}{one.seconds * 1000:9.3g}{one.joules * 1000:9.4g}{one.grams * 1000:9.3g}"
            f"{plan.shards:8}{len(plan.chains):8}{devices:9}{len(plan.spares):7}"
        )
    lines += _wrapped(
        f"Seconds are averaged over days. Electricity: {grid}. "
        + (
            "Carbon: electricity alone."
            if ask.marginal
            else "Carbon: with the devices' share of having been made."
        )
    )
    lines += _wrapped("Each is found again with --objective weighted --weights T:E:C.")
    return lines


def covered_share(ask: Ask, found: Found) -> float:
    """The share of time in which every shard has a holder, if devices come and go independently."""
    return covered(found.stages, ask.devices)


def _proof(plan: Plan) -> str:
    if plan.method == "heuristic" or plan.gap is None:
        return "searched, not proved"
    return "proved" if plan.gap < 1e-5 else f"at most {plan.gap:.2%} from the best"


def _told(what: str, interval: Interval) -> str:
    return f"  {what:34}{_short(interval.value):>10}   {_short(interval.low)} to {_short(interval.high)}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)


def _hang(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
