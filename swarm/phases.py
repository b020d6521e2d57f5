"""Seconds by phase: where a round's time goes."""

from collections.abc import Callable

from secagg.interface import Step

PHASES = ("train", "meet", "share", "mask", "agree", "unmask", "apply", "decide")


def phase_of(step: Step) -> str:
    """The phase that a session's step counts as."""
    return "share" if step is Step.READY else step.name.lower()


class PhaseClock:
    """Adds up the seconds spent in each phase of a round. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = self._started = clock()
        self._spent: dict[str, float] = {}
        self.current = "watch"
        self.last_round = 0.0

    def enter(self, phase: str) -> bool:
        """The phase from now on; whether it is another than before."""
        if phase == self.current:
            return False
        now = self._clock()
        self._spent[self.current] = self._spent.get(self.current, 0.0) + now - self._since
        self.current, self._since = phase, now
        return True

    def reset(self) -> None:
        """A new round begins."""
        now = self._clock()
        self.last_round, self._started = now - self._started, now
        self._since, self._spent = now, {}

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase since `reset`, the current one included."""
        spent = dict(self._spent)
        spent[self.current] = spent.get(self.current, 0.0) + self._clock() - self._since
        return {phase: round(spent.get(phase, 0.0), 4) for phase in PHASES}
