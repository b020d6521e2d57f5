"""A virtual swarm some of whose peers attack: what tests and benchmarks of attacks run.

`AttackedSwarm` bends the peers that `attack` names, each by an `Attack` of its own; they cover for one
another. Training is made up here; a subclass that trains in earnest gives `compute` another meaning.

>>> swarm = AttackedSwarm(peers=4, rounds=3, manifest=attacked_manifest(3), size=1024)
>>> (liar,) = swarm.attack("sign_flip", 1)
>>> swarm.run()
>>> list(swarm.bans()) == [liar], swarm.bans()[liar].reason
(True, 'update')
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.interface import Job
from secagg.ring import BLOCK
from swarm.attacks import Attack, World, attack_named, bent_sum, order_known
from swarm.effects import Again, Effect, Recompute, Work
from swarm.manifest import Manifest
from swarm.order import Order
from swarm.testing import CHUNK, VirtualSwarm, made_of, virtual_manifest, virtual_slice
from swarm.virtual_chains import MOST
from verify.chains import Direction
from verify.standing import Ban
from verify.statement import sign


def attacked_manifest(rounds: int, mode: str = "secure", **verification: float) -> Manifest:
    """A run in virtual time in which everyone is checked in each round; `verification`: other keys of it."""
    keys = {"rate": 1.0, **verification}
    lines = "\n".join(f"{key} = {value}" for key, value in keys.items())
    return virtual_manifest(rounds, mode, verification=lines)


class AttackedSwarm(VirtualSwarm):
    """`attackers` maps peers to their conduct; nobody attacks before `attack` is called."""

    @property
    def attackers(self) -> dict[PeerID, Attack]:
        """The peers that attack. Empty while the swarm is being built."""
        return self.__dict__.setdefault("_attackers", {})  # type: ignore[no-any-return]

    @property
    def honest(self) -> list[PeerID]:
        """The peers that do not attack, in order."""
        return sorted(set(self.peers) - set(self.attackers))

    def attack(self, name: str | type[Attack], count: int) -> list[PeerID]:
        """The last `count` peers attack from now on; which they are. Raises UnknownAttack."""
        kind = attack_named(name) if isinstance(name, str) else name
        chosen = sorted(self.peers)[-count:]
        for peer in chosen:
            self.attackers[peer] = kind(self.world(peer, frozenset(chosen) - {peer}))
        return chosen

    def world(self, me: PeerID, friends: frozenset[PeerID]) -> World:
        """What an attacker knows here."""
        return World(
            me=me,
            dtype=self.manifest.ring.dtype,
            levels=MOST,
            bound=float(MOST),
            counts=np.full(self.size // BLOCK, BLOCK, np.int32),
            chunk=CHUNK,
            vocabulary=256,
            tolerance=self.manifest.verification.tolerance,
            sign=lambda message: sign(self.peers[me].identity, message),
            members=lambda: self.machine(me).history.members,
            order_of=lambda peer: order_known(self.machine(me), peer),
            friends=friends,
            codec=self.manifest.model.boundary,
        )

    def bans(self) -> Mapping[PeerID, Ban]:
        """Whom the honest peers refuse, as the first of them has it."""
        return self.machine(self.honest[0]).history.conduct.bans

    # -- where peers are bent -------------------------------------------------------------------------

    def compute(self, me: PeerID, order: Order, index: int, attack: Attack | None = None) -> np.ndarray:
        """One slice of an order, integers [size]. `attack` may bend the text."""
        if attack is not None and type(attack).text is not Attack.text:
            order = replace(order, seed=bytes(32))  # other text, made up like everything here
        return virtual_slice(order, index, self.size)

    def work_of(self, order: Order, encoded: Sequence[np.ndarray]) -> Work:
        """Slices as work that is committed to."""
        return made_of(order, encoded)

    def train(self, me: PeerID, order: Order, slices: int) -> Work:
        """What a peer makes of its order."""
        attack = self.attackers.get(me)
        computed = order if attack is None else attack.order(order)
        encoded: list[np.ndarray] = []
        for index in range(slices):
            one = self.compute(me, computed, index, attack)
            encoded.append(one if attack is None else attack.slice(one, index))
        return self._sent(self.work_of(order, encoded), attack)

    def _sent(self, work: Work, attack: Attack | None) -> Work:
        bent = attack is not None and work.weight
        return replace(work, update=attack.sent(work.update, work.weight)) if attack and bent else work

    def chain_text(self, me: PeerID, sequences: tuple[int, ...]) -> tuple[int, ...]:
        """What a chain member takes for a slice's sequences: in the hands of some, others."""
        attack = self.attackers.get(me)
        if attack is None or not sequences:
            return sequences
        if type(attack).text is not Attack.text:
            return tuple(index + 1 for index in sequences)
        return attack.sequences(sequences)

    def chain_tensor(self, me: PeerID, way: Direction, made: np.ndarray) -> np.ndarray:
        """What a chain member sends."""
        attack = self.attackers.get(me)
        return made if attack is None else attack.tensor(way, made)

    def train_chained(self, me: PeerID, order: Order, slices: list[np.ndarray]) -> Work:
        """What a chain member commits to, and sends."""
        attack = self.attackers.get(me)
        if attack is not None:
            slices = [attack.slice(one, index) for index, one in enumerate(slices)]
        return self._sent(super().train_chained(me, order, slices), attack)

    def again(self, me: PeerID, asked: Recompute) -> Again:
        """What a checker gets, who may be too lazy to look."""
        attack = self.attackers.get(me)
        if attack is not None and attack.lazy:
            return Again(np.zeros(self.size, self.manifest.ring.dtype))
        return super().again(me, asked)

    def recompute(self, me: PeerID, order: Order, index: int) -> np.ndarray | None:
        """What a checker gets, who may be too lazy to look."""
        attack = self.attackers.get(me)
        if attack is not None and attack.lazy:
            return np.zeros(self.size, self.manifest.ring.dtype)
        return self.compute(me, order, index)

    def answer(self, sender: PeerID, to: PeerID, raw: bytes) -> list[bytes] | None:
        """What `to` answers. Raises MessageRefused."""
        attack = self.attackers.get(to)
        if attack is None:
            return super().answer(sender, to, raw)
        try:
            honest = super().answer(sender, to, raw)
        except MessageRefused:
            honest = None
        return attack.answer(raw, honest)

    def _tell(self, me: PeerID, to: PeerID, raw: bytes) -> None:
        attack = self.attackers.get(me)
        for said in [raw] if attack is None else attack.tell(raw):
            super()._tell(me, to, said)

    def _do(self, me: PeerID, effect: Effect) -> None:
        attack, machine = self.attackers.get(me), self.peers[me].machine
        session = None if machine is None else machine.session
        if attack is not None and session is not None and isinstance(effect, Job):
            effect = bent_sum(attack, session, effect)
        super()._do(me, effect)
