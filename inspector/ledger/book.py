"""The ledger's writer: one transaction a batch, chained rows, a durable watermark, and what a restart must know.

Threads: ``write`` the book thread; ``sync`` and ``checkpoint`` the sync thread; ``mark_opened`` whoever opens numbers;
``open``, ``recover`` and ``close`` while those do not run. ``durable`` and ``statistics`` any thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import apsw

from inspector import __version__
from inspector.clock import Clock, boot_id
from inspector.errors import LedgerError
from inspector.ledger import restart, schema
from inspector.ledger.counts import BookStatistics, Durations, Numbers
from inspector.ledger.marks import Marks, MarksFile, read_marks
from inspector.ledger.opening import Ballast, Examined, cannot_open, examine, lock, set_aside, suffixed, to_disk
from inspector.ledger.restart import Recovery
from inspector.ledger.rows import GENESIS, Note, Override, Row, note_cells
from inspector.ledger.transaction import Batch, commit, prepare, refusal
from inspector.ledger.unbooked import FEW_BYTES, MOST_BYTES, Unbooked

__all__ = ["Book", "BookStatistics", "Note", "Override", "Recovery", "Row"]

_WAL_PAGE_BYTES = 4096 + 24


class Book:
    """The ledger of one station, open for writing by this process alone."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        sync: Literal["normal", "full"] = "normal",
        ballast_bytes: int = 4 << 20,
        busy_ms: int = 250,
        tail_rows: int = 1000,
        wal_limit_bytes: int = 64 << 20,
        vfs: str | None = None,
    ) -> None:
        """``tail_rows``: how much of the chain is checked at start. ``vfs``: for tests of failing disks.

        ``ballast_bytes``: kept on the disk for bad times; 0 keeps less room for answers sent unbooked, too.
        ``wal_limit_bytes``: from here on ``checkpoint`` may hold up a commit to let the WAL start again.
        """
        self.path = Path(path)
        self.ballast = Ballast(suffixed(self.path, ".ballast"), ballast_bytes)
        self.notes: tuple[Note, ...] = ()
        """What ``open`` found and booked: a damaged file set aside, rows lost, a migration. For the journal."""
        self._clock, self._full_sync, self._busy_ms = clock, sync == "full", busy_ms
        self._tail_rows, self._wal_limit_bytes, self._vfs = tail_rows, wal_limit_bytes, vfs
        self._epoch = self._link = self._wal_pages = 0
        self._lock_fd = self._wal_fd = -1
        self._writer: apsw.Connection | None = None
        self._janitor: apsw.Connection | None = None
        self._marks: MarksFile | None = None
        self._boot_id, self._head, self._stale = boot_id(), GENESIS, False
        self._gate = threading.Lock()  # held by a write; by a checkpoint only when the WAL has grown past its limit
        self._state = threading.Lock()
        self._numbers = Numbers()
        self._durable = self._dirty_since_ns = self._syncing_since_ns = 0
        self._fault, self._durations = "", Durations()
        self._rows = self._commits = self._batch_peak = self._failures = 0

    # -- opening and closing ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Check what is there, set a damaged file aside, start a new epoch and commit it to the disk.

        Raises LedgerError: SQLite too old, ledger in use, not writable, disk full, written by a newer inspector.
        """
        schema.check_library()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_fd = lock(self.path)
            self._open_file()
        except apsw.Error as error:
            self._release()
            raise self._refusal(error) from error
        except OSError as error:
            self._release()
            raise cannot_open(self.path, error) from error
        except BaseException:
            self._release()
            raise

    def _open_file(self) -> None:
        marks_path = suffixed(self.path, ".marks")
        marks = read_marks(marks_path)
        before = examine(self.path, tail_rows=self._tail_rows, busy_ms=self._busy_ms, vfs=self._vfs)
        notes: list[Note] = []
        wall_ns = self._clock.wall_ns()
        if before.damage:
            moved = set_aside(self.path, str(wall_ns // 1_000_000_000))
            text = f"continues chain {before.head.hex()} of {moved.name}, damaged: {before.damage}"
            notes.append(Note(wall_ns, "continues", text))
        connection = schema.connect(self.path, busy_ms=self._busy_ms, vfs=self._vfs)
        self._writer = connection
        connection.pragma("journal_mode", "wal")
        connection.pragma("journal_size_limit", 16 << 20)
        connection.set_wal_hook(self._count_pages)
        migrated = schema.migrate(connection, self.path)
        if migrated:
            notes.append(Note(wall_ns, "migrated", migrated))
        if before.unchecked_bytes:
            text = f"{before.unchecked_bytes} bytes were not checked in full at start; ledger verify does"
            notes.append(Note(wall_ns, "unchecked", text))
        self._start_epoch(connection, before, marks, notes)
        self.unbooked = Unbooked(suffixed(self.path, ".unbooked"), MOST_BYTES if self.ballast.size_bytes else FEW_BYTES)
        self._marks = MarksFile(marks_path)
        self._marks.restart(self._epoch, self._link)
        self._janitor = schema.connect(self.path, busy_ms=self._busy_ms, vfs=self._vfs)
        self._wal_fd = os.open(suffixed(self.path, "-wal"), os.O_RDWR | os.O_CLOEXEC)
        to_disk(self.path.parent)
        self.ballast.restore()

    def _start_epoch(self, connection: apsw.Connection, before: Examined, marks: Marks, notes: list[Note]) -> None:
        """Commit the new epoch with FULL: its number must survive a power cut before it is used."""
        self._link, self._head = schema.head(connection)
        known = schema.number(connection, "SELECT coalesce(max(epoch), 0) FROM epochs")
        previous = max(known, marks.opened_epoch, marks.committed_epoch)
        siblings = any(self.path.parent.glob(f"{self.path.name}.damaged-*"))
        wall_ns = self._clock.wall_ns()
        # With nothing left that tells the last epoch, the clock gives one that was never used.
        self._epoch = previous + 1 if previous or not siblings else wall_ns // 1_000_000_000
        lost = restart.rows_lost(known, self._link, marks)
        if lost:
            notes.append(Note(wall_ns, "lost", lost, epoch=previous))
        opened = marks.opened if marks.opened_epoch == previous else (0 if marks.opened_epoch else -1)
        batch = Batch(self._link, self._head)
        for note in notes:
            batch.add("events", note_cells(batch.link + 1, note))
        started = (self._epoch, wall_ns, self._clock.now_ns(), self._boot_id, __version__)
        batch.add("epochs", (batch.link + 1, *started, previous, opened, len(schema.MIGRATIONS)))
        connection.execute("PRAGMA synchronous=FULL")
        self._commit(connection, batch)
        connection.execute(f"PRAGMA synchronous={'FULL' if self._full_sync else 'NORMAL'}")
        self.notes = tuple(notes)

    def close(self) -> None:
        """Note the orderly end, copy the WAL into the file and let go; idempotent, never raises."""
        if self._writer is not None and not self._fault:
            if not self._gate.acquire(timeout=1.0):
                return  # a write hangs in the disk; the kernel lets go of everything when the process has ended
            self._gate.release()
            try:
                self._writer.execute("PRAGMA synchronous=FULL")
                self.write([Note(self._clock.wall_ns(), restart.CLOSED, "orderly end", epoch=self._epoch)])
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except (LedgerError, apsw.Error) as error:
                self._fault = self._fault or str(error)  # the next start finds an epoch without its end, and says so
        self._release()

    def _release(self) -> None:
        for connection in (self._janitor, self._writer):
            if connection is not None:
                connection.close()
        self._janitor = self._writer = None
        if self._marks is not None:
            self._marks.close()
            self.unbooked.close()
            self._marks = None
        for descriptor in (self._wal_fd, self._lock_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._wal_fd = self._lock_fd = -1

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, batch: Sequence[Row]) -> None:
        """Commit the batch in its order, whole or not at all.

        A row that is stored already is ignored when it is the same. Raises LedgerError (``full`` when the disk is; the
        same write may be tried again) with nothing written.
        """
        if not batch:
            return
        with self._gate:
            connection = self._usable()
            started_ns = self._clock.now_ns()
            try:
                if self._stale:
                    self._link, self._head = schema.head(connection)
                    self._stale = False
                made = Batch(self._link, self._head)
                wall_ns = self._clock.wall_ns()
                prepare(connection, made, batch, epoch=self._epoch, written=self._numbers, wall_ns=wall_ns)
                self._commit(connection, made)
            except apsw.Error as error:
                self._failures += 1
                raise self._refusal(error) from error
            done_ns = self._clock.now_ns()
            self._durations.add(done_ns - started_ns)
            self._commits += 1
            self._batch_peak = max(self._batch_peak, len(batch))

    def _commit(self, connection: apsw.Connection, batch: Batch) -> None:
        try:
            commit(connection, batch)
        except BaseException:
            self._stale = True  # whether the last statement counted is for the file to say
            raise
        self._link, self._head = batch.link, batch.head
        if self._marks is not None:
            self._marks.committed(self._epoch, batch.link)
        with self._state:
            for number in batch.numbers:
                self._numbers.add(number)
            self._rows += len(batch.cells.get("answers", ()))
            if self._full_sync:
                self._durable = self._numbers.contiguous
            elif not self._dirty_since_ns:
                self._dirty_since_ns = self._clock.now_ns()

    def mark_opened(self, sequence: int) -> None:
        """Note, before it is used, that this number of the epoch is open. Outlives kill -9; costs microseconds."""
        if self._marks is None:
            raise LedgerError("the ledger is not open")
        self._marks.opened(self._epoch, sequence)

    # -- sync thread -----------------------------------------------------------------------------------------------

    def sync(self) -> tuple[int, int]:
        """Bring what is committed to the disk; returns (epoch, durable).

        Raises LedgerError when the disk refuses: after that nothing is known of the data, so the book stays closed to
        further writes until it is opened anew.
        """
        with self._state:
            covered, self._syncing_since_ns = self._numbers.contiguous, self._dirty_since_ns
            self._dirty_since_ns = 0
        if self._syncing_since_ns:
            try:
                os.fdatasync(self._wal_fd)
            except OSError as error:
                self._fault = f"fdatasync of the WAL failed: {error.strerror or error}"
                raise LedgerError(self._fault, do="Check the disk, then restart the daemon.") from error
            with self._state:
                self._durable, self._syncing_since_ns = max(self._durable, covered), 0
        return self._epoch, self._durable

    def checkpoint(self) -> bool:
        """Copy the WAL into the file without holding up a commit; True when all of it is copied and it starts again.

        Copying beside a busy writer never quite reaches the end, so past ``wal_limit_bytes`` the last pages are copied
        between two commits. Also brings the ballast back when there is room again. Raises LedgerError.
        """
        janitor = self._janitor
        if janitor is None or self._fault:
            return False
        try:
            if not self.ballast.path.exists():
                self.ballast.restore()
            janitor.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if self.wal_bytes > self._wal_limit_bytes:
                with self._gate:  # what was committed meanwhile: a few pages
                    janitor.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            frames, copied = janitor.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        except apsw.BusyError:
            return False
        except apsw.Error as error:
            raise self._refusal(error) from error
        return copied >= frames

    # -- restart ---------------------------------------------------------------------------------------------------

    def recover(self, now_ns: int) -> Recovery:
        """What earlier epochs left undone. Call once after ``open``, before the first number is opened.

        Numbers that were opened under this boot and never decided become INVALID RESTARTED rows of their old epoch;
        where rows were lost, a gap is noted instead, because a number may have been answered. Raises LedgerError.
        """
        connection = self._usable()
        try:
            sent, wall_ns = self.unbooked.known(), self._clock.wall_ns()
            recovery, rows = restart.recover(
                connection, epoch=self._epoch, boot_id=self._boot_id, now_ns=now_ns, wall_ns=wall_ns, sent=sent
            )
            self.write(rows)
            self.unbooked.forget()
            restart.done(connection, self._epoch)
        except apsw.Error as error:
            raise self._refusal(error) from error
        return recovery

    # -- what it is doing ------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """This run's number; 0 before ``open``."""
        return self._epoch

    @property
    def durable(self) -> int:
        """Every number of this epoch up to this one has a row that survives a power cut."""
        return self._durable

    @property
    def wal_bytes(self) -> int:
        """What stands in the WAL since it last began at its start; the file itself stays as long as it once was."""
        return self._wal_pages * _WAL_PAGE_BYTES

    def _count_pages(self, _: apsw.Connection, __: str, pages: int) -> int:
        """Called by SQLite after each commit."""
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def statistics(self) -> BookStatistics:
        """A snapshot."""
        with self._state:
            oldest_ns = self._syncing_since_ns or self._dirty_since_ns
            return BookStatistics(
                epoch=self._epoch,
                rows=self._rows,
                commits=self._commits,
                batch_peak=self._batch_peak,
                failures=self._failures,
                commit_p50_us=self._durations.percentile_us(0.5),
                commit_p99_us=self._durations.percentile_us(0.99),
                commit_max_us=self._durations.longest_us,
                wal_bytes=self.wal_bytes,
                lag_ns=self._clock.now_ns() - oldest_ns if oldest_ns else 0,
                durable=self._durable,
                committed=self._numbers.contiguous,
            )

    def _usable(self) -> apsw.Connection:
        if self._writer is None:
            raise LedgerError("the ledger is not open")
        if self._fault:
            raise LedgerError(f"the ledger is closed after a fault: {self._fault}", do="Restart the daemon.")
        return self._writer

    def _refusal(self, error: apsw.Error) -> LedgerError:
        said, fatal = refusal(error, self.path)
        if fatal:
            self._fault = str(error)
        return said
