"""Streams between members: frames both ways, in order, over one call that stays open.

One stream for a pair of peers, whoever opened it; two that open at once have two, and speak each on its own.
A peer speaks on one stream until that breaks and never goes back to it, so its frames come in order: what an
abandoned stream still holds is dropped. HTTP/2's flow control is the only buffer. One frame of a peer is
handed on at a time, so whoever does not take them holds their sender up; who holds it up for too long loses
its stream. Streams break all the time (connections live for a minute or two, peers restart): the next frame
opens a new one. What was under way is lost, and whoever needs it asks again.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from proto.canonical import PeerID
from proto.edgeswarm_pb2 import Frame
from proto.edgeswarm_pb2_grpc import MembersStub
from proto.errors import MessageRefused
from swarm.net.rpc import (
    CALL_SECONDS,
    GO_ON,
    MAX_WIRE_MESSAGE,
    FrameInbox,
    Refused,
    Unreachable,
    failure,
)
from swarm.net.tls import TrustStore

MAX_FRAME_HEADER = 64 << 10
MAX_FRAME = MAX_WIRE_MESSAGE - 64
"""Bytes of a header and its tensor; protobuf adds a few."""

Connect = Callable[[PeerID], Awaitable[tuple[MembersStub, str]]]
"""The stub of a peer and its address; raises Unreachable."""
T = TypeVar("T")
_OVER = (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
"""What gRPC raises where a call has ended: the client's read, the server's, and a write after the end."""


class _Broken(Exception):
    """The stream has ended."""


@dataclass(eq=False)
class _Stream:
    """`call`: either end of the RPC. `trusted`: whether the other end is still `peer`, and on the roster."""

    peer: PeerID
    call: Any
    trusted: Callable[[], bool]
    heard: bool = False
    listening: asyncio.Task[None] | None = None  # here if we opened it, else in the servicer's


class Streams:
    """One peer's streams. `refused` counts the frames that were dropped, by reason."""

    def __init__(self, store: TrustStore, inbox: FrameInbox, slab_seconds: float = CALL_SECONDS) -> None:
        self.refused: Counter[str] = Counter()
        self._store, self._inbox, self._slab_seconds = store, inbox, slab_seconds
        self._spoken: dict[PeerID, _Stream] = {}  # what the next frame to a peer goes on
        self._heard: dict[PeerID, _Stream] = {}  # what a peer spoke on last
        self._speaking: defaultdict[PeerID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._hearing: defaultdict[PeerID, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def speak(self, to: PeerID, header: bytes, tensor: bytes, connect: Connect) -> None:
        """See Transport. A stream that broke since the last frame is opened again, once."""
        if not 0 < len(header) <= MAX_FRAME_HEADER or len(header) + len(tensor) > MAX_FRAME:
            raise Refused(
                f"a frame of {len(header)} + {len(tensor)} bytes for {to}: a header has 1 to "
                f"{MAX_FRAME_HEADER}, with its tensor at most {MAX_FRAME}; use smaller microbatches"
            )
        frame = Frame(header=header, tensor=tensor)
        async with self._speaking[to]:
            stream = self._spoken.get(to)
            if stream is not None:
                with suppress(_Broken):
                    return await self._write(stream, frame)
            try:
                await self._write(await self._open(to, connect), frame)
            except _Broken:
                raise Unreachable(f"the stream to {to} broke off") from None

    async def answer(self, sender: PeerID, context: grpc.aio.ServicerContext) -> None:
        """The server's end of a stream that `sender`, on the roster, opens: until it ends."""
        stream = _Stream(sender, context, lambda: self._store.caller(context) == sender)
        await context.send_initial_metadata(((GO_ON, "1"),))
        spoken = self._spoken.get(sender)
        if spoken is None or spoken.listening is None:  # the link of one that `sender` left may be dead
            self._spoken[sender] = stream
        await self._listen(stream)

    async def _open(self, to: PeerID, connect: Connect) -> _Stream:
        where = self._where(to)
        stub, address = await connect(to)
        call = stub.Stream()
        stream = _Stream(to, call, lambda: self._where(to) == where)
        accepted = False
        try:
            accepted = GO_ON in await self._within(call.initial_metadata())
            if not accepted:  # the call is over
                raise failure(await call.code(), await call.details(), f"{to} at {address}")
        except TimeoutError:
            raise Unreachable(f"{to} at {address} opened no stream in {self._slab_seconds:g} s") from None
        finally:
            if not accepted:
                call.cancel()
        self._spoken[to] = stream
        stream.listening = asyncio.create_task(self._listen(stream))
        return stream

    def _where(self, peer: PeerID) -> tuple[str, bytes] | None:
        record = self._store.record(peer)
        return None if record is None else (record.members, record.certificate)

    async def _write(self, stream: _Stream, frame: Frame) -> None:
        written = False
        try:
            if not stream.trusted():
                raise _Broken
            await self._within(stream.call.write(frame))
            written = True
        except TimeoutError:
            raise Unreachable(f"{stream.peer} took nothing for {self._slab_seconds:g} s") from None
        finally:
            if not written:  # a part of the frame may be on its way
                self._leave(stream)

    async def _listen(self, stream: _Stream) -> None:
        try:
            while (frame := await stream.call.read()) is not grpc.aio.EOF:
                if not stream.trusted():
                    self.refused["stranger"] += 1
                    return
                await self._hear(stream, frame.header, frame.tensor)
        except _OVER:
            return
        finally:
            self._leave(stream)

    async def _hear(self, stream: _Stream, header: bytes, tensor: bytes) -> None:
        if not 0 < len(header) <= MAX_FRAME_HEADER:
            self.refused["malformed"] += 1
            return
        async with self._hearing[stream.peer]:
            if self._heard.get(stream.peer) is not stream:
                if stream.heard:
                    self.refused["late"] += 1
                    return
                self._heard[stream.peer], stream.heard = stream, True
            try:
                await self._inbox.on_frame(stream.peer, header, tensor)
            except MessageRefused:
                self.refused["refused"] += 1

    def _leave(self, stream: _Stream) -> None:
        """Speak on it no more. One that we opened ends; on the other's we go on listening."""
        if self._spoken.get(stream.peer) is stream:
            del self._spoken[stream.peer]
        if stream.listening is not None:
            stream.call.cancel()

    async def _within(self, doing: Awaitable[T]) -> T:
        """Raises TimeoutError, or _Broken where the call is over."""
        try:
            async with asyncio.timeout(self._slab_seconds):
                return await doing
        except _OVER:
            raise _Broken from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _Broken from None  # the call was cancelled, not we
