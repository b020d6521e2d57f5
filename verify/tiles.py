"""A ledger as a folder of files that an auditor takes along, in the layout of C2SP tlog-tiles.

    checkpoint                 the signed head (verify/checkpoint.py)
    tile/<L>/<N>               256 hashes of 32 bytes: each over 256 ** L entries
    tile/entries/<N>           256 entries, each after its length in two bytes, big-endian
    large/<hex>                contents that are not part of their entry, by SHA-256, where they are kept
    genesis, manifest.toml     whatever else the exporter gave

<N> is written in groups of three digits, all but the last after an "x": 1234067 is x001/x234/067. The
last tile of a level may be narrower and then ends in ".p/<width>".

Promises: `ExportedLedger` returns nothing that does not hang under the root in `checkpoint`: what it reads
is hashed up to it first. A changed byte is refused with the file's name and the index. Whose head that is,
and whether it was signed, is for the auditor to ask (`read_checkpoint(text, author)`). Every read is
bounded, and memory is too, however large the folder says it is.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path

from proto import merkle
from proto.canonical import PeerID
from proto.errors import MessageRefused, SwarmError, shown
from verify.checkpoint import MAX_NOTE, Checkpoint, CheckpointRefused, parse_checkpoint, read_checkpoint
from verify.ledger import LARGEST, MOST_FINDINGS, Ledger, NotInLedger

WIDTH = 256
"""Hashes in a full tile, entries in a full bundle."""
MAX_ENTRY = 65_535
MAX_FILE = 8 << 20
"""Bytes of the largest further file: genesis has at most 2 MiB."""

_TILES_KEPT = 64
_LEVEL_BITS = 8
Tiles = Callable[[int, int], list[bytes]]
"""(level, index) -> a tile's hashes."""
_OURS = ("checkpoint", "tile", "large")


class ExportFailed(SwarmError):
    """A ledger cannot be written to a folder."""


class ExportUnreadable(SwarmError):
    """A file of an export is missing, cut off, or not of the form it must have."""


class ExportWrong(MessageRefused):
    """A file of an export whose content is not what the head signed."""


def export(ledger: Ledger, directory: Path, checkpoint_text: str, more: Mapping[str, bytes]) -> None:
    """Write a ledger up to its head `checkpoint_text`, and the files of `more`, into a new or empty folder.

    Raises ExportFailed if the folder has something in it or the disk does not take it, CheckpointRefused or
    ExportFailed if the head is not this ledger's, ValueError for a name in `more` that is not a plain one.
    The head is written last: a folder without it was not finished.
    """
    head = read_checkpoint(checkpoint_text, parse_checkpoint(checkpoint_text).author)
    if head.run != ledger.run or ledger.author not in (None, head.author):
        raise ExportFailed(f"the head is that of {head.origin}, another ledger than the one to export")
    if head.size > ledger.size or head.root != ledger.root(head.size):
        raise ExportFailed(f"the head says {head.size} entries with a root that this ledger does not have")
    for name in more:
        if not name or name in _OURS or name != Path(name).name or name.startswith("."):
            raise ValueError(f"{name!r} is no name for a file beside the ledger's")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ExportFailed(f"{directory} is not empty: name a new folder")
        for name, content in more.items():
            (directory / name).write_bytes(content)
        _write_entries(ledger, directory, head.size)
        _write_tiles(ledger, directory, head.size)
        (directory / "checkpoint").write_text(checkpoint_text, encoding="utf-8", newline="")
    except OSError as error:
        raise ExportFailed(
            f"{directory}: {error.strerror}; free disk space, or name a folder this user can write to"
        ) from None


def _write_entries(ledger: Ledger, directory: Path, size: int) -> None:
    large = directory / "large"
    large.mkdir()
    for start in range(0, size, WIDTH):
        entries = ledger.entries(start, min(WIDTH, size - start))
        bundle = b"".join(len(raw).to_bytes(2, "big") + raw for raw in entries)
        _write(directory / tile_path("entries", start // WIDTH, len(entries)), bundle)
    for digest in ledger.large_digests():
        content = ledger.large(digest)
        if content is not None:  # else it was forgotten meanwhile
            (large / digest.hex()).write_bytes(content)


def _write_tiles(ledger: Ledger, directory: Path, size: int) -> None:
    for level in range(_levels(size)):
        for start in range(0, count := size >> _LEVEL_BITS * level, WIDTH):
            indices = range(start, min(start + WIDTH, count))
            hashes = b"".join(ledger.node(_LEVEL_BITS * level, index) for index in indices)
            _write(directory / tile_path(str(level), start // WIDTH, len(indices)), hashes)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def tile_path(level: str, index: int, width: int) -> str:
    """Where a tile (`level` "0", "1"...) or a bundle (`level` "entries") lies: C2SP tlog-tiles."""
    groups = f"{index % 1000:03}"
    while index := index // 1000:
        groups = f"x{index % 1000:03}/{groups}"
    return f"tile/{level}/{groups}" + (f".p/{width}" if width < WIDTH else "")


class ExportedLedger:
    """A ledger read from an export. Methods raise ExportUnreadable and ExportWrong; see the module.

    `checkpoint` is what the head says, `checkpoint_text` the signed note, `author` and `run` whose log the
    head names. Raises ExportUnreadable where there is no head, CheckpointRefused where it is malformed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        raw = self.file("checkpoint", MAX_NOTE)
        if raw is None:
            raise ExportUnreadable(
                f"{directory} has no file `checkpoint`: it is no exported ledger, or its export was cut short"
            )
        try:
            self.checkpoint_text = raw.decode()
        except UnicodeDecodeError:
            raise CheckpointRefused(f"{directory / 'checkpoint'}: not UTF-8") from None
        self.checkpoint: Checkpoint = parse_checkpoint(self.checkpoint_text)
        self.run: bytes = self.checkpoint.run
        self.author: PeerID = self.checkpoint.author
        self.size: int = self.checkpoint.size
        self._read_anew()

    def head(self) -> tuple[int, bytes]:
        """(size, root) of the whole log."""
        return self.size, self.checkpoint.root

    def root(self, size: int) -> bytes:
        """The root over the first `size` entries. Raises NotInLedger."""
        self._known(size)
        return merkle.root_from(self.node, size)

    def entries(self, start: int, limit: int) -> list[bytes]:
        """At most `limit` encoded entries from index `start` on, each checked up to the root."""
        answer: list[bytes] = []
        end = min(start + max(limit, 0), self.size)
        at = max(start, 0)
        while at < end:
            index, first = at // WIDTH, at % WIDTH
            answer += self._bundle(index)[first : first + end - at]
            at = (index + 1) * WIDTH
        return answer if start >= 0 else []

    def large(self, digest: bytes) -> bytes | None:
        """The large content with this SHA-256, if it was exported."""
        name = f"large/{digest.hex()}"
        content = self.file(name, LARGEST)
        if content is not None and hashlib.sha256(content).digest() != digest:
            raise ExportWrong(
                f"{self._directory / name}: its content does not have the hash that is its name"
            )
        return content

    def file(self, name: str, most: int = MAX_FILE) -> bytes | None:
        """A further file of at most `most` bytes; None if it is not there. Raises ExportUnreadable."""
        try:
            return _read(self._directory / name, most)
        except FileNotFoundError:
            return None

    def node(self, level: int, index: int) -> bytes:
        """The hash over entries index << level up to (index + 1) << level. Raises NotInLedger."""
        if level < 0 or index < 0 or (index + 1) << level > self.size:
            raise NotInLedger(f"export: no complete subtree {index} of level {level} in {self.size} entries")
        return self._node(level, index, self._tile)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """What shows that entry `index` is in the tree of `size` entries. Raises NotInLedger."""
        self._known(size)
        if not 0 <= index < size:
            raise NotInLedger(f"export: entry {index} is not among the first {size}")
        return merkle.inclusion_from(self.node, index, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """What shows that the first `new` entries begin with the first `old`. Raises NotInLedger."""
        self._known(new)
        if not 0 <= old <= new:
            raise NotInLedger(f"export: a tree of {new} entries does not begin with one of {old}")
        return merkle.consistency_from(self.node, old, new)

    def check(self) -> list[str]:
        """Recomputes everything from the entries up; what is wrong, the first wrong index of each file.

        [] is clean: the head is signed by the author it names, and every entry, tile and large content is
        what it says. At most MOST_FINDINGS are listed.
        """
        self._read_anew()
        found: list[str] = []
        for finding in self._findings():
            if len(found) == MOST_FINDINGS:
                return [*found, "and more"]
            found.append(shown(finding))
        return found

    def _read_anew(self) -> None:
        self._tile: Tiles = lru_cache(_TILES_KEPT)(self._load_tile)
        self._bundle: Callable[[int], list[bytes]] = lru_cache(1)(self._load_bundle)
        self._edge_tiles: dict[int, list[bytes]] | None = None

    # -- files ------------------------------------------------------------------------------------------

    def _width(self, level: int, index: int) -> int:
        """How many hashes a tile has; 0 if there is none such."""
        return max(0, min(WIDTH, (self.size >> _LEVEL_BITS * level) - index * WIDTH))

    def _raw_tile(self, level: int, index: int) -> list[bytes]:
        """A tile as it lies there."""
        width = self._width(level, index)
        raw = self._required(tile_path(str(level), index, width), width * merkle.HASH_BYTES)
        if len(raw) != width * merkle.HASH_BYTES:
            path = self._directory / tile_path(str(level), index, width)
            raise ExportUnreadable(
                f"{path}: {len(raw)} bytes, {width} hashes have {width * merkle.HASH_BYTES}: it was cut off; "
                "export the ledger again"
            )
        return [raw[at : at + merkle.HASH_BYTES] for at in range(0, len(raw), merkle.HASH_BYTES)]

    def _raw_bundle(self, index: int) -> list[bytes]:
        """The entries of a bundle as they lie there."""
        width = self._width(0, index)
        name = tile_path("entries", index, width)
        raw = self._required(name, width * (2 + MAX_ENTRY))
        entries: list[bytes] = []
        at = 0
        for number in range(index * WIDTH, index * WIDTH + width):
            end = at + 2 + int.from_bytes(raw[at : at + 2], "big")
            if at + 2 > len(raw) or end > len(raw):
                raise ExportUnreadable(
                    f"{self._directory / name}: it ends within entry {number}; export the ledger again"
                )
            entries.append(raw[at + 2 : end])
            at = end
        if at != len(raw):
            raise ExportUnreadable(
                f"{self._directory / name}: {len(raw) - at} bytes after entry {index * WIDTH + width - 1}"
            )
        return entries

    def _required(self, name: str, most: int) -> bytes:
        raw = self.file(name, most)
        if raw is None:
            raise ExportUnreadable(f"{self._directory / name} is missing: export the ledger again")
        return raw

    # -- what hangs under the root ----------------------------------------------------------------------

    def _load_tile(self, level: int, index: int) -> list[bytes]:
        if self._width(level, index) < WIDTH:
            return self._edge()[level]
        hashes = self._raw_tile(level, index)
        if merkle.root(hashes) != self._tile(level + 1, index // WIDTH)[index % WIDTH]:
            raise ExportWrong(
                f"{self._directory / tile_path(str(level), index, WIDTH)}: its hashes do not give hash "
                f"{index % WIDTH} of tile {index // WIDTH} of level {level + 1}"
            )
        return hashes

    def _load_bundle(self, index: int) -> list[bytes]:
        entries = self._raw_bundle(index)
        for at, (raw, leaf) in enumerate(zip(entries, self._tile(0, index), strict=True)):
            if merkle.leaf_hash(raw) != leaf:
                raise ExportWrong(self._wrong_entry(index, at))
        return entries

    def _edge(self) -> dict[int, list[bytes]]:
        """The narrow tiles on the right edge, by level, once they gave the root, each hash of them."""
        if self._edge_tiles is None:
            tiles: dict[int, list[bytes]] = {}
            for level in range(_levels(self.size)):
                count = self.size >> _LEVEL_BITS * level
                if count % WIDTH:
                    tiles[level] = self._raw_tile(level, count // WIDTH)
            top = merkle.root_from(partial(self._node, tile=lambda level, _: tiles[level]), self.size)
            if top != self.checkpoint.root:
                raise ExportWrong(
                    f"{self._directory}: the narrow tiles (`.p`) do not give the root in `checkpoint`"
                )
            self._edge_tiles = tiles
        return self._edge_tiles

    def _node(self, level: int, index: int, tile: Tiles) -> bytes:
        # A subtree of height 8 L + h is the tree over 2 ** h neighbours in a tile of level L.
        tile_level, height = divmod(level, _LEVEL_BITS)
        number, first = divmod(index << height, WIDTH)
        return merkle.root(tile(tile_level, number)[first : first + (1 << height)])

    def _known(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise NotInLedger(f"export: it has {self.size} entries; there is no tree of {size}")

    def _wrong_entry(self, index: int, at: int) -> str:
        path = self._directory / tile_path("entries", index, self._width(0, index))
        return (
            f"{path}: entry {index * WIDTH + at} does not have the hash that tile {index} of level 0 gives it"
        )

    # -- everything again -------------------------------------------------------------------------------

    def _findings(self) -> Iterator[str]:
        try:
            read_checkpoint(self.checkpoint_text, self.author)
        except MessageRefused as refusal:
            yield f"{self._directory / 'checkpoint'}: {refusal}"
        yield from self._check_tree()
        yield from self._check_large()

    def _check_tree(self) -> Iterator[str]:
        # Hashes computed from the entries alone wait here, a level each, until a tile of them is full.
        levels, tiles = _levels(self.size), -(-self.size // WIDTH)
        waiting: list[list[bytes]] = [[] for _ in range(levels)]
        done = [0] * levels
        wrong: list[int] = []  # where findings began: what they explain above is not said again
        for index in range(tiles):
            try:
                waiting[0] = [merkle.leaf_hash(raw) for raw in self._raw_bundle(index)]
            except ExportUnreadable as unreadable:
                wrong.append(index * WIDTH)
                yield str(unreadable)
                try:
                    waiting[0] = self._raw_tile(0, index)
                except ExportUnreadable as also:
                    yield f"{also}; nothing from entry {index * WIDTH} on was checked"
                    return
            last = index == tiles - 1
            for level in range(levels):
                hashes, full = waiting[level], len(waiting[level]) == WIDTH
                if hashes and (full or last):
                    for first, finding in self._compare(level, done[level], hashes, wrong):
                        wrong.append(first)
                        yield finding
                if full:
                    waiting[level + 1].append(merkle.root(hashes))
                    waiting[level] = []
                    done[level] += 1
                elif not last:
                    break
        if not wrong:
            top = merkle.root_from(partial(self._node, tile=lambda level, _: waiting[level]), self.size)
            if top != self.checkpoint.root:
                yield f"{self._directory / 'checkpoint'}: its root is not that of the {self.size} entries"

    def _compare(
        self, level: int, index: int, hashes: list[bytes], wrong: list[int]
    ) -> Iterator[tuple[int, str]]:
        """What was computed against what lies there: the first difference, laid to the one that is wrong."""
        span = WIDTH << _LEVEL_BITS * level
        try:
            stored = self._raw_tile(level, index)
        except ExportUnreadable as unreadable:
            yield index * span, str(unreadable)
            return
        if stored == hashes:
            return
        at = next(at for at, pair in enumerate(zip(stored, hashes, strict=True)) if pair[0] != pair[1])
        path = self._directory / tile_path(str(level), index, len(hashes))
        first = (index * WIDTH + at) << _LEVEL_BITS * level
        try:
            self._tile(level, index)
        except (ExportWrong, ExportUnreadable):
            yield first, f"{path}: hash {at} is not that of the entries from {first} on"
            return
        if level == 0:
            yield first, self._wrong_entry(index, at)
        elif not any(first <= known < first + span // WIDTH for known in wrong):
            yield first, f"{path}: the entries from {first} on, and their tiles, do not give its hash {at}"

    def _check_large(self) -> Iterator[str]:
        folder = self._directory / "large"
        try:
            names = sorted(entry.name for entry in os.scandir(folder))
        except FileNotFoundError:
            return
        except OSError as error:
            yield f"{folder}: {error.strerror}"
            return
        for name in names:
            try:
                if len(name) != 64 or self.large(bytes.fromhex(name)) is None:
                    raise ValueError
            except ValueError:
                yield f"{folder / name}: the name of a large content is its SHA-256 in hex"
            except (ExportUnreadable, ExportWrong) as wrong:
                yield str(wrong)


def _levels(size: int) -> int:
    """Levels of tiles of a tree."""
    return -(-size.bit_length() // _LEVEL_BITS)


def _read(path: Path, most: int) -> bytes:
    """A plain file of at most `most` bytes: others made the folder, and a pipe or device would never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ExportUnreadable(f"{path}: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ExportUnreadable(f"{path} is not a plain file")
        with open(descriptor, "rb", closefd=False) as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise ExportUnreadable(f"{path}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(raw) > most:
        raise ExportUnreadable(f"{path} has more than {most} bytes, the most that it can have")
    return raw
