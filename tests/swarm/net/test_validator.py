"""What a DHT node agrees to keep, without a network: only records that their owner signed for their run."""

import time

import pytest
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord
from hivemind.utils import MSGPackSerializer
from hypothesis import given
from hypothesis import strategies as st
from net_peers import RUN_ID, peer_record

from swarm.net.dht import RunValidator, peers_key
from verify.identity import Identity, certificate_der, make_certificate
from verify.statement import sign

ALICE, BOB = Identity.from_seed(b"a" * 32), Identity.from_seed(b"b" * 32)
LEAF = certificate_der(make_certificate(ALICE).certificate_pem)
SIGNED = sign(ALICE, peer_record(LEAF))
FLAG_SUBKEY = bytes.fromhex("002408011220") + bytes(32)


def kept(subkey: object, value: object, key: str = peers_key(RUN_ID), seconds: float = 60.0) -> bool:
    pack = MSGPackSerializer.dumps
    key_id = DHTID.generate(source=key).to_bytes()
    record = DHTRecord(key_id, pack(subkey), pack(value), time.time() + seconds)
    return RunValidator().validate(record)


def test_a_signed_record_under_its_run_and_signer_is_kept() -> None:
    assert kept(ALICE.peer_id, SIGNED)


def test_a_signed_record_under_another_peers_name_is_refused() -> None:
    assert not kept(BOB.peer_id, SIGNED)


def test_a_signed_record_under_another_runs_key_is_refused() -> None:
    assert not kept(ALICE.peer_id, SIGNED, key=peers_key(bytes(32)))


def test_an_unsigned_record_is_refused() -> None:
    assert not kept(ALICE.peer_id, peer_record(LEAF).encode())


def test_a_record_that_would_stay_for_too_long_is_refused() -> None:
    assert not kept(ALICE.peer_id, SIGNED, seconds=700)
    assert not kept(ALICE.peer_id, SIGNED, seconds=float("inf"))
    assert not kept(ALICE.peer_id, SIGNED, seconds=float("nan"))


@pytest.mark.parametrize("flag", [True, False])
def test_matchmakings_flags_are_kept(flag: bool) -> None:
    assert kept(FLAG_SUBKEY, flag, key="0f.0b")


@pytest.mark.parametrize(
    ("subkey", "value"),
    [
        (None, True),
        (FLAG_SUBKEY, 1),
        (FLAG_SUBKEY, b"x"),
        (FLAG_SUBKEY + b"\0", True),
        (b"short", True),
        (None, SIGNED),
        (FLAG_SUBKEY, SIGNED),
        (ALICE.peer_id, bytes(5000)),
        (ALICE.peer_id, {"a": 1}),
        ("x" * 100, True),
    ],
)
def test_whatever_else_is_refused(subkey: object, value: object) -> None:
    assert not kept(subkey, value)


@given(st.binary(max_size=80), st.binary(max_size=200))
def test_noise_is_refused_and_does_not_raise(subkey: bytes, value: bytes) -> None:
    key = DHTID.generate(source=peers_key(RUN_ID)).to_bytes()
    accepted = RunValidator().validate(DHTRecord(key, subkey, value, time.time() + 1))
    assert not accepted or value in (b"\xc2", b"\xc3")
