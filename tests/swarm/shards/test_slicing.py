"""Promises of slicing: every tensor once, every bit back, the whole's numbers by parts."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import OPTConfig, OPTForCausalLM

import swarm.model
from swarm.data import load_tokenizer
from swarm.manifest import Data, Model
from swarm.model import bind_gradients, build_model, layout_of, load_vector, read_vector
from swarm.shards import slicing
from swarm.shards.slicing import (
    EMBEDDINGS,
    HEAD,
    CutRefused,
    VectorRefused,
    build_shard,
    build_untied,
    cut_layers,
    cut_of,
    export_joined,
    first_vector,
    join_vectors,
    shard_layout,
    shard_sizes,
    split_vector,
)
from swarm.shards.stage import Stage, run_slice

TINY = Model(preset="tiny")
SEED = bytes(32)
SHAPE = {"hidden_size": 64, "num_attention_heads": 4, "ffn_dim": 256, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny preset's shape with four layers (the preset has two), a small vocabulary, projections."""
    folder = tmp_path_factory.mktemp("deep")
    torch.manual_seed(0)
    config = OPTConfig(vocab_size=512, num_hidden_layers=4, word_embed_proj_dim=32, **SHAPE)
    OPTForCausalLM(config).save_pretrained(folder)
    return Model(source=str(folder))


def regions(layout: swarm.model.Layout, vector: np.ndarray) -> dict[str, np.ndarray]:
    return {
        name: vector[offset : offset + int(np.prod(shape))]
        for name, shape, offset in zip(layout.names, layout.shapes, layout.offsets, strict=True)
    }


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 60), st.integers(0, 600))
def test_a_cut_covers_the_layers_once_and_no_other_cut_is_faster(
    layers: int, count: int, layer: int, head: int
) -> None:
    if count > layers:
        with pytest.raises(CutRefused, match=r"set model\.shards to at most"):
            cut_layers(layers, count, layer=layer, head=head)
        return
    ranges = cut_layers(layers, count, layer=layer, head=head)
    assert [at for each in ranges for at in each] == list(range(layers))
    assert all(ranges)

    def slowest(sizes: list[int]) -> int:
        return max([4 * layer * size for size in sizes[:-1]] + [3 * (layer * sizes[-1] + head)])

    sizes = [len(each) for each in ranges]
    for a in range(count):
        for b in range(count):
            moved = [size - (at == a) + (at == b) for at, size in enumerate(sizes)]
            assert min(moved) == 0 or slowest(moved) >= slowest(sizes)


@pytest.mark.parametrize("index", [-1, 2, 7])
def test_a_shard_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(CutRefused, match="the model has the shards 0 to 1"):
        build_shard(TINY, index, 2)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_counts_that_are_no_cut_are_refused(count: int) -> None:
    with pytest.raises(CutRefused, match="shards"):
        shard_layout(TINY, 0, count)


def test_a_plan_says_which_layers_each_shard_has() -> None:
    table = Model(preset="opt-125m", shards=3, layers=(2, 9, 1))
    cuts = [cut_of(table, index, 3).layers for index in range(3)]
    assert cuts == [range(0, 2), range(2, 11), range(11, 12)]
    layers = {name.split(".")[3] for name in shard_layout(table, 1, 3).names}
    assert layers == {str(at) for at in range(2, 11)}
    assert len({size.parameters for size in shard_sizes(table, 3)}) == 3


@pytest.mark.parametrize("layers", [(2, 9), (2, 9, 2), (3, 9, 0)])
def test_a_plan_for_another_model_or_number_of_shards_is_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(CutRefused, match="no cut of 12 layers into 3 shards"):
        cut_of(Model(preset="opt-125m").model_copy(update={"layers": layers}), 0, 3)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_shards_have_every_tensor_of_the_untied_model_once(deep: Model, count: int) -> None:
    whole = layout_of(build_untied(deep))
    shapes = dict(zip(whole.names, whole.shapes, strict=True))
    layouts = [shard_layout(deep, index, count) for index in range(count)]
    assert Counter(name for layout in layouts for name in layout.names) == Counter(whole.names)
    for layout in layouts:
        assert all(shapes[name] == shape for name, shape in zip(layout.names, layout.shapes, strict=True))
        frozen = [name for name, still in zip(layout.names, layout.frozen, strict=True) if still]
        assert frozen == [name for name in layout.names if name.endswith("k_proj.bias")]
    assert {EMBEDDINGS, "model.decoder.embed_positions.weight"} <= set(layouts[0].names)
    assert {HEAD, "model.decoder.final_layer_norm.weight"} <= set(layouts[-1].names)


def test_a_layout_is_the_same_without_weights(deep: Model) -> None:
    assert all(layout_of(build_shard(deep, index, 2)) == shard_layout(deep, index, 2) for index in range(2))


@pytest.mark.parametrize("count", [2, 4])
def test_a_checkpoint_comes_back_from_its_shards_with_every_bit(deep: Model, count: int) -> None:
    model = build_model(deep)
    vector = read_vector(model, layout_of(model))
    joined = join_vectors(deep, split_vector(deep, vector, count))
    before, after = regions(layout_of(model), vector), regions(layout_of(build_untied(deep)), joined)
    assert set(after) == {*before, HEAD}
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert np.array_equal(after[HEAD], before[EMBEDDINGS])


def test_shards_that_are_joined_and_split_again_keep_every_bit(tmp_path: Path) -> None:
    """Also once head and embeddings have parted; the export says that they are two."""
    parts = [first_vector(TINY, index, 2, SEED) for index in range(2)]
    layout = shard_layout(TINY, 1, 2)
    regions(layout, parts[1])[HEAD][7] += 1.0
    export_joined(TINY, load_tokenizer(Data(), TINY), parts, tmp_path)
    exported = Model(source=str(tmp_path))
    loaded = OPTForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.tie_word_embeddings is False
    whole = read_vector(loaded, layout_of(loaded))
    assert np.array_equal(whole, join_vectors(TINY, parts))
    for again in (split_vector(exported, whole, 2), [first_vector(exported, at, 2, SEED) for at in range(2)]):
        assert all(np.array_equal(a, b) for a, b in zip(again, parts, strict=True))


def test_a_shard_of_a_checkpoint_has_its_weights(deep: Model) -> None:
    model = build_model(deep)
    wanted = split_vector(deep, read_vector(model, layout_of(model)), 2)
    assert all(np.array_equal(first_vector(deep, index, 2, SEED), wanted[index]) for index in range(2))


def test_a_shard_is_built_and_filled_without_the_whole_model(
    deep: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the whole model was built")

    monkeypatch.setattr(slicing.OPTForCausalLM, "__init__", never)
    for table in (TINY, deep):
        for index in range(2):
            shard = build_shard(table, index, 2)
            vector = first_vector(table, index, 2, SEED)
            load_vector(shard, layout_of(shard), vector)
            assert (
                sum(tensor.numel() for tensor in shard.parameters())
                == shard_sizes(table, 2)[index].parameters
            )


def test_first_weights_are_those_of_an_opt_and_the_head_equals_the_embeddings() -> None:
    first, last = (
        regions(shard_layout(TINY, index, 2), first_vector(TINY, index, 2, SEED)) for index in range(2)
    )
    assert np.array_equal(first[EMBEDDINGS], last[HEAD])
    model = build_model(TINY)
    theirs = regions(layout_of(model), read_vector(model, layout_of(model)))
    for name, values in theirs.items():
        ours = first[name] if name in first else last[name]
        assert ours.mean() == pytest.approx(values.mean(), abs=2e-3)
        assert ours.std() == pytest.approx(values.std(), abs=2e-3)
    assert not np.array_equal(first_vector(TINY, 0, 2, b"\1" * 32), first_vector(TINY, 0, 2, SEED))


@pytest.mark.parametrize("wrong", [np.zeros(5, np.float32), np.zeros(1 << 20, np.float64)])
def test_a_vector_of_another_shape_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(VectorRefused, match="another model, or to another cut"):
        split_vector(TINY, wrong, 2)
    with pytest.raises(VectorRefused, match="shard 0 of 2"):
        join_vectors(TINY, [wrong, wrong])
    with pytest.raises(VectorRefused, match="for shard 1"):
        Stage(build_shard(TINY, 1, 2)).load(wrong)


def test_a_checkpoint_of_another_shape_is_refused(deep: Model, tmp_path: Path) -> None:
    OPTForCausalLM.from_pretrained(str(deep.source)).save_pretrained(tmp_path)
    config = OPTConfig.from_pretrained(tmp_path)
    config.ffn_dim = 128
    config.save_pretrained(tmp_path)
    with pytest.raises(VectorRefused, match="another shape"):
        first_vector(Model(source=str(tmp_path)), 0, 2, SEED)


def test_a_checkpoint_without_a_tensor_is_refused(deep: Model, tmp_path: Path) -> None:
    OPTForCausalLM.from_pretrained(str(deep.source)).save_pretrained(tmp_path)
    config = OPTConfig.from_pretrained(tmp_path)
    config.num_hidden_layers = 5
    config.save_pretrained(tmp_path)
    with pytest.raises(swarm.model.ModelRefused, match=r"layers\.4"):
        first_vector(Model(source=str(tmp_path)), 1, 2, SEED)


@pytest.mark.parametrize(("name", "count"), [("tiny", 2), ("deep", 2), ("deep", 4)])
def test_the_chain_computes_what_the_whole_model_computes(deep: Model, name: str, count: int) -> None:
    """Loss and every tensor's gradient within 1e-6 (relative L2), in float32."""
    table = TINY if name == "tiny" else deep
    parts = [first_vector(table, index, count, SEED) for index in range(count)]
    sequences = np.random.default_rng(0).integers(4, 500, (5, 33)).astype(np.int32)
    stages = []
    for index, part in enumerate(parts):
        stages.append(Stage(build_shard(table, index, count)))
        stages[-1].load(part)
    gradients, loss = run_slice(stages, sequences)
    model = build_untied(table)
    layout = layout_of(model)
    load_vector(model, layout, join_vectors(table, parts))
    flat = bind_gradients(model, layout)
    tokens = torch.from_numpy(sequences.astype(np.int64))
    logits = model(tokens[:, :-1], use_cache=False).logits
    wanted = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    wanted.backward()
    assert loss / (5 * 32) == pytest.approx(wanted.item(), rel=1e-6)
    theirs = regions(layout, flat.numpy())
    ours = regions(layout, join_vectors(table, gradients))
    for name in layout.names:
        assert np.linalg.norm(ours[name] - theirs[name]) <= 1e-6 * np.linalg.norm(theirs[name]), name
    x: np.ndarray = sequences[:, :-1].copy()
    for stage in stages[:-1]:
        hidden = stage.evaluate(x)
        assert isinstance(hidden, np.ndarray)
        x = hidden
    assert stages[-1].evaluate(x, sequences[:, 1:].copy()) == pytest.approx(loss, rel=1e-6)
