"""A camera that looks at rendered commutator contact pieces. Seeded: the same seed gives the same parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from inspector.camera import CameraStatistics
from inspector.camera.paced import Paced, check_window
from inspector.camera.render import Style, render_part
from inspector.clock import Clock
from inspector.errors import ConfigError
from inspector.frame import Frame, Grey, Missed, Reason

_AHEAD = 3  # +1 next, +2 so that a busy core does not delay the parts after it


@dataclass(frozen=True, slots=True)
class _Shot:
    pixels: Grey
    truth: bool
    full_px: tuple[int, int]


class SyntheticCamera:
    """Frame n shows ``render_part(seed, n)``; its part id is ``S<seed>-<n, six digits>``, its truth is set.

    ``rate_hz``: frames per second on an absolute schedule, 0 = as fast as asked. ``count``: frames in all.
    ``distinct``: cycle through so many parts, rendered by ``open`` (about 5 ms each), for rates above what rendering
    allows; frame n then shows part (n - 1) % distinct + 1; 0 renders each part anew, in a thread that works ahead.
    ``window`` (x, y, width, height): only that part of the frame is delivered, with its origin.
    ``lose_every``: every so many frames one is lost and comes as Missed; 0 = none.
    Raises ConfigError for a window outside the frame or figures below 0.
    """

    def __init__(
        self,
        *,
        seed: int,
        rate_hz: float,
        clock: Clock,
        count: int | None = None,
        style: Style | None = None,
        distinct: int = 0,
        window: tuple[int, int, int, int] | None = None,
        lose_every: int = 0,
    ) -> None:
        if seed < 0 or distinct < 0 or lose_every < 0:
            raise ConfigError(
                "the synthetic camera cannot run so",
                expected="seed, distinct and lose_every of 0 or more",
                found=f"{seed}, {distinct}, {lose_every}",
            )
        self._seed, self._style, self._distinct, self._lose_every = seed, style or Style(), distinct, lose_every
        check_window(window, *self._style.frame_px, "the synthetic frame")
        self._window = window or (0, 0, *self._style.frame_px)
        self._shots: list[_Shot] = []
        self._paced = Paced(self._shot, rate_hz=rate_hz, clock=clock, ahead=0 if distinct else _AHEAD, last=count)
        self._statistics = CameraStatistics()

    @property
    def name(self) -> str:
        return f"synthetic commutator seed {self._seed}"

    @property
    def exhausted(self) -> bool:
        return self._paced.exhausted

    def open(self) -> None:
        """Renders the ``distinct`` parts, where asked for, and starts; the schedule begins with the first ``next``."""
        if not self._shots:
            self._shots = [self._render(index + 1) for index in range(self._distinct)]
        self._paced.open()
        self._statistics = CameraStatistics(connected=True)

    def next(self, timeout_s: float) -> Frame | Missed | None:
        arrival = self._paced.next(timeout_s)
        if arrival is None:
            return None
        number, shot, at_ns = arrival.number, arrival.item, arrival.available_ns
        part_id = f"S{self._seed}-{number:06d}"
        seen = self._statistics
        if self._lose_every and number % self._lose_every == 0:
            self._statistics = replace(seen, missed=seen.missed + 1)
            return Missed(number, at_ns, Reason.MISSED, part_id, shot.truth)
        self._statistics = replace(seen, frames=seen.frames + 1)
        # A part that comes round again is copied: a frame owns its pixels.
        pixels = shot.pixels.copy() if self._shots else shot.pixels
        return Frame(number, pixels, at_ns, self._window[:2], shot.full_px, part_id=part_id, truth=shot.truth)

    def close(self) -> None:
        self._paced.close()
        self._statistics = replace(self._statistics, connected=False)

    def statistics(self) -> CameraStatistics:
        return self._statistics

    def _shot(self, number: int) -> _Shot:
        return self._shots[(number - 1) % self._distinct] if self._shots else self._render(number)

    def _render(self, index: int) -> _Shot:
        part = render_part(self._seed, index, style=self._style)
        x, y, w, h = self._window
        high, wide = part.image.shape
        return _Shot(np.ascontiguousarray(part.image[y : y + h, x : x + w]), part.defective, (wide, high))
