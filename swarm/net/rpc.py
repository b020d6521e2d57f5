"""What both gRPC ports share: the errors a caller sees, the limits of every call, and how a port is opened.

`Transport`, `Inbox` and, for chains, `FrameInbox` are the whole of what a round needs from the network;
members.py and streams.py carry them over gRPC, and another carrier needs nothing else. Calls have deadlines,
messages have bounds, and what the other side says about its refusal is quoted as its word, never trusted.
"""

from functools import cache
from typing import Any, Protocol

import grpc

from proto.canonical import PeerID
from proto.errors import SwarmError
from swarm.net.peer_record import split_address
from swarm.net.tls import CHANNEL_NAME, CONNECTION_AGE_MS

CALL_SECONDS = 10.0
"""The deadline of a call that moves one message."""
STOP_SECONDS = 0.5
SLAB = 512 << 10
"""Bytes of data in one message of a stream."""
PIECE = 1 << 20
"""Bytes of one piece of a snapshot."""
MAX_WIRE_MESSAGE = 4 << 20
GO_ON = "go-on"
"""The receiver's word that it takes what comes. Data sent before it would hide why it was refused."""
CLOCK_TOLERANCE_SECONDS = 3.0
_QUOTE = 300  # characters of another peer's text that we repeat


class Unreachable(SwarmError):
    """A peer that does not answer."""


class Refused(SwarmError):
    """A peer that answered no. The text is its own."""

    exit_code = 1


class PortTaken(SwarmError):
    """A port that we cannot listen on."""


class ClockSkew(SwarmError):
    """Our clock and another peer's differ by more than a round can bear."""


class Speaker(Protocol):
    """How a member of chains sends. Raises Unreachable or Refused."""

    async def speak(self, to: PeerID, header: bytes, tensor: bytes) -> None:
        """Put a frame on the stream to a peer. Returns once there is room: a slow reader is waited for.

        Frames arrive in the order of the calls. Some may be lost, or one come twice, where a stream breaks.
        """


class Transport(Speaker, Protocol):
    """How a member sends. All raise Unreachable or Refused."""

    async def tell(self, to: PeerID, raw: bytes) -> None:
        """Deliver one signed statement."""

    async def transfer(self, to: PeerID, header: bytes, data: memoryview) -> None:
        """Deliver `data` under a signed header."""

    async def ask(self, to: PeerID, raw: bytes) -> list[bytes]:
        """Ask a signed question; the answer's statements, of at most MAX_ANSWER bytes in all."""


class Inbox(Protocol):
    """How a member receives. A MessageRefused raised here goes back to the sender as Refused."""

    async def on_tell(self, sender: PeerID, raw: bytes) -> None:
        """A signed statement came from `sender`, who may be passing on another's."""

    async def on_ask(self, sender: PeerID, raw: bytes) -> list[bytes]:
        """A signed question of `sender`: the statements that answer it."""

    async def expect(self, sender: PeerID, header: bytes) -> memoryview:
        """Check the header and give the writable buffer, of the exact size in bytes, that the data goes to.

        One transfer of a sender runs at a time; one that breaks off leaves the buffer partly written and
        is never followed by `on_transfer`, so a buffer counts as filled only there.
        """

    async def on_transfer(self, sender: PeerID, header: bytes, data: memoryview) -> None:
        """The buffer is full."""


class FrameInbox(Protocol):
    """How a member of a chain receives."""

    async def on_frame(self, sender: PeerID, header: bytes, tensor: bytes) -> None:
        """A frame came; a MessageRefused raised here drops it. Until this returns, `sender` is not read from.

        So it must not wait for what `sender` has to take: two peers that do would wait for each other. It is
        cancelled where the stream breaks.
        """


def server_options() -> list[tuple[str, Any]]:
    """gRPC settings of both ports."""
    return [
        ("grpc.so_reuseport", 0),  # or a second process would silently share the port
        ("grpc.max_receive_message_length", MAX_WIRE_MESSAGE),
        ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
        ("grpc.max_connection_age_grace_ms", 2 * CONNECTION_AGE_MS),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def open_channel(address: str, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    """A channel to "host:port" that tries again quickly after a failure. It connects at its first call."""
    options = [
        CHANNEL_NAME,
        ("grpc.use_local_subchannel_pool", 1),  # closing this channel closes its connection
        ("grpc.max_receive_message_length", MAX_WIRE_MESSAGE),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.enable_http_proxy", 0),
    ]
    _stay_up()
    # The scheme is spelt out: gRPC reads a host called "unix" or "ipv4" as one.
    return grpc.aio.secure_channel(f"dns:///{address}", credentials, options=options)


async def open_port(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Listen on "host:port" (port 0: any) and start serving. Returns the port. Raises PortTaken."""
    _stay_up()
    try:
        split_address(address)
        port: int = server.add_secure_port(address, credentials)
    except (RuntimeError, ValueError) as error:
        raise PortTaken(
            f"cannot listen on {address} ({error}): another process has the port, or the address is not this "
            "machine's; choose another with `--listen HOST:PORT`"
        ) from None
    await server.start()
    return port


def failure(code: grpc.StatusCode, details: str | None, who: str) -> SwarmError:
    """The named error of a failed call to `who`."""
    said = _quote(details or "no reason given")
    match code:
        case grpc.StatusCode.INTERNAL if said == "Internal error from Core":  # gRPC's word for a lost stream
            return Unreachable(f"the connection to {who} broke off")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return Unreachable(
                f"cannot reach {who} ({said}): check that it runs, that its port is open in the firewall, "
                "and that it announces an address that you can reach (`--announce HOST:PORT`)"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unreachable(f"{who} did not answer in time: it may be overloaded or its link may be down")
    return Refused(f"{who} refused: {said}")


def require_clock(offset: float) -> None:
    """Raises ClockSkew if another peer's clock is `offset` seconds from ours and that is too far."""
    if abs(offset) > CLOCK_TOLERANCE_SECONDS:
        raise ClockSkew(
            f"this machine's clock is {abs(offset):.1f} s {'behind' if offset > 0 else 'ahead of'} the "
            f"swarm's; at most {CLOCK_TOLERANCE_SECONDS:.0f} s is allowed. Set your clock: "
            "`sudo timedatectl set-ntp true` (Linux), or Settings > Date & Time > set automatically (macOS)"
        )


@cache
def _stay_up() -> None:
    # gRPC would end its poller with its last object, and can wait for it forever if a call was in flight.
    grpc.aio.init_grpc_aio()


def _quote(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:_QUOTE])
