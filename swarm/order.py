"""What a peer must compute in an attempt: drawn by the last beacon, the same for peer and checker."""

import hashlib
from dataclasses import dataclass

import numpy as np

from proto.canonical import PeerID, tagged_hash
from swarm.manifest import Work
from verify.lottery import attempt_seed, own_draw, shared_draw
from verify.record import History


@dataclass(frozen=True)
class Order:
    """Everything that may influence an update, besides the snapshot's and the sequences' own bytes.

    `slices`: for each slice the indices of its sequences, in order. `seed`: 32 bytes for the rounding.
    `trial`: the sequences are not of a data set, but made up from the seed (`trial_text`).
    """

    run: bytes
    round: int
    attempt: int
    shard: int
    snapshot: bytes
    slices: tuple[tuple[int, ...], ...]
    seed: bytes
    trial: bool = False

    def digest(self) -> bytes:
        """The order's name, which a commitment covers."""
        numbers = [self.round, self.attempt, self.shard, *(i for s in self.slices for i in s)]
        packed = b"".join(number.to_bytes(8, "big") for number in numbers)
        return tagged_hash(
            "trial-order" if self.trial else "order", self.run, self.snapshot, self.seed, packed
        )


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


def trial_order(history: History, peer: PeerID, work: Work, slices: int) -> Order:
    """What a newcomer computes to be let in, at the snapshot and by the beacon of the last record.

    All its slices together are about as much work as one slice of a member. Nothing of anybody's text is in
    it, so that it is the same in both data modes and shows nothing. Sequences are in pairs (`trial_signs`).
    """
    pairs = max(1, -(-work.sequences_per_slice // (2 * slices)))
    indices = tuple(range(2 * pairs))
    seed = tagged_hash("trial", attempt_seed(history.beacon, history.round, 0, "trial"), peer.encode())
    return Order(history.run, history.round, 0, 0, history.snapshot, (indices,) * slices, seed, trial=True)


def trial_text(order: Order, index: int, length: int, vocabulary: int) -> np.ndarray:
    """The sequences of one slice of a trial: token ids that its seed makes up, int32 [count, length]."""
    count = len(order.slices[index])
    stream = hashlib.shake_256(tagged_hash("trial-text", order.seed, index.to_bytes(8, "big")))
    drawn = np.frombuffer(stream.digest(8 * count * length), "<u8") % np.uint64(vocabulary)
    return drawn.astype(np.int32).reshape(count, length)


def trial_signs(count: int) -> np.ndarray:
    """With which sign each sequence of a trial's slice counts, float32 [count].

    Gradients of made-up texts have most in common: one of them, computed once, would pass for any other.
    What is left of their difference is not.
    """
    return np.where(np.arange(count) % 2, -1.0, 1.0).astype(np.float32)
