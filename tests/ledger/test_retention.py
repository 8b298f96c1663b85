"""Old rows leave the ledger into files of their own; chain and counts stay whole, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from ledger_parts import Kill, Make, Open

from inspector.clock import PushedClock
from inspector.errors import LedgerError
from inspector.frame import Reason, Receipt, Verdict
from inspector.ledger import retention as module
from inspector.ledger.audit import show, verify
from inspector.ledger.book import Book, Override
from inspector.ledger.retention import DAY_NS, Retention

OLD, NOW = 1_700_000_000_000_000_000, 1_700_000_000_000_000_000 + 100 * DAY_NS


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps with few rows."""
    monkeypatch.setattr(module, "_PIECE_ROWS", 7)
    monkeypatch.setattr(module, "_REMOVE_ROWS", 5)


@pytest.fixture
def retain(clock: PushedClock) -> Iterator[Callable[..., Retention]]:
    """Retention of 30 days at a wall clock that stands 100 days after the old rows."""
    clock.step_wall(NOW - clock.wall_ns())
    made: list[Retention] = []

    def make(book: Book, keep_copy: bool = True) -> Retention:
        made.append(Retention(book, keep_days=30.0, keep_copy=keep_copy, clock=clock))
        return made[-1]

    yield make
    for one in made:
        one.close()


def fill(book: Book, part: Make) -> None:
    """40 old answers, all but one acknowledged, one replaced by UNRECORDED; then 10 of today."""
    rows = [part(book.epoch, number, wall_ns=OLD + number) for number in range(1, 41)]
    book.write([*rows, *(Receipt(book.epoch, number, number) for number in range(2, 41))])
    book.write([Override(book.epoch, 12, Reason.UNRECORDED, 5)])
    book.write([part(book.epoch, number, wall_ns=NOW) for number in range(41, 51)])
    book.mark_opened(50)


def copied(retention: Retention) -> int:
    """Copy to the end; how many steps it took."""
    steps = 1
    while retention.copy():
        steps += 1
    return steps


def emptied(retention: Retention, clock: PushedClock) -> int:
    """Remove to the end; how many rows left."""
    gone = 0
    for _ in range(100):
        clock.push(50_000_000)
        gone += retention.remove()
    return gone


def numbers(path: Path) -> list[int]:
    """The sequences that a file answers, oldest first."""
    return [record.sent.sequence for record in reversed(show(path, limit=1000))]


def test_old_rows_move_into_a_file_and_both_verify(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock, path: Path
) -> None:
    """Each half is a whole piece of one chain, and every number is accounted for."""
    book = open_book()
    fill(book, part)
    head_before = verify(path).head
    retention = retain(book)
    assert copied(retention) > 5
    assert emptied(retention, clock) == 40
    found = verify(path)
    assert not [each for each in found.findings if not each.known]
    assert numbers(path) == list(range(41, 51))
    assert (found.epochs[0].answers, found.epochs[0].removed, found.epochs[0].receipts) == (10, 40, 0)
    (piece,) = (path.parent / "retired").iterdir()
    apart = verify(piece)
    assert apart.ok and numbers(piece) == list(range(1, 41))
    assert (apart.epochs[0].answers, apart.epochs[0].receipts, apart.epochs[0].overrides) == (40, 39, 1)
    told = {record.sent.sequence: record.sent.reason for record in show(piece, limit=100)}
    assert told[12] is Reason.UNRECORDED and told[13] is None
    assert head_before != found.head  # the event stands in the chain
    assert not retention.copy() and emptied(retention, clock) == 0


def test_rows_in_time_stay(open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock) -> None:
    """Nothing leaves before its days and one more are over, and nothing behind a young row."""
    book = open_book()
    book.write([part(book.epoch, 1, wall_ns=NOW - 30 * DAY_NS - DAY_NS // 2)])
    book.write([part(book.epoch, 2, wall_ns=NOW), part(book.epoch, 3, wall_ns=OLD)])
    retention = retain(book)
    assert copied(retention) == 1 and emptied(retention, clock) == 0
    assert numbers(book.path) == [1, 2, 3]


def test_the_next_file_goes_on_where_the_last_one_ended(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock, path: Path
) -> None:
    """Over runs of the daemon too; the ledger stays whole after each."""
    book = open_book()
    fill(book, part)
    retention = retain(book)
    copied(retention)
    emptied(retention, clock)
    retention.close()
    book.close()
    clock.push(100 * DAY_NS)
    book = open_book()
    book.recover(clock.now_ns())
    retention = retain(book)
    copied(retention)
    emptied(retention, clock)
    assert verify(path).ok and numbers(path) == []
    pieces = sorted((path.parent / "retired").iterdir(), key=lambda each: int(each.name.split("-")[1]))
    assert [numbers(piece) for piece in pieces] == [list(range(1, 41)), list(range(41, 51))]
    assert all(verify(piece).ok for piece in pieces)


def test_a_kill_while_rows_leave_costs_nothing(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock, path: Path, kill: Kill
) -> None:
    """Killed between any two steps: the ledger verifies, no old number comes back, the rest leaves later."""
    for steps in (1, 3, 7, 9, 12):
        path.parent.mkdir(exist_ok=True)
        for old in path.parent.glob("ledger.db*"):
            old.unlink()
        book = open_book()
        fill(book, part)
        retention = retain(book)
        for _ in range(steps):
            clock.push(50_000_000)
            retention.copy()
            retention.remove()
        retention.close()
        kill(book)
        assert all(finding.known for finding in verify(path).findings)
        book = open_book()
        assert not book.recover(clock.now_ns()).restarted
        retention = retain(book)
        copied(retention)
        emptied(retention, clock)
        assert verify(path).ok and numbers(path) == list(range(41, 51))
        book.close()


def test_rows_that_another_hand_took_are_found(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock, path: Path
) -> None:
    """Only what the event names may be missing: one row more is a break of the chain and a gap."""
    book = open_book()
    fill(book, part)
    retention = retain(book)
    copied(retention)
    emptied(retention, clock)
    book.close()
    connection = apsw.Connection(str(path))
    connection.execute("DELETE FROM answers WHERE sequence = 41")
    connection.close()
    kinds = {finding.kind for finding in verify(path).findings if not finding.known}
    assert {"chain", "gap"} <= kinds


def test_a_forged_event_is_found(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock, path: Path
) -> None:
    """Who moves the beginning of the chain changes the event, and the event is hashed."""
    book = open_book()
    fill(book, part)
    retention = retain(book)
    copied(retention)
    emptied(retention, clock)
    book.close()
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE events SET text = replace(text, 'link\": 42', 'link\": 43') WHERE kind = 'removed'")
    assert connection.changes() == 1
    connection.close()
    assert not verify(path).ok


def test_without_a_copy_rows_just_leave(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock, path: Path
) -> None:
    """By the plant's own wish; the event says that nothing was kept."""
    book = open_book()
    fill(book, part)
    retention = retain(book, keep_copy=False)
    copied(retention)
    assert emptied(retention, clock) == 40
    found = verify(path)
    assert found.ok and not (path.parent / "retired").exists()
    assert any("no copy was kept" in finding.text for finding in found.findings)


def test_where_the_copy_cannot_be_written_the_rows_stay(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock, path: Path
) -> None:
    """A full disk, or no rights: told, tried again later, nothing removed."""
    book = open_book()
    fill(book, part)
    (path.parent / "retired").write_text("in the way")
    retention = retain(book)
    with pytest.raises(LedgerError, match="stay in the ledger"):
        copied(retention)
    assert emptied(retention, clock) == 0 and len(numbers(path)) == 50
    (path.parent / "retired").unlink()
    clock.push(61_000_000_000)
    copied(retention)
    assert emptied(retention, clock) == 40


def test_rows_are_written_while_others_leave(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock, path: Path
) -> None:
    """The line goes on: new rows between all steps, and every number is there once."""
    book = open_book()
    fill(book, part)
    retention, number = retain(book), 50
    for _ in range(60):
        clock.push(50_000_000)
        retention.copy()
        retention.remove()
        number += 1
        book.mark_opened(number)
        book.write([part(book.epoch, number, Verdict.FAIL, wall_ns=NOW), Receipt(book.epoch, number, 1)])
    found = verify(path)
    assert not [each for each in found.findings if not each.known]
    assert numbers(path) == list(range(41, number + 1)) and found.epochs[0].opened == number
