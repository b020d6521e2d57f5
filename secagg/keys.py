"""The secrets of one session, and everything derived from them (design, section 5 "Keys").

The promise: each derived key belongs to one session, one use and one direction. All are HKDF-SHA256
(RFC 5869) with the session id as salt and its own `info`; key agreement is X25519 (RFC 7748), sealing
is ChaCha20-Poly1305 (RFC 8439). Secrets show in no `repr` and no exception.

>>> a, b = Secrets(*[bytes([i]) * 32 for i in range(4)]), Secrets(*[bytes([i + 9]) * 32 for i in range(4)])
>>> agree(a.mask, public_key(b.mask)) == agree(b.mask, public_key(a.mask))
True
>>> a
Secrets(...)
"""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proto.canonical import PeerID, tagged, tagged_hash
from proto.errors import MessageRefused

_P = (1 << 255) - 19
_ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
_LOW_ORDER = {0, 1, _P - 1, _P, _P + 1, *_ORDER_8}
"""The u-coordinates of the points of order 1, 2, 4 and 8 on Curve25519 and its twist, reduced or not."""
NONCE = bytes(12)
"""A sealing key seals one thing only, so its nonce is fixed."""


@dataclass(frozen=True, repr=False)
class Secrets:
    """What one member draws for one session, 32 random bytes each. In memory only.

    `seal`, `mask`: X25519 private keys; `seal` opens the shares others deal to this member and is never
    shared, `mask` gives the pairs' masks. `seed`: of this member's own mask, and its part of the beacon.
    `dealing`: of the polynomials that share `mask` and `seed`.
    """

    seal: bytes
    mask: bytes
    seed: bytes
    dealing: bytes

    @classmethod
    def fresh(cls, entropy: Callable[[], bytes]) -> "Secrets":
        """Of four calls of `entropy`, which gives 32 fresh random bytes each."""
        return cls(entropy(), entropy(), entropy(), entropy())

    def __repr__(self) -> str:
        return "Secrets(...)"


def check_public(public: bytes) -> None:
    """Raises MessageRefused for an X25519 public key of low order, with which every shared secret is zero.

    `agree` would refuse it too, but only in the middle of a session.
    """
    if int.from_bytes(public, "little") & ((1 << 255) - 1) in _LOW_ORDER:  # RFC 7748: the top bit is masked
        raise MessageRefused(f"advert: {public.hex()} is an X25519 key of low order")


def public_key(private: bytes) -> bytes:
    """The X25519 public key, 32 bytes."""
    return private_key(private).public_key().public_bytes_raw()


def private_key(private: bytes) -> X25519PrivateKey:
    """The key to call `agree` with more than once: making it costs as much as an agreement."""
    return X25519PrivateKey.from_private_bytes(private)


def agree(private: X25519PrivateKey | bytes, public: bytes) -> bytes:
    """The X25519 shared secret, 32 bytes. Raises MessageRefused if it is all zero (RFC 7748, section 6.1)."""
    key = private_key(private) if isinstance(private, bytes) else private
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise MessageRefused("advert: an X25519 key of low order, which every secret is zero with") from None


def pair_seed(shared: bytes, session: bytes, one: PeerID, other: PeerID) -> bytes:
    """The seed of a pair's mask, 32 bytes; the same whoever of the two asks."""
    low, high = sorted((one, other))
    return _derive(shared, session, "pair-seed", low.encode() + high.encode())


def self_seed(seed: bytes, session: bytes) -> bytes:
    """The seed of a member's own mask, 32 bytes."""
    return _derive(seed, session, "self-seed", b"")


def beacon_share(seed: bytes) -> bytes:
    """What a revealed seed gives to the beacon: nothing that the mask was made of."""
    return tagged_hash("beacon-share", seed)


def dealing_seed(dealing: bytes, session: bytes, kind: str) -> bytes:
    """The entropy of one polynomial, 32 bytes; `kind` is "mask" or "seed"."""
    return _derive(dealing, session, "dealing", kind.encode())


def seal(plain: bytes, shared: bytes, session: bytes, dealer: PeerID, holder: PeerID) -> bytes:
    """What only `holder` can open: ChaCha20-Poly1305 bound to session, dealer and holder."""
    key = _derive(shared, session, "seal", dealer.encode() + holder.encode())
    return ChaCha20Poly1305(key).encrypt(NONCE, plain, _bound(session, dealer, holder))


def unseal(sealed: bytes, shared: bytes, session: bytes, dealer: PeerID, holder: PeerID) -> bytes:
    """What `dealer` sealed for `holder`. Raises MessageRefused if it does not open."""
    key = _derive(shared, session, "seal", dealer.encode() + holder.encode())
    try:
        return ChaCha20Poly1305(key).decrypt(NONCE, sealed, _bound(session, dealer, holder))
    except InvalidTag:
        raise MessageRefused(f"share-list: what {dealer} sealed for {holder} does not open") from None


def _bound(session: bytes, dealer: PeerID, holder: PeerID) -> bytes:
    return tagged("sealed-shares") + session + dealer.encode() + holder.encode()


def _derive(secret: bytes, session: bytes, use: str, direction: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, session, tagged(use) + direction).derive(secret)
