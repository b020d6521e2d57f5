"""What a demo leaves: checkpoint, loss curve, sample text, summary.json."""

import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from proto.canonical import PeerID
from proto.energy import EnergyClaim
from swarm.cli.audit import run_audit
from swarm.cli.audit_sources import opened
from swarm.cli.children import Event
from swarm.cli.demo_run import PROMPT, Course, Plan
from swarm.cli.demo_swarm import DemoFailed
from swarm.cli.export import export_run
from swarm.cli.generate import sample
from swarm.cli.plot import plot_loss
from swarm.cli.view import View
from swarm.data import load_dataset
from swarm.energy.book import NOTHING
from swarm.energy.claims import claim_json, totals
from swarm.manifest import Manifest, Model
from swarm.model import build_model, layout_of, read_vector
from swarm.snapshot import first_snapshot
from swarm.store import Store
from swarm.work import Trainer
from verify.identity import Identity
from verify.record import Decided, Record
from verify.standing import Ban

SAMPLE_TOKENS = 40
ROUND_KEYS = ("round", "attempts", "loss", "heldout_loss", "survivors", "snapshot_hash", "seconds")


async def report(
    plan: Plan, run: bytes, manifest: Manifest, course: Course, leftovers: int, view: View
) -> None:
    """Write and tell everything. Raises DemoFailed if the loss did not fall or something was left running."""
    store = Store(plan.state(0), run)
    try:
        history, _ = store.history(run)
        tokens = _tokens_by_peer(store, manifest)
    finally:
        store.close()
    checkpoint = plan.out / "checkpoint"
    others = [plan.state(number) for number in sorted(course.final) if number]
    await asyncio.to_thread(export_run, plan.state(0), run, checkpoint, others)
    last = await asyncio.to_thread(heldout_loss, checkpoint, manifest, plan.out / "cache")
    text = await asyncio.to_thread(sample, checkpoint, PROMPT, SAMPLE_TOKENS, 0.8)

    rounds = [course.rounds[number] for number in sorted(course.rounds)]
    audited, claims = await asyncio.to_thread(_audit, plan, run)
    price = manifest.energy.joules_per_megabyte
    summary = {
        "run_id": run.hex(),
        "aggregation": manifest.aggregation.mode,
        "shards": manifest.model.shards,
        "loss_first": rounds[0]["heldout_loss"],
        "loss_last": last,
        "rounds": [{key: entry[key] for key in ROUND_KEYS} for entry in rounds],
        "peers": _peers(plan, course, tokens, claims, price),
        "energy": totals(claims.values(), price),
        "bans": _bans(history.conduct.bans),
        "audit": audited,
        "checkpoint": str(checkpoint),
        "leftovers": leftovers,
    }
    (plan.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    heldout = [*(entry["heldout_loss"] for entry in rounds), last]
    title = f"{manifest.run.name}: {len(summary['peers'])} peers, {len(rounds)} rounds"
    plot_loss(
        plan.out / "loss.png", [e["round"] for e in rounds], [e["loss"] for e in rounds], heldout, title
    )
    _tell(plan, summary, text, view)
    if leftovers:
        raise DemoFailed(f"{leftovers} processes or sockets were left behind; see {plan.out / 'logs'}")
    if not summary["audit"]["ok"]:
        raise DemoFailed(f"the audit found: {summary['audit']['findings'][0]}")


def _tell(plan: Plan, summary: dict[str, Any], text: str, view: View) -> None:
    view.show({"event": "summary", "sample": text, **summary})
    first, last = summary["loss_first"], summary["loss_last"]
    view.say(f"held-out loss   {first:.3f} -> {last:.3f} nats a token")
    whose = "all honest peers" if plan.attackers else "all peers"
    view.say(f"final snapshot  {summary['rounds'][-1]['snapshot_hash']} on {whose}")
    for ban in summary["bans"]:
        view.say(f"banned          {ban['peer_id']} by record {ban['round']}, for {ban['reason']}")
    audit = summary["audit"]
    verdict = "everything holds" if audit["ok"] else f"NOT clean: {audit['findings'][0]}"
    view.say(f"audit           {verdict} ({audit['statements']:,} signatures, {audit['seconds']} s)")
    for line in energy_lines(summary["peers"], summary["energy"]):
        view.say(line)
    view.say(f"loss curve      {plan.out / 'loss.png'}")
    view.say(f"summary         {plan.out / 'summary.json'}")
    joined = f", joined from {summary['shards']} shards" if summary["shards"] > 1 else ""
    view.say(f"checkpoint      {summary['checkpoint']}{joined}")
    view.say(f"it writes       {text!r}")


def energy_lines(peers: Sequence[Event], energy: Event) -> Iterator[str]:
    """What each peer used, and how that is known; each line within 80 columns after the time."""
    for at, peer in enumerate(peers):
        if peer["joules"] is None:
            yield f"energy, peer {at}  nobody knows: {peer['energy_source']}"[:70]
            continue
        grams = "" if peer["gco2e"] is None else f", {peer['gco2e']:.2g} g CO2e"
        network = f"{peer['network_joules']:.3g} J of network (modelled)"
        yield f"energy, peer {at}  {peer['joules']:,.0f} J {peer['energy_kind']}, {network}{grams}"
    kinds = ", ".join(f"{joules:,.0f} J {kind}" for kind, joules in sorted(energy["joules"].items()))
    yield f"energy in all   {kinds or 'nobody knows'}"


def _peers(
    plan: Plan, course: Course, tokens: dict[str, int], claims: Mapping[PeerID, EnergyClaim], price: float
) -> list[Event]:
    peers = []
    for number, snapshot in sorted(course.final.items()):
        peer = Identity.load(plan.state(number) / "identity.key").peer_id
        claim = claims.get(peer, NOTHING)
        of = {"peer_id": peer, "snapshot_hash": snapshot, "tokens": tokens.get(peer, 0)}
        peers.append({**of, **claim_json(claim, price)})
    return peers


def _audit(plan: Plan, run: bytes) -> tuple[Event, dict[PeerID, EnergyClaim]]:
    """What an auditor makes of the honest peers' ledgers, from the run id alone; and what peers claim."""
    folders = [str(plan.state(number)) for number in range(plan.honest)]
    begun = time.monotonic()
    with opened(folders, run) as sources:
        found = run_audit(run, sources)
    audited = {
        "ok": found.ok,
        "statements": found.statements,
        "seconds": round(time.monotonic() - begun, 3),
        "findings": [str(finding) for finding in found.findings],
        "doubts": {peer: one.doubts for peer, one in found.peers.items() if one.doubts},
    }
    return audited, {peer: one.energy for peer, one in found.peers.items() if one.energy is not None}


def _bans(bans: Mapping[PeerID, Ban]) -> list[Event]:
    in_time = sorted(bans.items(), key=lambda item: (item[1].round, item[0]))
    return [ban.json(peer) for peer, ban in in_time]


def _tokens_by_peer(store: Store, manifest: Manifest) -> dict[str, int]:
    """Tokens whose gradients entered the model, from the agreed weights."""
    each = manifest.work.sequences_per_slice * (manifest.data.sequence_length - 1)
    tokens: dict[str, int] = {}
    for raw in store.decided():
        decided = Decided.parse(raw)
        if decided.body and not decided.recovery:
            record = Record.parse(decided.body)
            for peer, weight in zip(record.survivors, record.weights, strict=True):
                tokens[peer] = tokens.get(peer, 0) + weight * each
    return tokens


def heldout_loss(checkpoint: Path, manifest: Manifest, cache: Path) -> float:
    """Of an exported model, in nats a token; each record has that of the snapshot before its own."""
    dataset = load_dataset(manifest, path=manifest.data.file, cache=cache)
    torch.set_num_threads(os.cpu_count() or 1)
    model = build_model(Model(source=str(checkpoint)))
    layout = layout_of(model)
    snapshot = first_snapshot(layout, read_vector(model, layout), manifest.aggregation.initial_scale)
    trainer = Trainer(model, manifest.ring, manifest.aggregation.sanity_rms)
    return trainer.heldout_loss(snapshot, dataset.sample(manifest.work.sequences_per_slice))
