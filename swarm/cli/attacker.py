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
from secagg.ring import CHUNK
from swarm.attacks import ATTACKS, Attack, World, attack_named, bent_sum
from swarm.cli import common, taking_part
from swarm.cli.peer import EXAMPLES, peer
from swarm.compute import Compute
from swarm.effects import Effect, Work
from swarm.order import DataView, Order, draw_order
from swarm.peer import Peer
from swarm.snapshot import Snapshot
from swarm.work import SliceResult, Trainer
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


class Attacker(Peer):
    """A peer that attacks as `kind` says."""

    kind: type[Attack] = Attack
    attack: Attack

    async def _prepare(self, history: History, attempt: int) -> None:
        await super()._prepare(history, attempt)
        attack = self.attack = self.kind(self._world())
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
            vocabulary=self.compute._trainer.vocabulary,
            tolerance=manifest.verification.tolerance,
            sign=lambda message: sign(self.identity, message),
            members=lambda: self.machine.history.members,
            order_of=self._order_of,
        )

    def _order_of(self, other: PeerID) -> Order:
        machine = self.machine
        view = DataView(machine.data.count, machine.data.root)
        return draw_order(machine.history, machine.attempt, other, view, self.manifest.work)

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
    parser.add_argument("--attack", required=True, help=", ".join(ATTACKS))
    given, others = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    sys.argv[1:] = others
    kind = attack_named(given.attack)
    bent = type(f"{kind.__name__}Peer", (Attacker,), {"kind": kind})
    vars(taking_part)["Peer"] = bent
    common.main_of(peer, "swarm-attacker", EXAMPLES)()


if __name__ == "__main__":
    main()
