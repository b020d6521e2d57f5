"""A link of a given delay and rate between two TCP ends, and how true it is to them.

`Shaper` relays bytes between whoever connects to its port and a target behind it, so it works under TLS and
gRPC. Each direction is a line of its own: bytes leave at the rate, in order, and arrive a delay later; all
connections share it. A line that is full is not read from, so TCP holds the sender up as a slow link would.
What it does not do: lose packets, or slow a connection's start (that of loopback is done in no time).

`rate_error_*`: how far 5 MB through plain TCP are from the rate, both ways at once, medians.
`delay_error_ms`: what one byte there and back takes beyond two delays. `stream_share_*`: bytes of frames
through a stream of two peers (swarm/net/streams.py) over the link, in one direction, as a share of the rate.
"""

import asyncio
import math
import socket
import statistics
import time
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks.report import Report, Row, command_line, progress
from proto.canonical import PeerID
from proto.errors import MessageRefused
from swarm.net.members import MembersClient, MembersServer
from swarm.net.peer_record import PeerRecord
from swarm.net.streams import Streams
from swarm.net.tls import TrustStore
from verify.identity import Identity, certificate_der, make_certificate

HOST = "127.0.0.1"
CHUNK_SECONDS = 0.002
"""Of the rate in one piece: fewer, and the relay itself would be too slow; more, and small messages wait."""
CREDIT_SECONDS = 0.05
"""What the relay may catch up with after a timer that fired late; a line holds so much beyond its delay."""
LEAST_BUFFER = 64 << 10
"""Bytes that a socket holds; the kernel itself would swallow megabytes."""


@dataclass(frozen=True)
class Link:
    """`delay`: seconds, one way. `rate`: bytes a second, each way."""

    delay: float
    rate: float

    @property
    def chunk(self) -> int:
        return max(1 << 10, int(self.rate * CHUNK_SECONDS))

    @property
    def buffer(self) -> int:
        return max(LEAST_BUFFER, 2 * self.chunk)


LINKS = {"1MBs": Link(0.1, 1e6), "10MBs": Link(0.02, 10e6)}
TRANSFER = 5_000_000
PINGS = 20
FRAMES, SETTLED = 60, 9
FRAME = bytes(400_000)
"""Two sequences of 128 tokens of OPT-125m in fp16."""
NOTES = (
    "Sender, link and receiver share one process and its event loop; TLS and gRPC take a part of its cores.",
    "On two busy cores it does not hold 50 MB/s: keep to links that it holds.",
    "stream_share_*: of the time from the tenth frame's arrival to the last's; TLS and HTTP/2 add 1 %.",
)


class Line:
    """When bytes that share one direction of a link have left its sender: pure, on the caller's clock."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free = rate, -math.inf

    def sent(self, asked: float, now: float, size: int) -> float:
        """The time at which the last of `size` bytes leaves, put behind all that were sent before.

        `asked`: when the relay was ready for them. A little after the last bytes had left, it was late itself
        and makes up for it; much later, somebody else held it up. From `asked` to `now` the line was idle.
        """
        late = asked - self._free
        begin = now - late if 0 < late <= CREDIT_SECONDS else max(self._free, now)
        self._free = begin + size / self._rate
        return self._free


class Shaper:
    """`async with Shaper(link, port) as shaper:` relays shaper.port to `port`, both on loopback.

    `listen`: the port to have, for a peer that must announce it beforehand; 0 for any.
    """

    def __init__(self, link: Link, port: int, listen: int = 0) -> None:
        self.port = listen
        self._link, self._target = link, port
        self._there, self._back = Line(link.rate), Line(link.rate)
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Shaper":
        self._server = await asyncio.start_server(self._accepted, HOST, self.port, limit=self._link.chunk)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            from_target, to_target = await asyncio.open_connection(HOST, self._target, limit=self._link.chunk)
            writers.append(to_target)
            for one in writers:
                for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                    one.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, buffer, self._link.buffer)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._one_way(self._there, reader, to_target))
                ways.create_task(self._one_way(self._back, from_target, writer))
        except* OSError:
            pass  # one end broke off, or is not there: the other one's connection breaks, too
        finally:
            for one in writers:
                one.close()

    async def _one_way(self, line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay until the sender says that it has ended, and then say so."""
        clock = asyncio.get_running_loop().time
        most = self._link.rate * (self._link.delay + CREDIT_SECONDS) + self._link.buffer
        travelling: deque[tuple[float, bytes]] = deque()
        held, moved = 0, asyncio.Condition()

        def has_room() -> bool:
            return held < most

        async def arrive() -> None:
            nonlocal held
            data = b"-"
            while data:
                async with moved:
                    await moved.wait_for(lambda: travelling)
                due, data = travelling[0]
                await asyncio.sleep(due - clock())
                writer.write(data)
                await writer.drain()
                async with moved:
                    travelling.popleft()
                    held -= len(data)
                    moved.notify_all()
            writer.write_eof()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(arrive())
            data = b"-"
            while data:
                asked = clock()
                data = await reader.read(self._link.chunk)
                now = clock()
                sent = max(now, line.sent(asked, now, len(data)))
                await asyncio.sleep(sent - now)
                async with moved:
                    await moved.wait_for(has_room)
                    travelling.append((sent + self._link.delay, data))
                    held += len(data)
                    moved.notify_all()


# -- how true it is -----------------------------------------------------------------------------------------


def measure(quick: bool) -> Report:
    """Plain TCP and a stream of frames over two links, the slower one's frames not with `quick`."""
    figures: dict[str, float] = {}
    rows = []
    for name, link in LINKS.items():
        progress(f"shaping: {name}")
        turns = [asyncio.run(tcp(link)) for _ in range(1 if quick else 3)]
        rates = tuple(rate for both, _ in turns for rate in both)
        figures[f"rate_error_{name}"] = abs(statistics.median(rates) / link.rate - 1)
        rows.append(Row(f"TCP over {name}", "bytes/s", rates))
        late = [seconds * 1e3 for _, delays in turns for seconds in delays]
        rows.append(Row(f"beyond two delays, {name}", "ms", tuple(late)))
        if not quick or name == "10MBs":
            figures[f"stream_share_{name}"] = asyncio.run(stream(link)) / link.rate
    figures["delay_error_ms"] = max(row.median for row in rows if row.unit == "ms")
    return Report(
        "shaping", figures, {f"rate_error_{name}": ("<=", 0.1) for name in LINKS}, tuple(rows), NOTES
    )


async def tcp(link: Link) -> tuple[list[float], list[float]]:
    """Bytes a second each way, both at once; seconds that a byte there and back took beyond two delays."""
    clock = time.perf_counter
    came = list[float]()

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(PINGS):
            writer.write(await reader.readexactly(1))
        await reader.readexactly(1)
        writer.write(bytes(TRANSFER))
        await reader.readexactly(TRANSFER - 1)
        came.append(clock() - link.delay)
        writer.close()

    server = await asyncio.start_server(answered, HOST, 0)
    async with server, Shaper(link, server.sockets[0].getsockname()[1]) as shaper:
        reader, writer = await asyncio.open_connection(HOST, shaper.port)
        beyond = []
        for _ in range(PINGS):
            start = clock()
            writer.write(b"-")
            await reader.readexactly(1)
            beyond.append(clock() - start - 2 * link.delay)
        start = clock()
        writer.write(bytes(TRANSFER))
        await reader.readexactly(TRANSFER)
        came.append(clock() - 2 * link.delay)  # it was sent when our first byte had come
        await reader.read()
        writer.close()
    return [TRANSFER / (arrived - start) for arrived in came], beyond


async def stream(link: Link) -> float:
    """Bytes of frames a second through a stream over the link."""
    async with AsyncExitStack() as stack:
        sender, receiver = End(), End()
        shaper = Shaper(link, await receiver.server.start(f"{HOST}:0"))
        await stack.enter_async_context(shaper)
        stack.push_async_callback(receiver.server.stop)
        stack.push_async_callback(sender.client.close)
        for one, other in ((sender, receiver), (receiver, sender)):
            one.trust.set({other.peer: other.record(shaper.port)})
        for at in range(FRAMES):
            await sender.client.speak(receiver.peer, b"%d" % at, FRAME)
        await receiver.all_came.wait()
    seconds = receiver.arrivals[-1] - receiver.arrivals[SETTLED]
    return (FRAMES - 1 - SETTLED) * len(FRAME) / seconds


class End:
    """One end of a stream: a peer of the members port that takes frames and nothing else."""

    def __init__(self) -> None:
        identity = Identity.generate()
        self.peer = identity.peer_id
        self.trust = TrustStore(make_certificate(identity))
        streams = Streams(self.trust, self)
        self.server = MembersServer(self.trust, self, streams=streams)
        self.client = MembersClient(self.trust, streams)
        self.arrivals: list[float] = []
        self.all_came = asyncio.Event()

    def record(self, port: int) -> PeerRecord:
        address = f"{HOST}:{port}"
        leaf = certificate_der(self.trust.own.certificate_pem)
        return PeerRecord(
            run_id=bytes(32), public=address, members=address, certificate=leaf, sequence=1, agent="shaping"
        )

    async def on_frame(self, _sender: PeerID, _header: bytes, _tensor: bytes) -> None:
        self.arrivals.append(time.perf_counter())
        if len(self.arrivals) == FRAMES:
            self.all_came.set()

    async def on_tell(self, _sender: PeerID, _raw: bytes) -> None:
        raise MessageRefused("frames only")

    async def on_ask(self, _sender: PeerID, _raw: bytes) -> list[bytes]:
        raise MessageRefused("frames only")

    async def expect(self, _sender: PeerID, _header: bytes) -> memoryview:
        raise MessageRefused("frames only")

    async def on_transfer(self, _sender: PeerID, _header: bytes, _data: memoryview) -> None:
        raise MessageRefused("frames only")


if __name__ == "__main__":
    command_line("shaping", measure, __doc__ or "")
