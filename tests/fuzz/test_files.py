"""Files that others made or that a disk damaged: a ledger's database, an exported ledger. Read or refused."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from proto.merkle import leaf_hash, verify_consistency, verify_inclusion
from tests.fuzz import seeds
from tests.fuzz.mutate import MORE, Mutator, Outcomes, try_all
from tests.verify.chain import KEYS, PEERS
from verify.checkpoint import Checkpoint, origin_of, write_checkpoint
from verify.ledger import Entry, Ledger
from verify.tiles import ExportedLedger, export

SIZE = 300
LARGE = bytes(range(256)) * 200
ENTRIES = [("note", b"entry %d" % at) for at in range(SIZE - 1)] + [("evidence", LARGE)]
RIGHT = [Entry.of(kind, content).encode() for kind, content in ENTRIES]


@lru_cache(maxsize=1)
def database() -> bytes:
    """A ledger's file, whole."""
    db = sqlite3.connect(":memory:")
    ledger = Ledger(":memory:", PEERS[0], seeds.RUN)
    ledger.append(ENTRIES)
    ledger._db.backup(db)
    return db.serialize()


def is_shown(finding: str) -> bool:
    """Whether a finding can be shown to anybody: it steers no terminal."""
    return 0 < len(finding) < 1_000 and finding.replace("\n", "").isprintable()


def use(ledger: Ledger | ExportedLedger, random: Callable[[], float], clean: bool = True) -> None:
    """Everything a reader asks, and what must be true of each answer; `clean`: also of the proofs."""
    size, top = ledger.head()
    start = int(random() * (size + 2))
    for number, raw in enumerate(ledger.entries(start, 8), start):
        proof = ledger.inclusion(number, size)
        assert verify_inclusion(leaf_hash(raw), number, size, proof, top) or not clean
    old = int(random() * (size + 2))
    proof = ledger.consistency(old, size)
    assert verify_consistency(old, size, ledger.root(old), top, proof) or not clean
    content = ledger.large(RIGHT_DIGEST)
    assert content in (None, LARGE)


RIGHT_DIGEST = Entry.parse(RIGHT[-1]).sha256


# -- the database -------------------------------------------------------------------------------------------


def read_database(path: Path, random: Callable[[], float]) -> None:
    ledger = Ledger(path, PEERS[0] if random() < 0.5 else None, seeds.RUN, read_only=random() < 0.5)
    try:
        findings = ledger.check()
        assert all(is_shown(finding) for finding in findings), findings
        use(ledger, random, clean=not findings)
        for kind in ("note", "evidence"):
            last = ledger.last(kind)
            assert last is None or isinstance(last, bytes)
        assert ledger.has(b"entry 3") in (True, False)
        assert all(isinstance(digest, bytes) for digest in ledger.large_digests())
        ledger.large_piece(RIGHT_DIGEST, 0)
        if not ledger.read_only and random() < 0.2:
            ledger.append([("note", b"one more"), ("note", LARGE + b"!")])
            ledger.forget_large(10)
        assert findings or ledger.entries(0, SIZE) == RIGHT
    finally:
        ledger.close()


def test_a_damaged_database_of_a_ledger_is_read_or_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "ledger.sqlite", database()
    mutator = Mutator("database", [whole])

    def damaged(raw: bytes) -> None:
        for name in tmp_path.iterdir():
            name.unlink()
        path.write_bytes(raw)
        read_database(path, mutator.random.random)

    def changed() -> Iterator[bytes]:
        yield whole
        for _ in range(150 * MORE):
            raw = bytearray(whole)
            for _ in range(mutator.random.choice((1, 1, 4, 40))):
                at = mutator.random.randrange(len(raw) if mutator.random.random() < 0.7 else 2_000)
                raw[at] = mutator.random.randrange(256)
            yield bytes(raw) if mutator.random.random() < 0.9 else mutator.bent(whole)

    try_all(damaged, changed()).check(various=4)


CELLS = (None, 0, -1, 70_000, 1 << 62, 1.5, "text\x1b[2J", "", b"", bytes(32), b"\xff" * 33)


def test_a_database_with_other_values_in_its_cells_is_read_or_refused(tmp_path: Path) -> None:
    """SQLite takes any type in any column: whoever hands over a state folder chose them."""
    path, whole = tmp_path / "ledger.sqlite", database()
    mutator = Mutator("cells", [b"x"])
    choose = mutator.random
    outcomes = Outcomes()
    for _ in range(150 * MORE):
        for name in tmp_path.iterdir():
            name.unlink()
        path.write_bytes(whole)
        with sqlite3.connect(path) as db:
            db.execute("pragma ignore_check_constraints = 1")
            table = choose.choice(("about", "head", "entry", "seen", "latest", "large"))
            column = choose.choice([row[1] for row in db.execute(f"pragma table_info({table})")])
            rows = choose.choice(("1", "rowid = 3" if table in ("entry", "large") else "1", "1"))
            try:
                db.execute(
                    f"update or replace {table} set {column} = ? where {rows}", (choose.choice(CELLS),)
                )
            except sqlite3.Error:
                continue
        db.close()
        found = try_all(lambda _: read_database(path, choose.random), [b""])
        outcomes.taken += found.taken
        outcomes.refused += found.refused
        outcomes.reasons |= found.reasons
    outcomes.check(various=8)


# -- the export ---------------------------------------------------------------------------------------------


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder that a peer exported."""
    ledger = Ledger(":memory:", PEERS[0], seeds.RUN)
    ledger.append(ENTRIES)
    head = Checkpoint(origin_of(seeds.RUN, PEERS[0]), *ledger.head())
    export(ledger, tmp_path / "export", write_checkpoint(head, KEYS[PEERS[0]]), {"genesis": b"genesis"})
    return tmp_path / "export"


def read_export(folder: Path, random: Callable[[], float]) -> None:
    ledger = ExportedLedger(folder)
    assert all(is_shown(finding) for finding in ledger.check())
    use(ledger, random)
    if (ledger.size, ledger.checkpoint.root) == (SIZE, RIGHT_ROOT):
        assert all(raw == RIGHT[at] for at, raw in enumerate(ledger.entries(0, SIZE)))
    ledger.file("genesis")


def right_root() -> bytes:
    ledger = Ledger(":memory:", PEERS[0], seeds.RUN)
    ledger.append(ENTRIES)
    return ledger.head()[1]


RIGHT_ROOT = right_root()


def test_a_changed_export_is_read_or_refused(exported: Path, tmp_path: Path) -> None:
    """One file changed, gone, moved, or of another kind; heads of any size, signed by their author."""
    files = sorted(path.relative_to(exported) for path in exported.rglob("*") if path.is_file())
    contents = [(exported / name).read_bytes() for name in files]
    mutator = Mutator("export", contents)
    choose = mutator.random

    def change(folder: Path) -> None:
        name, raw = choose.choice([*zip(files, contents, strict=True)])
        path = folder / name
        if not path.is_file() or path.is_symlink():
            return  # changed before
        match choose.randrange(8):
            case 0:
                path.unlink()
            case 1:
                path.replace(folder / choose.choice(files[:3]))
            case 2:
                path.unlink()
                path.mkdir()
            case 3:
                path.unlink()
                path.symlink_to(choose.choice(("/dev/zero", "genesis", "/etc/passwd", name.name)))
            case 4:
                (folder / "large" / choose.choice(ODD_NAMES)).write_bytes(b"odd")
            case 5:
                size = choose.choice((0, 1, 255, 256, 257, 299, 301, 65_536, 1 << 40, (1 << 63) - 1))
                top = RIGHT_ROOT if size else bytes.fromhex(EMPTY)
                head = Checkpoint(origin_of(seeds.RUN, PEERS[0]), size, top)
                (folder / "checkpoint").write_text(write_checkpoint(head, KEYS[PEERS[0]]), newline="")
            case _:
                path.write_bytes(mutator.bent(raw))

    folder = tmp_path / "changed"

    def changed(_: bytes) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(exported, folder)
        for _ in range(choose.choice((1, 1, 2))):
            change(folder)
        read_export(folder, choose.random)

    outcomes = try_all(changed, [b""] * 200 * MORE)
    assert outcomes.taken + outcomes.refused == 200 * MORE
    assert len(outcomes.reasons) >= 5, outcomes.reasons
    assert outcomes.taken > 10


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ODD_NAMES = ("a", "A" * 64, "0" * 64, "zz" * 32, "\x1b[2J", "\udcff\udcfe", "½" * 64, "a\nb")
