"""The messages of one aggregation session (design: advert, part, receipt, survivor set, part sum).

Every message names its session, so none means anything in another. Signatures are put around them
by the caller. Tensor bytes travel beside a header that lists the BLAKE3 hash of each chunk.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from blake3 import blake3
from pydantic import Field

from proto.canonical import MAX_MESSAGE, Count, Digest, Message, PeerID, tagged_hash

PROTOCOL_VERSION = 1
MAX_CELL = 32
MAX_STATEMENT = 16_384
MAX_VOTE = 32_768
"""Bytes of a signed set vote: one from every member, with a proposal, must fit into a final set."""

Hashes = Annotated[tuple[Digest, ...], Field(max_length=40_000)]
Statement = Annotated[bytes, Field(max_length=MAX_STATEMENT)]
Weight = Annotated[int, Field(ge=1, le=1 << 16)]


class Advert(Message):
    """What a member brings to a meeting: what it computed, at which snapshot, for how much weight."""

    DOMAIN: ClassVar[str] = "advert"

    run: Digest
    round: Count
    attempt: Count
    shard: Count
    snapshot: Digest
    sequence: Count  # a new try at meeting is a new number, not an equivocation
    weight: Weight  # slices done
    tokens: Count
    commitment: Digest  # over order, weight and update, signed before anyone knows who will be checked
    seed_commitment: Digest  # of this member's part of the next beacon
    loss: Count  # mean training loss at the snapshot, in micronats a token
    heldout: Count  # held-out loss of the snapshot, in micronats a token
    data_root: Digest | None  # what this peer's own text is committed to; None where data is shared
    data_count: Count


class SessionMessage(Message):
    """A message of one session; it means nothing in another."""

    session: Digest


class Part(SessionMessage):
    """Header of a (masked) part on its way to its owner."""

    DOMAIN: ClassVar[str] = "part"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    part: Annotated[int, Field(ge=0, lt=MAX_CELL)]
    hashes: Hashes


class Receipt(SessionMessage):
    """An owner has a member's whole part, chunk by chunk as its header says."""

    DOMAIN: ClassVar[str] = "receipt"

    part: Annotated[int, Field(ge=0, lt=MAX_CELL)]
    sender: PeerID
    header: Digest


class Delivered(SessionMessage):
    """A member's receipts, one for each part in order: it asks to be a survivor."""

    DOMAIN: ClassVar[str] = "delivered"

    receipts: Annotated[tuple[Annotated[bytes, Field(max_length=1024)], ...], Field(max_length=MAX_CELL)]


class SurvivorSet(SessionMessage):
    """The proposer's answer to "whose updates are summed?", with the receipts that show it is possible."""

    DOMAIN: ClassVar[str] = "survivor-set"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    survivors: Annotated[tuple[PeerID, ...], Field(min_length=1, max_length=MAX_CELL)]
    owners: Annotated[tuple[PeerID, ...], Field(min_length=1, max_length=MAX_CELL)]  # of each part
    delivered: Annotated[tuple[Annotated[bytes, Field(max_length=65_536)], ...], Field(max_length=MAX_CELL)]


class SetVote(SessionMessage):
    """A member's signature on a survivor set; at most one a session.

    It carries the statements the member wants in the record, and its part of the beacon.
    """

    DOMAIN: ClassVar[str] = "set-vote"
    MOST_BYTES: ClassVar[int] = MAX_VOTE - 256  # room for signer and signature

    survivor_set: Digest
    seed: Digest
    statements: Annotated[tuple[Statement, ...], Field(max_length=64)]


class FinalSet(SessionMessage):
    """A quorum's set votes: the survivor set is final, and the record's statements with it."""

    DOMAIN: ClassVar[str] = "final-set"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    survivor_set: Digest
    proposal: Annotated[bytes, Field(max_length=1 << 20)]  # the signed SurvivorSet
    votes: Annotated[tuple[Annotated[bytes, Field(max_length=MAX_VOTE)], ...], Field(max_length=MAX_CELL)]


class PartSum(SessionMessage):
    """Header of an owner's sum of its part over exactly the final set."""

    DOMAIN: ClassVar[str] = "part-sum"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    part: Annotated[int, Field(ge=0, lt=MAX_CELL)]
    survivor_set: Digest
    hashes: Hashes


def session_id(advert: Advert, signed_adverts: Sequence[bytes]) -> bytes:
    """The 32 bytes that bind everything said in a session to run, attempt, snapshot and members."""
    numbers = (PROTOCOL_VERSION, advert.round, advert.attempt, advert.shard)
    return tagged_hash(
        "session",
        advert.run,
        advert.snapshot,
        b"".join(number.to_bytes(8, "big") for number in numbers),
        *sorted(signed_adverts),
    )


def seed_commitment(seed: bytes) -> bytes:
    """What an advert shows of a beacon seed before it is revealed."""
    return tagged_hash("seed-commitment", seed)


def chunk_hashes(data: np.ndarray, chunk: int) -> tuple[bytes, ...]:
    """BLAKE3 of each run of `chunk` elements of a contiguous vector, little-endian."""
    return tuple(blake3(data[at : at + chunk].data.cast("B")).digest() for at in range(0, len(data), chunk))
