"""What comes over the public port, as bytes of protobuf: answered or refused, whatever the bytes say."""

import asyncio
from hashlib import sha256
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Wire

from proto import edgeswarm_pb2
from swarm.library import RunLibrary
from swarm.net.public import MAX_ANSWER, PublicServer
from swarm.net.rpc import failure
from swarm.net.tls import TrustStore
from swarm.store import Store
from tests.fuzz import seeds
from tests.fuzz.mutate import Mutator, Outcomes
from tests.verify import chain
from tests.verify.chain import KEYS, PEERS
from verify.identity import make_certificate
from verify.statement import sign

LARGE = bytes(range(256)) * 300
SNAPSHOT = seeds.small_snapshot()[0].hash


@pytest.fixture
def library(tmp_path: Path) -> RunLibrary:
    """What a peer serves from its store: some records, entries, a large content and a snapshot."""
    history = chain.begin(4)
    genesis = sign(KEYS[PEERS[0]], history.genesis)
    store = Store(tmp_path, history.run)
    store.save_genesis(genesis)
    for _ in range(3):
        raw = chain.decided(history, chain.record_after(history))
        store.save_decided((history.round + 1, 0), raw)
        history = history.extend(raw)
    store.ledger.append([("note", bytes([at])) for at in range(5)])
    store.ledger.append([("note", LARGE)])
    snapshot, _ = seeds.small_snapshot()
    snapshot.write(store.snapshots)
    return RunLibrary(KEYS[PEERS[0]], history.run, store, lambda: {"round": 3}, take, lambda count: None)


def take(raw: bytes) -> None:
    """A statement that came in is one for a record, or refused."""
    seeds.grown().subject(raw)


REQUESTS = {
    "Genesis": edgeswarm_pb2.Empty(),
    "Records": edgeswarm_pb2.RecordsRequest(start=3, limit=10),
    "SnapshotIndex": edgeswarm_pb2.SnapshotRequest(hash=SNAPSHOT),
    "SnapshotPiece": edgeswarm_pb2.PieceRequest(hash=SNAPSHOT, index=0),
    "Status": edgeswarm_pb2.Empty(),
    "LedgerHead": edgeswarm_pb2.Empty(),
    "LedgerEntries": edgeswarm_pb2.LedgerRequest(start=1, limit=300),
    "LedgerProof": edgeswarm_pb2.LedgerProofRequest(kind=1, index=2, old_size=3, size=4),
    "Large": edgeswarm_pb2.PieceRequest(hash=sha256(LARGE).digest(), index=0),
    "Join": edgeswarm_pb2.Statement(raw=seeds.carried(seeds.grown())[0]),
}


class Aborted(Exception):
    """What gRPC raises in a handler that aborts its call."""


class Call:
    """The side of a call that a handler sees."""

    def __init__(self) -> None:
        self.said = 0

    async def write(self, message: Wire) -> None:
        self.said += message.ByteSize()

    async def abort(self, code: grpc.StatusCode, text: str) -> None:
        assert code is not grpc.StatusCode.OK
        assert text
        raise Aborted(text)


def test_whatever_a_caller_sends_to_the_public_port_is_answered_or_refused(library: RunLibrary) -> None:
    async def ask() -> Outcomes:
        server = PublicServer(TrustStore(make_certificate(KEYS[PEERS[0]])), library)
        outcomes = Outcomes()
        for method, request in REQUESTS.items():
            mutator = Mutator(f"wire {method}", [request.SerializeToString()])
            for raw in mutator.inputs(2_000):
                try:
                    found = type(request).FromString(raw)
                except DecodeError:
                    continue  # gRPC refuses it before it gets here
                call = Call()
                try:
                    await getattr(server, method)(found, call)
                    outcomes.taken += 1
                    assert call.said <= 2 * MAX_ANSWER
                except Aborted as refusal:
                    outcomes.refused += 1
                    outcomes.reasons.add(str(refusal)[:24])
        await server.stop()
        return outcomes

    outcomes = asyncio.run(ask())
    outcomes.check(various=5, taken=len(REQUESTS))


def test_what_a_server_says_of_a_failed_call_is_shown_harmlessly() -> None:
    mutator = Mutator("details", [b"the roster has no such peer\x1b[2J"])
    for raw in mutator.inputs(3_000):
        shown = str(failure(grpc.StatusCode.FAILED_PRECONDITION, raw.decode(errors="replace"), PEERS[0]))
        assert shown.isprintable()
        assert len(shown) < 1_000
