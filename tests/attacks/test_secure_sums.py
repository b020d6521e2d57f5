"""Attacks on sums: an owner that publishes another, a member that sends garbage, and how each is found out.

Cells of 8 tolerate 2 liars: 6 signatures make anything final, 6 shares rebuild a secret.
"""

import numpy as np
import pytest

from proto.canonical import Message, PeerID
from secagg.interface import Completed, SendSum
from secagg.masks import chunk_keys_root
from secagg.messages import (
    Evidence,
    Opening,
    Part,
    PartSum,
    Receipt,
    Release,
    ShareList,
    Shown,
    chunk_hashes,
)
from tests.attacks.liars import (
    Hand,
    dealt_by,
    final_proposal,
    lying_owner,
    own_input,
    own_mask,
    recomputed,
    resigned,
    sends_nothing,
    sums_told,
    without,
)
from tests.secagg.session_network import CHUNK, KEYS, Cell
from verify.statement import domain_of, open_signed, sign


def within_bounds(update: np.ndarray, weight: int) -> bool:
    """What every honest update of a `Cell` passes."""
    return bool((np.abs(update.astype(int)) <= 1000).all())


def all_look(hand: Hand, chunk: int = 0) -> None:
    """The sum failed its sanity tests in this chunk: everyone shows and opens it, and looks."""
    for peer in hand.peers:
        hand.cell.do(peer, hand.cell.sessions[peer].open_chunk(chunk, within_bounds))
    hand.drain()
    for peer in hand.honest:
        for found in hand.cell.sessions[peer].evidence:
            assert found.against in hand.liars, f"an honest member is accused of {found.kind}"
            hand.recheck(found)


# -- part sums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True], ids=["all survive", "one does not"])
def test_a_wrong_part_sum_is_recomputed_from_what_was_signed_and_names_its_owner(missing: bool) -> None:
    """Members complete with the wrong sum, and agree on it; whoever recomputes it finds the owner."""
    hand, sent = lying_owner(lambda effect: effect.data + np.int16(1), missing)
    survivors = hand.peers[:6] + hand.peers[7:] if missing else hand.peers
    true = np.asarray(sum(hand.cell.updates[peer] for peer in survivors))
    part = next(iter(sent.values())).part
    where = hand.session.cut.slices[part]
    true[where] += 1
    for end in hand.ends():
        assert isinstance(end, Completed)
        assert np.array_equal(end.total, true)
    headers = {key: {e.header for e in sent.values()} if key[0] in hand.liars else raws
               for key, raws in sums_told(hand, hand.peers).items()}  # fmt: skip
    wrong = []
    for (owner, number), raws in headers.items():
        (raw,) = raws
        signed = open_signed(raw, PartSum)
        assert signed.signer == owner
        if signed.message.hashes != recomputed(hand, number, owner, own_input(hand, owner, number)):
            wrong.append(owner)
    assert len(headers) == len(hand.session.cut.parts)
    assert wrong == hand.liars


def test_a_wrong_part_sum_names_its_owner_even_if_it_shows_nothing() -> None:
    """Its own masked part is with nobody else, but its receipt names it: the Part that a claimed sum implies
    shows at once whether it is the one that the owner has signed for."""
    for lie in (0, 1):
        hand, sent = lying_owner(lambda effect, lie=lie: effect.data + np.int16(lie))  # type: ignore[misc]
        liar = hand.liars[0]
        claimed = next(iter(sent.values()))
        proposed = final_proposal(hand)
        receipts = [open_signed(raw, Receipt).message for raw in proposed.receipts]
        (receipt,) = [one for one in receipts if one.part == claimed.part]
        implied = claimed.data.copy()
        for me, effect in hand.parts():
            if effect.part == claimed.part and me in proposed.survivors:
                implied -= effect.data
        first = hand.session.cut.first(claimed.part)
        own = [own_mask(hand, survivor) for survivor in proposed.survivors]  # all seeds are released
        implied = without(implied, [(seed, -sign_) for seed, sign_ in own], first)
        hashes = chunk_hashes(implied, CHUNK)
        part = Part(session=hand.session.id, part=claimed.part, hashes=hashes)
        kept = open_signed(own_input(hand, liar, claimed.part)[0], Part).message
        assert (part == kept) == (lie == 0), "the sum that it signed says what its own part would have to be"
        named = receipt.headers[receipt.senders.index(liar)]
        assert (named == part.digest()) == (lie == 0)


def test_different_sums_to_different_members_are_two_signed_headers() -> None:
    places = {peer: place for place, peer in enumerate(Cell(8).peers)}
    hand, sent = lying_owner(lambda effect: effect.data + np.int16(places[effect.to] % 2))
    liar = hand.liars[0]
    totals = set()
    for end in hand.ends():
        assert isinstance(end, Completed)
        totals.add(end.total.tobytes())
    assert len(totals) == 2, "they do not agree, and one hash shows it: no record can come of it"
    one, other = sorted({effect.header for effect in sent.values()})
    adverts = tuple(sorted(raw for raw, _ in hand.session.adverts.values()))
    hand.recheck(Evidence("two sums", liar, (one, other), adverts))
    with pytest.raises(AssertionError):
        hand.recheck(Evidence("two sums", liar, (one, one), adverts))


def test_a_sum_that_was_checked_is_not_written_again_by_a_second_stream() -> None:
    hand = Hand(Cell(5), 3)
    liar, victim = hand.liars[0], hand.peers[1]
    sessions = hand.cell.sessions

    def two_streams(sent: SendSum) -> list[SendSum]:
        if sent.to != victim:
            return [sent]
        first = sessions[victim].room(liar, sent.header, PartSum)
        second = sessions[victim].room(liar, sent.header, PartSum)
        first[:] = sent.data
        hand.cell.do(victim, sessions[victim].arrived(liar, sent.header, PartSum, first))
        hand.cell.later(victim, lambda: np.add(second, 1, out=second))
        return []

    hand.sends(liar, SendSum, two_streams)  # type: ignore[arg-type]
    hand.run().all_completed(hand.peers)


# -- what is shown and opened when a sum fails ----------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True], ids=["all survive", "one does not"])
def test_when_all_have_shown_the_owner_of_a_wrong_sum_is_convicted_and_nobody_opens_anything(
    missing: bool,
) -> None:
    hand, sent = lying_owner(lambda effect: effect.data + np.int16(30_000), missing)
    (part,) = {effect.part for effect in sent.values()}
    all_look(hand, hand.session.cut.first(part))
    hand.convicted("sum", hand.liars[0])
    domains = [domain_of(raw) for raw in hand.session.evidence[0].statements]
    assert domains.count(Shown.DOMAIN) == (7 if missing else 8)
    assert len(domains) == 4 + domains.count(Release.DOMAIN) + domains.count(Shown.DOMAIN)
    assert not hand.told(Opening), "no key of a mask is told for a sum that is not true"
    assert not any(hand.cell.sessions[peer].silent for peer in hand.honest)


def test_a_sum_that_is_wrong_elsewhere_convicts_nobody_by_a_chunk_that_is_true() -> None:
    hand, sent = lying_owner(lambda effect: effect.data + np.int16(1))
    (part,) = {effect.part for effect in sent.values()}
    all_look(hand, hand.session.cut.first(part) + 1)
    hand.convicted("", "", by=[])


def test_no_owner_is_convicted_before_all_survivors_have_shown() -> None:
    hand, sent = lying_owner(lambda effect: effect.data + np.int16(1))
    (part,) = {effect.part for effect in sent.values()}
    hand.loses(hand.peers[6], Shown, hand.peers[:2])
    all_look(hand, hand.session.cut.first(part))
    hand.convicted("sum", hand.liars[0], by=[peer for peer in hand.honest if peer not in hand.peers[:2]])


def test_an_owner_that_tells_one_member_the_true_sum_does_not_hide_behind_it() -> None:
    # FAILS: a member whose own sum holds shows nothing, so nobody can add up the chunk: the owner is not
    # convicted, and all the others name the honest member as silent. It should answer a Shown with its own.
    hand = Hand(Cell(8), 3)
    owner, victim = hand.liars[0], hand.peers[5]

    def lie(sent: SendSum) -> list[SendSum]:
        return [sent if sent.to == victim else resigned(sent, owner, sent.data + np.int16(30_000))]

    hand.sends(owner, SendSum, lie)  # type: ignore[arg-type]
    hand.run()
    for peer in hand.peers:
        if peer != victim:
            hand.cell.do(peer, hand.cell.sessions[peer].open_chunk(hand.session.cut.first(3), within_bounds))
    hand.drain()
    deceived = [peer for peer in hand.honest if peer != victim]
    hand.convicted("sum", owner, by=deceived)
    assert not any(victim in hand.cell.sessions[peer].silent for peer in deceived)


def garbage_of(*places: int) -> Hand:
    """A cell in which these members' updates are out of every bound in the first chunk."""
    cell = Cell(8)
    for place in places:
        liar = cell.peers[place]
        cell.updates[liar][:CHUNK] = 30_000
        cell.sessions[liar].update[:CHUNK] = 30_000
    return Hand(cell, *places)


@pytest.mark.parametrize("opens", [True, False])
def test_garbage_convicts_who_sent_it_and_not_the_owner_also_if_it_keeps_its_keys_back(opens: bool) -> None:
    """A pair's key is both partners'."""
    hand = garbage_of(5)
    if not opens:
        hand.loses(hand.liars[0], Opening)
    hand.run().all_completed(hand.peers)
    all_look(hand)
    hand.convicted("garbage", hand.liars[0])


@pytest.mark.parametrize("kind", [Shown, Opening])
def test_two_that_keep_back_together_are_convicted_of_nothing_and_named_by_everyone(
    kind: type[Message],
) -> None:
    hand = garbage_of(5, 6)
    for liar in hand.liars:
        hand.loses(liar, kind)
    hand.run().all_completed(hand.peers)
    all_look(hand)
    hand.convicted("", "", by=[])
    for peer in hand.honest:
        assert hand.cell.sessions[peer].silent == set(hand.liars)


def test_two_that_agree_on_a_false_pair_key_make_no_honest_owner_look_guilty() -> None:
    """One of them survives. Owners take off the true mask, known from the rebuilt key: the sum is noise."""
    hand = Hand(Cell(8), 6, 7)
    false = bytes([5]) * 32
    root = chunk_keys_root(false, -(-hand.cell.size // CHUNK))
    for liar, partner in zip(hand.liars, hand.liars[::-1], strict=True):

        def told(to: PeerID, message: Message, me: PeerID = liar, other: PeerID = partner) -> list[ShareList]:
            sharing = hand.cell.sessions[me]._sharing
            assert sharing is not None
            sharing._seeds[other] = false
            return [dealt_by(hand.cell, me, roots={other: root})]

        hand.says(liar, ShareList, told)
    sends_nothing(hand, hand.liars[1])
    hand.run()
    done = hand.ends()[0]
    assert isinstance(done, Completed)
    assert done.survivors == tuple(hand.peers[:7])
    assert not within_bounds(done.total // 8, 1), "the sum is noise"
    all_look(hand)
    hand.convicted("garbage", hand.liars[0])


# -- lies in what is shown and opened -----------------------------------------------------------------


SHOWN_LIES: dict[str, dict[str, object]] = {
    "other integers": {"data": bytes(2 * CHUNK)},
    "too few of them": {"data": bytes(2)},
    "none": {"data": b""},
    "another chunk": {"chunk": 1},
    "no header": {"header": b""},
}


@pytest.mark.parametrize("how", SHOWN_LIES)
def test_masked_integers_other_than_those_sent_are_refused_and_their_author_named_by_everyone(
    how: str,
) -> None:
    hand = Hand(Cell(8), 7)
    hand.says(hand.liars[0], Shown, lambda to, m: [m.model_copy(update=SHOWN_LIES[how])])
    hand.run().all_completed(hand.peers)
    all_look(hand)
    assert len(hand.cell.refusals) >= 7
    hand.convicted("", "", by=[])
    for peer in hand.honest:
        assert hand.cell.sessions[peer].silent == set(hand.liars)


@pytest.mark.parametrize("how", ["keys that are in no root", "fewer keys", "fewer proofs", "another chunk"])
def test_keys_that_are_in_no_root_are_refused_and_hide_no_garbage(how: str) -> None:
    hand = garbage_of(7)

    def lie(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, Opening)
        changes: dict[str, dict[str, object]] = {
            "keys that are in no root": {"keys": (bytes(32),) * 8},
            "fewer keys": {"keys": message.keys[:-1]},
            "fewer proofs": {"proofs": message.proofs[:-1]},
            "another chunk": {"chunk": 1},
        }
        return [message.model_copy(update=changes[how])]

    hand.says(hand.liars[0], Opening, lie)
    hand.run().all_completed(hand.peers)
    all_look(hand)
    assert sum(text.startswith("opening: ") for text in hand.cell.refusals) == 7
    hand.convicted("garbage", hand.liars[0])


def test_keys_told_too_early_that_hold_nowhere_keep_nobody_from_opening() -> None:
    # FAILS: Session._on_shown takes up the openings it holds, and a refusal of one ends it: the other held
    # ones are lost, and this member never opens, so that everyone names it as silent.
    hand = garbage_of(7)
    hand.loses(hand.liars[0], Opening)
    hand.run().all_completed(hand.peers)
    for peer in hand.honest:
        early = Opening(session=hand.session.id, chunk=0, keys=(), proofs=())
        hand.say(hand.liars[0], peer, early)
    all_look(hand)
    assert {me for me, _ in hand.told(Opening)} == set(hand.honest)
    hand.convicted("garbage", hand.liars[0])


@pytest.mark.parametrize("named", [4, 31])
def test_a_header_without_hashes_of_the_owners_own_breaks_nobody_who_looks_at_what_it_shows(
    named: int,
) -> None:
    """Nobody else has looked at it before."""
    hand = Hand(Cell(5), 4)
    liar = hand.liars[0]
    session = hand.cell.sessions[liar]
    (part,) = [p for p, owner in enumerate(hand.peers) if owner == liar]
    empty = Part(session=session.id, part=named, hashes=())

    def own_header(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, Receipt)
        if message.part != part:
            return [message]
        session._headers[part] = (sign(KEYS[liar], empty), empty)
        return [message.model_copy(update={"headers": (*message.headers[:-1], empty.digest())})]

    hand.says(liar, Receipt, own_header)
    hand.run().all_completed(hand.peers)
    all_look(hand, session.cut.first(part))
    assert any("shows other integers than it sent" in text for text in hand.cell.refusals)
    hand.convicted("", "", by=[])
    assert all(hand.cell.sessions[peer].silent == {liar} for peer in hand.honest)


def test_what_is_shown_is_not_held_before_a_sum_is_near_and_keys_once_a_member() -> None:
    hand = Hand(Cell(8), 7)
    target, liar = hand.cell.sessions[hand.peers[1]], hand.liars[0]
    large = Shown(session=target.id, chunk=0, header=bytes(1 << 20), data=bytes(1 << 18))
    assert "this is not held" in hand.refuse(liar, target.me, large)
    for chunk in range(50):
        target.receive(
            liar, sign(KEYS[liar], Opening(session=target.id, chunk=chunk, keys=(), proofs=())), Opening
        )
    assert target._early.keys() == {(Opening, liar)}
