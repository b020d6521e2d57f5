"""Attacks on what a secure session agrees on: lists, readiness, survivor sets, votes, and who may say what.

Cells of 8 tolerate 2 liars: 6 signatures make anything final, 6 shares rebuild a secret.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from secagg.interface import FROM, Completed, Effect, SendPart, SendSum, Step, Tell
from secagg.messages import (
    Disclosure,
    FinalSet,
    Part,
    PartSum,
    Ready,
    ReadySet,
    Receipt,
    Release,
    SessionMessage,
    SetVote,
    ShareList,
    ShareLists,
    SurvivorSet,
)
from secagg.ring import Ring
from tests.attacks.liars import (
    STRANGER,
    Hand,
    dealt_by,
    everything_said,
    final_proposal,
    forged,
    lose_parts,
    open_any,
    ready_statements,
    votes_for_everything,
    without_last,
)
from tests.secagg.session_network import CHUNK, KEYS, KINDS, Cell
from verify.statement import domain_of, open_signed, sign


def halves(hand: Hand) -> tuple[list[PeerID], list[PeerID]]:
    """The honest members in two halves."""
    middle = len(hand.honest) // 2
    return hand.honest[:middle], hand.honest[middle:]


# -- an equivocating proposer -----------------------------------------------------------------------


@pytest.mark.parametrize("told_both", [False, True])
def test_two_survivor_sets_to_two_halves_make_neither_final(told_both: bool) -> None:
    hand = Hand(Cell(8), 0, 1)
    proposer, accomplice = hand.liars
    first, second = halves(hand)

    def two_faced(to: PeerID, message: Message) -> list[Message]:
        if told_both and to == first[0]:
            return [message, without_last(message)]
        return [without_last(message)] if to in second else [message]

    hand.says(proposer, SurvivorSet, two_faced)
    votes_for_everything(hand, accomplice)
    hand.run().all_failed()
    assert not hand.told(Release), "nobody shows a share without a final set"
    assert len({m.encode() for _, m in hand.told(SetVote)}) == 2, "each half signed another set"
    hand.convicted("two sets", proposer, by=[first[0]] if told_both else [])


def five_see_one_set_three_another() -> Hand:
    """Both liars and four honest members vote for the whole cell, two honest ones saw a smaller set."""
    hand = Hand(Cell(8), 0, 1)
    proposer, accomplice = hand.liars
    few = hand.honest[-2:]
    hand.says(proposer, SurvivorSet, lambda to, m: [without_last(m)] if to in few else [m])
    votes_for_everything(hand, accomplice)
    return hand.run()


def test_when_few_saw_another_set_only_the_one_with_a_quorum_is_summed() -> None:
    hand = five_see_one_set_three_another()
    assert {m.encode() for _, m in hand.told(SetVote, hand.honest[-2:])}, "the two voted, for the other set"
    hand.all_completed(hand.peers)
    hand.cell.assert_exact()


def test_a_final_set_other_than_the_one_a_member_signed_is_evidence_against_the_proposer() -> None:
    hand = five_see_one_set_three_another()
    hand.convicted("two sets", hand.liars[0], by=hand.honest[-2:])


@pytest.mark.parametrize("told_both", [False, True])
def test_different_share_lists_to_two_halves_stop_before_anything_is_masked(told_both: bool) -> None:
    hand = Hand(Cell(8), 0, 1)
    proposer = hand.liars[0]
    first, second = halves(hand)

    def two_faced(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, ShareLists)
        fewer = message.model_copy(update={"lists": message.lists[:-1]})
        if told_both and to == first[0]:
            return [message, fewer]
        return [fewer] if to in second else [message]

    hand.says(proposer, ShareLists, two_faced)
    hand.run().all_failed()
    assert not hand.parts(), "no masked byte left an honest member"
    hand.convicted("two lists", proposer, by=[first[0]] if told_both else [])


def test_different_ready_sets_to_two_halves_make_no_sum() -> None:
    """Each half cuts the vector among other members, and takes no part of whom the other half alone names."""
    hand = Hand(Cell(8), 0)
    first, _ = halves(hand)

    def two_faced(to: PeerID, message: Message) -> list[Message]:
        ready = ready_statements(hand)
        return [ReadySet(session=hand.session.id, ready=ready[:6] if to in first else ready[-6:])]

    hand.says(hand.liars[0], ReadySet, two_faced)
    hand.run().all_failed()
    assert len({hand.cell.sessions[peer].dealers for peer in hand.honest}) == 2
    assert not hand.told(Release)
    hand.convicted("", "", by=[])


def test_a_ready_set_that_leaves_members_out_costs_their_updates_and_shows_nothing_of_them() -> None:
    """Masks were keyed for them too: those come off, and the members' own updates never left."""
    hand = Hand(Cell(8), 0)
    hand.cell.sessions[hand.liars[0]]._proposer.ready_set = (  # type: ignore[method-assign]
        lambda: ReadySet(session=hand.session.id, ready=ready_statements(hand)[:6])
    )
    hand.run().all_completed(hand.peers[:6])
    assert not hand.parts(hand.peers[6:])
    assert hand.told(Release, hand.peers[6:]), "they help to unmask, and learn the sum"
    hand.convicted("", "", by=[])


@pytest.mark.parametrize("kind", [ShareLists, ReadySet, SurvivorSet, FinalSet])
def test_a_step_told_to_half_the_cell_only_ends_without_a_sum(kind: type[Message]) -> None:
    hand = Hand(Cell(8), 0)
    hand.loses(hand.liars[0], kind, halves(hand)[1])
    hand.run().all_failed()
    assert kind is FinalSet or not hand.told(Release)
    hand.convicted("", "", by=[])


# -- sets that the receipts do not carry ------------------------------------------------------------


def test_survivors_are_only_those_whose_parts_all_owners_have() -> None:
    hand = Hand(Cell(8))
    lose_parts(hand, (6, 1), (7, 2))
    hand.run().all_completed(hand.peers[:6])
    receipts = {m.encode(): (m.part, len(m.senders)) for _, m in hand.told(Receipt)}  # type: ignore[attr-defined]
    assert sorted(count for _, count in receipts.values()) == [7, 7, 8, 8, 8, 8, 8], "two owners differ"


@pytest.mark.parametrize("named", [7, 8])
def test_a_set_that_overlapping_receipts_do_not_carry_is_signed_by_nobody(named: int) -> None:
    hand = Hand(Cell(8), 0)
    lose_parts(hand, (6, 1), (7, 2))
    hand.says(
        hand.liars[0],
        SurvivorSet,
        lambda to, m: [m.model_copy(update={"survivors": tuple(hand.peers[:named])})],
    )
    hand.run().all_failed()
    assert not hand.told(SetVote)
    assert not hand.told(Release)
    assert any("does not name all survivors" in refusal for refusal in hand.cell.refusals)


def bent_receipts(bend: Callable[[list[bytes]], list[bytes]]) -> Callable[[Message], SurvivorSet]:
    def bent(message: Message) -> SurvivorSet:
        assert isinstance(message, SurvivorSet)
        return message.model_copy(update={"receipts": tuple(bend(list(message.receipts)))})

    return bent


def bent_survivors(bend: Callable[[list[PeerID]], list[PeerID]]) -> Callable[[Message], SurvivorSet]:
    def bent(message: Message) -> SurvivorSet:
        assert isinstance(message, SurvivorSet)
        return message.model_copy(update={"survivors": tuple(bend(list(message.survivors)))})

    return bent


def stranger_owns(receipts: list[bytes]) -> list[bytes]:
    return [sign(STRANGER, open_signed(receipts[0], Receipt).message), *receipts[1:]]


def altered(receipts: list[bytes]) -> list[bytes]:
    return [receipts[0][:-1] + bytes([receipts[0][-1] ^ 1]), *receipts[1:]]


UNCARRIED: dict[str, Callable[[Message], SurvivorSet]] = {
    "a receipt too few": bent_receipts(lambda receipts: receipts[:-1]),
    "a receipt twice": bent_receipts(lambda receipts: [receipts[0], *receipts]),
    "one owner's for another part": bent_receipts(lambda receipts: [receipts[1], receipts[1], *receipts[2:]]),
    "a stranger's receipt": bent_receipts(stranger_owns),
    "an altered receipt": bent_receipts(altered),
    "a survivor twice": bent_survivors(lambda survivors: [survivors[0], *survivors]),
    "survivors out of order": bent_survivors(lambda survivors: survivors[::-1]),
    "a stranger as survivor": bent_survivors(lambda survivors: sorted([*survivors, STRANGER.peer_id])),
    "fewer survivors than the minimum": bent_survivors(lambda survivors: survivors[:5]),
}


@pytest.mark.parametrize("lie", UNCARRIED)
def test_a_set_is_not_signed_with(lie: str) -> None:
    hand = Hand(Cell(8), 0)
    hand.says(hand.liars[0], SurvivorSet, lambda to, message: [UNCARRIED[lie](message)])
    hand.run().all_failed()
    assert not hand.told(SetVote)
    assert not hand.told(Release)


@pytest.mark.parametrize("lost", [False, True], ids=["owners alive", "an owner lost"])
def test_a_member_that_signs_receipts_for_everything_gains_nothing(lost: bool) -> None:
    """It owns no part: its receipts count where none before it in the chain has signed, and late."""
    hand = Hand(Cell(5, owners=(1, 2)), 4)
    liar, owner, dealers = hand.liars[0], hand.peers[1], tuple(hand.peers)

    def with_receipts(sent: SendPart) -> list[SendPart]:
        for part in hand.cell.sessions[liar].cut.parts:
            claimed = (bytes(32),) * len(dealers)
            claim = Receipt(session=sent.session, part=part, senders=dealers, headers=claimed)
            hand.say(liar, hand.peers[0], claim)
        return [sent]

    def dies(sent: SendPart) -> list[SendPart]:
        hand.cell.dead.add(owner)
        return []

    hand.sends(liar, SendPart, with_receipts)  # type: ignore[arg-type]
    if lost:
        hand.sends(owner, SendPart, dies)  # type: ignore[arg-type]
    alive = [peer for peer in hand.peers if peer != owner or not lost]
    hand.run().all_completed(alive, who=[peer for peer in hand.honest if peer in alive])
    assert {m.senders for _, m in hand.told(Receipt, [liar])} <= {dealers}  # type: ignore[attr-defined]
    signers = {open_signed(raw, Receipt).signer for raw in final_proposal(hand).receipts}
    assert signers == ({hand.peers[2]} if lost else set(hand.peers[1:3]))


def test_an_owner_that_refuses_late_does_not_break_the_member_that_steps_in() -> None:
    hand = Hand(Cell(8), 1)
    liar, next_owner = hand.liars[0], hand.peers[2]
    look, held_up = hand.cell.on_effect, list[SendPart]()

    def refuses(me: PeerID, effect: Effect) -> bool:
        if isinstance(effect, SendPart) and effect.to == liar and effect.part == 1:
            if me == next_owner:
                held_up.append(effect)
            else:
                hand.cell.later(me, lambda: hand.cell.failed(me, effect))
            return False
        if isinstance(effect, Tell) and me == next_owner and domain_of(effect.raw) == Receipt.DOMAIN:
            receipt = open_any(effect.raw)[1]
            if isinstance(receipt, Receipt) and receipt.part == 1:
                hand.cell.later(me, lambda: hand.cell.failed(me, held_up.pop()))
        return look(me, effect)

    hand.cell.on_effect = refuses
    hand.run().all_completed([peer for peer in hand.peers if peer not in (liar, next_owner)])
    assert not held_up


# -- forged final sets ------------------------------------------------------------------------------


FORGED = [
    "too few votes",
    "no votes",
    "one vote six times",
    "five votes and one again",
    "votes for another set",
    "only the liars' votes",
    "a stranger's vote",
    "another session's votes",
    "another's proposal",
    "a name that is not the proposal's",
    "an altered vote",
]


@pytest.mark.parametrize("how", FORGED)
def test_no_share_is_shown_for_a_final_set_with(how: str) -> None:
    hand = Hand(Cell(8), 0, 1)
    hand.says(hand.liars[0], FinalSet, lambda to, m: [forged(hand, how, m)])  # type: ignore[arg-type]
    hand.run().all_failed()
    assert not hand.told(Release)
    assert hand.cell.refusals


@pytest.mark.parametrize("how", FORGED)
@pytest.mark.parametrize("forged_first", [True, False])
def test_nobody_is_talked_into_both_kinds_of_share_by(how: str, forged_first: bool) -> None:
    """The true final set comes too; honest members release for it, once, and for nothing else."""
    hand = Hand(Cell(8), 0, 1)

    def both(to: PeerID, message: Message) -> list[FinalSet]:
        assert isinstance(message, FinalSet)
        pair = [forged(hand, how, message), message]
        return pair if forged_first else pair[::-1]

    hand.says(hand.liars[0], FinalSet, both)
    hand.run().all_completed(hand.peers)
    (final,) = {m.survivor_set for _, m in hand.told(Release)}  # type: ignore[attr-defined]
    assert len(hand.told(Release)) == len(hand.honest) * (len(hand.peers) - 1)
    done = hand.ends()[0]
    assert isinstance(done, Completed)
    assert final == done.survivor_set


# -- lowered terms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [ShareList, Ready, Receipt, SetVote])
def test_a_proposer_with_a_lower_minimum_makes_no_honest_member_go_on(step: type[Message]) -> None:
    """It runs the whole protocol on 3 of 8 members' statements; the others need 6."""
    hand = Hand(Cell(8), 0)
    liar = hand.liars[0]
    session = hand.cell.sessions[liar]
    hand.cell.sessions[liar] = replace(session, terms=replace(session.terms, minimum=3))
    if step in (Receipt, SetVote):  # up to there it gets what it needs
        hand.says(liar, ReadySet, lambda to, m: [m.model_copy(update={"ready": ready_statements(hand)})])
    if step is Receipt:
        lose_parts(hand, (3, 1), (4, 2), (5, 3), (6, 4), (7, 5))  # only three arrive everywhere
    else:
        for peer in hand.peers[3:]:
            hand.loses(peer, step)
    hand.run().all_failed()
    kinds: list[type[Message]] = [
        ShareList,
        ShareLists,
        Ready,
        ReadySet,
        Receipt,
        SurvivorSet,
        SetVote,
        FinalSet,
        Release,
    ]
    at = kinds.index(step)
    assert hand.told(kinds[at + 1], [liar]), "the liar did propose it"
    assert not hand.told(kinds[at + 2])
    assert any("needed" in text or "at least" in text for text in hand.cell.refusals)


def test_shares_of_a_lower_threshold_rebuild_what_those_of_the_full_one_would() -> None:
    """A dealer that shares so gives away its own secret only, and stops nothing."""
    hand = Hand(Cell(8), 7)
    liar = hand.liars[0]
    hand.says(liar, ShareList, lambda to, m: [dealt_by(hand.cell, liar, threshold=2)])
    hand.loses(liar, Release)
    lose_parts(hand, (7, 1))
    hand.run().all_completed(hand.peers[:7])


def test_numbers_of_another_ring_are_refused() -> None:
    hand = Hand(Cell(8), 7)
    liar = hand.liars[0]
    seen: list[str] = []

    def wider(sent: SendPart) -> list[SendPart]:
        target = hand.cell.sessions[sent.to]
        wide = sent.data.astype(np.int32)
        for data in (wide, np.concatenate([sent.data, sent.data]), sent.data.reshape(1, -1)):
            with pytest.raises(MessageRefused, match="part"):
                target.arrived(liar, sent.header, Part, data)
        room = target.room(liar, sent.header, Part)
        assert room.dtype == np.int16
        assert room.shape == sent.data.shape
        seen.append(sent.to)
        return []

    # The owners are masking when the liar sends: each awaits its part.
    hand.sends(liar, SendPart, wider)  # type: ignore[arg-type]
    hand.run().all_completed(hand.peers[:7])
    assert len(seen) == 7


# -- identities -------------------------------------------------------------------------------------


def twice(items: Iterable[bytes]) -> tuple[bytes, ...]:
    first, *rest = items
    return (first, first, *rest)


@pytest.mark.parametrize("padded", [False, True], ids=["as well", "instead of a sixth"])
@pytest.mark.parametrize(("kind", "where"), [(ShareLists, "lists"), (ReadySet, "ready"), (FinalSet, "votes")])
def test_a_set_that_names_one_signer_twice_is_refused(kind: type[Message], where: str, padded: bool) -> None:
    hand = Hand(Cell(8), 0)

    def double(to: PeerID, message: Message) -> list[Message]:
        said = getattr(message, where)
        return [message.model_copy(update={where: twice(said[:5] if padded else said)})]

    hand.says(hand.liars[0], kind, double)
    hand.run().all_failed()
    assert not hand.told(Release)


def test_a_second_list_and_a_second_vote_of_one_member_change_nothing() -> None:
    hand = Hand(Cell(8), 7)
    liar = hand.liars[0]
    other = sign(KEYS[liar], dealt_by(hand.cell, liar))

    def votes(to: PeerID, message: Message) -> list[Message]:
        return [message, message.model_copy(update={"statements": (b"more",)})]

    hand.says(liar, ShareList, lambda to, m: [m, other])
    hand.says(liar, SetVote, votes)
    hand.run().all_completed(hand.peers)
    for end in hand.ends():
        assert isinstance(end, Completed)
        assert [vote.statements for peer, vote in end.votes if peer == liar] == [()], "the first one counts"


def test_two_share_lists_of_one_dealer_in_the_lists_are_refused() -> None:
    hand = Hand(Cell(8), 0, 7)
    other = sign(KEYS[hand.liars[1]], dealt_by(hand.cell, hand.liars[1]))
    hand.says(
        hand.liars[0],
        ShareLists,
        lambda to, m: [m.model_copy(update={"lists": (*m.lists, other)})],  # type: ignore[attr-defined]
    )
    hand.run().all_failed()
    assert not hand.told(Ready)


def test_a_receipt_that_differs_from_the_first_is_evidence() -> None:
    hand = Hand(Cell(8), 7)

    def two(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, Receipt)
        fewer = {"senders": message.senders[:-1], "headers": message.headers[:-1]}
        return [message.model_copy(update=fewer), message]

    hand.says(hand.liars[0], Receipt, two)
    hand.run().all_completed(hand.peers[:7])
    hand.convicted("two receipts", hand.liars[0], by=hand.peers[:1])


def test_a_stranger_says_nothing_that_counts() -> None:
    said = [open_any(raw)[1] for raw in everything_said(Cell(5))]
    hand = Hand(Cell(5))
    look, asked = hand.cell.on_effect, set()

    def heckled(me: PeerID, effect: Effect) -> bool:
        step = hand.cell.sessions[me].step
        if (me, step) not in asked:
            asked.add((me, step))
            for message in said:
                assert hand.refuse(STRANGER.peer_id, me, sign(STRANGER, message))
                member = hand.peers[1] if me != hand.peers[1] else hand.peers[2]
                assert hand.refuse(member, me, sign(STRANGER, message)), "nor through a member"
        return look(me, effect)

    hand.cell.on_effect = heckled
    hand.run().all_completed(hand.peers)
    assert {step for _, step in asked} >= {Step.SHARE, Step.READY, Step.MASK, Step.AGREE, Step.UNMASK}


def test_a_member_brings_no_other_members_statement() -> None:
    hand = Hand(Cell(5), 4)

    def as_another(to: PeerID, message: Message) -> list[Message | bytes]:
        forged_raw = sign(KEYS[hand.peers[1]], message)
        return [message, forged_raw]

    for kind in (ShareList, Ready, Receipt, SetVote, Release):
        hand.says(hand.liars[0], kind, as_another)
    hand.run().all_completed(hand.peers)
    assert any("brought a statement of" in refusal for refusal in hand.cell.refusals)


def test_who_is_left_out_of_the_lists_is_neither_summed_nor_owner_but_helps_to_unmask() -> None:
    hand = Hand(Cell(8), 7)
    left_out = hand.liars[0]
    hand.loses(left_out, ShareList)
    hand.run().all_completed(hand.peers[:7])
    end = hand.cell.outcome[left_out]
    assert isinstance(end, Completed), "it learns the sum like everyone"
    assert not any(me == left_out and isinstance(e, SendPart) for me, e in hand.emitted)
    assert not hand.told(Ready, [left_out]), "its word on lists that it is not in counts for nothing"
    assert hand.told(Release, [left_out])


def test_a_ready_of_who_dealt_nothing_is_refused_alone_and_within_a_ready_set() -> None:
    hand = Hand(Cell(8), 0, 7)
    proposer, left_out = hand.liars
    hand.loses(left_out, ShareList)
    refusals: list[str] = []

    def with_another(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, ReadySet)
        lists = open_signed(message.ready[0], Ready).message
        refusals.append(hand.refuse(left_out, proposer, sign(KEYS[left_out], lists)))
        return [message.model_copy(update={"ready": (*message.ready, sign(KEYS[left_out], lists))})]

    hand.says(proposer, ReadySet, with_another)
    hand.run().all_failed()
    assert not hand.parts()
    assert all("dealt no shares" in text for text in refusals)
    assert sum("ready: " in text and "dealt no shares" in text for text in hand.cell.refusals) == 7


def test_a_ready_in_a_plain_session_is_refused() -> None:
    cell = Cell(4, secure=False)
    one, other = cell.peers[:2]
    session = cell.sessions[one]
    session.start()
    with pytest.raises(MessageRefused, match="dealt no shares"):
        session.receive(other, sign(KEYS[other], Ready(session=session.id, lists=bytes(32))), Ready)


def test_who_is_left_out_of_the_lists_cannot_push_its_part_or_a_receipt() -> None:
    hand = Hand(Cell(8), 7)
    left_out = hand.liars[0]
    hand.loses(left_out, ShareList)
    refusals: list[str] = []

    def pushes(to: PeerID, message: Message) -> list[Message]:
        # The vote comes when all owners have signed; its own part and receipt come with it.
        assert isinstance(message, SetVote)
        target = hand.cell.sessions[hand.peers[1]]
        hashes = (bytes(32),) * -(-target.cut.elements(0) // CHUNK)
        header = sign(KEYS[left_out], Part(session=message.session, part=0, hashes=hashes))
        with pytest.raises(MessageRefused) as caught:
            target.room(left_out, header, Part)
        refusals.append(str(caught.value))
        receipt = Receipt(session=message.session, part=0, senders=(left_out,), headers=(bytes(32),))
        refusals.append(hand.refuse(left_out, hand.peers[0], receipt))
        return [message]

    hand.says(left_out, SetVote, pushes)
    hand.run().all_completed(hand.peers[:7])
    assert "dealt no shares" in refusals[0]
    assert "cannot own part" in refusals[1]


# -- after the end, before the time, too much -------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_messages_for_a_session_that_is_over_do_nothing(fails: bool) -> None:
    hand = Hand(Cell(5), *([0] if fails else []))
    if fails:
        hand.loses(hand.peers[0], FinalSet)
    hand.run()
    told = [(me, e) for me, e in hand.emitted if isinstance(e, Tell)]
    before = {(me, e.raw) for me, e in told}
    counted = len(hand.emitted)
    for me, effect in hand.emitted[:counted]:
        for peer in hand.honest:
            session = hand.cell.sessions[peer]
            assert session.step is (Step.VOID if fails else Step.DONE)
            try:
                if isinstance(effect, Tell):
                    again = session.receive(me, effect.raw, KINDS[domain_of(effect.raw)])
                elif isinstance(effect, SendPart | SendSum):
                    kind = Part if isinstance(effect, SendPart) else PartSum
                    with pytest.raises(MessageRefused, match="is over"):
                        session.room(me, effect.header, kind)
                    again = session.arrived(me, effect.header, kind, effect.data)
                else:
                    continue
            except MessageRefused:
                continue
            for answer in again:
                assert isinstance(answer, Tell), "at most, it says again what it has said"
                assert (peer, answer.raw) in before
    for peer in hand.honest:
        session = hand.cell.sessions[peer]
        for name in ("share", "ready", "mask", "straggle", "set", "votes", "sums", "receipt 0"):
            assert session.elapsed(name) == []
        for job in (("deal",), ("mask", 0), ("sum", 0), ("part", 0, peer)):
            assert session.job_done(job, None) == []
        assert session.evidence == []


def test_started_twice_a_session_masks_its_update_once() -> None:
    cell = Cell(5)
    hand = Hand(cell)
    for peer in cell.peers:
        cell.do(peer, cell.sessions[peer].start())
    hand.run().all_completed(cell.peers)
    headers = {(me, e.part, e.header) for me, e in hand.parts()}
    assert len(headers) == len({(me, part) for me, part, _ in headers}), "one masked part each, and no other"


def test_a_flood_of_early_statements_holds_one_of_a_kind_and_sender() -> None:
    hand = Hand(Cell(8), 7)
    target, liar = hand.cell.sessions[hand.peers[1]], hand.liars[0]
    for number in range(500):
        mark = number.to_bytes(32, "big")
        flood: list[SessionMessage] = [
            Ready(session=target.id, lists=mark),
            Release(session=target.id, survivor_set=mark, seed=None, shares=()),
            SetVote(session=target.id, survivor_set=mark, seed=None, statements=()),
            Disclosure(session=target.id, kind="mask", key=mark),
        ]
        for message in flood:
            try:
                assert target.receive(liar, sign(KEYS[liar], message), type(message)) == []
            except MessageRefused:
                continue
    assert len(target._early) <= len(FROM)
    hand.run().all_completed(hand.peers)


def test_large_statements_are_held_from_nobody_who_may_not_say_them() -> None:
    hand = Hand(Cell(8), 7)
    target, liar = hand.cell.sessions[hand.peers[1]], hand.liars[0]
    for message in (
        FinalSet(
            session=target.id, survivor_set=bytes(32), proposal=bytes(1 << 18), votes=(bytes(1 << 14),) * 32
        ),
        SurvivorSet(session=target.id, survivors=(liar,), receipts=(bytes(8_000),) * 32),
        ReadySet(session=target.id, ready=(bytes(1_000),) * 32),
    ):
        with pytest.raises(MessageRefused, match="is not the proposer"):
            target.receive(liar, sign(KEYS[liar], message), type(message))
    receipt = Receipt(session=target.id, part=0, senders=tuple(hand.peers), headers=(bytes(32),) * 8)
    vote = SetVote(session=target.id, survivor_set=bytes(32), seed=None, statements=(bytes(15_000),) * 2)
    proposer = hand.cell.sessions[hand.peers[0]]
    for message in (receipt, vote):
        with pytest.raises(MessageRefused, match="this member is not the proposer"):
            target.receive(liar, sign(KEYS[liar], message), type(message))
        assert proposer.receive(liar, sign(KEYS[liar], message), type(message)) == []
    assert not target._early
    assert proposer._early.keys() == {(Receipt, liar), (SetVote, liar)}


def test_evidence_against_one_member_is_kept_once_however_often_it_lies() -> None:
    hand = Hand(Cell(5), 0)

    def many(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, SurvivorSet)
        others = [
            message.model_copy(
                update={"survivors": message.survivors[:4] if n % 2 else message.survivors[1:]}
            )
            for n in range(40)
        ]
        return [message, *others]

    hand.says(hand.liars[0], SurvivorSet, many)
    hand.run().all_completed(hand.peers)
    hand.convicted("two sets", hand.liars[0])


# -- corners ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign_of", [1, -1])
def test_sums_at_the_rings_extreme_corners_do_not_wrap(sign_of: int) -> None:
    ring, slices = Ring.for_cell(16, 8, 4), 4
    cell = Cell(8)
    most = sign_of * ring.levels * slices
    for peer in cell.peers:
        cell.updates[peer][:] = most
        cell.sessions[peer].update[:] = most
    hand = Hand(cell).run()
    for end in hand.ends():
        assert isinstance(end, Completed)
        assert end.total.astype(np.int64).tolist() == [8 * most] * cell.size
        assert abs(8 * most) > 32_700, "this is the corner"
