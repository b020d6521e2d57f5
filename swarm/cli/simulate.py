"""`swarm-simulate`: a run over thousands of devices, event by event, without any of them.

Needs no torch; matplotlib only with `--plot`. Exit codes: 0 done, 2 cannot (an input that is none, a model
that fits nowhere, a plan for other devices).
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from swarm.carbon.parameters import OutOfRange, UnknownParameter, checked
from swarm.cli import common, simulate_view
from swarm.cli.common import DEFAULT_STATE_DIR, BadArgument, IdentityFile, Json, LogLevel, StateDir, Version
from swarm.energy.grid import grid_of
from swarm.plan.cost import Job, World
from swarm.plan.devices import named_devices
from swarm.plan.plan import Plan, read_plan
from swarm.plan.solve import stated_grid
from swarm.simulation import plots
from swarm.simulation.paper import paper_steps
from swarm.simulation.report import Ask, carry_out, parameter_values, scaled, summary
from swarm.simulation.run import Progress
from swarm.simulation.traces import DAY, PARAMETERS, read_traces
from swarm.sizes import PRESETS

EXAMPLES = """
swarm-simulate --devices laptops-400+phones-600 --model opt-1.3b --days 1
swarm-simulate --devices laptops-4+phones-6 --count 10000 --plot run.png
swarm-simulate --devices laptops-4 --plan plan.toml --always --days 0.1 --draws 50
swarm-simulate --count 1000 --attackers 0.05 --check-rate 0.1 --set crashes-per-day=2
swarm-simulate --devices my.toml --traces trace.csv --set night-zones-hours=24 --json
swarm-simulate --paper
"""


def simulate(
    devices: Annotated[
        str,
        typer.Option(
            metavar="WHICH", help="laptops-4, phones-15, a100s-2 ..., several joined by +, or a TOML file."
        ),
    ] = "laptops-4",
    count: Annotated[
        int, typer.Option(metavar="N", help="So many devices, in the same proportions. [as --devices says]")
    ] = 0,
    model: Annotated[
        str, typer.Option(metavar="NAME", help=f"{', '.join(PRESETS)}. [the plan's, or opt-1.3b]")
    ] = "",
    days: Annotated[float, typer.Option(metavar="D", help="How long.")] = 1.0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Same seed, same result.")] = 0,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Begin as a plan says, and hold it to its forecast.")
    ] = None,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", metavar="N", help="Tokens. Without a plan.")
    ] = 512,
    grid: Annotated[
        str, typer.Option(metavar="CODE", help="Whose electricity: a country (GBR, Germany) or g/kWh.")
    ] = "USA",
    always: Annotated[
        bool, typer.Option("--always", help="Every device is always there, and none crashes.")
    ] = False,
    traces: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="When each is there: device,begin_seconds,end_seconds."),
    ] = None,
    attackers: Annotated[float, typer.Option(metavar="SHARE", help="Of the devices; they lie in all.")] = 0.0,
    check_rate: Annotated[
        float, typer.Option("--check-rate", metavar="Q", help="Chance that a member is checked, a round.")
    ] = 0.2,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter (--parameters). Repeatable."),
    ] = None,
    parameters: Annotated[
        bool, typer.Option("--parameters", help="List what is assumed, with ranges, and stop.")
    ] = False,
    draws: Annotated[
        int, typer.Option(metavar="N", min=0, max=10_000, help="Again so often, with drawn figures.")
    ] = 0,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's set-ups, a step of each.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the run: PNG.")] = None,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Simulate a run: devices come and go, shards' cells train, add up and decide, liars are caught.

    Placement, wiring and quorums are the run's own code; the phases' times are fitted to the real round
    machine; what is assumed has a range (--parameters). No key and no network is used.
    """
    common.start_log(state_dir, "swarm-simulate", log_level)
    values = parameter_values(_stated(settings or []))
    if parameters:
        if json:
            common.say_json(parameters=[{**asdict(p), "now": values[p.name]} for p in PARAMETERS.values()])
        else:
            common.say_lines(simulate_view.parameter_lines(values))
        return
    electricity = grid_of(grid)
    world = World(stated_grid(electricity.grams_per_kwh, str(electricity)))
    if paper:
        steps = paper_steps(world, draws or 200, seed)
        if json:
            common.say_json(paper=[asdict(step) for step in steps], energy_kind="modelled")
        else:
            common.say_lines(simulate_view.paper_lines(steps, str(electricity)))
        return
    fleet = named_devices(devices)
    if count:
        fleet = scaled(fleet, count)
    planned = None if plan is None else read_plan(plan)
    ask = Ask(
        fleet, world, _job(planned, model, sequence_length), days, seed, check_rate, attackers, values, always
    )
    if traces is not None:
        if always:
            raise BadArgument("--always with --traces: give one of them")
        names = [name for device in fleet for name in device.ids()]
        ask = replace(ask, traces=read_traces(traces, names, days * DAY))
    ask = replace(ask, plan=planned)
    with _bar(json) as progress:
        done = carry_out(ask, draws, progress)
    if plot is not None:
        plots.draw(plot, done)
    if json:
        common.say_json(**summary(done), grid=str(electricity), plot=None if plot is None else str(plot))
        return
    common.say_lines(simulate_view.run_lines(done, str(electricity)))
    if plot is not None:
        print(f"wrote {plot}")
    print("What is fitted, and what assumed: docs/simulation.md, --parameters")


def _job(planned: Plan | None, model: str, sequence_length: int) -> Job:
    if planned is None:
        return Job(model or "opt-1.3b", sequence_length)
    if model and model != planned.model:
        raise BadArgument(f"--model {model}: the plan is for {planned.model}; leave --model away")
    return Job(
        planned.model, planned.sequence_length, planned.sequences_per_slice, planned.slices, planned.codec
    )


def _stated(settings: Iterable[str]) -> dict[str, float]:
    found = {}
    for setting in settings:
        name, separator, text = (part.strip() for part in setting.partition("="))
        if name not in PARAMETERS or not separator:
            raise UnknownParameter(f"--set {setting!r}: write name=value; names: {', '.join(PARAMETERS)}")
        try:
            number = float(text)
        except ValueError:
            raise OutOfRange(f"--set {setting!r}: {text!r} is no number") from None
        found[name] = checked(PARAMETERS[name], number)
    return found


@contextmanager
def _bar(json: bool) -> Iterator[Progress]:
    """A progress bar on a terminal's standard error, and nothing elsewhere."""
    if json or not sys.stderr.isatty():
        yield lambda share: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulating", total=1.0)
        yield lambda share: bar.update(task, completed=share)


main = common.main_of(simulate, "swarm-simulate", EXAMPLES)

if __name__ == "__main__":
    main()
