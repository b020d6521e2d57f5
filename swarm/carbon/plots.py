"""The comparison as pictures: what each input does, two inputs at a time, and all at random."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swarm.carbon.comparison import METRICS, Case
from swarm.carbon.parameters import BY_NAME, Values
from swarm.carbon.sensitivity import HEADLINES, Swing, heat
from swarm.picture import new_figure, write_png

TITLES = {
    "energy": "Energy",
    "carbon_amortised": "Carbon, edge amortised",
    "carbon_marginal": "Carbon, edge marginal",
}
BARS = 12
SIZES = {"tornado.png": (14, 5), "heat.png": (14, 4.6), "draws.png": (9, 4)}
"""Inches, at 88 dots each."""
SHADES = 3
"""Colours end at ratios of 2 to this power."""


def draw_all(
    folder: Path,
    values: Values,
    case: Case,
    cloud: str,
    found: Mapping[str, Sequence[Swing]],
    ratios: Mapping[str, np.ndarray],
    title: str,
) -> list[Path]:
    """Write tornado.png, heat.png and draws.png; `title` begins each picture's. Raises NoPlot."""
    paths = []
    for name, (width, height) in SIZES.items():
        figure = new_figure(width, height, dpi=88)
        if name == "tornado.png":
            _tornado(figure, found, title)
        elif name == "heat.png":
            _heat(figure, values, case, cloud, title)
        else:
            _draws(figure, ratios, title)
        write_png(figure, folder / name)
        paths.append(folder / name)
    return paths


def _tornado(figure: Any, found: Mapping[str, Sequence[Swing]], title: str) -> None:
    figure.suptitle(
        f"{title}: the ratio cloud / edge as each input moves over its range (right of 1 the edge is better)"
    )
    for axes, metric in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        bars = list(found[metric])[:BARS][::-1]
        low, high = HEADLINES[metric]
        axes.axvspan(low, high, color="#d9ead3", zorder=0)
        axes.axvline(1.0, color="black", linewidth=1)
        for row, bar in enumerate(bars):
            left, right = sorted((bar.at_low, bar.at_high))
            stated = (bar.parameter.low, bar.parameter.high)
            color = "#2c5f8a" if bar.at_high >= bar.at_low else "#c0392b"
            axes.barh(row, right - left, left=left, height=0.6, color=color)
            stated = stated if bar.at_high >= bar.at_low else stated[::-1]
            axes.text(left / 1.04, row, f"{stated[0]:g}", ha="right", va="center", fontsize=7)
            axes.text(right * 1.04, row, f"{stated[1]:g}", ha="left", va="center", fontsize=7)
        axes.set_yticks(range(len(bars)), [bar.parameter.name for bar in bars], fontsize=8)
        _ratio_axis(axes)
        ends = [end for bar in bars for end in (bar.at_low, bar.at_high)]
        axes.set_xlim(min(1.0, *ends) / 1.7, max(high, *ends) * 1.7)
        axes.set_title(f"{TITLES[metric]}\n(green: headline, {low:g} to {high:g})", fontsize=10)


def _heat(figure: Any, values: Values, case: Case, cloud: str, title: str) -> None:
    edge = case.edge
    panels = [
        ("carbon_marginal", ("cloud.grid", "edge.grid"), "cloud.utilisation", "electricity of both, g/kWh"),
        ("carbon_amortised", (f"{edge}.lifetime-years",), f"{edge}.availability", None),
        (
            "energy",
            ("edge.joules-per-megabyte" if case.sharded else f"{edge}.watts",),
            f"{edge}.charger",
            None,
        ),
    ]
    figure.suptitle(
        f"{title}: the ratio cloud / edge over two inputs (solid: 1; dashed: the headline's low end)"
    )
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for axes, (metric, across, up, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        ratio, x, y = heat(values, case, cloud, metric, across, up)
        shade = axes.pcolormesh(
            x, y, np.log2(ratio), vmin=-SHADES, vmax=SHADES, cmap="RdBu", shading="nearest"
        )
        for level, style in ((1.0, "-"), (HEADLINES[metric][0], "--")):
            if ratio.min() < level < ratio.max():
                lines = axes.contour(x, y, ratio, levels=[level], colors="black", linestyles=style)
                axes.clabel(lines, fmt=f"{level:g}", fontsize=8)
        axes.plot(values[across[0]], values[up], "o", color="black", markersize=5, clip_on=False)
        for name, scale, axis in (
            (across[0], axes.set_xscale, axes.xaxis),
            (up, axes.set_yscale, axes.yaxis),
        ):
            parameter = BY_NAME[name]
            if parameter.low > 0 and parameter.high / parameter.low >= 10:
                scale("log")
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label or _named(across[0]))
        axes.set_ylabel(_named(up))
        axes.set_title(TITLES[metric])
    bar = figure.colorbar(shade, ax=figure.axes, extend="both", label="cloud / edge")
    ticks = range(-SHADES, SHADES + 1)
    bar.set_ticks(ticks, labels=[f"{2.0**tick:g}" for tick in ticks])


def _draws(figure: Any, ratios: Mapping[str, np.ndarray], title: str) -> None:
    axes = figure.subplots()
    for metric, color in zip(METRICS, ("#2c5f8a", "#c0392b", "#7d9b3a"), strict=True):
        share = np.linspace(0, 1, len(ratios[metric]))
        axes.plot(np.sort(ratios[metric]), 1 - share, color=color, label=TITLES[metric])
        axes.plot(HEADLINES[metric][0], np.mean(ratios[metric] >= HEADLINES[metric][0]), "o", color=color)
    axes.axvline(1.0, color="black", linewidth=1)
    _ratio_axis(axes)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of draws with at least this ratio")
    axes.set_title(f"{title}: every uncertain input drawn from its range (dots: the headlines' low ends)")
    axes.grid(alpha=0.3)
    axes.legend()


def _ratio_axis(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("cloud / edge")


def _named(name: str) -> str:
    unit = BY_NAME[name].unit
    return f"{name}, {unit}" if unit else name
