"""Pictures as PNG files; matplotlib is imported when one is drawn, and not before."""

from pathlib import Path
from typing import Any

from proto.errors import SwarmError


class NoPlot(SwarmError):
    """matplotlib is not there, the file cannot be written, or there is nothing to draw."""


def new_figure(width: float, height: float, dpi: int = 100) -> Any:
    """An empty matplotlib Figure, sizes in inches. Raises NoPlot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NoPlot("a picture needs matplotlib: pip install matplotlib, or 'edgeswarm[peer]'") from None
    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def write_png(figure: Any, path: Path) -> None:
    """Write it, with the folders on the way. Raises NoPlot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure).print_png(path)
    except OSError as error:
        raise NoPlot(f"{path} cannot be written ({error.strerror}): name another file or folder") from None
