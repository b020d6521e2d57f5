"""The messages of one aggregation session, in the order in which they are said.

    Advert       everyone, where the group forms: what it computed, and its keys for this session
    ShareList    everyone to the proposer: its secrets, shared and sealed; whoever sends none masks nothing
    ShareLists   the proposer to all: the lists; their authors are the dealers, who mask
    Ready        everyone to the proposer: the lists hold as far as it can see
    ReadySet     the proposer to all: enough are ready, masks may be used
    Part         header of a dealer's (masked) part, on its way to its owner
    Receipt      an owner to the proposer: whose parts it has
    SurvivorSet  the proposer to all: whose updates are summed, with the receipts that show it is possible
    SetVote      everyone to the proposer: its signature on one survivor set
    FinalSet     the proposer to all: enough signatures, the set is final
    Release      everyone to all: shares that take off the masks of exactly that set
    PartSum      header of an owner's sum of its part, on its way to all
    Shown        a survivor to all, if the sum fails its sanity tests: its masked integers in one drawn chunk
    Opening      a survivor to all, if that sum is true all the same: the keys of its masks in that chunk
    Disclosure   a member that was lied to, to all: a key that shows who lied, when nothing is masked with it

Without masks (`aggregation = "plain"`) a session begins with Part and has no Release. Every message names its
session, so none means anything in another. Signatures are put around them by the caller. Tensor bytes
travel beside a header that lists the BLAKE3 hash of each chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
from blake3 import blake3
from pydantic import FailFast, Field

from proto.canonical import MAX_MESSAGE, Count, Digest, Message, PeerID, tagged_hash
from proto.energy import EnergyClaim

PROTOCOL_VERSION = 1
MAX_CELL = 32
MAX_STATEMENT = 16_384
T = TypeVar("T")
Each = Annotated[tuple[T, ...], Field(max_length=MAX_CELL), FailFast()]
"""One for each member, at most. One that is wrong is enough: to list all that are takes seconds."""
Some = Annotated[tuple[T, ...], Field(min_length=1, max_length=MAX_CELL), FailFast()]
MAX_VOTE = 32_768
"""Bytes of a signed set vote: one from every member, with a proposal, must fit into a final set."""

Hashes = Annotated[tuple[Digest, ...], Field(max_length=30_000), FailFast()]
MAX_CHUNKS = 1 << 16
"""Chunks of the longest vector: whoever checks a pair's root computes that many keys."""
MAX_CHUNK_BYTES = 1 << 18
SHARE_BYTES = 33
SEALED_BYTES = 2 * SHARE_BYTES + 16
Sealed = Annotated[bytes, Field(max_length=SEALED_BYTES)]
Statement = Annotated[bytes, Field(max_length=MAX_STATEMENT)]
Weight = Annotated[int, Field(ge=0, le=1 << 16)]
MAX_SHARDS = 32
ShardIndex = Annotated[int, Field(ge=0, lt=MAX_SHARDS)]


MOST_CHAINS = 64
Certified = Annotated[
    tuple[Annotated[bytes, Field(max_length=2_560)], ...], Field(max_length=MAX_SHARDS), FailFast()
]
"""A chain's certificate: signed confirmations of all its shards (docs/shards.md)."""


class Advert(Message):
    """What a member brings to a meeting: what it computed, at which snapshot, for how much weight."""

    DOMAIN: ClassVar[str] = "advert"

    run: Digest
    round: Count
    attempt: Count
    shard: ShardIndex
    snapshot: Digest
    sequence: Count  # a new try at meeting is a new number, not an equivocation
    weight: Weight  # slices done; none only where chains are made, of several shards
    tokens: Count
    commitment: Digest  # over order, weight and update, signed before anyone knows who will be checked
    seed_commitment: Digest  # of this member's part of the next beacon
    loss: Count  # mean training loss at the snapshot, in micronats a token
    heldout: Count  # held-out loss of the snapshot, in micronats a token
    seal_key: Digest | None  # X25519, for shares on their way to this member; None where nothing is masked
    mask_key: Digest | None  # X25519, for the masks of its pairs
    accused: Each[PeerID]  # peers it holds evidence against
    data_root: Digest | None  # what this peer's own text is committed to; None where data is shared
    data_count: Count
    head_size: Count  # entries of this peer's ledger; never fewer than an earlier advert said
    head_root: Digest  # the root over them: one for each size
    energy: EnergyClaim | None  # what its part in the run has taken so far; None: it keeps no account
    chains: Annotated[tuple[Certified, ...], Field(max_length=MOST_CHAINS), FailFast()]


class SessionMessage(Message):
    """A message of one session; it means nothing in another."""

    session: Digest


class ShareList(SessionMessage):
    """A dealer's shares of its mask key and its seed, one of each for every member, in the members' order.

    A share's hash stands here for everyone to see, so that one that is altered later shows; and the numbers
    that the list was made with, so that whoever judges it needs no others.
    """

    DOMAIN: ClassVar[str] = "share-list"

    sealed: Each[Sealed]  # mask key's share, seed's share
    mask_shares: Each[Digest]
    seed_shares: Each[Digest]
    pair_roots: Each[Digest]  # of each pair's chunk keys; own: 0
    threshold: Annotated[int, Field(ge=1, le=MAX_CELL)]  # shares that rebuild a secret
    chunks: Annotated[int, Field(ge=1, le=MAX_CHUNKS)]  # of the whole vector


class ShareLists(SessionMessage):
    """The dealers' signed share lists, in the order of their authors."""

    DOMAIN: ClassVar[str] = "share-lists"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    lists: Each[Annotated[bytes, Field(max_length=1 << 14)]]


class Ready(SessionMessage):
    """A member could open every share it was dealt, and every pair's two roots agree."""

    DOMAIN: ClassVar[str] = "ready"

    lists: Digest


class ReadySet(SessionMessage):
    """Enough members are ready for the same lists."""

    DOMAIN: ClassVar[str] = "ready-set"

    ready: Each[Annotated[bytes, Field(max_length=1024)]]


class Part(SessionMessage):
    """Header of a (masked) part on its way to its owner."""

    DOMAIN: ClassVar[str] = "part"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE
    MOST_ITEMS: ClassVar[int] = 32_768

    part: Annotated[int, Field(ge=0, lt=MAX_CELL)]
    hashes: Hashes


class Receipt(SessionMessage):
    """An owner has these members' whole parts, chunk by chunk as their headers say."""

    DOMAIN: ClassVar[str] = "receipt"

    part: Annotated[int, Field(ge=0, lt=MAX_CELL)]
    senders: Some[PeerID]
    headers: Some[Digest]  # each Part's name


class SurvivorSet(SessionMessage):
    """The proposer's answer to "whose updates are summed?", with the receipts that show it is possible."""

    DOMAIN: ClassVar[str] = "survivor-set"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    survivors: Some[PeerID]
    receipts: Each[Annotated[bytes, Field(max_length=8_192)]]


class SetVote(SessionMessage):
    """A member's signature on a survivor set; at most one a session.

    It carries the statements the member wants in the record, and in plain sessions its seed.
    """

    DOMAIN: ClassVar[str] = "set-vote"
    MOST_BYTES: ClassVar[int] = MAX_VOTE - 256  # room for signer and signature

    survivor_set: Digest
    seed: Digest | None
    statements: Annotated[tuple[Statement, ...], Field(max_length=4 * MAX_CELL), FailFast()]


class FinalSet(SessionMessage):
    """A quorum's set votes: the survivor set is final, and the record's statements with it."""

    DOMAIN: ClassVar[str] = "final-set"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    survivor_set: Digest
    proposal: Annotated[bytes, Field(max_length=1 << 19)]  # the signed SurvivorSet
    votes: Each[Annotated[bytes, Field(max_length=MAX_VOTE)]]


class Release(SessionMessage):
    """What takes off the masks of exactly the final set; at most one a session.

    `shares`: one for each dealer, of a survivor's seed or of another's mask key, never both; empty where this
    member was dealt none that holds. `seed`: this member's own, if it survives.
    """

    DOMAIN: ClassVar[str] = "release"

    survivor_set: Digest
    seed: Digest | None
    shares: Each[Annotated[bytes, Field(max_length=SHARE_BYTES)]]


class Disclosure(SessionMessage):
    """A private key of a session in which nothing was masked: it shows who lied in its share list."""

    DOMAIN: ClassVar[str] = "disclosure"

    kind: Literal["seal", "mask"]
    key: Digest


class Shown(SessionMessage):
    """A survivor's masked integers in one chunk, after a sum that failed its sanity tests."""

    DOMAIN: ClassVar[str] = "shown"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    chunk: Count
    header: Annotated[bytes, Field(max_length=1 << 20)]  # the signed Part that the chunk went out under
    data: Annotated[bytes, Field(max_length=MAX_CHUNK_BYTES)]


class Opening(SessionMessage):
    """The keys of a survivor's masks in one chunk whose sum is true and fails its sanity tests.

    One for each dealer (its own: zeros), each with its Merkle proof in the pair's root.
    """

    DOMAIN: ClassVar[str] = "opening"

    chunk: Count
    keys: Each[Digest]
    proofs: Each[Annotated[tuple[Digest, ...], Field(max_length=40), FailFast()]]


class PartSum(SessionMessage):
    """Header of an owner's sum of its part over exactly the final set."""

    DOMAIN: ClassVar[str] = "part-sum"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE
    MOST_ITEMS: ClassVar[int] = 32_768

    part: Annotated[int, Field(ge=0, lt=MAX_CELL)]
    survivor_set: Digest
    hashes: Hashes


@dataclass(frozen=True)
class Evidence:
    """Signed statements that together convict a peer: of what `kind` says (docs/evidence.md).

    `adverts`: all that the session's id binds, in its order; none where the offence is not in a session.
    """

    kind: str
    against: PeerID
    statements: tuple[bytes, ...]
    adverts: tuple[bytes, ...] = ()


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
