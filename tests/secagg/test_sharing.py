"""Dealing, releasing, judging: one kind of secret, never both; who lies is convicted, and nobody else."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.keys import Secrets, agree, pair_seed, public_key, seal, self_seed, unseal
from secagg.masks import chunk_keys_root, sign_towards
from secagg.messages import (
    SEALED_BYTES,
    SHARE_BYTES,
    Advert,
    Disclosure,
    Evidence,
    Release,
    ShareList,
    seed_commitment,
    session_id,
)
from secagg.shamir import combine
from secagg.sharing import Dealt, Recovery, Sharing
from tests.secagg.session_network import KEYS, advert_of, secrets_of
from verify.statement import domain_of, open_signed, sign

PEERS = sorted(KEYS)
A, B, C, D = PEERS[:4]
CHUNKS = 3
SET = b"\x07" * 32
LISTS, READY, PROPOSAL = b"the signed share lists", b"a signed Ready", b"the signed survivor set"
FALSE = b"\xff" * 32
Lie = Callable[["Group", ShareList], ShareList]
quick = settings(max_examples=25, derandomize=True, deadline=None)


@dataclass
class Group:
    """The members' sharings after every list was told to all. `wrong`: whose shares each member refuses."""

    members: list[PeerID]
    sharings: dict[PeerID, Sharing]
    adverts: dict[PeerID, tuple[bytes, Advert]]
    dealt: dict[PeerID, Dealt]
    wrong: dict[PeerID, dict[PeerID, str]]

    @property
    def session(self) -> bytes:
        return self.sharings[self.members[0]].session

    def place(self, member: PeerID) -> int:
        return self.members.index(member)

    def release(self, member: PeerID, survivors: Collection[PeerID]) -> Release:
        return self.sharings[member].release(SET, sorted(survivors))

    def judged(self, author: PeerID, kind: str, by: PeerID | None = None) -> list[Evidence]:
        """What a member's disclosure shows to `by` (anyone, if not said)."""
        message = self.sharings[author].disclose(kind)
        judge = self.sharings[by or self.members[-1]]
        return judge.judge(author, message, sign(KEYS[author], message))

    def recovery(self, survivors: Collection[PeerID], by: PeerID | None = None) -> Recovery:
        return Recovery(self.sharings[by or self.members[0]], SET, sorted(survivors), PROPOSAL)

    def add(self, recovery: Recovery, member: PeerID, **changes: Any) -> list[Evidence]:
        """A member's release, with `changes`, is taken in."""
        message = self.release(member, recovery.survivors).model_copy(update=changes)
        return recovery.add(member, message, sign(KEYS[member], message))


def group(
    n: int = 4,
    threshold: int = 3,
    left_out: Collection[PeerID] = (),
    lies: Mapping[PeerID, Iterable[Lie]] | None = None,
    last_advert: Mapping[str, object] | None = None,
) -> Group:
    """Everyone deals; lists of members left out did not come in time; whoever lies tells its list changed."""
    members = PEERS[:n]
    signed = {}
    for member in members:
        advert = advert_of(member, **(last_advert or {} if member == members[-1] else {}))
        signed[member] = (sign(KEYS[member], advert), advert)
    session = session_id(signed[A][1], [raw for raw, _ in signed.values()])
    sharings = {m: Sharing(m, signed, session, secrets_of(m), threshold, CHUNKS) for m in members}
    made = Group(members, sharings, signed, {}, {})
    for member in members:
        message, sharings[member].ready = sharings[member].deal(), dict.fromkeys(members, READY)
        for lie in (lies or {}).get(member, ()):
            message = lie(made, message)
        if member not in left_out:
            made.dealt[member] = Dealt(sign(KEYS[member], message), message)
    made.wrong = {member: sharings[member].accept(made.dealt, LISTS) for member in members}
    return made


def changed(message: ShareList, name: str, place: int, value: bytes) -> ShareList:
    values = list(getattr(message, name))
    values[place] = value
    return message.model_copy(update={name: tuple(values)})


def garbage_for(holder: PeerID) -> Lie:
    """What is sealed for this member does not open."""
    return lambda g, list_: changed(list_, "sealed", g.place(holder), bytes(SEALED_BYTES))


def false_hash_for(holder: PeerID, name: str) -> Lie:
    """What is sealed opens, and is not what was hashed."""
    return lambda g, list_: changed(list_, name, g.place(holder), FALSE)


def false_root_for(partner: PeerID) -> Lie:
    return lambda g, list_: changed(list_, "pair_roots", g.place(partner), FALSE)


def other_secret(dealer: PeerID, holders: Collection[PeerID], **other: bytes) -> Lie:
    """The shares of these holders, hashes and all, are those of another mask key or seed."""

    def lie(g: Group, honest: ShareList) -> ShareList:
        liar = g.sharings[dealer]
        secrets = replace(secrets_of(dealer), **other)
        dealt = Sharing(dealer, g.adverts, g.session, secrets, liar.threshold, CHUNKS).deal()
        for holder in holders:
            for name in ("sealed", "mask_shares", "seed_shares"):
                honest = changed(honest, name, g.place(holder), getattr(dealt, name)[g.place(holder)])
        return honest

    return lie


def share_of(g: Group, dealer: PeerID, holder: PeerID) -> tuple[bytes, bytes]:
    """What a dealer sealed for a holder, opened with the holder's key: shares of mask key and seed."""
    shared = agree(secrets_of(holder).seal, public_key(secrets_of(dealer).seal))
    sealed = g.dealt[dealer].message.sealed[g.place(holder)]
    plain = unseal(sealed, shared, g.session, dealer, holder)
    return plain[:SHARE_BYTES], plain[SHARE_BYTES:]


# ---- dealing


@pytest.mark.parametrize(("n", "threshold"), [(1, 1), (2, 2), (4, 3), (5, 4), (8, 6)])
def test_every_member_opens_what_every_dealer_dealt_it(n: int, threshold: int) -> None:
    g = group(n, threshold)
    assert all(wrong == {} for wrong in g.wrong.values())
    for member in g.members:
        assert g.sharings[member].differing_pairs() == []
        g.sharings[member].check_shape(member, g.dealt[member].message)


def test_any_threshold_of_sealed_shares_are_the_dealers_mask_key_and_seed() -> None:
    g = group(5, 4)
    for dealer in g.members:
        others = [holder for holder in g.members if holder != dealer]
        opened = {g.place(holder): share_of(g, dealer, holder) for holder in others}
        assert combine({place: pair[0] for place, pair in opened.items()}) == secrets_of(dealer).mask
        assert combine({place: pair[1] for place, pair in opened.items()}) == secrets_of(dealer).seed


def test_dealing_twice_gives_the_same_list() -> None:
    """A sealing key must never seal two things, so a second list would be one."""
    g = group()
    assert all(g.sharings[member].deal() == g.dealt[member].message for member in g.members)


def test_a_list_shows_no_secret_and_no_share() -> None:
    g = group()
    for dealer in g.members:
        mine = secrets_of(dealer)
        hidden = [mine.seal, mine.mask, mine.seed, mine.dealing]
        for holder in g.members:
            if holder != dealer:
                hidden += share_of(g, dealer, holder)
        assert not any(secret in g.dealt[dealer].raw for secret in hidden)


def test_a_shares_hash_binds_session_dealer_holder_kind_and_share() -> None:
    sharing = group().sharings[A]
    share = b"s" * SHARE_BYTES
    hashes = {
        sharing.share_hash(dealer, holder, kind, one)
        for dealer in (A, B)
        for holder in (A, B, C)
        for kind in ("mask", "seed")
        for one in (share, share[:-1] + b"t")
    }
    other = Sharing(A, sharing.adverts, FALSE, secrets_of(A), 3, CHUNKS)
    assert len(hashes | {other.share_hash(A, B, "mask", share)}) == 2 * 3 * 2 * 2 + 1


def test_a_pairs_roots_are_over_the_chunk_keys_of_the_mask_both_use() -> None:
    g = group()
    for one in g.members:
        for other in g.members:
            if one == other:
                assert g.sharings[A].root_of(one, one) == bytes(32)
                continue
            shared = agree(secrets_of(one).mask, public_key(secrets_of(other).mask))
            seed = pair_seed(shared, g.session, one, other)
            assert g.sharings[A].root_of(one, other) == chunk_keys_root(seed, CHUNKS)
            assert (seed, sign_towards(one, other)) in g.sharings[one].masks()


def test_a_member_masks_with_its_own_seed_and_with_every_other_dealer_and_nobody_else() -> None:
    g = group(5, 4, left_out={B})
    for member in (A, C, D):
        masks = g.sharings[member].masks()
        assert masks[0] == (self_seed(secrets_of(member).seed, g.session), 1)
        assert len(masks) == 1 + 3
        assert len({seed for seed, _ in masks}) == len(masks)


@pytest.mark.parametrize("name", ["seal_key", "mask_key"])
def test_a_key_of_low_order_is_dealt_nothing(name: str) -> None:
    with pytest.raises(MessageRefused, match="low order"):
        group(last_advert={name: bytes(32)})


@pytest.mark.parametrize("name", ["seal_key", "mask_key"])
def test_a_member_without_a_key_is_dealt_nothing(name: str) -> None:
    with pytest.raises(MessageRefused, match=f"{D} has no {name[:4]} key"):
        group(last_advert={name: None})


@pytest.mark.parametrize(
    "change",
    [
        {"sealed": ()},
        {"mask_shares": (FALSE,) * 3},
        {"seed_shares": (FALSE,) * 5},
        {"pair_roots": ()},
        {"sealed": (b"", *(bytes(SEALED_BYTES),) * 2, bytes(SEALED_BYTES - 1))},
        {"sealed": (bytes(SEALED_BYTES),) * 4},
        {"sealed": (bytes(SEALED_BYTES), b"", *(bytes(SEALED_BYTES),) * 2)},
        {"sealed": (), "mask_shares": (), "seed_shares": (), "pair_roots": ()},
    ],
)
def test_a_list_of_another_shape_is_refused(change: dict[str, tuple[bytes, ...]]) -> None:
    g = group()
    with pytest.raises(MessageRefused, match="dealt to others than the 4 members"):
        g.sharings[B].check_shape(A, g.dealt[A].message.model_copy(update=change))


LIES: dict[str, tuple[Lie, str]] = {
    "garbage": (garbage_for(B), "does not open"),
    "another mask share": (false_hash_for(B, "mask_shares"), "another share of its mask key"),
    "another seed share": (false_hash_for(B, "seed_shares"), "another share of its seed"),
}


@pytest.mark.parametrize("name", LIES)
def test_shares_that_do_not_hold_are_seen_by_their_holder_and_no_other_dealer_is_blamed(name: str) -> None:
    lie, reason = LIES[name]
    g = group(lies={A: [lie]})
    assert g.wrong.pop(B).keys() == {A}
    assert all(wrong == {} for wrong in g.wrong.values())
    assert reason in group(lies={A: [lie]}).wrong[B][A]
    release = g.release(B, g.members)
    assert [len(share) for share in release.shares] == [0, SHARE_BYTES, SHARE_BYTES, SHARE_BYTES]


def test_shares_sealed_for_another_member_or_session_do_not_open() -> None:
    def swapped(g: Group, list_: ShareList) -> ShareList:
        places = g.place(B), g.place(C)
        sealed = [list_.sealed[place] for place in places]
        return changed(changed(list_, "sealed", places[0], sealed[1]), "sealed", places[1], sealed[0])

    assert {m: set(w) for m, w in group(lies={A: [swapped]}).wrong.items()} == {
        A: set(),
        B: {A},
        C: {A},
        D: set(),
    }
    one, other = group(), group(last_advert={"sequence": 2})
    assert one.session != other.session
    replayed = other.sharings[B].accept({A: one.dealt[A]}, LISTS)
    assert replayed.keys() == {A}


# ---- releasing


@quick
@given(st.data())
def test_a_release_holds_one_kind_of_share_for_each_dealer_and_never_the_other(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 6))
    left_out = data.draw(st.sets(st.sampled_from(PEERS[:n]), max_size=n - 1))
    g = group(n, n // 2 + 1, left_out)
    dealers = sorted(g.dealt)
    survivors = data.draw(st.sets(st.sampled_from(dealers)))
    for member in g.members:
        release = g.release(member, survivors)
        assert (release.session, release.survivor_set) == (g.session, SET)
        assert release.seed == (secrets_of(member).seed if member in survivors else None)
        for dealer, share in zip(dealers, release.shares, strict=True):
            list_, place = g.dealt[dealer].message, g.place(member)
            kinds = {
                kind
                for kind, hashes in (("mask", list_.mask_shares), ("seed", list_.seed_shares))
                if g.sharings[A].share_hash(dealer, member, kind, share) == hashes[place]
            }
            assert kinds == {"seed" if dealer in survivors else "mask"}
        whole = sign(KEYS[member], release)
        assert secrets_of(member).mask not in whole
        assert secrets_of(member).seal not in whole


@quick
@given(st.data())
def test_what_the_masks_hide_is_known_with_the_thresholds_release_and_not_before(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 7))
    threshold = data.draw(st.integers(1, n))
    left_out = data.draw(st.sets(st.sampled_from(PEERS[:n]), max_size=n - 1))
    g = group(n, threshold, left_out)
    survivors = data.draw(st.sets(st.sampled_from(sorted(g.dealt)), min_size=1))
    recovery = g.recovery(survivors)
    told: set[PeerID] = set()
    for member in data.draw(st.permutations(g.members)):
        assert g.add(recovery, member) == []
        told.add(member)
        enough = len(told) >= threshold
        assert recovery.seeds.keys() == (survivors if enough else survivors & told)
        assert recovery.keys.keys() == (g.dealt.keys() - survivors if enough else set())
        assert recovery.complete == (enough or g.dealt.keys() <= survivors & told)
    assert recovery.seeds == {s: secrets_of(s).seed for s in survivors}
    assert recovery.keys == {d: secrets_of(d).mask for d in g.dealt.keys() - survivors}


def test_the_masks_left_in_a_sum_are_own_ones_and_pairs_with_dropped_dealers() -> None:
    g = group(5, 4)
    survivors = [A, B, D]
    recovery = g.recovery(survivors)
    for member in g.members[:4]:
        g.add(recovery, member)
    left = list(recovery.masks())
    for survivor in survivors:  # a survivor's own list of masks says what went in
        for seed, sign_ in g.sharings[survivor].masks():
            partner_survives = any(
                (seed, -sign_) in g.sharings[other].masks() for other in survivors if other != survivor
            )
            if not partner_survives:
                left.remove((seed, sign_))
    assert left == []


def test_members_that_were_left_out_still_hold_shares_and_release_them() -> None:
    g = group(5, 4, left_out={B, C})
    recovery = g.recovery([A, D], by=B)
    for member in (B, C, D):
        assert g.add(recovery, member) == []
        assert not recovery.keys
    assert g.release(B, [A, D]).seed is None
    assert g.add(recovery, g.members[4]) == []
    assert recovery.complete
    assert recovery.seeds == {m: secrets_of(m).seed for m in (A, D)}
    assert recovery.keys == {g.members[4]: secrets_of(g.members[4]).mask}
    assert B not in recovery.keys, "what masked nothing is not rebuilt"


def test_a_member_that_never_dealt_can_open_release_and_recover() -> None:
    g = group(4, 3)
    late = Sharing(D, g.adverts, g.session, secrets_of(D), 3, CHUNKS)
    dealt = {m: d for m, d in g.dealt.items() if m != D}
    assert late.accept(dealt, LISTS) == {}
    release = late.release(SET, [A, B, C])
    assert [len(share) for share in release.shares] == [SHARE_BYTES] * 3
    recovery = Recovery(late, SET, [A, B, C], PROPOSAL)
    assert recovery.add(D, release, sign(KEYS[D], release)) == []


def test_a_second_release_changes_nothing_and_convicts_its_author_if_it_is_another() -> None:
    g = group(4, 3)
    recovery = g.recovery([A, B, C])
    g.add(recovery, A)
    assert g.add(recovery, A) == [], "the same one again is no lie"
    for changes in ({"shares": (FALSE,) * 4}, {"seed": None}, {"survivor_set": FALSE}):
        (found,) = g.add(recovery, A, **changes)
        assert (found.kind, found.against) == ("two releases", A)
        assert opened(found) == [("release", A)] * 2
        assert found.statements[0] != found.statements[1]
    g.add(recovery, B)
    assert not recovery.complete, "a member counts once"
    g.add(recovery, C)
    assert recovery.complete


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"survivor_set": FALSE}, "another survivor set"),
        ({"shares": ()}, "another survivor set"),
        ({"shares": (b"",) * 5}, "another survivor set"),
        ({"seed": None}, "a survivor, and nobody else"),
    ],
)
def test_a_release_that_does_not_fit_is_refused_and_changes_nothing(
    changes: dict[str, Any], match: str
) -> None:
    g = group(4, 3)
    recovery = g.recovery([A, B, C])
    with pytest.raises(MessageRefused, match=match):
        g.add(recovery, A, **changes)
    assert not recovery.seeds
    for member in (A, B, C):
        assert g.add(recovery, member) == []
    assert recovery.complete


def test_the_seed_of_a_dropped_member_is_refused() -> None:
    """Its mask key may come out: with both, its update would be seen."""
    g = group(4, 3)
    recovery = g.recovery([A, B, C])
    with pytest.raises(MessageRefused, match="a survivor, and nobody else"):
        g.add(recovery, D, seed=secrets_of(D).seed)
    assert not recovery.seeds


def test_missing_shares_are_no_lie_and_others_make_up_for_them() -> None:
    g = group(5, 3)
    recovery = g.recovery([A, B, C, D])
    gone = g.members[4]
    assert g.add(recovery, A, shares=(b"",) * 5) == []
    for member in (B, C):
        g.add(recovery, member)
        assert gone not in recovery.keys
    g.add(recovery, D)
    assert recovery.keys == {gone: secrets_of(gone).mask}


# ---- evidence in a release


def opened(evidence: Evidence) -> list[tuple[str, PeerID]]:
    """Kind and signer of each of its statements, whose signatures hold."""
    kinds = {kind.DOMAIN: kind for kind in (Advert, ShareList, Disclosure, Release)}
    return [(domain_of(raw), open_signed(raw, kinds[domain_of(raw)]).signer) for raw in evidence.statements]


@pytest.mark.parametrize("survives", [True, False])
def test_whoever_hands_on_another_share_than_it_was_dealt_is_convicted(survives: bool) -> None:
    g = group(5, 4)
    survivors = [A, B, C, *([D] if survives else [])]
    recovery = g.recovery(survivors)
    honest = g.release(B, survivors).shares
    for place in range(len(g.members)):
        false = (*honest[:place], FALSE + b"\0", *honest[place + 1 :])
        (found,) = g.add(recovery, B, shares=false)
        assert (found.kind, found.against) == ("share", B)
        assert open_signed(found.statements[0], Release).signer == B
        assert found.statements[1:] == (READY, LISTS, PROPOSAL)
    for member in (A, C, D, g.members[4]):  # the liar's other shares were not taken, and are not needed
        assert g.add(recovery, member) == []
    assert recovery.complete


def test_shares_of_the_other_kind_convict_their_holder() -> None:
    """Seed shares of a dropped member, or mask shares of a survivor, are not what the set asks for."""
    g = group(4, 3)
    recovery = g.recovery([A, B, C])
    for asked, given_ in (([A, B, C], [A, B, C, D]), ([A, B, C], [B, C])):
        recovery = g.recovery(asked)
        shares = g.release(B, given_).shares
        (found,) = g.add(recovery, B, shares=shares)
        assert (found.kind, found.against) == ("share", B)
        assert not recovery.seeds


def test_a_seed_that_is_not_the_committed_one_convicts_its_author() -> None:
    g = group(4, 3)
    recovery = g.recovery([A, B, C])
    (found,) = g.add(recovery, B, seed=FALSE)
    assert (found.kind, found.against) == ("seed", B)
    assert opened(found) == [("advert", B), ("release", B)]
    advert = open_signed(found.statements[0], Advert).message
    release = open_signed(found.statements[1], Release).message
    assert seed_commitment(release.seed or b"") != advert.seed_commitment
    for member in (A, C, D):
        g.add(recovery, member)
    assert recovery.seeds[B] == secrets_of(B).seed, "the others' shares give the right one"


@pytest.mark.parametrize("survives", [True, False])
@pytest.mark.parametrize("everyone", [True, False])
def test_matching_shares_that_rebuild_the_wrong_secret_convict_the_dealer(
    survives: bool, everyone: bool
) -> None:
    holders = [A, B, C, PEERS[4]] if everyone else [B]
    lie = other_secret(D, holders, **{"seed" if survives else "mask": FALSE})
    g = group(5, 3, lies={D: [lie]})
    assert all(wrong == {} for wrong in g.wrong.values()), "every share matches its hash"
    survivors = [A, B, C, *([D] if survives else [])]
    recovery = g.recovery(survivors)
    assert g.add(recovery, A) == []
    assert g.add(recovery, B) == []
    (found,) = g.add(recovery, C)
    assert (found.kind, found.against) == ("dealing", D)
    assert opened(found) == [
        ("advert", D),
        ("share-list", D),
        ("release", A),
        ("release", B),
        ("release", C),
    ]
    assert not recovery.complete
    assert D not in recovery.seeds
    assert D not in recovery.keys
    if survives:
        assert g.add(recovery, D) == []
        assert recovery.seeds[D] == secrets_of(D).seed, "its own word is as good"


@pytest.mark.parametrize("top", [1 << 256, (1 << 256) + 296])
def test_shares_of_no_secret_at_all_convict_the_dealer(top: int) -> None:
    """A polynomial whose value at 0 has more than 32 bytes: here it is constant."""

    def lie(g: Group, list_: ShareList) -> ShareList:
        share, mine = top.to_bytes(SHARE_BYTES, "big"), secrets_of(D)
        seed_hashes = list(list_.seed_shares)
        for holder in g.members[:-1]:
            shared = agree(mine.seal, public_key(secrets_of(holder).seal))
            list_ = changed(
                list_, "sealed", g.place(holder), seal(share + share, shared, g.session, D, holder)
            )
            seed_hashes[g.place(holder)] = g.sharings[D].share_hash(D, holder, "seed", share)
            hashed = g.sharings[D].share_hash(D, holder, "mask", share)
            list_ = changed(list_, "mask_shares", g.place(holder), hashed)
        return list_.model_copy(update={"seed_shares": tuple(seed_hashes)})

    g = group(4, 3, lies={D: [lie]})
    assert not any(g.wrong.values())
    recovery = g.recovery([A, B, C])
    found = [evidence for member in (A, B, C) for evidence in g.add(recovery, member)]
    assert [(one.kind, one.against) for one in found] == [("dealing", D)]


@quick
@given(st.data())
def test_no_order_of_honest_releases_convicts_anyone_but_the_liars(data: st.DataObject) -> None:
    n = 6
    liars = data.draw(st.sets(st.sampled_from(PEERS[:n]), max_size=2))
    lies = {
        liar: [
            other_secret(
                liar, data.draw(st.sets(st.sampled_from([p for p in PEERS[:n] if p != liar]))), mask=FALSE
            )
        ]
        for liar in liars
    }
    g = group(n, 4, lies=lies)
    survivors = data.draw(st.sets(st.sampled_from(g.members), min_size=1))
    recovery = g.recovery(survivors)
    for member in data.draw(st.permutations(g.members)):
        for found in g.add(recovery, member):
            assert found.kind == "dealing"
            assert found.against in liars
    honest = g.dealt.keys() - liars
    assert honest <= recovery.seeds.keys() | recovery.keys.keys()


# ---- judging a disclosure


def rejudge_pair(g: Group, evidence: Evidence) -> bool:
    """Anyone's look at "pair key" evidence: only its statements, the members' order and the chunks count."""
    adverts = [open_signed(raw, Advert) for raw in evidence.statements[:2]]
    list_ = open_signed(evidence.statements[2], ShareList)
    disclosed = open_signed(evidence.statements[3], Disclosure)
    author, partner = adverts
    fits = public_key(disclosed.message.key) == author.message.mask_key and disclosed.signer == author.signer
    assert partner.message.mask_key is not None
    shared = agree(disclosed.message.key, partner.message.mask_key)
    seed = pair_seed(shared, list_.message.session, author.signer, partner.signer)
    other = partner.signer if list_.signer == author.signer else author.signer
    signed = list_.message.pair_roots[g.place(other)]
    return fits and list_.signer == evidence.against and signed != chunk_keys_root(seed, CHUNKS)


@pytest.mark.parametrize(("liar", "victim"), [(A, B), (B, A), (A, D), (D, A)])
def test_whichever_side_of_a_pair_discloses_the_liar_is_convicted(liar: PeerID, victim: PeerID) -> None:
    g = group(lies={liar: [false_root_for(victim)]})
    for member in g.members:
        assert g.sharings[member].differing_pairs() == [(min(liar, victim), max(liar, victim))]
        for author in (liar, victim):
            (found,) = g.judged(author, "mask", by=member)
            assert (found.kind, found.against) == ("pair key", liar)
            assert rejudge_pair(g, found)
            other = victim if author == liar else liar
            assert opened(found) == [
                ("advert", author),
                ("advert", other),
                ("share-list", liar),
                ("disclosure", author),
            ]
    for bystander in g.dealt.keys() - {liar, victim}:
        assert g.judged(bystander, "mask") == []


def test_two_that_lie_to_each_other_are_both_convicted() -> None:
    other_root: Lie = lambda g, list_: changed(list_, "pair_roots", g.place(A), b"\xee" * 32)  # noqa: E731
    g = group(lies={A: [false_root_for(B)], B: [other_root]})
    assert [found.against for found in g.judged(A, "mask")] == [A]
    assert [found.against for found in g.judged(B, "mask")] == [B]


@pytest.mark.parametrize("name", LIES)
def test_a_disclosed_seal_key_shows_whose_shares_do_not_hold(name: str) -> None:
    g = group(lies={A: [LIES[name][0]]})
    (found,) = g.judged(B, "seal", by=D)
    assert (found.kind, found.against) == ("dealing", A)
    assert opened(found) == [("advert", B), ("advert", A), ("share-list", A), ("disclosure", B)]
    for author in (A, C, D):
        assert g.judged(author, "seal") == []


def test_a_member_that_was_left_out_can_show_who_dealt_it_garbage() -> None:
    g = group(lies={A: [garbage_for(B)]}, left_out={B})
    assert [found.against for found in g.judged(B, "seal", by=C)] == [A]
    assert g.judged(B, "mask", by=C) == [], "it said nothing of pairs, so it can accuse nobody"


@pytest.mark.parametrize("kind", ["seal", "mask"])
def test_only_the_key_of_the_authors_own_advert_is_judged(kind: str) -> None:
    g = group(lies={A: [false_root_for(B), garbage_for(B)]})
    true = g.sharings[B].disclose(kind)
    keys = [FALSE, bytes(32), getattr(secrets_of(A), kind), secrets_of(B).seed]
    keys.append(secrets_of(B).mask if kind == "seal" else secrets_of(B).seal)
    for key in keys:
        false = true.model_copy(update={"key": key})
        with pytest.raises(MessageRefused, match=f"not the {kind} key"):
            g.sharings[C].judge(B, false, sign(KEYS[B], false))
    with pytest.raises(MessageRefused, match="not the"):
        g.sharings[C].judge(C, true, sign(KEYS[C], true))


@pytest.mark.parametrize("kind", ["seal", "mask"])
def test_the_bits_of_a_key_that_x25519_ignores_change_no_judgement(kind: str) -> None:
    g = group(lies={A: [false_root_for(B), garbage_for(B)]})
    true = g.sharings[B].disclose(kind)
    key = bytearray(true.key)
    key[0] ^= 7
    key[31] ^= 0xC0
    same = true.model_copy(update={"key": bytes(key)})
    assert [found.against for found in g.sharings[C].judge(B, same, sign(KEYS[B], same))] == [A]


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.data())
def test_whoever_lies_and_whoever_discloses_only_liars_are_convicted(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 6))
    liars = data.draw(st.sets(st.sampled_from(PEERS[:n]), min_size=1, max_size=n - 1))
    roots: set[tuple[PeerID, PeerID]] = set()
    dealings: set[tuple[PeerID, PeerID]] = set()
    lies: dict[PeerID, list[Lie]] = {}
    for liar in sorted(liars):
        victims = sorted(set(PEERS[:n]) - {liar})
        lied = st.sets(st.sampled_from(victims), max_size=2)
        for victim in sorted(data.draw(lied)):
            roots.add((liar, victim))
            lies.setdefault(liar, []).append(false_root_for(victim))
        for victim in sorted(data.draw(lied)):
            dealings.add((liar, victim))
            makers = (
                garbage_for(victim),
                false_hash_for(victim, "mask_shares"),
                false_hash_for(victim, "seed_shares"),
            )
            lies.setdefault(liar, []).append(data.draw(st.sampled_from(makers)))
    g = group(n, n, lies=lies)
    judge = data.draw(st.sampled_from(g.members))
    for author in g.members:
        by_pair = {found.against for found in g.judged(author, "mask", by=judge)}
        by_share = {found.against for found in g.judged(author, "seal", by=judge)}
        assert by_pair <= liars
        assert by_share == {liar for liar, victim in dealings if victim == author}
        if author not in liars:
            assert by_pair == {liar for liar, victim in roots if victim == author}
    # Two that tell the same falsehood of their pair agree, and fool only themselves.
    seen = {(min(pair), max(pair)) for pair in roots if (pair[1], pair[0]) not in roots}
    assert set(g.sharings[judge].differing_pairs()) == seen
    for one, other in seen:
        accused = {found.against for author in (one, other) for found in g.judged(author, "mask", by=judge)}
        assert accused & {one, other} <= liars
        assert accused & {one, other}, "some side of the pair is convicted"


def test_a_disclosure_shows_one_key_and_no_other_secret() -> None:
    g = group()
    mine: Secrets = secrets_of(B)
    for kind, key in (("seal", mine.seal), ("mask", mine.mask)):
        raw = sign(KEYS[B], g.sharings[B].disclose(kind))
        assert [secret in raw for secret in (mine.seal, mine.mask, mine.seed, mine.dealing)] == [
            secret == key for secret in (mine.seal, mine.mask, mine.seed, mine.dealing)
        ]
