"""Which shard a peer holds: pure functions over plain data, in integers, so that everyone computes the same.

The swarm is as fast as its slowest shard. A newcomer takes the shard that raises this bottleneck most;
between rounds one peer may move, if that raises it by a clear margin and pays for the download (compare
Petals, Borzunov et al. 2023, whose servers simulate a move before they make it). Every move raises the
bottleneck by the margin or covers a shard that nobody held, so moving ends: there is a fixed point, and no
two peers chase each other.

>>> needs = [Need(memory=100, work=1, download=10), Need(memory=200, work=1, download=10)]
>>> swarm = [Holder("a", 1000, 50, 0), Holder("b", 1000, 80, 1)]
>>> place("c", memory=1000, speed=10, holders=swarm, needs=needs)
0
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from proto.canonical import PeerID
from proto.errors import SwarmError

MOST_MEMORY = 1 << 46
"""64 TiB: no peer has more."""
MOST_SPEED = 1 << 60
SCALE = 1 << 20
"""Throughputs are in 1/SCALE tokens a second: integers all the same."""


class FitsNowhere(SwarmError):
    """No shard fits the peer's memory, or nobody's memory fits a shard."""


class MemoryRefused(SwarmError):
    """A peer that says it has memory which it cannot have."""


@dataclass(frozen=True)
class Need:
    """What holding a shard takes: memory and download in bytes, multiply-adds for each token trained."""

    memory: int
    work: int
    download: int


@dataclass(frozen=True)
class Holder:
    """A peer of the roster: its memory in bytes, its speed in multiply-adds a second, the shard it holds."""

    peer: PeerID
    memory: int
    speed: int
    shard: int


@dataclass(frozen=True)
class Margin:
    """What a move must be worth: `percent` more throughput, over `seconds` in which its download is paid off.

    `bytes_per_second`: at which a shard is downloaded.
    """

    percent: int = 20
    seconds: int = 3_600
    bytes_per_second: int = 10_000_000


@dataclass(frozen=True)
class Move:
    """A peer that should leave its shard for another, and the swarm's throughput before and after."""

    peer: PeerID
    shard: int
    to: int
    before: int
    after: int


@dataclass(frozen=True)
class Throughputs:
    """Each shard's throughput, in 1/SCALE tokens a second."""

    by_shard: tuple[int, ...]

    @cached_property
    def bottleneck(self) -> int:
        """The swarm's: nothing where a shard has no peer."""
        return min(self.by_shard)

    @property
    def covered(self) -> int:
        """Shards that somebody holds."""
        return sum(speed > 0 for speed in self.by_shard)

    def with_more(self, shard: int, speed: int) -> "Throughputs":
        """The same with one shard faster by `speed`, or slower."""
        changed = (old + speed if at == shard else old for at, old in enumerate(self.by_shard))
        return Throughputs(tuple(changed))


def throughputs(holders: Iterable[Holder], needs: Sequence[Need]) -> Throughputs:
    """What the shards' peers do together."""
    found = Throughputs((0,) * len(needs))
    for holder in holders:
        found = found.with_more(holder.shard, share(holder.speed, needs[holder.shard]))
    return found


def share(speed: int, need: Need) -> int:
    """Throughput of a peer at a shard: at least 1, so that the slowest peer still covers it."""
    return max(1, speed * SCALE // need.work)


def place(peer: PeerID, memory: int, speed: int, holders: Sequence[Holder], needs: Sequence[Need]) -> int:
    """The shard that a newcomer takes: of those that fit, the one that makes the swarm fastest.

    Where several raise the bottleneck alike, the one that raises the next slowest shard most, and so on.
    Raises FitsNowhere, MemoryRefused.
    """
    check_memory(peer, memory)
    fitting = [shard for shard, need in enumerate(needs) if need.memory <= memory]
    if not fitting:
        raise FitsNowhere(
            f"{peer} has {memory} bytes of memory, the smallest of {len(needs)} shards needs "
            f"{min(need.memory for need in needs)}; a run with more shards has smaller ones"
        )
    now = throughputs((holder for holder in holders if holder.peer != peer), needs)
    return max(
        fitting, key=lambda shard: (sorted(now.with_more(shard, share(speed, needs[shard])).by_shard), -shard)
    )


def next_move(
    holders: Sequence[Holder], needs: Sequence[Need], margin: Margin = Margin(), least: int = 1
) -> Move | None:
    """The move between two rounds that is worth most, or None: at most one, the same for everybody who asks.

    A move counts only where it covers a shard that nobody held, or where the tokens of `margin.seconds`, with
    the peer missing while it downloads, exceed those without the move by `margin.percent`. None leaves fewer
    than `least` peers to a shard.
    """
    now = throughputs(holders, needs)
    best: tuple[tuple[int, int, list[int]], Move] | None = None
    for holder in sorted(holders, key=lambda holder: holder.peer):
        without = now.with_more(holder.shard, -share(holder.speed, needs[holder.shard]))
        if sum(other.shard == holder.shard for other in holders) <= least:
            continue
        for shard, need in enumerate(needs):
            if shard == holder.shard or need.memory > holder.memory:
                continue
            after = without.with_more(shard, share(holder.speed, need))
            if not _pays(now, without, after, need, margin):
                continue
            worth = (after.covered, after.bottleneck, sorted(after.by_shard))
            if best is None or worth > best[0]:
                best = worth, Move(holder.peer, holder.shard, shard, now.bottleneck, after.bottleneck)
    return None if best is None else best[1]


def moved(holders: Sequence[Holder], move: Move) -> tuple[Holder, ...]:
    """The roster after a move."""
    return tuple(replace(holder, shard=move.to) if holder.peer == move.peer else holder for holder in holders)


def check_memory(peer: PeerID, announced: int, physical: int | None = None) -> None:
    """Raises MemoryRefused for memory that no machine has; a peer checks its own against what is there."""
    if not 0 < announced <= MOST_MEMORY:
        raise MemoryRefused(f"{peer}: {announced} bytes of memory; a peer has 1 to {MOST_MEMORY}")
    if physical is not None and announced > physical:
        raise MemoryRefused(
            f"{peer}: --memory says {announced} bytes, this machine has {physical}; announce at most that"
        )


def check_coverable(memories: Iterable[int], needs: Sequence[Need]) -> None:
    """Raises FitsNowhere, naming the shard, where nobody's memory fits it: the run could never start."""
    largest = max(memories, default=0)
    for shard, need in enumerate(needs):
        if need.memory > largest:
            raise FitsNowhere(
                f"shard {shard} needs {need.memory} bytes of memory, the largest peer has {largest}; "
                "cut the model into more shards, or bring a larger peer"
            )


def _pays(now: Throughputs, without: Throughputs, after: Throughputs, need: Need, margin: Margin) -> bool:
    if after.covered != now.covered:
        return after.covered > now.covered
    absent = min(margin.seconds, -(-need.download // margin.bytes_per_second))
    tokens = without.bottleneck * absent + after.bottleneck * (margin.seconds - absent)
    return tokens * 100 >= now.bottleneck * margin.seconds * (100 + margin.percent) and (
        after.bottleneck > now.bottleneck
    )
