"""A ledger that is damaged, torn or gone: it is set aside, what can be told is told, the line starts."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import pytest
from ledger_parts import Kill, Make, Open, breaks, rows_of

from inspector.clock import PushedClock


def flip(path: Path, what: bytes) -> None:
    """Change one byte of the first place where ``what`` stands in the file."""
    data = bytearray(path.read_bytes())
    at = data.index(what)
    data[at] ^= 1
    path.write_bytes(data)


def test_one_flipped_byte_sets_the_file_aside(open_book: Open, path: Path, part: Make, kill: Kill) -> None:
    """SQLite's own check passes a flipped data byte; the chain does not, and the start says so, in the file too."""
    book = open_book()
    book.write([part(1, number, part_id=f"needle-{number:04d}") for number in range(1, 20)])
    book.mark_opened(19)
    book.close()
    flip(path, b"needle-0007")
    damaged = path.read_bytes()
    with apsw.Connection(str(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").get == "ok"
    book = open_book()
    assert book.epoch == 2
    assert book.notes[0].kind == "continues"
    assert "chain broken at row 8" in book.notes[0].text
    (aside,) = path.parent.glob("*.damaged-*[0-9]")
    assert aside.read_bytes() == damaged
    first = rows_of(path, "events")[0]
    assert (first[0], first[2]) == (1, "continues")
    book.write([part(2, 1)])


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_broken_file_never_keeps_the_line_from_starting(
    open_book: Open, path: Path, part: Make, kill: Kill, size: int
) -> None:
    """Garbage or a cut file is moved aside with its WAL as it is; numbers go on above the old epoch."""
    book = open_book()
    book.write([part(1, number) for number in range(1, 50)])
    book.close()
    path.write_bytes(b"\x5a" * 100 + path.read_bytes()[100:size] if size else b"garbage" * 1000)
    wal = path.with_name("ledger.db-wal")
    wal.write_bytes(b"what was in the wal")
    book = open_book()
    assert book.epoch == 2
    assert book.notes[0].kind == "continues"
    (aside,) = path.parent.glob("*.damaged-*-wal")
    assert aside.read_bytes() == b"what was in the wal"
    book.write([part(2, 1)])
    assert breaks(path) == []


def test_without_any_trace_of_the_last_epoch_the_clock_gives_one(
    open_book: Open, path: Path, clock: PushedClock
) -> None:
    """An epoch is never used twice, not even when file and marks are both unreadable."""
    open_book().close()
    path.write_bytes(b"garbage" * 1000)
    path.with_name("ledger.db.marks").unlink()
    assert open_book().epoch == clock.wall_ns() // 1_000_000_000


def test_a_torn_wal_keeps_the_rows_before_the_tear_and_says_what_is_gone(
    open_book: Open, path: Path, part: Make, kill: Kill
) -> None:
    """Rows cut off at the end of the WAL are noticed by the mark, booked as lost, and not decided anew."""
    book = open_book()
    for number in range(1, 11):
        book.mark_opened(number)
        book.write([part(1, number)])
    kill(book)
    wal = path.with_name("ledger.db-wal")
    os.truncate(wal, wal.stat().st_size - 3000)
    book = open_book()
    assert [note.kind for note in book.notes] == ["lost"]
    assert [row[2] for row in rows_of(path, "answers")] == list(range(1, 10))
    recovery = book.recover(0)
    assert recovery.restarted == ()
    assert [(gap.first, gap.last) for gap in recovery.gaps] == [(10, 10)]


def test_a_deleted_ledger_is_not_taken_for_a_new_one(open_book: Open, path: Path, part: Make) -> None:
    """The marks beside it still know that rows had been committed."""
    book = open_book()
    book.mark_opened(1)
    book.write([part(1, 1)])
    book.close()
    path.unlink()
    path.with_name("ledger.db-wal").unlink()
    book = open_book()
    assert book.epoch == 2
    assert [note.kind for note in book.notes] == ["lost"]
