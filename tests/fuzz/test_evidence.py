"""Evidence, nearly valid: it is examined or refused, and convicts nobody that signed nothing wrong."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from blake3 import blake3

from proto.canonical import PeerID
from proto.errors import MessageRefused
from secagg.messages import Evidence
from swarm.effects import OwnWork, Work
from swarm.order import Order
from swarm.testing import CHUNK, made_of
from tests.attacks.liars import RULES, open_any
from tests.fuzz import test_checks as checks
from tests.fuzz.mutate import Mutator, canonical, try_all
from tests.secagg.session_network import KEYS
from tests.verify import checked
from tests.verify.checked import Bend
from tests.verify.lies import ALL, LIES, changed, evidence_of, honest, made, transcript
from verify.case import Rules
from verify.commitment import Committed, chunk_digests, digest_of
from verify.evidence import EvidenceRefused, PortableEvidence, examine
from verify.statement import domain_of
from verify.work_evidence import read_order, read_update

COURT_RULES = Rules(np.dtype("<i2"), CHUNK, lambda integers, weight: True)


def read(case: PortableEvidence, rules: Rules) -> str:
    """What a stranger makes of it, as far as that takes no computing again."""
    if case.kind == "order":
        read_order(case, rules)
    elif case.kind == "update":
        assert all(len(chunk.data) % 2 == 0 for chunk in read_update(case, rules).chunks)
    else:
        return examine(case, rules)
    return case.against


def test_evidence_of_whatever_form_is_read_or_refused() -> None:
    mutator = Mutator("evidence form", [evidence_of(name).encode() for name in ("seed", "two votes", "sum")])
    try_all(canonical(PortableEvidence.parse), mutator.inputs(15_000)).check(various=15)


@pytest.mark.parametrize("name", ALL)
def test_mutated_evidence_is_examined_or_refused(name: str) -> None:
    """The accused and all others sign what was changed: some of it convicts, nothing else happens."""
    mutator = Mutator(f"evidence {name}", [evidence_of(name).encode()], KEYS)

    def examined(raw: bytes) -> None:
        case = PortableEvidence.parse(raw)
        assert examine(case, RULES).startswith(case.against)

    try_all(examined, mutator.inputs(200)).check(various=8)


OF_CHECKS = {"slices", "update", "order", "opening"}


def from_checks() -> list[PortableEvidence]:
    """Evidence of every kind that a spot check leaves."""
    found: dict[str, PortableEvidence] = {}
    for bend in (checks.other_than_committed, checks.other_than_computed, checks.other_order):
        court = checked.court(True, bend)
        case = court.case(court.look())
        found[case.kind] = case
        mutator = Mutator("from checks", [b"\x84"], {court.liar: court.swarm.peers[court.liar].identity})
        for _ in range(600):
            if found.keys() >= OF_CHECKS:
                break
            look = court.look(lie=lambda hand, domain, true, m=mutator: checks.bent_list(m, true))  # type: ignore[misc]
            if look.evidence is not None:
                found.setdefault(look.evidence.kind, court.case(look))
    return list(found.values())


def test_mutated_evidence_of_checks_is_examined_or_refused() -> None:
    cases = from_checks()
    assert {case.kind for case in cases} >= OF_CHECKS
    court = checked.court(True, checks.other_than_committed)
    keys = {peer: court.swarm.peers[peer].identity for peer in court.members}
    for case in cases:
        mutator = Mutator(f"check {case.kind}", [case.encode()], keys)
        try_all(lambda raw: read(PortableEvidence.parse(raw), COURT_RULES), mutator.inputs(250)).check(
            various=8
        )


# -- the innocent -------------------------------------------------------------------------------------------


def shams(victim: PeerID) -> Iterator[PortableEvidence]:
    """Evidence of every lie's form against `victim`, made of true statements of an honest cell."""
    for name in LIES:
        true, secure = made(name).evidence, "plain" not in name
        said = transcript("without" in name, secure)
        liar = true.against
        statements = []
        for raw in true.statements:
            author = victim if open_any(raw)[0] == liar else open_any(raw)[0]
            same = said.get(domain_of(raw), [raw])
            own = [one for one in same if open_any(one)[0] == author]
            statements.append((own or same)[len(statements) % len(own or same)])
        adverts = tuple(sorted(raw for raw, _ in honest("without" in name, secure).session.adverts.values()))
        yield changed(true, against=victim, adverts=adverts, statements=tuple(statements))


@pytest.mark.parametrize("place", [0, 3])
def test_nobody_is_convicted_of_what_it_did_not_sign(place: int) -> None:
    """All others lie together, with every key but the victim's."""
    victim = list(KEYS)[place]
    others = {peer: key for peer, key in KEYS.items() if peer != victim}
    refused = set[str]()
    for case in shams(victim):
        mutator = Mutator(f"sham {case.kind} {place}", [case.encode()], others)
        for raw in mutator.inputs(110):
            try:
                mutant = PortableEvidence.parse(raw)
            except MessageRefused:
                continue
            if mutant.against != victim:
                continue
            with pytest.raises(EvidenceRefused) as refusal:
                examine(mutant, RULES)
            refused.add(str(refusal.value)[:30])
    assert len(refused) > 40


# -- chunks of lengths that no chunk has ------------------------------------------------------------------


def committed_to(length: int) -> Bend:
    """A liar that commits to a first chunk of so many elements."""

    def bend(order: Order, true: list[np.ndarray]) -> Work:
        first = digest_of(np.ones(length, np.int16)) if length else blake3(b"").digest()
        digests = [[first, *chunk_digests(one, CHUNK)[1:]] for one in true]
        work = made_of(order, true)
        own = OwnWork(Committed(order.digest(), digests, bytes(32)), work.own.encoded)
        return dataclasses.replace(work, own=own)

    return bend


@pytest.mark.parametrize("secure", [True, False], ids=["masked", "plain"])
@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK + 1, 2 * CHUNK, 9_000])
def test_a_chunk_of_a_length_that_none_has_is_examined_or_refused(length: int, secure: bool) -> None:
    """Anybody can bring such a file: its author signed all of it, and it hangs under its own commitment."""
    court = checked.Court(secure, committed_to(length))
    liar = court.liar
    drawn, integers = court.drawn(liar), np.ones(length, np.int16)
    kept, work = drawn.transcript, drawn.work
    assert work is not None
    masks = kept.open_masks(0)
    first = () if masks is None else (court.sign(liar, masks), *kept.papers(liar), *kept.releases)
    opened = court.sign(liar, work.committed.open_slice(kept.session, 0))
    weight = range(kept.adverts[liar][1].weight)
    chunks = [court.sign(liar, work.committed.open_chunk(kept.session, at, 0, integers)) for at in weight]
    adverts = tuple(sorted(raw for raw, _ in kept.adverts.values()))
    headers = [kept.headers[part] for part in kept.cut.parts]
    for kind, statements in {
        "slices": (*first, opened, *chunks, *headers),
        "opening": (opened, chunks[0]),
        "update": (opened, chunks[0]),
    }.items():
        case = court.case(Evidence(kind, liar, statements, adverts))
        try_all(lambda raw: read(PortableEvidence.parse(raw), COURT_RULES), [case.encode()])
