"""Answers that leave before their row is booked, kept in a mapped file that outlives kill -9.

An INVALID at its due time waits for no commit. Killed in between, the next run would find its number undecided and tell
the controller something else. So it is written here first (microseconds), and a restart books what was sent.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from pathlib import Path

from inspector.frame import Answer, Settled
from inspector.ledger.rows import answer_cells, answer_of

_SLOTS, _SLOT_BYTES = 512, 1024
"""More than a line can owe its ledger at once: 512 answers are 5 s at 100 parts a second, and rows are retried."""
_HEAD = 8  # CRC and length, four bytes each


class Unbooked:
    """A ring of the last answers sent unbooked. One thread notes (the answering one); read before it starts."""

    def __init__(self, path: Path) -> None:
        """Maps ``path``, keeping what an earlier run left in it. Raises OSError."""
        size = _SLOTS * _SLOT_BYTES
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            if os.fstat(descriptor).st_size != size:
                # Written out, not just extended: a hole could not be filled later on a full disk (SIGBUS).
                os.pwrite(descriptor, bytes(size), 0)
                os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._next = 0

    def note(self, answer: Answer) -> None:
        """Write it down; one too long for a slot is left out and comes back as RESTARTED."""
        data = json.dumps(answer_cells(0, Settled(answer)), separators=(",", ":")).encode()
        if self._map.closed or len(data) > _SLOT_BYTES - _HEAD:
            return
        at = self._next * _SLOT_BYTES
        self._next = (self._next + 1) % _SLOTS
        head = zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
        self._map[at : at + _HEAD + len(data)] = head + data

    def known(self) -> dict[tuple[int, int], Answer]:
        """What is written, by (epoch, sequence). A torn slot is left out."""
        found: dict[tuple[int, int], Answer] = {}
        for at in range(0, _SLOTS * _SLOT_BYTES, _SLOT_BYTES):
            crc, length = (int.from_bytes(self._map[at + i : at + i + 4], "little") for i in (0, 4))
            data = self._map[at + _HEAD : at + _HEAD + min(length, _SLOT_BYTES - _HEAD)]
            if length and zlib.crc32(data) == crc:
                answer = answer_of(tuple(json.loads(data)))
                found[answer.epoch, answer.sequence] = answer
        return found

    def close(self) -> None:
        """Idempotent."""
        self._map.close()
