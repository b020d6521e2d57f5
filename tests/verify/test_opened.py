"""Promises of a chain member's opening: what is opened is what somebody signed for, in this very place."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.errors import MessageRefused
from secagg.messages import Evidence
from tests.verify.chain import KEYS, PEERS
from verify.chains import EVALUATED, BoundaryList, Confirmation, Direction, Place, tensor_hash
from verify.evidence import EvidenceRefused, Rules, examine, portable
from verify.opened import (
    PIECE,
    BoundaryOpening,
    Opened,
    Passed,
    Post,
    gather,
    of_microbatch,
    of_received,
    pieces_of,
    read_opening,
)
from verify.statement import sign

RUN, SESSION = bytes([9]) * 32, bytes([7]) * 32
BEFORE, ME, AFTER, OTHER = PEERS[:4]
SLICE, COUNT, CODEC = 2, 2, "fp16"
POST = Post(ME, Place(RUN, 3, 0, 1), 1, SLICE, [(BEFORE,), (ME, OTHER), (AFTER,)], "fp16")
FIRST = (SLICE + EVALUATED) * COUNT
ENDS: list[tuple[bool, Direction, str, int]] = [
    (False, "forward", BEFORE, 0),
    (False, "backward", AFTER, 2),
    (True, "forward", ME, 1),
    (True, "backward", ME, 1),
]
TENSORS = {
    (sent, way, at): f"{sent} {way} {at}".encode() * 9 for sent, way, _, _ in ENDS for at in range(COUNT)
}
RULES = Rules(None, 16, lambda integers, weight: True)  # type: ignore[arg-type]


def listed(sent: bool, way: Direction, signer: str, of: int, **changed: Any) -> bytes:
    fields: dict[str, Any] = {
        "run": RUN,
        "round": 3,
        "attempt": 0,
        "chain": 1,
        "shard": of,
        "direction": way,
        "codec": CODEC,
        "microbatches": tuple(range(FIRST, FIRST + COUNT)),
        "hashes": tuple(tensor_hash(TENSORS[sent, way, at]) for at in range(COUNT)),
    }
    return sign(KEYS[signer], BoundaryList(**(fields | changed)))


def passed() -> Passed:
    lists = [(sent, listed(sent, way, who, shard)) for sent, way, who, shard in ENDS]
    received = tuple(raw for sent, raw in lists if not sent)
    return Passed(received, tuple(raw for sent, raw in lists if sent), TENSORS)


def opened(**changed: Any) -> Opened:
    opening = passed().opening(SESSION, 0).model_copy(update=changed)
    return read_opening(sign(KEYS[ME], opening), SESSION, POST)


def test_an_honest_opening_holds_with_all_its_tensors() -> None:
    found = opened()
    found.check(TENSORS)
    assert set(found.keys(sent=False)) | set(found.keys(sent=True)) == set(TENSORS)
    assert found.signers == {"forward": BEFORE, "backward": AFTER}


WRONG: dict[str, dict[str, Any]] = {
    "another chain": {"chain": 2},
    "another attempt": {"attempt": 1},
    "another shard": {"shard": 2},
    "the other direction": {"direction": "backward"},
    "another codec": {"codec": "int8"},
    "another slice": {"microbatches": (FIRST - COUNT, FIRST - COUNT + 1)},
    "half a slice": {"microbatches": (FIRST,), "hashes": (bytes(32),)},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_list_of_something_else_is_refused(what: str) -> None:
    forged = listed(False, "forward", BEFORE, 0, **WRONG[what])
    with pytest.raises(MessageRefused):
        opened(received=(forged, passed().received[1]))


def test_a_list_that_no_neighbour_signed_is_refused() -> None:
    """Whoever blames the neighbour needs the neighbour's signature."""
    for signer in (ME, AFTER, OTHER):
        with pytest.raises(MessageRefused, match="does not hold shard 0"):
            opened(received=(listed(False, "forward", signer, 0), passed().received[1]))
    with pytest.raises(MessageRefused, match="does not hold shard 1"):
        opened(sent=(listed(True, "forward", OTHER, 1), passed().sent[1]))
    with pytest.raises(MessageRefused, match="of another session"):
        read_opening(sign(KEYS[OTHER], passed().opening(SESSION, 0)), SESSION, POST)
    with pytest.raises(MessageRefused, match="1 lists"):
        opened(sent=passed().sent[:1])


def test_other_bytes_than_were_signed_are_refused() -> None:
    for key, raw in TENSORS.items():
        with pytest.raises(MessageRefused, match="not the bytes"):
            opened().check({key: raw + b"x"})
    with pytest.raises(MessageRefused):
        opened().check({(True, "forward", COUNT): b"one more"})


@settings(deadline=None, max_examples=20)
@given(
    st.dictionaries(
        st.tuples(st.booleans(), st.sampled_from(["forward", "backward"]), st.integers(0, 9)),
        st.tuples(st.integers(0, 2), st.binary(min_size=1, max_size=9)),
        max_size=4,
    )
)
def test_tensors_come_back_from_their_pieces(made: dict[Any, tuple[int, bytes]]) -> None:
    tensors = {key: bytes(PIECE * many) + rest for key, (many, rest) in made.items()}
    assert gather(pieces_of(tensors, tensors)) == tensors


def test_pieces_of_one_tensor_must_follow_one_another() -> None:
    one, other = pieces_of(TENSORS, list(TENSORS)[:2])
    with pytest.raises(MessageRefused, match="follow"):
        gather([one, other, one])


def test_evidence_takes_what_it_needs() -> None:
    text = [b"opening", *pieces_of(TENSORS, TENSORS)]
    assert set(gather(of_received(text)[1:])) == {key for key in TENSORS if not key[0]}
    wanted = {(False, "forward", 1), (False, "backward", 1), (True, "forward", 1)}
    assert set(gather(of_microbatch(text, "forward", 1)[1:])) == wanted


def test_an_opening_fits_a_statement_however_long_its_lists() -> None:
    many = tuple(range(4_096))
    long = listed(True, "forward", ME, 1, microbatches=many, hashes=(bytes(32),) * 4_096)
    opening = BoundaryOpening(session=SESSION, slice=0, received=(long, long), sent=(long, long))
    assert BoundaryOpening.parse(opening.encode()) == opening


# -- evidence that anyone examines -----------------------------------------------------------------------


def proved(kind: str, first: bytes, second: bytes, against: str = ME) -> str:
    return examine(portable(RUN, Evidence(kind, against, (first, second))), RULES)


def test_two_lists_of_one_slice_convict_their_author_alone() -> None:
    one, other = (listed(True, "forward", ME, 1, hashes=(bytes([at]) * 32,) * 2) for at in (1, 2))
    assert "two different tensors forward in chain 1" in proved("two boundary lists", one, other)
    with pytest.raises(EvidenceRefused):
        proved("two boundary lists", one, one)
    with pytest.raises(EvidenceRefused):
        proved("two boundary lists", one, other, against=OTHER)
    with pytest.raises(EvidenceRefused):
        proved("two boundary lists", one, listed(True, "forward", ME, 1, attempt=1))


def test_two_confirmations_convict_the_leader_that_signed_them() -> None:
    def closed(slices: int, shard: int = 0, round_: int = 3) -> bytes:
        place = {"run": RUN, "round": round_, "attempt": 0, "chain": 1}
        return sign(KEYS[ME], Confirmation(**place, shard=shard, slices=slices, after=()))  # type: ignore[arg-type]

    assert "closed chain 1" in proved("two confirmations", closed(2), closed(3))
    for harmless in (closed(2), closed(3, shard=1), closed(3, round_=4)):
        with pytest.raises(EvidenceRefused):
            proved("two confirmations", closed(2), harmless)
