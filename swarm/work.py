"""Training as a pure function: `train(order, snapshot)` gives encoded slices, and nothing else has a say.

A slice's gradient is that of the mean loss over its tokens, at the snapshot, encoded alone with the
order's dither. The peer that does the work and the peer that checks it call the same code. With the
same device, threads and kernels the bits are the same; across machines, gradients differ by 1e-7 to
1e-3 (relative L2), hence the tolerance of checks.

Threads are the caller's affair (`torch.set_num_threads`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import OPTForCausalLM

from secagg.ring import Encoder, Ring
from swarm.layout import Layout
from swarm.model import bind_gradients, layout_of, load_vector, summed_loss
from swarm.order import Order, trial_signs
from swarm.sizes import rows_at_once
from swarm.snapshot import Snapshot


@dataclass(frozen=True)
class SliceResult:
    """A slice's gradient in the ring, integers [size]; the mean loss in nats a token; tokens predicted."""

    encoded: np.ndarray
    loss: float
    tokens: int


class Trainer:
    """Owns a model on its device, and the vector that gradients are gathered in."""

    def __init__(self, model: OPTForCausalLM, ring: Ring, sanity_rms: float, device: str = "cpu"):
        self.layout: Layout = layout_of(model)
        self._model = model.to(device)
        self._gradient = bind_gradients(self._model, self.layout)
        self._ring, self._sanity_rms, self._device = ring, sanity_rms, device
        self._loaded = b""

    @property
    def vocabulary(self) -> int:
        """Token ids of the model."""
        return int(self._model.config.vocab_size)

    def train(self, order: Order, snapshot: Snapshot, sequences: np.ndarray) -> Iterator[SliceResult]:
        """The order's slices, one at a time; stop after any. `sequences`: token ids, int32 [count, length].

        Raises NonFinite where a gradient is not finite.
        """
        for index, chosen in enumerate(order.slices):
            yield self.compute_slice(order, index, snapshot, sequences[list(chosen)])

    def compute_slice(self, order: Order, index: int, snapshot: Snapshot, chosen: np.ndarray) -> SliceResult:
        """One slice of an order. `chosen`: its sequences, int32 [count, length]. Raises NonFinite."""
        encoder = Encoder(self._ring, snapshot.scales, self.layout.counts, order.seed, self._sanity_rms)
        self._load(order.snapshot, snapshot)  # the model may have been used between two slices
        self._gradient.zero_()
        signs = trial_signs(len(chosen)) if order.trial else None
        loss, tokens = self._loss(chosen, backward=True, signs=signs)
        return SliceResult(encoder.encode(self._gradient.cpu().numpy(), index), loss, tokens)

    def heldout_loss(self, snapshot: Snapshot, sequences: np.ndarray) -> float:
        """Mean loss in nats a token over `sequences`, int32 [count, length], at the snapshot."""
        self._load(snapshot.hash, snapshot)
        with torch.no_grad():
            return self._loss(sequences, backward=False)[0]

    def _load(self, name: bytes, snapshot: Snapshot) -> None:
        if snapshot.hash != name or snapshot.layout != self.layout.digest:
            raise ValueError(f"order for snapshot {name.hex()}, this is {snapshot.hash.hex()}")
        if self._loaded != name:
            load_vector(self._model, self.layout, snapshot.params)
            self._loaded = name

    def _loss(
        self, sequences: np.ndarray, backward: bool, signs: np.ndarray | None = None
    ) -> tuple[float, int]:
        """Mean loss and number of predicted tokens; gradients of the mean are added to the vector.

        `signs`, float32 [count]: how each sequence counts instead.
        """
        length = sequences.shape[1] - 1
        rows = rows_at_once(length, self._model.config.vocab_size)
        tokens = len(sequences) * length
        total = 0.0
        for at in range(0, len(sequences), rows):
            batch = torch.from_numpy(sequences[at : at + rows].astype(np.int64)).to(self._device)
            logits = self._model(input_ids=batch[:, :-1], use_cache=False).logits
            here = None if signs is None else signs[at : at + rows]
            loss = summed_loss(logits, batch[:, 1:], here) / tokens
            if backward:
                loss.backward()
            total += loss.item()
        return total, tokens
