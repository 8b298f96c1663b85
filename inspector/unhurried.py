"""A stream whose writer never waits for the one behind it.

Whoever reads standard error may stand still: a pipe that is full, a terminal that is held.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import threading
from typing import TextIO

from inspector.flow import Channel

_LINES = 10_000
"""Lines that may wait for the reader; beyond them the oldest are given up and counted."""
_PATIENCE_S = 1.0


class Unhurried(io.TextIOBase):
    """Lines go into a queue, and a thread of its own writes them. ``sink`` None: nobody reads."""

    def __init__(self, sink: TextIO | None) -> None:
        super().__init__()
        self._sink, self._fd = sink, -1
        with contextlib.suppress(OSError):  # a stream in memory has none
            self._fd = -1 if sink is None else sink.fileno()
        self._lines: Channel[str] = Channel(_LINES)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Queue it."""
        self._lines.offer(text)
        return len(text)

    def finish(self, patience_s: float = _PATIENCE_S) -> None:
        """Write what waits, as far as the reader takes it in that time; idempotent."""
        self._lines.close()
        self._thread.join(patience_s)

    def _run(self) -> None:
        told = 0
        while (waiting := self._lines.take_all(60.0)) or not self._lines.closed:
            lost = self._lines.statistics().displaced
            if lost > told:
                text = {"event": "journal lines given up: its reader is too slow", "lines": lost - told}
                waiting.insert(0, json.dumps(text | {"level": "warning"}) + "\n")
                told = lost
            self._put("".join(waiting))

    def _put(self, text: str) -> None:
        try:
            if self._fd >= 0:
                _write_all(self._fd, text.encode("utf-8", "backslashreplace"))
            elif self._sink is not None:
                self._sink.write(text)
        except (OSError, ValueError):
            return  # nobody reads any more; the line goes on


def say(text: str, sink: TextIO | None) -> None:
    """The last words of a process, which ends whether they are read or not."""
    stream = Unhurried(sink)
    stream.write(text + "\n")
    stream.finish()


def _write_all(descriptor: int, data: bytes) -> None:
    """Past Python's buffer: its lock would be held while the reader stands still, and at exit."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # somebody who shares it has set it so
            select.select([], [descriptor], [], 60.0)
