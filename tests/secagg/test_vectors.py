"""The test vectors of `tests/vectors/secagg.json`: what another implementation must reproduce, we do."""

import json
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import secagg.messages
from proto.canonical import Message
from secagg.keys import (
    Secrets,
    beacon_share,
    dealing_seed,
    pair_seed,
    public_key,
    seal,
    self_seed,
    unseal,
)
from secagg.masks import add_masks, chunk_key, chunk_keys_root, sum_unmasked
from secagg.messages import (
    PROTOCOL_VERSION,
    Advert,
    FinalSet,
    Part,
    Receipt,
    Release,
    SetVote,
    ShareList,
    ShareLists,
    SurvivorSet,
    chunk_hashes,
    seed_commitment,
    session_id,
)
from secagg.parts import Cut
from secagg.shamir import combine, split
from secagg.sharing import Dealt, Recovery, Sharing
from tests.vectors.make_secagg import FILE, made
from verify.identity import Identity
from verify.statement import open_signed, sign

VECTORS: dict[str, Any] = json.loads(FILE.read_text())
KINDS: dict[str, type[Message]] = {
    kind.DOMAIN: kind
    for kind in vars(secagg.messages).values()
    if isinstance(kind, type) and issubclass(kind, Message) and "DOMAIN" in vars(kind)
}
RING = np.dtype("<i2")


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def test_the_file_is_what_the_code_makes_and_not_large() -> None:
    """If this fails, the protocol has changed: other versions of it are not understood any more."""
    assert json.loads(json.dumps(made())) == VECTORS, "python -m tests.vectors.make_secagg"
    assert VECTORS["version"] == PROTOCOL_VERSION
    assert len(FILE.read_bytes()) < 200_000


def test_derivations() -> None:
    v = VECTORS["derivations"]
    secret, session = unhex(v["secret"]), unhex(v["session"])
    dealer, holder, plain = v["dealer"], v["holder"], unhex(v["plain"])
    assert public_key(secret).hex() == v["x25519_public_key"]
    assert pair_seed(secret, session, dealer, holder).hex() == v["pair_seed"]
    assert pair_seed(secret, session, holder, dealer).hex() == v["pair_seed"]
    assert self_seed(secret, session).hex() == v["self_seed"]
    assert beacon_share(secret).hex() == v["beacon_share"]
    assert {kind: dealing_seed(secret, session, kind).hex() for kind in v["dealing_seed"]} == v[
        "dealing_seed"
    ]
    assert seal(plain, secret, session, dealer, holder).hex() == v["seal"]
    assert unseal(unhex(v["seal"]), secret, session, dealer, holder) == plain


def test_masks() -> None:
    v = VECTORS["masks"]
    seed = unhex(v["seed"])
    for chunk in v["chunks"]:
        key = chunk_key(seed, chunk["index"])
        assert key.hex() == chunk["key"]
        stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(32))
        assert stream.hex() == chunk["keystream"]
        vector = np.zeros(16, RING)
        add_masks(vector, chunk["index"], [(seed, 1)], 16)
        assert vector.tobytes().hex() == chunk["keystream"]
    assert {count: chunk_keys_root(seed, int(count)).hex() for count in v["roots"]} == v["roots"]


@pytest.mark.parametrize("v", VECTORS["shamir"], ids=lambda v: f"{v['threshold']} of {len(v['shares'])}")
def test_shares(v: dict[str, Any]) -> None:
    shares = split(unhex(v["secret"]), v["threshold"], len(v["shares"]), unhex(v["entropy"]))
    assert [share.hex() for share in shares] == v["shares"]
    last = dict(list(enumerate(map(unhex, v["shares"])))[-v["threshold"] :])
    assert combine(last).hex() == v["secret"]


def test_hashes() -> None:
    v = VECTORS["hashes"]
    assert seed_commitment(unhex(v["seed_commitment"]["seed"])).hex() == v["seed_commitment"]["hash"]
    signed = [unhex(raw) for raw in v["session_id"]["adverts"]]
    opened = [open_signed(raw, Advert) for raw in signed]
    for one in opened:
        assert session_id(one.message, signed[::-1]).hex() == v["session_id"]["hash"]
    adverts = {one.signer: (one.raw, one.message) for one in opened}
    for hashed in v["share_hash"]:
        nobody = Secrets(*[bytes(32)] * 4)
        sharing = Sharing(hashed["dealer"], adverts, unhex(hashed["session"]), nobody, 2, 1)
        share = unhex(hashed["share"])
        found = sharing.share_hash(hashed["dealer"], hashed["holder"], hashed["kind"], share)
        assert found.hex() == hashed["hash"]


def from_json(value: Any) -> Any:
    """Text is hex of bytes, but for PeerIDs and the kind of a disclosure."""
    match value:
        case str():
            return value if value.startswith("12D3KooW") or value in ("seal", "mask") else unhex(value)
        case list():
            return tuple(from_json(one) for one in value)
        case dict():
            return {name: from_json(one) for name, one in value.items()}
    return value


@pytest.mark.parametrize("v", VECTORS["messages"], ids=lambda v: v["domain"])
def test_messages(v: dict[str, Any]) -> None:
    kind = KINDS[v["domain"]]
    message = kind.model_validate(from_json(v["fields"]))
    assert message.encode().hex() == v["encoded"]
    assert message.digest().hex() == v["digest"]
    assert kind.parse(unhex(v["encoded"])) == message
    assert open_signed(unhex(v["signed"]), kind).message == message


def test_there_is_a_vector_of_every_message() -> None:
    assert {v["domain"] for v in VECTORS["messages"]} == KINDS.keys() - {"energy-claim"}  # inside an advert


@pytest.mark.parametrize("v", VECTORS["sessions"], ids=lambda v: v["name"])
def test_a_whole_session_replayed_from_its_inputs(v: dict[str, Any]) -> None:
    """Step by step from the members' secrets, without the session's state machine."""
    members, chunk, session = sorted(v["members"]), v["chunk"], unhex(v["session"])
    identities = {m: Identity.from_seed(unhex(v["members"][m]["identity_seed"])) for m in members}
    assert {m: identity.peer_id for m, identity in identities.items()} == {m: m for m in members}
    names = ("seal", "mask", "seed", "dealing")
    secrets = {m: Secrets(*(unhex(v["members"][m][name]) for name in names)) for m in members}
    updates = {m: np.frombuffer(unhex(v["members"][m]["update"]), RING).copy() for m in members}
    size = len(updates[members[0]])

    # Adverts
    adverts = {}
    for m in members:
        opened = open_signed(unhex(v["members"][m]["advert"]), Advert)
        assert opened.signer == m
        assert sign(identities[m], opened.message) == opened.raw
        adverts[m] = (opened.raw, opened.message)
        assert opened.message.seal_key == public_key(secrets[m].seal)
        assert opened.message.mask_key == public_key(secrets[m].mask)
        assert opened.message.seed_commitment == seed_commitment(secrets[m].seed)
    assert session_id(adverts[members[0]][1], [raw for raw, _ in adverts.values()]) == session

    # Share lists
    chunks = -(-size // chunk)
    sharings = {m: Sharing(m, adverts, session, secrets[m], v["threshold"], chunks) for m in members}
    lists = {m: sign(identities[m], sharings[m].deal()) for m in members}
    assert {m: raw.hex() for m, raw in lists.items()} == v["share_lists"]
    assert (
        ShareLists(session=session, lists=tuple(lists[m] for m in members)).digest().hex()
        == v["lists_digest"]
    )
    dealt = {m: Dealt(lists[m], open_signed(lists[m], ShareList).message) for m in members}
    assert all(sharings[m].accept(dealt, b"") == {} for m in members)
    assert sharings[members[0]].differing_pairs() == []

    # Masked parts
    cut = Cut(size, members, members, chunk)
    masked = {m: updates[m].copy() for m in members}
    sent: dict[tuple[int, str], Part] = {}
    for m in members:
        hashes: list[bytes] = []
        for part in cut.parts:
            run = masked[m][cut.slices[part]]
            digests = add_masks(run, cut.first(part), sharings[m].masks(), chunk)
            sent[part, m] = Part(session=session, part=part, hashes=digests)
            hashes += digests
        assert [digest.hex() for digest in hashes] == v["masked"][m]

    # The final set
    survivors = v["survivors"]
    final = open_signed(unhex(v["final_set"]), FinalSet)
    assert final.signer == v["proposer"]
    proposed = open_signed(final.message.proposal, SurvivorSet)
    assert proposed.signer == v["proposer"]
    assert list(proposed.message.survivors) == survivors
    assert proposed.message.digest() == final.message.survivor_set == unhex(v["survivor_set"])
    receipts = [open_signed(raw, Receipt) for raw in proposed.message.receipts]
    assert [receipt.message.part for receipt in receipts] == cut.parts
    for receipt in receipts:
        assert set(survivors) <= set(receipt.message.senders)
        for sender, digest in zip(receipt.message.senders, receipt.message.headers, strict=True):
            assert digest == sent[receipt.message.part, sender].digest()
    votes = [open_signed(raw, SetVote) for raw in final.message.votes]
    assert all(vote.message.survivor_set == final.message.survivor_set for vote in votes)
    assert len({vote.signer for vote in votes}) == len(votes) >= v["minimum"]

    # Releases
    recovery = Recovery(sharings[members[0]], final.message.survivor_set, survivors, final.message.proposal)
    for m, raw in v["releases"].items():
        message = sharings[m].release(final.message.survivor_set, survivors)
        assert sign(identities[m], message).hex() == raw
        assert recovery.add(m, open_signed(unhex(raw), Release).message, unhex(raw)) == []
    assert recovery.complete
    assert {m: key.hex() for m, key in recovery.keys.items()} == v["rebuilt_mask_keys"]

    # The sum
    total = np.empty(size, RING)
    for part in cut.parts:
        where = cut.slices[part]
        inputs = [masked[m][where] for m in survivors]
        sum_unmasked(inputs, cut.first(part), recovery.masks(), chunk, total[where])
    assert total.tobytes().hex() == v["sum"]
    assert np.array_equal(total, np.sum([updates[m] for m in survivors], axis=0, dtype=RING))
    assert [digest.hex() for digest in chunk_hashes(total, chunk)] == v["sum_hashes"]
    assert [beacon_share(recovery.seeds[m]).hex() for m in survivors] == v["beacon"]


def test_one_session_loses_a_member_whose_masks_are_then_taken_off() -> None:
    whole, short = VECTORS["sessions"]
    assert whole["rebuilt_mask_keys"] == {}
    assert len(whole["survivors"]) == 4
    (gone,) = short["rebuilt_mask_keys"]
    assert sorted([gone, *short["survivors"]]) == sorted(short["members"])
    assert short["rebuilt_mask_keys"][gone] == short["members"][gone]["mask"]
    assert whole["session"] != short["session"]
    for peer in whole["masked"]:
        assert not set(whole["masked"][peer]) & set(short["masked"][peer])
