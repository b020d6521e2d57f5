"""The public port: what anyone may read of a run, and the signed step by which a newcomer asks to join.

The server proves itself by the certificate in its PeerRecord; the caller shows none. Everything served
is checked by the caller against `run_id` or an agreed hash, so nothing here needs to be believed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Any, NoReturn, Protocol, Self, TypeVar

import grpc

from proto.canonical import MAX_MESSAGE
from proto.edgeswarm_pb2 import (
    Empty,
    GenesisReply,
    Piece,
    PieceRequest,
    RecordReply,
    RecordsRequest,
    SnapshotRequest,
    Statement,
    StatusReply,
)
from proto.edgeswarm_pb2_grpc import PublicServicer, PublicStub, add_PublicServicer_to_server
from proto.errors import MessageRefused, SwarmError
from swarm.net.peer_record import PeerRecord
from swarm.net.rpc import CALL_SECONDS, PIECE, STOP_SECONDS, failure, open_channel, open_port, server_options
from swarm.net.tls import TrustStore, channel_credentials, public_server_credentials

MAX_RECORDS = 256
"""Records in one answer; ask again from the next one."""
MAX_ANSWER = 16 << 20
"""Bytes of the largest streamed answer: a snapshot's index, or some records."""
CONCURRENT_CALLS = 64
_WRITE_SECONDS = 30.0
T = TypeVar("T")


class Library(Protocol):
    """What the public port serves. A SwarmError raised here goes to the caller as Refused, with its text."""

    async def genesis(self) -> tuple[bytes, bytes]:
        """The signed genesis and the manifest's exact bytes."""

    async def records(self, start: int, limit: int) -> list[bytes]:
        """At most `limit` signed round records from number `start` on."""

    async def snapshot_index(self, digest: bytes) -> bytes:
        """The index of the snapshot with this 32-byte hash."""

    async def snapshot_piece(self, digest: bytes, index: int) -> bytes:
        """Piece `index` (at most 1 MiB) of that snapshot."""

    async def status(self) -> bytes:
        """The peer's view of the run, as JSON."""

    async def join(self, raw: bytes) -> bytes:
        """A newcomer's signed request; the signed answer."""


class PublicServer(PublicServicer):
    """Our public port. `refused` counts what was turned away, by reason."""

    def __init__(self, store: TrustStore, library: Library) -> None:
        self.refused: Counter[str] = Counter()
        self._store, self._library = store, library
        self._server = grpc.aio.server(options=server_options(), maximum_concurrent_rpcs=CONCURRENT_CALLS)
        add_PublicServicer_to_server(self, self._server)

    async def start(self, address: str) -> int:
        """Listen on "host:port"; returns the port. Raises PortTaken."""
        return await open_port(self._server, address, public_server_credentials(self._store.own))

    async def stop(self) -> None:
        """Close the port and, after a moment for the calls that are running, every connection."""
        await self._server.stop(STOP_SECONDS)

    async def Genesis(self, request: Empty, context: grpc.aio.ServicerContext) -> GenesisReply:
        genesis, manifest = await self._answer(context, self._library.genesis())
        return GenesisReply(genesis=genesis, manifest=manifest)

    async def Records(self, request: RecordsRequest, context: grpc.aio.ServicerContext) -> None:
        limit = min(request.limit, MAX_RECORDS)
        size = 0
        for record in await self._answer(context, self._library.records(request.start, limit)):
            size += len(record)
            if size > MAX_ANSWER:
                break
            await self._write(context, RecordReply(record=record))

    async def SnapshotIndex(self, request: SnapshotRequest, context: grpc.aio.ServicerContext) -> None:
        digest = await self._digest(context, request.hash)
        index = await self._answer(context, self._library.snapshot_index(digest))
        for start in range(0, len(index), PIECE):
            await self._write(context, Piece(data=index[start : start + PIECE]))

    async def SnapshotPiece(self, request: PieceRequest, context: grpc.aio.ServicerContext) -> Piece:
        digest = await self._digest(context, request.hash)
        return Piece(data=await self._answer(context, self._library.snapshot_piece(digest, request.index)))

    async def Status(self, request: Empty, context: grpc.aio.ServicerContext) -> StatusReply:
        status = await self._answer(context, self._library.status())
        return StatusReply(json=status, unix_ms=time.time_ns() // 1_000_000)

    async def Join(self, request: Statement, context: grpc.aio.ServicerContext) -> Statement:
        if len(request.raw) > MAX_MESSAGE:
            await self._refuse(context, "oversize", f"a statement has at most {MAX_MESSAGE} bytes")
        return Statement(raw=await self._answer(context, self._library.join(request.raw)))

    async def _answer(self, context: grpc.aio.ServicerContext, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except SwarmError as error:
            await self._refuse(context, "refused", str(error))

    async def _digest(self, context: grpc.aio.ServicerContext, digest: bytes) -> bytes:
        if len(digest) != 32:
            await self._refuse(context, "malformed", f"a hash has 32 bytes, not {len(digest)}")
        return digest

    async def _write(self, context: grpc.aio.ServicerContext, message: Any) -> None:
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await context.write(message)
        except TimeoutError:
            await self._refuse(context, "stalled", f"you took nothing for {_WRITE_SECONDS:g} s")

    async def _refuse(self, context: grpc.aio.ServicerContext, reason: str, text: str) -> NoReturn:
        self.refused[reason] += 1
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        raise AssertionError("abort always raises")


class PublicClient:
    """Reads from the public port that a PeerRecord names. Methods raise Unreachable or Refused."""

    def __init__(self, record: PeerRecord) -> None:
        self.address = record.public
        self._channel = open_channel(record.public, channel_credentials(record.certificate, None))
        self._stub = PublicStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def genesis(self) -> tuple[bytes, bytes]:
        """The signed genesis and the manifest's bytes, as the peer gives them."""
        reply: GenesisReply = await self._ask(self._stub.Genesis(Empty(), timeout=CALL_SECONDS))
        return reply.genesis, reply.manifest

    async def records(self, start: int, limit: int = MAX_RECORDS) -> list[bytes]:
        """At most `limit` signed round records from number `start` on."""
        limit = min(limit, MAX_RECORDS)
        stream = self._stub.Records(RecordsRequest(start=start, limit=limit), timeout=6 * CALL_SECONDS)
        replies: list[RecordReply] = await self._ask(_collect(stream, limit))
        return [reply.record for reply in replies]

    async def snapshot_index(self, digest: bytes) -> bytes:
        """The index of the snapshot with this hash."""
        stream = self._stub.SnapshotIndex(SnapshotRequest(hash=digest), timeout=6 * CALL_SECONDS)
        pieces: list[Piece] = await self._ask(_collect(stream, MAX_ANSWER // PIECE))
        return b"".join(piece.data for piece in pieces)

    async def snapshot_piece(self, digest: bytes, index: int) -> bytes:
        """Piece `index` of that snapshot, unchecked."""
        request = PieceRequest(hash=digest, index=index)
        piece: Piece = await self._ask(self._stub.SnapshotPiece(request, timeout=6 * CALL_SECONDS))
        return piece.data

    async def status(self) -> bytes:
        """The peer's view of the run, as JSON."""
        reply: StatusReply = await self._ask(self._stub.Status(Empty(), timeout=CALL_SECONDS))
        return reply.json

    async def join(self, raw: bytes) -> bytes:
        """Send a signed request to join; returns the signed answer."""
        reply: Statement = await self._ask(self._stub.Join(Statement(raw=raw), timeout=CALL_SECONDS))
        return reply.raw

    async def clock_offset(self) -> float:
        """Seconds by which the peer's clock is certainly ahead of ours (negative: behind); see require_clock.

        Half the call's duration is the uncertainty, and is given to the peer's favour.
        """
        before = time.time()
        reply: StatusReply = await self._ask(self._stub.Status(Empty(), timeout=CALL_SECONDS))
        after = time.time()
        theirs = reply.unix_ms / 1000
        return theirs - min(max(theirs, before), after)

    async def _ask(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise failure(error.code(), error.details(), self.address) from None


async def _collect(stream: AsyncIterator[T], most: int) -> list[T]:
    answer: list[T] = []
    size = 0
    async for item in stream:
        answer.append(item)
        size += item.ByteSize()  # type: ignore[attr-defined]
        if len(answer) > most or size > MAX_ANSWER + 16 * most:
            raise MessageRefused(f"an answer of more than {most} items or {MAX_ANSWER} bytes")
    return answer
