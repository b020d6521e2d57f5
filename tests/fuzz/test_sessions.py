"""A live session of honest members and one liar, whose every word is followed by nearly valid ones.

Whatever it says, signed by it or not: members refuse by name or go on; honest sessions end; whom their
evidence convicts is the liar, and a stranger who reads that evidence agrees.
"""

import numpy as np
import pytest

from proto.canonical import PeerID
from secagg.interface import SendPart, SendSum, Tell
from secagg.messages import Part, PartSum
from tests.attacks.liars import RULES, Hand
from tests.fuzz.mutate import MORE, Mutator
from tests.secagg.session_network import KEYS, KINDS, Cell
from tests.verify.lies import RUN
from verify.evidence import PortableEvidence, examine, portable
from verify.statement import domain_of


class Babbler:
    """A liar's hand in a cell: after, before or in place of each of its words come mutated ones."""

    def __init__(self, cell: Cell, place: int, seed: int, instead: bool) -> None:
        self.hand = Hand(cell, place)
        self.cell, self.liar = cell, self.hand.liars[0]
        self.instead, self.said = instead, 0
        # What others say may be repeated under the liar's own name, never under theirs.
        self.mutator = Mutator(f"session {seed}", [b"\x84"], {self.liar: KEYS[self.liar]})
        self._look = cell.on_effect
        cell.on_effect = self._babble

    def _babble(self, me: PeerID, effect: object) -> bool:
        go_on = self._look(me, effect)  # type: ignore[arg-type]
        if isinstance(effect, Tell | SendPart | SendSum):
            self.mutator.seeds.append(effect.raw if isinstance(effect, Tell) else effect.header)
        if me != self.liar:
            return go_on
        match effect:
            case Tell(to, raw):
                for _ in range(5):
                    self._tell(to, raw, domain_of(raw))
                return go_on and not (self.instead and self.mutator.random.random() < 0.3)
            case SendPart() | SendSum():
                for _ in range(5):
                    self._send(effect)
        return go_on

    def _tell(self, to: PeerID, raw: bytes, domain: str) -> None:
        said, kind = self.mutator.mutated(raw), KINDS[domain]
        session, self.said = self.cell.sessions[to], self.said + 1
        act = lambda: self.cell.do(to, session.receive(self.liar, said, kind))  # noqa: E731
        self.cell.later(to, lambda: self.cell.attempt_it(act))

    def _send(self, sent: SendPart | SendSum) -> None:
        header, kind = self.mutator.mutated(sent.header), Part if isinstance(sent, SendPart) else PartSum
        session, self.said = self.cell.sessions[sent.to], self.said + 1
        choose = self.mutator.random.random

        def transfer() -> None:
            room = session.room(self.liar, header, kind)
            room[:] = np.resize(sent.data, room.shape)
            data = room if choose() < 0.8 else room[: len(room) // 2]
            self.cell.do(sent.to, session.arrived(self.liar, header, kind, data))

        self.cell.later(sent.to, lambda: self.cell.attempt_it(transfer))

    def check(self) -> None:
        """What must hold when all is over."""
        for peer in self.hand.honest:
            for found in self.cell.sessions[peer].evidence:
                assert found.against == self.liar, f"an honest member is accused of {found.kind}"
                case = portable(RUN, found)
                assert PortableEvidence.parse(case.encode()) == case
                assert examine(case, RULES).startswith(self.liar)
        for reason in self.cell.refusals:
            assert reason.replace("\n", "").isprintable()
            assert len(reason) < 1_000


def babble(cell: Cell, place: int, seed: int, instead: bool) -> Babbler:
    """Run a cell to its end, and let everyone look at a chunk as if the sum had failed there."""
    babbler = Babbler(cell, place, seed, instead)
    babbler.hand.run()
    for peer in babbler.hand.honest:
        session = cell.sessions[peer]
        cell.do(peer, session.open_chunk(seed % session.chunks, RULES.sane))
    babbler.hand.drain()
    babbler.check()
    return babbler


@pytest.mark.parametrize("place", [0, 2], ids=["proposer", "member"])
@pytest.mark.parametrize("secure", [True, False], ids=["masked", "plain"])
def test_a_session_stands_whatever_one_member_babbles(place: int, secure: bool) -> None:
    said, refusals, convicted = 0, set[str](), 0
    for seed in range(14 * MORE):
        cell = Cell(4, seed=seed, secure=secure, shuffle=seed % 3 == 1)
        babbler = babble(cell, place, seed, instead=seed % 2 == 1)
        said += babbler.said
        refusals |= {reason.split(":")[0] for reason in cell.refusals}
        convicted += any(cell.sessions[peer].evidence for peer in babbler.hand.honest)
    assert said > 14 * MORE * 20
    assert len(refusals) >= 8, refusals
    assert convicted or not secure, "some of what the liar signed convicts it"


def test_babble_that_is_not_signed_by_the_liar_changes_nothing() -> None:
    """Mutations that nobody signed are refused one by one: the sum is exact, with all members in it."""
    for seed in range(8 * MORE):
        cell = Cell(4, seed=seed)
        babbler = Babbler(cell, 0, seed, instead=False)
        babbler.mutator._keys.clear()
        babbler.hand.run()
        cell.assert_exact()
        assert len(cell.completed()) == 4
        assert all(done.survivors == tuple(cell.peers) for done in cell.completed().values())
        assert not any(cell.sessions[peer].evidence for peer in cell.peers)
