"""The DHT: how peers of a run find each other, and what a node agrees to keep for others.

A record under a run's key is a signed `PeerRecord` whose subkey is its signer; matchmaking's own
records are a PeerID and a flag. `RunValidator` lets nothing else pass, on what others ask us to store as
on what they answer, and needs no configuration: a bootstrap node guards runs it has never heard of. The
DHT lives in a child process, started before gRPC; the child and its libp2p daemon end with this process,
however it ends, and keep their sockets in a folder that goes with them.
"""

import asyncio
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError as FutureCancelled
from pathlib import Path
from typing import Any

from hivemind.dht import DHT
from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, P2PDaemonError
from hivemind.utils import MSGPackSerializer, get_dht_time

from proto.canonical import PeerID
from proto.errors import MessageRefused, SwarmError
from swarm.net.peer_record import MAX_PEER_RECORD, PeerRecord, open_peer_record
from swarm.net.rpc import ClockSkew, PortTaken, Unreachable
from verify.identity import public_key_bytes
from verify.statement import Signed

RECORD_SECONDS = 300.0
"""How long a published record lives: publish again well before."""
MOST_SECONDS_AHEAD = 600.0
MOST_KEYS = 100_000
_ANSWER_SECONDS = 20.0
_PEER_ID_BYTES = bytes.fromhex("002408011220")  # what the 38 bytes of every Ed25519 PeerID begin with


class BadMultiaddress(SwarmError):
    """An address that is not a multiaddress of a node."""


class BootstrapUnreachable(Unreachable):
    """None of the given entry nodes let us in."""


class DhtFailed(SwarmError):
    """The DHT's process did not start, does not answer, or is gone."""


def peers_key(run_id: bytes) -> str:
    """The DHT key under which a run's peer records lie."""
    return f"edgeswarm.peers.{run_id.hex()}"


class RunValidator(RecordValidatorBase):  # type: ignore[misc]
    """Accepts signed peer records and matchmaking's flags, and nothing else.

    hivemind hands over the hash of the key, so the key is found again from the record's own `run_id`.
    """

    def validate(self, record: DHTRecord) -> bool:
        """Whether to keep, or to believe, a record. hivemind calls this for both."""
        ahead = record.expiration_time - get_dht_time()
        if not math.isfinite(ahead) or ahead > MOST_SECONDS_AHEAD:
            return False
        if len(record.subkey) > 64 or len(record.value) > MAX_PEER_RECORD + 8:
            return False
        try:
            subkey, value = MSGPackSerializer.loads(record.subkey), MSGPackSerializer.loads(record.value)
        except (ValueError, TypeError, RecursionError):
            return False
        match subkey, value:
            case bytes(), bool():
                return len(subkey) == 38 and subkey.startswith(_PEER_ID_BYTES)
            case str(), bytes():
                try:
                    signed = open_peer_record(value)
                except MessageRefused:
                    return False
                key = DHTID.generate(source=peers_key(signed.message.run_id)).to_bytes()
                return bool(signed.signer == subkey and key == record.key)
        return False

    def merge_with(self, other: RecordValidatorBase) -> bool:
        """One of these is enough."""
        return isinstance(other, RunValidator)


class SwarmDHT(DHT):  # type: ignore[misc]
    """hivemind's DHT, whose process never outlives ours. Made by `start_dht`."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        # hivemind would keep its sockets in the shared folder itself, for good after a kill.
        self.sockets = Path(tempfile.mkdtemp(prefix=f"hivemind-{os.getpid()}-", dir="/tmp"))

    def run(self) -> None:
        """In the child: serve until shut down, or until the parent is gone."""
        self.live_with_parent()
        super().run()

    def live_with_parent(self) -> None:
        """In a child process that uses this DHT: keep sockets in its folder, and end when the parent ends."""
        P2P._UNIX_SOCKET_PREFIX = f"/unix{self.sockets}/"
        threading.Thread(target=self._watch_parent, name="watch-parent", daemon=True).start()

    def _watch_parent(self) -> None:
        while os.getppid() == self._parent_pid:
            time.sleep(0.5)
        remove_folder(self.sockets)
        os.kill(os.getpid(), signal.SIGKILL)

    async def publish(self, signed: Signed[PeerRecord]) -> bool:
        """Make our record known for RECORD_SECONDS. False if no node took it. Raises DhtFailed."""
        key, expiration = peers_key(signed.message.run_id), get_dht_time() + RECORD_SECONDS
        stored = await self._answer(
            lambda: self.store(key, signed.raw, expiration, subkey=signed.signer, return_future=True)
        )
        return bool(stored)

    async def lookup(self, run_id: bytes) -> dict[PeerID, PeerRecord]:
        """The peers of a run that announced themselves, ourselves included. Raises DhtFailed."""
        found = await self._answer(lambda: self.get(peers_key(run_id), latest=True, return_future=True))
        records: dict[PeerID, PeerRecord] = {}
        if found is None or not isinstance(found.value, dict):
            return records
        for subkey, item in found.value.items():
            try:
                signed = open_peer_record(item.value)
            except (MessageRefused, TypeError, AttributeError):
                continue  # our own node let it in before a check; the network's word is never taken
            if signed.signer == subkey and signed.message.run_id == run_id:
                records[signed.signer] = signed.message
        return records

    def multiaddresses(self) -> list[str]:
        """What others can `--join`. Raises DhtFailed."""
        if not self.is_alive():
            raise DhtFailed("the DHT process is gone: restart the peer")
        return [str(address) for address in self.get_visible_maddrs()]

    async def neighbours(self) -> list[str]:
        """Multiaddresses of the nodes we are connected to, to enter by another time. Raises DhtFailed."""
        found: list[str] = await self._answer(lambda: self.run_coroutine(_connected, return_future=True))
        return found

    def shutdown(self) -> None:
        """End the process and its daemon, and remove their sockets."""
        super().shutdown()
        if self.is_alive():
            self.kill()
        self.join()
        remove_folder(self.sockets)

    async def _answer(self, ask: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await ask()
        except (OSError, TimeoutError, FutureCancelled) as error:
            gone = "is gone" if not self.is_alive() else "does not answer"
            raise DhtFailed(f"the DHT process {gone} ({error!r}): restart the peer") from None


def start_dht(
    identity_path: Path | None,
    initial_peers: Iterable[str],
    host_maddrs: Iterable[str] = ("/ip4/127.0.0.1/tcp/0",),
    announce_maddrs: Iterable[str] = (),
    startup_timeout: float = 60.0,
) -> SwarmDHT:
    """Start a DHT node in a child process and enter the DHT of `initial_peers` (none: begin one).

    Without an identity it is a reader: it asks, serves nobody and is forgotten. Blocks until it is ready.
    Raises BadMultiaddress, BootstrapUnreachable, PortTaken, ClockSkew or DhtFailed.
    """
    joins, hosts, announced = list(initial_peers), list(host_maddrs), list(announce_maddrs)
    for address in joins:
        _endpoint(address)
    if identity_path is not None and not identity_path.is_file():
        raise DhtFailed(f"there is no key file at {identity_path}")
    dht = SwarmDHT(
        joins or None,
        start=False,
        record_validators=[RunValidator()],
        host_maddrs=hosts,
        announce_maddrs=announced or None,
        identity_path=None if identity_path is None else str(identity_path),
        client_mode=identity_path is None,
        no_listen=identity_path is None,
        check_if_identity_free=False,  # that check reads RSA keys only
        nat_port_map=False,  # the gRPC ports are opened by hand as well
        startup_timeout=startup_timeout,
    )
    dht.start()
    try:
        dht.wait_until_ready(startup_timeout)
        dht.run_coroutine(_bound_storage)
    except Exception as error:  # noqa: BLE001 - whatever hivemind raised in the child, renamed below
        dht.kill()
        dht.join()
        remove_folder(dht.sockets)
        raise _named(error, joins, hosts) from None
    return dht


async def _bound_storage(_dht: DHT, node: DHTNode) -> None:
    node.protocol.storage.maxsize = node.protocol.cache.maxsize = MOST_KEYS


async def _connected(_dht: DHT, node: DHTNode) -> list[str]:
    peers = await node.p2p.list_peers()
    return [f"{address}/p2p/{peer.peer_id.to_base58()}" for peer in peers for address in peer.addrs]


def remove_folder(folder: Path) -> None:
    """Remove the folder of our libp2p sockets, also while another of our processes does or adds one."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def _endpoint(address: str) -> tuple[str, int]:
    """Host and port of a node's multiaddress. Raises BadMultiaddress."""
    match address.split("/"):
        case ["", "ip4" | "ip6" | "dns" | "dns4" | "dns6", host, "tcp" | "udp", port, *_, "p2p", peer] if (
            host and peer and port.isdecimal() and int(port) < 65536
        ):
            if peer.startswith("12D3KooW"):
                try:
                    public_key_bytes(peer)
                except MessageRefused:
                    raise BadMultiaddress(f"{address}: {peer} is not a PeerID; was it cut short?") from None
            return host, int(port)
    raise BadMultiaddress(
        f"{address!r} is no node's address: it looks like /ip4/203.0.113.5/tcp/31337/p2p/12D3KooW..., "
        "as swarm-bootstrap prints it"
    )


def _named(error: Exception, joins: list[str], hosts: list[str]) -> SwarmError:
    text = str(error)
    detail = text.split("Daemon failed to start: ")[-1]
    if isinstance(error, P2PDaemonError) and "address already in use" in text:
        return PortTaken(f"cannot listen on {', '.join(hosts)}: another process has the port; choose another")
    if isinstance(error, P2PDaemonError) and ("parse multiaddr" in text or "invalid p2p multiaddr" in text):
        return BadMultiaddress(f"{detail}; an address to listen on looks like /ip4/0.0.0.0/tcp/31337")
    if "bootstrap" in text:
        return BootstrapUnreachable(
            "no entry node let us in:" + "".join(f"\n  {_diagnosis(a)}" for a in joins)
        )
    if "local time must be within" in text:
        return ClockSkew(f"{text}; set your clock: `sudo timedatectl set-ntp true`, or the system's settings")
    if "can't access this node" in text:
        return Unreachable(
            f"the entry nodes cannot reach this node back ({', '.join(hosts)}): open its port in the "
            "firewall, or announce an address that reaches it"
        )
    return DhtFailed(f"the DHT did not start ({type(error).__name__}: {detail or 'no answer in time'})")


def _diagnosis(address: str) -> str:
    """Why an entry node may have failed us, from a plain TCP connection."""
    host, port = _endpoint(address)
    if "/udp/" in address:
        return f"{address}: no answer; is the node up, and its UDP port open?"
    try:
        socket.create_connection((host, port), timeout=3.0).close()
    except socket.gaierror:
        return f"{address}: the name {host} cannot be resolved; check its spelling and your network"
    except ConnectionRefusedError:
        return f"{address}: nothing listens on port {port}; is the node up, and is the port right?"
    except OSError as error:
        hint = (
            "has this machine IPv6? try the node's ip4 address" if "/ip6/" in address else "is its port open?"
        )
        return f"{address}: no connection ({error}); is the node gone? {hint}"
    return f"{address}: something listens there, but not this PeerID; ask for the node's current address"
