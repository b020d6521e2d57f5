"""Streams over real sockets: order both ways, slow readers, broken links, and what is turned away."""

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable
from typing import NoReturn, cast

import grpc
import pytest
from net_peers import KeepingInbox, NetPeer

from proto.canonical import PeerID
from proto.edgeswarm_pb2 import Frame
from proto.edgeswarm_pb2_grpc import MembersStub
from swarm.net import rpc
from swarm.net.members import MembersServer
from swarm.net.rpc import MAX_WIRE_MESSAGE, Refused, Unreachable, open_channel
from swarm.net.streams import MAX_FRAME, MAX_FRAME_HEADER, Streams
from swarm.net.tls import TrustStore, channel_credentials
from tests.verify.chain import PEERS

MIB = bytes(1 << 20)
MOST_BUFFERED = 40
"""Frames of 1 MiB that HTTP/2 may hold for a reader that does not read; seen: 3 to 11."""


def with_two(
    scene: Callable[[NetPeer, NetPeer], Awaitable[None]], a_waits: float = 30.0, b_waits: float = 30.0
) -> None:
    """Run a scene between two peers that trust each other. `a_waits`: seconds until `a` breaks a stream."""

    async def run() -> None:
        async with NetPeer(slab_seconds=a_waits) as a, NetPeer(slab_seconds=b_waits) as b:
            a.trust(a, b)
            b.trust(a, b)
            async with asyncio.timeout(60):
                await scene(a, b)
            await a.client.close()

    asyncio.run(run())


def numbered(count: int) -> list[bytes]:
    return [b"%06d" % at for at in range(count)]


async def speak_all(sender: NetPeer, receiver: NetPeer, headers: list[bytes]) -> None:
    """Frames with tensors of all sizes, from none to 160 kB."""
    for at, header in enumerate(headers):
        await sender.client.speak(receiver.peer_id, header, bytes(at % 5 * 40_000))


def only_by_its_streams(receiver: NetPeer, sender: NetPeer) -> None:
    """From now on `receiver` cannot open anything to `sender`: its record names a port where nobody is."""
    receiver.store.set({sender.peer_id: sender.record.model_copy(update={"members": "127.0.0.1:1"})})


def stub_of(sender: NetPeer, receiver: NetPeer) -> tuple[grpc.aio.Channel, MembersStub]:
    credentials = channel_credentials(receiver.record.certificate, sender.store.own)
    channel = open_channel(receiver.record.members, credentials)
    return channel, MembersStub(channel)


def test_a_frame_arrives_whole_under_its_senders_name() -> None:
    tensor = os.urandom(3_000_000)

    async def scene(a: NetPeer, b: NetPeer) -> None:
        await a.client.speak(b.peer_id, b"header", tensor)
        await b.inbox.frames_from(a.peer_id, b"header")
        assert b.inbox.frames == [(a.peer_id, b"header", tensor)]

    with_two(scene)


def test_frames_keep_their_order_both_ways_on_one_stream() -> None:
    sent = numbered(300)

    async def scene(a: NetPeer, b: NetPeer) -> None:
        only_by_its_streams(b, a)
        with pytest.raises(Unreachable):
            await b.client.speak(a.peer_id, b"too early", b"")
        await a.client.speak(b.peer_id, b"first", b"")
        await b.inbox.frames_from(a.peer_id, b"first")
        await asyncio.gather(speak_all(a, b, sent), speak_all(b, a, sent))
        assert await b.inbox.frames_from(a.peer_id, sent[-1]) == [b"first", *sent]
        assert await a.inbox.frames_from(b.peer_id, sent[-1]) == sent
        assert not a.streams.refused | b.streams.refused

    with_two(scene)


def test_frames_of_many_callers_are_each_whole_and_in_their_callers_order() -> None:
    sent = [[b"%d %06d" % (caller, at) for at in range(60)] for caller in range(4)]

    async def scene(a: NetPeer, b: NetPeer) -> None:
        await asyncio.gather(*(speak_all(a, b, headers) for headers in sent))
        for headers in sent:
            await b.inbox.frames_from(a.peer_id, headers[-1])
        came = [header for _, header, _ in b.inbox.frames]
        assert [[header for header in came if header in headers] for headers in sent] == sent
        assert {header: len(tensor) for _, header, tensor in b.inbox.frames} == {
            header: at % 5 * 40_000 for headers in sent for at, header in enumerate(headers)
        }

    with_two(scene)


def test_two_that_open_at_once_are_both_heard_in_order() -> None:
    sent = numbered(100)

    async def scene(a: NetPeer, b: NetPeer) -> None:
        await asyncio.gather(speak_all(a, b, sent), speak_all(b, a, sent))
        assert await b.inbox.frames_from(a.peer_id, sent[-1]) == sent
        assert await a.inbox.frames_from(b.peer_id, sent[-1]) == sent

    with_two(scene)


async def fill(sender: NetPeer, receiver: NetPeer, taken: list[bytes]) -> None:
    """Speak to one that does not read: what is taken from us before we are held up."""
    for header in numbered(MOST_BUFFERED):
        await sender.client.speak(receiver.peer_id, header, MIB)
        taken.append(header)


async def speak_until_refused(sender: NetPeer, receiver: NetPeer) -> None:
    """The first frames to a peer that does not trust us go out before its word comes back."""
    for header in numbered(10_000):
        await sender.client.speak(receiver.peer_id, header, b"")


def test_a_reader_that_does_not_read_holds_its_sender_up_and_nobody_else() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        b.inbox.takes_frames.clear()
        with pytest.raises(Unreachable, match="took nothing for 1 s"):
            await fill(a, b, [])
        await a.client.tell(b.peer_id, b"a statement on the same connection")
        assert len(b.inbox.frames) == 1
        b.inbox.takes_frames.set()
        await a.client.speak(b.peer_id, b"last", b"")
        came = await b.inbox.frames_from(a.peer_id, b"last")
        assert came == [*numbered(len(came) - 1), b"last"]

    with_two(scene, a_waits=1.0)


def test_so_does_one_that_opened_the_stream() -> None:
    """What it reads of the abandoned stream after the new one is dropped: it would be out of order."""

    async def scene(a: NetPeer, b: NetPeer) -> None:
        await a.client.speak(b.peer_id, b"first", b"")
        await b.inbox.frames_from(a.peer_id, b"first")
        a.inbox.takes_frames.clear()
        taken: list[bytes] = []
        with pytest.raises(Unreachable, match="took nothing for 1 s"):
            await fill(b, a, taken)
        await b.client.speak(a.peer_id, b"last", b"")
        a.inbox.takes_frames.set()
        came = await a.inbox.frames_from(b.peer_id, b"last")
        assert came == [*numbered(len(came) - 1), b"last"]
        assert len(came) <= len(taken) + 2
        await a.client.speak(b.peer_id, b"back", b"")
        assert await b.inbox.frames_from(a.peer_id, b"back") == [b"first", b"back"]

    with_two(scene, b_waits=1.0)


def test_a_writer_that_is_cancelled_leaves_no_half_frame_behind() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        b.inbox.takes_frames.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fill(a, b, []), 0.5)
        b.inbox.takes_frames.set()
        await a.client.speak(b.peer_id, b"last", b"")
        came = await b.inbox.frames_from(a.peer_id, b"last")
        assert came == [*numbered(len(came) - 1), b"last"]

    with_two(scene)


def test_the_next_frame_reaches_a_peer_that_restarted() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        await a.client.speak(b.peer_id, b"before", b"")
        await b.inbox.frames_from(a.peer_id, b"before")
        await b.client.close()
        await b.server.stop()
        again = NetPeer(certificate=b.store.own)
        again.port = await again.server.start(b.record.members)
        again.store.set({a.peer_id: a.record})
        await a.client.speak(b.peer_id, b"after", b"")
        assert await again.inbox.frames_from(a.peer_id, b"after") == [b"after"]
        await again.client.speak(a.peer_id, b"back", b"")
        assert await a.inbox.frames_from(b.peer_id, b"back") == [b"back"]
        await a.client.close()
        await again.__aexit__()

    with_two(scene)


def test_streams_outlive_their_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of 0.1 s, cut after 0.3 s: both speak on and never see it."""
    monkeypatch.setattr(rpc, "CONNECTION_AGE_MS", 100)
    opened: list[PeerID] = []

    async def counted(self: Streams, sender: PeerID, context: grpc.aio.ServicerContext) -> None:
        opened.append(sender)
        await answer(self, sender, context)

    answer = Streams.answer
    monkeypatch.setattr(Streams, "answer", counted)

    async def scene(a: NetPeer, b: NetPeer) -> None:
        numbers = itertools.count()

        async def both_speak() -> None:
            header = b"%09d" % next(numbers)
            await asyncio.gather(
                a.client.speak(b.peer_id, header, bytes(9_000)),
                b.client.speak(a.peer_id, header, bytes(9_000)),
            )

        while len(opened) < 6:
            await both_speak()
        before = {receiver.peer_id: len(receiver.inbox.frames) for receiver in (a, b)}
        while any(len(one.inbox.frames) == before[one.peer_id] for one in (a, b)):
            await both_speak()
        for receiver in (a, b):
            came = [header for _, header, _ in receiver.inbox.frames]
            assert came == sorted(came)  # some may be lost

    with_two(scene)


def test_a_refused_frame_is_counted_and_the_stream_goes_on() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        only_by_its_streams(b, a)
        for header in (b"one", b"nonsense", b"two"):
            await a.client.speak(b.peer_id, header, b"tensor")
        assert await b.inbox.frames_from(a.peer_id, b"two") == [b"one", b"two"]
        for header in (b"one", b"nonsense", b"two"):
            await b.client.speak(a.peer_id, header, b"tensor")
        assert await a.inbox.frames_from(b.peer_id, b"two") == [b"one", b"two"]
        assert dict(a.server.refused) == dict(b.server.refused) == {"refused": 1}

    with_two(scene)


def test_a_frame_above_the_limits_is_not_sent() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        for header, tensor in (
            (b"", b"tensor"),
            (bytes(MAX_FRAME_HEADER + 1), b""),
            (b"header", bytes(MAX_FRAME - 5)),
        ):
            with pytest.raises(Refused, match="use smaller microbatches"):
                await a.client.speak(b.peer_id, header, tensor)
        await a.client.speak(b.peer_id, bytes(MAX_FRAME_HEADER), bytes(MAX_FRAME - MAX_FRAME_HEADER))
        assert await b.inbox.frames_from(a.peer_id, bytes(MAX_FRAME_HEADER)) == [bytes(MAX_FRAME_HEADER)]

    with_two(scene)


def test_a_header_that_is_none_or_too_long_is_dropped_whoever_sends_it() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        channel, stub = stub_of(a, b)
        call = stub.Stream()
        await call.write(Frame(tensor=b"no header"))
        await call.write(Frame(header=bytes(MAX_FRAME_HEADER + 1)))
        await call.write(Frame(header=b"in order"))
        assert await b.inbox.frames_from(a.peer_id, b"in order") == [b"in order"]
        assert dict(b.server.refused) == {"malformed": 2}
        await channel.close()

    with_two(scene)


@pytest.mark.parametrize(
    "raw", [b"\xff" * 20, bytes(MAX_WIRE_MESSAGE + 1)], ids=["not a frame", "too long a frame"]
)
def test_what_grpc_cannot_read_ends_its_stream_and_no_other(raw: bytes) -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        channel, _ = stub_of(a, b)
        call = channel.stream_stream("/edgeswarm.v1.Members/Stream")()
        await call.write(raw)
        assert await call.code() is not grpc.StatusCode.OK
        await channel.close()
        await a.client.speak(b.peer_id, b"after", b"")
        assert await b.inbox.frames_from(a.peer_id, b"after") == [b"after"]

    with_two(scene)


def test_a_stranger_opens_no_stream() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        async with NetPeer() as stranger:
            stranger.trust(b)
            with pytest.raises((Unreachable, Refused)):
                await stranger.client.speak(b.peer_id, b"let me in", b"")
        assert not b.inbox.frames

    with_two(scene)


def test_who_leaves_the_roster_loses_its_stream_both_ways() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        await a.client.speak(b.peer_id, b"still in", b"")
        await b.inbox.frames_from(a.peer_id, b"still in")
        b.trust(b)
        with pytest.raises(Unreachable, match="no record"):
            await b.client.speak(a.peer_id, b"still there?", b"")
        with pytest.raises(Refused, match="not that of a peer on the roster"):
            await speak_until_refused(a, b)
        assert b.server.refused["stranger"] >= 2
        assert [header for _, header, _ in b.inbox.frames] == [b"still in"]
        assert not a.inbox.frames

    with_two(scene)


def test_a_peer_is_not_heard_on_the_stream_to_one_that_left() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        await a.client.speak(b.peer_id, b"hello", b"")
        await b.inbox.frames_from(a.peer_id, b"hello")
        a.trust(a)
        await b.client.speak(a.peer_id, b"hello back", b"")
        with pytest.raises((Unreachable, Refused)):
            await speak_until_refused(b, a)
        assert not a.inbox.frames
        assert a.streams.refused["stranger"] >= 1

    with_two(scene)


def test_one_peers_streams_are_bounded_and_leave_room_for_its_calls() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        channel, stub = stub_of(a, b)
        calls = [stub.Stream() for _ in range(6)]
        ended = asyncio.as_completed([call.code() for call in calls])
        assert [await next(ended) for _ in range(2)] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
        with pytest.raises(Refused, match="4 of your calls are running"):
            await a.client.speak(b.peer_id, b"a fifth", b"")
        await asyncio.gather(*(a.client.tell(b.peer_id, b"%d" % at) for at in range(6)))
        assert len(b.inbox.told) == 6
        await channel.close()

    with_two(scene)


def test_a_peer_without_chains_says_so() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        server = MembersServer(b.store, KeepingInbox())
        port = await server.start("127.0.0.1:0")
        a.store.set({b.peer_id: b.record.model_copy(update={"members": f"127.0.0.1:{port}"})})
        with pytest.raises(Refused, match="takes part in no chain"):
            await a.client.speak(b.peer_id, b"hello", b"")
        await a.client.close()
        await server.stop()

    with_two(scene)


def test_a_client_that_closes_can_speak_again() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        for header in (b"one", b"two"):
            await a.client.speak(b.peer_id, header, b"")
            await b.inbox.frames_from(a.peer_id, header)
            await a.client.close()
        assert [header for _, header, _ in b.inbox.frames] == [b"one", b"two"]

    with_two(scene)


def test_a_connection_that_is_closed_under_a_speaker_is_no_cancellation() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        b.inbox.takes_frames.clear()
        speaking = asyncio.create_task(fill(a, b, []))
        await asyncio.wait([speaking], timeout=0.5)
        await a.client.close()
        with pytest.raises(Unreachable, match="took nothing for 1 s"):
            await speaking

    with_two(scene, a_waits=1.0)


# -- what sockets do only sometimes -------------------------------------------------------------------------


class Call:
    """The server's end of a call, by hand: `comes` is what its client sends; it takes nothing."""

    def __init__(self) -> None:
        self.comes: asyncio.Queue[Frame] = asyncio.Queue()
        self.writes = 0

    async def send_initial_metadata(self, _: object) -> None:
        pass

    async def read(self) -> Frame:
        return await self.comes.get()

    async def write(self, _: Frame) -> None:
        self.writes += 1
        await asyncio.Event().wait()


class TrustsAll:
    """A store that takes every caller for one peer, and knows no addresses."""

    def caller(self, _: object) -> PeerID:
        return PEERS[0]

    def record(self, _: PeerID) -> None:
        return None


class OneAtATime:
    """Takes frames when it is let, and notices two at once."""

    def __init__(self) -> None:
        self.came: list[bytes] = []
        self.may_go_on = asyncio.Event()
        self._busy = False

    async def on_frame(self, _sender: PeerID, header: bytes, _tensor: bytes) -> None:
        assert not self._busy
        self.came.append(header)
        self._busy = True
        await self.may_go_on.wait()
        self._busy = False


async def until_all_wait() -> None:
    """Let every task go on until it can do no more."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_what_an_abandoned_stream_still_holds_is_dropped() -> None:
    async def run() -> None:
        inbox = OneAtATime()
        streams = Streams(cast(TrustStore, TrustsAll()), inbox)
        old, new = Call(), Call()
        tasks = [asyncio.create_task(streams.answer(PEERS[0], call)) for call in (old, new)]
        for header in (b"1", b"2", b"3"):
            old.comes.put_nowait(Frame(header=header))
        await until_all_wait()
        new.comes.put_nowait(Frame(header=b"4"))
        await until_all_wait()
        assert inbox.came == [b"1"]
        inbox.may_go_on.set()
        await until_all_wait()
        assert inbox.came == [b"1", b"4"]
        assert dict(streams.refused) == {"late": 2}
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def test_nothing_is_written_after_a_frame_that_was_cut_off() -> None:
    async def run() -> None:
        streams = Streams(cast(TrustStore, TrustsAll()), OneAtATime(), slab_seconds=0)
        call = Call()
        answering = asyncio.create_task(streams.answer(PEERS[0], call))
        await until_all_wait()

        async def connect(_: PeerID) -> NoReturn:
            raise Unreachable("nobody there")

        with pytest.raises(Unreachable, match="took nothing"):
            await streams.speak(PEERS[0], b"one", b"", connect)
        with pytest.raises(Unreachable, match="nobody there"):
            await streams.speak(PEERS[0], b"two", b"", connect)
        assert call.writes == 1
        answering.cancel()

    asyncio.run(run())
