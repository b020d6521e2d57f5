"""Draws that nobody controls and everyone can repeat: integers from a hash stream, no floats.

>>> draw(b"seed", 3, 10) == draw(b"seed", 3, 10)
True
>>> sorted(draw(b"seed", 10, 10))
[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from proto.canonical import PeerID, tagged_hash

ALTERNATES = 2
"""Checkers of one draw that are answered: the first, and who stands in for it."""
LEAST_CHUNKS = 8
"""Chunks that a check opens at least, where a vector has so many."""


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


@dataclass(frozen=True)
class Draw:
    """One check that the lottery asks for: whose work, who looks, at what.

    `checkers`: all who may, in turn; the next one looks where one before is not there. `what`: the slice of
    an order, or the part of a sum. `chunks`: of the vector, in drawn order.
    """

    checked: PeerID
    checkers: tuple[PeerID, ...]
    what: int
    chunks: tuple[int, ...]


def session_beacon(session: bytes, survivor_set: bytes, shares: Sequence[bytes]) -> bytes:
    """The beacon of a session whose seeds came out; `shares` in the survivors' order (design, section 3)."""
    return tagged_hash("beacon", session, survivor_set, *shares)


def draw_checks(
    beacon: bytes, survivors: Mapping[PeerID, int], chunks: int, rate: float, fraction: float
) -> tuple[Draw, ...]:
    """Who is checked in a session, by whom, on what; `survivors` maps each to its weight, in slices.

    Everyone is drawn with the chance `rate`, on its own. Nobody looks at its own work. Who did no slice (of
    several shards one may not) is not drawn, and may look.
    """
    draws = []
    for peer in sorted(survivors):
        seed = tagged_hash("check", beacon, peer.encode())
        if not survivors[peer] or not _happens(tagged_hash("checked", seed), rate):
            continue
        chosen = drawn_slice(beacon, peer, survivors[peer])
        drawn = draw(tagged_hash("checked-chunks", seed), chunks_to_open(chunks, fraction), chunks)
        draws.append(Draw(peer, checkers(beacon, tuple(survivors), peer), chosen, tuple(drawn)))
    return tuple(draws)


def drawn_slice(beacon: bytes, peer: PeerID, weight: int) -> int:
    """Which of `peer`'s slices is looked at in a session, if it is drawn."""
    seed = tagged_hash("check", beacon, peer.encode())
    return draw(tagged_hash("checked-slice", seed), 1, weight)[0]


def looked_at_twice(beacon: bytes, draws: Sequence[Draw], rate: float) -> frozenset[PeerID]:
    """Of a session's draws, whose work a second checker looks at too, with the chance `rate` squared.

    `beacon`: the next session's, which no checker knows while it computes. What the two sign must agree.
    """
    twice = set()
    for one in draws:
        seed = tagged_hash("second-look", beacon, one.checked.encode())
        if _happens(tagged_hash("checked", seed), rate) and _happens(tagged_hash("again", seed), rate):
            twice.add(one.checked)
    return frozenset(twice)


def checkers(beacon: bytes, survivors: Sequence[PeerID], peer: PeerID) -> tuple[PeerID, ...]:
    """Who looks at `peer`'s work in a session if it is drawn, in turn; never itself."""
    seed = tagged_hash("check", beacon, peer.encode())
    return tuple(in_turn(tagged_hash("checker", seed), [other for other in survivors if other != peer]))


def draw_sums(
    beacon: bytes,
    owners: Mapping[int, tuple[PeerID, range]],
    survivors: Sequence[PeerID],
    rate: float,
    fraction: float,
) -> tuple[Draw, ...]:
    """Whose part sum is recomputed, in drawn chunks; `owners`: each part's owner, and its chunks."""
    draws = []
    for part, (owner, chunks) in sorted(owners.items()):
        seed = tagged_hash("check-sum", beacon, part.to_bytes(8, "big"))
        if not _happens(tagged_hash("checked", seed), rate):
            continue
        others = [peer for peer in survivors if peer != owner]
        count = chunks_to_open(len(chunks), fraction)
        drawn = draw(tagged_hash("checked-chunks", seed), count, len(chunks))
        looking = tuple(in_turn(tagged_hash("checker", seed), others))
        draws.append(Draw(owner, looking, part, tuple(chunks[at] for at in drawn)))
    return tuple(draws)


def chunks_to_open(chunks: int, fraction: float) -> int:
    """How many chunks of a vector a check opens: the manifest's fraction, at least `LEAST_CHUNKS`."""
    above, below = fraction.as_integer_ratio()
    return min(chunks, max(LEAST_CHUNKS, -(-chunks * above // below)))


def _happens(seed: bytes, chance: float) -> bool:
    above, below = chance.as_integer_ratio()  # exact: no rounding enters a draw
    return int.from_bytes(seed, "big") * below < above << 256
