"""Shamir's shares: any threshold of them give the secret back, one fewer fit every secret there is."""

import hashlib
import hmac
from collections.abc import Mapping

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proto.errors import MessageRefused
from secagg.messages import SHARE_BYTES
from secagg.shamir import PRIME, SECRET_BYTES, combine, split

SECRET, ENTROPY = b"s" * 32, b"e" * 32
secrets = st.binary(min_size=32, max_size=32)
quick = settings(max_examples=60, derandomize=True, deadline=None)


def number(share: bytes) -> int:
    return int.from_bytes(share, "big")


def through(points: Mapping[int, int], x: int) -> int:
    """The value at x of the polynomial of lowest degree through these points (Lagrange)."""
    total = 0
    for one, value in points.items():
        term = value
        for other in points.keys() - {one}:
            term = term * (x - other) * pow(one - other, PRIME - 2, PRIME) % PRIME
        total += term
    return total % PRIME


def rebuilt(shares: Mapping[int, bytes]) -> bytes | None:
    """What the shares give; None if they are no sharing of 32 bytes."""
    try:
        return combine(shares)
    except MessageRefused:
        return None


def expand(key: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand with SHA-256, as RFC 5869 section 2.3 writes it."""
    out, block, counter = b"", b"", 1
    while len(out) < size:
        block = hmac.new(key, block + info + bytes([counter]), hashlib.sha256).digest()
        out, counter = out + block, counter + 1
    return out[:size]


# ---- the field


def passes_miller_rabin(candidate: int, bases: list[int]) -> bool:
    odd, twos = candidate - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        x = pow(base, odd, candidate)
        if x in (1, candidate - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % candidate
            if x == candidate - 1:
                break
        else:
            return False
    return True


def test_the_modulus_is_the_smallest_prime_above_2_to_the_256() -> None:
    bases = [p for p in range(2, 300) if all(p % q for q in range(2, p))]
    assert passes_miller_rabin(PRIME, bases)
    assert passes_miller_rabin((1 << 255) - 19, bases)
    assert not passes_miller_rabin(((1 << 127) - 1) * ((1 << 89) - 1), bases), "the test can say no"
    smaller = range((1 << 256) + 1, PRIME)
    assert not any(passes_miller_rabin(candidate, bases) for candidate in smaller)


def test_shares_and_secrets_have_the_sizes_that_messages_expect() -> None:
    assert PRIME.bit_length() == 257
    assert (PRIME - 1).bit_length() <= 8 * SHARE_BYTES
    assert (1 << 8 * SECRET_BYTES) - 1 < PRIME, "no secret is reduced"


# ---- what the promise says


@quick
@given(st.data(), secrets, secrets)
@example(None, bytes(32), bytes(32))
@example(None, b"\xff" * 32, bytes(32))
def test_any_threshold_of_the_shares_give_the_secret_back(
    data: st.DataObject | None, secret: bytes, entropy: bytes
) -> None:
    if data is None:
        holders, threshold, chosen = 5, 3, [4, 0, 2]
    else:
        holders = data.draw(st.integers(1, 32))
        threshold = data.draw(st.integers(1, holders))
        chosen = data.draw(st.permutations(range(holders)))[:threshold]
    shares = split(secret, threshold, holders, entropy)
    assert [len(share) for share in shares] == [SHARE_BYTES] * holders
    assert all(number(share) < PRIME for share in shares)
    assert combine({holder: shares[holder] for holder in chosen}) == secret
    assert combine(dict(enumerate(shares))) == secret, "more than needed do no harm"


@quick
@given(st.data(), secrets, secrets, secrets)
def test_one_share_too_few_fits_every_secret_with_exactly_one_polynomial(
    data: st.DataObject, secret: bytes, entropy: bytes, other: bytes
) -> None:
    """The coefficients are uniform, so each secret is as likely after t - 1 shares as before."""
    holders = data.draw(st.integers(2, 12))
    threshold = data.draw(st.integers(2, holders))
    seen = data.draw(st.permutations(range(holders)))[: threshold - 1]
    missing = data.draw(st.sampled_from(sorted(set(range(holders)) - set(seen))))
    shares = split(secret, threshold, holders, entropy)
    # t points fix one polynomial of degree t - 1: the seen shares, and at 0 whatever secret one likes.
    points = {0: number(other), **{holder + 1: number(shares[holder]) for holder in seen}}
    forged = through(points, missing + 1).to_bytes(SHARE_BYTES, "big")
    fitting = {missing: forged, **{holder: shares[holder] for holder in seen}}
    assert combine(fitting) == other
    assert (forged == shares[missing]) == (other == secret), "another secret is another polynomial"


def test_with_a_threshold_of_one_every_share_is_the_secret() -> None:
    assert split(SECRET, 1, 3, ENTROPY) == [b"\0" + SECRET] * 3


def test_too_few_shares_give_another_secret_and_no_warning() -> None:
    """The caller counts the shares, and compares what comes out with a commitment."""
    shares = split(SECRET, 3, 5, ENTROPY)
    assert rebuilt({0: shares[0], 1: shares[1]}) not in (None, SECRET)


# ---- how it is done


@quick
@given(secrets, secrets, st.integers(1, 32))
def test_the_polynomial_is_the_one_of_the_specification(
    secret: bytes, entropy: bytes, threshold: int
) -> None:
    """Coefficient i is bytes 48 (i - 1) to 48 i of HKDF-Expand(entropy, tag) modulo the prime; holder i has
    the value at i + 1."""
    stream = expand(entropy, b"edgeswarm/v1/shamir\0", 48 * (threshold - 1))
    wide = [stream[at : at + 48] for at in range(0, len(stream), 48)]
    coefficients = [number(secret), *(number(one) % PRIME for one in wide)]
    shares = split(secret, threshold, 32, entropy)
    for holder in (0, 1, 30, 31):
        value = sum(c * pow(holder + 1, power, PRIME) for power, c in enumerate(coefficients)) % PRIME
        assert number(shares[holder]) == value


def test_the_last_holder_that_fits_a_byte_is_served() -> None:
    shares = split(SECRET, 128, 255, ENTROPY)
    assert len(shares) == 255
    assert combine({holder: shares[holder] for holder in range(127, 255)}) == SECRET


def test_other_entropy_gives_other_shares_and_the_same_gives_the_same() -> None:
    assert split(SECRET, 3, 5, ENTROPY) == split(SECRET, 3, 5, ENTROPY)
    others = split(SECRET, 3, 5, b"f" * 32)
    assert not set(others) & set(split(SECRET, 3, 5, ENTROPY))


# ---- what is refused


@pytest.mark.parametrize(
    ("secret", "threshold", "holders", "entropy"),
    [
        (SECRET, 0, 5, ENTROPY),
        (SECRET, -1, 5, ENTROPY),
        (SECRET, 6, 5, ENTROPY),
        (SECRET, 1, 0, ENTROPY),
        (SECRET, 2, 256, ENTROPY),
        (SECRET[:31], 2, 5, ENTROPY),
        (SECRET + b"s", 2, 5, ENTROPY),
        (b"", 2, 5, ENTROPY),
        (SECRET, 2, 5, ENTROPY[:31]),
        (SECRET, 2, 5, ENTROPY + b"e"),
    ],
)
def test_what_cannot_be_shared_is_refused_without_showing_it(
    secret: bytes, threshold: int, holders: int, entropy: bytes
) -> None:
    with pytest.raises(ValueError, match="shares of") as refusal:
        split(secret, threshold, holders, entropy)
    assert "sss" not in str(refusal.value)
    assert "eee" not in str(refusal.value)


@pytest.mark.parametrize("value", [1 << 256, PRIME - 1])
def test_shares_of_what_is_no_secret_of_32_bytes_are_refused(value: int) -> None:
    points = {0: value, 1: 5, 2: 7}
    shares = {x - 1: through(points, x).to_bytes(SHARE_BYTES, "big") for x in (1, 2, 3)}
    with pytest.raises(MessageRefused, match="inconsistent"):
        combine(shares)
    points[0] = (1 << 256) - 1
    largest = {x - 1: through(points, x).to_bytes(SHARE_BYTES, "big") for x in (1, 2, 3)}
    assert combine(largest) == b"\xff" * 32


@quick
@given(st.integers(0, 4), st.integers(1, PRIME - 1))
def test_an_altered_share_never_gives_the_secret(which: int, change: int) -> None:
    shares = dict(enumerate(split(SECRET, 5, 5, ENTROPY)))
    shares[which] = ((number(shares[which]) + change) % PRIME).to_bytes(SHARE_BYTES, "big")
    assert rebuilt(shares) != SECRET


def test_shares_of_two_dealings_do_not_mix() -> None:
    one, other = split(SECRET, 3, 5, ENTROPY), split(SECRET, 3, 5, b"f" * 32)
    assert rebuilt({0: one[0], 1: one[1], 2: other[2]}) != SECRET


def test_inconsistent_shares_give_different_secrets_to_different_holders() -> None:
    """A dealer that puts its shares on no polynomial is found by whoever compares with a commitment."""
    shares = split(SECRET, 3, 5, ENTROPY)
    shares[4] = shares[3]
    assert combine({0: shares[0], 1: shares[1], 2: shares[2]}) == SECRET
    assert rebuilt({0: shares[0], 1: shares[1], 4: shares[4]}) != SECRET
