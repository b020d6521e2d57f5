"""Deterministic messages: one value, one byte string.

Whatever is signed or hashed is a `Message`: a frozen record that is written as deterministic CBOR
(RFC 8949 section 4.2.1) under a domain string. `parse` promises that the bytes were exactly what
`encode` would have written, and that every field has its declared type and bounds, so that a
signature covers one reading only. Floats do not occur: they travel as scaled integers.

>>> class Greeting(Message):
...     DOMAIN = "greeting"
...     text: Annotated[str, Field(max_length=80)]
>>> Greeting(text="hello").encode().hex()
'a164746578746568656c6c6f'
>>> Greeting.parse(bytes.fromhex("a164746578746568656c6c6f")).text
'hello'
"""

import hashlib
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self

import cbor2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proto.errors import MessageRefused

MAX_MESSAGE = 2 << 20
"""Bytes of the largest message; tensors travel beside messages, never inside."""
MAX_DEPTH = 16

Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
PeerID = Annotated[str, Field(min_length=52, max_length=52, pattern=r"^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$")]
"""A libp2p PeerID of an Ed25519 key, in base58."""
Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class Message(BaseModel):
    """A frozen record with one canonical encoding. Subclasses set `DOMAIN`, which is signed with them.

    `MOST_BYTES` and `MOST_ITEMS` (CBOR items, keys too) bound the encoding before it is decoded: a megabyte
    of empty maps would take a second, and 170 times its size in memory.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
    DOMAIN: ClassVar[str]
    MOST_BYTES: ClassVar[int] = 64 << 10
    MOST_ITEMS: ClassVar[int] = 4_096

    def encode(self) -> bytes:
        """The message as deterministic CBOR: a map from field names to values."""
        return cbor2.dumps(self.model_dump(), canonical=True)

    def digest(self) -> bytes:
        """SHA-256 over domain and encoding: the message's name."""
        return tagged_hash(self.DOMAIN, self.encode())

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The message that `raw` encodes. Raises MessageRefused on anything else."""
        if len(raw) > cls.MOST_BYTES:
            raise MessageRefused(f"{cls.DOMAIN}: {len(raw)} bytes, the largest has {cls.MOST_BYTES}")
        if len(raw) > cls.MOST_ITEMS:
            _count_items(raw, cls)
        value = plain_cbor(raw)
        try:
            message = cls.model_validate(_tuples(value))
        except ValidationError as error:
            raise MessageRefused(f"{cls.DOMAIN}: not a valid message ({_brief(error)})") from None
        if cbor2.dumps(value, canonical=True) != raw:
            raise MessageRefused(f"{cls.DOMAIN}: not in deterministic CBOR (RFC 8949 section 4.2.1)")
        return message


def plain_cbor(raw: bytes, max_depth: int = MAX_DEPTH) -> Any:
    """The value in `raw`: definite lengths, no key twice, no tags. Raises MessageRefused on anything else."""
    try:
        return cbor2.loads(
            raw,
            semantic_decoders=_NO_TAGS,
            max_depth=max_depth,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except cbor2.CBORError as error:
        raise MessageRefused(f"not plain CBOR ({str(error)[:100]})") from None


def _count_items(raw: bytes, kind: type[Message]) -> None:
    """Raises MessageRefused for more CBOR items than a kind has; takes no longer than to see that many."""
    at, left, seen = 0, 1, 0
    while left and at < len(raw):
        major, value = raw[at] >> 5, raw[at] & 31
        at += 1
        if 24 <= value < 28:
            width = 1 << (value - 24)
            value = int.from_bytes(raw[at : at + width], "big")
            at += width
        left += {4: value, 5: 2 * value, 6: 1}.get(major, 0) - 1
        seen += 1
        if seen + left > kind.MOST_ITEMS:
            raise MessageRefused(f"{kind.DOMAIN}: more than {kind.MOST_ITEMS} items")
        at += value if major in (2, 3) else 0


def tagged_hash(domain: str, *parts: bytes) -> bytes:
    """SHA-256 of the parts, each with its length before it, under a domain."""
    state = hashlib.sha256(tagged(domain))
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()


@lru_cache
def tagged(domain: str) -> bytes:
    """The prefix that keeps a hash or signature of one domain from meaning anything in another."""
    return b"edgeswarm/v1/" + domain.encode() + b"\0"


_NESTED = (list, dict)


def _tuples(value: Any) -> Any:
    # CBOR arrays arrive as lists; the strict, hashable form is a tuple.
    if isinstance(value, list):
        return tuple([_tuples(item) if type(item) in _NESTED else item for item in value])
    if isinstance(value, dict):
        return {key: _tuples(item) if type(item) in _NESTED else item for key, item in value.items()}
    return value


def _brief(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]


class _NoTags(dict[int, Any]):
    # Asked before a tag's content is read: a decimal fraction of 2 MB would take minutes.
    def __missing__(self, tag: int) -> Any:
        return _refuse_tag


def _refuse_tag(decoder: cbor2.CBORDecoder) -> Any:
    raise MessageRefused("messages have no CBOR tags")


_NO_TAGS = _NoTags()
