"""Sketches: a few numbers by which two peers see whether they computed the same slice, without showing it.

A sketch of a vector q is z_j = sum of s_i q_i over the i that are j modulo `WIDTH`, with signs s from a
hash stream (Alon, Matias and Szegedy 1996; Charikar, Chen and Farach-Colton 2002): z - z' is the sketch of
q - q', and its expected square is that of q - q' itself. Machines that round differently give nearly the same
sketch; whoever has not computed the slice cannot guess one sign of it. Integers throughout: equal vectors
give equal sketches everywhere.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

WIDTH = 16
SIGNS = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
"""The eight signs that a byte of the stream gives, float64 [256, 8]."""
STEP = 1 << 16
"""Elements that are signed at a time; a multiple of `WIDTH`."""
AGREE = 1 / 16
"""Sketches of one slice that are farther apart than this part of their length are of different work. Honest
machines stay below a hundredth, two slices of one early snapshot are 0.34 apart (`benchmarks.tolerance`);
zeros, or a guess, are at 1 or above."""

Number = Annotated[int, Field(ge=-(1 << 62), lt=1 << 62)]
Sketch = Annotated[tuple[Number, ...], Field(min_length=WIDTH, max_length=WIDTH)]


def sketch(integers: np.ndarray, seed: bytes) -> tuple[int, ...]:
    """The sketch of a vector of integers [size], of at most 32 bits, under the signs of `seed`."""
    total = [0] * WIDTH
    for at in range(0, len(integers), STEP):
        part = integers[at : at + STEP].astype(np.float64)
        stream = hashlib.shake_256(seed + at.to_bytes(8, "big")).digest(-(-len(part) // 8))
        part *= SIGNS[np.frombuffer(stream, np.uint8)].ravel()[: len(part)]
        rows = (np.pad(part, (0, -len(part) % WIDTH)) if len(part) % WIDTH else part).reshape(-1, WIDTH)
        # Whole numbers below 2^31 x 2^12: floats add them up exactly, in any order, and fast.
        total = [one + int(more) for one, more in zip(total, np.ones(len(rows)) @ rows, strict=True)]
    return tuple(total)


def agree(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sketches under one seed are of the same work; symmetric."""
    apart = math.isqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)))
    longer = max(sum(a * a for a in one), sum(b * b for b in other))
    return apart <= AGREE * math.isqrt(longer)
