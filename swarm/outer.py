"""The outer step: an agreed sum becomes the next snapshot, with equal bits on every machine.

AdamW (Loshchilov and Hutter 2019, as torch.optim.AdamW has it) in numpy: one ufunc an operation,
elementwise, float64 inside, state rounded to float32, nothing but + - x / sqrt and comparisons, which
IEEE 754 rounds in one way only. Powers of beta are running products, no sum runs over elements, and
the cosine is a polynomial, because libraries differ in theirs. What is not trained (padding, frozen
tensors) keeps every bit.

`self_test` checks a golden vector, and refuses a processor that flushes small numbers to zero.
"""

import numpy as np
from blake3 import blake3

from proto.errors import SwarmError
from secagg.ring import BLOCK, Ring, decode_mean, next_scales
from swarm.layout import Layout
from swarm.manifest import Outer
from swarm.snapshot import Snapshot

STRIDE = 16 * BLOCK  # elements at a time: the working set stays in the cache
GOLDEN = "a249dbdce985b9ae2bdd8ecd516ffa884be62c50a16460ee9df81a55bb68d25e"


class ArithmeticDiffers(SwarmError):
    """This machine's arithmetic would part it from the swarm at the first step."""


class FlushToZero(ArithmeticDiffers):
    """Small numbers are flushed to zero here."""


def learning_rate(outer: Outer, step: int, rounds: int) -> float:
    """The rate of step `step` (from 0) of `rounds`: linear warm-up, then half a cosine to 0."""
    if step < outer.warmup_rounds:
        return outer.learning_rate * ((step + 1) / outer.warmup_rounds)
    if step >= rounds:
        return 0.0
    return outer.learning_rate * (
        0.5 * (1.0 + _cos_pi((step - outer.warmup_rounds) / (rounds - outer.warmup_rounds)))
    )


def outer_step(
    snapshot: Snapshot,
    total: np.ndarray,
    weight: int,
    layout: Layout,
    outer: Outer,
    ring: Ring,
    rounds: int,
) -> Snapshot:
    """The snapshot after `total`, integers [size] over `weight` slices, which has passed `check_sum`."""
    beta1, beta2 = outer.betas
    power1, power2 = snapshot.beta1_power * beta1, snapshot.beta2_power * beta2
    rate = learning_rate(outer, snapshot.round, rounds)
    correct1, correct2 = 1.0 - power1, 1.0 - power2
    keep = 1.0 - rate * outer.weight_decay
    params, m, v = (np.empty(layout.size, np.float32) for _ in range(3))
    for at in range(0, layout.size, STRIDE):
        here, blocks = slice(at, at + STRIDE), slice(at // BLOCK, (at + STRIDE) // BLOCK)
        mean = decode_mean(total[here], weight, snapshot.scales[blocks], ring, outer.clip)
        first = snapshot.m[here].astype(np.float64)
        np.multiply(first, beta1, out=first)
        second = snapshot.v[here].astype(np.float64)
        np.multiply(second, beta2, out=second)
        work = np.multiply(mean, 1.0 - beta1)
        np.add(first, work, out=first)
        np.multiply(mean, mean, out=work)
        np.multiply(work, 1.0 - beta2, out=work)
        np.add(second, work, out=second)
        m[here], v[here] = first, second
        np.divide(second, correct2, out=second)
        np.sqrt(second, out=second)
        np.add(second, outer.eps, out=second)
        np.divide(first, correct1, out=first)
        np.divide(first, second, out=first)
        np.multiply(first, rate, out=first)
        new = snapshot.params[here].astype(np.float64)
        np.multiply(new, keep, out=new)
        np.subtract(new, first, out=new)
        params[here] = new
    for block in np.flatnonzero(layout.counts == 0):
        still = slice(block * BLOCK, (block + 1) * BLOCK)
        params[still] = snapshot.params[still]
    return Snapshot(
        round=snapshot.round + 1,
        layout=snapshot.layout,
        params=params,
        m=m,
        v=v,
        scales=next_scales(total, weight, snapshot.scales, layout.counts, layout.tensors, ring),
        beta1_power=power1,
        beta2_power=power2,
        weight=weight,
    )


def self_test() -> None:
    """Raises ArithmeticDiffers where this machine does not step as the swarm does. Takes milliseconds."""
    if (
        not (np.array([2.0**-1074]) * 1.0).all()
        or not (np.array([2.0**-149], np.float32) * np.float32(1)).all()
    ):
        raise FlushToZero(
            "this process flushes denormal numbers to zero, other peers do not: "
            "remove torch.set_flush_denormal(True) and libraries built with -ffast-math"
        )
    if (found := golden_hash()) != GOLDEN:
        raise ArithmeticDiffers(
            f"the golden outer step gives {found[:16]}…, it must give {GOLDEN[:16]}…: "
            "this numpy or processor does not round as IEEE 754 says; install the pinned numpy"
        )


def golden_hash() -> str:
    """BLAKE3, in hex, of four steps from fixed numbers that no library's random generator made."""
    layout = Layout(("w", "k_proj.bias"), ((40, 1000), (64,)), (0, 40 * BLOCK), (False, True), 41 * BLOCK)
    ring = Ring.for_cell(16, 16, 4)
    state, rows = np.arange(layout.size, dtype=np.uint64), layout.counts.repeat(BLOCK)
    trained = np.arange(layout.size) % BLOCK < rows
    spread = (state * np.uint64(2654435761) % np.uint64(65521)).astype(np.float32)
    zeros = np.zeros(layout.size, np.float32)
    snapshot = Snapshot(
        round=0,
        layout=layout.digest,
        params=np.where(trained, (spread - np.float32(32760)) / np.float32(2**19), zeros),
        m=zeros,
        v=zeros,
        scales=((1 + np.arange(layout.blocks)) / 2.0**14).astype(np.float32),
        beta1_power=1.0,
        beta2_power=1.0,
        weight=0,
    )
    digest = blake3()
    for step in range(4):
        code = (state * np.uint64(40503 + step) % np.uint64(1021)).astype(np.int16) - np.int16(510)
        total = np.where(trained, code, 0).astype(ring.dtype)
        snapshot = outer_step(snapshot, total, 3 + step, layout, Outer(warmup_rounds=2), ring, 4)
        for array in (snapshot.params, snapshot.m, snapshot.v, snapshot.scales):
            digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()


def _cos_pi(x: float) -> float:
    """cos(pi x) for x in [0, 1], within 1e-15: the Taylor series of sin(pi (1/2 - x)), by Horner's rule."""
    y = 3.141592653589793 * (0.5 - x)
    square, result = y * y, 1.0
    for k in range(22, 0, -2):
        result = 1.0 - result * square / (k * (k + 1))
    return y * result
