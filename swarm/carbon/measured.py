"""A run's own figures beside the comparison: joules and grams a token, by how they are known.

The promise: figures of different kinds are never one number. Peers whose meters measured and peers whose
energy was modelled are two rows; the network, which is always modelled, is a third; a peer that nobody can
measure, or whose claims are doubted, is counted and adds nothing. Where the run trained a model of the
comparison, its joules a token take the edge's place in it; where it trained another, they are no input: small
models reach less of a processor's peak, and nobody knows how much less.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proto.errors import SwarmError
from swarm.carbon.comparison import Comparison
from swarm.carbon.parameters import MODELS, Model, Values
from swarm.energy.grid import JOULES_PER_KWH, Grid, grid_of
from swarm.energy.reading import PHASES, Energy, Kind, as_one, by_kind

NETWORK_UNCERTAINTY = 1.0
"""Of joules a megabyte: docs/energy.md."""
COUNT = Field(ge=0, le=1 << 63)
AMOUNT = Field(ge=0, le=1e18, allow_inf_nan=False)


class NoEnergy(SwarmError):
    """A run in which nobody says what it used."""


class FiguresRefused(SwarmError):
    """Figures of a peer that are none."""


class GridFigure(BaseModel):
    """Grams a kilowatt-hour, and whose electricity."""

    model_config = ConfigDict(frozen=True)

    g_per_kwh: float = AMOUNT
    source: str = Field(max_length=200)


class PeerFigures(BaseModel):
    """What a peer claims, as `swarm.energy.claims.claim_json` and a demo's summary.json spell it."""

    model_config = ConfigDict(frozen=True)

    joules: float | None = AMOUNT
    energy_kind: Kind
    energy_source: str = Field(max_length=200)
    energy_uncertainty: float = AMOUNT
    joules_by_use: Mapping[str, float | None]
    network_joules: float = AMOUNT
    metered_tokens: int = COUNT
    metered_seconds: float = AMOUNT
    grid: GridFigure | None
    embodied_gco2e: float | None = AMOUNT
    doubted: bool = False

    @property
    def counts(self) -> bool:
        """Whether its joules may be added to others of their kind."""
        return self.joules is not None and self.energy_kind is not Kind.UNAVAILABLE and not self.doubted


@dataclass(frozen=True)
class Share:
    """The peers of one kind together. `seconds` are the peers', added up; `uses`: joules by use.

    `grams`: of their electricity (without network); None where a peer named no grid. `grid`: their own, where
    all have the same. `embodied`: None where a peer did not say.
    """

    energy: Energy
    peers: int
    tokens: int
    seconds: float
    uses: Mapping[str, float]
    network: Energy
    grams: float | None
    network_grams: float | None
    embodied: float | None

    @property
    def joules_a_token(self) -> float | None:
        """Of the meters; None where these peers trained nothing."""
        return (self.energy.joules or 0.0) / self.tokens if self.tokens else None


@dataclass(frozen=True)
class RunFigures:
    """A run: `model` is the manifest's preset, None where it is another or not known; `checked` says by what
    the figures were."""

    name: str
    model: str | None
    checked: str
    shares: Mapping[Kind, Share]
    unavailable: int
    doubted: int


def peer_figures(said: Mapping[str, Any], doubted: bool = False) -> PeerFigures:
    """What a peer claims. Raises NoEnergy where nothing is said of energy, FiguresRefused."""
    if "energy_kind" not in said:
        raise NoEnergy(
            "these figures say nothing of energy: the run was made before peers kept account of it; "
            "run it again, or measure another"
        )
    try:
        found = PeerFigures.model_validate({**said, "doubted": doubted})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise FiguresRefused(
            f"a peer's figures: {where}: {first['msg']}; let a run write them anew"
        ) from None
    if (found.joules is None) != (found.energy_kind is Kind.UNAVAILABLE):
        raise FiguresRefused(f"a peer's figures: {found.energy_kind} energy of {found.joules} J")
    return found


def run_figures(name: str, model: str | None, checked: str, peers: Iterable[PeerFigures]) -> RunFigures:
    """The peers' figures by kind. Raises NoEnergy where no peer has any."""
    given = list(peers)
    unavailable = [peer for peer in given if peer.joules is None]
    doubted = sum(peer.doubted and peer.joules is not None for peer in given)
    counting = [peer for peer in given if peer.counts]
    if not counting:
        why = f", for example: {unavailable[0].energy_source}" if unavailable else ""
        raise NoEnergy(
            f"{name} has no energy: of {len(given)} peers, {len(unavailable)} have no meter, {doubted} are "
            f"doubted{why}; start peers with --watts-idle and --watts-busy, or where a counter can be read"
        )
    kinds = by_kind(_energy(peer) for peer in counting)
    shares = {
        kind: _share(energy, [peer for peer in counting if peer.energy_kind is kind])
        for kind, energy in kinds.items()
    }
    return RunFigures(name, model, checked, shares, len(unavailable), doubted)


def model_of(figures: RunFigures) -> Model | None:
    """The comparison's model that the run trained, if it is one of them."""
    return next((model for model in MODELS.values() if model.name == figures.model), None)


@dataclass(frozen=True)
class Against:
    """One GPU in the cloud over the run's peers of one kind, a token: above 1 the run is better.

    `energy`: by the meters alone; `with_network`: with the network's joules, which makes it modelled.
    The carbon counts both; None where a peer named no grid, or nothing of its device.
    """

    kind: Kind
    energy: float
    with_network: float
    carbon_amortised: float | None
    carbon_marginal: float | None


def against(share: Share, done: Comparison, values: Values) -> Against | None:
    """The run in the edge's place of a comparison of the same model; None where it trained nothing."""
    if not share.tokens or not share.energy.joules:
        return None
    per_token = share.tokens / (values["batch"] * values["sequence"])
    cloud, both = done.cloud, as_one((share.energy, share.network)).joules or 0.0
    grams = (cloud.operational + cloud.amortised) * per_token
    emitted = (
        None if share.grams is None or share.network_grams is None else share.grams + share.network_grams
    )
    made = None if emitted is None or share.embodied is None else emitted + share.embodied
    return Against(
        share.energy.kind,
        cloud.joules * per_token / share.energy.joules,
        cloud.joules * per_token / both,
        grams / made if made else None,
        grams / emitted if emitted else None,
    )


def on_grid(peers: Iterable[PeerFigures], country: str | None) -> list[PeerFigures]:
    """The same peers on a stated grid, those that named one too. Raises CountryUnknown, BadFigure."""
    if country is None:
        return list(peers)
    grid: Grid = grid_of(country)
    stated = GridFigure(g_per_kwh=grid.grams_per_kwh, source=f"stated: {country}")
    return [peer.model_copy(update={"grid": stated}) for peer in peers]


def _energy(peer: PeerFigures) -> Energy:
    return Energy(peer.joules, peer.energy_kind, peer.energy_source, peer.energy_uncertainty)


def _share(energy: Energy, peers: list[PeerFigures]) -> Share:
    network = as_one(
        Energy(peer.network_joules, Kind.MODELLED, "bytes x J/MB", NETWORK_UNCERTAINTY) for peer in peers
    )
    grids = [peer.grid for peer in peers]
    known = [
        (peer, grid.g_per_kwh / JOULES_PER_KWH)
        for peer, grid in zip(peers, grids, strict=True)
        if grid is not None
    ]
    whole = len(known) == len(peers)
    embodied = [peer.embodied_gco2e for peer in peers]
    return Share(
        energy,
        len(peers),
        sum(peer.metered_tokens for peer in peers),
        sum(peer.metered_seconds for peer in peers),
        {use: sum(peer.joules_by_use.get(use) or 0.0 for peer in peers) for use in PHASES},
        network,
        sum((peer.joules or 0.0) * grams for peer, grams in known) if whole else None,
        sum(peer.network_joules * grams for peer, grams in known) if whole else None,
        None if None in embodied else sum(one for one in embodied if one is not None),
    )
