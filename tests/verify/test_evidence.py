"""Evidence as a stranger reads it: it holds for a lie, and never against an honest member."""

from collections.abc import Sequence

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from secagg.interface import SendSum
from secagg.messages import (
    Advert,
    Disclosure,
    Evidence,
    Opening,
    Part,
    PartSum,
    Receipt,
    Release,
    SessionMessage,
    ShareList,
    ShareLists,
    Shown,
    SurvivorSet,
    session_id,
)
from tests.attacks.liars import (
    RULES,
    open_any,
)
from tests.secagg.session_network import CHUNK, IDENTITIES, KEYS, advert_of, signed_by
from tests.verify.lies import (
    ALL,
    LIES,
    OUTSIDE,
    RUN,
    STRANGER,
    N,
    changed,
    evidence_of,
    made,
    outside,
    refused,
    transcript,
)
from verify.case import MOST_ITEMS
from verify.evidence import EXAMINERS, EvidenceRefused, PortableEvidence, examine, portable
from verify.record import Vote
from verify.statement import domain_of, open_signed, sign

# -- it holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_stranger_reads_from_the_file_alone_who_did_what(name: str) -> None:
    evidence = evidence_of(name)
    read = PortableEvidence.parse(evidence.encode())
    assert read.digest() == evidence.digest()
    sentence = examine(read, RULES)
    assert sentence.startswith(evidence.against)
    assert sentence == examine(evidence, RULES)


def test_every_kind_that_is_examined_is_shown_here() -> None:
    kinds = {evidence_of(name).kind for name in ALL}
    built_in = {kind for kind, how in EXAMINERS.items() if how.__module__ == "verify.evidence"}
    of_chains = {"two boundary lists", "two confirmations"}  # tests/verify/test_opened.py
    assert kinds == built_in - {"two sums"} - of_chains


def test_two_sums_of_one_owner_for_one_part_convict_it() -> None:
    hand = made("sum").hand
    owner = hand.liars[0]
    true = {e.part: e.header for me, e in hand.emitted if isinstance(e, SendSum) and me == owner}
    told = made("sum").evidence.statements[0]
    adverts = made("sum").evidence.adverts
    (part,) = true
    assert true[part] != told, "what the session made, and what its liar told instead"
    assert owner in examine(portable(RUN, Evidence("two sums", owner, (true[part], told), adverts)), RULES)


@pytest.mark.parametrize("name", LIES)
def test_whatever_members_keep_as_evidence_convinces_a_stranger(name: str) -> None:
    """Also where it is not the first lie: nobody holds what it could not show."""
    hand = made(name).hand
    for peer in hand.honest:
        for found in hand.cell.sessions[peer].evidence:
            assert found.against in hand.liars
            assert examine(portable(RUN, found), RULES)
            assert found.adverts == tuple(sorted(raw for raw, _ in hand.session.adverts.values()))


def test_the_same_message_signed_anew_is_no_second_one() -> None:
    """A signer can make many signatures of one message."""
    for name in ("two lists", "two sets", "two parts", "two receipts", "two releases"):
        evidence = made(name).evidence
        first, _ = evidence.statements
        assert "say the same" in refused(changed(evidence, statements=(first, first)))


# -- what is altered does not hold -------------------------------------------------------------------------


SYMMETRIC = {"two lists", "two sets", "two parts", "two receipts", "two releases", "two votes", "two heads"}


def holds_all_the_same(evidence: PortableEvidence, *touched: int) -> bool:
    """Whether the order or presence of these statements says nothing: some releases are enough."""
    releases = all(domain_of(evidence.statements[at]) == Release.DOMAIN for at in touched)
    return (evidence.kind in ("sum", "garbage") and releases) or evidence.kind in SYMMETRIC


def check(evidence: PortableEvidence, mutant: PortableEvidence, may_hold: bool) -> None:
    """It is refused; or, where it may, it says the very same."""
    try:
        said = examine(mutant, RULES)
    except EvidenceRefused:
        return
    assert may_hold
    assert said == examine(evidence, RULES)


@pytest.mark.parametrize("name", ALL)
def test_a_statement_dropped_doubled_or_moved_is_noticed(name: str) -> None:
    evidence = evidence_of(name)
    said = evidence.statements
    for at in range(len(said)):
        may = holds_all_the_same(evidence, at) and evidence.kind not in SYMMETRIC
        check(evidence, changed(evidence, statements=(*said[:at], *said[at + 1 :])), may)
        refused(changed(evidence, statements=(*said[: at + 1], *said[at:])))
        for other in range(at + 1, len(said)):
            swapped = list(said)
            swapped[at], swapped[other] = said[other], said[at]
            check(
                evidence,
                changed(evidence, statements=tuple(swapped)),
                holds_all_the_same(evidence, at, other),
            )
    refused(changed(evidence, statements=()))


@pytest.mark.parametrize("name", ["sum", "sum without one dealer", "garbage without one dealer"])
def test_with_too_few_releases_no_mask_comes_off_and_nobody_is_convicted(name: str) -> None:
    evidence = made(name).evidence
    said = [raw for raw in evidence.statements if domain_of(raw) != Release.DOMAIN]
    releases = [raw for raw in evidence.statements if domain_of(raw) == Release.DOMAIN]
    few = tuple(releases[:2])
    assert "are needed" in refused(changed(evidence, statements=(*said[:4], *few, *said[4:])))


@pytest.mark.parametrize("name", LIES)
def test_an_honest_statement_in_the_place_of_any_convicts_nobody(name: str) -> None:
    """The cell is the same, to the session id, but for its liar's lies: so are the honest statements."""
    evidence = made(name).evidence
    said = evidence.statements
    replaced = 0
    twin = transcript("without" in name, "plain" not in name, 0)
    for at, raw in enumerate(said):
        author = open_any(raw)[0]
        for other in twin.get(domain_of(raw), []):
            if open_any(other)[0] == author and other not in said:
                swapped = (*said[:at], other, *said[at + 1 :])
                try:
                    examine(changed(evidence, statements=swapped), RULES)
                except EvidenceRefused:
                    replaced += 1
                else:  # "two parts": the first of a part beside the second; "two releases" alike
                    assert evidence.kind.startswith("two ")
    assert replaced or evidence.kind.startswith("two ")


@pytest.mark.parametrize("name", LIES)
def test_adverts_that_are_not_all_of_this_session_and_no_others_are_refused(name: str) -> None:
    evidence = made(name).evidence
    mine = evidence.adverts
    later = [signed_by(p, advert_of(p, attempt=1)) for p in made(name).hand.peers]
    resent = signed_by(evidence.against, advert_of(evidence.against, sequence=2))
    own = next(raw for raw in mine if open_signed(raw, Advert).signer == evidence.against)
    others = tuple(raw for raw in mine if raw != own)
    wrong: dict[str, Sequence[bytes]] = {
        "none": (),
        "one missing": mine[1:],
        "the accused's missing": others,
        "one twice": sorted((*mine, mine[0])),
        "another order": mine[::-1],
        "another attempt's": sorted(later),
        "one of another attempt": sorted((*mine[1:], later[0])),
        "the accused's as it was sent again": sorted((*others, resent)),
        "two of the accused": sorted((*mine, resent)),
        "one more": sorted((*mine, signed_by(STRANGER, advert_of(STRANGER)))),
    }
    for adverts in wrong.values():
        refused(changed(evidence, adverts=tuple(adverts)))


@pytest.mark.parametrize("name", ALL)
def test_another_run_or_another_accused_is_refused(name: str) -> None:
    evidence = evidence_of(name)
    refused(changed(evidence, run=b"\1" * 32))
    refused(changed(evidence, kind="unheard of"))
    for identity in IDENTITIES[: N + 1]:
        if identity.peer_id != evidence.against:
            refused(changed(evidence, against=identity.peer_id))


@pytest.mark.parametrize("name", ALL)
def test_the_same_statements_prove_nothing_of_another_kind(name: str) -> None:
    evidence = evidence_of(name)
    for kind in EXAMINERS.keys() - {evidence.kind}:
        refused(changed(evidence, kind=kind))


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, derandomize=True, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_file_with_a_flipped_bit_is_refused(name: str, at: float, bit: int) -> None:
    raw = bytearray(evidence_of(name).encode())
    raw[int(at * len(raw))] ^= 1 << bit
    with pytest.raises(MessageRefused) as refusal:
        examine(PortableEvidence.parse(bytes(raw)), RULES)
    assert str(refusal.value)


@pytest.mark.parametrize("name", ALL)
def test_a_flipped_bit_in_any_statement_is_refused(name: str) -> None:
    evidence = evidence_of(name)
    for field in ("statements", "adverts"):
        raws = getattr(evidence, field)
        for at, raw in enumerate(raws):
            bent = bytearray(raw)
            bent[-1 - (7 * at) % 60] ^= 1
            refused(changed(evidence, **{field: (*raws[:at], bytes(bent), *raws[at + 1 :])}))


def test_a_list_that_is_not_for_all_members_is_refused_by_name() -> None:
    for name, at in (("pair key", 2), ("sealed garbage", 2), ("dealt another seed", 1)):
        evidence = made(name).evidence
        dealt = open_signed(evidence.statements[at], ShareList).message
        for field in ("sealed", "mask_shares", "seed_shares", "pair_roots"):
            short = sign(KEYS[evidence.against], dealt.model_copy(update={field: ()}))
            said = (*evidence.statements[:at], short, *evidence.statements[at + 1 :])
            assert f"is not for the {N} members" in refused(changed(evidence, statements=said))


def resaid(evidence: PortableEvidence, at: int, **changes: object) -> PortableEvidence:
    """The same, with one statement changed by whoever signed it."""
    author, message = open_any(evidence.statements[at])
    raw = sign(KEYS[author], message.model_copy(update=changes))
    said = (*evidence.statements[:at], raw, *evidence.statements[at + 1 :])
    return changed(evidence, statements=said)


def test_integers_that_are_no_chunk_or_not_their_headers_are_refused() -> None:
    for name in ("garbage", "garbage in a plain session"):
        evidence = made(name).evidence
        for data in (b"", bytes(3), bytes(2 * CHUNK + 2)):
            assert "are no chunk" in refused(resaid(evidence, 0, data=data))
        assert "not that of the integers" in refused(resaid(evidence, 0, data=bytes(2 * CHUNK)))


def test_garbage_takes_the_accused_for_a_survivor_and_the_keys_of_its_own_chunk() -> None:
    evidence, peers = made("garbage").evidence, made("garbage").hand.peers
    without_liar = tuple(peer for peer in peers if peer != evidence.against)
    assert "is no survivor" in refused(resaid(evidence, 3, survivors=without_liar))
    last = len(evidence.statements) - 1
    chunk = open_signed(evidence.statements[0], Shown).message.chunk
    assert "of another chunk" in refused(resaid(evidence, last, chunk=chunk - 1))
    assert "a key for each dealer" in refused(resaid(evidence, last, keys=()))
    assert "not in its root" in refused(resaid(evidence, last, keys=(b"\1" * 32,) * N))
    partners = made("garbage by partners' keys").evidence.statements
    more = next(raw for raw in partners if domain_of(raw) == Opening.DOMAIN)
    assert "adds nothing" in refused(
        changed(evidence, statements=(*evidence.statements[:last], more, evidence.statements[last]))
    )


def test_a_sum_without_the_owners_receipt_for_it_is_no_evidence() -> None:
    for name in ("sum", "sum in a plain session"):
        evidence = made(name).evidence
        assert "has no receipt of" in refused(resaid(evidence, 0, part=0))


def test_runs_of_different_lengths_are_not_added_up() -> None:
    """An owner and a survivor sign for a shorter chunk: both lie, and nothing is computed of it."""
    evidence = made("sum in a plain session").evidence
    owner, published = open_any(evidence.statements[0])
    _, proposed = open_any(evidence.statements[1])
    author, shown = open_any(evidence.statements[2])
    assert isinstance(published, PartSum)
    assert isinstance(proposed, SurvivorSet)
    assert isinstance(shown, Shown)
    header = open_signed(shown.header, Part).message
    data = shown.data[:-2]
    place = header.hashes.index(blake3(shown.data).digest())
    hashes = (*header.hashes[:place], blake3(data).digest(), *header.hashes[place + 1 :])
    bent = header.model_copy(update={"hashes": hashes})
    receipts = list(proposed.receipts)
    receipt = open_signed(receipts[-1], Receipt)
    assert receipt.signer == owner
    headers = (bent.digest(), *receipt.message.headers[1:])
    receipts[-1] = sign(KEYS[owner], receipt.message.model_copy(update={"headers": headers}))
    other = proposed.model_copy(update={"receipts": tuple(receipts)})
    said = (
        sign(KEYS[owner], published.model_copy(update={"survivor_set": other.digest()})),
        sign(KEYS[owner], other),
        sign(KEYS[author], shown.model_copy(update={"header": sign(KEYS[author], bent), "data": data})),
        *evidence.statements[3:],
    )
    assert "different lengths" in refused(changed(evidence, statements=said))
    receipts[-1] = sign(KEYS[owner], receipt.message.model_copy(update={"headers": headers[:-1]}))
    other = proposed.model_copy(update={"receipts": tuple(receipts)})
    told = sign(KEYS[owner], published.model_copy(update={"survivor_set": other.digest()}))
    assert "has no receipt of" in refused(
        changed(evidence, statements=(told, sign(KEYS[owner], other), *said[2:]))
    )


def test_releases_for_different_sets_are_not_put_together() -> None:
    evidence = made("dealt another seed").evidence
    *said, last = evidence.statements
    author, release = open_any(last)
    other = sign(KEYS[author], release.model_copy(update={"survivor_set": bytes(32)}))
    assert "different survivor sets" in refused(changed(evidence, statements=(*said, other)))


def test_papers_that_the_accused_itself_made_up_are_refused_by_name() -> None:
    """It has signed for them, so no honest member is in danger; but a stranger must not stumble."""
    evidence, peers = made("share").evidence, made("share").hand.peers
    liar = evidence.against
    release, ready, lists, proposed = (open_any(raw)[1] for raw in evidence.statements)
    assert isinstance(lists, ShareLists)
    assert isinstance(proposed, SurvivorSet)
    first = open_signed(lists.lists[0], ShareList).message
    other = sign(KEYS[peers[0]], first.model_copy(update={"threshold": 1}))
    short = sign(KEYS[peers[0]], first.model_copy(update={"mask_shares": ()}))
    wrong: dict[str, tuple[tuple[bytes, ...], tuple[PeerID, ...], str]] = {
        "one twice": ((lists.lists[0], *lists.lists), proposed.survivors, "one of each dealer"),
        "out of order": (lists.lists[::-1], proposed.survivors, "must be in order"),
        "two thresholds": ((other, *lists.lists[1:]), proposed.survivors, "with the same numbers"),
        "too short": ((short, *lists.lists[1:]), proposed.survivors, f"not for the {N} members"),
        "none": ((), proposed.survivors, "one of each dealer"),
        "no lists": ((ready.encode(),), proposed.survivors, "share list 0"),
        "no dealer": (lists.lists[1:], proposed.survivors, "dealt nothing"),
        "survivors out of order": (lists.lists, proposed.survivors[::-1], "must be in order"),
        "another set": (lists.lists, proposed.survivors[1:], "another survivor set"),
    }
    for told, survivors, why in wrong.values():
        bent = lists.model_copy(update={"lists": told})
        said = (
            evidence.statements[0],
            sign(KEYS[liar], ready.model_copy(update={"lists": bent.digest()})),
            sign(KEYS[peers[0]], bent),
            sign(KEYS[peers[0]], proposed.model_copy(update={"survivors": survivors})),
        )
        assert why in refused(changed(evidence, statements=said))
    fewer = sign(KEYS[liar], release.model_copy(update={"shares": ()}))
    assert "0 shares of 5 dealers" in refused(changed(evidence, statements=(fewer, *evidence.statements[1:])))


@pytest.mark.parametrize("name", ["pair key", "sealed garbage", "dealt another seed", "seed"])
def test_an_advert_from_elsewhere_stands_for_nobody(name: str) -> None:
    evidence = made(name).evidence
    for at, raw in enumerate(evidence.statements):
        if domain_of(raw) == Advert.DOMAIN:
            resent = signed_by(open_any(raw)[0], advert_of(open_any(raw)[0], sequence=2))
            said = (*evidence.statements[:at], resent, *evidence.statements[at + 1 :])
            assert "not an advert of this session" in refused(changed(evidence, statements=said))


def test_where_nothing_is_masked_no_key_convicts_anyone() -> None:
    evidence = made("pair key").evidence
    bare = {peer: advert_of(peer, seal_key=None, mask_key=None) for peer in made("pair key").hand.peers}
    raws = {peer: signed_by(peer, advert) for peer, advert in bare.items()}
    named = session_id(bare[evidence.against], list(raws.values()))
    dealt = open_signed(evidence.statements[2], ShareList).message.model_copy(update={"session": named})
    author = open_any(evidence.statements[3])[0]
    adverts = tuple(sorted(raws.values()))
    for kind, name in (("pair key", "mask"), ("dealing", "seal")):
        shown = Disclosure.model_validate({"session": named, "kind": name, "key": bytes(32)})
        said = (
            raws[author],
            raws[evidence.against],
            sign(KEYS[evidence.against], dealt),
            sign(KEYS[author], shown),
        )
        found = Evidence(kind, evidence.against, said, adverts)
        assert "nothing is masked" in refused(portable(RUN, found))


def test_adverts_of_which_only_some_have_mask_keys_make_no_session() -> None:
    liar, other = (identity.peer_id for identity in IDENTITIES[:2])
    adverts = [advert_of(liar), advert_of(other, seal_key=None, mask_key=None)]
    raws = tuple(sorted((signed_by(liar, adverts[0]), signed_by(other, adverts[1]))))
    named = session_id(adverts[0], raws)
    release = Release(session=named, survivor_set=bytes(32), seed=bytes(32), shares=())
    said = (signed_by(liar, adverts[0]), signed_by(liar, release))
    assert "some have none" in refused(portable(RUN, Evidence("seed", liar, said, raws)))


# -- outside sessions ---------------------------------------------------------------------------------------


def accuse_outside(kind: str, *messages: Message, by: int = 0) -> str:
    peer = IDENTITIES[0].peer_id
    statements = tuple(sign(IDENTITIES[by], message) for message in messages)
    return refused(portable(RUN, Evidence(kind, peer, statements)))


def test_an_advert_sent_again_with_another_sequence_number_is_no_offence() -> None:
    peer = IDENTITIES[0].peer_id
    first = advert_of(peer, head_size=9, sequence=3)
    assert "they are the same" in accuse_outside("two heads", first, advert_of(peer, head_size=9, sequence=4))
    # After a restart the numbers begin again: what has the smaller one may be the later.
    restarted = advert_of(peer, head_size=12, sequence=1)
    assert "not of a later attempt" in accuse_outside("rewound", restarted, first)
    assert "not of a later attempt" in accuse_outside("rewound", first, restarted)


def test_a_ledger_that_grew_or_stayed_was_not_rewound() -> None:
    peer = IDENTITIES[0].peer_id
    for size in (9, 10):
        later = advert_of(peer, head_size=size, attempt=1)
        assert "no fewer" in accuse_outside("rewound", advert_of(peer, head_size=9), later)
    longer = advert_of(peer, head_size=9, round=2)
    assert "not of a later" in accuse_outside("rewound", longer, advert_of(peer, head_size=8))
    assert "not of a later" in accuse_outside("rewound", longer, advert_of(peer, head_size=8, attempt=5))


@pytest.mark.parametrize("kind", OUTSIDE)
def test_statements_of_two_runs_and_adverts_that_bind_nothing_are_refused(kind: str) -> None:
    evidence = outside(kind)
    of: type[Vote | Advert] = Vote if kind == "two votes" else Advert
    for at in (0, 1):
        said = list(evidence.statements)
        message = open_signed(said[at], of).message.model_copy(update={"run": b"\1" * 32})
        said[at] = sign(KEYS[evidence.against], message)
        refused(changed(evidence, statements=tuple(said)))
    advert = signed_by(evidence.against, advert_of(evidence.against))
    assert "no adverts are needed" in refused(changed(evidence, adverts=(advert,)))


def test_heads_of_two_sizes_may_differ() -> None:
    peer = IDENTITIES[0].peer_id
    other = advert_of(peer, head_size=10, head_root=b"\1" * 32)
    assert "may differ" in accuse_outside("two heads", advert_of(peer, head_size=9), other)


def test_votes_of_two_steps_views_or_runs_do_not_contradict_each_other() -> None:
    vote = Vote(run=RUN, round=3, attempt=1, view=2, step=1, value=None)
    for change in ({"view": 3}, {"step": 0}, {"attempt": 0}, {"round": 4}, {"run": b"\1" * 32}):
        other = vote.model_copy(update={"value": bytes(32), **change})
        assert "one step" in accuse_outside("two votes", vote, other)
    assert "same outcome" in accuse_outside("two votes", vote, vote)
    assert "not both are signed" in accuse_outside("two votes", vote, vote, by=1)


# -- the file ------------------------------------------------------------------------------------------


def test_an_empty_array_for_every_byte_is_refused_before_anything_is_read() -> None:
    many = b"\x9a\x00\x0f\x00\x00" + b"\x80" * 0xF0000
    with pytest.raises(MessageRefused, match=f"more than {MOST_ITEMS} items"):
        PortableEvidence.parse(many)
    with pytest.raises(MessageRefused, match="bytes, the largest has"):
        PortableEvidence.parse(bytes(PortableEvidence.MOST_BYTES + 1))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(raw: bytes) -> None:
    with pytest.raises(MessageRefused):
        PortableEvidence.parse(raw)


def test_what_fits_no_file_is_refused_by_who_would_write_it() -> None:
    peer = IDENTITIES[0].peer_id
    with pytest.raises(EvidenceRefused, match="does not fit a file"):
        portable(RUN, Evidence("sum", peer, (bytes(3 << 20),)))
    with pytest.raises(EvidenceRefused, match="bytes of statements"):
        portable(RUN, Evidence("sum", peer, (bytes(2 << 20),) * 17))


def test_a_session_id_is_that_of_the_adverts_and_of_no_others() -> None:
    evidence = made("share").evidence
    hand = made("share").hand
    advert = hand.session.adverts[evidence.against][1]
    assert session_id(advert, evidence.adverts) == hand.session.id
    assert all(isinstance(open_any(raw)[1], SessionMessage) for raw in evidence.statements)
