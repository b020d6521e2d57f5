"""What crosses a stream between two shards: a chain's messages, each a header and a tensor beside it.

The promise: a frame says one message of one chain in one way, or is refused by name. The header is a
canonical message; the tensor's bytes are handed on as they are, neither copied nor looked at (whoever knows
codec and shape checks them, `swarm.shards.boundary`). Frames are not signed: a stream's TLS says who speaks,
and what must convict its author travels inside, signed (`Activation.signed`, confirmations).

>>> place = Place(bytes(32), 3, 0, 1)
>>> header, tensor = encode(place, Activation(7, b"numbers"))
>>> decode(header, tensor) == (place, Activation(7, b"numbers"))
True
>>> decode(header, b"")
Traceback (most recent call last):
proto.errors.MessageRefused: chain-frame: an activation without its tensor
"""

from typing import Annotated, ClassVar, Literal

from pydantic import FailFast, Field

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
from verify.chains import ChainMessage, Index, Place

MAX_HEADER = 64 << 10
"""Bytes; room for the signed list of a slice of 1,700 microbatches."""
_ENVELOPE = 1 << 10

Kind = Literal[
    "activation",
    "gradient",
    "probe",
    "alive",
    "ask-confirm",
    "confirmations",
    "ask-certificate",
    "certificate",
]


class ChainFrame(ChainMessage):
    """A frame's header. What its kind does not have is 0 or empty.

    `number`: the microbatch, what is done, or the slices. `signed`: a list, with a tensor. `statements`:
    signed confirmations.
    """

    DOMAIN: ClassVar[str] = "chain-frame"
    MOST_BYTES: ClassVar[int] = MAX_HEADER
    MOST_ITEMS: ClassVar[int] = 64

    kind: Kind
    number: Index
    signed: Annotated[bytes, Field(max_length=MAX_HEADER - _ENVELOPE)]
    statements: Annotated[
        tuple[Annotated[bytes, Field(min_length=1, max_length=MAX_HEADER - _ENVELOPE)], ...],
        Field(max_length=MAX_SHARDS),
        FailFast(),
    ]


def encode(place: Place, message: ChainSpeech) -> tuple[bytes, bytes]:
    """Header and tensor of a message; its own tensor, not a copy.

    Raises MessageRefused where they are more than a frame can carry.
    """
    kind: Kind
    number, signed, statements, tensor = 0, b"", tuple[bytes, ...](), b""
    match message:
        case Activation(number, tensor, signed):
            kind = "activation"
        case Gradient(number, tensor, signed):
            kind = "gradient"
        case Probe():
            kind = "probe"
        case Alive(number):
            kind = "alive"
        case AskConfirm(number):
            kind = "ask-confirm"
        case Confirmations(statements):
            kind = "confirmations"
        case AskCertificate():
            kind = "ask-certificate"
        case Certificate(statements):
            kind = "certificate"
    size = len(signed) + sum(map(len, statements))
    if size > MAX_HEADER - _ENVELOPE or len(statements) > MAX_SHARDS:
        raise MessageRefused(
            f"chain-frame: {len(statements)} statements and {size} signed bytes in a header; "
            f"it has room for {MAX_SHARDS} and {MAX_HEADER - _ENVELOPE}: use larger microbatches"
        )
    header = ChainFrame(
        run=place.run,
        round=place.round,
        attempt=place.attempt,
        chain=place.chain,
        kind=kind,
        number=number,
        signed=signed,
        statements=statements,
    )
    return header.encode(), tensor


def decode(header: bytes, tensor: bytes) -> tuple[Place, ChainSpeech]:
    """The message of a frame, and the chain that it is of. Raises MessageRefused."""
    frame = ChainFrame.parse(header)
    message = _message(frame, tensor)
    place = Place(frame.run, frame.round, frame.attempt, frame.chain)
    if encode(place, message) != (header, tensor):
        raise MessageRefused(f"chain-frame: {frame.kind} with fields or a tensor that it does not have")
    return place, message


def _message(frame: ChainFrame, tensor: bytes) -> ChainSpeech:
    match frame.kind:
        case "activation":
            if not tensor:
                raise MessageRefused("chain-frame: an activation without its tensor")
            return Activation(frame.number, tensor, frame.signed)
        case "gradient":
            return Gradient(frame.number, tensor, frame.signed)
        case "probe":
            return Probe()
        case "alive":
            return Alive(frame.number)
        case "ask-confirm":
            return AskConfirm(frame.number)
        case "confirmations":
            return Confirmations(frame.statements)
        case "ask-certificate":
            return AskCertificate()
        case "certificate":
            return Certificate(frame.statements)
