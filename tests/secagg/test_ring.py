"""Promises of the ring: exact sums, unbiased encoding, and sanity tests that honest members cannot fail."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.ring import (
    BLOCK,
    CHUNK,
    FLOOR,
    KAPPA,
    Encoder,
    NonFinite,
    Ring,
    RingOverflow,
    check_sum,
    decode_mean,
    encode,
    next_scales,
)

RING = Ring.for_cell(16, 16, 4)
SANITY = 4.0
SEED = bytes(range(32))


def scales_of(blocks: int, value: float = 1e-3) -> np.ndarray:
    return np.full(blocks, value, np.float32)


def counts_of(blocks: int) -> np.ndarray:
    return np.full(blocks, BLOCK, np.int32)


def normal(blocks: int, sigma: float = 1e-3, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(blocks * BLOCK) * sigma).astype(np.float32)


@given(st.sampled_from([16, 32]), st.integers(1, 32), st.integers(1, 64))
def test_the_largest_sum_of_the_largest_cell_fits_the_ring(bits: int, cell: int, slices: int) -> None:
    try:
        ring = Ring.for_cell(bits, cell, slices)
    except RingOverflow:
        assert bits == 16
        assert cell * slices * 16 >= 1 << 15
    else:
        assert cell * slices * ring.levels < 1 << (bits - 1)
        assert ring.levels <= np.iinfo(ring.dtype).max


@pytest.mark.parametrize(
    ("bits", "cell", "slices", "levels"), [(16, 32, 64, 0), (16, 16, 4, 512), (16, 16, 4, 15), (8, 4, 4, 0)]
)
def test_a_ring_that_overflows_or_is_too_coarse_is_refused(
    bits: int, cell: int, slices: int, levels: int
) -> None:
    with pytest.raises(RingOverflow, match="set"):
        Ring.for_cell(bits, cell, slices, levels)


def test_a_sanity_bound_that_is_too_tight_for_the_levels_is_refused_with_one_that_is_not() -> None:
    with pytest.raises(RingOverflow, match=r"sanity_rms to 4\.0"):
        Ring(16, 16).bound(3.9)
    assert Ring(16, 16).bound(4.0) == 2


@pytest.mark.parametrize("bits", [16, 32])
def test_encoding_is_unbiased_and_the_mean_comes_back(bits: int) -> None:
    ring = Ring.for_cell(bits, 16, 4)
    gradient, scales, counts = normal(3), scales_of(3), counts_of(3)
    encoder = Encoder(ring, scales, counts, SEED, SANITY)
    total = sum(encoder.encode(gradient, index).astype(np.int64) for index in range(64)).astype(ring.dtype)  # type: ignore[union-attr]
    step = KAPPA * 1e-3 / ring.levels
    error = decode_mean(total, 64, scales, ring, 8.0) - gradient
    assert np.abs(error).max() < step  # of a single slice
    assert np.sqrt(np.mean(error**2)) < step / 8 / 2
    assert abs(error.mean()) < step / 8 / math.sqrt(len(error)) * 2


def test_zero_encodes_to_zero_so_padding_stays_zero() -> None:
    for index in range(4):
        assert not encode(
            np.zeros(CHUNK, np.float32), scales_of(64), counts_of(64), RING, SEED, index, SANITY
        ).any()


def test_any_chunk_can_be_encoded_alone_with_the_same_bits() -> None:
    gradient, scales, counts = normal(150), scales_of(150), counts_of(150)
    encoder = Encoder(RING, scales, counts, SEED, SANITY)
    whole = encoder.encode(gradient, 3)
    for chunk in (2, 0, 1):
        here = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        assert np.array_equal(encoder.encode_chunk(gradient[here], 3, chunk), whole[here])


def test_dither_differs_between_seeds_slices_and_chunks() -> None:
    gradient = np.tile(normal(64), 2)
    scales, counts = scales_of(128), counts_of(128)
    codes = [
        part
        for seed, index in ((SEED, 0), (SEED, 1), (bytes(32), 0))
        for part in encode(gradient, scales, counts, RING, seed, index, SANITY).reshape(2, CHUNK)
    ]
    assert len({code.tobytes() for code in codes}) == 6


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_refused(bad: float) -> None:
    gradient = normal(70)
    gradient[-1] = bad
    with pytest.raises(NonFinite, match="chunk 1"):
        encode(gradient, scales_of(70), counts_of(70), RING, SEED, 0, SANITY)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.lists(st.floats(-30, 38), min_size=1, max_size=5),
    st.sampled_from([(16, 16, 4, 0), (16, 1, 1, 0), (16, 8, 8, 100), (32, 16, 4, 0)]),
    st.integers(1, BLOCK),
)
def test_an_honest_sum_passes_the_sanity_tests_whatever_the_data_did(
    seed: int, exponents: list[float], cell: tuple[int, int, int, int], count: int
) -> None:
    ring = Ring.for_cell(*cell)
    rng = np.random.default_rng(seed)
    counts = np.array([BLOCK, count], np.int32)
    scales = np.float32(10.0) ** rng.uniform(-12, 2, 2).astype(np.float32)
    total = np.zeros(2 * BLOCK, ring.dtype)
    direction = rng.standard_normal(2 * BLOCK)
    for index, exponent in enumerate(exponents):
        gradient = np.clip(direction * 10.0**exponent, -3e38, 3e38).astype(np.float32)
        gradient[BLOCK + count :] = 0
        total += encode(gradient, scales, counts, ring, SEED, index, SANITY)
    if len(exponents) <= cell[1] * cell[2]:
        assert not len(check_sum(total, len(exponents), counts, ring, SANITY))


def test_an_honest_sum_passes_by_a_wide_margin_and_garbage_fails_in_every_block() -> None:
    blocks = 64
    total = np.zeros(blocks * BLOCK, RING.dtype)
    for index in range(16):
        total += encode(
            normal(blocks, seed=index), scales_of(blocks), counts_of(blocks), RING, SEED, index, SANITY
        )
    assert not len(check_sum(total, 16, counts_of(blocks), RING, SANITY / 4))
    garbage = np.random.default_rng(1).integers(-(1 << 15), 1 << 15, blocks * BLOCK).astype(RING.dtype)
    for weight in (16, 64):
        assert len(check_sum(garbage, weight, counts_of(blocks), RING, SANITY)) == blocks
        assert len(check_sum(garbage, weight, counts_of(blocks), RING, 4 * SANITY)) == blocks


def test_the_sanity_tests_name_exactly_the_blocks_that_fail() -> None:
    counts = np.array([BLOCK, 100, 0, BLOCK, BLOCK], np.int32)
    total = np.zeros(5 * BLOCK, RING.dtype)
    assert not len(check_sum(total, 1, counts, RING, SANITY))
    total[BLOCK + 100] = 1  # padding
    total[2 * BLOCK] = -1  # frozen
    total[3 * BLOCK] = -RING.levels - 1
    total[4 * BLOCK :] = int(RING.bound(SANITY)) + 1
    assert check_sum(total, 1, counts, RING, SANITY).tolist() == [1, 2, 3, 4]


def test_the_decoded_mean_is_clipped_in_units_of_the_agreed_scale() -> None:
    scales = np.array([1e-3, 1e-5], np.float32)
    total = np.full(2 * BLOCK, RING.levels, RING.dtype)
    mean = decode_mean(total, 1, scales, RING, 8.0).reshape(2, BLOCK)
    assert (mean[0] == 8.0 * float(scales[0])).all()
    assert (mean[1] == 8.0 * float(scales[1])).all()


def test_scales_follow_the_gradient_by_at_most_a_factor_of_two_a_round() -> None:
    blocks, scales = 4, scales_of(4)
    for sigma in (1e-3 * 50, 1e-3 / 50):
        for attempt in range(12):
            code = encode(
                normal(blocks, sigma, attempt), scales, counts_of(blocks), RING, SEED, attempt, SANITY
            )
            new = next_scales(code, 1, scales, counts_of(blocks), np.array([0]), RING)
            assert (new <= scales * np.float32(2)).all()
            assert (new >= scales / np.float32(2)).all()
            scales = new
        assert np.abs(scales / sigma - 1).max() < 0.1


def test_the_scale_estimates_one_slice_whatever_the_weight() -> None:
    total = np.zeros(4 * BLOCK, RING.dtype)
    for index in range(16):
        total += encode(normal(4, seed=index), scales_of(4), counts_of(4), RING, SEED, index, SANITY)
    new = next_scales(total, 16, scales_of(4), counts_of(4), np.array([0]), RING)
    assert np.abs(new / 1e-3 - 1).max() < 0.15


def test_a_quiet_block_keeps_a_share_of_its_own_tensors_scale() -> None:
    scales, counts, tensors = scales_of(6), counts_of(6), np.array([0, 4])
    for attempt in range(30):
        gradient = normal(6, seed=attempt)
        gradient[BLOCK : 2 * BLOCK] = 0
        gradient[4 * BLOCK :] = 0
        code = encode(gradient, scales, counts, RING, SEED, attempt, SANITY)
        scales = next_scales(code, 1, scales, counts, tensors, RING)
    assert 1e-4 < scales[1] < 1e-3
    assert (scales[4:] < 1e-10).all()
    for _ in range(60):
        scales = next_scales(np.zeros(6 * BLOCK, RING.dtype), 1, scales, counts, tensors, RING)
    assert (scales >= FLOOR).all()


@given(st.integers(0, 1 << 30), st.sampled_from([16, 32]))
@settings(max_examples=20, deadline=None)
def test_scales_rest_on_exact_integer_sums(seed: int, bits: int) -> None:
    ring = Ring.for_cell(bits, 1, 1)
    top = 1 << (bits - 1)
    total = np.random.default_rng(seed).integers(-top, top, 2 * BLOCK).astype(ring.dtype)
    scales = scales_of(2, 1.0)
    exact = [sum(int(value) ** 2 for value in row) / BLOCK for row in total.reshape(2, BLOCK)]
    wanted = [min(max(KAPPA / ring.levels * math.sqrt(square), 0.5), 2.0) for square in exact]
    assert np.allclose(next_scales(total, 1, scales, counts_of(2), np.array([0, 1]), ring), wanted, rtol=1e-6)
