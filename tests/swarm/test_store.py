"""The state folder: everything that must not be forgotten survives, and trouble is named with its fix."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.store import RunUnknown, Store, StoreFailed, known_runs
from tests.verify.chain import KEYS, PEERS, begin, decided, follow, genesis_of, record_after, void
from verify.record import Decided, History, WrongRun
from verify.statement import sign

GENESIS = sign(KEYS[PEERS[0]], genesis_of(PEERS[:4]))
START = History.begin(GENESIS)


def opened(folder: Path) -> Store:
    store = Store(folder, START.run)
    store.save_genesis(GENESIS)
    return store


def with_chain(folder: Path, records: int) -> History:
    """A store with so many records, closed again; the history it must give back."""
    store, history = opened(folder), START
    for _ in range(records):
        raw = decided(history, record_after(history))
        store.save_decided((history.round + 1, 0), raw)
        history = history.extend(raw)
    store.close()
    return history


def test_everything_survives_reopening(tmp_path: Path) -> None:
    history = with_chain(tmp_path, 3)
    store = Store(tmp_path, START.run)
    store.save_decided((4, 0), void(history))
    store.save_vote((4, 1), b"vote one")
    store.save_vote((4, 1), b"vote two")
    store.save_vote((4, 2), b"of another attempt")
    store.save_entered((4, 1))
    store.remember(["/ip4/1", "/ip4/2"])
    store.close()
    again = Store(tmp_path, START.run)
    assert again.history(START.run) == (history, 1)
    assert again.votes((4, 1)) == (b"vote one", b"vote two")
    assert again.entered() == (4, 1)
    assert again.remembered() == ["/ip4/2", "/ip4/1"]
    assert again.genesis() == GENESIS
    assert known_runs(tmp_path) == [START.run.hex()]
    again.close()


def test_what_was_saved_survives_a_kill(tmp_path: Path) -> None:
    opened(tmp_path).close()
    code = (
        "import os, sys; from pathlib import Path; from swarm.store import Store\n"
        "store = Store(Path(sys.argv[1]), bytes.fromhex(sys.argv[2]))\n"
        "store.save_vote((1, 0), b'said'); store.save_entered((1, 0)); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), START.run.hex()], env=os.environ)
    assert done.returncode == -9
    store = Store(tmp_path, START.run)
    assert store.votes((1, 0)) == (b"said",)
    assert store.entered() == (1, 0)
    store.close()


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(StoreFailed, match="--state-dir"):
        Store(tmp_path, START.run)
    store.close()
    Store(tmp_path, START.run).close()


def test_a_record_makes_the_voids_and_votes_of_its_round_superfluous(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for attempt in range(3):
        store.save_decided((1, attempt), void(START, attempt))
        store.save_vote((1, attempt), b"vote")
    assert store.history(START.run) == (START, 3)
    store.save_vote((2, 0), b"of the next round")
    record = record_after(START, attempt=3)
    store.save_decided((1, 3), decided(START, record))
    assert [Decided.parse(raw).attempt for raw in store.decided()] == [3]
    assert all(store.votes((1, attempt)) == () for attempt in range(3))
    assert store.votes((2, 0)) == (b"of the next round",)
    assert store.history(START.run)[1] == 0
    store.close()


def test_records_are_served_in_order_from_a_round_on(tmp_path: Path) -> None:
    with_chain(tmp_path, 5)
    store = Store(tmp_path, START.run)
    assert [Decided.parse(raw).round for raw in store.decided(3)] == [3, 4, 5]
    assert [Decided.parse(raw).round for raw in store.decided(2, 2)] == [2, 3]
    store.close()


def test_an_unknown_run_and_another_runs_genesis_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path, START.run)
    with pytest.raises(RunUnknown, match="join it first"):
        store.history(START.run)
    store.save_genesis(sign(KEYS[PEERS[0]], genesis_of(PEERS[:5])))
    with pytest.raises(WrongRun):
        store.history(START.run)
    store.close()


def test_a_database_that_is_none_gives_the_fix(tmp_path: Path) -> None:
    with_chain(tmp_path, 3)
    file = tmp_path / "runs" / START.run.hex() / "run.sqlite"
    file.write_bytes(b"this is no database, but it is long enough to be read as one" * 100)
    with pytest.raises(StoreFailed, match="join again"):
        Store(tmp_path, START.run).history(START.run)


@pytest.mark.parametrize("change", ["flip", "gap", "empty"])
def test_a_chain_that_was_changed_on_disk_gives_the_fix(tmp_path: Path, change: str) -> None:
    with_chain(tmp_path, 3)
    file = tmp_path / "runs" / START.run.hex() / "run.sqlite"
    with sqlite3.connect(file) as db:
        if change == "gap":
            db.execute("delete from decided where round = 2")
        else:
            (raw,) = db.execute("select raw from decided where round = 2").fetchone()
            raw = raw[:200] + bytes([raw[200] ^ 1]) + raw[201:] if change == "flip" else b""
            db.execute("update decided set raw = ? where round = 2", (raw,))
    db.close()
    store = Store(tmp_path, START.run)
    with pytest.raises(StoreFailed, match="join again"):
        store.history(START.run)
    store.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder belongs")
    with pytest.raises(StoreFailed, match="permissions"):
        Store(tmp_path, START.run)


def test_only_the_newest_snapshots_are_kept_and_the_agreed_one_always(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for age in range(6):
        for ending in ("snapshot", "partial"):
            path = store.snapshots / f"{bytes([age]).hex() * 32}.{ending}"
            path.write_bytes(b"")
            os.utime(path, (1000 - age, 1000 - age))
    store.prune_snapshots(2, bytes([4]) * 32)
    left = sorted(path.name[:2] for path in store.snapshots.glob("*.snapshot"))
    assert left == ["00", "01", "04"]
    store.sweep_downloads(bytes([4]) * 32)
    assert [path.name[:2] for path in store.snapshots.glob("*.partial")] == ["04"]
    store.close()


def test_addresses_are_bounded_and_newest_first(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.remember(str(number) for number in range(40))
    store.remember(["30"])
    assert store.remembered()[:2] == ["30", "39"]
    assert len(store.remembered()) == 16
    store.close()


def test_a_store_follows_a_history_built_elsewhere(tmp_path: Path) -> None:
    assert with_chain(tmp_path, 4) == follow(begin(4), 4)
