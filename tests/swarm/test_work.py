"""Promises of work: a pure function of order and snapshot, whose prefix is a whole answer."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import OPTConfig, OPTForCausalLM

from secagg.ring import NonFinite, Ring, check_sum, decode_mean
from swarm import sizes
from swarm.model import NO_CHANCE, layout_of, read_vector
from swarm.snapshot import Snapshot, first_snapshot
from swarm.work import Order, SliceResult, Trainer

RING = Ring.for_cell(16, 16, 4)
SEQUENCES = np.random.default_rng(0).integers(4, 128, (40, 33)).astype(np.int32)
CONFIG = OPTConfig(
    vocab_size=128,
    hidden_size=32,
    word_embed_proj_dim=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    ffn_dim=64,
    max_position_embeddings=64,
    **NO_CHANCE,
)


@pytest.fixture(scope="module")
def model() -> OPTForCausalLM:
    torch.manual_seed(0)
    return OPTForCausalLM(CONFIG).train()


@pytest.fixture(scope="module")
def snapshot(model: OPTForCausalLM) -> Snapshot:
    layout = layout_of(model)
    return first_snapshot(layout, read_vector(model, layout), 1e-3)


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(OPTForCausalLM(CONFIG).train(), RING, 4.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def order(snapshot: Snapshot, slices: int = 3, seed: bytes = bytes(32)) -> Order:
    drawn = tuple(tuple(range(8 * index, 8 * index + 8)) for index in range(slices))
    return Order(bytes(32), 1, 0, 0, snapshot.hash, drawn, seed)


def same(a: list[SliceResult], b: list[SliceResult]) -> bool:
    return all(
        np.array_equal(x.encoded, y.encoded) and (x.loss, x.tokens) == (y.loss, y.tokens)
        for x, y in zip(a, b, strict=True)
    )


def test_the_same_order_gives_the_same_bits(trainer: Trainer, snapshot: Snapshot) -> None:
    first = list(trainer.train(order(snapshot), snapshot, SEQUENCES))
    again = list(trainer.train(order(snapshot), snapshot, SEQUENCES))
    other = list(
        Trainer(OPTForCausalLM(CONFIG).train(), RING, 4.0).train(order(snapshot), snapshot, SEQUENCES)
    )
    assert same(first, again)
    assert same(first, other)
    assert len({result.encoded.tobytes() for result in first}) == 3


def test_a_prefix_of_the_slices_is_the_same_slices(trainer: Trainer, snapshot: Snapshot) -> None:
    whole = list(trainer.train(order(snapshot), snapshot, SEQUENCES))
    stopped = trainer.train(order(snapshot), snapshot, SEQUENCES)
    prefix = [next(stopped), next(stopped)]
    assert same(prefix, whole[:2])
    assert same(list(trainer.train(order(snapshot, slices=2), snapshot, SEQUENCES)), whole[:2])


def test_other_use_of_the_model_between_two_slices_changes_nothing(
    trainer: Trainer, snapshot: Snapshot
) -> None:
    whole = list(trainer.train(order(snapshot), snapshot, SEQUENCES))
    other = first_snapshot(trainer.layout, snapshot.params * np.float32(1.1), 1e-3)
    results = []
    for result in trainer.train(order(snapshot), snapshot, SEQUENCES):
        trainer.heldout_loss(other, SEQUENCES[:4])
        results.append(result)
    assert same(results, whole)


def test_a_slice_is_the_gradient_of_its_mean_loss(
    model: OPTForCausalLM, trainer: Trainer, snapshot: Snapshot
) -> None:
    (result,) = trainer.train(order(snapshot, slices=1), snapshot, SEQUENCES)
    tokens = torch.from_numpy(SEQUENCES[:8].astype(np.int64))
    model.zero_grad()
    logits = model(tokens).logits[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    assert result.loss == pytest.approx(loss.item(), rel=1e-5)
    assert result.tokens == 8 * 32
    decoded = decode_mean(result.encoded, 1, snapshot.scales, RING, 8.0)
    seen = 0
    for (_, tensor), offset, frozen in zip(
        model.named_parameters(), trainer.layout.offsets, trainer.layout.frozen, strict=True
    ):
        part = decoded[offset : offset + tensor.numel()]
        assert tensor.grad is not None
        wanted = tensor.grad.numpy().reshape(-1)
        if frozen:
            assert not part.any()
        elif np.abs(wanted).max() < 3e-3 and np.linalg.norm(wanted) > 1e-3:  # neither shrunk nor all noise
            assert part @ wanted > 0.9 * np.linalg.norm(part) * np.linalg.norm(wanted)
            seen += 1
    assert seen > 5


def test_microbatches_do_not_change_a_slice(
    trainer: Trainer, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = trainer.train(order(snapshot, slices=1), snapshot, SEQUENCES)
    monkeypatch.setattr(sizes, "LOGITS", 3 * 32 * 128)  # 3 sequences: the last microbatch is shorter
    (parts,) = trainer.train(order(snapshot, slices=1), snapshot, SEQUENCES)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert distance(parts.encoded, whole.encoded) < 5e-3


def test_another_thread_count_stays_within_the_tolerance_and_other_data_do_not(
    trainer: Trainer, snapshot: Snapshot
) -> None:
    ours = list(trainer.train(order(snapshot), snapshot, SEQUENCES))
    torch.set_num_threads(2)
    theirs = list(trainer.train(order(snapshot), snapshot, SEQUENCES))
    for a, b in zip(ours, theirs, strict=True):
        assert distance(a.encoded, b.encoded) < 5e-3
    changed = SEQUENCES.copy()
    changed[0, 5] = (changed[0, 5] + 1) % 128
    cheat = next(trainer.train(order(snapshot), snapshot, changed))
    assert distance(ours[0].encoded, cheat.encoded) > 2 * 5e-3


def test_the_seed_changes_the_dither_and_nothing_else(trainer: Trainer, snapshot: Snapshot) -> None:
    (a,) = trainer.train(order(snapshot, 1), snapshot, SEQUENCES)
    (b,) = trainer.train(order(snapshot, 1, seed=b"\1" * 32), snapshot, SEQUENCES)
    assert a.loss == b.loss
    assert np.abs(a.encoded.astype(int) - b.encoded.astype(int)).max() == 1


def test_a_sum_of_slices_passes_the_sanity_tests(trainer: Trainer, snapshot: Snapshot) -> None:
    total = np.zeros(trainer.layout.size, RING.dtype)
    for result in trainer.train(order(snapshot), snapshot, SEQUENCES):
        total += result.encoded
    assert not len(check_sum(total, 3, trainer.layout.counts, RING, 4.0))


def test_a_gradient_that_is_not_finite_is_refused(trainer: Trainer, snapshot: Snapshot) -> None:
    broken = first_snapshot(trainer.layout, np.full(trainer.layout.size, np.inf, np.float32), 1e-3)
    with pytest.raises(NonFinite):
        next(trainer.train(order(broken), broken, SEQUENCES))


def test_an_order_for_another_snapshot_is_not_trained(trainer: Trainer, snapshot: Snapshot) -> None:
    other = first_snapshot(trainer.layout, snapshot.params * np.float32(2), 1e-3)
    with pytest.raises(ValueError, match="order for snapshot"):
        next(trainer.train(order(snapshot), other, SEQUENCES))


def test_the_heldout_loss_is_the_mean_over_all_tokens(
    model: OPTForCausalLM, trainer: Trainer, snapshot: Snapshot
) -> None:
    tokens = torch.from_numpy(SEQUENCES[:10].astype(np.int64))
    with torch.no_grad():
        wanted = F.cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert trainer.heldout_loss(snapshot, SEQUENCES[:10]) == pytest.approx(wanted, rel=1e-5)
    assert trainer.heldout_loss(snapshot, SEQUENCES[:10]) == trainer.heldout_loss(snapshot, SEQUENCES[:10])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """L1 of the difference over the larger L1, as a check compares encodings."""
    norms = [np.abs(values.astype(np.int64)).sum() for values in (a.astype(np.int64) - b, a, b)]
    return float(norms[0] / max(norms[1:]))
