"""The order of the vector: where each tensor of a model lies in what a run agrees on.

The promise: every tensor has a region of its own, padded with zeros to a multiple of `BLOCK`, so the
vector reshapes to [blocks, BLOCK] and no block holds two tensors. Numbers only; torch is not needed.

>>> layout = Layout(("w", "b"), ((30, 50), (50,)), (0, 2 * BLOCK), (False, True), 3 * BLOCK)
>>> layout.counts.tolist(), layout.tensors.tolist()
([1024, 476, 0], [0, 2])
"""

import json
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from proto.canonical import tagged_hash
from secagg.ring import BLOCK


@dataclass(frozen=True)
class Layout:
    """Where each tensor lies in the vector. Offsets and `size` are in elements, multiples of `BLOCK`."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]
    frozen: tuple[bool, ...]
    size: int

    @property
    def blocks(self) -> int:
        return self.size // BLOCK

    @cached_property
    def counts(self) -> np.ndarray:
        """int32 [blocks]: how many elements of each block are trained; 0 throughout a frozen tensor."""
        counts = np.full(self.blocks, BLOCK, np.int32)
        edges = [*self.tensors.tolist(), self.blocks]
        for index, shape in enumerate(self.shapes):
            last = edges[index + 1] - 1
            counts[last] = math.prod(shape) - (last - edges[index]) * BLOCK
            if self.frozen[index]:
                counts[edges[index] : last + 1] = 0
        counts.flags.writeable = False
        return counts

    @cached_property
    def tensors(self) -> np.ndarray:
        """int64 [tensors]: the first block of each tensor."""
        return np.array(self.offsets, np.int64) // BLOCK

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over names, shapes, offsets and frozen flags."""
        rows = [list(row) for row in zip(self.names, self.shapes, self.offsets, self.frozen, strict=True)]
        return tagged_hash("layout", json.dumps(rows).encode())
