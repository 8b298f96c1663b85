"""The ledger's file: tables, versions, connections, and the walk along the chain of hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import apsw

from inspector.errors import LedgerError
from inspector.ledger.removed import removed
from inspector.ledger.rows import (
    ANSWER_COLUMNS,
    EPOCH_COLUMNS,
    EVENT_COLUMNS,
    GENESIS,
    OVERRIDE_COLUMNS,
    Cells,
    chain,
)

SQLITE_OLDEST = (3, 51, 3)
"""Older ones may corrupt a WAL file when two connections checkpoint and write at once (fixed in 3.51.3)."""

ANSWERS = """
CREATE TABLE answers (
  link INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, part_id TEXT NOT NULL,
  frame_id INTEGER NOT NULL, verdict TEXT NOT NULL, reason TEXT, review INTEGER NOT NULL, score REAL,
  taken_ns INTEGER NOT NULL, due_ns INTEGER NOT NULL, settled_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL,
  engine TEXT NOT NULL, calibration TEXT NOT NULL, settings TEXT NOT NULL,
  stages TEXT NOT NULL, defects TEXT NOT NULL, rules TEXT NOT NULL, detail TEXT NOT NULL, truth INTEGER,
  hash BLOB NOT NULL, UNIQUE (epoch, sequence)
) STRICT"""
RECEIPTS = """
CREATE TABLE receipts (
  epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, received_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL,
  PRIMARY KEY (epoch, sequence)
) STRICT, WITHOUT ROWID"""
OVERRIDES = """
CREATE TABLE overrides (
  link INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, reason TEXT NOT NULL,
  sent_ns INTEGER NOT NULL, detail TEXT NOT NULL, hash BLOB NOT NULL, UNIQUE (epoch, sequence)
) STRICT"""
EVENTS = """
CREATE TABLE events (
  link INTEGER PRIMARY KEY, wall_ns INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
  epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, hash BLOB NOT NULL
) STRICT"""
EPOCHS = """
CREATE TABLE epochs (
  link INTEGER PRIMARY KEY, epoch INTEGER NOT NULL UNIQUE, started_wall_ns INTEGER NOT NULL,
  started_mono_ns INTEGER NOT NULL, boot_id TEXT NOT NULL, version TEXT NOT NULL,
  previous_epoch INTEGER NOT NULL, previous_opened INTEGER NOT NULL, file_version INTEGER NOT NULL, hash BLOB NOT NULL
) STRICT"""
STATE = "CREATE TABLE state (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID"

Steps = tuple[tuple[str, ...], ...]
MIGRATIONS: Steps = ((ANSWERS, RECEIPTS, OVERRIDES, EVENTS, EPOCHS, STATE),)
"""What leads from version n to n + 1. Only ever appended to, and only additions: old rows stay as they were hashed."""

_WALK_ROWS = 20_000

CHAINED: dict[str, list[str]] = {
    "answers": ANSWER_COLUMNS,
    "overrides": OVERRIDE_COLUMNS,
    "events": EVENT_COLUMNS,
    "epochs": EPOCH_COLUMNS,
}
"""The tables that share one chain, by ``link``, with the cells that are hashed."""


def insert(table: str, columns: list[str]) -> str:
    """INSERT statement for a chained table: its cells, then the hash."""
    names = [*columns, "hash"]
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


def check_library() -> None:
    """Raises LedgerError when the SQLite in apsw is one that may corrupt the file."""
    found = apsw.sqlite_lib_version()
    if tuple(int(part) for part in found.split(".")[:3]) < SQLITE_OLDEST:
        oldest = ".".join(map(str, SQLITE_OLDEST))
        raise LedgerError("SQLite is too old for the ledger", expected=f">= {oldest}", found=found, do="Update apsw.")


def connect(path: Path, *, busy_ms: int = 250, vfs: str | None = None) -> apsw.Connection:
    """A connection that may write: WAL, synchronous NORMAL, no automatic checkpoint, bounded busy timeout."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(str(path), flags=flags, vfs=vfs)
    connection.set_busy_timeout(busy_ms)
    # Before anything else: closing must neither copy nor delete a WAL that turns out to belong to a damaged file.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.wal_autocheckpoint(0)
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def reader(path: Path, *, busy_ms: int = 2000, steps: Steps | None = None) -> apsw.Connection:
    """A connection that only reads. Raises LedgerError when there is no ledger, or one that is newer than this code."""
    if not path.is_file():
        raise LedgerError("no ledger", expected=f"a file {path}", found="nothing", do="Name the station's state-dir.")
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(busy_ms)
        version = check_version(connection, path, steps)
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise LedgerError(f"{path} is not a readable ledger", found=str(error)) from error
    except apsw.Error as error:
        raise LedgerError(f"cannot read the ledger {path}", found=str(error)) from error
    if version == 0:
        raise LedgerError(f"{path} is empty", expected="a ledger that the daemon has opened once")
    return connection


def check_version(connection: apsw.Connection, path: Path, steps: Steps | None = None) -> int:
    """The file's version. Raises LedgerError for one that only a newer inspector understands."""
    version, steps = int(connection.pragma("user_version") or 0), steps or MIGRATIONS
    if version > len(steps):
        raise LedgerError(
            f"the ledger {path} was written by a newer inspector",
            expected=f"version {len(steps)} or older",
            found=f"version {version}",
            do="Run that one, or name another file.",
        )
    return version


def migrate(connection: apsw.Connection, path: Path, steps: Steps | None = None) -> str:
    """Bring the file to this code's version, in one transaction; an existing ledger is copied beside itself first.

    ``steps``: what leads from each version to the next, for other files that are kept as the ledger is.

    Returns one line that says what was done, empty when nothing was.
    """
    steps = steps or MIGRATIONS
    version = check_version(connection, path, steps)
    if version == len(steps):
        return ""
    said = ""
    if version > 0:
        copy = path.with_name(f"{path.name}.v{version}")
        with apsw.Connection(str(copy)) as target, target.backup("main", connection, "main") as backup:
            backup.step(-1)
        said = f"migrated from version {version} to {len(steps)}; the old file is kept as {copy.name}"
    with connection:
        for statements in steps[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.pragma("user_version", len(steps))
    return said


def number(connection: apsw.Connection, query: str, values: tuple[int | str, ...] = ()) -> int:
    """The whole number a query of one cell gives."""
    found = connection.execute(query, values).get
    if not isinstance(found, int):
        raise LedgerError("the ledger gave no number", expected=query, found=repr(found))
    return found


def head(connection: apsw.Connection) -> tuple[int, bytes]:
    """Link and hash of the last row of the chain; (0, GENESIS) for an empty file."""
    last = (0, GENESIS)
    for table in CHAINED:
        row = connection.execute(f"SELECT link, hash FROM {table} ORDER BY link DESC LIMIT 1").get
        if row is not None:
            last = max(last, (row[0], row[1]))
    return last


def link_hash(connection: apsw.Connection, link: int) -> bytes | None:
    """The stored hash of one row; None where there is no such row; GENESIS for link 0."""
    if link == 0:
        return GENESIS
    for table in CHAINED:
        found = connection.execute(f"SELECT hash FROM {table} WHERE link = ?", (link,)).get
        if found is not None:
            return bytes(found)
    return None


def broken_links(connection: apsw.Connection, first: int = 1) -> Iterator[tuple[int, str]]:
    """Walk the chain from ``first``, or from what left by age, to its present end; yields (link, what is wrong).

    Each row is checked against the hash stored in the row before it, so one changed row is one finding, not an
    avalanche. About 3.5 us a row; reads in short pieces, so that a running daemon can start its WAL again meanwhile.
    """
    sha256 = hashlib.sha256
    base = removed(connection)
    first = max(first, base.link + 1)
    previous = base.hash if first == base.link + 1 else link_hash(connection, first - 1)
    if previous is None:
        yield first - 1, "the row is missing"
        previous = b""
    expected, end = first, head(connection)[0]
    answers = f"SELECT {', '.join(ANSWER_COLUMNS)}, hash FROM answers WHERE link BETWEEN ? AND ? ORDER BY link"
    for start in range(first, end + 1, _WALK_ROWS):
        for row in connection.execute(answers, (start, min(start + _WALK_ROWS - 1, end))):
            if row[0] != expected:
                previous, broken = _between(connection, expected, row[0], previous)
                yield from broken
            stored = row[-1]
            if sha256(previous + ascii(row[:-1]).encode()).digest() != stored and previous:
                yield row[0], "the row in answers, or the hash before it, was changed"
            previous, expected = stored, row[0] + 1
    yield from _between(connection, expected, end + 1, previous)[1]


def _between(connection: apsw.Connection, first: int, end: int, previous: bytes) -> tuple[bytes, list[tuple[int, str]]]:
    """The links first <= link < end, which lie in the small tables: their last hash and what is wrong with them."""
    rows: dict[int, tuple[str, Cells]] = {}
    for table, columns in CHAINED.items():
        if table == "answers":
            continue
        query = f"SELECT {', '.join(columns)}, hash FROM {table} WHERE link >= ? AND link < ?"
        rows.update({row[0]: (table, row) for row in connection.execute(query, (first, end))})
    broken: list[tuple[int, str]] = []
    for link in sorted(rows):
        table, row = rows[link]
        if link != first:
            broken.append((first, _missing(first, link - 1)))
            previous = b""
        stored = row[-1]
        assert isinstance(stored, bytes)
        if previous and chain(previous, row[:-1]) != stored:
            broken.append((link, f"the row in {table}, or the hash before it, was changed"))
        previous, first = stored, link + 1
    if first < end:
        broken.append((first, _missing(first, end - 1)))
        previous = b""
    return previous, broken


def _missing(first: int, last: int) -> str:
    return "the row is missing" if first == last else f"rows {first} to {last} are missing"
