"""What the rooms of a running station tell, put together for status and metrics. Reads snapshots, decides nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from inspector import __version__
from inspector.clock import Clock
from inspector.conditions import HINTS, Conditions
from inspector.config import Settings
from inspector.crew import Crew
from inspector.flow import Channel
from inspector.frame import Settled
from inspector.health import Tally
from inspector.health.desk import Desk
from inspector.health.report import Report, Section, Trouble
from inspector.health.timings import Timings
from inspector.qualification import Standing
from inspector.rooms import MS, Rooms

_NOTHING_YET: Mapping[str, Any] = {}


class Vitals:
    """Looks at a station when asked: over its local socket and, where configured, by a Prometheus scrape."""

    def __init__(
        self,
        settings: Settings,
        rooms: Rooms,
        *,
        conditions: Conditions,
        crew: Crew,
        tally: Tally,
        timings: Timings,
        told: Channel[tuple[Settled, int]],
        clock: Clock,
        standing: Callable[[], Standing],
    ) -> None:
        """``told`` is the channel to the thread that feeds ``timings``."""
        self._settings, self._rooms, self._conditions, self._crew = settings, rooms, conditions, crew
        self._tally, self._timings, self._told, self._clock = tally, timings, told, clock
        self._started_ns = clock.now_ns()
        self._standing = standing
        self.desk = Desk(status=self._status, metrics=self._metrics(), clock=clock)

    def open(self) -> None:
        """Answer questions from now on. Raises ConfigError (metrics address) and LinkError (local socket)."""
        health = self._settings.health
        self.desk.open(self._settings.station.state_dir, health.metrics, group=health.group)

    def close(self) -> None:
        """Idempotent."""
        self.desk.close()

    def look(self) -> Report:
        """Each room is asked once; every ``statistics()`` holds its lock for microseconds."""
        rooms, settings, now_ns = self._rooms, self._settings, self._clock.now_ns()
        line, viewers, recipe = rooms.line, rooms.viewers, rooms.line.recipe
        channels: dict[str, Channel[Any]] = {"parts": line.parts, "rows": line.rows, "committed": line.committed}
        channels |= {"told": self._told} | ({"shown": line.shown} if viewers is not None else {})
        return Report(
            station={
                "name": settings.station.name,
                "version": __version__,
                "pid": os.getpid(),
                "epoch": rooms.book.epoch,
                "uptime_s": (now_ns - self._started_ns) / 1e9,
                "endpoint": rooms.link.endpoint,
                "viewers": viewers.endpoint if viewers is not None else "",
                "metrics": self.desk.address,
                "camera": line.camera.name,
            },
            state=self._conditions.state,
            troubles=_troubles(self._conditions, now_ns),
            known_troubles=tuple(HINTS),
            tally=self._tally,
            timings=self._timings,
            queues={name: asdict(channel.statistics()) for name, channel in channels.items()},
            docket=asdict(line.docket.statistics()),
            camera=asdict(line.camera.statistics()),
            link=asdict(rooms.link.statistics()),
            viewers=asdict(viewers.statistics()) if viewers is not None else _NOTHING_YET,
            ledger=asdict(rooms.book.statistics()),
            store=asdict(rooms.store.statistics()),
            disk=self._disk(),
            desk=asdict(self.desk.statistics()),
            shadow=asdict(rooms.shadow.statistics()),
            engine=asdict(recipe.engine.info) if recipe is not None else _NOTHING_YET,
            hashes=asdict(recipe.hashes) if recipe is not None else _NOTHING_YET,
            qualification=self._standing().to_json(),
            promise={"max_escape": recipe.promised} if recipe is not None else _NOTHING_YET,
            stages_stale=tuple(self._crew.stale(int(settings.health.stale_ms * MS))),
        )

    def _status(self) -> bytes:
        return json.dumps(self.look().to_json(), sort_keys=True).encode()

    def _metrics(self) -> Callable[[str], tuple[bytes, str]] | None:
        if not self._settings.health.metrics:
            return None
        from inspector.health.metrics import Metrics  # only where they are served: it brings a HTTP stack

        return Metrics(self.look).render

    def _disk(self) -> Section:
        try:
            usage = shutil.disk_usage(self._settings.station.state_dir)
        except OSError:
            return _NOTHING_YET
        return {"free_bytes": usage.free, "total_bytes": usage.total}


def _troubles(conditions: Conditions, now_ns: int) -> tuple[Trouble, ...]:
    """The conditions that hold, oldest first, with what to do."""
    return tuple(
        Trouble(one.name, one.text, HINTS.get(one.name, ""), one.stops, (now_ns - one.since_ns) / 1e9)
        for one in conditions.present()
    )
