"""How tests/vectors/secagg.json was made: `python -m tests.vectors.make_secagg`, run by hand, writes it anew.

Everything in it is fixed by the protocol and by the inputs that stand beside it. It changes only when the
protocol does, and with that goes a new `PROTOCOL_VERSION`. Bytes are lower-case hex; PeerIDs, names and
the `kind` of a disclosure are text; vectors are the bytes of their little-endian 16-bit integers.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from proto.canonical import Message, PeerID
from secagg.interface import Effect, SendPart, Tell
from secagg.keys import beacon_share, dealing_seed, pair_seed, public_key, seal, self_seed
from secagg.masks import SLACK, aes_keystream, chunk_key, chunk_keys_root
from secagg.messages import (
    PROTOCOL_VERSION,
    SEALED_BYTES,
    SHARE_BYTES,
    Disclosure,
    FinalSet,
    Opening,
    Part,
    PartSum,
    Ready,
    ReadySet,
    Receipt,
    Release,
    SetVote,
    ShareList,
    ShareLists,
    Shown,
    SurvivorSet,
    chunk_hashes,
    seed_commitment,
    session_id,
)
from secagg.shamir import split
from secagg.sharing import Sharing
from tests.secagg.session_network import CHUNK, KEYS, Cell, advert_of, secrets_of
from verify.statement import domain_of, open_signed, sign

FILE = Path(__file__).with_name("secagg.json")
IDENTITY_SEEDS = {bytes([100, index]) + bytes(30) for index in range(8)}
PEERS = sorted(KEYS)
SECRET, SESSION = bytes(range(32)), bytes(range(32, 64))


def made() -> dict[str, Any]:
    """The whole file."""
    return {
        "about": "Test vectors of edgeswarm's secure aggregation, made by tests/vectors/make_secagg.py. "
        "The secrets are fixed here so that they can be written down; a peer draws fresh ones for each "
        "session.",
        "version": PROTOCOL_VERSION,
        "derivations": derivations(),
        "masks": masks(),
        "shamir": [
            shared(SECRET, bytes(32), 1, 1),
            shared(SECRET, SESSION, 2, 3),
            shared(b"\xff" * 32, SESSION, 3, 5),
        ],
        "hashes": hashes(),
        "messages": [message_vector(message) for message in messages()],
        "sessions": [session("everyone survives"), session("a member drops out after masking", drops=True)],
    }


def derivations() -> dict[str, Any]:
    """Every key that is derived from a secret, in session SESSION."""
    dealer, holder = PEERS[:2]
    return {
        "secret": SECRET.hex(),
        "session": SESSION.hex(),
        "dealer": dealer,
        "holder": holder,
        "x25519_public_key": public_key(SECRET).hex(),
        "pair_seed": pair_seed(SECRET, SESSION, dealer, holder).hex(),
        "self_seed": self_seed(SECRET, SESSION).hex(),
        "beacon_share": beacon_share(SECRET).hex(),
        "dealing_seed": {kind: dealing_seed(SECRET, SESSION, kind).hex() for kind in ("mask", "seed")},
        "plain": bytes(range(2 * SHARE_BYTES)).hex(),
        "seal": seal(bytes(range(2 * SHARE_BYTES)), SECRET, SESSION, dealer, holder).hex(),
    }


def masks() -> dict[str, Any]:
    """Chunk keys of seed SECRET, the first 32 bytes of their keystreams, and roots over the first of them."""
    chunks = []
    for index in (0, 1, 2, 40_000):
        key, buffer = chunk_key(SECRET, index), bytearray(32 + SLACK)
        aes_keystream(key, memoryview(buffer))
        chunks.append({"index": index, "key": key.hex(), "keystream": buffer[:32].hex()})
    roots = {str(count): chunk_keys_root(SECRET, count).hex() for count in (1, 2, 3, 8)}
    return {"seed": SECRET.hex(), "chunks": chunks, "roots": roots}


def shared(secret: bytes, entropy: bytes, threshold: int, holders: int) -> dict[str, Any]:
    """One splitting of a secret."""
    shares = split(secret, threshold, holders, entropy)
    return {
        "secret": secret.hex(),
        "entropy": entropy.hex(),
        "threshold": threshold,
        "shares": [share.hex() for share in shares],
    }


def hashes() -> dict[str, Any]:
    """What stands in messages for something else."""
    adverts = {peer: advert_of(peer) for peer in PEERS[:2]}
    signed = {peer: sign(KEYS[peer], advert) for peer, advert in adverts.items()}
    both = {peer: (signed[peer], adverts[peer]) for peer in adverts}
    sharing = Sharing(PEERS[0], both, SESSION, secrets_of(PEERS[0]), 2, 1)
    share = bytes(range(SHARE_BYTES))
    return {
        "seed_commitment": {"seed": SECRET.hex(), "hash": seed_commitment(SECRET).hex()},
        "share_hash": [
            {
                "session": SESSION.hex(),
                "dealer": PEERS[0],
                "holder": PEERS[1],
                "kind": kind,
                "share": share.hex(),
                "hash": sharing.share_hash(PEERS[0], PEERS[1], kind, share).hex(),
            }
            for kind in ("mask", "seed")
        ],
        "session_id": {
            "adverts": [signed[peer].hex() for peer in sorted(adverts)],
            "hash": session_id(adverts[PEERS[0]], list(signed.values())).hex(),
        },
    }


def messages() -> list[Message]:
    """One of each kind, of two members; the statements inside are stand-ins."""
    one, two, three = (bytes([index]) * 32 for index in (1, 2, 3))
    named: dict[str, bytes] = {"session": SESSION}
    return [
        advert_of(PEERS[0]),
        ShareList(
            **named,
            sealed=(b"", bytes(SEALED_BYTES)),
            mask_shares=(one, two),
            seed_shares=(two, three),
            pair_roots=(bytes(32), three),
            threshold=2,
            chunks=1,
        ),
        ShareLists(**named, lists=(b"signed list", b"another")),
        Ready(**named, lists=one),
        ReadySet(**named, ready=(b"signed ready", b"another")),
        Part(**named, part=1, hashes=(one, two)),
        Receipt(**named, part=1, senders=tuple(PEERS[:2]), headers=(one, two)),
        SurvivorSet(**named, survivors=tuple(PEERS[:2]), receipts=(b"signed receipt", b"another")),
        SetVote(**named, survivor_set=one, seed=None, statements=()),
        SetVote(**named, survivor_set=one, seed=two, statements=(b"signed statement",)),
        FinalSet(**named, survivor_set=one, proposal=b"signed set", votes=(b"signed vote", b"another")),
        Release(**named, survivor_set=one, seed=two, shares=(bytes(SHARE_BYTES), b"")),
        Release(**named, survivor_set=one, seed=None, shares=(b"", bytes(SHARE_BYTES))),
        PartSum(**named, part=0, survivor_set=one, hashes=(two,)),
        Shown(**named, chunk=3, header=b"signed part", data=bytes(16)),
        Opening(**named, chunk=3, keys=(bytes(32), one), proofs=((), (two, three))),
        Disclosure(**named, kind="seal", key=one),
        Disclosure(**named, kind="mask", key=two),
    ]


def message_vector(message: Message) -> dict[str, Any]:
    """A message, its encoding, and the statement that the first peer makes of it."""
    return {
        "domain": message.DOMAIN,
        "fields": as_json(message.model_dump()),
        "encoded": message.encode().hex(),
        "digest": message.digest().hex(),
        "signed": sign(KEYS[PEERS[0]], message).hex(),
    }


def as_json(value: Any) -> Any:
    """Bytes as hex, tuples as lists."""
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {name: as_json(one) for name, one in value.items()}
        case tuple() | list():
            return [as_json(one) for one in value]
    return value


def session(name: str, drops: bool = False) -> dict[str, Any]:
    """A whole session of four; in one, a member goes with its last masked part not yet sent."""
    cell = Cell(4, attempt=int(drops))
    gone = cell.peers[2]
    told: dict[tuple[str, PeerID], bytes] = {}
    sent: list[int] = []

    def seen(peer: PeerID, effect: Effect) -> bool:
        if drops and peer == gone and isinstance(effect, SendPart):
            sent.append(effect.part)
            if len(sent) == 3:
                cell.dead.add(peer)
                return False
        if isinstance(effect, Tell):
            told[domain_of(effect.raw), peer] = effect.raw
        return True

    cell.on_effect = seen
    cell.run().assert_exact()
    alive = [peer for peer in cell.peers if peer not in cell.dead]
    done = [cell.completed()[peer] for peer in alive]
    assert done[0].survivors == tuple(alive)
    proposer = cell.peers[0]
    lists = open_signed(told["share-lists", proposer], ShareLists).message
    some = cell.sessions[proposer]
    return {
        "name": name,
        "minimum": cell.minimum,
        "threshold": some.terms.threshold,
        "chunk": CHUNK,
        "proposer": proposer,
        "members": {peer: member(cell, peer) for peer in cell.peers},
        "session": some.id.hex(),
        "share_lists": {open_signed(raw, ShareList).signer: raw.hex() for raw in lists.lists},
        "lists_digest": lists.digest().hex(),
        "masked": {
            peer: [digest.hex() for digest in chunk_hashes(cell.sessions[peer].update, CHUNK)]
            for peer in cell.peers
        },
        "survivors": alive,
        "final_set": told["final-set", proposer].hex(),
        "survivor_set": done[0].survivor_set.hex(),
        "releases": {peer: told["release", peer].hex() for peer in alive},
        "rebuilt_mask_keys": {peer: secrets_of(peer).mask.hex() for peer in sorted(cell.dead)},
        "sum": done[0].total.tobytes().hex(),
        "sum_hashes": [digest.hex() for digest in chunk_hashes(done[0].total, CHUNK)],
        "beacon": [share.hex() for share in done[0].beacon],
    }


def member(cell: Cell, peer: PeerID) -> dict[str, str]:
    """What one member brings."""
    (seed,) = (one for one in IDENTITY_SEEDS if KEYS[peer].from_seed(one).peer_id == peer)
    mine = secrets_of(peer)
    assert cell.updates[peer].dtype == np.dtype("<i2")
    return {
        "identity_seed": seed.hex(),
        "seal": mine.seal.hex(),
        "mask": mine.mask.hex(),
        "seed": mine.seed.hex(),
        "dealing": mine.dealing.hex(),
        "advert": sign(KEYS[peer], cell.sessions[peer].adverts[peer][1]).hex(),
        "update": cell.updates[peer].tobytes().hex(),
    }


def main() -> None:
    FILE.write_text(json.dumps(made(), indent=1) + "\n")


if __name__ == "__main__":
    main()
