"""Old rows leave the ledger: first into a file of their own with the same tables and chain, then out of this one.

What leaves is a whole piece of the chain's beginning. An event in the chain itself says up to which row, with which
hash, and in which file it lies, so ``verify`` still walks an unbroken chain, and rows that anyone else took out are
found. Events and epochs always stay. ``copy`` is for a thread that may wait for the disk, ``remove`` for the book's.
What is old, and when a clock is not to be believed, is the matter of ``age``.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import apsw

from inspector.clock import Clock
from inspector.errors import LedgerError
from inspector.ledger import schema
from inspector.ledger.age import DAY_NS, HOUR_NS, Ages
from inspector.ledger.book import Book
from inspector.ledger.opening import to_disk
from inspector.ledger.removed import REMOVED, Removed, note_text, removed
from inspector.ledger.rows import Note

FOLDER = "retired"
_WAIT_NS = 20 * HOUR_NS
"""A file's worth gathers so long; with marks an hour or two apart that is less than a day."""
_LOOK_EVERY_NS = 60_000_000_000
_PIECE_ROWS = 2_000
"""Copied in one go, from one snapshot: a longer one would keep the log from starting again."""
_FILE_ROWS = 500_000
"""At most in one file, about half a gigabyte."""
_REMOVE_ROWS = 100
"""Removed in one transaction between two commits: a few milliseconds."""
_REMOVE_EVERY_NS = 40_000_000

_TORN = """
SELECT min(a.link) FROM overrides o JOIN answers a ON a.epoch = o.epoch AND a.sequence = o.sequence
WHERE o.link > ?1 AND a.link <= ?1"""
"""The first answer of the piece whose override lies behind its end."""


@dataclass(slots=True)
class _Piece:
    """One file in the making: rows first .. last, the next one to copy, and the hash before them."""

    first: int
    last: int
    at: int
    before: bytes
    draft: Path
    connection: apsw.Connection | None = None


class Retention:
    """Keeps rows for ``keep_days``; one more day may pass before a file's worth of them leaves."""

    def __init__(self, book: Book, *, keep_days: float, keep_copy: bool, clock: Clock) -> None:
        """``keep_days`` 0: rows stay for ever. ``keep_copy`` False: they are removed without a copy."""
        self._book, self._path, self._clock = book, book.path, clock
        self._keep_ns, self._keep_copy = int(keep_days * DAY_NS), keep_copy
        self._ages = Ages(clock, "answers", "link", self._keep_ns + _WAIT_NS)
        self._looked_ns = self._removed_ns = 0
        self._piece: _Piece | None = None
        self._done: list[Note] = []
        """Events of a copied piece, for the book to commit."""
        self._leftover = bool(self._keep_ns)
        """Rows up to the removed link may still be there, from this run or one that was killed."""
        self._below = 0
        self._writer: apsw.Connection | None = None
        self._refused = ""
        self._held = ""

    @property
    def fault(self) -> str:
        """Why old rows stay for now; empty while they need not, or leave."""
        return self._refused or self._held

    # -- store thread ----------------------------------------------------------------------------------------------

    def copy(self) -> bool:
        """One short step: look for old rows, or copy some; True when there is more to do. Raises LedgerError."""
        if not self._keep_ns or self._done:
            return False
        try:
            if self._piece is None:
                return self._look()
            return self._copy_some(self._piece)
        except (apsw.Error, OSError) as error:
            self._give_up()
            folder = self._path.parent / FOLDER
            self._refused = f"old rows cannot be put into {folder}; they stay in the ledger: {error}"
            raise LedgerError(self._refused) from error

    def _look(self) -> bool:
        now_ns = self._clock.now_ns()
        if self._looked_ns and now_ns - self._looked_ns < _LOOK_EVERY_NS:
            return False
        self._looked_ns, self._refused = now_ns, ""
        connection = schema.reader(self._path)
        try:
            self._ages.look(connection, schema.head(connection)[0])
            self._held = self._ages.fault
            if self._ages.held:
                return False
            base = removed(connection)
            first = schema.number(connection, "SELECT coalesce(min(link), 0) FROM answers WHERE link > ?", (base.link,))
            if not first or first > self._ages.until(connection, self._keep_ns + _WAIT_NS):
                return False
            last = min(self._ages.until(connection, self._keep_ns), base.link + _FILE_ROWS)
            last = _whole(connection, last)
        finally:
            connection.close()
        if last <= base.link:
            return False
        draft = self._path.parent / FOLDER / f".ledger-{base.link + 1}-{last}.db.part"
        self._piece = _Piece(base.link + 1, last, base.link + 1, base.hash, draft)
        return True

    def _copy_some(self, piece: _Piece) -> bool:
        if not self._keep_copy:
            self._finish(piece, "")
            return False
        if piece.connection is None:
            piece.connection = self._begin(piece)
        until = min(piece.last, piece.at + _PIECE_ROWS - 1)
        with piece.connection:
            for table in schema.CHAINED:
                query = f"INSERT INTO {table} SELECT * FROM whole.{table} WHERE link BETWEEN ? AND ?"
                piece.connection.execute(query, (piece.at, until))
            piece.connection.execute(
                "INSERT INTO receipts SELECT r.* FROM whole.receipts r JOIN whole.answers a "
                "ON a.epoch = r.epoch AND a.sequence = r.sequence WHERE a.link BETWEEN ? AND ?",
                (piece.at, until),
            )
        piece.at = until + 1
        if piece.at <= piece.last:
            return True
        final = piece.draft.with_name(piece.draft.name.removeprefix(".").removesuffix(".part"))
        piece.connection.close()
        piece.connection = None
        to_disk(piece.draft)
        piece.draft.replace(final)
        to_disk(final.parent)
        self._finish(piece, f"{FOLDER}/{final.name}")
        return False

    def _begin(self, piece: _Piece) -> apsw.Connection:
        piece.draft.parent.mkdir(exist_ok=True)
        piece.draft.unlink(missing_ok=True)
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(str(piece.draft), flags=flags)
        connection.set_busy_timeout(2000)
        connection.execute("PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY")  # a draft until it is on the disk
        for step in schema.MIGRATIONS:
            for statement in step:
                connection.execute(statement)
        connection.pragma("user_version", len(schema.MIGRATIONS))
        connection.execute("CREATE TABLE base (link INTEGER NOT NULL, hash BLOB NOT NULL) STRICT")
        connection.execute("INSERT INTO base VALUES (?, ?)", (piece.first - 1, piece.before))
        connection.execute("ATTACH ? AS whole", (self._path.absolute().as_uri() + "?mode=ro",))
        older = "INSERT INTO epochs SELECT * FROM whole.epochs WHERE link < ?"
        connection.execute(older, (piece.first,))  # of runs that go on in this piece
        return connection

    def _finish(self, piece: _Piece, name: str) -> None:
        connection = schema.reader(self._path)
        try:
            hashed = schema.link_hash(connection, piece.last)
            if hashed is None:
                raise LedgerError("old rows cannot be removed", found=f"no row {piece.last} in the ledger")
            text = note_text(Removed(piece.last, hashed, name))
            wall_ns = self._clock.wall_ns()
            self._done = [
                Note(wall_ns, REMOVED, text, epoch, first, last)
                for epoch, first, last in _ranges(connection, piece.first, piece.last)
            ]
        finally:
            connection.close()
        self._piece = None

    def _give_up(self) -> None:
        if self._piece is not None and self._piece.connection is not None:
            self._piece.connection.close()
        self._piece = None

    # -- book thread -----------------------------------------------------------------------------------------------

    def remove(self) -> int:
        """Commit the event of what has been copied and the marks of age, then remove a few rows; how many.

        Raises LedgerError.
        """
        if not self._done and not self._leftover and not self._ages.due:
            return 0
        now_ns = self._clock.now_ns()
        if now_ns - self._removed_ns < _REMOVE_EVERY_NS:
            return 0
        self._removed_ns = now_ns
        if self._done:
            self._book.write(self._done)
            self._done, self._leftover = [], True
            self._let_go()
        try:
            if self._writer is None:
                self._writer = schema.connect(self._path, busy_ms=0)
                self._below = removed(self._writer).link if self._leftover else 0
            self._ages.write(self._writer)
            gone = _remove_some(self._writer, self._below)
        except apsw.BusyError:
            return 0  # somebody reads or copies; there is time
        except apsw.Error as error:
            self._refused = f"old rows cannot be removed; they stay in the ledger: {error}"
            raise LedgerError(self._refused) from error
        self._refused = ""
        if not gone:
            self._leftover = False
            self._let_go()
        return gone

    def close(self) -> None:
        """Idempotent; after its threads have ended."""
        self._give_up()
        self._let_go()
        if self._looked_ns:
            self._looked_ns = 0
            with contextlib.suppress(apsw.Error, LedgerError):  # then the last rows count as written at the next start
                with contextlib.closing(schema.reader(self._path)) as connection:
                    self._ages.look(connection, schema.head(connection)[0], at_once=True)
                with contextlib.closing(schema.connect(self._path)) as connection:
                    self._ages.write(connection)

    def _let_go(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _remove_some(connection: apsw.Connection, last: int) -> int:
    links = [row[0] for row in connection.execute("SELECT link FROM answers ORDER BY link LIMIT ?", (_REMOVE_ROWS,))]
    links = [link for link in links if link <= last]
    if not links:
        return 0
    with connection:
        for table in ("receipts", "overrides"):
            connection.execute(
                f"DELETE FROM {table} WHERE (epoch, sequence) IN (SELECT epoch, sequence FROM answers WHERE link <= ?)",
                (links[-1],),
            )
        connection.execute("DELETE FROM answers WHERE link <= ?", (links[-1],))
    return len(links)


def _whole(connection: apsw.Connection, last: int) -> int:
    """``last``, or earlier, so that no answer leaves before the row that says what was sent instead of it."""
    while True:
        torn = connection.execute(_TORN, (last,)).get
        if not isinstance(torn, int):
            return last
        last = torn - 1


def _ranges(connection: apsw.Connection, first: int, last: int) -> list[tuple[int, int, int]]:
    """(epoch, first, last) of the numbers that these rows answer; at least one, so that the event is told."""
    found: list[tuple[int, int, int]] = []
    query = "SELECT epoch, sequence FROM answers WHERE link BETWEEN ? AND ? ORDER BY epoch, sequence"
    for epoch, sequence in connection.execute(query, (first, last)):
        if found and found[-1][0] == epoch and found[-1][2] == sequence - 1:
            found[-1] = (epoch, found[-1][1], sequence)
        else:
            found.append((epoch, sequence, sequence))
    return found or [(0, 0, 0)]
