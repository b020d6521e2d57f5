"""Members that die and messages that are lost, late, doubled or out of turn: one exact sum, or none.

The model test of a session. A cell is run once without faults, and every effect of every member is listed:
everything it tells, sends, computes and waits for. Then it is run again for each of them, with one fault
there. After each run, whatever happened, `Watch` must have seen nothing wrong.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from secagg.interface import FROM, Completed, Effect, Job, SendPart, SendSum, Step, Tell
from secagg.messages import Disclosure, FinalSet, Opening, Release, SetVote, Shown, SurvivorSet
from tests.secagg.session_network import FAULTS, Cell, Fault, Faulty, check
from verify.statement import domain_of

SIZE = 28
"""Four chunks, the last one not full: in a cell of four each member owns one."""


class Watch:
    """Looks at everything that leaves honest members, and says what must never happen."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.sets: dict[bytes, SurvivorSet] = {}  # those that a proposer called final, with enough votes
        self.releases: dict[PeerID, set[bytes]] = {peer: set() for peer in cell.peers}
        self.shown: dict[PeerID, set[str]] = {peer: set() for peer in cell.peers}  # kinds of secrets
        self.said: dict[PeerID, set[bytes]] = {peer: set() for peer in cell.peers}

    def __call__(self, peer: PeerID, effect: Effect) -> None:
        ended = self.cell.outcome.get(peer)
        if ended is not None:
            assert isinstance(ended, Completed), "who failed does nothing more"
            assert isinstance(effect, Tell), "who completed only repeats what it said before"
            assert effect.raw in self.said[peer]
        if isinstance(effect, SendSum):
            self._sum(peer, effect)
        if isinstance(effect, Tell) and effect.raw not in self.said[peer]:
            self.said[peer].add(effect.raw)
            domain = domain_of(effect.raw)
            assert domain != Disclosure.DOMAIN, "honest members have nothing to disclose"
            if domain == FinalSet.DOMAIN:
                self._final(effect.raw)
            if domain == Release.DOMAIN:
                self._release(peer, effect.raw)

    def _final(self, raw: bytes) -> None:
        _, final = check(raw, FinalSet)
        voters = {check(vote, SetVote)[0] for vote in final.votes}
        assert len(voters & set(self.cell.peers)) >= self.cell.minimum
        self.sets[final.survivor_set] = check(final.proposal, SurvivorSet)[1]

    def _release(self, peer: PeerID, raw: bytes) -> None:
        _, release = check(raw, Release)
        self.releases[peer].add(raw)
        assert len(self.releases[peer]) == 1, "a member releases at most once"
        assert release.survivor_set in self.sets, "nobody releases before a set is final"
        survivors = self.sets[release.survivor_set].survivors
        assert (release.seed is not None) == (peer in survivors)
        if release.seed is not None:
            self.shown[peer].add("seed")
        sharing = self.cell.sessions[peer]._sharing
        assert sharing is not None
        place = self.cell.peers.index(peer)
        for (dealer, dealt), share in zip(sharing.dealt.items(), release.shares, strict=True):
            hashes = {"mask": dealt.message.mask_shares, "seed": dealt.message.seed_shares}
            kinds = [k for k in hashes if sharing.share_hash(dealer, peer, k, share) == hashes[k][place]]
            assert kinds == ["seed" if dealer in survivors else "mask"]
            self.shown[dealer].update(kinds)

    def _sum(self, peer: PeerID, sent: SendSum) -> None:
        assert len(self.sets) == 1, "no sum before a set is final"
        where = self.cell.sessions[peer].cut.slices[sent.part]
        (final,) = self.sets.values()
        total = np.sum([self.cell.updates[one][where] for one in final.survivors], axis=0, dtype=np.int16)
        assert np.array_equal(sent.data, total), "also a session that fails later gave out no other sum"

    def finish(self) -> None:
        """What must hold when all is over."""
        self.cell.assert_exact()
        assert len(self.sets) <= 1
        for done in self.cell.completed().values():
            assert done.survivor_set in self.sets
            assert self.sets[done.survivor_set].survivors == done.survivors
        for kinds in self.shown.values():
            assert len(kinds) <= 1, (
                "never a seed's shares and a mask key's shares of one dealer, from whomever"
            )
        for session in self.cell.sessions.values():
            assert session.evidence == [], "nobody lied, nobody is accused"


@dataclass
class Walk:
    """What came out of the cases walked so far."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    deaths: Counter[Step] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)

    def run(self, cell: Cell, faults: Iterable[Fault]) -> Cell:
        watch = Watch(cell)
        faulty = Faulty(cell, list(faults), watch)
        cell.run()
        watch.finish()
        self.cases += 1
        live = len(cell.peers) - len(cell.dead)
        completed = len(cell.completed().keys() - cell.dead)
        self.outcomes["all" if completed == live else "some" if completed else "none"] += 1
        self.deaths.update(faulty.deaths)
        self.shown.update(kind for kinds in watch.shown.values() for kind in kinds)
        return cell


def effects_of(cell: Cell) -> list[list[Effect]]:
    """What each member does in a run without faults."""
    faulty = Faulty(cell)
    cell.run()
    assert len(cell.completed()) == len(cell.peers)
    return list(faulty.effects.values())


def each(kind: str, effects: list[list[Effect]], stride: int = 1) -> list[Fault]:
    """A fault of this kind at every effect of every member that can suffer it, or every `stride`th."""
    found = [
        Fault(kind, place, at)
        for place, own in enumerate(effects)
        for at, effect in enumerate(own)
        if isinstance(effect, FAULTS[kind])
    ]
    return found[::stride]


CELLS = {
    "three members, all needed": {"n": 3},
    "four members, one may be missing": {"n": 4},
    "four members without masks": {"n": 4, "secure": False, "proposer": 2},
}


SPOKEN = {kind.DOMAIN for kind in FROM} - {Disclosure.DOMAIN, Shown.DOMAIN, Opening.DOMAIN}
"""What honest members say; it includes what the proposer says."""


def test_the_list_of_effects_is_that_of_the_whole_protocol() -> None:
    """The walks below go through this list: what is not in it is not tested."""
    four = effects_of(Cell(4, SIZE))
    said = {domain_of(effect.raw) for own in four for effect in own if isinstance(effect, Tell)}
    assert said == SPOKEN
    jobs = {effect.name[0] for own in four for effect in own if isinstance(effect, Job)}
    assert jobs == {"deal", "mask", "part", "sum", "part-sum"}
    for own in four:
        assert sum(isinstance(effect, SendPart) for effect in own) == 3
        assert sum(isinstance(effect, SendSum) for effect in own) == 3
        assert isinstance(own[-1], Completed)


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("which", CELLS)
def test_one_fault_anywhere_never_makes_two_sums_and_ends_every_session(which: str, kind: str) -> None:
    walk, fields = Walk(), CELLS[which]
    faults = each(kind, effects_of(Cell(size=SIZE, **fields)))
    for fault in faults:
        walk.run(Cell(size=SIZE, **fields), [fault])
    n = fields["n"]
    assert walk.cases == len(faults) >= {"refuse": n * (n - 1)}.get(kind, 9 * n)
    if kind in ("late", "swap", "double") or (n == 4 and kind in ("refuse", "slow", "slower")):
        assert walk.outcomes == {"all": walk.cases}, "no order of messages and no short delay costs anything"
        return
    assert walk.outcomes["none"] > 0, "the walk went through failures"
    assert walk.outcomes["all"] > 0 or kind == "refuse", "and through sums"
    if kind == "die":
        assert set(walk.deaths) == set(STEPS if fields.get("secure", True) else STEPS[2:])
        assert walk.deaths.total() == walk.cases


STEPS = [Step.SHARE, Step.READY, Step.MASK, Step.AGREE, Step.UNMASK, Step.DONE]


def test_both_kinds_of_secrets_come_out_in_the_walks() -> None:
    """The promise of one kind a dealer would be empty if only one kind ever came out."""
    walk = Walk()
    for fault in each("lose", effects_of(Cell(4, SIZE)), 5):
        walk.run(Cell(4, SIZE), [fault])
    assert walk.shown["seed"] > 0
    assert walk.shown["mask"] > 0


def test_the_update_of_a_member_outside_the_set_matters_to_nobody() -> None:
    left_out = 0
    for fault in each("lose", effects_of(Cell(4, SIZE)), 2):
        one = Walk().run(Cell(4, SIZE), [fault])
        done = one.completed()
        outside = set(one.peers) - {peer for end in done.values() for peer in end.survivors}
        if not done or not outside:
            continue
        left_out += 1
        extreme = {peer: np.full(SIZE, 32_767, np.int16) for peer in outside}
        other = Walk().run(Cell(4, SIZE, vectors=extreme), [fault]).completed()
        assert done.keys() == other.keys()
        for peer, end in done.items():
            assert end.survivors == other[peer].survivors
            assert end.total.tobytes() == other[peer].total.tobytes()
    assert left_out >= 5


@pytest.mark.parametrize(("n", "owners", "proposer"), [(4, (0, 1), 0), (5, (1, 2, 4), 2)])
def test_the_death_of_a_member_that_owns_nothing_never_costs_the_sum(
    n: int, owners: tuple[int, ...], proposer: int
) -> None:
    def cell() -> Cell:
        return Cell(n, SIZE, owners=owners, proposer=proposer)

    walk, early = Walk(), Walk()
    for fault in each("die", effects_of(cell())):
        if fault.place == proposer:
            continue
        if fault.place not in owners:
            walk.run(cell(), [fault])
        elif fault.at < 5:  # its list is told, and that it is ready
            early.run(cell(), [fault])
    assert set(walk.deaths) == set(STEPS)
    assert walk.outcomes == {"all": walk.cases}
    assert set(early.deaths) == set(STEPS[:2])
    assert early.outcomes == {"all": early.cases}, "nor does any death before masks, but the proposer's"


def test_faults_in_cells_of_five_with_three_owners() -> None:
    walk = Walk()
    effects = effects_of(Cell(5, SIZE, proposer=2, owners=(1, 2, 4)))
    for kind in FAULTS:
        for fault in each(kind, effects, 9):
            walk.run(Cell(5, SIZE, proposer=2, owners=(1, 2, 4)), [fault])
    assert walk.cases >= 90
    assert walk.outcomes["all"] > 60
    assert walk.outcomes["none"] > 0


def test_two_deaths_anywhere_never_make_two_sums_and_end_every_session() -> None:
    """Every pair of members, on a grid of moments that shifts from pair to pair."""
    walk = Walk()
    effects = effects_of(Cell(4, SIZE, proposer=1))
    for number, (one, two) in enumerate(combinations(range(4), 2)):
        for first in range(number % 3, len(effects[one]), 3):
            for second in range((number + first) % 5, len(effects[two]), 5):
                deaths = [Fault("die", one, first), Fault("die", two, second)]
                walk.run(Cell(4, SIZE, proposer=1), deaths)
    assert walk.cases >= 400
    assert set(walk.deaths) >= set(STEPS)
    assert walk.outcomes["none"] > walk.outcomes["all"] > 0


def test_a_part_still_being_checked_when_the_masks_come_off_does_no_harm() -> None:
    """An owner's slow check of one part, beside another owner's slow sum that keeps the session open."""
    walk = Walk()
    effects = effects_of(Cell(4, SIZE))
    checks = [fault for fault in each("slower", effects) if job_at(effects, fault) == "part"]
    sums = [fault for fault in each("slow", effects) if job_at(effects, fault) == "sum"]
    for check_of_part in checks:
        for sum_of_part in sums:
            if sum_of_part.place != check_of_part.place:
                walk.run(Cell(4, SIZE), [check_of_part, sum_of_part])
    assert walk.cases == 4 * 3 * 3
    assert walk.outcomes == {"all": walk.cases}


def job_at(effects: list[list[Effect]], fault: Fault) -> str:
    """What the job that the fault happens to is for."""
    effect = effects[fault.place][fault.at]
    return str(effect.name[0]) if isinstance(effect, Job) else ""


@st.composite
def storms(draw: st.DrawFn) -> tuple[Cell, list[Fault]]:
    """A cell of up to eight and up to eight faults in it."""
    n = draw(st.integers(3, 8))
    owners = draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    cell = Cell(
        n,
        SIZE,
        seed=draw(st.integers(0, 1 << 16)),
        proposer=draw(st.integers(0, n - 1)),
        shuffle=draw(st.booleans()),
        double=draw(st.booleans()),
        owners=tuple(sorted(owners)),
    )
    fault = st.builds(Fault, st.sampled_from(list(FAULTS)), st.integers(0, n - 1), st.integers(0, 12 * n))
    return cell, draw(st.lists(fault, max_size=8))


def test_any_storm_of_faults_leaves_one_sum_or_none() -> None:
    walk = Walk()

    @settings(
        max_examples=100,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(storms())
    def storm(drawn: tuple[Cell, list[Fault]]) -> None:
        walk.run(*drawn)

    storm()
    assert walk.cases >= 100
    assert walk.outcomes["all"] + walk.outcomes["some"] > 10
    assert walk.outcomes["none"] > 10
