"""A peer's network side for tests: identity, certificate, members port and an inbox that keeps what comes."""

import asyncio
import time
from dataclasses import dataclass, field

from proto.canonical import PeerID
from proto.errors import MessageRefused
from swarm.net.members import MembersClient, MembersServer
from swarm.net.peer_record import PeerRecord
from swarm.net.streams import Streams
from swarm.net.tls import TrustStore
from verify.identity import Identity, TlsCertificate, certificate_der, make_certificate

RUN_ID = bytes(range(32))


@dataclass
class KeepingInbox:
    size: int = 0
    told: list[tuple[PeerID, bytes]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    filled: list[tuple[PeerID, bytes, bytes]] = field(default_factory=list)
    frames: list[tuple[PeerID, bytes, bytes]] = field(default_factory=list)
    takes_frames: asyncio.Event = field(default_factory=asyncio.Event)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.takes_frames.set()

    async def on_tell(self, sender: PeerID, raw: bytes) -> None:
        if raw == b"nonsense":
            raise MessageRefused("that is nonsense")
        self.told.append((sender, raw))

    async def expect(self, sender: PeerID, header: bytes) -> memoryview:
        self.asked.set()
        if header == b"unasked":
            raise MessageRefused("nobody asked for this")
        return memoryview(bytearray(self.size))

    async def on_transfer(self, sender: PeerID, header: bytes, data: memoryview) -> None:
        self.filled.append((sender, header, bytes(data)))

    async def on_frame(self, sender: PeerID, header: bytes, tensor: bytes) -> None:
        if header == b"nonsense":
            raise MessageRefused("that is nonsense")
        async with self.came:
            self.frames.append((sender, header, tensor))
            self.came.notify_all()
        await self.takes_frames.wait()

    async def frames_from(self, sender: PeerID, last: bytes) -> list[bytes]:
        """The headers that came from a peer, once `last` is there."""

        def headers() -> list[bytes]:
            return [header for who, header, _ in self.frames if who == sender]

        async with self.came:
            await self.came.wait_for(lambda: last in headers())
        return headers()


class NetPeer:
    """`async with NetPeer() as a:` runs a members port on loopback; `trust` fills the roster."""

    def __init__(
        self, size: int = 0, certificate: TlsCertificate | None = None, slab_seconds: float = 30.0
    ) -> None:
        self.identity = Identity.generate()
        self.peer_id = self.identity.peer_id
        self.store = TrustStore(certificate or make_certificate(self.identity))
        self.inbox = KeepingInbox(size)
        self.streams = Streams(self.store, self.inbox, slab_seconds)
        self.server = MembersServer(self.store, self.inbox, slab_seconds, self.streams)
        self.client = MembersClient(self.store, self.streams)
        self.port = 0

    async def __aenter__(self) -> "NetPeer":
        self.port = await self.server.start("127.0.0.1:0")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.server.stop()

    @property
    def record(self) -> PeerRecord:
        return peer_record(certificate_der(self.store.own.certificate_pem), self.port)

    def trust(self, *peers: "NetPeer") -> None:
        self.store.set({peer.peer_id: peer.record for peer in peers})


def peer_record(certificate: bytes, port: int = 4000, run_id: bytes = RUN_ID) -> PeerRecord:
    address = f"127.0.0.1:{port}"
    return PeerRecord(
        run_id=run_id,
        public=address,
        members=address,
        certificate=certificate,
        sequence=time.time_ns() // 1_000_000,
        agent="test",
    )
