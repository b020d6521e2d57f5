"""OPT's presets in numbers, and what training them asks of a machine; knows no torch.

Commands that only calculate (`swarm-plan`) take them from here, and so does what builds the models.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A preset: decoder layers, hidden size, attention heads, a layer's inner size, positions."""

    layers: int
    width: int
    heads: int
    inner: int
    positions: int


PRESETS = {
    "tiny": Shape(2, 64, 4, 256, 512),
    "opt-125m": Shape(12, 768, 12, 3072, 2048),
    "opt-1.3b": Shape(24, 2048, 32, 8192, 2048),
}
VOCABULARY = 50_272
"""OPT's own: the 50,257 tokens of GPT-2, a pad, and room to a multiple of 16."""
PASSES = 4
"""Of a shard: forward, forward again (recomputation), and backward, which takes two."""
PASSES_LAST = 3
"""The last shard goes backward at once, and computes nothing twice; nor does a whole model."""
LOGITS = 8 << 20
"""Elements of logits at a time: 32 MiB, above which malloc maps and faults fresh pages on each use. A
microbatch has as many sequences as give no more, and at least one."""
PROCESS_BYTES = 450 << 20
"""Python, torch, gRPC and the two child processes, before a model; measured."""


def bytes_a_parameter(ring_bytes: int) -> int:
    """Of a peer's memory: 4 in the model, 4 in the gradient, 12 in each of two snapshots, and the ring's
    bytes in the update and in the sum."""
    return 4 + 4 + 24 + 2 * ring_bytes


def rows_at_once(length: int, vocabulary: int) -> int:
    """Sequences of one microbatch, of `length` predicted tokens each: one at least."""
    return max(1, LOGITS // (length * vocabulary))
