"""A cell of member processes that run real aggregation sessions over the real members port.

What a peer has besides (training, meeting, agreement, disk) is left out; sessions, statements, TLS and
gRPC are the peer's own, and jobs run in one other thread, as a peer's. A round goes from the encoded
update at every member to the decoded mean, float32, at every member, and is as slow as its slowest member.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any, TypeVar

import numpy as np
import uvloop
from blake3 import blake3

from benchmarks.in_process import (
    KINDS,
    RUN,
    SLICES,
    advert_of,
    fresh_secrets,
    identity_of,
    ring_of,
    terms_of,
    update_of,
)
from benchmarks.processes import Group, cpu_seconds
from proto.canonical import Message, PeerID
from secagg.interface import Completed, Effect, Failed, Job, NotYet, SendPart, SendSum, Tell, Wait
from secagg.keys import Secrets
from secagg.messages import Advert, Part, PartSum
from secagg.ring import BLOCK, Ring, decode_mean
from secagg.session import Session
from swarm.net.members import MembersClient, MembersServer
from swarm.net.peer_record import PeerRecord
from swarm.net.rpc import Refused, Unreachable
from swarm.net.tls import TrustStore
from verify.identity import certificate_der, make_certificate
from verify.statement import domain_of, open_signed, sign

STRIDE = 16 * BLOCK

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Timed:
    """One member's round: start and end on the machine's monotonic clock, and the mean's BLAKE3."""

    start: float
    end: float
    digest: bytes


class Cell:
    """`with Cell(n, elements, secure=...) as cell:` and then `cell.round()`, as often as wanted."""

    def __init__(self, members: int, size: int, secure: bool = False) -> None:
        """`secure`: with masks; otherwise a plain cell."""
        self.members, self.size = members, -(-size // BLOCK) * BLOCK
        self.cpu = 0.0
        """Processor seconds of the last round, all members."""
        self._round = 0
        self._expected = self.expected()
        self._group = Group(serve, members, members, self.size, secure)
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


def serve(index: int, pipe: Connection, barrier: Barrier, members: int, size: int, secure: bool) -> None:
    """One member's process."""

    async def run() -> None:
        await Member(index, members, size, secure).serve(pipe, barrier)

    uvloop.run(run())


class Member:
    """Carries out a session's effects over the members port, as a peer does."""

    def __init__(self, index: int, members: int, size: int, secure: bool) -> None:
        self.identity = identity_of(index)
        self.me = self.identity.peer_id
        self._ring, self._members, self._secure = ring_of(members), members, secure
        self._trained = update_of(index, size, self._ring)
        self._mean = np.zeros(size, np.float32)
        self._trust = TrustStore(make_certificate(self.identity))
        self._server = MembersServer(self._trust, self)
        self._client = MembersClient(self._trust)
        self._outgoing: dict[PeerID, asyncio.Queue[bytes]] = {}
        self._posts: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._jobs = ThreadPoolExecutor(1, thread_name_prefix="session")
        self._secrets: Secrets
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
            for post in self._posts:
                post.cancel()
            await self._client.close()
            await self._server.stop()
            self._jobs.shutdown()

    def _advert(self, round_: int) -> bytes:
        self._session, self._secrets = None, fresh_secrets()
        return sign(self.identity, advert_of(self._secrets, round_, self._secure))

    async def _run(self, adverts: dict[PeerID, bytes], barrier: Barrier) -> Timed:
        opened = {peer: (raw, open_signed(raw, Advert).message) for peer, raw in adverts.items()}
        update = self._trained.copy()  # a session masks it in place
        self._done = asyncio.get_running_loop().create_future()
        await asyncio.to_thread(barrier.wait)
        start = time.monotonic()
        self._session = Session(
            self.me,
            opened,
            update,
            self._secrets,
            (),
            terms_of(list(opened), self._secure),
            lambda message: sign(self.identity, message),
            _open,
        )
        self._do(self._session.start())
        total = await self._done
        decode(total, self._members * SLICES, self._ring, self._mean)
        end = time.monotonic()
        await self._finish()
        return Timed(start, end, blake3(self._mean.data.cast("B")).digest())

    async def _finish(self) -> None:
        """Wait until everything sent has been taken, so that nothing of this round meets the next."""
        for timer in self._timers:
            timer.cancel()  # it would keep the session, and with it the vectors
        self._timers.clear()
        await asyncio.gather(*(queue.join() for queue in self._outgoing.values()), *self._tasks)

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Tell(to, raw):
                    self._tell(to, raw)
                case SendPart() | SendSum():
                    self._spawn(self._client.transfer(effect.to, effect.header, effect.data.data))
                case Job():
                    self._spawn(self._run_job(effect))
                case Wait(name, seconds):
                    loop = asyncio.get_running_loop()
                    self._timers.append(loop.call_later(seconds, self._elapsed, self._session, name))
                case Completed(total):
                    self._done.set_result(total)
                case Failed(reason):
                    self._give_up(RuntimeError(reason))
        self._spawn(self._wake())

    def _tell(self, to: PeerID, raw: bytes) -> None:
        queue = self._outgoing.get(to)
        if queue is None:
            queue = self._outgoing[to] = asyncio.Queue()
            self._spawn(self._post(to, queue), self._posts)
        queue.put_nowait(raw)

    async def _post(self, to: PeerID, queue: asyncio.Queue[bytes]) -> None:
        """One statement after the other, as a peer does."""
        while True:
            raw = await queue.get()
            try:
                await self._client.tell(to, raw)
            except (Unreachable, Refused) as error:
                self._give_up(error)
            queue.task_done()

    async def _run_job(self, job: Job) -> None:
        value = await asyncio.get_running_loop().run_in_executor(self._jobs, job.run)
        assert self._session is not None
        self._do(self._session.job_done(job.name, value))

    def _spawn(self, work: Coroutine[Any, Any, None], kept: set[asyncio.Task[None]] | None = None) -> None:
        tasks = self._tasks if kept is None else kept
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._give_up(error)

        task.add_done_callback(ended)

    def _give_up(self, error: BaseException) -> None:
        """A benchmark has no use for a member that goes on without another."""
        if not self._done.done():
            self._done.set_exception(error)

    async def _wake(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    def _elapsed(self, session: Session | None, name: str) -> None:
        if session is not None and session is self._session and not self._done.done():
            self._do(session.elapsed(name))

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
        while True:
            try:
                if self._session is None:
                    raise NotYet("the session has not begun here")
                return self._session.room(sender, header, _kind(header)).data.cast("B")
            except NotYet:
                async with self._moved:
                    await self._moved.wait()

    async def on_transfer(self, sender: PeerID, header: bytes, data: memoryview) -> None:
        """See Inbox."""
        assert self._session is not None
        integers = np.frombuffer(data, self._ring.dtype)
        self._do(self._session.arrived(sender, header, _kind(header), integers))


def _open(raw: bytes, kind: type[M]) -> tuple[PeerID, M]:
    signed = open_signed(raw, kind)
    return signed.signer, signed.message


def _kind(header: bytes) -> type[Part | PartSum]:
    return Part if domain_of(header) == Part.DOMAIN else PartSum
