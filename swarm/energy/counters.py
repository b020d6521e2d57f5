"""From what hardware shows to joules: counters that wrap around, and powers that must be integrated.

The promise: what may have gone by unseen is an error, never a guess. After an error the next reading starts
afresh, and `gaps` has grown, so that no difference spans the hole unnoticed.

>>> counter = Counter("package-0", joules_each=1e-6, wraps_at=4_000_000, most_watts=2.0)
>>> counter.advance(3_900_000, 0.0), round(counter.advance(3_950_000, 1.0), 6)
(0.0, 0.05)
>>> counter.advance(40_000, 2.0)  # 0.05 J up to the end of the counter, and 0.04 J more
0.09
"""

import time
from pathlib import Path

from swarm.energy.reading import (
    BadFigure,
    CounterBackwards,
    CounterUnreadable,
    MeterNotPermitted,
    ReadTooLate,
)


def boot_clock() -> float:
    """Seconds that go on while a laptop sleeps, where the system has such a clock: counters may go on too."""
    kind = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if kind is None else time.clock_gettime(kind)


class Counter:
    """One energy counter. `wraps_at`: the count after which it starts at 0, or None. `most_watts`: more than
    the device can draw, which decides what one reading can have missed."""

    def __init__(self, name: str, joules_each: float, wraps_at: int | None, most_watts: float) -> None:
        if wraps_at is not None and wraps_at <= 0:
            raise BadFigure(f"{name}: its counter is said to wrap at {wraps_at}")
        self.name, self._each, self._wraps, self._most = name, joules_each, wraps_at, most_watts
        self._last: tuple[int, float] | None = None

    @property
    def longest_seconds(self) -> float | None:
        """The time within which the counter must be read; None if it does not wrap."""
        return None if self._wraps is None else self._wraps * self._each / self._most

    def advance(self, count: int, seconds: float) -> float:
        """Joules since the last call; the first gives 0. Raises CounterBackwards, ReadTooLate."""
        last, self._last = self._last, (count, seconds)
        if last is None:
            return 0.0
        gone = count - last[0]
        passed = seconds - last[1]
        longest = self.longest_seconds
        if longest is not None and passed > longest:
            raise ReadTooLate(
                f"{self.name}: {passed:.0f} s since the last reading, and the counter may wrap in "
                f"{longest:.0f} s: read it more often; the time in between is not counted"
            )
        if gone < 0:
            if self._wraps is None or (gone + self._wraps) * self._each > self._most * max(passed, 0.001):
                raise CounterBackwards(
                    f"{self.name}: the counter went from {last[0]} to {count} in {passed:.3f} s, which is "
                    "no wrap-around: was its driver loaded again, or the machine moved? The time in "
                    "between is not counted"
                )
            gone += self._wraps
        return gone * self._each


class Integrator:
    """Joules of a power that is only shown, not counted: trapezoids between readings."""

    def __init__(self, name: str, longest_seconds: float) -> None:
        self.name, self._longest = name, longest_seconds
        self._last: tuple[float, float] | None = None

    def advance(self, watts: float, seconds: float) -> float:
        """Joules since the last call; the first gives 0. Raises ReadTooLate."""
        last, self._last = self._last, (watts, seconds)
        if last is None:
            return 0.0
        passed = seconds - last[1]
        if not 0 <= passed <= self._longest:
            raise ReadTooLate(
                f"{self.name}: {passed:.0f} s since the last reading of its power, and "
                f"{self._longest:.0f} s is the most over which a power is taken to be steady: read it "
                "more often; the time in between is not counted"
            )
        return (watts + last[0]) / 2 * passed

    def forget(self) -> None:
        """The power is not known for a while: the next call starts afresh."""
        self._last = None


def read_number(path: Path, least: int = 0) -> int:
    """The integer that a sysfs file holds, `least` or more. Raises CounterUnreadable, MeterNotPermitted."""
    try:
        text = path.read_text()
    except PermissionError:
        raise MeterNotPermitted(f"{path} may not be read by this user") from None
    except OSError as error:
        raise CounterUnreadable(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CounterUnreadable(f"{path} holds bytes that are no text") from None
    try:
        number = int(text)
    except ValueError:
        raise CounterUnreadable(f"{path} holds {text[:40]!r}, which is no number") from None
    if number < least:
        raise CounterUnreadable(f"{path} holds {number}, and it must be {least} or more")
    return number


def read_word(path: Path) -> str:
    """The text that a sysfs file holds; empty if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
