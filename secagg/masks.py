"""Masks: keystreams that hide an update and cancel in the sum (Bonawitz et al. 2017, section 4).

The promise: what leaves a member is uniform in the ring to everyone who lacks one of its masks' seeds.
A member adds its own mask, and for each partner the pair's mask, plus at the lower PeerID and minus
at the higher. Each chunk of each mask has a key of its own, so that one chunk can be opened alone:

    chunk key  = HKDF-Expand(seed, info = "chunk" || index)          (RFC 5869)
    keystream  = AES-256-CTR(chunk key, counter from 0) over zeros, as little-endian integers of the ring

>>> x = np.arange(6, dtype=np.int16)
>>> masked = add_masks(x, 0, [(b"a" * 32, 1), (b"b" * 32, -1)], chunk=4)
>>> plain = sum_unmasked([x], 0, [(b"a" * 32, 1), (b"b" * 32, -1)], 4, out=x)
>>> x.tolist()
[0, 1, 2, 3, 4, 5]
"""

from collections.abc import Callable, Sequence

import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from proto.canonical import PeerID, tagged
from proto.merkle import leaf_hash, root

Mask = tuple[bytes, int]
"""A seed of 32 bytes, and its sign, 1 or -1."""
Keystream = Callable[[bytes, memoryview], None]
"""Fills a buffer, but for its last SLACK bytes, from a chunk's key."""

SLACK = 15
"""Bytes beyond the keystream that the library's `update_into` wants to have."""
_ZEROS = bytes(1 << 18)
_FROM_ZERO = modes.CTR(bytes(16))
_INFO = tagged("chunk")


def sign_towards(me: PeerID, partner: PeerID) -> int:
    """The sign of a pair's mask in `me`'s vector."""
    return 1 if me < partner else -1


def chunk_key(seed: bytes, index: int) -> bytes:
    """The key of one chunk's keystream, 32 bytes."""
    return HKDFExpand(hashes.SHA256(), 32, _INFO + index.to_bytes(8, "big")).derive(seed)


def chunk_keys_root(seed: bytes, chunks: int) -> bytes:
    """The Merkle root (RFC 9162) over a mask's chunk keys: both partners of a pair sign it."""
    return root([leaf_hash(chunk_key(seed, index)) for index in range(chunks)])


def aes_keystream(key: bytes, out: memoryview) -> None:
    """AES-256-CTR over zeros. A key makes one keystream only, so the counter starts at 0."""
    size = len(out) - SLACK
    zeros = _ZEROS if size <= len(_ZEROS) else bytes(size)
    Cipher(algorithms.AES256(key), _FROM_ZERO).encryptor().update_into(memoryview(zeros)[:size], out)


class Masker:
    """Adds the masks of one chunk at a time, in place, with one buffer for all of them."""

    def __init__(self, dtype: np.dtype, chunk: int, keystream: Keystream = aes_keystream) -> None:
        self._width, self._keystream = dtype.itemsize, keystream
        self._buffer = memoryview(bytearray(chunk * self._width + SLACK))
        self._stream = np.frombuffer(self._buffer, dtype, chunk)

    def add(self, piece: np.ndarray, index: int, masks: Sequence[Mask]) -> None:
        """Add masks to chunk `index`, whose elements are `piece`."""
        for seed, sign in masks:
            self.add_stream(piece, chunk_key(seed, index), sign)

    def add_stream(self, piece: np.ndarray, key: bytes, sign: int) -> None:
        """Add the keystream of one chunk key."""
        self._keystream(key, self._buffer[: len(piece) * self._width + SLACK])
        (np.add if sign > 0 else np.subtract)(piece, self._stream[: len(piece)], out=piece)


def add_masks(
    vector: np.ndarray,
    first: int,
    masks: Sequence[Mask],
    chunk: int,
    keystream: Keystream = aes_keystream,
) -> tuple[bytes, ...]:
    """Add masks to a run of whole chunks, in place; the BLAKE3 of each chunk after that.

    `first` is the run's first chunk.
    """
    masker, digests = Masker(vector.dtype, chunk, keystream), []
    for at in range(0, len(vector), chunk):
        piece = vector[at : at + chunk]
        masker.add(piece, first + at // chunk, masks)
        digests.append(blake3(piece.data.cast("B")).digest())  # while it is in the cache
    return tuple(digests)


def sum_unmasked(
    inputs: Sequence[np.ndarray],
    first: int,
    masks: Sequence[Mask],
    chunk: int,
    out: np.ndarray,
    keystream: Keystream = aes_keystream,
) -> tuple[bytes, ...]:
    """Sum masked parts into `out`, without their masks; the BLAKE3 of each chunk of the sum.

    All arrays have one length and the ring's dtype. `masks`: those that do not cancel, as they were added.
    """
    off = [(seed, -sign) for seed, sign in masks]
    masker, digests = Masker(out.dtype, chunk, keystream), []
    for at in range(0, len(out), chunk):
        piece = out[at : at + chunk]
        np.copyto(piece, inputs[0][at : at + chunk])
        for one in inputs[1:]:
            np.add(piece, one[at : at + chunk], out=piece)
        masker.add(piece, first + at // chunk, off)
        digests.append(blake3(piece.data.cast("B")).digest())
    return tuple(digests)
