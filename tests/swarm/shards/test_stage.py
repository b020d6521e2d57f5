"""Promises of a stage: only inputs are kept, one order of addition, halves instead of dying."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from transformers import OPTConfig

from swarm.model import NO_CHANCE
from swarm.shards.slicing import Cut, Shard
from swarm.shards.stage import (
    Halved,
    MicrobatchRefused,
    OutOfMemory,
    Slice,
    SliceSpoiled,
    Stage,
    microbatches,
    run_slice,
)

CONFIG = OPTConfig(
    vocab_size=64,
    hidden_size=16,
    word_embed_proj_dim=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    ffn_dim=32,
    max_position_embeddings=32,
    tie_word_embeddings=False,
    **NO_CHANCE,
)
CONFIG._attn_implementation = "sdpa"
CUTS = [Cut(index, 3, range(index, index + 1)) for index in range(3)]
ROWS, LENGTH = 4, 8
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 64, (3 * ROWS, LENGTH)).astype(np.int32)
HIDDEN = RANDOM.standard_normal((3, ROWS, LENGTH, 16)).astype(np.float32)
OUTER = RANDOM.standard_normal((3, ROWS, LENGTH, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stage(index: int, say: Callable[[Halved], None] = lambda _: None, room: int = 0) -> Stage:
    torch.manual_seed(index)
    return Stage(Shard(CONFIG, CUTS[index]).train(), say=say, room=room)


def new_slice(count: int = 3) -> Slice:
    return Slice(tuple(range(count)), tokens=count * ROWS * LENGTH)


def gradient_of(one: Stage, forwards: list[int], count: int = 3) -> np.ndarray:
    """Microbatches forward in one order, backward in the slice's."""
    work = new_slice(count)
    for at in forwards:
        one.forward(work, at, HIDDEN[at])
    for at in range(count):
        one.backward(work, at, OUTER[at])
    return one.finish(work)


# ---- memory


def test_only_inputs_in_flight_are_kept_and_given_back() -> None:
    one, work = stage(1), new_slice()
    for at in range(3):
        one.forward(work, at, HIDDEN[at])
        assert work.kept_bytes == sum(HIDDEN[done].nbytes for done in range(at + 1))
    for at in range(3):
        one.backward(work, at, OUTER[at])
        assert sorted(work.kept) == list(range(at + 1, 3))
    assert work.kept_bytes == 0


def test_between_forward_and_backward_no_activation_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever autograd wants to save for backward is counted; a forward saves nothing."""
    saved: list[torch.Size] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.shape)
        return tensor

    one, work = stage(1), new_slice(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        one.forward(work, 0, HIDDEN[0])
        assert not saved
        one.backward(work, 0, OUTER[0])
    assert saved


def test_the_last_stage_keeps_nothing_at_all() -> None:
    one, work = stage(2), new_slice(1)
    one.turn(work, 0, HIDDEN[0], TOKENS[:ROWS])
    assert not work.kept
    with pytest.raises(ValueError, match="turn"):
        one.forward(work, 0, HIDDEN[0])


# ---- room for what lies between

PLENTY = 1 << 30


def trained(one: Stage, inputs: np.ndarray) -> tuple[list[np.ndarray | None], np.ndarray]:
    """All that comes out of three microbatches, all of them in flight at once."""
    work = new_slice()
    out: list[np.ndarray | None] = [one.forward(work, at, inputs[at]) for at in range(3)]
    out += [one.backward(work, at, OUTER[at]) for at in range(3)]
    return out, one.finish(work)


@pytest.mark.parametrize(("index", "inputs"), [(0, TOKENS.reshape(3, ROWS, LENGTH)), (1, HIDDEN)])
def test_what_lies_between_gives_the_same_bits_kept_or_computed_again(index: int, inputs: np.ndarray) -> None:
    (there, gradient), (again, twice) = (trained(stage(index, room=room), inputs) for room in (PLENTY, 0))
    assert np.array_equal(gradient, twice)
    for a, b in zip(there, again, strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)  # type: ignore[arg-type]


def test_only_what_has_room_is_kept_and_it_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = stage(1, room=PLENTY)
    measured.forward(new_slice(), 0, HIDDEN[0])
    each = int(measured._graph_bytes * ROWS)
    assert each > HIDDEN[0].nbytes
    one = stage(1, room=2 * each + each // 2)
    scarce = Scarce(one, ROWS, MemoryError(), monkeypatch)
    trained(one, HIDDEN)
    assert scarce.passes == 3 + 1  # the third was computed again
    trained(one, HIDDEN)
    assert scarce.passes == 2 * (3 + 1)


def test_memory_that_runs_out_takes_the_room_before_rows_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Halved] = []
    one, work = stage(1, said.append, PLENTY), new_slice()
    for at in range(2):
        one.forward(work, at, HIDDEN[at])
    forward, failed = one._shard.forward, list[int]()

    def fails_once(x: torch.Tensor) -> torch.Tensor:
        if not failed:
            failed.append(len(x))
            raise MemoryError
        return forward(x)

    monkeypatch.setattr(one._shard, "forward", fails_once)
    one.forward(work, 2, HIDDEN[2])
    for at in range(3):
        one.backward(work, at, OUTER[at])
    assert failed
    assert not said
    assert np.array_equal(one.finish(work), gradient_of(stage(1), [0, 1, 2]))


def test_a_vector_that_is_used_again_leaves_nothing_of_what_it_held() -> None:
    one = stage(1)
    first = gradient_of(one, [0, 1, 2])
    wanted = first.copy()
    one.reuse(first)
    again = gradient_of(one, [0, 1, 2])
    assert np.shares_memory(first, again)
    assert np.array_equal(again, wanted)


# ---- the order of addition


@pytest.mark.parametrize("forwards", [[0, 1, 2], [2, 0, 1]])
def test_a_slice_has_the_same_bits_whoever_computes_and_whatever_came_first(forwards: list[int]) -> None:
    assert np.array_equal(gradient_of(stage(1), forwards), gradient_of(stage(1), [0, 1, 2]))


def test_two_slices_in_flight_do_not_mix() -> None:
    one, a, b = stage(1), new_slice(2), new_slice(1)
    one.forward(a, 0, HIDDEN[0])
    one.forward(a, 1, HIDDEN[1])
    one.forward(b, 0, HIDDEN[2])
    one.backward(a, 0, OUTER[0])
    one.backward(b, 0, OUTER[2])
    one.backward(a, 1, OUTER[1])
    assert np.array_equal(one.finish(a), gradient_of(stage(1), [0, 1], 2))


def test_a_microbatch_out_of_turn_or_twice_is_refused_and_adds_nothing() -> None:
    one, work = stage(1), new_slice()
    for at in range(3):
        one.forward(work, at, HIDDEN[at])
    with pytest.raises(MicrobatchRefused, match="computed before"):
        one.forward(work, 1, HIDDEN[1])
    with pytest.raises(MicrobatchRefused, match="1 before 0"):
        one.backward(work, 1, OUTER[1])
    one.backward(work, 0, OUTER[0])
    with pytest.raises(MicrobatchRefused, match="0 before 1"):
        one.backward(work, 0, OUTER[0])
    with pytest.raises(SliceSpoiled, match="1 of 3"):
        one.finish(work)
    one.backward(work, 1, OUTER[1])
    one.backward(work, 2, OUTER[2])
    assert np.array_equal(one.finish(work), gradient_of(stage(1), [0, 1, 2]))
    with pytest.raises(MicrobatchRefused, match="complete"):
        one.backward(work, 2, OUTER[2])


def test_the_gradient_is_that_of_the_mean_over_the_slice_and_the_loss_a_sum() -> None:
    stages = [stage(index) for index in range(3)]
    sequences = np.concatenate([TOKENS, TOKENS[:, :1]], axis=1)
    gradients, loss = run_slice(stages, sequences)
    twice, loss_twice = run_slice(stages, np.concatenate([sequences, sequences]))
    assert loss_twice == pytest.approx(2 * loss, rel=1e-6)
    for a, b in zip(gradients, twice, strict=True):
        assert np.linalg.norm(a - b) < 1e-6 * np.linalg.norm(a)


# ---- memory that does not suffice


class Scarce:
    """A shard that fits only so many rows at a time; `passes` counts forward passes that fit."""

    def __init__(self, one: Stage, fits: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes = 0
        inner = one._shard.forward

        def forward(x: torch.Tensor) -> torch.Tensor:
            if len(x) > fits:
                raise error
            self.passes += 1
            return inner(x)

        monkeypatch.setattr(one._shard, "forward", forward)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    ],
)
def test_a_microbatch_that_does_not_fit_is_halved_and_says_so(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Halved] = []
    one = stage(1, said.append)
    scarce = Scarce(one, 2, error, monkeypatch)
    work = new_slice(1)
    out = one.forward(work, 0, HIDDEN[0])
    assert scarce.passes == 2
    inner = one.backward(work, 0, OUTER[0])
    assert [(halved.rows, halved.now) for halved in said] == [(4, 2)]
    assert said[0].reason
    plenty, other = stage(1), new_slice(1)
    assert np.allclose(out, plenty.forward(other, 0, HIDDEN[0]), rtol=1e-5, atol=1e-6)
    assert inner is not None
    assert np.allclose(inner, plenty.backward(other, 0, OUTER[0]), rtol=1e-5, atol=1e-6)
    halved, whole = one.finish(work), plenty.finish(other)
    assert np.linalg.norm(halved - whole) < 1e-6 * np.linalg.norm(whole)


@pytest.mark.parametrize("fails", [1, 2])
def test_memory_that_runs_out_on_the_way_back_adds_nothing_twice(fails: int) -> None:
    """By then some tensors have their gradient, others not: the halves bring what is missing, and no more."""
    said: list[Halved] = []
    one, work = stage(1, said.append), new_slice(1)
    one.forward(work, 0, HIDDEN[0])
    calls: list[int] = []

    def scarce(_: torch.Tensor) -> None:
        calls.append(len(one._added))
        if len(calls) <= fails:
            raise torch.OutOfMemoryError("CUDA out of memory")

    one._trained[2][0].register_hook(scarce)
    inner = one.backward(work, 0, OUTER[0])
    assert calls[0] > 0
    assert [halved.now for halved in said] == [2, 1][:fails]
    found, whole = one.finish(work), gradient_of(stage(1), [0], 1)
    assert np.linalg.norm(found - whole) < 1e-6 * np.linalg.norm(whole)
    plenty, other = stage(1), new_slice(1)
    plenty.forward(other, 0, HIDDEN[0])
    wanted = plenty.backward(other, 0, OUTER[0])
    assert inner is not None
    assert wanted is not None
    assert np.allclose(inner, wanted, rtol=1e-5, atol=1e-6)


def test_the_loss_counts_a_microbatch_once_when_its_turn_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    one, work, other = stage(2), new_slice(1), new_slice(1)
    stage(2).turn(other, 0, HIDDEN[0], TOKENS[:ROWS])
    Scarce(one, 1, MemoryError(), monkeypatch)
    one.turn(work, 0, HIDDEN[0], TOKENS[:ROWS])
    assert work.loss == pytest.approx(other.loss, rel=1e-6)


def test_one_row_that_does_not_fit_is_refused_and_spoils_its_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    one, work = stage(2), new_slice(2)
    one.turn(work, 0, HIDDEN[0], TOKENS[:ROWS])
    Scarce(one, 0, MemoryError(), monkeypatch)
    with pytest.raises(OutOfMemory, match="hold a smaller shard"):
        one.turn(work, 1, HIDDEN[1], TOKENS[ROWS : 2 * ROWS])
    with pytest.raises(SliceSpoiled):
        one.finish(work)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    one = stage(1)
    Scarce(one, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), monkeypatch)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        one.forward(new_slice(), 0, HIDDEN[0])


# ---- refusals


@pytest.mark.parametrize(
    ("index", "x"),
    [
        (0, TOKENS.astype(np.int64)),
        (0, TOKENS[0]),
        (0, np.full((1, 8), 64, np.int32)),
        (0, np.full((1, 8), -1, np.int32)),
        (0, HIDDEN[0]),
        (1, TOKENS),
        (1, HIDDEN[0][..., :15]),
        (1, HIDDEN[0].astype(np.float64)),
        (1, HIDDEN[0][:0]),
    ],
)
def test_inputs_of_another_shape_type_or_range_are_refused(index: int, x: np.ndarray) -> None:
    work = new_slice()
    with pytest.raises(MicrobatchRefused, match=r"tokens|token ids|hidden states"):
        stage(index).forward(work, 0, x)
    assert not work.kept


def test_gradients_and_targets_of_another_shape_are_refused() -> None:
    one, work = stage(1), new_slice()
    one.forward(work, 0, HIDDEN[0])
    for wrong in (OUTER[0][:2], OUTER[0].astype(np.float16), OUTER[0][..., 0]):
        with pytest.raises(MicrobatchRefused, match="a gradient"):
            one.backward(work, 0, wrong)
    with pytest.raises(MicrobatchRefused, match="not of this slice"):
        one.forward(work, 9, HIDDEN[0])
    for targets in (TOKENS[:2], TOKENS[:ROWS].astype(np.int64), TOKENS[:ROWS] + 64, TOKENS[:ROWS] - 64):
        with pytest.raises(MicrobatchRefused, match="targets"):
            stage(2).turn(new_slice(), 0, HIDDEN[0], targets)


def test_microbatches_are_those_of_a_whole_models_slice() -> None:
    assert microbatches(5, 127, 50_272) == (range(0, 1), range(1, 2), range(2, 3), range(3, 4), range(4, 5))
    assert microbatches(5, 16, 1 << 18) == (range(0, 2), range(2, 4), range(4, 5))
