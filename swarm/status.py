"""What a peer says of its run to anyone who asks: plain values for JSON."""

from collections.abc import Collection
from typing import Any

from proto.canonical import PeerID
from swarm.manifest import Manifest
from swarm.round import Participant
from verify.record import MICRO


def status_of(machine: Participant, manifest: Manifest, announced: Collection[PeerID]) -> dict[str, Any]:
    """A peer's view of the run. `announced`: peers that the directory knows."""
    history = machine.history
    last = history.last
    used = {
        peer: {"joules": None if spent is None else spent / 1000, "energy_kind": kind}
        for peer, kind, spent, _ in (() if last is None else last.energy)
    }
    several = bool(history.shards)
    return {
        "run_id": history.run.hex(),
        "name": manifest.run.name,
        "peer_id": machine.me,
        "round": history.round,
        "rounds": manifest.run.rounds,
        "attempt": machine.attempt,
        "ended": machine.ended,
        "loss": None if last is None else last.loss / MICRO,
        "heldout_loss": None if last is None else last.heldout / MICRO,
        "tokens": 0 if last is None else last.tokens,
        "snapshot": history.snapshot.hex(),
        "shards": len(history.cells),
        "roster": [
            {
                "peer_id": peer,
                "missed": standing.missed,
                "announced": peer in announced,
                **({"shard": standing.shard} if several else {}),
                **used.get(peer, {}),
            }
            for peer, standing in sorted(history.roster.items())
        ],
        "bans": [ban.json(peer) for peer, ban in history.conduct.bans.items()],
        "refused": machine.refused,
    }
