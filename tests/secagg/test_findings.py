"""What a session keeps as evidence: what a stranger needs with it, and nothing that is none."""

from dataclasses import replace

import pytest

from proto.canonical import Message, PeerID
from proto.errors import MessageRefused
from secagg.findings import Findings
from secagg.interface import Effect, SendPart, Tell, Wait
from secagg.messages import Evidence, FinalSet, Part, Receipt, Release, ShareList, ShareLists, SurvivorSet
from tests.secagg.session_network import IDENTITIES, KINDS, Cell, check, signed_by
from verify.statement import domain_of

ANEW = b" signed anew"
"""Stands for another signature of the same message: its author can make as many as it likes."""


def checked(raw: bytes, kind: type[Message]) -> tuple[PeerID, Message]:
    return check(raw.removesuffix(ANEW), kind)


def cell_that_loses(kind: type) -> tuple[Cell, list[tuple[PeerID, PeerID, bytes]]]:
    """A cell of 4, run until it lacks what is of this kind: authors, receivers and statements of that."""
    cell = Cell(4)
    cell.sessions = {p: replace(s, check=checked, evidence=[]) for p, s in cell.sessions.items()}
    lost: list[tuple[PeerID, PeerID, bytes]] = []

    def look(peer: PeerID, effect: Effect) -> bool:
        if isinstance(effect, Tell) and KINDS[domain_of(effect.raw)] is kind:
            lost.append((peer, effect.to, effect.raw))
            return False
        return not isinstance(effect, Wait | SendPart if kind is SendPart else Wait)

    cell.on_effect = look
    return cell.run(), lost


@pytest.mark.parametrize("kind", [ShareLists, SurvivorSet, Receipt, Release])
def test_a_message_that_is_signed_anew_is_no_second_one(kind: type[Message]) -> None:
    cell, ((author, to, raw), *_) = cell_that_loses(kind)
    session = cell.sessions[to]
    first = session.receive(author, raw, kind)  # type: ignore[arg-type]
    again = session.receive(author, raw + ANEW, kind)  # type: ignore[arg-type]
    assert again == first or again == []
    assert session.evidence == []


def test_a_final_set_over_the_same_proposal_signed_anew_is_no_second_set() -> None:
    cell, ((_, to, raw), *_) = cell_that_loses(FinalSet)
    final = check(raw, FinalSet)[1]
    assert isinstance(final, FinalSet)
    anew = signed_by(cell.peers[0], final.model_copy(update={"proposal": final.proposal + ANEW}))
    assert cell.sessions[to].receive(cell.peers[0], anew, FinalSet)
    assert cell.sessions[to].evidence == []


def test_a_part_whose_header_is_signed_anew_is_refused_and_no_evidence() -> None:
    cell, _ = cell_that_loses(SendPart)
    owner, sender = cell.sessions[cell.peers[0]], cell.peers[1]
    header, data = cell.sessions[sender]._headers[0][0], cell.sessions[sender].update[owner.cut.slices[0]]
    owner.room(sender, header, Part)
    owner.arrived(sender, header, Part, data.copy())
    with pytest.raises(MessageRefused, match="two different parts"):
        owner.room(sender, header + ANEW, Part)
    assert owner.evidence == []


def test_each_piece_has_the_sessions_adverts_and_a_kind_counts_once_a_member() -> None:
    one, other = IDENTITIES[0].peer_id, IDENTITIES[1].peer_id
    kept: list[Evidence] = []
    findings = Findings(kept, [b"c", b"a", b"b"])
    findings.convict("two sets", one, b"first", b"second")
    findings.convict("two sets", one, b"first", b"third")
    findings.keep(Evidence("two sets", other, (b"first", b"second")))
    findings.keep(Evidence("seed", one, (b"advert", b"release")))
    assert [(found.kind, found.against) for found in kept] == [
        ("two sets", one),
        ("two sets", other),
        ("seed", one),
    ]
    assert {found.adverts for found in kept} == {(b"a", b"b", b"c")}
    assert kept[0].statements == (b"first", b"second")


def test_a_wrong_share_of_a_member_that_was_never_ready_is_refused_and_no_evidence() -> None:
    """Nothing that it signed says which lists it has seen: a stranger could not tell whose lie it is."""
    cell, ((liar, to, raw), *_) = cell_that_loses(Release)
    session = cell.sessions[to]
    release = check(raw, Release)[1]
    assert isinstance(release, Release)
    wrong = signed_by(liar, release.model_copy(update={"shares": (bytes(33), *release.shares[1:])}))
    assert session._sharing is not None
    session._sharing.ready = {p: r for p, r in session._sharing.ready.items() if p != liar}
    with pytest.raises(MessageRefused, match="which share lists it holds to"):
        session.receive(liar, wrong, Release)
    assert session.evidence == []
    assert session.receive(liar, raw, Release) == [], "a right one still counts"


def test_a_list_with_other_numbers_than_the_sessions_is_refused_and_says_which() -> None:
    cell, ((author, to, raw), *_) = cell_that_loses(ShareList)
    dealt = check(raw, ShareList)[1]
    for changes in ({"threshold": 1}, {"chunks": 1}):
        other = signed_by(author, dealt.model_copy(update=changes))
        with pytest.raises(MessageRefused, match="this session has 3 and 8"):
            cell.sessions[to].receive(author, other, ShareList)
