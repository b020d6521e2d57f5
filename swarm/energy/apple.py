"""Apple's processors: not measured yet, and said so.

macOS counts energy in IOReport, which has no public interface; the package `zeus-apple-silicon` reads it
without root. Nobody has run this project's meters on a Mac, so there is no adapter here: a peer on a Mac has
a model with its owner's watts, or nothing.
"""

import platform

from swarm.energy.reading import CounterUnreadable, Meter

WHY = (
    "Apple's counters (IOReport) are not read by this version: an adapter to the package "
    "zeus-apple-silicon is missing, because it has not been tried on a Mac; give --watts-idle and "
    "--watts-busy"
)


def open_meter(system: str | None = None) -> Meter:
    """Raises CounterUnreadable always, in other words on a Mac than elsewhere."""
    raise CounterUnreadable(WHY if (system or platform.system()) == "Darwin" else "this is no Mac")
