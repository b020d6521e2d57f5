"""One Ed25519 key is the peer: its name, its signature and its TLS certificate.

- The PeerID is libp2p's: base58 of 00 24 08 01 12 20 and the 32-byte public key (libp2p peer-ids
  specification, identity multihash). It can be turned back into the public key, so a name is all
  that is needed to check a signature.
- A signature (RFC 8032, 64 bytes) covers a domain and a body, and binds them: keys of small order,
  under which one signature fits many bodies, are no PeerIDs.
- The key file is libp2p's and hivemind's: 08 01 12 40, the 32-byte seed, the 32-byte public key.
- The certificate is that of the libp2p TLS specification (tls/tls.md): a fresh P-256 key signs an
  X.509 certificate in which the Ed25519 key vouches for the P-256 key. Who presents it is the peer.
  Its dates are checked by TLS, at the handshake; here is no clock.

>>> alice = Identity.from_seed(bytes(32))
>>> alice.peer_id
'12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN'
>>> signature = alice.sign("greeting", b"hello")
>>> verify(alice.peer_id, "greeting", b"hello", signature), verify(alice.peer_id, "vote", b"hello", signature)
(True, False)
"""

import os
import shlex
import stat
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Self

import base58
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from proto.canonical import PeerID, tagged
from proto.errors import MessageRefused, SwarmError

TLS_NAME = "edgeswarm"
"""The DNS name in every certificate. It identifies nobody: only `certificate_owner` does."""
MAX_CERTIFICATE = 4096
"""Bytes of the largest certificate that is looked at; ours have about 600 (DER)."""

_PUBLIC_HEADER = bytes.fromhex("08011220")  # protobuf PublicKey: type Ed25519, 32 bytes follow
_PRIVATE_HEADER = bytes.fromhex("08011240")  # protobuf PrivateKey: type Ed25519, 64 bytes follow
_PEER_ID_HEADER = b"\x00\x24" + _PUBLIC_HEADER  # multihash "identity", 36 bytes follow
_TLS_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
_TLS_PREFIX = b"libp2p-tls-handshake:"
# SEQUENCE of 104 bytes { OCTET STRING of 36, OCTET STRING of 64 }: DER has no other way to write it.
_SIGNED_KEY_HEADER, _SIGNATURE_HEADER = bytes.fromhex("30680424"), bytes.fromhex("0440")
_KNOWN_EXTENSIONS = {
    _TLS_EXTENSION,
    x509.BasicConstraints.oid,
    x509.KeyUsage.oid,
    x509.SubjectAlternativeName.oid,
}
# The library reads every extension that it knows, and names not all that can be wrong in one.
_ODD_EXTENSIONS = (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, LookupError, ArithmeticError)
_ONLY_SIGNATURES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_P = 2**255 - 19
_Y8 = int.from_bytes(
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
)
_SMALL_ORDER_Y = {0, 1, _P - 1, _Y8, _P - _Y8}  # the points of order 1, 2, 4 and 8, whatever the sign of x


class KeyFileError(SwarmError):
    """The identity's key file cannot be used."""


class KeyFileMissing(KeyFileError):
    """There is no key file at the path."""


class KeyFileExists(KeyFileError):
    """A key file would have been overwritten, and an identity lost."""


class KeyFileExposed(KeyFileError):
    """Others than the owner may read or write the key file."""


class KeyFileCorrupt(KeyFileError):
    """The key file does not hold an Ed25519 key in libp2p's form."""


class KeyFileUnreadable(KeyFileError):
    """The system refuses to read the key file."""


class KeyFileUnwritable(KeyFileError):
    """The system refuses to write the key file."""


class CertificateRefused(MessageRefused):
    """A certificate that does not prove whose it is."""


class Identity:
    """A peer's private key. It is shown only as its PeerID, and cannot be pickled or copied."""

    __slots__ = ("_key", "peer_id")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.peer_id: PeerID = peer_id_of(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    @classmethod
    def generate(cls) -> Self:
        """A new identity from the system's random source."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The identity of a seed (RFC 8032's private key). Raises ValueError unless it has 32 bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The identity in a key file. Raises KeyFileMissing, -Unreadable, -Exposed or -Corrupt."""
        path, quoted = Path(path), shlex.quote(os.fspath(path))
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                content = file.read(len(_PRIVATE_HEADER) + 65)
        except FileNotFoundError:
            raise KeyFileMissing(
                f"there is no key file {quoted}: check the path, or start a peer with `--identity {quoted}`, "
                "which makes a new identity there"
            ) from None
        except OSError as error:
            raise KeyFileUnreadable(
                f"cannot read the key file {quoted} ({error.strerror}): "
                "it must be a file of the user who runs this"
            ) from None
        if mode & 0o077:
            raise KeyFileExposed(
                f"the key file {quoted} has mode {mode:04o}, so others may use this identity: "
                f"`chmod 600 {quoted}`"
            )
        return cls.from_seed(_seed_in(content, quoted))

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str]) -> Self:
        """The identity in a key file, which is made if there is none; two processes at once get the same."""
        try:
            return cls.load(path)
        except KeyFileMissing:
            identity = cls.generate()
        try:
            identity.save(path)
        except KeyFileExists:
            return cls.load(path)
        return identity

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a new key file with mode 0600, whole or not at all, and its folder if there is none.

        Raises KeyFileExists if there is a file already, and KeyFileUnwritable.
        """
        path, quoted = Path(path), shlex.quote(os.fspath(path))
        content = _PRIVATE_HEADER + self._key.private_bytes_raw() + public_key_bytes(self.peer_id)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(path, content)
        except OSError as error:
            if os.path.lexists(path):
                raise KeyFileExists(
                    f"{quoted} exists, and a lost key is a lost identity: choose another path, "
                    f"or keep the old file with `mv {quoted} {quoted}.old`"
                ) from None
            raise KeyFileUnwritable(
                f"cannot write the key file {quoted} ({error.strerror}): "
                "name a file in a folder that this user can write to, with `--identity FILE`"
            ) from None

    def sign(self, domain: str, body: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `body` under `domain`."""
        return self._key.sign(tagged(domain) + body)

    def sign_raw(self, data: bytes) -> bytes:
        """A signature without a domain, for what begins with a prefix that another specification fixes.

        That is the certificate (libp2p) and the ledger's heads (C2SP). No prefix begins another's text.
        """
        return self._key.sign(data)


def verify(peer_id: PeerID, domain: str, body: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `peer_id` over `body` under `domain`.

    False on any other bytes of any length. Raises MessageRefused if `peer_id` is not a PeerID.
    """
    return _holds(_public_key(peer_id), tagged(domain) + body, signature)


def verify_raw(peer_id: PeerID, data: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `peer_id` over `data`, made by `sign_raw`. Otherwise as `verify`."""
    return _holds(_public_key(peer_id), data, signature)


def public_key_bytes(peer_id: PeerID) -> bytes:
    """The 32-byte public key in a PeerID. Raises MessageRefused on anything that is not one."""
    return _public_key(peer_id).public_bytes_raw()


def peer_id_of(public_key: bytes) -> PeerID:
    """The PeerID of a 32-byte Ed25519 public key. Raises MessageRefused on another length or a weak key."""
    if len(public_key) != 32:
        raise MessageRefused(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    y = int.from_bytes(public_key, "little") & ((1 << 255) - 1)
    if y >= _P or y in _SMALL_ORDER_Y:
        raise MessageRefused(f"{public_key.hex()} is a weak Ed25519 key: its signatures bind nothing")
    return str(base58.b58encode(_PEER_ID_HEADER + public_key), "ascii")


@dataclass(frozen=True)
class TlsCertificate:
    """A certificate and its private key (PKCS 8), each as PEM, as gRPC takes them."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


def make_certificate(identity: Identity) -> TlsCertificate:
    """A self-signed certificate of `identity` with a fresh P-256 key, for both ends of a connection."""
    key = ec.generate_private_key(ec.SECP256R1())
    vouched = identity.sign_raw(_TLS_PREFIX + _public_der(key.public_key()))
    public_key = _PUBLIC_HEADER + public_key_bytes(identity.peer_id)
    signed_key = _SIGNED_KEY_HEADER + public_key + _SIGNATURE_HEADER + vouched
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.peer_id)])
    certificate = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name)
        .serial_number(x509.random_serial_number())
        .public_key(key.public_key())
        # Clocks of peers differ, and whoever holds the Ed25519 key can make a new one: no date is of use.
        .not_valid_before(datetime(1975, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(TLS_NAME)]), critical=False)
        # A pinned certificate is a root to TLS: without these it could sign another in any name.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_ONLY_SIGNATURES, critical=True)
        .add_extension(x509.UnrecognizedExtension(_TLS_EXTENSION, signed_key), critical=False)
        .sign(key, hashes.SHA256())
    )
    return TlsCertificate(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def certificate_owner(certificate: bytes) -> PeerID:
    """The peer whose certificate (PEM or DER) this is: the Ed25519 key in it vouches for its P-256 key.

    libp2p TLS specification, "Peer Authentication". Refused with CertificateRefused: a signature that
    does not hold, other identities than Ed25519, other keys than P-256 with SHA-256, a certificate that
    may sign others, unknown critical extensions, and whatever is not one well-formed certificate. That
    its bearer holds the P-256 key is proved by TLS, not here.
    """
    parsed = _parse(certificate)
    try:
        extensions, public_key = parsed.extensions, parsed.public_key()
        parsed.verify_directly_issued_by(parsed)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, *_ODD_EXTENSIONS) as error:
        reason = str(error) or "its own signature does not hold"
        raise CertificateRefused(f"the certificate is not a self-signed one ({reason[:100]})") from None
    if not (
        isinstance(public_key, ec.EllipticCurvePublicKey)
        and isinstance(public_key.curve, ec.SECP256R1)
        and parsed.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256
    ):
        raise CertificateRefused("the certificate's key is not P-256 with SHA-256")
    _check_extensions(extensions)
    return _vouching_peer(extensions, _public_der(public_key))


def certificate_der(pem: bytes) -> bytes:
    """The DER form of one certificate in PEM (or DER). Raises CertificateRefused; checks no signature."""
    return _parse(pem).public_bytes(serialization.Encoding.DER)


@lru_cache(maxsize=4096)
def _public_key(peer_id: PeerID) -> Ed25519PublicKey:
    try:
        decoded = base58.b58decode(peer_id) if len(peer_id) == 52 else b""
    except ValueError:
        decoded = b""
    key = decoded[len(_PEER_ID_HEADER) :]
    # Encoding again leaves one name for each key, and refuses weak ones.
    if len(key) != 32 or peer_id_of(key) != peer_id:
        raise MessageRefused(f"{peer_id[:64]!r} is not the PeerID of an Ed25519 key (12D3KooW...)")
    return Ed25519PublicKey.from_public_bytes(key)


def _holds(key: Ed25519PublicKey, data: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _seed_in(content: bytes, quoted: str) -> bytes:
    seed, public_key = content[4:36], content[36:]
    if len(content) != 68:
        fault = f"{'more than 68' if len(content) > 68 else len(content)} bytes, a key file has 68"
    elif not content.startswith(_PRIVATE_HEADER):
        fault = f"it begins with {content[:4].hex()}, an Ed25519 key file with {_PRIVATE_HEADER.hex()}"
    elif Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw() != public_key:
        fault = "its public half does not belong to its secret half"
    else:
        return seed
    raise KeyFileCorrupt(
        f"the key file {quoted} is damaged ({fault}): restore it from a copy, "
        f"or begin a new identity after `mv {quoted} {quoted}.damaged`"
    )


def _create(path: Path, content: bytes) -> None:
    # mkstemp opens with O_EXCL and mode 0600; link, unlike rename, never replaces a file.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _parse(certificate: bytes) -> x509.Certificate:
    if len(certificate) > MAX_CERTIFICATE:
        raise CertificateRefused(
            f"a certificate of {len(certificate)} bytes; the largest is {MAX_CERTIFICATE}"
        )
    try:
        if certificate.startswith(b"-----BEGIN"):
            (parsed,) = x509.load_pem_x509_certificates(certificate)
        else:
            parsed = x509.load_der_x509_certificate(certificate)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateRefused(f"not one certificate in PEM or DER ({str(error)[:100]})") from None
    if parsed.serial_number <= 0:
        raise CertificateRefused("the certificate's serial number is not positive (RFC 5280)")
    return parsed


def _check_extensions(extensions: x509.Extensions) -> None:
    for extension in extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True) | x509.KeyUsage(key_cert_sign=True):
                raise CertificateRefused("the certificate may sign others: a peer's signs none")
        if extension.critical and extension.oid not in _KNOWN_EXTENSIONS:
            raise CertificateRefused(
                f"the certificate has the unknown critical extension {extension.oid.dotted_string}"
            )


def _vouching_peer(extensions: x509.Extensions, certificate_key: bytes) -> PeerID:
    try:
        value = extensions.get_extension_for_oid(_TLS_EXTENSION).value.public_bytes()
    except x509.ExtensionNotFound:
        raise CertificateRefused(
            f"the certificate names no peer: it lacks the extension {_TLS_EXTENSION.dotted_string}"
        ) from None
    header, key, middle, signature = value[:8], value[8:40], value[40:42], value[42:]
    if header != _SIGNED_KEY_HEADER + _PUBLIC_HEADER or middle != _SIGNATURE_HEADER or len(signature) != 64:
        raise CertificateRefused(
            "the identity in the certificate is not an Ed25519 key, the only kind accepted"
        )
    try:
        peer_id = peer_id_of(key)
    except MessageRefused as error:
        raise CertificateRefused(f"the certificate's identity: {error}") from None
    if not _holds(_public_key(peer_id), _TLS_PREFIX + certificate_key, signature):
        raise CertificateRefused(f"{peer_id} did not sign this certificate's key")
    return peer_id
