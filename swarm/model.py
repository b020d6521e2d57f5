"""OPT, and the vector that a run agrees on.

The promise: a model and its vector hold the same numbers, one region for each trained tensor in the
order of `named_parameters()` (a tied head occurs once), each padded with zeros to a multiple of
`BLOCK`, so that the vector reshapes to [blocks, BLOCK]. `k_proj.bias` is frozen: softmax does not see
it, its true gradient is zero, and Adam would turn the noise into steps of full size.

There is no dropout and no layer drop: training is a function of weights and tokens alone. Attention
is "sdpa": with one thread count it repeats bit for bit, is as fast as "eager" or faster, and its
memory does not grow with the square of the sequence length.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import OPTConfig, OPTForCausalLM

from proto.errors import SwarmError
from secagg.ring import BLOCK
from swarm.data import GPT2_EOS, Tokenizer
from swarm.layout import Layout
from swarm.manifest import Model
from swarm.sizes import PRESETS, VOCABULARY

FROZEN = "k_proj.bias"
NO_CHANCE: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0}


class ModelRefused(SwarmError):
    """The manifest's model cannot be built here."""


def build_model(table: Model) -> OPTForCausalLM:
    """The manifest's model in float32, for training; a preset is random. Raises ModelRefused."""
    if table.source is None:
        return OPTForCausalLM(_preset(table)).train()
    try:
        model = OPTForCausalLM.from_pretrained(
            table.source, dtype=torch.float32, attn_implementation="sdpa", **NO_CHANCE
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise source_refused(table, error) from None
    return model.train()


def layout_of(model: torch.nn.Module) -> Layout:
    """The layout of a model's parameters; `build_layout` needs no weights."""
    named = list(model.named_parameters())
    sizes = [-(-tensor.numel() // BLOCK) * BLOCK for _, tensor in named]
    return Layout(
        names=tuple(name for name, _ in named),
        shapes=tuple(tuple(tensor.shape) for _, tensor in named),
        offsets=tuple(sum(sizes[:index]) for index in range(len(sizes))),
        frozen=tuple(name.endswith(FROZEN) for name, _ in named),
        size=sum(sizes),
    )


def build_layout(table: Model) -> Layout:
    """The layout of the manifest's model, without making its weights. Raises ModelRefused."""
    config = config_of(table)
    with torch.device("meta"):
        return layout_of(OPTForCausalLM(config))


def config_of(table: Model) -> OPTConfig:
    """The configuration of the manifest's model; that of a source as it was saved. Raises ModelRefused."""
    if table.source is None:
        return _preset(table)
    try:
        return OPTConfig.from_pretrained(table.source)
    except (OSError, ValueError) as error:
        raise source_refused(table, error) from None


def load_vector(model: torch.nn.Module, layout: Layout, vector: np.ndarray) -> None:
    """Copy a vector, float32 [size], into the model's parameters."""
    flat = torch.from_numpy(vector)
    with torch.no_grad():
        for (_, tensor), offset in zip(model.named_parameters(), layout.offsets, strict=True):
            tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))


def read_vector(model: torch.nn.Module, layout: Layout) -> np.ndarray:
    """The model's parameters as a vector, float32 [size]."""
    vector = np.zeros(layout.size, np.float32)
    for (_, tensor), offset in zip(model.named_parameters(), layout.offsets, strict=True):
        vector[offset : offset + tensor.numel()] = tensor.detach().cpu().numpy().reshape(-1)
    return vector


def bind_gradients(model: torch.nn.Module, layout: Layout) -> torch.Tensor:
    """One flat tensor [size] that the parameters' gradients are views of; frozen ones have none."""
    device = next(model.parameters()).device
    flat = torch.zeros(layout.size, dtype=torch.float32, device=device)
    for (_, tensor), offset, frozen in zip(
        model.named_parameters(), layout.offsets, layout.frozen, strict=True
    ):
        tensor.requires_grad_(not frozen)
        tensor.grad = None if frozen else flat[offset : offset + tensor.numel()].view_as(tensor)
    return flat


def export(table: Model, tokenizer: Tokenizer, vector: np.ndarray, directory: Path) -> None:
    """Write model and tokenizer where `OPTForCausalLM.from_pretrained` and `AutoTokenizer` load them."""
    model = build_model(table)
    load_vector(model, layout_of(model), vector)
    save(model, tokenizer, directory)


def save(model: OPTForCausalLM, tokenizer: Tokenizer, directory: Path) -> None:
    """Write a model and its tokenizer into a folder, as `transformers` has it."""
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(directory)
    end = tokenizer.backend.id_to_token(tokenizer.eos)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, bos_token=end, eos_token=end, unk_token=end
    ).save_pretrained(directory)


def _preset(table: Model) -> OPTConfig:
    shape = PRESETS[str(table.preset)]
    return OPTConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        ffn_dim=shape.inner,
        word_embed_proj_dim=shape.width,
        vocab_size=VOCABULARY,
        max_position_embeddings=shape.positions,
        bos_token_id=GPT2_EOS,
        eos_token_id=GPT2_EOS,
        pad_token_id=GPT2_EOS + 1,
        attn_implementation="sdpa",
        **NO_CHANCE,
    )


def source_refused(table: Model, error: Exception) -> ModelRefused:
    """What to raise where `model.source` cannot be read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelRefused(
        f"model.source = {table.source!r} is no OPT model that loads here ({reason}); "
        "give a folder that `save_pretrained` wrote, or a preset"
    )


def summed_loss(logits: torch.Tensor, wanted: torch.Tensor, signs: np.ndarray | None = None) -> torch.Tensor:
    """Nats of all tokens together. `logits`: [rows, length, vocabulary]; `wanted`: token ids [rows, length].

    `signs`, float32 [rows]: how each row counts instead.
    """
    flat, targets = logits.flatten(0, 1), wanted.flatten()
    if signs is None:
        return F.cross_entropy(flat, targets, reduction="sum")
    each = F.cross_entropy(flat, targets, reduction="none").view_as(wanted).sum(1)
    return (each * torch.from_numpy(signs).to(logits.device)).sum()
