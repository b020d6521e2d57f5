"""The public port: what anyone may read of a run and of the peer's ledger, and the signed step of joining.

The server proves itself by the certificate in its PeerRecord; the caller shows none. Everything served
is checked by the caller against `run_id`, an agreed hash or a signed head of the ledger, so nothing here
needs to be believed.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import Any, NoReturn, Protocol, Self, TypeVar

import grpc

from proto.canonical import MAX_MESSAGE
from proto.edgeswarm_pb2 import (
    Empty,
    GenesisReply,
    LedgerEntry,
    LedgerHeadReply,
    LedgerProofReply,
    LedgerProofRequest,
    LedgerRequest,
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
from verify.ledger import LARGEST

MAX_RECORDS = 256
"""Records in one answer; ask again from the next one."""
MAX_ENTRIES = 256
"""Entries of a ledger in one answer."""
MAX_ENTRY = 65_535
"""Bytes of the largest entry of a ledger (C2SP tlog-tiles)."""
MAX_PROOF = 128
"""Hashes in the longest proof about trees of fewer than 2 ** 64 entries."""
MAX_ANSWER = 16 << 20
"""Bytes of the largest streamed answer: a snapshot's index, some records, or some of a ledger's entries."""
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

    async def ledger_head(self) -> str:
        """The ledger's size and root: a signed checkpoint (verify/checkpoint.py)."""

    async def ledger_entries(self, start: int, limit: int) -> list[bytes]:
        """At most `limit` encoded entries of the ledger from index `start` on."""

    async def ledger_inclusion(self, index: int, size: int) -> list[bytes]:
        """What shows that entry `index` is in the tree of `size` entries."""

    async def ledger_consistency(self, old: int, new: int) -> list[bytes]:
        """What shows that the tree of `new` entries begins with that of `old`."""

    async def large_piece(self, digest: bytes, index: int) -> bytes:
        """Piece `index` (1 MiB, the last one less) of the large content with this SHA-256."""

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

    async def LedgerHead(self, request: Empty, context: grpc.aio.ServicerContext) -> LedgerHeadReply:
        return LedgerHeadReply(checkpoint=await self._answer(context, self._library.ledger_head()))

    async def LedgerEntries(self, request: LedgerRequest, context: grpc.aio.ServicerContext) -> None:
        limit = min(request.limit, MAX_ENTRIES)
        size = 0
        for entry in await self._answer(context, self._library.ledger_entries(request.start, limit)):
            size += len(entry)
            if size > MAX_ANSWER:
                break
            await self._write(context, LedgerEntry(entry=entry))

    async def LedgerProof(
        self, request: LedgerProofRequest, context: grpc.aio.ServicerContext
    ) -> LedgerProofReply:
        if request.kind == LedgerProofRequest.INCLUSION:
            proof = self._library.ledger_inclusion(request.index, request.size)
        elif request.kind == LedgerProofRequest.CONSISTENCY:
            proof = self._library.ledger_consistency(request.old_size, request.size)
        else:  # proto3 hands on numbers that have no name
            await self._refuse(context, "malformed", f"there is no proof of kind {request.kind}")
        return LedgerProofReply(hashes=await self._answer(context, proof))

    async def Large(self, request: PieceRequest, context: grpc.aio.ServicerContext) -> Piece:
        digest = await self._digest(context, request.hash)
        return Piece(data=await self._answer(context, self._library.large_piece(digest, request.index)))

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

    async def ledger_head(self) -> str:
        """The signed head of the peer's ledger, unchecked: for `read_checkpoint`."""
        reply: LedgerHeadReply = await self._ask(self._stub.LedgerHead(Empty(), timeout=CALL_SECONDS))
        return reply.checkpoint

    async def ledger_entries(self, start: int, limit: int = MAX_ENTRIES) -> list[bytes]:
        """At most `limit` encoded entries from index `start` on, unchecked but for their size."""
        limit = min(limit, MAX_ENTRIES)
        stream = self._stub.LedgerEntries(LedgerRequest(start=start, limit=limit), timeout=6 * CALL_SECONDS)
        replies: list[LedgerEntry] = await self._ask(_collect(stream, limit))
        return [_bounded(reply.entry, MAX_ENTRY, "entry of a ledger") for reply in replies]

    async def ledger_inclusion(self, index: int, size: int) -> list[bytes]:
        """The hashes that should show entry `index` in the tree of `size` entries: for `verify_inclusion`."""
        return await self._proof(
            LedgerProofRequest(kind=LedgerProofRequest.INCLUSION, index=index, size=size)
        )

    async def ledger_consistency(self, old: int, new: int) -> list[bytes]:
        """The hashes that should show that a tree begins with an older one: for `verify_consistency`."""
        return await self._proof(
            LedgerProofRequest(kind=LedgerProofRequest.CONSISTENCY, old_size=old, size=new)
        )

    async def _proof(self, request: LedgerProofRequest) -> list[bytes]:
        reply: LedgerProofReply = await self._ask(self._stub.LedgerProof(request, timeout=CALL_SECONDS))
        if len(reply.hashes) > MAX_PROOF or any(len(value) != 32 for value in reply.hashes):
            raise MessageRefused(f"{self.address}: a proof has at most {MAX_PROOF} hashes of 32 bytes")
        return list(reply.hashes)

    async def large(self, digest: bytes, size: int) -> bytes:
        """The large content of `size` bytes (at most LARGEST) with this SHA-256, checked against both."""
        content = bytearray()
        while len(content) < size <= LARGEST:
            piece = await self.large_piece(digest, len(content) // PIECE)
            if len(piece) != min(PIECE, size - len(content)):
                break
            content += piece
        if len(content) != size or hashlib.sha256(content).digest() != digest:
            raise MessageRefused(f"{self.address}: what it gave for {digest.hex()} has another size or hash")
        return bytes(content)

    async def large_piece(self, digest: bytes, index: int) -> bytes:
        """Piece `index` of a large content, unchecked, at most 1 MiB."""
        request = PieceRequest(hash=digest, index=index)
        piece: Piece = await self._ask(self._stub.Large(request, timeout=6 * CALL_SECONDS))
        return _bounded(piece.data, PIECE, "piece of a content")

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


def _bounded(data: bytes, most: int, what: str) -> bytes:
    if len(data) > most:
        raise MessageRefused(f"{what} with {len(data)} bytes, the largest has {most}")
    return data


async def _collect(stream: AsyncIterator[T], most: int) -> list[T]:
    answer: list[T] = []
    size = 0
    async for item in stream:
        answer.append(item)
        size += item.ByteSize()  # type: ignore[attr-defined]
        if len(answer) > most or size > MAX_ANSWER + 16 * most:
            raise MessageRefused(f"an answer of more than {most} items or {MAX_ANSWER} bytes")
    return answer
