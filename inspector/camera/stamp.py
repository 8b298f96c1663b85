"""When a frame was there: the host's time at its fetch, bounded by the camera's own time stamp.

A process that stood still fetches its frames late. By the time of fetch alone they look younger than they are, and
their answers would leave as late as it stood. The camera's clock went on meanwhile: host time minus stamp is the
distance between the two clocks, plus the frame's way, plus what the fetch was late. The smallest one seen stands for
the first two. So a frame was there at its stamp plus that distance, or when it was fetched, whichever is earlier.
"""

from __future__ import annotations

_DRIFT_PPM = 200
"""The two clocks run apart by at most so much, either way; the smallest distance rises with it."""
_UNEVEN_NS = 20_000_000
"""A camera whose frames' ways differ by more is not followed."""
_FARTHEST_NS = 10_000_000_000
"""No frame is made older than this: it is too late in any case."""
_WAITED_NS = 200_000
"""A fetch that took so long waited for its frame; one that was there before may have lain for any time."""
_PROOF = (4, 500_000_000)
"""So many awaited frames over so many ns agree with as many before: the stamps are believed."""
_WATCH = (8, 5_000_000_000)
"""So many awaited frames over so many ns all come later than the stamps say: it is not us, it is the camera's clock."""
_ODD = 3
"""So many stamps that do not advance, within one watch, are no chance."""
_FAULTS = 3
"""The stamps were wrong so often: they are left alone until the camera is connected anew."""
_FORGIVEN_NS = 600_000_000_000
"""Stamps that were right for so long begin with a clean sheet."""


def _drift_ns(elapsed_ns: int) -> int:
    return elapsed_ns * _DRIFT_PPM // 1_000_000


class CameraClock:
    """The clock of one connection to a camera, learned from its frames.

    Until it is proven to run as the host's does, a frame counts from its fetch: the first second, and for ever where
    stamps are absent, are ticks instead of ns, or jump about. It is watched later too, and learned anew after a jump;
    after three faults it is left alone, and :meth:`told` says so once. A frame that lay unread counts as at most its
    way plus 400 ppm of the time since the last one that was fetched at once; so a long pause of the line loosens the
    bound, by up to 24 ms a minute. Times never run backward from frame to frame: a stamp that does not advance counts
    as the frame before it. ``since_ns`` is the host's time before which no frame can have been taken."""

    def __init__(self, since_ns: int) -> None:
        self._last_ns = since_ns
        self._faults = 0
        self._why = ""
        self._is_told = False
        self._learn()

    def _learn(self) -> None:
        """Knows nothing yet, or nothing any more."""
        self._camera_ns = 0
        self._distance_ns: int | None = None
        """Smallest host time minus stamp, risen with the drift; None = not proven."""
        self._before: tuple[int, int] | None = None
        """Smallest distance among the awaited frames of the last window, and its stamp."""
        self._proven_ns = 0
        self._new_window()

    def _new_window(self) -> None:
        self._awaited = self._odd = 0
        self._window_ns = 0
        self._found: tuple[int, int] | None = None

    def taken_ns(self, host_ns: int, camera_ns: int, waited_ns: int) -> int:
        """When this frame was there, by the host's clock; frames come in order.

        ``host_ns`` is the time right after its fetch, which took ``waited_ns``; ``camera_ns`` 0 = no stamp."""
        bound_ns = host_ns if self._faults >= _FAULTS else self._bound_ns(host_ns, camera_ns, waited_ns)
        self._last_ns = min(host_ns, max(self._last_ns, bound_ns, host_ns - _FARTHEST_NS))
        return self._last_ns

    def is_timely(self, waited_ns: int) -> bool:
        """Whether a frame whose fetch took so long is known to have come then: by the clock, or as it was awaited."""
        return self._distance_ns is not None or waited_ns >= _WAITED_NS

    def told(self) -> str:
        """Why the stamps are left alone; told once."""
        if self._faults < _FAULTS or self._is_told:
            return ""
        self._is_told = True
        return f"{self._why}; frames count from the time at which they are fetched"

    def _bound_ns(self, host_ns: int, camera_ns: int, waited_ns: int) -> int:
        elapsed_ns, distance_ns = camera_ns - self._camera_ns, host_ns - camera_ns
        if camera_ns <= 0 or elapsed_ns <= 0:
            self._odd += 1
            if self._odd >= _ODD:
                self._fault("the camera's time stamps " + ("do not advance" if camera_ns > 0 else "are missing"))
            return host_ns if self._distance_ns is None else self._last_ns
        self._camera_ns = camera_ns
        if self._distance_ns is not None:
            drift_ns = _drift_ns(elapsed_ns)
            if distance_ns < self._distance_ns - drift_ns - _UNEVEN_NS:
                self._fault("the camera's time stamps jump")
                return host_ns
            self._distance_ns = min(self._distance_ns + drift_ns, distance_ns)
        if waited_ns >= _WAITED_NS:
            self._watch(host_ns, camera_ns)
        return host_ns if self._distance_ns is None else camera_ns + self._distance_ns

    def _watch(self, host_ns: int, camera_ns: int) -> None:
        """Takes a frame that was waited for into its window; a full window proves the clock, or refutes it."""
        if self._found is None:
            self._window_ns = host_ns
        self._found = found = min(self._found or (host_ns - camera_ns, camera_ns), (host_ns - camera_ns, camera_ns))
        self._awaited += 1
        frames, span_ns = _PROOF if self._distance_ns is None else _WATCH
        if self._awaited < frames or host_ns - self._window_ns < span_ns:
            return
        self._new_window()
        if self._distance_ns is None:
            self._compare(found, host_ns, camera_ns)
        elif found[0] - self._distance_ns > _UNEVEN_NS:
            self._fault("the camera's time stamps fall behind this machine's clock")
        elif host_ns - self._proven_ns > _FORGIVEN_NS:
            self._faults = 0

    def _compare(self, found: tuple[int, int], host_ns: int, camera_ns: int) -> None:
        before, self._before = self._before, found
        if before is None:
            return
        if abs(found[0] - before[0]) > _UNEVEN_NS + _drift_ns(found[1] - before[1]):
            self._fault("the camera's time stamps do not run as this machine's clock does")
            self._before = found
            return
        self._proven_ns = host_ns
        self._distance_ns = min(distance_ns + _drift_ns(camera_ns - at_ns) for distance_ns, at_ns in (before, found))

    def _fault(self, why: str) -> None:
        self._faults, self._why = self._faults + 1, why
        self._learn()
