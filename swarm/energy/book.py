"""A peer's counters of energy since it first took part in a run: what it claims, durable before it is told.

The promise: a claim never goes back, whatever was killed meanwhile, and never grows by what nobody knows:
time in which a meter failed adds neither joules nor tokens nor seconds, so that what is told per token is
true of what was covered.
"""

from collections.abc import Callable, Iterable

from proto.energy import EnergyClaim
from swarm.energy.account import NETWORK, EnergyAccount, EnergyReport
from swarm.energy.claims import MILLI
from swarm.energy.reading import PHASES, Energy, Kind, as_one

NOTHING = EnergyClaim(
    source="nothing was read yet",
    uncertainty=0,
    spent=None,
    network_bytes=0,
    tokens=0,
    milliseconds=0,
    grid=None,
    embodied=None,
)


class Book:
    """`before`: the last claim, from disk. `save` has written one when it returns."""

    def __init__(
        self, account: EnergyAccount, before: EnergyClaim | None, save: Callable[[EnergyClaim], None]
    ) -> None:
        self.account, self._save = account, save
        self.latest = before or NOTHING

    def claim(self, tokens: int) -> EnergyClaim:
        """Close the account after so many tokens more, and say what there is in all."""
        self.account.count(tokens=tokens)
        self.latest = after(self.latest, self.account.close())
        self._save(self.latest)
        return self.latest


def after(before: EnergyClaim, report: EnergyReport) -> EnergyClaim:
    """The counters with one report more."""
    parts = [part for part in report.parts if part.component != NETWORK]
    whole = as_one(part.energy for part in parts)
    octets = before.network_bytes + report.network_bytes
    if whole.kind is Kind.UNAVAILABLE or whole.joules is None:
        source = before.source if before.spent is not None else words([whole.source])
        return before.model_copy(update={"network_bytes": octets, "source": source})
    uses = [as_one(part.energy for part in parts if part.phase == phase) for phase in PHASES]
    kind, *old = before.spent or (whole.kind.value, 0, 0, 0)
    compute, checks, wait = (was + _milli(use) for was, use in zip(old, uses, strict=True))
    measured = kind == whole.kind.value == Kind.MEASURED.value
    embodied = report.embodied_amortised_gco2e
    return EnergyClaim(
        source=words([whole.source] if before.spent is None else [before.source, whole.source]),
        uncertainty=max(before.uncertainty, min(100_000, round(MILLI * whole.uncertainty))),
        spent=("measured" if measured else "modelled", compute, checks, wait),
        network_bytes=octets,
        tokens=before.tokens + report.tokens,
        milliseconds=before.milliseconds + round(MILLI * report.seconds),
        grid=None
        if report.grid is None
        else (round(MILLI * report.grid.grams_per_kwh), words([str(report.grid)])),
        embodied=before.embodied if embodied is None else (before.embodied or 0) + round(MILLI * embodied),
    )


def words(sources: Iterable[str]) -> str:
    """Sources in a claim's printable characters and length, each once."""
    found = dict.fromkeys("".join(c if " " <= c <= "~" else "?" for c in one) for one in sources)
    if len(found) > 1:
        first, *others = found
        found = dict.fromkeys([first, *(other for other in others if other not in first)])
    return " + ".join(found)[:160] or "?"


def _milli(use: Energy) -> int:
    return 0 if use.joules is None else round(MILLI * use.joules)
