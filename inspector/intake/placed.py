"""What came for a part."""

from __future__ import annotations

from dataclasses import dataclass

from inspector.frame import Decision, Entry, Frame, Missed


@dataclass(frozen=True, slots=True)
class Placed:
    """A part, and what came for it: a frame to be inspected, or the reason why it cannot be."""

    entry: Entry
    what: Frame | Decision
    stranger: bool = False
    """Nobody announced this part."""


def when_ns(arrived: Frame | Missed) -> int:
    """When it was there, or when its loss was noticed."""
    return arrived.taken_ns if isinstance(arrived, Frame) else arrived.noticed_ns


def told(missed: Missed) -> str:
    """Why there is no frame, in one line."""
    return f"frame {missed.frame_id}: {missed.detail or missed.reason.value.lower()}"
