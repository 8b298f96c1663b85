"""Delivery on a schedule for cameras that make their own frames: synthetic and folder.

The schedule is absolute: item n is due at start + (n - 1) / rate, however late the one before it was, so that waiting
does not add up. It starts with the first call of ``next``, so that nothing is overdue because the rest of the line took
its time to start. Items can be made ahead in one background thread, so that making them does not disturb the schedule.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from inspector.clock import Clock
from inspector.errors import ConfigError
from inspector.sections import FASTEST_HZ, SLOWEST_HZ

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Arrival(Generic[T]):
    """One item as the schedule delivered it."""

    number: int
    """Counts from 1."""
    item: T
    available_ns: int
    """The later of its due time and the time it was made; at rate 0 the time of delivery."""


class Paced(Generic[T]):
    """``make(1)``, ``make(2)``, ... at ``rate_hz`` (0 = as fast as asked), up to ``last`` (None = without end).

    ``ahead`` items are made before they are asked for, in a thread; 0 makes each when it is asked for and counts it as
    available when it was due, so with a rate it is for items that cost nothing to make.
    An error of ``make`` is raised by ``next``. One thread opens, reads and closes.
    """

    def __init__(
        self, make: Callable[[int], T], *, rate_hz: float, clock: Clock, ahead: int, last: int | None = None
    ) -> None:
        if not (rate_hz == 0 or SLOWEST_HZ <= rate_hz <= FASTEST_HZ) or ahead < 0 or (last is not None and last < 0):
            raise ConfigError(
                "a paced camera cannot run so",
                expected=f"a rate of 0 or {SLOWEST_HZ} to {FASTEST_HZ:g} Hz, read-ahead and count of 0 or more",
                found=f"{rate_hz} Hz, {ahead} ahead, {last} in all",
            )
        self._make, self._rate_hz, self._clock, self._ahead, self._last = make, rate_hz, clock, ahead, last
        self._moved = threading.Condition()
        self._made: deque[tuple[T, int]] = deque()
        self._error: Exception | None = None
        self._closed = True
        self._next, self._start_ns = 1, 0
        self._worker: threading.Thread | None = None

    @property
    def exhausted(self) -> bool:
        """True once the last item was delivered."""
        return self._last is not None and self._next > self._last

    def open(self) -> None:
        """Begins anew with item 1."""
        self.close()
        with self._moved:
            self._made.clear()
            self._error, self._closed = None, False
            self._next, self._start_ns = 1, 0
        if self._ahead:
            self._worker = threading.Thread(target=self._work, name="camera-ahead", daemon=True)
            self._worker.start()

    def close(self) -> None:
        """Ends a waiting ``next`` at once; idempotent."""
        with self._moved:
            self._closed = True
            self._moved.notify_all()
        if self._worker is not None:
            self._worker.join()
            self._worker = None

    def next(self, timeout_s: float) -> Arrival[T] | None:
        """The next item when it is due and made; None when that is not so within ``timeout_s``, or when closed."""
        now_ns = self._clock.now_ns()
        deadline_ns = now_ns + round(timeout_s * 1e9)
        if self.exhausted:
            self._wait_until(deadline_ns)  # nothing will come; a caller in a loop must not spin
            return None
        if self._next == 1 and not self._start_ns:
            self._start_ns = now_ns
        due_ns = self._due_ns(self._next)
        if not self._wait_until(min(due_ns, deadline_ns)) or self._clock.now_ns() < due_ns:
            return None
        made = self._take(deadline_ns)
        if made is None:
            return None
        item, ready_ns = made
        arrival = Arrival(self._next, item, max(due_ns, ready_ns) if self._rate_hz else self._clock.now_ns())
        self._next += 1
        return arrival

    def _due_ns(self, number: int) -> int:
        return self._start_ns + round((number - 1) * 1e9 / self._rate_hz) if self._rate_hz else self._start_ns

    def _wait_until(self, until_ns: int) -> bool:
        """False when closed. Returns early when the clock stands still: a pushed clock does not run while we wait."""
        with self._moved:
            while not self._closed:
                now_ns = self._clock.now_ns()
                if now_ns >= until_ns:
                    return True
                self._moved.wait_for(lambda: self._closed, (until_ns - now_ns) / 1e9)
                if self._clock.now_ns() == now_ns:
                    break
            return not self._closed

    def _take(self, deadline_ns: int) -> tuple[T, int] | None:
        if not self._ahead:
            return self._make(self._next), 0
        with self._moved:
            patience_s = max(deadline_ns - self._clock.now_ns(), 0) / 1e9
            self._moved.wait_for(lambda: self._closed or bool(self._made) or self._error is not None, patience_s)
            if self._closed:
                return None
            if self._made:
                made = self._made.popleft()
                self._moved.notify_all()
                return made
            if self._error is not None:
                raise self._error
        return None

    def _work(self) -> None:
        number = 1
        while self._last is None or number <= self._last:
            with self._moved:
                self._moved.wait_for(lambda: self._closed or len(self._made) < self._ahead)
                if self._closed:
                    return
            try:
                item = self._make(number)
            except Exception as error:  # noqa: BLE001 - whatever it is, the reading thread raises it
                with self._moved:
                    self._error = error
                    self._moved.notify_all()
                return
            with self._moved:
                self._made.append((item, self._clock.now_ns()))
                self._moved.notify_all()
            number += 1


def check_window(window: tuple[int, int, int, int] | None, width: int, height: int, what: str) -> None:
    """Raises ConfigError when ``window`` (x, y, width, height) is empty or leaves a ``width`` x ``height`` frame."""
    if window is None:
        return
    x, y, w, h = window
    if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
        raise ConfigError(
            f"the window leaves {what}",
            expected=f"x, y, width, height within {width} x {height} px",
            found=", ".join(map(str, window)),
            do="Calibrate the ROI on frames of this camera.",
        )
