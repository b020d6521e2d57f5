"""Every parser of a peer's bytes takes an input or refuses it by name: never another exception.

What is taken is canonical: encoded again it is the same bytes. Inputs are valid ones, mutated (mutate.py).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proto.canonical import Message, plain_cbor
from proto.merkle import verify_consistency, verify_inclusion
from swarm.data import Opening, commit, verify_opening
from swarm.manifest import parse_manifest
from swarm.net.peer_record import open_peer_record
from swarm.snapshot import Download, PieceRefused, SnapshotFile, index_name, path_of
from tests.fuzz import seeds
from tests.fuzz.mutate import MORE, Mutator, canonical, text_of, try_all
from tests.fuzz.seeds import examples, message_classes
from tests.verify.chain import KEYS, PEERS
from verify.checkpoint import parse_checkpoint, read_checkpoint, read_cosignatures
from verify.identity import Identity, certificate_owner, public_key_bytes, verify_raw
from verify.ledger import Entry
from verify.statement import domain_of, open_signed, sign

pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
"""Of serial numbers that are not positive: read today, refused by a later version of the library."""

CLASSES = message_classes()
LISTED = [f"{kind.__module__}.{kind.__qualname__}" for kind in CLASSES]


# -- messages and statements ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSES, ids=LISTED)
def test_a_message_is_taken_as_it_would_be_written_or_refused_by_name(kind: type[Message]) -> None:
    mutator = Mutator(f"message {kind.__qualname__}", examples(kind))
    mutator.seeds += [raw for other in CLASSES[:3] for raw in examples(other)[:1]]
    try_all(canonical(kind.parse), mutator.inputs(2_800)).check(various=12)


def test_there_are_messages_of_all_packages_to_try() -> None:
    assert len(CLASSES) >= 37
    assert {kind.__module__.split(".")[0] for kind in CLASSES} == {"proto", "secagg", "swarm", "verify"}
    assert all(kind.parse(raw).encode() == raw for kind in CLASSES for raw in examples(kind))


def test_plain_cbor_is_read_or_refused() -> None:
    raws = [raw for kind in CLASSES for raw in examples(kind)[:2]]
    try_all(plain_cbor, Mutator("cbor", raws).inputs(30_000)).check(various=12)


def signed_examples(kind: type[Message]) -> list[bytes]:
    return [sign(KEYS[PEERS[at % 4]], kind.parse(raw)) for at, raw in enumerate(examples(kind))]


def test_a_statement_is_opened_as_it_was_signed_or_refused() -> None:
    """Half of what was changed is signed anew, so that it gets to what is inside."""
    for kind in CLASSES:
        if kind.MOST_BYTES <= 2 << 20:
            mutator = Mutator(f"statement {kind.__qualname__}", signed_examples(kind), KEYS)

            def opened(raw: bytes, kind: type[Message] = kind) -> None:
                signed = open_signed(raw, kind)
                assert signed.raw == raw
                assert kind.parse(signed.message.encode()) == signed.message
                assert signed.signer in KEYS

            try_all(opened, mutator.inputs(250)).check(various=10)


def test_a_statements_domain_is_read_or_refused() -> None:
    raws = [raw for kind in CLASSES[:12] for raw in signed_examples(kind)[:2]]
    try_all(domain_of, Mutator("domain", raws).inputs(100_000)).check(various=6)


# -- keys, certificates, records of peers -----------------------------------------------------------------


def test_a_peer_id_is_a_key_or_refused() -> None:
    def named(raw: bytes) -> None:
        name = raw.decode(errors="replace")
        assert len(public_key_bytes(name)) == 32
        assert not verify_raw(name, b"data", bytes(64))

    outcomes = try_all(named, Mutator("peer id", [peer.encode() for peer in PEERS[:4]]).inputs(50_000))
    assert outcomes.taken >= 4
    assert outcomes.refused > 40_000


def test_a_certificate_proves_whose_it_is_or_is_refused() -> None:
    der, pem = [seeds.certificate()], [seeds.certificate_pem()]

    def owned(raw: bytes) -> None:
        assert certificate_owner(raw) == PEERS[0]

    try_all(owned, Mutator("certificate", der).inputs(20_000)).check(various=5)
    try_all(owned, Mutator("certificate pem", pem).inputs(5_000)).check(various=2)


def test_a_certificate_that_its_key_signed_still_needs_its_peers_word() -> None:
    """Odd extensions under a true signature of the P-256 key, which anybody can make."""
    mutator = Mutator("extensions", [seeds.peers_word(KEYS[PEERS[0]])])

    def owned(raw: bytes) -> None:
        assert certificate_owner(raw) in PEERS[:2]

    made = (seeds.odd_certificate(mutator, KEYS[PEERS[1]]) for _ in range(2_000 * MORE))
    try_all(owned, [*made]).check(various=8, taken=50)


def test_a_record_of_a_peer_is_its_own_or_refused() -> None:
    raw = sign(KEYS[PEERS[0]], seeds.peer_record())

    def opened(raw: bytes) -> None:
        assert open_peer_record(raw).signer == PEERS[0]

    try_all(opened, Mutator("peer record", [raw], KEYS).inputs(10_000)).check(various=15)


def test_a_key_file_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    KEYS[PEERS[0]].save(path)
    whole = path.read_bytes()

    def loaded(raw: bytes) -> None:
        path.write_bytes(raw)
        assert Identity.load(path).peer_id == PEERS[0]

    outcomes = try_all(loaded, Mutator("key file", [whole]).inputs(600))
    assert outcomes.taken
    assert outcomes.refused > 500


# -- heads, entries, proofs -------------------------------------------------------------------------------


def test_a_checkpoint_is_read_or_refused() -> None:
    def body(text: str) -> None:
        found = parse_checkpoint(text)
        assert text.startswith(found.body())

    try_all(text_of(body), Mutator("checkpoint", seeds.notes()).inputs(100_000)).check(various=8)


def test_a_checkpoint_that_is_read_was_signed() -> None:
    authentic = {parse_checkpoint(raw.decode()) for raw in seeds.notes()}

    def signed(text: str) -> None:
        assert read_checkpoint(text, PEERS[0]) in authentic

    try_all(text_of(signed), Mutator("signed checkpoint", seeds.notes()).inputs(20_000)).check(various=9)


def test_a_cosignature_that_is_read_was_made() -> None:
    times = {1_700_000_000 + size % 100 for size in (77, 1 << 40)}

    def cosigned(text: str) -> None:
        found = read_cosignatures(text, PEERS[1:5])
        assert set(found) <= set(PEERS[1:4])
        assert set(found.values()) <= times

    try_all(text_of(cosigned), Mutator("cosigned", seeds.notes()).inputs(20_000)).check(various=8)


def test_an_entry_of_a_ledger_is_read_or_refused() -> None:
    mutator = Mutator("entry", [*examples(Entry)[:3], Entry.of("x", b"\x84" * 60).encode()])
    try_all(canonical(Entry.parse), mutator.inputs(100_000)).check(various=15)


def test_proofs_are_true_or_false_whatever_a_peer_sends() -> None:
    mutator = Mutator("proof", [bytes(32) * 3])
    for raw in mutator.inputs(20_000):
        proof = [raw[at : at + 32] for at in range(0, len(raw), 32)]
        numbers = [mutator.random.choice((0, 1, 2, 3, 4, 5, 7, 8, 1 << 63, (1 << 64) - 1)) for _ in range(2)]
        assert verify_inclusion(raw[:32], numbers[0], numbers[1], proof, bytes(32)) in (True, False)
        assert verify_consistency(numbers[0], numbers[1], raw[:32], bytes(32), proof) in (True, False)


# -- manifests ----------------------------------------------------------------------------------------------

MANIFEST = b"""# a run
[run]
name = "demo 1"
rounds = 20
min_peers = 4
heldout_loss = 2.5
admission = "invited"
stewards = ["%s"]
recovery_threshold = 1
founding_peers = ["%s", "%s"]
[model]
preset = "tiny"
[data]
mode = "own"
source = "text.txt"
sequence_length = 64
[work]
slices = 4
window_seconds = 2.5
[outer]
betas = [0.9, 0.95]
[aggregation]
mode = "secure"
ring_bits = 16
levels = 0
largest_cell = 16
[verification]
rate = 0.5
[membership]
suspend_after = 3
""" % tuple(peer.encode() for peer in PEERS[:3])

ODD_TOML = [
    b"0x" + b"f" * 6_000,
    b"-" + b"9" * 5_000,
    b"1e999",
    b"nan",
    b"1979-05-27T07:32:00Z",
    b"[[[[[]]]]]",
    b'{a = {b = 1}, "" = []}',
    b'"\\u001b[2J\\u0000"',
    b"true",
    b"0",
    b"-1",
    b"9223372036854775808",
    b"0.1e-400",
]


def manifests(count: int) -> Any:
    mutator = Mutator("manifest", [MANIFEST, b""])
    yield from mutator.inputs(count)
    lines = MANIFEST.split(b"\n")
    for at, line in enumerate(lines):
        key, equals, _ = line.partition(b"=")
        for odd in ODD_TOML if equals else ():
            yield b"\n".join([*lines[:at], key + b"= " + odd, *lines[at + 1 :]])
            yield b"\n".join([*lines[:at], odd[:60] + b" = 1", *lines[at:]])


def test_a_manifest_is_read_or_every_reason_is_named() -> None:
    outcomes = try_all(parse_manifest, manifests(4_000), longest=40_000)
    outcomes.check(various=100, taken=100)


def test_a_manifest_of_nothing_but_faults_is_refused_in_few_words() -> None:
    """A refusal costs no more than reading: it lists the first faults, not 9,000 of them."""
    for raw in (
        b"".join(b"k%d=1\n" % at for at in range(7_000)),
        b"".join(b"[k%d]\n" % at for at in range(7_000)),
        b"[run]\n" + b"".join(b"k%d=1\n" % at for at in range(7_000)),
    ):
        assert try_all(parse_manifest, [raw], longest=8_000).refused == 1


# -- snapshots ----------------------------------------------------------------------------------------------


def test_a_snapshots_index_is_the_one_asked_for_or_refused(tmp_path: Path) -> None:
    """Half of the names are those of the changed index: a quorum may have agreed on it."""
    snapshot, layout = seeds.small_snapshot()
    mutator = Mutator("index", [snapshot.index.encode()])

    def offered(raw: bytes) -> None:
        name = index_name(raw) if mutator.random.random() < 0.9 else snapshot.hash
        download = Download(tmp_path, name, raw, layout)
        assert download.index.encode() == raw
        try:
            download.offer(0, raw)
        except PieceRefused:
            assert download.wanted() == [0]
        download.path.with_suffix(".partial").unlink()

    try_all(offered, mutator.inputs(5_000)).check(various=10)


def test_a_stored_snapshot_is_read_or_refused(tmp_path: Path) -> None:
    snapshot, _ = seeds.small_snapshot()
    whole = snapshot.write(tmp_path).read_bytes()
    mutator = Mutator("snapshot", [whole])
    path = path_of(tmp_path, snapshot.hash)
    head = 8 + len(snapshot.index.encode())

    def stored(raw: bytes) -> None:
        path.write_bytes(raw)
        length = int.from_bytes(raw[:8], "little")
        name = index_name(raw[8 : 8 + length]) if mutator.random.random() < 0.7 else snapshot.hash
        with SnapshotFile(path, name) as file:
            found = file.snapshot()
            assert found.index.encode() == file.raw_index
            assert file.read_piece(0) == raw[8 + len(file.raw_index) :][: 1 << 20]

    def changed() -> Any:
        yield whole
        for raw in Mutator("snapshot head", [whole[:head]]).inputs(400):
            yield raw + whole[head:]
            yield len(raw[8:]).to_bytes(8, "little") + raw[8:] + whole[head:]
        yield from mutator.inputs(200)

    try_all(stored, changed()).check(various=6)


# -- own data -----------------------------------------------------------------------------------------------


def test_an_opened_sequence_was_committed_to_or_is_refused() -> None:
    text = np.arange(7 * 8, dtype=np.int32).reshape(7, 8)
    own = commit(text, bytes(32))

    def opened(raw: bytes) -> None:
        opening = Opening.parse(raw)
        ids = verify_opening(opening, root=own.root, count=own.count, length=8, vocabulary=56)
        assert np.array_equal(ids, text[opening.index])

    mutator = Mutator("sequence", own.open_all(range(7)))
    try_all(opened, mutator.inputs(30_000)).check(various=15)
