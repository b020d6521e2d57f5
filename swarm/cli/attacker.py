"""`python -m swarm.cli.attacker --attack NAME`: a peer that lies in one way, for demos and tests of a swarm.

Everything else is `swarm-peer`, whose options it takes: the same process, the same words on the wire. It is
bent where `swarm.attacks` says, and nowhere else; with text of its own it trains on other text than it
committed to.
"""

import argparse
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.interface import Job, Tell
from secagg.ring import CHUNK, Encoder
from swarm.attacks import ATTACKS, CHAIN_ATTACKS, Attack, World, attack_named, bent_sum, order_known
from swarm.cli import common, taking_part
from swarm.cli.peer import EXAMPLES, peer
from swarm.compute import Compute
from swarm.effects import Again, Effect, Recompute, TrainChains, Work
from swarm.order import DataView, Order
from swarm.peer import Peer
from swarm.shards.boundary import decode, encode
from swarm.shards.compute import ShardCompute
from swarm.snapshot import Snapshot
from swarm.work import SliceResult, Trainer
from verify.chains import EVALUATED, Counted
from verify.commitment import MAX_SLICES
from verify.record import History
from verify.statement import sign


class BentTrainer(Trainer):
    """A trainer in an attacker's hands: its own orders are bent, others' slices are computed as they are."""

    def __init__(self, honest: Trainer, attack: Attack) -> None:
        self.__dict__.update(honest.__dict__)  # the same model, which is large
        self._attack = attack

    def train(self, order: Order, snapshot: Snapshot, sequences: np.ndarray) -> Iterator[SliceResult]:
        """See Trainer."""
        computed = self._attack.order(order)
        for index, chosen in enumerate(computed.slices):
            rows = self._attack.text(sequences[list(chosen)])
            done = self.compute_slice(computed, index, snapshot, rows)
            yield replace(done, encoded=self._attack.slice(done.encoded, index))


class BentEncoder:
    """An encoder of slices in an attacker's hands."""

    def __init__(self, honest: Encoder, attack: Attack) -> None:
        self._honest, self._attack = honest, attack

    def encode(self, gradient: np.ndarray, number: int) -> np.ndarray:
        """See Encoder."""
        return self._attack.slice(self._honest.encode(gradient, number), number % MAX_SLICES)


class BentShard(ShardCompute):
    """A chain member's computing in an attacker's hands: what it sends and commits to is bent."""

    def __init__(self, honest: ShardCompute, attack: Attack) -> None:
        self.__dict__.update(honest.__dict__)  # the same model and thread
        self._attack = attack

    async def microbatch(self, chain: int, number: int, backward: bool, tensor: bytes | None) -> bytes:
        """See ShardCompute."""
        made = await super().microbatch(chain, number, backward, tensor)
        if not made or number < EVALUATED * len(self.batches):
            return made
        codec, shape = self._manifest.model.boundary, self._shape(self.batches[number % len(self.batches)])
        bent = self._attack.tensor("backward" if backward else "forward", decode(made, codec, shape))
        return encode(bent, codec)

    async def finish(self, counted: Sequence[Counted], chains: Sequence[tuple[bytes, ...]]) -> Work:
        """See ShardCompute."""
        work = await super().finish(counted, chains)
        return replace(work, update=self._attack.sent(work.update, work.weight)) if work.weight else work

    async def again(self, asked: Recompute) -> Again:
        """See ShardCompute."""
        if self._attack.lazy:
            return Again(np.zeros(self.layout.size, self._manifest.ring.dtype))
        return await super().again(asked)

    def _begin(self, effect: TrainChains) -> None:
        super()._begin(effect)
        self._now.encoder = BentEncoder(self._now.encoder, self._attack)  # type: ignore[assignment]

    def _tokens(self, place: tuple[int, int]) -> np.ndarray:
        chain, index = place
        chosen = self._attack.sequences(self._now.effect.slices[chain][index])
        return self._attack.text(self._dataset.sequences[list(chosen)])


class Attacker(Peer):
    """A peer that attacks as `kind` says."""

    kind: type[Attack] = Attack
    attack: Attack

    async def _prepare(self, history: History, attempt: int) -> None:
        await super()._prepare(history, attempt)
        attack = self.attack = self.kind(self._world())
        holding = self._holding
        if isinstance(holding.compute, ShardCompute) and holding.chains is not None:
            holding.compute = holding.chains.compute = BentShard(holding.compute, attack)
        else:
            self._bend(self.compute, attack)

    def _bend(self, compute: Compute, attack: Attack) -> None:
        compute._trainer = BentTrainer(compute._trainer, attack)
        train, size, dtype = compute.train, compute.layout.size, self.manifest.ring.dtype

        async def bent(order: Order, seconds: float, stop: threading.Event) -> Work:
            work = await train(order, seconds, stop)
            return replace(work, update=attack.sent(work.update, work.weight))

        async def nothing(
            order: Order, index: int, text: Sequence[bytes] | None, data: DataView
        ) -> np.ndarray:
            return np.zeros(size, dtype)

        compute.train = bent  # type: ignore[method-assign]
        if attack.lazy:
            compute.recompute = nothing  # type: ignore[method-assign]

    def _world(self) -> World:
        manifest, layout = self.manifest, self.compute.layout
        return World(
            me=self.me,
            dtype=manifest.ring.dtype,
            levels=manifest.ring.levels,
            bound=manifest.ring.bound(manifest.aggregation.sanity_rms),
            counts=layout.counts,
            chunk=CHUNK,
            vocabulary=self.compute.vocabulary,
            tolerance=manifest.verification.tolerance,
            sign=lambda message: sign(self.identity, message),
            members=lambda: self.machine.history.members,
            order_of=lambda peer: order_known(self.machine, peer),
            codec=manifest.model.boundary,
        )

    def _carry_out(self, effect: Effect) -> None:
        session = self.machine.session
        match effect:
            case Tell(to, raw):
                for said in self.attack.tell(raw):
                    super()._carry_out(Tell(to, said))
            case Job() if session is not None:
                super()._carry_out(bent_sum(self.attack, session, effect))
            case _:
                super()._carry_out(effect)

    async def on_ask(self, sender: PeerID, raw: bytes) -> list[bytes]:
        """See Inbox."""
        honest: list[bytes] | None
        try:
            honest = await super().on_ask(sender, raw)
        except MessageRefused:
            honest = None
        answer = self.attack.answer(raw, honest)
        if answer is None:
            raise MessageRefused("asked: this peer does not answer")
        return answer


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: `--attack NAME`, and the options of swarm-peer."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--attack", required=True, help=", ".join([*ATTACKS, *CHAIN_ATTACKS]))
    given, others = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    sys.argv[1:] = others
    kind = attack_named(given.attack)
    bent = type(f"{kind.__name__}Peer", (Attacker,), {"kind": kind})
    vars(taking_part)["Peer"] = bent
    common.main_of(peer, "swarm-attacker", EXAMPLES)()


if __name__ == "__main__":
    main()
