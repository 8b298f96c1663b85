"""The page's own counts over the ledger: minutes, kinds of defect, reasons, and a list of rejects with its indexes.

One thread follows the ledger (``step``); others ask. Derived: delete the file, and it is made anew.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from inspector.errors import LedgerError
from inspector.ledger import schema
from inspector.page import following
from inspector.page.following import Counts, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_NAME = "digest.db"
VERSION = 1
STRIP = 100
"""Parts of the strip on the watch page."""

_SUMS = ("PASS", "FAIL", "INVALID", "review", "scored", "score_sum", "area_sum", "timed", "spent_sum_us")
_PEAKS = ("score", "area", "spent", "margin")
_TABLES = f"""
CREATE TABLE followed (id INTEGER PRIMARY KEY CHECK (id = 1), link INTEGER NOT NULL, anchor BLOB NOT NULL);
INSERT INTO followed VALUES (1, 0, x'');
CREATE TABLE minutes (minute INTEGER PRIMARY KEY, {", ".join(f"{name} NOT NULL DEFAULT 0" for name in _SUMS)},
  score_max REAL, area_max REAL, spent_max_us INTEGER, margin_min_us INTEGER);
CREATE TABLE stages (minute INTEGER, stage TEXT, parts INTEGER, sum_us INTEGER, max_us INTEGER,
  PRIMARY KEY (minute, stage)) WITHOUT ROWID;
CREATE TABLE reasons (hour INTEGER, reason TEXT, parts INTEGER, PRIMARY KEY (hour, reason)) WITHOUT ROWID;
CREATE TABLE kinds (hour INTEGER, shape TEXT, zone TEXT, defects INTEGER, parts INTEGER,
  PRIMARY KEY (hour, shape, zone)) WITHOUT ROWID;
CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, PASS INTEGER NOT NULL DEFAULT 0, FAIL INTEGER NOT NULL DEFAULT 0,
  INVALID INTEGER NOT NULL DEFAULT 0);
CREATE TABLE rejects (link INTEGER PRIMARY KEY, wall_ns INTEGER, verdict TEXT, reason TEXT, part_id TEXT);
CREATE INDEX rejects_verdict ON rejects (verdict, link);
CREATE INDEX rejects_reason ON rejects (reason, link) WHERE reason IS NOT NULL;
CREATE INDEX rejects_part ON rejects (part_id, link);
CREATE TABLE reject_kinds (shape TEXT, zone TEXT, link INTEGER, PRIMARY KEY (shape, zone, link)) WITHOUT ROWID;
CREATE INDEX reject_zones ON reject_kinds (zone, link);
CREATE INDEX reject_shapes ON reject_kinds (shape, link);
CREATE INDEX reject_links ON reject_kinds (link);
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True, slots=True)
class Followed:
    """How far the digest has come."""

    link: int
    head: int
    rebuilt: int
    """How often it was made anew because the ledger was another one."""
    error: str

    @property
    def behind(self) -> int:
        """Rows still to be counted."""
        return self.head - self.link


class Digest:
    """``step`` is for one thread; ``reading`` and the properties for any."""

    def __init__(self, path: Path, ledger: Path) -> None:
        self.path, self.ledger = path, ledger
        self.recent: deque[Row] = deque(maxlen=STRIP)
        """The last answers, oldest first; replaced as a whole where one of them was sent as something else."""
        self.generation = 0
        """Changes whenever something was counted."""
        self._link = self._head = self._rebuilt = 0
        self._error = "the ledger was not read yet"
        self._writer: apsw.Connection | None = None
        self._source: apsw.Connection | None = None
        self._local = threading.local()

    # -- following ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open or make the file. Raises LedgerError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._writer = self._opened()
            self._link = schema.number(self._writer, "SELECT link FROM followed")
        except (OSError, apsw.Error) as error:
            raise LedgerError(f"cannot open the page's digest {self.path}", found=str(error)) from error

    def step(self) -> bool:
        """Count one piece; True when more waits. A ledger that cannot be read is told by ``followed``, not raised."""
        assert self._writer is not None
        try:
            if self._source is None:
                self._source = schema.reader(self.ledger)
                self._check_same()
                self._look_back()
            piece = following.read(self._source, self._link)
            if piece.head < self._link:  # another file lies there now
                self._let_go()
                return True
            if piece.last > self._link:
                self._write(piece)
            self._head, self._error = piece.head, ""
            return piece.head > self._link
        except (LedgerError, apsw.Error, OSError, ValueError, KeyError) as error:
            self._let_go()
            self._error = str(error)
            return False

    def followed(self) -> Followed:
        """A snapshot."""
        return Followed(self._link, self._head, self._rebuilt, self._error)

    def close(self) -> None:
        """Idempotent."""
        self._let_go()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _let_go(self) -> None:
        if self._source is not None:
            self._source.close(force=True)
            self._source = None

    def _check_same(self) -> None:
        """Begin anew where the row we stopped at is not the row that lies there now."""
        assert self._writer is not None and self._source is not None
        if self._link == 0:
            return
        anchor = self._writer.execute("SELECT anchor FROM followed").get
        if schema.link_hash(self._source, self._link) == anchor:
            return
        self._writer.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._writer = self._opened()
        self._link, self._rebuilt = 0, self._rebuilt + 1

    def _look_back(self) -> None:
        assert self._source is not None
        self.recent.clear()
        self.recent.extend(row for row in following.newest(self._source, STRIP) if row.link <= self._link)

    def _opened(self) -> apsw.Connection:
        connection = schema.connect(self.path, busy_ms=2000)
        connection.pragma("journal_mode", "wal")
        connection.wal_autocheckpoint(1000)
        version = connection.pragma("user_version")
        if version not in {0, VERSION}:
            connection.close()
            self.path.unlink()
            return self._opened()
        if version == 0:
            with connection:
                connection.execute(_TABLES)
        return connection

    def _write(self, piece: following.Piece) -> None:
        assert self._writer is not None
        counts = Counts()
        for row in piece.added:
            counts.add(row)
        for row in piece.replaced:
            counts.replace(row)
        with self._writer:
            _add(self._writer, counts)
            _list(self._writer, [row for row in (*piece.added, *piece.replaced) if row.verdict != "PASS"])
            self._writer.execute("UPDATE followed SET link = ?, anchor = ?", (piece.last, piece.anchor))
        self._link = piece.last
        self.recent.extend(piece.added)
        changed = {row.link: row for row in piece.replaced}
        if changed:
            for at, row in enumerate(self.recent):
                self.recent[at] = changed.get(row.link, row)
        self.generation += 1

    # -- asking ------------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """This thread's connection to the digest, for reading. Raises LedgerError."""
        try:
            connection = getattr(self._local, "connection", None)
            if connection is None or self._local.rebuilt != self._rebuilt:
                connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
                connection.set_busy_timeout(2000)
                self._local.connection, self._local.rebuilt = connection, self._rebuilt
            yield connection
        except apsw.Error as error:
            self._local.connection = None
            raise LedgerError(f"cannot read the page's digest {self.path}", found=str(error)) from error


def _add(connection: apsw.Connection, counts: Counts) -> None:
    names = ", ".join(_SUMS)
    raised = ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)
    connection.executemany(
        f"INSERT INTO minutes (minute, {names}, score_max, area_max, spent_max_us, margin_min_us) "
        f"VALUES ({', '.join('?' * (len(_SUMS) + 5))}) ON CONFLICT DO UPDATE SET {raised}, "
        "score_max = max(ifnull(score_max, excluded.score_max), ifnull(excluded.score_max, score_max)), "
        "area_max = max(ifnull(area_max, excluded.area_max), ifnull(excluded.area_max, area_max)), "
        "spent_max_us = max(ifnull(spent_max_us, excluded.spent_max_us), ifnull(excluded.spent_max_us, spent_max_us)),"
        "margin_min_us = min(ifnull(margin_min_us, excluded.margin_min_us), "
        "ifnull(excluded.margin_min_us, margin_min_us))",
        [
            (minute, *(numbers[name] for name in _SUMS), *map(counts.peaks[minute].get, _PEAKS))
            for minute, numbers in counts.minutes.items()
        ],
    )  # fmt: skip
    connection.executemany(
        "INSERT INTO stages VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET parts = parts + excluded.parts, "
        "sum_us = sum_us + excluded.sum_us, max_us = max(max_us, excluded.max_us)",
        [(*key, *values) for key, values in counts.stages.items()],
    )
    connection.executemany(
        "INSERT INTO reasons VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET parts = parts + excluded.parts",
        [(*key, parts) for key, parts in counts.reasons.items()],
    )
    connection.executemany(
        "INSERT INTO kinds VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET defects = defects + excluded.defects, "
        "parts = parts + excluded.parts",
        [(*key, *values) for key, values in counts.kinds.items()],
    )
    verdicts = ("PASS", "FAIL", "INVALID")
    connection.executemany(
        "INSERT INTO epochs VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET PASS = PASS + excluded.PASS, "
        "FAIL = FAIL + excluded.FAIL, INVALID = INVALID + excluded.INVALID",
        [(epoch, *(numbers[name] for name in verdicts)) for epoch, numbers in counts.epochs.items()],
    )


def _list(connection: apsw.Connection, rows: Iterable[Row]) -> None:
    """Put rejects on the list, again where what was sent turned out otherwise."""
    rows = list(rows)
    connection.executemany(
        "INSERT OR REPLACE INTO rejects VALUES (?, ?, ?, ?, ?)",
        [(row.link, row.wall_ns, row.verdict, row.reason, row.part_id) for row in rows],
    )
    connection.executemany(
        "DELETE FROM reject_kinds WHERE link = ?", [(row.link,) for row in rows if row.verdict != row.decided]
    )
    connection.executemany(
        "INSERT OR IGNORE INTO reject_kinds VALUES (?, ?, ?)",
        [
            (one["shape"], one["zone"], row.link)
            for row in rows
            if row.verdict == "FAIL"
            for one in row.defects
        ],
    )  # fmt: skip
