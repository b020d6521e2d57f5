"""Who sums what: the vector is cut into parts, equal runs of whole chunks, one for each owner.

Everything here is integer arithmetic on public numbers, so every member cuts alike.
"""

from collections.abc import Sequence
from itertools import pairwise

from proto.canonical import PeerID


def part_slices(size: int, owners: int, chunk: int) -> list[slice]:
    """The elements of each part of a vector of `size` elements; some are empty if chunks are few.

    >>> part_slices(10, 3, 4)
    [slice(0, 4, None), slice(4, 8, None), slice(8, 10, None)]
    >>> part_slices(10, 4, 4)
    [slice(0, 0, None), slice(0, 4, None), slice(4, 8, None), slice(8, 10, None)]
    """
    chunks = -(-size // chunk)
    edges = [min(size, index * chunks // owners * chunk) for index in range(owners + 1)]
    return [slice(low, high) for low, high in pairwise(edges)]


def owner_chain(part: int, owners: Sequence[PeerID], members: Sequence[PeerID]) -> list[PeerID]:
    """The owner of `part`, then those who step in, in turn, if it does not answer."""
    return [*owners[part:], *owners[:part], *(member for member in members if member not in owners)]
