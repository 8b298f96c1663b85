"""What a restart resends, decides and accounts for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_parts import Kill, Make, Open

from inspector.clock import PushedClock
from inspector.frame import Reason, Receipt, Settled, Verdict
from inspector.ledger import book as book_module
from inspector.ledger.audit import verify
from inspector.ledger.book import Book, Note, Override
from inspector.ledger.marks import MarksFile, read_marks
from inspector.ledger.query import show
from inspector.ledger.restart import without
from inspector.ledger.rows import overridden

ROOT = Path(__file__).resolve().parents[2]
NOW_NS = 5_000_000_000
IN_TIME_NS = NOW_NS + 1


def numbers(answers: object) -> list[tuple[int, int]]:
    return [(answer.epoch, answer.sequence) for answer in answers]  # type: ignore[attr-defined]


def opened(book: Book, count: int) -> None:
    for number in range(1, count + 1):
        book.mark_opened(number)


def reboot(monkeypatch: pytest.MonkeyPatch, boot_id: str = "another boot") -> None:
    monkeypatch.setattr(book_module, "boot_id", lambda: boot_id)


def test_only_what_is_unacknowledged_and_in_time_is_resent_and_as_it_was(
    open_book: Open, kill: Kill, part: Make
) -> None:
    """An answer of a former epoch goes out again with the same content, unless received or too late."""
    book = open_book()
    opened(book, 3)
    waiting = part(1, 1, Verdict.FAIL, due_ns=IN_TIME_NS)
    book.write([waiting, part(1, 2, due_ns=IN_TIME_NS), part(1, 3, due_ns=NOW_NS), Receipt(1, 2, 7)])
    kill(book)
    recovery = open_book().recover(NOW_NS)
    assert recovery.resend == (waiting.answer,)
    assert recovery.restarted == recovery.gaps == ()


def test_what_was_sent_instead_is_what_is_resent(open_book: Open, kill: Kill, part: Make) -> None:
    """A stored PASS that went out as UNRECORDED must not turn into a PASS by a restart."""
    book = open_book()
    opened(book, 1)
    override = Override(1, 1, Reason.UNRECORDED, 77, "decided PASS, but the ledger had not committed it in time")
    stored = part(1, 1, due_ns=IN_TIME_NS)
    book.write([stored, override])
    kill(book)
    assert open_book().recover(NOW_NS).resend == (overridden(stored.answer, override),)


def test_numbers_opened_and_never_decided_become_invalid_restarted(open_book: Open, kill: Kill, part: Make) -> None:
    """Every number of the old epoch has a row afterwards, under its old identity; rows that were there stay."""
    book = open_book()
    opened(book, 5)
    book.write([part(1, 2), part(1, 4)])
    kill(book)
    book = open_book()
    recovery = book.recover(NOW_NS)
    assert numbers(recovery.restarted) == [(1, 1), (1, 3), (1, 5)]
    assert {answer.reason for answer in recovery.restarted} == {Reason.RESTARTED}
    stored = {each.sent.sequence: each.sent for each in show(book.path)}
    assert [stored[number].reason for number in (1, 2, 3, 4, 5)] == [
        Reason.RESTARTED,
        None,
        Reason.RESTARTED,
        None,
        Reason.RESTARTED,
    ]
    assert stored[1] == recovery.restarted[0]


def test_restarted_numbers_are_told_until_they_are_received(open_book: Open, kill: Kill) -> None:
    """A second kill before they were sent must not silence them; their content stays the same."""
    book = open_book()
    opened(book, 2)
    kill(book)
    book = open_book()
    first = book.recover(NOW_NS).restarted
    kill(book)
    book = open_book()
    assert book.recover(NOW_NS + 5).restarted == first
    book.write([Receipt(1, 1, 9)])
    kill(book)
    assert open_book().recover(NOW_NS + 9).restarted == first[1:]


def test_a_number_sent_as_unrecorded_whose_row_never_came_keeps_that_reason(open_book: Open, kill: Kill) -> None:
    """No second content for a number, not even of another INVALID."""
    book = open_book()
    opened(book, 1)
    book.write([Override(1, 1, Reason.UNRECORDED, 77, "too late")])
    kill(book)
    (answer,) = open_book().recover(NOW_NS).restarted
    assert (answer.reason, answer.settled_ns, answer.detail) == (Reason.UNRECORDED, 77, "too late")


def test_a_kill_between_start_and_recovery_loses_nothing(open_book: Open, kill: Kill, part: Make) -> None:
    """What the marks said stands in the epoch's own row, so a later start still knows it."""
    book = open_book()
    opened(book, 2)
    book.write([part(1, 1, due_ns=IN_TIME_NS)])
    kill(book)
    for _ in range(2):
        kill(open_book())
    recovery = open_book().recover(NOW_NS)
    assert numbers(recovery.resend) == [(1, 1)]
    assert numbers(recovery.restarted) == [(1, 2)]


def test_a_kill_between_the_new_epochs_commit_and_its_marks_opens_nothing_twice(
    open_book: Open, kill: Kill, path: Path
) -> None:
    """Marks of the epoch before the last say that the last one opened nothing."""
    book = open_book()
    opened(book, 2)
    kill(book)
    old = path.with_name("ledger.db.marks").read_bytes()
    kill(open_book())
    path.with_name("ledger.db.marks").write_bytes(old)
    book = open_book()
    assert book.epoch == 3
    assert numbers(book.recover(NOW_NS).restarted) == [(1, 1), (1, 2)]


def test_an_orderly_end_leaves_nothing_to_recover(open_book: Open, part: Make) -> None:
    """With every number answered and received a restart is silent."""
    book = open_book()
    opened(book, 1)
    book.write([part(1, 1, due_ns=IN_TIME_NS), Receipt(1, 1, 7)])
    book.close()
    recovery = open_book().recover(NOW_NS)
    assert (recovery.resend, recovery.restarted, recovery.gaps) == ((), (), ())


def test_after_a_power_cut_gaps_are_booked_and_nothing_is_sent(
    open_book: Open, kill: Kill, part: Make, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    """Under another boot due times mean nothing and a missing row may have been answered: explicit gaps, no answer."""
    reboot(monkeypatch, "first")
    book = open_book()
    opened(book, 4)
    book.write([part(1, 1, due_ns=IN_TIME_NS), part(1, 3, due_ns=IN_TIME_NS)])
    kill(book)
    reboot(monkeypatch, "second")
    book = open_book()
    recovery = book.recover(NOW_NS)
    assert recovery.resend == recovery.restarted == ()
    assert [(gap.first, gap.last) for gap in recovery.gaps] == [(2, 2), (4, 4), (5, 0)]
    kill(book)
    reboot(monkeypatch, "third")
    gaps = open_book().recover(NOW_NS).gaps
    assert [(gap.epoch, gap.first) for gap in gaps] == [(2, 1)]
    assert verify(path).ok


def test_after_an_orderly_end_a_reboot_is_no_gap(open_book: Open, part: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch that ended in order has no unknown numbers above its last."""
    reboot(monkeypatch, "first")
    book = open_book()
    opened(book, 1)
    book.write([part(1, 1)])
    book.close()
    reboot(monkeypatch, "second")
    assert open_book().recover(NOW_NS).gaps == ()


def test_without_marks_the_gap_is_open_ended(open_book: Open, kill: Kill, part: Make, path: Path) -> None:
    """When nothing tells the last number, the ledger says so instead of assuming there was none."""
    book = open_book()
    opened(book, 5)
    book.write([part(1, 1), part(1, 3)])
    kill(book)
    path.with_name("ledger.db.marks").unlink()
    recovery = open_book().recover(NOW_NS)
    assert numbers(recovery.restarted) == [(1, 2)]
    assert [(gap.first, gap.last) for gap in recovery.gaps] == [(4, 0)]


def test_after_damage_the_old_numbers_are_a_gap_not_restarted(
    open_book: Open, kill: Kill, part: Make, path: Path
) -> None:
    """Rows in a file set aside may have been answered: they are accounted for, never decided anew."""
    book = open_book()
    opened(book, 3)
    book.write([part(1, 1), part(1, 2)])
    book.close()
    path.write_bytes(b"garbage" * 1000)
    recovery = open_book().recover(NOW_NS)
    assert recovery.restarted == recovery.resend == ()
    assert [(gap.first, gap.last) for gap in recovery.gaps] == [(1, 3), (4, 0)]


def test_numbers_the_line_accounted_for_itself_are_not_restarted(open_book: Open, kill: Kill, part: Make) -> None:
    """A gap that was booked while running stays a gap."""
    book = open_book()
    opened(book, 4)
    book.write([part(1, 1), Note(1, "gap", "rows displaced", epoch=1, first=2, last=3)])
    kill(book)
    assert numbers(open_book().recover(NOW_NS).restarted) == [(1, 4)]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 6)), max_size=4),
    st.lists(st.tuples(st.integers(1, 30), st.integers(-1, 6)), max_size=4),
)
def test_ranges_without_ranges_are_what_sets_say(some: list[tuple[int, int]], less: list[tuple[int, int]]) -> None:
    """Taking noted gaps off missing ranges agrees with plain sets of numbers."""
    ranges = [(start, start + length) for start, length in some]
    noted = [(start, start + length if length >= 0 else 0) for start, length in less]
    covered = {n for start, end in noted for n in range(start, (end or 99) + 1)}
    left = {n for first, last in without(ranges, noted) for n in range(first, last + 1)}
    assert left == {n for first, last in ranges for n in range(first, last + 1)} - covered


def test_a_row_is_never_decided_a_second_time(open_book: Open, kill: Kill, part: Make) -> None:
    """An attempt to write another content under an old identity is refused."""
    book = open_book()
    opened(book, 1)
    stored = part(1, 1)
    book.write([stored])
    kill(book)
    book = open_book()
    book.recover(NOW_NS)
    book.write([stored])
    with pytest.raises(Exception, match="stored already"):
        book.write([Settled(replace(stored.answer, verdict=Verdict.FAIL))])


@pytest.mark.parametrize("torn", range(20))
def test_a_torn_mark_falls_back_to_the_one_before(tmp_path: Path, torn: int) -> None:
    """A store cut off at any byte leaves the older of the two slots."""
    path = tmp_path / "marks"
    marks = MarksFile(path)
    marks.restart(7, 100)
    marks.opened(7, 1)
    before = path.read_bytes()
    marks.opened(7, 0x0202020202020202)
    after = path.read_bytes()
    marks.close()
    at = next(n for n in range(len(before)) if before[n : n + 20] != after[n : n + 20] and n % 64 == 0)
    path.write_bytes(before[:at] + after[at : at + torn] + before[at + torn :])
    found = read_marks(path)
    assert (found.opened_epoch, found.opened) == (7, 1)
    assert (found.committed_epoch, found.committed) == (7, 100)


def test_marks_that_are_not_ours_are_no_marks(tmp_path: Path) -> None:
    """Garbage, a short file and none at all say nothing; opening makes a good file of them."""
    path = tmp_path / "marks"
    assert read_marks(path).opened_epoch == 0
    for junk in (b"", b"x" * 100, b"\xff" * 4096):
        path.write_bytes(junk)
        assert read_marks(path).opened_epoch == 0
        marks = MarksFile(path)
        marks.restart(1, 0)
        marks.opened(1, 9)
        marks.close()
        assert read_marks(path).opened == 9


def test_kill_9_loses_and_changes_nothing() -> None:
    """Real kills of a real writer: answered => stored as it was, opened => has a row, and the chain holds."""
    script = ROOT / "benchmarks" / "kill9_ledger.py"
    command = [sys.executable, str(script), "--kills", "12", "--seed", "5", "--check-each", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    result = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"stderr": done.stderr}
    assert result.get("problems") == 0, result
    assert result["verify_ok"]
    assert result["answered"] > 100


def test_recovery_reads_time_from_its_argument(open_book: Open, kill: Kill, clock: PushedClock) -> None:
    """RESTARTED rows carry the moment they were found, on both clocks."""
    book = open_book()
    opened(book, 1)
    kill(book)
    (answer,) = open_book().recover(NOW_NS).restarted
    assert (answer.taken_ns, answer.due_ns, answer.settled_ns) == (NOW_NS, NOW_NS, NOW_NS)
    assert answer.wall_ns == clock.wall_ns()
