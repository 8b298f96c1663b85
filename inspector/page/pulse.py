"""What the daemon says of itself, asked every two seconds over its local socket, and the alarms that follow from it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from inspector.clock import Clock
from inspector.errors import InspectorError, LedgerError
from inspector.health.asking import ask
from inspector.ledger.query import Reading
from inspector.page.alarms import Alarms, Trouble

EVERY_S = 2.0
GRACE_S = 8.0
"""A daemon that restarts, or starts beside the page, is no alarm."""
_PATIENCE_S = 2.0
_EVENTS = "SELECT link, wall_ns, text FROM events WHERE kind = 'alarm' AND link > ? ORDER BY link LIMIT 100"
_NO_DAEMON = "Parts are not inspected. Start the daemon, or look at its journal: `journalctl -u inspector`."


@dataclass(frozen=True, slots=True)
class Beat:
    """The daemon at one moment."""

    report: dict[str, Any] = field(default_factory=dict)
    """What ``inspector status --json`` prints; empty where it did not answer."""
    error: str = "the daemon was not asked yet"
    at_ns: int = 0
    """Monotonic."""

    @property
    def state(self) -> str:
        """The daemon's state; ``No answer`` where it gave none."""
        return str(self.report.get("state", "No answer"))

    def section(self, name: str) -> dict[str, Any]:
        """A table of the report; empty where there is none."""
        found = self.report.get(name)
        return found if isinstance(found, dict) else {}


class Pulse:
    """``start`` asks in a thread of its own; ``last`` is for any thread."""

    def __init__(self, state_dir: Path, ledger: Path, alarms: Alarms, clock: Clock) -> None:
        self._state_dir, self._ledger, self._alarms, self._clock = state_dir, ledger, alarms, clock
        self._last = Beat()
        self._heard_ns = clock.now_ns()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def last(self) -> Beat:
        return self._last

    def start(self) -> None:
        """Idempotent."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Idempotent."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5)
            self._thread = None

    def step(self) -> Beat:
        """Ask once."""
        try:
            report = ask(self._state_dir, clock=self._clock, timeout_s=_PATIENCE_S)
            beat = Beat(report, "", self._clock.now_ns())
            self._heard_ns = beat.at_ns
            troubles = [_trouble(one) for one in report.get("conditions", [])]
        except InspectorError as error:
            beat = Beat({}, str(error), self._clock.now_ns())
            silent_s = (beat.at_ns - self._heard_ns) / 1e9
            troubles = [Trouble("no answer", error.what, error.do or _NO_DAEMON, True, silent_s)]
            if silent_s < GRACE_S:
                troubles = []
        self._last = beat
        self._alarms.hold("daemon", troubles)
        self._read_events()
        return beat

    def _read_events(self) -> None:
        """Alarms of the rules ("5 of 10 failed") stand in the ledger; each is told once, also those of an absence."""
        try:
            with Reading(self._ledger) as connection:
                place = self._alarms.place("events")
                if place is None:  # what happened before there was a page is history, not an alarm
                    newest = connection.execute("SELECT ifnull(max(link), 0) FROM events").get
                    self._alarms.set_place("events", newest)
                    return
                rows = list(connection.execute(_EVENTS, (place,)))
        except (LedgerError, apsw.Error):
            return  # told by whoever follows the ledger
        for link, wall_ns, text in rows:
            self._alarms.tell("line: rejects", text, "Look at the last rejects: one cause, or the camera?", wall_ns)
            self._alarms.set_place("events", link)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.step()
            self._stopping.wait(EVERY_S)


def _trouble(one: dict[str, Any]) -> Trouble:
    return Trouble(str(one["name"]), str(one["text"]), str(one["do"]), bool(one["stops"]), float(one["for_s"]))
