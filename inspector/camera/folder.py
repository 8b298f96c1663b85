"""A camera that delivers recorded images, in the order of their ids, at a given rate or as fast as asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from inspector.camera import CameraStatistics
from inspector.camera.paced import Paced, check_window
from inspector.clock import Clock
from inspector.errors import ConfigError
from inspector.frame import Frame, Grey, Missed, Reason
from inspector.layouts import Sample, list_samples, read_grey


@dataclass(frozen=True, slots=True)
class _Picture:
    sample: Sample
    pixels: Grey | None
    fault: str = ""
    full_px: tuple[int, int] | None = None


class FolderCamera:
    """Frame n is the n-th image of ``list_samples(root, layout)``; its part id is the sample's id, with ``#2``, ``#3``
    and so on in later rounds of a ``loop``, and its truth is what the layout or the mask tells.

    An image that cannot be used (truncated, damaged, 16-bit, colour, gone, smaller than ``window``) is a part all the
    same: it comes as Missed with reason BAD_IMAGE, and ``last_fault`` says why in one line. A colour file whose three
    channels are equal is grey and is converted; any other colour is a fault, since the network never saw such grey.
    ``window`` (x, y, width, height) is cut out of each image. ``limit``: frames in all. With a rate, one image is
    decoded ahead in a thread.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        rate_hz: float,
        clock: Clock,
        layout: str = "auto",
        loop: bool = False,
        window: tuple[int, int, int, int] | None = None,
        limit: int | None = None,
    ) -> None:
        self._root, self._layout, self._loop, self._limit = Path(root), layout, loop, limit
        self._rate_hz, self._clock, self._window = rate_hz, clock, window
        self._samples: list[Sample] = []
        self._paced = self._new_schedule(0)
        self._statistics = CameraStatistics()
        self.last_fault = ""
        """Why the latest unusable image could not be used; empty while all were good."""

    @property
    def name(self) -> str:
        return f"folder {self._root}"

    @property
    def exhausted(self) -> bool:
        return bool(self._samples) and self._paced.exhausted

    def open(self) -> None:
        """Lists the images and starts. Raises ConfigError for a missing or empty folder, an unknown layout, masks that
        fit no image, and a window that leaves the first readable image."""
        self._paced.close()
        self._samples = list_samples(self._root, self._layout)
        self._check_window()
        self._paced = self._new_schedule(len(self._samples))
        self._paced.open()
        self._statistics = CameraStatistics(connected=True)

    def next(self, timeout_s: float) -> Frame | Missed | None:
        arrival = self._paced.next(timeout_s)
        if arrival is None:
            return None
        picture, number, at_ns = arrival.item, arrival.number, arrival.available_ns
        sample, seen = picture.sample, self._statistics
        lap = (number - 1) // len(self._samples)
        part_id = f"{sample.id}#{lap + 1}" if lap else sample.id
        if picture.pixels is None:
            self.last_fault = picture.fault
            self._statistics = replace(seen, missed=seen.missed + 1)
            return Missed(number, at_ns, Reason.BAD_IMAGE, part_id, sample.defective, picture.fault)
        self._statistics = replace(seen, frames=seen.frames + 1)
        origin = self._window[:2] if self._window else (0, 0)
        return Frame(number, picture.pixels, at_ns, origin, picture.full_px, part_id=part_id, truth=sample.defective)

    def close(self) -> None:
        self._paced.close()
        self._statistics = replace(self._statistics, connected=False)

    def statistics(self) -> CameraStatistics:
        return self._statistics

    def _new_schedule(self, images: int) -> Paced[_Picture]:
        last = self._limit if self._loop else min(images, self._limit if self._limit is not None else images)
        ahead = 1 if self._rate_hz else 0
        return Paced(self._picture, rate_hz=self._rate_hz, clock=self._clock, ahead=ahead, last=last)

    def _check_window(self) -> None:
        """On the first image that can be read; the others are checked as they come."""
        if self._window is None:
            return
        for sample in self._samples:
            try:
                pixels = read_grey(sample.image)
            except ConfigError:  # told when its turn comes
                continue
            check_window(self._window, pixels.shape[1], pixels.shape[0], f"image {sample.id}")
            return

    def _picture(self, number: int) -> _Picture:
        sample = self._samples[(number - 1) % len(self._samples)]
        try:
            pixels = read_grey(sample.image)
            check_window(self._window, pixels.shape[1], pixels.shape[0], f"image {sample.id}")
        except ConfigError as error:
            return _Picture(sample, None, str(error))
        high, wide = pixels.shape
        if self._window is not None:
            x, y, w, h = self._window
            pixels = np.ascontiguousarray(pixels[y : y + h, x : x + w])
        return _Picture(sample, pixels, full_px=(wide, high))
