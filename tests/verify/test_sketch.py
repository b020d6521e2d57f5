"""Sketches: alike for alike work, exact everywhere, and beyond guessing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.sketch import STEP, WIDTH, agree, sketch

SEED = bytes(32)


def gradient(size: int, seed: int = 0, levels: int = 500) -> np.ndarray:
    """Integers [size] as a slice encodes to."""
    drawn = np.random.default_rng(seed).normal(0, levels / 8, size)
    return np.clip(np.rint(drawn), -levels, levels).astype(np.int16)


def by_hand(integers: list[int], signs: list[int]) -> tuple[int, ...]:
    total = [0] * WIDTH
    for at, (value, sign) in enumerate(zip(integers, signs, strict=True)):
        total[at % WIDTH] += -value if sign else value
    return tuple(total)


@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=100), st.binary(min_size=32, max_size=32))
@settings(max_examples=60, deadline=None)
def test_a_sketch_is_exact_and_linear(values: list[int], seed: bytes) -> None:
    vector = np.array(values, np.int32)
    signs = [
        int(sketch(np.eye(1, len(values), at, np.int32)[0], seed)[at % WIDTH] < 0)
        for at in range(len(values))
    ]
    assert sketch(vector, seed) == by_hand(values, signs)


def test_it_does_not_depend_on_how_the_integers_are_stored() -> None:
    vector = gradient(STEP + 77)
    assert sketch(vector, SEED) == sketch(vector.astype(np.int32), SEED) == sketch(vector[:].copy(), SEED)


def test_the_signs_of_two_steps_are_not_the_same() -> None:
    once = np.zeros(2 * STEP, np.int16)
    once[:STEP] = gradient(STEP)
    twice = np.roll(once, STEP)
    assert sketch(once, SEED) != sketch(twice, SEED)


@pytest.mark.parametrize("size", [200, 30_000, 3 * STEP + 5])
def test_rounding_agrees_and_other_work_does_not(size: int) -> None:
    true = gradient(size)
    chance = np.random.default_rng(1)
    rounded = true + (chance.random(size) < 0.03).astype(np.int16)  # ten times what honest machines differ by
    mine = sketch(true, SEED)
    assert agree(mine, sketch(rounded, SEED))
    others = {
        "nothing": np.zeros(size, np.int16),
        "another slice": gradient(size, seed=2),
        "the other sign": -true,
        "twice": 2 * true,
        "half of the sequences": (true // 2 + gradient(size, seed=3) // 2).astype(np.int16),
    }
    assert {name for name, other in others.items() if agree(mine, sketch(other, SEED))} == set()


NUMBERS = st.lists(st.integers(-9, 9), min_size=WIDTH, max_size=WIDTH)


@given(NUMBERS, NUMBERS)
def test_agreement_is_mutual_and_holds_with_oneself(one: list[int], other: list[int]) -> None:
    assert agree(one, one)
    assert agree(one, other) == agree(other, one)


def test_numbers_of_any_size_are_compared_exactly() -> None:
    far, near = ((1 << 61),) * WIDTH, ((1 << 61) - 1,) * WIDTH
    assert agree(far, near)
    assert not agree(far, tuple(-one for one in far))
