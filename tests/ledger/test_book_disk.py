"""A disk that is full or fails under the ledger: nothing half written, and the book comes back with the room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from ledger_parts import Kill, Make, Open, breaks, rows_of

from inspector.clock import PushedClock
from inspector.drill.disk import Filler, mount_small_disk, unmount
from inspector.errors import LedgerError
from inspector.ledger.book import Book
from inspector.ledger.query import show


class FailingFile(apsw.VFSFile):
    def xWrite(self, data: bytes, offset: int) -> None:
        self.disk.before_write()
        super().xWrite(data, offset)


class FailingDisk(apsw.VFS):
    """A disk whose n-th write fails, once or from then on."""

    def __init__(self) -> None:
        self.name = "failing-disk"
        self.left: int | None = None
        self.error: type[Exception] = apsw.FullError
        self.for_ever = True
        super().__init__(self.name, "")

    def xOpen(self, name: object, flags: list[int]) -> FailingFile:
        file = FailingFile("", name, flags)
        file.disk = self
        return file

    def before_write(self) -> None:
        if self.left is None:
            return
        if self.left == 0:
            if not self.for_ever:
                self.left = None
            raise self.error("no space")
        self.left -= 1


@pytest.fixture
def disk() -> Iterator[FailingDisk]:
    vfs = FailingDisk()
    yield vfs
    vfs.unregister()


@pytest.mark.parametrize("for_ever", [True, False])
def test_a_disk_that_fills_at_any_write_leaves_nothing_half_written(
    open_book: Open, path: Path, part: Make, disk: FailingDisk, for_ever: bool
) -> None:
    """Fail the n-th write, n = 0, 1, ... until a clean run: refused whole, said as full, and the retry goes through."""
    book = open_book(vfs=disk.name)
    disk.for_ever = for_ever
    number, failures = 1, 0
    for nth in range(100):
        batch = [part(1, n) for n in range(number, number + 20)]
        disk.left = nth
        try:
            book.write(batch)
        except LedgerError as error:
            failures += 1
            assert error.full
            disk.left = None
            assert len(rows_of(path, "answers")) == number - 1
            book.write(batch)
            number += 20
        else:
            disk.left = None
            break
    assert failures >= 3
    assert breaks(path) == []
    book.close()
    assert open_book().notes == ()


def test_an_io_error_closes_the_book_until_it_is_opened_anew(
    open_book: Open, path: Path, part: Make, disk: FailingDisk, kill: Kill
) -> None:
    """An I/O error that is not a full disk is never retried into the same file."""
    book = open_book(vfs=disk.name)
    book.write([part(1, 1)])
    disk.error, disk.left, disk.for_ever = apsw.IOError, 0, False
    with pytest.raises(LedgerError) as caught:
        book.write([part(1, 2)])
    assert not caught.value.full
    with pytest.raises(LedgerError, match="after a fault"):
        book.write([part(1, 2)])
    kill(book)
    assert open_book().epoch == 2
    assert len(rows_of(path, "answers")) == 1


def test_a_full_disk_gives_way_when_the_ballast_is_freed(tmp_path: Path, clock: PushedClock, part: Make) -> None:
    """On a really full file system: refused as full, earlier rows readable, room from the ballast, nothing damaged."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(small)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        book = Book(small / "ledger.db", clock=clock, ballast_bytes=512 << 10)
        book.open()
        number = 1
        with pytest.raises(LedgerError) as caught:
            while number < 100_000:
                book.write([part(1, n) for n in range(number, number + 50)])
                number += 50
        assert caught.value.full
        assert len(show(small / "ledger.db", limit=-1)) == number - 1
        assert book.ballast.release()
        book.write([part(1, n) for n in range(number, number + 50)])
        book.close()
        assert breaks(small / "ledger.db") == []
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_the_ballast_comes_back_with_the_room(open_book: Open, path: Path) -> None:
    """A checkpoint restores what an earlier full disk had to free."""
    book = open_book(ballast_bytes=64 << 10)
    ballast = path.with_name("ledger.db.ballast")
    assert ballast.stat().st_size == 64 << 10
    assert book.ballast.release()
    assert not book.ballast.release()
    book.checkpoint()
    assert ballast.stat().st_size == 64 << 10


def test_a_disk_that_is_full_at_the_start_is_told_with_what_to_do(path: Path, clock: PushedClock) -> None:
    """At three in the morning the line says what is wrong and what helps; with room again it opens."""
    folder = path.parent / "small"
    if not mount_small_disk(folder, size_mb=2):
        pytest.skip("a small disk cannot be mounted here")
    filler = Filler(folder)
    try:
        for free_bytes in (0, 4096, 20_000):
            filler.leave(free_bytes)
            with pytest.raises(LedgerError) as caught:
                Book(folder / "ledger.db", clock=clock, ballast_bytes=0).open()
            assert caught.value.full and "Make room" in str(caught.value)
            filler.gone()
        book = Book(folder / "ledger.db", clock=clock, ballast_bytes=0)
        book.open()
        book.close()
    finally:
        unmount(folder)


def test_a_state_directory_that_is_none_is_told(path: Path, clock: PushedClock) -> None:
    """A file where the directory should be; the message names the key of the configuration."""
    path.parent.joinpath("file").write_text("x")
    with pytest.raises(LedgerError, match="state_dir"):
        Book(path.parent / "file" / "ledger.db", clock=clock).open()
