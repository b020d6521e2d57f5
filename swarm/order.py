"""What a peer must compute in an attempt: drawn by the last beacon, the same for peer and checker."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proto.canonical import PeerID, tagged_hash
from proto.errors import MessageRefused
from swarm.manifest import Work
from verify.chains import Codec, Direction, Place
from verify.commitment import MAX_SLICES
from verify.lottery import attempt_seed, draw, own_draw, shared_draw
from verify.opened import Post
from verify.record import History
from verify.wiring import wire_chains


@dataclass(frozen=True)
class Order:
    """Everything that may influence an update, besides the snapshot's and the sequences' own bytes.

    `slices`: for each slice the indices of its sequences, in order. `seed`: 32 bytes for the rounding.
    `chained`: of a run of several shards, the (chain, slice) that each slice is. `trial`: the sequences are
    not of a data set, but made up from the seed (`trial_text`, `trial_hidden`).
    """

    run: bytes
    round: int
    attempt: int
    shard: int
    snapshot: bytes
    slices: tuple[tuple[int, ...], ...]
    seed: bytes
    chained: tuple[tuple[int, int], ...] = ()
    trial: bool = False

    def digest(self) -> bytes:
        """The order's name, which a commitment covers."""
        numbers = [self.round, self.attempt, self.shard, *(i for s in self.slices for i in s)]
        numbers += [number for place in self.chained for number in place]
        packed = b"".join(number.to_bytes(8, "big") for number in numbers)
        return tagged_hash(
            "trial-order" if self.trial else "order", self.run, self.snapshot, self.seed, packed
        )

    def dither(self, index: int) -> int:
        """The number that a slice is rounded under. In chains it is known before it is known what counts."""
        return dither_of(*self.chained[index]) if self.chained else index


@dataclass(frozen=True)
class DataView:
    """What an order draws from: how many sequences there are, and the commitment if they are one's own."""

    count: int
    root: bytes | None = None


def draw_order(history: History, attempt: int, peer: PeerID, data: DataView, work: Work) -> Order:
    """The order of `peer` for an attempt at the round after `history`."""
    round_ = history.round + 1
    seed = attempt_seed(history.beacon, round_, attempt, "order")
    sequences = work.sequences_per_slice
    total = work.slices * sequences
    if data.root is None:
        drawn = shared_draw(seed, history.members, peer, total, data.count)
    else:
        drawn = own_draw(seed, peer, total, data.count)
    cut = tuple(tuple(drawn[at : at + sequences]) for at in range(0, total, sequences))
    rounding = tagged_hash("rounding", seed, peer.encode())
    return Order(history.run, round_, attempt, 0, history.snapshot, cut, rounding)


def chain_slices(
    history: History, attempt: int, chains: int, data: DataView, work: Work
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """For each chain of an attempt its slices, for each the indices of its sequences: no two share one."""
    seed = attempt_seed(history.beacon, history.round + 1, attempt, "order")
    drawn = draw(seed, chains * work.slices * work.sequences_per_slice, data.count)
    size = work.sequences_per_slice
    cut = [tuple(drawn[at : at + size]) for at in range(0, len(drawn), size)]
    return tuple(tuple(cut[at : at + work.slices]) for at in range(0, len(cut), work.slices))


def chained_order(
    history: History,
    attempt: int,
    peer: PeerID,
    data: DataView,
    work: Work,
    counted: Sequence[tuple[int, int]],
) -> Order:
    """A chain member's order: the slices that count for it. `counted`: (chain, how many), rising.

    Raises MessageRefused for more than a chain has.
    """
    shard, chains = history.shard_of(peer), len(wire_chains(history, attempt))
    if any(done > work.slices for _, done in counted):
        raise MessageRefused(f"certificate: more slices than the {work.slices} of a chain")
    slices = chain_slices(history, attempt, chains, data, work)
    places = [(chain, index) for chain, done in counted for index in range(done)]
    return Order(
        history.run,
        history.round + 1,
        attempt,
        shard,
        history.snapshot_of(shard),
        tuple(slices[chain][index] for chain, index in places),
        chain_rounding(history, attempt, peer),
        chained=tuple(places),
    )


def post_of(history: History, order: Order, index: int, peer: PeerID, codec: Codec) -> Post:
    """Where `peer` made slice `index` of its order, at the round after `history`."""
    chain, slice_ = order.chained[index]
    wired = wire_chains(history, order.attempt)
    place = Place(order.run, order.round, order.attempt, chain)
    return Post(peer, place, order.shard, slice_, wired[chain].replicas, codec)


def chain_rounding(history: History, attempt: int, peer: PeerID) -> bytes:
    """The seed of a chain member's rounding in an attempt, 32 bytes."""
    seed = attempt_seed(history.beacon, history.round + 1, attempt, "order")
    return tagged_hash("rounding", seed, peer.encode())


def dither_of(chain: int, index: int) -> int:
    """The number that slice `index` of a chain is rounded under."""
    return chain * MAX_SLICES + index


def trial_order(history: History, peer: PeerID, shard: int, work: Work, slices: int) -> Order:
    """What a newcomer computes to hold `shard`, at its snapshot and by the beacon of the last record.

    All its slices together are about as much work as one slice of a member. Nothing of anybody's text is in
    it, so that it is the same in both data modes and shows nothing. Sequences are in pairs (`trial_signs`).
    """
    pairs = max(1, -(-work.sequences_per_slice // (2 * slices)))
    indices = tuple(range(2 * pairs))
    seed = tagged_hash("trial", attempt_seed(history.beacon, history.round, 0, "trial"), peer.encode())
    snapshot = history.snapshot_of(shard)
    return Order(history.run, history.round, 0, shard, snapshot, (indices,) * slices, seed, trial=True)


def trial_text(order: Order, index: int, length: int, vocabulary: int) -> np.ndarray:
    """The sequences of one slice of a trial: token ids that its seed makes up, int32 [count, length]."""
    count = len(order.slices[index])
    stream = hashlib.shake_256(tagged_hash("trial-text", order.seed, index.to_bytes(8, "big")))
    drawn = np.frombuffer(stream.digest(8 * count * length), "<u8") % np.uint64(vocabulary)
    return drawn.astype(np.int32).reshape(count, length)


def trial_hidden(order: Order, index: int, direction: Direction, shape: tuple[int, ...]) -> np.ndarray:
    """What a chain's neighbour would send for a trial's slice: its seed makes it up, float32 of `shape`.

    Of unit variance, which as a gradient is far larger than any: encoding brings each block down to what it
    may be (`secagg.ring`), so that all count and none is noise.
    """
    name = tagged_hash("trial-hidden", order.seed, index.to_bytes(8, "big"), direction.encode())
    drawn = np.frombuffer(hashlib.shake_256(name).digest(math.prod(shape)), np.uint8)
    return ((drawn.astype(np.float32) - np.float32(127.5)) / np.float32(73.9)).reshape(shape)


def trial_signs(count: int) -> np.ndarray:
    """With which sign each sequence of a trial's slice counts, float32 [count].

    Gradients of made-up texts have most in common: one of them, computed once, would pass for any other.
    What is left of their difference is not.
    """
    return np.where(np.arange(count) % 2, -1.0, 1.0).astype(np.float32)
