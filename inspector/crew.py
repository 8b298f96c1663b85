"""The threads of a station: started one by one, watched by their heartbeats, ended in order."""

from __future__ import annotations

from collections.abc import Callable

from inspector.clock import Clock
from inspector.errors import InspectorError
from inspector.flow import Latch, Stage


class StoppedEarly(InspectorError):
    """The line was asked to end while a stage was being set up; that stage is left to itself."""


class Crew:
    """Stages by name. A stage is started when its setup has succeeded; an error of the setup is the caller's."""

    def __init__(self, clock: Clock, latch: Latch) -> None:
        self._clock, self._latch = clock, latch
        self._stages: dict[str, Stage] = {}
        self.left: list[str] = []
        """Stages whose setup went on when the line ended: the process must not wait for them."""

    def start(
        self,
        name: str,
        step: Callable[[], None],
        setup: Callable[[], None] | None = None,
        teardown: Callable[[], None] | None = None,
    ) -> Stage:
        """Start a stage and wait for its setup. Replaces a stage of the same name.

        Raises what the setup raised; StoppedEarly where the latch trips before the setup has ended."""
        former = self._stages.get(name)
        stage = Stage(name, step, clock=self._clock, latch=self._latch, setup=setup, teardown=teardown)
        self._stages[name] = stage
        stage.start()
        while not stage.ready.wait(0.05):
            if self._latch.tripped:
                stage.stop()
                self.put_back(name, former)
                self.left.append(name)
                raise StoppedEarly(f"asked to end while {name} was being set up")
        if stage.error is not None:
            raise stage.error
        return stage

    def get(self, name: str) -> Stage | None:
        return self._stages.get(name)

    def put_back(self, name: str, stage: Stage | None) -> None:
        """Make this stage (or none) the one of that name again, after a successor could not take over."""
        self._stages.pop(name, None)
        if stage is not None:
            self._stages[name] = stage

    def runs(self, name: str) -> bool:
        stage = self._stages.get(name)
        return stage is not None and stage.alive

    def end(self, name: str, patience_s: float = 2.0) -> bool:
        """Stop and wait; False when the stage did not end in time."""
        stage = self._stages.get(name)
        if stage is None:
            return True
        stage.stop()
        return stage.join(patience_s)

    def stale(self, older_than_ns: int) -> list[str]:
        """Stages without a heartbeat for so long; the watchdog starves while there is one."""
        oldest_ns = self._clock.now_ns() - older_than_ns
        return [name for name, stage in self._stages.items() if stage.beat_ns < oldest_ns]
