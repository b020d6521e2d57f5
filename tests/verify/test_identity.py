"""One key is the peer: names, signatures, the key file, and the TLS certificate in a real handshake."""

import doctest
import errno
import json
import os
import pickle
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import base58
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from proto.errors import MessageRefused
from verify import identity as module
from verify.identity import (
    TLS_NAME,
    CertificateRefused,
    Identity,
    KeyFileCorrupt,
    KeyFileExists,
    KeyFileExposed,
    KeyFileMissing,
    KeyFileUnreadable,
    KeyFileUnwritable,
    TlsCertificate,
    certificate_der,
    certificate_owner,
    make_certificate,
    peer_id_of,
    public_key_bytes,
    verify,
)

ALICE = Identity.from_seed(b"a" * 32)
BOB = Identity.from_seed(b"b" * 32)
VECTORS = {
    vector["name"]: vector
    for vector in json.loads((Path(__file__).parents[1] / "vectors/libp2p_tls.json").read_text())["vectors"]
}
EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")


def test_the_example_in_the_documentation_runs() -> None:
    assert doctest.testmod(module).failed == 0


# ---- names


def test_the_keys_of_the_libp2p_specification_are_read_and_written_alike(tmp_path: Path) -> None:
    # libp2p specification, peer-ids/peer-ids.md, section "Test vectors": an Ed25519 private and public key.
    private = bytes.fromhex(
        "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
        "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    )
    public = bytes.fromhex("080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
    path = tmp_path / "identity.key"
    path.touch(0o600)
    path.write_bytes(private)
    identity = Identity.load(path)
    assert base58.b58decode(identity.peer_id) == b"\x00\x24" + public
    identity.save(tmp_path / "copy.key")
    assert (tmp_path / "copy.key").read_bytes() == private


@given(st.binary(min_size=32, max_size=32))
def test_a_peer_id_holds_its_public_key(seed: bytes) -> None:
    identity = Identity.from_seed(seed)
    public_key = public_key_bytes(identity.peer_id)
    assert identity.peer_id.startswith("12D3KooW")
    assert len(identity.peer_id) == 52
    assert peer_id_of(public_key) == identity.peer_id
    assert public_key == ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "12D3KooW",
        ALICE.peer_id[:-1],
        ALICE.peer_id + " ",
        ALICE.peer_id[:-1] + "\n",
        ALICE.peer_id[:-1] + "0",
        ALICE.peer_id[:-1] + "é",
        "1" * 52,
        "z" * 52,
        "Q" + ALICE.peer_id[1:],
        VECTORS["ecdsa"]["peer_id"],
        VECTORS["secp256k1"]["peer_id"],
        "x" * 100_000,
    ],
)
def test_what_is_no_peer_id_is_refused(name: str) -> None:
    with pytest.raises(MessageRefused, match="PeerID") as refusal:
        verify(name, "vote", b"body", bytes(64))
    assert len(str(refusal.value)) < 300


@given(st.text(max_size=60))
def test_no_text_as_a_peer_id_does_worse_than_be_refused(name: str) -> None:
    with pytest.raises(MessageRefused):
        public_key_bytes(name)


@pytest.mark.parametrize("sign", [0, 1 << 255])
@pytest.mark.parametrize("y", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, 2**255 - 1])
def test_a_weak_key_is_no_peer(y: int, sign: int) -> None:
    with pytest.raises(MessageRefused, match="weak"):
        peer_id_of((y | sign).to_bytes(32, "little"))


def test_a_key_under_which_one_signature_fits_every_body_is_no_peer() -> None:
    neutral = (1).to_bytes(32, "little")
    forged = neutral + bytes(32)
    key = ed25519.Ed25519PublicKey.from_public_bytes(neutral)
    key.verify(forged, b"I vote for it")  # raises InvalidSignature if it does not hold: it does
    key.verify(forged, b"I vote against it")
    with pytest.raises(MessageRefused, match="weak"):
        peer_id_of(neutral)
    of_order_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    with pytest.raises(MessageRefused, match="weak"):
        peer_id_of(of_order_8)


def test_a_public_key_of_another_length_is_refused() -> None:
    with pytest.raises(MessageRefused, match="31"):
        peer_id_of(bytes(31))


def test_the_private_key_is_never_shown() -> None:
    assert repr(ALICE) == str(ALICE) == f"Identity({ALICE.peer_id})"
    assert b"PRIVATE" not in repr(make_certificate(ALICE)).encode()
    with pytest.raises(TypeError):
        pickle.dumps(ALICE)


# ---- signatures


@given(st.text(max_size=20), st.binary(max_size=200))
def test_a_signature_holds_for_its_signer_domain_and_body_only(domain: str, body: bytes) -> None:
    signature = ALICE.sign(domain, body)
    assert len(signature) == 64
    assert verify(ALICE.peer_id, domain, body, signature)
    assert not verify(BOB.peer_id, domain, body, signature)
    assert not verify(ALICE.peer_id, domain + "x", body, signature)
    assert not verify(ALICE.peer_id, domain, body + b"x", signature)
    assert not verify(ALICE.peer_id, domain, body, ALICE.sign_raw(body))


@given(st.integers(0, 511))
def test_a_signature_with_a_changed_bit_is_refused(bit: int) -> None:
    signature = bytearray(ALICE.sign("vote", b"body"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(ALICE.peer_id, "vote", b"body", bytes(signature))


@given(st.binary(max_size=130))
def test_no_bytes_as_a_signature_raise(signature: bytes) -> None:
    assert not verify(ALICE.peer_id, "vote", b"body", signature)


# ---- the key file


def test_a_key_file_has_the_form_that_libp2p_reads(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "identity.key"
    identity = Identity.load_or_create(path)
    content = path.read_bytes()
    assert content[:4].hex() == "08011240"
    assert Identity.from_seed(content[4:36]).peer_id == identity.peer_id
    assert content[36:] == public_key_bytes(identity.peer_id)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["identity.key"]
    assert Identity.load_or_create(path).peer_id == Identity.load(path).peer_id == identity.peer_id


def test_peers_that_start_at_once_get_one_identity(tmp_path: Path) -> None:
    with futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(Identity.load_or_create, [tmp_path / "identity.key"] * 32))
    assert len({identity.peer_id for identity in found}) == 1
    assert os.listdir(tmp_path) == ["identity.key"]


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    ALICE.save(path)
    with pytest.raises(KeyFileExists, match="mv "):
        BOB.save(path)
    assert Identity.load(path).peer_id == ALICE.peer_id
    assert os.listdir(tmp_path) == ["identity.key"]


def test_a_missing_key_file_is_named_with_its_fix(tmp_path: Path) -> None:
    with pytest.raises(KeyFileMissing, match="start a peer with `--identity ") as refusal:
        Identity.load(tmp_path / "identity.key")
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
def test_a_key_file_readable_by_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "my key"
    ALICE.save(path)
    path.chmod(mode)
    with pytest.raises(KeyFileExposed, match=f"`chmod 600 '{path}'`"):
        Identity.load_or_create(path)
    path.chmod(0o400)
    assert Identity.load(path).peer_id == ALICE.peer_id


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "0 bytes"),
        (bytes(67), "67 bytes"),
        (bytes(1_000_000), "more than 68"),
        (bytes(68), "begins with 00000000"),
        (bytes.fromhex("08011240") + bytes(64), "public half"),
    ],
)
def test_a_damaged_key_file_is_refused_and_kept(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileCorrupt, match=fault):
        Identity.load_or_create(path)
    assert path.read_bytes() == content


def test_a_path_that_cannot_hold_a_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileUnreadable, match="Is a directory"):
        Identity.load_or_create(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(KeyFileUnwritable, match="--identity FILE"):
        ALICE.save(tmp_path / "file" / "identity.key")


def test_a_full_disk_leaves_no_half_of_a_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileUnwritable, match="No space left"):
        ALICE.save(tmp_path / "identity.key")
    assert os.listdir(tmp_path) == []


# ---- the certificate


def test_the_certificate_of_the_specification_names_its_peer() -> None:
    vector = VECTORS["ed25519"]
    assert certificate_owner(bytes.fromhex(vector["certificate"])) == vector["peer_id"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("ecdsa", "not an Ed25519"), ("secp256k1", "not an Ed25519"), ("invalid_signature", "did not sign")],
)
def test_the_other_certificates_of_the_specification_are_refused(name: str, reason: str) -> None:
    with pytest.raises(CertificateRefused, match=reason):
        certificate_owner(bytes.fromhex(VECTORS[name]["certificate"]))


def test_a_certificate_proves_its_owner_in_pem_and_in_der() -> None:
    made = make_certificate(ALICE)
    der = certificate_der(made.certificate_pem)
    assert certificate_der(der) == der
    assert certificate_owner(made.certificate_pem) == certificate_owner(der) == ALICE.peer_id
    assert make_certificate(ALICE) != made


def test_a_certificate_can_sign_nothing_but_handshakes() -> None:
    certificate = x509.load_pem_x509_certificate(make_certificate(ALICE).certificate_pem)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert names.get_values_for_type(x509.DNSName) == [TLS_NAME]
    assert certificate.not_valid_before_utc.year == 1975
    assert certificate.not_valid_after_utc.year == 9999


def signed_key(
    identity: Identity, key: ec.EllipticCurvePrivateKey, prefix: bytes = b"libp2p-tls-handshake:"
) -> bytes:
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    public_key = bytes.fromhex("08011220") + public_key_bytes(identity.peer_id)
    return bytes.fromhex("30680424") + public_key + bytes.fromhex("0440") + identity.sign_raw(prefix + spki)


def certificate(
    key: ec.EllipticCurvePrivateKey,
    *extensions: tuple[x509.ExtensionType, bool],
    subject: str = "x",
    issuer: str = "x",
    signer: ec.EllipticCurvePrivateKey | None = None,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
) -> bytes:
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]),
        subject_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]),
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=datetime(1975, 1, 1, tzinfo=UTC),
        not_valid_after=datetime(4096, 1, 1, tzinfo=UTC),
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    made = builder.sign(signer or key, algorithm or hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())
GOOD = (x509.UnrecognizedExtension(EXTENSION, signed_key(ALICE, KEY)), False)
USAGE = dict.fromkeys(
    [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ],
    False,
)


def odd(value: bytes) -> tuple[x509.ExtensionType, bool]:
    return x509.UnrecognizedExtension(EXTENSION, value), False


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (certificate(KEY), "names no peer"),
        (certificate(OTHER_KEY, GOOD), "did not sign"),
        (certificate(KEY, odd(signed_key(ALICE, KEY, b"another-prefix:"))), "did not sign"),
        (certificate(KEY, odd(signed_key(ALICE, KEY) + b"x")), "not an Ed25519"),
        (certificate(KEY, odd(signed_key(ALICE, KEY)[:-1])), "not an Ed25519"),
        (certificate(KEY, odd(b"")), "not an Ed25519"),
        (
            certificate(KEY, odd(signed_key(ALICE, KEY)[:8] + bytes(32) + signed_key(ALICE, KEY)[40:])),
            "weak",
        ),
        (certificate(KEY, GOOD, signer=OTHER_KEY), "not a self-signed"),
        (certificate(KEY, GOOD, issuer="y"), "not a self-signed"),
        (certificate(P384_KEY, odd(signed_key(ALICE, P384_KEY))), "P-256"),
        (certificate(KEY, GOOD, algorithm=hashes.SHA384()), "SHA-256"),
        (certificate(KEY, GOOD, (x509.BasicConstraints(ca=True, path_length=None), True)), "sign others"),
        (certificate(KEY, GOOD, (x509.KeyUsage(key_cert_sign=True, **USAGE), True)), "sign others"),
        (
            certificate(KEY, GOOD, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), True)),
            "critical extension 1.2.3",
        ),
        (make_certificate(ALICE).certificate_pem + make_certificate(ALICE).certificate_pem, "not one"),
        (make_certificate(ALICE).key_pem, "not one"),
        (b"", "not one"),
        (b"-----BEGIN CERTIFICATE-----", "not one"),
        (bytes(5000), "5000 bytes"),
    ],
)
def test_a_certificate_that_does_not_prove_its_owner_is_refused(pem: bytes, reason: str) -> None:
    with pytest.raises(CertificateRefused, match=reason):
        certificate_owner(pem)


def test_an_extension_that_is_there_twice_is_refused() -> None:
    # No builder makes one, so a second extension is renamed in the bytes. Extensions are read first,
    # so it is not the broken signature that is refused.
    other = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.2"), GOOD[0].public_bytes())
    der = certificate_der(certificate(KEY, GOOD, (other, False)))
    twice = der.replace(bytes.fromhex("2b0601040183a25a0102"), bytes.fromhex("2b0601040183a25a0101"))
    assert twice != der
    with pytest.raises(CertificateRefused, match="Duplicate"):
        certificate_owner(twice)


def test_a_critical_identity_and_unknown_extensions_beside_it_are_accepted() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"")
    assert certificate_owner(certificate(KEY, (GOOD[0], True), (unknown, False))) == ALICE.peer_id


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_every_bit_that_a_certificate_says_is_bound() -> None:
    der = certificate_der(ALICE_TLS.certificate_pem)
    said = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    begin = der.index(said)
    for bit in range(8 * len(der)):
        changed = bytearray(der)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            owner = certificate_owner(bytes(changed))
        except CertificateRefused:
            continue
        # Around it, the padding of the signature can be written in two ways.
        assert not begin <= bit // 8 < begin + len(said)
        assert owner == ALICE.peer_id


@given(st.binary(max_size=300))
def test_no_bytes_as_a_certificate_do_worse_than_be_refused(raw: bytes) -> None:
    for content in (raw, b"-----BEGIN CERTIFICATE-----\n" + raw):
        with pytest.raises(CertificateRefused):
            certificate_owner(content)


# ---- in a real handshake

ALICE_TLS = make_certificate(ALICE)
BOB_TLS = make_certificate(BOB)


@contextmanager
def server(own: TlsCertificate, roots: bytes) -> Iterator[int]:
    """A gRPC server that tells its caller whom it took it for."""

    def whoami(request: bytes, context: grpc.ServicerContext) -> bytes:
        (leaf,) = context.auth_context()["x509_pem_cert"]
        return certificate_owner(leaf).encode()

    methods = {"Whoami": grpc.unary_unary_rpc_method_handler(whoami)}
    running = grpc.server(futures.ThreadPoolExecutor(1))
    running.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))
    credentials = grpc.ssl_server_credentials([(own.key_pem, own.certificate_pem)], roots, True)
    port = running.add_secure_port("127.0.0.1:0", credentials)
    running.start()
    try:
        yield port
    finally:
        running.stop(None).wait()


def call(port: int, own: TlsCertificate, roots: bytes) -> str:
    credentials = grpc.ssl_channel_credentials(roots, own.key_pem, own.certificate_pem)
    options = [("grpc.ssl_target_name_override", TLS_NAME)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        return channel.unary_unary("/test.Test/Whoami")(b"", timeout=10).decode()


def test_a_certificate_serves_both_ends_of_mutual_tls() -> None:
    with server(ALICE_TLS, BOB_TLS.certificate_pem) as port:
        assert call(port, BOB_TLS, ALICE_TLS.certificate_pem) == BOB.peer_id


def test_several_certificates_of_one_peer_can_be_trusted_at_once() -> None:
    renewed = make_certificate(BOB)
    roots = BOB_TLS.certificate_pem + renewed.certificate_pem + make_certificate(ALICE).certificate_pem
    with server(ALICE_TLS, roots) as port:
        for own in (BOB_TLS, renewed):
            assert (
                call(port, own, make_certificate(ALICE).certificate_pem + ALICE_TLS.certificate_pem)
                == BOB.peer_id
            )


def test_a_stranger_is_refused_at_the_handshake() -> None:
    with server(ALICE_TLS, BOB_TLS.certificate_pem) as port:
        for own, roots in [(make_certificate(BOB), ALICE_TLS), (BOB_TLS, make_certificate(ALICE))]:
            with pytest.raises(grpc.RpcError) as refusal:
                call(port, own, roots.certificate_pem)
            assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_trusted_certificate_cannot_mint_another() -> None:
    # Bob, whom Alice trusts, signs a certificate with Bob's certificate's key.
    bob_key = serialization.load_pem_private_key(BOB_TLS.key_pem, None)
    assert isinstance(bob_key, ec.EllipticCurvePrivateKey)
    minted = certificate(
        KEY,
        (x509.SubjectAlternativeName([x509.DNSName(TLS_NAME)]), False),
        issuer=BOB.peer_id,
        signer=bob_key,
    )
    pem = serialization.Encoding.PEM
    key_pem = KEY.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with server(ALICE_TLS, BOB_TLS.certificate_pem) as port, pytest.raises(grpc.RpcError) as refusal:
        call(port, TlsCertificate(minted, key_pem), ALICE_TLS.certificate_pem)
    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
