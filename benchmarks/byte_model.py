"""A byte-level OPT of some 30,000 parameters, and text for it: whole swarms of it train in one process.

The text is this repository's documentation. Sequences are cut from it as bytes; every 16th is held out.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import OPTConfig, OPTForCausalLM

from swarm.layout import Layout
from swarm.manifest import Manifest, parse_manifest
from swarm.model import NO_CHANCE, layout_of, read_vector
from swarm.snapshot import Snapshot, first_snapshot
from swarm.work import Trainer

VOCABULARY = 256
LENGTH = 65
CHUNK = 1_024
"""Elements in a chunk, so that a vector of 50,000 elements has many."""
DOCS = Path(__file__).resolve().parent.parent / "docs"
INITIAL_SCALE = 3e-3
STD = 0.2
"""Of the first weights: the usual 0.02 is for wider models."""


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 96}
WIDE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "ffn_dim": 512}
"""850,000 parameters: 13 chunks of a run."""


def byte_model(attention: str = "sdpa", wide: bool = False) -> OPTForCausalLM:
    """The model, float32, with weights from a fixed seed; the same bits on one machine only."""
    torch.manual_seed(0)
    shape = WIDE if wide else SMALL
    return OPTForCausalLM(
        OPTConfig(
            **shape,
            word_embed_proj_dim=shape["hidden_size"],
            vocab_size=VOCABULARY,
            max_position_embeddings=LENGTH - 1,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
            init_std=0.02 if wide else STD,
            attn_implementation=attention,
            **NO_CHANCE,
        )
    ).train()


@cache
def text() -> tuple[np.ndarray, np.ndarray]:
    """Sequences to train on and held out, int32 [count, LENGTH]."""
    raw = b"\n".join(path.read_bytes() for path in sorted(DOCS.glob("*.md")))
    ids = np.frombuffer(raw, np.uint8).astype(np.int32)
    rows = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)
    held = np.arange(len(rows)) % 16 == 0
    return rows[~held], rows[held]


def byte_manifest(rounds: int, rate: float = 0.5, mode: str = "shared", sequences: int = 4) -> Manifest:
    """A run of that model in virtual time; its length is LENGTH tokens."""
    raw = f"""[run]
rounds = {rounds}
[data]
mode = "{mode}"
sequence_length = {LENGTH}
[work]
window_seconds = 5.0
sequences_per_slice = {sequences}
[outer]
learning_rate = 1e-2
warmup_rounds = 4
[aggregation]
initial_scale = {INITIAL_SCALE}
[verification]
rate = {rate}
opening_budget = {max(10, rounds)}
[membership]
round_timeout_seconds = 12.0
"""
    return parse_manifest(raw.encode())


def trainer_of(model: OPTForCausalLM, manifest: Manifest) -> Trainer:
    """What trains orders on the model."""
    return Trainer(model, manifest.ring, manifest.aggregation.sanity_rms)


def start_of(model: OPTForCausalLM, manifest: Manifest) -> tuple[Layout, Snapshot]:
    """The layout, and the snapshot that a run begins with."""
    layout = layout_of(model)
    return layout, first_snapshot(layout, read_vector(model, layout), manifest.aggregation.initial_scale)
