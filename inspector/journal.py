"""The journal: JSON for the service, colour for a terminal; at most one line per part.

Whoever reads it may stand still: a pipe that is full, a terminal that is held. The line's threads never wait for it:
they put their lines into a queue, and a thread of its own writes them.
"""

from __future__ import annotations

import atexit
import io
import json
import logging
import os
import sys
import threading
from typing import Any, TextIO, cast

import structlog

from inspector.engine import EngineInfo
from inspector.flow import Channel
from inspector.frame import Answer, Settled

Log = Any  # structlog's bound logger has no narrower public type

_LINES = 10_000
"""Lines that may wait for the reader; beyond them the oldest are given up and counted."""
_PATIENCE_S = 1.0


class Unhurried(io.TextIOBase):
    """A stream whose ``write`` never waits for the one behind it."""

    def __init__(self, sink: TextIO) -> None:
        super().__init__()
        self._sink = sink
        try:
            self._fd = sink.fileno()
        except (OSError, AttributeError):
            self._fd = -1
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
            if self._fd < 0:
                self._sink.write(text)
                return
            data = text.encode("utf-8", "backslashreplace")
            while data:  # past Python's buffer: its lock would be held while the reader stands still, and at exit
                data = data[os.write(self._fd, data) :]
        except (OSError, ValueError):
            return  # nobody reads any more; the line goes on


_open: Unhurried | None = None


def open_journal(level: str = "info", form: str = "auto", *, unhurried: bool = False) -> Log:
    """Configure and return the logger. ``form``: auto (console on a terminal, else JSON), json, console.

    ``unhurried``: its callers never wait for the reader; ``close_journal`` writes what is left."""
    global _open
    close_journal()
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    if unhurried:
        _open = Unhurried(sys.stderr)
    stream = cast(TextIO, _open or sys.stderr)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    return structlog.get_logger("inspector")


def close_journal() -> None:
    """Write what still waits, for at most a second; idempotent."""
    global _open
    if _open is not None:
        _open.finish()
        _open = None


atexit.register(close_journal)


def tell_engine(log: Log, info: EngineInfo, why: str) -> None:
    """Which plan decides from here on, and why this one."""
    backend = f"{info.backend} {info.backend_version}"
    plan = info.plan_hash[:16]
    log.info(
        "engine", bundle=info.bundle, backend=backend, precision=info.precision, device=info.device, plan=plan, why=why
    )


def tell_part(log: Log, settled: Settled) -> None:
    """The one line of a part."""
    answer = settled.answer
    fields: dict[str, Any] = {"part": answer.part_id, "sequence": answer.sequence, "frame": answer.frame_id}
    fields |= dict(answer.stages_us)
    if answer.defects:
        fields["defects"] = len(answer.defects)
        fields["largest"] = f"{answer.defects[0].shape.value} {answer.defects[0].area_px:.0f} px"
    if answer.verdict.value == "INVALID":
        log.warning("INVALID", reason=_reason(answer), detail=answer.detail, **fields)
    else:
        log.info(answer.verdict.value, **fields)


def _reason(answer: Answer) -> str:
    return answer.reason.value if answer.reason is not None else ""
