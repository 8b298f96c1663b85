"""The main thread's rounds: camera, controller, keys, stages; state to the controller; the watchdog, fed or starved."""

from __future__ import annotations

import threading
from collections.abc import Callable

from inspector.clock import Clock
from inspector.conditions import Conditions
from inspector.crew import Crew
from inspector.errors import ConfigError
from inspector.health import Notifier
from inspector.journal import Log
from inspector.qualification import RecipeCard, Register, Standing
from inspector.rooms import Rooms

CONTROLLER_WAIT_NS = 3_000_000_000


class Watch:
    """``look`` is one round. One thread makes the rounds; while it loads an engine, another does."""

    def __init__(
        self,
        rooms: Rooms,
        *,
        conditions: Conditions,
        crew: Crew,
        notifier: Notifier,
        clock: Clock,
        stale_ns: int,
        register: Register,
        present: Callable[[], RecipeCard | None],
        log: Log,
    ) -> None:
        """``present``: what the line decides with now; None before an engine is ready."""
        self._rooms, self._conditions, self._crew, self._notifier = rooms, conditions, crew, notifier
        self._clock, self._stale_ns = clock, stale_ns
        self._began_ns = clock.now_ns()
        self._register, self._present, self._log = register, present, log
        self.standing = Standing(False, "no engine is ready")

    def begin(self) -> None:
        """Parts are triggered from now on: so long a controller may take to come."""
        self._began_ns = self._clock.now_ns()

    def look(self, *, loading: bool = False) -> bool:
        """One round; True when every stage is fresh. ``loading``: the inspect stage is just being set up."""
        self._camera()
        self._link()
        self.qualification()
        stale = [name for name in self._crew.stale(self._stale_ns) if not (loading and name == "inspect")]
        if stale:
            text = f"stage {', '.join(sorted(stale))} has not moved for {self._stale_ns / 1e6:g} ms"
            self._conditions.raise_fault("stage", text)
        else:
            self._conditions.clear("stage")
        self._rooms.link.set_state(self._conditions.state)
        self._notifier.status(self._status())
        if not stale:
            self._notifier.feed(self._clock.now_ns())
        return not stale

    def _camera(self) -> None:
        camera = self._rooms.line.camera
        if camera.statistics().connected:
            self._conditions.clear("camera")
        else:
            self._conditions.raise_fault("camera", f"{camera.name} is not connected")

    def _link(self) -> None:
        """The line tells when a controller goes; that none ever came is seen here."""
        seen = self._rooms.link.statistics()
        if seen.connects == 0 and self._clock.now_ns() - self._began_ns > CONTROLLER_WAIT_NS:
            self._conditions.raise_fault("controller", "no controller has connected yet")
        if seen.authenticating:
            self._conditions.clear("keys")
        else:
            self._conditions.tell_of("keys", "no new client can be admitted: the thread that checks keys has ended")

    def qualification(self) -> None:
        """Whether what the line decides with is qualified; the link flags each answer that is not."""
        present = self._present()
        if present is None:
            return
        standing = self._register.look(present)
        self._rooms.link.set_qualified(self._register.qualified)
        if standing != self.standing:
            self.standing = standing
            self._tell(standing)

    def _tell(self, standing: Standing) -> None:
        """To the journal and, as history, to the ledger."""
        if standing.qualified:
            self._log.info("qualified", why=standing.why)
        else:
            self._log.warning("not qualified", because=standing.why, do="Run `inspector qualify`; answers are flagged")
        self._rooms.line.note("qualified" if standing.qualified else "not qualified", standing.why)

    def _status(self) -> str:
        """The state, what is wrong, and the camera, in one line."""
        told = [f"{one.name}: {one.text}" for one in self._conditions.present()]
        wrong = "; ".join(told + ([] if self.standing.qualified else [f"not qualified, because {self.standing.why}"]))
        return f"{self._conditions.state.value}, {wrong or self._rooms.line.camera.name}"[:500].replace("\n", " ")


class Rekeying:
    """Takes up changed keys at a reload: in the answer thread, because it owns the controller's socket."""

    def __init__(self, rooms: Rooms, log: Log) -> None:
        self._rooms, self._log = rooms, log
        self._asked = threading.Event()

    def ask(self) -> None:
        """Read the allowed keys again before the next answer step. Any thread."""
        self._asked.set()
        self._rooms.link.wake()

    def answer(self) -> None:
        """The line's answer step."""
        if self._asked.is_set():
            self._asked.clear()
            try:
                self._rooms.link.reload_keys()
                if self._rooms.viewers is not None:
                    self._rooms.viewers.reload_keys()
            except ConfigError as error:
                self._log.error("keys refused, those admitted so far stay", fault=str(error))
        self._rooms.line.answer()
