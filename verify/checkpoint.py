"""Signed tree heads that tools others wrote can read: C2SP notes, checkpoints and cosignatures.

A checkpoint (tlog-checkpoint v1.0.0) is three lines: the log's origin, its size in decimal, and its
root in base64. It is signed as a note (signed-note v1.0.0): the lines, an empty line, then a line a
signature, "— NAME BASE64(key id || signature)". The key id is the first four bytes of
SHA-256(NAME || 0x0A || type || public key); type 1 is Ed25519 over the three lines. A cosignature
(tlog-cosignature v1, type 4) is a witness's: it covers "cosignature/v1", "time T" and the lines, and
says that at that time this was the largest head the witness knew, and that it followed from all before.

A peer's ledger in a run has one name, which is the origin and the name of its key:
"edgeswarm/" + run id in hex + "/" + PeerID. The key is the peer's identity. What is signed here begins
with "edgeswarm/" and 64 hex digits, or "cosignature/v1"; a statement begins with "edgeswarm/v1/" and a
certificate with "libp2p-": no signature of one passes for another.

Promises: `read_checkpoint` returns only what the author signed, in its one form. Two checkpoints of one
author with one size and different roots prove that it shows different logs to different readers.

>>> from verify.identity import Identity
>>> alice, run = Identity.from_seed(bytes(32)), bytes(32)
>>> text = write_checkpoint(Checkpoint(origin_of(run, alice.peer_id), 0, EMPTY_ROOT), alice)
>>> read_checkpoint(text, alice.peer_id).size
0
>>> bob = Identity.from_seed(bytes(31) + b"1")
>>> text += cosign(note_body(text), bob, 1_700_000_000)
>>> read_cosignatures(text, [bob.peer_id])[bob.peer_id]
1700000000
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from proto.canonical import PeerID
from proto.errors import MessageRefused
from proto.merkle import EMPTY_ROOT, HASH_BYTES
from verify.identity import Identity, public_key_bytes, verify_raw

MAX_NOTE = 64 << 10
"""Bytes of the largest note that is looked at: room for some 300 signatures."""
MAX_SIZE = 1 << 63
ED25519, COSIGNATURE = b"\x01", b"\x04"

_ORIGIN = re.compile(r"edgeswarm/([0-9a-f]{64})/(12D3KooW[1-9A-HJ-NP-Za-km-z]{44})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_DASH = "\u2014 "


class CheckpointRefused(MessageRefused):
    """A note that is not a checkpoint, or not its author's."""


@dataclass(frozen=True)
class Checkpoint:
    """A log's head: the name of the log, its size in entries and the 32-byte root over them.

    Raises CheckpointRefused for an origin that is not a ledger's name, and for numbers out of bounds.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        _names(self.origin)
        if not 0 <= self.size < MAX_SIZE or len(self.root) != HASH_BYTES:
            raise CheckpointRefused(f"checkpoint: a size of {self.size}, a root of {len(self.root)} bytes")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise CheckpointRefused("checkpoint: size 0 with a root that is not the empty tree's")

    @property
    def run(self) -> bytes:
        """The run's id, 32 bytes."""
        return bytes.fromhex(_names(self.origin)[0])

    @property
    def author(self) -> PeerID:
        """Whose log the origin names. Proves nothing; `read_checkpoint` does."""
        return _names(self.origin)[1]

    def body(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def origin_of(run: bytes, peer: PeerID) -> str:
    """The name of a peer's ledger in a run, and of its key."""
    return f"edgeswarm/{run.hex()}/{peer}"


def verifier_key(origin: str) -> str:
    """The author's key in the form that other tools take (signed-note, "verifier keys"): NAME+ID+KEY."""
    key = ED25519 + public_key_bytes(_names(origin)[1])
    return f"{origin}+{_key_id(origin, key).hex()}+{base64.b64encode(key).decode()}"


def write_checkpoint(checkpoint: Checkpoint, identity: Identity) -> str:
    """The signed note. Raises ValueError if the log is not the identity's: a peer signs for itself alone."""
    if checkpoint.author != identity.peer_id:
        raise ValueError(f"{identity.peer_id} cannot sign the head of {checkpoint.origin}")
    body = checkpoint.body()
    signature = identity.sign_raw(body.encode())
    return f"{body}\n{_line(checkpoint.origin, ED25519, identity.peer_id, signature)}"


def parse_checkpoint(text: str) -> Checkpoint:
    """What a note says, whoever wrote it. Proves nothing. Raises CheckpointRefused if it is malformed."""
    return _parsed(_split(text)[0])


def read_checkpoint(text: str, author: PeerID) -> Checkpoint:
    """The checkpoint in a note that `author` signed for its own log. Raises CheckpointRefused.

    Signatures of other keys are ignored, as signed-note demands; lines that are none are refused.
    """
    body, lines = _split(text)
    checkpoint = _parsed(body)
    if checkpoint.author != author:
        raise CheckpointRefused(f"checkpoint: of the log of {checkpoint.author}, not of {author}")
    wanted = _key_id(checkpoint.origin, ED25519 + public_key_bytes(author))
    found = [signature for name, key, signature in lines if (name, key) == (checkpoint.origin, wanted)]
    if not found:
        raise CheckpointRefused(f"checkpoint: {author} did not sign it (no signature with its key's id)")
    if not all(verify_raw(author, body.encode(), signature) for signature in found):
        raise CheckpointRefused(f"checkpoint: the signature on it is not that of {author}")
    return checkpoint


def note_body(text: str) -> str:
    """The three signed lines of a checkpoint's note, which a cosignature covers. Raises CheckpointRefused."""
    return _split(text)[0]


def cosign(body: str, identity: Identity, unix_seconds: int) -> str:
    """The line by which `identity` vouches for a checkpoint's lines; append it to the note.

    The witness must have checked the author's signature and the consistency with the last head it
    cosigned. Raises CheckpointRefused if `body` is no checkpoint, ValueError for a time out of bounds.
    """
    checkpoint = _parsed(body)
    if not 0 <= unix_seconds < MAX_SIZE:
        raise ValueError(f"a time of {unix_seconds} s")
    signature = identity.sign_raw(_cosigned(body, unix_seconds))
    name = origin_of(checkpoint.run, identity.peer_id)
    return _line(name, COSIGNATURE, identity.peer_id, unix_seconds.to_bytes(8, "big") + signature)


def read_cosignatures(text: str, peers: Iterable[PeerID]) -> dict[PeerID, int]:
    """Which of `peers` cosigned the checkpoint in a note, and when (Unix seconds; the last time of each).

    Other keys are ignored; a wrong cosignature of a known key refuses the note (CheckpointRefused), as
    the specification advises. The author's own signature is `read_checkpoint`'s to check.
    """
    body, lines = _split(text)
    run = _parsed(body).run
    keys: dict[tuple[str, bytes], PeerID] = {}
    for peer in peers:
        name = origin_of(run, peer)
        keys[name, _key_id(name, COSIGNATURE + public_key_bytes(peer))] = peer
    times: dict[PeerID, int] = {}
    for name, key, signature in lines:
        witness = keys.get((name, key))
        if witness is None:
            continue
        time = int.from_bytes(signature[:8], "big")
        fits = len(signature) == 72 and time < MAX_SIZE
        if not fits or not verify_raw(witness, _cosigned(body, time), signature[8:]):
            raise CheckpointRefused(f"checkpoint: the cosignature on it is not that of {witness}")
        times[witness] = max(time, times.get(witness, 0))
    return times


def _parsed(body: str) -> Checkpoint:
    lines = body.split("\n")
    if len(lines) != 4 or lines[3]:
        raise CheckpointRefused(
            f"checkpoint: {len(lines) - 1} lines of text; a ledger's has 3: origin, size and root"
        )
    if not _SIZE.fullmatch(lines[1]):
        raise CheckpointRefused(f"checkpoint: {lines[1][:40]!r} is not a size in decimal")
    return Checkpoint(lines[0], int(lines[1]), _base64(lines[2]))


def _split(text: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """A note's text and its signatures as (key name, key id, signature)."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise CheckpointRefused("note: not UTF-8") from None
    if size > MAX_NOTE:
        raise CheckpointRefused(f"note: {size} bytes, the largest has {MAX_NOTE}")
    body, separator, signatures = text.rpartition("\n\n")
    if not separator or not signatures.endswith("\n") or _CONTROL.search(text):
        raise CheckpointRefused(
            "note: it must be text, an empty line and signature lines, each ended by a newline (signed-note)"
        )
    return body + "\n", list(_signatures(signatures))


def _signatures(text: str) -> Iterator[tuple[str, bytes, bytes]]:
    for line in text[:-1].split("\n"):
        name, _, value = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not name or "+" in name or any(c.isspace() for c in name):
            raise CheckpointRefused(f"note: {line[:60]!r} is not a signature line")
        data = _base64(value)
        if len(data) < 5:
            raise CheckpointRefused(
                f"note: a signature of {len(data)} bytes; there are 4 of key id before it"
            )
        yield name, data[:4], data[4:]


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode(), validate=True)
    except ValueError:
        data = b""
    # Encoding again leaves one form: base64 has spare bits at its end.
    if not data or base64.b64encode(data).decode() != text:
        raise CheckpointRefused(f"note: {text[:60]!r} is not base64 (RFC 4648 section 4)")
    return data


def _names(origin: str) -> tuple[str, PeerID]:
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        raise CheckpointRefused(f"checkpoint: {origin[:160]!r} names no ledger (edgeswarm/RUN/PEER)")
    return match[1], match[2]


def _cosigned(body: str, unix_seconds: int) -> bytes:
    return f"cosignature/v1\ntime {unix_seconds}\n{body}".encode()


def _key_id(name: str, typed_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + typed_key).digest()[:4]


def _line(name: str, kind: bytes, peer: PeerID, signature: bytes) -> str:
    value = _key_id(name, kind + public_key_bytes(peer)) + signature
    return f"{_DASH}{name} {base64.b64encode(value).decode()}\n"
