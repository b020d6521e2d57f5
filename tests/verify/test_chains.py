"""Promises of a chain's statements: one reading each, one number of slices for all shards, lies that show."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.canonical import PeerID
from proto.errors import MessageRefused
from tests.verify.chain import KEYS, PEERS
from verify.chains import (
    MAX_LISTED,
    MAX_SHARDS,
    BoundaryList,
    BoundaryRefused,
    Confirmation,
    Counted,
    Place,
    check_list,
    check_tensor,
    open_certificate,
    tensor_hash,
    two_confirmations,
    two_lists,
    weights,
)
from verify.statement import sign

RUN = bytes(32)
PLACE = Place(RUN, 3, 1, 2)
TENSORS = [b"zero", b"one", b"two"]
A, B, C, D = PEERS[:4]
REPLICAS = [(A, B), (C, D), (PEERS[4], PEERS[5])]


def listed(**changed: Any) -> BoundaryList:
    fields: dict[str, Any] = {
        "run": RUN,
        "round": 3,
        "attempt": 1,
        "chain": 2,
        "shard": 0,
        "direction": "forward",
        "codec": "fp16",
        "microbatches": (0, 1, 2),
        "hashes": tuple(tensor_hash(raw) for raw in TENSORS),
    }
    return BoundaryList(**(fields | changed))


def confirmation(shard: int, after: tuple[PeerID, ...], slices: int = 4, **changed: Any) -> Confirmation:
    fields = {"run": RUN, "round": 3, "attempt": 1, "chain": 2, "shard": shard, "slices": slices}
    return Confirmation(**(fields | {"after": after} | changed))


def certificate(path: tuple[PeerID, ...] = (A, C, PEERS[4]), slices: int = 4, **changed: Any) -> list[bytes]:
    return [
        sign(KEYS[peer], confirmation(shard, path[shard + 1 :], slices, **changed))
        for shard, peer in enumerate(path)
    ]


# ---- boundary lists


def test_a_list_ties_down_every_tensor_it_names() -> None:
    found = BoundaryList.parse(listed().encode())
    check_list(found, PLACE, 0, "forward", "fp16")
    for at, raw in enumerate(TENSORS):
        check_tensor(found, at, raw)
        with pytest.raises(BoundaryRefused, match="not the bytes"):
            check_tensor(found, at, raw + b"\0")
    with pytest.raises(BoundaryRefused, match="no microbatch 3"):
        check_tensor(found, 3, b"")


@pytest.mark.parametrize(
    "changed",
    [
        {"run": b"\1" * 32},
        {"round": 4},
        {"attempt": 0},
        {"chain": 1},
        {"shard": 1},
        {"direction": "backward"},
        {"codec": "int8"},
        {"microbatches": (0, 1)},
        {"microbatches": (0, 2, 1)},
        {"microbatches": (0, 1, 1)},
    ],
)
def test_a_list_of_another_place_or_form_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(BoundaryRefused, match="boundary list"):
        check_list(BoundaryList.parse(listed(**changed).encode()), PLACE, 0, "forward", "fp16")


def test_the_longest_list_is_read_and_a_longer_one_refused() -> None:
    most: dict[str, Any] = {"microbatches": tuple(range(MAX_LISTED)), "hashes": (RUN,) * MAX_LISTED}
    longest = listed(**most)
    assert BoundaryList.parse(longest.encode()) == longest
    more = longest.model_copy(update={"hashes": (RUN,) * (MAX_LISTED + 1)})
    with pytest.raises(MessageRefused):
        BoundaryList.parse(more.encode())


def test_two_hashes_of_one_microbatch_convict_their_author() -> None:
    first = sign(KEYS[A], listed())
    other = sign(KEYS[A], listed(microbatches=(1,), hashes=(tensor_hash(b"another"),)))
    found = two_lists(first, other)
    assert found is not None
    assert found.against == A
    harmless = [
        sign(KEYS[A], listed(microbatches=(1,), hashes=(tensor_hash(b"one"),))),
        sign(KEYS[A], listed(microbatches=(3,), hashes=(tensor_hash(b"another"),))),
        sign(KEYS[B], listed(microbatches=(1,), hashes=(tensor_hash(b"another"),))),
        sign(KEYS[A], listed(microbatches=(1,), hashes=(tensor_hash(b"another"),), direction="backward")),
        sign(KEYS[A], listed(microbatches=(1,), hashes=(tensor_hash(b"another"),), attempt=2)),
    ]
    assert all(two_lists(first, raw) is None for raw in harmless)
    with pytest.raises(MessageRefused):
        two_lists(first, first[:-1] + b"\0")


# ---- certificates


def test_a_certificate_names_its_slices_and_its_path() -> None:
    counted = open_certificate(certificate(), PLACE, A, REPLICAS)
    assert counted == Counted(2, 4, (A, C, PEERS[4]))


@pytest.mark.parametrize(
    ("statements", "text"),
    [
        (certificate()[:2], "2 confirmations of 3"),
        (certificate()[::-1], "another chain, attempt or shard"),
        (certificate(attempt=2), "another chain, attempt or shard"),
        (certificate((A, B, PEERS[4])), "does not hold shard 1"),
        (certificate()[:2] + certificate(slices=5)[2:], "other slices"),
        (certificate()[:1] + certificate((A, D, PEERS[4]))[1:], "resting on other peers"),
        (certificate((B, C, PEERS[4])), "the chain's leader is"),
        ([*certificate()[:2], sign(KEYS[PEERS[4]], listed())], "where 'chain-confirmation' belongs"),
        ([*certificate()[:2], certificate()[2][:-1] + b"\0"], "signature"),
    ],
)
def test_a_certificate_that_does_not_hold_is_refused(statements: list[bytes], text: str) -> None:
    with pytest.raises(MessageRefused, match=text):
        open_certificate(statements, PLACE, A, REPLICAS)


def test_one_peer_at_two_shards_is_no_chain() -> None:
    with pytest.raises(MessageRefused, match="one peer at two shards"):
        open_certificate(certificate((A, A)), PLACE, A, [(A, B), (A, C)])


def test_a_leader_that_closes_a_chain_in_two_ways_is_convicted() -> None:
    first, other = certificate(), certificate((A, D, PEERS[4]))
    found = two_confirmations(first[0], other[0])
    assert found is not None
    assert found.against == A
    assert two_confirmations(first[0], first[0]) is None
    assert two_confirmations(first[2], certificate(slices=5)[2]) is None  # a stage may confirm more, later
    assert two_confirmations(first[0], certificate(attempt=2)[0]) is None


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.integers(0, 1), st.integers(0, 1), st.integers(0, 1)), max_size=8
    )
)
def test_the_weights_are_equal_in_all_shards(rows: list[tuple[int, int, int, int]]) -> None:
    counted = [
        Counted(chain, slices, (REPLICAS[0][a], REPLICAS[1][b], REPLICAS[2][c]))
        for chain, (slices, a, b, c) in enumerate(rows)
    ]
    found = weights(counted, 3)
    assert {sum(of.values()) for of in found} == {sum(slices for slices, *_ in rows)}
    for shard, of in enumerate(found):
        assert set(of) <= set(REPLICAS[shard])


def test_a_chain_is_counted_once() -> None:
    one = Counted(0, 2, (A, C))
    with pytest.raises(MessageRefused, match="counted twice"):
        weights([one, Counted(0, 1, (B, D))], 2)
    with pytest.raises(MessageRefused, match="2 of 3 shards"):
        weights([one], 3)


def test_confirmations_fit_into_a_statement_at_the_most_shards() -> None:
    longest = confirmation(0, (A,) * (MAX_SHARDS - 1))
    assert Confirmation.parse(longest.encode()) == longest
    assert len(sign(KEYS[A], longest)) < 16_384
