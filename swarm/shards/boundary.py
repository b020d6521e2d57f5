"""Boundary tensors: what two shards tell each other, as raw little-endian bytes, and back.

The promise: bytes decode to finite float32 of exactly the expected shape or are refused by name, and equal
tensors give equal bytes. What the codecs lose, over a whole tensor (docs/shards.md has the measurements):

    fp32   4 bytes   nothing
    fp16   2 bytes   11 bits, after each row was divided by a power of two (4 bytes a row)
    bf16   2 bytes   8 bits, rounded to even
    int8   1 byte    a row's largest value is 127 steps (4 bytes a row)

A row is one token's hidden state. Its power of two keeps fp16 from both of its ends: gradients at a boundary
are as small as 1e-9, where fp16 has nothing left, and large models have activations beyond its 65,504.

>>> x = np.array([[[1.0, -0.5]]], np.float32)
>>> encode(x, "int8").hex()
'0402013c7fc0'
>>> decode(encode(x, "fp16"), "fp16", (1, 1, 2)).tolist()
[[[1.0, -0.5]]]
"""

import math
from collections.abc import Callable
from typing import get_args

import numpy as np

from verify.chains import BoundaryRefused, Codec

Shape = tuple[int, int, int]
CODECS: tuple[Codec, ...] = get_args(Codec)
MAX_ELEMENTS = 1 << 28
"""Of one tensor: 1 GiB of float32."""
LARGEST = 2.0**120
"""Beyond it a codec could round to infinity; no model's values come near."""
SCALE_BYTES = 4
STEPS = 127
_ELEMENT = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_SCALED = ("fp16", "int8")


def encoded_bytes(shape: Shape, codec: Codec) -> int:
    """The exact size of a tensor [rows, length, width] in a codec. Raises BoundaryRefused."""
    _check_shape(shape)
    scales = shape[0] * shape[1] * SCALE_BYTES if codec in _SCALED else 0
    return scales + math.prod(shape) * _ELEMENT[codec]


def encode(x: np.ndarray, codec: Codec) -> bytes:
    """float32 [rows, length, width] -> bytes: the rows' scales where the codec has them, then the elements.

    Raises BoundaryRefused where a value is not finite, or beyond LARGEST.
    """
    if x.dtype != np.float32 or x.ndim != 3:
        raise BoundaryRefused(
            f"a boundary tensor {x.dtype} {list(x.shape)}; it is float32 [rows, length, width]"
        )
    _check_shape(x.shape)
    if not (np.abs(x) <= LARGEST).all():
        raise BoundaryRefused("a boundary tensor holds NaN or infinity, or nearly so; the model is broken")
    return _ENCODE[codec](np.ascontiguousarray(x))


def decode(raw: bytes, codec: Codec, shape: Shape) -> np.ndarray:
    """The float32 tensor of `shape` in `raw`. Raises BoundaryRefused."""
    if codec not in CODECS:
        raise BoundaryRefused(f"codec {codec!r}; there are {', '.join(CODECS)}")
    if len(raw) != (size := encoded_bytes(shape, codec)):
        raise BoundaryRefused(f"{len(raw)} bytes of {codec} for {list(shape)}, which has {size}")
    x = _DECODE[codec](raw, shape)
    if not (np.abs(x) <= 2 * LARGEST).all():
        raise BoundaryRefused(f"a {codec} tensor holds NaN or infinity, or nearly so")
    return x


def error(x: np.ndarray, codec: Codec) -> float:
    """What a codec loses of a tensor: relative L2."""
    there_and_back = decode(encode(x, codec), codec, (x.shape[0], x.shape[1], x.shape[2]))
    norm = float(np.linalg.norm(x.astype(np.float64)))
    return float(np.linalg.norm(there_and_back.astype(np.float64) - x)) / norm if norm else 0.0


def apart(mine: bytes, theirs: bytes, codec: Codec, shape: Shape) -> float:
    """How far two encoded tensors are apart: relative L2, of what they decode to. Raises BoundaryRefused."""
    if mine == theirs:
        return 0.0
    ours, other = (decode(raw, codec, shape).astype(np.float64) for raw in (mine, theirs))
    far, norm = float(np.linalg.norm(other - ours)), float(np.linalg.norm(ours))
    return far / norm if norm else math.inf


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
        raise BoundaryRefused(
            f"shape {list(shape)}; it is [rows, length, width], at most {MAX_ELEMENTS} elements"
        )


def _encode_fp32(x: np.ndarray) -> bytes:
    raw: bytes = x.astype("<f4").tobytes()
    return raw


def _decode_fp32(raw: bytes, shape: Shape) -> np.ndarray:
    return np.frombuffer(raw, "<f4").reshape(shape).astype(np.float32)


def _encode_fp16(x: np.ndarray) -> bytes:
    # The largest power of two that no element of the row exceeds: values lie in (-2, 2).
    _, exponents = np.frexp(np.abs(x).max(axis=2, keepdims=True))
    powers = np.ldexp(np.float32(1), exponents - 1)
    raw: bytes = powers.astype("<f4").tobytes() + (x / powers).astype("<f2").tobytes()
    return raw


def _decode_fp16(raw: bytes, shape: Shape) -> np.ndarray:
    powers, at = _scales(raw, shape)
    if (powers <= 0).any() or (np.frexp(powers)[0] != 0.5).any():
        raise BoundaryRefused("an fp16 row whose scale is no power of two")
    values = np.frombuffer(raw, "<f2", offset=at).reshape(shape)
    if (np.abs(values) > 2).any():
        raise BoundaryRefused("an fp16 row with a value beyond twice its scale")
    return _product(values, powers)


def _encode_bf16(x: np.ndarray) -> bytes:
    bits = x.view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    raw: bytes = ((bits + half) >> np.uint32(16)).astype("<u2").tobytes()  # ties to even
    return raw


def _decode_bf16(raw: bytes, shape: Shape) -> np.ndarray:
    bits = np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)
    return bits.view(np.float32).reshape(shape)


def _encode_int8(x: np.ndarray) -> bytes:
    scales = np.abs(x).max(axis=2, keepdims=True) / np.float32(STEPS)
    quotients = np.divide(x, scales, out=np.zeros_like(x), where=scales > 0)
    steps = np.clip(np.rint(quotients), -STEPS, STEPS)  # a scale that is a denormal is rounded itself
    raw: bytes = scales.astype("<f4").tobytes() + steps.astype(np.int8).tobytes()
    return raw


def _decode_int8(raw: bytes, shape: Shape) -> np.ndarray:
    scales, at = _scales(raw, shape)
    steps = np.frombuffer(raw, np.int8, offset=at).reshape(shape)
    if (scales < 0).any() or (steps == -STEPS - 1).any():
        raise BoundaryRefused("an int8 row with a negative scale, or with more than 127 steps")
    return _product(steps, scales)


def _scales(raw: bytes, shape: Shape) -> tuple[np.ndarray, int]:
    rows = shape[0] * shape[1]
    scales = np.frombuffer(raw, "<f4", count=rows).astype(np.float32)
    if not np.isfinite(scales).all():
        raise BoundaryRefused("a row whose scale is NaN or infinity")
    return scales.reshape(shape[0], shape[1], 1), rows * SCALE_BYTES


def _product(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by `decode`
        product: np.ndarray = np.multiply(values, scales, dtype=np.float32)
    return product


_ENCODE: dict[Codec, Callable[[np.ndarray], bytes]] = {
    "fp32": _encode_fp32,
    "fp16": _encode_fp16,
    "bf16": _encode_bf16,
    "int8": _encode_int8,
}
_DECODE: dict[Codec, Callable[[bytes, Shape], np.ndarray]] = {
    "fp32": _decode_fp32,
    "fp16": _decode_fp16,
    "bf16": _decode_bf16,
    "int8": _decode_int8,
}
