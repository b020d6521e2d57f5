"""Snapshots: the agreed state of a shard after a round, named by its hash, in pieces that travel alone.

The promise: whoever holds a snapshot's 32-byte name gets that snapshot or a refusal. The state is one
stream of little-endian float32 (parameters, m, v, block scales), cut into pieces of 1 MiB. The index
holds everything else and the BLAKE3 hash of each piece; the name is the BLAKE3 hash of the index, so
one piece can be checked as it arrives, from whichever peer.

A file is: length of the index (8 bytes, little-endian), index, stream. Files appear whole or not at
all. A download keeps its verified pieces in `NAME.partial` and finds them again by hashing.
"""

import errno
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from blake3 import blake3
from pydantic import Field

from proto.canonical import MAX_MESSAGE, Count, Digest, Message, tagged
from proto.errors import MessageRefused, SwarmError
from secagg.ring import BLOCK
from swarm.layout import Layout

PIECE = 1 << 20
BLOCK_BYTES = 3 * 4 * BLOCK + 4  # parameters, m and v of a block, and its scale


class SnapshotCorrupt(SwarmError):
    """A stored snapshot is not what its name says."""

    exit_code = 1


class SnapshotRefused(MessageRefused):
    """An index from a peer that does not have the expected name or shape."""


class PieceRefused(MessageRefused):
    """A piece from a peer that does not have the hash the index gives."""


class DiskFull(SwarmError):
    """There is no room for a snapshot."""


class Index(Message):
    """A snapshot without its numbers. Powers are IEEE 754 float64, little-endian."""

    DOMAIN: ClassVar[str] = "snapshot"
    MOST_BYTES: ClassVar[int] = MAX_MESSAGE
    MOST_ITEMS: ClassVar[int] = 65_536

    round: Count
    layout: Digest
    blocks: Annotated[int, Field(ge=1, lt=1 << 32)]
    weight: Count
    beta1_power: Annotated[bytes, Field(min_length=8, max_length=8)]
    beta2_power: Annotated[bytes, Field(min_length=8, max_length=8)]
    pieces: Annotated[tuple[Digest, ...], Field(max_length=MAX_MESSAGE // 34)]

    @property
    def stream_bytes(self) -> int:
        return self.blocks * BLOCK_BYTES

    @property
    def name(self) -> bytes:
        """The 32 bytes that the snapshot goes by."""
        return index_name(self.encode())


@dataclass(frozen=True, eq=False)
class Snapshot:
    """State after `round` rounds. `params`, `m`, `v`: float32 [size]; `scales`: float32 [size / BLOCK].

    `layout` is the layout's digest; `beta*_power` are the running products of the outer optimizer's
    betas; `weight` is the number of slices in the last round's sum.
    """

    round: int
    layout: bytes
    params: np.ndarray
    m: np.ndarray
    v: np.ndarray
    scales: np.ndarray
    beta1_power: float
    beta2_power: float
    weight: int

    @cached_property
    def index(self) -> Index:
        stream = self._stream()
        return Index(
            round=self.round,
            layout=self.layout,
            blocks=len(self.scales),
            weight=self.weight,
            beta1_power=struct.pack("<d", self.beta1_power),
            beta2_power=struct.pack("<d", self.beta2_power),
            pieces=tuple(_hash(stream, start, stop) for start, stop in _pieces(len(self.scales))),
        )

    @property
    def hash(self) -> bytes:
        return self.index.name

    def write(self, directory: Path) -> Path:
        """Store in `directory` as `HASH.snapshot`, whole and on the disk. Raises DiskFull."""
        path = path_of(directory, self.hash)
        draft = path.with_suffix(".draft")
        header = _header(self.index)
        _check_room(directory, len(header) + self.index.stream_bytes)
        try:
            with draft.open("wb") as file:
                file.write(header)
                for view in self._stream():
                    file.write(view)
            _settle(draft, path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise _write_error(error, directory, self.index.stream_bytes) from None
        return path

    def _stream(self) -> list[memoryview]:
        arrays = (self.params, self.m, self.v, self.scales)
        return [np.ascontiguousarray(array, "<f4").data.cast("B") for array in arrays]


def first_snapshot(layout: Layout, params: np.ndarray, initial_scale: float) -> Snapshot:
    """The snapshot of round 0: `params` float32 [size], nothing learned yet."""
    return Snapshot(
        round=0,
        layout=layout.digest,
        params=params,
        m=np.zeros(layout.size, np.float32),
        v=np.zeros(layout.size, np.float32),
        scales=np.full(layout.blocks, initial_scale, np.float32),
        beta1_power=1.0,
        beta2_power=1.0,
        weight=0,
    )


def snapshot_bytes(layout: Layout) -> int:
    """What a snapshot takes on the disk, index excluded: about 12 bytes a parameter."""
    return layout.blocks * BLOCK_BYTES


def path_of(directory: Path, name: bytes) -> Path:
    return directory / f"{name.hex()}.snapshot"


def index_name(raw: bytes) -> bytes:
    return blake3(tagged(Index.DOMAIN) + raw).digest()


def read(path: Path, name: bytes) -> Snapshot:
    """The snapshot `name` from its file, every byte checked. Raises SnapshotCorrupt."""
    with SnapshotFile(path, name) as stored:
        return stored.snapshot()


class SnapshotFile:
    """A stored snapshot whose pieces are served without loading it. Raises SnapshotCorrupt."""

    def __init__(self, path: Path, name: bytes):
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise SnapshotCorrupt(f"{path}: {error.strerror}; fetch the snapshot from a peer again") from None
        try:
            length = int.from_bytes(self._file.read(8), "little")
            self.raw_index = self._file.read(min(length, MAX_MESSAGE))
            if index_name(self.raw_index) != name:
                raise self._corrupt(f"its index is not that of {name.hex()}")
            self.index = Index.parse(self.raw_index)
            self._start = self._file.tell()
            if path.stat().st_size != self._start + self.index.stream_bytes:
                raise self._corrupt(f"{path.stat().st_size} bytes")
        except SwarmError:
            self._file.close()
            raise

    def __enter__(self) -> "SnapshotFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read_piece(self, piece: int) -> bytes:
        """Piece `piece` of the stream, checked. IndexError where there is none."""
        if not 0 <= piece < len(self.index.pieces):
            raise IndexError(f"piece {piece} of {len(self.index.pieces)}")
        self._file.seek(self._start + piece * PIECE)
        size = min(PIECE, self.index.stream_bytes - piece * PIECE)
        data = self._file.read(size)
        if blake3(data).digest() != self.index.pieces[piece]:
            raise self._corrupt(f"piece {piece} has another hash")
        return data

    def snapshot(self) -> Snapshot:
        """All of it."""
        index = self.index
        params, m, v = (np.empty(index.blocks * BLOCK, "<f4") for _ in range(3))
        scales = np.empty(index.blocks, "<f4")
        self._file.seek(self._start)
        for array in (params, m, v, scales):
            self._file.readinto(array.data.cast("B"))
        power1, power2 = (struct.unpack("<d", raw)[0] for raw in (index.beta1_power, index.beta2_power))
        found = Snapshot(index.round, index.layout, params, m, v, scales, power1, power2, index.weight)
        for piece, (is_now, was) in enumerate(zip(found.index.pieces, self.index.pieces, strict=True)):
            if is_now != was:
                raise self._corrupt(f"piece {piece} has another hash")
        return found

    def _corrupt(self, what: str) -> SnapshotCorrupt:
        return SnapshotCorrupt(f"{self.path}: {what}; delete the file, it is fetched from a peer again")


class Download:
    """Collects a snapshot's pieces in any order, from anyone; a stopped download goes on where it was.

    `raw_index` comes from a peer and is checked against `name` and the run's layout. Raises
    SnapshotRefused, DiskFull.
    """

    def __init__(self, directory: Path, name: bytes, raw_index: bytes, layout: Layout):
        self.index = _check_index(raw_index, name, layout)
        self.path = path_of(directory, name)
        self._directory, self._draft = directory, self.path.with_suffix(".partial")
        header = _header(self.index)
        self._start = len(header)
        have = self._draft.stat().st_blocks * 512 if self._draft.exists() else 0
        size = self._start + self.index.stream_bytes
        _check_room(directory, size - have)
        self._missing = set(range(len(self.index.pieces)))
        try:
            with self._draft.open("r+b" if self._draft.exists() else "w+b") as file:
                file.write(header)
                file.truncate(size)
                for piece, digest in enumerate(self.index.pieces):
                    if blake3(file.read(PIECE)).digest() == digest:
                        self._missing.discard(piece)
        except OSError as error:
            raise _write_error(error, directory, size - have) from None

    def wanted(self) -> list[int]:
        """The pieces that are not here yet, rising."""
        return sorted(self._missing)

    def offer(self, piece: int, data: bytes) -> None:
        """Keep a piece. Raises PieceRefused where it is not the one the index names, DiskFull."""
        if not 0 <= piece < len(self.index.pieces):
            raise PieceRefused(f"snapshot piece {piece}: there are {len(self.index.pieces)}")
        if len(data) > PIECE or blake3(data).digest() != self.index.pieces[piece]:
            raise PieceRefused(f"snapshot piece {piece}: wrong hash; ask another peer for it")
        if piece not in self._missing:
            return
        try:
            with self._draft.open("r+b") as file:
                file.seek(self._start + piece * PIECE)
                file.write(data)
        except OSError as error:
            raise _write_error(error, self._directory, len(self._missing) * PIECE) from None
        self._missing.remove(piece)

    def finish(self) -> Path:
        """The file of the whole snapshot, once nothing is wanted."""
        if self._missing:
            raise ValueError(f"{len(self._missing)} pieces are still wanted")
        _settle(self._draft, self.path)
        return self.path


def _check_index(raw: bytes, name: bytes, layout: Layout) -> Index:
    if len(raw) > MAX_MESSAGE or index_name(raw) != name:
        raise SnapshotRefused(f"snapshot index: not that of {name.hex()}; ask another peer for it")
    index = Index.parse(raw)
    if (index.layout, index.blocks) != (layout.digest, layout.blocks):
        raise SnapshotRefused(f"snapshot {name.hex()}: {index.blocks} blocks, the run has {layout.blocks}")
    if len(index.pieces) != len(_pieces(index.blocks)):
        raise SnapshotRefused(f"snapshot {name.hex()}: {len(index.pieces)} pieces for {index.blocks} blocks")
    return index


def _header(index: Index) -> bytes:
    raw = index.encode()
    return len(raw).to_bytes(8, "little") + raw


def _pieces(blocks: int) -> list[tuple[int, int]]:
    size = blocks * BLOCK_BYTES
    return [(start, min(start + PIECE, size)) for start in range(0, size, PIECE)]


def _hash(stream: list[memoryview], start: int, stop: int) -> bytes:
    """BLAKE3 of bytes start..stop of the views laid end to end."""
    digest = blake3()
    for view in _cut(stream, start, stop):
        digest.update(view)
    return digest.digest()


def _cut(stream: list[memoryview], start: int, stop: int) -> Iterator[memoryview]:
    for view in stream:
        if start < len(view) and stop > 0:
            yield view[max(start, 0) : stop]
        start, stop = start - len(view), stop - len(view)


def _check_room(directory: Path, needed: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise _disk_full(directory, needed, free)


def _disk_full(directory: Path, needed: int, free: int) -> DiskFull:
    return DiskFull(
        f"{directory}: a snapshot needs {needed} bytes, {free} are free; "
        "free some space, choose another --state-dir, or lower snapshots_kept"
    )


def _write_error(error: OSError, directory: Path, needed: int) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(directory, needed, shutil.disk_usage(directory).free)
    return error


def _settle(draft: Path, path: Path) -> None:
    """Give a finished file its name so that it survives a crash from here on."""
    with draft.open("r+b") as file:
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
