"""What the tests of the GenICam camera share: the drill's own producer under a control page, and waiting for frames."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inspector.camera.genicam import GenicamCamera
from inspector.clock import SystemClock
from inspector.drill.producer import ProducerControl
from inspector.frame import Frame, Missed

WIDTH, HEIGHT = 320, 240
PATIENCE_S = 30.0
"""Far beyond what anything here takes; only a hang reaches it."""
Item = Frame | Missed


class Bench:
    """The own producer under one control page, and cameras on it."""

    def __init__(self, cti: Path, control: ProducerControl) -> None:
        self.cti, self.control = cti, control
        self.events: list[tuple[str, dict[str, object]]] = []
        self.cameras: list[GenicamCamera] = []

    def tell(self, what: str, details: Mapping[str, object]) -> None:
        self.events.append((what, dict(details)))

    def told(self, what: str) -> list[dict[str, object]]:
        return [details for name, details in self.events if name == what]

    def camera(self, rate_hz: float = 200.0, **settings: Any) -> GenicamCamera:
        # More than a second of buffers: a machine that stands still meanwhile must not look like a fault of ours.
        defaults = {"features": [("AcquisitionFrameRate", rate_hz)], "buffers": 256, "ring_slots": 256}
        settings = defaults | settings
        camera = GenicamCamera(clock=SystemClock(), producers=[self.cti], tell=self.tell, **settings)
        self.cameras.append(camera)
        return camera


def until(camera: GenicamCamera, done: Callable[[list[Item]], bool]) -> list[Item]:
    """What comes until ``done`` holds for it; past PATIENCE_S it fails."""
    clock, items = SystemClock(), list[Item]()
    limit_ns = clock.now_ns() + int(PATIENCE_S * 1e9)
    while not done(items):
        item = camera.next(0.05)
        if item is not None:
            items.append(item)
        assert clock.now_ns() < limit_ns, f"it never happened; {len(items)} items came"
    return items


def watch(done: Callable[[], bool]) -> None:
    """Waits for a count of another process, which wakes nobody; past PATIENCE_S it fails."""
    quiet, clock = threading.Event(), SystemClock()
    limit_ns = clock.now_ns() + int(PATIENCE_S * 1e9)
    while not done():
        assert clock.now_ns() < limit_ns, "it never happened"
        quiet.wait(0.005)


def descriptors() -> int:
    """Open file descriptors of this process, without those that only wait for the collector."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def count(camera: GenicamCamera, number: int) -> list[Item]:
    """The next so many items."""
    return until(camera, lambda items: len(items) >= number)


def pattern(shot: int, window: tuple[int, int, int, int]) -> np.ndarray:
    """What the producer paints without a stamp: (x + y + shot) mod 256."""
    x, y, w, h = window
    return (np.add.outer(np.arange(y, y + h), np.arange(x, x + w)) + shot).astype(np.uint8)


def ids(items: list[Item]) -> list[int]:
    return [item.frame_id for item in items]
