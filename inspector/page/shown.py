"""What the templates show, in words and figures. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inspector.frame import Answer, Reason
from inspector.page.following import Row
from inspector.review.records import PartKey

MEANINGS = {
    Reason.LATE: "not decided in time",
    Reason.DROPPED: "displaced by a newer part",
    Reason.MISSED: "triggered, but no frame came",
    Reason.INCOMPLETE: "the camera sent only part of the frame",
    Reason.NOT_LOCATED: "the part was not found in the frame",
    Reason.BAD_IMAGE: "unusable image: blank, saturated or of the wrong size",
    Reason.ENGINE_FAULT: "the engine failed",
    Reason.NOT_FINITE: "the engine returned no numbers",
    Reason.VIEW_MISSING: "one of the views did not come",
    Reason.UNRECORDED: "the ledger did not keep it in time",
    Reason.STOPPED: "still open when the daemon stopped",
    Reason.RESTARTED: "an earlier run ended without deciding it",
}
STATES = {
    "Preoperational": "Starting",
    "Halted": "Halted",
    "Error": "Not inspecting",
    "Initialized": "No engine yet",
    "Ready": "Ready",
    "SingleExecution": "Inspecting",
    "ContinuousExecution": "Inspecting",
    "No answer": "No answer from the daemon",
}
"""The daemon's states in words for the line; the station page has the names of OPC 40100-1."""
SIGNS = {"PASS": "✓", "FAIL": "✕", "INVALID": "!"}
"""Beside the colour, never instead of the word."""


@dataclass(frozen=True, slots=True)
class Found:
    """One defect that counts."""

    shape: str
    zone: str
    size: str
    score: float
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Card:
    """A part on a page."""

    key: str
    part_id: str
    verdict: str
    reason: str
    """INVALID: why, by its name on the wire; else empty."""
    why: str
    """One line for people."""
    rules: tuple[str, ...]
    defects: tuple[Found, ...]
    score: float | None
    review: bool
    wall_ns: int
    margin_ms: float
    spent_ms: float
    gate_ms: float
    """Frame -> due time."""
    stages: tuple[tuple[str, float], ...]
    link: int = 0

    @property
    def sign(self) -> str:
        return SIGNS[self.verdict]

    @property
    def timed(self) -> bool:
        """Whether its times mean anything."""
        return self.reason != Reason.RESTARTED.value


def card_of(answer: Answer) -> Card:
    """A part as it was told to the controller."""
    defects = sorted((one for one in answer.defects if one.counts), key=lambda one: -one.area_px)
    return Card(
        key=key_text(answer.epoch, answer.sequence),
        part_id=answer.part_id,
        verdict=answer.verdict.value,
        reason="" if answer.reason is None else answer.reason.value,
        why=_why(answer),
        rules=answer.rules,
        defects=tuple(
            Found(one.shape.value, one.zone, size(one.area_px, one.area_mm2), one.score_max, one.box) for one in defects
        ),
        score=None if math.isnan(answer.score) else answer.score,
        review=answer.review,
        wall_ns=answer.wall_ns,
        margin_ms=(answer.due_ns - answer.settled_ns) / 1e6,
        spent_ms=(answer.settled_ns - answer.taken_ns) / 1e6,
        gate_ms=(answer.due_ns - answer.taken_ns) / 1e6,
        stages=tuple((name, spent_us / 1000) for name, spent_us in answer.stages_us),
    )


def card_of_row(row: Row) -> Card:
    """The same from a row of the ledger, for lists."""
    reason = row.reason or ""
    largest = row.defects[0] if row.defects else None
    why = MEANINGS[Reason(reason)] if reason else ""
    if largest is not None and not why:
        why = f"{largest['shape']} {size(largest['area_px'], largest['area_mm2'])}"
    return Card(
        key=key_text(row.epoch, row.sequence),
        part_id=row.part_id,
        verdict=row.verdict,
        reason=reason,
        why=why,
        rules=(),
        defects=()
        if reason
        else tuple(
            Found(one["shape"], one["zone"], size(one["area_px"], one["area_mm2"]), one["score_max"], tuple(one["box"]))
            for one in row.defects
        ),
        score=row.score,
        review=row.review,
        wall_ns=row.wall_ns,
        margin_ms=row.margin_us / 1000,
        spent_ms=row.spent_us / 1000,
        gate_ms=(row.margin_us + row.spent_us) / 1000,
        stages=tuple((name, us / 1000) for name, us in row.stages),
        link=row.link,
    )


@dataclass(frozen=True, slots=True)
class Strip:
    """The last parts, oldest first, and their sum."""

    cells: tuple[tuple[str, str], ...]
    """(verdict, key)"""
    passed: int
    failed: int
    invalid: int

    @property
    def yield_(self) -> float | None:
        return self.passed / len(self.cells) if self.cells else None


def strip_of(rows: Iterable[Row]) -> Strip:
    """The strip of the watch page."""
    cells = tuple((row.verdict, key_text(row.epoch, row.sequence)) for row in rows)
    counts = Counter(verdict for verdict, _ in cells)
    return Strip(cells, counts["PASS"], counts["FAIL"], counts["INVALID"])


def key_text(epoch: int, sequence: int) -> str:
    """``000001-000000042``: how a part is named in addresses."""
    return PartKey("", epoch, sequence).text


def size(area_px: float, area_mm2: float | None) -> str:
    """An area for people."""
    return f"{area_px:.0f} px" if area_mm2 is None else f"{area_mm2:.2f} mm²"


def moment(wall_ns: int) -> str:
    """The station's own time of day, with its date where a list may span days: ``22 Nov 10:15:00``."""
    return f"{datetime.fromtimestamp(wall_ns // 1_000_000_000).astimezone():%d %b %H:%M:%S}"


def iso(wall_ns: int) -> str:
    """For machines: ``2026-11-22T10:15:00+01:00``."""
    return datetime.fromtimestamp(wall_ns // 1_000_000_000).astimezone().isoformat()


def percent(share: float | None) -> str:
    """``97.2 %``; a dash where there is nothing to divide by. Never rounded up to a hundred."""
    if share is None:
        return "–"
    shown = math.floor(share * 1000 + 1e-9) / 10 if share < 1 else 100.0
    return f"{shown:.1f} %" if share < 1 else "100 %"


def small_share(share: float | None) -> str:
    """A rate that matters by its size: ``0.35 %``, ``12 %``; rounded up, since it is a bound."""
    if share is None:
        return "–"
    return _share(share, math.ceil)


def least_share(share: float | None) -> str:
    """The same of a lower bound: rounded down."""
    return "–" if share is None else _share(share, math.floor)


def _share(share: float, rounded: Callable[[float], int]) -> str:
    value = share * 100
    if value == 0:
        return "0 %"
    digits = 0 if value >= 10 else 1 if value >= 1 else 2 if value >= 0.01 else 4
    return f"{rounded(round(value * 10**digits, 6)) / 10**digits:.{digits}f} %"


def span(seconds: float) -> str:
    """``12 s``, ``3 min``, ``5 h 20 min``, ``3 d``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def milliseconds(value: float | None) -> str:
    """``12 ms`` or ``1.4 ms``; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.0f} ms" if abs(value) >= 10 else f"{value:.1f} ms"


def count(number: int | None) -> str:
    """``1 234 567`` with narrow spaces; a dash where it is not known."""
    return "–" if number is None else f"{number:,}".replace(",", "\u202f")


FILTERS: dict[str, Any] = {
    "moment": moment,
    "iso": iso,
    "percent": percent,
    "small_share": small_share,
    "least_share": least_share,
    "span": span,
    "ms": milliseconds,
    "count": count,
}
"""What templates may apply."""


def _why(answer: Answer) -> str:
    if answer.reason is not None:
        return answer.detail or MEANINGS[answer.reason]
    if answer.rules:
        more = len(answer.rules) - 1
        return answer.rules[0] + (f", and {more} more" if more else "")
    return "nothing found" if not answer.defects else "what was found is within the limits"
