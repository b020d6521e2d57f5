"""What `swarm-carbon` shows: lines of at most 80 columns."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from swarm.carbon.comparison import CASES, METRICS, Case, Comparison, compare, memory_needed
from swarm.carbon.measured import RunFigures, Share, against, model_of
from swarm.carbon.parameters import (
    CLOUDS,
    EDGES,
    MODELS,
    PARAMETERS,
    SCENARIOS,
    Scenario,
    Values,
    scenario_values,
)
from swarm.carbon.sensitivity import HEADLINES, Interval, Swing

WIDTH = 80
ROWS = 8
NAMES = {"energy": "energy", "carbon_amortised": "carbon, amortised", "carbon_marginal": "carbon, marginal"}


def fits(values: Values, case: Case) -> bool:
    """Whether the devices' memory holds the model."""
    return bool(memory_needed(values, case) <= values[f"{case.edge}.memory-gb"])


def parameter_lines(values: Values) -> Iterator[str]:
    """Every input: value, range, unit, how it is known, and from where."""
    yield f"{'parameter':28}{'value':>8}  {'range':16} {'unit':13} known by"
    for parameter in PARAMETERS:
        value, span = values[parameter.name], f"{parameter.low:g} to {parameter.high:g}"
        mark = "*" if value != parameter.value else " "
        yield f"{parameter.name:28}{value:8g}{mark} {span:16} {parameter.unit:13} {parameter.basis}".rstrip()
        yield from _indented(parameter.source, "      ")
    yield from _wrapped(
        "known by: paper = arXiv 2507.01803 states it; source = the public source below it; assumed = "
        "nobody was found who says, and the range is the statement. * = changed from its own value"
    )


def work_lines(values: Values) -> Iterator[str]:
    """What a step is, before any device is chosen: the paper's arithmetic."""
    yield f"One step: {values['batch']:g} sequences of {values['sequence']:g} tokens"
    hop = f"seconds a hop at {values['edge.bandwidth']:g} MB/s"
    yield f"  {'model':10}{'TFLOP':>8}{'MB at a boundary':>18}{hop:>29}"
    for size, model in MODELS.items():
        done = compare(values, CASES[f"laptops-{size}"], "a5000")
        yield f"  {model.name:10}{done.tflop:8.1f}{done.boundary_megabytes:18.1f}{done.hop_seconds:29.1f}"


def step_lines(scenario: Scenario, values: Values, cloud: str) -> Iterator[str]:
    """Joules and grams of a step, each case."""
    edges = ", ".join(f"{edge}: {name}" for edge, name in EDGES.items())
    yield f"Scenario {scenario.name}: one step (cloud: {CLOUDS[cloud]})"
    yield f"  {edges}"
    yield from _indented(scenario.says, "  ")
    yield f"  {'':14}{'joules at the wall':^37}{'grams CO2e':^28}"
    yield "  case            cloud   edge = compute  wait  radio     cloud    edge  +made"
    for case in CASES.values():
        if not fits(values, case):
            needed, has = memory_needed(values, case), values[f"{case.edge}.memory-gb"]
            yield f"  {case.name:14} does not fit: {needed:.1f} GB on a device of {has:g} GB"
            continue
        done = compare(values, case, cloud)
        edge, grams = done.edge, done.cloud.operational + done.cloud.amortised
        yield (
            f"  {case.name:14}{done.cloud.joules:7.0f}{edge.joules:7.0f}  {edge.compute:8.0f}{edge.wait:6.0f}"
            f"{edge.network:7.0f}{grams:10.3f}{edge.operational:8.3f}{edge.amortised:7.3f}"
        )
    yield "  grams: cloud with its embodied share; edge from electricity, and its devices'"
    yield "  share of having been made by time (amortised; marginal counts it as nothing)"


def ratio_lines(stated: Values, cloud: str | None) -> Iterator[str]:
    """Cloud over edge: every case in every scenario."""
    yield "Cloud over edge, above 1 the edge is better: Energy, carbon Amortised, Marginal"
    yield f"  {'':13}" + "".join(f"{name:^16}" for name in SCENARIOS)
    yield f"  {'case':13}" + "    E    A    M " * len(SCENARIOS)
    for case in CASES.values():
        cells = []
        for scenario in SCENARIOS.values():
            values = scenario_values(scenario, stated)
            done = compare(values, case, cloud or scenario.cloud)
            cells.append(
                "".join(f"{ratio_text(getattr(done, metric)):>5}" for metric in METRICS)
                if fits(values, case)
                else "    -    -    -"
            )
        yield f"  {case.name:13}" + "".join(f"{cell} " for cell in cells).rstrip()
    if cloud is not None:
        yield f"  cloud: {CLOUDS[cloud]}, in place of the scenarios' own"
    for scenario in SCENARIOS.values():
        yield from _indented(f"{scenario.name}: {scenario.says}", "  ", "    ")


def measured_lines(
    figures: RunFigures, values: Values, gpu: str, stated: Values, cloud: str | None
) -> Iterator[str]:
    """A run's own figures by kind, beside the comparison's; as its edge where the models are the same."""
    yield f"Measured: {figures.name}, model {figures.model or 'unknown'} ({figures.checked})"
    yield f"  {'a token':24}{'peers':>6}{'tokens':>12}  {'known by':11}{'joules':>10}{'mg CO2e':>10}"
    for kind, share in figures.shares.items():
        yield from _share_lines(kind, share)
    if figures.unavailable or figures.doubted:
        yield from _indented(
            f"not counted: {figures.unavailable} peers that nobody can measure, {figures.doubted} whose "
            "claims are doubted (swarm-audit peer)",
            "  ",
        )
    yield f"  beside it, of the comparison ({CLOUDS[gpu]})"
    yield from _beside(values, gpu)
    yield "  mg: of electricity; the cloud's with its machines' share of having been made"
    if model_of(figures) is None:
        yield from _indented(
            f"No input here: the run trained {figures.model or 'an unnamed model'}, the comparison "
            f"{' and '.join(model.name for model in MODELS.values())}. A joule a token of one model says "
            "nothing of another's.",
            "  ",
        )
    else:
        yield from _against_lines(figures, stated, cloud)


def _share_lines(kind: str, share: Share) -> Iterator[str]:
    joules, tokens = share.energy.joules, share.tokens
    yield _token_line("meters", f"{share.peers:6}{tokens:12,}", kind, joules, share.grams, tokens)
    for use, spent in share.uses.items():
        yield _token_line(f"  of that, {use}", "", kind, spent, None, tokens)
    yield _token_line("network", "", share.network.kind, share.network.joules, share.network_grams, tokens)
    watts = "" if joules is None or not share.seconds else f"; {joules / share.seconds:.1f} W a peer"
    yield from _indented(f"by {share.energy.source}, +-{share.energy.uncertainty:.0%}{watts}", "    ")


def _beside(values: Values, gpu: str) -> Iterator[str]:
    tokens = values["batch"] * values["sequence"]
    for model in MODELS.values():
        cases = [case for case in CASES.values() if case.model == model and fits(values, case)]
        if cases:
            cloud = compare(values, cases[0], gpu).cloud
            grams = cloud.operational + cloud.amortised
            yield _token_line(f"cloud, {model.name}", "", "modelled", cloud.joules, grams, tokens)
        for case in cases:
            edge = compare(values, case, gpu).edge
            yield _token_line(case.name, "", "modelled", edge.joules, edge.operational, tokens)


def _against_lines(figures: RunFigures, stated: Values, cloud: str | None) -> Iterator[str]:
    yield "  The run as the edge: cloud over run, above 1 the run is better"
    heads = ("energy", "and network", "carbon, amortised", "marginal")
    yield f"  {'scenario':10}{'meters are':12}" + "".join(f"{head:>{len(head) + 3}}" for head in heads)
    for scenario in SCENARIOS.values():
        values = scenario_values(scenario, stated)
        done = compare(values, case_for(figures), cloud or scenario.cloud)
        for share in figures.shares.values():
            if (found := against(share, done, values)) is not None:
                ratios = (found.energy, found.with_network, found.carbon_amortised, found.carbon_marginal)
                cells = (
                    f"{'-' if ratio is None else ratio_text(ratio):>{len(head) + 3}}"
                    for head, ratio in zip(heads, ratios, strict=True)
                )
                yield f"  {scenario.name:10}{found.kind:12}" + "".join(cells)
    yield from _indented(
        "With the network it is modelled. -: a peer names no grid (--country states one for all), or nothing "
        "of its device.",
        "  ",
    )


def _token_line(
    name: str, counts: str, kind: str, joules: float | None, grams: float | None, tokens: float
) -> str:
    """A line of amounts a token: joules, milligrams."""
    each = "".join(
        f"{'-' if x is None else format(x, '.3g'):>10}"
        for x in (over(joules, tokens), None if grams is None else over(grams * 1000, tokens))
    )
    return f"  {name:24}{counts:18}  {kind:11}{each}"


def case_for(figures: RunFigures) -> Case:
    """A case that trains the run's model; its cloud is what the run is compared with."""
    model = model_of(figures)
    return next(case for case in CASES.values() if case.model == model and case.sharded)


def over(amount: float | None, tokens: float) -> float | None:
    """An amount a token, where both are there."""
    return amount / tokens if amount is not None and tokens else None


def headline_lines(stated: Values, cloud: str | None) -> Iterator[str]:
    """The paper's claims against the scenarios, and what the two claims need of each other."""
    yield "The headlines: 1.5 to 4 times less energy, 3.5 to 8 times less carbon"
    yield f"  {'cases that reach the low end':30}" + "".join(f"{name:>11}" for name in SCENARIOS)
    table = {name: _compared(scenario, stated, cloud) for name, scenario in SCENARIOS.items()}
    for metric in METRICS:
        low = HEADLINES[metric][0]
        cells = []
        for found in table.values():
            reached = sum(getattr(done, metric) >= low for done in found)
            cells.append(f"{f'{reached} of {len(found)}':>11}")
        yield f"  {f'{NAMES[metric]}, from {low:g}':30}" + "".join(cells)
    shares = [
        found[0].cloud.amortised / found[0].cloud.operational if found else 0.0 for found in table.values()
    ]
    yield f"  {'cloud: embodied / operational':30}" + "".join(f"{share:11.0%}" for share in shares)
    (low_e, high_e), (low_c, high_c) = HEADLINES["energy"], HEADLINES["carbon_marginal"]
    yield from _indented(
        "With edge devices that exist anyway and one grid, the carbon ratio is the energy ratio times (1 "
        f"+ embodied / operational) of the cloud. If the headlines' ends belong together, {low_e:g} with "
        f"{low_c:g} and {high_e:g} with {high_c:g}, that share is {low_c / low_e - 1:.0%} and "
        f"{high_c / high_e - 1:.0%}: making the cloud's machines would emit as much as running them. (The "
        "paper's tables, which would tell, could not be had.)",
        "  ",
    )


def swing_lines(
    case: Case, scenario: str, found: Mapping[str, Sequence[Swing]], done: Comparison
) -> Iterator[str]:
    """Where each headline holds and breaks, one input at a time."""
    for metric in METRICS:
        low, now = HEADLINES[metric][0], ratio_text(getattr(done, metric))
        yield f"{case.name}, {scenario}: {NAMES[metric]}, cloud / edge = {now}; widest inputs"
        yield f"  {'input':25}{'now':>7}  {'range':15}{'cloud / edge':>14}{f'{low:g} at':>8}{'1 at':>7}"
        for swing in found[metric][:ROWS]:
            parameter = swing.parameter
            span = f"{parameter.low:g} to {parameter.high:g}"
            ends = f"{ratio_text(swing.at_low)} to {ratio_text(swing.at_high)}"
            yield (
                f"  {parameter.name:25}{_short(swing.value):>7}  {span:15}{ends:>14}"
                f"{_short(swing.reaches):>8}{_short(swing.even):>7}"
            )
    yield "  `1 at`: where cloud and edge are even; -: nowhere in the range"


def interval_lines(case: Case, found: Mapping[str, Interval], samples: int, seed: int) -> Iterator[str]:
    """All uncertain inputs at random."""
    yield f"{case.name}: every uncertain input drawn from its range ({samples} draws, seed {seed})"
    yield "  cloud / edge              5 %  median   95 %  edge better  headline reached"
    for metric, interval in found.items():
        middle = (interval.low, interval.median, interval.high)
        low, median, high = (ratio_text(ratio) for ratio in middle)
        yield (
            f"  {NAMES[metric]:22}{low:>7}{median:>8}{high:>7}"
            f"{interval.edge_better:13.0%}{interval.headline:18.0%}"
        )
    yield from _indented(
        "Choices (grids, bandwidth, the arithmetic) and what --set states are held. Ranges are no "
        "probabilities: the middle 90 % says how little is known, not how likely anything is.",
        "  ",
    )


def ratio_text(value: float) -> str:
    """A ratio in at most five characters, two places where they say something."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _compared(scenario: Scenario, stated: Values, cloud: str | None) -> list[Comparison]:
    values = scenario_values(scenario, stated)
    return [compare(values, case, cloud or scenario.cloud) for case in CASES.values() if fits(values, case)]


def _short(value: float | None) -> str:
    """An input's value in at most six characters."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)


def _indented(text: str, first: str, later: str | None = None) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=first if later is None else later
    )
