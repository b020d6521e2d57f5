"""A cell of member processes that run real aggregation sessions over the real members port.

What a peer has besides (training, meeting, agreement, disk) is left out; sessions, statements, TLS and
gRPC are the peer's own. A round goes from the encoded update at every member to the decoded mean,
float32, at every member, and is as slow as its slowest member.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import uvloop
from blake3 import blake3

from benchmarks.processes import Group, cpu_seconds
from proto.canonical import PeerID
from secagg.messages import Advert, Delivered, FinalSet, Part, PartSum, SetVote, SurvivorSet, seed_commitment
from secagg.ring import BLOCK, CHUNK, Ring, decode_mean
from secagg.session import Completed, Effect, Failed, NotYet, SendPart, SendSum, Session, Tell, Terms, Wait
from swarm.net.members import MembersClient, MembersServer
from swarm.net.peer_record import PeerRecord
from swarm.net.tls import TrustStore
from verify.identity import Identity, certificate_der, make_certificate
from verify.record import quorum
from verify.statement import domain_of, open_signed, sign

RUN = bytes(32)
SLICES = 4
STRIDE = 16 * BLOCK
KINDS = {kind.DOMAIN: kind for kind in (Delivered, SurvivorSet, SetVote, FinalSet)}


def ring_of(members: int) -> Ring:
    """The 16-bit ring of a manifest whose largest cell has so many members."""
    return Ring.for_cell(16, members, SLICES)


def update_of(index: int, size: int, ring: Ring) -> np.ndarray:
    """Member `index`'s update: integers [size] such as `SLICES` slices give."""
    most = SLICES * ring.levels
    return np.random.default_rng(index).integers(-most, most + 1, size, dtype=ring.dtype)


@dataclass(frozen=True)
class Timed:
    """One member's round: start and end on the machine's monotonic clock, and the mean's BLAKE3."""

    start: float
    end: float
    digest: bytes


class Cell:
    """`with Cell(n, elements) as cell:` and then `cell.round()`, as often as wanted."""

    def __init__(self, members: int, size: int) -> None:
        self.members, self.size = members, -(-size // BLOCK) * BLOCK
        self.cpu = 0.0
        """Processor seconds of the last round, all members."""
        self._round = 0
        self._expected = self.expected()
        self._group = Group(serve, members, members, self.size)
        records = dict(self._group.told())
        self._group.ask(records)

    def __enter__(self) -> "Cell":
        return self

    def __exit__(self, *_: object) -> None:
        self._group.__exit__()

    @property
    def pids(self) -> list[int]:
        """The members' process ids."""
        return self._group.pids

    def round(self) -> float:
        """Wall seconds of one whole round. Raises RuntimeError if the members' means differ."""
        self._round += 1
        adverts = dict(self._group.ask(("advert", self._round)))
        before = cpu_seconds(self.pids)
        timed: list[Timed] = self._group.ask(("round", adverts))
        self.cpu = cpu_seconds(self.pids) - before
        if {one.digest for one in timed} != {self._expected}:
            raise RuntimeError("a member's mean is not that of the exact sum")
        return max(one.end for one in timed) - min(one.start for one in timed)

    def expected(self) -> bytes:
        """The BLAKE3 of the mean that numpy computes from all updates at once."""
        ring = ring_of(self.members)
        total = np.zeros(self.size, ring.dtype)
        for index in range(self.members):
            total += update_of(index, self.size, ring)
        mean = np.empty(self.size, np.float32)
        decode(total, self.members * SLICES, ring, mean)
        return blake3(mean.data.cast("B")).digest()


def decode(total: np.ndarray, weight: int, ring: Ring, mean: np.ndarray) -> None:
    """Write the mean of a sum to `mean`, float32 [size], a piece at a time as the outer step reads it."""
    scales = np.full(STRIDE // BLOCK, 1e-3, np.float32)
    for at in range(0, len(total), STRIDE):
        piece = total[at : at + STRIDE]
        mean[at : at + STRIDE] = decode_mean(piece, weight, scales[: len(piece) // BLOCK], ring, 1e6)


def serve(index: int, pipe: Connection, barrier: Barrier, members: int, size: int) -> None:
    """One member's process."""

    async def run() -> None:
        await Member(index, members, size).serve(pipe, barrier)

    uvloop.run(run())


class Member:
    """Carries out a session's effects over the members port, as a peer does."""

    def __init__(self, index: int, members: int, size: int) -> None:
        self.identity = Identity.from_seed(bytes([index + 1]) * 32)
        self.me = self.identity.peer_id
        self._ring, self._members = ring_of(members), members
        self._update = update_of(index, size, self._ring)
        self._mean = np.zeros(size, np.float32)
        self._trust = TrustStore(make_certificate(self.identity))
        self._server = MembersServer(self._trust, self)
        self._client = MembersClient(self._trust)
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: Session | None = None
        self._moved = asyncio.Condition()
        self._done: asyncio.Future[np.ndarray]

    async def serve(self, pipe: Connection, barrier: Barrier) -> None:
        """Open the port, learn the others' records, and do as asked until the pipe closes."""
        port = await self._server.start("127.0.0.1:0")
        address = f"127.0.0.1:{port}"
        record = PeerRecord(
            run_id=RUN,
            public=address,
            members=address,
            certificate=certificate_der(self._trust.own.certificate_pem),
            sequence=1,
            agent="benchmark",
        )
        pipe.send((self.me, record))
        self._trust.set(await asyncio.to_thread(pipe.recv))
        pipe.send(None)
        try:
            while True:
                match await asyncio.to_thread(pipe.recv):
                    case "advert", int(round_):
                        pipe.send((self.me, self._advert(round_)))
                    case "round", dict(adverts):
                        pipe.send(await self._run(adverts, barrier))
        except EOFError:
            await self._client.close()
            await self._server.stop()

    def _advert(self, round_: int) -> bytes:
        self._session = None
        advert = Advert(
            run=RUN,
            round=round_,
            attempt=0,
            shard=0,
            snapshot=bytes(32),
            sequence=1,
            weight=SLICES,
            tokens=0,
            commitment=bytes(32),
            seed_commitment=seed_commitment(bytes(32)),
            loss=0,
            heldout=0,
            data_root=None,
            data_count=0,
        )
        return sign(self.identity, advert)

    async def _run(self, adverts: dict[PeerID, bytes], barrier: Barrier) -> Timed:
        opened = {peer: (raw, open_signed(raw, Advert).message) for peer, raw in adverts.items()}
        terms = Terms(quorum(self._members), min(opened), 20.0, 5.0, CHUNK)
        self._done = asyncio.get_running_loop().create_future()
        await asyncio.to_thread(barrier.wait)
        start = time.monotonic()
        self._session = Session(
            self.me,
            opened,
            self._update,
            bytes(32),
            (),
            terms,
            lambda message: sign(self.identity, message),
            _open,
        )
        self._do(self._session.start())
        total = await self._done
        decode(total, self._members * SLICES, self._ring, self._mean)
        end = time.monotonic()
        return Timed(start, end, blake3(self._mean.data.cast("B")).digest())

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Tell(to, raw):
                    self._spawn(self._client.tell(to, raw))
                case SendPart():
                    self._spawn(self._send_part(effect))
                case SendSum():
                    self._spawn(self._client.transfer(effect.to, effect.header, effect.data.data))
                case Wait(name, seconds):
                    asyncio.get_running_loop().call_later(seconds, self._elapsed, self._session, name)
                case Completed(total):
                    self._done.set_result(total)
                case Failed(reason):
                    self._done.set_exception(RuntimeError(reason))
        self._spawn(self._wake())

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._done.done():
            self._done.set_exception(error)

    async def _wake(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    def _elapsed(self, session: Session | None, name: str) -> None:
        if session is not None and session is self._session and not self._done.done():
            self._do(session.elapsed(name))

    async def _send_part(self, effect: SendPart) -> None:
        receipt = await self._client.transfer(effect.to, effect.header, effect.data.data)
        assert self._session is not None
        self._do(self._session.part_acknowledged(effect.part, effect.to, receipt))

    # -- Inbox --------------------------------------------------------------------------------------

    async def on_tell(self, sender: PeerID, raw: bytes) -> None:
        """See Inbox."""
        kind = KINDS[domain_of(raw)]
        async with self._moved:
            await self._moved.wait_for(lambda: self._session is not None)
        assert self._session is not None
        self._do(self._session.receive(sender, raw, kind))

    async def expect(self, sender: PeerID, header: bytes) -> memoryview:
        """See Inbox."""
        kind = Part if domain_of(header) == Part.DOMAIN else PartSum
        while True:
            try:
                if self._session is None:
                    raise NotYet("the session has not begun here")
                elements = self._session.expect(sender, header, kind)
                return np.empty(elements, self._ring.dtype).data.cast("B")
            except NotYet:
                async with self._moved:
                    await self._moved.wait()

    async def on_transfer(self, sender: PeerID, header: bytes, data: memoryview) -> bytes:
        """See Inbox."""
        assert self._session is not None
        integers = np.frombuffer(data, self._ring.dtype)
        if domain_of(header) == Part.DOMAIN:
            return self._session.part_arrived(sender, header, integers)
        self._do(self._session.sum_arrived(sender, header, integers))
        return b""


def _open(raw: bytes, kind: Any) -> tuple[PeerID, Any]:
    signed = open_signed(raw, kind)
    return signed.signer, signed.message
