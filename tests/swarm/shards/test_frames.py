"""Promises of frames: every message of a chain crosses unchanged, and nothing else gets through."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.errors import MessageRefused
from secagg.messages import MAX_SHARDS
from swarm.shards.chain import (
    Activation,
    Alive,
    AskCertificate,
    AskConfirm,
    Certificate,
    ChainSpeech,
    Confirmations,
    Gradient,
    Probe,
)
from swarm.shards.frames import MAX_HEADER, ChainFrame, decode, encode
from tests.fuzz.mutate import Mutator, try_all
from tests.verify.chain import KEYS, PEERS
from verify.chains import BoundaryList, Confirmation, Place, tensor_hash
from verify.statement import sign

PLACE = Place(bytes(range(32)), 3, 1, 2)
NUMBERS = st.integers(0, (1 << 31) - 1)
SIGNED = st.binary(max_size=200)
STATEMENTS = st.lists(st.binary(min_size=1, max_size=100), max_size=MAX_SHARDS).map(tuple)
COUNTS = st.integers(0, (1 << 63) - 1)
PLACES = st.builds(Place, st.binary(min_size=32, max_size=32), COUNTS, COUNTS, NUMBERS)
EACH: tuple[st.SearchStrategy[Any], ...] = (
    st.builds(Activation, NUMBERS, st.binary(min_size=1), SIGNED),
    st.builds(Gradient, NUMBERS, st.binary(), SIGNED),
    st.just(Probe()),
    st.builds(Alive, NUMBERS),
    st.builds(AskConfirm, NUMBERS),
    st.builds(Confirmations, STATEMENTS),
    st.just(AskCertificate()),
    st.builds(Certificate, STATEMENTS),
)
EXAMPLES: tuple[ChainSpeech, ...] = (
    Activation(5, b"hidden states"),
    Activation(7, b"hidden states", b"a signed list"),
    Gradient(5, b"gradients"),
    Gradient(7, b"", b"a signed list"),
    Probe(),
    Alive(9),
    AskConfirm(2),
    Confirmations((b"one", b"two")),
    AskCertificate(),
    Certificate((b"one", b"two", b"three")),
)


@pytest.mark.parametrize("messages", EACH)
@given(data=st.data())
def test_a_message_of_each_kind_comes_out_as_it_went_in(
    messages: st.SearchStrategy[ChainSpeech], data: st.DataObject
) -> None:
    place, message = data.draw(PLACES), data.draw(messages)
    header, tensor = encode(place, message)
    assert len(header) <= MAX_HEADER
    assert decode(header, tensor) == (place, message)


def test_a_tensor_is_handed_on_and_not_copied() -> None:
    tensor = bytes(1_000)
    header, sent = encode(PLACE, Activation(0, tensor))
    _, message = decode(header, sent)
    assert isinstance(message, Activation)
    assert sent is tensor
    assert message.tensor is tensor


@pytest.mark.parametrize("message", EXAMPLES, ids=repr)
def test_a_header_with_any_bit_flipped_or_cut_short_is_refused_or_says_something_else(
    message: ChainSpeech,
) -> None:
    header, tensor = encode(PLACE, message)
    flipped = [
        header[:at] + bytes([header[at] ^ 1 << bit]) + header[at + 1 :]
        for at in range(len(header))
        for bit in range(8)
    ]
    cut = [header[:length] for length in range(len(header))]

    def otherwise(raw: bytes) -> None:
        place, found = decode(raw, tensor)
        assert (place, found) != (PLACE, message)
        assert encode(place, found) == (raw, tensor)

    try_all(otherwise, flipped)
    assert try_all(otherwise, cut).taken == 0


def test_whatever_comes_as_a_header_is_taken_as_it_would_be_written_or_refused() -> None:
    mutator = Mutator("frames", [encode(PLACE, message)[0] for message in EXAMPLES])

    def canonical(raw: bytes) -> None:
        tensor = b"tensor" if mutator.random.random() < 0.5 else b""
        assert encode(*decode(raw, tensor)) == (raw, tensor)

    try_all(canonical, mutator.inputs(20_000)).check(various=12, taken=len(EXAMPLES) // 2)


def test_only_a_gradient_may_come_without_numbers_and_only_it_and_an_activation_with_them() -> None:
    for message in EXAMPLES:
        header, _ = encode(PLACE, message)
        if isinstance(message, Gradient):
            assert decode(header, b"")[1] == replace(message, tensor=b"")
        elif isinstance(message, Activation):
            with pytest.raises(MessageRefused, match="without its tensor"):
                decode(header, b"")
        else:
            with pytest.raises(MessageRefused, match="does not have"):
                decode(header, b"numbers")


CHANGES: tuple[dict[str, Any], ...] = ({"number": 1}, {"signed": b"list"}, {"statements": (b"one",)})


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_probe_says_nothing_else(change: dict[str, Any]) -> None:
    frame = ChainFrame.parse(encode(PLACE, Probe())[0])
    with pytest.raises(MessageRefused, match="probe with fields"):
        decode(frame.model_copy(update=change).encode(), b"")


def test_a_header_has_room_for_the_longest_certificate_and_a_list_of_1700_tensors() -> None:
    path = [PEERS[shard % len(PEERS)] for shard in range(MAX_SHARDS)]
    confirmed = tuple(
        sign(
            KEYS[peer],
            Confirmation(
                run=PLACE.run,
                round=(1 << 63) - 1,
                attempt=(1 << 63) - 1,
                chain=(1 << 31) - 1,
                shard=shard,
                slices=1 << 16,
                after=tuple(path[shard + 1 :]),
            ),
        )
        for shard, peer in enumerate(path)
    )
    header, _ = encode(PLACE, Certificate(confirmed))
    assert decode(header, b"")[1] == Certificate(confirmed)

    def listed(count: int) -> bytes:
        return sign(
            KEYS[path[0]],
            BoundaryList(
                run=PLACE.run,
                round=3,
                attempt=1,
                chain=2,
                shard=0,
                direction="forward",
                codec="fp16",
                microbatches=tuple(range(count)),
                hashes=(tensor_hash(b""),) * count,
            ),
        )

    header, _ = encode(PLACE, Activation(0, b"numbers", listed(1_700)))
    assert len(header) <= MAX_HEADER
    with pytest.raises(MessageRefused, match="use larger microbatches"):
        encode(PLACE, Activation(0, b"numbers", listed(1_800)))


def test_more_statements_than_shards_are_refused() -> None:
    with pytest.raises(MessageRefused, match="33 statements"):
        encode(PLACE, Certificate((b"one",) * (MAX_SHARDS + 1)))


def test_a_header_above_its_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(MessageRefused, match="the largest has 65536"):
        decode(bytes(MAX_HEADER + 1), b"")
