"""Promises of what a shard takes, and of the shard that a newcomer takes."""

from dataclasses import replace

import pytest

from proto.canonical import PeerID, tagged_hash
from swarm.manifest import Manifest, parse_manifest
from swarm.rules import terms
from swarm.shards.needs import choose_shard, shard_needs
from swarm.shards.placement import MOST_MEMORY, FitsNowhere, MemoryRefused
from verify.identity import Identity
from verify.record import History, Standing
from verify.statement import sign

FOUNDER = Identity.generate()
PLAIN = "[run]\nmin_peers = 2\n[aggregation]\nmode = 'plain'\n[model]\npreset = '{}'\nshards = 2\n"
SECURE = "[run]\nmin_peers = 8\n[model]\npreset = 'opt-125m'\nshards = 2\n"


def history_of(text: str, held: list[int]) -> tuple[History, Manifest]:
    """A run whose roster holds these shards."""
    raw = text.encode()
    manifest = parse_manifest(raw)
    names = [tagged_hash("test", bytes([at])) for at in range(manifest.model.shards)]
    genesis = sign(FOUNDER, terms(manifest, raw, FOUNDER.peer_id, names, bytes(32), 0))
    roster: dict[PeerID, Standing] = {f"p{at:02}": Standing(shard=shard) for at, shard in enumerate(held)}
    return replace(History.begin(genesis), roster=roster), manifest


@pytest.mark.parametrize(
    ("preset", "count", "index", "measured"),
    [
        ("tiny", 2, 0, 179_920_896),
        ("tiny", 2, 1, 258_596_864),
        ("opt-125m", 4, 0, 2_062_536_704),
        ("opt-125m", 4, 1, 990_871_552),
        ("opt-125m", 4, 2, 982_831_104),
        ("opt-125m", 4, 3, 1_676_943_360),
    ],
)
def test_what_was_measured_of_a_shard_is_within_what_is_promised_but_not_far(
    preset: str, count: int, index: int, measured: int
) -> None:
    """`measured`: by benchmarks.shard_memory, without the process's own."""
    text = PLAIN.format(preset).replace("shards = 2", f"shards = {count}").replace("= 2\n", f"= {count}\n", 1)
    promised = shard_needs(parse_manifest(text.encode()))[index].memory - (450 << 20)
    assert measured < promised < 1.25 * measured


def test_a_shard_takes_less_than_the_whole_and_its_needs_rise_with_the_ring() -> None:
    narrow, wide = (
        shard_needs(parse_manifest(f"{SECURE}[aggregation]\nring_bits = {bits}\n".encode()))
        for bits in (16, 32)
    )
    assert all(one.memory < other.memory for one, other in zip(narrow, wide, strict=True))
    assert all(one.download == other.download for one, other in zip(narrow, wide, strict=True))


@pytest.mark.parametrize(("held", "wanted"), [([0], 1), ([1], 0), ([0, 0, 1], 1), ([0, 1, 1, 1], 0)])
def test_a_newcomer_takes_the_shard_that_fewest_hold(held: list[int], wanted: int) -> None:
    history, manifest = history_of(PLAIN.format("opt-125m"), held)
    assert choose_shard(history, manifest, MOST_MEMORY) == wanted


def test_a_cell_below_the_privacy_floor_is_filled_first() -> None:
    # By speed alone shard 0 is as good: its peers are as many, and none of them can sum without a fourth.
    for held, wanted in (([0] * 4 + [1] * 3, 1), ([0] * 3 + [1] * 6, 0)):
        history, manifest = history_of(SECURE, held)
        assert choose_shard(history, manifest, MOST_MEMORY) == wanted


def test_a_newcomer_takes_what_fits_even_where_another_shard_is_wanted_more() -> None:
    history, manifest = history_of(PLAIN.format("opt-125m"), [1])
    larger, smaller = (need.memory for need in shard_needs(manifest))
    assert larger > smaller
    assert choose_shard(history, manifest, larger) == 0
    assert choose_shard(history, manifest, larger - 1) == 1


def test_a_shard_that_fits_nowhere_and_memory_that_no_machine_has_are_refused() -> None:
    history, manifest = history_of(PLAIN.format("opt-125m"), [0, 1])
    least = min(need.memory for need in shard_needs(manifest))
    with pytest.raises(FitsNowhere, match=f"the smallest of 2 shards needs {least}"):
        choose_shard(history, manifest, least - 1)
    with pytest.raises(MemoryRefused, match="a peer has 1 to"):
        choose_shard(history, manifest, MOST_MEMORY + 1)


def test_in_a_run_of_one_shard_there_is_nothing_to_choose() -> None:
    history, manifest = history_of("", [0])
    assert choose_shard(history, manifest, 1) == 0
