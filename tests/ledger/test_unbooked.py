"""Answers that leave before their row: written down first, so that a restart tells the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from inspector.clock import SystemClock
from inspector.frame import Answer, Hashes, Reason, Settled, Verdict
from inspector.ledger.audit import verify
from inspector.ledger.book import Book
from inspector.ledger.unbooked import Unbooked


def _late(epoch: int, sequence: int, reason: Reason = Reason.LATE) -> Answer:
    return Answer(
        epoch, sequence, f"part-{sequence}", sequence, Verdict.INVALID, reason, False, (), (), 0.0,
        10, 20, 21, 5, Hashes("a" * 16, "b" * 16, "c" * 16), (("engine", 7),), "not decided before its due time",
    )  # fmt: skip


def test_what_is_noted_comes_back_after_the_file_is_opened_anew(tmp_path: Path) -> None:
    """Equal answers by their numbers; a torn slot is left out, an oversized one never enters."""
    ring = Unbooked(tmp_path / "ring")
    for sequence in range(1, 600):
        ring.note(_late(3, sequence))
    ring.note(replace(_late(3, 700), detail="x" * 5000))
    ring.close()
    data = bytearray((tmp_path / "ring").read_bytes())
    data[1024 * 100 + 20] ^= 1
    (tmp_path / "ring").write_bytes(bytes(data))
    found = Unbooked(tmp_path / "ring").known()
    assert len(found) == 511
    assert found[3, 599] == _late(3, 599)
    assert (3, 700) not in found and (3, 1) not in found


def _killed_after(folder: Path, told: Answer, stored: Answer | None) -> Book:
    """A book whose process died after ``told`` left: released as the kernel does, then opened anew."""
    book = Book(folder / "ledger.db", clock=SystemClock(), ballast_bytes=0)
    book.open()
    book.recover(1)
    book.mark_opened(1)
    if stored is not None:
        book.write([Settled(replace(stored, epoch=book.epoch))])
    book.unbooked.note(replace(told, epoch=book.epoch))
    book._release()
    again = Book(folder / "ledger.db", clock=SystemClock(), ballast_bytes=0)
    again.open()
    return again


def test_a_late_answer_is_booked_as_it_was_told(tmp_path: Path) -> None:
    """Not RESTARTED: the controller has LATE."""
    book = _killed_after(tmp_path, _late(0, 1), None)
    recovery = book.recover(1_000)
    assert [answer.reason for answer in recovery.restarted] == [Reason.LATE]
    book.close()
    assert verify(tmp_path / "ledger.db").ok


def test_an_override_that_was_told_is_booked_over_the_stored_pass(tmp_path: Path) -> None:
    """The row says PASS, the controller was told UNRECORDED: the ledger must know both."""
    stored = replace(_late(0, 1), verdict=Verdict.PASS, reason=None, detail="")
    book = _killed_after(tmp_path, _late(0, 1, Reason.UNRECORDED), stored)
    recovery = book.recover(15)
    assert recovery.restarted == ()
    assert all(answer.verdict is Verdict.INVALID for answer in recovery.resend)
    book.close()
    (old, _) = verify(tmp_path / "ledger.db").epochs
    assert old.overrides == 1
