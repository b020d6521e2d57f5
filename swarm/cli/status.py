"""`swarm-status`: how a run stands, from what its peers say."""

import asyncio
import json as json_
import time
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from swarm.cli import common
from swarm.cli.common import DEFAULT_STATE_DIR, IdentityFile, Json, LogLevel, RunId, StateDir, Version

EXAMPLES = """
swarm-status --join /ip4/203.0.113.5/tcp/31337/p2p/12D3KooW... --run RUN_ID
swarm-status --join MULTIADDR --run RUN_ID --watch
swarm-status --join MULTIADDR --run RUN_ID --json
"""
WATCH_SECONDS = 2.0
AT_ONCE = 8


def status(
    join: Annotated[
        list[str], typer.Option("--join", metavar="MULTIADDR", help="An entry node. Repeatable.")
    ],
    run: RunId,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Show a run's roster, round, loss and throughput, and who is late or missing.

    Each peer's own word is shown as such; nothing here is signed. No key is used.
    """
    run_id = common.parse_run(run)
    common.start_log(state_dir, "swarm-status", log_level)

    from swarm.net.dht import start_dht

    common.quiet_hivemind()
    dht = start_dht(None, join)
    try:
        asyncio.run(_show(dht, run_id, watch, json))
    finally:
        with common.ending_at_once():
            dht.shutdown()


async def _show(dht: Any, run_id: bytes, watch: bool, as_json: bool) -> None:
    from rich.console import Console

    console = Console()
    while True:
        view = await _ask_all(dht, run_id)
        if as_json:
            print(json_.dumps(view), flush=True)
        else:
            if watch and console.is_terminal:
                console.clear()
            for line in _lines(view):
                print(line, flush=True)
        if not watch:
            return
        await asyncio.sleep(WATCH_SECONDS)


async def _ask_all(dht: Any, run_id: bytes) -> dict[str, Any]:
    """What every announced peer says. Raises NobodyThere."""
    from swarm.directory import NobodyThere
    from swarm.net.public import PublicClient
    from swarm.net.rpc import Refused, Unreachable

    records = await dht.lookup(run_id)
    if not records:
        raise NobodyThere(
            f"nobody has announced run {run_id.hex()} in this DHT: check the run id, and that --join names "
            "the entry node that the run's peers use"
        )
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(peer: str) -> dict[str, Any]:
        answer = {"peer_id": peer, "address": records[peer].public, "reachable": False}
        try:
            async with gate, PublicClient(records[peer]) as client:
                said = json_.loads(await client.status())
        except (Unreachable, Refused) as error:
            return {**answer, "error": str(error)}
        except ValueError:
            return {**answer, "error": "its status is no JSON"}
        if (
            not isinstance(said, dict)
            or said.get("run_id") != run_id.hex()
            or not isinstance(said.get("round"), int)
        ):
            return {**answer, "error": "its status is of another form or run"}
        return {**answer, "reachable": True, "status": said}

    peers = await asyncio.gather(*(ask(peer) for peer in sorted(records)))
    return {"run_id": run_id.hex(), "time": time.time(), "peers": peers}


def _lines(view: dict[str, Any]) -> list[str]:
    """The view for people, each line within 80 columns."""
    peers = view["peers"]
    told = [peer["status"] for peer in peers if peer["reachable"]]
    if not told:
        return [f"run {view['run_id']}", *(f"  {peer['peer_id']}  unreachable" for peer in peers)]
    lead = max(told, key=lambda said: said["round"])
    roster = {str(entry["peer_id"]): entry for entry in lead.get("roster", []) if isinstance(entry, dict)}
    announced = {peer["peer_id"] for peer in peers}
    missing = [{"peer_id": name, "missing": True} for name in sorted(roster) if name not in announced]
    lines = [f"run {view['run_id']}", _headline(lead), "", f"{'peer':52}  round  phase    seen"]
    for shard, held in _by_shard([*peers, *missing], roster):
        lines += [shard] if shard else []
        lines += [_line(peer, lead, roster) for peer in held]
    return lines


def _by_shard(
    peers: Iterable[dict[str, Any]], roster: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The peers of each shard under a title, where there are several; else all of them under none."""
    shards = {name: entry.get("shard", 0) for name, entry in roster.items()}
    if len(set(shards.values())) < 2 or not all(isinstance(shard, int) for shard in shards.values()):
        yield "", list(peers)
        return
    of = [(peer, shards.get(peer["peer_id"])) for peer in peers]
    for shard in sorted(set(shards.values())):
        yield f"shard {shard}", [peer for peer, its in of if its == shard]
    outside = [peer for peer, its in of if its is None]
    if outside:
        yield "no shard yet", outside


def _line(peer: dict[str, Any], lead: dict[str, Any], roster: dict[str, dict[str, Any]]) -> str:
    name = peer["peer_id"]
    if peer.get("missing") or not peer["reachable"]:
        return f"{name}      -  {'-':8} {'missing' if peer.get('missing') else 'unreachable'}"
    said = peer["status"]
    seen = _standing(said, lead, roster.get(name))
    return f"{name}  {said['round']:5d}  {_text(said, 'phase', 8):8} {seen}"


def _headline(said: dict[str, Any]) -> str:
    parts = [f"round {said['round']} of {_text(said, 'rounds', 8)}"]
    for key, label in (("loss", "loss"), ("heldout_loss", "held-out")):
        if isinstance(said.get(key), float):
            parts.append(f"{label} {said[key]:.3f}")
    tokens, seconds = said.get("tokens"), said.get("round_seconds")
    if isinstance(tokens, int) and isinstance(seconds, float) and seconds > 0:
        parts.append(f"{tokens / seconds:.0f} tokens/s")
    if said.get("ended"):
        parts.append("ended")
    elif said.get("paused"):
        parts.append("paused: fewer than a quorum answer")
    return ", ".join(parts)


def _standing(said: dict[str, Any], lead: dict[str, Any], entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "joining"
    missed = entry.get("missed")
    if missed:
        return f"missed {missed}"
    return "late" if said["round"] < lead["round"] - 1 else "ok"


def _text(said: dict[str, Any], key: str, most: int) -> str:
    """Another machine's text, cut and without escape codes."""
    return "".join(c if c.isprintable() else "?" for c in str(said.get(key, "?"))[:most])


main = common.main_of(status, "swarm-status", EXAMPLES)

if __name__ == "__main__":
    main()
