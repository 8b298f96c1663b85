"""One run of the shadow's process: it works only in idle time, on one job at a time, and is never waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from inspector.errors import InspectorError
from inspector.shadow.child import ShadowProcess
from inspector.shadow.gate import Gate
from inspector.shadow.records import Job

HANG_S = 60.0
"""Idle time after which a process that says nothing counts as hung."""


class ShadowLostError(InspectorError):
    """The shadow's process ended, hangs, or could not begin."""


class Life:
    """From the start of a process to its end. One thread uses it."""

    def __init__(self, child: ShadowProcess, gate: Gate, came: int, *, hang_s: float = HANG_S) -> None:
        """``came``: the gate's count before the process was started."""
        self._child, self._gate, self._came, self._hang_ns = child, gate, came, int(hang_s * 1e9)
        self._busy = True  # it starts
        self.in_hand = 0
        """Jobs it has taken and not told of: 0 or 1."""

    def fileno(self) -> int:
        """Readable when :meth:`hear` has something."""
        return self._child.fileno()

    def work(self, came: int, next_job: Callable[[], Job | None]) -> None:
        """The line is idle and was so since the gate's count was ``came``: hand over a job, let the process run."""
        if not self._busy and (job := next_job()) is not None:
            self._child.hand_over(job)
            self._busy, self.in_hand = True, 1
        if self._busy:
            self._gate.open(came)

    def hear(self) -> Iterator[dict[str, Any]]:
        """What it says. Raises ShadowLostError when it ended, said that it cannot, or has said nothing for too long."""
        while (message := self._child.receive()) is not None:
            if message["event"] == "failed":
                raise ShadowLostError(str(message["what"]))
            if message["event"] == "begun":
                # Not before: from here on it dies with us, and one that is held still earlier would outlive us.
                self._gate.guard(self._child.pid, self._came)
                continue
            self._gate.rest()
            self._busy, self.in_hand = False, 0
            yield message
        if self._child.ended:
            raise ShadowLostError(f"the shadow's process ended: {self._child.finish(2.0)}")
        if self._busy and self._gate.ran_ns > self._hang_ns:
            raise ShadowLostError(f"the shadow's process said nothing in {self._hang_ns / 1e9:g} s of idle time")

    def close(self) -> None:
        """Let it go; what does not end by itself is killed. Idempotent."""
        self._gate.release()
        self._child.finish(2.0)
