"""A peer's ledger: everything it said and saw, in an append-only Merkle log that survives `kill -9`.

Promises:

- What `append` returned for is on the disk, and stays: one SQLite transaction a call, write-ahead log,
  synchronous FULL. A crash leaves the log as after some whole call.
- An entry has one index for ever. Roots, inclusion and consistency proofs are those of RFC 9162
  section 2.1, and cost reads in proportion to the logarithm of the size: the hash of every complete
  subtree is kept.
- What is read is checked first: an entry against its leaf, a large content against its hash. Opening
  checks the right edge of the tree; `check` recomputes everything and names the first wrong index.
- Entries stay; contents above INLINE bytes lie beside them, named by their hash, and may be forgotten.

An entry is the canonical encoding of `Entry`, its leaf SHA-256(0x00 || encoding). The tree head is signed
as verify/checkpoint.py says. One process writes; others may open the file `read_only` beside it, and see
the log as it was when they opened it. Within the writer one thread appends; any may read.

>>> ledger = Ledger(":memory:", None, bytes(32))
>>> ledger.append([("note", b"first"), ("note", b"second")])
2
>>> size, top = ledger.head()
>>> raw, = ledger.entries(1, 1)
>>> merkle.verify_inclusion(merkle.leaf_hash(raw), 1, size, ledger.inclusion(1, size), top)
True
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, Self
from urllib.parse import quote

from pydantic import Field, model_validator

from proto import merkle
from proto.canonical import Digest, Message, PeerID
from proto.errors import MessageRefused, SwarmError, shown

INLINE = 49_152
"""Bytes of the largest content that is part of its entry; with all else the entry fits 65,535 bytes."""
LARGEST = 64 << 20
"""Bytes of the largest content."""
PIECE = 1 << 20
"""Bytes of a piece of a large content."""
MOST_FINDINGS = 16
KIND = r"^[a-z][a-z-]{0,31}$"

_FORMAT = 1
_EDGE = 16  # the last entries that opening looks at
_LITTLE_WAL = 32 << 20  # bytes the write-ahead log keeps; cutting it shorter after each use costs a fifth
_PAGE = 8_192  # entries of some kilobytes waste less than on SQLite's 4,096
_DAMAGE = (sqlite3.Error, UnicodeDecodeError, MemoryError)
"""What Python raises for a file that SQLite cannot read; the last two for damaged names and sizes."""
_DISK = "Free disk space, and check that this user may read and write the file and its folder"
_DAMAGED = (
    "Restore the file from a copy, or move it away and go on with a new identity: a log that begins anew "
    "under its old name looks like one that was rewritten"
)
_OTHER = "Name the peer's own key file with `--identity FILE`, and its own folder with `--state-dir DIR`"
_TWO_WRITERS = "Another process writes it: stop one of the two"
_SCHEMA = """
create table about (one integer primary key check (one = 1), run blob not null, author text);
create table head (one integer primary key check (one = 1), size integer not null, root blob not null);
create table entry (
    number integer primary key, kind text not null, size integer not null, sha256 blob not null,
    hashes blob not null, content blob
);
create table seen (prefix integer, number integer, primary key (prefix, number)) without rowid;
create table latest (kind text primary key, number integer not null) without rowid;
create table large (id integer primary key, digest blob not null unique, content blob not null);
"""
_ROW = "number, kind, size, sha256, hashes, content"
Row = tuple[int, str, int, bytes, bytes, bytes | None]
"""An entry with its leaf and the hashes of the subtrees that it completes, from the lowest up."""


class LedgerFailed(SwarmError):
    """The ledger cannot be read or written, or is damaged."""


class NotInLedger(MessageRefused):
    """An index or size that this ledger does not have."""


class Entry(Message):
    """One line of a ledger. `content` is None where it is larger than INLINE; `sha256` names it then."""

    DOMAIN: ClassVar[str] = "entry"

    kind: Annotated[str, Field(pattern=KIND)]
    size: Annotated[int, Field(ge=0, le=LARGEST)]  # of the content, in bytes
    sha256: Digest  # of the content
    content: Annotated[bytes, Field(max_length=INLINE)] | None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.content is None) != (self.size > INLINE):
            raise ValueError(f"contents of up to {INLINE} bytes, and only they, are part of the entry")
        if self.content is not None:
            if len(self.content) != self.size:
                raise ValueError(f"{len(self.content)} bytes of content, {self.size} announced")
            if hashlib.sha256(self.content).digest() != self.sha256:
                raise ValueError("sha256 is not the hash of the content")
        return self

    @classmethod
    def of(cls, kind: str, content: bytes) -> Self:
        """The entry for a content. Raises ValueError for a kind that is none."""
        inline = content if len(content) <= INLINE else None
        return cls(kind=kind, size=len(content), sha256=hashlib.sha256(content).digest(), content=inline)


class Ledger:
    """The log in an SQLite file. Methods raise LedgerFailed where the disk fails or the file is damaged.

    `author` None takes the file for whoever's it is. Another author's or run's file is refused: two
    peers that write one log would each look like a liar.
    """

    def __init__(
        self, path: Path | str, author: PeerID | None, run: bytes, *, read_only: bool = False
    ) -> None:
        self._path, self.run, self.author, self.read_only = str(path), run, author, read_only
        self._size, self._root = 0, merkle.EMPTY_ROOT
        self._peaks: list[bytes] = []
        try:
            self._db = self._connect()
        except _DAMAGE as error:
            self._fail(error)
        try:
            if not read_only:
                self._create()
            self._open()
        except _DAMAGE as error:
            self._db.close()
            self._fail(error)
        except SwarmError:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file. Nothing is lost without it."""
        self._db.close()

    # -- writing ----------------------------------------------------------------------------------------

    def append(self, items: Sequence[tuple[str, bytes]]) -> int:
        """Add entries of (kind, content), all or none; the new size, once they are on the disk.

        Raises ValueError for a kind that is none or a content above LARGEST, before anything is written.
        """
        if self.read_only:
            raise ValueError("this ledger was opened to be read")
        sha256, size, edge = hashlib.sha256, self._size, list(self._peaks)
        rows: list[Row] = []
        large: list[tuple[bytes, bytes]] = []
        latest: dict[str, int] = {}
        for kind, content in items:
            digest = sha256(content).digest()
            kept: bytes | None = content
            if len(content) > INLINE:
                _check_large(content)
                large.append((digest, content))
                kept = None
            node = hashes = sha256(b"\0" + _encode(_kind(kind), len(content), digest, kept)).digest()
            carry = size
            while carry & 1:
                node = sha256(b"\1" + edge.pop() + node).digest()
                hashes += node
                carry >>= 1
            edge.append(node)
            rows.append((size, kind, len(content), digest, hashes, kept))
            latest[kind] = size
            size += 1
        if rows:
            top = merkle.fold(edge)
            self._write(rows, large, latest, top)
            self._size, self._peaks, self._root = size, edge, top
        return size

    def forget_large(self, keep_bytes: int, spared: str = "") -> None:
        """Drop the oldest large contents until at most `keep_bytes` of them are kept, and free the disk.

        Those of entries of the kind `spared` are kept, and do not count.
        """
        if self.read_only:
            raise ValueError("this ledger was opened to be read")
        kept = 0
        try:
            ((total,),) = self._db.execute("select coalesce(sum(length(content)), 0) from large")
            if total <= keep_bytes:
                return  # what is spared takes reading every entry to tell
            others = "from large where digest not in (select sha256 from entry where kind = ?)"
            sizes = self._db.execute(f"select id, length(content) {others} order by id desc", (spared,))
            for number, size in sizes.fetchall():
                kept += size
                if kept > keep_bytes:
                    self._db.execute(f"delete {others} and id <= ?", (spared, number))
                    # A script runs to its end; `execute` would take one step, which frees one page.
                    self._db.executescript("pragma incremental_vacuum")
                    return
        except _DAMAGE as error:
            self._fail(error)

    # -- reading ----------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """The number of entries."""
        return self._size

    def head(self) -> tuple[int, bytes]:
        """(size, root) of the whole log."""
        return self._size, self._root

    def root(self, size: int) -> bytes:
        """The root over the first `size` entries. Raises NotInLedger."""
        if size == self._size:
            return self._root
        self._known(size)
        return merkle.root_from(self.node, size)

    def entries(self, start: int, limit: int) -> list[bytes]:
        """At most `limit` encoded entries from index `start` on, each checked against its leaf."""
        if not 0 <= start < self._size:
            return []
        end = min(start + max(limit, 0), self._size)
        sql = f"select {_ROW} from entry where number >= ? and number < ? order by number"
        answer = []
        for number, row in zip(range(start, end), self._read(sql, (start, end)), strict=False):
            raw, problem = _checked(number, row)
            if problem:
                self._fail(problem)
            answer.append(raw)
        if len(answer) < end - start:
            self._fail(f"entry {start + len(answer)} is missing")
        return answer

    def has(self, content: bytes) -> bool:
        """Whether some entry is of this content."""
        digest = hashlib.sha256(content).digest()
        sql = "select 1 from seen join entry using (number) where prefix = ? and sha256 = ? limit 1"
        return bool(self._read(sql, (_prefix(digest), digest)))

    def last(self, kind: str) -> bytes | None:
        """The content of the newest entry of a kind; None if there is none, or it was forgotten."""
        sql, values = "select number from latest where kind = ?", tuple[Any, ...]((kind,))
        if self.read_only:  # the index may be of entries that came since
            sql = "select number from entry where kind = ? and number < ? order by number desc limit 1"
            values = (kind, self._size)
        match self._read(sql, values):
            case []:
                return None
            case [(int(number),)] if 0 <= number < self._size:
                entry = Entry.parse(self.entries(number, 1)[0])
                return self.large(entry.sha256) if entry.content is None else entry.content
        self._fail(f"the index of the newest entry of kind {kind} is wrong")

    def large(self, digest: bytes) -> bytes | None:
        """The large content with this SHA-256, if it is kept."""
        match self._read("select content from large where digest = ?", (digest,)):
            case []:
                return None
            case [(bytes(content),)] if hashlib.sha256(content).digest() == digest:
                return content
        self._fail(f"large content {digest.hex()} does not have its hash")

    def large_digests(self) -> list[bytes]:
        """The hashes of the large contents that are kept, oldest first."""
        digests = [digest for (digest,) in self._read("select digest from large order by id", ())]
        if any(type(digest) is not bytes or len(digest) != merkle.HASH_BYTES for digest in digests):
            self._fail("the name of a large content is no hash")
        return digests

    def large_piece(self, digest: bytes, index: int) -> bytes:
        """Piece `index` (PIECE bytes, the last one fewer) of a large content. Raises NotInLedger."""
        match self._read("select id, length(content) from large where digest = ?", (digest,)):
            case []:
                raise NotInLedger(f"large content {digest.hex()} is not kept here; ask another peer")
            case [(int(number), int(size))]:
                pass
            case _:
                self._fail(f"large content {digest.hex()} cannot be read")
        if not 0 <= index * PIECE < size:
            raise NotInLedger(f"large content {digest.hex()} has {size} bytes, no piece {index}")
        try:
            with self._db.blobopen("large", "content", number, readonly=True) as blob:
                blob.seek(index * PIECE)
                return blob.read(min(PIECE, size - index * PIECE))
        except _DAMAGE as error:
            self._fail(error)

    def node(self, level: int, index: int) -> bytes:
        """The hash over entries index << level up to (index + 1) << level. Raises NotInLedger."""
        if level < 0 or index < 0 or (index + 1) << level > self._size:
            raise NotInLedger(f"ledger: no complete subtree {index} of level {level} in {self._size} entries")
        last = ((index + 1) << level) - 1
        sql = "select substr(hashes, ?, 32) from entry where number = ?"
        match self._read(sql, (32 * level + 1, last)):
            case [(bytes(value),)] if len(value) == merkle.HASH_BYTES:
                return value
        self._fail(f"the hash over entries {index << level} to {last} is missing")

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """What shows that entry `index` is in the tree of `size` entries. Raises NotInLedger."""
        self._known(size)
        if not 0 <= index < size:
            raise NotInLedger(f"ledger: entry {index} is not among the first {size}")
        return merkle.inclusion_from(self.node, index, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """What shows that the first `new` entries begin with the first `old`. Raises NotInLedger."""
        self._known(new)
        if not 0 <= old <= new:
            raise NotInLedger(f"ledger: a tree of {new} entries does not begin with one of {old}")
        return merkle.consistency_from(self.node, old, new)

    # -- checking ---------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """Recomputes everything; what is wrong, the first wrong entry and hash by index. [] is clean."""
        found: list[str] = []
        for part in (self._check_entries, self._check_large, self._check_file):
            try:
                for finding in part():
                    if len(found) == MOST_FINDINGS:
                        return [*found, "and more"]
                    found.append(shown(finding))
            except _DAMAGE as error:
                found.append(shown(f"the file is damaged: {error}"))
        return found

    def _check_entries(self) -> Iterator[str]:
        edge: list[bytes] = []
        latest: dict[str, int] = {}
        size, entries_right, hashes_right = 0, True, True
        rows = self._db.execute(f"select {_ROW} from entry where number < ? order by number", (self._size,))
        with closing(rows):
            for row in rows:
                _, problem = _checked(size, row)
                if problem and entries_right:
                    entries_right = False
                    yield problem
                if row[0] != size or type(row[4]) is not bytes:
                    return  # what follows has moved: each index from here on would be wrong
                hashes, carry = [row[4][:32]], size
                while carry & 1:
                    hashes.append(merkle.node_hash(edge.pop(), hashes[-1]))
                    carry >>= 1
                if hashes_right and row[4] != b"".join(hashes):
                    hashes_right = False
                    yield f"the hashes of the subtrees that end with entry {size} are wrong"
                if entries_right and not self._is_seen(row):
                    yield f"entry {size} is not found by its content"
                edge.append(hashes[-1])
                latest[row[1]] = size
                size += 1
        if size != self._size:
            yield f"entry {size} is missing: the ledger has {self._size}"
        elif (merkle.fold(edge) if edge else merkle.EMPTY_ROOT) != self._root:
            yield f"the root over {size} entries is not the one kept"
        elif entries_right:
            known = dict(self._db.execute("select kind, cast(number as integer) from latest"))
            grown = {kind for kind, number in known.items() if number >= size}  # since a reader opened it
            if latest.keys() - known.keys() or any(
                latest.get(kind) != known[kind] for kind in known.keys() - grown
            ):
                yield "the index of the newest entry of each kind is wrong"

    def _is_seen(self, row: Row) -> bool:
        sql = "select 1 from seen where prefix = ? and number = ?"
        return self._db.execute(sql, (_prefix(row[3]), row[0])).fetchone() is not None

    def _check_large(self) -> Iterator[str]:
        for digest, content in self._db.execute("select digest, content from large order by id"):
            if type(digest) is not bytes:  # of an integer, `bytes` would be so many zeros
                yield f"large content {str(digest)[:64]} has a name that is no hash"
            elif type(content) is not bytes or hashlib.sha256(content).digest() != digest:
                yield f"large content {digest.hex()[:64]} does not have its hash"

    def _check_file(self) -> Iterator[str]:
        for (answer,) in self._db.execute("pragma integrity_check(4)"):
            if answer != "ok":
                yield f"the file is damaged: {answer}"

    # -- the file ---------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        name = self._path
        if self.read_only:
            name = f"file:{quote(str(Path(name).absolute()))}?mode=ro"
        db = sqlite3.connect(name, check_same_thread=False, isolation_level=None, uri=self.read_only)
        db.text_factory = _text
        return db

    def _create(self) -> None:
        self._db.execute(f"pragma page_size = {_PAGE}")  # this and the next: of effect in a new file only
        self._db.execute("pragma auto_vacuum = incremental")
        self._db.execute("pragma journal_mode = wal").fetchall()
        self._db.execute("pragma synchronous = full")
        self._db.execute(f"pragma journal_size_limit = {_LITTLE_WAL}").fetchall()
        if self._version() == 0:
            script = f"begin immediate; {_SCHEMA} pragma user_version = {_FORMAT};"
            self._db.executescript(script)
            self._db.execute("insert into about values (1, ?, ?)", (self.run, self.author))
            self._db.execute("insert into head values (1, 0, ?)", (merkle.EMPTY_ROOT,))
            self._db.execute("commit")

    def _version(self) -> Any:
        return self._db.execute("pragma user_version").fetchone()[0]

    def _open(self) -> None:
        if self._version() != _FORMAT:
            self._fail(f"its format is {self._version()}, this version reads {_FORMAT}", _OTHER)
        self._db.execute("begin")  # one state of the file, while another process writes
        try:
            ((run, author),) = self._db.execute("select run, author from about").fetchall() or [(None, None)]
            heads = self._db.execute("select size, root from head").fetchall()
            last = self._db.execute("select max(number) from entry").fetchone()[0]
            self._check_owner(run, author)
            match heads:
                case [(int(size), bytes(top))] if size >= 0:
                    self._size, self._root = size, top
                case _:
                    self._fail("its head is missing")
            if last != (size - 1 if size else None):
                self._fail(f"its head says {size} entries, the last one is {last}")
            self._peaks = [self.node(*peak) for peak in merkle.peaks(size)]
            if (merkle.fold(self._peaks) if size else merkle.EMPTY_ROOT) != top:
                self._fail(f"the hashes on its right edge do not give the root over {size} entries")
            self._check_edge()
            self._db.execute("commit")
        finally:
            if self._db.in_transaction:
                self._db.execute("rollback")

    def _check_owner(self, run: Any, author: Any) -> None:
        if run != self.run:
            self._fail(f"it is of another run ({run.hex() if type(run) is bytes else run})", _OTHER)
        if author is None and self.author and not self.read_only:
            self._db.execute("update about set author = ?", (self.author,))
        elif self.author and author != self.author:
            self._fail(f"it is of {author}, not of {self.author}", _OTHER)
        self.author = self.author or author

    def _check_edge(self) -> None:
        self.entries(max(0, self._size - _EDGE), _EDGE)
        for level, index in merkle.peaks(self._size):
            for below in range(level - 1, -1, -1):  # down the right side
                parent, index = self.node(below + 1, index), 2 * index + 1
                if merkle.node_hash(self.node(below, index - 1), self.node(below, index)) != parent:
                    self._fail(f"the hash over entries up to {((index + 1) << below) - 1} is wrong")

    def _write(
        self,
        rows: list[Row],
        large: list[tuple[bytes, bytes]],
        latest: dict[str, int],
        top: bytes,
    ) -> None:
        db, size = self._db, self._size + len(rows)
        # Hashes land anywhere in their index; in order, each page of it is touched once.
        seen = sorted((_prefix(row[3]), row[0]) for row in rows)
        try:
            db.execute("begin immediate")
            try:
                if db.execute("select size, root from head").fetchone() != (self._size, self._root):
                    self._fail("it has grown behind our back", _TWO_WRITERS)
                db.executemany("insert into entry values (?, ?, ?, ?, ?, ?)", rows)
                db.executemany("insert into seen values (?, ?)", seen)
                db.executemany("insert or ignore into large (digest, content) values (?, ?)", large)
                db.executemany("insert or replace into latest values (?, ?)", latest.items())
                db.execute("update head set size = ?, root = ?", (size, top))
                db.execute("commit")
            finally:
                if db.in_transaction:
                    db.execute("rollback")
        except _DAMAGE as error:
            self._fail(error)

    def _read(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except _DAMAGE as error:
            self._fail(error)

    def _known(self, size: int) -> None:
        if not 0 <= size <= self._size:
            raise NotInLedger(f"ledger: it has {self._size} entries; there is no tree of {size}")

    def _fail(self, problem: Exception | str, remedy: str = "") -> NoReturn:
        remedy = remedy or (_DISK if isinstance(problem, sqlite3.OperationalError) else _DAMAGED)
        raise LedgerFailed(f"the ledger {self._path}: {problem}. {remedy}") from None


def _checked(number: int, row: Any) -> tuple[bytes, str]:
    """The encoding of a row, or else what is wrong with it: a damaged row may hold any of SQLite's types."""
    match row:
        case [int(found), str(kind), int(size), bytes(digest), bytes(hashes), (bytes() | None) as content]:
            if found != number:
                return b"", f"entry {number} is missing"
            if size >= 0 and len(digest) == merkle.HASH_BYTES:
                raw = _encode(kind.encode(), size, digest, content)
                if hashlib.sha256(b"\0" + raw).digest() == hashes[:32]:
                    return raw, ""
    return b"", f"entry {number} does not have the hash that its leaf says"


def _encode(kind: bytes, size: int, digest: bytes, content: bytes | None) -> bytes:
    # Entry(...).encode(), ten times as fast: the log's rate hangs on it. Tested to be the same bytes.
    kept = b"\xf6" if content is None else _cbor(0x40, len(content)) + content
    return b"".join(
        (
            b"\xa4\x64kind",
            _cbor(0x60, len(kind)),
            kind,
            b"\x64size",
            _cbor(0x00, size),
            b"\x66sha256\x58\x20",
            digest,
            b"\x67content",
            kept,
        )
    )


@lru_cache(maxsize=4_096)
def _cbor(major: int, value: int) -> bytes:
    """The head of a CBOR item (RFC 8949 section 3) in its shortest form."""
    if value < 24:
        return bytes([major | value])
    for additional, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * width:
            return bytes([major | additional]) + value.to_bytes(width, "big")
    raise ValueError(f"{value} has no CBOR head")


@lru_cache(maxsize=256)
def _kind(kind: str) -> bytes:
    if not re.fullmatch(KIND, kind):
        raise ValueError(f"{kind!r} is no kind of entry: lower-case letters and dashes, at most 32")
    return kind.encode()


def _check_large(content: bytes) -> None:
    if len(content) > LARGEST:
        raise ValueError(f"a content of {len(content)} bytes; the largest has {LARGEST}")


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")  # what is no text is damaged, and found as any other damage is


def _prefix(digest: bytes) -> int:
    """By what a content is looked up: half the index, and the whole hash is compared in the entry."""
    return int.from_bytes(digest[:8], "big", signed=True)
