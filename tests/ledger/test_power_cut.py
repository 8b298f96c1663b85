"""Simulated power cuts: what was not synced may be lost or torn in any way; what the watermark covers may not."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from ledger_parts import make_part

from inspector.clock import PushedClock
from inspector.ledger import book as book_module
from inspector.ledger.audit import verify
from inspector.ledger.book import Book
from inspector.ledger.query import show

SECTOR = 512


class Disk(apsw.VFS):
    """Remembers, per file, what is surely on the disk and what has been written since."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.synced: dict[str, bytes] = {}
        self.pending: dict[str, list[tuple[int, bytes | None]]] = {}
        super().__init__(name, "")

    def xOpen(self, name: object, flags: list[int]) -> DiskFile:
        file = DiskFile("", name, flags)
        file.disk = self
        file.name = Path(name.filename()).name if isinstance(name, apsw.URIFilename) else Path(str(name)).name
        return file

    def settle(self, folder: Path) -> None:
        """From here on cuts are simulated; what stands now is on the disk."""
        self.synced = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.pending = {}

    def sync(self, name: str) -> None:
        self.synced[name] = apply(self.synced.get(name, b""), self.pending.pop(name, []))

    def cut(self, folder: Path, target: Path, dice: random.Random) -> None:
        """What the disk holds after the lights go out: each unsynced write whole, in part, or not at all."""
        target.mkdir()
        for name in {*self.synced, *self.pending}:
            if name.endswith(("-shm", ".lock")):
                continue
            survived = [
                (offset, torn(data, dice)) for offset, data in self.pending.get(name, []) if dice.random() < 0.6
            ]
            (target / name).write_bytes(apply(self.synced.get(name, b""), survived))
        if dice.random() < 0.5:
            (target / "ledger.db.marks").write_bytes((folder / "ledger.db.marks").read_bytes())


class DiskFile(apsw.VFSFile):
    disk: Disk
    name: str

    def xWrite(self, data: bytes, offset: int) -> None:
        self.disk.pending.setdefault(self.name, []).append((offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        self.disk.pending.setdefault(self.name, []).append((size, None))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        self.disk.sync(self.name)
        super().xSync(flags)


def torn(data: bytes | None, dice: random.Random) -> bytes | None:
    """Sometimes only the first sectors of a write."""
    if data is None or dice.random() < 0.7:
        return data
    return data[: dice.randrange(0, len(data) + 1, SECTOR)]


def apply(content: bytes, writes: list[tuple[int, bytes | None]]) -> bytes:
    out = bytearray(content)
    for offset, data in writes:
        if data is None:
            del out[offset:]
            continue
        if len(out) < offset:
            out += bytes(offset - len(out))
        out[offset : offset + len(data)] = data
    return bytes(out)


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    made = Disk(f"disk-{request.node.name}")
    yield made
    made.unregister()


@pytest.mark.parametrize("seed", range(6))
def test_a_power_cut_loses_nothing_at_or_below_the_watermark(
    tmp_path: Path, clock: PushedClock, disk: Disk, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Rows up to ``durable`` are there as they were, the rest is a prefix, the loss is booked, nothing is damaged."""
    dice = random.Random(seed)
    folder = tmp_path / "live"
    book = Book(folder / "ledger.db", clock=clock, ballast_bytes=0, vfs=disk.name)
    book.open()
    disk.settle(folder)
    monkeypatch.setattr(book_module.os, "fdatasync", lambda _: disk.sync("ledger.db-wal"))
    number = 0
    for cut in range(12):
        for _ in range(dice.randrange(1, 30)):
            count = dice.choice((1, 1, 2, 9))
            for each in range(number + 1, number + count + 1):
                book.mark_opened(each)
            book.write([make_part(1, each) for each in range(number + 1, number + count + 1)])
            number += count
            if dice.random() < 0.2:
                book.sync()
            if dice.random() < 0.05:
                book.checkpoint()
        after = tmp_path / f"after-{cut}"
        disk.cut(folder, after, dice)
        check_after_cut(after, clock, durable=book.durable, monkeypatch=monkeypatch)
    book.close()


def check_after_cut(folder: Path, clock: PushedClock, *, durable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "ledger.db"
    real = os.fdatasync
    with monkeypatch.context() as patch:
        patch.setattr(book_module, "boot_id", lambda: "after the power cut")
        patch.setattr(book_module.os, "fdatasync", real)
        book = Book(path, clock=clock, ballast_bytes=0)
        book.open()
        assert {note.kind for note in book.notes} <= {"lost"}
        recovery = book.recover(0)
        book.close()
    assert recovery.restarted == recovery.resend == ()
    assert recovery.gaps
    assert recovery.gaps[-1].last == 0
    stored = [record.settled for record in reversed(show(path, limit=-1))]
    assert len(stored) >= durable
    assert stored == [make_part(1, each) for each in range(1, len(stored) + 1)]
    assert verify(path).ok


def test_full_sync_loses_nothing_at_all(tmp_path: Path, clock: PushedClock, disk: Disk) -> None:
    """With sync=full every answered row survives every cut."""
    dice = random.Random(1)
    folder = tmp_path / "live"
    book = Book(folder / "ledger.db", clock=clock, ballast_bytes=0, vfs=disk.name, sync="full")
    book.open()
    disk.settle(folder)
    for number in range(1, 40):
        book.write([make_part(1, number)])
        if number % 10 == 0:
            after = tmp_path / f"after-{number}"
            disk.cut(folder, after, dice)
            assert book.durable == number
            assert len(show(after / "ledger.db", limit=-1)) == number
    book.close()
