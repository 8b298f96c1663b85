"""Answers that leave before their row is booked, kept in a mapped file that outlives kill -9.

An INVALID at its due time waits for no commit. Killed in between, the next run would find its number undecided and tell
the controller something else. So it is written here first (microseconds), and a restart books what was sent.

One line an answer, from the beginning of the file to its end, then from the beginning again: the last answers of a run
stand there. One that the ledger still owes is overwritten only when more have left since than there is room for, in an
outage that long; such a number without a row is RESTARTED after kill -9, as if nothing had been told.

The file never grows while the line runs: a ledger is out because the disk is full or slow, and the answering thread
can wait for neither. All of its room is taken from the disk when it is opened.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import zlib
from pathlib import Path

from inspector.frame import Answer, Settled
from inspector.ledger.rows import answer_cells, answer_of

MOST_BYTES = 24 << 20
"""65,536 answers of 384 bytes; one has about 280."""
FEW_BYTES = 2 << 20
"""More than 6,000 answers: a full channel of rows, and a batch in hand."""
LEAST_BYTES = 512 << 10
"""More than 1,500 answers, on a disk with hardly any room."""
_SHARE = 16
"""More than the least is taken only up to this part of what the disk has free."""
_LONGEST = 64 << 10
"""One monstrous detail must not push out everything else."""

_SLOTS, _SLOT_BYTES, _SLOT_HEAD = 512, 1024, struct.Struct("<II")
"""The layout before there were lines: slots of CRC, length and text."""

_json = json.JSONEncoder(separators=(",", ":")).encode


class Unbooked:
    """The last answers sent unbooked. One thread notes (the answering one); read, and forget, before it starts."""

    def __init__(self, path: Path, most_bytes: int = FEW_BYTES) -> None:
        """Maps ``path``, keeping what an earlier run left in it. Raises OSError, on a full disk too.

        ``most_bytes``: the room it takes from a disk that has plenty; what an earlier run took stays.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            self._room = _take_room(descriptor, most_bytes)
            self._map = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            self._map.madvise(mmap.MADV_WILLNEED)  # the first note on a page must not wait for the disk to read it
        self._next = 0

    def note(self, answer: Answer) -> None:
        """Write it down; one of monstrous length is left out and comes back as RESTARTED."""
        text = _json(answer_cells(0, Settled(answer))).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        if len(line) > _LONGEST:
            return
        at = self._next if self._next + len(line) <= self._room else 0
        with contextlib.suppress(ValueError):  # closed
            self._map[at : at + len(line)] = line
        self._next = at + len(line)

    def known(self) -> dict[tuple[int, int], Answer]:
        """What is written, by (epoch, sequence). A line that is torn or partly overwritten is left out.

        A power cut may lose a page, and with it what stands behind it.
        """
        found: dict[tuple[int, int], Answer] = {}
        for text in [*self._slots(), *self._lines()]:
            with contextlib.suppress(ValueError, TypeError, KeyError):  # whole, but of a version with other cells
                answer = answer_of(tuple(json.loads(text)))
                other = found.get((answer.epoch, answer.sequence), answer)
                found[answer.epoch, answer.sequence] = max(other, answer, key=_told_ns)
        return found

    def forget(self) -> None:
        """Begin anew: what was known has been booked, and would only make the next start longer."""
        used = max(self._used(), LEAST_BYTES)
        self._map[:used] = bytes(used)
        self._next = 0

    def close(self) -> None:
        """Idempotent."""
        self._map.close()

    def _used(self) -> int:
        """Lines hold no zero byte, and stand one behind the other: the first zero ends them."""
        end = self._map.find(b"\0", 0)
        return len(self._map) if end < 0 else end

    def _lines(self) -> list[bytes]:
        parted = [line.partition(b" ") for line in self._map[: self._used()].split(b"\n")]
        return [text for crc, _, text in parted if crc == b"%08x" % zlib.crc32(text)]

    def _slots(self) -> list[bytes]:
        found = []
        for at in range(0, _SLOTS * _SLOT_BYTES, _SLOT_BYTES):
            crc, length = _SLOT_HEAD.unpack_from(self._map, at)
            start = at + _SLOT_HEAD.size
            text = self._map[start : start + min(length, _SLOT_BYTES - _SLOT_HEAD.size)]
            if text and len(text) == length and zlib.crc32(text) == crc:
                found.append(text)
        return found


def _take_room(descriptor: int, most_bytes: int) -> int:
    """How much of the file stands on real blocks: a hole could not be filled later on a full disk (SIGBUS)."""
    had = os.fstat(descriptor).st_size
    disk = os.fstatvfs(descriptor)
    wanted = min(most_bytes, disk.f_bavail * disk.f_frsize // _SHARE)
    refused = OSError()
    # The last one is for a file with holes, as a copy may have.
    for size in (max(had, wanted, LEAST_BYTES), max(had, LEAST_BYTES), LEAST_BYTES):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            refused = error
            os.ftruncate(descriptor, had)  # what it did get is given back
        else:
            return size
    raise refused


def _told_ns(answer: Answer) -> int:
    return answer.settled_ns
