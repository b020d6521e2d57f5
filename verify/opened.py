"""What a checked chain member opens of a slice: the tensors that came and went, and who signed for them.

    BoundaryOpening   signed by the checked peer: the lists, its own and its neighbours', of one slice
    TensorPiece       up to 1 MiB of one of the tensors that these lists name

The promise: what is opened is what somebody signed for. A tensor that came is tied to the neighbour that sent
it, by a list for this very chain, slice and direction; a tensor that went, to the checked peer. By signing
the opening it says that these are the tensors that it computed from.

So each peer answers for what it made of what it got, and for nothing that its neighbours did.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import FailFast, Field

from proto.canonical import MAX_MESSAGE, Count, Message, PeerID
from proto.errors import MessageRefused
from secagg.messages import SessionMessage
from verify.chains import (
    EVALUATED,
    BoundaryList,
    ChainMessage,
    Codec,
    Direction,
    Index,
    Place,
    check_list,
    tensor_hash,
)
from verify.statement import domain_of, open_signed

PIECE = 1 << 20
MOST_LIST = (1 << 18) + 1_024
"""Bytes of a signed list."""
SENT_TOLERANCE = 1e-2
"""Relative L2 error of a tensor that was sent, against what computing again gives (docs/shards.md)."""
STATEMENT = b"\x84"
"""How a signed statement begins; a piece of a tensor is a message of its own, and lists prove it."""

Lists = Annotated[
    tuple[Annotated[bytes, Field(min_length=1, max_length=MOST_LIST)], ...],
    Field(max_length=2),
    FailFast(),
]


class BoundaryAsked(SessionMessage):
    """A checker asks a chain member for the tensors of the drawn slice."""

    DOMAIN: ClassVar[str] = "boundary-asked"


class ListAsked(ChainMessage):
    """A checker asks a neighbour of the checked peer for the list that it has of that peer, over a slice."""

    DOMAIN: ClassVar[str] = "boundary-list-asked"

    author: PeerID
    direction: Direction
    slice: Count


class BoundaryOpening(SessionMessage):
    """Signed lists over a slice: of what its author received, and of what it sent; forward before backward.

    `slice`: of the author's order.
    """

    DOMAIN: ClassVar[str] = "boundary-opening"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    slice: Count
    received: Lists
    sent: Lists


class TensorPiece(Message):
    """A run of bytes of one tensor; its pieces come in order. `microbatch`: its place in the slice."""

    DOMAIN: ClassVar[str] = "tensor-piece"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    sent: bool
    direction: Direction
    microbatch: Index
    data: Annotated[bytes, Field(min_length=1, max_length=PIECE)]


Key = tuple[bool, Direction, int]
"""Whether it was sent, which way, and the microbatch's place in its slice."""
Tensors = Mapping[Key, bytes]
Apart = Mapping[tuple[Direction, int], float]
"""Relative L2 error of what was sent, by direction and the microbatch's place in the slice."""


@dataclass(frozen=True)
class Passed:
    """What a chain member keeps of a slice: its own and its neighbours' signed lists, and all tensors."""

    received: tuple[bytes, ...]
    sent: tuple[bytes, ...]
    tensors: Tensors

    def opening(self, session: bytes, index: int) -> BoundaryOpening:
        """The statement that it signs when slice `index` of its order is drawn."""
        return BoundaryOpening(session=session, slice=index, received=self.received, sent=self.sent)


@dataclass(frozen=True)
class Post:
    """Where a slice was made: by whom, in which chain, at which shard of how many; `slice`: of the chain.

    `replicas`: who may hold each shard there.
    """

    peer: PeerID
    place: Place
    shard: int
    slice: int
    replicas: Sequence[Collection[PeerID]]
    codec: Codec

    def ways(self, sent: bool) -> tuple[Direction, ...]:
        """The directions in which this shard receives, or sends."""
        before, after = self.shard > 0, self.shard < len(self.replicas) - 1
        forward, backward = (after, before) if sent else (before, after)
        ways: dict[Direction, bool] = {"forward": forward, "backward": backward}
        return tuple(way for way, there in ways.items() if there)


@dataclass(frozen=True)
class Opened:
    """An opening that is what it must be. `lists`: by whether they are of what was sent, and direction."""

    post: Post
    raw: bytes
    opening: BoundaryOpening
    lists: Mapping[tuple[bool, Direction], BoundaryList]
    signers: Mapping[Direction, PeerID]
    """Of the lists that were received."""

    @property
    def microbatches(self) -> int:
        """In the slice."""
        return min(len(one.microbatches) for one in self.lists.values())

    def keys(self, sent: bool) -> list[Key]:
        """The tensors that were sent, or received, in order."""
        return [(sent, way, at) for way in self.post.ways(sent) for at in range(self.microbatches)]

    def check(self, tensors: Tensors) -> None:
        """Raises MessageRefused for a tensor that no list here names."""
        for (sent, way, at), raw in tensors.items():
            found = self.lists.get((sent, way))
            if found is None or at >= self.microbatches or tensor_hash(raw) != found.hashes[at]:
                raise MessageRefused(f"tensor {at} {way}: not the bytes that were signed")


def read_opening(raw: bytes, session: bytes, post: Post) -> Opened:
    """What a chain member opened of a slice, if all lists are those of this post. Raises MessageRefused."""
    signed = open_signed(raw, BoundaryOpening)
    said = signed.message
    if signed.signer != post.peer or said.session != session:
        raise MessageRefused(f"boundary-opening: not {post.peer}'s, or of another session")
    lists: dict[tuple[bool, Direction], BoundaryList] = {}
    signers: dict[Direction, PeerID] = {}
    for sent, raws in ((False, said.received), (True, said.sent)):
        ways = post.ways(sent)
        if len(raws) != len(ways):
            raise MessageRefused(f"boundary-opening: {len(raws)} lists, shard {post.shard} has {len(ways)}")
        for way, one in zip(ways, raws, strict=True):
            lists[sent, way], signer = _list(one, sent, way, post)
            if not sent:
                signers[way] = signer
    lengths = {len(one.microbatches) for one in lists.values()}
    if len(lengths) != 1:
        raise MessageRefused("boundary-opening: its lists are of slices of different lengths")
    return Opened(post, raw, said, lists, signers)


def _list(raw: bytes, sent: bool, way: Direction, post: Post) -> tuple[BoundaryList, PeerID]:
    signed = open_signed(raw, BoundaryList)
    found, shard = signed.message, post.shard
    if not sent:
        shard += -1 if way == "forward" else 1
    check_list(found, post.place, shard, way, post.codec)
    may = {post.peer} if sent else post.replicas[shard]
    if signed.signer not in may:
        raise MessageRefused(f"boundary-list: {signed.signer} does not hold shard {shard} of this chain")
    count = len(found.microbatches)
    first = (post.slice + EVALUATED) * count
    if found.microbatches != tuple(range(first, first + count)):
        raise MessageRefused(f"boundary-list: not over slice {post.slice} of the chain")
    return found, signed.signer


def pieces_of(tensors: Tensors, keys: Iterable[Key]) -> list[bytes]:
    """Tensors as they travel: encoded pieces, in order."""
    return [
        TensorPiece(
            sent=key[0], direction=key[1], microbatch=key[2], data=tensors[key][at : at + PIECE]
        ).encode()
        for key in keys
        for at in range(0, len(tensors[key]), PIECE)
    ]


def gather(raws: Iterable[bytes]) -> dict[Key, bytes]:
    """The tensors of which these are the pieces. Raises MessageRefused."""
    found: dict[Key, list[bytes]] = {}
    last: Key | None = None
    for raw in raws:
        piece = TensorPiece.parse(raw)
        key: Key = (piece.sent, piece.direction, piece.microbatch)
        if key in found and key != last:
            raise MessageRefused("tensor-piece: the pieces of a tensor must follow one another")
        found.setdefault(key, []).append(piece.data)
        last = key
    return {key: b"".join(parts) for key, parts in found.items()}


def of_received(text: Sequence[bytes]) -> tuple[bytes, ...]:
    """Of an opening and all its pieces those that a slice is computed from."""
    return (text[0], *(raw for raw in text[1:] if not TensorPiece.parse(raw).sent))


def of_microbatch(text: Sequence[bytes], way: Direction, at: int) -> tuple[bytes, ...]:
    """Of an opening and all its pieces those of one tensor that was sent, and of what it is computed from."""
    found = [text[0]]
    for raw in text[1:]:
        piece = TensorPiece.parse(raw)
        if piece.microbatch == at and (not piece.sent or piece.direction == way):
            found.append(raw)
    return tuple(found)


def is_opening(raw: bytes) -> bool:
    """Whether this says that it is a chain member's opening."""
    try:
        return domain_of(raw) == BoundaryOpening.DOMAIN
    except MessageRefused:  # it is no statement: what it must be instead, it is examined as
        return False
