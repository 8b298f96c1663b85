"""Builds a line from settings, starts its threads, keeps watch, and ends it in order: answers first."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from inspector import config
from inspector.camera import Camera
from inspector.clock import Clock, SystemClock
from inspector.conditions import HINTS, Condition, Conditions
from inspector.config import Settings
from inspector.crew import Crew, StoppedEarly
from inspector.drain import drain
from inspector.engine import Engine
from inspector.errors import ConfigError, EngineError, InspectorError
from inspector.flow import Channel, Latch
from inspector.frame import Settled, State
from inspector.health import Notifier, Tally
from inspector.health.timings import Timings
from inspector.journal import Log, open_journal, tell_engine, tell_part
from inspector.line import POLL_S, Line
from inspector.qualification import Register
from inspector.realtime import awake, take_priority
from inspector.recipe import Ingredients, OpenEngine, engine_opener, read_ingredients
from inspector.rooms import MS, Rooms, fit_out, keep_recipe
from inspector.seat import Seat
from inspector.vitals import Vitals
from inspector.watch import Rekeying, Watch


@dataclass(slots=True)
class Hooks:
    """What tests, the demo and the drill hang into a station; the daemon uses none of it."""

    on_settled: Callable[[Settled], None] = lambda settled: None
    on_linked: Callable[[], None] = lambda: None
    """The controller's socket is bound, no part has been triggered yet."""
    on_ready: Callable[[], None] = lambda: None
    wrap_camera: Callable[[Camera], Camera] = lambda camera: camera
    wrap_engine: Callable[[Engine], Engine] = lambda engine: engine
    opener: OpenEngine | None = None


@dataclass
class Station:
    """One line with its threads. ``run`` returns when the line has ended; the tally stays readable."""

    settings: Settings
    config_path: Path | None = None
    clock: Clock = field(default_factory=SystemClock)
    hooks: Hooks = field(default_factory=Hooks)
    max_parts: int | None = None
    log: Log = None
    latch: Latch = field(default_factory=Latch)
    tally: Tally = field(default_factory=Tally)
    endpoint: str = ""
    viewers_endpoint: str = ""

    def __post_init__(self) -> None:
        self.log = self.log or open_journal(self.settings.log.level, self.settings.log.format, unhurried=True)
        self.notifier = Notifier()
        self.conditions = Conditions(self.clock, self._condition_changed)
        self._reload, self._pace = threading.Event(), threading.Event()
        self._told: Channel[tuple[Settled, int]] = Channel(1024)
        self.timings = Timings()
        self.crew = Crew(self.clock, self.latch)
        self._rooms: Rooms | None = None

    @property
    def rooms(self) -> Rooms:
        if self._rooms is None:
            raise InspectorError("the station has not been started")
        return self._rooms

    @property
    def line(self) -> Line:
        return self.rooms.line

    # -- life ----------------------------------------------------------------------------------------------------

    def run(self) -> Tally:
        """Start, keep watch, drain. Raises the InspectorError that kept it from starting or broke it."""
        switch_s = sys.getswitchinterval()
        sys.setswitchinterval(0.0005)  # an answer waits for the GIL at most so long; 5 ms is the default
        try:
            ingredients = read_ingredients(self.settings, self.clock)
            self._rooms = fit_out(
                self.settings,
                ingredients,
                clock=self.clock,
                conditions=self.conditions,
                on_settled=self._settled,
                on_event=self._event,
                wrap_camera=self.hooks.wrap_camera,
            )
            self._equip(self._rooms)
            try:
                with awake(self.settings.timing.wake_us, self.log), contextlib.suppress(StoppedEarly):
                    self._start(ingredients)
                    self._watch()
            finally:
                self._drained()
                self.vitals.close()
                self.rooms.close()
        finally:
            sys.setswitchinterval(switch_s)
            gc.enable()
        if self.latch.error is not None:
            raise self.latch.error
        return self.tally

    def stop(self, reason: str) -> None:
        """Ask the line to end; callable from any thread and from signal handlers."""
        if self.latch.trip(reason):
            self.notifier.tell("STOPPING=1")

    def reload(self) -> None:
        """Ask for a reload of the configuration file between two parts."""
        self._reload.set()

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT drain, SIGHUP reloads; the former handlers come back at the end."""
        handlers: dict[signal.Signals, Callable[[int, object], None]] = {
            signal.SIGTERM: lambda number, frame: self.stop("SIGTERM"),
            signal.SIGINT: lambda number, frame: self.stop("SIGINT"),
            signal.SIGHUP: lambda number, frame: self.reload(),
        }
        former = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    # -- building ------------------------------------------------------------------------------------------------

    def _equip(self, rooms: Rooms) -> None:
        """What looks at the line from outside: vitals for those who ask, the watch for the service manager."""
        self.rekeying = Rekeying(rooms, self.log)
        self.vitals = Vitals(
            self.settings,
            rooms,
            conditions=self.conditions,
            crew=self.crew,
            tally=self.tally,
            timings=self.timings,
            told=self._told,
            clock=self.clock,
            standing=lambda: self.watch.standing,
        )
        self.watch = Watch(
            rooms,
            conditions=self.conditions,
            crew=self.crew,
            notifier=self.notifier,
            clock=self.clock,
            stale_ns=int(self.settings.health.stale_ms * MS),
            register=Register(self.settings.station.state_dir),
            present=lambda: self.ingredients.card(self.line.recipe) if self.line.recipe is not None else None,
            log=self.log,
        )

    def _start(self, ingredients: Ingredients) -> None:
        """Engine before link before camera: no part is triggered that could not be answered."""
        line, viewers, store = self.line, self.rooms.viewers, self.rooms.store
        self.vitals.open()
        self.crew.start("book", self.rooms.keep_book)
        with self.notifier.patience():
            self.seat_engine(ingredients)
        self.crew.start("answer", self.rekeying.answer, self._open_link, self.rooms.link.close)
        self.watch.qualification()
        self.hooks.on_linked()
        self.crew.start("sync", self._sync)
        if viewers is not None:
            self.crew.start("show", lambda: line.show(viewers.publish), viewers.open, viewers.close)
            self.viewers_endpoint = viewers.endpoint
        self.crew.start("tell", self._tell)
        self.crew.start("store", self._store, store.open, store.close)
        gc.collect()
        gc.freeze()  # everything made so far lives as long as the daemon; a full collection would stall due times
        gc.disable()
        self.crew.start("acquire", self._acquire, line.camera.open, line.camera.close)
        self.conditions.enter(State.CONTINUOUS_EXECUTION)
        self.watch.begin()
        self.log.info("ready", camera=line.camera.name, endpoint=self.endpoint, epoch=self.rooms.book.epoch)
        self.notifier.tell("READY=1")
        self.rooms.shadow.start()
        self.hooks.on_ready()

    def _open_link(self) -> None:
        take_priority("answer", self.settings.link.priority, self.log)
        self.rooms.link.open()
        self.endpoint = self.rooms.link.endpoint
        for note in self.rooms.book.notes:
            self.log.warning(f"ledger {note.kind}", detail=note.text)
        recovery = self.rooms.book.recover(self.clock.now_ns())
        for answer in (*recovery.resend, *recovery.restarted):
            self.rooms.link.send(answer, durable=self.rooms.book.durable)
        self.tally.restarted = len(recovery.restarted)
        if recovery.resend or recovery.restarted:
            self.log.warning("restarted", resent=len(recovery.resend), lost=len(recovery.restarted))

    def seat_engine(self, ingredients: Ingredients) -> None:
        """Prepare an engine in a thread of its own; when it is proven, it takes over from the one that runs."""
        seat = Seat(self.line, ingredients, self.hooks.opener or engine_opener(self.settings), self.hooks.wrap_engine)
        former = self.crew.get("inspect")
        stage = self.crew.start("inspect", seat.step, seat.setup, seat.teardown)
        if seat.recipe is None:
            stage.stop()
            self.crew.put_back("inspect", former)
            raise seat.fault or EngineError("the engine could not be prepared")
        if former is not None:
            former.stop()
            if not former.join(10.0):  # it would use the new engine beside the new thread
                stuck = EngineError("the former engine's thread does not end", do="The daemon ends; start it again.")
                self.latch.trip(str(stuck), stuck)
                raise stuck
        seat.take()
        self.ingredients = ingredients
        tell_engine(self.log, seat.recipe.engine.info, seat.why)

    # -- steps that belong to the station ------------------------------------------------------------------------

    def _acquire(self) -> None:
        opened = self.line.docket.statistics().opened
        if self.max_parts is not None and opened >= self.max_parts and self.line.grouping.whole:
            self.stop("all parts taken")
            self.latch.wait(POLL_S)
            return
        self.line.acquire()
        if self.line.camera.exhausted:
            self.stop("the camera has no further frames")

    def _sync(self) -> None:
        self._pace.wait(self.settings.ledger.sync_interval_ms / 1000)
        self.rooms.keep_durable()

    def _store(self) -> None:
        self.rooms.keep_store(POLL_S)
        if self.rooms.store.statistics().short:
            self.conditions.tell_of("store", "the disk is short, images are shed")
        else:
            self.conditions.clear("store")

    def _tell(self) -> None:
        told = self._told.take(POLL_S)
        if told is not None:
            self.timings.observe(*told)
            if self.settings.log.parts:
                tell_part(self.log, told[0])

    # -- watching ------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self.latch.wait(0.2):
            if self._reload.is_set():
                self._reload.clear()
                self.reload_settings()
            self.watch.look()

    def reload_settings(self) -> None:
        """New rules and calibration between two parts; a changed bundle swaps the engine. On any fault the old stay."""
        self.notifier.tell("RELOADING=1", f"MONOTONIC_USEC={self.clock.now_ns() // 1000}")
        self.rekeying.ask()
        try:
            wanted = config.load(self.config_path).settings if self.config_path is not None else self.settings
            if keys := config.restart_needed(self.settings, wanted):
                raise ConfigError(f"{', '.join(keys)} cannot change while the daemon runs", do="Restart it.")
            fresh = read_ingredients(wanted, self.clock)
            keep_recipe(wanted.station.state_dir, fresh.settings_source, fresh.calibration)
            recipe = self.line.recipe
            if recipe is None or fresh.bundle.manifest != self.ingredients.bundle.manifest:
                with self.notifier.patience(lambda: self.watch.look(loading=True)):
                    self.seat_engine(fresh)
            else:
                self.line.use(fresh.recipe(recipe.engine))
            self.settings, self.ingredients = wanted, fresh
            self.rooms.shadow.renew(wanted, fresh.station_hashes)
        except InspectorError as error:
            self.log.error("reload refused, the old settings keep running", fault=str(error))
            self.line.note("reload refused", str(error))
        else:
            self.log.info("reloaded", settings=fresh.settings_hash, calibration=fresh.calibration.hash[:16])
            self.line.note("reloaded", f"settings {fresh.settings_hash}")
        self.notifier.tell("READY=1")

    # -- ending and hearing ----------------------------------------------------------------------------------------

    def _drained(self) -> None:
        line, link = self.line, self.rooms.link
        gate_ns = int(self.settings.timing.gate_ms * MS)
        drain(self.rooms, crew=self.crew, conditions=self.conditions, clock=self.clock, gate_ns=gate_ns, log=self.log)
        self.tally.acknowledged = link.statistics().acknowledged
        self.tally.triggered = line.docket.statistics().opened
        self.log.info("stopped", why=self.latch.reason, **self.tally.figures())

    def _settled(self, settled: Settled) -> None:
        sent_ns = self.clock.now_ns()
        self.tally.add(settled, sent_ns)
        self._told.offer((settled, sent_ns))
        self.hooks.on_settled(settled)

    def _event(self, kind: str, text: str) -> None:
        self.tally.events[kind] += 1
        tell = self.log.info if kind.endswith(" up") else self.log.warning
        tell(kind, detail=text)
        if kind == "alarm":
            self.line.note(kind, text)

    def _condition_changed(self, condition: Condition, on: bool) -> None:
        tell = self.log.error if on else self.log.info
        hint = HINTS.get(condition.name, "") if on else ""
        tell(f"{condition.name} {'fault' if on else 'recovered'}", detail=condition.text, do=hint)
        if self._rooms is not None and condition.name != "ledger":
            self.line.note(f"{condition.name} {'fault' if on else 'recovered'}", condition.text)
