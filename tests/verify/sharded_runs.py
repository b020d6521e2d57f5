"""Real ledgers of virtual swarms whose model is in shards: chains are closed at once, by everyone's keys."""

from collections.abc import Callable, Sequence

import numpy as np

from proto.canonical import PeerID, tagged_hash
from swarm.effects import Effect, OwnWork, TrainChains, Work
from swarm.order import Order
from swarm.testing import CHUNK, VirtualSwarm, virtual_slice
from tests.verify.audited_runs import MANIFEST, Run, refounded, run_of
from verify.chains import EVALUATED, Confirmation
from verify.commitment import Committed, chunk_digests
from verify.record import whole
from verify.statement import sign
from verify.wiring import Wired

SLICES = 2
"""Slices that each chain does."""


class ShardedSwarm(VirtualSwarm):
    """A virtual swarm of several shards. `certificates`: what a peer comes to hold; a test may lie."""

    shards = 2
    at_once = True
    """Or chains are real crews' of the virtual swarm."""

    def found(self, raw: str) -> None:
        """Begin a run in shards with a manifest."""
        snapshots = tuple(tagged_hash("virtual-shard", bytes([shard])) for shard in range(self.shards))
        for peer in self.peers.values():
            peer.disk.snapshots |= set(snapshots)
        refounded(self, raw.encode(), shards=snapshots, snapshot=whole(snapshots))

    def certificates(self, me: PeerID, effect: TrainChains) -> list[tuple[Wired, tuple[bytes, ...]]]:
        """The chains that a peer has a certificate of, which names it."""
        return [(chain, self.certificate(effect.slot, chain)) for chain in effect.wired if me in chain.path]

    def certificate(self, slot: tuple[int, int], chain: Wired, slices: int = SLICES) -> tuple[bytes, ...]:
        """The confirmations of a chain whose own peers have done so many slices."""
        run = next(iter(self.peers.values())).machine
        assert run is not None
        return tuple(
            sign(
                self.peers[peer].identity,
                Confirmation(
                    run=run.history.run,
                    round=slot[0],
                    attempt=slot[1],
                    chain=chain.chain,
                    shard=shard,
                    slices=slices + EVALUATED,
                    after=chain.path[shard + 1 :],
                ),
            )
            for shard, peer in enumerate(chain.path)
        )

    def _do(self, me: PeerID, effect: Effect) -> None:
        if isinstance(effect, TrainChains) and self.at_once:
            self.on_effect(me, effect)
            work, machine = self.peers[me].work, self.machine(me)
            done = self.work_in_chains(me, effect)
            self._later(
                effect.seconds + self._delay(),
                me,
                lambda: machine.trained(effect.slot, done) if work == self.peers[me].work else None,
            )
        else:
            super()._do(me, effect)

    def work_in_chains(self, me: PeerID, effect: TrainChains) -> Work:
        """What a peer makes of its chains."""
        held = self.certificates(me, effect)
        order = effect.order([(chain.chain, SLICES) for chain, _ in held])
        made = self.encoded(order)
        update = sum(made, np.zeros(self.size, np.int16))
        committed = Committed(order.digest(), [chunk_digests(one, CHUNK) for one in made], bytes(32))
        last = effect.shard == self.shards - 1
        losses = (10 + list(self.peers).index(me), 12) if last and made else (0, 0)
        own = OwnWork(committed, made.__getitem__)
        certificates = tuple(statements for _, statements in held)
        return Work(update, len(made), len(made) * 128, *losses, own, certificates)

    def encoded(self, order: Order) -> Sequence[np.ndarray]:
        """The integers of each slice of an order."""
        return [virtual_slice(order, index, self.size) for index in range(len(order.slices))]


def sharded_run(
    peers: int = 4,
    rounds: int = 3,
    mode: str = "plain",
    prepare: Callable[[ShardedSwarm], None] = lambda swarm: None,
    seconds: float = 1e5,
    rate: float = 0.0,
) -> Run:
    """Run a virtual swarm of two shards to its end. `rate`: of checks, which takes chains of real crews."""
    swarm = ShardedSwarm(peers, rounds)
    swarm.at_once = not rate
    raw = MANIFEST.format(rounds=rounds, mode=mode, rate=rate, min_peers=peers, founding=[*swarm.peers])
    swarm.found(raw.replace("'", '"') + "[model]\nshards = 2\n")
    prepare(swarm)
    swarm.run(seconds)
    return run_of(swarm)
