"""Records -> one transaction: chained rows in the order of the batch, written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from inspector.errors import LedgerError, LedgerFullError
from inspector.frame import Receipt, Settled
from inspector.ledger import schema
from inspector.ledger.counts import Numbers
from inspector.ledger.restart import GAP, stored_answer
from inspector.ledger.rows import (
    Cells,
    Note,
    Override,
    Row,
    answer_cells,
    chain,
    note_cells,
    override_cells,
    receipt_cells,
)

_INSERT = {table: schema.insert(table, columns) for table, columns in schema.CHAINED.items()}
_INSERT["receipts"] = "INSERT OR IGNORE INTO receipts (epoch, sequence, received_ns, wall_ns) VALUES (?, ?, ?, ?)"
GAP_LIMIT = 1_000_000
"""Numbers a single gap note may account for in the durable watermark."""
_OVERRIDDEN = "SELECT 1 FROM overrides WHERE epoch = ? AND sequence = ?"


@dataclass(slots=True)
class Batch:
    """Rows ready for SQL, and where the chain stands after them."""

    link: int
    head: bytes
    cells: dict[str, list[Cells]] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    """Numbers of the current epoch that these rows account for."""

    def add(self, table: str, cells: Cells) -> None:
        """Chain one row; its first cell is ``self.link + 1``."""
        self.link, self.head = self.link + 1, chain(self.head, cells)
        self.cells.setdefault(table, []).append((*cells, self.head))


def prepare(
    connection: apsw.Connection, batch: Batch, rows: Sequence[Row], *, epoch: int, written: Numbers, wall_ns: int
) -> Batch:
    """Fill ``batch`` with ``rows``. What is stored already is left out when it is the same.

    Raises LedgerError for an answer whose number is stored with other content: an answer never changes.
    """
    fresh: dict[tuple[str, int, int], Row] = {}
    for row in rows:
        if isinstance(row, Receipt):
            batch.cells.setdefault("receipts", []).append(receipt_cells(row, wall_ns))
        elif isinstance(row, Note):
            batch.add("events", note_cells(batch.link + 1, row))
            if row.kind == GAP and row.epoch == epoch:
                batch.numbers.extend(range(row.first, min(row.last, row.first + GAP_LIMIT) + 1))
        elif isinstance(row, Override):
            key = ("overrides", row.epoch, row.sequence)
            stored = connection.execute(_OVERRIDDEN, key[1:]).get is not None
            if fresh.setdefault(key, row) is row and not stored:
                batch.add("overrides", override_cells(batch.link + 1, row))
        else:
            first = fresh.setdefault(("answers", row.answer.epoch, row.answer.sequence), row)
            unseen = first is row and row.answer.epoch == epoch and row.answer.sequence not in written
            _add_answer(connection, batch, row, None if unseen else first)
            if row.answer.epoch == epoch:
                batch.numbers.append(row.answer.sequence)
    return batch


def _add_answer(connection: apsw.Connection, batch: Batch, row: Settled, seen: Row | None) -> None:
    answer, cells = row.answer, answer_cells(batch.link + 1, row)
    stored: Cells | None = None
    if isinstance(seen, Settled):
        stored = (
            stored_answer(connection, answer.epoch, answer.sequence) if seen is row else answer_cells(batch.link, seen)
        )
    if stored is None:
        batch.add("answers", cells)
    elif stored[1:] != cells[1:]:
        raise LedgerError(
            f"answer {answer.epoch}/{answer.sequence} is stored already, with other content",
            expected="one content for one number",
            found=f"{stored[5]!r} stored, {answer.verdict.value!r} given",
        )


def commit(connection: apsw.Connection, batch: Batch) -> None:
    """One transaction; on return the rows outlive kill -9. Raises apsw.Error with nothing written."""
    if len(batch.cells) == 1:
        ((table, rows),) = batch.cells.items()
        if len(rows) == 1:  # one statement is a transaction of its own, in half the time
            connection.execute(_INSERT[table], rows[0])
            return
    try:
        connection.execute("BEGIN IMMEDIATE")
        for table, rows in batch.cells.items():
            connection.executemany(_INSERT[table], rows)
        connection.execute("COMMIT")
    except BaseException:
        if not connection.getautocommit():
            connection.execute("ROLLBACK")
        raise


def refusal(error: apsw.Error, path: Path) -> tuple[LedgerError, bool]:
    """What SQLite said, in our words; True when nothing is known of the file any more and no write may be retried."""
    free_bytes = shutil.disk_usage(path.parent).free
    # A full disk also shows as an I/O error, when the WAL's index cannot grow.
    if isinstance(error, apsw.FullError) or (isinstance(error, apsw.IOError) and free_bytes < 1 << 20):
        what = f"the disk is full: the ledger {path} cannot grow"
        return LedgerFullError(what, found=f"{free_bytes} bytes free", do="Make room."), False
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        what = f"the ledger {path} is locked by another process"
        return LedgerError(what, found=str(error), do="End the tool that writes to it."), False
    fatal = isinstance(error, (apsw.IOError, apsw.CorruptError, apsw.NotADBError))
    return LedgerError(f"the ledger {path} refuses the write", found=str(error)), fatal
