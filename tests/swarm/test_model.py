"""Promises of the model: one region for each tensor, nothing left to chance, exports that others load."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, OPTConfig, OPTForCausalLM

from secagg.ring import BLOCK
from swarm.data import load_tokenizer
from swarm.manifest import Data, Model
from swarm.model import (
    ModelRefused,
    bind_gradients,
    build_layout,
    build_model,
    export,
    layout_of,
    load_vector,
    read_vector,
)

TINY = Model(preset="tiny")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A folder with a really small OPT, made with the library's own dropout."""
    folder = tmp_path_factory.mktemp("opt")
    config = OPTConfig(
        vocab_size=128,
        hidden_size=32,
        word_embed_proj_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=48,
        max_position_embeddings=32,
        dropout=0.1,
    )
    OPTForCausalLM(config).save_pretrained(folder)
    return Model(source=str(folder))


def test_every_tensor_has_whole_blocks_of_its_own(source: Model) -> None:
    layout = layout_of(build_model(source))
    assert layout.offsets[0] == 0
    ends = [*layout.offsets[1:], layout.size]
    for shape, start, end in zip(layout.shapes, layout.offsets, ends, strict=True):
        assert start % BLOCK == end % BLOCK == 0
        assert 0 <= end - start - np.prod(shape) < BLOCK
    trained = sum(
        int(np.prod(shape)) for shape, frozen in zip(layout.shapes, layout.frozen, strict=True) if not frozen
    )
    assert layout.counts.sum() == trained
    assert len(layout.counts) == layout.blocks == layout.size // BLOCK


def test_a_tied_head_occurs_once_and_key_biases_are_frozen(source: Model) -> None:
    layout = build_layout(source)
    assert "lm_head.weight" not in layout.names
    frozen = [name for name, still in zip(layout.names, layout.frozen, strict=True) if still]
    assert frozen == [f"model.decoder.layers.{index}.self_attn.k_proj.bias" for index in range(2)]


def test_the_layout_is_the_same_without_weights(source: Model) -> None:
    assert build_layout(source) == layout_of(build_model(source))
    assert build_layout(source).digest != build_layout(TINY).digest


@pytest.mark.parametrize(("preset", "millions"), [("tiny", 3.35), ("opt-125m", 125.2), ("opt-1.3b", 1315.8)])
def test_presets_have_the_size_of_their_name(preset: str, millions: float) -> None:
    layout = build_layout(Model(preset=preset))
    assert sum(int(np.prod(shape)) for shape in layout.shapes) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_a_vector_comes_back_with_every_bit_and_its_padding_is_zero(source: Model) -> None:
    model, other = build_model(source), OPTForCausalLM(build_model(source).config)
    layout = layout_of(model)
    vector = read_vector(model, layout)
    load_vector(other, layout, vector)
    assert np.array_equal(read_vector(other, layout), vector)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    written = np.zeros(layout.size, bool)
    for shape, offset in zip(layout.shapes, layout.offsets, strict=True):
        written[offset : offset + int(np.prod(shape))] = True
    assert not vector[~written].any()


def test_nothing_is_left_to_chance_in_training(source: Model) -> None:
    model = build_model(source)
    assert model.training
    tokens = torch.arange(20).view(1, 20)
    assert torch.equal(model(tokens).logits, model(tokens).logits)
    assert not any(module.p for module in build_model(TINY).modules() if isinstance(module, torch.nn.Dropout))
    assert (model.config.dropout, model.config.attention_dropout, model.config.layerdrop) == (0, 0, 0)


def test_gradients_are_gathered_where_the_layout_says(source: Model) -> None:
    model, plain = build_model(source), build_model(source)
    layout, tokens = layout_of(model), torch.arange(20).view(2, 10)
    flat = bind_gradients(model, layout)
    for each in (model, plain):
        for _ in range(2):  # gradients of two calls add up
            each(tokens).logits.square().sum().backward()
    gathered = flat.numpy()
    for (_, tensor), offset, frozen in zip(
        plain.named_parameters(), layout.offsets, layout.frozen, strict=True
    ):
        assert tensor.grad is not None
        wanted = np.zeros(tensor.numel()) if frozen else tensor.grad.numpy().reshape(-1)
        assert np.array_equal(gathered[offset : offset + tensor.numel()], wanted)


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_source_that_is_no_model_is_refused_with_its_name(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    table = Model(source=str(tmp_path))
    with pytest.raises(ModelRefused, match=r"model\.source = .*give a folder"):
        build_model(table)


def test_an_export_loads_with_transformers_and_gives_the_same_logits(tmp_path: Path) -> None:
    model = build_model(TINY)
    vector = read_vector(model, layout_of(model))
    export(TINY, load_tokenizer(Data(), TINY), vector, tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded, tokenizer = OPTForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    text = "The capital of France is Paris, isn't it?"
    tokens = torch.tensor([tokenizer.encode(text)])
    assert tokenizer.decode(tokens[0]) == text
    assert tokens[0].tolist() == load_tokenizer(Data(), TINY).encode(text)
    assert tokenizer.eos_token_id == loaded.config.eos_token_id == 50256
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
