"""One shard's compute on microbatches: forward, backward with recomputation, gradients in a fixed order.

The promise: a slice's gradient is a function of the shard's weights and of what came from its neighbours.
Its microbatches are added up in rising order, whatever order they arrive in elsewhere, so the same inputs
give the same bits on the same kind of machine, whoever computes. Of a microbatch in flight only the stage's
input is kept; what lies between is computed again on the way back (Chen et al. 2016, with one segment a
stage), unless there is `room` to keep it: the bits are the same. The last stage goes back at once and
computes nothing twice.

A microbatch that does not fit into memory is halved by rows, and so are those after it; every halving is
said. Where memory runs out on the way back, tensors whose gradient was added by then are left out of the
halves, so that nothing is added twice.

Sizes: tokens int32 [rows, length], hidden states and their gradients float32 [rows, length, hidden_size].
Losses are sums in nats; gradients are those of the mean over the slice's tokens, as in `swarm.work`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch

from proto.errors import SwarmError
from swarm.layout import Layout
from swarm.model import layout_of, load_vector, summed_loss
from swarm.shards.slicing import Shard, VectorRefused
from swarm.sizes import rows_at_once

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)
NO_MEMORY = "not enough memory"
"""How torch's allocator for the CPU says it: a plain RuntimeError."""


class MicrobatchRefused(SwarmError):
    """A microbatch of another shape, twice, or out of turn. Nothing was added."""


class OutOfMemory(SwarmError):
    """One row alone does not fit into memory. The slice it belongs to is lost."""


class SliceSpoiled(SwarmError):
    """A slice that lost a microbatch has no gradient."""


@dataclass(frozen=True)
class Halved:
    """A microbatch did not fit: `rows` were tried, so many are computed at a time from now on."""

    rows: int
    now: int
    reason: str


@dataclass(eq=False)
class Slice:
    """A slice in work at one stage: its microbatches in the order in which they are added.

    `tokens`: predicted tokens of the whole slice. `kept`: inputs in flight, by microbatch.
    """

    microbatches: tuple[int, ...]
    tokens: int
    loss: float = 0.0
    done: int = 0
    kept: dict[int, torch.Tensor] = field(default_factory=dict)
    gradient: torch.Tensor | None = None
    spoiled: bool = False

    @property
    def kept_bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in self.kept.values())


@dataclass(frozen=True, eq=False)
class _Graph:
    """Rows that went forward, and that autograd can take back; `size` in bytes."""

    rows: slice
    inner: torch.Tensor
    out: torch.Tensor
    size: int


class Stage:
    """Owns a shard's module on its device. `say` hears of every halving. `room`: bytes for what lies between
    input and output of microbatches in flight."""

    def __init__(
        self,
        shard: Shard,
        device: str = "cpu",
        say: Callable[[Halved], None] = lambda _: None,
        room: int = 0,
    ):
        self.layout: Layout = layout_of(shard)
        self.cut = shard.cut
        self._shard, self._device, self._say = shard.to(device), device, say
        self._trained = []
        for tensor, offset, frozen in zip(
            shard.parameters(), self.layout.offsets, self.layout.frozen, strict=True
        ):
            tensor.requires_grad_(not frozen)
            if not frozen:
                self._trained.append((tensor, slice(offset, offset + tensor.numel())))
                hook = partial(self._note_added, len(self._trained) - 1)
                tensor.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        self._rows: int | None = None
        self._bound: torch.Tensor | None = None  # what gradients are added to
        self._added: set[int] = set()  # trained tensors that the running piece has added to
        self._room, self._graph_bytes = room, 0.0  # a row's; 0: not known yet
        self._graphs: WeakKeyDictionary[Slice, dict[int, list[_Graph]]] = WeakKeyDictionary()
        self._spare: torch.Tensor | None = None

    @property
    def vocabulary(self) -> int:
        """Token ids of the model."""
        return int(self._shard.config.vocab_size)

    @property
    def width(self) -> int:
        """Elements of a hidden state."""
        return int(self._shard.config.hidden_size)

    def load(self, vector: np.ndarray) -> None:
        """Take these weights, float32 [size]. Raises VectorRefused."""
        if vector.shape != (self.layout.size,) or vector.dtype != np.float32:
            raise VectorRefused(
                f"a vector {vector.dtype} {list(vector.shape)} for shard {self.cut.index}, "
                f"which has float32 [{self.layout.size}]"
            )
        self._graphs.clear()  # they are of other weights
        load_vector(self._shard, self.layout, vector)

    def forward(self, work: Slice, microbatch: int, x: np.ndarray) -> np.ndarray:
        """Hidden states for the next stage; `x` (tokens or hidden states) is kept until `backward`.

        Not for the last stage. Raises MicrobatchRefused, OutOfMemory.
        """
        if self.cut.last:
            raise ValueError("the last stage has no forward of its own: use `turn`")
        if microbatch not in work.microbatches[work.done :] or microbatch in work.kept:
            raise MicrobatchRefused(f"microbatch {microbatch} is not of this slice, or was computed before")
        kept = self._take(x)
        pieces = self._pieces(len(kept), lambda rows: self._ahead(work, microbatch, kept[rows], rows))
        work.kept[microbatch] = kept
        return _give(pieces)

    def backward(self, work: Slice, microbatch: int, gradient: np.ndarray) -> np.ndarray | None:
        """Add the microbatch's gradient; that of its input for the stage before, None in the first.

        Microbatches come in the slice's order. Raises MicrobatchRefused, OutOfMemory.
        """
        self._expect(work, microbatch)
        if microbatch not in work.kept:
            raise MicrobatchRefused(f"microbatch {microbatch} went backward and never forward")
        x = work.kept[microbatch]
        if gradient.shape != (*x.shape[:2], self._shard.config.hidden_size) or gradient.dtype != np.float32:
            raise MicrobatchRefused(f"a gradient {gradient.dtype} {list(gradient.shape)} for {list(x.shape)}")
        outer = torch.from_numpy(gradient).to(self._device)

        graphs = {(one.rows.start, one.rows.stop): one for one in self._take_graphs(work, microbatch)}

        def one(rows: slice) -> torch.Tensor | None:
            kept = graphs.pop((rows.start, rows.stop), None)
            inner = self._leaf(x[rows]) if kept is None else kept.inner
            return self._add(work, inner, self._shard(inner) if kept is None else kept.out, outer[rows])

        found = self._through(work, len(x), one)
        del work.kept[microbatch]
        return found

    def turn(
        self,
        work: Slice,
        microbatch: int,
        x: np.ndarray,
        targets: np.ndarray,
        signs: np.ndarray | None = None,
    ) -> np.ndarray | None:
        """The last stage's forward, loss and backward in one: adds both, gives the input's gradient.

        `targets`: the tokens to predict, int32 [rows, length]. `signs`: how each row counts, float32 [rows].
        Raises MicrobatchRefused, OutOfMemory.
        """
        self._expect(work, microbatch)
        hidden, wanted = self._take(x), self._wanted(x, targets)

        def one(rows: slice) -> torch.Tensor | None:
            inner = self._leaf(hidden[rows])
            loss = self._loss(inner, wanted[rows], None if signs is None else signs[rows])
            found = self._add(work, inner, loss / work.tokens, None)
            work.loss += loss.item()
            return found

        return self._through(work, len(hidden), one)

    def finish(self, work: Slice) -> np.ndarray:
        """A slice's gradient once all its microbatches went backward, float32 [size]. Raises SliceSpoiled."""
        if work.spoiled or work.done < len(work.microbatches):
            raise SliceSpoiled(
                f"{work.done} of {len(work.microbatches)} microbatches; the slice does not count"
            )
        self._bind(None)
        flat = self._flat(work).cpu().numpy()
        work.gradient = None
        return flat

    def reuse(self, vector: np.ndarray) -> None:
        """What `finish` gave is not needed any more: a later slice adds to it, with its pages mapped."""
        if self._device == "cpu":
            self._spare = torch.from_numpy(vector)

    def evaluate(self, x: np.ndarray, targets: np.ndarray | None = None) -> np.ndarray | float:
        """Forward alone: hidden states, or in the last stage the summed loss; nothing is kept or added."""
        taken = self._take(x)
        with torch.no_grad():
            if not self.cut.last:
                return _give(self._pieces(len(taken), lambda rows: self._shard(taken[rows])))
            if targets is None:
                raise ValueError("the last stage needs the tokens to predict")
            wanted = self._wanted(x, targets)
            losses = self._pieces(len(taken), lambda rows: self._loss(taken[rows], wanted[rows]))
            return sum(loss.item() for loss in losses)

    def _take(self, x: np.ndarray) -> torch.Tensor:
        config = self._shard.config
        if self.cut.first:
            if x.ndim != 2 or x.dtype != np.int32 or not x.size:
                raise MicrobatchRefused(f"tokens {x.dtype} {list(x.shape)}; they are int32 [rows, length]")
            if int(x.min()) < 0 or int(x.max()) >= config.vocab_size:
                raise MicrobatchRefused(
                    f"token ids from {x.min()} to {x.max()}; there are {config.vocab_size}"
                )
        elif x.ndim != 3 or x.dtype != np.float32 or x.shape[2] != config.hidden_size or not x.size:
            raise MicrobatchRefused(
                f"hidden states {x.dtype} {list(x.shape)}; "
                f"they are float32 [rows, length, {config.hidden_size}]"
            )
        return torch.from_numpy(x.astype(np.int64) if self.cut.first else x).to(self._device)

    def _wanted(self, x: np.ndarray, targets: np.ndarray) -> torch.Tensor:
        if targets.shape != x.shape[:2] or targets.dtype != np.int32:
            raise MicrobatchRefused(f"targets {targets.dtype} {list(targets.shape)} for {list(x.shape[:2])}")
        vocabulary = self._shard.config.vocab_size
        if int(targets.min()) < 0 or int(targets.max()) >= vocabulary:
            raise MicrobatchRefused(f"targets up to {targets.max()}; there are {vocabulary} token ids")
        return torch.from_numpy(targets.astype(np.int64)).to(self._device)

    def _expect(self, work: Slice, microbatch: int) -> None:
        if work.spoiled or work.done == len(work.microbatches):
            raise MicrobatchRefused(f"microbatch {microbatch} for a slice that is complete or spoiled")
        if microbatch != work.microbatches[work.done]:
            raise MicrobatchRefused(
                f"microbatch {microbatch} before {work.microbatches[work.done]}: "
                "they are added up in the slice's order"
            )

    def _leaf(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.cut.first else x.detach().requires_grad_(True)

    def _loss(
        self, hidden: torch.Tensor, wanted: torch.Tensor, signs: np.ndarray | None = None
    ) -> torch.Tensor:
        return summed_loss(self._shard(hidden), wanted, signs)

    def _ahead(self, work: Slice, microbatch: int, x: torch.Tensor, rows: slice) -> torch.Tensor:
        """Some rows forward, with what lies between kept if it fits."""
        held = sum(one.size for slices in self._graphs.values() for some in slices.values() for one in some)
        if held + self._graph_bytes * len(x) > self._room or not self._room:
            with torch.no_grad():
                out: torch.Tensor = self._shard(x)
            return out
        inner, found = self._leaf(x), dict[int, int]()
        if self._graph_bytes:
            out = self._shard(inner)
        else:
            with torch.autograd.graph.saved_tensors_hooks(partial(_weigh, found), lambda tensor: tensor):
                out = self._shard(inner)
            for tensor in self._shard.parameters():
                found.pop(tensor.untyped_storage().data_ptr(), None)
            self._graph_bytes = max(1.0, sum(found.values()) / len(x))
        size = int(self._graph_bytes * len(x))
        if held + size <= self._room:
            kept = self._graphs.setdefault(work, {}).setdefault(microbatch, [])
            kept.append(_Graph(rows, inner, out, size))
        return out.detach()

    def _take_graphs(self, work: Slice, microbatch: int) -> list[_Graph]:
        return self._graphs.get(work, {}).pop(microbatch, [])

    def _add(
        self, work: Slice, inner: torch.Tensor, out: torch.Tensor, outer: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Backward through one piece, into the slice's vector; the gradient of its input."""
        self._bind(self._flat(work))
        if out.requires_grad:
            torch.autograd.backward(out, outer)
        return None if self.cut.first else inner.grad

    def _bind(self, flat: torch.Tensor | None) -> None:
        if self._bound is not flat:
            for tensor, where in self._trained:
                tensor.grad = None if flat is None else flat[where].view_as(tensor)
            self._bound = flat

    def _note_added(self, index: int, _: torch.Tensor) -> None:
        self._added.add(index)

    def _flat(self, work: Slice) -> torch.Tensor:
        if work.gradient is None and self._spare is not None:
            work.gradient, self._spare = self._spare.zero_(), None
        if work.gradient is None:
            work.gradient = torch.zeros(self.layout.size, dtype=torch.float32, device=self._device)
        return work.gradient

    def _through(
        self, work: Slice, rows: int, one: Callable[[slice], torch.Tensor | None]
    ) -> np.ndarray | None:
        try:
            pieces = self._pieces(rows, one)
        except OutOfMemory:
            work.spoiled = True  # some of its pieces may have been added
            raise
        work.done += 1
        return None if self.cut.first else _give(pieces)

    def _pieces(self, rows: int, one: Callable[[slice], torch.Tensor | None]) -> list[torch.Tensor]:
        """`one` over runs of rows in order, halved where memory does not suffice. Raises OutOfMemory."""
        found: list[torch.Tensor] = []
        at = 0
        while at < rows:
            here = min(self._rows or rows, rows - at)
            found += self._piece(slice(at, at + here), one, frozenset())
            at += here
        return found

    def _piece(
        self, rows: slice, one: Callable[[slice], torch.Tensor | None], added: frozenset[int]
    ) -> list[torch.Tensor]:
        """`one` over some rows; `added`: tensors that have the gradient of these rows already."""
        size = rows.stop - rows.start
        self._added = set()
        try:
            with self._frozen(added):
                piece = one(rows)
            return [] if piece is None else [piece]
        except (*OUT_OF_MEMORY, RuntimeError) as error:
            if not isinstance(error, OUT_OF_MEMORY) and NO_MEMORY not in str(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        # Outside the handler: its traceback would keep the tensors that did not fit alive.
        if self._room:  # what lies between can be computed again
            self._room = 0
            self._graphs.clear()
            return self._piece(rows, one, added | self._added)
        if size == 1:
            raise OutOfMemory(
                f"one sequence does not fit into memory at shard {self.cut.index} ({reason}); "
                "hold a smaller shard, or give the peer more memory"
            )
        added, half = added | self._added, size // 2
        self._rows = half
        self._say(Halved(size, half, reason))
        halves = [slice(at, min(at + half, rows.stop)) for at in range(rows.start, rows.stop, half)]
        return [tensor for each in halves for tensor in self._piece(each, one, added)]

    @contextmanager
    def _frozen(self, indices: frozenset[int]) -> Iterator[None]:
        for index in indices:
            self._trained[index][0].requires_grad_(False)
        try:
            yield
        finally:
            for index in indices:
                self._trained[index][0].requires_grad_(True)


def microbatches(sequences: int, length: int, vocabulary: int) -> tuple[range, ...]:
    """The rows of a slice's microbatches: those of `swarm.work`, so that the logits of one stay small."""
    rows = rows_at_once(length, vocabulary)
    return tuple(range(at, min(at + rows, sequences)) for at in range(0, sequences, rows))


def run_slice(stages: Sequence[Stage], sequences: np.ndarray) -> tuple[list[np.ndarray], float]:
    """One slice through all stages in one process: each shard's gradient, and the summed loss.

    `sequences`: token ids, int32 [count, length + 1]. What a chain computes, without the chain.
    """
    tokens, targets = np.ascontiguousarray(sequences[:, :-1]), np.ascontiguousarray(sequences[:, 1:])
    batches = microbatches(len(sequences), tokens.shape[1], stages[0].vocabulary)
    slices = [Slice(tuple(range(len(batches))), tokens.size) for _ in stages]
    *before, last = list(zip(stages, slices, strict=True))
    for index, batch in enumerate(batches):
        rows = slice(batch.start, batch.stop)
        x = tokens[rows]
        for stage, work in before:
            x = stage.forward(work, index, x)
        gradient = last[0].turn(last[1], index, x, targets[rows])
        for stage, work in reversed(before):
            if gradient is None:
                raise ValueError("only the first stage has no gradient to hand on")
            gradient = stage.backward(work, index, gradient)
    return [stage.finish(work) for stage, work in zip(stages, slices, strict=True)], slices[-1].loss


def _weigh(found: dict[int, int], tensor: torch.Tensor) -> torch.Tensor:
    """Note the bytes of what autograd keeps, by storage."""
    storage = tensor.untyped_storage()
    found[storage.data_ptr()] = storage.nbytes()
    return tensor.detach()


def _give(pieces: list[torch.Tensor]) -> np.ndarray:
    joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return joined.detach().cpu().numpy()
