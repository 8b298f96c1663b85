"""The journal: JSON for the service, colour for a terminal; at most one line per part."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from pathlib import Path
from typing import Any, TextIO, cast

import structlog

from inspector import native
from inspector.engine import EngineInfo
from inspector.frame import Answer, Settled
from inspector.unhurried import Unhurried

Log = Any  # structlog's bound logger has no narrower public type

_open: Unhurried | None = None


def open_journal(level: str = "info", form: str = "auto", *, unhurried: bool = False) -> Log:
    """Configure and return the logger. ``form``: auto (console on a terminal, else JSON), json, console.

    ``unhurried``: its callers never wait for the reader; ``close_journal`` writes what is left."""
    global _open
    close_journal()
    stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - it was closed
    console = form == "console" or (form == "auto" and stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    if unhurried:
        _open = Unhurried(stderr)
    stream = cast(TextIO, _open or stderr)
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
    """Which plan decides from here on, why this one, and whether native functions prepare and decide around it."""
    backend, plan = f"{info.backend} {info.backend_version}", info.plan_hash[:16]
    told = {"bundle": info.bundle, "backend": backend, "precision": info.precision, "device": info.device, "plan": plan}
    log.info("engine", **told, code=native.word(), why=why)


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
