"""The slices of an order on disk: what was added is read back, and a full disk is told."""

import errno
from pathlib import Path

import numpy as np
import pytest

from swarm.compute import WorkFile
from swarm.snapshot import DiskFull


class FullDisk:
    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        """Nothing was written."""


def slices(count: int, size: int = 5_000) -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    return [chance.integers(-500, 500, size, np.int16) for _ in range(count)]


def test_slices_are_read_back_in_any_order_and_leave_no_file(tmp_path: Path) -> None:
    kept, made = WorkFile(tmp_path, 5_000, np.dtype(np.int16)), slices(4)
    for one in made:
        kept.add(one)
    for index in (3, 0, 2, 1, 3):
        assert np.array_equal(kept.slice(index), made[index])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("later", ["add", "finish", "slice"])
def test_a_full_disk_is_told_with_the_fix_by_whatever_comes_next(tmp_path: Path, later: str) -> None:
    kept, (one, other) = WorkFile(tmp_path, 5_000, np.dtype(np.int16)), slices(2)
    kept._file = FullDisk()  # type: ignore[assignment]
    kept.add(one)
    arguments = {"add": (other,), "slice": (0,)}.get(later, ())
    with pytest.raises(DiskFull, match="No space left on device; free disk space"):
        getattr(kept, later)(*arguments)
