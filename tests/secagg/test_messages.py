"""Session messages: names bind what they must, and sizes bound what a member can make others keep."""

from collections.abc import Mapping
from typing import Any

import cbor2
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import secagg.messages
from proto.canonical import MAX_MESSAGE, Message
from proto.energy import EnergyClaim
from proto.errors import MessageRefused
from secagg.interface import FROM
from secagg.messages import (
    MAX_CELL,
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MAX_SHARDS,
    MAX_STATEMENT,
    MAX_VOTE,
    SEALED_BYTES,
    SHARE_BYTES,
    Advert,
    Disclosure,
    FinalSet,
    Opening,
    Part,
    PartSum,
    Ready,
    ReadySet,
    Receipt,
    Release,
    SessionMessage,
    SetVote,
    ShareList,
    ShareLists,
    Shown,
    SurvivorSet,
    chunk_hashes,
    seed_commitment,
    session_id,
)
from tests.secagg.session_network import KEYS, advert_of
from verify.identity import Identity
from verify.statement import open_signed, sign

PEERS = sorted(KEYS)
SIGNER = KEYS[PEERS[0]]
ADVERTS = [sign(KEYS[p], advert_of(p)) for p in PEERS[:3]]
CELL = tuple(sorted(Identity.from_seed(bytes([90, index]) + bytes(30)).peer_id for index in range(MAX_CELL)))
MOST_HASHES = 30_000
DIGEST = b"\xff" * 32
BIGGEST = (1 << 63) - 1


# ---- names


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
    fields = {
        "weight": 2,
        "tokens": 2,
        "loss": 2,
        "sequence": 2,
        "commitment": DIGEST,
        "seed_commitment": DIGEST,
        "seal_key": DIGEST,
        "mask_key": DIGEST,
        "accused": (PEERS[0],),
    }
    for field, value in fields.items():
        changed = sign(KEYS[PEERS[2]], advert_of(PEERS[2], **{field: value}))
        assert session_id(advert, [*ADVERTS[:2], changed]) != name


@given(st.integers(0, 70), st.integers(1, 20))
def test_chunk_hashes_are_blake3_of_each_run_of_little_endian_elements(size: int, chunk: int) -> None:
    data = np.arange(size, dtype="<i2")
    hashes = chunk_hashes(data, chunk)
    raw = data.tobytes()
    assert hashes == tuple(blake3(raw[at : at + 2 * chunk]).digest() for at in range(0, len(raw), 2 * chunk))


def test_a_seed_is_not_what_is_shown_of_it() -> None:
    assert seed_commitment(bytes(32)) != bytes(32)
    assert seed_commitment(bytes(32)) != seed_commitment(bytes(31) + b"\1")


# ---- every message is read as it was written


def up_to(count: int, items: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, min_size=least, max_size=min(count, 4)).map(tuple)


LARGEST_CLAIM = EnergyClaim(
    source="~" * 160,
    uncertainty=100_000,
    spent=("measured", BIGGEST, BIGGEST, BIGGEST),
    network_bytes=BIGGEST,
    tokens=BIGGEST,
    milliseconds=BIGGEST,
    grid=(2_000_000, "~" * 160),
    embodied=BIGGEST,
)

digests = st.binary(min_size=32, max_size=32)
counts = st.integers(0, BIGGEST)
statements = st.binary(max_size=200)
peers = st.sampled_from(PEERS)
part_numbers = st.integers(0, MAX_CELL - 1)
FIELDS: dict[type[Message], dict[str, st.SearchStrategy[Any]]] = {
    Advert: {
        **dict.fromkeys(("run", "snapshot", "commitment", "seed_commitment", "head_root"), digests),
        **dict.fromkeys(("seal_key", "mask_key", "data_root"), st.none() | digests),
        **dict.fromkeys(("round", "attempt", "sequence", "tokens"), counts),
        "shard": st.integers(0, MAX_SHARDS - 1),
        **dict.fromkeys(("loss", "heldout", "data_count", "head_size"), counts),
        "weight": st.integers(0, 1 << 16),
        "accused": up_to(MAX_CELL, peers),
        "energy": st.sampled_from([None, LARGEST_CLAIM]),
        "chains": up_to(3, up_to(3, statements)),
    },
    ShareList: {
        "sealed": up_to(MAX_CELL, st.binary(max_size=SEALED_BYTES)),
        **dict.fromkeys(("mask_shares", "seed_shares", "pair_roots"), up_to(MAX_CELL, digests)),
        "threshold": st.integers(1, MAX_CELL),
        "chunks": st.integers(1, MAX_CHUNKS),
    },
    ShareLists: {"lists": up_to(MAX_CELL, statements)},
    Ready: {"lists": digests},
    ReadySet: {"ready": up_to(MAX_CELL, statements)},
    Part: {"part": part_numbers, "hashes": up_to(MOST_HASHES, digests)},
    Receipt: {
        "part": part_numbers,
        "senders": up_to(MAX_CELL, peers, 1),
        "headers": up_to(MAX_CELL, digests, 1),
    },
    SurvivorSet: {"survivors": up_to(MAX_CELL, peers, 1), "receipts": up_to(MAX_CELL, statements)},
    SetVote: {"survivor_set": digests, "seed": st.none() | digests, "statements": up_to(64, statements)},
    FinalSet: {"survivor_set": digests, "proposal": statements, "votes": up_to(MAX_CELL, statements)},
    Release: {
        "survivor_set": digests,
        "seed": st.none() | digests,
        "shares": up_to(MAX_CELL, st.binary(max_size=SHARE_BYTES)),
    },
    PartSum: {"part": part_numbers, "survivor_set": digests, "hashes": up_to(MOST_HASHES, digests)},
    Shown: {"chunk": counts, "header": statements, "data": statements},
    Opening: {
        "chunk": counts,
        "keys": up_to(MAX_CELL, digests),
        "proofs": up_to(MAX_CELL, up_to(40, digests)),
    },
    Disclosure: {"kind": st.sampled_from(["seal", "mask"]), "key": digests},
}
KINDS = sorted(FIELDS, key=lambda kind: kind.DOMAIN)
by_domain = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DOMAIN)


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    session = {} if kind is Advert else {"session": digests}
    return st.fixed_dictionaries({**session, **FIELDS[kind]}).map(kind.model_validate)


def test_every_message_is_tested_here() -> None:
    defined = {
        value
        for value in vars(secagg.messages).values()
        if isinstance(value, type) and issubclass(value, Message) and "DOMAIN" in vars(value)
    } - {EnergyClaim}
    assert defined == set(KINDS)
    assert all(set(kind.model_fields) - {"session"} == set(FIELDS[kind]) for kind in KINDS)
    assert set(FROM) == defined - {Advert, Part, PartSum}, "what a session understands, besides headers"


@by_domain
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_signed_message_is_read_as_it_was_written(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    raw = sign(SIGNER, message)
    opened = open_signed(raw, kind)
    assert (opened.signer, opened.message) == (SIGNER.peer_id, message)
    assert kind.parse(message.encode()).encode() == message.encode()
    assert isinstance(message, SessionMessage) == (kind is not Advert)
    for other in KINDS:
        if other is not kind:
            with pytest.raises(MessageRefused):
                open_signed(raw, other)


# ---- sizes


def largest() -> dict[type[Message], Message]:
    """Of each message the largest that a cell of `MAX_CELL` can have, with real statements inside."""
    session = DIGEST
    hashes = (DIGEST,) * MOST_HASHES
    part = Part(session=session, part=MAX_CELL - 1, hashes=hashes)
    shares = ShareList(
        session=session,
        sealed=(b"", *((bytes(SEALED_BYTES),) * (MAX_CELL - 1))),
        mask_shares=(DIGEST,) * MAX_CELL,
        seed_shares=(DIGEST,) * MAX_CELL,
        pair_roots=(DIGEST,) * MAX_CELL,
        threshold=MAX_CELL,
        chunks=MAX_CHUNKS,
    )
    ready = Ready(session=session, lists=DIGEST)
    receipt = Receipt(session=session, part=MAX_CELL - 1, senders=CELL, headers=(DIGEST,) * MAX_CELL)
    proposal = SurvivorSet(session=session, survivors=CELL, receipts=(sign(SIGNER, receipt),) * MAX_CELL)
    found: list[Message] = [
        Advert(
            run=DIGEST,
            round=BIGGEST,
            attempt=BIGGEST,
            shard=MAX_SHARDS - 1,
            snapshot=DIGEST,
            sequence=BIGGEST,
            weight=1 << 16,
            tokens=BIGGEST,
            commitment=DIGEST,
            seed_commitment=DIGEST,
            loss=BIGGEST,
            heldout=BIGGEST,
            seal_key=DIGEST,
            mask_key=DIGEST,
            accused=CELL,
            data_root=DIGEST,
            data_count=BIGGEST,
            head_size=BIGGEST,
            head_root=DIGEST,
            energy=LARGEST_CLAIM,
            chains=((bytes(2_560),) * 2,) * 8,
        ),
        shares,
        ShareLists(session=session, lists=(sign(SIGNER, shares),) * MAX_CELL),
        ready,
        ReadySet(session=session, ready=(sign(SIGNER, ready),) * MAX_CELL),
        part,
        receipt,
        proposal,
        largest_vote(),
        FinalSet(
            session=session,
            survivor_set=DIGEST,
            proposal=sign(SIGNER, proposal),
            votes=(sign(SIGNER, largest_vote()),) * MAX_CELL,
        ),
        Release(session=session, survivor_set=DIGEST, seed=DIGEST, shares=(bytes(SHARE_BYTES),) * MAX_CELL),
        PartSum(session=session, part=MAX_CELL - 1, survivor_set=DIGEST, hashes=hashes),
        Shown(
            session=session,
            chunk=BIGGEST,
            header=bytes(1 << 20),  # below, whether a signed Part always fits
            data=bytes(MAX_CHUNK_BYTES),
        ),
        Opening(
            session=session,
            chunk=BIGGEST,
            keys=(DIGEST,) * MAX_CELL,
            proofs=((DIGEST,) * 40,) * MAX_CELL,
        ),
        Disclosure(session=session, kind="mask", key=DIGEST),
    ]
    return {type(message): message for message in found}


def largest_vote() -> SetVote:
    """Statements fill it up to the last byte."""

    def vote(last: int) -> SetVote:
        statements_ = (bytes(MAX_STATEMENT), bytes(last))
        return SetVote(session=DIGEST, survivor_set=DIGEST, seed=DIGEST, statements=statements_)

    return vote(15_000 + SetVote.MOST_BYTES - len(vote(15_000).encode()))


LARGEST = largest()


@by_domain
def test_the_largest_message_of_the_largest_cell_fits(kind: type[Message]) -> None:
    message = LARGEST[kind]
    body, raw = message.encode(), sign(SIGNER, message)
    assert len(body) <= kind.MOST_BYTES <= MAX_MESSAGE
    assert len(raw) <= MAX_MESSAGE
    assert open_signed(raw, kind).message == message


def test_the_largest_vote_is_as_large_as_a_final_set_takes() -> None:
    assert len(LARGEST[SetVote].encode()) == SetVote.MOST_BYTES
    assert len(sign(SIGNER, LARGEST[SetVote])) <= MAX_VOTE


def test_the_header_of_the_largest_part_fits_into_what_is_shown() -> None:
    header = sign(SIGNER, LARGEST[Part])
    shown = Shown.model_validate({**LARGEST[Shown].model_dump(), "header": header})
    assert len(sign(SIGNER, shown)) <= MAX_MESSAGE


@by_domain
def test_an_oversize_message_is_refused_before_it_is_read(kind: type[Message]) -> None:
    with pytest.raises(MessageRefused, match=f"the largest has {kind.MOST_BYTES}"):
        kind.parse(bytes(kind.MOST_BYTES + 1))


TOO_LARGE: list[tuple[type[Message], str, object]] = [
    (Advert, "weight", -1),
    (Advert, "shard", MAX_SHARDS),
    (Advert, "weight", (1 << 16) + 1),
    (Advert, "round", -1),
    (Advert, "tokens", 1 << 63),
    (Advert, "loss", 1.5),
    (Advert, "sequence", True),
    (Advert, "snapshot", bytes(31)),
    (Advert, "seal_key", bytes(31)),
    (Advert, "mask_key", bytes(33)),
    (Advert, "mask_key", "f" * 32),
    (Advert, "accused", CELL[:1] * (MAX_CELL + 1)),
    (Advert, "accused", ("nobody",)),
    (Advert, "head_size", -1),
    (Advert, "head_root", bytes(31)),
    (ShareList, "sealed", (bytes(SEALED_BYTES + 1),)),
    (ShareList, "sealed", (b"",) * (MAX_CELL + 1)),
    (ShareList, "mask_shares", (DIGEST,) * (MAX_CELL + 1)),
    (ShareList, "seed_shares", (DIGEST,) * (MAX_CELL + 1)),
    (ShareList, "pair_roots", (DIGEST,) * (MAX_CELL + 1)),
    (ShareList, "pair_roots", (bytes(31),)),
    (ShareList, "threshold", 0),
    (ShareList, "threshold", MAX_CELL + 1),
    (ShareList, "chunks", 0),
    (ShareList, "chunks", MAX_CHUNKS + 1),
    (ShareLists, "lists", (b"",) * (MAX_CELL + 1)),
    (ShareLists, "lists", (bytes((1 << 14) + 1),)),
    (Ready, "lists", None),
    (ReadySet, "ready", (b"",) * (MAX_CELL + 1)),
    (ReadySet, "ready", (bytes(1025),)),
    (Part, "part", MAX_CELL),
    (Part, "part", -1),
    (Part, "hashes", (DIGEST,) * (MOST_HASHES + 1)),
    (Part, "hashes", (bytes(33),)),
    (Receipt, "part", MAX_CELL),
    (Receipt, "senders", ()),
    (Receipt, "senders", CELL[:1] * (MAX_CELL + 1)),
    (Receipt, "senders", ("nobody",)),
    (Receipt, "headers", ()),
    (Receipt, "headers", (DIGEST,) * (MAX_CELL + 1)),
    (SurvivorSet, "survivors", ()),
    (SurvivorSet, "survivors", CELL[:1] * (MAX_CELL + 1)),
    (SurvivorSet, "receipts", (bytes(8_193),)),
    (SurvivorSet, "receipts", (b"",) * (MAX_CELL + 1)),
    (SetVote, "seed", bytes(31)),
    (SetVote, "statements", (b"",) * (4 * MAX_CELL + 1)),
    (SetVote, "statements", (bytes(MAX_STATEMENT + 1),)),
    (FinalSet, "proposal", bytes((1 << 19) + 1)),
    (FinalSet, "votes", (bytes(MAX_VOTE + 1),)),
    (FinalSet, "votes", (b"",) * (MAX_CELL + 1)),
    (Release, "seed", bytes(33)),
    (Release, "shares", (bytes(SHARE_BYTES + 1),)),
    (Release, "shares", (b"",) * (MAX_CELL + 1)),
    (PartSum, "part", MAX_CELL),
    (PartSum, "hashes", (DIGEST,) * (MOST_HASHES + 1)),
    (Shown, "chunk", -1),
    (Shown, "header", bytes((1 << 20) + 1)),
    (Shown, "data", bytes(MAX_CHUNK_BYTES + 1)),
    (Opening, "chunk", -1),
    (Opening, "keys", (DIGEST,) * (MAX_CELL + 1)),
    (Opening, "proofs", ((DIGEST,) * 41,)),
    (Opening, "proofs", ((),) * (MAX_CELL + 1)),
    (Disclosure, "kind", "seed"),
    (Disclosure, "kind", b"seal"),
    (Disclosure, "key", bytes(31)),
]


class Unbounded(Message):
    """Writes what no message may hold."""

    DOMAIN = "unbounded"
    value: Any

    def encode(self) -> bytes:
        return cbor2.dumps(self.value, canonical=True)


@pytest.mark.parametrize(("kind", "name", "value"), TOO_LARGE)
def test_what_is_too_large_or_of_another_type_is_refused_on_both_sides(
    kind: type[Message], name: str, value: object
) -> None:
    fields: Mapping[str, object] = small(kind).model_dump() | {name: value}
    with pytest.raises(ValidationError):
        kind.model_validate(fields)
    with pytest.raises(MessageRefused):
        kind.parse(Unbounded(value=fields).encode())
    with pytest.raises(MessageRefused):
        kind.parse(Unbounded(value={n: v for n, v in fields.items() if n != name}).encode())


def small(kind: type[Message]) -> Message:
    """A valid message of this kind, as short as they come."""
    message = LARGEST[kind]
    shorter = {
        name: value[:1] if isinstance(value, tuple) else value for name, value in message.model_dump().items()
    }
    if kind is Shown:
        shorter |= {"header": b"", "data": b""}
    if kind is FinalSet:
        shorter |= {"proposal": b"", "votes": ()}
    return kind.model_validate(shorter)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DOMAIN)
def test_an_unknown_field_is_refused(kind: type[Message]) -> None:
    fields = small(kind).model_dump()
    assert kind.parse(Unbounded(value=fields).encode()) == small(kind)
    with pytest.raises(MessageRefused, match="not a valid message"):
        kind.parse(Unbounded(value=fields | {"more": 1}).encode())
