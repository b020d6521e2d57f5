"""Draws that nobody controls and everyone can repeat: integers from a hash stream, no floats.

>>> draw(b"seed", 3, 10) == draw(b"seed", 3, 10)
True
>>> sorted(draw(b"seed", 10, 10))
[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
"""

import hashlib
from collections.abc import Iterator, Sequence

from proto.canonical import PeerID, tagged_hash


def draw(seed: bytes, count: int, total: int) -> list[int]:
    """`count` indices below `total`, in drawn order; none twice before all have come once."""
    if total < 1:
        raise ValueError(f"cannot draw from {total} items")
    chosen: list[int] = []
    seen: set[int] = set()
    for index in _uniform(seed, total):
        if len(chosen) == count:
            break
        if len(seen) == total:
            seen.clear()
        if index not in seen:
            seen.add(index)
            chosen.append(index)
    return chosen


def _uniform(seed: bytes, total: int) -> Iterator[int]:
    # 64-bit words of a SHA-256 counter stream; those beyond the largest multiple of `total` are dropped.
    limit = (1 << 64) - (1 << 64) % total
    counter = 0
    while True:
        block = hashlib.sha256(seed + counter.to_bytes(8, "big")).digest()
        counter += 1
        for at in range(0, 32, 8):
            word = int.from_bytes(block[at : at + 8], "big")
            if word < limit:
                yield word % total


def attempt_seed(beacon: bytes, round_: int, attempt: int, purpose: str) -> bytes:
    """The seed of one draw: bound to the last record's beacon, the attempt and what is drawn."""
    return tagged_hash(purpose, beacon, round_.to_bytes(8, "big"), attempt.to_bytes(8, "big"))


def shared_draw(seed: bytes, roster: Sequence[PeerID], peer: PeerID, count: int, total: int) -> list[int]:
    """The sequences of one set that everyone has which fall to `peer`: no two peers share one."""
    place = sorted(roster).index(peer)
    return draw(seed, count * len(roster), total)[count * place : count * (place + 1)]


def own_draw(seed: bytes, peer: PeerID, count: int, total: int) -> list[int]:
    """The sequences of the peer's own, committed, text."""
    return draw(tagged_hash("own-draw", seed, peer.encode()), count, total)


def in_turn(seed: bytes, peers: Sequence[PeerID]) -> list[PeerID]:
    """The peers in an order nobody chose: whose turn it is to propose."""
    return sorted(peers, key=lambda peer: tagged_hash("turn", seed, peer.encode()))
