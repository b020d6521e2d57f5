"""Signed statements: a message, who said it, and a signature anyone can check offline.

A statement on the wire is deterministic CBOR of [domain, signer, body, signature]. The Ed25519
signature (RFC 8032) covers the domain string and the body's exact bytes, so a statement of one kind
never passes for another. `open_signed` returns only what is well formed *and* signed.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import cbor2

from proto.canonical import MAX_MESSAGE, Message, PeerID, plain_cbor
from proto.errors import MessageRefused
from verify.identity import Identity, verify

M = TypeVar("M", bound=Message)

CACHED = 4_096
"""Bytes up to which a statement's signature is checked once and remembered: receipts and votes come
back inside larger statements, from several members."""

FOUR_ITEMS = b"\x84"

_holds = lru_cache(maxsize=4_096)(verify)


class BadSignature(MessageRefused):
    """A statement whose signature is not its signer's."""


@dataclass(frozen=True)
class Signed(Generic[M]):
    """A statement whose signature holds: `raw` is what to keep and to pass on."""

    signer: PeerID
    message: M
    raw: bytes


def sign(identity: Identity, message: Message) -> bytes:
    """The signed statement of `message` by `identity`, as bytes for the wire."""
    body = message.encode()
    return cbor2.dumps([message.DOMAIN, identity.peer_id, body, identity.sign(message.DOMAIN, body)])


def domain_of(raw: bytes) -> str:
    """The domain a statement claims, for choosing how to open it. Proves nothing."""
    return _fields(raw)[0]


def open_signed(raw: bytes, kind: type[M]) -> Signed[M]:
    """The statement in `raw`, if it is a `kind` signed by the peer it names. Raises MessageRefused."""
    domain, signer, body, signature = _fields(raw)
    if domain != kind.DOMAIN:
        raise MessageRefused(f"a statement of kind {domain!r} came where {kind.DOMAIN!r} belongs")
    holds = _holds if len(raw) <= CACHED else verify
    if not holds(signer, domain, body, signature):
        raise BadSignature(f"{domain}: the signature is not that of {signer}")
    return Signed(signer, kind.parse(body), raw)


def _fields(raw: bytes) -> tuple[str, PeerID, bytes, bytes]:
    if len(raw) > MAX_MESSAGE:
        raise MessageRefused(f"a statement of {len(raw)} bytes; the largest is {MAX_MESSAGE}")
    if raw[:1] != FOUR_ITEMS:
        raise MessageRefused("not a signed statement: expected [domain, signer, body, signature]")
    match fields := plain_cbor(raw, max_depth=1):
        case [str(domain), str(signer), bytes(body), bytes(signature)] if len(domain) + len(signer) < 128:
            if cbor2.dumps(fields) != raw:
                raise MessageRefused(f"{domain}: the statement is not in deterministic CBOR")
            return domain, signer, body, signature
    raise MessageRefused("not a signed statement: expected [domain, signer, body, signature]")
