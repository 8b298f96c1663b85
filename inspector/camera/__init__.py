"""Cameras: what the line needs of one, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from inspector.frame import Frame, Missed


@dataclass(frozen=True, slots=True)
class CameraStatistics:
    """Counts since ``open``; losses are counted from frame ids, never guessed."""

    frames: int = 0
    missed: int = 0
    incomplete: int = 0
    reconnects: int = 0
    connected: bool = False
    producer_underruns: int = 0
    overruns: int = 0
    """Complete frames given up because the line was behind; counted in ``missed`` too."""
    resyncs: int = 0
    """Times the frame ids could not be followed and the count started anew."""


class Camera(Protocol):
    """Delivers frames in order. One thread opens, reads and closes it."""

    @property
    def name(self) -> str:
        """Kind, model and serial, for the journal."""

    @property
    def exhausted(self) -> bool:
        """True when no further frame will ever come (a folder's end, a count reached)."""

    def open(self) -> None:
        """Make ready and start. Raises CameraError (exit 3) or ConfigError (exit 2)."""

    def next(self, timeout_s: float) -> Frame | Missed | None:
        """The next frame or known loss; None when nothing came within ``timeout_s``.

        A lost camera is not an error of this call: it reconnects by itself, returns None meanwhile,
        and ``statistics().connected`` tells."""

    def close(self) -> None:
        """Stop and release; idempotent, never raises."""

    def statistics(self) -> CameraStatistics:
        """A snapshot; callable from any thread."""
