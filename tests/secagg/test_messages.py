"""Session messages: names bind what they must, and sizes bound what a member can make others keep."""

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from proto.canonical import MAX_MESSAGE
from secagg.messages import (
    MAX_CELL,
    MAX_VOTE,
    Advert,
    Delivered,
    FinalSet,
    Receipt,
    SetVote,
    SurvivorSet,
    chunk_hashes,
    seed_commitment,
    session_id,
)
from tests.secagg.session_network import KEYS, advert_of
from verify.statement import sign

PEERS = sorted(KEYS)
ADVERTS = [sign(KEYS[p], advert_of(p)) for p in PEERS[:3]]


@pytest.mark.parametrize("name", ["run", "round", "attempt", "shard", "snapshot"])
def test_a_session_is_bound_to_where_it_happens(name: str) -> None:
    advert = advert_of(PEERS[0])
    value = bytes([1]) * 32 if name in ("run", "snapshot") else 7
    assert session_id(advert, ADVERTS) != session_id(advert_of(PEERS[0], **{name: value}), ADVERTS)


def test_a_session_is_bound_to_every_advert_and_not_to_their_order() -> None:
    advert = advert_of(PEERS[0])
    name = session_id(advert, ADVERTS)
    assert name == session_id(advert, ADVERTS[::-1])
    assert name != session_id(advert, ADVERTS[:2])
    for field, value in {
        "weight": 2,
        "tokens": 2,
        "loss": 2,
        "sequence": 2,
        "commitment": bytes([1]) * 32,
    }.items():
        changed = sign(KEYS[PEERS[2]], advert_of(PEERS[2], **{field: value}))
        assert session_id(advert, [*ADVERTS[:2], changed]) != name


@given(st.integers(0, 70), st.integers(1, 20))
def test_chunk_hashes_are_blake3_of_each_run_of_little_endian_elements(size: int, chunk: int) -> None:
    data = np.arange(size, dtype="<i2")
    hashes = chunk_hashes(data, chunk)
    raw = data.tobytes()
    assert hashes == tuple(blake3(raw[at : at + 2 * chunk]).digest() for at in range(0, len(raw), 2 * chunk))


def test_the_largest_honest_messages_fit() -> None:
    """32 members with 32 receipts each, and 32 votes as large as they may be."""
    receipt = sign(KEYS[PEERS[0]], Receipt(session=bytes(32), part=31, sender=PEERS[1], header=bytes(32)))
    delivered = sign(KEYS[PEERS[0]], Delivered(session=bytes(32), receipts=(receipt,) * MAX_CELL))
    survivors = (PEERS[0],) * MAX_CELL
    proposal = sign(
        KEYS[PEERS[0]],
        SurvivorSet(
            session=bytes(32), survivors=survivors, owners=survivors, delivered=(delivered,) * MAX_CELL
        ),
    )
    final = FinalSet(
        session=bytes(32), survivor_set=bytes(32), proposal=proposal, votes=(bytes(MAX_VOTE),) * MAX_CELL
    )
    raw = sign(KEYS[PEERS[0]], final)
    assert len(raw) <= MAX_MESSAGE
    with pytest.raises(ValidationError):
        final.model_validate({**final.model_dump(), "votes": (bytes(MAX_VOTE + 1),)})


def test_bounds_hold() -> None:
    for name, value in {
        "weight": 0,
        "round": -1,
        "tokens": 1 << 63,
        "snapshot": bytes(31),
        "loss": 1.5,
    }.items():
        with pytest.raises(ValidationError):
            Advert.model_validate({**advert_of(PEERS[0]).model_dump(), name: value})
    with pytest.raises(ValidationError):
        SetVote(session=bytes(32), survivor_set=bytes(32), seed=bytes(32), statements=(b"",) * 65)


def test_a_seed_is_not_what_is_shown_of_it() -> None:
    assert seed_commitment(bytes(32)) != bytes(32)
    assert seed_commitment(bytes(32)) != seed_commitment(bytes(31) + b"\1")
