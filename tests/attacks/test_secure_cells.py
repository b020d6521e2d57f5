"""Attacks on the secrets and sums of a secure session: keys, shares, masks, releases, owners, replays.

Cells of 8 tolerate 2 liars: 6 signatures make anything final, 6 shares rebuild a secret.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from blake3 import blake3

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from secagg.interface import Completed, Effect, Failed, SendPart, SendSum, Step, Tell
from secagg.keys import Secrets, agree, unseal
from secagg.messages import (
    Advert,
    Disclosure,
    FinalSet,
    Part,
    PartSum,
    Ready,
    ReadySet,
    Receipt,
    Release,
    ShareList,
    ShareLists,
    SurvivorSet,
    chunk_hashes,
)
from tests.attacks.liars import (
    Hand,
    dealt_by,
    own_mask,
    pair_mask,
    retold,
    sends_nothing,
    share_hash,
    sums_told,
    votes_for_everything,
    with_secrets,
    without,
    without_last,
)
from tests.secagg.session_network import CHUNK, KEYS, KINDS, Cell, check, secrets_of
from verify.statement import BadSignature, domain_of, open_signed, sign


def deals(hand: Hand, liar: PeerID, **lies: object) -> None:
    """`liar` deals with these lies in its share list."""
    hand.says(liar, ShareList, lambda to, message: [dealt_by(hand.cell, liar, **lies)])  # type: ignore[arg-type]


def others(hand: Hand, *left_out: PeerID) -> list[PeerID]:
    return [peer for peer in hand.peers if peer not in left_out]


# -- pair keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("liar_at", "victim_at"), [(1, 5), (6, 2), (6, 0)], ids=["low", "high", "proposer"])
@pytest.mark.parametrize("silent", [True, False])
def test_a_fake_pair_key_stops_the_session_before_any_masked_byte(
    liar_at: int, victim_at: int, silent: bool
) -> None:
    """Whoever of the two is lower, and whether or not the liar discloses its key as well."""
    hand = Hand(Cell(8), liar_at)
    liar, victim = hand.liars[0], hand.peers[victim_at]
    deals(hand, liar, roots={victim: bytes(31) + b"\1"})
    if silent:
        hand.loses(liar, Disclosure)
    hand.run().all_failed("pair keys")
    assert not any(isinstance(effect, SendPart) for _, effect in hand.emitted)
    assert not hand.told(Ready), "nobody says that these lists hold"
    assert {me for me, _ in hand.told(Disclosure)} == {victim}, "only who was lied to shows a key"
    hand.convicted("pair key", liar)


def test_a_disclosed_key_that_comes_before_the_lists_still_convicts() -> None:
    hand = Hand(Cell(8), 6)
    liar, victim, late = hand.liars[0], hand.peers[2], hand.peers[4]
    deals(hand, liar, roots={victim: bytes(31) + b"\1"})
    hand.loses(liar, Disclosure)
    look = hand.cell.on_effect

    def slow(me: PeerID, effect: Effect) -> bool:
        if isinstance(effect, Tell) and effect.to == late and domain_of(effect.raw) == ShareLists.DOMAIN:
            hand.cell.late.append((me, effect))
            return False
        return look(me, effect)

    hand.cell.on_effect = slow
    hand.run().all_failed("pair keys")
    hand.convicted("pair key", liar)


def test_who_is_misled_alone_shows_a_key_that_opens_nothing() -> None:
    """The proposer shows one member another list of its own: that member stops, the rest complete without."""
    hand = Hand(Cell(8), 0)
    liar, victim = hand.liars[0], hand.peers[4]
    fake = sign(KEYS[liar], dealt_by(hand.cell, liar, roots={victim: bytes(31) + b"\1"}))

    def two_faced(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, ShareLists)
        return [message.model_copy(update={"lists": (fake, *message.lists[1:])}) if to == victim else message]

    hand.says(liar, ShareLists, two_faced)
    hand.run()
    hand.all_completed(others(hand, victim), who=[p for p in hand.honest if p != victim])
    assert isinstance(hand.cell.outcome[victim], Failed)
    assert not [me for me, _ in hand.parts() if me == victim], "it has masked nothing with that key"
    assert {me for me, _ in hand.told(Disclosure)} == {victim}
    hand.convicted("pair key", liar, by=[victim])


def test_a_member_that_showed_its_mask_key_is_named_a_survivor_by_nobody_and_unmasks_nobody() -> None:
    """Of 4, the proposer makes one show its key, and names it, itself and `alone` the survivors.

    With the seed that `alone` would release, the key of `fourth` that would be rebuilt, and the one that was
    shown, it would take every mask off the parts that `alone` sent it.
    """
    hand = Hand(Cell(4), 0)
    proposer, victim, alone, fourth = hand.peers
    fake = sign(KEYS[proposer], dealt_by(hand.cell, proposer, roots={victim: bytes(32)}))

    def two_faced(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, ShareLists)
        return [message.model_copy(update={"lists": (fake, *message.lists[1:])}) if to == victim else message]

    def with_victim(to: PeerID, message: Message) -> list[Message]:
        session, named = hand.cell.sessions[proposer], (proposer, victim, alone)
        receipts = [
            Receipt(session=session.id, part=part, senders=named, headers=(bytes(32),) * 3)
            for part in session.cut.parts
        ]
        signed = tuple(sign(KEYS[proposer], receipt) for receipt in receipts)
        return [SurvivorSet(session=session.id, survivors=named, receipts=signed)]

    hand.says(proposer, ShareLists, two_faced)
    hand.says(proposer, SurvivorSet, with_victim)
    hand.run().all_failed()
    shown = {m.key for _, m in hand.told(Disclosure, [victim]) if isinstance(m, Disclosure)}
    assert shown == {secrets_of(victim).mask}
    assert hand.told(Receipt, [alone, fourth]), "the others went on without it"
    assert sum("survivors must be members that mask" in text for text in hand.cell.refusals) == 2
    assert not hand.told(Release)


@pytest.mark.parametrize("kind", ["mask_key", "seal_key"])
def test_a_key_of_low_order_gives_no_secret_and_no_masked_byte(kind: str) -> None:
    low_order = [
        (0).to_bytes(32, "little"),
        (1).to_bytes(32, "little"),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        *[(2**255 - 19 + around).to_bytes(32, "little") for around in (-1, 0, 1)],
    ]
    for point in low_order:
        for raised in (point, point[:-1] + bytes([point[-1] | 0x80])):  # the top bit is ignored
            with pytest.raises(MessageRefused, match="low order"):
                agree(bytes([5]) * 32, raised)
    cell = Cell(4)
    liar = cell.peers[3]
    adverts = dict(cell.sessions[liar].adverts)
    changed = Advert.model_validate(adverts[liar][1].model_dump() | {kind: low_order[2]})
    adverts[liar] = (sign(KEYS[liar], changed), changed)
    cell.sessions = {p: replace(s, adverts=adverts, evidence=[]) for p, s in cell.sessions.items()}
    hand = Hand(cell, 3)
    hand.run().all_failed()
    assert not any(isinstance(effect, SendPart) for _, effect in hand.emitted)
    assert any("low order" in refusal for refusal in cell.refusals)


def test_an_advert_whose_key_was_swapped_on_the_way_is_not_its_authors() -> None:
    raw, advert = Cell(4).sessions[Cell(4).peers[0]].adverts[Cell(4).peers[1]]
    assert advert.mask_key is not None
    assert raw.count(advert.mask_key) == 1
    swapped = raw.replace(advert.mask_key, bytes([9]) * 32)
    with pytest.raises(BadSignature):
        open_signed(swapped, Advert)


@pytest.mark.parametrize("fooled", [1, 2])
def test_a_member_with_two_adverts_makes_two_sessions_that_do_not_mix(fooled: int) -> None:
    """The leader of a group tells `fooled` of 5 members another advert of its own; 4 are needed."""
    cell = Cell(5)
    liar, apart = cell.peers[1], cell.peers[5 - fooled :]
    adverts = dict(cell.sessions[liar].adverts)
    face = Advert.model_validate(adverts[liar][1].model_dump() | {"mask_key": adverts[liar][1].seal_key})
    adverts[liar] = (sign(KEYS[liar], face), face)
    for peer in apart:
        cell.sessions[peer] = replace(cell.sessions[peer], adverts=adverts, evidence=[])
    assert len({session.id for session in cell.sessions.values()}) == 2
    hand = Hand(cell, 1).run()
    for peer in hand.honest:
        assert isinstance(cell.outcome[peer], Failed if peer in apart or fooled == 2 else Completed)
    cell.assert_exact()
    assert not [me for me, _ in hand.parts() if me in apart]
    assert any("for another session" in refusal for refusal in cell.refusals)
    if fooled == 1:
        hand.all_completed(cell.peers[:4], who=[p for p in hand.honest if p not in apart])


# -- dealing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["garbage", "unmatched"])
def test_shares_that_only_half_the_cell_can_use_stop_the_session_and_convict_the_dealer(how: str) -> None:
    hand = Hand(Cell(8), 7)
    liar, wronged = hand.liars[0], hand.peers[:4]
    deals(hand, liar, **{how: wronged})
    hand.run().all_failed()
    assert not any(isinstance(effect, SendPart) for _, effect in hand.emitted)
    assert {me for me, _ in hand.told(Disclosure)} == set(wronged)
    hand.convicted("dealing", liar)


def test_shares_that_two_members_cannot_use_stop_nobody_else() -> None:
    """They are not ready, so they mask nothing and may show a key; they vote, and release what they hold."""
    hand = Hand(Cell(8), 7)
    deals(hand, hand.liars[0], garbage=hand.peers[1:3])
    hand.run().all_completed(others(hand, *hand.peers[1:3]))
    assert not hand.parts(hand.peers[1:3])
    assert {me for me, _ in hand.told(Disclosure)} == set(hand.peers[1:3])
    hand.convicted("dealing", hand.liars[0])
    for me, release in hand.told(Release, hand.peers[1:3]):
        assert isinstance(release, Release)
        assert [share == b"" for share in release.shares] == [False] * 7 + [True], me


def test_a_dealer_that_starves_two_members_and_keeps_its_seed_costs_one_attempt_and_is_convicted() -> None:
    """5 of the 6 shares that its seed needs are left."""
    hand = Hand(Cell(8), 7)
    liar = hand.liars[0]
    deals(hand, liar, garbage=hand.peers[1:3])
    hand.loses(liar, Release)
    hand.run().all_failed("too few shares")
    hand.convicted("dealing", liar)
    assert not sums_told(hand, hand.honest)


def test_seal_keys_shown_by_misled_members_leave_liars_below_the_threshold() -> None:
    """A dealer and the proposer together make two members show their seal keys, while others use masks."""
    hand = Hand(Cell(8, owners=(0, 3, 4, 5, 6, 7)), 0, 7)
    proposer, dealer = hand.liars
    wronged = hand.peers[1:3]
    deals(hand, dealer, garbage=wronged)
    hand.loses(proposer, ReadySet, wronged)
    hand.run()
    remaining = [peer for peer in hand.honest if peer not in wronged]
    hand.all_completed(others(hand, *wronged), who=remaining)
    hand.convicted("dealing", dealer)
    shown = {m.key for _, m in hand.told(Disclosure) if isinstance(m, Disclosure) and m.kind == "seal"}
    assert shown == {secrets_of(peer).seal for peer in wronged}
    dealt = {me: m for me, m in hand.told(ShareList) if isinstance(m, ShareList)}
    for honest in remaining:
        opened = 0
        for private in (*shown, *(secrets_of(liar).seal for liar in hand.liars)):
            for holder in others(hand, honest):
                place, key = hand.peers.index(holder), hand.session.adverts[honest][1].seal_key
                assert key is not None
                try:
                    unseal(dealt[honest].sealed[place], agree(private, key), hand.session.id, honest, holder)
                except MessageRefused:
                    continue
                opened += 1
        assert opened == 4, "two liars' and two shown keys open their own shares"
        assert opened < hand.session.terms.threshold


LIES: dict[str, tuple[dict[str, object], bool]] = {
    "shares of a mask key on no polynomial": ({"scattered": True}, False),
    "shares of a seed on no polynomial": ({"scattered": True}, True),
    "another mask key": ({"mask": bytes([77]) * 32}, False),
    "another seed": ({"seed": bytes([77]) * 32}, True),
}


@pytest.mark.parametrize("lie", LIES)
def test_when_its_secret_is_needed_a_dealer_is_convicted_of(lie: str) -> None:
    """Every share is the one of the list's hash, and yet they rebuild nothing that the advert shows."""
    hand = Hand(Cell(8), 7)
    liar = hand.liars[0]
    lies, survives = LIES[lie]
    deals(hand, liar, **lies)
    if not survives:
        sends_nothing(hand, liar)
    hand.loses(liar, Release)
    hand.run().all_failed("too few shares")
    hand.convicted("dealing", liar)


@pytest.mark.parametrize("lies", [{"scattered": True}, {"seed": bytes([77]) * 32}], ids=["scattered", "seed"])
@pytest.mark.parametrize("liar_at", [1, 7])
def test_wrong_shares_of_a_seed_that_its_owner_shows_stop_nobody(
    lies: dict[str, object], liar_at: int
) -> None:
    """Where the shares come before the seed, they are rebuilt, and convict."""
    hand = Hand(Cell(8), liar_at)
    deals(hand, hand.liars[0], **lies)
    hand.run().all_completed(hand.peers)
    hand.convicted("dealing", hand.liars[0], by=hand.honest if liar_at == 7 else [])


# -- releases -----------------------------------------------------------------------------------------


def altered_share(place: int, share: bytes) -> Callable[[PeerID, Message], list[Message]]:
    def alter(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, Release)
        shares = (*message.shares[:place], share, *message.shares[place + 1 :])
        return [message.model_copy(update={"shares": shares})]

    return alter


@pytest.mark.parametrize("of", [6, 2], ids=["a mask key", "a seed"])
@pytest.mark.parametrize("share", [bytes(33), b"\1"], ids=["whole", "short"])
def test_an_altered_share_convicts_its_holder_and_the_others_suffice(of: int, share: bytes) -> None:
    hand = Hand(Cell(8), 7)
    sends_nothing(hand, hand.peers[6])
    hand.says(hand.liars[0], Release, altered_share(of, share))
    hand.run().all_completed(others(hand, hand.peers[6]))
    hand.convicted("share", hand.liars[0])


def test_a_survivor_that_shows_another_seed_is_convicted_and_its_seed_rebuilt() -> None:
    hand = Hand(Cell(8), 7)
    hand.says(hand.liars[0], Release, lambda to, m: [m.model_copy(update={"seed": bytes(32)})])
    hand.run().all_completed(hand.peers)
    hand.convicted("seed", hand.liars[0])


def test_a_survivor_that_hides_its_seed_hides_nothing() -> None:
    hand = Hand(Cell(8), 7)
    hand.says(hand.liars[0], Release, lambda to, m: [m.model_copy(update={"seed": None})])
    hand.run().all_completed(hand.peers)


def test_a_seed_of_a_member_that_is_no_survivor_is_not_taken() -> None:
    """Its mask key comes out: with both, its update would lie open."""
    hand = Hand(Cell(8), 7)
    liar = hand.liars[0]
    sends_nothing(hand, liar)
    hand.says(liar, Release, lambda to, m: [m.model_copy(update={"seed": secrets_of(liar).seed})])
    hand.run().all_completed(others(hand, liar))
    assert any("a survivor, and nobody else, shows its seed" in refusal for refusal in hand.cell.refusals)
    for peer in hand.honest:
        recovery = hand.cell.sessions[peer]._recovery
        assert recovery is not None
        assert liar in recovery.keys
        assert liar not in recovery.seeds


def test_a_release_for_another_set_counts_for_nothing() -> None:
    hand = Hand(Cell(8), 7)
    hand.says(hand.liars[0], Release, lambda to, m: [m.model_copy(update={"survivor_set": bytes(32)})])
    hand.run().all_completed(hand.peers)
    assert any("release: for another survivor set" in refusal for refusal in hand.cell.refusals)


def test_a_second_release_for_another_set_is_evidence() -> None:
    hand = Hand(Cell(8), 7)

    def two(to: PeerID, message: Message) -> list[Message]:
        return [message, message.model_copy(update={"survivor_set": bytes(32)})]

    hand.says(hand.liars[0], Release, two)
    hand.run().all_completed(hand.peers)
    hand.convicted("two releases", hand.liars[0])


def test_releases_that_come_before_the_final_set_wait_for_it_and_must_fit() -> None:
    hand = Hand(Cell(8), 7)
    late, liar = hand.peers[3], hand.liars[0]
    look = hand.cell.on_effect
    seen: list[Step] = []

    def slow(me: PeerID, effect: Effect) -> bool:
        if isinstance(effect, Tell) and effect.to == late:
            if domain_of(effect.raw) == FinalSet.DOMAIN:
                hand.cell.late.append((me, effect))
                return False
            if domain_of(effect.raw) == Release.DOMAIN:
                seen.append(hand.cell.sessions[late].step)
        return look(me, effect)

    hand.cell.on_effect = slow
    hand.says(liar, Release, lambda to, m: [m.model_copy(update={"survivor_set": bytes(32)})])
    hand.run().all_completed(hand.peers)
    assert seen == [Step.AGREE] * 7, "all of them came too early"


# -- replays, retries ---------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["attempt", "round", "run", "snapshot", "shard"])
def test_statements_and_parts_of_another_session_mean_nothing(other: str) -> None:
    """Everything of one session is said again in one that differs in this alone, just before its like."""
    old = Hand(Cell(5)).run()
    value: object = bytes([1]) * 32 if other in ("run", "snapshot") else 7
    hand = Hand(retold(Cell(5), changes={other: value}))
    look = hand.cell.on_effect
    replayed = 0

    def again(me: PeerID, effect: Effect) -> bool:
        nonlocal replayed
        for sender, said in old.emitted:
            if isinstance(effect, Tell) and isinstance(said, Tell) and (sender, said.to) == (me, effect.to):
                if domain_of(said.raw) == domain_of(effect.raw):
                    assert hand.refuse(sender, said.to, said.raw)
                    replayed += 1
            elif isinstance(effect, SendPart | SendSum) and isinstance(said, type(effect)):
                kind = Part if isinstance(effect, SendPart) else PartSum
                with pytest.raises(MessageRefused, match="for another session"):
                    hand.cell.sessions[said.to].room(sender, said.header, kind)
                replayed += 1
        return look(me, effect)

    hand.cell.on_effect = again
    hand.run().all_completed(hand.peers)
    assert replayed > 100
    hand.convicted("", "", by=[])


def drawn_anew(peer: PeerID) -> Secrets:
    return Secrets(*(blake3(b"anew" + peer.encode() + bytes([use])).digest() for use in range(4)))


def derived(hand: Hand) -> set[bytes]:
    """Every byte string that a session's secrets gave rise to on the wire."""
    found: set[bytes] = set()
    for _, dealt in hand.told(ShareList):
        assert isinstance(dealt, ShareList)
        found |= {*dealt.sealed, *dealt.mask_shares, *dealt.seed_shares, *dealt.pair_roots}
    for _, release in hand.told(Release):
        assert isinstance(release, Release)
        found |= set(release.shares)
    for _, part in hand.parts():
        found |= set(open_signed(part.header, Part).message.hashes)
    return found - {b"", bytes(32)}


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh secrets", "the same secrets"])
def test_two_attempts_have_nothing_in_common_that_a_mask_is_made_of(fresh: bool) -> None:
    """Even the same secrets give unrelated keys in a session of another name."""
    first, again = Hand(Cell(5)).run(), Cell(5, attempt=1)
    second = Hand(with_secrets(again, drawn_anew) if fresh else again).run()
    second.all_completed(second.peers)
    assert len(derived(first)) > 100
    assert not derived(first) & derived(second)


def test_two_sums_that_differ_in_one_member_give_it_away_only_if_an_update_is_masked_twice() -> None:
    """Why no update is masked in two sessions: the next attempt's slices are others."""

    def difference(second: Cell) -> np.ndarray:
        whole, fewer = Hand(Cell(8)).run(), Hand(with_secrets(second, drawn_anew))
        sends_nothing(fewer, fewer.peers[7])
        fewer.run().all_completed(fewer.peers[:7])
        one, other = whole.ends()[0], fewer.ends()[0]
        assert isinstance(one, Completed)
        assert isinstance(other, Completed)
        return np.asarray(one.total - other.total)

    missing = Cell(8).updates[Cell(8).peers[7]]
    assert np.array_equal(difference(Cell(8, attempt=1)), missing), "the same updates: it lies open"
    assert not np.isin(difference(Cell(8, attempt=1, seed=1)), missing).all(), "new ones: it does not"


# -- owners -------------------------------------------------------------------------------------------


def masked_vector(hand: Hand, member: PeerID) -> np.ndarray:
    """What a member masked, as it lies with the owners."""
    return hand.cell.sessions[member].update


def test_an_owner_that_withholds_a_member_gets_a_sum_without_it_and_no_view_of_it() -> None:
    hand = Hand(Cell(8), 3)
    missing = hand.peers[5]

    def withhold(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, Receipt)
        at = message.senders.index(missing)
        cut = {
            "senders": message.senders[:at] + message.senders[at + 1 :],
            "headers": message.headers[:at] + message.headers[at + 1 :],
        }
        return [message.model_copy(update=cut)]

    hand.says(hand.liars[0], Receipt, withhold)
    hand.run().all_completed(others(hand, missing))
    (dealt,) = {m.encode(): m for _, m in hand.told(ShareList, [missing])}.values()
    assert isinstance(dealt, ShareList)
    for me, release in hand.told(Release):
        assert isinstance(release, Release)
        assert (release.seed is None) == (me == missing)
        shared = share_hash(hand.session.id, missing, me, "mask", release.shares[5])
        assert shared == dealt.mask_shares[hand.peers.index(me)], "a share of its mask key, not of its seed"
    pairs = [pair_mask(hand, missing, peer) for peer in others(hand, missing)]
    update, masked = hand.cell.updates[missing], masked_vector(hand, missing)
    bare = without(masked, pairs)  # all that its mask key takes off
    assert not np.isin(bare, update).all()
    assert np.array_equal(without(bare, [own_mask(hand, missing)]), update), (
        "its own mask is all that hides it"
    )


@pytest.mark.parametrize("sums_sent", [0, 3, 7])
def test_an_owner_lost_after_the_set_is_final_leaves_one_sum_or_none(sums_sent: int) -> None:
    hand = Hand(Cell(8), 3)
    owner, sent = hand.liars[0], 0
    look = hand.cell.on_effect

    def dies(me: PeerID, effect: Effect) -> bool:
        nonlocal sent
        if me == owner and isinstance(effect, SendSum):
            if sent == sums_sent:
                hand.cell.dead.add(owner)
                return False
            sent += 1
            hand.cell.transfer(owner, effect)  # in full, before it dies
            return False
        return look(me, effect)

    hand.cell.on_effect = dies
    hand.run()
    hand.cell.assert_exact()
    ends = [type(end) for end in hand.ends()]
    assert ends.count(Completed) == sums_sent
    assert ends.count(Failed) == 7 - sums_sent
    for end in hand.ends():
        if isinstance(end, Failed):
            assert "no sum came for part" in end.reason


def test_two_different_parts_to_one_owner_are_evidence_and_the_first_counts() -> None:
    hand = Hand(Cell(8), 7)
    liar = hand.liars[0]

    def two(sent: SendPart) -> list[SendPart]:
        data = sent.data + np.int16(1)
        header = Part(session=sent.session, part=sent.part, hashes=chunk_hashes(data, CHUNK))
        return [sent, replace(sent, header=sign(KEYS[liar], header), data=data)]

    hand.sends(liar, SendPart, two)  # type: ignore[arg-type]
    hand.run().all_completed(hand.peers)
    hand.convicted("two parts", liar)


def test_data_that_are_not_those_of_their_header_make_no_survivor() -> None:
    hand = Hand(Cell(8), 7)
    hand.sends(hand.liars[0], SendPart, lambda sent: [replace(sent, data=sent.data + np.int16(1))])
    hand.run().all_completed(hand.peers[:7])
    assert any("not those of its signed header" in refusal for refusal in hand.cell.refusals)


# -- what colluders see -------------------------------------------------------------------------------


def test_the_smallest_cell_around_all_colluders_gives_them_the_sum_of_the_rest_only() -> None:
    """Of a roster of 8, two collude: they propose, own all parts, and met with as few others as they may."""
    cell = retold(Cell(6, minimum=6, owners=(0, 1)), 5)  # t = (6 + 2) // 2 + 1
    hand = Hand(cell, 0, 1)
    hand.run().all_completed(hand.peers)
    assert len(hand.honest) >= max(3, 2 + 2)
    stripped = {}
    for peer in hand.honest:
        seeds = {m.seed for _, m in hand.told(Release, [peer]) if isinstance(m, Release)}
        assert seeds == {secrets_of(peer).seed}, "own masks are known to all"
        known = [own_mask(hand, peer), *(pair_mask(hand, liar, peer) for liar in hand.liars)]
        known = [known[0], *((seed, -sign_) for seed, sign_ in known[1:])]
        stripped[peer] = without(masked_vector(hand, peer), known)
    for size in range(1, len(hand.honest) + 1):
        for group in combinations(hand.honest, size):
            seen = np.sum([stripped[peer] for peer in group], axis=0, dtype=np.int16)
            true = np.sum([cell.updates[peer] for peer in group], axis=0, dtype=np.int16)
            assert np.array_equal(seen, true) == (size == len(hand.honest))
    shown = {share for _, m in hand.told(Release) if isinstance(m, Release) for share in m.shares}
    masks_shown = {
        (dealer, holder)
        for dealer, dealt in hand.told(ShareList)
        for holder in hand.peers
        for share in shown
        if isinstance(dealt, ShareList)
        and share_hash(hand.session.id, dealer, holder, "mask", share)
        == dealt.mask_shares[hand.peers.index(holder)]
    }
    assert not masks_shown, "no share of a survivor's mask key is shown"


def test_two_colluding_owners_never_see_both_kinds_of_share_of_one_member() -> None:
    """They own all parts, give receipts with and without a member, and propose both sets."""
    hand = Hand(Cell(8, owners=(0, 1)), 0, 1)
    proposer, accomplice = hand.liars
    victim, few = hand.peers[7], hand.honest[:2]

    def both_receipts(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, Receipt)
        fewer = {"senders": message.senders[:-1], "headers": message.headers[:-1]}
        return [message, message.model_copy(update=fewer)]

    def both_finals(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, FinalSet)
        smaller = without_last(open_signed(message.proposal, SurvivorSet).message)
        votes = [
            e.raw
            for me, e in hand.emitted
            if me in few and isinstance(e, Tell) and domain_of(e.raw) == "set-vote"
        ]
        own = [sign(KEYS[liar], check(votes[0], KINDS["set-vote"])[1]) for liar in hand.liars]
        assert len({*votes, *own}) == 4
        raws = {check(raw, KINDS["set-vote"])[0]: raw for raw in (*votes, *own)}
        lie = FinalSet(
            session=message.session,
            survivor_set=smaller.digest(),
            proposal=sign(KEYS[proposer], smaller),
            votes=tuple(raws[peer] for peer in sorted(raws)),
        )
        return [lie, message, lie]

    hand.says(accomplice, Receipt, both_receipts)
    hand.says(proposer, SurvivorSet, lambda to, m: [without_last(m) if to in few else m])
    votes_for_everything(hand, accomplice)
    hand.says(proposer, FinalSet, both_finals)
    hand.run().all_completed(hand.peers)
    (dealt,) = {m.encode(): m for _, m in hand.told(ShareList, [victim])}.values()
    assert isinstance(dealt, ShareList)
    kinds = set()
    for me, release in hand.told(Release):
        assert isinstance(release, Release)
        place = hand.peers.index(me)
        for kind, hashes in (("mask", dealt.mask_shares), ("seed", dealt.seed_shares)):
            if share_hash(hand.session.id, victim, me, kind, release.shares[7]) == hashes[place]:
                kinds.add(kind)
    assert kinds == {"seed"}
