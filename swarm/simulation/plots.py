"""A simulated run as a picture: tokens a second, and who was there, over time."""

from pathlib import Path

import numpy as np

from swarm.picture import NoPlot, new_figure, write_png
from swarm.simulation.report import Simulated

BLUE, RED, GREY = "#2c5f8a", "#c0392b", "#888888"


def draw(path: Path, done: Simulated) -> None:
    """Write a PNG. Raises NoPlot."""
    rows = done.outcome.rows
    if not rows:
        raise NoPlot("no record was made in all the time: there is nothing to draw; see what was paused")
    hours = np.array([row.at for row in rows]) / 3600
    figure = new_figure(9, 5.5)
    above, below = figure.subplots(2, 1, sharex=True)
    pace = np.array([row.tokens / row.seconds for row in rows])
    above.step(hours, pace, where="pre", color=BLUE, linewidth=1)
    above.set_ylabel("tokens a second")
    above.set_ylim(bottom=0)
    above.set_title(
        f"{done.terms.job.model} on {len(done.ask.devices)} kinds of devices, "
        f"{sum(device.count for device in done.ask.devices)} in all"
    )
    below.plot(hours, [row.members for row in rows], color=BLUE, label="members in the sum")
    below.plot(hours, [row.spares for row in rows], color=GREY, label="spares there")
    below.plot(hours, [row.attempts for row in rows], color=RED, linewidth=1, label="attempts a round")
    below.set_ylabel("devices")
    below.set_xlabel("hours")
    below.set_ylim(bottom=0)
    below.legend()
    write_png(figure, path)
