"""Who is chained to whom in an attempt: drawn by the beacon, by measured throughput, equal everywhere.

After SWARM parallelism (Ryabinin et al. 2023), whose peers route each microbatch to a peer of the next stage
with a chance in proportion to its throughput. Here whole chains are drawn at the attempt's start, from signed
records, so that everyone knows who may send what to whom. Each peer gets the floor or the ceiling of its
share of the chains, and on average exactly its share (systematic sampling). Integers from a hash stream only.

Throughput must come from what records counted, not from a peer's word: who boasts would be drawn for all.

>>> peers = [{"a": 300, "b": 100}, {"c": 1, "d": 1}]
>>> chains = wire(bytes(32), 1, 0, peers, count=4)
>>> sorted(chain.path[0] for chain in chains), sorted(chain.path[1] for chain in chains)
(['a', 'a', 'a', 'b'], ['c', 'c', 'd', 'd'])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proto.canonical import PeerID, tagged_hash
from proto.errors import SwarmError
from verify.lottery import attempt_seed, draw
from verify.record import History

MOST_THROUGHPUT = 1 << 40
MOST_CHAINS = 1_024


class WiringRefused(SwarmError):
    """The chains cannot be wired as asked: a shard without peers, a number out of bounds, an unfit plan."""

    exit_code = 1


class NoReplica(WiringRefused):
    """A shard that nobody holds: the run pauses until a peer takes it."""

    def __init__(self, shard: int) -> None:
        super().__init__(f"nobody holds shard {shard}: the run pauses until a peer takes it")
        self.shard = shard


@dataclass(frozen=True)
class Wired:
    """One chain: `replicas[s]` are shard s's peers, the chain's own first, then who steps in, in turn."""

    chain: int
    replicas: tuple[tuple[PeerID, ...], ...]

    @property
    def path(self) -> tuple[PeerID, ...]:
        """The chain's own peer of each shard; the first leads it."""
        return tuple(peers[0] for peers in self.replicas)


def wire(
    beacon: bytes,
    round_: int,
    attempt: int,
    throughput: Sequence[Mapping[PeerID, int]],
    *,
    count: int | None = None,
    plan: Sequence[Sequence[PeerID]] | None = None,
) -> tuple[Wired, ...]:
    """The chains of an attempt. `throughput`: of each shard's peers, tokens a second; 0 = not measured yet.

    `count`: chains, as many as the shard with most peers has unless given, so that no peer need be idle.
    `plan`: paths to take as they are; only who steps in is drawn then. Raises NoReplica, WiringRefused.
    """
    if plan is None:
        paths = draw_paths(beacon, round_, attempt, throughput, count)
    else:
        _check_throughput(throughput)
        paths = _checked_plan(plan, throughput)
    return tuple(
        Wired(
            chain,
            tuple(
                (peer, *stand_ins(beacon, round_, attempt, throughput[shard], chain, shard, peer))
                for shard, peer in enumerate(path)
            ),
        )
        for chain, path in enumerate(paths)
    )


def draw_paths(
    beacon: bytes,
    round_: int,
    attempt: int,
    throughput: Sequence[Mapping[PeerID, int]],
    count: int | None = None,
) -> tuple[tuple[PeerID, ...], ...]:
    """The chains of `wire` without those who step in. Raises NoReplica, WiringRefused."""
    _check_throughput(throughput)
    count = max(map(len, throughput)) if count is None else count
    if not 1 <= count <= MOST_CHAINS:
        raise WiringRefused(f"{count} chains; an attempt has 1 to {MOST_CHAINS}")
    columns = [
        _drawn(_seed(beacon, round_, attempt, shard), weights_of(peers), count)
        for shard, peers in enumerate(throughput)
    ]
    return tuple(zip(*columns, strict=True))


def stand_ins(
    beacon: bytes, round_: int, attempt: int, peers: Mapping[PeerID, int], chain: int, shard: int, own: PeerID
) -> tuple[PeerID, ...]:
    """Who steps in for `own`, a chain's peer of a shard, in turn. `peers`: all of the shard's, as in
    `wire`."""
    return _in_turn(_seed(beacon, round_, attempt, shard), chain, own, weights_of(peers))


def _seed(beacon: bytes, round_: int, attempt: int, shard: int) -> bytes:
    seed = attempt_seed(beacon, round_, attempt, "wire")
    return tagged_hash("wire-shard", seed, shard.to_bytes(8, "big"))


def _check_throughput(throughput: Sequence[Mapping[PeerID, int]]) -> None:
    for shard, peers in enumerate(throughput):
        if not peers:
            raise NoReplica(shard)
        for peer, speed in peers.items():
            if not 0 <= speed <= MOST_THROUGHPUT:
                raise WiringRefused(f"{peer}: a throughput of {speed}; it is 0 to {MOST_THROUGHPUT} tokens/s")


def throughput_of(history: History) -> tuple[dict[PeerID, int], ...]:
    """What the members of each shard are wired by: the slices of a window that the last record counted."""
    last = history.last
    done = {} if last is None else dict(zip(last.survivors, last.weights, strict=True))
    return tuple({peer: done.get(peer, 0) for peer in cell} for cell in history.cells)


def wire_chains(history: History, attempt: int) -> tuple[Wired, ...]:
    """Who is chained to whom in an attempt at the round after `history`. Raises NoReplica."""
    return wire(history.beacon, history.round + 1, attempt, throughput_of(history))


def weights_of(throughput: Mapping[PeerID, int]) -> dict[PeerID, int]:
    """What each peer of a shard weighs in the draw: who is not measured yet, as much as the slowest."""
    measured = sorted(speed for speed in throughput.values() if speed > 0)
    if not measured:
        return dict.fromkeys(sorted(throughput), 1)
    return {peer: throughput[peer] or measured[0] for peer in sorted(throughput)}


def _drawn(seed: bytes, weights: Mapping[PeerID, int], count: int) -> list[PeerID]:
    """A peer for each chain: systematic sampling, then dealt to the chains in an order nobody chose."""
    total = sum(weights.values())
    start = draw(tagged_hash("wire-start", seed), 1, total)[0]
    order = sorted(weights, key=lambda peer: tagged_hash("wire-order", seed, peer.encode()))
    # `count` marks lie total / count apart on a line on which each peer has its weight.
    marks = [(start + at * total) // count for at in range(count)]
    chosen, end, at = list[PeerID](), 0, 0
    for peer in order:
        end += weights[peer]
        while at < count and marks[at] < end:
            chosen.append(peer)
            at += 1
    return [chosen[place] for place in draw(tagged_hash("wire-deal", seed), count, count)]


def _in_turn(seed: bytes, chain: int, own: PeerID, weights: Mapping[PeerID, int]) -> tuple[PeerID, ...]:
    """The shard's other peers in the order in which they step in: drawn by weight, without replacement."""
    left = {peer: weight for peer, weight in weights.items() if peer != own}
    turn = list[PeerID]()
    while left:
        place = tagged_hash("wire-turn", seed, chain.to_bytes(8, "big"), len(turn).to_bytes(8, "big"))
        mark = draw(place, 1, sum(left.values()))[0]
        for peer, weight in left.items():
            mark -= weight
            if mark < 0:
                turn.append(peer)
                break
        del left[turn[-1]]
    return tuple(turn)


def _checked_plan(
    plan: Sequence[Sequence[PeerID]], throughput: Sequence[Mapping[PeerID, int]]
) -> tuple[tuple[PeerID, ...], ...]:
    if not 1 <= len(plan) <= MOST_CHAINS:
        raise WiringRefused(f"a plan of {len(plan)} chains; an attempt has 1 to {MOST_CHAINS}")
    for chain, path in enumerate(plan):
        if len(path) != len(throughput):
            raise WiringRefused(
                f"plan: chain {chain} has {len(path)} peers, the run {len(throughput)} shards"
            )
        for shard, peer in enumerate(path):
            if peer not in throughput[shard]:
                raise WiringRefused(
                    f"plan: chain {chain} puts {peer} at shard {shard}, which it does not hold"
                )
    return tuple(tuple(path) for path in plan)
