"""What peers claim of their energy, for people and programs: joules and grams, with how they are known.

The promise: what meters gave and what the network took are never one number, nor are measured and modelled.
"""

from collections.abc import Iterable
from typing import Any

from proto.energy import EnergyClaim
from swarm.energy.grid import JOULES_PER_KWH
from swarm.energy.reading import PHASES

MILLI = 1000


def joules_of(claim: EnergyClaim, joules_per_megabyte: float) -> tuple[float | None, float]:
    """Joules of the meters, and, beside them, of the network by the manifest's figure, which is a model."""
    spent = claim.millijoules
    return None if spent is None else spent / MILLI, claim.network_bytes / 1e6 * joules_per_megabyte


def grams_of(claim: EnergyClaim, joules_per_megabyte: float) -> float | None:
    """Grams of CO2e of both; None without a meter or a grid."""
    meters, network = joules_of(claim, joules_per_megabyte)
    if meters is None or claim.grid is None:
        return None
    return (meters + network) / JOULES_PER_KWH * claim.grid[0] / MILLI


def claim_json(claim: EnergyClaim, joules_per_megabyte: float) -> dict[str, Any]:
    """A claim for programs. `joules` is the meters'; the network's, modelled, stands beside it."""
    meters, network = joules_of(claim, joules_per_megabyte)
    uses = (None, None, None) if claim.spent is None else claim.spent[1:]
    return {
        "joules": meters,
        "energy_kind": claim.kind,
        "energy_source": claim.source,
        "energy_uncertainty": claim.uncertainty / MILLI,
        "joules_by_use": {
            name: None if one is None else one / MILLI for name, one in zip(PHASES, uses, strict=True)
        },
        "network_bytes": claim.network_bytes,
        "network_joules": network,
        "metered_tokens": claim.tokens,
        "metered_seconds": claim.milliseconds / MILLI,
        "gco2e": grams_of(claim, joules_per_megabyte),
        "grid": None if claim.grid is None else {"g_per_kwh": claim.grid[0] / MILLI, "source": claim.grid[1]},
        "embodied_gco2e": None if claim.embodied is None else claim.embodied / MILLI,
    }


def totals(claims: Iterable[EnergyClaim], joules_per_megabyte: float) -> dict[str, Any]:
    """A swarm's claims: joules by kind, never added up over kinds, and how many peers have none."""
    found = list(claims)
    by_kind: dict[str, float] = {}
    for claim in found:
        if claim.millijoules is not None:
            by_kind[claim.kind] = by_kind.get(claim.kind, 0.0) + claim.millijoules / MILLI
    grams = [grams_of(claim, joules_per_megabyte) for claim in found]
    return {
        "joules": by_kind,
        "network_joules": sum(joules_of(claim, joules_per_megabyte)[1] for claim in found),
        "unavailable": sum(claim.spent is None for claim in found),
        "gco2e": None if None in grams or not grams else sum(one for one in grams if one is not None),
    }
