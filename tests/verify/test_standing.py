"""Strikes and bans are a function of the records: no few members bring them about, or keep them away."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID, tagged_hash
from proto.errors import MessageRefused
from tests.verify.chain import PEERS, begin, decided, follow, goodbye, join, record_after, recovery, said
from verify.carrying import binds, leaves_out, union_of_statements
from verify.lottery import checkers
from verify.record import History, Join, RecordRefused, colluders
from verify.sketch import WIDTH
from verify.standing import (
    CONTRADICTED,
    FALSE_ACCUSATION,
    LIFETIME,
    MOST_OPEN,
    SILENCE,
    Conduct,
    Judgement,
    Verdict,
)
from verify.statement import domain_of, open_signed

EVIDENCE = bytes([9]) * 32
VICTIM = PEERS[7]
TRUE = (1_000, -2_000) * (WIDTH // 2)
"""What an honest machine signs of a slice, and below what another honest one does."""
NEARLY = (1_001, *TRUE[1:])
FALSE = (0,) * WIDTH
Found = dict[PeerID, bool]


def judgement(
    against: PeerID = VICTIM, holds: bool = True, evidence: bytes = EVIDENCE, kind: str = "update"
) -> Judgement:
    return Judgement(run=bytes(32), round=0, evidence=evidence, kind=kind, against=against, holds=holds)


def session_of(number: int) -> bytes:
    return tagged_hash("session", number.to_bytes(8, "big"))


def verdict(
    checked: PeerID = VICTIM,
    outcome: str = "silent",
    session: int = 0,
    round_: int = 0,
    sketch: tuple[int, ...] | None = None,
) -> Verdict:
    return Verdict.model_validate(
        {
            "run": bytes(32),
            "round": round_,
            "session": session_of(session),
            "checked": checked,
            "slice": 0,
            "outcome": outcome,
            "sketch": TRUE if sketch is None and outcome == "clean" else sketch,
        }
    )


def step(
    conduct: Conduct,
    round_: int,
    judgements: Iterable[tuple[PeerID, Judgement]] = (),
    verdicts: Iterable[tuple[PeerID, Verdict]] = (),
    present: Sequence[PeerID] = PEERS[:8],
    roster: Sequence[PeerID] = PEERS[:8],
    strikes: int = 3,
    sessions: Sequence[bytes] = (),
) -> Conduct:
    """One record later; what is not admissible is left out, as a record would."""
    said_, found = list[tuple[PeerID, Verdict]](), list[tuple[PeerID, Judgement]]()
    for signer, one in verdicts:
        try:
            conduct.check_verdict(signer, one)
            said_.append((signer, one))
        except MessageRefused:
            continue
    for signer, each in judgements:
        try:
            conduct.check_judgement(signer, each)
            found.append((signer, each))
        except MessageRefused:
            continue
    return conduct.after(
        round_, said_, found, present, sessions, roster, lambda peer: colluders(len(roster)), strikes
    )


# -- checkers that contradict each other -------------------------------------------------------------------


def test_a_checker_that_more_than_c_others_contradict_has_computed_nothing_and_is_banned() -> None:
    conduct, liar = Conduct(), PEERS[0]
    for at, honest in enumerate(PEERS[1:4]):
        assert liar not in conduct.bans
        both = [
            (liar, verdict(outcome="clean", session=at, sketch=FALSE)),
            (honest, verdict(outcome="clean", session=at)),
        ]
        conduct = step(conduct, at + 1, verdicts=both, sessions=[session_of(at)])
    assert {peer: ban.reason for peer, ban in conduct.bans.items()} == {liar: CONTRADICTED}


def test_machines_that_round_differently_do_not_contradict_each_other() -> None:
    conduct = Conduct()
    for at, honest in enumerate(PEERS[1:7]):
        both = [
            (PEERS[0], verdict(outcome="clean", session=at, sketch=NEARLY)),
            (honest, verdict(outcome="clean", session=at)),
        ]
        conduct = step(conduct, at + 1, verdicts=both, sessions=[session_of(at)])
    assert not conduct.bans
    assert not conduct.contradicted


def test_one_member_that_contradicts_for_ever_is_one() -> None:
    conduct = Conduct()
    for at in range(20):
        both = [
            (PEERS[0], verdict(outcome="clean", session=at)),
            (PEERS[1], verdict(outcome="clean", session=at, sketch=FALSE)),
        ]
        conduct = step(conduct, at + 1, verdicts=both, sessions=[session_of(at)])
    assert not conduct.bans


def test_sessions_that_no_record_names_contradict_nobody() -> None:
    """What was drawn there is not known to all: honest members may have looked at different slices."""
    conduct = Conduct()
    for at, honest in enumerate(PEERS[1:7]):
        both = [
            (PEERS[0], verdict(outcome="clean", session=at, sketch=FALSE)),
            (honest, verdict(outcome="clean", session=at)),
        ]
        conduct = step(conduct, at + 1, verdicts=both)
    assert not conduct.contradicted


def test_silence_says_nothing_of_what_was_computed() -> None:
    with pytest.raises(MessageRefused, match="no answer about"):
        Conduct().check_verdict(PEERS[0], verdict(sketch=TRUE))


def test_clean_takes_a_sketch() -> None:
    found = verdict(outcome="clean").model_copy(update={"sketch": None})
    with pytest.raises(MessageRefused, match="no sketch"):
        Conduct().check_verdict(PEERS[0], found)


# -- judgements ------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_no_c_members_have_anybody_banned_whatever_they_sign(data: st.DataObject) -> None:
    roster = PEERS[: data.draw(st.integers(4, 16))]
    liars = roster[: colluders(len(roster))]
    conduct = Conduct()
    for round_ in range(1, data.draw(st.integers(2, 20))):
        found = [
            (
                data.draw(st.sampled_from(liars)),
                judgement(
                    data.draw(st.sampled_from(roster)),
                    data.draw(st.booleans()),
                    bytes([data.draw(st.integers(0, 2))]) * 32,
                    data.draw(st.sampled_from(["update", "sum"])),
                ),
            )
            for _ in range(data.draw(st.integers(0, 6)))
        ]
        silent = [
            (
                data.draw(st.sampled_from(liars)),
                verdict(data.draw(st.sampled_from(roster)), session=round_, round_=round_ - 1),
            )
            for _ in range(data.draw(st.integers(0, 6)))
        ]
        checked = data.draw(st.sampled_from(roster))
        looked = [
            (
                peer,
                verdict(
                    checked,
                    data.draw(st.sampled_from(["clean", "wrong"])) if peer in liars else "clean",
                    session=100 + round_,
                    sketch=data.draw(st.sampled_from((TRUE, NEARLY, FALSE)[: 3 if peer in liars else 2])),
                ),
            )
            for peer in data.draw(st.lists(st.sampled_from(roster), max_size=2, unique=True))
        ]
        unique = {(signer, one.evidence, one.kind, one.against): (signer, one) for signer, one in found}
        heard = {(signer, one.checked): (signer, one) for signer, one in [*silent, *looked]}
        sessions = [session_of(100 + round_)]
        conduct = step(
            conduct, round_, unique.values(), heard.values(), roster, roster, strikes=1, sessions=sessions
        )
    assert set(conduct.bans) <= set(liars)
    assert not conduct.strikes or not any(conduct.strikes.values())


@given(st.integers(4, 16), st.permutations(range(16)), st.lists(st.integers(1, 6), min_size=16, max_size=16))
@settings(max_examples=60, deadline=None)
def test_no_c_members_keep_a_ban_away_however_it_is_spread_over_records(
    size: int, order: list[int], when: list[int]
) -> None:
    roster, c = PEERS[:size], colluders(size)
    liars, honest, against = roster[:c], roster[c:-1], roster[-1]
    needed = [honest[place % len(honest)] for place in order][: 2 * len(honest)]
    accusers = list(dict.fromkeys(needed))[: max(2, c + 1)]
    if len(accusers) < max(2, c + 1):
        return
    conduct = Conduct()
    for round_ in range(1, 8):
        found = [(peer, judgement(against, False)) for peer in liars if when[roster.index(peer)] == round_]
        found += [(peer, judgement(against)) for peer in accusers if when[roster.index(peer)] == round_]
        conduct = step(conduct, round_, found, (), roster, roster)
    assert conduct.bans[against].reason == "update"
    assert conduct.bans[against].evidence == EVIDENCE
    assert set(conduct.bans) == {against}


@pytest.mark.parametrize("apart", [False, True], ids=["in one record", "in a later record"])
def test_a_false_accusation_costs_what_it_would_have_cost(apart: bool) -> None:
    liars, honest = PEERS[:2], PEERS[2:5]
    accused = [(peer, judgement()) for peer in liars]
    denied = [(peer, judgement(holds=False)) for peer in honest]
    if apart:
        conduct = step(step(Conduct(), 1, accused), 2, denied)
    else:
        conduct = step(Conduct(), 1, [*accused, *denied])
    assert {peer: ban.reason for peer, ban in conduct.bans.items()} == dict.fromkeys(liars, FALSE_ACCUSATION)
    assert {ban.evidence for ban in conduct.bans.values()} == {EVIDENCE}


def test_who_denies_before_anybody_accuses_does_no_harm() -> None:
    conduct = step(Conduct(), 1, [(peer, judgement(holds=False)) for peer in PEERS[:2]])
    assert not conduct.bans
    assert not step(conduct, 2, [(PEERS[2], judgement())]).bans


def test_what_is_settled_is_not_judged_again() -> None:
    denied = [(peer, judgement(holds=False)) for peer in PEERS[2:5]]
    conduct = step(Conduct(), 1, [(PEERS[0], judgement()), *denied])
    with pytest.raises(MessageRefused, match="settled"):
        conduct.check_judgement(PEERS[5], judgement())
    for round_ in range(2, 9):
        conduct = step(conduct, round_, [(peer, judgement()) for peer in PEERS])
    assert VICTIM not in conduct.bans


def test_a_charge_is_one_evidence_of_one_kind_against_one_peer() -> None:
    charges = [
        judgement(),
        judgement(evidence=bytes(32)),
        judgement(kind="sum"),
        judgement(against=PEERS[6]),
    ]
    conduct = step(Conduct(), 1, zip(PEERS[:4], charges, strict=True))
    assert not conduct.bans
    assert len(conduct.judged) == 4


def test_one_seat_is_one_voice_however_many_keys_sit_in_it() -> None:
    conduct = Conduct()
    for round_, peer in enumerate(PEERS[10:20], 1):
        roster = [*PEERS[:7], peer]
        conduct = step(conduct, round_, [(peer, judgement(PEERS[0]))], roster=roster, present=roster)
        silent = [(peer, verdict(PEERS[0], session=round_, round_=round_ - 1))]
        conduct = step(conduct, round_, (), silent, roster=roster, present=roster)
    assert not conduct.bans
    assert not conduct.strikes.get(PEERS[0])


def test_a_member_judges_once() -> None:
    conduct = step(Conduct(), 1, [(PEERS[0], judgement())])
    for holds in (True, False):
        with pytest.raises(MessageRefused, match="judged this before"):
            conduct.check_judgement(PEERS[0], judgement(holds=holds))


def test_a_member_stands_alone_with_a_few_charges_at_most() -> None:
    conduct, many = Conduct(), [judgement(evidence=bytes([at]) * 32) for at in range(MOST_OPEN + 1)]
    for round_, one in enumerate(many[:-1], 1):
        conduct = step(conduct, round_, [(PEERS[0], one)])
    with pytest.raises(MessageRefused, match="stands alone"):
        conduct.check_judgement(PEERS[0], many[-1])
    conduct.check_judgement(PEERS[1], many[-1])
    conduct = step(conduct, 10, [(PEERS[1], many[0])])
    conduct.check_judgement(PEERS[0], many[-1])


def test_a_judgement_counts_for_a_while() -> None:
    conduct = step(Conduct(), 1, [(peer, judgement()) for peer in PEERS[:2]])
    for round_ in range(2, LIFETIME + 1):
        conduct = step(conduct, round_)
    assert conduct.judged
    conduct = step(conduct, LIFETIME + 1, [(PEERS[2], judgement())])
    assert VICTIM not in conduct.bans


def test_a_ban_stays_for_ever() -> None:
    conduct = step(Conduct(), 1, [(peer, judgement()) for peer in PEERS[:3]])
    ban = conduct.bans[VICTIM]
    for round_ in range(2, 3 * LIFETIME):
        conduct = step(conduct, round_)
    assert conduct.bans == {VICTIM: ban}
    assert not conduct.settled


@given(st.permutations(range(6)))
def test_the_order_of_statements_in_a_record_changes_nothing(order: list[int]) -> None:
    found = [(peer, judgement(holds=at % 2 == 0)) for at, peer in enumerate(PEERS[:6])]
    silent = [(peer, verdict(outcome="silent")) for peer in PEERS[:6]]
    one = step(Conduct(), 1, found, silent)
    other = step(Conduct(), 1, [found[at] for at in order], [silent[at] for at in order])
    assert one == other


# -- silence -------------------------------------------------------------------------------------------------


def complain(conduct: Conduct, round_: int, signers: Iterable[PeerID], **kwargs: object) -> Conduct:
    silent = [(peer, verdict(session=round_, round_=round_ - 1)) for peer in signers]
    return step(conduct, round_, (), silent, **kwargs)  # type: ignore[arg-type]


def test_more_than_c_that_got_no_answer_are_a_strike_and_strikes_are_a_ban() -> None:
    conduct = Conduct()
    for strike in range(3):
        assert VICTIM not in conduct.bans
        for at, signer in enumerate(PEERS[:3]):
            conduct = complain(conduct, 10 * strike + at + 1, [signer])
        assert len(conduct.strikes[VICTIM]) == strike + 1
    assert conduct.bans[VICTIM].reason == SILENCE
    assert conduct.bans[VICTIM].evidence == bytes(32)


def test_one_member_that_complains_for_ever_is_one() -> None:
    conduct = Conduct()
    for round_ in range(1, 50):
        conduct = complain(conduct, round_, PEERS[:2])  # c of them
    assert not conduct.strikes.get(VICTIM)


def test_who_is_not_there_is_struck_when_it_is_back() -> None:
    away = [peer for peer in PEERS[:8] if peer != VICTIM]
    conduct = Conduct()
    for round_, signer in enumerate(PEERS[:3], 1):
        conduct = complain(conduct, round_, [signer], present=away)
    assert not conduct.strikes.get(VICTIM)
    assert len(step(conduct, 4).strikes[VICTIM]) == 1


def test_one_outage_is_no_strike_however_many_asked_in_vain() -> None:
    """A peer that is killed can open nothing of the two last sessions; some say so a record later."""

    def outage(conduct: Conduct, round_: int) -> Conduct:
        for later in range(2):
            asked = PEERS[4 * later : 4 * later + 3]
            silent = [
                (peer, verdict(session=round_ - at % 2, round_=round_ - 1)) for at, peer in enumerate(asked)
            ]
            conduct = step(conduct, round_ + later, (), silent)
        return conduct

    once = outage(Conduct(), 5)
    assert not once.strikes.get(VICTIM)
    assert len(outage(outage(once, 20), 30).strikes[VICTIM]) == 1


def test_what_was_complained_of_before_a_strike_is_struck_already() -> None:
    conduct = Conduct()
    for round_ in (4, 5, 6):
        conduct = complain(conduct, round_, PEERS[:3])
    strikes = conduct.strikes[VICTIM]
    late = [(peer, verdict(session=at, round_=3)) for at, peer in enumerate(PEERS[3:7])]
    conduct = step(conduct, 7, (), late)
    assert len(strikes) == 1
    assert conduct.strikes[VICTIM] == strikes


def test_complaints_are_forgotten() -> None:
    conduct = Conduct()
    for round_ in (1, 2, 3):
        conduct = complain(conduct, round_, PEERS[:2])
    for round_ in range(4, LIFETIME + 3):
        conduct = step(conduct, round_)
    assert not complain(conduct, LIFETIME + 3, PEERS[2:3]).strikes.get(VICTIM)


def test_strikes_are_forgotten() -> None:
    conduct = Conduct()
    for round_ in (1, 2, 3):
        conduct = complain(conduct, round_, PEERS[:3])
    assert len(conduct.strikes[VICTIM]) == 1
    for round_ in range(4, 16 * LIFETIME):
        conduct = step(conduct, round_)
    assert not conduct.strikes.get(VICTIM)


def test_a_verdict_counts_once_and_nobody_checks_itself() -> None:
    conduct = complain(Conduct(), 1, PEERS[:1])
    with pytest.raises(MessageRefused, match="before"):
        conduct.check_verdict(PEERS[0], verdict(session=1))
    conduct.check_verdict(PEERS[0], verdict(session=2))
    with pytest.raises(MessageRefused, match="itself"):
        conduct.check_verdict(VICTIM, verdict())


@pytest.mark.parametrize("outcome", ["clean", "wrong", "unclear"])
def test_no_other_verdict_is_a_complaint(outcome: str) -> None:
    conduct = step(Conduct(), 1, (), [(peer, verdict(outcome=outcome)) for peer in PEERS[:7]])
    assert not conduct.complaints
    assert not conduct.bans


# -- in records ----------------------------------------------------------------------------------------------


def judged(history: History, signer: PeerID, against: PeerID = VICTIM, **changes: object) -> bytes:
    named = judgement(against).model_copy(update={"run": history.run, "round": history.round} | changes)
    return said(signer, named)


def found(history: History, signer: PeerID, checked: PeerID = VICTIM, **changes: object) -> bytes:
    outcome = str(changes.pop("outcome", "silent"))
    named = verdict(checked, outcome)
    return said(signer, named.model_copy(update={"run": history.run, "round": history.round} | changes))


def recorded(history: History, *statements: bytes, **changes: object) -> History:
    record = record_after(history, statements=tuple(sorted(statements)), **changes)
    return history.extend(decided(history, record))


def test_a_ban_takes_the_peer_out_and_keeps_it_out_by_every_door() -> None:
    history = follow(begin(8), 2)
    history = recorded(history, *(judged(history, peer) for peer in PEERS[:3]))
    assert VICTIM not in history.roster
    with pytest.raises(RecordRefused, match="banned since record 3, for update"):
        history.admits(join(history, VICTIM))
    with pytest.raises(RecordRefused):
        recorded(history, join(history, VICTIM))
    with pytest.raises(RecordRefused, match="is banned; leave it out"):
        history.extend(recovery(history, [*history.members, VICTIM], PEERS[:1]))
    assert VICTIM not in follow(history, 2 * LIFETIME).roster


def test_who_cheats_and_leaves_is_banned_all_the_same() -> None:
    history = begin(8)
    history = recorded(history, goodbye(history, VICTIM))
    assert VICTIM not in history.roster
    history = recorded(history, *(judged(history, peer) for peer in PEERS[:3]))
    with pytest.raises(RecordRefused, match="banned"):
        history.admits(join(history, VICTIM))


def test_who_leaves_or_comes_back_in_the_record_of_its_ban_is_banned() -> None:
    history = begin(8)
    accused = [judged(history, peer) for peer in PEERS[:3]]
    assert VICTIM in recorded(history, goodbye(history, VICTIM), *accused).conduct.bans
    history = recorded(history, goodbye(history, VICTIM))
    accused = [judged(history, peer) for peer in PEERS[:3]]
    history = recorded(history, join(history, VICTIM), *accused)
    assert VICTIM in history.conduct.bans
    assert VICTIM not in history.roster


def test_strangers_and_those_long_gone_are_neither_judges_nor_judged() -> None:
    history = begin(8)
    for raw in (judged(history, PEERS[20]), judged(history, PEERS[0], PEERS[20])):
        with pytest.raises(RecordRefused, match="not in the roster"):
            history.subject(raw)
    history = recorded(history, goodbye(history, VICTIM))
    history = follow(history, LIFETIME + 1)
    with pytest.raises(RecordRefused, match="not in the roster"):
        history.subject(judged(history, PEERS[0]))


def test_a_statement_of_another_run_or_time_is_refused() -> None:
    history = follow(begin(8), 2)
    for changes in ({"run": bytes(32)}, {"round": history.round + 1}):
        for make in (judged, found):
            with pytest.raises(RecordRefused, match="another run or time"):
                history.subject(make(history, PEERS[0], **changes))
    old = judged(history, PEERS[0])
    with pytest.raises(RecordRefused, match="another run or time"):
        follow(history, LIFETIME + 1).subject(old)


def test_a_record_has_one_statement_of_a_subject() -> None:
    history = begin(8)
    for pair in (
        [judged(history, PEERS[0]), judged(history, PEERS[0], holds=False)],
        [found(history, PEERS[0]), found(history, PEERS[0], outcome="clean")],
    ):
        with pytest.raises(RecordRefused, match="distinct subjects"):
            recorded(history, *pair)
    chosen = union_of_statements(
        history, [[judged(history, PEERS[0], holds=holds)] for holds in (True, False)]
    )
    assert len(chosen) == 1


def test_of_a_session_that_is_on_record_only_the_drawn_say_what_they_found() -> None:
    history = follow(begin(8), 1, session=bytes([5]) * 32)
    assert history.last is not None
    drawn = checkers(history.last.beacon, history.last.survivors, VICTIM)
    changes: dict[str, object] = {"session": bytes([5]) * 32, "outcome": "clean"}
    for signer in drawn[:2]:
        history.subject(found(history, signer, **changes))
    with pytest.raises(RecordRefused, match="not drawn"):
        history.subject(found(history, drawn[2], **changes))
    history.subject(found(history, drawn[2], session=bytes([5]) * 32))


def test_who_was_found_clean_counts_only_for_sessions_on_record() -> None:
    """Or one friend would vouch for a newcomer as often as it takes."""
    history = follow(begin(8), 1, session=bytes([5]) * 32)
    assert history.last is not None
    (drawn, *_) = checkers(history.last.beacon, history.last.survivors, VICTIM)
    changes: dict[str, object] = {"outcome": "clean"}
    assert not recorded(history, found(history, drawn, **changes)).conduct.passed.get(VICTIM)
    changes["session"] = bytes([5]) * 32
    assert recorded(history, found(history, drawn, **changes)).conduct.passed == {VICTIM: 1}


def pool_of(history: History) -> list[bytes]:
    return [
        *(judged(history, peer) for peer in PEERS[:4]),
        *(judged(history, peer, holds=False) for peer in PEERS[:4]),
        *(found(history, peer) for peer in PEERS[:4]),
        *(join(history, peer) for peer in PEERS[10:14]),
        judged(history, PEERS[20]),
        b"garbage",
        b"",
    ]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_who_knows_some_votes_knows_what_a_record_leaves_out_of_them(data: st.DataObject) -> None:
    history = begin(8)
    sets = st.lists(st.lists(st.sampled_from(pool_of(history)), max_size=12), max_size=3)
    known, others = data.draw(sets), data.draw(sets)
    right = union_of_statements(history, known + others)
    assert not leaves_out(history, right, known)
    for raw in union_of_statements(history, known):
        fewer = [one for one in right if history.subject(one) != history.subject(raw)]
        assert leaves_out(history, fewer, known) == (domain_of(raw) != Join.DOMAIN)
        denial = judged(history, open_signed(raw, Judgement).signer, holds=False) if binds(raw) else b""
        if domain_of(raw) == Judgement.DOMAIN and denial:
            assert leaves_out(history, [*fewer, denial], known)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_what_a_record_must_carry_does_not_depend_on_who_carried_it(data: st.DataObject) -> None:
    history = begin(8)
    carried = data.draw(st.lists(st.lists(st.sampled_from(pool_of(history)), max_size=12), max_size=6))
    once = union_of_statements(history, carried)
    flat = [raw for one in carried for raw in one]
    assert once == union_of_statements(history, [flat[::-1]])
    assert once == union_of_statements(history, [once])
    record = record_after(history, statements=once)
    assert history.extend(decided(history, record)).round == 1
