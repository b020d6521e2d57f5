"""A peer's process from its first fork to its last word.

The order matters: torch with one thread for founding, then the DHT's process, then the matchmaker's,
and only then gRPC and the event loop, which must not be alive at a fork. The store is opened after the
forks: a child that held its lock would keep a restarted peer out.
"""

import asyncio
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import uvloop

from proto.canonical import PeerID
from proto.errors import SwarmError
from swarm.cli import addresses, common
from swarm.cli.needs import check_needs, needs_of
from swarm.cli.view import View
from swarm.directory import Directory
from swarm.energy.grid import Embodied, Grid
from swarm.energy.reading import Meter
from swarm.genesis import found, read_genesis
from swarm.manifest import Manifest
from swarm.net.dht import BootstrapUnreachable, SwarmDHT, start_dht
from swarm.net.matchmaking import Matchmaker
from swarm.net.tls import TrustStore, load_or_make_certificate
from swarm.peer import Peer
from swarm.settings import Settings
from swarm.shards.needs import choose_shard
from swarm.store import Store
from verify.identity import Identity

log = logging.getLogger(__name__)

OWN_DATA = {
    "secure": "What leaves this machine: your text stays here. Your updates, computed from it, leave under "
    "masks that cancel in the sum over your cell: its members see the sum. Everybody can see your losses, "
    "how many sequences you have, and a commitment to them.",
    "plain": "What leaves this machine: your text stays here. Your updates, computed from it, go to the "
    "peers of your cell, who can see them. Everybody can see your losses, how many sequences you have, and a "
    "commitment to them.",
}


class DeviceMissing(SwarmError):
    """The device to compute on is not there."""


@dataclass(frozen=True)
class Choice:
    """What the user chose. `memory` in bytes."""

    run: bytes
    founded: bool
    joins: tuple[str, ...]
    listen: str | None
    announce: str | None
    data: Path | None
    device: str
    threads: int
    memory: int | None
    invitation: bytes | None
    archive: bool
    meters: tuple[Meter, ...]
    grid: Grid | None
    embodied: Embodied | None
    state_dir: Path
    key_file: Path


def found_run(manifest: Path, identity: Identity, state_dir: Path, data: Path | None, view: View) -> bytes:
    """Found a run and leave it on disk; its name. Raises what swarm.genesis.found does."""

    def tell(text: str) -> None:
        view.show({"event": "notice", "text": text})

    founded = found(manifest, identity, state_dir, data, tell)
    founded.store.close()
    view.show({"event": "founded", "run_id": founded.run.hex()})
    return founded.run


def take_part(choice: Choice, identity: Identity, view: View) -> int:
    """Take part until the run ends, or a signal comes: its number, or 0."""
    store = Store(choice.state_dir, choice.run)
    remembered = store.remembered()
    store.close()
    planned = addresses.plan(choice.listen, choice.announce, choice.joins or remembered)
    common.quiet_hivemind()
    dht = _enter(choice, addresses.libp2p(planned), remembered)
    try:
        matchmaker = Matchmaker(dht, choice.run)
        try:
            certificate = load_or_make_certificate(choice.state_dir, identity)
            directory = Directory(dht, identity, choice.run, TrustStore(certificate), planned)
            number: int = uvloop.run(_take_part(choice, identity, dht, directory, matchmaker, view))
            return number
        finally:
            with common.ending_at_once():
                matchmaker.shutdown()
    finally:
        with common.ending_at_once():
            dht.shutdown()


def _enter(choice: Choice, own: tuple[list[str], list[str]], remembered: list[str]) -> SwarmDHT:
    """Enter by every address that is given or remembered; a peer given none may also begin alone."""
    joins = list(dict.fromkeys([*choice.joins, *remembered]))
    try:
        return start_dht(choice.key_file, joins, *own)
    except BootstrapUnreachable as error:
        if choice.joins:
            raise
        log.warning("%s\nwaiting as an entry node myself; pass --join MULTIADDR if the others moved", error)
        return start_dht(choice.key_file, [], *own)


async def _take_part(
    choice: Choice,
    identity: Identity,
    dht: SwarmDHT,
    directory: Directory,
    matchmaker: Matchmaker,
    view: View,
) -> int:
    stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def on_signal(number: int) -> None:
        if stopped.done():
            os._exit(128 + number)  # the children notice, and end as well
        stopped.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)

    store = Store(choice.state_dir, choice.run)
    try:
        learning = asyncio.create_task(_learn(choice, identity.peer_id, store, directory, view))
        if not await _done_before(learning, stopped):
            return await _give_up(learning, stopped)
        manifest = learning.result()
        store.remember(choice.joins)
        _tell_entry(choice, dht, view)
        view.begin(manifest.run.rounds)
        settings = Settings(
            choice.data,
            choice.state_dir / "cache",
            choice.device,
            choice.threads,
            choice.invitation,
            choice.archive,
            choice.meters,
            choice.grid,
            choice.embodied,
            common.memory_of(choice.memory),
        )
        peer = Peer(identity, store, choice.run, directory, matchmaker, settings, view.show)
        running = asyncio.create_task(peer.run())
        remembering = asyncio.create_task(_remember_neighbours(store, dht))
        done = await _done_before(running, stopped)
        remembering.cancel()
        if done:
            running.result()
            return 0
        view.say("saying goodbye, and ending what others count on; Ctrl-C again leaves at once")
        await peer.say_goodbye()
        return await _give_up(running, stopped)
    finally:
        store.close()


async def _done_before(task: asyncio.Task[Any], stopped: asyncio.Future[int]) -> bool:
    first: set[asyncio.Future[Any]] = {task, stopped}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    return task.done()


async def _give_up(task: asyncio.Task[Any], stopped: asyncio.Future[int]) -> int:
    task.cancel()
    await asyncio.wait({task})
    return stopped.result()


async def _learn(choice: Choice, me: PeerID, store: Store, directory: Directory, view: View) -> Manifest:
    """The run's manifest, from disk or from a peer, once this machine is known to be enough for it."""
    genesis = store.genesis()
    if genesis is None:
        view.show({"event": "notice", "text": "looking for the run's peers"})
        genesis = await directory.fetch_genesis()
        store.save_genesis(genesis)
    _, manifest = read_genesis(genesis, choice.run)
    if choice.device == "cuda" and not torch.cuda.is_available():
        raise DeviceMissing(
            "--device cuda: torch finds no usable NVIDIA GPU; check `nvidia-smi`, or use --device cpu"
        )
    shard = await asyncio.to_thread(_shard, choice, me, store, manifest)
    needs = await asyncio.to_thread(needs_of, manifest, choice.archive, shard)
    view.show({"event": "notice", "text": str(needs)})
    check_needs(needs, store.snapshots, choice.memory)
    if manifest.data.mode == "own":
        view.show({"event": "notice", "text": OWN_DATA[manifest.aggregation.mode]})
    return manifest


def _shard(choice: Choice, me: PeerID, store: Store, manifest: Manifest) -> int:
    """The shard that this peer holds, or would take as things stand. Raises FitsNowhere."""
    if manifest.model.shards == 1:
        return 0
    history, _ = store.history(choice.run)
    if me in history.roster:
        return history.shard_of(me)
    return choose_shard(history, manifest, common.memory_of(choice.memory))


def _tell_entry(choice: Choice, dht: SwarmDHT, view: View) -> None:
    """A founder says how others come in."""
    entries = list(choice.joins) or dht.multiaddresses()
    view.show({"event": "entry", "run_id": choice.run.hex(), "multiaddrs": entries})
    if choice.founded:
        view.say("others join with one of:")
        for entry in entries:
            view.say(f"swarm-peer --join {entry} --run {choice.run.hex()}")
        view.say(f"after a restart: swarm-peer --run {choice.run.hex()}")


async def _remember_neighbours(store: Store, dht: SwarmDHT) -> None:
    while True:
        await asyncio.sleep(60.0)
        store.remember(await dht.neighbours())
