"""Checks over real sessions: what a checker makes of true and of lying answers, and what others then find.

A `Court` is a virtual swarm after one round in which everyone was drawn. `look` plays one drawn check from
its first question to its verdict; a test's hand lies in the answers, signed with the checked peer's own key.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from proto.canonical import Message, PeerID
from secagg.messages import Evidence, Opening, Part
from swarm.checks import Drawn
from swarm.effects import Work
from swarm.order import Order
from swarm.testing import CHUNK, VirtualSwarm, made_of, virtual_manifest, virtual_slice
from verify.check import Ask, Check, ChunksAsked, Compute, Computed, Found, Rules, convicts
from verify.commitment import ChunkOpening, SliceOpening, distance
from verify.evidence import EvidenceRefused, PortableEvidence, examine, portable
from verify.evidence import Rules as EvidenceRules
from verify.lottery import Draw
from verify.sketch import WIDTH
from verify.statement import domain_of, open_signed, sign
from verify.work_evidence import read_order, read_update

Bend = Callable[[Order, list[np.ndarray]], Work]
"""What a liar makes of its order, given the true slices."""
Answer = list[bytes] | None
Lie = Callable[["Hand", str, list[bytes]], Answer]
"""(hand, domain of the question, true answer) -> what is answered; None: nothing."""

KINDS: dict[str, type[Message]] = {kind.DOMAIN: kind for kind in (SliceOpening, ChunkOpening, Opening, Part)}
RULES = Rules(5e-3, 0.02)


class Bent(VirtualSwarm):
    """One member, the last, trains as `bend` says."""

    bend: Bend | None = None

    @property
    def liar(self) -> PeerID:
        return max(self.peers)

    def train(self, me: PeerID, order: Order, slices: int) -> Work:
        true = [virtual_slice(order, index, self.size) for index in range(slices)]
        return made_of(order, true) if self.bend is None or me != self.liar else self.bend(order, true)


@dataclass(frozen=True)
class Hand:
    """A liar's: it signs whatever it likes with the liar's key."""

    court: "Court"
    peer: PeerID
    draw: Draw

    def sign(self, message: Message) -> bytes:
        return sign(self.court.swarm.peers[self.peer].identity, message)

    def change(self, raw: bytes, **changes: object) -> bytes:
        """The same statement with other fields, signed anew."""
        message = open_signed(raw, KINDS[domain_of(raw)]).message
        return self.sign(type(message).model_validate(message.model_dump() | changes))

    def first(self, raws: Sequence[bytes], kind: type[Message]) -> int:
        """Where the first statement of a kind stands."""
        return next(at for at, raw in enumerate(raws) if domain_of(raw) == kind.DOMAIN)


@dataclass
class Court:
    """A swarm after a round in which all were drawn. `bend`: what its last member trains."""

    secure: bool = True
    bend: Bend | None = None
    peers: int = 4
    swarm: Bent = field(init=False)

    def __post_init__(self) -> None:
        mode = "secure" if self.secure else "plain"
        self.swarm = Bent(self.peers, 1, 3, virtual_manifest(1, mode, verification="rate = 1.0"))
        self.swarm.bend = self.bend
        self.swarm.answer = lambda sender, to, raw: None  # type: ignore[method-assign]
        self.swarm.run()

    @property
    def members(self) -> list[PeerID]:
        return sorted(self.swarm.peers)

    @property
    def liar(self) -> PeerID:
        return self.swarm.liar

    def drawn(self, peer: PeerID) -> Drawn:
        """The round's session, as a peer keeps it."""
        (drawn,) = self.swarm.machine(peer).checks._drawn.values()
        return drawn

    def draw_of(self, checked: PeerID) -> Draw:
        return next(draw for draw in self.drawn(checked).checks if draw.checked == checked)

    def order_of(self, peer: PeerID) -> Order:
        checks = self.swarm.machine(peer).checks
        return checks._order_of(self.drawn(peer), peer)

    def true(self, peer: PeerID) -> np.ndarray:
        """What any honest machine of this kind computes for the drawn slice."""
        return virtual_slice(self.order_of(peer), self.draw_of(peer).what, self.swarm.size)

    def sign(self, peer: PeerID, message: Message) -> bytes:
        return sign(self.swarm.peers[peer].identity, message)

    def begin(self, peer: PeerID, own: bool = False) -> Check:
        """The drawn checker's side of a check of `peer`."""
        draw = self.draw_of(peer)
        checker, order = draw.checkers[0], self.order_of(peer).digest()
        transcript = self.drawn(checker).transcript
        return Check(draw, transcript, order, own, RULES, lambda m: self.sign(checker, m))

    def computed(self, peer: PeerID, by: PeerID | None = None) -> bytes:
        """The first question about a peer's work, from its drawn checker or another."""
        session = self.drawn(peer).transcript.session
        message = Computed(session=session, checked=peer, sketch=(0,) * WIDTH)
        return self.sign(by or self.draw_of(peer).checkers[0], message)

    def look(
        self,
        checked: PeerID | None = None,
        lie: Lie = lambda hand, domain, true: true,
        mine: np.ndarray | None = None,
    ) -> Found:
        """One check to its end. `mine`: what the checker's machine computes, if it is not like the others."""
        peer = checked or self.liar
        draw = self.draw_of(peer)
        (checker, *_), hand = draw.checkers, Hand(self, peer, draw)
        self.drawn(peer).asked.clear()  # whoever looks again is another checker, to the one that is looked at
        check = self.begin(peer)
        effects = check.start()
        for _ in range(20):
            (effect,) = effects
            match effect:
                case Compute():
                    effects = check.computed(self.true(peer) if mine is None else mine)
                case Ask(to, raw):
                    assert to == peer
                    honest = self.swarm.machine(peer).answer(checker, raw)
                    effects = check.answered(lie(hand, domain_of(raw), honest))
                case Found():
                    return effect
        raise AssertionError("a check ends")

    def case(self, found: Evidence | Found) -> PortableEvidence:
        """The evidence as it travels."""
        evidence = found.evidence if isinstance(found, Found) else found
        assert evidence is not None
        return PortableEvidence.parse(portable(self.swarm.machine(self.liar).history.run, evidence).encode())

    def holds(self, case: PortableEvidence) -> bool:
        """What an honest member finds of it, as `Checks` does."""
        rules = EvidenceRules(np.dtype("<i2"), CHUNK, lambda update, weight: True)
        order = self.order_of(case.against)
        try:
            if case.kind == "order":
                return order.digest() != read_order(case, rules)[1].order
            if case.kind != "update":
                return bool(examine(case, rules))
            read, apart = read_update(case, rules), list[float]()
            again = virtual_slice(order, read.opening.slice, self.swarm.size)
            for opened in read.chunks:
                mine = again[opened.chunk * CHUNK : (opened.chunk + 1) * CHUNK]
                apart.append(distance(mine, np.frombuffer(opened.data, "<i2")))
            return convicts(max(apart), RULES.tolerance) is True
        except EvidenceRefused:
            return False


@lru_cache(maxsize=16)
def court(secure: bool = True, bend: Bend | None = None) -> Court:
    """One that tests share: looking changes nothing in it."""
    return Court(secure, bend)


def at(kinds: Iterable[type[Message]], change: Callable[[Hand, list[bytes]], Answer]) -> Lie:
    """A lie in the answers to these questions only."""
    domains = {kind.DOMAIN for kind in kinds}
    return lambda hand, domain, true: change(hand, list(true)) if domain in domains else true


def opening(change: Callable[[Hand, list[bytes]], Answer]) -> Lie:
    """A lie in the answer to what the checker computed: slice, headers, masks' keys, integers."""
    return at([Computed], change)


def chunks(change: Callable[[Hand, list[bytes]], Answer]) -> Lie:
    """A lie in the integers of chunks that differ."""
    return at([ChunksAsked], change)


def changed(kind: type, **changes: object) -> Lie:
    """The first statement of a kind with other fields; a change may be computed from the message."""

    def change(hand: Hand, raws: list[bytes]) -> Answer:
        place = hand.first(raws, kind)
        message = open_signed(raws[place], kind).message
        values = {name: to(message) if callable(to) else to for name, to in changes.items()}
        raws[place] = hand.change(raws[place], **values)
        return raws

    return opening(change)
