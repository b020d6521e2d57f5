"""Where a peer can be reached and which certificate it shows there, in its own signature.

A `PeerRecord` is the only thing by which one peer finds another's ports: it is published in the DHT under
the run's key, one for each PeerID, and nobody but that peer can make one. The certificate in it is
pinned: a server or caller that shows another one is somebody else.
"""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from proto.canonical import Count, Digest, Message
from proto.errors import MessageRefused
from verify.identity import certificate_der, certificate_owner
from verify.statement import Signed, open_signed

MAX_PEER_RECORD = 4 << 10
"""Bytes of a signed PeerRecord."""
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?):([0-9]{1,5})")


def split_address(address: str) -> tuple[str, int]:
    """Host (IPv6 without its brackets) and port of "host:port" or "[ipv6]:port". Raises ValueError."""
    match = _ADDRESS.fullmatch(address)
    if not match or int(match[3]) > 65535:
        raise ValueError(f"{address!r} is no address: write HOST:PORT, an IPv6 host in brackets: [HOST]:PORT")
    host = match[1].strip("[]")
    if match[1].startswith("["):
        ipaddress.IPv6Address(host)
    return host, int(match[3])


def _reachable(address: str) -> str:
    host, port = split_address(address)
    if host in ("0.0.0.0", "::") or port == 0:
        raise ValueError(f"{address} names no machine; announce an address that others can reach")
    return address


Address = Annotated[str, Field(max_length=270), AfterValidator(_reachable)]


class PeerRecord(Message):
    """One peer's ports in one run. `sequence` is its clock in milliseconds: the highest counts."""

    DOMAIN = "peer-record"
    run_id: Digest
    public: Address
    members: Address
    certificate: Annotated[bytes, Field(min_length=64, max_length=2048)]
    sequence: Count
    agent: Annotated[str, Field(max_length=40, pattern=r"^[ -~]*$")]


def open_peer_record(raw: bytes) -> Signed[PeerRecord]:
    """The record in `raw`, signed by the peer that its certificate belongs to. Raises MessageRefused."""
    if len(raw) > MAX_PEER_RECORD:
        raise MessageRefused(f"a peer record of {len(raw)} bytes; the largest is {MAX_PEER_RECORD}")
    signed = open_signed(raw, PeerRecord)
    if certificate_der(signed.message.certificate) != signed.message.certificate:
        raise MessageRefused(f"{signed.signer} published a certificate that is not DER")
    owner = certificate_owner(signed.message.certificate)
    if owner != signed.signer:
        raise MessageRefused(f"{signed.signer} published a certificate of {owner}")
    return signed
