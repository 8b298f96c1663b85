"""What is wrong right now, and the state it leaves the station in. Names follow OPC 40100-1."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from inspector.clock import Clock
from inspector.frame import State


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong: since when, what, and what to do."""

    name: str
    text: str
    since_ns: int
    stops: bool = True
    """Parts cannot be inspected while it holds."""


HINTS = {
    "camera": "Check cable, power and that no other program holds the camera; the daemon reconnects by itself",
    "engine": "The part is INVALID; `inspector engines` tells whether the plan fits this machine",
    "pairing": "Check the trigger's wiring, that each part is announced once, and link.frame_latest_ms",
    "ledger": "Check disk space and that the state directory is writable; parts are INVALID until rows commit",
    "controller": "Check the controller and the network; the controller must treat silence as reject",
    "checkpoint": "Check disk space; rows are safe, but the ledger's log grows until it can be copied",
    "retention": "Old rows stay, nothing is lost; the text says why: disk space, rights of retired/, or the clock",
    "store": "Images are not kept; check disk space and store.quota_mb",
    "stage": "A thread is stuck and the watchdog starves: systemd restarts the daemon; keep the journal's trace",
    "shadow": "Parts are answered as ever, none is compared; see shadow.bundle and `inspector engines`",
    "keys": "Clients that are connected stay; restart the daemon in a pause of the line to admit others",
}


class Conditions:
    """The set of present conditions. ``on_change`` hears each that comes or goes, once."""

    def __init__(self, clock: Clock, on_change: Callable[[Condition, bool], None] = lambda condition, on: None) -> None:
        self._clock, self._on_change = clock, on_change
        self._lock = threading.Lock()
        self._present: dict[str, Condition] = {}
        self._state = State.PREOPERATIONAL

    def raise_fault(self, name: str, text: str) -> None:
        """The condition holds from now on and the state is ERROR; while it holds it is not told again."""
        self._raise(Condition(name, text, self._clock.now_ns(), stops=True))

    def tell_of(self, name: str, text: str) -> None:
        """The condition holds from now on, but parts are inspected all the same."""
        self._raise(Condition(name, text, self._clock.now_ns(), stops=False))

    def _raise(self, condition: Condition) -> None:
        with self._lock:
            if condition.name in self._present:
                return
            self._present[condition.name] = condition
        self._on_change(condition, True)

    def clear(self, name: str) -> None:
        """The condition is over."""
        with self._lock:
            condition = self._present.pop(name, None)
        if condition is not None:
            self._on_change(condition, False)

    def holds(self, name: str) -> bool:
        """Whether it is present."""
        with self._lock:
            return name in self._present

    def enter(self, state: State) -> None:
        """The state that holds while nothing is wrong."""
        with self._lock:
            self._state = state

    @property
    def state(self) -> State:
        """ERROR while a condition holds in an operational state."""
        with self._lock:
            operational = self._state in (State.READY, State.SINGLE_EXECUTION, State.CONTINUOUS_EXECUTION)
            stopped = any(condition.stops for condition in self._present.values())
            return State.ERROR if stopped and operational else self._state

    def present(self) -> tuple[Condition, ...]:
        """What is wrong right now, oldest first."""
        with self._lock:
            return tuple(sorted(self._present.values(), key=lambda one: one.since_ns))
