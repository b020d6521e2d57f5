"""Promises of what a run asks of a machine: said before anything is downloaded, and refused by name."""

from pathlib import Path

import pytest

from swarm.cli import common
from swarm.cli.common import memory_of, physical_memory
from swarm.cli.needs import NotEnoughMemory, check_needs, needs_of
from swarm.manifest import parse_manifest
from swarm.shards.placement import MemoryRefused

WHOLE = parse_manifest(b"[model]\npreset = 'opt-125m'\n")
CUT = parse_manifest(b"[run]\nmin_peers = 8\n[model]\npreset = 'opt-125m'\nshards = 2\n")


def test_a_peer_of_a_shard_needs_less_than_one_of_the_whole_model() -> None:
    whole, parts = needs_of(WHOLE), [needs_of(CUT, shard=shard) for shard in (0, 1)]
    assert all(part.memory < whole.memory and part.disk < whole.disk for part in parts)
    assert str(parts[1]).startswith("shard 1 of 2: 74.0 M parameters need about ")
    assert str(whole).startswith("125.2 M parameters need about ")


def test_memory_that_a_shard_does_not_fit_is_refused_with_the_shard(tmp_path: Path) -> None:
    needs = needs_of(CUT, shard=1)
    check_needs(needs, tmp_path, needs.memory)
    with pytest.raises(NotEnoughMemory, match=r"shard 1 of 2 needs about .* a run with more shards"):
        check_needs(needs, tmp_path, needs.memory - 1)
    with pytest.raises(NotEnoughMemory, match=r"this run needs about .* a run with a smaller model"):
        check_needs(needs_of(WHOLE), tmp_path, 1)


def test_no_peer_may_say_it_has_more_memory_than_its_machine() -> None:
    assert memory_of(None) == physical_memory() == memory_of(physical_memory())
    with pytest.raises(MemoryRefused, match="--memory says"):
        memory_of(physical_memory() + 1)


@pytest.mark.parametrize(("limit", "held"), [("1000\n", True), ("max\n", False)])
def test_a_containers_limit_is_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, held: bool
) -> None:
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(common, "CGROUP_LIMIT", tmp_path / "memory.max")
    assert (physical_memory() == 1000) is held
