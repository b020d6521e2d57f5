"""Shamir's secret sharing (1979) of 32-byte secrets, over the integers modulo a prime above 2^256.

The promise: any `threshold` shares of one secret give it back; fewer say nothing about it, whatever
computing power looks at them. Holder i (from 0) has the polynomial's value at i + 1.

>>> shares = split(b"s" * 32, 3, 5, b"e" * 32)
>>> combine({0: shares[0], 2: shares[2], 4: shares[4]}) == b"s" * 32
True
"""

from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from proto.canonical import tagged
from proto.errors import MessageRefused
from secagg.messages import SHARE_BYTES

PRIME = (1 << 256) + 297
"""The smallest prime above 2^256: every secret and X25519 key is an element, none is reduced."""
SECRET_BYTES = 32
_WIDE = 48  # bytes for one coefficient: reducing them modulo PRIME leaves a bias below 2^-127


def split(secret: bytes, threshold: int, holders: int, entropy: bytes) -> list[bytes]:
    """`holders` shares of 33 bytes, big-endian. `entropy`: 32 secret bytes, used for this polynomial only.

    The coefficients are HKDF-Expand (RFC 5869) of `entropy`, 48 bytes each, modulo the prime. Raises
    ValueError unless 1 <= threshold <= holders < 256 and secret and entropy have 32 bytes.
    """
    if not 1 <= threshold <= holders < 256 or len(secret) != SECRET_BYTES or len(entropy) != 32:
        raise ValueError(f"{threshold} of {holders} shares of {len(secret)} bytes")
    coefficients = [int.from_bytes(secret, "big")]
    if threshold > 1:
        stream = HKDFExpand(hashes.SHA256(), _WIDE * (threshold - 1), tagged("shamir")).derive(entropy)
        coefficients += [
            int.from_bytes(stream[at : at + _WIDE], "big") % PRIME for at in range(0, len(stream), _WIDE)
        ]
    return [_value(coefficients, holder + 1).to_bytes(SHARE_BYTES, "big") for holder in range(holders)]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret of the polynomial through these shares, by holder. Raises MessageRefused if there is none.

    Gives something for any shares: the caller passes exactly `threshold` of them and compares the secret with
    its commitment.
    """
    points = {holder + 1: int.from_bytes(share, "big") for holder, share in shares.items()}
    total = 0
    for x, y in points.items():
        above, below = 1, 1
        for other in points:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        total += y * above * pow(below, -1, PRIME)
    secret = total % PRIME
    if secret >> 256:
        raise MessageRefused("shares: they rebuild nothing of 32 bytes, the dealing was inconsistent")
    return secret.to_bytes(SECRET_BYTES, "big")


def _value(coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
