"""What the answer hangs on: one input at a time, two at a time, and all at random.

The promise: the same values and seed give the same figures. Ranges are those of the parameters; a range of a
factor of ten or more that does not begin at 0 is spaced by factors, any other evenly. Ranges are no
distributions: an interval is the middle 90 % of what the ranges allow, drawn independently, and no
probability about the world.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from swarm.carbon.comparison import METRICS, Case, Number, check_fit, compare
from swarm.carbon.parameters import BY_NAME, PARAMETERS, Parameter, Values

POINTS = 2001
HEADLINES = {"energy": (1.5, 4.0), "carbon_amortised": (3.5, 8.0), "carbon_marginal": (3.5, 8.0)}
"""What the paper claims. It does not say which carbon ratio is amortised and which marginal: both are held
against it."""


@dataclass(frozen=True)
class Swing:
    """A ratio over one parameter's range. `reaches`: where in the range the ratio is the headline's low end;
    `even`: where it is 1; None: nowhere in the range."""

    parameter: Parameter
    value: float
    at_low: float
    at_high: float
    reaches: float | None
    even: float | None

    @property
    def width(self) -> float:
        """How far the ratio moves, as a factor."""
        return float(max(self.at_low, self.at_high) / min(self.at_low, self.at_high))


@dataclass(frozen=True)
class Interval:
    """Of a ratio over random draws: 5th, 50th and 95th percentile, and the shares in which it is above 1 and
    above the headline's low end."""

    low: float
    median: float
    high: float
    edge_better: float
    headline: float


def relevant(case: Case, cloud: str) -> list[Parameter]:
    """The parameters that the case depends on, without the work itself."""
    sides = (cloud, case.edge, "cloud", "edge")
    found = [p for p in PARAMETERS if p.role != "work" and p.name.split(".")[0] in sides]
    single = ("edge.bandwidth", "edge.joules-per-megabyte", f"{case.edge}.idle-watts", "edge.idle-charged")
    return [p for p in found if case.sharded or p.name not in single]


def spaced(parameter: Parameter, points: int) -> np.ndarray:
    """float64 [points] over the range."""
    return place(parameter.low, parameter.high, np.linspace(0.0, 1.0, points))


def swings(values: Values, case: Case, cloud: str, metric: str) -> list[Swing]:
    """Each relevant parameter over its range, the others held; the widest first."""
    found = []
    for parameter in relevant(case, cloud):
        grid = spaced(parameter, POINTS)
        ratio = _ratio({**values, parameter.name: grid}, case, cloud, metric)
        ratio = np.broadcast_to(ratio, grid.shape)
        level = HEADLINES[metric][0]
        found.append(
            Swing(
                parameter,
                values[parameter.name],
                float(ratio[0]),
                float(ratio[-1]),
                _crossing(grid, ratio, level),
                _crossing(grid, ratio, 1.0),
            )
        )
    moving = [swing for swing in found if swing.width > 1 + 1e-9]
    return sorted(moving, key=lambda swing: -swing.width)


def heat(
    values: Values, case: Case, cloud: str, metric: str, across: Sequence[str], up: str, points: int = 61
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ratio [points, points] over `up` (rows) and `across` (columns; several names move together), and
    both scales."""
    x, y = spaced(BY_NAME[across[0]], points), spaced(BY_NAME[up], points)
    grid_x, grid_y = np.meshgrid(x, y)
    moved = {**values, **dict.fromkeys(across, grid_x), up: grid_y}
    return np.broadcast_to(_ratio(moved, case, cloud, metric), grid_x.shape), x, y


def draw(
    values: Values, case: Case, cloud: str, samples: int, seed: int, held: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Each ratio [samples], the uncertain parameters drawn from their ranges; choices, the work and `held`
    stay.

    Raises DoesNotFit.
    """
    check_fit(values, case)
    random = np.random.default_rng(seed)
    # Every parameter takes its numbers, so that holding one does not change the others' draws.
    drawn = {
        p.name: place(p.low, p.high, random.random(samples)) for p in PARAMETERS if p.role == "uncertain"
    }
    done = compare({**values, **drawn, **{name: values[name] for name in held}}, case, cloud)
    return {metric: np.asarray(getattr(done, metric)) for metric in METRICS}


def intervals(ratios: dict[str, np.ndarray]) -> dict[str, Interval]:
    """Percentiles and shares of what `draw` gives."""
    found = {}
    for metric, ratio in ratios.items():
        low, median, high = (float(q) for q in np.percentile(ratio, (5, 50, 95)))
        reached = float(np.mean(ratio >= HEADLINES[metric][0]))
        found[metric] = Interval(low, median, high, float(np.mean(ratio > 1)), reached)
    return found


def _ratio(values: Mapping[str, Number], case: Case, cloud: str, metric: str) -> np.ndarray:
    return np.asarray(getattr(compare(values, case, cloud), metric), float)


def place(low: float, high: float, share: np.ndarray) -> np.ndarray:
    """Where in a range each share of 0 to 1 lies: by factors where it spans ten or more, else evenly."""
    if low > 0 and high / low >= 10:
        return np.asarray(low * (high / low) ** share)
    return np.asarray(low + (high - low) * share)


def _crossing(grid: np.ndarray, ratio: np.ndarray, level: float) -> float | None:
    above = ratio >= level
    places = np.flatnonzero(above[1:] != above[:-1])
    if not len(places):
        return None
    at = int(places[0])
    span = ratio[at + 1] - ratio[at]
    return float(grid[at] + (grid[at + 1] - grid[at]) * (level - ratio[at]) / span)
