"""Alarms with cause and hint, and who acknowledged them. The page's own file; the ledger is never written."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import apsw

from inspector.clock import Clock
from inspector.errors import LedgerError
from inspector.ledger import schema

FILE_NAME = "page.db"
KEPT = 10_000
"""Alarms in the file; older ones that are over go."""
_TABLE = """
CREATE TABLE IF NOT EXISTS alarms (
  number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, text TEXT NOT NULL, hint TEXT NOT NULL,
  stops INTEGER NOT NULL, began_ns INTEGER NOT NULL, ended_ns INTEGER, seen_by TEXT, seen_ns INTEGER, note TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS alarms_open ON alarms (name) WHERE ended_ns IS NULL;
CREATE TABLE IF NOT EXISTS places (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""
_COLUMNS = "number, name, text, hint, stops, began_ns, ended_ns, seen_by, seen_ns, note"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong now."""

    name: str
    """What it is, and whose; one alarm a name at a time."""
    text: str
    hint: str
    stops: bool
    """Parts are not inspected while it holds."""
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm as it is kept."""

    number: int
    name: str
    text: str
    hint: str
    stops: bool
    began_ns: int
    """UTC, as are the other times."""
    ended_ns: int | None
    """None while it holds."""
    seen_by: str | None
    """Who acknowledged it."""
    seen_ns: int | None
    note: str | None

    @property
    def holds(self) -> bool:
        return self.ended_ns is None

    @property
    def calls(self) -> bool:
        """Whether somebody should look: it holds, or it was over before anybody saw it."""
        return self.seen_by is None


class Alarms:
    """Any thread; one lock, short statements."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self._clock = path, clock
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        self._open: dict[str, int] = {}
        self.generation = 0
        """Changes with every change."""

    def open(self) -> None:
        """Open or make the file. Raises LedgerError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = self._connection = schema.connect(self.path, busy_ms=2000)
            connection.pragma("journal_mode", "wal")
            connection.wal_autocheckpoint(100)
            connection.execute(_TABLE)
            self._open = dict(connection.execute("SELECT name, number FROM alarms WHERE ended_ns IS NULL"))
        except (OSError, apsw.Error) as error:
            raise LedgerError(f"cannot open the page's alarms {self.path}", found=str(error)) from error

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def hold(self, source: str, troubles: Iterable[Trouble]) -> None:
        """These hold now, of all that ``source`` can tell of; others of it are over."""
        present = {f"{source}: {one.name}": one for one in troubles}
        with self._lock:
            ended = [name for name in self._open if name.startswith(f"{source}: ") and name not in present]
            began = [name for name in present if name not in self._open]
            if not ended and not began:
                return
            connection, now_ns = self._opened(), self._clock.wall_ns()
            with connection:
                for name in ended:
                    number = self._open.pop(name)
                    connection.execute("UPDATE alarms SET ended_ns = ? WHERE number = ?", (now_ns, number))
                for name in began:
                    self._open[name] = self._insert(present[name], name, now_ns - int(present[name].for_s * 1e9), None)
                self._forget(connection)
            self.generation += 1

    def tell(self, name: str, text: str, hint: str, began_ns: int) -> None:
        """Something that happened and is over, but should be seen."""
        with self._lock, self._opened():
            self._insert(Trouble(name, text, hint, False), name, began_ns, began_ns)
            self.generation += 1

    def acknowledge(self, number: int, user: str, note: str) -> bool:
        """Somebody has seen it; the first stays. False where there is no such alarm."""
        with self._lock:
            connection = self._opened()
            connection.execute(
                "UPDATE alarms SET seen_by = ?, seen_ns = ?, note = ? WHERE number = ? AND seen_by IS NULL",
                (user, self._clock.wall_ns(), note, number),
            )
            self.generation += 1
            return connection.execute("SELECT 1 FROM alarms WHERE number = ?", (number,)).get is not None

    def calling(self) -> list[Alarm]:
        """What holds, and what nobody has acknowledged yet; what stops the line first, then the newest."""
        where = "ended_ns IS NULL OR seen_by IS NULL ORDER BY ended_ns IS NULL DESC, stops DESC, number DESC LIMIT 50"
        return self._select(where, ())

    def history(self, before: int, limit: int) -> list[Alarm]:
        """Newest first, below number ``before`` (0 = from the newest on)."""
        return self._select("number < ? ORDER BY number DESC LIMIT ?", (before or 1 << 62, limit))

    def place(self, name: str) -> int | None:
        """How far something was read; None where nobody has read it yet."""
        with self._lock:
            found = self._opened().execute("SELECT value FROM places WHERE name = ?", (name,)).get
        return None if found is None else int(found)

    def set_place(self, name: str, value: int) -> None:
        """Remember it over a restart."""
        with self._lock:
            self._opened().execute("INSERT OR REPLACE INTO places VALUES (?, ?)", (name, value))

    def _insert(self, trouble: Trouble, name: str, began_ns: int, ended_ns: int | None) -> int:
        connection = self._opened()
        connection.execute(
            "INSERT INTO alarms (name, text, hint, stops, began_ns, ended_ns) VALUES (?, ?, ?, ?, ?, ?)",
            (name, trouble.text, trouble.hint, int(trouble.stops), began_ns, ended_ns),
        )
        return connection.last_insert_rowid()

    def _forget(self, connection: apsw.Connection) -> None:
        newest = connection.last_insert_rowid()
        connection.execute("DELETE FROM alarms WHERE number < ? AND ended_ns IS NOT NULL", (newest - KEPT,))

    def _select(self, where: str, values: tuple[int, ...]) -> list[Alarm]:
        with self._lock:
            rows = list(self._opened().execute(f"SELECT {_COLUMNS} FROM alarms WHERE {where}", values))
        return [Alarm(row[0], row[1], row[2], row[3], bool(row[4]), *row[5:]) for row in rows]

    def _opened(self) -> apsw.Connection:
        if self._connection is None:
            raise LedgerError("the page's alarms are not open")
        return self._connection
