"""Tree heads: the bytes that the C2SP specifications ask for, and nothing that was not signed is read."""

import base64
import doctest
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from proto.canonical import tagged
from verify import checkpoint
from verify.checkpoint import (
    MAX_NOTE,
    Checkpoint,
    CheckpointRefused,
    cosign,
    note_body,
    origin_of,
    parse_checkpoint,
    read_checkpoint,
    read_cosignatures,
    verifier_key,
    write_checkpoint,
)
from verify.identity import Identity, peer_id_of, verify_raw

RUN = bytes(range(32))
SEED = bytes(32)
ALICE, BOB, EVE = (Identity.from_seed(SEED[:-1] + bytes([n])) for n in range(3))
ORIGIN = (
    "edgeswarm/000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f/"
    "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
)
ROOT = hashlib.sha256(b"a root").digest()
HEAD = Checkpoint(ORIGIN, 20_852_163, ROOT)
TIME = 1_679_315_147
ONES = b"\xff" * 72
EM_DASH = b"\xe2\x80\x94"


def signed(body: bytes, name: bytes, seed: bytes, kind: int, stamp: bytes = b"", prefix: bytes = b"") -> str:
    """A signature line put together from the specifications alone."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    identifier = hashlib.sha256(name + b"\n" + bytes([kind]) + key.public_key().public_bytes_raw()).digest()
    value = base64.b64encode(identifier[:4] + stamp + key.sign(prefix + body))
    return (EM_DASH + b" " + name + b" " + value + b"\n").decode()


def unsigned(body: str, *lines: str) -> str:
    return body + "\n" + "".join(lines)


def resigned(body: str) -> str:
    """A body that is not written by us, signed by Alice all the same."""
    return unsigned(body, signed(body.encode(), ORIGIN.encode(), SEED, 1))


def test_the_example_in_the_documentation_runs() -> None:
    assert doctest.testmod(checkpoint).failed == 0


def test_a_checkpoint_is_what_the_specifications_say_byte_for_byte() -> None:
    body = ORIGIN.encode() + b"\n20852163\n" + base64.b64encode(ROOT) + b"\n"
    expected = body.decode() + "\n" + signed(body, ORIGIN.encode(), SEED, 1)
    assert write_checkpoint(HEAD, ALICE) == expected
    assert read_checkpoint(expected, ALICE.peer_id) == HEAD


def test_a_checkpoint_has_not_changed_since_it_was_written_down() -> None:
    assert write_checkpoint(HEAD, ALICE) == (
        f"{ORIGIN}\n20852163\nULMS9cvHFnWfViDXOnzBFBVwc0n0Gwzgt897eAfsMdo=\n\n"
        f"— {ORIGIN} w4y/bPnysWPL5cvi1cbExFiPNWUmd7pQlHTmtZy7URoZsY9P"
        "fSQXMt/q/GwpKw0yHSA/CbeY3gwoXYTm4FNQV7X81wA=\n"
    )


def test_a_cosignature_is_what_the_specification_says_byte_for_byte() -> None:
    body = note_body(write_checkpoint(HEAD, ALICE))
    name = origin_of(RUN, BOB.peer_id).encode()
    prefix = b"cosignature/v1\ntime 1679315147\n"
    line = signed(body.encode(), name, SEED[:-1] + b"\1", 4, TIME.to_bytes(8, "big"), prefix)
    assert cosign(body, BOB, TIME) == line


def test_a_published_note_has_the_key_id_and_signature_that_we_compute() -> None:
    # The note, key and signature of the reference implementation's documentation.
    name, key_id, key = "PeterNeumann", "c74f20a3", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    text = b"If you think cryptography is the answer to your problem,\n"
    text += b"then you don't know what your problem is.\n"
    signature = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    typed = base64.b64decode(key)
    assert checkpoint._key_id(name, typed).hex() == key_id == signature[:4].hex()
    assert typed[:1] == checkpoint.ED25519
    assert verify_raw(peer_id_of(typed[1:]), text, signature[4:])
    assert not verify_raw(peer_id_of(typed[1:]), text[:-1], signature[4:])


def test_the_verifier_key_names_the_key_that_signs() -> None:
    name, key_id, key = verifier_key(ORIGIN).split("+", 2)
    public = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
    assert (name, base64.b64decode(key)) == (ORIGIN, b"\1" + public)
    assert bytes.fromhex(key_id) == hashlib.sha256(ORIGIN.encode() + b"\n\1" + public).digest()[:4]


def test_a_head_is_read_for_its_author_only() -> None:
    text = write_checkpoint(HEAD, ALICE)
    assert (HEAD.run, HEAD.author) == (RUN, ALICE.peer_id)
    with pytest.raises(CheckpointRefused, match=f"not of {BOB.peer_id}"):
        read_checkpoint(text, BOB.peer_id)


def test_a_peer_signs_for_its_own_log_alone() -> None:
    with pytest.raises(ValueError, match="cannot sign"):
        write_checkpoint(HEAD, BOB)


def test_a_head_signed_by_another_key_is_refused() -> None:
    body = HEAD.body()
    for name in (ORIGIN, origin_of(RUN, EVE.peer_id)):
        forged = unsigned(body, signed(body.encode(), name.encode(), SEED[:-1] + b"\2", 1))
        with pytest.raises(CheckpointRefused, match="did not sign"):
            read_checkpoint(forged, ALICE.peer_id)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_any_changed_bit_is_refused(at: int, bit: int) -> None:
    raw = bytearray(write_checkpoint(HEAD, ALICE).encode())
    raw[at % len(raw)] ^= 1 << bit
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(CheckpointRefused):
        read_checkpoint(text, ALICE.peer_id)


def test_a_wrong_signature_of_the_author_is_refused_even_beside_a_right_one() -> None:
    text = write_checkpoint(HEAD, ALICE)
    other = write_checkpoint(Checkpoint(ORIGIN, 5, ROOT), ALICE).splitlines(keepends=True)[-1]
    for lines in (text + other, note_body(text) + "\n" + other + text.splitlines(keepends=True)[-1]):
        with pytest.raises(CheckpointRefused, match="not that of"):
            read_checkpoint(lines, ALICE.peer_id)


def test_sixteen_signatures_and_more_of_unknown_keys_are_passed_over() -> None:
    text = write_checkpoint(HEAD, ALICE)
    strangers = [f"— example.com/{n} {base64.b64encode(bytes([n]) * 30).decode()}\n" for n in range(64)]
    # The author's name with another key's id, and the author's key id under another name.
    line = text.splitlines()[-1].removeprefix("— ")
    strangers.append(f"— {ORIGIN} {base64.b64encode(b'other key').decode()}\n")
    strangers.append(f"— example.com/x {line.split()[1]}\n")
    crowded = note_body(text) + "\n" + "".join(strangers) + text.splitlines(keepends=True)[-1]
    assert read_checkpoint(crowded, ALICE.peer_id) == HEAD
    assert read_cosignatures(crowded, [BOB.peer_id]) == {}


def test_cosignatures_say_who_saw_the_head_and_when() -> None:
    text = write_checkpoint(HEAD, ALICE)
    body = note_body(text)
    text += cosign(body, BOB, TIME) + cosign(body, EVE, TIME + 5) + cosign(body, BOB, TIME + 9)
    assert read_checkpoint(text, ALICE.peer_id) == HEAD
    assert read_cosignatures(text, [BOB.peer_id]) == {BOB.peer_id: TIME + 9}
    assert read_cosignatures(text, [EVE.peer_id, BOB.peer_id, ALICE.peer_id]) == {
        BOB.peer_id: TIME + 9,
        EVE.peer_id: TIME + 5,
    }


def test_a_cosignature_for_another_head_time_or_length_is_refused() -> None:
    text = write_checkpoint(HEAD, ALICE)
    other = note_body(write_checkpoint(Checkpoint(ORIGIN, 5, ROOT), ALICE))
    line = cosign(note_body(text), BOB, TIME)
    value = bytearray(base64.b64decode(line.split()[2]))
    value[11] ^= 1  # the time
    moved = f"{line.rsplit(' ', 1)[0]} {base64.b64encode(value).decode()}\n"
    short = f"{line.rsplit(' ', 1)[0]} {base64.b64encode(value[:9]).decode()}\n"
    late = f"{line.rsplit(' ', 1)[0]} {base64.b64encode(value[:4] + ONES).decode()}\n"
    for bad in (cosign(other, BOB, TIME), moved, short, late):
        with pytest.raises(CheckpointRefused, match=f"cosignature.*{BOB.peer_id}"):
            read_cosignatures(text + bad, [BOB.peer_id])
        assert read_checkpoint(text + bad, ALICE.peer_id) == HEAD


def test_a_signature_is_no_cosignature_and_neither_is_a_statement() -> None:
    text = write_checkpoint(HEAD, ALICE)
    body = note_body(text)
    plain = base64.b64decode(text.splitlines()[-1].split()[2])[4:]
    stamped = base64.b64decode(cosign(body, ALICE, TIME).split()[2])[12:]
    assert verify_raw(ALICE.peer_id, body.encode(), plain)
    assert not verify_raw(ALICE.peer_id, body.encode(), stamped)
    # Signed text and signed statements never begin alike, whatever domain or run is chosen.
    assert not body.encode().startswith(tagged("")[:-1])
    assert not tagged("x").startswith(body.encode()[:11])


@pytest.mark.parametrize(
    "body",
    [
        "",
        ORIGIN,
        f"{ORIGIN}\n5\n",
        f"{ORIGIN}\n5\n{base64.b64encode(ROOT).decode()}\nextension\n",
        f"{ORIGIN}\n05\n{base64.b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n-5\n{base64.b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n٥\n{base64.b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n{1 << 63}\n{base64.b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n{'9' * 5000}\n{base64.b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n0\n{base64.b64encode(ROOT).decode()}\n",
        f"{ORIGIN}\n5\n{base64.b64encode(ROOT[:31]).decode()}\n",
        f"{ORIGIN}\n5\n{base64.b64encode(ROOT).decode().rstrip('=')}\n",
        f"{ORIGIN}\n5\n{base64.urlsafe_b64encode(ONES[:32]).decode()}\n",
        f"{ORIGIN}\n5\n{base64.b64encode(ROOT).decode()} \n",
        f"{ORIGIN}\r\n5\r\n{base64.b64encode(ROOT).decode()}\r\n",
        f"example.com/log\n5\n{base64.b64encode(ROOT).decode()}\n",
        f"{ORIGIN.upper()}\n5\n{base64.b64encode(ROOT).decode()}\n",
    ],
)
def test_another_form_of_the_text_is_refused_though_its_author_signed_it(body: str) -> None:
    with pytest.raises(CheckpointRefused):
        read_checkpoint(resigned(body), ALICE.peer_id)


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "\n",
        "\n\n",
        "\nno signature\n",
        f"\n— {ORIGIN}\n",
        f"\n— {ORIGIN} AAAA\n",
        f"\n— {ORIGIN} !!!!\n",
        f"\n— a+b {base64.b64encode(bytes(68)).decode()}\n",
        f"\n— a\u2003b {base64.b64encode(bytes(68)).decode()}\n",
        f"\n— {ORIGIN} {base64.b64encode(bytes(68)).decode()}",
        f"\n—{ORIGIN} {base64.b64encode(bytes(68)).decode()}\n",
        "\n\ud800\n",
        "\n\0\n",
    ],
)
def test_lines_that_are_no_signatures_are_refused(tail: str) -> None:
    with pytest.raises(CheckpointRefused):
        read_checkpoint(HEAD.body() + tail, ALICE.peer_id)


def test_a_note_above_64_kib_is_not_looked_at() -> None:
    line = f"— example.com/x {base64.b64encode(bytes(60)).decode()}\n"
    text = write_checkpoint(HEAD, ALICE)
    text += line * ((MAX_NOTE - len(text.encode())) // len(line.encode()))
    assert read_checkpoint(text, ALICE.peer_id) == HEAD
    with pytest.raises(CheckpointRefused, match="the largest has 65536"):
        read_checkpoint(text + line, ALICE.peer_id)


def test_only_checkpoints_are_cosigned() -> None:
    for body in ("", "vote for me\n", HEAD.body() + "extension\n"):
        with pytest.raises(CheckpointRefused):
            cosign(body, BOB, TIME)
    with pytest.raises(ValueError, match="time"):
        cosign(HEAD.body(), BOB, -1)


def test_the_empty_log_has_one_head() -> None:
    empty = Checkpoint(ORIGIN, 0, hashlib.sha256().digest())
    assert read_checkpoint(write_checkpoint(empty, ALICE), ALICE.peer_id) == empty
    with pytest.raises(CheckpointRefused):
        Checkpoint(ORIGIN, 0, ROOT)


@given(st.text(max_size=300))
def test_nothing_that_a_peer_sends_raises_anything_else(text: str) -> None:
    for tried in (text, HEAD.body() + "\n" + text, HEAD.body() + f"\n— {text}\n"):
        with pytest.raises(CheckpointRefused):
            read_checkpoint(tried, ALICE.peer_id)
        for read in (parse_checkpoint, lambda note: read_cosignatures(note, [BOB.peer_id])):
            try:
                read(tried)
            except CheckpointRefused:
                continue
