"""OPT's presets in numbers, and what training them asks of a machine; knows no torch.

Commands that only calculate (`swarm-plan`) take them from here, and so does what builds the models.
"""

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 256},
    "opt-125m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "ffn_dim": 3072},
    "opt-1.3b": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "ffn_dim": 8192},
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
