"""Masks: AES-256-CTR by chunk, which cancels in the sum to the last bit, whoever drops out."""

import hashlib
import hmac
from itertools import pairwise

import numpy as np
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.merkle import inclusion_proof, leaf_hash, root, verify_inclusion
from secagg.masks import (
    SLACK,
    Mask,
    Masker,
    add_masks,
    aes_keystream,
    chunk_key,
    chunk_keys_root,
    sign_towards,
    sum_unmasked,
)
from tests.secagg.session_network import KEYS

PEERS = sorted(KEYS)
SEED, OTHER = b"a" * 32, b"b" * 32
DTYPES: list[np.dtype] = [np.dtype("<i2"), np.dtype("<i4")]
WHOLE_CHUNK = 65_536
quick = settings(max_examples=60, derandomize=True, deadline=None)


def stream(key: bytes, size: int) -> bytes:
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def mask_of(seed: bytes, size: int, chunk: int, dtype: np.dtype, first: int = 0) -> np.ndarray:
    """The mask of a run of chunks from `first` on, written out."""
    pieces = [
        np.frombuffer(stream(chunk_key(seed, first + at // chunk), chunk * dtype.itemsize), dtype)
        for at in range(0, size, chunk)
    ]
    return np.concatenate([*pieces, np.empty(0, dtype)])[:size]


def numbers(size: int, dtype: np.dtype, seed: int = 0) -> np.ndarray:
    """Integers from all of the ring."""
    return np.frombuffer(np.random.default_rng(seed).bytes(size * dtype.itemsize), dtype).copy()


# ---- keys and keystreams


@pytest.mark.parametrize("index", [0, 1, 255, 256, 40_000, (1 << 64) - 1])
def test_a_chunks_key_is_hkdf_expand_of_the_seed_and_the_chunks_index(index: int) -> None:
    info = b"edgeswarm/v1/chunk\0" + index.to_bytes(8, "big")
    assert chunk_key(SEED, index) == hmac.new(SEED, info + b"\x01", hashlib.sha256).digest()


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 33, 1000, 1 << 18, (1 << 18) + 2])
def test_the_keystream_is_aes_256_ctr_from_zero(size: int) -> None:
    buffer = bytearray(b"\xaa" * (size + SLACK))
    aes_keystream(SEED, memoryview(buffer))
    assert buffer[:size] == stream(SEED, size)
    # NIST SP 800-38A: the first block of counter mode is the cipher of the counter.
    block = Cipher(algorithms.AES256(SEED), modes.ECB()).encryptor().update(bytes(16))
    assert buffer[: min(16, size)] == block[:size]


def test_the_keystream_begins_with_the_known_answer() -> None:
    """AES-256 of an all-zero block under an all-zero key."""
    buffer = bytearray(16 + SLACK)
    aes_keystream(bytes(32), memoryview(buffer))
    assert buffer[:16].hex() == "dc95c078a2408989ad48a21492842087"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_mask_is_the_keystream_read_as_little_endian_integers(dtype: np.dtype) -> None:
    vector = np.zeros(5, dtype)
    add_masks(vector, 3, [(SEED, 1)], chunk=5)
    raw = stream(chunk_key(SEED, 3), 5 * dtype.itemsize)
    step = dtype.itemsize
    expected = [int.from_bytes(raw[at : at + step], "little", signed=True) for at in range(0, len(raw), step)]
    assert vector.tolist() == expected


# ---- adding them


@quick
@given(
    st.integers(0, 70),
    st.integers(1, 16),
    st.integers(0, 1 << 40),
    st.lists(st.tuples(st.sampled_from([SEED, OTHER, bytes(32)]), st.sampled_from([1, -1])), max_size=4),
    st.sampled_from(DTYPES),
)
def test_masks_add_up_modulo_the_ring_in_place(
    size: int, chunk: int, first: int, masks: list[Mask], dtype: np.dtype
) -> None:
    vector = numbers(size, dtype)
    expected = vector.copy()
    for seed, sign in masks:
        expected += sign * mask_of(seed, size, chunk, dtype, first)
    hashes = add_masks(vector, first, masks, chunk)
    assert vector.dtype == dtype
    assert np.array_equal(vector, expected)
    pieces = [vector[at : at + chunk].tobytes() for at in range(0, size, chunk)]
    assert hashes == tuple(blake3(piece).digest() for piece in pieces)


@quick
@given(st.integers(1, 70), st.integers(1, 16), st.data(), st.sampled_from(DTYPES))
def test_a_run_masked_in_pieces_of_whole_chunks_is_the_run_masked_at_once(
    size: int, chunk: int, data: st.DataObject, dtype: np.dtype
) -> None:
    masks = [(SEED, 1), (OTHER, -1)]
    at_once, in_pieces = numbers(size, dtype), numbers(size, dtype)
    hashes = add_masks(at_once, 7, masks, chunk)
    chunks = -(-size // chunk)
    cuts = sorted({0, chunks, *data.draw(st.lists(st.integers(0, chunks), max_size=4))})
    pieces: list[bytes] = []
    for low, high in pairwise(cuts):
        pieces += add_masks(in_pieces[low * chunk : high * chunk], 7 + low, masks, chunk)
    assert np.array_equal(at_once, in_pieces)
    assert tuple(pieces) == hashes


def test_a_chunk_can_be_opened_alone_with_its_keys_and_no_seed() -> None:
    dtype, chunk = np.dtype("<i2"), 16
    plain = numbers(60, dtype)
    masked = plain.copy()
    add_masks(masked, 0, [(SEED, 1), (OTHER, -1)], chunk)
    opened = masked[48:].copy()
    masker = Masker(dtype, chunk)
    masker.add_stream(opened, chunk_key(SEED, 3), -1)
    masker.add_stream(opened, chunk_key(OTHER, 3), 1)
    assert np.array_equal(opened, plain[48:])
    assert not np.array_equal(masked[48:], plain[48:])


def test_chunks_and_seeds_have_masks_that_have_nothing_in_common() -> None:
    dtype = np.dtype("<i4")
    masks = [mask_of(seed, 1000, 1000, dtype, first) for seed in (SEED, OTHER) for first in (0, 1, 256)]
    assert len(np.unique(np.concatenate(masks))) > 5990, "of 6000 integers of 32 bits"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_chunk_of_the_real_size_is_masked_to_its_last_element(dtype: np.dtype) -> None:
    vector = np.zeros(WHOLE_CHUNK + 3, dtype)
    add_masks(vector, 0, [(SEED, 1)], WHOLE_CHUNK)
    assert vector[:WHOLE_CHUNK].tobytes() == stream(chunk_key(SEED, 0), WHOLE_CHUNK * dtype.itemsize)
    assert vector[WHOLE_CHUNK:].tobytes() == stream(chunk_key(SEED, 1), 3 * dtype.itemsize)


# ---- taking them off


def test_the_two_of_a_pair_add_opposite_signs_plus_at_the_lower_peer() -> None:
    for one in PEERS:
        for other in PEERS:
            if one != other:
                assert sign_towards(one, other) == -sign_towards(other, one)
                assert sign_towards(min(one, other), max(one, other)) == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_masks_of_a_pair_cancel(dtype: np.dtype) -> None:
    one, other = numbers(50, dtype, 1), numbers(50, dtype, 2)
    total = one + other
    add_masks(one, 0, [(SEED, sign_towards(PEERS[0], PEERS[1]))], 8)
    add_masks(other, 0, [(SEED, sign_towards(PEERS[1], PEERS[0]))], 8)
    assert np.array_equal(one + other, total)


def pair_seed_of(one: int, other: int) -> bytes:
    return blake3(bytes(sorted((one, other)))).digest()


def self_seed_of(member: int) -> bytes:
    return blake3(bytes([member])).digest()


@settings(max_examples=80, derandomize=True, deadline=None)
@given(
    st.integers(2, 8),
    st.integers(1, 90),
    st.integers(1, 32),
    st.integers(0, 1 << 32),
    st.sampled_from(DTYPES),
    st.data(),
)
def test_the_unmasked_sum_is_numpys_over_any_survivors(
    n: int, size: int, chunk: int, first: int, dtype: np.dtype, data: st.DataObject
) -> None:
    """Bonawitz et al. 2017: own masks of survivors, and those of pairs with dropped dealers, are left."""
    survivors = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    dropped = [member for member in range(n) if member not in survivors]
    updates = [numbers(size, dtype, seed=member) for member in range(n)]
    masked = [update.copy() for update in updates]
    for member, vector in enumerate(masked):
        pairs = [
            (pair_seed_of(member, other), sign_towards(PEERS[member], PEERS[other]))
            for other in range(n)
            if other != member
        ]
        add_masks(vector, first, [(self_seed_of(member), 1), *pairs], chunk)
    left: list[Mask] = [(self_seed_of(survivor), 1) for survivor in survivors]
    left += [
        (pair_seed_of(gone, survivor), sign_towards(PEERS[survivor], PEERS[gone]))
        for gone in dropped
        for survivor in survivors
    ]
    inputs = [masked[survivor] for survivor in survivors]
    kept = [one.copy() for one in inputs]
    out = np.full(size, 77, dtype)
    hashes = sum_unmasked(inputs, first, left, chunk, out)
    total = np.sum([updates[survivor] for survivor in survivors], axis=0, dtype=dtype)
    assert np.array_equal(out, total)
    pieces = [total[at : at + chunk].tobytes() for at in range(0, size, chunk)]
    assert hashes == tuple(blake3(piece).digest() for piece in pieces)
    assert all(np.array_equal(a, b) for a, b in zip(inputs, kept, strict=True)), "inputs are left alone"
    if size * dtype.itemsize >= 16:  # less could be right by chance
        sum_unmasked(inputs, first, left[1:], chunk, out)
        assert not np.array_equal(out, total), "one mask left on hides the sum"


def test_without_masks_the_sum_is_the_plain_sum() -> None:
    inputs = [numbers(21, DTYPES[0], seed) for seed in range(3)]
    out = np.empty(21, DTYPES[0])
    sum_unmasked(inputs, 0, [], 4, out)
    assert np.array_equal(out, inputs[0] + inputs[1] + inputs[2])


def test_an_owner_may_sum_into_its_own_input() -> None:
    inputs = [numbers(21, DTYPES[0], seed) for seed in range(3)]
    total = inputs[0] + inputs[1] + inputs[2]
    sum_unmasked(inputs, 0, [], 4, inputs[0])
    assert np.array_equal(inputs[0], total)


# ---- the root that both partners sign


@pytest.mark.parametrize("chunks", [1, 2, 3, 7, 8, 33])
def test_the_root_over_chunk_keys_is_the_merkle_root_and_each_key_is_in_it(chunks: int) -> None:
    keys = [chunk_key(SEED, index) for index in range(chunks)]
    leaves = [leaf_hash(key) for key in keys]
    top = chunk_keys_root(SEED, chunks)
    assert top == root(leaves)
    assert top != chunk_keys_root(SEED, chunks + 1)
    assert top != chunk_keys_root(OTHER, chunks)
    for index, key in enumerate(keys):
        proof = inclusion_proof(leaves, index)
        assert verify_inclusion(leaf_hash(key), index, chunks, proof, top)
        assert not verify_inclusion(leaf_hash(chunk_key(OTHER, index)), index, chunks, proof, top)
        assert not verify_inclusion(leaf_hash(key), index + 1, chunks, proof, top)


def test_the_root_over_three_chunk_keys_by_hand() -> None:
    """RFC 9162 section 2.1.1: leaves hash 00 || key, nodes 01 || left || right."""
    a, b, c = (hashlib.sha256(b"\0" + chunk_key(SEED, index)).digest() for index in range(3))
    ab = hashlib.sha256(b"\1" + a + b).digest()
    assert chunk_keys_root(SEED, 3) == hashlib.sha256(b"\1" + ab + c).digest()
