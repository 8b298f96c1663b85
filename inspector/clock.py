"""The only reader of time. Everything else is handed a Clock, so that tests and the drill push time."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Monotonic time for due times, wall time for people."""

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds; the same for every process of one boot."""

    def wall_ns(self) -> int:
        """UTC in nanoseconds since 1970; may be stepped, so never compared with a due time."""


class SystemClock:
    """The machine's clocks."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()


class PushedClock:
    """A clock that stands still until it is pushed."""

    def __init__(self, now_ns: int = 1_000_000_000, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_ns, self._wall_ns = now_ns, wall_ns
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        with self._lock:
            return self._now_ns

    def wall_ns(self) -> int:
        with self._lock:
            return self._wall_ns

    def push(self, by_ns: int) -> None:
        """Let ``by_ns`` pass on both clocks."""
        if by_ns < 0:
            raise ValueError("monotonic time does not run backwards")
        with self._lock:
            self._now_ns += by_ns
            self._wall_ns += by_ns

    def step_wall(self, by_ns: int) -> None:
        """Step the wall clock alone, as an operator or NTP does."""
        with self._lock:
            self._wall_ns += by_ns


def sleep_s(seconds: float) -> None:
    """For paced cameras and retries at the edges; the line itself waits on events."""
    time.sleep(seconds)


def boot_id() -> str:
    """Names the boot whose monotonic clock ``now_ns`` reads; empty where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
