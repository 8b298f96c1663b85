"""From settings to a camera."""

from __future__ import annotations

from inspector.camera import Camera
from inspector.clock import Clock
from inspector.sections import CameraSettings

Window = tuple[int, int, int, int]


def make_camera(settings: CameraSettings, *, clock: Clock, window: Window | None, count: int | None = None) -> Camera:
    """The camera of this kind. ``window``: x, y, width, height that acquisition crops; None = the whole frame."""
    if settings.kind == "synthetic":
        from inspector.camera.synthetic import SyntheticCamera

        return SyntheticCamera(
            seed=settings.seed,
            rate_hz=settings.rate_hz,
            count=count,
            distinct=settings.distinct,
            window=window,
            clock=clock,
        )
    if settings.kind == "folder":
        from inspector.camera.folder import FolderCamera

        return FolderCamera(
            settings.folder,
            layout=settings.layout,
            rate_hz=settings.rate_hz,
            loop=settings.loop,
            window=window,
            limit=count,
            clock=clock,
        )
    from inspector.camera.genicam import GenicamCamera

    return GenicamCamera(
        producers=list(settings.producers),
        serial=settings.serial,
        model=settings.model,
        user_name=settings.user_name,
        features=list(settings.features),
        buffers=settings.buffers,
        window=window,
        frame_id_bits=settings.frame_id_bits,
        clock=clock,
    )
