"""Promises of snapshots: a name means one state, files are whole or absent, downloads are checked."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from proto.errors import MessageRefused
from secagg.ring import BLOCK
from swarm.layout import Layout
from swarm.snapshot import (
    PIECE,
    DiskFull,
    Download,
    PieceRefused,
    Snapshot,
    SnapshotCorrupt,
    SnapshotFile,
    SnapshotRefused,
    first_snapshot,
    index_name,
    path_of,
    read,
    snapshot_bytes,
)

LAYOUT = Layout(("w",), ((300, BLOCK),), (0,), (False,), 300 * BLOCK)


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    rng = np.random.default_rng(0)
    params, m, v = (rng.standard_normal(LAYOUT.size).astype(np.float32) for _ in range(3))
    scales = rng.random(LAYOUT.blocks).astype(np.float32)
    return Snapshot(7, LAYOUT.digest, params, m, v, scales, 0.1 + 0.2, 0.5, 16)


@pytest.fixture
def stored(snapshot: Snapshot, tmp_path: Path) -> SnapshotFile:
    return SnapshotFile(snapshot.write(tmp_path / "from"), snapshot.hash)


def test_a_snapshot_read_back_has_every_bit(snapshot: Snapshot, tmp_path: Path) -> None:
    path = snapshot.write(tmp_path)
    assert path == path_of(tmp_path, snapshot.hash)
    again = read(path, snapshot.hash)
    assert again.hash == snapshot.hash
    for name in ("params", "m", "v", "scales"):
        assert np.array_equal(getattr(again, name), getattr(snapshot, name))
    for name in ("round", "layout", "weight", "beta1_power", "beta2_power"):
        assert getattr(again, name) == getattr(snapshot, name)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert 0 <= path.stat().st_size - snapshot_bytes(LAYOUT) < 1000


@pytest.mark.parametrize(
    "field", ["round", "weight", "beta1_power", "beta2_power", "layout", "params", "scales"]
)
def test_the_name_covers_every_field(snapshot: Snapshot, field: str) -> None:
    values = {name: getattr(snapshot, name) for name in snapshot.__dataclass_fields__}
    match values[field]:
        case np.ndarray() as array:
            values[field] = array.copy()
            values[field][-1] = np.nextafter(array[-1], np.float32(9))
        case bytes():
            values[field] = bytes(32)
        case number:
            values[field] = number + type(number)(1)
    assert Snapshot(**values).hash != snapshot.hash


def test_a_corrupt_piece_is_named(snapshot: Snapshot, tmp_path: Path) -> None:
    path = snapshot.write(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    last = snapshot_bytes(LAYOUT) // PIECE
    with pytest.raises(SnapshotCorrupt, match=f"piece {last}.*delete the file"):
        read(path, snapshot.hash)
    with SnapshotFile(path, snapshot.hash) as stored:
        stored.read_piece(0)
        with pytest.raises(SnapshotCorrupt, match=f"piece {last}"):
            stored.read_piece(last)


class Damage(NamedTuple):
    cut: slice
    more: bytes = b""


@pytest.mark.parametrize(
    "damage", [Damage(slice(0, 0)), Damage(slice(0, 5)), Damage(slice(0, -1)), Damage(slice(None), b"\0")]
)
def test_a_file_of_another_length_is_corrupt(snapshot: Snapshot, tmp_path: Path, damage: Damage) -> None:
    path = snapshot.write(tmp_path)
    path.write_bytes(path.read_bytes()[damage.cut] + damage.more)
    with pytest.raises(SnapshotCorrupt):
        read(path, snapshot.hash)


def test_a_file_under_another_name_or_none_is_corrupt(snapshot: Snapshot, tmp_path: Path) -> None:
    path = snapshot.write(tmp_path)
    with pytest.raises(SnapshotCorrupt, match="not that of 0000"):
        read(path, bytes(32))
    with pytest.raises(SnapshotCorrupt, match="No such file"):
        read(tmp_path / "absent", snapshot.hash)


def test_a_download_takes_pieces_in_any_order_and_gives_the_same_file(
    snapshot: Snapshot, stored: SnapshotFile, tmp_path: Path
) -> None:
    with stored:
        download = Download(tmp_path, snapshot.hash, stored.raw_index, LAYOUT)
        for piece in reversed(download.wanted()):
            download.offer(piece, stored.read_piece(piece))
            download.offer(piece, stored.read_piece(piece))
        assert download.finish().read_bytes() == stored.path.read_bytes()
    assert [entry.name for entry in tmp_path.glob("*.partial")] == []


def test_a_stopped_download_goes_on_where_it_was(
    snapshot: Snapshot, stored: SnapshotFile, tmp_path: Path
) -> None:
    with stored:
        first = Download(tmp_path, snapshot.hash, stored.raw_index, LAYOUT)
        first.offer(1, stored.read_piece(1))
        first.offer(3, stored.read_piece(3))
        partial = next(tmp_path.glob("*.partial"))
        raw = bytearray(partial.read_bytes())
        raw[-1 - snapshot_bytes(LAYOUT) + PIECE * 2] ^= 1  # the last byte of piece 1 rots meanwhile
        partial.write_bytes(raw)
        again = Download(tmp_path, snapshot.hash, stored.raw_index, LAYOUT)
        assert again.wanted() == [0, 1, 2]
        with pytest.raises(ValueError, match="3 pieces"):
            again.finish()
        for piece in again.wanted():
            again.offer(piece, stored.read_piece(piece))
        assert read(again.finish(), snapshot.hash).hash == snapshot.hash


def test_a_wrong_piece_is_refused_and_changes_nothing(
    snapshot: Snapshot, stored: SnapshotFile, tmp_path: Path
) -> None:
    with stored:
        download = Download(tmp_path, snapshot.hash, stored.raw_index, LAYOUT)
        right = stored.read_piece(0)
        for piece, data in (
            (0, right[:-1]),
            (0, right + b"\0"),
            (0, b""),
            (1, right),
            (4, right),
            (-1, right),
        ):
            with pytest.raises(PieceRefused):
                download.offer(piece, data)
        assert download.wanted() == [0, 1, 2, 3]


def test_an_index_that_is_not_the_runs_is_refused_before_anything_is_written(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    raw = snapshot.index.encode()
    smaller = Layout(("w",), ((299, BLOCK),), (0,), (False,), 299 * BLOCK)
    short = snapshot.index.model_copy(update={"pieces": snapshot.index.pieces[:-1]})
    for name, index, layout in (
        (bytes(32), raw, LAYOUT),
        (snapshot.hash, raw[:-1], LAYOUT),
        (snapshot.hash, raw, smaller),
        (short.name, short.encode(), LAYOUT),
    ):
        with pytest.raises(SnapshotRefused):
            Download(tmp_path, name, index, layout)
    junk = b"\xa0"
    with pytest.raises(MessageRefused):
        Download(tmp_path, index_name(junk), junk, LAYOUT)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_with_what_is_needed_and_free(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=4096))
    with pytest.raises(DiskFull, match=r"needs 3\d{6} bytes, 4096 are free"):
        snapshot.write(tmp_path)
    with pytest.raises(DiskFull):
        Download(tmp_path, snapshot.hash, snapshot.index.encode(), LAYOUT)
    assert list(tmp_path.iterdir()) == []


def test_the_first_snapshot_has_learned_nothing(tmp_path: Path) -> None:
    params = np.ones(LAYOUT.size, np.float32)
    first = first_snapshot(LAYOUT, params, 1e-3)
    assert (first.round, first.weight, first.beta1_power, first.beta2_power) == (0, 0, 1.0, 1.0)
    assert not first.m.any()
    assert not first.v.any()
    assert (first.scales == np.float32(1e-3)).all()
