"""No honest member is convicted, whatever all others together put into a file of evidence."""

from collections.abc import Sequence

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from secagg.interface import Tell
from secagg.keys import agree, seal
from secagg.messages import (
    SHARE_BYTES,
    Advert,
    Disclosure,
    Evidence,
    Opening,
    Part,
    PartSum,
    Ready,
    Release,
    ShareList,
    ShareLists,
    Shown,
    SurvivorSet,
)
from tests.attacks.liars import (
    RULES,
    Hand,
    dealt_by,
    open_any,
    retold,
    sends_nothing,
    share_hash,
)
from tests.secagg.session_network import KEYS, Cell, secrets_of
from tests.verify.lies import (
    GONE,
    LIES,
    RUN,
    N,
    changed,
    honest,
    made,
    refused,
    transcript,
)
from verify.evidence import EXAMINERS, EvidenceRefused, PortableEvidence, examine, portable
from verify.statement import domain_of, open_signed, sign

# -- no honest member is convicted ------------------------------------------------------------------------


def key_of(peer: PeerID, kind: str, session: bytes) -> bytes:
    """A member shows one of its keys, though nobody has wronged it."""
    key = getattr(secrets_of(peer), kind)
    return sign(KEYS[peer], Disclosure.model_validate({"session": session, "kind": kind, "key": key}))


def almost(kind: str, accused: int, missing: bool, secure: bool, chunk: int, other: int) -> tuple[bytes, ...]:
    """What evidence of a kind against an honest member would be made of, all of it true.

    `other`: the place of a member that helps by showing its own key.
    """
    hand, said = honest(missing, secure, chunk), transcript(missing, secure, chunk)
    peers, session = hand.peers, hand.session
    me, partner = peers[accused], peers[other]

    def of(domain: str, peer: PeerID = me) -> list[bytes]:
        return [raw for raw in said.get(domain, []) if open_any(raw)[0] == peer]

    def one(domain: str, peer: PeerID = me) -> bytes:
        return next(iter(of(domain, peer)), b"")

    papers = (one("ready"), said.get("share-lists", [b""])[0], said["survivor-set"][0])
    releases = tuple(said.get("release", ()))
    lists = dict(zip(sorted(peers), [one("share-list", p) for p in sorted(peers)], strict=True))
    shown = tuple(one("shown", peer) for peer in session._set.survivors)  # type: ignore[union-attr]
    openings = of("opening") or [raw for p in peers for raw in of("opening", p) if p != me]
    match kind:
        case "sum":
            return (one("part-sum"), *(papers if secure else papers[2:]), *releases, *shown)
        case "garbage":
            return (one("shown"), *papers, *releases, *openings) if secure else (one("shown"),)
        case "share":
            return (one("release"), *papers)
        case "seed":
            return (one("advert"), one("release"))
        case "pair key" | "sealed":
            shows = key_of(partner, "mask" if kind == "pair key" else "seal", session.id)
            return (one("advert", partner), one("advert"), lists[me], shows)
        case "dealing":
            return (one("advert"), lists[me], *releases[: session.terms.threshold])
    domain = {"two lists": "share-lists", "two sets": "survivor-set", "two parts": "part"}
    of_kind = of(domain.get(kind, "release" if kind == "two releases" else "receipt"))
    return tuple(of_kind[:2] * 2)[:2]


KINDS = ["sum", "garbage", "share", "seed", "pair key", "sealed", "dealing"]
KINDS += ["two lists", "two sets", "two parts", "two receipts", "two releases"]


def accuse(kind: str, against: PeerID, adverts: Sequence[bytes], said: Sequence[bytes]) -> PortableEvidence:
    name = "dealing" if kind == "sealed" else kind
    return portable(RUN, Evidence(name, against, tuple(said), tuple(sorted(adverts))))


CELLS = [(False, True, 0), (True, True, 7), (False, False, 3)]
"""Whether one sends nothing, whether there are masks, and which chunk is shown: of members 0, 4, and 2."""
LAST = {
    "sum": "is what the survivors' parts add up to",
    "garbage": "an honest member may have these integers",
    "share": "is the one it was dealt",
    "seed": "is the one that the advert commits to",
    "pair key": "is the true one",
    "sealed": "opens and is what",
    "dealing": "of its advert",
    "two parts": "are of two parts",
}
"""What it comes to when everything else holds; of two statements of one kind: that they are one."""


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_session_convicts_nobody_of(kind: str) -> None:
    reasons = []
    for missing, secure, chunk in CELLS:
        hand = honest(missing, secure, chunk)
        for accused, peer in enumerate(hand.peers):
            for other in range(N):
                said = almost(kind, accused, missing, secure, chunk, other)
                adverts = [raw for raw, _ in hand.session.adverts.values()]
                reasons.append(refused(accuse(kind, peer, adverts, said)))
    assert any(LAST.get(kind, "say the same") in reason for reason in reasons), "the last question was asked"


@settings(max_examples=60, derandomize=True, deadline=None)
@given(data=st.data())
def test_no_statements_of_an_honest_session_convict_anyone_of_anything(data: st.DataObject) -> None:
    missing, secure = data.draw(st.sampled_from([(False, True), (True, True), (False, False)]))
    hand, said = honest(missing, secure), transcript(missing, secure)
    everything = [raw for raws in said.values() for raw in raws]
    kind = data.draw(st.sampled_from(sorted(EXAMINERS)))
    adverts = data.draw(st.sampled_from([(), tuple(said["advert"])]))
    chosen = data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=14))
    for peer in hand.peers:
        refused(accuse(kind, peer, adverts, chosen))


def is_statement(raw: bytes) -> bool:
    try:
        return bool(domain_of(raw))
    except MessageRefused:
        return False


@st.composite
def tampered(draw: st.DrawFn, raw: bytes, honest_peer: PeerID) -> bytes:
    """A statement as all the other members together can make it: one field of it changed, and signed anew.

    What the honest one signed is left alone; what others sign inside another's statement is changed as well.
    """
    author, message = open_any(raw)
    if author == honest_peer or isinstance(message, Advert):
        return raw
    fields = [name for name in type(message).model_fields if name != "session"]
    name = draw(st.sampled_from(fields))
    value = getattr(message, name)
    match value:
        case tuple() if value:
            at = draw(st.integers(0, len(value) - 1))
            how = draw(st.sampled_from(["drop", "double", "swap", "inside"]))
            items = list(value)
            if how == "drop":
                items.pop(at)
            elif how == "double":
                items.insert(at, items[at])
            elif how == "swap":
                items[at], items[0] = items[0], items[at]
            elif isinstance(items[at], bytes) and is_statement(items[at]):
                items[at] = draw(tampered(items[at], honest_peer))
            elif isinstance(items[at], bytes) and items[at]:
                items[at] = bytes([items[at][0] ^ 16]) + items[at][1:]
            value = tuple(items)
        case bytes() if is_statement(value):
            value = draw(tampered(value, honest_peer))
        case bytes() if value:
            value = bytes([value[0] ^ 16]) + value[1:]
        case int():
            value = max(0, value + draw(st.sampled_from([-1, 1, 2])))
        case None:
            value = secrets_of(author).seed
    try:
        made_ = type(message).model_validate(message.model_dump() | {name: value})
    except ValueError:
        return raw
    if isinstance(made_, Shown) and name == "data":
        made_ = _with_fitting_header(made_)
    return sign(KEYS[author], made_)


def _with_fitting_header(shown: Shown) -> Shown:
    """The integers under a header that fits them, as their author could sign one."""
    author, header = open_any(shown.header)
    assert isinstance(header, Part)
    first = blake3(shown.data).digest()
    bent = header.model_copy(update={"hashes": (first, *header.hashes[1:])})
    return shown.model_copy(update={"header": sign(KEYS[author], bent)})


OWNER = {0: 0, 7: 4, 3: 2}
"""Who owns the part that a shown chunk is in."""


@pytest.mark.parametrize("kind", ["sum", "garbage", "share", "dealing"])
def test_leaving_out_or_doubling_what_is_true_convicts_no_honest_member(kind: str) -> None:
    for missing, secure, chunk in CELLS[: 3 if kind in ("sum", "garbage") else 2]:
        hand = honest(missing, secure, chunk)
        adverts, peer = [raw for raw, _ in hand.session.adverts.values()], hand.peers[OWNER[chunk]]
        said = almost(kind, OWNER[chunk], missing, secure, chunk, 1)
        for at in range(len(said)):
            refused(accuse(kind, peer, adverts, (*said[:at], *said[at + 1 :])))
            refused(accuse(kind, peer, adverts, (*said[: at + 1], *said[at:])))


@settings(max_examples=500, derandomize=True, deadline=None)
@given(data=st.data())
def test_all_others_together_convict_no_honest_member(data: st.DataObject) -> None:
    """Whatever they sign anew around what it has signed."""
    missing, secure, chunk = data.draw(st.sampled_from(CELLS))
    hand = honest(missing, secure, chunk)
    kind = data.draw(st.sampled_from([*KINDS[:7], "sum", "sum", "garbage", "garbage", "share"]))
    accused, other = data.draw(st.integers(0, N - 1)), data.draw(st.integers(0, N - 1))
    if kind == "sum":
        accused = OWNER[chunk]
    peer = hand.peers[accused]
    said = list(almost(kind, accused, missing, secure, chunk, other))
    if b"" in said:
        return
    for _ in range(data.draw(st.sampled_from([1, 1, 2]))):
        at = data.draw(st.integers(0, len(said) - 1))
        said[at] = data.draw(tampered(said[at], peer))
    adverts = [raw for raw, _ in hand.session.adverts.values()]
    refused(accuse(kind, peer, adverts, said))


@pytest.mark.parametrize("kind", ["sum", "garbage"])
def test_a_false_secret_that_its_own_author_shows_convicts_nobody_else(kind: str) -> None:
    """A seed, or shares of a key: only that of the advert counts."""
    hand, said = honest(True, True, 7), transcript(True, True, 7)
    peer = hand.peers[OWNER[7]]
    told = almost(kind, OWNER[7], True, True, 7, 1)
    releases = [at for at, raw in enumerate(told) if domain_of(raw) == Release.DOMAIN]
    for at in releases:
        author, release = open_any(told[at])
        assert isinstance(release, Release)
        bent = [{"seed": b"\1" * 32}, {"shares": (bytes(33),) * N}, {"survivor_set": bytes(32)}]
        for change in bent[1:] if release.seed is None else bent:
            false = sign(KEYS[author], release.model_copy(update=change))
            refused(accuse(kind, peer, said["advert"], (*told[:at], false, *told[at + 1 :])))
    outsider = hand.peers[GONE]
    own = next(raw for raw in said["release"] if open_any(raw)[0] == outsider)
    shows = open_signed(own, Release).message.model_copy(update={"seed": secrets_of(outsider).seed})
    at = told.index(own)
    false = sign(KEYS[outsider], shows)
    assert "no survivor" in refused(accuse(kind, peer, said["advert"], (*told[:at], false, *told[at + 1 :])))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(name=st.sampled_from(sorted(LIES)), data=st.data())
def test_whatever_is_in_a_file_a_stranger_holds_it_true_or_refuses_it_by_name(
    name: str, data: st.DataObject
) -> None:
    """Everyone lies here, the accused too: nothing else than a sentence or a refusal comes of it."""
    evidence = made(name).evidence
    said = list(evidence.statements)
    for at in data.draw(st.lists(st.integers(0, len(said) - 1), min_size=1, max_size=3)):
        said[at] = data.draw(tampered(said[at], honest_peer=""))
    bent = portable(RUN, Evidence(evidence.kind, evidence.against, tuple(said), evidence.adverts))
    try:
        said_of = examine(bent, RULES)
    except EvidenceRefused:
        return
    assert said_of.startswith(evidence.against)


def test_keys_that_partners_make_up_take_no_mask_off_an_honest_member() -> None:
    """A key counts by the root that the accused itself signed, whoever shows it."""
    hand, said = honest(), transcript()
    peer = hand.peers[3]
    told = [raw for raw in almost("garbage", 3, False, True, 0, 1) if domain_of(raw) != Opening.DOMAIN]
    partners = [raw for p in hand.peers for raw in said["opening"] if open_any(raw)[0] == p != peer]
    assert "may have these integers" in refused(accuse("garbage", peer, said["advert"], (*told, *partners)))
    for at, raw in enumerate(partners):
        author, opening = open_any(raw)
        assert isinstance(opening, Opening)
        false = sign(KEYS[author], opening.model_copy(update={"keys": (b"\1" * 32,) * N}))
        bent = (*partners[:at], false, *partners[at + 1 :])
        assert "not in its root" in refused(accuse("garbage", peer, said["advert"], (*told, *bent)))
        fewer = (*partners[:at], *partners[at + 1 :])
        assert "is missing" in refused(accuse("garbage", peer, said["advert"], (*told, *fewer)))


def test_share_lists_that_the_accused_did_not_see_convict_it_of_no_share() -> None:
    """A dealer signs a second list, and the proposer puts it among the others."""
    hand, said = honest(), transcript()
    holder, dealer = hand.peers[1], hand.peers[3]
    release, ready, lists, proposed = almost("share", 1, False, True, 0, 3)
    forged = sign(KEYS[dealer], dealt_by(retold(Cell(N)), dealer, seed=bytes(32)))
    message = open_signed(lists, ShareLists).message
    swapped = tuple(forged if open_signed(raw, ShareList).signer == dealer else raw for raw in message.lists)
    other = message.model_copy(update={"lists": swapped})
    adverts = said["advert"]
    told = (release, ready, sign(KEYS[hand.peers[0]], other), proposed)
    assert "was ready for" in refused(accuse("share", holder, adverts, told))
    own = sign(KEYS[dealer], Ready(session=message.session, lists=other.digest()))
    assert "not by" in refused(accuse("share", holder, adverts, (release, own, told[2], proposed)))


def test_a_smaller_set_of_dealers_makes_no_sum_and_no_update_look_wrong() -> None:
    """Without a dealer that is gone its masks would stay on; the accused's own Ready keeps that away."""
    hand, said = honest(True, True, 7), transcript(True, True, 7)
    gone = hand.peers[GONE]
    for kind in ("sum", "garbage"):
        for accused in (0, 1, 3, 4):
            told = list(almost(kind, accused, True, True, 7, 0))
            if not told[0]:
                continue
            message = open_signed(told[2], ShareLists).message
            fewer = tuple(raw for raw in message.lists if open_signed(raw, ShareList).signer != gone)
            told[2] = sign(KEYS[hand.peers[0]], message.model_copy(update={"lists": fewer}))
            assert "was ready for" in refused(accuse(kind, hand.peers[accused], said["advert"], told))


@pytest.mark.parametrize("kind", ["sum", "garbage", "share"])
def test_a_set_of_survivors_that_never_was_final_convicts_nobody(kind: str) -> None:
    """All others sign whatever goes with it; the accused summed over, and released for, the one it names."""
    hand, said = honest(), transcript()
    accused, left_out = hand.peers[0], hand.peers[3]
    told = list(almost(kind, 0, False, True, 0, 1))
    true = open_signed(told[3], SurvivorSet).message
    survivors = tuple(peer for peer in true.survivors if peer != left_out)
    other = true.model_copy(update={"survivors": survivors})
    releases = []
    for peer in hand.peers[1:]:
        sharing = hand.cell.sessions[peer]._sharing
        assert sharing is not None
        releases.append(sign(KEYS[peer], sharing.release(other.digest(), survivors)))
    rest = [raw for raw in told[4:] if domain_of(raw) != Release.DOMAIN and open_any(raw)[0] != left_out]
    forged = [*told[:3], sign(KEYS[hand.peers[1]], other), *(releases if kind != "share" else []), *rest]
    reason = refused(accuse(kind, accused, said["advert"], forged))
    assert ("may have these integers" if kind == "garbage" else "another survivor set") in reason


def test_a_wronged_member_that_showed_its_key_is_not_convicted_by_its_own_list() -> None:
    """Nothing is sealed at its own place, and its own root is zeros: neither is a lie."""
    hand, said = honest(), transcript()
    for kind, name in (("sealed", "seal"), ("pair key", "mask")):
        for accused, peer in enumerate(hand.peers):
            told = almost(kind, accused, False, True, 0, accused)
            assert told[3] == key_of(peer, name, hand.session.id)
            refused(accuse(kind, peer, said["advert"], told))


@pytest.mark.parametrize(("kind", "name"), [("pair key", "mask"), ("sealed", "seal")])
def test_a_key_that_is_not_its_authors_or_of_another_pair_convicts_nobody(kind: str, name: str) -> None:
    hand, said = honest(), transcript()
    author, third, accused = hand.peers[:3]
    told = almost(kind, 2, False, True, 0, 0)
    for key in (bytes(32), secrets_of(author).seed, getattr(secrets_of(third), name)):
        shown = Disclosure.model_validate({"session": hand.session.id, "kind": name, "key": key})
        false = (*told[:3], sign(KEYS[author], shown))
        assert f"not the {name} key of {author}" in refused(accuse(kind, accused, said["advert"], false))
    adverts = [raw for raw in said["advert"] if open_any(raw)[0] == third]
    assert refused(accuse(kind, accused, said["advert"], (told[0], adverts[0], *told[2:])))
    assert refused(accuse(kind, accused, said["advert"], (adverts[0], *told[1:])))


def test_of_shares_that_lie_on_no_polynomial_those_count_that_rebuild_the_adverts_key() -> None:
    """A dealer that is gone dealt one member another share, hashed as it is: others may pick that one."""
    hand = Hand(Cell(N), GONE)
    dealer, holder = hand.liars[0], hand.peers[4]
    session = hand.cell.sessions[dealer]

    def lie(to: PeerID, message: Message) -> list[Message]:
        assert isinstance(message, ShareList)
        advert = session.adverts[holder][1]
        assert advert.seal_key is not None
        both = bytes(2 * SHARE_BYTES)
        box = seal(both, agree(secrets_of(dealer).seal, advert.seal_key), session.id, dealer, holder)
        place = hand.peers.index(holder)
        changes: dict[str, object] = {"sealed": (*message.sealed[:place], box)}
        for name, secret in (("mask_shares", "mask"), ("seed_shares", "seed")):
            hashed = share_hash(session.id, dealer, holder, secret, bytes(SHARE_BYTES))
            changes[name] = (*getattr(message, name)[:place], hashed)
        return [message.model_copy(update=changes)]

    hand.says(dealer, ShareList, lie)
    sends_nothing(hand, dealer)
    hand.run()
    owner = hand.cell.sessions[hand.peers[0]]
    recovery, final = owner._recovery, owner._set
    assert recovery is not None
    assert final is not None
    published = owner._summing.headers[0]
    shown = [sign(KEYS[peer], hand.cell.sessions[peer]._mine.show(0)) for peer in final.survivors]
    papers, releases = recovery.papers(owner.me), list(recovery.releases)
    adverts = [raw for raw, _ in owner.adverts.values()]
    true = (published, *papers, *releases, *shown)
    assert "add up to" in refused(accuse("sum", owner.me, adverts, true))
    releases.sort(key=lambda raw: open_any(raw)[0] != holder)
    false = (published, *papers, *releases, *shown)
    assert "not its advert's" in refused(accuse("sum", owner.me, adverts, false))


def test_shares_below_the_threshold_or_one_of_them_twice_convict_no_dealer() -> None:
    hand, said = honest(), transcript()
    for accused, peer in enumerate(hand.peers):
        whole = almost("dealing", accused, False, True, 0, 0)
        for told in (whole[:-1], (*whole[:-1], whole[-2]), (*whole, said["release"][-1])):
            refused(accuse("dealing", peer, said["advert"], told))


def test_a_true_chunk_shown_under_another_number_convicts_no_owner_and_no_survivor() -> None:
    """The masks of another chunk leave noise; the others can sign any number, the accused signed its own."""
    hand, said = honest(False, True, 0), transcript(False, True, 0)
    session = hand.session
    for accused in range(N):
        told = list(almost("sum", accused, False, True, 0, 0))
        owned = open_signed(told[0], PartSum).message
        first = session.cut.first(owned.part)
        for at, raw in enumerate(told):
            if domain_of(raw) != Shown.DOMAIN:
                continue
            author = open_any(raw)[0]
            where = session.cut.holding(first)[1]
            header, data = (
                hand.cell.sessions[author]._headers[owned.part][0],
                hand.cell.sessions[author].update,
            )
            shown = Shown(session=session.id, chunk=first + 1, header=header, data=data[where].tobytes())
            told[at] = sign(KEYS[author], shown)
        assert "is not chunk" in refused(accuse("sum", hand.peers[accused], said["advert"], told))


def test_a_second_session_of_the_same_members_lends_no_statement() -> None:
    other = retold(Cell(N), changes={"sequence": 2})
    theirs = Hand(other).run()
    evidence = made("two releases").evidence
    liar = evidence.against
    release = next(raw for raw in _released(theirs) if open_any(raw)[0] == liar)
    first, _ = evidence.statements
    assert "another session" in refused(changed(evidence, statements=(first, release)))


def _released(hand: Hand) -> list[bytes]:
    return [e.raw for _, e in hand.emitted if isinstance(e, Tell) and domain_of(e.raw) == Release.DOMAIN]
