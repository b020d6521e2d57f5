"""A whole swarm on a virtual clock, in one process and without sockets: hundreds of rounds in seconds.

`VirtualSwarm` carries out the effects of real `Participant`s. Only the rim is made up: the clock, the
network (latency, loss, cuts), the disk (what was saved survives `kill`), training (a function of the
order and the snapshot) and the outer step (a hash chain over the exact sum, so that two peers that
disagree in one integer end on different snapshots). Signatures and statements are the real ones.

>>> swarm = VirtualSwarm(peers=4, rounds=3)
>>> swarm.run()
>>> len({peer.final for peer in swarm.peers.values()})
1
"""

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from proto.canonical import PeerID, tagged_hash
from proto.energy import EnergyClaim
from proto.errors import MessageRefused
from secagg.interface import Job, NotYet, SendPart, SendSum, Tell
from swarm.effects import (
    Abandon,
    Adopt,
    Again,
    Apply,
    Ask,
    Banned,
    CatchUp,
    Effect,
    Ended,
    Fetch,
    Log,
    Meet,
    OwnWork,
    Phase,
    Recompute,
    SaveDecided,
    SaveEntered,
    SaveEvidence,
    SaveVote,
    Slot,
    Spent,
    Timer,
    Train,
    TrainChains,
    Voided,
    Work,
)
from swarm.manifest import Manifest, parse_manifest
from swarm.order import DataView, Order
from swarm.round import Participant
from swarm.store import replay
from swarm.virtual_chains import MOST, VirtualChains, again
from verify.chains import Direction
from verify.commitment import Committed, chunk_digests
from verify.evidence import Rules
from verify.identity import Identity
from verify.probation import sketch_seed
from verify.record import Decided, Genesis, History, whole
from verify.sketch import sketch
from verify.statement import sign

CHUNK = 16
"""Elements in a chunk of the virtual swarm's small vectors."""


def virtual_manifest(
    rounds: int, mode: str = "secure", min_peers: int = 4, probation: int = 0, **tables: str
) -> Manifest:
    """A manifest for virtual time; `tables` adds lines to its tables by name."""
    lines = {
        "run": f"rounds = {rounds}\nmin_peers = {min_peers}",
        "membership": "round_timeout_seconds = 12.0",
        "work": "window_seconds = 5.0\nsequences_per_slice = 1",
        "aggregation": f'mode = "{mode}"',
        "verification": f"probation_checks = {probation}",
    }
    for name, more in tables.items():
        lines[name] = f"{lines.get(name, '')}\n{more}"
    return parse_manifest("\n".join(f"[{name}]\n{body}" for name, body in lines.items()).encode())


def virtual_slice(order: Order, index: int, size: int) -> np.ndarray:
    """A stand-in for training: int16 [size], a function of the order and the slice alone."""
    seed = hashlib.sha256(order.digest() + index.to_bytes(8, "big")).digest()
    return np.random.default_rng(list(seed)).integers(-MOST, MOST, size, dtype=np.int16)


def virtual_work(order: Order, size: int, slices: int, secret: bytes = bytes(32)) -> Work:
    """The work of an honest peer that does so many slices of an order."""
    return made_of(order, [virtual_slice(order, index, size) for index in range(slices)], secret)


def made_of(
    order: Order, encoded: Sequence[np.ndarray], secret: bytes = bytes(32), size: int | None = None
) -> Work:
    """Work whose slices are these integers, committed to under `secret`. `size`: where there may be none."""
    committed = Committed(order.digest(), [chunk_digests(one, CHUNK) for one in encoded], secret)
    update = np.zeros(size if size is not None else len(encoded[0]), np.int16)
    for one in encoded:
        update += one
    return Work(update, len(encoded), len(encoded) * 128, 10, 10, OwnWork(committed, encoded.__getitem__))


@dataclass
class Disk:
    """What survives `kill -9`."""

    decided: list[bytes] = field(default_factory=list)  # records, and the void outcomes after the last
    votes: dict[Slot, list[bytes]] = field(default_factory=dict)
    entered: Slot | None = None
    snapshots: set[bytes] = field(default_factory=set)
    evidence: dict[bytes, bytes] = field(default_factory=dict)
    entries: list[tuple[str, bytes]] = field(default_factory=list)  # of the ledger
    root: bytes = bytes(32)
    shown: set[bytes] = field(default_factory=set)
    led: set[tuple[int, int, int]] = field(default_factory=set)  # chains, by round and attempt
    listed: dict[tuple[Any, ...], bytes] = field(default_factory=dict)  # lists of tensors that it signed

    def append(self, kind: str, content: bytes) -> None:
        """One more ledger entry; the root is that of a chain, which is all that a virtual head needs."""
        self.entries.append((kind, content))
        self.root = tagged_hash("virtual-ledger", self.root, kind.encode(), content)

    @property
    def head(self) -> tuple[int, bytes]:
        """Size and root."""
        return len(self.entries), self.root


@dataclass
class VirtualPeer:
    """One peer of the swarm: its machine, its disk, and what it saw."""

    identity: Identity
    disk: Disk
    machine: Participant | None = None  # None: not running
    life: int = 0  # counts restarts, so that what was under way at a kill is lost
    work: int = 0  # counts attempts, so that abandoned work is lost
    speed: int = 4  # slices in a window
    records: list[bytes] = field(default_factory=list)
    voids: list[Voided] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    final: bytes | None = None
    banned: bool = False
    wanted: int = 0  # the shard that it asks to hold


Filter = Callable[[PeerID, PeerID, bytes], Iterable[tuple[float, bytes]]]
"""(sender, receiver, statement) -> what arrives: (extra seconds, statement), nothing if it is lost."""


class VirtualSwarm:
    """Peers on one virtual clock. `filter` is the network's will on statements; `cut` on pairs of peers."""

    def __init__(
        self, peers: int, rounds: int, seed: int = 0, manifest: Manifest | None = None, size: int = 200
    ) -> None:
        self.random = random.Random(seed)
        self.manifest = manifest or virtual_manifest(rounds)
        self.size, self.now = size, 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._meetings: dict[
            bytes, dict[PeerID, tuple[Meet, Callable[[dict[PeerID, bytes] | None], None]]]
        ] = {}
        self.filter: Filter = lambda sender, to, raw: [(0.0, raw)]
        self.cut: Callable[[PeerID, PeerID], bool] = lambda a, b: False
        self.on_effect: Callable[[PeerID, Effect], None] = lambda peer, effect: None
        identities = [Identity.from_seed(bytes([seed % 251, index]) + bytes(30)) for index in range(peers)]
        members = tuple(sorted(identity.peer_id for identity in identities))
        founder = identities[0]
        self._chains = VirtualChains(self)
        count = self.manifest.model.shards
        first = tuple(tagged_hash("virtual-snapshot", *[b""] * at) for at in range(count))
        genesis = Genesis(
            manifest=b"virtual",
            snapshot=whole(first) if count > 1 else first[0],
            shards=first if count > 1 else (),
            data=bytes(32),
            founder=founder.peer_id,
            members=members,
            stewards=(founder.peer_id,),
            recovery_threshold=1,
            suspend_after=self.manifest.membership.suspend_after,
            strikes=self.manifest.verification.strikes,
            probation_checks=self.manifest.verification.probation_checks,
            largest_cell=self.manifest.aggregation.largest_cell,
            invited=False,
            created=0,
        )
        self.genesis = sign(founder, genesis)
        self.peers: dict[PeerID, VirtualPeer] = {}
        for identity in identities:
            peer = VirtualPeer(identity, Disk(snapshots={*first}))
            self.peers[identity.peer_id] = peer
            self.start(identity.peer_id)

    # -- what a test does -----------------------------------------------------------------------------

    def start(self, peer_id: PeerID) -> None:
        """Start or restart a peer from its disk."""
        peer = self.peers[peer_id]
        history, attempt = History.begin(self.genesis), 0
        for raw in peer.disk.decided:
            history, attempt = replay(history, attempt, raw)
        slot = (history.round + 1, attempt)
        target = history.snapshot_of(history.shard_of(peer_id) if peer_id in history.roster else peer.wanted)
        have = target if target in peer.disk.snapshots else b""
        peer.life += 1
        peer.machine = Participant(
            peer.identity,
            self.manifest,
            history,
            self._data(peer_id),
            have,
            lambda: self.random.randbytes(32),
            attempt,
            tuple(peer.disk.votes.get(slot, ())),
            peer.disk.entered,
            CHUNK,
            sane=lambda chunk, update, weight: not self.insane(update, weight),
            head=lambda: peer.disk.head,
            energy=lambda tokens: self.energy(peer_id, tokens),
            open_text=lambda indices: [b"\xa0" + index.to_bytes(8, "big") for index in indices],
            recall=peer.disk.evidence.get,
            shown=peer.disk.shown,
            rules=Rules(np.dtype(np.int16), CHUNK, lambda update, weight: not self.insane(update, weight)),
            wanted=peer.wanted,
        )
        machine = peer.machine
        self._later(0.0, peer_id, lambda: self._served(peer_id, history.round + 1) or machine.begin())
        self._tend(peer_id, 0.02)

    def _data(self, peer_id: PeerID) -> DataView:
        own = self.manifest.data.mode == "own"
        return DataView(10_000, tagged_hash("virtual-data", peer_id.encode()) if own else None)

    def kill(self, peer_id: PeerID) -> None:
        """`kill -9`: everything but the disk is gone."""
        self.peers[peer_id].machine = None
        for waiting in self._meetings.values():
            waiting.pop(peer_id, None)

    def join(self, identity: Identity, shard: int = 0) -> None:
        """A newcomer: it knows the run id, follows the records and asks to be taken in, for a shard."""
        peer = VirtualPeer(identity, Disk(), wanted=shard)
        self.peers[identity.peer_id] = peer
        self.start(identity.peer_id)

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something at a time of the virtual clock."""
        heapq.heappush(self._events, (seconds, next(self._order), action))

    def run(self, seconds: float = 1e5, until: Callable[[], bool] | None = None) -> None:
        """Let time pass until every running peer has ended, `until` holds, or so much time is over."""
        end = self.now + seconds
        while self._events and self.now <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
            running = [peer for peer in self.peers.values() if peer.machine is not None]
            if until() if until is not None else all(peer.final or peer.banned for peer in running):
                return

    def machine(self, peer_id: PeerID) -> Participant:
        """The machine of a running peer."""
        machine = self.peers[peer_id].machine
        assert machine is not None, f"{peer_id} is not running"
        return machine

    def insane(self, integers: np.ndarray, weight: int) -> list[int]:
        """The chunks in which integers, of one member or a sum, are beyond what `weight` slices give."""
        return sorted(
            {int(at) // CHUNK for at in np.flatnonzero(np.abs(integers.astype(int)) > MOST * weight)}
        )

    # -- carrying out effects -------------------------------------------------------------------------

    def _later(self, seconds: float, peer_id: PeerID, action: Callable[[], Iterable[Effect] | None]) -> None:
        peer, life = self.peers[peer_id], self.peers[peer_id].life

        def act() -> None:
            if peer.machine is None or peer.life != life:
                return
            try:
                effects = action()
            except MessageRefused as refusal:
                peer.refusals.append(str(refusal))
                return
            for effect in effects or ():
                if peer.machine is not None and peer.life == life:
                    self._do(peer_id, effect)

        self.at(self.now + seconds, act)

    def _delay(self) -> float:
        return self.random.uniform(0.005, 0.05)

    def _do(self, me: PeerID, effect: Effect) -> None:
        peer, machine = self.peers[me], self.machine(me)
        self.on_effect(me, effect)
        if peer.machine is None:
            return
        match effect:
            case Train(slot, order, seconds):
                work, slices = peer.work, min(peer.speed, self.manifest.work.slices)
                done = self.train(me, order, slices)
                self._later(
                    seconds + self._delay(),
                    me,
                    lambda: machine.trained(slot, done) if work == peer.work else None,
                )
            case TrainChains():
                self._chains.train(me, effect)
            case Meet():
                self._meet(me, effect, peer.work)
            case Tell(to, raw):
                self._tell(me, to, raw)
            case SendPart():
                self._transfer(me, effect)
            case SendSum():
                self._transfer(me, effect)
            case Job():
                self._later(0.0, me, lambda: machine.job_done(effect, effect.run()))
            case Apply(slot, total, weight) if self.insane(total, weight):
                chunks = self.insane(total, weight)
                self._later(0.05, me, lambda: machine.refused_sum(slot, "insane", chunks))
            case Apply(slot, total, _):
                snapshot = tagged_hash("virtual-snapshot", machine.target, total.tobytes())
                peer.disk.snapshots.add(snapshot)
                self._later(0.05, me, lambda: machine.applied(slot, snapshot))
            case Timer(timer, seconds):
                self._later(seconds, me, lambda: machine.elapsed(timer))
            case SaveVote(slot, raw):
                peer.disk.votes.setdefault(slot, []).append(raw)
            case SaveEntered(slot):
                peer.disk.entered = slot
            case SaveDecided(slot, raw):
                peer.disk.decided.append(raw)
            case Adopt(record, _):
                peer.records.append(record.digest())
            case Abandon():
                peer.work += 1
                for waiting in self._meetings.values():
                    waiting.pop(me, None)
            case CatchUp(round_):
                self._later(2 * self._delay(), me, lambda: self._served(me, round_))
            case Fetch(snapshot):
                self._fetch(me, snapshot)
            case Ask(key, to, raw):
                self._ask(me, key, to, raw)
            case Recompute(key, order, index, _, _, tensors):
                found = Again(self.recompute(me, order, index)) if tensors is None else self.again(me, effect)
                self._later(0.5, me, lambda: machine.recomputed(key, found.encoded, True, found.apart))
            case SaveEvidence(name, raw):
                peer.disk.evidence[name] = raw
            case Log(entries):
                for kind, content in entries:
                    peer.disk.append(kind, content)
            case Voided():
                peer.voids.append(effect)
            case Spent():
                self.kill(me)
            case Banned():
                peer.banned = True
            case Ended(snapshot):
                peer.final = snapshot

    def _tell(self, me: PeerID, to: PeerID, raw: bytes) -> None:
        if to not in self.peers or self.cut(me, to):
            return
        for extra, arriving in self.filter(me, to, raw):
            self._later(
                self._delay() + extra,
                to,
                lambda arriving=arriving: self.machine(to).receive(me, arriving),  # type: ignore[misc]
            )

    def train(self, me: PeerID, order: Order, slices: int) -> Work:
        """What a peer makes of its order; a test puts a liar's work in its place."""
        return virtual_work(order, self.size, slices)

    def chain_text(self, me: PeerID, sequences: tuple[int, ...]) -> tuple[int, ...]:
        """What a chain member takes for a slice's sequences."""
        return sequences

    def chain_tensor(self, me: PeerID, way: Direction, made: np.ndarray) -> np.ndarray:
        """What a chain member sends in place of what it computed, float32 [1, 1, width]."""
        return made

    def train_chained(self, me: PeerID, order: Order, slices: list[np.ndarray]) -> Work:
        """What a chain member makes of the slices that count."""
        return made_of(order, slices, size=self.size)

    def did_chains(self, me: PeerID, slot: Slot, work: Work, began: int) -> None:
        """A peer's chains are over; `began`: the attempts it had been in before."""
        machine, peer = self.machine(me), self.peers[me]
        self._later(self._delay(), me, lambda: machine.trained(slot, work) if began == peer.work else None)

    def again(self, me: PeerID, asked: Recompute) -> Again:
        """What a checker gets for a slice of a chain, or one microbatch of it."""
        assert asked.tensors is not None
        model = self.manifest.model
        return again(asked.order, asked.slice, asked.tensors, model.shards, model.boundary, self.size)

    def recompute(self, me: PeerID, order: Order, index: int) -> np.ndarray | None:
        """What a checker gets for one slice of another's order."""
        return virtual_slice(order, index, self.size)

    def energy(self, me: PeerID, tokens: int) -> EnergyClaim | None:
        """What a peer claims to have used; a test may have it keep an account, or forge one."""
        return None

    def trial(self, me: PeerID, order: Order) -> tuple[tuple[int, ...], ...]:
        """The sketches that a newcomer sends of its trial."""
        return tuple(
            sketch(virtual_slice(order, index, self.size), sketch_seed(order.seed, index))
            for index in range(len(order.slices))
        )

    def _ask(self, me: PeerID, key: int, to: PeerID, raw: bytes) -> None:
        """Ask as gRPC would: an answer, or nothing where it is refused or nobody is there."""
        machine = self.machine(me)

        def arrive() -> None:
            target, answer = self.peers.get(to), None
            if target is not None and target.machine is not None and not self.cut(me, to):
                try:
                    answer = self.answer(me, to, raw)
                except MessageRefused as refusal:
                    target.unanswered.append(str(refusal))
            pause = 0.0 if answer is not None else 2.0
            self._later(self._delay() + pause, me, lambda: machine.answered(key, answer))

        self.at(self.now + self._delay(), arrive)

    def answer(self, sender: PeerID, to: PeerID, raw: bytes) -> list[bytes] | None:
        """What `to` answers; a test may have it lie or say nothing. Raises MessageRefused."""
        return self.machine(to).answer(sender, raw)

    def _transfer(self, me: PeerID, sent: SendPart | SendSum) -> None:
        """Deliver a part or a sum, as the gRPC stream would: in full, or the sender hears it failed."""
        machine = self.machine(me)
        data = sent.data.copy()

        def failed() -> Iterable[Effect]:
            return machine.part_failed(sent) if isinstance(sent, SendPart) else ()

        def arrive(tries: int = 0) -> None:
            target = self.peers.get(sent.to)
            if self.peers[me].machine is not machine:
                return
            if target is None or target.machine is None or self.cut(me, sent.to):
                self._later(0.1, me, failed)
                return
            try:
                room = target.machine.room(me, sent.header)
                if len(room) != len(data):
                    raise MessageRefused("transfer: of another size than its header says")
                room[:] = data
                effects = target.machine.arrived(me, sent.header, room)
            except NotYet:
                if tries < 40:
                    self.at(self.now + 0.1, lambda: arrive(tries + 1))
                return
            except MessageRefused as refusal:
                target.refusals.append(str(refusal))
                self._later(self._delay(), me, failed)
                return
            self._later(0.0, sent.to, lambda: effects)

        self.at(self.now + self._delay(), arrive)

    def _meet(self, me: PeerID, meet: Meet, work: int) -> None:
        """Matchmaking: the group is complete when the whole roster is here, or at the first deadline."""
        peer = self.peers[me]
        waiting = self._meetings.setdefault(meet.key, {})

        def answer(group: dict[PeerID, bytes] | None) -> None:
            self._later(self._delay(), me, lambda: self._met(me, meet, work, group))

        waiting[me] = (meet, answer)
        reachable = {other for other in waiting if not self.cut(me, other)}
        if len(reachable) == len(meet.roster):
            self._form(waiting, reachable)
            return

        def deadline() -> None:
            if waiting.get(me) != (meet, answer) or peer.machine is None:
                return
            reachable = {other for other in waiting if not self.cut(me, other)}
            if len(reachable) >= meet.minimum:
                self._form(waiting, reachable)
            else:
                waiting.pop(me)
                answer(None)

        self.at(self.now + meet.seconds, deadline)

    def _form(
        self,
        waiting: dict[PeerID, tuple[Meet, Callable[[dict[PeerID, bytes] | None], None]]],
        members: set[PeerID],
    ) -> None:
        group = {member: waiting[member][0].advert for member in sorted(members)}
        for member in sorted(members):
            waiting.pop(member)[1](dict(group))

    def _met(self, me: PeerID, meet: Meet, work: int, group: dict[PeerID, bytes] | None) -> Iterable[Effect]:
        return self.machine(me).met(meet.slot, group) if work == self.peers[me].work else ()

    def _served(self, me: PeerID, round_: int) -> list[Effect]:
        """The records from `round_` on, from whichever reachable peer has most."""
        served: list[bytes] = []
        for other, peer in self.peers.items():
            if other != me and peer.machine is not None and not self.cut(me, other):
                records = peer.disk.decided
                newer = [raw for raw in records if _round_of(raw) >= round_]
                served = max(served, newer, key=len)
        return self.machine(me).learn(served)

    def _fetch(self, me: PeerID, snapshot: bytes) -> None:
        def download() -> Iterable[Effect]:
            others = [p for q, p in self.peers.items() if p.machine is not None and not self.cut(me, q)]
            if any(snapshot in peer.disk.snapshots for peer in [*others, self.peers[me]]):
                self.peers[me].disk.snapshots.add(snapshot)
                return self.machine(me).fetched(snapshot)
            return ()

        self._later(0.5, me, download)

    def _tend(self, me: PeerID, seconds: float) -> None:
        """A peer that watches follows the records, gets the snapshot, and asks to be taken in."""

        def tend() -> Iterable[Effect]:
            self._tend(me, 1.0)
            machine = self.machine(me)
            if machine.phase is not Phase.WATCH:
                return ()
            effects = self._served(me, machine.history.round + 1)
            if machine.phase is Phase.WATCH and machine.snapshot != machine.target:
                self._fetch(me, machine.target)
            elif machine.phase is Phase.WATCH and me not in machine.history.roster:
                order = machine.trial()
                trial = () if order is None else self.trial(me, order)
                join = machine.join(order, trial, None)
                for member in machine.history.members:
                    self._tell(me, member, join)
            return effects

        self._later(seconds, me, tend)


def _round_of(raw: bytes) -> int:
    return Decided.parse(raw).round
