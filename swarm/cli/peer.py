"""`swarm-peer`: founds a run or joins one, and takes part until it ends."""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from proto.errors import SwarmError
from swarm.cli import common
from swarm.cli.common import DEFAULT_STATE_DIR, BadArgument, IdentityFile, Json, LogLevel, StateDir, Version
from swarm.cli.view import View
from swarm.energy.choose import choose, stated
from swarm.energy.grid import Embodied, grid_of
from swarm.manifest import load_manifest
from swarm.store import Store, known_runs
from verify.identity import Identity

EXAMPLES = """
swarm-peer --new run.toml
swarm-peer --new run.toml --join /ip4/203.0.113.5/tcp/31337/p2p/12D3KooW...
swarm-peer --join /ip4/203.0.113.5/tcp/31337/p2p/12D3KooW... --run RUN_ID
swarm-peer --join MULTIADDR --run RUN_ID --data my-text.jsonl --device cuda --memory 8GiB
swarm-peer --run RUN_ID     (again, after a restart: entry nodes and run are known)
"""


class RunNotHere(SwarmError):
    """The run is not known here, and no entry node was given."""


def peer(
    new: Annotated[
        Path | None, typer.Option("--new", metavar="FILE", help="Found the run that this manifest describes.")
    ] = None,
    join: Annotated[
        list[str] | None,
        typer.Option("--join", metavar="MULTIADDR", help="An entry node, or any peer. Repeatable."),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN_ID", help="The run to join: 64 hexadecimal digits.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="Your text: a .txt, .jsonl or .parquet file."),
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Threads to compute with. [as many as the machine has]"),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Listen on PORT (public), PORT+1 (members) and PORT+2 (libp2p). "
            "[free ports of the address that leads to the entry node]",
        ),
    ] = None,
    announce: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The address that others reach, e.g. your router's."),
    ] = None,
    invitation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A steward's invitation, for a run that admits by invitation."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Refuse a run, or a shard, that needs more, e.g. 4GiB."),
    ] = None,
    archive: Annotated[
        bool, typer.Option("--archive", help="Keep every snapshot, so that any round can be replayed.")
    ] = False,
    watts_idle: Annotated[
        float | None, typer.Option(metavar="W", min=0, help="What this machine takes when it is idle.")
    ] = None,
    watts_busy: Annotated[
        float | None, typer.Option(metavar="W", min=0, help="What it takes with every processor busy.")
    ] = None,
    shared_machine: Annotated[
        bool, typer.Option("--shared-machine", help="Count this peer's part of the machine, by CPU time.")
    ] = False,
    grid: Annotated[
        str | None,
        typer.Option(metavar="COUNTRY", help="Whose electricity: DEU, France, or grams of CO2e a kWh."),
    ] = None,
    device_kg: Annotated[
        float | None, typer.Option(metavar="KG", min=0, help="CO2e of making this machine.")
    ] = None,
    device_years: Annotated[float, typer.Option(metavar="YEARS", min=0.1, help="How long it is used.")] = 4.0,
    json: Json = False,
    log_level: LogLevel = "info",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    identity: IdentityFile = None,
    version: Version = False,
) -> None:
    """Found a run (--new) or join one (--run), and train until it ends.

    A peer keeps its place after a restart. Ctrl-C says goodbye to the others and leaves; a second one
    leaves at once.
    """
    if (new is None) == (run is None):
        raise BadArgument("give either --new FILE to found a run, or --run RUN_ID to join one; see --help")
    asked = None if run is None else common.parse_run(run)
    most_memory = None if memory is None else common.parse_size(memory)
    common.memory_of(most_memory)
    common.start_log(state_dir, "swarm-peer", log_level, stderr=json or not sys.stdout.isatty())
    invited = None if invitation is None else _read_invitation(invitation)
    electricity = None if grid is None else grid_of(grid)
    watts = stated(watts_idle, watts_busy)
    making = None if device_kg is None else Embodied(device_kg, device_years, "stated by the user")
    key_file = identity or state_dir / "identity.key"
    key = Identity.load_or_create(key_file)
    # Before torch and hivemind are imported, which takes seconds: what can be refused at once.
    if new is not None:
        load_manifest(new)
    elif asked is not None and not join and not _is_known(state_dir, asked):
        raise RunNotHere(
            f"run {asked.hex()} is not known in {state_dir}: pass --join MULTIADDR with the address of an "
            "entry node or of any peer, or --state-dir DIR if this peer was started with one"
        )

    from swarm.cli.taking_part import Choice, found_run, take_part

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold a session's secrets
    with View(json) as view:
        view.show({"event": "identity", "peer_id": key.peer_id, "key_file": str(key_file)})
        if new is not None:
            asked = found_run(new, key, state_dir, data, view)
        assert asked is not None
        chosen = choose(device, watts=watts, shared=shared_machine)
        view.show({"event": "meters", "why": list(chosen.why)})
        choice = Choice(
            run=asked,
            founded=new is not None,
            joins=tuple(join or ()),
            listen=listen,
            announce=announce,
            data=data,
            device=device,
            threads=threads or os.cpu_count() or 1,
            memory=most_memory,
            invitation=invited,
            archive=archive,
            meters=chosen.meters,
            grid=electricity,
            embodied=making,
            state_dir=state_dir,
            key_file=key_file,
        )
        stopped_by = take_part(choice, key, view)
    if stopped_by == signal.SIGINT:
        raise typer.Exit(130)


def _read_invitation(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadArgument(
            f"--invitation {path} cannot be read ({error.strerror}): name the file that a steward's "
            "`swarm-steward invite` wrote"
        ) from None


def _is_known(state_dir: Path, run: bytes) -> bool:
    if run.hex() not in known_runs(state_dir):
        return False
    store = Store(state_dir, run)
    try:
        return store.genesis() is not None
    finally:
        store.close()


main = common.main_of(peer, "swarm-peer", EXAMPLES)

if __name__ == "__main__":
    main()
