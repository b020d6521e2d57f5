"""What a peer keeps on disk: everything it must not forget, or contradict, after `kill -9`.

One folder a run: `run.sqlite` (genesis, decided outcomes, own votes, the attempt entered, peers met),
`snapshots/`, `rounds.jsonl` (one line a round, for people and tools). Every write that returns is on
the disk (SQLite, write-ahead log, synchronous FULL). A lock keeps a second process out.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from proto.energy import EnergyClaim
from proto.errors import MessageRefused, SwarmError
from secagg.messages import Advert
from swarm.effects import Slot
from verify.case import PortableEvidence
from verify.ledger import Ledger
from verify.record import Decided, History
from verify.standing import COMPUTED_AGAIN
from verify.statement import open_signed

SCHEMA = """
create table if not exists genesis (one integer primary key check (one = 1), raw blob not null);
create table if not exists decided (
    id integer primary key, round integer not null, attempt integer not null, void integer not null,
    raw blob not null
);
create index if not exists decided_round on decided (round);
create table if not exists vote (round integer not null, attempt integer not null, raw blob not null);
create table if not exists entered (
    one integer primary key check (one = 1), round integer not null, attempt integer not null
);
create table if not exists led (
    round integer not null, attempt integer not null, chain integer not null,
    primary key (round, attempt, chain)
);
create table if not exists listed (
    round integer not null, attempt integer not null, name text not null, digest blob not null,
    primary key (round, attempt, name)
);
create table if not exists shown (session blob primary key);
create table if not exists evidence (name blob primary key, raw blob not null);
create table if not exists energy (one integer primary key check (one = 1), raw blob not null);
create table if not exists address (multiaddress text primary key, seen integer not null);
"""


MOST_KEPT = 2
"""Snapshots that are kept because evidence rests on them."""


class StoreFailed(SwarmError):
    """The state folder cannot be used."""


class RunUnknown(StoreFailed):
    """No state of such a run here."""


class Store:
    """One run's state. Methods raise StoreFailed where the disk does not take or give the data.

    `alone=False` reads beside the peer whose state it is.
    """

    def __init__(self, state_dir: Path, run: bytes, alone: bool = True) -> None:
        self.directory = state_dir / "runs" / run.hex()
        self.snapshots = self.directory / "snapshots"
        try:
            self.snapshots.mkdir(parents=True, exist_ok=True)
            self._lock = (self.directory / "lock").open("w")
            if alone:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._db = sqlite3.connect(self.directory / "run.sqlite", check_same_thread=False)
            self._db.executescript("pragma journal_mode = wal; pragma synchronous = full;" + SCHEMA)
            path = self.directory / "ledger.sqlite"
            self.ledger = Ledger(path, None, run, read_only=not alone and path.exists())
        except BlockingIOError:
            raise StoreFailed(
                f"{self.directory} is in use by another peer process: stop it, or give this one its own "
                "`--state-dir DIR`"
            ) from None
        except (OSError, sqlite3.Error) as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Close the databases and give the folder free."""
        self.ledger.close()
        self._db.close()
        self._lock.close()

    # -- genesis and history --------------------------------------------------------------------------

    def save_genesis(self, raw: bytes) -> None:
        """Keep the signed genesis."""
        self._write("insert or replace into genesis values (1, ?)", (raw,))

    def genesis(self) -> bytes | None:
        """The signed genesis, if it is known here."""
        rows = self._read("select raw from genesis")
        return rows[0][0] if rows else None

    def save_decided(self, slot: Slot, raw: bytes) -> None:
        """Keep an outcome; a record makes the voids and votes of its round superfluous."""
        decided = Decided.parse(raw)
        void = not decided.body and not decided.recovery
        statements: list[tuple[str, tuple[Any, ...]]] = [
            ("insert into decided (round, attempt, void, raw) values (?, ?, ?, ?)", (*slot, void, raw))
        ]
        if not void:
            statements += [
                ("delete from decided where void and round <= ?", (slot[0],)),
                ("delete from vote where round <= ?", (slot[0],)),
                ("delete from led where round <= ?", (slot[0],)),
                ("delete from listed where round <= ?", (slot[0],)),
            ]
        try:
            with self._db:
                for sql, values in statements:
                    self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def decided(self, start: int = 0, limit: int = -1) -> list[bytes]:
        """Outcomes from round `start` on, in order: records, then the voids of the round under way."""
        sql = "select raw from decided where round >= ? order by round, attempt limit ?"
        return [raw for (raw,) in self._read(sql, (start, limit))]

    def history(self, run: bytes) -> tuple[History, int]:
        """The history, checked again from genesis, and the attempt under way. Raises RunUnknown, WrongRun."""
        genesis = self.genesis()
        if genesis is None:
            raise RunUnknown(f"run {run.hex()} is not known in {self.directory.parent}: join it first")
        history, attempt = History.begin(genesis, run), 0
        try:
            for raw in self.decided():
                history, attempt = replay(history, attempt, raw)
        except MessageRefused as refusal:
            raise self._failed(refusal) from None
        return history, attempt

    # -- what must not be contradicted ------------------------------------------------------------------

    def save_vote(self, slot: Slot, raw: bytes) -> None:
        """Keep an own vote, before it is sent."""
        self._write("insert into vote values (?, ?, ?)", (*slot, raw))

    def votes(self, slot: Slot) -> tuple[bytes, ...]:
        """Own votes of an attempt."""
        return tuple(
            raw for (raw,) in self._read("select raw from vote where round = ? and attempt = ?", slot)
        )

    def save_entered(self, slot: Slot) -> None:
        """Keep that this attempt's update is leaving the peer."""
        self._write("insert or replace into entered values (1, ?, ?)", slot)

    def save_led(self, slot: Slot, chain: int) -> None:
        """This peer begins to lead a chain: once."""
        self._write("insert or ignore into led values (?, ?, ?)", (*slot, chain))

    def led(self, slot: Slot) -> frozenset[int]:
        """The chains of an attempt that this peer has begun to lead."""
        rows = self._read("select chain from led where round = ? and attempt = ?", slot)
        return frozenset(chain for (chain,) in rows)

    def save_listed(self, slot: Slot, name: str, digest: bytes) -> bool:
        """Keep what this peer signs under a name in an attempt; False if it has signed another thing."""
        self._write("insert or ignore into listed values (?, ?, ?, ?)", (*slot, name, digest))
        sql = "select digest from listed where round = ? and attempt = ? and name = ?"
        return self._read(sql, (*slot, name)) == [(digest,)]

    def entered(self) -> Slot | None:
        """The last attempt whose update has left the peer."""
        rows = self._read("select round, attempt from entered")
        return (rows[0][0], rows[0][1]) if rows else None

    # -- evidence ---------------------------------------------------------------------------------------

    def save_evidence(self, name: bytes, raw: bytes) -> None:
        """Keep a piece of evidence, here and in the ledger."""
        self._write("insert or ignore into evidence values (?, ?)", (name, raw))
        self._keep_snapshot(PortableEvidence.parse(raw))
        self._log([("evidence", raw)])

    def _keep_snapshot(self, case: PortableEvidence) -> None:
        """A wrong update can only be computed again from its snapshot: the newest of these are not pruned."""
        named = [open_signed(raw, Advert) for raw in case.adverts] if case.kind in COMPUTED_AGAIN else []
        for signed in named:
            name = f"{signed.message.snapshot.hex()}.snapshot"
            kept = self.directory / "evidence" / name
            if signed.signer == case.against and (self.snapshots / name).exists() and not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                os.link(self.snapshots / name, kept)
                older = sorted(kept.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
                for path in older[MOST_KEPT:]:
                    path.unlink(missing_ok=True)

    def evidence(self, name: bytes) -> bytes | None:
        """A piece of evidence by its name."""
        rows = self._read("select raw from evidence where name = ?", (name,))
        return rows[0][0] if rows else None

    @property
    def shown(self) -> "ShownSessions":
        """The sessions of which own text was opened to a checker."""
        return ShownSessions(self)

    # -- the ledger -------------------------------------------------------------------------------------

    def catch_up_ledger(self) -> None:
        """Log genesis, and what was decided but not yet logged when an earlier process was killed."""
        genesis = self.genesis()
        if genesis is not None:
            self._log([("genesis", genesis), *(("decided", raw) for raw in self.decided())])

    def _log(self, entries: Iterable[tuple[str, bytes]]) -> None:
        self.ledger.append([(kind, raw) for kind, raw in entries if not self.ledger.has(raw)])

    # -- conveniences -----------------------------------------------------------------------------------

    def remember(self, addresses: Iterable[str]) -> None:
        """Keep addresses by which the swarm was reached, newest last, at most 16."""
        try:
            with self._db:
                for address in addresses:
                    self._db.execute(
                        "insert or replace into address select ?, coalesce(max(seen), 0) + 1 from address",
                        (address,),
                    )
                self._db.execute(
                    "delete from address where multiaddress not in "
                    "(select multiaddress from address order by seen desc limit 16)"
                )
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def remembered(self) -> list[str]:
        """Addresses kept by `remember`, newest first."""
        return [address for (address,) in self._read("select multiaddress from address order by seen desc")]

    def save_energy(self, claim: EnergyClaim) -> None:
        """Keep what this peer is about to claim: counters never go back."""
        self._write("insert or replace into energy values (1, ?)", (claim.encode(),))

    def energy(self) -> EnergyClaim | None:
        """The last claim, if there was one."""
        rows = self._read("select raw from energy")
        return EnergyClaim.parse(rows[0][0]) if rows else None

    def log_round(self, entry: dict[str, Any]) -> None:
        """Add a line to rounds.jsonl."""
        try:
            with (self.directory / "rounds.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise self._failed(error) from None

    def prune_snapshots(self, keep: int, always: bytes) -> None:
        """Delete all but the `keep` newest snapshots; never `always`."""
        files = sorted(self.snapshots.glob("*.snapshot"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[keep:]:
            if path.stem != always.hex():
                path.unlink(missing_ok=True)

    def sweep_downloads(self, under_way: bytes = b"") -> None:
        """Delete what unfinished downloads and writes left, but for those of the snapshot `under_way`."""
        for path in [*self.snapshots.glob("*.partial"), *self.snapshots.glob("*.draft")]:
            if path.stem != under_way.hex():
                path.unlink(missing_ok=True)

    def _write(self, sql: str, values: tuple[Any, ...]) -> None:
        try:
            with self._db:
                self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def _read(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> StoreFailed:
        return StoreFailed(
            f"{self.directory}: {error}; free disk space and check the folder's permissions, or move the "
            "damaged folder away and join again (the identity is kept beside `runs/`)"
        )


class ShownSessions:
    """See swarm.openings.ShownRounds."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, session: bytes) -> None:
        """Keep that a checker was shown text of this session."""
        self._store._write("insert or ignore into shown values (?)", (session,))

    def __contains__(self, session: object) -> bool:
        return bool(self._store._read("select 1 from shown where session = ?", (session,)))

    def __len__(self) -> int:
        return int(self._store._read("select count(*) from shown")[0][0])


def replay(history: History, attempt: int, raw: bytes) -> tuple[History, int]:
    """The history and attempt after one more decided outcome. Raises RecordRefused."""
    decided = Decided.parse(raw)
    if decided.body or decided.recovery:
        return history.extend(raw), 0
    history.check_void(decided)
    return history, max(attempt, decided.attempt + 1)


def known_runs(state_dir: Path) -> list[str]:
    """Hex names of the runs with state in a folder."""
    return sorted(path.name for path in (state_dir / "runs").glob("*") if (path / "run.sqlite").exists())
