"""A run's own joules beside the comparison: by kind, audited, an input only where the models are the same."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from proto.canonical import PeerID
from proto.energy import EnergyClaim
from proto.errors import SwarmError
from swarm.carbon.comparison import CASES, compare
from swarm.carbon.measured import (
    FiguresRefused,
    NoEnergy,
    PeerFigures,
    against,
    model_of,
    on_grid,
    peer_figures,
    run_figures,
)
from swarm.carbon.parameters import SCENARIOS, defaults, scenario_values
from swarm.cli import carbon, carbon_view
from swarm.cli.carbon_measured import NoFigures, RunUnclear, figures_at
from swarm.energy.claims import claim_json
from swarm.energy.reading import Kind
from swarm.testing import VirtualSwarm
from tests.verify.audited_runs import Run, ledger_of, virtual_run
from verify.record import Genesis
from verify.statement import open_signed
from verify.tiles import export

RAPL, MODEL = "RAPL package-0", "model 2 to 5 W"


def claim(**changes: Any) -> EnergyClaim:
    fields: dict[str, Any] = {
        "source": RAPL,
        "uncertainty": 100,
        "spent": ("measured", 80_000, 10_000, 10_000),
        "network_bytes": 10**9,
        "tokens": 10_000,
        "milliseconds": 20_000,
        "grid": (238_000, "GBR 2023"),
        "embodied": 5_000,
    }
    return EnergyClaim.model_validate(fields | changes)


MODELLED = claim(source=MODEL, spent=("modelled", 40_000, 0, 10_000), tokens=5_000)
NOBODY = claim(source="no counter", spent=None, tokens=0)
CLAIMS = (claim(), claim(), MODELLED, NOBODY)


def figures(*claims: EnergyClaim, doubted: bool = False) -> list[PeerFigures]:
    return [peer_figures(claim_json(one, 0.05), doubted) for one in claims]


def a_run(*claims: EnergyClaim) -> Run:
    """A virtual run whose peers, in order, make these claims."""

    def prepare(swarm: VirtualSwarm) -> None:
        told = dict(zip(sorted(swarm.peers), claims, strict=False))

        def energy(me: PeerID, tokens: int) -> EnergyClaim | None:
            return told.get(me)

        swarm.energy = energy  # type: ignore[method-assign]

    return virtual_run(4, 2, rate=0.0, prepare=prepare)


def exported(run: Run, folder: Path) -> Path:
    peer = run.peers[0]
    ledger = ledger_of(run.run, peer, run.entries[peer])
    text = run.source_of(peer, ledger).checkpoint
    assert text is not None
    genesis = run.entries[peer][0][1]
    manifest = open_signed(genesis, Genesis).message.manifest
    export(ledger, folder, text, {"genesis": genesis, "manifest.toml": manifest})
    return folder


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(a_run(*CLAIMS), tmp_path_factory.mktemp("measured") / "ledger")


def test_a_ledgers_claims_are_added_up_by_kind_and_never_over_kinds(ledger: Path) -> None:
    found = figures_at(ledger, None, None)
    assert (found.model, found.checked, found.unavailable, found.doubted) == ("tiny", "audited, clean", 1, 0)
    measured, modelled = found.shares[Kind.MEASURED], found.shares[Kind.MODELLED]
    assert (measured.energy.joules, measured.tokens, measured.peers) == (200.0, 20_000, 2)
    assert (modelled.energy.joules, modelled.tokens, modelled.peers) == (50.0, 5_000, 1)
    assert measured.joules_a_token == pytest.approx(0.01)
    assert measured.uses == {"compute": 160.0, "checks": 20.0, "wait": 20.0}
    assert (measured.network.joules, measured.network.kind) == (100.0, Kind.MODELLED)
    assert measured.grams == pytest.approx(200 / 3.6e6 * 238)
    assert measured.embodied == 10.0


def test_the_table_names_each_kind_and_fits_80_columns(ledger: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(carbon.common, "start_log", lambda *_: None)
    carbon.carbon(measured=ledger, samples=100)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    for line in ("by RAPL package-0, +-10%", "by model 2 to 5 W", "No input here: the run trained tiny"):
        assert line in said
    assert re.search(r"meters +2 +20,000 +measured +0.01", said)
    assert "1 peers that nobody can measure" in said
    carbon.carbon(measured=ledger, samples=100, json=True, country="FRA")
    told = json.loads(capsys.readouterr().out)["measured"]
    assert told["kinds"]["measured"]["joules_per_token"] == pytest.approx(0.01)
    assert told["kinds"]["measured"]["grams"] == pytest.approx(200 / 3.6e6 * 56)
    assert told["cloud_over_run"] == {}


def test_a_run_of_the_comparisons_model_takes_the_edges_place() -> None:
    found = run_figures("run", "opt-125m", "audited, clean", figures(*CLAIMS))
    model = model_of(found)
    assert model is not None
    assert carbon_view.case_for(found).model == model
    values = scenario_values(SCENARIOS["paper"], {})
    done = compare(values, CASES["laptops-125m"], "a5000")
    ratios = against(found.shares[Kind.MEASURED], done, values)
    assert ratios is not None
    a_token = done.cloud.joules / (16 * 512)
    assert ratios.energy == pytest.approx(a_token / 0.01)
    assert ratios.with_network == pytest.approx(a_token / 0.015)
    cloud = (done.cloud.operational + done.cloud.amortised) / (16 * 512) * 20_000
    assert ratios.carbon_marginal == pytest.approx(cloud / (300 / 3.6e6 * 238))
    assert ratios.carbon_amortised == pytest.approx(cloud / (300 / 3.6e6 * 238 + 10))
    lines = "\n".join(carbon_view.measured_lines(found, defaults(), "a5000", {}, None))
    assert re.search(r"contrary +modelled", lines)


def test_without_a_grid_there_are_no_grams_and_no_carbon_ratio() -> None:
    nowhere = run_figures("run", "opt-125m", "", figures(claim(grid=None), claim()))
    share = nowhere.shares[Kind.MEASURED]
    ratios = against(share, compare(defaults(), CASES["laptops-125m"], "a5000"), defaults())
    assert ratios is not None
    assert (share.grams, ratios.carbon_marginal, ratios.carbon_amortised) == (None, None, None)
    stated = run_figures("run", "opt-125m", "", on_grid(figures(claim(grid=None), claim()), "100"))
    assert stated.shares[Kind.MEASURED].grams == pytest.approx(200 / 3.6e6 * 100)


def test_a_doubted_peer_is_counted_and_adds_nothing() -> None:
    found = run_figures("run", None, "", [*figures(claim()), *figures(claim(), doubted=True)])
    assert (found.doubted, found.shares[Kind.MEASURED].peers) == (1, 1)


def test_a_summary_is_read_and_said_to_be_unaudited(tmp_path: Path) -> None:
    peers = [{"peer_id": "x", **claim_json(one, 0.05)} for one in CLAIMS]
    file = tmp_path / "summary.json"
    file.write_text(json.dumps({"run_id": "ab" * 32, "peers": peers}))
    for path in (file, tmp_path):
        found = figures_at(path, None, None)
        assert (found.checked, found.model) == ("as summary.json says, unaudited", None)
        assert found.shares[Kind.MEASURED].energy.joules == 200.0


def test_a_ledger_without_energy_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NoEnergy, match="no advert in this ledger claims any energy"):
        figures_at(exported(a_run(), tmp_path / "none"), None, None)
    with pytest.raises(NoEnergy, match="4 have no meter"):
        figures_at(exported(a_run(*[NOBODY] * 4), tmp_path / "nobody"), None, None)


@pytest.mark.parametrize(
    ("summary", "name", "said"),
    [
        ("[]", NoFigures, "no JSON object"),
        ("{", NoFigures, "is no JSON"),
        ('{"peers": []}', NoFigures, "no list `peers`"),
        ('{"peers": [{"peer_id": "x"}]}', NoEnergy, "before peers kept account"),
        ('{"peers": [{"energy_kind": "guessed"}]}', FiguresRefused, "joules: Field required"),
    ],
)
def test_a_summary_that_is_none_is_refused_with_the_fix(
    tmp_path: Path, summary: str, name: type[SwarmError], said: str
) -> None:
    (tmp_path / "summary.json").write_text(summary)
    with pytest.raises(name, match=re.escape(said)):
        figures_at(tmp_path, None, None)


@pytest.mark.parametrize(
    "changes", [{"joules": -1.0}, {"joules": None}, {"metered_tokens": -5}, {"network_joules": float("nan")}]
)
def test_amounts_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(FiguresRefused):
        peer_figures(claim_json(claim(), 0.05) | changes)


def test_what_is_no_ledger_or_holds_several_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoFigures, match="does not exist"):
        figures_at(tmp_path / "nothing", None, None)
    with pytest.raises(NoFigures, match="swarm-audit export"):
        figures_at(tmp_path, None, None)
    for run in ("aa" * 32, "bb" * 32):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "ledger.sqlite").touch()
    with pytest.raises(RunUnclear, match="name one with --run: aaaa"):
        figures_at(tmp_path, None, None)
