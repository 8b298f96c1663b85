"""A station in a thread with a controller, for tests: the real line, sockets, ledger and bundle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from inspector.clock import SystemClock
from inspector.config import Settings, load
from inspector.engine import Engine, EngineInfo
from inspector.frame import FloatMap
from inspector.link.listen import Arrival, ReferenceController
from inspector.station import Hooks, Station

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "engines" / "commutator"


def settings(folder: Path, **overrides: dict[str, Any]) -> Settings:
    """A fast synthetic station in ``folder`` on free ports."""
    tables: dict[str, dict[str, Any]] = {
        "station": {"name": "test", "state_dir": folder / "state"},
        "camera": {"kind": "synthetic", "rate_hz": 100.0, "distinct": 10, "seed": 5},
        "engine": {"bundle": BUNDLE, "keep_alive_s": 0.0, "threads": 1},
        "timing": {"gate_ms": 2000.0},
        "link": {"endpoint": "tcp://127.0.0.1:*", "viewers": ""},
        "health": {"metrics": "", "stale_ms": 10_000.0},
        "log": {"level": "error", "parts": False},
    }
    for section, table in overrides.items():
        tables.setdefault(section, {}).update(table)
    return load(None, {}, **tables).settings


class Wrapped:
    """An engine whose ``infer`` is replaced; everything else is the proven one."""

    def __init__(self, engine: Engine, infer: Callable[[Engine, FloatMap], FloatMap]) -> None:
        self._engine, self._infer = engine, infer

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def infer(self, batch: FloatMap) -> FloatMap:
        return self._infer(self._engine, batch)

    def close(self) -> None:
        self._engine.close()


def trivial(_: Engine, batch: FloatMap) -> FloatMap:
    """Nothing is ever found."""
    return np.zeros_like(batch)


class Running:
    """What a test sees of a running station."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.arrivals: list[Arrival] = []
        self.controller: ReferenceController | None = None
        self.ready = threading.Event()
        self.thread = threading.current_thread()
        """The station's own, once it runs."""
        self.error: BaseException | None = None
        self._came = threading.Condition()

    def arrived(self, arrival: Arrival) -> None:
        with self._came:
            self.arrivals.append(arrival)
            self._came.notify_all()

    def wait_for(self, holds: Callable[[list[Arrival]], bool], timeout_s: float = 30.0) -> None:
        """Until the answers that came satisfy ``holds``."""
        with self._came:
            assert self._came.wait_for(lambda: holds(self.arrivals), timeout_s), f"{len(self.arrivals)} answers came"


@contextmanager
def running(
    wanted: Settings, *, parts: int | None = None, config_path: Path | None = None, **hooks: Any
) -> Iterator[Running]:
    """Run a station until the block ends, then stop it; the controller acknowledges to the end."""
    station = Station(wanted, hooks=Hooks(**hooks), max_parts=parts, config_path=config_path)
    seen = Running(station)

    def connect() -> None:
        seen.controller = ReferenceController(station.endpoint, clock=SystemClock(), on_answer=seen.arrived).start()

    def run() -> None:
        try:
            station.run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            seen.error = error
        finally:
            seen.ready.set()

    station.hooks.on_linked, station.hooks.on_ready = connect, seen.ready.set
    thread = seen.thread = threading.Thread(target=run, name="station", daemon=True)
    thread.start()
    assert seen.ready.wait(60)
    try:
        yield seen
        if parts is not None:
            thread.join(60)
    finally:
        station.stop("test done")
        thread.join(30)
        if seen.controller is not None:
            seen.controller.stop()
    assert not thread.is_alive()


def finish(wanted: Settings, parts: int, **hooks: Any) -> Running:
    """Run so many parts to the end."""
    with running(wanted, parts=parts, **hooks) as seen:
        pass
    if seen.error is not None:
        raise seen.error
    return seen
