"""The members port over real sockets: who gets in, and what a broken or hostile transfer costs."""

import asyncio
import datetime
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from net_peers import NetPeer

from proto.edgeswarm_pb2 import Slab, Statement
from proto.edgeswarm_pb2_grpc import MembersStub
from proto.errors import MessageRefused
from swarm.net.members import MAX_HEADER
from swarm.net.rpc import PortTaken, Refused, Unreachable, open_channel, open_port
from swarm.net.tls import channel_credentials, members_server_credentials
from verify.identity import TlsCertificate, certificate_der

SIZE = 1_300_000  # more than two slabs


def with_two(scene: Callable[[NetPeer, NetPeer], Awaitable[None]], slab_seconds: float = 30.0) -> None:
    """Run a scene between two peers that trust each other. `slab_seconds`: what `b` waits for a slab."""

    async def run() -> None:
        async with NetPeer(SIZE) as a, NetPeer(SIZE, slab_seconds=slab_seconds) as b:
            a.trust(a, b)
            b.trust(a, b)
            await scene(a, b)

    asyncio.run(run())


def slab_stub(sender: NetPeer, receiver: NetPeer) -> tuple[grpc.aio.Channel, MembersStub]:
    credentials = channel_credentials(receiver.record.certificate, sender.store.own)
    channel = open_channel(receiver.record.members, credentials)
    return channel, MembersStub(channel)


async def send_slabs(sender: NetPeer, receiver: NetPeer, slabs: list[Slab]) -> grpc.aio.AioRpcError:
    """Send these slabs by hand; the error that comes back."""

    async def stream() -> AsyncIterator[Slab]:
        for slab in slabs:
            yield slab

    channel, stub = slab_stub(sender, receiver)
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Transfer(stream(), timeout=5)
        return caught.value
    finally:
        await channel.close()


def test_a_roster_member_is_heard_under_its_own_name() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        await a.client.tell(b.peer_id, b"hello")
        await b.client.tell(a.peer_id, b"hello back")
        assert b.inbox.told == [(a.peer_id, b"hello")]
        assert a.inbox.told == [(b.peer_id, b"hello back")]

    with_two(scene)


def test_data_arrives_whole() -> None:
    data = os.urandom(SIZE)

    async def scene(a: NetPeer, b: NetPeer) -> None:
        await a.client.transfer(b.peer_id, b"part 1", memoryview(data))
        assert b.inbox.filled == [(a.peer_id, b"part 1", data)]

    with_two(scene)


def test_what_the_inbox_refuses_comes_back_as_its_words() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        with pytest.raises(Refused, match="that is nonsense"):
            await a.client.tell(b.peer_id, b"nonsense")
        with pytest.raises(Refused, match="nobody asked for this"):
            await a.client.transfer(b.peer_id, b"unasked", memoryview(bytes(SIZE)))
        assert b.server.refused["refused"] == 2
        assert (b.inbox.told, b.inbox.filled) == ([], [])

    with_two(scene)


def test_a_stranger_with_a_valid_certificate_is_refused() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        async with NetPeer() as stranger:
            stranger.trust(b)
            with pytest.raises((Unreachable, Refused)):
                await stranger.client.tell(b.peer_id, b"let me in")
        assert not b.inbox.told

    with_two(scene)


def minted_by(signer: TlsCertificate, imitated: x509.Certificate) -> TlsCertificate:
    """A certificate of a fresh key that looks like `imitated` and is signed with `signer`'s key."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer_key = serialization.load_pem_private_key(signer.key_pem, None)
    assert isinstance(signer_key, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(signer.certificate_pem)
    builder = (
        x509.CertificateBuilder(subject_name=imitated.subject, issuer_name=issuer.subject)
        .public_key(key.public_key())
        .serial_number(imitated.serial_number)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC))
    )
    for extension in imitated.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    leaf = builder.sign(signer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_pem = key.private_bytes(serialization.Encoding.PEM, *plain)
    return TlsCertificate(leaf + signer.certificate_pem, key_pem)


def test_a_leaf_minted_by_a_member_in_anothers_name_is_refused() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        async with NetPeer() as victim:
            b.trust(a, b, victim)
            imitated = x509.load_pem_x509_certificate(victim.store.own.certificate_pem)
            minted = minted_by(a.store.own, imitated)
            channel = open_channel(b.record.members, channel_credentials(b.record.certificate, minted))
            with pytest.raises(grpc.aio.AioRpcError):
                await MembersStub(channel).Tell(Statement(raw=b"I am the victim"), timeout=5)
            await channel.close()
        assert not b.inbox.told

    with_two(scene)


def test_a_removed_peer_is_refused_on_its_live_connection() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        await a.client.tell(b.peer_id, b"still in")
        b.trust(b)
        with pytest.raises(Refused, match="not that of a peer on the roster"):
            await a.client.tell(b.peer_id, b"still in?")
        assert b.server.refused["stranger"] == 1
        assert b.inbox.told == [(a.peer_id, b"still in")]

    with_two(scene)


def test_a_peer_that_is_removed_during_its_transfer_is_cut_off() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        channel, stub = slab_stub(a, b)
        call = stub.Transfer(timeout=5)
        await call.write(Slab(header=b"part"))
        await b.inbox.asked.wait()
        b.trust(b)
        await call.write(Slab(data=bytes(10)))
        with pytest.raises(grpc.aio.AioRpcError, match="left the roster"):
            await call
        await channel.close()
        assert not b.inbox.filled

    with_two(scene)


def test_a_peer_that_joins_the_roster_gets_in_without_a_restart() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        async with NetPeer() as late:
            late.trust(b)
            b.trust(a, b, late)
            await late.client.tell(b.peer_id, b"here I am")
            assert b.inbox.told == [(late.peer_id, b"here I am")]

    with_two(scene)


def test_a_peer_that_moved_is_found_at_its_new_record() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        await a.client.tell(b.peer_id, b"before")
        await b.server.stop()
        async with NetPeer(certificate=b.store.own) as moved:
            moved.trust(a)
            a.store.set({b.peer_id: moved.record})
            await a.client.tell(b.peer_id, b"after")
            assert moved.inbox.told == [(a.peer_id, b"after")]

    with_two(scene)


def test_a_server_that_shows_another_certificate_gets_nothing() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        async with NetPeer() as imposter:
            imposter.trust(a)
            a.store.set({b.peer_id: b.record.model_copy(update={"members": imposter.record.members})})
            with pytest.raises(Unreachable):
                await a.client.tell(b.peer_id, b"for b only")
            assert not imposter.inbox.told

    with_two(scene)


def test_a_peer_without_a_record_is_unreachable_by_name() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        a.trust(a)
        with pytest.raises(Unreachable, match=b.peer_id):
            await a.client.tell(b.peer_id, b"hello")

    with_two(scene)


@pytest.mark.parametrize(
    ("slabs", "reason"),
    [
        ([Slab(header=b"h"), Slab(data=bytes(SIZE)), Slab(data=b"x")], "oversize"),
        ([Slab(header=b"h"), Slab(data=bytes(SIZE - 1))], "truncated"),
        ([Slab(header=b"h")], "truncated"),
        ([], "malformed"),
        ([Slab(data=b"no header")], "malformed"),
        ([Slab(header=b"h", data=b"both")], "malformed"),
        ([Slab(header=bytes(MAX_HEADER + 1))], "malformed"),
        ([Slab(header=b"h"), Slab(data=bytes(5)), Slab(header=b"again")], "malformed"),
        ([Slab(header=b"h"), Slab()], "malformed"),
    ],
)
def test_a_broken_transfer_is_refused_counted_and_never_reaches_the_inbox(
    slabs: list[Slab], reason: str
) -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        error = await send_slabs(a, b, slabs)
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert dict(b.server.refused) == {reason: 1}
        assert not b.inbox.filled
        data = os.urandom(SIZE)
        await a.client.transfer(b.peer_id, b"now right", memoryview(data))
        assert b.inbox.filled == [(a.peer_id, b"now right", data)]

    with_two(scene)


def test_a_stalled_transfer_is_cut_and_leaves_room_for_the_next() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        channel, stub = slab_stub(a, b)
        call = stub.Transfer(timeout=5)
        await call.write(Slab(header=b"slow"))
        with pytest.raises(grpc.aio.AioRpcError, match="nothing came for"):
            await call
        await channel.close()
        assert dict(b.server.refused) == {"stalled": 1}
        await a.client.transfer(b.peer_id, b"fast", memoryview(bytes(SIZE)))

    with_two(scene, slab_seconds=1.0)


def test_a_message_above_the_wire_limit_does_not_get_through() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        with pytest.raises(Refused, match="larger than max"):
            await a.client.tell(b.peer_id, bytes(5 << 20))
        with pytest.raises(Refused, match="at most"):
            await a.client.tell(b.peer_id, bytes(3 << 20))
        assert not b.inbox.told

    with_two(scene)


def test_a_sender_that_floods_is_told_to_wait() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        channel, stub = slab_stub(a, b)
        calls = [stub.Transfer(timeout=20) for _ in range(12)]
        ended = asyncio.as_completed([call.code() for call in calls])  # eight wait for a slab
        assert [await next(ended) for _ in range(4)] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 4
        for call in calls:
            call.cancel()
        assert (
            sorted([(await call.code()).name for call in calls])
            == ["CANCELLED"] * 8 + ["RESOURCE_EXHAUSTED"] * 4
        )
        assert b.server.refused["busy"] == 4
        await channel.close()

    with_two(scene)


def test_a_record_with_anothers_certificate_is_not_trusted() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        with pytest.raises(MessageRefused, match="belongs to another"):
            a.store.set({a.peer_id: b.record})
        assert a.store.record(b.peer_id) is not None  # the roster of before stands

    with_two(scene)


def test_a_port_that_is_taken_is_named() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        with pytest.raises(PortTaken, match=str(b.port)):
            await open_port(grpc.aio.server(), f"127.0.0.1:{b.port}", members_server_credentials(a.store))

    with_two(scene)


def test_the_roots_are_our_own_leaf_and_the_rosters() -> None:
    async def scene(a: NetPeer, b: NetPeer) -> None:
        roots = x509.load_pem_x509_certificates(a.store.roots())
        leaves = {root.public_bytes(serialization.Encoding.DER) for root in roots}
        assert leaves == {a.record.certificate, certificate_der(b.store.own.certificate_pem)}

    with_two(scene)
