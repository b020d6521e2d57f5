"""Deciding: never two outcomes, and an outcome once messages flow, whatever a tolerated minority does."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from proto.errors import MessageRefused
from tests.verify.agreement_network import (
    IDENTITIES,
    RECORD,
    RUN,
    VOID,
    Member,
    Network,
    assert_never_two_votes,
    vote,
)
from verify.agreement import (
    FORESIGHT,
    PRECOMMIT,
    PREVOTE,
    PROPOSE,
    Agreement,
    Broadcast,
    Outcome,
    Save,
    WaitView,
)
from verify.record import Decided, Genesis, History, Vote, quorum
from verify.statement import open_signed, sign


def roster(size: int) -> list[PeerID]:
    return list(IDENTITIES)[:size]


def said(peer: PeerID, view: int, step: int, value: bytes | None) -> bytes:
    return sign(IDENTITIES[peer], vote(view, step, value))


def machine(peer: PeerID, turns: list[PeerID], saved: tuple[bytes, ...] = ()) -> Agreement:
    return Agreement(peer, turns, RUN, 1, 0, 1.0, lambda v: sign(IDENTITIES[peer], v), saved)


def votes_in(effects: list[object]) -> list[tuple[int, int, bytes | None]]:
    """(view, step, value) of what was saved and broadcast."""
    told = [open_signed(e.raw, Vote).message for e in effects if isinstance(e, Broadcast)]
    return [(v.view, v.step, v.value) for v in told]


# -- whole networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(4))
def test_four_members_decide_whoever_has_the_record_and_whoever_is_silent(first: int) -> None:
    peers = roster(4)
    turns = peers[first:] + peers[:first]
    for silent in (None, *range(4)):
        for holders in itertools.product([False, True], repeat=4):
            records = {p: RECORD if h else None for p, h in zip(peers, holders, strict=True)}
            quiet = [] if silent is None else [peers[silent]]
            for peer in quiet:
                records.pop(peer)
            network = Network(records, quiet, turns)
            for peer in records:
                network.start(peer)
            network.run(2_000)
            assert network.decided
            assert len(network.outcomes()) == 1
            if all(records.values()):
                assert network.outcomes() == {RECORD}
            if not any(records.values()):
                assert network.outcomes() == {VOID}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("seed", range(6))
def test_crashes_restarts_and_a_bad_network_give_one_outcome(size: int, seed: int) -> None:
    chance = random.Random(seed * 100 + size)
    peers = roster(size)
    network = Network({p: chance.choice([RECORD, RECORD, None]) for p in peers}, [], peers, seed)
    network.stable, network.loss = 60.0, 0.3
    for peer in peers:
        network.start(peer)
    for _ in range(size):
        victim, when = chance.choice(peers), chance.uniform(0, 40)
        network.at(when, lambda p=victim: network.crash(p))  # type: ignore[misc]
        network.at(when + chance.uniform(0.1, 15), lambda p=victim: network.start(p))  # type: ignore[misc]
    network.run(5_000)
    assert network.decided
    assert len(network.outcomes()) == 1
    assert_never_two_votes(network)


@pytest.mark.parametrize(
    ("size", "seed"), [*((4, seed) for seed in range(25)), *((7, seed) for seed in (3, 12, 17))]
)
def test_byzantine_members_never_get_two_outcomes_and_cannot_stop_the_rest(size: int, seed: int) -> None:
    chance = random.Random(seed * 1000 + size)
    peers = roster(size)
    liars = chance.sample(peers, size - quorum(size))
    honest = [p for p in peers if p not in liars]
    share = chance.choice([0.3, 0.7, 1.0])
    records = {p: RECORD if chance.random() < share else None for p in honest}
    network = Network(records, liars, chance.sample(peers, size), seed)
    network.stable, network.loss = chance.choice([0.0, 50.0]), 0.3
    style = chance.choice(["split", "forge", "replay", "mix", "late"])
    two_faces = {p: chance.choice([RECORD, VOID, None]) for p in honest}

    def lie(liar: PeerID, to: PeerID, heard: Vote) -> list[bytes]:
        if network.now > 400 and style == "late":
            return []
        kinds = {"mix": chance.choice(["split", "forge", "replay"]), "late": "split"}
        kind = kinds.get(style, style)
        if kind == "split":  # another face for everyone
            return [said(liar, heard.view, step, two_faces[to]) for step in (0, 1)]
        if kind == "forge":  # values nobody has, far views, whatever comes
            value = chance.choice([RECORD, VOID, None, chance.randbytes(32)])
            view = heard.view + chance.choice([0, 0, 1, 2, 70, 1_000_000])
            return [said(liar, view, chance.choice([0, 1]), value)]
        return [chance.choice(network.seen)] if network.seen else []

    network.lie = lie
    for peer in honest:
        network.start(peer)
    if chance.random() < 0.5:
        victim = chance.choice(honest)
        network.at(chance.uniform(1, 8), lambda: network.crash(victim))
        network.at(chance.uniform(9, 20), lambda: network.start(victim))
    network.run(10_000)
    assert len(network.outcomes()) == 1
    assert network.decided
    assert_never_two_votes(network)
    for member in network.members.values():
        assert_certificate_holds(member, peers)


def assert_certificate_holds(member: Member, peers: list[PeerID]) -> None:
    outcome = member.outcome
    assert outcome is not None
    history = history_of(peers)
    decided = Decided(round=1, attempt=0, recovery=False, body=b"", votes=outcome.votes)
    history.check_certificate(decided, outcome.value)


def history_of(peers: list[PeerID]) -> History:
    members = tuple(sorted(peers))
    genesis = Genesis(
        manifest=b"",
        snapshot=bytes(32),
        shards=(),
        data=None,
        founder=members[0],
        members=members,
        stewards=members[:1],
        recovery_threshold=1,
        suspend_after=3,
        strikes=3,
        probation_checks=0,
        largest_cell=32,
        invited=False,
        created=0,
    )
    whole = History.begin(sign(IDENTITIES[members[0]], genesis))
    return History(RUN, whole.genesis, whole.roster)


# -- single members -------------------------------------------------------------------------------------


def test_a_vote_is_saved_before_it_is_told() -> None:
    peers = roster(4)
    effects = machine(peers[0], peers).start(RECORD)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Save) < kinds.index(Broadcast)
    assert kinds.count(WaitView) == 2


def test_a_restarted_member_never_signs_a_second_vote_whatever_it_hears() -> None:
    peers = roster(4)
    first = machine(peers[0], peers)
    saved = [e.raw for e in first.start(RECORD) if isinstance(e, Save)]
    for record in (RECORD, None):
        again = machine(peers[0], peers, tuple(saved))
        effects: list[object] = [*again.start(record)]
        for peer in peers[1:]:
            effects += again.receive(said(peer, 0, PREVOTE, None))
        effects += again.elapsed(PROPOSE, 0) + again.elapsed(PREVOTE, 0)
        assert {v for v in votes_in(effects) if v[1] == PREVOTE} == {(0, PREVOTE, RECORD)}


def test_a_restarted_member_shows_the_polka_behind_its_lock() -> None:
    """Else a member without the record refuses it, the locked one refuses VOID, and nothing moves."""
    peers = roster(4)
    locked = machine(peers[0], peers)
    disk = [e.raw for e in locked.start(RECORD) if isinstance(e, Save)]
    for peer in peers[1:3]:
        disk += [e.raw for e in locked.receive(said(peer, 0, PREVOTE, RECORD)) if isinstance(e, Save)]
    again = machine(peers[0], peers, tuple(disk))
    again.start(None)
    told = [e.raw for e in again.elapsed(PRECOMMIT, 0) if isinstance(e, Broadcast)]
    other = machine(peers[3], peers)
    other.start(None)
    for raw in told:
        other.receive(raw)
    assert other._latest_polka(RECORD) == 0


def test_one_liar_that_helps_a_single_member_lock_cannot_stop_the_others() -> None:
    """D prevotes the record to A alone and nothing to the others, then is silent: A is locked on a polka
    that B, who holds D's other vote, must be able to see."""
    a, b, c, d = peers = roster(4)
    network = Network({a: RECORD, b: None, c: RECORD}, [d], peers)
    lied: set[PeerID] = set()

    def lie(liar: PeerID, to: PeerID, heard: Vote) -> list[bytes]:
        if to in lied or heard.view > 0:
            return []
        lied.add(to)
        return [said(liar, 0, PREVOTE, RECORD if to == a else None)]

    network.lie = lie
    for peer in (a, b, c):
        network.start(peer)
    network.run(5_000)
    assert network.decided
    assert network.outcomes() == {RECORD}


def test_the_record_gets_through_when_all_honest_members_have_it() -> None:
    peers = roster(7)
    for silent in itertools.combinations(peers, 2):
        records: dict[PeerID, bytes | None] = {p: RECORD for p in peers if p not in silent}
        network = Network(records, list(silent), peers)
        for peer in records:
            network.start(peer)
        network.run(1_000)
        assert network.outcomes() == {RECORD}


def test_two_votes_in_one_view_are_kept_as_evidence_once() -> None:
    peers = roster(4)
    member = machine(peers[0], peers)
    member.start(RECORD)
    liar = peers[2]
    member.receive(said(liar, 0, PREVOTE, None))
    for number in range(50):
        with pytest.raises(MessageRefused, match="voted twice"):
            member.receive(said(liar, 0, PREVOTE, bytes([9, number]) + bytes(30)))
    assert len(member.evidence) == 1
    one, two = (open_signed(raw, Vote) for raw in member.evidence[0].statements)
    assert one.signer == two.signer == liar
    assert one.message.value != two.message.value
    assert (one.message.view, one.message.step) == (two.message.view, two.message.step)


def test_what_a_liar_makes_a_member_keep_is_bounded() -> None:
    peers = roster(4)
    member = machine(peers[0], peers)
    member.start(RECORD)
    for view in range(1_000, 1_200):
        with pytest.raises(MessageRefused, match="out of reach"):
            member.receive(said(peers[1], view, PREVOTE, RECORD))
    assert all(view <= member.view + FORESIGHT for view, _ in member._votes)


def test_a_member_that_comes_back_after_a_long_pause_joins_the_others_view() -> None:
    peers = roster(4)
    member = machine(peers[3], peers)
    member.start(None)
    with pytest.raises(MessageRefused, match="out of reach"):
        member.receive(said(peers[0], 500, PREVOTE, VOID))
    member.receive(said(peers[1], 501, PREVOTE, VOID))
    assert member.view == 500


def test_a_view_gets_longer_only_up_to_a_limit() -> None:
    peers = roster(4)
    waits = []
    for view in (0, 4, 16, 1_000):
        saved = (said(peers[0], view, PREVOTE, None),)
        effects = machine(peers[0], peers, saved).start(None)
        waits.append(max(e.seconds for e in effects if isinstance(e, WaitView)))
    assert waits[0] < waits[1] < waits[2] == waits[3]


@pytest.mark.parametrize(
    "change", [{"run": bytes([1]) * 32}, {"round": 2}, {"attempt": 1}], ids=["run", "round", "attempt"]
)
def test_a_vote_of_another_attempt_is_refused(change: dict[str, object]) -> None:
    peers = roster(4)
    member = machine(peers[0], peers)
    with pytest.raises(MessageRefused, match="another attempt"):
        member.receive(sign(IDENTITIES[peers[1]], vote(0, 0, RECORD, **change)))


def test_a_stranger_has_no_vote() -> None:
    peers = roster(5)
    with pytest.raises(MessageRefused, match="roster"):
        machine(peers[0], peers[:4]).receive(said(peers[4], 0, PREVOTE, RECORD))


def test_precommits_decide_a_member_that_never_began() -> None:
    peers = roster(4)
    member = machine(peers[0], peers)
    effects: list[object] = []
    for peer in peers[1:]:
        effects += member.receive(said(peer, 3, PRECOMMIT, RECORD))
    assert [e.value for e in effects if isinstance(e, Outcome)] == [RECORD]


def test_precommits_of_different_views_or_values_do_not_add_up() -> None:
    peers = roster(4)
    member = machine(peers[0], peers)
    for view, peer in enumerate(peers[1:]):
        member.receive(said(peer, view, PRECOMMIT, RECORD))
    member.receive(said(peers[1], 9, PRECOMMIT, VOID))
    member.receive(said(peers[2], 9, PRECOMMIT, RECORD))
    assert member.outcome is None


def test_a_liar_that_votes_twice_counts_once_for_each_value() -> None:
    a, b, c, d = peers = roster(4)
    member = machine(a, peers)
    member.receive(said(b, 0, PRECOMMIT, RECORD))
    member.receive(said(c, 0, PRECOMMIT, VOID))
    member.receive(said(d, 0, PRECOMMIT, RECORD))
    member.receive(said(d, 0, PRECOMMIT, VOID))
    for _ in range(3):
        member.receive(said(d, 0, PRECOMMIT, RECORD))
    assert member.outcome is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_member_fed_anything_votes_once_a_step_and_breaks_no_lock(data: st.DataObject) -> None:
    """Any order of votes and timers, from a majority of liars even: a member contradicts nothing it said."""
    peers = roster(4)
    member = machine(peers[0], peers)
    record = data.draw(st.sampled_from([RECORD, None]))
    votes = st.tuples(
        st.sampled_from(peers[1:]),
        st.integers(0, 4),
        st.sampled_from([0, 1]),
        st.sampled_from([RECORD, VOID, None]),
    )
    timers = st.tuples(st.sampled_from([PROPOSE, PREVOTE, PRECOMMIT]), st.integers(0, 4))
    events = data.draw(st.lists(st.one_of(votes, timers), max_size=40))
    mine: dict[tuple[int, int], bytes | None] = {}
    lock: tuple[bytes, int] | None = None
    disk: list[bytes] = []
    for number, event in enumerate([None, *events]):
        if event is None:
            effects: list[object] = [*member.start(record)]
        elif len(event) == 2:
            effects = [*member.elapsed(*event)]
        else:
            try:
                effects = [*member.receive(said(*event))]
            except MessageRefused:
                continue
        disk += [e.raw for e in effects if isinstance(e, Save)]
        for effect in effects:
            if not isinstance(effect, Broadcast) or open_signed(effect.raw, Vote).signer != peers[0]:
                continue
            v = open_signed(effect.raw, Vote).message
            new = (v.view, v.step) not in mine
            assert mine.setdefault((v.view, v.step), v.value) == v.value
            assert effect.raw in disk
            if new and v.step == PRECOMMIT and v.value is not None:
                lock = (v.value, v.view)
            if new and v.step == PREVOTE and lock is not None and v.value not in (None, lock[0]):
                polka = member._latest_polka(v.value)
                assert polka is not None
                assert polka > lock[1]
        if number == len(events) // 2 and member.outcome is None:
            member = machine(peers[0], peers, tuple(disk))
            member.start(None)


@pytest.mark.parametrize("first", [0, 1, 2, 4])
def test_a_member_without_the_record_follows_those_who_vouch_for_it(first: int) -> None:
    """Of five, one is dead and one was late: three alone are no quorum, the late one makes it.

    (Where the late one and the dead one propose first, the attempt is void.)
    """
    peers = roster(5)
    turns = peers[first:] + peers[:first]
    late, dead = peers[3], peers[4]
    network = Network({peer: None if peer == late else RECORD for peer in peers if peer != dead}, [], turns)
    for peer in network.members:
        network.start(peer)
    network.run(1_000)
    assert network.decided
    assert network.outcomes() == {RECORD}
