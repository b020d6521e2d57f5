"""The loss curve of a run as a picture."""

from collections.abc import Sequence
from pathlib import Path

from swarm.picture import new_figure, write_png


def plot_loss(
    path: Path, rounds: Sequence[int], loss: Sequence[float], heldout: Sequence[float], title: str
) -> None:
    """Draw training loss of `rounds`, and held-out loss from round 0 (before training) on, as a PNG."""
    figure = new_figure(7, 4, dpi=130)
    axes = figure.subplots()
    axes.plot([number - 1 for number in rounds], loss, color="#8899aa", marker=".", label="training")
    axes.plot(range(len(heldout)), heldout, color="#c0392b", marker="o", markersize=3, label="held out")
    axes.set_xlabel("rounds done")
    axes.set_ylabel("loss, nats a token")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    axes.xaxis.get_major_locator().set_params(integer=True)
    write_png(figure, path)
