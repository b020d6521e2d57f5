"""What a peer promises before anyone knows who will be checked, and what it opens when it is drawn.

One hash in the signed advert commits to the order, to its number of slices and to every chunk of every
slice's encoding:

    commitment = H("commitment", order, root of slice 0, root of slice 1, ...)
    root of a slice = Merkle root (RFC 9162) over its chunks' leaves
    leaf of a chunk = SHA-256(0x00 || salt || BLAKE3(the chunk's integers, little-endian))
    salt of a chunk = HMAC-SHA256(key of the slice, chunk), key of a slice = HMAC-SHA256(secret, slice)

The promise: it binds to every integer, and shows none of them: whoever lacks the secret cannot even test a
guess. A slice's key opens the salts of that slice and no other's.

A checker that has recomputed a slice needs no integers of it: it makes the leaves itself and compares.
"""

import hmac
from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from blake3 import blake3
from pydantic import FailFast, Field

from proto.canonical import MAX_MESSAGE, Count, Digest, tagged_hash
from proto.errors import MessageRefused
from proto.merkle import inclusion_proof, root, salted_leaf, verify_inclusion
from secagg.messages import MAX_CHUNK_BYTES, SessionMessage

MAX_SLICES = 1_024
MAX_CHUNKS = 60_000
FLOOR = 1_024
"""Steps that a chunk counts for at least: in a quiet one a single rounding would weigh too much."""
MOST_SHOWN = 4
"""Differing chunks that evidence of a wrong update shows at most: the worst ones."""


class OpeningRefused(MessageRefused):
    """What was opened is not what was committed to."""


class SliceOpening(SessionMessage):
    """The leaves of one slice, the roots of all, and the key of its salts."""

    DOMAIN: ClassVar[str] = "slice-opening"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE
    MOST_ITEMS: ClassVar[int] = 65_536

    slice: Count
    order: Digest
    roots: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=MAX_SLICES), FailFast()]
    leaves: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=MAX_CHUNKS), FailFast()]
    key: Digest


class ChunkOpening(SessionMessage):
    """The integers of one chunk of one slice, with the proof that they were committed to."""

    DOMAIN: ClassVar[str] = "chunk-opening"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE

    slice: Count
    chunk: Count
    salt: Digest
    data: Annotated[bytes, Field(max_length=MAX_CHUNK_BYTES)]
    proof: Annotated[tuple[Digest, ...], Field(max_length=40), FailFast()]


def digest_of(integers: np.ndarray) -> bytes:
    """BLAKE3 of a chunk's integers, 32 bytes; contiguous, little-endian."""
    return blake3(integers.data.cast("B")).digest()


def chunk_digests(encoded: np.ndarray, chunk: int) -> list[bytes]:
    """BLAKE3 of each chunk of a slice's encoding, integers [size]."""
    return [digest_of(encoded[at : at + chunk]) for at in range(0, len(encoded), chunk)]


def slice_leaves(digests: Sequence[bytes], key: bytes) -> list[bytes]:
    """The leaves of a slice's tree, from its chunks' digests and its key."""
    return [salted_leaf(salt_of(key, index), digest) for index, digest in enumerate(digests)]


def commit_to(order: bytes, roots: Sequence[bytes]) -> bytes:
    """The commitment that an advert carries: 32 bytes over the order and each of its slices."""
    return tagged_hash("commitment", order, *roots)


class Committed:
    """One attempt's work, as its author keeps it to open what is drawn.

    `encoded(slice)` gives a slice's integers, [size]; `digests`: of each slice's chunks, as they were made.
    """

    def __init__(self, order: bytes, digests: Sequence[Sequence[bytes]], secret: bytes) -> None:
        self._order, self._secret = order, secret
        self._leaves = [slice_leaves(chunks, self._key(index)) for index, chunks in enumerate(digests)]
        self._roots = tuple(root(leaves) for leaves in self._leaves)
        self.commitment = commit_to(order, self._roots)

    def __repr__(self) -> str:
        return f"Committed({self.commitment.hex()})"

    def open_slice(self, session: bytes, index: int) -> SliceOpening:
        """Everything that lets a checker compare its own encoding of a slice."""
        return SliceOpening(
            session=session,
            slice=index,
            order=self._order,
            roots=self._roots,
            leaves=tuple(self._leaves[index]),
            key=self._key(index),
        )

    def open_chunk(self, session: bytes, index: int, chunk: int, integers: np.ndarray) -> ChunkOpening:
        """The integers of one chunk of a slice, [<= chunk size], with salt and proof."""
        return ChunkOpening(
            session=session,
            slice=index,
            chunk=chunk,
            salt=salt_of(self._key(index), chunk),
            data=integers.tobytes(),
            proof=tuple(inclusion_proof(self._leaves[index], chunk)),
        )

    def _key(self, index: int) -> bytes:
        return hmac.digest(self._secret, index.to_bytes(8, "big"), "sha256")


def fits(opening: SliceOpening, commitment: bytes, weight: int) -> bool:
    """Whether the order and the roots, one for each of `weight` slices, are what was committed to."""
    return len(opening.roots) == weight and commit_to(opening.order, opening.roots) == commitment


def check_slice(opening: SliceOpening, commitment: bytes, weight: int, chunks: int) -> None:
    """Raises OpeningRefused unless this is what `commitment` stands for: `weight` slices of one order.

    Raises MessageRefused for what is of another shape, and so shows nothing.
    """
    if not opening.slice < weight or len(opening.leaves) != chunks:
        raise MessageRefused(
            f"slice-opening: {len(opening.leaves)} leaves of slice {opening.slice}; "
            f"{chunks} of one of {weight} slices are needed"
        )
    if not fits(opening, commitment, weight):
        raise OpeningRefused("slice-opening: its order and roots are not the commitment")
    if root(opening.leaves) != opening.roots[opening.slice]:
        raise OpeningRefused(f"slice-opening: its leaves are not those of slice {opening.slice}")


def differing(opening: SliceOpening, digests: Sequence[bytes]) -> list[int]:
    """Chunks of the opened slice that are not, bit for bit, what `digests` says."""
    mine = slice_leaves(digests, opening.key)
    return [
        index for index, (own, theirs) in enumerate(zip(mine, opening.leaves, strict=True)) if own != theirs
    ]


def check_chunk(
    opening: ChunkOpening, roots: Sequence[bytes], chunks: int, elements: int, dtype: np.dtype
) -> np.ndarray:
    """The integers [elements] that were committed to. Raises OpeningRefused unless they were.

    Raises MessageRefused for another number of them.
    """
    if len(opening.data) != elements * dtype.itemsize:
        raise MessageRefused(f"chunk-opening: {len(opening.data)} bytes for {elements} elements")
    leaf = salted_leaf(opening.salt, blake3(opening.data).digest())
    if not opening.slice < len(roots) or not verify_inclusion(
        leaf, opening.chunk, chunks, opening.proof, roots[opening.slice]
    ):
        raise OpeningRefused(
            f"chunk-opening: chunk {opening.chunk} of slice {opening.slice} is not the one committed to"
        )
    return np.frombuffer(opening.data, dtype)


def distance(mine: np.ndarray, theirs: np.ndarray) -> float:
    """How far two encodings of one chunk are apart: sum |q - q'| / max(sum |q|, FLOOR)."""
    own, other = mine.astype(np.int64), theirs.astype(np.int64)
    return float(np.abs(own - other).sum()) / float(max(np.abs(own).sum(), FLOOR))


def salt_of(key: bytes, chunk: int) -> bytes:
    """The salt of a chunk's leaf, from the key of its slice."""
    return hmac.digest(key, chunk.to_bytes(8, "big"), "sha256")
