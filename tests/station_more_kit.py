"""Stations for tests that count: time for every part however slow the machine is, and waiting for events."""

from __future__ import annotations

import threading
from typing import Any

from inspector.camera import Camera, CameraStatistics
from inspector.clock import SystemClock
from inspector.config import Settings
from inspector.frame import Frame, Missed
from tests.station_kit import Running, running

PATIENCE_S = 60.0
"""Far beyond what anything here takes; only a hang reaches it."""
AMPLE = {"gate_ms": 20_000.0, "queue": 256}
"""The table ``timing`` where no part may be late or displaced because a machine stood still for a moment."""


class Counted:
    """A camera that takes so many frames and then waits, so that what follows the last answer can be awaited too."""

    exhausted = False

    def __init__(self, camera: Camera, frames: int) -> None:
        self._camera, self._left, self._never = camera, frames, threading.Event()

    @property
    def name(self) -> str:
        return self._camera.name

    def open(self) -> None:
        self._camera.open()

    def next(self, timeout_s: float) -> Frame | Missed | None:
        if not self._left:
            self._never.wait(timeout_s)
            return None
        arrived = self._camera.next(timeout_s)
        self._left -= arrived is not None
        return arrived

    def close(self) -> None:
        self._camera.close()

    def statistics(self) -> CameraStatistics:
        return self._camera.statistics()


class Journal:
    """Remembers a station's events, and lets a test wait for one."""

    def __init__(self) -> None:
        self._came = threading.Condition()
        self.events: list[str] = []
        self.faults: list[str] = []

    def tell(self, event: str, **fields: object) -> None:
        with self._came:
            self.events.append(event)
            self.faults.append(str(fields.get("fault", "")))
            self._came.notify_all()

    debug = info = warning = error = tell

    def wait_for(self, event: str) -> None:
        with self._came:
            assert self._came.wait_for(lambda: event in self.events, PATIENCE_S), self.events


def until(holds: Any) -> None:
    """For what has no event of its own."""
    clock, beat = SystemClock(), threading.Event()
    limit_ns = clock.now_ns() + int(PATIENCE_S * 1e9)
    while not holds():
        assert clock.now_ns() < limit_ns, "it never came"
        beat.wait(0.02)


def finish_acknowledged(wanted: Settings, parts: int, **hooks: Any) -> Running:
    """Run so many parts until each one's answer is acknowledged, then stop."""
    with running(wanted, wrap_camera=lambda camera: Counted(camera, parts), **hooks) as seen:
        if seen.error is None:
            seen.wait_for(lambda arrivals: len(arrivals) >= parts, PATIENCE_S)
            until(lambda: seen.station.rooms.link.statistics().acknowledged >= parts)
    if seen.error is not None:
        raise seen.error
    return seen
