"""What comes of a simulated run: totals, and a row for each record."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

USES = ("compute", "lost", "again", "checks", "trials", "exchange", "wait", "network")
"""Where joules go: work that entered the model; work that did not (void attempts, broken chains, slices that
the window's end cut off, lies that were caught); work done again for those who went; checks; newcomers'
trials; masks and outer steps; waiting; the network."""
WORK = ("compute", "lost", "again", "checks", "trials", "exchange")


@dataclass(frozen=True)
class Row:
    """A record: when, how long its round took, attempts, tokens, joules at the wall, members there,
    spares."""

    at: float
    seconds: float
    attempts: int
    tokens: int
    joules: float
    members: int
    spares: int


@dataclass
class Outcome:
    """All is summed over devices. `seconds`: simulated. `joules` by use, at the wall; all of it is modelled.
    `busy`: device-seconds of work by use. `grams` of electricity, `made` of having the devices, by time.
    `caught_after`: rounds that each caught attacker took part in before. `poisoned`: slices of liars that
    entered the model."""

    seconds: float = 0.0
    paused: float = 0.0
    tokens: int = 0
    attempts: int = 0
    voids: Mapping[str, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    joules: dict[str, float] = field(default_factory=lambda: dict.fromkeys(USES, 0.0))
    busy: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WORK, 0.0))
    grams: float = 0.0
    made: float = 0.0
    joins: int = 0
    suspensions: int = 0
    goodbyes: int = 0
    recoveries: int = 0
    moves: int = 0
    attackers: int = 0
    caught_after: list[int] = field(default_factory=list)
    slices: int = 0
    poisoned: int = 0
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def records(self) -> int:
        return len(self.rows)

    @property
    def total_joules(self) -> float:
        return sum(self.joules.values())

    @property
    def useful(self) -> float:
        """Of the devices' working time, the share that entered the model."""
        working = sum(self.busy.values())
        return self.busy["compute"] / working if working else 0.0

    @property
    def round_seconds(self) -> float:
        """The median round's."""
        return float(np.median([row.seconds for row in self.rows])) if self.rows else float("nan")
