"""The writer: what is committed, what is refused, what a damaged file leads to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_parts import Kill, Make, Open, breaks, rows_of

from inspector.clock import PushedClock
from inspector.errors import LedgerError
from inspector.frame import Reason, Receipt, Verdict
from inspector.ledger import schema
from inspector.ledger.book import Book, Note, Override
from inspector.ledger.counts import Durations, Numbers
from inspector.ledger.query import show
from inspector.ledger.schema import reader


def test_a_batch_of_all_kinds_is_stored_and_chained(open_book: Open, path: Path, part: Make) -> None:
    """Answers, receipts, overrides and notes of one batch are all there after write, in one unbroken chain."""
    book = open_book()
    book.write(
        [
            part(book.epoch, 1),
            part(book.epoch, 2, Verdict.FAIL),
            Override(book.epoch, 2, Reason.UNRECORDED, 5),
            Receipt(book.epoch, 1, 9),
            Note(7, "camera lost", "link down"),
            part(book.epoch, 3, Verdict.INVALID),
        ]
    )
    assert [record.settled for record in reversed(show(path))] == [
        part(1, 1),
        part(1, 2, Verdict.FAIL),
        part(1, 3, Verdict.INVALID),
    ]
    assert len(rows_of(path, "receipts")) == len(rows_of(path, "overrides")) == len(rows_of(path, "events")) == 1
    assert breaks(path) == []
    assert book.statistics().rows == 3


def test_each_start_is_a_new_epoch_that_says_where_it_began(open_book: Open, path: Path, kill: Kill) -> None:
    """Epochs count up by one over orderly ends and kills alike."""
    for expected in (1, 2, 3):
        book = open_book()
        assert book.epoch == expected
        if expected == 2:
            kill(book)
        else:
            book.close()
    assert [row[1] for row in rows_of(path, "epochs")] == [1, 2, 3]


def test_the_same_answer_twice_is_ignored(open_book: Open, path: Path, part: Make) -> None:
    """A retried batch does not store a part twice, within a batch or across batches."""
    book = open_book()
    book.write([part(1, 1), part(1, 1)])
    book.write([part(1, 1), part(1, 2), Override(1, 1, Reason.UNRECORDED, 5), Override(1, 1, Reason.UNRECORDED, 5)])
    assert [row[2] for row in rows_of(path, "answers")] == [1, 2]
    assert len(rows_of(path, "overrides")) == 1
    assert breaks(path) == []


def test_a_second_content_for_a_number_is_refused_whole(open_book: Open, path: Path, part: Make) -> None:
    """The content of an answer never changes, and nothing of the refused batch is stored."""
    book = open_book()
    book.write([part(1, 1)])
    with pytest.raises(LedgerError, match="stored already"):
        book.write([part(1, 2), part(1, 1, Verdict.FAIL)])
    with pytest.raises(LedgerError, match="stored already"):
        book.write([part(1, 3), part(1, 3, Verdict.FAIL)])
    assert [row[2] for row in rows_of(path, "answers")] == [1]
    book.write([part(1, 2)])
    assert breaks(path) == []


def test_durable_counts_only_whole_stretches_and_only_after_sync(open_book: Open, part: Make) -> None:
    """The watermark is the number up to which every row is on the disk, whatever order they came in."""
    book = open_book()
    book.write([part(1, 1), part(1, 3)])
    assert book.durable == 0
    assert book.sync() == (1, 1)
    book.write([part(1, 2)])
    assert (book.durable, book.statistics().committed) == (1, 3)
    assert book.sync() == (1, 3)


def test_a_gap_note_lets_the_watermark_pass(open_book: Open, part: Make) -> None:
    """Numbers that an event accounts for do not hold the watermark back for ever."""
    book = open_book()
    book.write([part(1, 1), part(1, 5), Note(1, "gap", "rows displaced", epoch=1, first=2, last=4)])
    assert book.sync() == (1, 5)


def test_full_sync_makes_a_commit_durable(open_book: Open, part: Make) -> None:
    """With sync=full the watermark needs no sync thread."""
    book = open_book(sync="full")
    book.write([part(1, 1)])
    assert book.durable == 1


def test_lag_is_the_age_of_the_oldest_commit_not_yet_durable(open_book: Open, part: Make, clock: PushedClock) -> None:
    """Lag grows from the first unsynced commit and falls to nothing with the sync."""
    book = open_book()
    book.sync()
    book.write([part(1, 1)])
    clock.push(70)
    book.write([part(1, 2)])
    clock.push(30)
    assert book.statistics().lag_ns == 100
    book.sync()
    assert book.statistics().lag_ns == 0


def test_a_failed_fdatasync_closes_the_book(
    open_book: Open, part: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After EIO nothing is known of the data: no later sync or write may look fine."""
    book = open_book()
    book.write([part(1, 1)])

    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(LedgerError, match="fdatasync"):
        book.sync()
    monkeypatch.undo()
    assert book.durable == 0
    with pytest.raises(LedgerError, match="after a fault"):
        book.write([part(1, 2)])


def test_a_second_daemon_is_refused(open_book: Open, path: Path, clock: PushedClock, part: Make) -> None:
    """One ledger has one writer; the refusal says so in one line and harms nothing."""
    book = open_book()
    with pytest.raises(LedgerError, match="in use by another process") as caught:
        Book(path, clock=clock, ballast_bytes=0).open()
    assert "\n" not in str(caught.value)
    book.write([part(1, 1)])


def test_a_tool_that_holds_the_file_makes_the_write_fail_whole(open_book: Open, path: Path, part: Make) -> None:
    """A foreign write lock is a LedgerError after a bounded wait; the same batch goes through once it is gone."""
    book = open_book(busy_ms=20)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="locked") as caught:
        book.write([part(1, 1)])
    assert not caught.value.full
    other.execute("ROLLBACK")
    other.close()
    book.write([part(1, 1)])
    assert len(rows_of(path, "answers")) == 1
    assert book.statistics().failures == 1


def test_a_write_that_fails_half_way_is_rolled_back(open_book: Open, path: Path, part: Make) -> None:
    """SQLite leaves the transaction open after a constraint: the book ends it, and finds the chain's end again."""
    book = open_book()
    book.write([part(1, 1)])
    with apsw.Connection(str(path)) as other:
        other.execute("INSERT INTO events SELECT max(link) + 2, 1, 'foreign', '', 0, 0, 0, x'00' FROM answers")
    with pytest.raises(LedgerError):
        book.write([part(1, 2), Note(1, "reload", "")])
    assert [row[2] for row in rows_of(path, "answers")] == [1]
    book.write([part(1, 2), Note(1, "reload", "")])
    assert [row[2] for row in rows_of(path, "answers")] == [1, 2]
    assert breaks(path) == [(3, "the row is missing")]


def test_a_locked_file_refuses_the_start(open_book: Open, path: Path, clock: PushedClock) -> None:
    """A ledger that another program holds is not damaged: it is left in place."""
    open_book().close()
    other = apsw.Connection(str(path))
    other.pragma("locking_mode", "exclusive")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerError, match="in use"):
        Book(path, clock=clock, ballast_bytes=0, busy_ms=20).open()
    other.close()
    assert not list(path.parent.glob("*.damaged-*"))


def test_a_newer_ledger_is_refused_and_left_alone(open_book: Open, path: Path, clock: PushedClock) -> None:
    """A file of a newer version is neither written nor set aside."""
    open_book().close()
    with apsw.Connection(str(path)) as connection:
        connection.pragma("user_version", len(schema.MIGRATIONS) + 1)
    with pytest.raises(LedgerError, match="newer inspector"):
        Book(path, clock=clock, ballast_bytes=0).open()
    assert not list(path.parent.glob("*.damaged-*"))
    with pytest.raises(LedgerError, match="newer inspector"):
        show(path)


def test_a_migration_keeps_the_rows_their_chain_and_a_copy(
    open_book: Open, path: Path, part: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older file is brought up in one transaction, the old one copied first, and the step is booked."""
    book = open_book()
    book.write([part(1, 1)])
    book.close()
    addition = ("ALTER TABLE receipts ADD COLUMN gate TEXT",)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, addition))
    book = open_book()
    assert [note.kind for note in book.notes] == ["migrated"]
    assert len(rows_of(path, "receipts")) == 0
    assert breaks(path) == []
    monkeypatch.undo()
    assert len(rows_of(path.with_name("ledger.db.v1"), "answers")) == 1


def test_a_failed_migration_leaves_the_old_version(
    open_book: Open, path: Path, clock: PushedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a migration is none."""
    open_book().close()
    broken = ("CREATE TABLE extra (a)", "CREATE NONSENSE")
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    with pytest.raises(LedgerError):
        Book(path, clock=clock, ballast_bytes=0).open()
    monkeypatch.undo()
    assert open_book().epoch == 2
    with reader(path) as connection:
        assert not connection.table_exists(None, "extra")


def test_a_checkpoint_lets_the_wal_start_again(open_book: Open, path: Path, part: Make) -> None:
    """The WAL does not grow for ever: after a whole checkpoint the next write begins at its start."""
    book = open_book()
    for number in range(1, 101):
        book.write([part(1, number)])
    grown = book.wal_bytes
    assert book.checkpoint()
    book.write([part(1, 101)])
    assert book.wal_bytes < grown / 10
    assert path.with_name("ledger.db-wal").stat().st_size >= grown


def test_a_reader_that_stays_keeps_the_wal_and_the_book_says_so(open_book: Open, path: Path, part: Make) -> None:
    """A checkpoint beside an open read transaction is not whole; commits go on."""
    book = open_book()
    book.write([part(1, 1)])
    with reader(path) as connection:
        connection.execute("SELECT count(*) FROM answers").fetchall()
        for number in range(2, 20):
            book.write([part(1, number)])
        assert not book.checkpoint()
    assert book.checkpoint()


def test_past_its_limit_the_wal_starts_again_beside_a_writer_that_never_rests(open_book: Open, part: Make) -> None:
    """Copying beside a busy writer never reaches the end; past the limit the book makes a gap between two commits."""
    book = open_book(wal_limit_bytes=200_000)
    done = threading.Event()

    def janitor() -> None:
        while not done.is_set():
            book.checkpoint()

    thread = threading.Thread(target=janitor)
    thread.start()
    peak = 0
    for number in range(1, 1001):
        book.write([part(1, number)])
        peak = max(peak, book.wal_bytes)
    done.set()
    thread.join()
    assert peak < 7_000_000, "1,000 commits are 8 MB of WAL without a restart"


def test_the_threads_of_the_daemon_can_share_a_book(open_book: Open, path: Path, part: Make) -> None:
    """Writing, syncing, checkpointing and marking at once: all rows there, chain whole, watermark at the end."""
    book = open_book(wal_limit_bytes=100_000)
    done = threading.Event()
    faults: list[BaseException] = []

    def janitor() -> None:
        try:
            while not done.is_set():
                book.sync()
                book.checkpoint()
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            faults.append(error)

    thread = threading.Thread(target=janitor)
    thread.start()
    for number in range(1, 1001, 5):
        for each in range(number, number + 5):
            book.mark_opened(each)
        book.write([part(1, each) for each in range(number, number + 5)])
    done.set()
    thread.join()
    assert faults == []
    assert book.sync() == (1, 1000)
    assert breaks(path) == []
    assert len(rows_of(path, "answers")) == 1000


def test_an_old_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch, path: Path, clock: PushedClock) -> None:
    """Versions that may corrupt a WAL are not used."""
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(LedgerError, match=r"3\.51\.3"):
        Book(path, clock=clock).open()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, clock: PushedClock) -> None:
    """A wrong path ends with what is wrong, not with a trace."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(LedgerError) as caught:
        Book(tmp_path / "file" / "ledger.db", clock=clock).open()
    assert "\n" not in str(caught.value)


def test_closing_twice_and_writing_after_it(open_book: Open, part: Make) -> None:
    """close is idempotent; a closed book refuses."""
    book = open_book()
    book.close()
    book.close()
    with pytest.raises(LedgerError, match="not open"):
        book.write([part(1, 1)])
    with pytest.raises(LedgerError, match="not open"):
        book.mark_opened(1)


@given(st.lists(st.integers(1, 40)))
def test_numbers_are_the_set_they_stand_for(numbers: list[int]) -> None:
    """Intervals and a plain set agree on membership and on the stretch from 1."""
    ours, plain = Numbers(), set()
    for number in numbers:
        ours.add(number)
        plain.add(number)
    assert [n in ours for n in range(45)] == [n in plain for n in range(45)]
    assert ours.contiguous == next(n for n in range(45) if n + 1 not in plain)


@given(st.lists(st.integers(0, 10**10), min_size=1))
def test_percentiles_of_durations_are_near(durations: list[int]) -> None:
    """Within a bucket's width above the true value, never above the longest."""
    ours = Durations()
    for duration in durations:
        ours.add(duration)
    true_us = sorted(durations)[max(0, -(-len(durations) * 99 // 100) - 1)] / 1000
    assert true_us * 0.999 <= ours.percentile_us(0.99) <= min(max(durations) / 1000, (true_us + 1) * 1.1)


def test_importing_the_frame_of_the_house_does_not_load_sqlite() -> None:
    """The command line stays quick: apsw is loaded by those who open a ledger."""
    code = "import sys, inspector.ledger.rows, inspector.ledger; sys.exit('apsw' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_copy_of_the_closed_file_is_a_whole_ledger(open_book: Open, path: Path, tmp_path: Path, part: Make) -> None:
    """After an orderly end the one file is all there is to back up."""
    book = open_book()
    book.write([part(1, 1)])
    book.close()
    copy = tmp_path / "copy.db"
    shutil.copyfile(path, copy)
    assert [record.settled for record in show(copy)] == [part(1, 1)]
