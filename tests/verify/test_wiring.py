"""Promises of wiring: the same on every machine, in proportion to throughput, refusals by name."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.wiring import (
    MOST_CHAINS,
    MOST_THROUGHPUT,
    NoReplica,
    WiringRefused,
    weights_of,
    wire,
)

SEED = bytes(32)
SPEEDS = st.dictionaries(
    st.sampled_from([f"peer-{at}" for at in range(12)]), st.integers(0, 10_000), min_size=1, max_size=8
)
SHARDS = st.lists(SPEEDS, min_size=1, max_size=5)


@settings(deadline=None, max_examples=40)
@given(st.binary(min_size=32, max_size=32), SHARDS, st.integers(1, 30))
def test_every_chain_has_a_peer_of_each_shard_and_all_the_others_in_turn(
    beacon: bytes, shards: list[dict[str, int]], count: int
) -> None:
    chains = wire(beacon, 1, 0, shards, count=count)
    assert [chain.chain for chain in chains] == list(range(count))
    for chain in chains:
        for peers, holders in zip(chain.replicas, shards, strict=True):
            assert sorted(peers) == sorted(holders)


@settings(deadline=None, max_examples=40)
@given(st.binary(min_size=32, max_size=32), SHARDS, st.integers(1, 30))
def test_a_peer_gets_its_share_of_the_chains_rounded_up_or_down(
    beacon: bytes, shards: list[dict[str, int]], count: int
) -> None:
    chains = wire(beacon, 1, 0, shards, count=count)
    for shard, peers in enumerate(shards):
        weights = weights_of(peers)
        total = sum(weights.values())
        got = Counter(chain.path[shard] for chain in chains)
        for peer, weight in weights.items():
            assert count * weight // total <= got[peer] <= -(-count * weight // total)


@settings(deadline=None, max_examples=40)
@given(st.binary(min_size=32, max_size=32), SHARDS)
def test_the_order_in_which_records_came_changes_nothing(beacon: bytes, shards: list[dict[str, int]]) -> None:
    turned = [dict(reversed(peers.items())) for peers in shards]
    assert wire(beacon, 3, 1, shards) == wire(beacon, 3, 1, turned)


def test_the_wiring_of_known_inputs_never_changes() -> None:
    """The golden wiring: what another machine or version must give."""
    shards = [{"a": 5, "b": 3, "c": 0}, {"d": 1, "e": 9}]
    chains = wire(SEED, 7, 2, shards)
    assert ["".join("".join(peers) + " " for peers in chain.replicas) for chain in chains] == GOLDEN


GOLDEN = ["cab ed ", "acb ed ", "acb ed "]


def test_every_attempt_is_drawn_anew() -> None:
    shards = [{f"a{at}": 1 for at in range(5)}, {f"b{at}": 1 for at in range(5)}]
    paths = {
        tuple(chain.path for chain in wire(beacon, round_, attempt, shards))
        for beacon in (SEED, b"\1" * 32)
        for round_ in range(3)
        for attempt in range(3)
    }
    assert len(paths) == 18


def test_on_average_a_peer_gets_exactly_its_share() -> None:
    shards = [{"fast": 9, "slow": 1}]
    got = Counter(wire(SEED, round_, 0, shards, count=1)[0].path[0] for round_ in range(2_000))
    assert 130 < got["slow"] < 270  # 200 expected, a standard deviation of 13


def test_pairs_of_peers_meet_at_random() -> None:
    shards = [{"a": 1, "b": 1}, {"c": 1, "d": 1}]
    met = Counter(wire(SEED, round_, 0, shards)[0].path for round_ in range(400))
    assert set(met) == {("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")}
    assert min(met.values()) > 60


def test_who_steps_in_is_drawn_by_throughput_too() -> None:
    shards = [{"own": 5, "fast": 9, "slow": 1}]
    plan = [["own"]]
    first = Counter(wire(SEED, at, 0, shards, plan=plan)[0].replicas[0][1] for at in range(1_000))
    assert 50 < first["slow"] < 160  # one in ten


def test_there_are_as_many_chains_as_the_largest_shard_has_peers() -> None:
    chains = wire(SEED, 1, 0, [{"a": 1}, {"b": 1, "c": 1, "d": 1}])
    assert sorted(chain.path for chain in chains) == [("a", "b"), ("a", "c"), ("a", "d")]


def test_who_is_not_measured_yet_weighs_as_much_as_the_slowest() -> None:
    assert weights_of({"a": 10, "b": 20, "new": 0}) == {"a": 10, "b": 20, "new": 10}
    assert weights_of({"a": 0, "b": 0}) == {"a": 1, "b": 1}


def test_a_plan_is_taken_as_it_is() -> None:
    shards = [{"a": 1, "b": 1}, {"c": 1, "d": 1}]
    chains = wire(SEED, 1, 0, shards, plan=[["a", "d"], ["a", "c"]])
    assert [chain.path for chain in chains] == [("a", "d"), ("a", "c")]
    assert [chain.replicas[1] for chain in chains] == [("d", "c"), ("c", "d")]


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ([], "a plan of 0 chains"),
        ([["a"]], "has 1 peers, the run 2 shards"),
        ([["a", "b"]], "puts b at shard 1"),
        ([["a", "c"]] * (MOST_CHAINS + 1), "a plan of"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan: list[list[str]], text: str) -> None:
    with pytest.raises(WiringRefused, match=text):
        wire(SEED, 1, 0, [{"a": 1, "b": 1}, {"c": 1}], plan=plan)


def test_a_shard_that_nobody_holds_is_named() -> None:
    with pytest.raises(NoReplica, match="nobody holds shard 1") as caught:
        wire(SEED, 1, 0, [{"a": 1}, {}, {"b": 1}])
    assert caught.value.shard == 1


@pytest.mark.parametrize("speed", [-1, MOST_THROUGHPUT + 1])
def test_a_throughput_that_no_peer_has_is_refused(speed: int) -> None:
    with pytest.raises(WiringRefused, match=f"a: a throughput of {speed}"):
        wire(SEED, 1, 0, [{"a": speed}])


@pytest.mark.parametrize("count", [0, -1, MOST_CHAINS + 1])
def test_no_chains_or_too_many_are_refused(count: int) -> None:
    with pytest.raises(WiringRefused, match="chains"):
        wire(SEED, 1, 0, [{"a": 1}], count=count)
