"""Promises of the outer step: AdamW, with equal bits under any instruction set and thread count."""

import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from secagg.ring import BLOCK, Encoder, Ring, decode_mean
from swarm import outer as module
from swarm.layout import Layout
from swarm.manifest import Outer
from swarm.outer import ArithmeticDiffers, FlushToZero, golden_hash, learning_rate, outer_step, self_test
from swarm.snapshot import Snapshot, first_snapshot

LAYOUT = Layout(
    ("w", "k_proj.bias", "b"),
    ((20, 900), (64,), (64,)),
    (0, 18 * BLOCK, 19 * BLOCK),
    (False, True, False),
    20 * BLOCK,
)
RING = Ring.for_cell(16, 16, 4)
OUTER = Outer(warmup_rounds=5, learning_rate=1e-2)
ROUNDS = 40
TRAINED = np.arange(LAYOUT.size) % BLOCK < LAYOUT.counts.repeat(BLOCK)


def sums(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [np.where(TRAINED, rng.integers(-40, 40, LAYOUT.size), 0).astype(RING.dtype) for _ in range(count)]


def start() -> Snapshot:
    params = np.where(TRAINED, np.random.default_rng(1).standard_normal(LAYOUT.size), 0).astype(np.float32)
    params[18 * BLOCK : 18 * BLOCK + 64] = 0.5  # a frozen tensor need not be zero
    return first_snapshot(LAYOUT, params, 1e-3)


def test_this_machine_passes_the_self_test() -> None:
    self_test()


def test_a_machine_with_other_arithmetic_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GOLDEN", "0" * 64)
    with pytest.raises(ArithmeticDiffers, match="pinned numpy"):
        self_test()


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot flush denormals")
def test_flush_to_zero_is_refused() -> None:
    torch.set_flush_denormal(True)
    try:
        with pytest.raises(FlushToZero, match="set_flush_denormal"):
            self_test()
    finally:
        torch.set_flush_denormal(False)


def levels() -> list[str]:
    """What to switch off: nothing dispatched at all, and the widest vectors alone."""
    present = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    wide = [name for name in present if name != "X86_V3" and not name.startswith("AVX2")]
    return [" ".join(names) for names in (present, wide) if names]


@pytest.mark.parametrize(("disabled", "threads"), zip(levels(), ("2", "1"), strict=False))
def test_equal_bits_under_other_instruction_sets_and_threads(disabled: str, threads: str) -> None:
    code = (
        "from numpy._core._multiarray_umath import __cpu_features__ as f\n"
        "import os; assert not any(f[n] for n in os.environ['NPY_DISABLE_CPU_FEATURES'].split())\n"
        "from swarm.outer import golden_hash; print(golden_hash())"
    )
    variables = {"NPY_DISABLE_CPU_FEATURES": disabled, "OMP_NUM_THREADS": threads}
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == golden_hash()


def test_the_schedule_is_torchs_warm_up_and_cosine_to_a_part_in_a_trillion() -> None:
    for step in range(ROUNDS + 2):
        if step < 5:
            wanted = 1e-2 * (step + 1) / 5
        else:
            wanted = 1e-2 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - 5) / (ROUNDS - 5))))
        assert learning_rate(OUTER, step, ROUNDS) == pytest.approx(wanted, rel=1e-12, abs=1e-18)
    assert learning_rate(Outer(warmup_rounds=0), 0, 1) == 1e-3
    assert learning_rate(Outer(warmup_rounds=9), 8, 5) == 1e-3  # warm-up longer than the run


def test_a_run_of_steps_is_torchs_adamw() -> None:
    snapshot = start()
    parameter = torch.tensor(snapshot.params, dtype=torch.float64, requires_grad=True)
    torch_adamw = torch.optim.AdamW(
        [parameter], betas=OUTER.betas, eps=OUTER.eps, weight_decay=OUTER.weight_decay
    )
    for step, total in enumerate(sums(ROUNDS)):
        mean = decode_mean(total, 16, snapshot.scales, RING, OUTER.clip)
        parameter.grad = torch.from_numpy(mean)
        torch_adamw.param_groups[0]["lr"] = learning_rate(OUTER, step, ROUNDS)
        torch_adamw.step()
        snapshot = outer_step(snapshot, total, 16, LAYOUT, OUTER, RING, ROUNDS)
    assert snapshot.round == ROUNDS
    assert snapshot.weight == 16
    moved = TRAINED & (LAYOUT.counts.repeat(BLOCK) > 0)
    wanted = parameter.detach().numpy()
    assert np.abs(snapshot.params - wanted)[moved].max() < 1e-5
    assert np.abs(wanted - start().params)[moved].max() > 0.05


def test_padding_and_frozen_tensors_keep_every_bit() -> None:
    snapshot = start()
    for total in sums(5):
        snapshot = outer_step(snapshot, total, 16, LAYOUT, OUTER, RING, ROUNDS)
    for name in ("params", "m", "v"):
        assert np.array_equal(getattr(snapshot, name)[~TRAINED], getattr(start(), name)[~TRAINED])


def test_the_same_sum_gives_the_same_name_and_another_sum_another() -> None:
    (total,) = sums(1)
    other = total.copy()
    other[0] += 1
    first, again, third = (
        outer_step(start(), values, 16, LAYOUT, OUTER, RING, ROUNDS).hash
        for values in (total, total.copy(), other)
    )
    assert first == again != third


def test_one_wild_slice_moves_the_moments_no_further_than_the_clip() -> None:
    snapshot = start()
    wild = np.where(TRAINED, 1e6, 0).astype(np.float32)
    code = Encoder(RING, snapshot.scales, LAYOUT.counts, bytes(32), 4.0).encode(wild, 0)
    after = outer_step(snapshot, code, 1, LAYOUT, replace_clip(OUTER, 2.0), RING, ROUNDS)
    assert np.abs(after.m).max() <= 0.1 * 2.0 * 1e-3 * 1.0001


def test_scales_and_powers_go_on_with_the_step() -> None:
    first = outer_step(start(), sums(1)[0], 16, LAYOUT, OUTER, RING, ROUNDS)
    assert (first.beta1_power, first.beta2_power) == OUTER.betas
    again = outer_step(first, sums(1)[0], 16, LAYOUT, OUTER, RING, ROUNDS)
    assert again.beta1_power == OUTER.betas[0] * OUTER.betas[0]
    assert not np.array_equal(again.scales, first.scales)
    assert replace(again, scales=first.scales).hash != again.hash


def replace_clip(outer: Outer, clip: float) -> Outer:
    return outer.model_copy(update={"clip": clip})
