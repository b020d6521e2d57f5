"""Promises of placement: the bottleneck rises, moving ends, nobody is put where it does not fit."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.shards.placement import (
    MOST_MEMORY,
    FitsNowhere,
    Holder,
    Margin,
    MemoryRefused,
    Move,
    Need,
    check_coverable,
    check_memory,
    moved,
    next_move,
    place,
    share,
    throughputs,
)

FREE = Margin(percent=20, seconds=3_600, bytes_per_second=1 << 40)
NEEDS = st.lists(
    st.builds(
        Need, memory=st.integers(1, 1_000), work=st.integers(1, 100), download=st.integers(0, 10_000_000_000)
    ),
    min_size=2,
    max_size=6,
)


@st.composite
def swarms(draw: st.DrawFn) -> tuple[list[Holder], list[Need]]:
    needs = draw(NEEDS)
    rows = draw(
        st.lists(
            st.tuples(st.integers(1, 1_500), st.integers(0, 10_000), st.integers(0, len(needs) - 1)),
            max_size=12,
        )
    )
    return [Holder(f"p{at:02}", *row) for at, row in enumerate(rows)], needs


def alike(count: int, memory: int = 100) -> list[Need]:
    return [Need(memory, 10, 100) for _ in range(count)]


# ---- newcomers


@settings(deadline=None, max_examples=40)
@given(swarms(), st.integers(1, 1_500), st.integers(0, 10_000))
def test_no_other_shard_that_fits_would_make_the_swarm_faster(
    swarm: tuple[list[Holder], list[Need]], memory: int, speed: int
) -> None:
    holders, needs = swarm
    fitting = [shard for shard, need in enumerate(needs) if need.memory <= memory]
    if not fitting:
        with pytest.raises(FitsNowhere, match="the smallest of"):
            place("new", memory, speed, holders, needs)
        return
    chosen = place("new", memory, speed, holders, needs)
    assert chosen in fitting
    best = [throughputs([*holders, Holder("new", memory, speed, shard)], needs) for shard in fitting]
    found = throughputs([*holders, Holder("new", memory, speed, chosen)], needs)
    assert found.bottleneck == max(each.bottleneck for each in best)
    assert place("new", memory, speed, holders[::-1], needs) == chosen


def test_newcomers_of_one_speed_fill_the_shards_evenly() -> None:
    holders: list[Holder] = []
    for at in range(9):
        holders.append(Holder(f"p{at}", 100, 50, place(f"p{at}", 100, 50, holders, alike(3))))
    assert sorted(holder.shard for holder in holders) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_shard_with_twice_the_work_gets_twice_the_peers() -> None:
    needs = [Need(100, 10, 0), Need(100, 20, 0)]
    holders: list[Holder] = []
    for at in range(9):
        holders.append(Holder(f"p{at}", 100, 50, place(f"p{at}", 100, 50, holders, needs)))
    assert [sum(holder.shard == shard for holder in holders) for shard in range(2)] == [3, 6]


def test_a_peer_that_comes_back_is_not_counted_against_itself() -> None:
    holders = [Holder("a", 100, 50, 0), Holder("b", 100, 40, 1)]
    assert place("a", 100, 50, holders, alike(2)) == 0


def test_a_small_peer_takes_what_fits() -> None:
    needs = [Need(100, 10, 0), Need(900, 10, 0)]
    assert place("new", 500, 10, [Holder("a", 1_000, 10, 0)], needs) == 0
    assert place("new", 900, 10, [Holder("a", 1_000, 10, 0)], needs) == 1


# ---- moves


@settings(deadline=None, max_examples=40)
@given(swarms())
def test_moving_ends_and_each_move_is_worth_it(swarm: tuple[list[Holder], list[Need]]) -> None:
    """Repeated application reaches a fixed point; every step covers a shard or gains a fifth."""
    holders, needs = swarm
    now = throughputs(holders, needs)
    # What all peers together could give a shard bounds how often the bottleneck can rise by a fifth.
    most = max((share(holder.speed, need) for holder in holders for need in needs), default=1) * (
        len(holders) + 1
    )
    bound = len(needs) + math.ceil(math.log(most, 1.2)) + 1
    for _ in range(bound):
        move = next_move(holders, needs)
        if move is None:
            break
        before = throughputs(holders, needs)
        holders = list(moved(holders, move))
        after = throughputs(holders, needs)
        assert (move.before, move.after) == (before.bottleneck, after.bottleneck)
        assert after.covered >= before.covered
        assert after.covered > before.covered or after.bottleneck * 100 >= before.bottleneck * 120
        mover = next(holder for holder in holders if holder.peer == move.peer)
        assert needs[mover.shard].memory <= mover.memory
    assert next_move(holders, needs) is None
    assert next_move(holders[::-1], needs) is None
    assert throughputs(holders, needs).covered >= now.covered


@settings(deadline=None, max_examples=50)
@given(swarms(), st.integers(0, 1 << 30))
def test_noise_in_the_measurements_makes_nobody_go_back_and_forth(
    swarm: tuple[list[Holder], list[Need]], seed: int
) -> None:
    """Speeds measured 4 % wrong, each round anew: each move still gains a tenth, so there can be few."""
    holders, needs = [replace(one, speed=1_000_000 * (one.speed + 1)) for one in swarm[0]], swarm[1]
    noise = random.Random(seed)
    for _ in range(60):
        measured = [replace(one, speed=one.speed * noise.randint(960, 1_040) // 1_000) for one in holders]
        move = next_move(measured, needs)
        if move is None:
            continue
        before = throughputs(holders, needs)
        holders = list(moved(holders, move))
        after = throughputs(holders, needs)
        assert after.covered > before.covered or after.bottleneck * 100 >= before.bottleneck * 110


def test_a_gain_below_the_margin_moves_nobody() -> None:
    def swarm(slow: int) -> list[Holder]:
        return [Holder("a", 100, 60, 0), Holder("b", 100, 60, 0), Holder("c", 100, slow, 1)]

    needs = [Need(100, 1, 0), Need(100, 1, 0)]
    assert next_move(swarm(52), needs, FREE) is None  # from 52 to 60: 15 %
    assert next_move(swarm(50), needs, FREE) == Move("a", 0, 1, 50 << 20, 60 << 20)


def test_a_download_that_the_gain_does_not_pay_moves_nobody() -> None:
    holders = [Holder("a", 100, 60, 0), Holder("b", 100, 60, 0), Holder("c", 100, 40, 1)]
    margin = Margin(percent=20, seconds=3_600, bytes_per_second=1_000_000)
    cheap, dear = ([Need(100, 1, 0), Need(100, 1, size)] for size in (600 * 1_000_000, 3_000 * 1_000_000))
    assert next_move(holders, cheap, margin) is not None
    assert next_move(holders, dear, margin) is None


def test_a_shard_that_nobody_holds_is_covered_at_once_and_none_is_uncovered() -> None:
    holders = [Holder("a", 100, 60, 0), Holder("b", 100, 10, 0), Holder("c", 100, 60, 1)]
    move = next_move(holders, alike(3))
    assert move is not None
    assert (move.peer, move.to, move.before) == ("a", 2, 0)
    assert throughputs(moved(holders, move), alike(3)).covered == 3
    alone = [Holder("a", 100, 60, 0), Holder("b", 100, 1, 1)]
    assert next_move(alone, alike(2)) is None


def test_nobody_moves_to_a_shard_that_does_not_fit() -> None:
    needs = [Need(100, 1, 0), Need(900, 1, 0)]
    small = [Holder("a", 100, 60, 0), Holder("b", 100, 60, 0), Holder("c", 900, 10, 1)]
    assert next_move(small, needs, FREE) is None


# ---- refusals


@pytest.mark.parametrize("memory", [0, -5, MOST_MEMORY + 1])
def test_memory_that_no_peer_has_is_refused(memory: int) -> None:
    with pytest.raises(MemoryRefused, match=f"{memory} bytes"):
        place("new", memory, 10, [], alike(2))


def test_a_peer_does_not_announce_more_than_it_has() -> None:
    check_memory("a", 100, physical=100)
    with pytest.raises(MemoryRefused, match="--memory says 101 bytes, this machine has 100"):
        check_memory("a", 101, physical=100)


def test_a_shard_that_fits_nowhere_is_named() -> None:
    needs = [Need(100, 1, 0), Need(900, 1, 0)]
    check_coverable([50, 900], needs)
    with pytest.raises(FitsNowhere, match="shard 1 needs 900 bytes of memory, the largest peer has 899"):
        check_coverable([899, 5], needs)
    with pytest.raises(FitsNowhere, match="shard 0"):
        check_coverable([], needs)
