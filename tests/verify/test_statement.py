"""Signed statements: what is opened is exactly what its signer signed, and nothing else escapes."""

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import MAX_MESSAGE, Message
from proto.errors import MessageRefused
from tests.verify.chain import KEYS, PEERS
from verify.record import Goodbye, Invitation, Vote
from verify.statement import BadSignature, domain_of, open_signed, sign

ME = KEYS[PEERS[0]]
GOODBYE = Goodbye(run=bytes(32), round=3)
RAW = sign(ME, GOODBYE)


class Farewell(Message):
    """The same fields as a goodbye under another domain."""

    DOMAIN = "farewell"
    run: bytes
    round: int


def test_a_statement_is_opened_with_its_signer_and_its_bytes() -> None:
    signed = open_signed(RAW, Goodbye)
    assert (signed.signer, signed.message, signed.raw) == (ME.peer_id, GOODBYE, RAW)
    assert domain_of(RAW) == "goodbye"
    assert open_signed(RAW, Goodbye) == signed  # once more, from the remembered check


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, flip: int) -> None:
    changed = RAW[:at] + bytes([RAW[at] ^ flip]) + RAW[at + 1 :]
    with pytest.raises(MessageRefused):
        open_signed(changed, Goodbye)


def test_another_kind_another_signer_and_another_length_are_refused() -> None:
    domain, signer, body, signature = cbor2.loads(RAW)
    other = PEERS[1]
    wrong = [
        [domain, other, body, signature],
        ["farewell", signer, body, signature],
        [domain, signer, body, KEYS[other].sign(domain, body)],
        [domain, signer, body, signature[:-1]],
        [domain, signer, body, signature + b"\0"],
        [domain, signer, body, b""],
        [domain, signer[:-1], body, signature],
        [domain, "12D3KooW" + "1" * 44, body, signature],
        [domain, "", body, signature],
        [domain, signer, body],
        [domain, signer, body, signature, b""],
        [domain, signer.encode(), body, signature],
        {"domain": domain},
        [domain * 30, signer, body, signature],
    ]
    for fields in wrong:
        with pytest.raises(MessageRefused):
            open_signed(cbor2.dumps(fields), Goodbye)
    for raw in (RAW + b"\0", RAW[:-1], b"\x9f" + RAW[1:] + b"\xff", b"", bytes(MAX_MESSAGE + 1)):
        with pytest.raises(MessageRefused):
            open_signed(raw, Goodbye)


def test_a_signature_of_one_kind_never_passes_for_another() -> None:
    moved = cbor2.dumps(["goodbye", ME.peer_id, GOODBYE.encode(), ME.sign("farewell", GOODBYE.encode())])
    with pytest.raises(BadSignature):
        open_signed(moved, Goodbye)
    with pytest.raises(MessageRefused, match="belongs"):
        open_signed(RAW, Vote)


def test_a_true_signature_over_a_body_of_another_kind_is_refused() -> None:
    body = Invitation(run=bytes(32), peer=PEERS[1]).encode()
    with pytest.raises(MessageRefused):
        open_signed(cbor2.dumps(["goodbye", ME.peer_id, body, ME.sign("goodbye", body)]), Goodbye)
    with pytest.raises(MessageRefused):
        open_signed(cbor2.dumps(["goodbye", ME.peer_id, b"\xff", ME.sign("goodbye", b"\xff")]), Goodbye)


def test_a_large_statement_is_checked_as_well() -> None:
    from secagg.messages import SetVote

    large = SetVote(session=bytes(32), survivor_set=bytes(32), seed=bytes(32), statements=(bytes(10_000),))
    raw = sign(ME, large)
    assert open_signed(raw, SetVote).message == large
    with pytest.raises(BadSignature):
        open_signed(raw[:-1] + bytes([raw[-1] ^ 1]), SetVote)


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_no_bytes_whatever_raise_anything_else(raw: bytes) -> None:
    for read in (domain_of, lambda raw: open_signed(raw, Vote)):
        with pytest.raises(MessageRefused):
            read(raw)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=60) | st.binary(max_size=60),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(st.lists(VALUES, min_size=4, max_size=4))
def test_no_well_formed_cbor_raises_anything_else(fields: list[object]) -> None:
    with pytest.raises(MessageRefused):
        open_signed(cbor2.dumps(fields), Goodbye)
