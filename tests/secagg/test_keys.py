"""The secrets of a session: every derived key has one use, one direction, one session, and none is shown."""

import copy
import dataclasses
import hashlib
import hmac
import pprint
from itertools import combinations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.errors import MessageRefused
from secagg.keys import (
    Secrets,
    agree,
    beacon_share,
    dealing_seed,
    pair_seed,
    public_key,
    seal,
    self_seed,
    unseal,
)
from secagg.messages import SEALED_BYTES, SHARE_BYTES, seed_commitment
from tests.secagg.session_network import KEYS, secrets_of

A, B, C = sorted(KEYS)[:3]
SESSION, SECRET = b"\x01" * 32, b"\x02" * 32
HIGH_BIT = 1 << 255
P = 2**255 - 19
quick = settings(max_examples=40, derandomize=True, deadline=None)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes of HKDF-SHA256, as RFC 5869 sections 2.2 and 2.3 write it."""
    extracted = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def tag(use: str) -> bytes:
    return b"edgeswarm/v1/" + use.encode() + b"\0"


# ---- key agreement


@pytest.mark.parametrize(
    ("scalar", "u", "expected"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_agreement_is_x25519_of_rfc_7748_section_5(scalar: str, u: str, expected: str) -> None:
    assert agree(bytes.fromhex(scalar), bytes.fromhex(u)).hex() == expected


def test_agreement_is_the_diffie_hellman_of_rfc_7748_section_6() -> None:
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert public_key(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert public_key(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert agree(alice, public_key(bob)).hex() == agree(bob, public_key(alice)).hex() == shared


ORDER_8 = [
    int.from_bytes(bytes.fromhex(u), "little")
    for u in (
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    )
]
LOW_ORDER = [0, 1, *ORDER_8, P - 1, P, P + 1]
"""All u below 2^255 of points of low order on the curve or its twist: 0 (order 2), 1 and -1 (order 4), two of
order 8, and of these what has a second form, modulo P."""


def doubled(u: int) -> int:
    """The u of twice the point, on the curve of RFC 7748 (A = 486662)."""
    return (u * u - 1) ** 2 * pow(4 * u * (u * u + 486662 * u + 1), P - 2, P) % P


def test_the_list_of_points_of_low_order_is_what_it_says() -> None:
    assert doubled(1) == doubled(P - 1) == 0, "order 4"
    assert sorted(doubled(u) for u in ORDER_8) == [1, 1], "order 8 doubles to order 4"


@pytest.mark.parametrize("u", LOW_ORDER + [u + HIGH_BIT for u in LOW_ORDER], ids=hex)
def test_a_key_of_low_order_is_refused(u: int) -> None:
    """X25519 masks the highest bit, so each of them has two forms."""
    for private in (SECRET, bytes(32), b"\xff" * 32):
        with pytest.raises(MessageRefused, match="low order") as refusal:
            agree(private, u.to_bytes(32, "little"))
        assert refusal.value.__cause__ is None
        assert private.hex() not in str(refusal.value)


@quick
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_both_sides_of_a_pair_agree_on_a_secret_of_32_bytes(one: bytes, other: bytes) -> None:
    shared = agree(one, public_key(other))
    assert shared == agree(other, public_key(one))
    assert len(shared) == 32


# ---- derivations


def test_every_derivation_is_hkdf_with_the_session_as_salt_and_its_use_as_info() -> None:
    pair = tag("pair-seed") + A.encode() + B.encode()
    assert pair_seed(SECRET, SESSION, A, B) == hkdf(SECRET, SESSION, pair)
    assert self_seed(SECRET, SESSION) == hkdf(SECRET, SESSION, tag("self-seed"))
    for kind in ("mask", "seed"):
        assert dealing_seed(SECRET, SESSION, kind) == hkdf(SECRET, SESSION, tag("dealing") + kind.encode())
    key = hkdf(SECRET, SESSION, tag("seal") + A.encode() + B.encode())
    bound = tag("sealed-shares") + SESSION + A.encode() + B.encode()
    assert seal(b"plain", SECRET, SESSION, A, B) == ChaCha20Poly1305(key).encrypt(bytes(12), b"plain", bound)


def test_what_a_seed_gives_to_the_beacon_is_a_hash_of_its_own() -> None:
    framed = (32).to_bytes(8, "big") + SECRET
    assert beacon_share(SECRET) == hashlib.sha256(tag("beacon-share") + framed).digest()
    assert seed_commitment(SECRET) == hashlib.sha256(tag("seed-commitment") + framed).digest()


def test_one_secret_gives_a_different_key_for_each_use_session_and_pair() -> None:
    def all_of(secret: bytes, session: bytes) -> list[bytes]:
        return [
            *(pair_seed(secret, session, *pair) for pair in combinations((A, B, C), 2)),
            self_seed(secret, session),
            dealing_seed(secret, session, "mask"),
            dealing_seed(secret, session, "seed"),
            # Two plaintexts that are equal show the sealing keys apart.
            *(seal(bytes(32), secret, session, *pair)[:32] for pair in combinations((A, B, C), 2)),
            *(seal(bytes(32), secret, session, *pair)[:32] for pair in combinations((C, B, A), 2)),
        ]

    other_session, other_secret = bytes([0]) + SESSION[1:], SECRET[:31] + b"\x03"
    keys = [*all_of(SECRET, SESSION), *all_of(SECRET, other_session), *all_of(other_secret, SESSION)]
    keys += [beacon_share(SECRET), seed_commitment(SECRET), SECRET]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 for key in keys)


def test_the_seed_of_a_pair_is_the_same_whoever_of_the_two_asks() -> None:
    assert pair_seed(SECRET, SESSION, A, B) == pair_seed(SECRET, SESSION, B, A)


# ---- sealed shares


def test_what_is_sealed_opens_for_its_holder_and_has_the_size_that_messages_expect() -> None:
    plain = bytes(range(2 * SHARE_BYTES))
    sealed = seal(plain, SECRET, SESSION, A, B)
    assert unseal(sealed, SECRET, SESSION, A, B) == plain
    assert len(sealed) == SEALED_BYTES
    assert plain[:16] not in sealed


@pytest.mark.parametrize(
    ("shared", "session", "dealer", "holder"),
    [
        (SECRET[:31] + b"\0", SESSION, A, B),
        (SECRET, SESSION[:31] + b"\0", A, B),
        (SECRET, SESSION, C, B),
        (SECRET, SESSION, A, C),
        (SECRET, SESSION, B, A),
    ],
    ids=["secret", "session", "dealer", "holder", "direction"],
)
def test_what_is_sealed_opens_for_nobody_else(
    shared: bytes, session: bytes, dealer: str, holder: str
) -> None:
    sealed = seal(b"x" * 66, SECRET, SESSION, A, B)
    with pytest.raises(MessageRefused, match="does not open") as refusal:
        unseal(sealed, shared, session, dealer, holder)
    assert refusal.value.__cause__ is None
    assert shared.hex() not in str(refusal.value)


@pytest.mark.parametrize("at", range(SEALED_BYTES))
def test_no_byte_of_what_is_sealed_can_be_altered(at: int) -> None:
    sealed = bytearray(seal(b"x" * 66, SECRET, SESSION, A, B))
    sealed[at] ^= 1
    with pytest.raises(MessageRefused, match="does not open"):
        unseal(bytes(sealed), SECRET, SESSION, A, B)


@pytest.mark.parametrize("size", [0, 1, 15, 16, SEALED_BYTES - 1, SEALED_BYTES + 1])
def test_a_sealed_share_of_another_length_is_refused(size: int) -> None:
    sealed = (seal(b"x" * 66, SECRET, SESSION, A, B) + b"\0")[:size]
    with pytest.raises(MessageRefused, match="does not open"):
        unseal(sealed, SECRET, SESSION, A, B)


# ---- secrets are not shown


def test_secrets_show_in_no_text() -> None:
    secrets = secrets_of(A)
    texts = [repr(secrets), str(secrets), f"{secrets}", f"{secrets!r:>20}", "%s" % (secrets,)]  # noqa: UP031
    texts += [pprint.pformat(secrets), repr([secrets]), repr({"secrets": secrets}), ascii(secrets)]
    with pytest.raises(TypeError) as refusal:
        dataclasses.replace(secrets, nonsense=b"")  # type: ignore[call-arg]
    texts.append(repr(refusal.value))
    with pytest.raises(dataclasses.FrozenInstanceError) as frozen:
        secrets.seed = b""  # type: ignore[misc]
    texts.append(repr(frozen.value))
    with pytest.raises(TypeError) as order:
        secrets < secrets  # type: ignore[operator]  # noqa: B015
    texts.append(repr(order.value))
    for secret in (secrets.seal, secrets.mask, secrets.seed, secrets.dealing):
        assert not any(secret.hex() in text or repr(secret)[2:-1] in text for text in texts)
    assert repr(secrets) == "Secrets(...)"
    assert "Secrets(...)" in repr(copy.copy(secrets))


def test_fresh_secrets_are_four_draws_that_are_used_once_each() -> None:
    draws = iter([bytes([index]) * 32 for index in range(5)])
    secrets = Secrets.fresh(lambda: next(draws))
    parts = (secrets.seal, secrets.mask, secrets.seed, secrets.dealing)
    assert parts == tuple(bytes([index]) * 32 for index in range(4))
    assert next(draws) == bytes([4]) * 32


def test_the_wrong_length_of_a_private_key_shows_nothing_of_it() -> None:
    for wrong in (b"k" * 31, b"k" * 33):
        with pytest.raises(ValueError, match="32") as refusal:
            public_key(wrong)
        assert "kkk" not in str(refusal.value)
