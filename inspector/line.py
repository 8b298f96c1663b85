"""The way of one part, from the camera to the wire. Each method is one step of one thread; read them in order.

acquire -> inspect -> book -> answer -> show. Threads, sockets and clocks are handed in, so the same steps run in the
daemon, in tests and in the simulated drill.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from inspector.camera import Camera
from inspector.clock import Clock, sleep_s
from inspector.conditions import Conditions
from inspector.decision import Alarms, Views
from inspector.docket import Docket
from inspector.errors import EngineError, LedgerError
from inspector.examine import examine
from inspector.fittings import Ledger, Link, Pace, Part, Recipe, Stages
from inspector.flow import Channel
from inspector.frame import Answer, Decision, Entry, Evidence, Frame, Hashes, Missed, Reason, Settled, Verdict, invalid
from inspector.ledger.book import Note, Row
from inspector.ledger.counts import ranges
from inspector.ledger.rows import override_of, overtaken
from inspector.link.events import Acked, Announced, ControllerDown, ControllerUp, Event, Handed, Refused

POLL_S = 0.1
"""The longest a step waits for work, so that heartbeats stay fresh and stops are quick."""

YIELD_S = 0.0003
"""What the book rests after a commit when nothing waits: the answer gets the interpreter at once."""


class Line:
    """One station's line."""

    def __init__(
        self,
        *,
        camera: Camera,
        docket: Docket,
        ledger: Ledger,
        link: Link,
        clock: Clock,
        conditions: Conditions,
        alarms: Alarms,
        pace: Pace,
        queue: int,
        on_settled: Callable[[Settled], None] = lambda settled: None,
        on_event: Callable[[str, str], None] = lambda kind, text: None,
        on_booked: Callable[[Settled], object] = lambda settled: None,
        on_unbooked: Callable[[Answer], None] = lambda answer: None,
        pause: Callable[[float], None] = sleep_s,
    ) -> None:
        self.camera, self.docket, self.ledger, self.link, self.clock = camera, docket, ledger, link, clock
        self.conditions, self.alarms, self.pace = conditions, alarms, pace
        self.recipe: Recipe | None = None
        self.parts: Channel[Part] = Channel(queue)
        self.rows: Channel[Row] = Channel(4096)
        self.committed: Channel[Settled] = Channel(8192)  # +4096 rows, +1 batch of 1024 in hand, rounded up
        self.shown: Channel[Settled] = Channel(1)
        self.unbooked = 0
        self._on_unbooked = on_unbooked
        self._on_settled, self._on_event, self._on_booked, self._pause = on_settled, on_event, on_booked, pause
        self._meeting = threading.Lock()
        self._parked: dict[int, Frame | Missed] = {}
        self._views = Views(pace.views)
        self._last_part = 0
        self._unwritten: list[Row] = []
        self._lost_rows: Channel[int] = Channel(65_536)
        self._busy_ns = clock.now_ns()

    def use(self, recipe: Recipe) -> None:
        """Decide with this recipe from the next part on."""
        self.recipe = recipe
        self.docket.set_hashes(recipe.hashes)

    # -- acquire thread ------------------------------------------------------------------------------------------

    def acquire(self) -> None:
        """Take the next frame or known loss; every one of them gets its line in the docket."""
        arrived = self.camera.next(POLL_S)
        if self.pace.announcements:
            self._meet(arrived)
        elif arrived is not None:
            entry = self._open_part(arrived)
            if entry is not None:
                self._forward(entry, arrived)

    def _open_part(self, arrived: Frame | Missed) -> Entry | None:
        """Open the part this frame belongs to, or find it when another view opened it."""
        views = self.pace.views
        part, first = (arrived.frame_id - 1) // views + 1, (arrived.frame_id - 1) // views * views + 1
        if views > 1 and part <= self._last_part:
            return self.docket.another_view(first)  # None: already answered, by a missing view or its due time
        self._last_part = part
        return self.docket.open(
            part_id=arrived.part_id,
            frame_id=first,
            taken_ns=arrived.taken_ns if isinstance(arrived, Frame) else arrived.noticed_ns,
            wall_ns=self.clock.wall_ns(),
            truth=arrived.truth,
            views=views,
        )

    def _forward(self, entry: Entry, arrived: Frame | Missed) -> None:
        """A loss is settled here; a frame goes to the engine, and what it displaces is settled here."""
        if isinstance(arrived, Missed):
            reason = arrived.reason if self.pace.views == 1 else Reason.VIEW_MISSING
            why = arrived.detail or arrived.reason.value.lower()
            self.settle(entry, invalid(reason, f"frame {arrived.frame_id}: {why}"))
            return
        displaced = self.parts.offer(Part(entry, arrived))
        if displaced is not None:
            self.settle(displaced.entry, invalid(Reason.DROPPED, "displaced from a full queue by a newer part"))

    def _meet(self, arrived: Frame | Missed | None) -> None:
        """Bring a frame and its announcement together; a frame that nobody announced is INVALID, too."""
        now_ns = self.clock.now_ns()
        with self._meeting:
            if arrived is not None:
                entry = self.docket.another_view(arrived.frame_id)
                if entry is not None:
                    self._forward(entry, arrived)
                else:
                    self._parked[arrived.frame_id] = arrived
            strangers = [one for one in self._parked.values() if now_ns - _when(one) > self.pace.announce_wait_ns]
            for one in strangers:
                del self._parked[one.frame_id]
                entry = self._open_part(one)
                if entry is not None:
                    text = f"frame {one.frame_id} came without an announcement"
                    self._on_event("unannounced", text)
                    self.settle(entry, invalid(Reason.MISSED, text))

    def _announce(self, event: Announced) -> None:
        """The controller's announcement is the trigger: it opens the docket and starts the due time."""
        with self._meeting:
            entry = self.docket.open(
                part_id=event.part_id,
                frame_id=event.counter,
                taken_ns=event.received_ns,
                wall_ns=self.clock.wall_ns(),
                frame_seen=False,
            )
            waiting = self._parked.pop(event.counter, None)
            if waiting is not None:
                self.docket.another_view(event.counter)
                self._forward(entry, waiting)

    # -- inspect thread ------------------------------------------------------------------------------------------

    def inspect(self) -> None:
        """Judge the next part; with nothing to do, keep the engine warm."""
        part = self.parts.take(POLL_S)
        recipe = self.recipe
        if recipe is None:
            raise EngineError("the line was started without a recipe")
        if part is None:
            self._keep_warm(recipe)
            return
        started_ns = self.clock.now_ns()
        if started_ns >= part.entry.due_ns:
            return  # answered LATE already; the parts behind it can still be in time
        decision, evidence, stages = examine(part.frame, recipe, self.clock)
        if decision.reason is Reason.ENGINE_FAULT:
            self.conditions.raise_fault("engine", decision.detail)
        else:
            self.conditions.clear("engine")
        whole = self._views.add(part.entry.sequence, decision)
        if whole is not None:
            waited = ("queue", (started_ns - part.frame.taken_ns) // 1000)
            self.settle(part.entry, whole, evidence, (waited, *stages), recipe.hashes)
        self._busy_ns = self.clock.now_ns()

    def _keep_warm(self, recipe: Recipe) -> None:
        now_ns = self.clock.now_ns()
        if self.pace.keep_alive_ns and now_ns - self._busy_ns > self.pace.keep_alive_ns:
            info = recipe.engine.info
            try:
                recipe.engine.infer(np.zeros((1, 1, info.input_height, info.input_width), np.float32))
            except EngineError as error:
                self.conditions.raise_fault("engine", str(error))
            self._busy_ns = self.clock.now_ns()

    def settle(
        self,
        entry: Entry,
        decision: Decision,
        evidence: Evidence | None = None,
        stages: Stages = (),
        hashes: Hashes | None = None,
    ) -> None:
        """First settlement wins and goes to the book; a second is normal and ignored."""
        used = hashes or (self.recipe.hashes if self.recipe is not None else Hashes())
        settled = self.docket.settle(
            entry.sequence, decision, now_ns=self.clock.now_ns(), hashes=used, stages_us=stages, evidence=evidence
        )
        if settled is not None:
            self._to_book(settled)

    def _to_book(self, row: Row) -> None:
        displaced = self.rows.offer(row)
        if displaced is not None:
            # The part itself stays in the docket: its due time sends it out as UNRECORDED.
            self.unbooked += 1
            if isinstance(displaced, Settled):
                self._lost_rows.offer(displaced.answer.sequence)
            self.conditions.raise_fault("ledger", f"{self.unbooked} rows lost: the ledger is too slow or stuck")

    # -- book thread ---------------------------------------------------------------------------------------------

    def book(self) -> None:
        """Commit what waits, then pass it on: a PASS or FAIL that is sent has been committed."""
        batch = self._unwritten or [*self._gaps(), *self.rows.take_all(POLL_S)]
        if not batch:
            return
        try:
            self.ledger.write(batch)
        except LedgerError as error:
            self._unwritten = batch
            self.conditions.raise_fault("ledger", str(error))
            self._pause(0.05)
            return
        self._unwritten = []
        self.conditions.clear("ledger")
        for row in batch:
            if isinstance(row, Settled):
                self.committed.offer(row)
        self.link.wake()
        if not self.rows.statistics().waiting:
            self._pause(YIELD_S)

    def _gaps(self) -> list[Row]:
        """Rows that were displaced for ever are told as gaps, so that the ledger accounts for every number."""
        lost = ranges(self._lost_rows.take_all(0, limit=65_536))
        wall_ns, epoch = self.clock.wall_ns(), self.docket.epoch
        return [Note(wall_ns, "gap", "rows displaced by newer ones", epoch, first, last) for first, last in lost]

    # -- answer thread -------------------------------------------------------------------------------------------

    def answer(self) -> None:
        """Send what is committed and what is due, take acknowledgements. Waits for nothing but the next due time.

        Whatever else an answer sets off (alarms, viewers, images, journal) begins when it has left.
        """
        self.link.wait(self._idle_s())
        booked = self.committed.take_all(0)
        left: list[Settled] = []
        for settled in booked:
            in_time = settled.answer.verdict is Verdict.INVALID or self.clock.now_ns() < settled.answer.due_ns
            if in_time and self.docket.claim(settled.answer.sequence):
                left.append(self._leave(settled))
        for overdue in self.docket.overdue(self.clock.now_ns()):
            self._on_unbooked(overdue.settled.answer)  # first of all: what was told must be known after kill -9
            left.append(self._leave(overdue.settled))
            if overdue.overrides:
                self._to_book(override_of(overdue.settled.answer))
            elif not overdue.booked:
                self._to_book(overdue.settled)
        for settled in left:
            self._tell(settled)
        for event in self.link.service(self.clock.now_ns()):
            self._hear(event)
        for settled in booked:
            self._on_booked(settled)

    def _leave(self, settled: Settled) -> Settled:
        """Send it; returns what was sent.

        This thread may be kept from running between any two lines. So the link looks at the clock last, and a PASS or
        FAIL whose due time has come meanwhile leaves as INVALID LATE: no number may stay without an answer.
        """
        while self.link.send(settled.answer, durable=self.ledger.durable) is Handed.TOO_LATE:
            if settled.answer.verdict is not Verdict.INVALID:  # else its time to be sent again begins anew
                settled = replace(settled, answer=overtaken(settled.answer, self.clock.now_ns()))
                self._on_unbooked(settled.answer)
                self._to_book(override_of(settled.answer))
        return settled

    def hand_over(self) -> None:
        """What was committed after the last answering step: its images are kept too. Once the threads have ended."""
        for settled in self.committed.take_all(0, limit=8192):
            self._on_booked(settled)

    def _idle_s(self) -> float:
        if self.committed.statistics().waiting:
            return 0.0
        wakes = [wake for wake in (self.docket.next_due_ns(), self.link.next_wake_ns()) if wake is not None]
        now_ns = self.clock.now_ns()
        return min([POLL_S, *(max(0.0, (wake - now_ns) / 1e9) for wake in wakes)])

    def _tell(self, settled: Settled) -> None:
        self._on_settled(settled)
        for alarm in self.alarms.update(settled.answer.verdict):
            self.link.raise_alarm(alarm)
            self._on_event("alarm", alarm)
        self.shown.offer(settled)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Acked):
            self._to_book(event.receipt)
        elif isinstance(event, Announced):
            if self.pace.announcements:
                self._announce(event)
            else:
                self._on_event("announcement", f"ignored part {event.part_id}: link.announcements is off")
        elif isinstance(event, ControllerUp):
            self.conditions.clear("controller")
            self._on_event("controller up", event.identity)
        elif isinstance(event, ControllerDown):
            self.conditions.raise_fault("controller", "no controller is connected; parts are answered into the void")
            self._on_event("controller down", "")
        elif isinstance(event, Refused):
            self._on_event("message refused", event.why)

    # -- show thread ---------------------------------------------------------------------------------------------

    def show(self, publish: Callable[[Settled], None]) -> None:
        """To the viewers: one slot, loss is harmless and counted."""
        settled = self.shown.take(POLL_S)
        if settled is not None:
            publish(settled)

    def stop(self) -> None:
        """Settle what is open as STOPPED and send it to the book; the answers leave with the next steps."""
        self.parts.close()
        for settled in self.docket.close(self.clock.now_ns()):
            self._to_book(settled)

    @property
    def has_unwritten(self) -> bool:
        """True while the ledger refuses rows; they are tried again with the next step."""
        return bool(self._unwritten)

    def unwritten(self) -> list[Row]:
        """Rows that the ledger refused so far; for the last attempt when the line ends."""
        rows, self._unwritten = self._unwritten, []
        return rows

    def note(self, kind: str, text: str) -> None:
        """A line of history in the ledger: camera lost, reload, engine swap, alarm."""
        self._to_book(Note(self.clock.wall_ns(), kind, text))


def _when(arrived: Frame | Missed) -> int:
    return arrived.taken_ns if isinstance(arrived, Frame) else arrived.noticed_ns
