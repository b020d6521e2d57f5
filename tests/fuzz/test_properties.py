"""Arbitrary bytes and arbitrary CBOR into every parser, as hypothesis draws and shrinks them."""

from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.canonical import Message, plain_cbor, tagged
from secagg.interface import FROM
from swarm.manifest import parse_manifest
from swarm.net.peer_record import open_peer_record
from swarm.round import Participant
from tests.attacks.liars import RULES
from tests.fuzz import seeds
from tests.fuzz.mutate import MORE, canonical, text_of, try_all
from tests.fuzz.seeds import examples, message_classes
from tests.secagg.session_network import Cell
from tests.verify import checked
from tests.verify.chain import KEYS, PEERS
from verify.checkpoint import parse_checkpoint, read_checkpoint, read_cosignatures
from verify.evidence import PortableEvidence, examine
from verify.identity import certificate_owner, public_key_bytes
from verify.statement import domain_of, open_signed

CLASSES = message_classes()
HISTORY = seeds.grown()
FIELDS = sorted({name for kind in CLASSES for name in kind.model_fields})

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=60)
    | st.sampled_from(PEERS)
    | st.binary(max_size=80)
    | st.binary(min_size=32, max_size=32)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=20,
)
inputs = st.binary(max_size=200) | values.map(lambda value: cbor2.dumps(value, canonical=True))


def some(count: int) -> Callable[[Any], Any]:
    """So many cases: 2,000 in this file, times MORE."""
    return settings(
        max_examples=count * MORE,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def session_of(raw: bytes) -> None:
    """What a member that has shared its secrets makes of it, as each kind of statement."""
    cell = Cell(4)
    for kind in FROM:
        try_all(lambda raw, kind=kind: cell.sessions[cell.peers[0]].receive(cell.peers[1], raw, kind), [raw])  # type: ignore[misc]


def live() -> Participant:
    """A peer after a round."""
    return checked.court().swarm.machine(checked.court().liar)


PARSERS: dict[str, Callable[[bytes], object]] = {
    "cbor": plain_cbor,
    "domain": domain_of,
    "manifest": parse_manifest,
    "peer record": open_peer_record,
    "certificate": certificate_owner,
    "peer id": text_of(public_key_bytes),
    "checkpoint": text_of(parse_checkpoint),
    "signed checkpoint": text_of(lambda text: read_checkpoint(text, PEERS[0])),
    "cosignatures": text_of(lambda text: read_cosignatures(text, PEERS)),
    "evidence": lambda raw: examine(PortableEvidence.parse(raw), RULES),
    "outcome": HISTORY.extend,
    "subject": HISTORY.subject,
    "session": session_of,
    "answer": lambda raw: live().answer(checked.court().members[0], raw),
    "told": lambda raw: live().receive(checked.court().members[0], raw),
}


@pytest.mark.parametrize("name", PARSERS)
def test_arbitrary_input_is_read_or_refused(name: str) -> None:
    @some(60)
    @given(raw=inputs)
    def holds(raw: bytes) -> None:
        try_all(PARSERS[name], [raw], longest=8_000)

    holds()


def fields_of(kind: type[Message]) -> st.SearchStrategy[dict[str, Any]]:
    """The fields of a valid message, some of them replaced by anything."""
    valid = st.sampled_from([kind.parse(raw).model_dump() for raw in examples(kind)])
    others = st.dictionaries(st.sampled_from(sorted(kind.model_fields)), values, max_size=2)
    return st.tuples(valid, others).map(lambda pair: pair[0] | pair[1])


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__qualname__)
def test_a_message_with_arbitrary_fields_is_taken_as_it_is_or_refused(kind: type[Message]) -> None:
    """Also signed, so that it comes to where only members' words come."""

    @some(30)
    @given(fields=fields_of(kind))
    def holds(fields: dict[str, Any]) -> None:
        raw = cbor2.dumps(fields, canonical=True)
        try_all(canonical(kind.parse), [raw])
        signature = KEYS[PEERS[0]].sign_raw(tagged(kind.DOMAIN) + raw)
        said = cbor2.dumps([kind.DOMAIN, PEERS[0], raw, signature])
        try_all(lambda said: open_signed(said, kind), [said])

    holds()
