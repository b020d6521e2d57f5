"""TLS for the two gRPC ports: whom we are talking to is decided by an exact certificate, never by a name.

The public port shows our certificate and asks for none. The members port asks for one: gRPC's own check
lets in whoever holds a key of a trusted certificate, and `TrustStore.caller` then compares the exact
leaf of every call. gRPC goes on trusting a live connection's handshake, so that second look is what
refuses a peer the moment it leaves the roster; `CONNECTION_AGE_MS` cuts its connection soon after.
"""

import os
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from proto.canonical import PeerID
from proto.errors import MessageRefused, SwarmError
from swarm.net.peer_record import PeerRecord
from verify.identity import (
    TLS_NAME,
    CertificateRefused,
    Identity,
    TlsCertificate,
    certificate_der,
    certificate_owner,
    make_certificate,
)

CONNECTION_AGE_MS = 60_000
"""After so long a connection must shake hands again, with the roots of that moment."""
CERTIFICATE_FILE = "tls.pem"
_MARKER = b"-----BEGIN CERTIFICATE-----"


class CannotKeepCertificate(SwarmError):
    """The state directory does not take the TLS certificate."""


def load_or_make_certificate(state_dir: Path, identity: Identity) -> TlsCertificate:
    """Our certificate and its key, kept in `state_dir` (mode 0600) so that a restart shows the same leaf.

    A file that is damaged, exposed or another identity's is replaced: it can always be made again.
    """
    path = state_dir / CERTIFICATE_FILE
    try:
        kept = _load(path, identity)
        if kept:
            return kept
        fresh = make_certificate(identity)
        scratch = path.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(fresh.key_pem + fresh.certificate_pem)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise CannotKeepCertificate(
            f"cannot read or write {path} ({error.strerror}): make the folder writable, "
            "or pass `--state-dir DIR`"
        ) from None
    return fresh


def _load(path: Path, identity: Identity) -> TlsCertificate | None:
    if not path.exists() or path.stat().st_mode & 0o077:
        return None
    key_pem, marker, rest = path.read_bytes().partition(_MARKER)
    certificate_pem = marker + rest
    try:
        key = serialization.load_pem_private_key(key_pem, None)
        fits = certificate_owner(certificate_pem) == identity.peer_id
        fits = fits and x509.load_pem_x509_certificate(certificate_pem).public_key() == key.public_key()
    except (CertificateRefused, ValueError, TypeError):
        return None
    return TlsCertificate(certificate_pem, key_pem) if fits else None


class TrustStore:
    """Whom we trust and where they are: the PeerRecords of the roster. Safe to use from gRPC's threads."""

    def __init__(self, own: TlsCertificate) -> None:
        self.own = own
        self._own_leaf = certificate_der(own.certificate_pem)
        self._lock = threading.Lock()
        self._records: dict[PeerID, PeerRecord] = {}
        self._owners: dict[bytes, PeerID] = {}

    def set(self, records: Mapping[PeerID, PeerRecord]) -> None:
        """Trust exactly these peers from now on. Raises MessageRefused if a certificate is not its peer's."""
        for peer, record in records.items():
            if self._records.get(peer) != record and certificate_owner(record.certificate) != peer:
                raise MessageRefused(f"the certificate recorded for {peer} belongs to another peer")
        with self._lock:
            self._records = dict(records)
            self._owners = {record.certificate: peer for peer, record in records.items()}

    def record(self, peer: PeerID) -> PeerRecord | None:
        """Address and certificate of a trusted peer, or None."""
        return self._records.get(peer)

    def caller(self, context: grpc.aio.ServicerContext) -> PeerID | None:
        """The trusted peer whose exact leaf this call's connection showed, or None."""
        shown = context.auth_context().get("x509_pem_cert")
        return self._owners.get(ssl.PEM_cert_to_DER_cert(shown[0].decode())) if shown else None

    def roots(self) -> bytes:
        """The trusted roots for TLS: our own leaf (the list is never empty) and theirs, in PEM."""
        with self._lock:
            return b"".join(map(pem, [self._own_leaf, *self._owners]))


def pem(leaf: bytes) -> bytes:
    """A certificate from DER to PEM."""
    return ssl.DER_cert_to_PEM_cert(leaf).encode()


def public_server_credentials(own: TlsCertificate) -> grpc.ServerCredentials:
    """The public port: we show our certificate and ask for none."""
    return grpc.ssl_server_credentials([(own.key_pem, own.certificate_pem)])


def members_server_credentials(store: TrustStore) -> grpc.ServerCredentials:
    """The members port: mutual TLS whose roots are read from `store` at every handshake."""
    pair = [(store.own.key_pem, store.own.certificate_pem)]
    shown = store.roots()

    def configuration(roots: bytes) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(pair, root_certificates=roots)

    def current() -> grpc.ServerCertificateConfiguration | None:
        # None is "as before". A new configuration at each handshake crashes gRPC 1.85 (a use after free
        # of the old one) when several peers connect at once.
        nonlocal shown
        roots = store.roots()
        if roots == shown:
            return None
        shown = roots
        return configuration(roots)

    return grpc.dynamic_ssl_server_credentials(
        configuration(shown), current, require_client_authentication=True
    )


def channel_credentials(leaf: bytes, own: TlsCertificate | None) -> grpc.ChannelCredentials:
    """Connect to the holder of exactly `leaf` (DER), showing our certificate where `own` is given."""
    if own is None:
        return grpc.ssl_channel_credentials(pem(leaf))
    return grpc.ssl_channel_credentials(pem(leaf), own.key_pem, own.certificate_pem)


CHANNEL_NAME = ("grpc.ssl_target_name_override", TLS_NAME)
"""Certificates carry one fixed name; the exact leaf is what identifies."""
