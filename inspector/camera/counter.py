"""Frame ids to gaps: the only proof of "no frame lost" is a counter without holes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_STANDS_STILL = 3
"""So many repeats of one id in a row mean that the counter does not count."""
_LATE_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Step:
    """What one id from the camera means."""

    frame_id: int | None
    """Unwrapped, rising by one per frame and per reported loss; None = this frame was dealt with before."""
    lost: range
    """Unwrapped ids that were lost just before it."""
    note: str = ""
    """One line for the journal where the counter did something it should not."""


class FrameCounter:
    """Unwraps a camera's frame ids and finds what is missing.

    ``bits`` 16 is GigE Vision 1.x: 65535 is followed by 1, unless a 0 is seen, which proves that this camera counts
    from 0; 32 and 64 wrap to 0. A forward jump over more than ``max_gap`` ids is not believed: the count starts anew
    there (resync), noted and counted, as it does for an id that runs backward (the camera restarted its counter). An
    id that comes late although it was reported lost is not a new frame. Nor is one that repeats, once ids were seen to
    advance: before, every frame passes, noted, since a camera may not count at all. Three repeats in a row show that
    it does not; from then on, over restarts too, every frame passes, and losses cannot be seen. Where ids had advanced
    before, the two frames held back until then are reported lost: an INVALID too many rather than a part without an
    answer."""

    def __init__(self, bits: int = 64, max_gap: int = 1000) -> None:
        if bits not in (16, 32, 64):
            raise ValueError(f"frame ids have 16, 32 or 64 bits, not {bits}")
        if not 1 <= max_gap < 32000:
            raise ValueError(f"max_gap lies in 1..31999, not {max_gap}")
        self._period = 65535 if bits == 16 else 1 << bits
        self._short = bits == 16
        self._max_gap = max_gap
        self._raw: int | None = None
        self._id: int | None = None
        self._repeats = 0
        self._counts: bool | None = None
        """Whether ids advance; None = not seen yet."""
        self._lost: deque[int] = deque(maxlen=_LATE_REMEMBERED)
        self.resyncs = 0
        """Times the count started anew without a restart of the camera."""
        self.repeated = 0
        """Frames not passed on because their id was dealt with before."""
        self.unreported = 0
        """Ids jumped over at resyncs; an upper bound of frames lost without a Missed of their own."""

    def restart(self) -> None:
        """The camera starts anew: its next id may be any, our numbers go on."""
        self._raw = None
        self._repeats = 0
        self._lost.clear()

    def step(self, raw: int) -> Step:
        """Takes the camera's next id (after :meth:`restart` or at first: any)."""
        if self._short and raw == 0:
            self._period = 65536
        if self._raw is None or self._id is None:
            self._raw = raw
            self._id = raw if self._id is None else self._id + 1
            return Step(self._id, range(0))
        ahead = (raw - self._raw) % self._period
        if ahead == 0:
            return self._repeat(self._id)
        self._repeats = 0
        if ahead <= self._max_gap + 1:
            self._counts = True
            lost = range(self._id + 1, self._id + ahead)
            self._lost.extend(lost)
            self._raw, self._id = raw, self._id + ahead
            return Step(self._id, lost)
        behind = self._period - ahead
        if self._id - behind in self._lost:
            self._lost.remove(self._id - behind)
            self.repeated += 1
            return Step(None, range(0), f"frame {self._id - behind} came late, after it was reported missing")
        return self._resync(raw, self._id, ahead, behind)

    def _repeat(self, last: int) -> Step:
        self._repeats += 1
        if self._counts and self._repeats < _STANDS_STILL:
            self.repeated += 1
            return Step(None, range(0), f"frame {last} came again")
        lost, note = range(0), ""
        if self._counts is None and self._repeats < _STANDS_STILL:
            note = f"frame {last} came again before any id advanced; it is taken for a new one"
        elif self._repeats == (1 if self._counts is False else _STANDS_STILL):
            note = "the camera's frame ids stand still; losses cannot be counted"
            if self._counts:
                lost = range(last + 1, last + _STANDS_STILL)
                note += f"; {len(lost)} frames with this id were not passed on and are reported missing"
            self.resyncs += self._counts is not False
            self._counts = False
        self._id = last + len(lost) + 1
        return Step(self._id, lost, note)

    def _resync(self, raw: int, last: int, ahead: int, behind: int) -> Step:
        self.resyncs += 1
        before, self._raw, self._id = self._raw, raw, last + 1
        self._lost.clear()
        if ahead <= behind:
            self.unreported += ahead - 1
            note = f"frame ids jump from {before} to {raw}; {ahead - 1} ids not reported one by one"
        else:
            note = f"frame ids run backward from {before} to {raw}; counting anew"
        return Step(self._id, range(0), note)
