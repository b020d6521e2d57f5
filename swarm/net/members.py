"""The members port: statements and masked parts between the peers of the roster, over mutual TLS.

Every call is attributed to a PeerID by the exact certificate of its connection (tls.py). Data streams
straight into the buffer that the `Inbox` names after it has checked the header, so a sender can make us
hold nothing that was not agreed on. What is too long, too short, too slow or from a stranger is refused,
counted under its reason in `refused`, and reaches the inbox no further.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import NoReturn

import grpc

from proto.canonical import MAX_MESSAGE, PeerID
from proto.edgeswarm_pb2 import Ack, Frame, Slab, Statement
from proto.edgeswarm_pb2_grpc import MembersServicer, MembersStub, add_MembersServicer_to_server
from proto.errors import MessageRefused
from swarm.net.rpc import (
    CALL_SECONDS,
    GO_ON,
    SLAB,
    STOP_SECONDS,
    Inbox,
    Refused,
    Unreachable,
    failure,
    open_channel,
    open_port,
    server_options,
)
from swarm.net.streams import Streams
from swarm.net.tls import TrustStore, channel_credentials, members_server_credentials
from swarm.openings import MAX_ANSWER

MAX_HEADER = 1 << 20
SLOWEST_BYTES_PER_SECOND = 64 << 10
"""A transfer's deadline assumes at least this much."""
_CALLS_OF_ONE_SENDER = 8
_STREAMS_OF_ONE_SENDER = 4
"""One, and those whose link broke before we noticed."""
ANSWER_SECONDS = 120.0
_LEAST_STATEMENT = 256
"""What a statement counts for at least, so that an endless answer of empty ones ends."""


class MembersServer(MembersServicer):
    """Our members port. `refused` counts what was turned away, by reason.

    `streams`: those of a peer of chains, the same as its client's.
    """

    def __init__(
        self,
        store: TrustStore,
        inbox: Inbox,
        slab_seconds: float = CALL_SECONDS,
        streams: Streams | None = None,
    ) -> None:
        self.refused: Counter[str] = Counter() if streams is None else streams.refused
        self._store, self._inbox, self._slab_seconds, self._streams = store, inbox, slab_seconds, streams
        self._running: Counter[PeerID] = Counter()
        self._streaming: Counter[PeerID] = Counter()
        self._one_transfer: defaultdict[PeerID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._server = grpc.aio.server(options=server_options(), maximum_concurrent_rpcs=256)
        add_MembersServicer_to_server(self, self._server)

    async def start(self, address: str) -> int:
        """Listen on "host:port"; returns the port. Raises PortTaken."""
        return await open_port(self._server, address, members_server_credentials(self._store))

    async def stop(self) -> None:
        """Close the port and, after a moment for the calls that are running, every connection."""
        await self._server.stop(STOP_SECONDS)

    async def Tell(self, request: Statement, context: grpc.aio.ServicerContext) -> Ack:
        sender = await self._admit(context)
        try:
            if len(request.raw) > MAX_MESSAGE:
                await self._refuse(context, "oversize", f"a statement has at most {MAX_MESSAGE} bytes")
            await self._inbox.on_tell(sender, request.raw)
        except MessageRefused as error:
            await self._refuse(context, "refused", str(error))
        finally:
            self._running[sender] -= 1
        return Ack()

    async def Transfer(self, _slabs: AsyncIterator[Slab], context: grpc.aio.ServicerContext) -> Ack:
        sender = await self._admit(context)
        try:
            # A sender whose link broke comes back before we notice: the new stream waits for the old.
            async with self._one_transfer[sender]:
                await self._receive(sender, context)
                return Ack()
        except MessageRefused as error:
            await self._refuse(context, "refused", str(error))
        finally:
            self._running[sender] -= 1

    async def Ask(self, request: Statement, context: grpc.aio.ServicerContext) -> None:
        sender = await self._admit(context)
        try:
            if len(request.raw) > MAX_MESSAGE:
                await self._refuse(context, "oversize", f"a question has at most {MAX_MESSAGE} bytes")
            for raw in await self._inbox.on_ask(sender, request.raw):
                async with asyncio.timeout(self._slab_seconds):
                    await context.write(Statement(raw=raw))
        except MessageRefused as error:
            await self._refuse(context, "refused", str(error))
        except TimeoutError:
            await self._refuse(context, "stalled", f"you took nothing for {self._slab_seconds:g} s")
        finally:
            self._running[sender] -= 1

    async def Stream(self, _frames: AsyncIterator[Frame], context: grpc.aio.ServicerContext) -> None:
        sender = await self._caller(context)
        if self._streams is None:
            await self._refuse(context, "refused", "this peer takes part in no chain")
        await self._make_room(context, self._streaming[sender], _STREAMS_OF_ONE_SENDER)
        self._streaming[sender] += 1
        try:
            await self._streams.answer(sender, context)
        finally:
            self._streaming[sender] -= 1

    async def _receive(self, sender: PeerID, context: grpc.aio.ServicerContext) -> None:
        first = await self._read(context)
        if first is None or first.data or not 0 < len(first.header) <= MAX_HEADER:
            await self._refuse(
                context, "malformed", f"a transfer begins with a header of at most {MAX_HEADER} bytes"
            )
        buffer = await self._inbox.expect(sender, first.header)
        await context.send_initial_metadata(((GO_ON, "1"),))
        filled = 0
        while (slab := await self._read(context)) is not None:
            if self._store.caller(context) != sender:
                await self._refuse(context, "stranger", f"{sender} left the roster during the transfer")
            data = slab.data  # every look at a field makes a copy of it
            if slab.header or not data:
                await self._refuse(context, "malformed", "a slab after the first holds data and nothing else")
            end = filled + len(data)
            if end > len(buffer):
                await self._refuse(context, "oversize", f"the transfer has more than its {len(buffer)} bytes")
            buffer[filled:end] = data
            filled = end
        if filled < len(buffer):
            await self._refuse(
                context, "truncated", f"the transfer ended after {filled} of {len(buffer)} bytes"
            )
        await self._inbox.on_transfer(sender, first.header, buffer)

    async def _read(self, context: grpc.aio.ServicerContext) -> Slab | None:
        try:
            async with asyncio.timeout(self._slab_seconds):
                slab = await context.read()
        except TimeoutError:
            await self._refuse(context, "stalled", f"nothing came for {self._slab_seconds:g} s")
        return None if slab is grpc.aio.EOF else slab

    async def _admit(self, context: grpc.aio.ServicerContext) -> PeerID:
        sender = await self._caller(context)
        await self._make_room(context, self._running[sender], _CALLS_OF_ONE_SENDER)
        self._running[sender] += 1
        return sender

    async def _caller(self, context: grpc.aio.ServicerContext) -> PeerID:
        sender = self._store.caller(context)
        if sender is None:
            await self._refuse(
                context,
                "stranger",
                "your certificate is not that of a peer on the roster",
                grpc.StatusCode.UNAUTHENTICATED,
            )
        return sender

    async def _make_room(self, context: grpc.aio.ServicerContext, running: int, most: int) -> None:
        if running >= most:
            await self._refuse(
                context, "busy", f"{most} of your calls are running", grpc.StatusCode.RESOURCE_EXHAUSTED
            )

    async def _refuse(
        self,
        context: grpc.aio.ServicerContext,
        reason: str,
        text: str,
        code: grpc.StatusCode = grpc.StatusCode.FAILED_PRECONDITION,
    ) -> NoReturn:
        self.refused[reason] += 1
        await context.abort(code, text)
        raise AssertionError("abort always raises")


class MembersClient:
    """The `Transport` over gRPC: one connection a peer, made again when that peer's record changes.

    `streams`: needed to `speak`, the same as the server's.
    """

    def __init__(self, store: TrustStore, streams: Streams | None = None) -> None:
        self._store, self._streams = store, streams
        self._channels: dict[PeerID, tuple[str, bytes, grpc.aio.Channel]] = {}

    async def tell(self, to: PeerID, raw: bytes) -> None:
        """See Transport."""
        stub, address = await self._stub(to)
        try:
            await stub.Tell(Statement(raw=raw), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise failure(error.code(), error.details(), f"{to} at {address}") from None

    async def transfer(self, to: PeerID, header: bytes, data: memoryview) -> None:
        """See Transport."""
        stub, address = await self._stub(to)
        octets = data.cast("B")
        call = stub.Transfer(timeout=CALL_SECONDS + len(octets) / SLOWEST_BYTES_PER_SECOND)
        try:
            await call.write(Slab(header=header))
            if GO_ON in await call.initial_metadata():  # otherwise the call is over
                for start in range(0, len(octets), SLAB):
                    await call.write(Slab(data=bytes(octets[start : start + SLAB])))
                await call.done_writing()
            await call
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:  # the latter: write after the end
            code, details = await call.code(), await call.details()
            if code is grpc.StatusCode.OK:
                raise Refused(f"{to} at {address} answered before it had all of the data") from error
            raise failure(code, details, f"{to} at {address}") from None
        finally:
            call.cancel()

    async def ask(self, to: PeerID, raw: bytes) -> list[bytes]:
        """See Transport."""
        stub, address = await self._stub(to)
        call = stub.Ask(Statement(raw=raw), timeout=ANSWER_SECONDS)
        answer: list[bytes] = []
        size = 0
        try:
            async for statement in call:
                answer.append(statement.raw)
                size += len(answer[-1]) + _LEAST_STATEMENT
                if size > MAX_ANSWER:
                    raise Refused(f"{to} at {address} answers with more than {MAX_ANSWER} bytes")
        except grpc.aio.AioRpcError as error:
            raise failure(error.code(), error.details(), f"{to} at {address}") from None
        finally:
            call.cancel()
        return answer

    async def speak(self, to: PeerID, header: bytes, tensor: bytes) -> None:
        """See Transport."""
        assert self._streams is not None, "only a peer of chains speaks"
        await self._streams.speak(to, header, tensor, self._stub)

    async def close(self) -> None:
        """Close every connection."""
        for _, _, channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def _stub(self, to: PeerID) -> tuple[MembersStub, str]:
        record = self._store.record(to)
        if record is None:
            raise Unreachable(f"no record of {to} is known: it has not announced itself in the DHT")
        kept = self._channels.get(to)
        if kept and kept[:2] == (record.members, record.certificate):
            return MembersStub(kept[2]), record.members
        channel = open_channel(record.members, channel_credentials(record.certificate, self._store.own))
        self._channels[to] = (record.members, record.certificate, channel)
        if kept:
            await kept[2].close()
        return MembersStub(channel), record.members
