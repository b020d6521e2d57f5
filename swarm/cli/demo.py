"""`swarm-demo`: a swarm on one machine, from founding a run to a text that its model writes."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from swarm.cli import common
from swarm.cli.common import DEFAULT_STATE_DIR, IdentityFile, Json, LogLevel, StateDir, Version
from swarm.cli.demo_run import DEMO_ROUNDS, Plan, check_attack, check_shards, conduct, prepare_folder
from swarm.cli.view import View

EXAMPLES = """
swarm-demo
swarm-demo --peers 4 --join-late 1 --kill-every 20 --rounds 24
swarm-demo --attackers 1 --attack sign_flip
swarm-demo --shards 2 --peers 8
swarm-demo --manifest run.toml --out my-demo --json
"""


def demo(
    peers: Annotated[int, typer.Option(metavar="N", min=1, max=32, help="Peers that found the run.")] = 4,
    rounds: Annotated[
        int | None,
        typer.Option(metavar="R", min=1, help=f"Rounds. [the manifest's, or {DEMO_ROUNDS}]"),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything is written.")] = Path("demo-run"),
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A run of your own instead of the demo's.")
    ] = None,
    join_late: Annotated[
        int, typer.Option(metavar="N", min=0, max=31, help="Peers that join mid-run, besides.")
    ] = 0,
    kill_every: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=1.0, help="Kill a peer so often; it is started again."),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, max=32, help="Cut the model into K shards. [the manifest's, or 1]"),
    ] = None,
    attackers: Annotated[
        int, typer.Option(metavar="A", min=0, max=8, help="So many of the N peers attack.")
    ] = 0,
    attack: Annotated[
        str | None, typer.Option(metavar="NAME", help="How they attack, e.g. sign_flip; docs/attacks.md.")
    ] = None,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Train a small OPT on MMLU with a swarm of processes on this machine, and show what comes of it.

    With --attackers some of the peers lie in the way that --attack names, and get banned for it.
    With --shards each peer holds one part of the model, and chains of peers train it; cells of 4 peers or
    more add up under masks, smaller ones do not.
    DIR gets the loss curve (loss.png), summary.json, the model (checkpoint/) and a log of every process.
    The peers' keys and state are made anew in DIR; --state-dir and --identity are not used.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    plan = Plan(peers, rounds, out.resolve(), manifest, join_late, kill_every, attackers, attack, shards)
    check_shards(plan)
    check_attack(plan)
    prepare_folder(out)
    common.start_log(out, "swarm-demo", log_level, stderr=False)
    with View(json) as view:
        asyncio.run(conduct(plan, view))


main = common.main_of(demo, "swarm-demo", EXAMPLES)

if __name__ == "__main__":
    main()
