"""The public port over real sockets: anyone may read, and nobody needs to be believed."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from net_peers import RUN_ID, peer_record

from proto.edgeswarm_pb2 import LedgerProofRequest
from proto.errors import MessageRefused, SwarmError
from proto.merkle import leaf_hash, root, verify_consistency, verify_inclusion
from swarm.net.public import (
    CONCURRENT_CALLS,
    MAX_ENTRIES,
    MAX_ENTRY,
    MAX_PROOF,
    MAX_RECORDS,
    PublicClient,
    PublicServer,
)
from swarm.net.rpc import PIECE, ClockSkew, Refused, Unreachable, require_clock
from swarm.net.tls import TrustStore
from verify.checkpoint import Checkpoint, origin_of, read_checkpoint, write_checkpoint
from verify.identity import Identity, certificate_der, make_certificate
from verify.ledger import INLINE, Entry, Ledger

DIGEST = bytes(32)
ALICE = Identity.from_seed(bytes(32))


@dataclass
class Shelf:
    index: bytes = b""
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    ledger: Ledger = field(default_factory=lambda: Ledger(":memory:", None, RUN_ID))
    # What a liar answers instead.
    entries: list[bytes] = field(default_factory=list)
    proof: list[bytes] = field(default_factory=list)
    piece: bytes = b""

    async def genesis(self) -> tuple[bytes, bytes]:
        return b"genesis", b"[run]\n"

    async def records(self, start: int, limit: int) -> list[bytes]:
        return [b"record %d" % number for number in range(start, start + limit)]

    async def snapshot_index(self, digest: bytes) -> bytes:
        return self.index

    async def snapshot_piece(self, digest: bytes, index: int) -> bytes:
        if index > 7:
            raise MessageRefused(f"the snapshot has 8 pieces, no piece {index}")
        return bytes([index]) * PIECE

    async def status(self) -> bytes:
        self.waiting += 1
        await self.answers.wait()
        return b"{}"

    async def join(self, raw: bytes) -> bytes:
        return b"answer to " + raw

    async def ledger_head(self) -> str:
        return write_checkpoint(Checkpoint(origin_of(RUN_ID, ALICE.peer_id), *self.ledger.head()), ALICE)

    async def ledger_entries(self, start: int, limit: int) -> list[bytes]:
        return self.entries or self.ledger.entries(start, limit)

    async def ledger_inclusion(self, index: int, size: int) -> list[bytes]:
        return self.proof or self.ledger.inclusion(index, size)

    async def ledger_consistency(self, old: int, new: int) -> list[bytes]:
        return self.proof or self.ledger.consistency(old, new)

    async def large_piece(self, digest: bytes, index: int) -> bytes:
        return self.piece or self.ledger.large_piece(digest, index)


def with_port(scene: Callable[[Shelf, PublicServer, PublicClient], Awaitable[None]]) -> None:
    """Run a scene against a public port that holds a Shelf."""

    async def run() -> None:
        shelf, own = Shelf(), make_certificate(Identity.generate())
        server = PublicServer(TrustStore(own), shelf)
        port = await server.start("127.0.0.1:0")
        try:
            async with PublicClient(peer_record(certificate_der(own.certificate_pem), port)) as client:
                await scene(shelf, server, client)
        finally:
            await server.stop()

    asyncio.run(run())


def test_a_reader_without_a_certificate_gets_everything_it_asks_for() -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        shelf.index = os.urandom(2 * PIECE + 5)
        shelf.answers.set()
        assert await client.genesis() == (b"genesis", b"[run]\n")
        assert await client.records(5, 2) == [b"record 5", b"record 6"]
        assert await client.snapshot_index(DIGEST) == shelf.index
        assert await client.snapshot_piece(DIGEST, 7) == b"\x07" * PIECE
        assert await client.status() == b"{}"
        assert await client.join(b"me") == b"answer to me"
        assert not server.refused

    with_port(scene)


def test_records_come_in_bounded_answers() -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        assert len(await client.records(0, 10**6)) == MAX_RECORDS

    with_port(scene)


def test_what_the_library_refuses_is_said_and_counted() -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        with pytest.raises(Refused, match="no piece 8"):
            await client.snapshot_piece(DIGEST, 8)
        with pytest.raises(Refused, match="32 bytes, not 3"):
            await client.snapshot_index(b"abc")
        with pytest.raises(Refused, match="at most"):
            await client.join(bytes(3 << 20))
        assert dict(server.refused) == {"refused": 1, "malformed": 1, "oversize": 1}

    with_port(scene)


def test_a_stranger_reads_the_whole_ledger_and_need_not_believe_it() -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        big = os.urandom(2 * PIECE + 5)
        shelf.ledger.append([("vote", b"content %d" % n) for n in range(MAX_ENTRIES)])
        old = read_checkpoint(await client.ledger_head(), ALICE.peer_id)
        shelf.ledger.append([("vote", b"more"), ("evidence", big)])
        head = read_checkpoint(await client.ledger_head(), ALICE.peer_id)
        entries: list[bytes] = []
        while len(entries) < head.size:
            entries += await client.ledger_entries(len(entries))
        leaves = [leaf_hash(entry) for entry in entries]
        assert (head.size, head.root) == (MAX_ENTRIES + 2, root(leaves))
        proof = await client.ledger_inclusion(7, head.size)
        assert verify_inclusion(leaves[7], 7, head.size, proof, head.root)
        proof = await client.ledger_consistency(old.size, head.size)
        assert verify_consistency(old.size, head.size, old.root, head.root, proof)
        last = Entry.parse(entries[-1])
        assert await client.large(last.sha256, last.size) == big
        assert not server.refused

    with_port(scene)


def test_entries_come_in_bounded_answers() -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        shelf.ledger.append([("part-sum", bytes(INLINE))] * (MAX_ENTRIES + 5))
        assert len(await client.ledger_entries(0, 10**6)) == MAX_ENTRIES
        assert len(await client.ledger_entries(MAX_ENTRIES)) == 5
        assert await client.ledger_entries(2**63) == []

    with_port(scene)


def test_what_the_ledger_does_not_have_is_refused_with_its_size() -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        shelf.ledger.append([("vote", b"one"), ("vote", b"two")])
        for call in (
            client.ledger_inclusion(2, 2),
            client.ledger_inclusion(0, 2**64 - 1),
            client.ledger_consistency(2, 1),
            client.ledger_consistency(0, 2**64 - 1),
            client.large_piece(DIGEST, 0),
            client.large_piece(b"abc", 0),
            client._ask(client._stub.LedgerProof(LedgerProofRequest(kind=5), timeout=5)),  # type: ignore[arg-type]
        ):
            with pytest.raises(Refused, match=r"first 2|2 entries|one of 2|not kept|32 bytes|kind 5"):
                await call
        assert dict(server.refused) == {"refused": 5, "malformed": 2}

    with_port(scene)


def test_what_a_liar_sends_in_place_of_a_ledger_is_bounded_and_named() -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        shelf.entries = [bytes(MAX_ENTRY + 1)]
        with pytest.raises(SwarmError, match="65536 bytes, the largest has 65535"):
            await client.ledger_entries(0)
        shelf.entries = [b"entry"] * 9
        with pytest.raises(SwarmError, match="more than 8 items"):
            await client.ledger_entries(0, 8)
        for shelf.proof in ([bytes(32)] * (MAX_PROOF + 1), [bytes(31)]):
            for call in (client.ledger_inclusion(0, 1), client.ledger_consistency(0, 1)):
                with pytest.raises(MessageRefused, match="at most 128 hashes of 32"):
                    await call
        shelf.piece = bytes(PIECE + 1)
        with pytest.raises(MessageRefused, match="the largest has 1048576"):
            await client.large_piece(DIGEST, 0)
        for shelf.piece, size in ((bytes(5), 6), (bytes(5), 5), (bytes(PIECE), 5), (bytes(PIECE), 1 << 62)):
            with pytest.raises(MessageRefused, match="another size or hash"):
                await client.large(DIGEST, size)

    with_port(scene)


def test_an_answer_without_end_is_given_up() -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        shelf.index = bytes(17 * PIECE)
        with pytest.raises(SwarmError, match="more than"):
            await client.snapshot_index(DIGEST)

    with_port(scene)


def test_calls_above_the_limit_are_refused_at_once() -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        calls = {asyncio.create_task(client.status()) for _ in range(CONCURRENT_CALLS + 5)}
        while len(calls) > CONCURRENT_CALLS:
            refused, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            assert all(isinstance(call.exception(), Refused) for call in refused)
        shelf.answers.set()
        assert await asyncio.gather(*calls) == [b"{}"] * CONCURRENT_CALLS

    with_port(scene)


def test_a_closed_port_is_named_with_what_to_check() -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        await server.stop()
        with pytest.raises(Unreachable, match=rf"{client.address}.*firewall"):
            await client.genesis()

    with_port(scene)


def test_a_server_that_shows_another_certificate_is_not_read() -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        other = certificate_der(make_certificate(Identity.generate()).certificate_pem)
        async with PublicClient(peer_record(other, int(client.address.split(":")[1]))) as fooled:
            with pytest.raises(Unreachable):
                await fooled.genesis()

    with_port(scene)


def test_clocks_that_agree_pass_and_others_are_told_which_way_to_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(shelf: Shelf, server: PublicServer, client: PublicClient) -> None:
        shelf.answers.set()
        require_clock(await client.clock_offset())
        ahead = time.time_ns() + 60 * 10**9
        monkeypatch.setattr("swarm.net.public.time.time_ns", lambda: ahead)
        with pytest.raises(ClockSkew, match=r"(59|60)\.\d s behind.*Set your clock"):
            require_clock(await client.clock_offset())

    with_port(scene)
