"""Answers that leave before their row: written down first, so that a restart tells the same."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.clock import SystemClock
from inspector.drill.disk import Filler, mount_small_disk, unmount
from inspector.errors import LedgerError
from inspector.frame import Answer, Hashes, Reason, Settled, Verdict
from inspector.ledger.audit import verify
from inspector.ledger.book import Book
from inspector.ledger.query import show
from inspector.ledger.rows import answer_cells
from inspector.ledger.unbooked import _LONGEST, FEW_BYTES, LEAST_BYTES, MOST_BYTES, Unbooked


def _late(epoch: int, sequence: int, reason: Reason = Reason.LATE) -> Answer:
    return Answer(
        epoch, sequence, f"part-{sequence}", sequence, Verdict.INVALID, reason, False, (), (), 0.0,
        10, 20, 21, 5, Hashes("a" * 16, "b" * 16, "c" * 16), (("engine", 7),), "not decided before its due time",
    )  # fmt: skip


def _long(sequence: int) -> Answer:
    """As long as such an answer usually can be: full clocks, and a part id that fills its field."""
    now_ns = 1_700_000_000_000_000_000 + sequence
    return replace(
        _late(12, sequence), part_id=f"{sequence:032}", taken_ns=now_ns, due_ns=now_ns, settled_ns=now_ns,
        wall_ns=now_ns, detail="decided PASS, but the ledger had not committed it in time", stages_us=(),
    )  # fmt: skip


def _noted(path: Path, answers: list[Answer], most_bytes: int = LEAST_BYTES) -> dict[tuple[int, int], Answer]:
    """What is known at the next start."""
    file = Unbooked(path, most_bytes)
    for answer in answers:
        file.note(answer)
    file.close()
    return _known(path, most_bytes)


def _known(path: Path, most_bytes: int = LEAST_BYTES) -> dict[tuple[int, int], Answer]:
    file = Unbooked(path, most_bytes)
    try:
        return file.known()
    finally:
        file.close()


def _blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


# -- what is noted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "most_bytes"), [(600, LEAST_BYTES), (6_000, FEW_BYTES), (65_536, MOST_BYTES)])
def test_all_that_an_outage_leaves_unbooked_is_known(tmp_path: Path, count: int, most_bytes: int) -> None:
    """None is overwritten by the next, for as many as the line may owe."""
    path = tmp_path / "file"
    answers = [_long(sequence) for sequence in range(1, count + 1)]
    found = _noted(path, answers, most_bytes)
    path.unlink()
    assert list(found.values()) == answers


def test_what_is_no_longer_owed_is_forgotten(tmp_path: Path) -> None:
    """The next run begins at the beginning, and the next start has not to read what was booked long ago."""
    file = Unbooked(tmp_path / "file", FEW_BYTES)
    for sequence in range(1, 3_000):
        file.note(_long(sequence))
    file.forget()
    assert file.known() == {}
    file.note(_late(1, 1))
    file.close()
    assert _known(tmp_path / "file") == {(1, 1): _late(1, 1)}


def test_of_two_under_one_number_the_later_is_told(tmp_path: Path) -> None:
    """Where the file begins anew the later one stands before the other."""
    first, later = _late(1, 1), replace(_late(1, 1), settled_ns=99, detail="later")
    assert _noted(tmp_path / "file", [first, later]) == {(1, 1): later}
    assert _noted(tmp_path / "other", [later, first]) == {(1, 1): later}


def test_no_detail_however_long_pushes_out_the_others(tmp_path: Path) -> None:
    """It is left out, as if nothing had been told."""
    monstrous = replace(_late(1, 2), detail="x" * _LONGEST)
    assert list(_noted(tmp_path / "file", [_late(1, 1), monstrous, _late(1, 3)])) == [(1, 1), (1, 3)]


def test_a_closed_file_takes_no_note(tmp_path: Path) -> None:
    """The answer leaves all the same."""
    file = Unbooked(tmp_path / "file")
    file.close()
    file.note(_late(1, 1))
    file.close()
    assert _known(tmp_path / "file") == {}


details = st.builds(lambda text, times: text * times, st.text(max_size=5), st.integers(0, 9_000))


@given(texts=st.lists(details, min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_the_last_ones_are_known_as_they_were(texts: list[str]) -> None:
    """Whatever stands in them, and however often the file begins anew."""
    answers = [replace(_late(1, n), detail=text.encode("utf-8", "replace").decode()) for n, text in enumerate(texts)]
    lengths = [len(json.dumps(answer_cells(0, Settled(answer)))) for answer in answers]
    with tempfile.TemporaryDirectory() as made:
        found = _noted(Path(made) / "file", answers)
    taken = accumulate(reversed([length for length in lengths if length < _LONGEST]))
    kept = sum(total < LEAST_BYTES - _LONGEST for total in taken)
    written = [answer for answer, length in zip(answers, lengths, strict=True) if length < _LONGEST]
    assert all(found[1, answer.sequence] == answer for answer in written[len(written) - kept :])
    assert all(answers[sequence] == answer for (_, sequence), answer in found.items())


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def _answer_in_an_outage(folder: str) -> None:
    """A line without its ledger, told number by number on standard output; runs until it is killed."""
    book = Book(Path(folder) / "ledger.db", clock=SystemClock(), ballast_bytes=0)
    book.open()
    book.recover(1)
    for sequence in range(1, 1_000_000):
        book.mark_opened(sequence)
        book.unbooked.note(replace(_long(sequence), epoch=book.epoch))
        os.write(1, b"%d\n" % sequence)


@pytest.mark.parametrize("count", [1, 600, 6_000])
def test_after_kill_9_in_an_outage_all_is_booked_as_it_was_told(tmp_path: Path, count: int) -> None:
    """A real process, killed in the middle of its answers: no number that was told LATE comes back as RESTARTED."""
    script = f"import test_unbooked; test_unbooked._answer_in_an_outage({str(tmp_path)!r})"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    )
    assert child.stdout is not None
    for _ in range(count):
        child.stdout.readline()
    child.kill()
    told = count + sum(line.endswith(b"\n") for line in child.stdout.readlines())
    child.wait()
    book = Book(tmp_path / "ledger.db", clock=SystemClock(), ballast_bytes=0)
    book.open()
    recovery = book.recover(1)
    as_told = [replace(_long(sequence), epoch=1) for sequence in range(1, told + 1)]
    assert told >= count
    assert list(recovery.restarted)[:told] == as_told
    assert len(recovery.restarted) <= told + 1  # the one that had been opened, or noted, and not told
    assert book.unbooked.known() == {}
    book.close()
    assert [record.sent for record in reversed(show(tmp_path / "ledger.db", limit=-1))][:told] == as_told
    assert verify(tmp_path / "ledger.db").ok


noise = st.binary(min_size=1, max_size=3_000)


@given(at=st.floats(0, 1), noise=noise | noise.map(lambda data: data.replace(b"\0", b"x")))
@settings(max_examples=200, deadline=None)
def test_a_torn_write_takes_only_what_it_hit(at: float, noise: bytes) -> None:
    """Whatever stands in the file, what is known was noted; without a zero byte the others are all there."""
    answers = [_late(1, sequence) for sequence in range(50)]
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "file"
        _noted(path, answers)
        data = path.read_bytes()
        used = len(data.rstrip(b"\0"))
        start = int(at * used)
        path.write_bytes((data[:start] + noise + data[start + len(noise) :])[: len(data)])
        found = _known(path)
        path.unlink()
    assert all(answers[sequence] == answer for (_, sequence), answer in found.items())
    hit = data[:start].count(b"\n"), data[: start + len(noise)].count(b"\n")
    behind = [] if b"\0" in noise else answers[hit[1] + 1 :]
    assert all(found[1, answer.sequence] == answer for answer in answers[: hit[0]] + behind)


@given(data=st.binary(max_size=3_000))
@settings(max_examples=50, deadline=None)
def test_a_file_of_anything_is_no_answer(data: bytes) -> None:
    """It does not keep the line from starting."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "file"
        path.write_bytes(data)
        assert _known(path) == {}
        assert _noted(path, [_late(1, 1)])[1, 1] == _late(1, 1)


def test_cells_of_another_version_are_left_out(tmp_path: Path) -> None:
    """Whole lines that this version cannot read."""
    path = tmp_path / "file"
    _noted(path, [_late(1, 1)])
    for text in (b"[1,2,3]", b"{}", b"7", b"no json", json.dumps(answer_cells(0, Settled(_late(1, 1)))[:-1]).encode()):
        with path.open("r+b") as file:
            file.write(b"%08x %s\n" % (zlib.crc32(text), text))
        assert _known(path) == {}


def test_the_layout_with_slots_is_still_read(tmp_path: Path) -> None:
    """An upgrade after kill -9 loses nothing either: slots of CRC, length and text, one of them torn."""
    path = tmp_path / "file"
    slots = []
    for sequence in range(1, 513):
        text = json.dumps(answer_cells(0, Settled(_late(3, sequence))), separators=(",", ":")).encode()
        slots.append(
            (zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little") + text).ljust(1024, b"\0")
        )
    slots[99] = slots[99][:100] + b"?" + slots[99][101:]
    path.write_bytes(b"".join(slots))
    file = Unbooked(path, FEW_BYTES)
    found = file.known()
    assert found == {(3, sequence): _late(3, sequence) for sequence in range(1, 513) if sequence != 100}
    file.forget()
    file.note(_late(4, 1))
    assert file.known() == {(4, 1): _late(4, 1)}
    file.close()


# -- the disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    mounted = []

    def make(size_mb: int) -> Path:
        folder = tmp_path / "small"
        if not mount_small_disk(folder, size_mb=size_mb):
            pytest.skip("a small disk cannot be mounted here")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        unmount(folder)


def test_a_small_disk_is_not_eaten(small_disk: Callable[[int], Path]) -> None:
    """The least on a tiny one, a sixteenth of a small one; on a full one it is told and nothing is kept of it."""
    folder = small_disk(2)
    Unbooked(folder / "file", MOST_BYTES).close()
    assert _blocks(folder / "file") == LEAST_BYTES
    (folder / "file").unlink()
    Filler(folder).leave(200_000)
    with pytest.raises(OSError) as caught:
        Unbooked(folder / "file", MOST_BYTES)
    assert caught.value.errno == errno.ENOSPC
    assert _blocks(folder / "file") == 0


def test_notes_on_a_full_disk_have_their_room_already(small_disk: Callable[[int], Path]) -> None:
    """All of it can be written, more than once round, though the disk has not a block left; the file stays as it is,
    and grows at a start when there is room again, with what it held."""
    folder = small_disk(64)
    path, filler = folder / "file", Filler(folder)
    Unbooked(path, FEW_BYTES).close()
    filler.leave(0)
    file = Unbooked(path, MOST_BYTES)
    for sequence in range(1, 20_001):
        file.note(_long(sequence))
    file.close()
    assert _blocks(path) == FEW_BYTES
    found = _known(path)
    assert len(found) > 6_000
    assert min(sequence for _, sequence in found) == 20_001 - len(found)
    filler.gone()
    assert _known(path, MOST_BYTES) == found
    assert FEW_BYTES < _blocks(path) < 5 << 20


def test_a_hole_is_filled_or_told(small_disk: Callable[[int], Path]) -> None:
    """A copy of the state directory may have turned zeros into holes; a note into one would end the process."""
    folder = small_disk(2)
    path, filler = folder / "file", Filler(folder)
    path.touch()
    os.truncate(path, 1 << 20)
    filler.leave(700_000)
    file = Unbooked(path, MOST_BYTES)
    filler.leave(0)
    for sequence in range(1, 5_000):
        file.note(_long(sequence))
    assert len(file.known()) > 1_000
    file.close()
    path.unlink()
    path.touch()
    filler.leave(0)
    os.truncate(path, 1 << 20)
    with pytest.raises(OSError):
        Unbooked(path, MOST_BYTES)


def test_a_growth_that_the_disk_refuses_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota, say, where the disk itself has room."""
    path = tmp_path / "file"
    found = _noted(path, [_late(1, 1)])
    take = os.posix_fallocate

    def refuse(descriptor: int, at: int, size: int) -> None:
        take(descriptor, at, size)  # some of it was there
        if size > LEAST_BYTES:
            raise OSError(errno.EDQUOT, "quota")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert _known(path, MOST_BYTES) == found
    assert path.stat().st_size == LEAST_BYTES


# -- in the ledger -----------------------------------------------------------------------------------------------------


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


def test_a_recovery_that_the_disk_refuses_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told is known until it is booked."""
    book = _killed_after(tmp_path, _late(0, 1), None)

    def refuse(rows: object) -> None:
        raise LedgerError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(book, "write", refuse)
        with pytest.raises(LedgerError):
            book.recover(1_000)
    assert list(book.unbooked.known()) == [(1, 1)]
    assert [answer.reason for answer in book.recover(1_000).restarted] == [Reason.LATE]
    assert book.unbooked.known() == {}
    book.close()


def test_a_book_that_keeps_reserves_keeps_room_for_a_long_outage(tmp_path: Path) -> None:
    """24 MB beside a ballast, 2 MB without."""
    for ballast_bytes, room_bytes in ((4 << 20, MOST_BYTES), (0, FEW_BYTES)):
        path = tmp_path / f"{ballast_bytes}.db"
        book = Book(path, clock=SystemClock(), ballast_bytes=ballast_bytes)
        book.open()
        book.close()
        file = path.with_name(f"{path.name}.unbooked")
        assert _blocks(file) >= room_bytes
        file.unlink()
