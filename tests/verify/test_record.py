"""Round records: only what a quorum of the roster signed moves the history, and everyone reads it alike."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.canonical import PeerID
from proto.errors import MessageRefused
from tests.verify.chain import (
    KEYS,
    PEERS,
    begin,
    decided,
    follow,
    genesis_of,
    goodbye,
    join,
    record_after,
    recovery,
    said,
    void,
    votes_for,
)
from verify.carrying import median, union_of_statements
from verify.record import (
    JOIN_LIFETIME,
    MOST_OF_ONE,
    Cell,
    Decided,
    History,
    Invitation,
    Record,
    RecordRefused,
    Vote,
    WrongRun,
    colluders,
    newcomers,
    quorum,
    run_id,
    void_value,
)
from verify.standing import Judgement
from verify.statement import domain_of, open_signed, sign


def test_quorum_and_colluders_for_every_roster_size() -> None:
    for size in range(1, 33):
        q, c = quorum(size), colluders(size)
        if size < 4:
            assert (q, c) == (size // 2 + 1, 0)
            assert 2 * q > size
        else:
            faulty = size - q
            assert q == 2 * size // 3 + 1
            assert c == max(1, size // 4)
            assert 2 * q - size > faulty, "two quorums share an honest member"
            assert c <= faulty < q
            assert 3 * faulty < size
    assert [quorum(size) for size in (1, 2, 3, 4, 5, 6, 7, 16, 32)] == [1, 2, 2, 3, 4, 5, 5, 11, 22]


def test_records_lead_from_genesis_to_the_agreed_snapshot() -> None:
    history = follow(begin(4), 3)
    assert (history.round, history.moved) == (3, 3)
    assert history.snapshot == bytes([3]) * 32
    assert history.last is not None
    assert history.head == history.last.digest()


def test_a_genesis_that_differs_by_one_byte_is_another_run() -> None:
    raw = sign(KEYS[PEERS[0]], genesis_of(PEERS[:4]))
    run = run_id(raw)
    assert History.begin(raw, run).run == run
    for at in range(0, len(raw), 7):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(WrongRun, match="ask another"):
            History.begin(changed, run)
        with pytest.raises(MessageRefused):
            History.begin(changed)
    with pytest.raises(WrongRun):
        History.begin(sign(KEYS[PEERS[0]], genesis_of(PEERS[:4], manifest=b"n")), run)


@pytest.mark.parametrize(
    "genesis",
    [
        sign(KEYS[PEERS[1]], genesis_of(PEERS[:4])),
        sign(KEYS[PEERS[5]], genesis_of(PEERS[:4], founder=PEERS[5])),
        sign(KEYS[PEERS[0]], genesis_of(PEERS[3::-1], founder=PEERS[0])),
        sign(KEYS[PEERS[0]], genesis_of([PEERS[0], PEERS[0]])),
        sign(KEYS[PEERS[0]], genesis_of(PEERS[:9])),
    ],
    ids=["another signer", "founder no member", "out of order", "one twice", "too many"],
)
def test_a_genesis_that_contradicts_itself_is_refused(genesis: bytes) -> None:
    with pytest.raises(MessageRefused):
        History.begin(genesis)


# -- certificates -----------------------------------------------------------------------------------------


def test_every_wrong_certificate_is_refused() -> None:
    history = begin(4)
    record = record_after(history)
    name, peers = record.digest(), PEERS
    another_run = begin(4, manifest=b"other")

    def with_votes(*votes: bytes, **changes: object) -> bytes:
        fields: dict[str, object] = {
            "round": 1, "attempt": 0, "recovery": False, "body": record.encode(), "votes": votes
        }  # fmt: skip
        return Decided.model_validate(fields | changes).encode()

    def vote(peer: str, **changes: object) -> bytes:
        fields: dict[str, object] = {
            "run": history.run, "round": 1, "attempt": 0, "view": 0, "step": 1, "value": name
        }  # fmt: skip
        return sign(KEYS[peer], Vote.model_validate(fields | changes))

    good = [vote(p) for p in peers[:3]]
    history.extend(with_votes(*good))
    forged = good[2][:-1] + bytes([good[2][-1] ^ 1])
    wrong = {
        "none": with_votes(),
        "too few": with_votes(*good[:2]),
        "one twice": with_votes(good[0], good[1], good[1]),
        "two views": with_votes(good[0], good[1], vote(peers[2], view=1)),
        "a stranger": with_votes(good[0], good[1], vote(peers[6])),
        "a stranger too": with_votes(*good, vote(peers[6])),
        "prevotes": with_votes(*(vote(p, step=0) for p in peers[:3])),
        "for none": with_votes(good[0], good[1], vote(peers[2], value=None)),
        "for VOID": with_votes(*votes_for(history, 1, 0, void_value(history.run, 1, 0), peers[:3])),
        "another round": with_votes(good[0], good[1], vote(peers[2], round=2)),
        "another attempt": with_votes(good[0], good[1], vote(peers[2], attempt=1)),
        "another run": with_votes(good[0], good[1], vote(peers[2], run=another_run.run)),
        "forged": with_votes(good[0], good[1], forged),
        "certificate of another attempt": with_votes(*good, attempt=1),
        "certificate of another round": with_votes(*good, round=2),
        "called a recovery": with_votes(*good, recovery=True),
        "no body": with_votes(*good, body=b""),
    }
    for raw in wrong.values():
        with pytest.raises(MessageRefused):
            history.extend(raw)
    with pytest.raises(MessageRefused):
        another_run.extend(with_votes(*good))


def test_a_void_is_no_record_and_a_record_no_void() -> None:
    history = begin(4)
    history.check_void(Decided.parse(void(history)))
    with pytest.raises(MessageRefused):
        history.extend(void(history))
    for raw in (decided(history, record_after(history)), void(follow(history)), void(history, 0, PEERS[:2])):
        with pytest.raises(MessageRefused):
            history.check_void(Decided.parse(raw))
    moved = Decided.parse(void(history)).model_copy(update={"attempt": 1})
    with pytest.raises(MessageRefused):
        history.check_void(moved)


FIELDS: dict[str, object] = {
    "run": bytes(32),
    "round": 5,
    "attempt": 3,
    "previous": bytes(32),
    "snapshot": bytes([9]) * 32,
    "session": bytes([9]) * 32,
    "survivors": tuple(PEERS[:3]),
    "weights": (2, 2, 2, 2),
    "tokens": 9,
    "loss": 9,
    "heldout": 9,
    "beacon": bytes([9]) * 32,
    "data": ((PEERS[0], bytes(32), 1),),
    "heads": tuple((peer, 9, bytes(32)) for peer in PEERS[:4]),
    "energy": ((PEERS[0], "measured", 9, 9),),
    "cells": (Cell(session=bytes(32), survivors=tuple(PEERS[:4]), snapshot=bytes(32), beacon=bytes(32)),),
    "statements": (b"x",),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_record_changed_in_one_field_is_not_the_one_that_was_signed(name: str) -> None:
    assert set(FIELDS) == set(Record.model_fields)
    history = begin(4)
    record = record_after(history)
    whole = Decided.parse(decided(history, record))
    changed = record.model_copy(update={name: FIELDS[name]})
    assert changed != record
    with pytest.raises(MessageRefused):
        history.extend(whole.model_copy(update={"body": changed.encode()}).encode())


@given(st.data())
def test_no_flipped_byte_in_a_decided_record_moves_the_history_elsewhere(data: st.DataObject) -> None:
    history = CHAIN
    raw = bytearray(CHAIN_RECORD)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MessageRefused):
        history.extend(bytes(raw))


CHAIN = begin(4)
CHAIN_RECORD = decided(CHAIN, record_after(CHAIN))


def test_a_record_signed_by_all_is_still_held_to_the_rules() -> None:
    history = begin(4)
    wrong: list[dict[str, object]] = [
        {"survivors": (*PEERS[:3], PEERS[9]), "weights": (1,) * 4},
        {"survivors": tuple(PEERS[3::-1])},
        {"survivors": (PEERS[0], PEERS[0]), "weights": (1, 1)},
        {"weights": (1, 1)},
        {"statements": (join(history, PEERS[0]),)},
        {"statements": (goodbye(history, PEERS[9]),)},
        {"statements": (join(history, PEERS[8]), join(history, PEERS[8], 0))},
        {"statements": tuple(sorted([join(history, p) for p in PEERS[8:10]], reverse=True))},
        {"statements": (b"nonsense",)},
        {"previous": bytes(32)},
        {"round": 2},
    ]
    for changes in wrong:
        with pytest.raises(MessageRefused):
            history.extend(decided(history, record_after(history, **changes), PEERS[:4]))


# -- the roster -------------------------------------------------------------------------------------------


def carry(history: History, *statements: bytes) -> History:
    return follow(history, statements=union_of_statements(history, [statements]))


def test_a_join_and_a_goodbye_take_effect_in_the_next_record() -> None:
    history = begin(4)
    history = carry(history, join(history, PEERS[8]), goodbye(history, PEERS[1]))
    assert history.members == tuple(sorted([PEERS[0], *PEERS[2:4], PEERS[8]]))


def test_a_member_that_missed_its_records_is_suspended_and_one_that_came_back_is_not() -> None:
    history = begin(5)
    others = tuple(PEERS[:4])
    for _ in range(2):
        history = follow(history, survivors=others)
    assert history.roster[PEERS[4]].missed == 2
    back = follow(history)
    assert back.roster[PEERS[4]].missed == 0
    gone = follow(history, survivors=others)
    assert PEERS[4] not in gone.roster


def test_there_is_no_room_beyond_the_largest_cell() -> None:
    history = begin(7)
    joins = [join(history, peer) for peer in PEERS[10:14]]
    history = carry(history, *joins)
    assert len(history.roster) == 8
    assert sum(peer in history.roster for peer in PEERS[10:14]) == 1


def test_an_old_goodbye_makes_room_in_the_same_record() -> None:
    history = begin(8)
    history = carry(history, join(history, PEERS[20]), goodbye(history, PEERS[0]))
    assert len(history.roster) in (7, 8)


def test_a_join_is_not_replayed_once_its_peer_has_left() -> None:
    """Else departed peers are put back without asking them, until no quorum is there."""
    history = begin(4)
    asked = join(history, PEERS[8])
    history = carry(history, asked)
    history = carry(history, goodbye(history, PEERS[8]))
    assert PEERS[8] not in history.roster
    with pytest.raises(MessageRefused):
        history.admits(asked)
    assert union_of_statements(history, [[asked]]) == ()
    history = carry(history, join(history, PEERS[8]))
    assert PEERS[8] in history.roster


def test_a_goodbye_is_not_replayed_once_its_peer_is_back() -> None:
    history = begin(5)
    left = goodbye(history, PEERS[4])
    history = carry(history, left)
    history = carry(history, join(history, PEERS[4]))
    assert PEERS[4] in history.roster
    with pytest.raises(MessageRefused):
        history.admits(left)
    history = carry(history, goodbye(history, PEERS[4]))
    assert PEERS[4] not in history.roster


def test_a_statement_of_another_run_of_the_future_or_grown_old_is_refused() -> None:
    history = begin(4)
    old = join(history, PEERS[8])
    with pytest.raises(MessageRefused):
        history.admits(join(begin(4, manifest=b"other"), PEERS[8]))
    with pytest.raises(MessageRefused):
        history.admits(join(history, PEERS[8], 1))
    history = follow(history, JOIN_LIFETIME)
    assert history.admits(old) == PEERS[8]
    with pytest.raises(MessageRefused):
        follow(history).admits(old)


def test_an_invited_run_takes_only_those_a_steward_invited() -> None:
    history = begin(4, invited=True, stewards=tuple(PEERS[1:3]))
    other = begin(4)

    def invitation(steward: str, peer: str, run: bytes = history.run) -> bytes:
        return said(steward, Invitation(run=run, peer=peer))

    peer = PEERS[8]
    for wrong in (
        None,
        invitation(PEERS[0], peer),
        invitation(PEERS[1], PEERS[9]),
        invitation(PEERS[1], peer, other.run),
        b"nonsense",
    ):
        with pytest.raises(MessageRefused):
            history.admits(join(history, peer, invitation=wrong))
    assert history.admits(join(history, peer, invitation=invitation(PEERS[2], peer))) == peer


# -- recovery ---------------------------------------------------------------------------------------------


def stewarded(threshold: int = 2) -> History:
    return follow(begin(5, stewards=tuple(PEERS[10:13]), recovery_threshold=threshold))


def test_k_of_the_stewards_change_the_roster_and_nothing_else() -> None:
    history = stewarded()
    after = history.extend(recovery(history, PEERS[:2], PEERS[10:12]))
    assert after.members == tuple(PEERS[:2])
    assert (after.round, after.moved) == (2, 1)
    assert after.snapshot == history.snapshot
    assert after.beacon != history.beacon
    assert follow(after).moved == 2


def test_wrong_recoveries_are_refused() -> None:
    history = stewarded()
    wrong = {
        "too few stewards": recovery(history, PEERS[:2], PEERS[10:11]),
        "one steward twice": recovery(history, PEERS[:2], [PEERS[10]] * 2),
        "no stewards": recovery(history, PEERS[:2], PEERS[:4]),
        "out of order": recovery(history, PEERS[1::-1], PEERS[10:12]),
        "too many": recovery(history, PEERS[:9], PEERS[10:12]),
        "another height": recovery(follow(history), PEERS[:2], PEERS[10:12]),
        "stored under another round": recovery(history, PEERS[:2], PEERS[10:12], round=1 << 40),
        "stored under another attempt": recovery(history, PEERS[:2], PEERS[10:12], attempt=1),
        "not called one": recovery(history, PEERS[:2], PEERS[10:12], recovery=False),
    }
    for raw in wrong.values():
        with pytest.raises(MessageRefused):
            history.extend(raw)


def test_a_minority_cannot_move_the_median_far() -> None:
    assert median([5]) == 5
    assert median([1, 2]) == 1
    assert median([10, 10, 10, 1 << 60]) == 10
    assert median([0, 10, 10, 10]) == 10


@pytest.mark.parametrize("size", range(4, 25))
def test_the_old_roster_alone_is_a_quorum_of_any_roster_one_record_can_make(size: int) -> None:
    assert newcomers(size) == 1 or quorum(size + newcomers(size)) <= size
    assert quorum(size + newcomers(size) + 1) > size


# -- what members find of each other -------------------------------------------------------------------------


def judged(history: History, signer: PeerID, number: int = 0) -> bytes:
    one = Judgement(
        run=history.run,
        round=history.round,
        evidence=number.to_bytes(32, "big"),
        kind="update",
        against=PEERS[7],
        holds=True,
    )
    return said(signer, one)


def extended(history: History, **changes: object) -> History:
    return history.extend(decided(history, record_after(history, **changes)))


def test_a_record_names_the_ledger_head_of_each_survivor_and_of_nobody_else() -> None:
    history = begin(4)
    heads = tuple((peer, 3, bytes(32)) for peer in PEERS[:4])
    assert extended(history, heads=heads).round == 1
    for wrong in (heads[:3], heads[::-1], (*heads, heads[3]), (*heads[:3], (PEERS[4], 3, bytes(32)))):
        with pytest.raises(MessageRefused):
            extended(history, heads=wrong)


def test_statements_stand_in_order_and_nobody_fills_a_record_alone() -> None:
    history = begin(8)
    many = sorted(judged(history, PEERS[0], number) for number in range(MOST_OF_ONE + 1))
    assert extended(history, statements=tuple(many[:-1])).round == 1
    with pytest.raises(RecordRefused, match="at most"):
        extended(history, statements=tuple(many))
    with pytest.raises(RecordRefused, match="in order"):
        extended(history, statements=tuple(many[1::-1]))
    with pytest.raises(RecordRefused, match="distinct"):
        extended(history, statements=(many[0], many[0]))


def test_where_not_all_fit_judgements_come_first_and_every_member_has_its_share() -> None:
    history = begin(8)
    flood = [judged(history, peer, number) for peer in PEERS[:7] for number in range(60)]
    chosen = union_of_statements(history, [flood, [join(history, PEERS[9])]])
    signers = Counter(open_signed(raw, Judgement).signer for raw in chosen if domain_of(raw) == "judgement")
    assert signers == dict.fromkeys(PEERS[:7], MOST_OF_ONE)
    assert join(history, PEERS[9]) in chosen
    assert extended(history, statements=chosen).round == 1


def test_bans_are_read_from_the_records_alone_by_whoever_comes_late() -> None:
    """A peer that was killed, and one that was never there, know them as the members do."""
    history, served = begin(8), list[bytes]()
    statements = tuple(sorted(judged(history, peer) for peer in PEERS[:3]))
    for carried in (statements, (), ()):
        served.append(decided(history, record_after(history, statements=carried)))
        history = history.extend(served[-1])
    late = begin(8)
    for raw in served:
        late = late.extend(raw)
    assert late.conduct == history.conduct
    assert PEERS[7] in late.conduct.bans
    assert late == history
