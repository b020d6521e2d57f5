"""What a peer must compute in an attempt: drawn by the last beacon, the same for peer and checker."""

from dataclasses import dataclass

from proto.canonical import PeerID, tagged_hash
from verify.lottery import attempt_seed, own_draw, shared_draw
from verify.record import History


@dataclass(frozen=True)
class Order:
    """Everything that may influence an update, besides the snapshot's and the sequences' own bytes.

    `slices`: for each slice the indices of its sequences, in order. `seed`: 32 bytes for the rounding.
    """

    run: bytes
    round: int
    attempt: int
    shard: int
    snapshot: bytes
    slices: tuple[tuple[int, ...], ...]
    seed: bytes

    def digest(self) -> bytes:
        """The order's name, which a commitment covers."""
        numbers = [self.round, self.attempt, self.shard, *(i for s in self.slices for i in s)]
        packed = b"".join(number.to_bytes(8, "big") for number in numbers)
        return tagged_hash("order", self.run, self.snapshot, self.seed, packed)


@dataclass(frozen=True)
class DataView:
    """What an order draws from: how many sequences there are, and the commitment if they are one's own."""

    count: int
    root: bytes | None = None


def draw_order(
    history: History, attempt: int, peer: PeerID, data: DataView, slices: int, sequences: int
) -> Order:
    """The order of `peer` for an attempt at the round after `history`."""
    round_ = history.round + 1
    seed = attempt_seed(history.beacon, round_, attempt, "order")
    total = slices * sequences
    if data.root is None:
        drawn = shared_draw(seed, history.members, peer, total, data.count)
    else:
        drawn = own_draw(seed, peer, total, data.count)
    cut = tuple(tuple(drawn[at : at + sequences]) for at in range(0, total, sequences))
    rounding = tagged_hash("rounding", seed, peer.encode())
    return Order(history.run, round_, attempt, 0, history.snapshot, cut, rounding)
