"""What `swarm-simulate` shows: lines of at most 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence

from swarm.plan.plan import Interval
from swarm.simulation.outcome import USES
from swarm.simulation.paper import PaperStep
from swarm.simulation.report import Simulated, against_plan, figures
from swarm.simulation.traces import DAY, PARAMETERS

WIDTH = 80
SAYS = {
    "compute": "work that entered the model",
    "lost": "work that did not: void, broken, cut off",
    "again": "work done again for devices that went",
    "checks": "spot checks",
    "trials": "newcomers' trials, and looking at them",
    "exchange": "masks and outer steps",
    "wait": "members waiting",
    "network": "bytes, by joules a megabyte",
}
HEADS = {
    "tokens_per_second": "tokens a second",
    "round_seconds": "seconds a round (median)",
    "joules_per_token": "joules a token, at the wall",
    "gco2e_per_token": "g CO2e a token, electricity",
    "useful_share": "useful share of the work",
}


def run_lines(done: Simulated, grid: str) -> Iterator[str]:
    """A simulated run."""
    terms, out, ask = done.terms, done.outcome, done.ask
    fleet = " + ".join(f"{device.count} {device.name}" for device in ask.devices)
    job = terms.job
    yield from _wrapped(f"{job.model} on {fleet}, {out.seconds / DAY:g} days, seed {ask.seed}")
    yield from _wrapped(
        f"{terms.shards} shards of {_layers(terms.layers)} layers, cells of up to {terms.largest_cell}; "
        f"a window of {terms.window:.0f} s for {job.slices} slices of {job.sequences_per_slice} sequences of "
        f"{job.sequence_length} tokens",
    )
    yield ""
    if not out.rows:
        yield f"No record was made: paused for {out.paused / 3600:.1f} of {out.seconds / 3600:.1f} hours."
        yield from _wrapped("There were never devices enough for every shard at one time, or never for long.")
        return
    yield from _figure_lines(done)
    yield ""
    voids = ", ".join(f"{count} {why}" for why, count in sorted(out.voids.items())) or "none"
    paused = _share(out.paused, out.seconds)
    yield f"{out.records} rounds in {out.attempts} attempts; paused {paused} of the time"
    yield from _wrapped(f"void attempts: {voids}")
    members = sum(row.members for row in out.rows) / out.records
    spares = sum(row.spares for row in out.rows) / out.records
    yield from _wrapped(
        f"on average {members:.0f} members in the sum, {spares:.0f} spares there; {out.joins} joined, "
        f"{out.goodbyes} said goodbye, {out.suspensions} were suspended, {out.moves} moved, stewards acted "
        f"{out.recoveries} times"
    )
    if out.attackers:
        yield from _attacker_lines(done)
    yield ""
    yield from _energy_lines(done, grid)
    if ask.plan is not None:
        yield ""
        yield from _forecast_lines(done)


def paper_lines(steps: Sequence[PaperStep], grid: str) -> Iterator[str]:
    """The paper's set-ups."""
    yield "The paper's set-ups: one step of 16 sequences of 512 tokens, simulated"
    yield f"  {'':19}{'used':>5}{'seconds':>14}{'joules':>18}{'g CO2e':>21}"
    for step in steps:
        yield (
            f"  {step.fleet:10}{step.model:9}{step.used:5}{_span(step.seconds):>14}{_span(step.joules):>18}"
            f"{_span(step.grams):>21}"
        )
    yield from _wrapped(
        f"In brackets the middle 90 % of steps with every figure drawn from its range. Grams: {grid}, and "
        "the devices' share of having been made by time. Always there, warm, no checks, no faults; of 15 "
        "phones 12 are used where the model has 12 layers. Joules are modelled. The paper's own tables could "
        "not be had."
    )


def parameter_lines(values: dict[str, float]) -> Iterator[str]:
    """What is assumed beside the devices' figures."""
    yield f"{'parameter':24}{'value':>9}  {'range':15} {'unit':10} known by"
    for name, p in PARAMETERS.items():
        mark = "*" if values[name] != p.value else " "
        yield f"{name:24}{values[name]:9g}{mark} {f'{p.low:g} to {p.high:g}':15} {p.unit:10} {p.basis}"
        yield from textwrap.wrap(p.source, WIDTH, initial_indent="      ", subsequent_indent="      ")
    yield from _wrapped("The devices' figures: swarm-plan --devices WHICH --figures")


def _figure_lines(done: Simulated) -> Iterator[str]:
    own = figures(done.outcome)
    for name, head in HEADS.items():
        span = done.drawn.get(name)
        text = "-" if own[name] is None else _number(own[name])
        between = "" if span is None else f"   {_number(span.low)} to {_number(span.high)}"
        yield f"  {head:30}{text:>10}{between}"
    if done.drawn:
        yield "  (to the right: the middle 90 % of runs with figures drawn from their ranges)"


def _attacker_lines(done: Simulated) -> Iterator[str]:
    out = done.outcome
    after = sorted(out.caught_after)
    said = f", after {after[len(after) // 2]} rounds (median)" if after else ""
    yield from _wrapped(
        f"{out.attackers} devices lie in all their slices; checked with a chance of {done.ask.rate:g} a "
        f"round, {len(after)} were banned{said}; {out.poisoned / max(1, out.slices):.2%} of the slices that "
        "entered the model were lies. (The others never became members, or not for long.)"
    )


def _energy_lines(done: Simulated, grid: str) -> Iterator[str]:
    out = done.outcome
    whole = out.total_joules
    yield f"Energy at the wall: {whole / 3.6e6:.3g} kWh, all of it modelled"
    for use in USES:
        yield f"  {use:10}{out.joules[use] / 3.6e6:10.3g} kWh{_share(out.joules[use], whole):>6}  {SAYS[use]}"
    yield from _wrapped(
        f"CO2e: {out.grams / 1000:.3g} kg of electricity ({grid}); {out.made / 1000:.3g} kg more is the "
        "devices' share of having been made, by time (marginal: nothing)"
    )


def _forecast_lines(done: Simulated) -> Iterator[str]:
    yield "Against the plan, for as many tokens as a round of it trains"
    yield f"  {'':16}{'forecast':>10}  {'interval':22}{'simulated':>10}"
    for one in against_plan(done):
        span = f"{_number(one.forecast.low)} to {_number(one.forecast.high)}"
        ratio = one.simulated / one.forecast.value if one.forecast.value else float("nan")
        yield (
            f"  {one.name:16}{_number(one.forecast.value):>10}  {span:22}{_number(one.simulated):>10}"
            f"  x {ratio:.2f}  {one.lies}"
        )


def _layers(layers: Sequence[int]) -> str:
    return f"{min(layers)} to {max(layers)}" if min(layers) < max(layers) else f"{layers[0]}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _span(interval: Interval) -> str:
    return f"{_short(interval.value)} ({_short(interval.low)}-{_short(interval.high)})"


def _short(value: float) -> str:
    return f"{value / 1000:.0f}k" if value >= 10_000 else f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)
