"""Holds the shadow's process still while a part is in the line.

Idle priority alone lets the live engine's threads go first, but leaves the other core, the caches and the memory to the
shadow while the line does its single-threaded work. An inference cannot be interrupted from within its process;
SIGSTOP interrupts it from without, in microseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

from inspector.clock import Clock


class Gate:
    """Shut by the thread that takes frames, opened by the shadow's; one process at a time stands behind it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pidfd = -1
        self._runs = False
        self._opened_ns = self._ran_ns = 0
        self._came = 0
        self._came_ns = clock.now_ns()
        self._yields = 0

    def guard(self, pid: int, came: int) -> None:
        """From now on this process, which runs, stands behind the gate; it stops where a part has come since ``came``.

        The descriptor of the process cannot come to name another one, as its number could."""
        with self._lock:
            self._pidfd = os.pidfd_open(pid)
            self._runs, self._opened_ns, self._ran_ns = True, self._clock.now_ns(), 0
            if came != self._came:
                self._stop()

    def release(self) -> None:
        """Let the process run and look after it no longer; idempotent."""
        with self._lock:
            if self._pidfd < 0:
                return
            self._send(signal.SIGCONT)
            os.close(self._pidfd)
            self._pidfd, self._runs = -1, False

    def shut(self) -> None:
        """A part comes: the process, if it runs, stops now."""
        with self._lock:
            self._came += 1
            self._came_ns = self._clock.now_ns()
            if self._runs:
                self._stop()

    def open(self, came: int) -> bool:
        """Let the process run, unless a part has come since ``came`` was read."""
        with self._lock:
            if self._pidfd < 0 or came != self._came:
                return False
            if not self._runs:
                self._runs, self._opened_ns = True, self._clock.now_ns()
                self._send(signal.SIGCONT)
            return True

    def rest(self) -> None:
        """The process has nothing to do and waits: it need not be stopped. A new measure of ``ran_ns`` begins."""
        with self._lock:
            self._runs, self._ran_ns = False, 0

    @property
    def came(self) -> int:
        """How many parts came."""
        with self._lock:
            return self._came

    @property
    def came_ns(self) -> int:
        """When the last one came, monotonic."""
        with self._lock:
            return self._came_ns

    @property
    def ran_ns(self) -> int:
        """How long the process could run since the last ``rest``."""
        with self._lock:
            return self._ran_ns + (self._clock.now_ns() - self._opened_ns if self._runs else 0)

    @property
    def yields(self) -> int:
        """How often a part stopped it."""
        with self._lock:
            return self._yields

    def _stop(self) -> None:
        self._send(signal.SIGSTOP)
        self._runs = False
        self._yields += 1
        self._ran_ns += self._clock.now_ns() - self._opened_ns

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended; whoever waits for it will tell
            signal.pidfd_send_signal(self._pidfd, number)
