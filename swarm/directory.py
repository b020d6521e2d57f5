"""Who is where: the run's peers as the DHT shows them, and the certificates trusted on the members port.

A peer is known by its own signed record only. The roster says whom to trust; the directory gives the
trusted their addresses and keeps the last known ones while the DHT forgets.
"""

import logging
import random
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import swarm
from proto.canonical import PeerID
from proto.errors import MessageRefused, SwarmError
from swarm.net.dht import DhtFailed, SwarmDHT
from swarm.net.peer_record import PeerRecord, split_address
from swarm.net.public import PublicClient
from swarm.net.rpc import Refused, Unreachable, require_clock
from swarm.net.tls import TrustStore
from verify.identity import Identity, certificate_der
from verify.record import RecordRefused, WrongRun, run_id
from verify.statement import open_signed, sign

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 60.0
FIND_SECONDS = 60.0
MOST_KNOWN = 1_024
"""Records kept of peers outside the roster: identities are free, memory is not."""


class NobodyThere(SwarmError):
    """No peer of the run could be found."""


@dataclass(frozen=True)
class Addresses:
    """Where a peer listens and what it tells others, each HOST:PORT; the members port is the next one up.

    Port 0 takes any free ports. Without `announce` the listening host is announced.
    """

    listen: str = "127.0.0.1:0"
    announce: str | None = None


class Directory:
    """The peers of one run."""

    def __init__(
        self, dht: SwarmDHT, identity: Identity, run: bytes, trust: TrustStore, addresses: Addresses
    ) -> None:
        self.trust = trust
        self._dht, self._identity, self._run, self._addresses = dht, identity, run, addresses
        self._known: dict[PeerID, PeerRecord] = {}
        self._roster: tuple[PeerID, ...] = ()
        self._banned: frozenset[PeerID] = frozenset()
        self._own: tuple[str, str] | None = None
        self._published = 0.0

    @property
    def public_listen(self) -> str:
        """Where the public port listens."""
        return self._addresses.listen

    @property
    def members_listen(self) -> str:
        """Where the members port listens."""
        return _next_port(self._addresses.listen)

    async def announce(self, public: int, members: int) -> None:
        """Make this peer's ports known."""
        host = _host(self._addresses.listen)
        told = self._addresses.announce
        self._own = (told, _next_port(told)) if told else (f"{host}:{public}", f"{host}:{members}")
        await self._publish()

    async def refresh(self) -> None:
        """Ask the DHT who is there, and say again that we are."""
        try:
            if self._own is not None and time.monotonic() - self._published > PUBLISH_SECONDS:
                await self._publish()
            for peer, record in (await self._dht.lookup(self._run)).items():
                held = self._known.get(peer)
                room = len(self._known) < MOST_KNOWN or peer in self._roster
                newer = held.sequence < record.sequence if held is not None else room
                if newer and peer not in self._banned:
                    self._known[peer] = record
        except DhtFailed as error:
            log.warning("%s", error)

    def known(self) -> dict[PeerID, PeerRecord]:
        """The records of all peers seen so far."""
        return dict(self._known)

    def follow(self, roster: Iterable[PeerID], banned: Collection[PeerID] = ()) -> None:
        """Trust exactly the roster on the members port; know the banned no more."""
        self._roster, self._banned = tuple(roster), frozenset(banned)
        for peer in self._banned & self._known.keys():
            del self._known[peer]
        self.trust.set({peer: self._known[peer] for peer in self._roster if peer in self._known})

    async def fetch_genesis(self) -> bytes:
        """The run's signed genesis from any peer, checked against its name; and the clocks compared.

        Raises NobodyThere, WrongRun, ClockSkew.
        """
        end = time.monotonic() + FIND_SECONDS
        wrong: WrongRun | None = None
        while time.monotonic() < end:
            await self.refresh()
            records = [record for peer, record in self._known.items() if peer != self._identity.peer_id]
            random.shuffle(records)
            for record in records:
                try:
                    async with PublicClient(record) as client:
                        require_clock(await client.clock_offset())
                        genesis, _ = await client.genesis()
                        if run_id(genesis) == self._run:
                            return genesis
                        wrong = WrongRun(f"{record.public} serves another run than {self._run.hex()}")
                except (Unreachable, Refused, MessageRefused, RecordRefused) as error:
                    log.info("asking for genesis: %s", error)
        if wrong is not None:
            raise wrong
        raise NobodyThere(
            f"no peer of run {self._run.hex()} answered within {FIND_SECONDS:.0f} s: check the run id, "
            "and that at least one of its peers is up and reachable from here"
        )

    async def _publish(self) -> None:
        assert self._own is not None
        record = PeerRecord(
            run_id=self._run,
            public=self._own[0],
            members=self._own[1],
            certificate=certificate_der(self.trust.own.certificate_pem),
            sequence=int(time.time() * 1000),
            agent=f"edgeswarm/{swarm.__version__}",
        )
        raw = sign(self._identity, record)
        self._known[self._identity.peer_id] = record
        if await self._dht.publish(open_signed(raw, PeerRecord)):
            self._published = time.monotonic()


def _host(address: str) -> str:
    return address.rsplit(":", 1)[0]


def _next_port(address: str) -> str:
    _, port = split_address(address)
    return f"{_host(address)}:{port + 1 if port else 0}"
