"""Probation as the records have it: who is tried, by whom, and when it is over."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from proto.errors import MessageRefused
from tests.verify.chain import PEERS, begin, decided, goodbye, join, record_after, recovery, said
from verify.carrying import union_of_statements
from verify.probation import PATIENCE
from verify.record import History, RecordRefused, colluders, newcomers, trials
from verify.sketch import WIDTH
from verify.standing import LIFETIME, Verdict

NEW = PEERS[30]
SKETCH = (5,) * WIDTH


def moved(history: History, *carried: bytes) -> History:
    """One record later, with all that it must carry of these."""
    statements = union_of_statements(history, [carried])
    beacon = bytes([history.round + 1]) * 32
    return history.extend(decided(history, record_after(history, statements=statements, beacon=beacon)))


def trial(
    history: History, peer: PeerID = NEW, round_: int | None = None, slices: int | None = None
) -> bytes:
    wanted = history.trial_slices if slices is None else slices
    return join(history, peer, round_, trial=(SKETCH,) * wanted)


def verdicts(
    history: History, outcome: str = "clean", of: PeerID = NEW, by: Sequence[PeerID] = PEERS
) -> list[bytes]:
    """What the drawn checkers say of the trials that are open."""
    return [
        said(
            one.checker,
            Verdict.model_validate(
                {
                    "run": history.run,
                    "round": history.round,
                    "session": name,
                    "checked": of,
                    "slice": one.index,
                    "outcome": outcome,
                    "sketch": SKETCH,
                }
            ),
        )
        for name, one in history.probation.slices.items()
        if one.peer == of and one.checker in by
    ]


def start(size: int = 4, checks: int = 3, **changes: object) -> History:
    return moved(begin(size, probation_checks=checks, largest_cell=32, **changes))


@pytest.mark.parametrize(("size", "checks"), [(1, 1), (3, 2), (4, 3), (8, 3), (16, 2), (20, 1)])
def test_a_newcomer_that_did_its_trial_is_let_in_by_its_next_join(size: int, checks: int) -> None:
    history = start(size, checks)
    history = moved(history, trial(history))
    assert NEW not in history.roster
    drawn = {one.checker for one in history.probation.slices.values()}
    assert len(drawn) == min(size, max(checks, colluders(size) + 1))
    history = moved(history, *verdicts(history))
    assert NEW not in history.roster
    history = moved(history, join(history, NEW))
    assert NEW in history.roster


def test_nobody_gets_in_without_a_trial_or_by_another_number_of_slices() -> None:
    history = start()
    for asked in (join(history, NEW), trial(history, slices=1), trial(history, slices=4)):
        with pytest.raises(RecordRefused, match="3 are asked of"):
            history.admits(asked)
    history = moved(history, trial(history))
    with pytest.raises(RecordRefused, match="still look at the trial"):
        history.admits(trial(history))


def test_an_old_trial_is_refused_since_its_snapshot_is_soon_gone() -> None:
    history = start()
    for _ in range(2):
        history = moved(history)
    history.admits(trial(history, round_=history.round - 1))
    with pytest.raises(RecordRefused, match="do a new one"):
        history.admits(trial(history, round_=history.round - 2))


def test_what_is_found_wrong_lets_nobody_in() -> None:
    history = start()
    history = moved(history, trial(history))
    history = moved(history, *verdicts(history, "wrong"))
    with pytest.raises(RecordRefused):
        history.admits(join(history, NEW))


def test_only_the_drawn_checker_of_a_slice_is_heard_and_once() -> None:
    history = start(8)
    history = moved(history, trial(history))
    (name, one), *_ = history.probation.slices.items()
    fields = {
        "run": history.run,
        "round": history.round,
        "session": name,
        "outcome": "clean",
        "sketch": SKETCH,
    }
    fine = Verdict.model_validate({**fields, "checked": NEW, "slice": one.index})
    for signer in history.members:
        if signer != one.checker:
            with pytest.raises(RecordRefused, match="not drawn"):
                history.subject(said(signer, fine))
    for changes in ({"checked": PEERS[31]}, {"outcome": "silent"}):
        with pytest.raises(RecordRefused, match="not drawn"):
            history.subject(said(one.checker, fine.model_copy(update=changes)))
    history = moved(history, said(one.checker, fine))
    with pytest.raises(MessageRefused, match="before"):
        history.subject(said(one.checker, fine))


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_no_c_members_let_a_name_in_whatever_they_sign(data: st.DataObject) -> None:
    size = data.draw(st.integers(4, 16))
    history = start(size, data.draw(st.integers(1, 4)))
    liars = data.draw(st.permutations(PEERS[:size]))[: colluders(size)]
    for _ in range(data.draw(st.integers(1, 12))):
        carried = [*verdicts(history, by=liars), join(history, NEW)]
        if data.draw(st.booleans()):
            carried.append(trial(history))
        history = moved(history, *carried)
        assert NEW not in history.roster


def test_a_trial_is_looked_at_by_its_own_number_of_slices_though_the_roster_has_grown() -> None:
    before = start(11)
    before = moved(before, trial(before, PEERS[31]))
    before = moved(before, *verdicts(before, of=PEERS[31]))
    after = moved(before, join(before, PEERS[31]))
    assert (before.trial_slices, after.trial_slices) == (3, 4)
    history = moved(after, trial(after, NEW, round_=before.round, slices=4))
    assert [one.count for one in history.probation.slices.values() if one.peer == NEW] == [4] * 4


def test_who_copies_a_join_takes_nothing_from_its_author() -> None:
    history = start(8)
    history = moved(history, trial(history))
    mine = {name for name, one in history.probation.slices.items() if one.peer == NEW}
    history = moved(history, trial(history, PEERS[31], round_=history.round - 1))
    assert {name for name, one in history.probation.slices.items() if one.peer == NEW} == mine
    for raw in verdicts(history):
        history.subject(raw)


def test_one_seat_vouches_once_however_many_keys_sit_in_it() -> None:
    """Two keys that were members take turns in one seat, and both vouch."""
    history = start(5, 1)
    inside, outside = PEERS[3], PEERS[4]
    history = moved(history, goodbye(history, outside))
    for _ in range(40):
        vouched = {one.checker for one in history.probation.passed.get(NEW, {}).values()}
        ours = verdicts(history, by=(PEERS[3], PEERS[4]))
        if inside in vouched:
            history = moved(history, goodbye(history, inside), *ours)
            history = moved(history, join(history, outside))
            inside, outside = outside, inside
        else:
            history = moved(history, trial(history), join(history, NEW), *ours)
    assert {PEERS[3], PEERS[4]} & set(history.roster) == {inside}
    assert NEW not in history.roster


def test_a_full_roster_tries_nobody() -> None:
    history = moved(begin(4, probation_checks=3, largest_cell=4))
    with pytest.raises(RecordRefused, match="full"):
        history.admits(trial(history))


def test_trials_take_turns_and_no_more_are_open_than_the_roster_bears() -> None:
    history, strangers = start(8), PEERS[20:32]
    tried: set[PeerID] = set()
    for _ in range(40):
        carried = [trial(history, peer) for peer in strangers]
        before = set(history.probation.slices)
        history = moved(history, *carried)
        new = {history.probation.slices[name].peer for name in set(history.probation.slices) - before}
        assert len(new) <= trials(8)
        tried |= new
    assert tried == set(strangers)


def test_a_record_with_a_trial_too_many_is_refused() -> None:
    history = start(8)
    statements = tuple(sorted(trial(history, peer) for peer in PEERS[20:22]))
    with pytest.raises(RecordRefused, match="1 tried"):
        history.extend(decided(history, record_after(history, statements=statements)))


def test_trials_take_no_place_of_those_who_are_to_be_let_in() -> None:
    history = start(4)
    history = moved(history, trial(history))
    history = moved(history, *verdicts(history))
    strangers = [trial(history, peer) for peer in PEERS[20:30]]
    history = moved(history, join(history, NEW), *strangers)
    assert NEW in history.roster
    assert len(history.probation.slices) == 2 * history.trial_slices


def test_who_was_a_member_comes_back_without_a_trial() -> None:
    history = start(5)
    gone = PEERS[4]
    history = moved(history, goodbye(history, gone))
    assert gone not in history.roster
    history = moved(history, join(history, gone))
    assert gone in history.roster


def test_whom_the_stewards_take_in_needs_no_trial() -> None:
    history = begin(4, probation_checks=3)
    history.admits(join(history, NEW))  # for the stewards, before the first round
    assert not union_of_statements(history, [[join(history, NEW)]])
    history = history.extend(recovery(history, sorted([*PEERS[:4], NEW]), PEERS[:1]))
    history = moved(history, goodbye(history, NEW))
    assert NEW in moved(history, join(history, NEW)).roster


def test_a_trial_that_nobody_looked_at_may_be_done_again_and_is_forgotten() -> None:
    history = start()
    history = moved(history, trial(history))
    for _ in range(PATIENCE):
        history = moved(history)
    history.admits(trial(history))
    for _ in range(LIFETIME):
        history = moved(history)
    assert not history.probation.slices


def test_without_probation_a_join_is_all_it_takes() -> None:
    history = start(checks=0)
    many = [join(history, peer) for peer in PEERS[20:30]]
    assert len(moved(history, *many).roster) == 4 + newcomers(4)
