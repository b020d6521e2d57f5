"""The ledger: what was acknowledged survives every kill, what is read is right, what was changed is found."""

import doctest
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.errors import MessageRefused
from proto.merkle import leaf_hash, verify_consistency, verify_inclusion
from verify import ledger as module
from verify.identity import Identity
from verify.ledger import INLINE, PIECE, Entry, Ledger, LedgerFailed, NotInLedger

RUN = bytes(range(32))
ALICE, BOB = (Identity.from_seed(bytes(31) + bytes([n])).peer_id for n in range(2))
BIG = [bytes([n]) * (INLINE + n) for n in range(1, 5)]
KINDS = ("advert", "vote", "record", "part-sum")


def content(number: int) -> bytes:
    return b"content %d" % number * (number % 7)


def items(start: int, end: int) -> list[tuple[str, bytes]]:
    return [(KINDS[number % 3], content(number)) for number in range(start, end)]


def expected(start: int, end: int) -> list[bytes]:
    return [Entry.of(kind, data).encode() for kind, data in items(start, end)]


def by_the_rfc(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word for word."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + by_the_rfc(leaves[:half]) + by_the_rfc(leaves[half:])).digest()


def path_by_the_rfc(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162 section 2.1.3.1, word for word."""
    if len(leaves) == 1:
        return []
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if index < half:
        return [*path_by_the_rfc(index, leaves[:half]), by_the_rfc(leaves[half:])]
    return [*path_by_the_rfc(index - half, leaves[half:]), by_the_rfc(leaves[:half])]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    log = Ledger(tmp_path / "ledger.sqlite", ALICE, RUN)
    yield log
    log.close()


def test_the_example_in_the_documentation_runs() -> None:
    assert doctest.testmod(module).failed == 0


# -- what an entry is -------------------------------------------------------------------------------------


@given(st.from_regex(module.KIND, fullmatch=True), st.integers(0, 300) | st.integers(INLINE - 3, INLINE + 3))
def test_an_entry_in_the_log_is_the_canonical_message(kind: str, size: int) -> None:
    data = bytes(size)
    log = Ledger(":memory:", None, RUN)
    log.append([(kind, data)])
    (raw,) = log.entries(0, 1)
    entry = Entry.parse(raw)
    assert raw == entry.encode() == Entry.of(kind, data).encode()
    assert (entry.kind, entry.size, entry.sha256) == (kind, size, hashlib.sha256(data).digest())
    assert entry.content == (data if size <= INLINE else None)
    assert log.large(entry.sha256) == (data if size > INLINE else None)
    assert log.head() == (1, leaf_hash(raw))


def test_the_largest_entry_fits_the_tiles_that_other_tools_read() -> None:
    assert len(Entry.of("k" * 32, bytes(INLINE)).encode()) <= 65_535


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": bytes(32)},
        {"size": 4},
        {"content": None},
        {"content": b"other"},
        {"kind": ""},
        {"kind": "Vote"},
        {"kind": "vote\n"},
        {"kind": "v" * 33},
        {"size": INLINE + 1},
        {"size": -1},
        {"size": module.LARGEST + 1, "content": None},
    ],
)
def test_an_entry_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    fields = Entry.of("vote", b"hello").model_dump()
    raw = Entry.model_construct(**(fields | change)).encode()
    with pytest.raises(MessageRefused, match="entry"):
        Entry.parse(raw)


def test_what_is_no_entry_is_refused_before_anything_is_written(ledger: Ledger) -> None:
    for bad in ([("vote", b"good"), ("Vote", b"")], [("vote", b"good"), ("", b"")], [("v" * 33, b"")]):
        with pytest.raises(ValueError, match="no kind"):
            ledger.append(bad)
    with pytest.raises(ValueError, match="largest"):
        ledger.append([("vote", b"good"), ("evidence", bytes(module.LARGEST + 1))])
    assert ledger.size == 0
    assert not ledger.has(b"good")


# -- the tree ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=5), st.data())
def test_roots_and_proofs_are_the_rfcs_however_the_entries_came(
    batches: list[int], data: st.DataObject
) -> None:
    log, size = Ledger(":memory:", None, RUN), 0
    for batch in batches:
        assert log.append(items(size, size + batch)) == size + batch
        size += batch
    raw = expected(0, size)
    leaves = [leaf_hash(entry) for entry in raw]
    assert log.head() == (log.size, log.root(size)) == (size, by_the_rfc(leaves))
    part = data.draw(st.integers(0, size))
    assert log.root(part) == by_the_rfc(leaves[:part])
    old = data.draw(st.integers(0, part))
    proof = log.consistency(old, part)
    assert verify_consistency(old, part, by_the_rfc(leaves[:old]), by_the_rfc(leaves[:part]), proof)
    if part:
        index = data.draw(st.integers(0, part - 1))
        assert log.inclusion(index, part) == path_by_the_rfc(index, leaves[:part])
        assert verify_inclusion(leaves[index], index, part, log.inclusion(index, part), log.root(part))
    assert log.check() == []


def test_a_proof_reads_in_proportion_to_the_logarithm(ledger: Ledger) -> None:
    size = 5_000 + 4_095
    ledger.append(items(0, size))
    statements: list[str] = []
    ledger._db.set_trace_callback(statements.append)
    for work in (
        lambda: ledger.inclusion(1_234, size),
        lambda: ledger.consistency(4_095, size - 1),
        lambda: ledger.root(8_191),
    ):
        statements.clear()
        work()
        assert 0 < len(statements) <= 2 * size.bit_length()


def test_indexes_and_sizes_that_are_not_there_are_named(ledger: Ledger) -> None:
    ledger.append(items(0, 5))
    for call in (
        lambda: ledger.root(6),
        lambda: ledger.root(-1),
        lambda: ledger.inclusion(5, 5),
        lambda: ledger.inclusion(-1, 5),
        lambda: ledger.inclusion(0, 1 << 64),
        lambda: ledger.consistency(3, 2),
        lambda: ledger.consistency(-1, 2),
        lambda: ledger.consistency(1, 1 << 64),
        lambda: ledger.node(1, 2),
        lambda: ledger.node(-1, 0),
    ):
        with pytest.raises(NotInLedger, match=r"entr|subtree"):
            call()


# -- reading ----------------------------------------------------------------------------------------------


def test_entries_come_in_order_and_within_bounds(ledger: Ledger) -> None:
    ledger.append(items(0, 30))
    raw = expected(0, 30)
    assert ledger.entries(0, 1_000) == raw
    assert ledger.entries(7, 5) == raw[7:12]
    assert ledger.entries(28, 5) == raw[28:]
    for start, limit in ((30, 5), (1 << 64, 5), (-1, 5), (3, 0), (3, -1)):
        assert ledger.entries(start, limit) == []


def test_contents_are_found_by_what_they_are_and_by_kind(ledger: Ledger) -> None:
    ledger.append([("vote", b"one"), ("evidence", BIG[0]), ("vote", b"two"), ("note", b"")])
    assert [ledger.has(data) for data in (b"one", b"two", b"", BIG[0], b"three", BIG[1])] == [
        True,
        True,
        True,
        True,
        False,
        False,
    ]
    assert [ledger.last(kind) for kind in ("vote", "evidence", "note", "none")] == [b"two", BIG[0], b"", None]


def test_contents_whose_hashes_begin_alike_are_told_apart(ledger: Ledger) -> None:
    # A collision of the 8 bytes that the index holds: made here by writing one.
    ledger.append([("vote", b"one")])
    prefix = int.from_bytes(hashlib.sha256(b"two").digest()[:8], "big", signed=True)
    ledger._db.execute("insert into seen values (?, 0)", (prefix,))
    assert not ledger.has(b"two")
    assert ledger.append([("vote", b"two")]) == 2
    assert ledger.has(b"two")


def test_a_large_content_is_read_whole_and_in_pieces(ledger: Ledger) -> None:
    data = os.urandom(2 * PIECE + 5)
    digest = hashlib.sha256(data).digest()
    ledger.append([("evidence", data)])
    assert ledger.large(digest) == data
    assert b"".join(ledger.large_piece(digest, index) for index in range(3)) == data
    for index in (3, -1, 1 << 64):
        with pytest.raises(NotInLedger, match="no piece"):
            ledger.large_piece(digest, index)
    with pytest.raises(NotInLedger, match="not kept"):
        ledger.large_piece(bytes(32), 0)


def test_the_disk_stays_bounded_and_entries_stay(ledger: Ledger, tmp_path: Path) -> None:
    big = [os.urandom(1 << 20) for _ in range(6)]
    ledger.append([("evidence", data) for data in big])
    before = ledger.head()
    ledger.forget_large(2 << 20)
    kept = [ledger.large(hashlib.sha256(data).digest()) is not None for data in big]
    assert kept == [False, False, False, False, True, True]
    assert ledger.head() == before
    assert all(ledger.has(data) for data in big)
    assert ledger.last("evidence") == big[-1]
    assert ledger.check() == []
    ledger.append([("evidence", big[0])])
    assert ledger.large(hashlib.sha256(big[0]).digest()) == big[0]
    ledger.forget_large(0)
    assert ledger.last("evidence") is None
    ledger.close()
    assert (tmp_path / "ledger.sqlite").stat().st_size < 1 << 20


def test_what_is_spared_stays_however_old(ledger: Ledger) -> None:
    records, others = ([os.urandom(1 << 20) for _ in range(3)] for _ in range(2))
    for record, other in zip(records, others, strict=True):
        ledger.append([("decided", record), ("final-set", other)])
    ledger.forget_large(1 << 20, spared="decided")
    kept = [[ledger.large(hashlib.sha256(one).digest()) == one for one in kind] for kind in (records, others)]
    assert kept == [[True, True, True], [False, False, True]]


def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    for size in range(0, 40, 5):
        log = Ledger(path, ALICE, RUN)
        assert log.head() == (size, by_the_rfc([leaf_hash(raw) for raw in expected(0, size)]))
        log.append(items(size, size + 5))
        log.close()


def test_readers_see_the_log_as_it_was_when_they_opened_it(ledger: Ledger, tmp_path: Path) -> None:
    ledger.append(items(0, 9))
    reader = Ledger(tmp_path / "ledger.sqlite", None, RUN, read_only=True)
    head = reader.head()
    ledger.append(items(9, 20))
    assert reader.author == ALICE
    assert reader.head() == head == (9, ledger.root(9))
    assert reader.entries(0, 100) == expected(0, 9)
    assert reader.last("advert") == content(6)
    assert reader.inclusion(8, 9) == ledger.inclusion(8, 9)
    assert reader.check() == []
    later = Ledger(tmp_path / "ledger.sqlite", ALICE, RUN, read_only=True)
    assert later.head() == ledger.head()
    for call in (lambda: later.append(items(0, 1)), lambda: later.forget_large(0)):
        with pytest.raises(ValueError, match="to be read"):
            call()
    reader.close()
    later.close()


# -- kill -9 and disks that are full ----------------------------------------------------------------------

WRITER = """
import os, signal, sys
from pathlib import Path
from tests.verify.test_ledger import ALICE, RUN, items
from verify.ledger import Ledger
path, batch, after, steps = Path(sys.argv[1]), *map(int, sys.argv[2:])
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
ledger = Ledger(path, ALICE, RUN)
while True:
    if after == 0 and steps > 0:  # in the middle of the transaction, so many steps of SQLite's machine on
        ledger._db.set_progress_handler(die, steps)
    if after == 0 and steps == 0:  # when everything is written but the end of the transaction
        ledger._db.set_trace_callback(lambda sql: sql == "commit" and die())
    print(ledger.append(items(ledger.size, ledger.size + batch)), flush=True)
    after -= 1
"""


def killed(path: Path, batch: int, acknowledgements: int, steps: int = -1) -> int:
    """Run a writer and kill it; the last size that it acknowledged, 0 if none.

    With `steps` the writer kills itself within the transaction after its acknowledgements; else it is
    killed from outside, wherever it is by then.
    """
    arguments = [str(path), str(batch), str(acknowledgements if steps >= 0 else -1), str(steps)]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(acknowledgements)]
        if steps < 0:
            writer.kill()
        lines += writer.stdout.readlines()
        assert writer.wait() == -signal.SIGKILL
    return max((int(line) for line in lines), default=0)


def test_what_was_acknowledged_survives_kills_at_any_moment(tmp_path: Path) -> None:
    path, size = tmp_path / "ledger.sqlite", 0
    for batch, acknowledgements, steps in [
        (7, 3, -1),
        (300, 2, -1),
        (50, 1, 200),
        (200, 0, 3_000),
        (9, 1, 0),
    ]:
        acknowledged = max(size, killed(path, batch, acknowledgements, steps))
        log = Ledger(path, ALICE, RUN)
        size, root = log.head()
        assert size >= acknowledged > 0
        if steps >= 0:
            assert size == acknowledged  # the transaction it died in left no trace
        assert log.entries(0, size) == expected(0, size)
        assert root == by_the_rfc([leaf_hash(raw) for raw in expected(0, size)])
        assert log.check() == []
        log.close()


def test_a_full_disk_is_said_and_nothing_is_half_written(ledger: Ledger) -> None:
    ledger.append(items(0, 10))
    head = ledger.head()
    ledger._db.execute("pragma max_page_count = 12").fetchall()
    with pytest.raises(LedgerFailed, match=r"full.*Free disk space"):
        ledger.append([("vote", os.urandom(40_000)) for _ in range(20)])
    assert ledger.head() == head
    assert ledger.check() == []
    ledger._db.execute("pragma max_page_count = 1000000").fetchall()
    ledger.append(items(10, 12))
    assert ledger.entries(0, 12) == expected(0, 12)


def test_a_file_that_grew_behind_the_writer_is_not_overwritten(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "ledger.sqlite", ALICE, RUN)
    other.append(items(0, 3))
    with pytest.raises(LedgerFailed, match="Another process"):
        ledger.append(items(0, 1))
    other.close()
    ledger.close()
    with pytest.raises(LedgerFailed, match="closed"):
        ledger.append(items(0, 1))


def test_another_run_author_or_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path, None, RUN).close()
    Ledger(path, ALICE, RUN).close()  # a ledger without an author becomes the first one's
    Ledger(path, None, RUN).close()
    with pytest.raises(LedgerFailed, match=f"of {ALICE}, not of {BOB}.*--identity"):
        Ledger(path, BOB, RUN)
    with pytest.raises(LedgerFailed, match="another run"):
        Ledger(path, ALICE, bytes(32))
    with sqlite3.connect(path) as db:
        db.execute("pragma user_version = 99")
    db.close()
    with pytest.raises(LedgerFailed, match="format is 99"):
        Ledger(path, ALICE, RUN)


def test_a_file_that_is_none_is_named_with_what_to_do(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"no database " * 100)
    for path, read_only in (
        (garbage, False),
        (garbage, True),
        (tmp_path / "missing", True),
        (tmp_path, False),
    ):
        with pytest.raises(LedgerFailed, match=r"(Free disk space|Restore)"):
            Ledger(path, ALICE, RUN, read_only=read_only)
    assert not (tmp_path / "missing").exists()


# -- what was changed is found ----------------------------------------------------------------------------


def small_ledger(path: Path) -> None:
    log = Ledger(path, ALICE, RUN)
    log.append(items(0, 37))
    log.append([("evidence", BIG[0]), ("part-sum", b"sum")])
    log.append(items(39, 44))
    log.close()


def everything(log: Ledger) -> list[object]:
    """All that the ledger can be asked for."""
    size = log.size
    return [
        log.head(),
        log.author,
        log.entries(0, size),
        [log.node(level, n) for level in range(size.bit_length()) for n in range(size >> level)],
        [log.has(content(number)) for number in range(50)],
        [log.last(kind) for kind in (*KINDS, "evidence")],
        log.large(hashlib.sha256(BIG[0]).digest()),
        log.large_piece(hashlib.sha256(BIG[0]).digest(), 0),
    ]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clean") / "ledger.sqlite"
    small_ledger(path)
    return path


def findings(path: Path) -> list[str]:
    """What opening or checking says of a file."""
    try:
        log = Ledger(path, ALICE, RUN)
    except LedgerFailed as failure:
        return [str(failure)]
    try:
        return log.check()
    finally:
        log.close()


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        ("update entry set content = x'00' where number = 17", "entry 17 does not have the hash"),
        ("update entry set kind = 'voted' where number = 5", "entry 5 does not have the hash"),
        ("update entry set kind = x'ff' where number = 5", "entry 5 does not have the hash"),
        ("update entry set size = size + 1 where number = 8", "entry 8 does not have the hash"),
        ("update entry set size = -1 where number = 8", "entry 8 does not have the hash"),
        ("update entry set sha256 = zeroblob(32) where number = 37", "entry 37 does not have the hash"),
        ("update entry set hashes = zeroblob(32) || substr(hashes, 33) where number = 3", "entry 3 "),
        (
            "update entry set hashes = substr(hashes, 1, 32) where number = 15",
            "entries 0 to 15",
        ),
        (
            "update entry set hashes = cast(substr(hashes, 1, 64) || zeroblob(32) as blob) where number = 11",
            "subtrees that end with entry 11",
        ),
        ("delete from entry where number = 20", "entry 20 is missing"),
        (
            "update entry set number = 1000 where number = 43; update head set size = 45",
            "head says 45 entries",
        ),
        (
            "create temp table t as select * from entry where number in (6, 9);"
            "delete from entry where number in (6, 9);"
            "insert into entry select 15 - number, kind, size, sha256, hashes, content from t",
            "subtrees that end with entry 6",
        ),
        ("delete from seen where number = 12", "entry 12 is not found by its content"),
        ("update latest set number = 0 where kind = 'vote'", "newest entry"),
        ("update large set content = zeroblob(length(content))", "does not have its hash"),
        ("update head set root = zeroblob(32)", "right edge"),
        ("update head set size = 40", "40 entries"),
        ("delete from entry where number = 43", "44 entries"),
        ("delete from head", "head is missing"),
    ],
)
def test_what_was_changed_is_named_by_its_index(clean: Path, tmp_path: Path, sql: str, finding: str) -> None:
    path = tmp_path / "ledger.sqlite"
    shutil.copy(clean, path)
    db = sqlite3.connect(path)
    db.executescript(sql)
    db.close()
    assert finding in findings(path)[0]


def test_a_changed_entry_is_not_handed_out(clean: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    shutil.copy(clean, path)
    with sqlite3.connect(path) as db:
        db.execute("update entry set content = x'00' where number = 17")
        db.execute("delete from entry where number = 19")
    db.close()
    log = Ledger(path, ALICE, RUN)
    assert log.entries(0, 17) == expected(0, 17)
    with pytest.raises(LedgerFailed, match=r"entry 17 .*Restore the file"):
        log.entries(10, 10)
    with pytest.raises(LedgerFailed, match="entry 19 is missing"):
        log.entries(18, 3)
    log.close()


@pytest.mark.parametrize(
    ("number", "change"),
    [(43, "content = x'00'"), (30, "hashes = 'text'"), (31, "hashes = zeroblob(192)"), (15, "hashes = x''")],
)
def test_the_wrong_edge_is_found_when_the_file_is_opened(
    clean: Path, tmp_path: Path, number: int, change: str
) -> None:
    path = tmp_path / "ledger.sqlite"
    shutil.copy(clean, path)
    with sqlite3.connect(path) as db:
        db.execute(f"update entry set {change} where number = {number}")
    db.close()
    with pytest.raises(LedgerFailed, match=r"(entry|edge|hash) .*Restore"):
        Ledger(path, ALICE, RUN)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 1 << 30), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_file_is_found_or_changes_nothing(
    clean: Path, tmp_path: Path, at: int, bit: int
) -> None:
    whole = bytearray(clean.read_bytes())
    whole[at % len(whole)] ^= 1 << bit
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(whole)
    for left in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
        (tmp_path / left).unlink(missing_ok=True)
    truth = Ledger(clean, ALICE, RUN, read_only=True)
    right = everything(truth)
    truth.close()
    try:
        log = Ledger(path, ALICE, RUN, read_only=True)
    except LedgerFailed:
        return
    try:
        assert log.check() or everything(log) == right
    finally:
        log.close()
