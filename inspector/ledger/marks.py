"""Two high-water marks in a small mapped file beside the ledger: the last number opened, the last row committed.

A store into a shared mapping outlives kill -9 and costs a microsecond, so the acquiring thread can note every number
before it uses it, and rows that vanish with a deleted or torn WAL are noticed. A power cut may leave old marks.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"inspector marks1"
_SIZE = 4096
_PAIR = struct.Struct("<QQ")
_SLOT = struct.Struct("<QQI")
_OPENED = (64, 128)
_COMMITTED = (192, 256)


@dataclass(frozen=True, slots=True)
class Marks:
    """What the file said; epoch 0 where it said nothing."""

    opened_epoch: int = 0
    opened: int = 0
    """Last number opened in ``opened_epoch``."""
    committed_epoch: int = 0
    committed: int = 0
    """Link of the last row that was committed."""


def read_marks(path: Path) -> Marks:
    """The marks on disk; all zero when the file is missing or is none of ours."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Marks()
    if len(data) != _SIZE or not data.startswith(_MAGIC):
        return Marks()
    return Marks(*_newest(data, _OPENED), *_newest(data, _COMMITTED))


class MarksFile:
    """Writes the marks. Each mark has one writing thread; two slots in turn, so that a torn store hits only one."""

    def __init__(self, path: Path) -> None:
        """Maps ``path``, made or made anew where it is missing or damaged. Raises OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            data = os.read(descriptor, _SIZE + 1)
            if len(data) != _SIZE or not data.startswith(_MAGIC):
                # Written out, not just extended: a hole could not be filled later on a full disk (SIGBUS).
                os.pwrite(descriptor, _MAGIC.ljust(_SIZE, b"\0"), 0)
                os.ftruncate(descriptor, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._opened_turn = self._committed_turn = 0

    def opened(self, epoch: int, sequence: int) -> None:
        """Note the last number opened."""
        self._opened_turn ^= 1
        self._store(_OPENED[self._opened_turn], epoch, sequence)

    def committed(self, epoch: int, link: int) -> None:
        """Note the last row committed."""
        self._committed_turn ^= 1
        self._store(_COMMITTED[self._committed_turn], epoch, link)

    def restart(self, epoch: int, link: int) -> None:
        """A new epoch: nothing opened yet. Both slots, because a file set aside may have had higher links."""
        for offset in _OPENED:
            self._store(offset, epoch, 0)
        for offset in _COMMITTED:
            self._store(offset, epoch, link)
        self._map.flush()

    def close(self) -> None:
        self._map.close()

    def _store(self, offset: int, epoch: int, value: int) -> None:
        pair = _PAIR.pack(epoch, value)
        self._map[offset : offset + _SLOT.size] = pair + zlib.crc32(pair).to_bytes(4, "little")


def _newest(data: bytes, offsets: tuple[int, int]) -> tuple[int, int]:
    best = (0, 0)
    for offset in offsets:
        epoch, value, crc = _SLOT.unpack_from(data, offset)
        if zlib.crc32(data[offset : offset + _PAIR.size]) == crc:
            best = max(best, (epoch, value))
    return best
