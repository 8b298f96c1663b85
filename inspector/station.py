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
from inspector.cameras import make_camera
from inspector.clock import Clock, SystemClock, sleep_s
from inspector.conditions import HINTS, Condition, Conditions
from inspector.config import Settings
from inspector.decision import Alarms
from inspector.docket import Docket
from inspector.engine import Engine
from inspector.errors import EngineError, InspectorError
from inspector.fittings import Pace
from inspector.flow import Channel, Latch, Stage
from inspector.frame import Settled, State
from inspector.health import Notifier, Tally
from inspector.journal import Log, open_journal, tell_part
from inspector.ledger.book import Book
from inspector.ledger.store import Store, StorePolicy
from inspector.line import POLL_S, Line
from inspector.link.controller import ControllerLink
from inspector.link.keys import load_server_keys
from inspector.link.viewers import ViewersLink
from inspector.recipe import Ingredients, OpenEngine, engine_opener, read_ingredients
from inspector.seat import Seat

MS = 1_000_000


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


@dataclass(slots=True)
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
        self.log = self.log or open_journal(self.settings.log.level, self.settings.log.format)
        self.notifier = Notifier()
        self.conditions = Conditions(self.clock, self._condition_changed)
        self._reload = threading.Event()
        self._told: Channel[Settled] = Channel(1024)
        self._stages: dict[str, Stage] = {}
        self._line: Line | None = None

    @property
    def line(self) -> Line:
        if self._line is None:
            raise InspectorError("the station has not been started")
        return self._line

    # -- life ----------------------------------------------------------------------------------------------------

    def run(self) -> Tally:
        """Start, keep watch, drain. Raises the InspectorError that kept it from starting or broke it."""
        switch_s = sys.getswitchinterval()
        sys.setswitchinterval(0.0005)  # an answer waits for the GIL at most so long; 5 ms is the default
        try:
            with contextlib.ExitStack() as open_rooms:
                ingredients = read_ingredients(self.settings)
                self._build(ingredients, open_rooms)
                try:
                    self._start(ingredients)
                    self._watch()
                finally:
                    self._drain()
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

    def _build(self, ingredients: Ingredients, rooms: contextlib.ExitStack) -> None:
        wanted, clock = self.settings, self.clock
        state = wanted.station.state_dir
        self.book = Book(state / "ledger.db", clock=clock, sync=wanted.ledger.sync)
        self.book.open()
        rooms.callback(self.book.close)
        self.store = Store(
            state / "images",
            policy=StorePolicy(save=wanted.store.save, every_pass=wanted.store.every_pass),
            quota_bytes=int(wanted.store.quota_mb * 1e6),
            keep_days=wanted.store.keep_days,
            min_free_bytes=int(wanted.store.min_free_mb * 1e6),
            clock=clock,
        )
        rooms.callback(self.store.close)
        keys = load_server_keys(wanted.link.keys_dir) if wanted.link.keys_dir is not None else None
        self.link = ControllerLink(
            wanted.link.endpoint,
            epoch=self.book.epoch,
            clock=clock,
            keys=keys,
            allow_plaintext=wanted.link.allow_plaintext,
            max_message_bytes=wanted.link.max_message_bytes,
            heartbeat_s=wanted.link.heartbeat_ms / 1000,
            resend_s=wanted.link.resend_ms / 1000,
        )
        self.viewers = ViewersLink(wanted.link.viewers, clock=clock, keys=keys, images=wanted.link.viewer_images)
        docket = Docket(
            epoch=self.book.epoch,
            gate_ns=int(wanted.timing.gate_ms * MS),
            slack_ns=int(wanted.timing.slack_ms * MS),
            commit_margin_ns=int(wanted.timing.commit_margin_ms * MS),
            on_open=self.book.mark_opened,
        )
        camera = make_camera(wanted.camera, clock=clock, window=ingredients.preprocess.window)
        self._line = Line(
            camera=self.hooks.wrap_camera(camera),
            docket=docket,
            ledger=self.book,
            link=self.link,
            clock=clock,
            conditions=self.conditions,
            alarms=Alarms(wanted.alarm.fails, wanted.alarm.among, wanted.alarm.no_reject_run),
            pace=Pace(
                views=wanted.camera.views,
                announcements=wanted.link.announcements,
                announce_wait_ns=int(wanted.link.announce_wait_ms * MS),
                keep_alive_ns=int(wanted.engine.keep_alive_s * 1e9),
            ),
            queue=wanted.timing.queue,
            on_settled=self._settled,
            on_event=self._event,
        )

    def _stage(
        self,
        name: str,
        step: Callable[[], None],
        setup: Callable[[], None] | None = None,
        teardown: Callable[[], None] | None = None,
    ) -> Stage:
        stage = Stage(name, step, clock=self.clock, latch=self.latch, setup=setup, teardown=teardown)
        self._stages[name] = stage
        stage.start()
        stage.ready.wait()
        if stage.error is not None:
            raise stage.error
        return stage

    def _start(self, ingredients: Ingredients) -> None:
        """Engine before link before camera: no part is triggered that could not be answered."""
        line = self.line
        self._stage("book", line.book)
        self.seat_engine(ingredients)
        self._stage("answer", line.answer, self._open_link, self.link.close)
        self.hooks.on_linked()
        self._stage("sync", self._sync)
        self._stage("show", lambda: line.show(self.viewers.publish), self._open_viewers, self.viewers.close)
        self._stage("tell", self._tell)
        self._stage("store", self._keep)
        gc.collect()
        gc.freeze()  # everything made so far lives as long as the daemon; a full collection would stall due times
        gc.disable()
        self._stage("acquire", self._acquire, line.camera.open, line.camera.close)
        self.conditions.enter(State.CONTINUOUS_EXECUTION)
        self.log.info("ready", camera=line.camera.name, endpoint=self.endpoint, epoch=self.book.epoch)
        self.notifier.tell("READY=1", f"STATUS=ready, {line.camera.name}")
        self.hooks.on_ready()

    def _open_link(self) -> None:
        self.link.open()
        self.endpoint = self.link.endpoint
        recovery = self.book.recover(self.clock.now_ns())
        for answer in (*recovery.resend, *recovery.restarted):
            self.link.send(answer, durable=self.book.durable)
        if recovery.resend or recovery.restarted:
            self.log.warning("restarted", resent=len(recovery.resend), lost=len(recovery.restarted))

    def _open_viewers(self) -> None:
        self.viewers.open()
        self.viewers_endpoint = self.viewers.endpoint

    def seat_engine(self, ingredients: Ingredients) -> None:
        """Prepare an engine in a thread of its own; when it is proven, it takes over from the one that runs."""
        seat = Seat(self.line, ingredients, self.hooks.opener or engine_opener(self.settings), self.hooks.wrap_engine)
        former = self._stages.get("inspect")
        stage = self._stage("inspect", seat.step, seat.setup, seat.teardown)
        if seat.recipe is None:
            self._stages.pop("inspect")
            stage.stop()
            if former is not None:
                self._stages["inspect"] = former
            raise seat.fault or EngineError("the engine could not be prepared")
        if former is not None:
            former.stop()
            former.join(10.0)
        seat.take()
        self.ingredients = ingredients
        info = seat.recipe.engine.info
        self.log.info(
            "engine",
            bundle=info.bundle,
            backend=f"{info.backend} {info.backend_version}",
            precision=info.precision,
            device=info.device,
            plan=info.plan_hash[:16],
            why=seat.why,
        )

    # -- steps that belong to the station ------------------------------------------------------------------------

    def _acquire(self) -> None:
        if self.max_parts is not None and self.line.docket.statistics().opened >= self.max_parts:
            self.stop("all parts taken")
            self.latch.wait(POLL_S)
            return
        self.line.acquire()
        if self.line.camera.exhausted:
            self.stop("the camera has no further frames")

    def _sync(self) -> None:
        self.latch.wait(self.settings.ledger.sync_interval_ms / 1000)
        self.book.sync()

    def _tell(self) -> None:
        settled = self._told.take(POLL_S)
        if settled is not None and self.settings.log.parts:
            tell_part(self.log, settled)

    def _keep(self) -> None:
        settled = self.line.pictures.take(POLL_S)
        if settled is not None:
            self.store.keep(settled)

    # -- watching ------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self.latch.wait(0.2):
            if self._reload.is_set():
                self._reload.clear()
                self.reload_settings()
            seen = self.line.camera.statistics()
            if seen.connected:
                self.conditions.clear("camera")
            else:
                self.conditions.raise_fault("camera", f"{self.line.camera.name} is not connected")
            self.link.set_state(self.conditions.state)
            stale = self.stale_stages()
            for name in stale:
                self.conditions.raise_fault(
                    name, f"stage {name} has not moved for {self.settings.health.stale_ms:g} ms"
                )
            if not stale:
                self.notifier.tell("WATCHDOG=1")

    def stale_stages(self) -> list[str]:
        """Stages whose heartbeat is older than allowed; the watchdog starves while there is one."""
        oldest_ns = self.clock.now_ns() - int(self.settings.health.stale_ms * MS)
        return [name for name, stage in self._stages.items() if stage.beat_ns < oldest_ns]

    def reload_settings(self) -> None:
        """New rules and calibration between two parts; a changed bundle swaps the engine. On any fault the old stay."""
        self.notifier.tell("RELOADING=1", f"MONOTONIC_USEC={self.clock.now_ns() // 1000}")
        try:
            wanted = config.load(self.config_path).settings if self.config_path is not None else self.settings
            fresh = read_ingredients(wanted)
            recipe = self.line.recipe
            if recipe is None or fresh.bundle.manifest != self.ingredients.bundle.manifest:
                self.seat_engine(fresh)
            else:
                self.line.use(fresh.recipe(recipe.engine))
            self.settings, self.ingredients = wanted, fresh
        except InspectorError as error:
            self.log.error("reload refused, the old settings keep running", fault=str(error))
            self.line.note("reload refused", str(error))
        else:
            self.log.info("reloaded", settings=fresh.settings_hash, calibration=fresh.calibration.hash[:16])
            self.line.note("reloaded", f"settings {fresh.settings_hash}")
        self.notifier.tell("READY=1")

    # -- ending --------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """No new parts; decide what can still be decided in time; the rest is STOPPED; then close, answers first."""
        self.conditions.enter(State.HALTED)
        if self._line is None:
            return
        line, stages = self._line, self._stages
        self._end("acquire")
        patience_ns = min(int(self.settings.timing.gate_ms * MS), 1000 * MS)
        self._wait_until(lambda: line.docket.undecided == 0, patience_ns)
        line.stop()
        if "answer" in stages and stages["answer"].alive:
            self._wait_until(lambda: line.docket.unanswered == 0, 500 * MS)
            self._wait_until(lambda: self.link.unacknowledged == 0 or not self.link.connected, 300 * MS)
        self._wait_until(lambda: line.rows.statistics().waiting == 0, 200 * MS)
        for name in ("inspect", "answer", "book", "sync", "store", "show", "tell"):
            self._end(name)
        with contextlib.suppress(InspectorError):
            line.book()  # receipts that came with the last answers
        self.tally.triggered = line.docket.statistics().opened
        self.log.info("stopped", why=self.latch.reason, **self.tally.figures())

    def _end(self, name: str) -> None:
        stage = self._stages.get(name)
        if stage is None:
            return
        stage.stop()
        if not stage.join(2.0):
            self.log.error("stage did not end", stage=name)

    def _wait_until(self, done: Callable[[], bool], patience_ns: int) -> None:
        give_up_ns = self.clock.now_ns() + patience_ns
        while not done() and self.clock.now_ns() < give_up_ns:
            sleep_s(0.002)

    # -- hearing -------------------------------------------------------------------------------------------------

    def _settled(self, settled: Settled) -> None:
        self.tally.add(settled, self.clock.now_ns())
        self._told.offer(settled)
        self.hooks.on_settled(settled)

    def _event(self, kind: str, text: str) -> None:
        self.log.warning(kind, detail=text)
        if kind == "alarm":
            self.line.note(kind, text)

    def _condition_changed(self, condition: Condition, on: bool) -> None:
        tell = self.log.error if on else self.log.info
        hint = HINTS.get(condition.name, "") if on else ""
        tell(f"{condition.name} {'fault' if on else 'recovered'}", detail=condition.text, do=hint)
        if self._line is not None and condition.name != "ledger":
            self._line.note(f"{condition.name} {'fault' if on else 'recovered'}", condition.text)
