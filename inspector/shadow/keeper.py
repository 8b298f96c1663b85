"""Keeps the shadow: remembers frames until their answers left, hands them over in idle time, starts again what failed.

What the line's threads call (``watch``, ``answered``) takes microseconds, never waits and raises nothing. Everything
else is done in one thread of its own, and no fault there is a fault of the line: it is told once, counted, and the
process is started again, later and later.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from inspector.camera import Camera
from inspector.camera.watched import WatchedCamera
from inspector.clock import Clock
from inspector.conditions import Conditions
from inspector.config import Settings
from inspector.errors import InspectorError
from inspector.flow import Channel
from inspector.frame import Frame, Missed, Settled
from inspector.shadow.child import ShadowProcess
from inspector.shadow.counts import ShadowStatistics
from inspector.shadow.gate import Gate
from inspector.shadow.life import Life
from inspector.shadow.records import Change, Job, Live, Outcome, comparable

QUIET_NS = 5_000_000
"""The line counts as idle so long after the last frame and the last answer at the earliest: a frame's part may not be
in the docket before, and what the line does behind an answer (acknowledgement, images, viewers, journal) goes first."""
IN_LINE = 4
"""Parts beside those in the queue whose frames are remembered: taken, in the engine, at the book, being sent."""
BACKOFF_S = (1.0, 300.0)
"""From the first to the longest wait before the process is started again."""
SOUND_AFTER = 10
"""Compared parts after which the wait begins anew."""
TICK_MS = 1000.0


class Shadow:
    """Off without ``shadow.bundle``: then nothing is remembered, and no thread or process is started."""

    def __init__(
        self,
        settings: Settings,
        hashes: tuple[str, str],
        *,
        clock: Clock,
        conditions: Conditions,
        on_event: Callable[[str, str], None],
        idle: Callable[[], bool],
    ) -> None:
        """``hashes``: the line's calibration and settings. ``idle``: no part is open in the line.
        ``on_event`` hears of each flip, in the shadow's thread."""
        self._settings, self._hashes = settings, hashes
        self._clock, self._conditions, self._on_event, self._idle = clock, conditions, on_event, idle
        self.gate = Gate(clock)
        self.on_compared: Callable[[Outcome], None] = lambda outcome: None
        """For tests and benchmarks: hears of each compared part, in the shadow's thread."""
        self.at_idle_priority = True
        """Tests switch it off: on a loaded machine an idle process may not get on for minutes."""
        self._on = False
        self._lock = threading.Lock()
        self._left_ns = clock.now_ns()
        self._frames: OrderedDict[int, Frame] = OrderedDict()
        self._waiting: Channel[Job] = Channel(settings.shadow.keep)
        self._wake_fd = -1
        self._stopping, self._renewed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._counts: Counter[str] = Counter()
        self._up, self._engine, self._bundle, self._fault = False, "", "", ""

    # -- the station ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, where a bundle is configured. The process comes up in idle time; nothing waits for it."""
        if self._settings.shadow.bundle is None or self._thread is not None:
            return
        self._stopping.clear()
        with self._lock:
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waiting = Channel(self._settings.shadow.keep)
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()
        self._on = True

    def stop(self) -> None:
        """End thread and process; idempotent. Parts that wait are not compared."""
        self._on = False
        if self._thread is None:
            return
        self._stopping.set()
        self._wake()
        self._thread.join(4.0)
        self._thread = None
        with self._lock:
            os.close(self._wake_fd)
            self._wake_fd = -1
            self._frames.clear()

    def renew(self, settings: Settings, hashes: tuple[str, str]) -> None:
        """Go on with these settings: after a reload of the daemon."""
        self._settings, self._hashes = settings, hashes
        if self._thread is None or settings.shadow.bundle is None:
            self.stop()
            self._conditions.clear("shadow")
            self.start()
            return
        self._renewed.set()
        self._wake()

    def statistics(self) -> ShadowStatistics:
        """A snapshot. Any thread."""
        return ShadowStatistics(
            on=self._on,
            up=self._up,
            bundle=self._bundle,
            engine=self._engine,
            yields=self.gate.yields,
            waiting=self._waiting.statistics().waiting,
            last_fault=self._fault,
            **self._counts,
        )

    # -- the line's threads --------------------------------------------------------------------------------------------

    def watch(self, camera: Camera) -> Camera:
        """The camera, as the shadow sees it: each frame that comes shuts the gate and is remembered."""
        return WatchedCamera(camera, self.came)

    def came(self, arrived: Frame | Missed) -> None:
        """The acquire thread took this; the shadow yields at once."""
        if not self._on:
            return
        self.gate.shut()
        if isinstance(arrived, Frame):
            room = (self._settings.timing.queue + IN_LINE) * self._settings.camera.views
            with self._lock:
                self._frames[arrived.frame_id] = arrived
                while len(self._frames) > room:
                    self._frames.popitem(last=False)

    def answered(self, settled: Settled) -> None:
        """This answer has left; now the part may wait for idle time. A few parts wait, the newest ones."""
        if not self._on:
            return
        self._left_ns = self._clock.now_ns()
        first = settled.answer.frame_id
        with self._lock:
            frames = [self._frames.pop(first + view, None) for view in range(self._settings.camera.views)]
        whole = tuple(frame for frame in frames if frame is not None)
        if not comparable(settled.answer):
            self._counts["skipped_unjudged"] += 1
        elif len(whole) < len(frames):
            self._counts["skipped_gone"] += 1
        elif self._waiting.offer(Job(Live.of(settled), whole, settled.evidence.mask)) is not None:
            self._counts["skipped_busy"] += 1
        if self._idle():
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    # -- the shadow's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wait_s, longest_s = BACKOFF_S
        while not self._stopping.is_set():
            self._renewed.clear()
            compared = self._counts["compared"]
            try:
                self._live()
                continue  # renewed, or stopping
            except Exception as error:  # noqa: BLE001 - told and counted; the line must not feel it
                kind = "" if isinstance(error, InspectorError) else f"{type(error).__name__}: "
                self._fault = f"{kind}{error}"
            self._conditions.tell_of("shadow", self._fault)
            if self._counts["compared"] - compared >= SOUND_AFTER:
                wait_s = BACKOFF_S[0]
            self._pause(wait_s)
            wait_s = BACKOFF_S[0] if self._renewed.is_set() else min(2 * wait_s, longest_s)
            self._counts["restarts"] += 1

    def _live(self) -> None:
        """One life of the process. Returns when it is to be renewed or stopped; raises ShadowLostError."""
        came = self.gate.came
        while not self._quiet():
            if self._over():
                return
            self._sleep(self._until_quiet_ms())
            came = self.gate.came
        life = Life(ShadowProcess(self._order(), idle=self.at_idle_priority), self.gate, came)
        try:
            while not self._over():
                came = self.gate.came
                quiet = self._quiet()
                if quiet:
                    life.work(came, self._next_job)
                self._sleep(TICK_MS if quiet else self._until_quiet_ms(), life)
                for message in life.hear():
                    self._heard(message)
        finally:
            self._up = False
            self._counts["skipped_lost"] += life.in_hand
            life.close()

    def _over(self) -> bool:
        return self._stopping.is_set() or self._renewed.is_set()

    def _pause(self, seconds: float) -> None:
        """Waits, and forgets the parts that come meanwhile: they are not for a process that comes much later."""
        until_ns = self._clock.now_ns() + int(seconds * 1e9)
        while not self._over() and (left_ns := until_ns - self._clock.now_ns()) > 0:
            self._sleep(left_ns / 1e6)
        self._counts["skipped_lost"] += len(self._waiting.take_all(0))

    def _quiet(self) -> bool:
        return self._missing_ns() <= 0 and self._idle()

    def _missing_ns(self) -> int:
        """Of the quiet time."""
        return max(self.gate.came_ns, self._left_ns) + QUIET_NS - self._clock.now_ns()

    def _until_quiet_ms(self) -> float:
        """The rest of the quiet time; while parts are open, until an answer wakes us."""
        missing_ns = self._missing_ns()
        return missing_ns / 1e6 + 0.1 if missing_ns > 0 else TICK_MS

    def _sleep(self, timeout_ms: float, *more: Life) -> None:
        """Until an answer has left, one of ``more`` is readable, or the time is over."""
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        for each in more:
            poll.register(each, select.POLLIN)
        poll.poll(timeout_ms)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _order(self) -> dict[str, Any]:
        """The station's settings with the shadow's engine, as JSON."""
        wanted, tables = self._settings.shadow, self._settings.model_dump(mode="json")
        root = str((self._settings.station.state_dir / "shadow").absolute())
        tables["station"]["state_dir"] = root
        tables["engine"] |= {"bundle": str(wanted.bundle), "backend": wanted.backend, "precision": wanted.precision}
        tables["engine"] |= {"threads": wanted.threads, "pinning": False}
        return {
            "tables": tables,
            "calibration": self._hashes[0],
            "settings": self._settings.short_hash(),  # without an operating point: the shadow's bundle has its own
            "root": root,
            "keep": wanted.flips,
            "min_free_bytes": int(self._settings.store.min_free_mb * 1e6),
        }

    def _next_job(self) -> Job | None:
        """The oldest part that waits and was answered by the shadow's own calibration and rules."""
        while (job := self._waiting.take(0)) is not None:
            hashes = job.live.hashes
            if (hashes.calibration, hashes.settings) == self._hashes:
                return job
            self._counts["skipped_recipe"] += 1
        return None

    def _heard(self, message: Mapping[str, Any]) -> None:
        if message["event"] == "ready":
            self._engine, self._bundle = message["engine"]["plan_hash"][:16], message["engine"]["bundle"]
            self._up, self._fault = True, ""
            self._conditions.clear("shadow")
            self._on_event("shadow up", f"{self._bundle} {self._engine}: {message['why']}")
            return
        outcome = Outcome.from_json(message["outcome"])
        self._counts["compared"] += 1
        self._counts["cpu_us"] += outcome.cpu_us
        if outcome.change is not Change.SAME:
            self._counts[outcome.change.value] += 1
            self._on_event("shadow flip", outcome.text)
        self.on_compared(outcome)
