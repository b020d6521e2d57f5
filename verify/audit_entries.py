"""One ledger read from its first entry to its last, in chapters, without believing the reader.

A chapter is what was logged up to a round's outcome. The promise: the root over all entries is computed
again and compared with the head; an entry that is not the tree's, cannot be parsed or cannot be read is
named with its index, and reading goes on behind it. Memory is bounded, however long the ledger is.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from proto import merkle
from proto.canonical import PeerID
from proto.errors import MessageRefused, SwarmError
from verify.audit_report import Finding
from verify.checkpoint import Checkpoint, parse_checkpoint, read_checkpoint
from verify.ledger import Entry
from verify.record import Decided, run_id

BATCH = 256
WINDOW = 65_536
"""Sizes back to which the tree's roots are at hand."""
MANY = 2_048
"""Entries of a round's void attempts that are looked at together."""
MOST_LINES = 16_384
MOST_CHAPTER_BYTES = 128 << 20
"""Session statements of one round that are looked at."""
GIVE_UP = 8
"""Single entries in a row that cannot be read before the rest of their batch is left out."""

SESSION = ("advert", "final-set", "release", "part-sum")
Line = tuple[int, str, bytes]
"""An entry with its content: (index, kind, content)."""
Peaks = tuple[bytes, ...]


class Reader(Protocol):
    """How a ledger is read: verify.ledger.Ledger, verify.tiles.ExportedLedger, or a peer over the network.

    Methods raise SwarmError. Nothing that they return is believed. Where many entries cannot be read at
    once they are asked for one by one, and may then be given even if they are not those of the tree.
    """

    @property
    def size(self) -> int:
        """The number of entries."""

    def head(self) -> tuple[int, bytes]:
        """(size, root)."""

    def entries(self, start: int, limit: int) -> list[bytes]:
        """At most `limit` encoded entries from index `start` on."""

    def large(self, digest: bytes) -> bytes | None:
        """A large content by its SHA-256, if it is kept."""

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """What shows that entry `index` is in the tree of `size` entries."""

    def consistency(self, old: int, new: int) -> list[bytes]:
        """What shows that the tree of `new` entries begins with that of `old`."""


@dataclass(frozen=True)
class Source:
    """A ledger to audit. `checkpoint`: its signed head (None: a peer's own files have none); `author`: whose
    it is, where there is no head. `files`: what came with it: "genesis", "manifest.toml"."""

    name: str
    reader: Reader
    checkpoint: str | None = None
    author: PeerID | None = None
    files: tuple[tuple[str, bytes], ...] = ()

    def file(self, name: str) -> bytes | None:
        """A file that came with the ledger."""
        return dict(self.files).get(name)


@dataclass
class Chapter:
    """What was logged up to a round's outcome; the last one has none.

    `goes_on`: nor has this one, which ends with a void outcome after very many entries. `gap`: something
    could not be read.
    """

    lines: list[Line] = field(default_factory=list)
    voids: list[tuple[int, bytes, Decided]] = field(default_factory=list)
    evidence: list[tuple[int, Entry]] = field(default_factory=list)
    others: list[Line] = field(default_factory=list)
    outcome: tuple[int, bytes, Decided] | None = None
    goes_on: bool = False
    gap: bool = False
    bytes: int = 0

    def take(self, later: "Chapter") -> None:
        """Put a later chapter behind this one."""
        self.lines += later.lines
        self.voids += later.voids
        self.evidence += later.evidence
        self.others += later.others
        self.outcome, self.goes_on, self.gap = later.outcome, later.goes_on, self.gap or later.gap


class Frontier:
    """The right edge of a growing tree, and its edges at earlier sizes, back to `WINDOW`."""

    def __init__(self) -> None:
        self.size = 0
        self._kept: deque[Peaks] = deque([()], maxlen=WINDOW + 1)

    def add(self, leaf: bytes) -> None:
        """One more leaf."""
        peaks, node, carry = self._kept[-1], leaf, self.size
        count = len(peaks)
        while carry & 1:
            count -= 1
            node = merkle.node_hash(peaks[count], node)
            carry >>= 1
        self._kept.append((*peaks[:count], node))
        self.size += 1

    def root(self, size: int) -> bytes | None:
        """The root over the first `size` leaves; None if that is too long ago, or not yet."""
        back = self.size - size
        if not 0 <= back < len(self._kept):
            return None
        peaks = self._kept[-1 - back]
        return merkle.fold(peaks) if peaks else merkle.EMPTY_ROOT


class Reading:
    """One ledger on its way. `say` takes findings, `note` what is no fault."""

    def __init__(
        self,
        source: Source,
        run: bytes,
        say: Callable[[Finding], None],
        note: Callable[[str], None],
    ) -> None:
        self.source, self.name = source, source.name
        self.author, self.signed = source.author, False
        self.size, self.head = 0, merkle.EMPTY_ROOT
        self.done = self.gap = False
        self.position = self.records = self.sessions = 0
        self.last_round = 0
        self.held: Chapter | None = None
        self._run, self._say, self._note = run, say, note
        self._tree = Frontier()
        self._open_head()
        self._items = self._all()

    def wrong(self, index: int | None, what: str, by: PeerID | None = None, unreadable: bool = False) -> None:
        """Say what is wrong at an entry."""
        self._say(Finding(self.name, index, what, by, unreadable))

    # -- the head -------------------------------------------------------------------------------------

    def _open_head(self) -> None:
        try:
            self.size, self.head = self.source.reader.head()
        except SwarmError as error:
            self._failed(None, error)
            self.done = True
            return
        text = self.source.checkpoint
        if text is None:
            self._note(f"{self.name}: its head is not signed, these are a peer's own files")
            return
        try:
            said = parse_checkpoint(text)
            self.author = said.author
            self._check_head(said, text)
        except MessageRefused as refusal:
            self.wrong(None, str(refusal))

    def _check_head(self, said: Checkpoint, text: str) -> None:
        read_checkpoint(text, said.author)
        self.signed = True
        if said.run != self._run:
            self.wrong(None, f"its head is that of run {said.run.hex()}")
        if self.source.author not in (None, said.author):
            self.wrong(None, f"its head is that of {said.author}, not of {self.source.author}")
        if (said.size, said.root) != (self.size, self.head):
            self.wrong(None, f"its head says {said.size} entries, its reader gives {self.size}")

    # -- chapters -------------------------------------------------------------------------------------

    def chapter(self) -> Chapter | None:
        """What follows, up to the next outcome of a round; None at the end."""
        if self.held is not None:
            held, self.held = self.held, None
            return held
        if self.done:
            return None
        chapter = Chapter()
        for item in self._items:
            if item is None:
                chapter.gap = True
            elif self._put(chapter, *item):
                return chapter
        self.done = True
        self._check_tree()
        return chapter

    def _put(self, chapter: Chapter, index: int, entry: Entry) -> bool:
        """Whether this entry ends the chapter."""
        kind = entry.kind
        if kind == "evidence":
            chapter.evidence.append((index, entry))
            return False
        content = self.content(index, entry)
        if content is None:
            self.wrong(index, f"its content (SHA-256 {entry.sha256.hex()}) is not kept here", unreadable=True)
            chapter.gap = True
            return False
        if kind == "decided":
            return self._outcome(chapter, index, content)
        if kind == "genesis" or index == 0:
            self._check_genesis(index, kind, content)
            return False
        chapter.bytes += len(content)
        if len(chapter.lines) + len(chapter.others) >= MOST_LINES or chapter.bytes > MOST_CHAPTER_BYTES:
            self.wrong(
                index, f"more than {MOST_LINES} statements, or {MOST_CHAPTER_BYTES} bytes, in one round"
            )
            return False
        (chapter.lines if kind in SESSION else chapter.others).append((index, kind, content))
        return False

    def _outcome(self, chapter: Chapter, index: int, content: bytes) -> bool:
        try:
            decided = Decided.parse(content)
        except MessageRefused as refusal:
            self.wrong(index, str(refusal))
            return False
        if not decided.body and not decided.recovery:
            chapter.voids.append((index, content, decided))
            chapter.goes_on = len(chapter.voids) + len(chapter.lines) >= MANY
            return chapter.goes_on
        self.records += 1
        chapter.outcome = (index, content, decided)
        return True

    def _check_genesis(self, index: int, kind: str, content: bytes) -> None:
        if kind != "genesis":
            self.wrong(index, f"a ledger begins with genesis, this one with an entry of kind {kind}")
        elif run_id(content) != self._run:
            self.wrong(index, f"its genesis is that of run {run_id(content).hex()}, not of {self._run.hex()}")

    # -- entries --------------------------------------------------------------------------------------

    def _all(self) -> Iterator[tuple[int, Entry] | None]:
        """Each entry with its index; None for what cannot be read."""
        for start in range(0, self.size, BATCH):
            for index, raw in enumerate(self._fetch(start, min(BATCH, self.size - start)), start):
                if raw is None:
                    self.gap = True
                    yield None
                    continue
                if not self.gap:
                    self._tree.add(merkle.leaf_hash(raw))
                self.position = index + 1
                try:
                    yield index, Entry.parse(raw)
                except MessageRefused as refusal:
                    self.wrong(index, str(refusal))

    def _fetch(self, start: int, count: int) -> list[bytes | None]:
        whole: SwarmError | None = None
        try:
            found = self.source.reader.entries(start, count)
            if len(found) == count:
                return [*found]
        except SwarmError as error:
            whole = error  # the same again, one by one, to name the first
        answer: list[bytes | None] = []
        refusal: tuple[int, SwarmError | None] | None = None
        failed = 0
        while len(answer) < count and failed < GIVE_UP:
            index = start + len(answer)
            got: bytes | None = None
            why: SwarmError | None = None
            try:
                got = next(iter(self.source.reader.entries(index, 1)), None)
            except SwarmError as error:
                why = error
            answer.append(got)
            failed = 0 if got is not None else failed + 1
            if got is None and refusal is None:
                refusal = (index, why)
        answer += [None] * (count - len(answer))
        if refusal is not None:
            lost = answer.count(None)
            more = "" if lost == 1 else f" ({lost} of the {count} from {start} on are lost)"
            self._failed(refusal[0], refusal[1], more)
        elif whole is not None:  # each can be read, and together they are not what they should be
            named = re.search(r"entry (\d{1,18})\b", str(whole))
            self._failed(int(named[1]) if named else start, whole)
        return answer

    def content(self, index: int, entry: Entry) -> bytes | None:
        """What an entry is about; None where it is large and not to be had."""
        if entry.content is not None:
            return entry.content
        try:
            content = self.source.reader.large(entry.sha256)
        except SwarmError as error:
            self._failed(index, error)
            return None
        if content is not None and hashlib.sha256(content).digest() != entry.sha256:
            self.wrong(index, f"its large content does not have the hash {entry.sha256.hex()}")
            return None
        return content

    def _failed(self, index: int | None, error: SwarmError | None, more: str = "") -> None:
        what = "it is missing" if error is None else str(error)
        self.wrong(index, what + more, unreadable=error is None or error.exit_code != 1)

    # -- the tree -------------------------------------------------------------------------------------

    def root(self, size: int) -> bytes | None:
        """The root over the first `size` entries, as they were read; None if that cannot be said any more."""
        if self.gap and size > self._tree.size:
            return None
        found = self._tree.root(size)
        if found is None and size <= self._tree.size:
            found = self._proved_root(size)
        return found

    def agrees(self, size: int, root: bytes) -> bool | None:
        """Whether `root` is the one over the first `size` entries; None: cannot be said."""
        mine = self.root(size)
        return None if mine is None else mine == root

    def _proved_root(self, size: int) -> bytes | None:
        """The root at a size long past, read again from the start."""
        tree: list[bytes] = []
        for start in range(0, size, BATCH):
            try:
                raws = self.source.reader.entries(start, min(BATCH, size - start))
            except SwarmError:
                return None
            for at, raw in enumerate(raws, start):
                _grow(tree, at, raw)
        return merkle.fold(tree) if tree else merkle.EMPTY_ROOT

    def _check_tree(self) -> None:
        """Whether what was read, up to the first gap, is how the tree of the head begins."""
        read = self._tree.size
        root = self._tree.root(read)
        assert root is not None
        try:
            if root == self.head if read == self.size else self._begins(read, root):
                return
            first = self._first_outside(read)
        except SwarmError:  # no proof can be had of it: which entry it is cannot be told
            if read < self.size:
                return
            first = None
        head = f"({self.size} entries, root {self.head.hex()})"
        if first is None:
            self.wrong(None, f"the entries do not give the root of its head {head}")
        else:
            self.wrong(first, f"not the entry in the tree of the ledger's head {head}")

    def _first_outside(self, read: int) -> int | None:
        """The first entry that is not in the tree of the head, by proofs that earlier trees begin it."""
        peaks: list[bytes] = []
        for start in range(0, read, BATCH):
            raws = [raw for raw in self._fetch(start, min(BATCH, read - start)) if raw is not None]
            before = list(peaks)
            for at, raw in enumerate(raws, start):
                _grow(peaks, at, raw)
            if self._begins(start + len(raws), merkle.fold(peaks)):
                continue
            for at, raw in enumerate(raws, start):
                _grow(before, at, raw)
                if not self._begins(at + 1, merkle.fold(before)):
                    return at
        return None

    def _begins(self, size: int, root: bytes) -> bool:
        proof = self.source.reader.consistency(size, self.size)
        return merkle.verify_consistency(size, self.size, root, self.head, proof)


def _grow(peaks: list[bytes], index: int, raw: bytes) -> None:
    node, carry = merkle.leaf_hash(raw), index
    while carry & 1:
        node = merkle.node_hash(peaks.pop(), node)
        carry >>= 1
    peaks.append(node)
