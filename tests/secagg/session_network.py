"""Sessions wired together for tests: an ordered queue of deliveries to drop, double, delay or shuffle.

What is deterministic (keys, signatures, opening a statement) is remembered between cells, so that tests can
walk thousands of them.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from blake3 import blake3

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from secagg.interface import (
    FROM,
    Completed,
    Effect,
    Failed,
    Job,
    NotYet,
    SendPart,
    SendSum,
    Step,
    Tell,
    Terms,
    Wait,
)
from secagg.keys import Secrets, public_key
from secagg.messages import Advert, Part, PartSum, SessionMessage, seed_commitment
from secagg.session import Session
from verify.identity import Identity
from verify.record import colluders, thresholds
from verify.statement import domain_of, open_signed, sign

CHUNK = 8
HOLD = 10.0
"""Seconds that a member holds a transfer it cannot take yet, before it refuses it."""
KINDS: dict[str, type[SessionMessage]] = {kind.DOMAIN: kind for kind in FROM}
IDENTITIES = sorted(
    (Identity.from_seed(bytes([100, index]) + bytes(30)) for index in range(8)), key=lambda i: i.peer_id
)
KEYS = {identity.peer_id: identity for identity in IDENTITIES}


def advert_of(peer: PeerID, **changes: object) -> Advert:
    secrets = secrets_of(peer)
    fields: dict[str, object] = {
        "run": bytes(32),
        "round": 1,
        "attempt": 0,
        "shard": 0,
        "snapshot": bytes(32),
        "sequence": 1,
        "weight": 1,
        "tokens": 1,
        "commitment": bytes(32),
        "seed_commitment": seed_commitment(secrets.seed),
        "seal_key": _public_key(secrets.seal),
        "mask_key": _public_key(secrets.mask),
        "loss": 1,
        "heldout": 1,
        "accused": (),
        "data_root": None,
        "data_count": 0,
        "head_size": 0,
        "head_root": bytes(32),
        "energy": None,
        "chains": (),
    }
    return Advert.model_validate(fields | changes)


_public_key = lru_cache(maxsize=64)(public_key)


@lru_cache(maxsize=64)
def secrets_of(peer: PeerID) -> Secrets:
    return Secrets(*(blake3(peer.encode() + bytes([use])).digest() for use in range(4)))


def threshold_of(n: int) -> int:
    """The share threshold of a cell that is the whole roster."""
    return thresholds(n, n, secure=True)[0]


@lru_cache(maxsize=8_192)
def signed_by(peer: PeerID, message: Message) -> bytes:
    """The statement of `message` by `peer`."""
    return sign(KEYS[peer], message)


@lru_cache(maxsize=8_192)
def check(raw: bytes, kind: type[Message]) -> tuple[PeerID, Message]:
    signed = open_signed(raw, kind)
    return signed.signer, signed.message


@dataclass
class Cell:
    """`n` sessions. `dead`: members that do nothing from now on. `on_effect`: a test's hand in it.

    `late`: effects that are carried out once nothing else is under way, before the next timer; `last`: once
    no timer is left either; an effect among the `timers` is carried out at its time. `vectors`: the members'
    updates where they are not random. `owners`: places of the members that own parts, if not all that mask.
    """

    n: int
    size: int = 60
    minimum: int = 3
    seed: int = 0
    proposer: int = 0
    attempt: int = 0
    secure: bool = True
    dead: set[PeerID] = field(default_factory=set)
    outcome: dict[PeerID, Completed | Failed] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    shuffle: bool = False
    double: bool = False
    vectors: Mapping[PeerID, np.ndarray] | None = None
    owners: tuple[int, ...] = ()
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.peers = [identity.peer_id for identity in IDENTITIES[: self.n]]
        numbers = np.random.default_rng(self.seed)
        self.updates = {p: numbers.integers(-1000, 1000, self.size, dtype=np.int16) for p in self.peers}
        self.updates.update(self.vectors or {})
        keys = {} if self.secure else {"seal_key": None, "mask_key": None}
        adverts = {p: advert_of(p, attempt=self.attempt, **keys) for p in self.peers}
        signed = {p: (signed_by(p, a), a) for p, a in adverts.items()}
        threshold = threshold_of(self.n) if self.secure else 0
        self.minimum = max(self.minimum, threshold)
        proposer = self.peers[self.proposer]
        owners = tuple(self.peers[place] for place in self.owners)
        terms = Terms(self.minimum, proposer, 20.0, 5.0, self.chunk, owners, threshold, colluders(self.n))
        self.sessions = {
            p: Session(
                p,
                signed,
                self.updates[p].copy(),
                secrets_of(p),
                [],
                terms,
                lambda m, p=p: signed_by(p, m),
                check,
            )
            for p in self.peers
        }
        self.queue: list[tuple[PeerID, Callable[[], None]]] = []
        self.timers: list[tuple[float, PeerID, str | Effect]] = []
        self.now = 0.0
        self.held: list[tuple[float, Step, PeerID, SendPart | SendSum]] = []
        self.late: list[tuple[PeerID, Effect]] = []
        self.last: list[tuple[PeerID, Effect]] = []
        self.on_effect: Callable[[PeerID, Effect], bool] = lambda peer, effect: True

    def run(self) -> "Cell":
        """Start everyone alive, deliver everything, then let timers run out, until nothing is left."""
        for peer in self.peers:
            if peer not in self.dead:
                self.do(peer, self.sessions[peer].start())
        while True:
            while self.queue:
                at = self.random.randrange(len(self.queue)) if self.shuffle else 0
                to, action = self.queue.pop(at)
                if to not in self.dead:
                    action()
            if not self._next():
                return self

    def _next(self) -> bool:
        """What comes when nothing is under way; False: nothing more."""
        if not self.late and not self.timers:
            self.late, self.last = self.last, []
        if self.late:
            late, self.late = self.late, []
            for peer, effect in late:
                self.emit(peer, effect)
            return True
        if self._take_up_held():
            return True
        if self.timers:
            self.timers.sort(key=lambda timer: timer[0])
            self.now, peer, due = self.timers.pop(0)
            if not isinstance(due, str):
                self.emit(peer, due)
            elif peer not in self.dead:
                self.do(peer, self.sessions[peer].elapsed(due))
            return True
        return False

    def _take_up_held(self) -> bool:
        """Transfers whose target has moved on, and those that have been held for too long."""
        held, self.held = self.held, []
        for since, step, me, sent in held:
            if self.sessions[sent.to].step is not step:
                self.later(me, lambda m=me, s=sent: self.transfer(m, s))  # type: ignore[misc]
            elif sent.to in self.dead or self.now >= since + HOLD or not self.timers:
                self.later(me, lambda m=me, s=sent: self.failed(m, s))  # type: ignore[misc]
            else:
                self.held.append((since, step, me, sent))
        return bool(self.queue)

    def do(self, me: PeerID, effects: list[Effect]) -> None:
        for effect in effects:
            if me not in self.dead and self.on_effect(me, effect):
                self.emit(me, effect)

    def emit(self, me: PeerID, effect: Effect) -> None:
        """Carry out an effect, whatever `on_effect` says."""
        match effect:
            case Tell(to):
                for _ in range(2 if self.double else 1):
                    self.later(to, lambda: self.tell(me, effect.to, effect.raw))
            case SendPart() | SendSum():
                for _ in range(2 if self.double else 1):
                    self.later(me, lambda: self.transfer(me, effect))
            case Job(_, name, run):
                self.later(me, lambda: self.finish(me, name, run))
            case Wait(name, seconds):
                self.timers.append((self.now + seconds, me, name))
            case Completed() | Failed():
                assert me not in self.outcome, "a session ends once"
                self.outcome[me] = effect

    def later(self, to: PeerID, action: Callable[[], None]) -> None:
        self.queue.append((to, action))

    def finish(self, me: PeerID, name: tuple[str | int, ...], run: Callable[[], object]) -> None:
        self.attempt_it(lambda: self.do(me, self.sessions[me].job_done(name, run())))

    def tell(self, sender: PeerID, to: PeerID, raw: bytes) -> None:
        self.attempt_it(lambda: self.do(to, self.sessions[to].receive(sender, raw, KINDS[domain_of(raw)])))

    def attempt_it(self, action: Callable[[], None]) -> None:
        try:
            action()
        except MessageRefused as refusal:
            self.refusals.append(str(refusal))

    def transfer(self, me: PeerID, sent: SendPart | SendSum) -> None:
        target = self.sessions[sent.to]
        kind = Part if isinstance(sent, SendPart) else PartSum
        if sent.to in self.dead:
            return self.failed(me, sent)
        try:
            room = target.room(me, sent.header, kind)
            assert len(room) == len(sent.data)
            room[:] = sent.data
            self.do(sent.to, target.arrived(me, sent.header, kind, room))
        except NotYet:
            self.held.append((self.now, target.step, me, sent))
        except MessageRefused as refusal:
            self.refusals.append(str(refusal))
            self.failed(me, sent)

    def failed(self, me: PeerID, sent: SendPart | SendSum) -> None:
        """The transfer did not succeed: the sender of a part is told so."""
        if isinstance(sent, SendPart):
            self.do(me, self.sessions[me].part_failed(sent.part, sent.to))

    # -- what must hold ---------------------------------------------------------------------------------

    def completed(self) -> dict[PeerID, Completed]:
        return {p: done for p, done in self.outcome.items() if isinstance(done, Completed)}

    def assert_exact(self) -> None:
        """Whoever completed has the same survivors and exactly numpy's sum over them."""
        done = self.completed()
        assert len({(c.survivors, c.survivor_set) for c in done.values()}) <= 1
        for one in done.values():
            total = np.sum([self.updates[p] for p in one.survivors], axis=0, dtype=np.int16)
            assert one.total.dtype == np.int16
            assert np.array_equal(one.total, total)
            assert len(one.survivors) >= self.minimum
        for peer in self.peers:
            assert peer in self.dead or peer in self.outcome, "every session ends"


FAULTS: dict[str, tuple[type, ...]] = {
    "die": (Tell, SendPart, SendSum, Wait, Job, Completed, Failed),
    "lose": (Tell, SendPart, SendSum, Job),
    "refuse": (SendPart,),
    "late": (Tell, SendPart, SendSum, Job),
    "slow": (Tell, SendPart, SendSum, Job),
    "slower": (Tell, SendPart, SendSum, Job),
    "last": (Tell, SendPart, SendSum, Job, Wait),
    "double": (Tell, SendPart, SendSum),
    "swap": (Tell, SendPart, SendSum, Job),
}
"""What can happen to an effect, and to which: its member dies just before it; it never arrives; its sender
hears that it failed; it is delayed until nothing else is under way, for `SLOW` seconds, or until no timer is
left either; it arrives twice; the member's next effect comes before it."""
SLOW = {"slow": 6.0, "slower": 11.0}
"""Longer than an owner waits for stragglers before its receipt; longer than a transfer is held."""


@dataclass(frozen=True)
class Fault:
    """`kind` happens to effect `at` of the member at `place`; nothing, if that effect cannot suffer it."""

    kind: str
    place: int
    at: int


class Faulty:
    """Lets faults happen to a cell; it notes each member's effects, and at which step its deaths were."""

    def __init__(
        self,
        cell: Cell,
        faults: Sequence[Fault] = (),
        watch: Callable[[PeerID, Effect], None] = lambda peer, effect: None,
    ) -> None:
        self.cell, self.watch = cell, watch
        self.effects = {peer: list[Effect]() for peer in cell.peers}
        self.deaths: list[Step] = []
        self._faults = {(cell.peers[fault.place], fault.at): fault.kind for fault in faults}
        self._swapped: dict[PeerID, Effect] = {}
        cell.on_effect = self._happens

    def _happens(self, peer: PeerID, effect: Effect) -> bool:
        kind = self._faults.get((peer, len(self.effects[peer])), "")
        if kind == "die":
            self.cell.dead.add(peer)
            self.deaths.append(self.cell.sessions[peer].step)
            return False
        self.effects[peer].append(effect)
        self.watch(peer, effect)
        if not isinstance(effect, FAULTS.get(kind, ())):
            kind = ""
        if kind == "swap":
            self.cell.late.append((peer, effect))
            self._swapped[peer] = effect
            return False
        if kind in ("", "double"):
            self.cell.emit(peer, effect)
        match kind:
            case "double":
                self.cell.emit(peer, effect)
            case "refuse" if isinstance(effect, SendPart):
                self.cell.later(peer, lambda: self.cell.failed(peer, effect))
            case "late":
                self.cell.late.append((peer, effect))
            case "slow" | "slower":
                self.cell.timers.append((self.cell.now + SLOW[kind], peer, effect))
            case "last":
                self.cell.last.append((peer, effect))
        swapped = self._swapped.pop(peer, None)
        if swapped is not None:
            waiting = [(one, late) for one, late in self.cell.late if late is not swapped]
            if len(waiting) < len(self.cell.late):
                self.cell.late = waiting
                self.cell.emit(peer, swapped)
        return False
