"""A camera that somebody looks over the shoulder of: the shadow, the drill's witness."""

from __future__ import annotations

from collections.abc import Callable

from inspector.camera import Camera, CameraStatistics
from inspector.frame import Frame, Missed


class WatchedCamera:
    """The camera as it is; ``seen`` is told of each frame and known loss before the line has it, in its thread."""

    def __init__(self, camera: Camera, seen: Callable[[Frame | Missed], None]) -> None:
        self._camera, self._seen = camera, seen

    @property
    def name(self) -> str:
        return self._camera.name

    @property
    def exhausted(self) -> bool:
        return self._camera.exhausted

    def open(self) -> None:
        self._camera.open()

    def next(self, timeout_s: float) -> Frame | Missed | None:
        arrived = self._camera.next(timeout_s)
        if arrived is not None:
            self._seen(arrived)
        return arrived

    def close(self) -> None:
        self._camera.close()

    def statistics(self) -> CameraStatistics:
        return self._camera.statistics()
