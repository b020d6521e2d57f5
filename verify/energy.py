"""Claims of energy that cannot be: nobody can check a joule from afar, but much of what a liar says shows.

The promise: an honest peer with a working meter is never doubted, whatever machine it has. A doubt is a
reason to look, for people; nobody is banned for it.
"""

from collections.abc import Iterator

from proto.energy import EnergyClaim

FLOPS_PER_JOULE = 4e12
"""No processor of 2026 trains with more floating-point operations a joule: the best data sheets give 2.3e12
(B200, dense 16-bit, at its thermal design power)."""
MOST_WATTS = 20_000.0
"""Of one peer: more than a whole rack server of eight accelerators."""
USES = ("training", "checks", "waiting")


def doubts(before: EnergyClaim | None, now: EnergyClaim, parameters: int) -> Iterator[str]:
    """Why a peer's claim, after an earlier one, cannot be true. `parameters`: of the model."""
    if before is not None:
        for name, was, is_ in _counters(before, now):
            if is_ < was:
                yield f"its {name} went from {was} back to {is_}: a counter that runs backwards"
        if (before.kind, now.kind) == ("modelled", "measured"):
            yield f"its energy was modelled ({before.source}) and is measured all along ({now.source})"
    if now.spent is not None:
        joules = now.spent[1] / 1000
        least = 6 * parameters * now.tokens / FLOPS_PER_JOULE
        if joules * (1 + now.uncertainty / 1000) < least or (now.tokens and not joules):
            yield f"{joules:g} J for {now.tokens} tokens: no processor trains with less than {least:.3g} J"
        watts = sum(now.spent[1:]) / max(now.milliseconds, 1)
        if watts > MOST_WATTS:
            yield f"{watts:.0f} W on average: more than a rack server takes"


def _counters(before: EnergyClaim, now: EnergyClaim) -> Iterator[tuple[str, int, int]]:
    """Name, value before and now of every counter that both have."""
    if before.spent is not None and now.spent is not None:
        for use, was, is_ in zip(USES, before.spent[1:], now.spent[1:], strict=True):
            yield f"millijoules for {use}", was, is_
    yield "bytes", before.network_bytes, now.network_bytes
    yield "tokens", before.tokens, now.tokens
    yield "milliseconds", before.milliseconds, now.milliseconds
    if before.embodied is not None and now.embodied is not None:
        yield "embodied milligrams", before.embodied, now.embodied
