"""What the peers of a chain sign.

    BoundaryList   a stage to its neighbour: the hashes of the tensors it sent, many under one signature
    Confirmation   a stage to the one before: it holds the gradients of the chain's first slices

The confirmations of all of a chain's shards are its *certificate*: it says how many slices the chain counts
for, in every shard, and whose they are. It is a function of the statements alone, so every shard's cell reads
the same number from it. A stage names the peers after it; so the first one, the chain's leader, names the
whole path, and a leader that signs two is convicted by the two.

Tensor bytes travel beside these messages. The list of a slice's tensors may follow them: a stage confirms
only slices for which it has the neighbours' lists.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, TypeVar

from blake3 import blake3
from pydantic import FailFast, Field

from proto.canonical import Count, Digest, Message, PeerID
from proto.errors import MessageRefused
from secagg.messages import MAX_SHARDS, Advert, Evidence, ShardIndex
from verify.statement import open_signed
from verify.wiring import Wired

MAX_LISTED = 4_096
"""Tensors under one signature."""
EVALUATED = 1
"""Slices at the beginning of a chain that are for evaluation."""
Codec = Literal["fp32", "fp16", "bf16", "int8"]
Direction = Literal["forward", "backward"]
Index = Annotated[int, Field(ge=0, lt=1 << 31)]
T = TypeVar("T")
Listed = Annotated[tuple[T, ...], Field(min_length=1, max_length=MAX_LISTED), FailFast()]


class BoundaryRefused(MessageRefused):
    """A boundary tensor of another shape, size or codec, not finite, or not the one that was signed."""


class ChainMessage(Message):
    """A message of one chain in one attempt; it means nothing in another."""

    run: Digest
    round: Count
    attempt: Count
    chain: Index


class BoundaryList(ChainMessage):
    """The tensors that shard `shard` sent in one direction, each by microbatch and BLAKE3 hash."""

    DOMAIN: ClassVar[str] = "boundary-list"
    MOST_BYTES: ClassVar[int] = 1 << 18
    MOST_ITEMS: ClassVar[int] = 2 * MAX_LISTED + 64

    shard: ShardIndex
    direction: Direction
    codec: Codec
    microbatches: Listed[Index]  # rising
    hashes: Listed[Digest]  # of the encoded bytes


class Confirmation(ChainMessage):
    """Its author holds the gradients of the chain's slices 0..slices - 1 at its shard, each added once.

    `after`: the peers of the later shards that confirmed the same to it.
    """

    DOMAIN: ClassVar[str] = "chain-confirmation"

    shard: ShardIndex
    slices: Annotated[int, Field(ge=1, le=1 << 16)]
    after: Annotated[tuple[PeerID, ...], Field(max_length=MAX_SHARDS - 1), FailFast()]


@dataclass(frozen=True)
class Place:
    """The chain that a message must be of."""

    run: bytes
    round: int
    attempt: int
    chain: int

    def holds(self, message: ChainMessage) -> bool:
        """Whether a message is of this chain and attempt."""
        named = (message.run, message.round, message.attempt, message.chain)
        return named == (self.run, self.round, self.attempt, self.chain)


@dataclass(frozen=True)
class Counted:
    """What a certificate says: a chain's first `slices` count, and `path[s]` holds shard s's gradients."""

    chain: int
    slices: int
    path: tuple[PeerID, ...]


def tensor_hash(raw: bytes) -> bytes:
    """BLAKE3 of a boundary tensor's encoded bytes."""
    return blake3(raw).digest()


def check_list(found: BoundaryList, place: Place, shard: int, direction: Direction, codec: Codec) -> None:
    """Raises BoundaryRefused unless the list is of this place, sender and form."""
    if not place.holds(found):
        raise BoundaryRefused("boundary list: of another run, attempt or chain")
    if (found.shard, found.direction, found.codec) != (shard, direction, codec):
        raise BoundaryRefused(
            f"boundary list: shard {found.shard} {found.direction} in {found.codec}, "
            f"where shard {shard} {direction} in {codec} belongs"
        )
    if len(found.microbatches) != len(found.hashes):
        raise BoundaryRefused(
            f"boundary list: {len(found.hashes)} hashes of {len(found.microbatches)} tensors"
        )
    if list(found.microbatches) != sorted(set(found.microbatches)):
        raise BoundaryRefused("boundary list: its microbatches must be named once each, in rising order")


def check_tensor(found: BoundaryList, microbatch: int, raw: bytes) -> None:
    """Raises BoundaryRefused unless these are the bytes that the (checked) list names for a microbatch."""
    if microbatch not in found.microbatches:
        raise BoundaryRefused(f"boundary list: no microbatch {microbatch} in it")
    if tensor_hash(raw) != found.hashes[found.microbatches.index(microbatch)]:
        raise BoundaryRefused(
            f"boundary tensor {microbatch} {found.direction}: not the bytes that were signed"
        )


def two_lists(first: bytes, second: bytes) -> Evidence | None:
    """Evidence against the author of two signed lists that give one microbatch two hashes; or None.

    Raises MessageRefused where one is no signed list.
    """
    a, b = open_signed(first, BoundaryList), open_signed(second, BoundaryList)
    slots = [
        (m.run, m.round, m.attempt, m.chain, m.shard, m.direction, m.codec) for m in (a.message, b.message)
    ]
    if a.signer != b.signer or slots[0] != slots[1]:
        return None
    hashes = dict(zip(a.message.microbatches, a.message.hashes, strict=False))
    pairs = zip(b.message.microbatches, b.message.hashes, strict=False)
    if any(hashes.get(microbatch, digest) != digest for microbatch, digest in pairs):
        return Evidence("two boundary lists", a.signer, (first, second))
    return None


def two_confirmations(first: bytes, second: bytes) -> Evidence | None:
    """Evidence against a leader that closed one chain in two ways; None if these two show nothing.

    Raises MessageRefused where one is no signed confirmation.
    """
    a, b = open_signed(first, Confirmation), open_signed(second, Confirmation)
    place = Place(a.message.run, a.message.round, a.message.attempt, a.message.chain)
    if a.signer != b.signer or a.message.shard or b.message.shard or not place.holds(b.message):
        return None
    return Evidence("two confirmations", a.signer, (first, second)) if a.message != b.message else None


def open_confirmations(
    statements: Sequence[bytes], place: Place, first: int, replicas: Sequence[Collection[PeerID]]
) -> Counted:
    """What the confirmations of shards `first` to the last say together; `path` begins at `first`.

    `replicas`: who may hold each shard, all shards in order. Raises MessageRefused.
    """
    if len(statements) != len(replicas) - first:
        raise MessageRefused(f"{len(statements)} confirmations of {len(replicas) - first} shards")
    opened = [open_signed(raw, Confirmation) for raw in statements]
    path = tuple(one.signer for one in opened)
    slices = opened[0].message.slices
    for at, one in enumerate(opened):
        message, shard = one.message, first + at
        if not place.holds(message) or message.shard != shard:
            raise MessageRefused(f"confirmation of {one.signer}: of another chain, attempt or shard")
        if one.signer not in replicas[shard]:
            raise MessageRefused(f"confirmation: {one.signer} does not hold shard {shard}")
        if message.slices != slices or message.after != path[at + 1 :]:
            raise MessageRefused(f"confirmation of {one.signer}: of other slices, or resting on other peers")
    if len(set(path)) < len(path):
        raise MessageRefused("confirmations: one peer at two shards")
    return Counted(place.chain, slices, path)


def open_certificate(
    statements: Sequence[bytes], place: Place, leader: PeerID, replicas: Sequence[Collection[PeerID]]
) -> Counted:
    """What a chain counts for: confirmations of all its shards, its leader's first. Raises MessageRefused."""
    counted = open_confirmations(statements, place, 0, replicas)
    if counted.path[0] != leader:
        raise MessageRefused(f"certificate: closed by {counted.path[0]}, the chain's leader is {leader}")
    return counted


def chains_of(advert: Advert, peer: PeerID, wired: Sequence[Wired]) -> tuple[Counted, ...]:
    """The chains that count for a peer, rising, as its advert's certificates have them; `slices` without
    those for evaluation. `wired`: the attempt's chains. Raises MessageRefused."""
    closed = [_closed(statements, advert, wired) for statements in advert.chains]
    for one in closed:
        if one.path[advert.shard] != peer:
            raise MessageRefused(f"advert: chain {one.chain} does not name {peer}")
    found = tuple(replace(one, slices=one.slices - EVALUATED) for one in closed)
    chains = [one.chain for one in found]
    if chains != sorted(set(chains)) or min((one.slices for one in found), default=1) < 1:
        raise MessageRefused(f"advert: the chains of {peer} must be named once each, rising, with slices")
    return found


def counted_of(advert: Advert, peer: PeerID, wired: Sequence[Wired]) -> list[tuple[int, int]]:
    """(chain, slices) of every chain that counts for a peer, rising. Raises MessageRefused."""
    return [(one.chain, one.slices) for one in chains_of(advert, peer, wired)]


def counted_alike(cells: Sequence[Sequence[Advert]]) -> bool:
    """Whether these adverts of each shard, whose certificates hold, count one chain and all the same."""
    counted = [_counts(cell) for cell in cells]
    return bool(counted[0]) and all(one == counted[0] for one in counted)


def _counts(adverts: Iterable[Advert]) -> list[tuple[int, int, tuple[PeerID, ...]]]:
    """(chain, slices, path) of every certificate in these adverts, all of which hold: the same for all shards
    where each counts what the others do."""
    ends = [open_signed(one[0], Confirmation) for advert in adverts for one in advert.chains]
    return sorted((end.message.chain, end.message.slices, (end.signer, *end.message.after)) for end in ends)


def _closed(statements: Sequence[bytes], advert: Advert, wired: Sequence[Wired]) -> Counted:
    if not statements:
        raise MessageRefused("advert: an empty certificate")
    chain = open_signed(statements[0], Confirmation).message.chain
    if not chain < len(wired):
        raise MessageRefused(f"advert: chain {chain} of {len(wired)}")
    replicas = wired[chain].replicas
    place = Place(advert.run, advert.round, advert.attempt, chain)
    return open_certificate(statements, place, replicas[0][0], replicas)


def weights(counted: Iterable[Counted], shards: int) -> tuple[Mapping[PeerID, int], ...]:
    """Slices that each peer's update holds, for every shard: the sums are equal in all of them.

    Raises MessageRefused where a chain occurs twice, or has another number of shards.
    """
    found: tuple[dict[PeerID, int], ...] = tuple({} for _ in range(shards))
    chains = set[int]()
    for one in counted:
        if one.chain in chains or len(one.path) != shards:
            raise MessageRefused(
                f"chain {one.chain}: counted twice, or with {len(one.path)} of {shards} shards"
            )
        chains.add(one.chain)
        for shard, peer in enumerate(one.path):
            found[shard][peer] = found[shard].get(peer, 0) + one.slices
    return found
