"""The computing thread of a peer that holds one shard: chains' microbatches instead of whole slices.

The promise is that of `swarm.compute`: what comes back is a function of the order, the snapshot and the
boundary tensors alone. A slice's microbatches are added in rising order; each slice is encoded alone as soon
as its last one is through, under a number that does not depend on what will count.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from secagg.ring import CHUNK, Encoder
from swarm.compute import Compute, WorkFile, micronats
from swarm.data import Dataset
from swarm.effects import Again, OwnWork, Recompute, TrainChains, Work
from swarm.layout import Layout
from swarm.manifest import Manifest
from swarm.order import DataView, Order, dither_of, trial_hidden, trial_signs, trial_text
from swarm.shards.boundary import Shape, apart, decode, encode, encoded_bytes
from swarm.shards.slicing import build_shard
from swarm.shards.stage import Halved, Slice, Stage, microbatches
from swarm.snapshot import Snapshot
from verify.chains import EVALUATED, BoundaryRefused, Counted, Direction
from verify.commitment import Committed, chunk_digests
from verify.opened import Key, Tensors

ALIKE = 3e-5
"""Relative L2 of two honest machines' tensors of the same inputs, at most. What is computed from them differs
a hundred times as much and more (docs/shards.md), and must stay within a check's tolerances."""


@dataclass
class Attempt:
    """What one attempt's chains have given so far, by (chain, slice)."""

    effect: TrainChains
    encoder: Encoder
    kept: WorkFile
    open: dict[tuple[int, int], Slice] = field(default_factory=dict)
    places: dict[tuple[int, int], int] = field(default_factory=dict)  # in `kept`
    digests: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)
    losses: dict[tuple[int, int], float] = field(default_factory=dict)  # nats a token; last shard
    heldout: dict[int, float] = field(default_factory=dict)  # sums of nats, by chain; last shard


class ShardCompute(Compute):
    """Computes shard `shard`. Arguments as of `Compute`; `say` and `room`: as of `Stage`."""

    def __init__(
        self,
        manifest: Manifest,
        dataset: Dataset,
        directory: Path,
        shard: int,
        device: str = "cpu",
        threads: int = 1,
        busy: Callable[[str], None] = lambda phase: None,
        say: Callable[[Halved], None] = lambda halved: None,
        room: int = 0,
    ) -> None:
        super().__init__(manifest, dataset, directory, device, threads, busy)
        self.shard, self._say, self._room = shard, say, room
        self._attempt: Attempt | None = None
        self._loaded = b""
        self._stage: Stage

    @property
    def layout(self) -> Layout:
        """The layout of the shard's vector."""
        return self._stage.layout

    @property
    def vocabulary(self) -> int:
        """Token ids of the model."""
        return self._stage.vocabulary

    @property
    def batches(self) -> tuple[range, ...]:
        """The rows of a slice's microbatches."""
        manifest = self._manifest
        length = manifest.data.sequence_length - 1
        return microbatches(manifest.work.sequences_per_slice, length, self._stage.vocabulary)

    def check_tensor(self, raw: bytes) -> None:
        """Raises BoundaryRefused for what is no boundary tensor of a microbatch of this run."""
        codec, shapes = self._manifest.model.boundary, {self._shape(rows) for rows in self.batches}
        fits = [shape for shape in shapes if encoded_bytes(shape, codec) == len(raw)]
        decode(raw, codec, fits[0] if fits else max(shapes))

    async def begin(self, effect: TrainChains) -> None:
        """Be ready for the chains of an attempt; what is left of the last one is dropped."""
        await self.run(lambda: self._begin(effect))

    async def microbatch(self, chain: int, number: int, backward: bool, tensor: bytes | None) -> bytes:
        """Compute a microbatch, as `swarm.shards.crew.Run` has it. Raises NonFinite, OutOfMemory."""
        return await self.run(lambda: self._microbatch(chain, number, backward, tensor))

    def alike(self, one: bytes, other: bytes) -> bool:
        """Whether two honest machines may have made both of the same; each passes `check_tensor`."""
        codec, shapes = self._manifest.model.boundary, map(self._shape, self.batches)
        fits = [shape for shape in shapes if encoded_bytes(shape, codec) == len(one) == len(other)]
        return bool(fits) and apart(one, other, codec, fits[0]) <= ALIKE

    async def again(self, asked: Recompute) -> Again:
        """A slice of another member of this shard, or one microbatch of it, as what it opened says; or one of
        a newcomer's trial.

        Chains that run meanwhile wait for one microbatch at most, or for a trial's slice. Raises
        SnapshotCorrupt, NonFinite, OutOfMemory, MessageRefused for tensors of another number or shape.
        """
        order, tensors = asked.order, asked.tensors
        if order.shard != self.shard or (tensors is None and not order.trial):
            raise BoundaryRefused(f"a slice of shard {order.shard}; this peer holds shard {self.shard}")
        if tensors is None:
            return await super().again(asked)
        places = sorted({at for _, _, at in tensors})
        whole = places == list(range(len(self.batches)))
        if not whole and (len(places) != 1 or places[0] >= len(self.batches)):
            raise BoundaryRefused(f"tensors of {len(places)} microbatches; a slice has {len(self.batches)}")
        snapshot = await self.run(lambda: self._snapshot(order.snapshot), "checks")
        tokens = self._dataset.sequences[list(order.slices[asked.slice])]
        work = Slice(tuple(places), len(tokens) * (tokens.shape[1] - 1))
        found: dict[tuple[Direction, int], float] = {}
        for at in places:
            found |= await self.run(partial(self._compare, work, at, tokens, tensors, snapshot), "checks")
        if not whole:
            return Again(None, found)
        encoded = await self.run(lambda: self._encode_again(work, order, asked.slice, snapshot), "checks")
        return Again(encoded, found)

    async def finish(self, counted: Sequence[Counted], chains: Sequence[tuple[bytes, ...]]) -> Work:
        """The work of an attempt: all slices that the chains count, in order. `chains`: certificates."""
        return await self.run(lambda: self._finish(counted, tuple(chains)))

    # -- in the thread ----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        torch.set_num_threads(self._threads)
        table = self._manifest.model
        shard = build_shard(table, self.shard, table.shards)
        self._stage = Stage(shard, self._device, self._say, self._room)

    def _measure(self, name: bytes) -> int:
        return 0  # chains measure the held-out loss: nobody has all of the model

    def _load(self, name: bytes) -> None:
        if self._loaded != name:
            self._take(self._snapshot(name))

    def _take(self, snapshot: Snapshot) -> None:
        if self._loaded != snapshot.hash:
            self._stage.load(snapshot.params)
            self._loaded = snapshot.hash

    def _begin(self, effect: TrainChains) -> None:
        encoder = self._encoder(self._snapshot(effect.snapshot), effect.rounding)
        kept = WorkFile(self._directory, self.layout.size, self._manifest.ring.dtype)
        self._attempt = Attempt(effect, encoder, kept)

    def _encoder(self, snapshot: Snapshot, rounding: bytes) -> Encoder:
        manifest = self._manifest
        rms = manifest.aggregation.sanity_rms
        return Encoder(manifest.ring, snapshot.scales, self.layout.counts, rounding, rms)

    @property
    def _now(self) -> Attempt:
        assert self._attempt is not None
        return self._attempt

    def _microbatch(self, chain: int, number: int, backward: bool, tensor: bytes | None) -> bytes:
        self._load(self._now.effect.snapshot)
        slice_, at = divmod(number, len(self.batches))
        if slice_ < EVALUATED:
            return self._evaluate(chain, at, backward, tensor)
        place = (chain, slice_ - EVALUATED)
        tokens = self._tokens(place)
        length = tokens.shape[1] - 1
        work = self._now.open.get(place)
        if work is None:
            count = len(self.batches)
            work = self._now.open[place] = Slice(tuple(range(count)), len(tokens) * length)
        rows = self.batches[at]
        here = slice(rows.start, rows.stop)
        if not backward:
            return self._give(self._stage.forward(work, at, self._input(tokens[here], rows, tensor)))
        assert tensor is not None
        if self._stage.cut.last:
            wanted = np.ascontiguousarray(tokens[here, 1:])
            found = self._stage.turn(work, at, self._taken(tensor, rows), wanted)
        else:
            found = self._stage.backward(work, at, self._taken(tensor, rows))
        if work.done == len(work.microbatches):
            self._complete(place, work)
        return b"" if found is None else self._give(found)

    def _compare(
        self, work: Slice, at: int, tokens: np.ndarray, tensors: Tensors, snapshot: Snapshot
    ) -> dict[tuple[Direction, int], float]:
        """One microbatch from what came: how far what went is from what should have gone."""
        self._take(snapshot)
        rows, cut = self.batches[at], self._stage.cut
        here = slice(rows.start, rows.stop)
        x = self._input(tokens[here], rows, tensors.get((False, "forward", at)))
        made: dict[Direction, np.ndarray | None] = {}
        if cut.last:
            made["backward"] = self._stage.turn(work, at, x, np.ascontiguousarray(tokens[here, 1:]))
        else:
            made["forward"] = self._stage.forward(work, at, x)
            gradient = self._taken(_needed(tensors, (False, "backward", at)), rows)
            made["backward"] = self._stage.backward(work, at, gradient)
        codec, shape = self._manifest.model.boundary, self._shape(rows)
        return {
            (way, at): apart(self._give(mine), tensors[True, way, at], codec, shape)
            for way, mine in made.items()
            if mine is not None and (True, way, at) in tensors
        }

    def _recompute(
        self, order: Order, index: int, text: Sequence[bytes] | None, data: DataView
    ) -> np.ndarray:
        """A slice of a trial: text and neighbours' tensors are made up."""
        snapshot, cut = self._snapshot(order.snapshot), self._stage.cut
        self._take(snapshot)
        tokens = trial_text(order, index, self._manifest.data.sequence_length, self._stage.vocabulary)
        shape = len(tokens), tokens.shape[1] - 1, self._stage.width
        signs, batches = trial_signs(len(tokens)), microbatches(*shape[:2], self._stage.vocabulary)
        work = Slice(tuple(range(len(batches))), shape[0] * shape[1])
        inputs, wanted = np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])
        came = inputs if cut.first else trial_hidden(order, index, "forward", shape)
        back = wanted if cut.last else trial_hidden(order, index, "backward", shape)
        for at, rows in enumerate(batches):
            here = slice(rows.start, rows.stop)
            if cut.last:
                self._stage.turn(work, at, came[here], back[here], signs[here])
            else:
                self._stage.forward(work, at, came[here])
                self._stage.backward(work, at, back[here])
        return self._encode_again(work, order, index, snapshot)

    def _encode_again(self, work: Slice, order: Order, index: int, snapshot: Snapshot) -> np.ndarray:
        encoder = self._encoder(snapshot, order.seed)
        return encoder.encode(self._stage.finish(work), order.dither(index))

    def _evaluate(self, chain: int, at: int, backward: bool, tensor: bytes | None) -> bytes:
        if backward and not self._stage.cut.last:
            return b""
        sample, rows = self._heldout_sample(), self.batches[at]
        tokens = sample[np.arange(rows.start, rows.stop) % len(sample)]
        x = self._input(tokens, rows, tensor)
        if not self._stage.cut.last:
            hidden = self._stage.evaluate(x)
            assert isinstance(hidden, np.ndarray)
            return self._give(hidden)
        loss = self._stage.evaluate(x, np.ascontiguousarray(tokens[:, 1:]))
        assert isinstance(loss, float)
        self._now.heldout[chain] = self._now.heldout.get(chain, 0.0) + loss
        return b""

    def _complete(self, place: tuple[int, int], work: Slice) -> None:
        now = self._now
        del now.open[place]
        gradient = self._stage.finish(work)
        encoded = now.encoder.encode(gradient, dither_of(*place))
        self._stage.reuse(gradient)
        now.digests[place] = chunk_digests(encoded, CHUNK)
        now.places[place] = len(now.places)
        now.losses[place] = work.loss / work.tokens
        now.kept.add(encoded)

    def _finish(self, counted: Sequence[Counted], chains: tuple[tuple[bytes, ...], ...]) -> Work:
        now = self._now
        done = [(one.chain, one.slices - EVALUATED) for one in counted]
        order = now.effect.order(done)
        places = [now.places[place] for place in order.chained]
        update = np.zeros(self.layout.size, self._manifest.ring.dtype)
        for at in places:
            np.add(update, now.kept.slice(at), out=update)
        committed = Committed(order.digest(), [now.digests[place] for place in order.chained], os.urandom(32))
        length = self._manifest.data.sequence_length - 1
        loss = heldout = 0.0
        if self._stage.cut.last and order.chained:
            loss = sum(now.losses[place] for place in order.chained) / len(places)
            sequences = self.batches[-1].stop
            heldout = now.heldout[done[0][0]] / (sequences * length)
        return Work(
            update,
            len(places),
            sum(map(len, order.slices)) * length,
            micronats(loss),
            micronats(heldout),
            OwnWork(committed, lambda index: now.kept.slice(places[index])),
            chains,
        )

    def _tokens(self, place: tuple[int, int]) -> np.ndarray:
        chain, index = place
        return self._dataset.sequences[list(self._now.effect.slices[chain][index])]

    def _input(self, tokens: np.ndarray, rows: range, tensor: bytes | None) -> np.ndarray:
        if self._stage.cut.first:
            return np.ascontiguousarray(tokens[:, :-1])
        if tensor is None:
            raise BoundaryRefused("a microbatch without what came from the shard before")
        return self._taken(tensor, rows)

    def _taken(self, tensor: bytes, rows: range) -> np.ndarray:
        return decode(tensor, self._manifest.model.boundary, self._shape(rows))

    def _give(self, x: np.ndarray) -> bytes:
        return encode(x, self._manifest.model.boundary)

    def _shape(self, rows: range) -> Shape:
        return len(rows), self._manifest.data.sequence_length - 1, self._stage.width


def _needed(tensors: Tensors, key: Key) -> bytes:
    if key not in tensors:
        raise BoundaryRefused(f"microbatch {key[2]} without what came {key[1]}")
    return tensors[key]
