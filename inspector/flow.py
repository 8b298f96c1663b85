"""Channel, Stage and Latch: how parts move between threads without a silent loss. The docket is in docket.py."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from inspector.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """A snapshot of a channel; ``offered = taken + displaced + waiting``."""

    capacity: int
    waiting: int
    waiting_peak: int
    offered: int
    taken: int
    displaced: int


class Channel(Generic[T]):
    """A bounded queue whose losses come back to the caller.

    ``offer`` never blocks: a full channel hands back its oldest item, and the caller must settle it.
    The oldest goes because it is nearest to its due time; the newest has the best chance to be in time.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a channel holds at least one item, not {capacity}")
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        # Free exactly while something waits or the channel is closed. A condition would do the same with a new lock,
        # and five times the Python, for each wait; three waits lie on a part's way.
        self._filled = threading.Lock()
        self._filled.acquire()
        self._closed = False
        self._offered = self._taken = self._displaced = self._peak = 0

    def offer(self, item: T) -> T | None:
        """Put ``item``; returns what it displaced (the item itself once the channel is closed)."""
        with self._lock:
            self._offered += 1
            if self._closed:
                self._displaced += 1
                return item
            displaced = None
            if len(self._items) >= self._capacity:
                displaced = self._items.popleft()
                self._displaced += 1
            self._items.append(item)
            self._peak = max(self._peak, len(self._items))
            if self._filled.locked():
                self._filled.release()
            return displaced

    def take(self, timeout_s: float) -> T | None:
        """The oldest item; None after ``timeout_s`` without one, or when closed and empty."""
        taken = self.take_all(timeout_s, limit=1)
        return taken[0] if taken else None

    def take_all(self, timeout_s: float, limit: int = 1024) -> list[T]:
        """What waits, oldest first, at most ``limit``; an empty list after ``timeout_s`` without any, or where another
        taker was faster."""
        if not self._filled.acquire(timeout=max(timeout_s, 0.0)):
            return []
        with self._lock:
            taken = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
            self._taken += len(taken)
            if not self._items and not self._closed:
                self._filled.acquire(blocking=False)  # an item may have come, and gone with these, in between
            elif self._filled.locked():
                self._filled.release()
            return taken

    def close(self) -> None:
        """Refuse new items and wake the taker; what waits can still be taken."""
        with self._lock:
            self._closed = True
            if self._filled.locked():
                self._filled.release()

    @property
    def closed(self) -> bool:
        return self._closed

    def statistics(self) -> ChannelStatistics:
        """Counts so far."""
        with self._lock:
            return ChannelStatistics(
                self._capacity, len(self._items), self._peak, self._offered, self._taken, self._displaced
            )


class Latch:
    """Shutdown, once: the first reason wins, later ones are ignored."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._reason = ""
        self._error: BaseException | None = None

    def trip(self, reason: str, error: BaseException | None = None) -> bool:
        """Ask for shutdown; True for the caller whose reason is kept."""
        with self._lock:
            if self._event.is_set():
                return False
            self._reason, self._error = reason, error
            self._event.set()
            return True

    @property
    def tripped(self) -> bool:
        return self._event.is_set()

    @property
    def reason(self) -> str:
        return self._reason

    @property
    def error(self) -> BaseException | None:
        return self._error

    def wait(self, timeout_s: float | None = None) -> bool:
        """True once tripped."""
        return self._event.wait(timeout_s)


class Stage:
    """A thread that is only ``while running: step()``, with a heartbeat after each step.

    ``setup`` and ``teardown`` run in the thread too, because some resources belong to the thread that made them.
    An error that escapes a step trips the latch: a line with a dead stage must not look fine.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], None],
        *,
        clock: Clock,
        latch: Latch,
        setup: Callable[[], None] | None = None,
        teardown: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self._step, self._setup, self._teardown = step, setup, teardown
        self._clock, self._latch = clock, latch
        self._stop = threading.Event()
        self._beat_ns = clock.now_ns()
        self._steps = 0
        self.ready = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end after its current step."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """True when the thread has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def beat_ns(self) -> int:
        """When the last step ended."""
        return self._beat_ns

    @property
    def steps(self) -> int:
        return self._steps

    def _run(self) -> None:
        try:
            if self._setup is not None:
                self._setup()
            self._beat_ns = self._clock.now_ns()
            self.ready.set()
            while not self._stop.is_set():
                self._step()
                self._steps += 1
                self._beat_ns = self._clock.now_ns()
        except BaseException as error:  # noqa: BLE001 - kept and handed to the latch; nothing is swallowed
            self.error = error
            self._latch.trip(f"stage {self.name} failed: {error}", error)
        finally:
            self.ready.set()
            if self._teardown is not None:
                try:
                    self._teardown()
                except Exception as error:  # noqa: BLE001 - the first error is the one to tell
                    self._latch.trip(f"stage {self.name} failed while closing: {error}", error)
