"""`swarm-plan`: which device holds which shard, and what a round should take: seconds, joules, CO2e.

Needs no torch; scipy for a proof that a plan is the best, matplotlib only with `--plot`. Exit codes: 0 done,
2 cannot (an input that is none, a model that fits nowhere).
"""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from swarm.cli import common, plan_view
from swarm.cli.common import (
    DEFAULT_STATE_DIR,
    BadArgument,
    CannotWrite,
    IdentityFile,
    Json,
    LogLevel,
    StateDir,
    Version,
)
from swarm.energy.grid import grid_of
from swarm.plan import plots
from swarm.plan.cost import Job, World
from swarm.plan.devices import named_devices
from swarm.plan.solve import Ask, Found, front, solve, stated_grid
from swarm.sizes import PRESETS
from verify.chains import Codec

EXAMPLES = """
swarm-plan --devices laptops-4 --model opt-1.3b
swarm-plan --devices phones-15 --model opt-1.3b --objective carbon --grid FRA
swarm-plan --devices laptops-4+phones-15 --model opt-125m --front
swarm-plan --devices my-devices.toml --model opt-1.3b --replicas 4 --out plan.toml
swarm-plan --devices laptops-4 --figures
"""


def plan(
    devices: Annotated[
        str,
        typer.Option(
            metavar="WHICH", help="laptops-4, phones-15, a100s-2 ..., several joined by +, or a TOML file."
        ),
    ] = "laptops-4",
    model: Annotated[str, typer.Option(metavar="NAME", help=f"{', '.join(PRESETS)}.")] = "opt-1.3b",
    objective: Annotated[
        Literal["time", "energy", "carbon", "weighted"], typer.Option(help="What is made small, a token.")
    ] = "time",
    weights: Annotated[
        str, typer.Option(metavar="T:E:C", help="Of time, energy, carbon, for --objective weighted.")
    ] = "1:1:1",
    pareto: Annotated[
        bool, typer.Option("--front", help="Show the plans of which none is better in everything.")
    ] = False,
    marginal: Annotated[
        bool, typer.Option("--marginal", help="Carbon without the devices' having been made.")
    ] = False,
    grid: Annotated[
        str, typer.Option(metavar="CODE", help="Whose electricity: a country (GBR, Germany) or g/kWh.")
    ] = "USA",
    sequence_length: Annotated[int, typer.Option("--sequence-length", metavar="N", help="Tokens.")] = 512,
    sequences: Annotated[
        int, typer.Option("--sequences-per-slice", metavar="N", help="Sequences of a slice.")
    ] = 16,
    slices: Annotated[
        int, typer.Option(metavar="N", help="Slices a round, of all chains. [16, or one a device]")
    ] = 0,
    codec: Annotated[Codec, typer.Option(help="Of tensors between shards.")] = "fp16",
    replicas: Annotated[
        int, typer.Option(metavar="N", help="Least holders of a shard; 4 are needed for secure sums.")
    ] = 1,
    figures: Annotated[
        bool, typer.Option("--figures", help="List the devices' figures with range and source, and stop.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the plan there: TOML.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: PNG.")] = None,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Plan a run: cut the model into shards, give each to devices, and forecast a round.

    Every figure of a device has a range and a source (--figures); what nobody published is assumed, over a
    wide range, and the interval shows it. No key and no network is used.
    """
    common.start_log(state_dir, "swarm-plan", log_level)
    fleet = named_devices(devices)
    if figures:
        if json:
            common.say_json(devices=plan_view.figures_json(fleet))
        else:
            common.say_lines(plan_view.figure_lines(fleet))
        return
    electricity = grid_of(grid)
    job = Job(model, sequence_length, sequences, codec=codec)
    world = World(stated_grid(electricity.grams_per_kwh, str(electricity)))
    ask = Ask(fleet, job, world, slices, replicas, marginal)
    shares = _weights(weights)
    if pareto:
        found = front(ask)
        if out is not None:
            raise BadArgument("--out with --front: choose one of its plans with --objective and --weights")
    else:
        found = [solve(ask, objective, shares)]
    written = []
    if out is not None:
        text = found[0].plan.to_toml()
        if out.suffix == ".json":
            text = jsonlib.dumps(found[0].plan.to_json(), indent=1) + "\n"
        _write(out, text)
        written.append(out)
    if plot is not None:
        plots.draw(plot, ask, found)
        written.append(plot)
    if json:
        _say_json(ask, found, str(electricity), [str(path) for path in written])
        return
    if pareto:
        common.say_lines(plan_view.front_lines(ask, found, electricity))
    else:
        common.say_lines(plan_view.plan_lines(ask, found[0], electricity))
    for path in written:
        print(f"wrote {path}")


def _weights(text: str) -> tuple[float, float, float]:
    try:
        time, energy, carbon = (float(part) for part in text.split(":"))
    except ValueError:
        raise BadArgument(
            f"--weights {text!r}: three numbers, of time, energy and carbon, as in 1:0:2"
        ) from None
    return time, energy, carbon


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written ({error.strerror}): name another file") from None


def _say_json(ask: Ask, found: list[Found], electricity: str, written: list[str]) -> None:
    common.say_json(
        plans=[
            {
                **one.plan.to_json(),
                "tokens": one.plan.tokens,
                "a_token": {"seconds": one.seconds, "joules": one.joules, "gco2e": one.grams},
                "covered": plan_view.covered_share(ask, one),
            }
            for one in found
        ],
        devices=plan_view.figures_json(ask.devices),
        grid=electricity,
        slices=ask.batch,
        written=written,
    )


main = common.main_of(plan, "swarm-plan", EXAMPLES)

if __name__ == "__main__":
    main()
