"""Real numbers <-> integers of the ring Z_2^k (design, section 5 "Ring and encoding").

The promise: sums of encoded slices are exact, never wrap, and an honest sum always passes the
sanity tests, whatever the data did. The expectation of an encoded element is the element itself, up
to saturation.

The vector is cut into blocks of `BLOCK` elements; a tensor's last block is padded with zeros. The
agreed `scales[b]` is what one slice's gradient is expected to measure in block b (root mean square
over the `counts[b]` elements that are trained). A ring's step in block b is `KAPPA * scales[b] / Q`:

    encode  x = gradient / step; a block above its bound is shrunk to it, as a whole;
            floor(x + u) with u from AES-256-CTR; saturated to -Q..Q
    sum     integers, by whoever: |sum| <= Q * weight, and per block |sum|_2 <= weight * bound
    decode  sum * step / weight

Zero encodes to zero, so padding and frozen tensors (count 0) stay zero, and must.

>>> ring = Ring.for_cell(16, cell=16, slices=4)
>>> ring.levels, ring.dtype.str
(511, '<i2')
>>> gradient, scales = np.full(BLOCK, 1e-3, np.float32), np.full(1, 1e-3, np.float32)
>>> code = encode(gradient, scales, np.array([BLOCK]), ring, bytes(32), 0, sanity_rms=4.0)
>>> float(decode_mean(code, 1, scales, ring, clip=8.0).mean().round(5))
0.001
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from proto.canonical import tagged_hash
from proto.errors import SwarmError

CHUNK = 65_536
BLOCK = 1_024
KAPPA = 32.0
"""Saturation of one slice's element, in units of its block's scale. Larger makes rounding coarser, smaller
lets garbage of the full ring come nearer to the sanity bound: here 4.6 times over it in the largest cell."""
MIN_LEVELS = 16
MAX_LEVELS = 1 << 20  # finer than this a float32 gradient has nothing more to say
FLOOR = 2.0**-60
"""The smallest scale; keeps steps and their inverses well inside float32."""
SHARE = 0.125
"""No block's scale falls below this share of the root mean square of its tensor's blocks. Smaller shrinks the
gradient of rare tokens when they come, larger drowns quiet rows in rounding."""


class RingOverflow(SwarmError):
    """The sums of the largest cell do not fit the ring."""


class NonFinite(SwarmError):
    """A gradient holds NaN or an infinity; it must not reach a sum."""

    exit_code = 1


@dataclass(frozen=True)
class Ring:
    """Z_2^bits, and the Q = `levels` that one slice's element saturates to."""

    bits: int
    levels: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"<i{self.bits // 8}")

    @classmethod
    def for_cell(cls, bits: int, cell: int, slices: int, levels: int = 0) -> "Ring":
        """The ring for `cell` members of up to `slices` slices each; `levels` = 0: the most that fit.

        Raises RingOverflow unless cell * slices * levels < 2^(bits - 1), with at least 16 levels.
        """
        if bits not in (16, 32):
            raise RingOverflow(f"ring_bits = {bits}: a ring has 16 or 32 bits; set ring_bits = 16")
        fits = min(MAX_LEVELS, ((1 << bits - 1) - 1) // (cell * slices))
        where = f"a cell of {cell} with {slices} slices each in {bits} bits"
        if fits < MIN_LEVELS:
            raise RingOverflow(
                f"{where} leaves {fits} levels, {MIN_LEVELS} are needed: "
                f"set ring_bits = 32, or lower largest_cell or slices"
            )
        if levels and not MIN_LEVELS <= levels <= fits:
            raise RingOverflow(f"levels = {levels}: {where} allows {MIN_LEVELS} to {fits}; set levels = 0")
        return cls(bits, levels or fits)

    def bound(self, sanity_rms: float) -> float:
        """The largest root mean square of a slice's encoded block, in steps. Raises RingOverflow below 2."""
        bound = sanity_rms * self.levels / KAPPA
        if bound < 2:
            raise RingOverflow(
                f"sanity_rms = {sanity_rms} with {self.levels} levels bounds a block to {bound:.2f} steps, "
                f"2 are needed: set sanity_rms to {2 * KAPPA / self.levels:.1f} or more, or ring_bits = 32"
            )
        return bound


class Encoder:
    """Encodes the slices of one order; `seed` (32 bytes) is the order's."""

    def __init__(self, ring: Ring, scales: np.ndarray, counts: np.ndarray, seed: bytes, sanity_rms: float):
        self.ring, self.seed = ring, seed
        self._inverse = (ring.levels / (KAPPA * scales.astype(np.float64))).astype(np.float32)
        # Rounding adds less than one step an element, float32 sums less than a ten-thousandth.
        limit = (ring.bound(sanity_rms) - 1) * (1 - 1e-4)
        self._limit = limit * limit * counts.astype(np.float64)
        self._x = np.empty(CHUNK, np.float32)
        self._u = np.empty(CHUNK, np.float32)
        self._zeros = bytes(2 * CHUNK)
        self._dither = bytearray(2 * CHUNK + 15)
        self._bits = np.frombuffer(self._dither, "<u2", count=CHUNK)

    def encode(self, gradient: np.ndarray, slice_index: int, out: np.ndarray | None = None) -> np.ndarray:
        """One slice: float32 [size] -> integers [size] of the ring. Raises NonFinite."""
        out = np.empty(len(gradient), self.ring.dtype) if out is None else out
        key = tagged_hash("dither", self.seed, slice_index.to_bytes(8, "big"))
        for chunk in range(-(-len(gradient) // CHUNK)):
            where = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            self._chunk(gradient[where], chunk, key, out[where])
        return out

    def encode_chunk(self, gradient: np.ndarray, slice_index: int, chunk: int) -> np.ndarray:
        """One chunk of a slice alone: `gradient` holds that chunk's elements only."""
        out = np.empty(len(gradient), self.ring.dtype)
        self._chunk(gradient, chunk, tagged_hash("dither", self.seed, slice_index.to_bytes(8, "big")), out)
        return out

    def _chunk(self, gradient: np.ndarray, chunk: int, key: bytes, out: np.ndarray) -> None:
        rows, first = len(gradient) // BLOCK, chunk * (CHUNK // BLOCK)
        inverse, limit = self._inverse[first : first + rows], self._limit[first : first + rows]
        grid = gradient.reshape(rows, BLOCK)
        flat = self._x[: len(gradient)]
        x = flat.reshape(rows, BLOCK)
        with np.errstate(over="ignore", invalid="ignore"):  # looked at in _shrink
            np.multiply(grid, inverse[:, None], out=x)
            squares = np.einsum("ij,ij->i", x, x)
        if not (squares <= limit).all():
            _shrink(x, grid, inverse, limit, chunk)
        counter = chunk.to_bytes(8, "big") + bytes(8)
        encryptor = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()
        encryptor.update_into(memoryview(self._zeros)[: 2 * len(gradient)], self._dither)
        u = self._u[: len(gradient)]
        np.multiply(self._bits[: len(gradient)], np.float32(2**-16), out=u)
        np.add(
            u, np.float32(2**-17), out=u
        )  # the middle of the dither's cell: u and 1 - u are equally likely
        np.add(flat, u, out=u)
        np.floor(u, out=u)
        np.clip(u, -self.ring.levels, self.ring.levels, out=u)
        np.copyto(out, u, casting="unsafe")


def encode(
    gradient: np.ndarray,
    scales: np.ndarray,
    counts: np.ndarray,
    ring: Ring,
    seed: bytes,
    slice_index: int,
    sanity_rms: float,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """`Encoder.encode` for a single slice: gradient float32 [size], scales and counts [size / BLOCK]."""
    return Encoder(ring, scales, counts, seed, sanity_rms).encode(gradient, slice_index, out)


def _shrink(x: np.ndarray, grid: np.ndarray, inverse: np.ndarray, limit: np.ndarray, chunk: int) -> None:
    """Scale the rows of x that are above their limit down to it; float64: no finite gradient overflows."""
    wide = grid.astype(np.float64) * inverse[:, None]
    squares = np.einsum("ij,ij->i", wide, wide)
    if not np.isfinite(squares).all():
        raise NonFinite(
            f"chunk {chunk} of the gradient holds NaN or an infinity: the slice is not sent; "
            "check the data for empty sequences, or lower learning_rate"
        )
    over = squares > limit
    x[over] = wide[over] * np.sqrt(limit[over] / squares[over])[:, None]


def check_sum(
    total: np.ndarray, weight: int, counts: np.ndarray, ring: Ring, sanity_rms: float
) -> np.ndarray:
    """Indices of the blocks of an integer sum [size] over `weight` slices that no honest cell can produce.

    Per element at most Q * weight; per block a root mean square of at most weight * bound; zero where
    nothing is trained. Integer arithmetic: every machine finds the same blocks.
    """
    grid = total.reshape(-1, BLOCK)
    most = ring.levels * weight
    bound = weight * ring.bound(sanity_rms)
    failing = (grid.max(axis=1) > most) | (grid.min(axis=1) < -most)
    failing |= _squares(total) > bound * bound * counts.astype(np.float64)
    partial = np.flatnonzero(counts < BLOCK)
    beyond = np.arange(BLOCK) >= counts[partial, None]
    failing[partial] |= (grid[partial].astype(bool) & beyond).any(axis=1)
    return np.flatnonzero(failing)


def decode_mean(total: np.ndarray, weight: int, scales: np.ndarray, ring: Ring, clip: float) -> np.ndarray:
    """The mean float64 [size] of a sum over `weight` slices, clipped to +-clip * scale elementwise."""
    step = KAPPA * scales.astype(np.float64) / ring.levels
    grid = total.reshape(-1, BLOCK) * (step / weight)[:, None]
    most = (clip * scales.astype(np.float64))[:, None]
    return np.clip(grid, -most, most, out=grid).reshape(-1)


def next_scales(
    total: np.ndarray,
    weight: int,
    scales: np.ndarray,
    counts: np.ndarray,
    tensors: np.ndarray,
    ring: Ring,
) -> np.ndarray:
    """The agreed scales after a sum over `weight` slices: float32 [blocks], equal bits on every machine.

    sqrt(weight) * RMS(mean), at least `SHARE` of what its tensor measures as a whole (a row that no
    slice touched must not be deaf when its token comes), at most a factor of 2 from the last scale.
    `tensors` holds the first block of each tensor, rising from 0.
    """
    step = KAPPA * scales.astype(np.float64) / ring.levels
    mean_squares = _squares(total) / np.maximum(counts, 1) * (step * step) / weight
    edges = [*tensors.tolist(), len(scales)]
    for low, high in pairwise(edges):
        # fsum rounds once, whatever the order: a plain sum depends on the machine's vectors.
        least = SHARE * SHARE * (math.fsum(mean_squares[low:high].tolist()) / (high - low))
        np.maximum(mean_squares[low:high], least, out=mean_squares[low:high])
    new = np.clip(np.sqrt(mean_squares), scales.astype(np.float64) / 2, scales.astype(np.float64) * 2)
    return np.asarray(np.maximum(new, FLOOR), np.float32)


def _squares(total: np.ndarray) -> np.ndarray:
    """Sum of squares of each block, float64 [blocks].

    A ring of 32 bits is taken in halves: every sum stays below 2^53, so float64 adds it exactly in any order.
    """
    out = np.empty(len(total) // BLOCK)
    for at in range(0, len(total), CHUNK):
        grid = total[at : at + CHUNK].reshape(-1, BLOCK)
        if total.dtype.itemsize == 2:
            wide = grid.astype(np.float64)
            squares = np.einsum("ij,ij->i", wide, wide)
        else:
            high, low = (grid >> 16).astype(np.float64), (grid & 0xFFFF).astype(np.float64)
            squares = np.einsum("ij,ij->i", high, high) * 2.0**32
            squares += np.einsum("ij,ij->i", high, low) * 2.0**17
            squares += np.einsum("ij,ij->i", low, low)
        out[at // BLOCK : at // BLOCK + len(grid)] = squares
    return out
