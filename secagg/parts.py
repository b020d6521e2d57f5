"""Who sums what: the vector is cut into parts, equal runs of whole chunks, one for each owner.

Everything here is integer arithmetic on public numbers, so every member cuts alike.
"""

from collections.abc import Sequence
from itertools import pairwise

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import Part, PartSum


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


class Cut:
    """How one session's vector of `size` elements is cut; `parts`: indices of those that are not empty."""

    def __init__(self, size: int, owners: Sequence[PeerID], dealers: Sequence[PeerID], chunk: int) -> None:
        self.owners, self.dealers, self.chunk = owners, dealers, chunk
        self.slices = part_slices(size, len(owners), chunk) if owners else []
        self.parts = [part for part, where in enumerate(self.slices) if where.start < where.stop]

    def chain(self, part: int) -> list[PeerID]:
        """The owner of a part, and who steps in for it."""
        return owner_chain(part, self.owners, self.dealers)

    def check_header(self, message: Part | PartSum) -> None:
        """Raises MessageRefused unless it has a hash for each chunk of a part that there is."""
        if message.part not in self.parts:
            raise MessageRefused(
                f"{message.DOMAIN}: part {message.part} of {len(self.owners)} does not exist"
            )
        chunks = len(self.chunks_of(message.part))
        if len(message.hashes) != chunks:
            raise MessageRefused(f"{message.DOMAIN}: {len(message.hashes)} chunk hashes for {chunks} chunks")

    def elements(self, part: int) -> int:
        """How many a part has."""
        return int(self.slices[part].stop - self.slices[part].start)

    def first(self, part: int) -> int:
        """The index of a part's first chunk."""
        return int(self.slices[part].start) // self.chunk

    def chunks_of(self, part: int) -> range:
        """The indices of a part's chunks."""
        return range(self.first(part), self.first(part) + -(-self.elements(part) // self.chunk))

    def holding(self, chunk: int) -> tuple[int, slice]:
        """The part that a chunk is in, and the chunk's elements."""
        low = chunk * self.chunk
        part = next(part for part in self.parts if self.slices[part].start <= low < self.slices[part].stop)
        return part, slice(low, min(low + self.chunk, self.slices[part].stop))
