"""Promises of boundary tensors: finite and of the right shape or refused; small, measured losses."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from swarm.shards.boundary import (
    CODECS,
    LARGEST,
    MAX_ELEMENTS,
    Shape,
    decode,
    encode,
    encoded_bytes,
    error,
)
from verify.chains import BoundaryRefused, Codec

SHAPES = array_shapes(min_dims=3, max_dims=3, max_side=5)
FINITE = st.floats(-LARGEST, LARGEST, width=32)
TENSORS = SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=FINITE))
EACH = pytest.mark.parametrize("codec", CODECS)
SETTINGS = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def shape_of(x: np.ndarray) -> Shape:
    return (x.shape[0], x.shape[1], x.shape[2])


@EACH
@SETTINGS
@given(x=TENSORS)
def test_a_tensor_comes_back_within_its_codecs_loss(codec: Codec, x: np.ndarray) -> None:
    raw = encode(x, codec)
    assert len(raw) == encoded_bytes(shape_of(x), codec)
    found = decode(raw, codec, shape_of(x)).astype(np.float64)
    assert found.shape == x.shape
    largest = np.abs(x.astype(np.float64)).max(axis=2, keepdims=True)
    smallest = 2.0**-149
    bound = {
        "fp32": 0.0 * largest,
        "fp16": np.maximum(np.abs(x) * 2.0**-11, largest * 2.0**-24) + smallest,
        "bf16": np.abs(x.astype(np.float64)) * 2.0**-8 + 2.0**-134,
        "int8": largest / 250 + 127 * smallest,
    }[codec]
    assert (np.abs(found - x) <= bound).all()


@EACH
@SETTINGS
@given(x=TENSORS)
def test_equal_tensors_give_equal_bytes_however_they_lie_in_memory(codec: Codec, x: np.ndarray) -> None:
    strided = np.repeat(x, 2, axis=2)[:, :, ::2]
    assert encode(strided, codec) == encode(x, codec)


@EACH
@SETTINGS
@given(raw=st.binary(max_size=120), shape=SHAPES)
def test_any_bytes_decode_to_finite_float32_or_are_refused(
    codec: Codec, raw: bytes, shape: tuple[int, int, int]
) -> None:
    size = encoded_bytes(shape, codec)
    for data in (raw, (raw * size)[:size]):
        try:
            found = decode(data, codec, shape)
        except BoundaryRefused:
            continue
        assert (found.dtype, found.shape) == (np.float32, shape)
        assert np.isfinite(found).all()
        if np.abs(found).max() <= LARGEST and codec != "int8":  # int8 may round a row's scale again
            assert np.array_equal(decode(encode(found, codec), codec, shape), found)


@EACH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_neither_sent_nor_taken(codec: Codec, value: float) -> None:
    x = np.ones((1, 2, 3), np.float32)
    raw = bytearray(encode(x, codec))
    x[0, 1, 2] = value
    with pytest.raises(BoundaryRefused, match="NaN or infinity"):
        encode(x, codec)
    written = np.array(value, "<f4" if codec in ("fp32", "int8") else "<f2")
    patched = b"\x80\x7f" if codec == "bf16" else written.tobytes()
    at = 0 if codec == "int8" else len(raw) - len(patched)
    raw[at : at + len(patched)] = patched
    with pytest.raises(BoundaryRefused):
        decode(bytes(raw), codec, (1, 2, 3))


@EACH
def test_another_size_than_the_shapes_is_refused(codec: Codec) -> None:
    raw = encode(np.ones((2, 3, 4), np.float32), codec)
    for wrong in (raw[:-1], raw + b"\0", b""):
        with pytest.raises(BoundaryRefused, match="bytes of"):
            decode(wrong, codec, (2, 3, 4))
    for shape in ((2, 3, 5), (0, 3, 4), (2, 3, -4), (MAX_ELEMENTS, 2, 1)):
        with pytest.raises(BoundaryRefused):
            decode(raw, codec, shape)


def test_codecs_and_tensors_of_another_kind_are_refused() -> None:
    with pytest.raises(BoundaryRefused, match="codec 'fp8'"):
        decode(b"", "fp8", (1, 1, 1))  # type: ignore[arg-type]
    for x in (np.ones((2, 2), np.float32), np.ones((1, 1, 2), np.float64), np.ones((1, 1, 2), np.int32)):
        with pytest.raises(BoundaryRefused, match="it is float32"):
            encode(x, "fp32")


@pytest.mark.parametrize(
    ("codec", "raw"),
    [
        ("fp16", np.array([3.0], "<f4").tobytes() + bytes(4)),
        ("fp16", np.array([-2.0], "<f4").tobytes() + bytes(4)),
        ("fp16", np.array([0.0], "<f4").tobytes() + bytes(4)),
        ("fp16", np.array([1.0], "<f4").tobytes() + np.array([2.5, 0], "<f2").tobytes()),
        ("fp16", np.array([2.0**127], "<f4").tobytes() + np.array([2.0, 0], "<f2").tobytes()),
        ("int8", np.array([-1.0], "<f4").tobytes() + b"\1\1"),
        ("int8", np.array([1.0], "<f4").tobytes() + b"\x80\1"),
        ("int8", np.array([3e38], "<f4").tobytes() + b"\x7f\1"),
    ],
)
def test_scales_that_no_encoder_writes_are_refused(codec: Codec, raw: bytes) -> None:
    with pytest.raises(BoundaryRefused):
        decode(raw, codec, (1, 1, 2))


def test_small_gradients_survive_fp16() -> None:
    """Their own fp16 would be zero: the row's power of two keeps eleven bits."""
    x = np.random.default_rng(0).standard_normal((2, 16, 64)).astype(np.float32) * np.float32(1e-9)
    assert not x.astype(np.float16).any()
    assert error(x, "fp16") < 5e-4


def test_losses_are_ranked_as_the_table_says() -> None:
    x = np.random.default_rng(0).standard_normal((4, 32, 64)).astype(np.float32)
    found = [error(x, codec) for codec in ("fp32", "fp16", "bf16", "int8")]
    assert found[0] == 0.0
    assert found == sorted(found)
    assert found[1] < 3e-4
    assert found[3] < 1e-2
    assert error(np.zeros((1, 1, 4), np.float32), "int8") == 0.0
