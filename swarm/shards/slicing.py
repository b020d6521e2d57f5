"""The model in shards: where OPT is cut, one shard's module and vector, and the whole put together again.

The promise: the shards of a model hold each of its tensors once, under the name it has in a checkpoint, so
that vectors go from a whole checkpoint to shards and back with every bit. A shard is built from the
configuration alone, and its first weights from its own tensors of a checkpoint: no peer needs memory for a
model of which it holds a part (but for checkpoints that are not in safetensors).

Shard 0 has the embeddings (tokens, positions, `project_in`), the last one the final norm, `project_out` and
the head. In a run of several shards the head is a parameter of its own, which starts equal to the
embeddings: docs/shards.md says why, and what it costs. One shard is the whole model: see `swarm.model`.

>>> cut_layers(4, 2, layer=1, head=0)
(range(0, 2), range(2, 4))
>>> cut_layers(12, 2, layer=7, head=38)
(range(0, 7), range(7, 12))
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import OPTConfig, OPTForCausalLM
from transformers.masking_utils import create_causal_mask
from transformers.models.opt.modeling_opt import OPTDecoderLayer, OPTLearnedPositionalEmbedding
from transformers.utils.hub import cached_file

from proto.canonical import tagged_hash
from proto.errors import SwarmError
from swarm.data import Tokenizer
from swarm.layout import Layout
from swarm.manifest import Model
from swarm.model import NO_CHANCE, build_model, config_of, layout_of, load_vector, save, source_refused
from swarm.sizes import PASSES, PASSES_LAST

EMBEDDINGS, HEAD = "model.decoder.embed_tokens.weight", "lm_head.weight"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"


class CutRefused(SwarmError):
    """The model cannot be cut like this, or has no such shard."""


class VectorRefused(SwarmError):
    """A vector that is not of the model or shard it is given for."""


@dataclass(frozen=True)
class Cut:
    """One shard of a cut model: which of how many, and its decoder layers."""

    index: int
    count: int
    layers: range

    @property
    def first(self) -> bool:
        return self.index == 0

    @property
    def last(self) -> bool:
        return self.index == self.count - 1


@dataclass(frozen=True)
class Size:
    """What a shard asks of its peer: parameters, and multiply-adds a token (but attention's own)."""

    parameters: int
    work: int


def cut_layers(layers: int, count: int, *, layer: int, head: int) -> tuple[range, ...]:
    """The decoder layers of each shard: contiguous, none empty, the slowest shard as fast as can be.

    `layer` and `head`: multiply-adds of each for a token. All shards but the last compute forward passes
    twice. Of cuts that are as fast, the one whose last shard has most layers. Raises CutRefused.
    """
    if count < 2:
        raise CutRefused(f"{count} shards are no cut; a whole model is trained without swarm.shards")
    if count > layers:
        raise CutRefused(
            f"{count} shards of a model with {layers} layers; set model.shards to at most {layers}"
        )

    def slowest(last: int) -> int:
        longest = -(-(layers - last) // (count - 1))
        return max(PASSES * longest * layer, PASSES_LAST * (last * layer + head))

    last = min(range(layers - count + 1, 0, -1), key=slowest)
    before, rest = layers - last, count - 1
    edges = [before * index // rest for index in range(count)]
    return (*(range(a, b) for a, b in pairwise(edges)), range(before, layers))


def cut_of(table: Model, index: int, count: int) -> Cut:
    """Shard `index` of `count`: as `table.layers` says, else as `cut_layers` does. Raises CutRefused."""
    return _cut(table.layers, config_of(table), index, count)


def _cut(given: Sequence[int], config: OPTConfig, index: int, count: int) -> Cut:
    width, inner = config.hidden_size, config.word_embed_proj_dim
    layer = 4 * width * width + 2 * width * config.ffn_dim
    head = inner * config.vocab_size + (inner * width if inner != width else 0)
    ranges = cut_layers(config.num_hidden_layers, count, layer=layer, head=head)
    if given:
        ranges = _given(given, config.num_hidden_layers, count)
    if not 0 <= index < count:
        raise CutRefused(f"shard {index}: the model has the shards 0 to {count - 1}")
    return Cut(index, count, ranges[index])


def _given(given: Sequence[int], layers: int, count: int) -> tuple[range, ...]:
    if len(given) != count or sum(given) != layers or min(given) < 1:
        raise CutRefused(
            f"model.layers = {list(given)}: no cut of {layers} layers into {count} shards; name the decoder "
            "layers of each shard, or leave it out"
        )
    edges = [sum(given[:index]) for index in range(count + 1)]
    return tuple(range(a, b) for a, b in pairwise(edges))


def shard_sizes(table: Model, count: int) -> tuple[Size, ...]:
    """The size of each shard, for placement. Raises ModelRefused, CutRefused."""
    found = []
    for index in range(count):
        layout, cut = shard_layout(table, index, count), cut_of(table, index, count)
        sizes = {name: math.prod(shape) for name, shape in zip(layout.names, layout.shapes, strict=True)}
        matrices = sum(size for name, size in sizes.items() if ".embed_" not in name)
        found.append(Size(sum(sizes.values()), matrices * (PASSES_LAST if cut.last else PASSES)))
    return tuple(found)


class Shard(nn.Module):
    """One shard's part of OPT; its parameters have the names they have in the whole model.

    `forward`: token ids [rows, length] (shard 0) or hidden states float32 [rows, length, hidden_size] to
    hidden states, or in the last shard to logits [rows, length, vocabulary].
    """

    def __init__(self, config: OPTConfig, cut: Cut) -> None:
        super().__init__()
        self.config, self.cut = config, cut
        width, inner = config.hidden_size, config.word_embed_proj_dim
        decoder = nn.ModuleDict()
        if cut.first:
            decoder["embed_tokens"] = nn.Embedding(config.vocab_size, inner, config.pad_token_id)
            decoder["embed_positions"] = OPTLearnedPositionalEmbedding(config.max_position_embeddings, width)
            if inner != width:
                decoder["project_in"] = nn.Linear(inner, width, bias=False)
        if cut.last:
            if inner != width:
                decoder["project_out"] = nn.Linear(width, inner, bias=False)
            if config.do_layer_norm_before and not config._remove_final_layer_norm:
                affine = config.layer_norm_elementwise_affine
                decoder["final_layer_norm"] = nn.LayerNorm(width, elementwise_affine=affine)
        decoder["layers"] = nn.ModuleDict({str(at): OPTDecoderLayer(config, at) for at in cut.layers})
        self.model = nn.ModuleDict({"decoder": decoder})
        if cut.last:
            self.lm_head = nn.Linear(inner, config.vocab_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        decoder = self._decoder
        if self.cut.first:
            x = self._embed(x)
        mask = create_causal_mask(self.config, x, attention_mask=None, past_key_values=None)
        for layer in decoder["layers"].children():
            x = layer(x, attention_mask=mask)
        if not self.cut.last:
            return x
        for name in ("final_layer_norm", "project_out"):
            x = decoder[name](x) if name in decoder else x
        logits: torch.Tensor = self.lm_head(x)
        return logits

    @property
    def _decoder(self) -> nn.ModuleDict:
        return cast(nn.ModuleDict, self.model["decoder"])

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        decoder = self._decoder
        embedded: torch.Tensor = decoder["embed_tokens"](tokens)
        if "project_in" in decoder:
            embedded = decoder["project_in"](embedded)
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        positions: torch.Tensor = decoder["embed_positions"](None, position_ids=places)
        return embedded + positions


def build_shard(table: Model, index: int, count: int) -> Shard:
    """A shard's module for training, all its weights zero: load a vector. Raises ModelRefused, CutRefused."""
    shard = _on_meta(table, index, count).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in shard.parameters():
            tensor.zero_()
    return shard.train()


def shard_layout(table: Model, index: int, count: int) -> Layout:
    """The layout of a shard's vector, without any weights. Raises ModelRefused, CutRefused."""
    return layout_of(_on_meta(table, index, count))


def first_vector(table: Model, index: int, count: int, seed: bytes) -> np.ndarray:
    """A shard's weights before the first round, float32 [size], from its own tensors alone.

    A source gives its own weights. A preset is random, as transformers initialises OPT; each tensor comes
    from a generator of its own, so the head and the embeddings of two peers' shards are equal. Machines
    may draw other bits from one seed: the founder's snapshots are what counts.
    Raises ModelRefused, VectorRefused, CutRefused.
    """
    layout, config = shard_layout(table, index, count), untied(table)
    vector = np.zeros(layout.size, np.float32)
    regions = _regions(layout, vector)
    if table.source is None:
        for name, region in regions.items():
            _draw(region, EMBEDDINGS if name == HEAD else name, config, seed)
        return vector
    with _opened_source(table) as stored:
        for name, region in regions.items():
            found = stored.read(name)
            if found.shape != region.shape:
                raise VectorRefused(
                    f"{table.source}: {name} is {list(found.shape)}, its configuration says "
                    f"{list(region.shape)}; the checkpoint is of another shape"
                )
            region[...] = found
    return vector


def split_vector(table: Model, vector: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """The shards' vectors of a whole model's, float32 [size of `swarm.model.build_layout`].

    A tied head becomes a copy of the embeddings. Raises VectorRefused, ModelRefused, CutRefused.
    """
    with torch.device("meta"):
        whole = layout_of(OPTForCausalLM(config_of(table)))
    found = _regions(whole, _checked(vector, whole, "the whole model"))
    found.setdefault(HEAD, found[EMBEDDINGS])
    parts = []
    for index in range(count):
        layout = shard_layout(table, index, count)
        part = np.zeros(layout.size, np.float32)
        for name, region in _regions(layout, part).items():
            region[...] = found[name]
        parts.append(part)
    return tuple(parts)


def join_vectors(table: Model, vectors: Sequence[np.ndarray]) -> np.ndarray:
    """The whole untied model's vector, float32, of the vectors of all shards in order.

    Its layout is `layout_of(build_untied(table))`. Raises VectorRefused, ModelRefused, CutRefused.
    """
    with torch.device("meta"):
        whole = layout_of(OPTForCausalLM(untied(table)))
    joined = np.zeros(whole.size, np.float32)
    regions = _regions(whole, joined)
    for index, vector in enumerate(vectors):
        layout = shard_layout(table, index, len(vectors))
        _checked(vector, layout, f"shard {index} of {len(vectors)}")
        for name, region in _regions(layout, vector).items():
            regions[name][...] = region
    return joined


def build_untied(table: Model) -> OPTForCausalLM:
    """The whole model with a head of its own, for export and comparison; its weights are arbitrary."""
    return OPTForCausalLM(untied(table)).train()


def export_joined(table: Model, tokenizer: Tokenizer, vectors: Sequence[np.ndarray], directory: Path) -> None:
    """Write the shards as one model where `OPTForCausalLM.from_pretrained` and `AutoTokenizer` load it."""
    joined = join_vectors(table, vectors)
    model = build_untied(table)
    load_vector(model, layout_of(model), joined)
    save(model, tokenizer, directory)


def untied(table: Model) -> OPTConfig:
    """The configuration of a run in several shards: a head of its own, nothing left to chance."""
    config = config_of(table)
    config.update({"tie_word_embeddings": False, **NO_CHANCE})
    config._attn_implementation = "sdpa"
    return config


def _on_meta(table: Model, index: int, count: int) -> Shard:
    config = untied(table)
    cut = _cut(table.layers, config, index, count)
    with torch.device("meta"):
        return Shard(config, cut)


def _regions(layout: Layout, vector: np.ndarray) -> dict[str, np.ndarray]:
    """Views of a vector's tensors by name."""
    return {
        name: vector[offset : offset + math.prod(shape)].reshape(shape)
        for name, shape, offset in zip(layout.names, layout.shapes, layout.offsets, strict=True)
    }


def _checked(vector: np.ndarray, layout: Layout, of: str) -> np.ndarray:
    if vector.shape != (layout.size,) or vector.dtype != np.float32:
        raise VectorRefused(
            f"a vector {vector.dtype} {list(vector.shape)} for {of}, which has float32 [{layout.size}]; "
            "it belongs to another model, or to another cut"
        )
    return vector


def _draw(region: np.ndarray, name: str, config: OPTConfig, seed: bytes) -> None:
    # As OPTPreTrainedModel initialises: normal matrices, zero biases and padding, norms of one.
    if name.endswith("bias"):
        return
    if "layer_norm" in name:
        region[...] = 1.0
        return
    words = hashlib.shake_128(tagged_hash("first-weights", seed, name.encode())).digest(16)
    generator = np.random.Generator(np.random.Philox(int.from_bytes(words, "little")))
    generator.standard_normal(dtype=np.float32, out=region)
    region *= np.float32(config.init_std)
    if name == EMBEDDINGS and config.pad_token_id is not None:
        region[config.pad_token_id] = 0.0


class _Stored:
    """Tensors of a checkpoint in safetensors, by their name in the model, read one at a time."""

    def __init__(self, files: dict[str, Path], tied: bool) -> None:
        self._files, self._tied = files, tied

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32. Raises KeyError where the checkpoint has none of this name."""
        if name == HEAD and (self._tied or HEAD not in self._files):
            name = EMBEDDINGS
        # Checkpoints of the bare decoder (Meta's own) leave the first word out.
        found = name if name in self._files else name.removeprefix("model.")
        with safe_open(self._files[found], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(found)
        return tensor.to(torch.float32).numpy()


class _Loaded:
    """The same of a checkpoint that only `from_pretrained` reads, in memory as a whole."""

    def __init__(self, model: OPTForCausalLM) -> None:
        self._named: dict[str, np.ndarray] = {
            name: tensor.detach().numpy() for name, tensor in model.named_parameters()
        }

    def read(self, name: str) -> np.ndarray:
        return self._named[EMBEDDINGS if name == HEAD and HEAD not in self._named else name]


@contextmanager
def _opened_source(table: Model) -> Iterator[_Stored | _Loaded]:
    try:
        files = _stored_files(str(table.source))
        if files:
            yield _Stored(files, bool(config_of(table).tie_word_embeddings))
        else:
            yield _Loaded(build_model(table))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise source_refused(table, error) from None


def _stored_files(source: str) -> dict[str, Path]:
    """The safetensors file of each tensor; empty where the checkpoint is in another form."""
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    index = cached_file(source, WEIGHTS_INDEX, **quiet)
    if index is not None:
        places = json.loads(Path(index).read_text())["weight_map"]
        return {name: Path(cached_file(source, file)) for name, file in places.items()}
    single = cached_file(source, WEIGHTS, **quiet)
    if single is None:
        return {}
    with safe_open(single, framework="pt") as file:
        return {name: Path(single) for name in file.keys()}  # noqa: SIM118 (no mapping)
