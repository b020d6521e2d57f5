"""How many sequences go through a model at a time: so many that their logits stay small.

No torch here: what a manifest promises of boundary tensors is known before a model is.
"""

LOGITS = 8 << 20
"""Elements of logits at a time: 32 MiB, above which malloc maps and faults fresh pages on each use."""


def rows_at_once(length: int, vocabulary: int) -> int:
    """Sequences of one microbatch, of `length` predicted tokens each: one at least."""
    return max(1, LOGITS // (length * vocabulary))
