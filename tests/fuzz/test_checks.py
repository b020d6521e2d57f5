"""Live peers of a run, one of which babbles: in its statements, its questions, its answers, its transfers.

Nothing that it says stops an honest peer or has one banned; whom honest peers find guilty is guilty for
everybody who reads the same evidence.
"""

import copy
import dataclasses
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.interface import SendPart, SendSum
from swarm.effects import Meet, Work
from swarm.openings import EvidenceAsked, ShownAsked
from swarm.order import Order
from swarm.testing import CHUNK, VirtualSwarm, made_of, virtual_manifest
from tests.fuzz.mutate import MORE, Mutator, try_all
from tests.verify import checked
from tests.verify.checked import Bend
from verify.check import ChunksAsked, Computed, SequencesAsked
from verify.evidence import EvidenceRefused, PortableEvidence, examine
from verify.evidence import Rules as EvidenceRules
from verify.sketch import WIDTH


def bent_list(mutator: Mutator, answer: list[bytes]) -> list[bytes]:
    """A nearly true answer: statements missing, doubled, in another order, or some of them mutated."""
    choose, answer = mutator.random, list(answer)
    at = choose.randrange(len(answer) + 1)
    match choose.randrange(12):
        case 0:
            return answer[:at]
        case 1:
            return answer[:at] + answer[at + 1 :]
        case 2:
            return answer[:at] + answer[at : at + 1] + answer[at:]
        case 3:
            choose.shuffle(answer)
            return answer
        case 4:
            return answer * 2
        case 5:
            return [mutator.mutated(raw) for raw in answer]
    for place in {choose.randrange(len(answer)) for _ in range(choose.choice((1, 1, 2)))} if answer else ():
        answer[place] = mutator.mutated(answer[place])
    return answer


class Babbling(VirtualSwarm):
    """One member's words are mutated at the rate `share`; half of them it signs anew."""

    def __init__(self, seed: int, share: float, mode: str = "secure", data: str = "shared") -> None:
        verification = "rate = 1.0\nchunk_fraction = 0.2"
        manifest = virtual_manifest(5, mode, verification=verification, data=f'mode = "{data}"')
        self.share, self.said = share, Counter[str]()
        self.liar: PeerID = ""
        super().__init__(4, 5, seed, manifest)
        self.liar = max(self.peers)
        self.mutator = Mutator(f"checks {seed}", [b"\x84"], {self.liar: self.peers[self.liar].identity})
        self.filter = self._babble

    def _bend(self, raw: bytes, what: str) -> bytes:
        self.mutator.seeds.append(raw)
        if len(self.mutator.seeds) > 400:
            del self.mutator.seeds[1]
        if self.mutator.random.random() >= self.share:
            return raw
        self.said[what] += 1
        return self.mutator.mutated(raw)

    def _babble(self, sender: PeerID, to: PeerID, raw: bytes) -> Iterable[tuple[float, bytes]]:
        if sender != self.liar:
            return [(0.0, raw)]
        return [(0.0, self._bend(raw, "told")), (0.01, self._bend(raw, "told"))]

    def _transfer(self, me: PeerID, sent: SendPart | SendSum) -> None:
        if me == self.liar:
            changed = copy.copy(sent)
            object.__setattr__(changed, "header", self._bend(sent.header, "transfer"))
            super()._transfer(me, changed)
        super()._transfer(me, sent)

    def _meet(self, me: PeerID, meet: Meet, work: int) -> None:
        if me == self.liar and self.mutator.random.random() < self.share / 8:
            object.__setattr__(meet, "advert", self._bend(meet.advert, "advert"))
        super()._meet(me, meet, work)

    def answer(self, sender: PeerID, to: PeerID, raw: bytes) -> list[bytes] | None:
        """Answers of the liar are bent as lists too; its questions come in many forms."""
        if sender == self.liar:
            for _ in range(3):
                try:
                    super().answer(sender, to, self.mutator.mutated(raw))
                except MessageRefused:
                    self.said["question"] += 1
        answer = super().answer(sender, to, raw)
        if to != self.liar or answer is None:
            return answer
        self.said["answer"] += 1
        return bent_list(self.mutator, answer)

    # -- what must hold ---------------------------------------------------------------------------------

    @property
    def honest(self) -> list[PeerID]:
        return [peer for peer in self.peers if peer != self.liar]

    def check(self) -> Counter[str]:
        """All honest peers end alike, none is banned, and their evidence is evidence. The refusals' names."""
        finals = {self.peers[peer].final for peer in self.honest}
        assert len(finals) == 1, finals
        assert None not in finals
        refused: Counter[str] = Counter()
        for peer in self.honest:
            machine = self.machine(peer)
            assert set(machine.history.conduct.bans) <= {self.liar}
            refused += Counter(machine.refused)
            for raw in self.peers[peer].disk.evidence.values():
                self._examine(PortableEvidence.parse(raw))
        return refused

    def _examine(self, case: PortableEvidence) -> None:
        rules = EvidenceRules(np.dtype("<i2"), CHUNK, lambda ints, weight: not self.insane(ints, weight))
        if case.against != self.liar:  # kept as it is told of; whoever accuses so is to be found a liar
            with pytest.raises(EvidenceRefused):
                examine(case, rules)


@pytest.mark.parametrize(
    ("mode", "data", "share"),
    [("secure", "shared", 0.1), ("secure", "own", 0.3), ("plain", "shared", 0.1), ("plain", "shared", 0.6)],
)
def test_a_run_stands_whatever_one_member_babbles(mode: str, data: str, share: float) -> None:
    refused, said = Counter[str](), Counter[str]()
    for seed in range(3 * MORE):
        swarm = Babbling(seed, share, mode, data)
        swarm.run()
        refused += swarm.check()
        said += swarm.said
    assert len(refused) >= 5, refused
    assert min(said[what] for what in ("told", "transfer", "question", "answer")) > 0, said


# -- one check, over and over -----------------------------------------------------------------------------


def other_than_committed(order: Order, true: list[np.ndarray]) -> Work:
    """A liar that commits to its true slices and sends more."""
    work = made_of(order, true)
    work.update[:] += 7
    return work


def other_than_computed(order: Order, true: list[np.ndarray]) -> Work:
    """A liar that commits to slices that nobody else gets."""
    return made_of(order, [slice_[::-1].copy() for slice_ in true])


def other_order(order: Order, true: list[np.ndarray]) -> Work:
    """A liar that does not compute what was drawn, and says so."""
    return made_of(dataclasses.replace(order, slices=order.slices[::-1]), true)


@pytest.mark.parametrize("secure", [True, False], ids=["masked", "plain"])
@pytest.mark.parametrize("bend", [None, other_than_committed, other_than_computed])
def test_every_accusation_that_a_checker_makes_is_upheld(secure: bool, bend: Bend | None) -> None:
    """Whatever is answered, a check ends; an accusation that others refuse would ban the checker."""
    court = checked.court(secure, bend)
    liar = court.liar
    keys, name = {liar: court.swarm.peers[liar].identity}, f"check {secure} {bend and bend.__name__}"
    mutator = Mutator(name, [b"\x84"], keys, signs=0.95)
    outcomes, kinds = Counter[str](), Counter[str]()

    def lie(hand: checked.Hand, domain: str, true: list[bytes]) -> list[bytes]:
        mutator.seeds = true or [b"\x84"]
        return bent_list(mutator, true)

    for _ in range(150 * MORE):
        found = court.look(lie=lie)
        outcomes[found.outcome] += 1
        if found.evidence is not None:
            kinds[found.evidence.kind] += 1
            assert found.evidence.against == liar
            assert court.holds(court.case(found)), (
                found.evidence.kind,
                [s.hex() for s in found.evidence.statements],
            )
    assert outcomes["silent"] > 5, outcomes
    assert kinds or bend is None, "some of what a liar signs convicts it"


@pytest.mark.parametrize("secure", [True, False], ids=["masked", "plain"])
def test_whatever_is_asked_is_answered_or_refused(secure: bool) -> None:
    """Every kind of question to a live peer, mutated, by a drawn checker, another member, and a stranger."""
    court = checked.court(secure)
    peer = court.liar
    machine, drawn = court.swarm.machine(peer), court.drawn(peer)
    checker, session = court.draw_of(peer).checkers[0], drawn.transcript.session
    asked = [
        EvidenceAsked(evidence=bytes(32)),
        SequencesAsked(session=session),
        Computed(session=session, checked=peer, sketch=(0,) * WIDTH),
        ChunksAsked(session=session, chunks=(0,)),
        ShownAsked(session=session, chunk=0),
    ]
    keys = {member: court.swarm.peers[member].identity for member in court.members}
    mutator = Mutator(f"asked {secure}", [court.sign(checker, message) for message in asked], keys)

    def ask(raw: bytes) -> None:
        drawn.asked.clear()
        sender = mutator.random.choice([checker, checker, *court.members, "12D3KooW"])
        assert all(isinstance(one, bytes) for one in machine.answer(sender, raw))

    try_all(ask, mutator.inputs(3_000)).check(various=10, taken=5)
