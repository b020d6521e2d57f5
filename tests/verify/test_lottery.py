"""Draws: everyone repeats them, nobody prefers an index, and no two peers share a sequence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.verify.chain import PEERS
from verify.lottery import attempt_seed, draw, in_turn, own_draw, shared_draw

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
