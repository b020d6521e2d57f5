"""`swarm-carbon`: the paper's comparison, cloud GPU against laptops and phones, with one's own assumptions.

Needs no torch; matplotlib only with `--out`. Exit codes: 0 done, 2 cannot (an input that is none).
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from swarm.carbon import plots
from swarm.carbon.comparison import CASES, METRICS, case_of, check_fit, compare
from swarm.carbon.measured import RunFigures, against, model_of
from swarm.carbon.parameters import (
    BY_NAME,
    CLOUDS,
    PARAMETERS,
    SCENARIOS,
    Values,
    checked,
    scenario_values,
    stated_values,
)
from swarm.carbon.sensitivity import HEADLINES, draw, intervals, swings
from swarm.cli import carbon_view as view
from swarm.cli import common
from swarm.cli.carbon_measured import figures_at
from swarm.cli.common import DEFAULT_STATE_DIR, BadArgument, IdentityFile, Json, LogLevel, StateDir, Version
from swarm.energy.grid import grid_of

EXAMPLES = """
swarm-carbon
swarm-carbon --country FRA --cloud-country SWE
swarm-carbon --case phones-1.3b --scenario paper --set phone.charger=2
swarm-carbon --case laptop-125m --cloud a100 --out plots
swarm-carbon --measured demo-run --country GBR
swarm-carbon --parameters
swarm-carbon --json
"""


def carbon(
    case: Annotated[
        str, typer.Option(metavar="NAME", help=f"What to look at closely: {', '.join(CASES)}.")
    ] = "laptops-1.3b",
    scenario: Annotated[
        str, typer.Option(metavar="NAME", help=f"What is counted there: {', '.join(SCENARIOS)}.")
    ] = "full",
    cloud: Annotated[
        str | None, typer.Option(metavar="GPU", help=f"{', '.join(CLOUDS)}. [the scenario's]")
    ] = None,
    country: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="Whose electricity: a country (GBR, Germany) or g/kWh. [USA]"),
    ] = None,
    cloud_country: Annotated[
        str | None,
        typer.Option("--cloud-country", metavar="CODE", help="The cloud's, if another than --country."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An input, in every scenario. Repeatable."),
    ] = None,
    parameters: Annotated[
        bool, typer.Option("--parameters", help="List every input with range and source, and stop.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write tornado.png, heat.png and draws.png there."),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            metavar="LEDGER",
            help="Put a run's own figures beside: an exported ledger, a state folder, a demo's folder.",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="Which run, where several lie there.")
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", min=100, max=1_000_000, help="Random draws.")] = 10_000,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the random draws.")] = 0,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Compare a training step in the cloud with one on laptops and phones: joules and CO2e.

    Every figure is a named input with a range and a source (--parameters); the paper's own tables are not
    among them, for they could not be had. No key and no network is used.
    """
    common.start_log(state_dir, "swarm-carbon", log_level)
    chosen = case_of(case)
    if scenario not in SCENARIOS:
        raise BadArgument(f"--scenario {scenario!r}: give one of {', '.join(SCENARIOS)}")
    if cloud is not None and cloud not in CLOUDS:
        raise BadArgument(f"--cloud {cloud!r}: give one of {', '.join(CLOUDS)}")
    stated = {**_grids(country, cloud_country), **stated_values(settings or [])}
    values, gpu = scenario_values(SCENARIOS[scenario], stated), cloud or SCENARIOS[scenario].cloud
    if parameters:
        if json:
            common.say_json(parameters=[{**asdict(p), "now": values[p.name]} for p in PARAMETERS])
        else:
            common.say_lines(view.parameter_lines(values))
        return
    own = None if measured is None else figures_at(measured, run, country)
    check_fit(values, chosen)
    done = compare(values, chosen, gpu)
    found = {metric: swings(values, chosen, gpu, metric) for metric in METRICS}
    ratios = draw(values, chosen, gpu, samples, seed, stated)
    drawn = intervals(ratios)
    written = (
        []
        if out is None
        else plots.draw_all(
            out, values, chosen, gpu, found, ratios, f"{case}, scenario {scenario}, {CLOUDS[gpu]}"
        )
    )
    if json:
        common.say_json(
            parameters=values,
            scenarios={name: _scenario_json(name, stated, cloud) for name in SCENARIOS},
            headlines=HEADLINES,
            sensitivity={
                "case": case,
                "scenario": scenario,
                "cloud": gpu,
                "swings": {
                    metric: [{**asdict(swing), "parameter": swing.parameter.name} for swing in found[metric]]
                    for metric in METRICS
                },
                "intervals": {metric: asdict(interval) for metric, interval in drawn.items()},
                "samples": samples,
                "seed": seed,
            },
            plots=[str(path) for path in written],
            **({} if own is None else {"measured": _measured_json(own, stated, cloud)}),
        )
        return
    blocks = (
        view.work_lines(values),
        view.step_lines(SCENARIOS[scenario], values, gpu),
        *(() if own is None else (view.measured_lines(own, values, gpu, stated, cloud),)),
        view.ratio_lines(stated, cloud),
        view.headline_lines(stated, cloud),
        view.swing_lines(chosen, scenario, found, done),
        view.interval_lines(chosen, drawn, samples, seed),
    )
    for block in blocks:
        common.say_lines(block)
        print()
    for path in written:
        print(f"wrote {path}")
    print("Inputs and sources: swarm-carbon --parameters. How to read this: docs/energy.md")


def _grids(country: str | None, cloud_country: str | None) -> dict[str, float]:
    """The stated grids, as parameters. Raises CountryUnknown, BadFigure, OutOfRange."""
    found = {}
    for name, where in (("edge.grid", country), ("cloud.grid", cloud_country or country)):
        if where is not None:
            found[name] = checked(BY_NAME[name], grid_of(where).grams_per_kwh)
    return found


def _scenario_json(name: str, stated: Values, cloud: str | None) -> dict[str, Any]:
    scenario = SCENARIOS[name]
    values, gpu = scenario_values(scenario, stated), cloud or scenario.cloud
    cases = {}
    for case in CASES.values():
        done = compare(values, case, gpu)
        sides = {
            side: {
                "seconds": float(step.seconds),
                "joules": float(step.joules),
                "compute_joules": float(step.compute),
                "wait_joules": float(step.wait),
                "network_joules": float(step.network),
                "operational_gco2e": float(step.operational),
                "embodied_amortised_gco2e": float(step.amortised),
            }
            for side, step in (("cloud", done.cloud), ("edge", done.edge))
        }
        ratios = {metric: float(getattr(done, metric)) for metric in METRICS}
        cases[case.name] = {"fits": view.fits(values, case), **sides, "ratios": ratios}
    return {"says": scenario.says, "cloud": gpu, "parameters": values, "cases": cases}


def _measured_json(figures: RunFigures, stated: Values, cloud: str | None) -> dict[str, Any]:
    model, scenarios = model_of(figures), {}
    for name, scenario in SCENARIOS.items() if model is not None else ():
        values = scenario_values(scenario, stated)
        done = compare(values, view.case_for(figures), cloud or scenario.cloud)
        scenarios[name] = [
            asdict(ratios)
            for share in figures.shares.values()
            if (ratios := against(share, done, values)) is not None
        ]
    return {
        "run": figures.name,
        "model": figures.model,
        "checked": figures.checked,
        "kinds": {
            kind: {
                **asdict(share),
                "joules_per_token": share.joules_a_token,
                "gco2e_per_token": view.over(share.grams, share.tokens),
            }
            for kind, share in figures.shares.items()
        },
        "unavailable": figures.unavailable,
        "doubted": figures.doubted,
        "cloud_over_run": scenarios,
    }


main = common.main_of(carbon, "swarm-carbon", EXAMPLES)

if __name__ == "__main__":
    main()
