"""Peer records: only a peer itself can say where it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from net_peers import peer_record
from pydantic import ValidationError

from proto.errors import MessageRefused
from swarm.net.peer_record import open_peer_record, split_address
from verify.identity import Identity, certificate_der, make_certificate
from verify.statement import sign

ALICE, BOB = Identity.from_seed(b"a" * 32), Identity.from_seed(b"b" * 32)
LEAF = certificate_der(make_certificate(ALICE).certificate_pem)


def test_a_record_opens_to_what_was_signed() -> None:
    signed = open_peer_record(sign(ALICE, peer_record(LEAF, 31337)))
    assert (signed.signer, signed.message.members) == (ALICE.peer_id, "127.0.0.1:31337")


def test_a_record_with_anothers_certificate_is_refused() -> None:
    with pytest.raises(MessageRefused, match="a certificate of"):
        open_peer_record(sign(BOB, peer_record(LEAF)))


def test_a_certificate_that_is_not_der_is_refused() -> None:
    with pytest.raises(MessageRefused, match="not DER"):
        open_peer_record(sign(ALICE, peer_record(make_certificate(ALICE).certificate_pem)))


@given(st.binary(max_size=5000))
def test_noise_is_refused(raw: bytes) -> None:
    with pytest.raises(MessageRefused):
        open_peer_record(raw)


@given(st.data())
def test_a_changed_record_is_refused(data: st.DataObject) -> None:
    raw = bytearray(sign(ALICE, peer_record(LEAF)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MessageRefused):
        open_peer_record(bytes(raw))


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        ":1",
        "host:70000",
        "::1:80",
        "[::1]",
        "[zz]:1",
        "a b:1",
        "unix:/etc/x",
        "-a:1",
        "h:1:2",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        split_address(address)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("203.0.113.5:80", ("203.0.113.5", 80)),
        ("node.example.org:1", ("node.example.org", 1)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
    ],
)
def test_hosts_names_and_bracketed_ipv6_are_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80", "host:0"])
def test_an_address_that_names_no_machine_cannot_be_announced(address: str) -> None:
    with pytest.raises(ValidationError, match="names no machine"):
        peer_record(LEAF).__class__.model_validate(peer_record(LEAF).model_dump() | {"members": address})
