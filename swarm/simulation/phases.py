"""How long the phases of a round take in a cell, and what a member costs that is lost in one.

The promise: what the network takes is the table in phase_times.csv, which was fitted to the real round
machine with up to 16 members on a virtual clock (`swarm.simulation.fitting`) and is tested against it; up to
32 members are extrapolated. What processors take is added from measured figures. A cell of one member
sums nothing; it meets the other cells.
"""

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from swarm.phases import PHASES

EXCHANGE = tuple(phase for phase in PHASES if phase != "train")
"""The phases after the window."""


@dataclass(frozen=True)
class PhaseTime:
    """A row of the table."""

    phase: str
    hops: float
    by_log: float
    vectors: float
    lost: float
    void: bool

    def seconds(self, members: int, latency: float, vector: float) -> float:
        """Of the network alone. `latency`: seconds that a statement takes at most; `vector`: of an encoded
        vector through a member's link one way."""
        hops = self.hops + self.by_log * math.log(members)
        return latency * hops + vector * self.vectors * (members - 1) / members


@cache
def phase_times() -> dict[str, PhaseTime]:
    """The table, by phase."""
    text = files("swarm.simulation").joinpath("phase_times.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        row["phase"]: PhaseTime(
            row["phase"],
            float(row["hops"]),
            float(row["hops-by-log"]),
            float(row["vectors"]),
            float(row["lost"]),
            row["void"] == "1",
        )
        for row in rows
    }


@dataclass(frozen=True)
class Cell:
    """A shard's cell in an attempt. `parameters`: of the shard; `latency` and `vector` as above, of the
    slowest member; `fixed`, `masking`, `outer`: seconds of meeting, of masks (a member and million
    parameters), of an outer step (a million parameters)."""

    members: int
    parameters: int
    latency: float
    vector: float
    fixed: float
    masking: float
    outer: float


def exchange_seconds(cell: Cell) -> dict[str, float]:
    """Seconds of each phase after the window, while nobody is lost."""
    millions, others = cell.parameters / 1e6, cell.members - 1
    own = {"meet": cell.fixed, "mask": others * millions * cell.masking, "apply": millions * cell.outer}
    if not others:
        return {phase: own.get(phase, 0.0) for phase in EXCHANGE}
    return {
        phase: phase_times()[phase].seconds(cell.members, cell.latency, cell.vector) + own.get(phase, 0.0)
        for phase in EXCHANGE
    }
