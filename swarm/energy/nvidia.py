"""NVIDIA GPUs: the board's energy counter, or its power over time where there is none.

The promise: each GPU of the run is counted, by one method that the name tells. The counters move about every
100 ms, and the A100's and H100's power is looked at for a quarter of the time only (Yang et al., arXiv
2312.02741): take windows of many steps.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from swarm.energy.counters import Counter, Integrator, boot_clock
from swarm.energy.nvml import Nvml
from swarm.energy.reading import CounterUnreadable, Kind, MeterFailed, Reading

COUNTER_UNCERTAINTY = 0.10
"""Assumed for windows of many steps; arXiv 2312.02741 reports larger errors for short ones."""
POWER_UNCERTAINTY = 0.35
"""The error that arXiv 2312.02741 removes by careful handling, on average: what careless sampling must
expect."""
MOST_WATTS = 2000.0
LONGEST_SECONDS = 10.0
"""Between two readings of a power."""


class Boards(Protocol):
    """What is asked of NVML; `swarm.energy.nvml.Nvml` has it."""

    def devices(self) -> list[str]: ...

    def millijoules(self, index: int) -> int | None: ...

    def milliwatts(self, index: int) -> int: ...


class Nvidia:
    """Joules of whole GPU boards. `indices`: which of them, all by default. Raises CounterUnreadable."""

    kind = Kind.MEASURED

    def __init__(
        self,
        boards: Boards | None = None,
        indices: Sequence[int] | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._boards: Boards = Nvml() if boards is None else boards
        names = self._boards.devices()
        chosen = range(len(names)) if indices is None else indices
        if not chosen or not all(0 <= index < len(names) for index in chosen):
            raise CounterUnreadable(
                f"NVML shows {len(names)} GPUs; asked for: {list(chosen) or 'all of them'}"
            )
        self._clock, self._joules, self._gaps = clock, 0.0, 0
        self._counters: dict[int, Counter] = {}
        self._powers: dict[int, Integrator] = {}
        for index in chosen:
            label = f"GPU {index} {names[index]}"
            if self._boards.millijoules(index) is None:
                self._powers[index] = Integrator(label, LONGEST_SECONDS)
            else:
                self._counters[index] = Counter(label, 1e-3, None, MOST_WATTS)
        how = (
            "energy counter"
            if not self._powers
            else "power over time"
            if not self._counters
            else "counters and power"
        )
        self.name = f"NVML {how} ({', '.join(names[index] for index in chosen)})"
        self.uncertainty = POWER_UNCERTAINTY if self._powers else COUNTER_UNCERTAINTY
        self.read()

    def read(self) -> Reading:
        used, failed = 0.0, None
        for index, counter in self._counters.items():
            try:
                used += counter.advance(self._count(index), self._clock())
            except MeterFailed as error:
                failed = failed or error
        for index, power in self._powers.items():
            try:
                used += power.advance(self._boards.milliwatts(index) / 1000, self._clock())
            except MeterFailed as error:
                failed = failed or error
        if failed is not None:
            self._gaps += 1
            raise failed
        self._joules += used
        return Reading(self._joules, self._clock(), self.kind, self.name, self.uncertainty, self._gaps)

    def _count(self, index: int) -> int:
        count = self._boards.millijoules(index)
        if count is None:
            raise CounterUnreadable(
                f"GPU {index} had an energy counter and has none now: was its driver loaded again?"
            )
        return count
