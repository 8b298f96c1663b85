"""sd_notify in a few lines: state, watchdog, patience during long loads. Silent where no service manager is."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

PULSE_S = 1.0
"""The watchdog is fed, and more time is asked for, so often."""
PATIENCE_S = 600.0
"""After so long a load counts as hung: no more time is asked for, and the service manager ends the daemon."""


class Notifier:
    """Speaks to the service manager over NOTIFY_SOCKET: a path, or an abstract name that begins with ``@``."""

    def __init__(self, address: str | None = None, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "") if address is None else address
        self._pulse_ns = _pulse_ns(environment)
        self._fed_ns: int | None = None
        self._status = ""
        self.lost = 0
        """Notifications that nobody took."""

    def tell(self, *lines: str) -> None:
        """Send state lines such as READY=1. A lost notification is counted; it is not worth a fault."""
        if not self._address:
            return
        target = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            try:
                channel.settimeout(0.2)  # a manager that does not read must not stop the watch
                channel.sendto("\n".join(lines).encode(), target)
            except OSError:
                self.lost += 1

    def status(self, text: str) -> None:
        """The line that ``systemctl status`` shows; sent when it changes."""
        if text != self._status:
            self._status = text
            self.tell(f"STATUS={text}")

    def feed(self, now_ns: int) -> bool:
        """WATCHDOG=1, at most once a pulse; True when it was sent. Call it only while every stage is fresh."""
        if self._fed_ns is not None and now_ns - self._fed_ns < self._pulse_ns:
            return False
        self._fed_ns = now_ns
        self.tell("WATCHDOG=1")
        return True

    @contextmanager
    def patience(
        self, meanwhile: Callable[[], object] = lambda: None, *, pulse_s: float = PULSE_S, limit_s: float = PATIENCE_S
    ) -> Iterator[None]:
        """While the block runs, ask for more time each pulse and call ``meanwhile``, in a thread; for ``limit_s``.

        An error of ``meanwhile`` ends the pulses: then the watchdog starves, as it should."""
        done = threading.Event()

        def pulse() -> None:
            for _ in range(int(limit_s / pulse_s)):
                self.tell(f"EXTEND_TIMEOUT_USEC={int(10 * pulse_s * 1e6)}")
                meanwhile()
                if done.wait(pulse_s):
                    return

        thread = threading.Thread(target=pulse, name="patience", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(2.0)


def _pulse_ns(environment: Mapping[str, str]) -> int:
    """A pulse, or a third of the manager's watchdog time where that is shorter."""
    usec, owner = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    pulse_ns = int(PULSE_S * 1e9)
    if not usec.isdecimal() or owner not in ("", str(os.getpid())):
        return pulse_ns
    return min(pulse_ns, int(usec) * 1000 // 3)
