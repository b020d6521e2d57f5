"""A commitment binds to every integer, shows none, and opens one slice or one chunk at a time."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import MAX_MESSAGE
from proto.errors import MessageRefused
from verify.commitment import (
    FLOOR,
    MAX_SLICES,
    ChunkOpening,
    Committed,
    OpeningRefused,
    SliceOpening,
    check_chunk,
    check_slice,
    chunk_digests,
    commit_to,
    differing,
    distance,
    slice_leaves,
)

SESSION, ORDER, SECRET = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
CHUNK, SIZE, DTYPE = 16, 72, np.dtype("<i2")  # the last chunk is a short one
CHUNKS = -(-SIZE // CHUNK)
PLACES = st.integers(0, SIZE - 1)


def encoded(slices: int = 3, seed: int = 0) -> list[np.ndarray]:
    numbers = np.random.default_rng(seed)
    return [numbers.integers(-100, 100, SIZE, dtype=np.int16) for _ in range(slices)]


def committed(slices: list[np.ndarray], secret: bytes = SECRET, order: bytes = ORDER) -> Committed:
    return Committed(order, [chunk_digests(one, CHUNK) for one in slices], secret)


def chunk_of(one: np.ndarray, chunk: int) -> np.ndarray:
    return one[chunk * CHUNK : (chunk + 1) * CHUNK]


def opened(slices: list[np.ndarray], index: int = 1, chunk: int = 4) -> tuple[SliceOpening, ChunkOpening]:
    made = committed(slices)
    return made.open_slice(SESSION, index), made.open_chunk(
        SESSION, index, chunk, chunk_of(slices[index], chunk)
    )


def test_whatever_is_committed_to_can_be_opened_slice_by_slice_and_chunk_by_chunk() -> None:
    slices = encoded()
    made = committed(slices)
    for index, one in enumerate(slices):
        opening = SliceOpening.parse(made.open_slice(SESSION, index).encode())
        check_slice(opening, made.commitment, len(slices), CHUNKS)
        assert differing(opening, chunk_digests(one, CHUNK)) == []
        for chunk in range(CHUNKS):
            part = chunk_of(one, chunk)
            shown = ChunkOpening.parse(made.open_chunk(SESSION, index, chunk, part).encode())
            assert np.array_equal(check_chunk(shown, opening.roots, CHUNKS, len(part), DTYPE), part)


@given(st.integers(0, 2), PLACES, st.integers(1, 60_000))
def test_another_integer_anywhere_is_another_commitment_and_shows_in_its_chunk(
    index: int, place: int, step: int
) -> None:
    slices = encoded()
    made, changed = committed(slices), [one.copy() for one in slices]
    changed[index][place : place + 1] += np.array([step]).astype(np.int16)
    assert committed(changed).commitment != made.commitment
    opening = made.open_slice(SESSION, index)
    assert differing(opening, chunk_digests(changed[index], CHUNK)) == [place // CHUNK]


def test_order_number_and_sequence_of_slices_are_committed_to() -> None:
    slices = encoded()
    others = [
        committed(slices[::-1]),
        committed(slices[:2]),
        committed([*slices, slices[0]]),
        committed(slices, order=bytes(32)),
        committed(slices, secret=bytes(32)),
    ]
    assert len({committed(slices).commitment, *(one.commitment for one in others)}) == 6


def test_equal_integers_look_different_in_every_slice_and_chunk_and_under_every_secret() -> None:
    same = [np.zeros(4 * CHUNK, np.int16)] * 2
    leaves = [
        leaf
        for secret in (SECRET, bytes(32))
        for index in range(2)
        for leaf in committed(same, secret).open_slice(SESSION, index).leaves
    ]
    assert len(set(leaves)) == 16


def test_a_slices_key_tests_guesses_of_that_slice_and_of_no_other() -> None:
    slices = encoded()
    made = committed(slices)
    first, second = (made.open_slice(SESSION, index) for index in range(2))
    guess = chunk_digests(slices[1], CHUNK)
    assert slice_leaves(guess, second.key) == list(second.leaves)
    assert not set(slice_leaves(guess, first.key)) & set(second.leaves)


def test_a_commitment_does_not_print_its_secret() -> None:
    made = committed(encoded())
    assert repr(made) == f"Committed({made.commitment.hex()})"


WRONG_SLICE: dict[str, Callable[[SliceOpening], dict[str, object]]] = {
    "another order": lambda o: {"order": bytes(32)},
    "another root": lambda o: {"roots": (bytes(32), *o.roots[1:])},
    "roots swapped": lambda o: {"roots": o.roots[::-1]},
    "a root less": lambda o: {"roots": o.roots[:-1]},
    "a root more": lambda o: {"roots": (*o.roots, o.roots[0])},
    "another leaf": lambda o: {"leaves": (bytes(32), *o.leaves[1:])},
    "leaves swapped": lambda o: {"leaves": o.leaves[::-1]},
    "leaves of another slice": lambda o: {
        "leaves": tuple(committed(encoded()).open_slice(SESSION, 0).leaves)
    },
}


@pytest.mark.parametrize("how", WRONG_SLICE)
def test_a_slice_opening_that_is_not_the_commitment_is_refused(how: str) -> None:
    opening, _ = opened(encoded())
    wrong = opening.model_copy(update=WRONG_SLICE[how](opening))
    with pytest.raises(OpeningRefused):
        check_slice(wrong, committed(encoded()).commitment, 3, CHUNKS)


@pytest.mark.parametrize("changes", [{"slice": 3}, {"slice": 1 << 62}, {"leaves": (bytes(32),)}])
def test_a_slice_opening_of_another_shape_shows_nothing_against_its_author(
    changes: dict[str, object],
) -> None:
    opening, _ = opened(encoded())
    with pytest.raises(MessageRefused) as refusal:
        check_slice(opening.model_copy(update=changes), committed(encoded()).commitment, 3, CHUNKS)
    assert not isinstance(refusal.value, OpeningRefused)


WRONG_CHUNK: dict[str, Callable[[ChunkOpening], dict[str, object]]] = {
    "other integers": lambda o: {"data": bytes(len(o.data))},
    "another salt": lambda o: {"salt": bytes(32)},
    "another chunk": lambda o: {"chunk": 3},
    "a chunk beyond all": lambda o: {"chunk": 1 << 62},
    "another slice": lambda o: {"slice": 0},
    "a slice beyond all": lambda o: {"slice": 1 << 62},
    "no proof": lambda o: {"proof": ()},
    "a proof too long": lambda o: {"proof": (*o.proof, bytes(32))},
    "a proof of another leaf": lambda o: {"proof": o.proof[::-1]},
}


@pytest.mark.parametrize("how", WRONG_CHUNK)
def test_a_chunk_opening_that_was_not_committed_to_is_refused(how: str) -> None:
    slices = encoded()
    opening, shown = opened(slices, chunk=2)
    wrong = shown.model_copy(update=WRONG_CHUNK[how](shown))
    with pytest.raises(OpeningRefused):
        check_chunk(wrong, opening.roots, CHUNKS, CHUNK, DTYPE)


@given(st.integers(0, 40))
def test_a_chunk_of_another_length_shows_nothing_against_its_author(elements: int) -> None:
    slices = encoded()
    opening, shown = opened(slices, chunk=2)
    if elements == CHUNK:
        elements += 1
    with pytest.raises(MessageRefused) as refusal:
        check_chunk(shown, opening.roots, CHUNKS, elements, DTYPE)
    assert not isinstance(refusal.value, OpeningRefused)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=5), st.binary(min_size=32, max_size=32))
def test_a_commitment_has_one_reading(roots: list[bytes], order: bytes) -> None:
    assert commit_to(order, roots) != commit_to(order, [*roots, bytes(32)])
    if roots:
        assert commit_to(roots[0], [order, *roots[1:]]) != commit_to(order, roots) or roots[0] == order
        assert commit_to(order, [b"".join(roots)]) != commit_to(order, roots) or len(roots) == 1


def test_openings_are_bounded_before_they_are_read() -> None:
    opening, shown = opened(encoded())
    for message in (
        opening.model_copy(update={"roots": (bytes(32),) * (MAX_SLICES + 1)}),
        opening.model_copy(update={"roots": ()}),
        opening.model_copy(update={"leaves": ()}),
        shown.model_copy(update={"proof": (bytes(32),) * 41}),
        shown.model_copy(update={"data": bytes((1 << 18) + 1)}),
    ):
        with pytest.raises(MessageRefused):
            type(message).parse(message.encode())
    with pytest.raises(MessageRefused, match="the largest has"):
        SliceOpening.parse(bytes(MAX_MESSAGE + 1))


INTEGERS = st.lists(st.integers(-(1 << 15), (1 << 15) - 1), min_size=1, max_size=32)


@given(INTEGERS)
@settings(max_examples=60)
def test_distance_is_nothing_for_equals_and_counts_steps_exactly(values: list[int]) -> None:
    mine = np.array(values, np.int16)
    theirs = mine[::-1].copy()
    steps = sum(abs(a - b) for a, b in zip(values, values[::-1], strict=True))
    size = max(sum(map(abs, values)), FLOOR)
    assert distance(mine, mine) == 0
    assert distance(mine, theirs) == steps / size


def test_distance_does_not_overflow_where_the_ring_does() -> None:
    low, high = np.full(64, -(1 << 15), np.int16), np.full(64, (1 << 15) - 1, np.int16)
    assert distance(low, high) == pytest.approx(2.0, rel=1e-4)
    wide = np.full(64, (1 << 31) - 1, np.int32)
    assert distance(wide, -wide - 1) == pytest.approx(2.0)


def test_a_rounding_in_an_empty_chunk_is_no_lie_and_a_filled_one_is() -> None:
    mine = np.zeros(65_536, np.int16)
    theirs = mine.copy()
    theirs[:3] = 1
    assert distance(mine, theirs) < 5e-3
    theirs[:] = 1
    assert distance(mine, theirs) > 1
