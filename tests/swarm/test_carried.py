"""Statements on their way into a record: each has its place, and nobody takes the places of others."""

import pytest

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import MAX_VOTE, SetVote
from swarm.carried import CARRIED_BYTES, MOST_JOINS, Carried
from tests.verify.chain import PEERS, begin, decided, follow, goodbye, join, record_after, wish
from tests.verify.test_standing import found, judged
from verify.carrying import union_of_statements
from verify.identity import Identity
from verify.record import MOST_CARRIED, MOST_OF_ONE, History
from verify.sketch import WIDTH
from verify.standing import Judgement, Verdict
from verify.statement import domain_of, open_signed, sign


def stranger(number: int) -> Identity:
    return Identity.from_seed(bytes([80, number & 255, number >> 8]) + bytes(29))


def asks(history: History, number: int) -> bytes:
    return sign(stranger(number), wish(history))


def flooded(history: History, count: int = MOST_JOINS) -> Carried:
    carried = Carried()
    for number in range(count):
        carried.take(asks(history, number), history)
    return carried


def kinds(raws: list[bytes]) -> list[str]:
    return [domain_of(raw) for raw in raws]


def evidence(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_what_is_admissible_is_carried_until_it_is_on_record() -> None:
    history, carried = begin(7), Carried()
    about = PEERS[6]
    raws = [judged(history, PEERS[0], about), found(history, PEERS[0], about), join(history, PEERS[9])]
    for raw in raws:
        carried.take(raw, history)
    assert set(carried.admissible(history)) == set(raws)
    record = record_after(history, statements=tuple(sorted(raws)))
    assert carried.admissible(history.extend(decided(history, record))) == []


def test_an_accusation_is_not_taken_back_before_it_is_on_record() -> None:
    """Or who accuses could have everyone look, and a jury compute, for nothing."""
    history = begin(8)
    accused, denied = (judged(history, PEERS[0], holds=holds) for holds in (True, False))
    for order in ([accused, denied], [denied, accused]):
        carried = Carried()
        for raw in order:
            carried.take(raw, history)
        assert carried.admissible(history) == [accused]
    for sets in ([[accused], [denied]], [[denied], [accused]], [[denied, accused]]):
        assert union_of_statements(history, sets) == (accused,)


def test_what_no_record_can_carry_is_refused_and_forgotten() -> None:
    history, carried = begin(8), Carried()
    for raw in (b"", b"\x84garbage", judged(history, PEERS[20]), goodbye(history, PEERS[20])):
        with pytest.raises(MessageRefused):
            carried.take(raw, history)
    carried.take(join(history, PEERS[9]), history)
    assert carried.admissible(follow(history, 70)) == []
    assert carried.admissible(history) == []


def test_everybodys_first_comes_before_anybodys_second_and_all_fits_a_vote() -> None:
    history = begin(8)
    carried = flooded(history)
    for peer in PEERS[:7]:
        carried.take(found(history, peer), history)
        for number in range(8):
            carried.take(judged(history, peer, evidence=evidence(number)), history)
    chosen = carried.admissible(history)
    assert kinds(chosen)[:7] == [Judgement.DOMAIN] * 7
    assert {open_signed(raw, Judgement).signer for raw in chosen[:7]} == set(PEERS[:7])
    assert sum(kind == Verdict.DOMAIN for kind in kinds(chosen)) == 7
    assert sum(map(len, chosen)) <= CARRIED_BYTES
    assert len(chosen) <= MOST_CARRIED
    vote = SetVote(session=bytes(32), survivor_set=bytes(32), seed=bytes(32), statements=tuple(chosen))
    assert len(SetVote.parse(vote.encode()).encode()) < MAX_VOTE - 256


def test_any_number_of_strangers_keeps_no_member_out() -> None:
    """Anyone may ask to join; what members find of each other goes into the record all the same."""
    history = begin(8)
    carried = flooded(history)
    with pytest.raises(MessageRefused, match="no room"):
        carried.take(asks(history, MOST_JOINS), history)
    for raw in (judged(history, PEERS[0]), found(history, PEERS[1]), goodbye(history, PEERS[2])):
        carried.take(raw, history)
    chosen = carried.admissible(history)
    for raw in (judged(history, PEERS[0]), found(history, PEERS[1]), goodbye(history, PEERS[2])):
        assert raw in chosen, domain_of(raw)


def test_strangers_do_not_fill_the_room_of_a_member_that_comes_back() -> None:
    history = begin(8)
    gone = PEERS[7]
    record = record_after(history, statements=(goodbye(history, gone),))
    history = history.extend(decided(history, record))
    flooded(history).take(join(history, gone), history)


def test_members_with_low_names_that_say_much_keep_nobodys_verdict_out() -> None:
    history, carried = begin(16, largest_cell=32), Carried()
    liars, honest = PEERS[:4], PEERS[4:16]
    for peer in honest:
        carried.take(found(history, peer, honest[0] if peer != honest[0] else honest[1]), history)
    for liar in liars:
        for number, checked in enumerate(PEERS[:16]):
            if checked != liar:
                changes = {
                    "outcome": "unclear",
                    "sketch": ((1 << 62) - 1,) * WIDTH,
                    "session": evidence(number),
                }
                carried.take(found(history, liar, checked, **changes), history)
    chosen = carried.admissible(history)
    assert {open_signed(raw, Verdict).signer for raw in chosen} == {*liars, *honest}


def test_what_a_checker_says_it_computed_is_not_taken_back() -> None:
    history = begin(8)
    told = found(history, PEERS[0], outcome="clean")
    unsaid = found(history, PEERS[0], outcome="unclear")
    for order in ([told, unsaid], [unsaid, told]):
        carried = Carried()
        for raw in order:
            carried.take(raw, history)
        assert carried.admissible(history) == [told]
    assert union_of_statements(history, [[unsaid], [told]]) == (told,)
    other = found(history, PEERS[0], outcome="clean", session=bytes(32))
    assert set(union_of_statements(history, [[other], [told]])) == {told, other}


def test_no_member_takes_the_place_of_another() -> None:
    history, carried = begin(8), Carried()
    for number in range(MOST_OF_ONE):
        carried.take(judged(history, PEERS[0], evidence=evidence(number)), history)
    with pytest.raises(MessageRefused, match="no room"):
        carried.take(judged(history, PEERS[0], evidence=evidence(MOST_OF_ONE)), history)
    for peer in PEERS[1:7]:
        carried.take(judged(history, peer), history)
    for peer in PEERS[1:8]:
        carried.take(found(history, peer, PEERS[0]), history)
    chosen = carried.admissible(history)
    assert sum(domain_of(raw) == Verdict.DOMAIN for raw in chosen) == 7
    assert sum(domain_of(raw) == Judgement.DOMAIN for raw in chosen) == MOST_OF_ONE + 6


def test_a_member_may_say_more_of_the_same_when_there_is_no_room() -> None:
    history, carried = begin(8), Carried()
    for number in range(MOST_OF_ONE):
        carried.take(judged(history, PEERS[0], evidence=evidence(number), holds=False), history)
    other = judged(history, PEERS[0], evidence=evidence(0))
    carried.take(other, history)
    assert other in carried.admissible(history)


def test_the_most_that_members_can_say_still_makes_a_record_that_all_accept() -> None:
    history = begin(8)
    said = [
        judged(history, peer, evidence=evidence(number)) for peer in PEERS[:7] for number in range(40)
    ] + [found(history, peer, other) for peer in PEERS[:8] for other in PEERS[:8] if peer != other]
    chosen = union_of_statements(history, [said, [join(history, peer) for peer in PEERS[9:30]]])
    assert len(chosen) <= MOST_CARRIED
    record = record_after(history, statements=chosen)
    assert history.extend(decided(history, record)).round == 1


def test_all_who_wait_to_join_are_known_however_few_a_record_takes_in() -> None:
    """A steward that is alone enrols them all at once."""
    history, carried = begin(1), Carried()
    waiting: list[PeerID] = PEERS[9:14]
    for peer in waiting:
        carried.take(join(history, peer), history)
    assert sorted(carried.waiting(history)) == waiting
