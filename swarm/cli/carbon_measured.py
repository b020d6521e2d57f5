"""Where `swarm-carbon --measured` finds a run's own figures: a ledger, a state folder, a demo's folder.

The promise: a ledger is audited first, and what it says of energy is taken from its signed adverts. A demo's
summary.json is a report that somebody wrote, and the output says so; where the demo's ledgers lie beside it,
they are read instead.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proto.errors import SwarmError
from swarm.carbon.measured import NoEnergy, PeerFigures, RunFigures, on_grid, peer_figures, run_figures
from swarm.cli.audit import run_audit
from swarm.cli.audit_sources import opened, read_file
from swarm.cli.common import parse_run
from swarm.energy.claims import claim_json
from swarm.manifest import Manifest, parse_manifest
from verify.audit_report import Report
from verify.checkpoint import MAX_NOTE, parse_checkpoint

MOST_SUMMARY = 64 << 20


class RunUnclear(SwarmError):
    """Which run is meant cannot be seen from what was named."""


class NoFigures(SwarmError):
    """What was named holds no run's figures, or cannot be read as such."""


def figures_at(path: Path, run: str | None, country: str | None) -> RunFigures:
    """A run's figures. `run`: its id, where several lie there; `country`: whose electricity, in place of what
    peers claim. Raises NoFigures, RunUnclear, NoEnergy, and what reading a ledger raises."""
    if not path.exists():
        raise NoFigures(
            f"--measured {path} does not exist: name an exported ledger, a peer's state folder, a demo's "
            "folder or its summary.json"
        )
    if path.is_file():
        return _summarised(path, country)
    for folder in (path, path / "peers" / "0"):  # a demo's first peer is honest, and logs everybody's adverts
        if runs := list(_runs(folder)):
            return _audited(folder, runs, run, country)
    if (path / "summary.json").exists():
        return _summarised(path / "summary.json", country)
    raise NoFigures(
        f"--measured {path}: neither a file `checkpoint` (swarm-audit export), nor runs/RUN_ID/ledger.sqlite "
        "(a state folder), nor summary.json (swarm-demo)"
    )


def _audited(folder: Path, runs: list[str], wanted: str | None, country: str | None) -> RunFigures:
    if wanted is None and len(runs) > 1:
        raise RunUnclear(f"{folder} holds {len(runs)} runs: name one with --run: {' '.join(runs)}")
    run = parse_run(runs[0] if wanted is None else wanted)
    with opened([str(folder)], run) as sources:
        report = run_audit(run, sources)
    manifest = None if report.genesis is None else parse_manifest(report.genesis.manifest)
    name = f"run {run.hex()[:8]}" if manifest is None else f"run {run.hex()[:8]} ({manifest.run.name})"
    peers = list(_claimed(report))
    if not peers:
        raise NoEnergy(
            f"{name}: no advert in this ledger claims any energy; peers of an older version made none, or no "
            "session was completed: name the ledger of another run"
        )
    said = "audited, clean" if report.ok else "audited, NOT clean: see swarm-audit verify"
    return run_figures(name, _preset(manifest), said, on_grid(peers, country))


def _claimed(report: Report) -> Iterator[PeerFigures]:
    for one in report.peers.values():
        if one.energy is not None:
            said = claim_json(one.energy, report.joules_per_megabyte)
            yield peer_figures(said, doubted=bool(one.doubts))


def _summarised(path: Path, country: str | None) -> RunFigures:
    said = _json(path)
    peers, run = said.get("peers"), str(said.get("run_id", ""))[:8]
    if not isinstance(peers, list) or not peers or not all(isinstance(peer, dict) for peer in peers):
        raise NoFigures(f"{path} has no list `peers`: name the summary.json that swarm-demo wrote")
    found = [peer_figures(peer) for peer in peers]
    manifest = path.parent / "run.toml"
    preset = _preset(parse_manifest(read_file(manifest, 1 << 20))) if manifest.exists() else None
    return run_figures(f"run {run}", preset, f"as {path.name} says, unaudited", on_grid(found, country))


def _json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(read_file(path, MOST_SUMMARY))
    except (ValueError, RecursionError) as error:
        raise NoFigures(f"{path} is no JSON ({error}): name the summary.json that swarm-demo wrote") from None
    if not isinstance(said, dict):
        raise NoFigures(f"{path} holds no JSON object: name the summary.json that swarm-demo wrote")
    return said


def _preset(manifest: Manifest | None) -> str | None:
    return None if manifest is None else manifest.model.preset


def _runs(folder: Path) -> Iterator[str]:
    """The ids of the runs whose ledgers lie in an export or a state folder."""
    if (folder / "checkpoint").is_file():
        yield parse_checkpoint(read_file(folder / "checkpoint", MAX_NOTE).decode(errors="replace")).run.hex()
    for file in sorted(folder.glob("runs/*/ledger.sqlite")):
        yield file.parent.name
