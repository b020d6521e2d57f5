"""A swarm on the virtual clock that trains in earnest: a byte-level OPT, real sums, real snapshots.

Only the rim is made up, as in `swarm.testing`: clock, network and disk. Since all peers share one process
and one machine, whatever two of them would compute alike is computed once.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.byte_model import CHUNK, LENGTH, VOCABULARY, byte_model, start_of, text, trainer_of
from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.ring import BLOCK, check_sum
from swarm.attacked import AttackedSwarm
from swarm.attacks import Attack, World, attack_named
from swarm.data import DataCommitment, commit, read_openings
from swarm.effects import Adopt, Apply, Effect, OwnWork, Recompute, Work
from swarm.layout import Layout
from swarm.manifest import Manifest
from swarm.order import DataView, Order
from swarm.outer import outer_step
from swarm.round import Participant
from swarm.rules import evidence_rules
from swarm.snapshot import Snapshot
from swarm.store import replay
from swarm.testing import Disk
from swarm.work import Trainer
from verify.commitment import Committed, chunk_digests
from verify.record import Genesis, History
from verify.statement import open_signed, sign


@dataclass
class Shop:
    """What computes for a whole swarm, and remembers what it has computed."""

    manifest: Manifest
    trainer: Trainer
    layout: Layout
    first: Snapshot
    states: dict[bytes, Snapshot] = field(default_factory=dict)
    _slices: dict[bytes, np.ndarray] = field(default_factory=dict)
    _steps: dict[bytes, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest) -> "Shop":
        """A shop with the model's first weights."""
        model = byte_model()
        layout, first = start_of(model, manifest)
        return cls(manifest, trainer_of(model, manifest), layout, first, {first.hash: first})

    def slice(self, order: Order, index: int, rows: np.ndarray) -> np.ndarray:
        """One slice, integers [size]."""
        key = hashlib.sha256(order.snapshot + order.seed + bytes([index]) + rows.tobytes()).digest()
        if key not in self._slices:
            snapshot = self.states[order.snapshot]
            self._slices[key] = self.trainer.compute_slice(order, index, snapshot, rows).encoded
            while len(self._slices) > 256:
                self._slices.pop(next(iter(self._slices)))
        return self._slices[key]

    def step(self, base: bytes, total: np.ndarray, weight: int) -> bytes:
        """The snapshot that a sum leads to."""
        key = hashlib.sha256(base + total.tobytes()).digest()
        if key not in self._steps:
            manifest, layout = self.manifest, self.layout
            following = outer_step(
                self.states[base], total, weight, layout, manifest.outer, manifest.ring, manifest.run.rounds
            )
            self.states[following.hash] = following
            self._steps[key] = following.hash
        return self._steps[key]

    def loss(self, name: bytes) -> float:
        """Held-out loss of a snapshot, in nats a byte."""
        return self.trainer.heldout_loss(self.states[name], text()[1])


class TrainedSwarm(AttackedSwarm):
    """`path`: the snapshot after each round, as the honest have it."""

    def __init__(self, peers: int, manifest: Manifest, seed: int = 0) -> None:
        self.shop = Shop.of(manifest)
        self.path: list[bytes] = [self.shop.first.hash]
        self._own: dict[PeerID, DataCommitment] = {}
        self.poisoned: set[PeerID] = set()
        super().__init__(peers, manifest.run.rounds, seed, manifest, self.shop.layout.size)
        founder = next(iter(self.peers.values())).identity
        genesis = open_signed(self.genesis, Genesis).message
        self.genesis = sign(founder, genesis.model_copy(update={"snapshot": self.shop.first.hash}))
        for place, peer in enumerate(sorted(self.peers)):
            self.peers[peer].disk = Disk(snapshots={self.shop.first.hash})
            if manifest.data.mode == "own":
                self._bring(peer, text()[0][place::peers])
            self.start(peer)

    def attack(self, name: str | type[Attack], count: int) -> list[PeerID]:
        """See AttackedSwarm. Who poisons text of its own does so before it commits to it."""
        kind = attack_named(name) if isinstance(name, str) else name
        chosen = super().attack(kind, count)
        if kind.poisons and self.manifest.data.mode == "own":
            for peer in chosen:
                self.poisoned.add(peer)
                self._bring(peer, self.attackers[peer].text(self._own[peer].sequences))
                self.start(peer)
        return chosen

    def start(self, peer_id: PeerID) -> None:
        """Start or restart a peer from its disk."""
        peer, manifest = self.peers[peer_id], self.manifest
        history, attempt = History.begin(self.genesis), 0
        for raw in peer.disk.decided:
            history, attempt = replay(history, attempt, raw)
        own, counts, ring = self._own.get(peer_id), self.shop.layout.counts, manifest.ring
        sanity = manifest.aggregation.sanity_rms

        def sane(chunk: int, update: np.ndarray, weight: int) -> bool:
            first = chunk * CHUNK // BLOCK
            real = counts[first : first + len(update) // BLOCK]
            return not len(check_sum(update, weight, real, ring, sanity))

        peer.life += 1
        machine = peer.machine = Participant(
            peer.identity,
            manifest,
            history,
            DataView(len(text()[0])) if own is None else DataView(own.count, own.root),
            history.snapshot if history.snapshot in peer.disk.snapshots else b"",
            lambda: self.random.randbytes(32),
            attempt,
            tuple(peer.disk.votes.get((history.round + 1, attempt), ())),
            peer.disk.entered,
            CHUNK,
            sane=sane,
            head=lambda: peer.disk.head,
            open_text=(lambda indices: []) if own is None else own.open_all,
            recall=peer.disk.evidence.get,
            shown=peer.disk.shown,
            rules=evidence_rules(manifest, CHUNK),
        )
        self._later(0.0, peer_id, lambda: self._served(peer_id, history.round + 1) or machine.begin())
        self._tend(peer_id, 0.02)

    def world(self, me: PeerID, friends: frozenset[PeerID]) -> World:
        """What an attacker knows here."""
        manifest = self.manifest
        return replace(
            super().world(me, friends),
            levels=manifest.ring.levels,
            bound=manifest.ring.bound(manifest.aggregation.sanity_rms),
            counts=self.shop.layout.counts,
            chunk=CHUNK,
            vocabulary=VOCABULARY,
        )

    def losses(self, rounds: Sequence[int]) -> list[float]:
        """Held-out loss after each of these rounds, in nats a byte."""
        return [self.shop.loss(self.path[round_]) for round_ in rounds]

    # -- what is computed ------------------------------------------------------------------------------

    def compute(self, me: PeerID, order: Order, index: int, attack: Attack | None = None) -> np.ndarray:
        """One slice of `me`'s own order."""
        rows = self._rows(me)[list(order.slices[index])]
        if attack is not None and me not in self.poisoned:
            rows = attack.text(rows)
        return self.shop.slice(order, index, rows)

    def work_of(self, order: Order, encoded: Sequence[np.ndarray]) -> Work:
        """Slices as work that is committed to."""
        secret = self.random.randbytes(32)
        committed = Committed(order.digest(), [chunk_digests(one, CHUNK) for one in encoded], secret)
        update = np.zeros(self.size, self.manifest.ring.dtype)
        for one in encoded:
            np.add(update, one, out=update)
        tokens = len(encoded) * self.manifest.work.sequences_per_slice * (LENGTH - 1)
        return Work(update, len(encoded), tokens, 10, 10, OwnWork(committed, encoded.__getitem__))

    def _do(self, me: PeerID, effect: Effect) -> None:
        peer, machine = self.peers[me], self.machine(me)
        match effect:
            case Recompute(key, order, index, opened, data):
                again = self._recompute(me, order, index, opened, data)
                self._later(0.5, me, lambda: machine.recomputed(key, again))
            case Apply(slot, total, weight):
                ring, sanity = self.manifest.ring, self.manifest.aggregation.sanity_rms
                failing = check_sum(total, weight, self.shop.layout.counts, ring, sanity)
                if len(failing):
                    chunks = sorted({int(block) * BLOCK // CHUNK for block in failing})
                    self._later(0.05, me, lambda: machine.refused_sum(slot, "insane", chunks))
                    return
                snapshot = self.shop.step(machine.history.snapshot, total, weight)
                peer.disk.snapshots.add(snapshot)
                self._later(0.05, me, lambda: machine.applied(slot, snapshot))
            case _:
                if isinstance(effect, Adopt) and effect.record.round == len(self.path):
                    self.path.append(effect.record.snapshot)
                super()._do(me, effect)

    def _recompute(
        self, me: PeerID, order: Order, index: int, opened: tuple[bytes, ...] | None, data: DataView
    ) -> np.ndarray | None:
        attack = self.attackers.get(me)
        if attack is not None and attack.lazy:
            return np.zeros(self.size, self.manifest.ring.dtype)
        chosen = order.slices[index]
        try:
            if opened is None:
                rows = text()[0][list(chosen)]
            else:
                shape = {"count": data.count, "length": LENGTH, "vocabulary": VOCABULARY}
                rows = read_openings(opened, chosen, root=data.root, **shape)
        except MessageRefused:
            return None
        return self.shop.slice(order, index, rows)

    def _rows(self, peer: PeerID) -> np.ndarray:
        return self._own[peer].sequences if peer in self._own else text()[0]

    def _bring(self, peer: PeerID, rows: np.ndarray) -> None:
        self._own[peer] = commit(rows, hashlib.sha256(peer.encode()).digest())
