"""Evidence of spot checks convicts liars alone: whatever is put together of honest openings does not hold."""

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from secagg.messages import Evidence, Opening, Part
from swarm.testing import CHUNK
from tests.verify.checked import Court, Hand, changed, court, opening
from tests.verify.test_check import flipped, hidden_slice, other_order
from verify.case import EvidenceRefused, PortableEvidence
from verify.check import Computed
from verify.commitment import ChunkOpening, SliceOpening
from verify.evidence import Rules, examine
from verify.sketch import WIDTH
from verify.standing import Verdict
from verify.statement import domain_of, open_signed
from verify.work_evidence import read_order, read_update

KINDS = ["opening", "mask key", "slices", "order", "update"]
OWN = Rules(court().drawn(court().liar).transcript.dtype, CHUNK, lambda update, weight: True)


@lru_cache(maxsize=4)
def honest(secure: bool) -> dict[PeerID, tuple[bytes, ...]]:
    """All that the honest members of a session sign in a check, and the papers that go with it."""
    here, said = court(secure), dict[PeerID, tuple[bytes, ...]]()
    for peer in here.members:
        here.drawn(peer).asked.clear()
        raws = here.swarm.machine(peer).answer(here.draw_of(peer).checkers[0], here.computed(peer))
        kept = here.drawn(peer).transcript
        said[peer] = (*raws, *kept.papers(peer), *kept.releases)
    return said


def adverts_of(here: Court) -> tuple[bytes, ...]:
    return tuple(sorted(raw for raw, _ in here.drawn(here.liar).transcript.adverts.values()))


def of_kind(raws: tuple[bytes, ...], kind: type) -> list[bytes]:
    return [raw for raw in raws if domain_of(raw) == kind.DOMAIN]


def well_formed(here: Court, kind: str, chunk: int) -> tuple[bytes, ...]:
    """The statements of a kind, of the right shape, of an honest member."""
    peer = here.liar
    said, secure = honest(here.secure)[peer], here.secure
    index = here.draw_of(peer).chunks[chunk]
    papers = here.drawn(peer).transcript.papers(peer)
    (sliced,), headers = of_kind(said, SliceOpening), of_kind(said, Part)
    integers = [
        raw for raw in of_kind(said, ChunkOpening) if open_signed(raw, ChunkOpening).message.chunk == index
    ]
    masks = [raw for raw in of_kind(said, Opening) if open_signed(raw, Opening).message.chunk == index]
    own = next(
        raw for raw in integers if open_signed(raw, ChunkOpening).message.slice == here.draw_of(peer).what
    )
    releases = here.drawn(peer).transcript.releases
    first = (*masks, *papers, *releases) if secure else ()
    return {
        "opening": (sliced, own),
        "mask key": (*masks, *papers),
        "slices": (*first, sliced, *integers, *headers),
        "order": (sliced,),
        "update": (sliced, own),
    }[kind]


SHAPES = [(kind, secure) for kind in KINDS for secure in (True, False) if secure or kind != "mask key"]


@pytest.mark.parametrize(("kind", "secure"), SHAPES)
def test_an_honest_opening_of_the_right_shape_convicts_of_nothing(kind: str, secure: bool) -> None:
    here = court(secure)
    for chunk in range(len(here.draw_of(here.liar).chunks)):
        statements = well_formed(here, kind, chunk)
        assert not here.holds(here.case(Evidence(kind, here.liar, statements, adverts_of(here))))


@given(st.data(), st.sampled_from(KINDS), st.booleans())
@settings(max_examples=250, deadline=None)
def test_no_choice_of_honest_statements_convicts_anyone(data: st.DataObject, kind: str, secure: bool) -> None:
    here = court(secure)
    if kind == "mask key" and not secure:
        kind = "opening"
    base = list(well_formed(here, kind, data.draw(st.integers(0, 7))))
    everything = [raw for raws in honest(secure).values() for raw in raws]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(base) - 1))
        other = everything[data.draw(st.integers(0, len(everything) - 1))]
        match data.draw(st.sampled_from(["replace", "insert", "drop", "swap"])):
            case "replace":
                base[place] = other
            case "insert":
                base.insert(place, other)
            case "drop" if len(base) > 1:
                del base[place]
            case "swap":
                base[place], base[0] = base[0], base[place]
    against = data.draw(st.sampled_from(here.members))
    assert not here.holds(here.case(Evidence(kind, against, tuple(base), adverts_of(here))))


@given(st.data(), st.sampled_from(KINDS))
@settings(max_examples=100, deadline=None)
def test_bent_bytes_and_other_fields_convict_no_honest_member(data: st.DataObject, kind: str) -> None:
    here = court(True)
    case = here.case(Evidence(kind, here.liar, well_formed(here, kind, 0), adverts_of(here)))
    statements = list(case.statements)
    place = data.draw(st.integers(0, len(statements) - 1))
    bent = bytearray(statements[place])
    bent[data.draw(st.integers(0, len(bent) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    statements[place] = bytes(bent)
    changes: dict[str, object] = {"statements": tuple(statements)}
    if data.draw(st.booleans()):
        changes["adverts"] = case.adverts[: data.draw(st.integers(0, 3))]
    assert not here.holds(case.model_copy(update=changes))


def test_other_members_signatures_do_not_convict() -> None:
    """A liar signs what an honest member would have to have signed."""
    here, honest_peer = court(True), court(True).members[0]
    liar = Hand(here, here.liar, here.draw_of(here.liar))
    for kind in KINDS:
        statements = well_formed(here, kind, 0)
        forged = tuple(
            liar.change(raw, **({"key": bytes(32)} if domain_of(raw) == SliceOpening.DOMAIN else {}))
            if domain_of(raw) in (SliceOpening.DOMAIN, ChunkOpening.DOMAIN, Opening.DOMAIN)
            else raw
            for raw in statements
        )
        assert not here.holds(here.case(Evidence(kind, honest_peer, forged, adverts_of(here))))


TRUE = {
    "opening": (None, changed(SliceOpening, roots=lambda m: m.roots[::-1])),
    "wrong leaves": (None, changed(SliceOpening, leaves=lambda m: m.leaves[::-1])),
    "mask key": (None, changed(Opening, keys=lambda m: m.keys[::-1])),
    "slices": (hidden_slice, opening(lambda hand, raws: raws)),
    "order": (other_order, opening(lambda hand, raws: raws)),
    "update": (flipped, opening(lambda hand, raws: raws)),
}


@lru_cache(maxsize=8)
def true_case(name: str) -> tuple[Court, PortableEvidence]:
    bend, lie = TRUE[name]
    here = court(True, bend)
    return here, here.case(here.look(lie=lie))


@pytest.mark.parametrize("name", TRUE)
def test_true_evidence_falls_with_any_statement_and_stands_as_it_is(name: str) -> None:
    here, case = true_case(name)
    assert here.holds(case)
    for place in range(len(case.statements)):
        fewer = tuple(raw for at, raw in enumerate(case.statements) if at != place)
        if not (
            domain_of(case.statements[place]) == "release" or (name == "update" and place and len(fewer) > 1)
        ):
            assert not here.holds(case.model_copy(update={"statements": fewer})), place
        bent = bytearray(case.statements[place])
        bent[-1] ^= 1
        others = (*case.statements[:place], bytes(bent), *case.statements[place + 1 :])
        assert not here.holds(case.model_copy(update={"statements": others})), place


@pytest.mark.parametrize("name", TRUE)
def test_true_evidence_is_of_its_run_its_session_its_kind_and_its_author(name: str) -> None:
    here, case = true_case(name)
    for other in here.members:
        if other != case.against:
            assert not here.holds(case.model_copy(update={"against": other}))
    assert not here.holds(case.model_copy(update={"run": bytes(32)}))
    assert not here.holds(case.model_copy(update={"adverts": case.adverts[1:]}))
    assert not here.holds(case.model_copy(update={"adverts": case.adverts[::-1]}))
    for kind in KINDS:
        assert kind == case.kind or not here.holds(case.model_copy(update={"kind": kind})), kind


def test_what_is_to_be_compared_is_read_from_the_accuseds_own_words() -> None:
    here, case = true_case("update")
    read = read_update(case, OWN)
    advert, slice_opening = read_order(case, OWN)
    assert advert.commitment == here.drawn(here.liar).transcript.adverts[here.liar][1].commitment
    assert slice_opening.slice == here.draw_of(here.liar).what == read.opening.slice
    assert 1 <= len(read.chunks) <= 4
    assert read.text == ()
    text = (b"\xa0", b"\xa1")
    assert read_update(case.model_copy(update={"statements": (*case.statements, *text)}), OWN).text == text


def test_text_may_only_stand_at_the_end() -> None:
    _, case = true_case("update")
    first, *others = case.statements
    with pytest.raises(EvidenceRefused):
        read_update(case.model_copy(update={"statements": (first, b"\xa0", *others)}), OWN)
    with pytest.raises(EvidenceRefused):
        read_update(case.model_copy(update={"statements": (first,)}), OWN)


def test_an_examiner_says_what_is_proved_against_whom_and_when() -> None:
    for name in ("opening", "wrong leaves", "mask key", "slices"):
        _, case = true_case(name)
        said = examine(case, OWN)
        assert case.against in said
        assert "round 1, attempt 0" in said


def results(**changes: object) -> PortableEvidence:
    """A checker's two results for one slice, the second of which it did not tell the peer it checked."""
    here = court()
    peer = here.liar
    checker, session = here.draw_of(peer).checkers[0], here.drawn(peer).transcript.session
    run = here.swarm.machine(peer).history.run
    told = Computed(session=session, checked=peer, sketch=(0,) * WIDTH)
    said = Verdict(
        run=run, round=0, session=session, checked=peer, slice=0, outcome="clean", sketch=(1,) * WIDTH
    )
    signed = (here.sign(checker, told), here.sign(checker, said.model_copy(update=changes)))
    return PortableEvidence(run=run, kind="two results", against=checker, adverts=(), statements=signed)


def test_two_results_of_one_slice_convict_the_checker_that_signed_both() -> None:
    assert "two different results" in examine(results(), OWN)


@pytest.mark.parametrize(
    "changes",
    [
        {"sketch": (0,) * WIDTH},
        {"sketch": None, "outcome": "silent"},
        {"session": bytes(32)},
        {"checked": court().members[0]},
        {"run": bytes(32)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_results_that_an_honest_checker_may_sign_convict_nobody(changes: dict[str, object]) -> None:
    if changes.get("checked") == court().liar:
        changes = {"checked": court().members[1]}
    with pytest.raises(EvidenceRefused):
        examine(results(**changes), OWN)


def test_results_of_two_checkers_convict_neither() -> None:
    case = results()
    other = next(peer for peer in court().members if peer != case.against)
    told = open_signed(case.statements[0], Computed).message
    mixed = (court().sign(other, told), case.statements[1])
    for against in (other, case.against):
        with pytest.raises(EvidenceRefused):
            examine(case.model_copy(update={"against": against, "statements": mixed}), OWN)
