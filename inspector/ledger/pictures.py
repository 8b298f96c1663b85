"""The store's own index: which part has which files. One small SQLite file in the store's root.

It is apart from the ledger so that slow image work can never wait for, or hold up, the commit of a row. Files and
index are kept in step by writing the intent first: ``writing`` before a file appears, ``removing`` before it goes.
Each part has a number in the order of storing; what is oldest goes by it, never by a clock (``age``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import apsw

from inspector.errors import LedgerError
from inspector.ledger import schema
from inspector.ledger.age import Ages, last_position

INDEX_NAME = "index.db"
WRITING, STORED, REMOVING = 0, 1, 2

_TABLE = """
CREATE TABLE IF NOT EXISTS pictures (
  epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, verdict TEXT NOT NULL, wall_ns INTEGER NOT NULL,
  name TEXT NOT NULL, image_bytes INTEGER NOT NULL, mask_bytes INTEGER NOT NULL, digest TEXT NOT NULL,
  state INTEGER NOT NULL, keep INTEGER NOT NULL, goes_first INTEGER NOT NULL, number INTEGER,
  PRIMARY KEY (epoch, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID
"""
_ORDER = """
DROP INDEX IF EXISTS removal;
CREATE INDEX IF NOT EXISTS leaving ON pictures (keep, goes_first DESC, number)
"""
_NUMBERED = "SELECT 1 FROM pragma_table_info('pictures') WHERE name = 'number'"
_UNNUMBERED = "SELECT 1 FROM pictures WHERE number IS NULL LIMIT 1"
_NUMBER = """
UPDATE pictures SET number = ? + found.place FROM (
  SELECT epoch, sequence, row_number() OVER (ORDER BY epoch, sequence) AS place FROM pictures WHERE number IS NULL
) AS found WHERE pictures.epoch = found.epoch AND pictures.sequence = found.sequence
"""
"""For what was stored without a number; epochs and sequences only grow."""
_WAL_BYTES = 384 << 10
"""Checkpointed from 64 pages on (256 KiB), + one batch of 16 parts, + 32 KiB of map; rounded up."""
_COLUMNS = "epoch, sequence, verdict, wall_ns, name, image_bytes, mask_bytes, digest, state, keep"
_PLACES = ", ".join("?" * 12)


@dataclass(frozen=True, slots=True)
class Stored:
    """The files of one part. ``name`` is below ``images/`` and, where there is a mask, below ``masks/``."""

    epoch: int
    sequence: int
    verdict: str
    wall_ns: int
    name: str
    image_bytes: int
    mask_bytes: int
    """0 where there is no mask."""
    digest: str
    """First 16 hex digits of SHA-256 over the image file, then the mask file."""
    state: int = STORED
    keep: bool = False
    """On the keep list: neither quota nor retention removes it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The files, relative to the store's root."""
        return (f"images/{self.name}", f"masks/{self.name}") if self.mask_bytes else (f"images/{self.name}",)

    @property
    def blocks_bytes(self) -> int:
        """What the files take on disk: whole blocks of 4 KiB."""
        return blocks(self.image_bytes) + blocks(self.mask_bytes)


def blocks(size_bytes: int) -> int:
    """``size_bytes`` rounded up to blocks of 4 KiB."""
    return -(-size_bytes // 4096) * 4096


class Index:
    """The index, open for writing."""

    def __init__(self, root: Path) -> None:
        """Opens or makes the index below ``root``. Raises LedgerError."""
        self.path = root / INDEX_NAME
        try:
            self._connection = schema.connect(self.path, busy_ms=2000)
            self._connection.pragma("journal_mode", "wal")
            self._connection.wal_autocheckpoint(64)
            self._connection.pragma("journal_size_limit", 64 * 4096)
            self._connection.execute(_TABLE)
            if self._connection.execute(_NUMBERED).get is None:
                self._connection.execute("ALTER TABLE pictures ADD COLUMN number INTEGER")
            self._connection.execute(_ORDER)
            self.number = self._last_number()
            """Of the part stored last."""
            if self._connection.execute(_UNNUMBERED).get is not None:
                self._connection.execute(_NUMBER, (self.number,))
                self.number = self._last_number()
        except apsw.Error as error:
            raise LedgerError(f"cannot open the image index {self.path}", found=str(error)) from error

    @property
    def reserved_bytes(self) -> int:
        """What the index takes beside the images: its file, and a WAL and its map that come and go."""
        return blocks(self.path.stat().st_size) + _WAL_BYTES

    def close(self) -> None:
        self._connection.close()

    def put(self, rows: Sequence[Stored], state: int) -> None:
        """Insert or replace rows in one transaction, in this state. Raises apsw.Error."""
        cells = [
            (
                each.epoch, each.sequence, each.verdict, each.wall_ns, each.name, each.image_bytes, each.mask_bytes,
                each.digest, state, int(each.keep), int(each.verdict == "PASS"), number,
            )
            for number, each in enumerate(rows, self.number + 1)
        ]  # fmt: skip
        with self._connection:
            self._connection.executemany(
                f"INSERT OR REPLACE INTO pictures ({_COLUMNS}, goes_first, number) VALUES ({_PLACES})",
                cells,
            )
        self.number += len(rows)

    def set_state(self, rows: Sequence[Stored], state: int) -> None:
        """Change the state alone, so that a keep mark set meanwhile stays. Raises apsw.Error."""
        with self._connection:
            self._connection.executemany(
                "UPDATE pictures SET state = ? WHERE epoch = ? AND sequence = ?",
                [(state, each.epoch, each.sequence) for each in rows],
            )

    def drop(self, rows: Sequence[Stored]) -> None:
        """Forget rows whose files are gone. Raises apsw.Error."""
        with self._connection:
            self._connection.executemany(
                "DELETE FROM pictures WHERE epoch = ? AND sequence = ?", [(each.epoch, each.sequence) for each in rows]
            )

    def unfinished(self) -> list[Stored]:
        """What a kill left between intent and deed."""
        return self._select("state <> ?", (STORED,))

    def oldest(self, limit: int, *, passes_only: bool = False) -> list[Stored]:
        """What goes next: the oldest PASS first, then the oldest of the rest; never what is on the keep list."""
        where = "keep = 0 AND goes_first = 1" if passes_only else "keep = 0"
        return self._select(f"{where} AND state = ? ORDER BY goes_first DESC, number LIMIT ?", (STORED, limit))

    def outlived(self, ages: Ages, keep_ns: int, limit: int) -> list[Stored]:
        """What retention ends, oldest PASS first; nothing while the clock holds it up."""
        self.mark(ages)
        if ages.held:
            return []
        values = (STORED, ages.until(self._connection, keep_ns), limit)
        return self._select("keep = 0 AND state = ? AND number <= ? ORDER BY goes_first DESC, number LIMIT ?", values)

    def mark(self, ages: Ages, *, at_once: bool = False) -> None:
        """Keep, when it is time, how old the last number is. Raises apsw.Error."""
        ages.look(self._connection, self.number, at_once=at_once)
        ages.write(self._connection)

    def used_bytes(self) -> int:
        """Blocks of all files."""
        return sum(each.blocks_bytes for each in self._select("1", ()))

    def _last_number(self) -> int:
        found = self._connection.execute("SELECT max(number) FROM pictures").get or 0
        return max(int(found), last_position(self._connection))

    def _select(self, where: str, values: tuple[int, ...]) -> list[Stored]:
        return list(_rows(self._connection, where, values))


def read_index(root: Path) -> list[Stored]:
    """Every row of the index of a store, also of one that a daemon is writing; empty where there is none.

    Raises LedgerError.
    """
    return _read(root, "1 ORDER BY epoch, sequence", ())


def _read(root: Path, where: str, values: tuple[int, ...]) -> list[Stored]:
    if not (root / INDEX_NAME).is_file():
        return []
    try:
        connection = apsw.Connection(str(root / INDEX_NAME), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(2000)
        try:
            return list(_rows(connection, where, values))
        finally:
            connection.close()
    except apsw.Error as error:
        raise LedgerError(f"cannot read the image index {root / INDEX_NAME}", found=str(error)) from error


def read_index_after(root: Path, epoch: int, sequence: int) -> list[Stored]:
    """The rows of parts after this one, in their order: for a reader that keeps up. Raises LedgerError."""
    return _read(root, "(epoch, sequence) > (?, ?) ORDER BY epoch, sequence", (epoch, sequence))


def set_keep(root: Path, epoch: int, sequence: int, keep: bool) -> bool:
    """Put a part's files on the keep list or take them off; from any process. False when the store has none of it.

    Raises LedgerError.
    """
    if not (root / INDEX_NAME).is_file():
        raise LedgerError("no image store", expected=f"a directory {root} with {INDEX_NAME}")
    try:
        connection = schema.connect(root / INDEX_NAME, busy_ms=2000)
        try:
            query = "UPDATE pictures SET keep = ? WHERE epoch = ? AND sequence = ?"
            connection.execute(query, (int(keep), epoch, sequence))
            return connection.changes() > 0
        finally:
            connection.close()
    except apsw.Error as error:
        raise LedgerError(f"cannot change the image index {root / INDEX_NAME}", found=str(error)) from error


def _rows(connection: apsw.Connection, where: str, values: tuple[int, ...]) -> Iterator[Stored]:
    for row in connection.execute(f"SELECT {_COLUMNS} FROM pictures WHERE {where}", values):
        stored = Stored(*row)
        yield replace(stored, keep=bool(stored.keep))
