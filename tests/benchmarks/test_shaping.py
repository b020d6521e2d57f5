"""The emulated link: its rate on a virtual clock, and that it changes no byte and hides no break."""

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.shaping import CREDIT_SECONDS, HOST, Line, Link, Shaper

FAST = Link(0.001, 1e9)
SLOW = Link(0.0, 1.0)
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@given(st.lists(st.integers(1, 16 << 10), min_size=1), st.floats(1e3, 1e9))
def test_bytes_that_wait_leave_at_the_rate_however_late_the_relay_is(sizes: list[int], rate: float) -> None:
    line = Line(rate)
    left = line.sent(0.0, 100.0, 1)
    for size in sizes:
        late = left + CREDIT_SECONDS / 2
        left = line.sent(late, late, size)
    assert left == pytest.approx(100.0 + (1 + sum(sizes)) / rate)


def test_a_line_that_was_idle_does_not_catch_up() -> None:
    line = Line(1_000.0)
    left = line.sent(0.0, 5.0, 1_000)
    assert left == 6.0
    assert line.sent(left, 9.0, 1_000) == 10.0
    assert line.sent(9.0, 9.5, 1_000) == 11.0


def test_a_line_that_was_held_up_does_not_catch_up_either() -> None:
    line = Line(1_000.0)
    assert line.sent(0.0, 5.0, 1_000) == 6.0
    assert line.sent(60.0, 60.0, 1_000) == 61.0


def test_what_comes_while_others_are_sent_waits() -> None:
    line = Line(1_000.0)
    assert line.sent(0.0, 5.0, 1_000) == 6.0
    assert line.sent(5.0, 5.5, 2_000) == 8.0


def through(link: Link, answer: Answer, scene: Answer) -> None:
    """Run a scene with a connection to a server that answers, over the link."""

    async def run() -> None:
        server = await asyncio.start_server(answer, HOST, 0)
        async with server, Shaper(link, server.sockets[0].getsockname()[1]) as shaper, asyncio.timeout(30):
            reader, writer = await asyncio.open_connection(HOST, shaper.port)
            await scene(reader, writer)
            writer.close()

    asyncio.run(run())


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100_000):
        writer.write(data)
    writer.close()


def test_every_byte_comes_back_and_so_does_the_end() -> None:
    sent = os.urandom(3_000_000)

    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == sent

    through(FAST, echo, scene)


def test_a_link_that_is_full_holds_its_sender_up() -> None:
    async def scene(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(50_000_000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.2)
        writer.transport.abort()

    through(SLOW, echo, scene)


def test_an_end_that_breaks_off_breaks_the_other() -> None:
    async def abort(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def scene(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        assert await reader.read() == b""

    through(FAST, abort, scene)


def test_nobody_behind_the_link_is_a_connection_that_ends() -> None:
    async def run() -> None:
        server = await asyncio.start_server(echo, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        async with Shaper(FAST, port) as shaper, asyncio.timeout(30):
            reader, _ = await asyncio.open_connection(HOST, shaper.port)
            assert await reader.read() == b""

    asyncio.run(run())
