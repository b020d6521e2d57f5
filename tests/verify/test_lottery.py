"""Draws: everyone repeats them, nobody prefers an index, and no two peers share a sequence."""

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.canonical import PeerID
from tests.verify.chain import PEERS
from verify.lottery import (
    LEAST_CHUNKS,
    Draw,
    attempt_seed,
    checkers,
    chunks_to_open,
    draw,
    draw_checks,
    draw_sums,
    in_turn,
    own_draw,
    session_beacon,
    shared_draw,
)

SEEDS = st.binary(min_size=32, max_size=32)


@given(SEEDS, st.integers(0, 60), st.integers(1, 20))
def test_no_index_comes_twice_before_all_have_come_once(seed: bytes, count: int, total: int) -> None:
    drawn = draw(seed, count, total)
    assert len(drawn) == count
    for at in range(0, count, total):
        lap = drawn[at : at + total]
        assert len(set(lap)) == len(lap)
    assert all(0 <= index < total for index in drawn)
    assert drawn == draw(seed, count, total)


def test_every_index_is_drawn_about_as_often() -> None:
    counts = [0] * 7
    for number in range(1400):
        counts[draw(number.to_bytes(32, "big"), 1, 7)[0]] += 1
    assert all(140 < count < 260 for count in counts)


@given(SEEDS, st.integers(1, 12), st.integers(1, 8))
def test_peers_share_no_sequence_while_there_are_enough(seed: bytes, peers: int, count: int) -> None:
    roster = PEERS[:peers]
    drawn = [index for peer in roster for index in shared_draw(seed, roster, peer, count, peers * count)]
    assert sorted(drawn) == list(range(peers * count))


@given(SEEDS)
def test_draws_depend_on_peer_attempt_and_purpose_and_not_on_the_rosters_order(seed: bytes) -> None:
    a, b = PEERS[:2]
    assert own_draw(seed, a, 8, 10_000) != own_draw(seed, b, 8, 10_000)
    seeds = {
        attempt_seed(seed, r, t, purpose) for r in range(3) for t in range(3) for purpose in ("order", "turn")
    }
    assert len(seeds) == 18
    assert in_turn(seed, PEERS) == in_turn(seed, PEERS[::-1])
    assert sorted(in_turn(seed, PEERS)) == sorted(PEERS)
    assert shared_draw(seed, PEERS[:4], a, 3, 99) == shared_draw(seed, PEERS[3::-1], a, 3, 99)


def test_an_empty_set_cannot_be_drawn_from() -> None:
    with pytest.raises(ValueError, match="0 items"):
        draw(bytes(32), 1, 0)


# -- who is checked, by whom, on what ------------------------------------------------------------------------

WEIGHTS = dict.fromkeys(PEERS[:8], 4)
OWNERS = {part: (peer, range(5 * part, 5 * part + 5)) for part, peer in enumerate(PEERS[:8])}


def beacon(number: int) -> bytes:
    return session_beacon(number.to_bytes(32, "big"), bytes(32), [bytes(32)])


def checks(number: int, rate: float = 1.0) -> tuple[Draw, ...]:
    return draw_checks(beacon(number), WEIGHTS, 40, rate, 0.02)


def chi_squared(found: Iterable[object], cells: int) -> float:
    """How far counts are from even; beyond 2.5 * cells only once in thousands of fair draws of 8 or more."""
    counts = Counter(found)
    expected = counts.total() / cells
    return sum((n - expected) ** 2 for n in counts.values()) / expected + expected * (cells - len(counts))


def test_checkers_slices_and_chunks_are_drawn_evenly() -> None:
    drawn = [one for number in range(300) for one in checks(number)]
    assert chi_squared(((d.checked, d.checkers[0]) for d in drawn), 56) < 2 * 56
    assert chi_squared(((d.checkers[0], d.checkers[1]) for d in drawn), 56) < 2 * 56
    assert chi_squared((d.what for d in drawn), 4) < 16
    assert chi_squared((chunk for d in drawn for chunk in d.chunks), 40) < 2 * 40
    assert chi_squared((d.chunks[0] for d in drawn), 40) < 2 * 40


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_each_peer_is_checked_with_the_chance_of_the_manifest_on_its_own(rate: float) -> None:
    drawn = [{one.checked for one in checks(number, rate)} for number in range(500)]
    for peer in WEIGHTS:
        share = sum(peer in one for one in drawn) / len(drawn)
        assert abs(share - rate) < 4 * (rate * (1 - rate) / len(drawn)) ** 0.5
    both = sum({PEERS[0], PEERS[1]} <= one for one in drawn) / len(drawn)
    assert abs(both - rate * rate) < 4 * (rate * rate / len(drawn)) ** 0.5


def test_a_rate_of_none_draws_nobody_and_a_rate_of_one_everybody() -> None:
    for number in range(50):
        assert checks(number, 0.0) == ()
        assert [one.checked for one in checks(number)] == PEERS[:8]
        assert draw_sums(beacon(number), OWNERS, PEERS[:8], 0.0, 0.02) == ()
        assert [one.what for one in draw_sums(beacon(number), OWNERS, PEERS[:8], 1.0, 0.02)] == list(range(8))


def test_nobody_looks_at_its_own_work_or_sum_and_everybody_else_may() -> None:
    for number in range(50):
        for one in [*checks(number), *draw_sums(beacon(number), OWNERS, PEERS[:8], 1.0, 0.02)]:
            assert sorted([one.checked, *one.checkers]) == PEERS[:8]


def test_pairs_rotate_until_everyone_has_looked_at_everyone() -> None:
    seen: set[tuple[PeerID, PeerID]] = set()
    for number in range(60):
        seen |= {(one.checked, one.checkers[0]) for one in checks(number)}
    assert len(seen) == 56


def test_no_chunk_is_drawn_twice_and_each_is_of_the_vector() -> None:
    for number in range(50):
        for one in checks(number):
            assert len(set(one.chunks)) == len(one.chunks) == chunks_to_open(40, 0.02)
            assert set(one.chunks) <= set(range(40))
            assert one.what < 4
        for one in draw_sums(beacon(number), OWNERS, PEERS[:8], 1.0, 0.02):
            owner, chunks = OWNERS[one.what]
            assert owner == one.checked
            assert len(set(one.chunks)) == len(one.chunks) == chunks_to_open(len(chunks), 0.02)
            assert set(one.chunks) <= set(chunks)


@given(SEEDS, st.permutations(PEERS[:6]), st.floats(0, 1), st.integers(1, 6))
def test_all_members_draw_alike_however_they_hold_what_they_know(
    seed: bytes, order: list[PeerID], rate: float, weight: int
) -> None:
    sorted_, mixed = dict.fromkeys(PEERS[:6], weight), dict.fromkeys(order, weight)
    assert draw_checks(seed, sorted_, 40, rate, 0.02) == draw_checks(seed, mixed, 40, rate, 0.02)
    owners = {part: OWNERS[part] for part in range(6)}
    backwards = dict(reversed(owners.items()))
    assert draw_sums(seed, owners, PEERS[:6], rate, 0.1) == draw_sums(seed, backwards, order, rate, 0.1)
    assert checkers(seed, PEERS[:6], order[0]) == checkers(seed, order, order[0])


@given(SEEDS)
def test_who_has_done_no_slice_is_not_checked_but_looks_at_others(seed: bytes) -> None:
    draws = draw_checks(seed, {**dict.fromkeys(PEERS[:3], 2), PEERS[3]: 0}, 40, 1.0, 0.02)
    assert [one.checked for one in draws] == sorted(PEERS[:3])
    assert all(set(one.checkers) == set(PEERS[:4]) - {one.checked} for one in draws)


@given(SEEDS, st.integers(1, 5))
def test_a_peers_draw_is_within_its_own_weight_and_nobody_elses_weight_moves_it(
    seed: bytes, weight: int
) -> None:
    one = draw_checks(seed, dict.fromkeys(PEERS[:4], weight), 40, 1.0, 0.02)
    other = draw_checks(seed, {**dict.fromkeys(PEERS[:4], 1), PEERS[0]: weight}, 40, 1.0, 0.02)
    assert one[0] == other[0]
    assert all(drawn.what < weight for drawn in one)


def test_a_beacon_is_of_its_session_its_survivors_and_every_seed_in_order() -> None:
    one, two = bytes([1]) * 32, bytes([2]) * 32
    beacons = {
        session_beacon(one, two, [one, two]),
        session_beacon(two, one, [one, two]),
        session_beacon(one, two, [two, one]),
        session_beacon(one, two, [one]),
        session_beacon(one, two, [one, two, bytes(32)]),
    }
    assert len(beacons) == 5


def test_as_many_chunks_are_opened_as_the_manifest_says_and_never_fewer_than_eight() -> None:
    assert chunks_to_open(3, 0.02) == 3
    assert chunks_to_open(100, 0.02) == LEAST_CHUNKS == 8
    assert chunks_to_open(100, 0.25) == 25
    assert chunks_to_open(101, 0.25) == 26
    assert chunks_to_open(50, 1.0) == 50
