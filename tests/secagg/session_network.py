"""Sessions wired together for tests: an ordered queue of deliveries to drop, double or shuffle."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from secagg.messages import Advert, Delivered, FinalSet, Part, PartSum, SetVote, SurvivorSet, seed_commitment
from secagg.session import (
    Completed,
    Effect,
    Failed,
    NotYet,
    SendPart,
    SendSum,
    Session,
    Tell,
    Terms,
    Wait,
)
from verify.identity import Identity
from verify.statement import domain_of, open_signed, sign

CHUNK = 8
KINDS: dict[str, type[Message]] = {kind.DOMAIN: kind for kind in (Delivered, SurvivorSet, SetVote, FinalSet)}
IDENTITIES = sorted(
    (Identity.from_seed(bytes([100, index]) + bytes(30)) for index in range(8)), key=lambda i: i.peer_id
)
KEYS = {identity.peer_id: identity for identity in IDENTITIES}


def advert_of(peer: PeerID, **changes: object) -> Advert:
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
        "seed_commitment": seed_commitment(seed_of(peer)),
        "loss": 1,
        "heldout": 1,
        "data_root": None,
        "data_count": 0,
    }
    return Advert.model_validate(fields | changes)


def seed_of(peer: PeerID) -> bytes:
    return peer.encode()[-32:]


def check(raw: bytes, kind: type[Message]) -> tuple[PeerID, Message]:
    signed = open_signed(raw, kind)
    return signed.signer, signed.message


@dataclass
class Cell:
    """`n` sessions. `dead`: members that do nothing from now on. `on_effect`: a test's hand in it."""

    n: int
    size: int = 60
    minimum: int = 3
    seed: int = 0
    proposer: int = 0
    attempt: int = 0
    dead: set[PeerID] = field(default_factory=set)
    outcome: dict[PeerID, Completed | Failed] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    shuffle: bool = False
    double: bool = False

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.peers = [identity.peer_id for identity in IDENTITIES[: self.n]]
        numbers = np.random.default_rng(self.seed)
        self.updates = {p: numbers.integers(-1000, 1000, self.size, dtype=np.int16) for p in self.peers}
        adverts = {p: advert_of(p, attempt=self.attempt) for p in self.peers}
        signed = {p: (sign(KEYS[p], a), a) for p, a in adverts.items()}
        terms = Terms(self.minimum, self.peers[self.proposer], 20.0, 5.0, CHUNK)
        self.sessions = {
            p: Session(
                p,
                signed,
                self.updates[p].copy(),
                seed_of(p),
                [],
                terms,
                lambda m, p=p: sign(KEYS[p], m),
                check,
            )
            for p in self.peers
        }
        self.queue: list[tuple[PeerID, Callable[[], None]]] = []
        self.timers: list[tuple[float, PeerID, str]] = []
        self.now = 0.0
        self.on_effect: Callable[[PeerID, Effect], bool] = lambda peer, effect: True

    def run(self) -> "Cell":
        """Start everyone alive, deliver everything, then let timers run out, until nothing is left."""
        for peer in self.peers:
            if peer not in self.dead:
                self.do(peer, self.sessions[peer].start())
        while self.queue or self.timers:
            while self.queue:
                at = self.random.randrange(len(self.queue)) if self.shuffle else 0
                to, action = self.queue.pop(at)
                if to not in self.dead:
                    action()
            if self.timers:
                self.timers.sort(key=lambda timer: timer[0])
                self.now, peer, name = self.timers.pop(0)
                if peer not in self.dead:
                    self.do(peer, self.sessions[peer].elapsed(name))
        return self

    def do(self, me: PeerID, effects: list[Effect]) -> None:
        for effect in effects:
            if me in self.dead or not self.on_effect(me, effect):
                continue
            match effect:
                case Tell(to):
                    for _ in range(2 if self.double else 1):
                        self.later(to, lambda e=effect: self.tell(me, e.to, e.raw))  # type: ignore[misc]
                case SendPart() | SendSum():
                    self.later(me, lambda e=effect: self.transfer(me, e))  # type: ignore[misc]
                    if self.double:
                        self.later(me, lambda e=effect: self.transfer(me, e))  # type: ignore[misc]
                case Wait(name, seconds):
                    self.timers.append((self.now + seconds, me, name))
                case Completed() | Failed():
                    assert me not in self.outcome, "a session ends once"
                    self.outcome[me] = effect

    def later(self, to: PeerID, action: Callable[[], None]) -> None:
        self.queue.append((to, action))

    def tell(self, sender: PeerID, to: PeerID, raw: bytes) -> None:
        try:
            self.do(to, self.sessions[to].receive(sender, raw, KINDS[domain_of(raw)]))
        except MessageRefused as refusal:
            self.refusals.append(str(refusal))

    def transfer(self, me: PeerID, sent: SendPart | SendSum, tries: int = 0) -> None:
        session, target = self.sessions[me], self.sessions[sent.to]
        kind = Part if isinstance(sent, SendPart) else PartSum
        if sent.to in self.dead:
            if isinstance(sent, SendPart):
                self.do(me, session.part_failed(sent.part, sent.to))
            return
        try:
            assert target.expect(me, sent.header, kind) == len(sent.data)
            if isinstance(sent, SendSum):
                self.do(sent.to, target.sum_arrived(me, sent.header, sent.data.copy()))
                return
            receipt = target.part_arrived(me, sent.header, sent.data.copy())
        except NotYet:
            if tries < 200:
                self.later(me, lambda: self.transfer(me, sent, tries + 1))
        except MessageRefused as refusal:
            self.refusals.append(str(refusal))
            if isinstance(sent, SendPart):
                self.do(me, session.part_failed(sent.part, sent.to))
        else:
            self.later(me, lambda: self.do(me, session.part_acknowledged(sent.part, sent.to, receipt)))

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
