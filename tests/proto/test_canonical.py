"""One value, one byte string: whatever else arrives is refused by name, and nothing else ever escapes."""

import subprocess
import sys
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import cbor2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

import secagg.messages
import verify.record
from proto.canonical import MAX_MESSAGE, Message, plain_cbor, tagged, tagged_hash
from proto.errors import MessageRefused
from verify.identity import Identity
from verify.record import Vote

CLASSES = sorted(
    {
        value
        for module in (secagg.messages, verify.record)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Message) and hasattr(value, "DOMAIN")
    },
    key=lambda kind: kind.DOMAIN,
)
PEER_IDS = [Identity.from_seed(bytes([7, index]) + bytes(30)).peer_id for index in range(5)]


def limits(metadata: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in metadata:
        if isinstance(item, FieldInfo):
            found |= limits(item.metadata)
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            if getattr(item, name, None) is not None:
                found[name] = getattr(item, name)
        if any(type(item).__name__ == "_PydanticGeneralMetadata" for _ in [0]) and "pattern" in vars(item):
            found["pattern"] = 1
    return found


def strategy(annotation: Any, metadata: Any = ()) -> st.SearchStrategy[Any]:
    """Values of a field's declared type and bounds (long ones cut short: the bounds are tested apart)."""
    bounds = limits(metadata)
    origin, args = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return strategy(args[0], (*annotation.__metadata__, *metadata))
    if origin in (UnionType, Union):
        return st.one_of([strategy(arg) for arg in args])
    if origin is Literal:
        return st.sampled_from(args)
    if annotation is NoneType:
        return st.none()
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.integers(bounds.get("ge", -(1 << 63)), bounds.get("le", bounds.get("lt", 1 << 63) - 1))
    if annotation is bytes:
        low = bounds.get("min_length", 0)
        return st.binary(min_size=low, max_size=min(bounds.get("max_length", 64), low + 64))
    if annotation is str:
        return st.sampled_from(PEER_IDS if bounds.get("min_length") == 52 else ["update", "two votes"])
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return messages(annotation)
    assert origin is tuple, annotation
    if args[-1] is Ellipsis:
        low = bounds.get("min_length", 0)
        high = min(low + 3, bounds.get("max_length", low + 3))
        return st.lists(strategy(args[0]), min_size=low, max_size=high).map(tuple)
    return st.tuples(*(strategy(arg) for arg in args))


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    fields = {name: strategy(f.annotation, f.metadata) for name, f in kind.model_fields.items()}
    return st.fixed_dictionaries(fields).map(kind.model_validate)


ANY = st.one_of([messages(kind) for kind in CLASSES])


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.DOMAIN)
def test_what_is_encoded_is_read_back_and_one_value_has_one_encoding(
    kind: type[Message], data: st.DataObject
) -> None:
    message = data.draw(messages(kind))
    raw = message.encode()
    assert kind.parse(raw) == message
    assert kind.parse(raw).encode() == raw
    assert message.digest() == tagged_hash(kind.DOMAIN, raw)
    for wrong in (raw + b"\0", raw[:-1], b"\xd9\xd9\xf7" + raw):
        with pytest.raises(MessageRefused):
            kind.parse(wrong)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(ANY, st.data())
def test_a_flipped_byte_is_refused_or_is_another_message(message: Message, data: st.DataObject) -> None:
    raw = bytearray(message.encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = type(message).parse(bytes(raw))
    except MessageRefused:
        return
    assert other != message
    assert other.digest() != message.digest()


def test_no_two_kinds_share_a_domain() -> None:
    assert len({kind.DOMAIN for kind in CLASSES}) == len(CLASSES)
    assert tagged("a") != tagged("b")
    assert tagged_hash("x", b"ab", b"c") != tagged_hash("x", b"a", b"bc")


VOTE = Vote(run=bytes(32), round=1, attempt=0, view=0, step=1, value=None)


def test_every_other_way_to_write_the_same_map_is_refused() -> None:
    raw = VOTE.encode()
    pairs = VOTE.model_dump()
    assert raw == cbor2.dumps(pairs, canonical=True)
    unsorted = b"\xa6" + b"".join(
        cbor2.dumps(k) + cbor2.dumps(v) for k, v in sorted(pairs.items(), reverse=True)
    )
    indefinite = b"\xbf" + raw[1:] + b"\xff"
    longer = raw.replace(b"\x65round\x01", b"\x65round\x18\x01")
    bignum = raw.replace(b"\x65round\x01", b"\x65round\xc2\x41\x01")
    floating = raw.replace(b"\x65round\x01", b"\x65round\xf9\x3c\x00")
    boolean = raw.replace(b"\x64step\x01", b"\x64step\xf5")
    twice = b"\xa7" + raw[1:] + b"\x64step\x01"
    tagged_once = raw.replace(b"\x65round\x01", b"\x65round\xd8\x2a\x01")
    more = cbor2.dumps({**pairs, "more": 1}, canonical=True)
    fewer = cbor2.dumps({k: v for k, v in pairs.items() if k != "step"}, canonical=True)
    text = raw.replace(b"\x63run\x58\x20" + bytes(32), b"\x63run\x78\x20" + bytes(32))
    for wrong in (
        unsorted,
        indefinite,
        longer,
        bignum,
        floating,
        boolean,
        twice,
        tagged_once,
        more,
        fewer,
        text,
    ):
        assert wrong != raw
        with pytest.raises(MessageRefused):
            Vote.parse(wrong)
    assert Vote.parse(raw) == VOTE


def test_an_oversize_message_is_refused_unread() -> None:
    with pytest.raises(MessageRefused, match="largest"):
        Vote.parse(bytes(MAX_MESSAGE + 1))


HOSTILE = [
    b"",
    b"\xff",
    b"\xf7",
    b"\x81" * 100_000,  # deep
    b"\xa1" * 100_000,
    b"\xc6" * 100_000,
    b"\xd8\x1c\x81\xd8\x1d\x00",  # holds itself
    b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",  # says it is huge
    b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x61\xff",
    b"\xd8\x1e\x82\x01\x00",  # one divided by zero
    b"\xc1\x1b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\xc5\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xd8\x23\x61(",  # a broken regular expression
    b"\xd9\x01\x02\x81\x80",
    b"\xa1\x80\x01",
    b"\xa1\xa0\x01",
]


@pytest.mark.parametrize("kind", [Vote, verify.record.Decided], ids=lambda kind: kind.DOMAIN)
@pytest.mark.parametrize("raw", HOSTILE, ids=lambda raw: raw[:6].hex())
def test_hostile_cbor_is_refused_by_name(kind: type[Message], raw: bytes) -> None:
    with pytest.raises(MessageRefused):
        kind.parse(raw)


@settings(max_examples=300)
@given(st.binary(max_size=200))
@example(b"\xc4\x82\x01\xc2\x41\x00")
def test_no_bytes_whatever_raise_anything_else(raw: bytes) -> None:
    for kind in (Vote, verify.record.Decided):
        with pytest.raises(MessageRefused):
            kind.parse(raw)


def test_a_tag_is_refused_before_its_content_is_looked_at() -> None:
    """A decimal fraction with an exponent of 2 MB would keep a peer busy for minutes."""
    code = (
        "from proto.canonical import plain_cbor\n"
        "from proto.errors import MessageRefused\n"
        "size = 0x1f0000\n"
        "try: plain_cbor(b'\\xc4\\x82\\x01\\xc2\\x5a' + size.to_bytes(4, 'big') + b'\\xff' * size)\n"
        "except MessageRefused: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused\n"


def test_plain_values_pass() -> None:
    for value in ([1, b"x", "y", None, True], {"a": {"b": []}}, -5, 1 << 63):
        assert plain_cbor(cbor2.dumps(value)) == value
