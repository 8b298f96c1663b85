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
from inspector.intake import Grouping, Meeting, Placed
from inspector.ledger.book import Note, Row
from inspector.ledger.counts import Numbers
from inspector.ledger.rows import Override, override_of, overtaken
from inspector.link.events import Acked, Announced, ControllerDown, ControllerUp, Event, Handed, Refused, Unsent

POLL_S = 0.1
"""The longest a step waits for work, so that heartbeats stay fresh and stops are quick."""

UNMET = 5
"""So many announced parts without a frame, or frames without a part, in a row are a fault of the station."""

PARKED = 64
"""Frames that may wait for their announcements, and for the thread that hears them."""

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
        self.grouping = Grouping(docket, clock.wall_ns, views=pace.views, gap_ns=pace.view_gap_ns)
        span = {"earliest_ns": pace.frame_earliest_ns, "latest_ns": pace.frame_latest_ns}
        self._meeting = Meeting(docket, clock.wall_ns, **span) if pace.announcements else None
        self._arrived: Channel[Frame | Missed] = Channel(PARKED)
        self._views = Views(pace.views)
        self._unwritten: list[Row] = []
        self._lost = Numbers()
        self._losing = threading.Lock()
        self._lost_overrides: Channel[Override] = Channel(65_536)
        self._busy_ns = clock.now_ns()

    def use(self, recipe: Recipe) -> None:
        """Decide with this recipe from the next part on."""
        self.recipe = recipe
        self.docket.set_hashes(recipe.hashes)

    # -- acquire thread ------------------------------------------------------------------------------------------

    def acquire(self) -> None:
        """Take the next frame or known loss; every one of them gets its line in the docket."""
        arrived = self.camera.next(POLL_S)
        if self._meeting is None:
            self._take_in(self.grouping.place(arrived))
        elif arrived is not None:
            if self._arrived.offer(arrived) is not None:
                self._on_event("frame given up", "too many wait for their announcements; their parts are MISSED")
            self.link.wake()

    def _take_in(self, placed: list[Placed]) -> None:
        """A loss is settled here; a frame goes to the engine, and what it displaces is settled here."""
        for one in placed:
            if isinstance(one.what, Decision):
                if one.stranger:
                    self._on_event("unannounced", one.what.detail)
                self.settle(one.entry, one.what)
                continue
            displaced = self.parts.offer(Part(one.entry, one.what))
            if displaced is not None:
                self.settle(displaced.entry, invalid(Reason.DROPPED, "displaced from a full queue by a newer part"))

    # -- inspect thread ------------------------------------------------------------------------------------------

    def inspect(self) -> None:
        """Judge the next part; with nothing to do, keep the engine warm."""
        part = self.parts.take(POLL_S)
        recipe = self.recipe
        if recipe is None:
            raise EngineError("the line was started without a recipe")
        if part is None:
            if self.parts.closed:
                self._pause(YIELD_S)  # the line ends, and nothing waits for a part any more
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
        whole = self._views.add(part.entry.sequence, decision, recipe.hashes)
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
                with self._losing:
                    self._lost.add(displaced.answer.sequence)
            elif isinstance(displaced, Override):
                self._lost_overrides.offer(displaced)
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
        """Rows that were displaced for ever are told as gaps, so that the ledger accounts for every number; what was
        told instead of a decision is never given up."""
        with self._losing:
            lost, self._lost = self._lost.spans(), Numbers()
        wall_ns, epoch, why = self.clock.wall_ns(), self.docket.epoch, "rows displaced by newer ones"
        gaps = [Note(wall_ns, "gap", why, epoch, first, last) for first, last in lost]
        return [*gaps, *self._lost_overrides.take_all(0, limit=65_536)]

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
        for settled in [*left, *self._overdue()]:
            self._tell(settled)
        for event in self.link.service(self.clock.now_ns()):
            self._hear(event)
        if self._meeting is not None:
            self._meet(self._meeting)
        for settled in booked:
            self._on_booked(settled)

    def _overdue(self) -> list[Settled]:
        """Send what may wait no longer; returns what was sent."""
        left: list[Settled] = []
        for overdue in self.docket.overdue(self.clock.now_ns()):
            self._on_unbooked(overdue.settled.answer)  # first of all: what was told must be known after kill -9
            left.append(self._leave(overdue.settled))
            if overdue.overrides:
                self._to_book(override_of(overdue.settled.answer))
            elif not overdue.booked:
                self._to_book(overdue.settled)
        return left

    def _leave(self, settled: Settled) -> Settled:
        """Send it; returns what was sent.

        This thread may be kept from running between any two lines. So the link looks at the clock last, and a PASS or
        FAIL whose due time has come meanwhile leaves as INVALID LATE: no number may stay without an answer.
        """
        while self.link.send(settled.answer, durable=self.ledger.durable) is Handed.TOO_LATE:
            if settled.answer.verdict is not Verdict.INVALID:  # else its time to be sent again begins anew
                settled = replace(settled, answer=self._overtaken(settled.answer))
        return settled

    def _overtaken(self, answer: Answer) -> Answer:
        late = overtaken(answer, self.clock.now_ns())
        self.docket.count_late()
        self._on_unbooked(late)
        self._to_book(override_of(late))
        return late

    def hand_over(self) -> None:
        """What was committed after the last answering step: its images are kept too. Once the threads have ended."""
        for settled in self.committed.take_all(0, limit=8192):
            self._on_booked(settled)

    def _idle_s(self) -> float:
        if self.committed.statistics().waiting:
            return 0.0
        paired_ns = None if self._meeting is None else self._meeting.next_ns()
        wakes = [at for at in (self.docket.next_due_ns(), self.link.next_wake_ns(), paired_ns) if at is not None]
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
            self._announce(event)
        elif isinstance(event, Unsent):
            self.link.send(self._overtaken(event.answer), durable=self.ledger.durable)
        elif isinstance(event, ControllerUp):
            self.conditions.clear("controller")
            self._on_event("controller up", event.identity)
        elif isinstance(event, ControllerDown):
            self.conditions.raise_fault("controller", "no controller is connected; parts are answered into the void")
            self._on_event("controller down", "")
        elif isinstance(event, Refused):
            self._on_event("message refused", event.why)

    def _announce(self, event: Announced) -> None:
        if self._meeting is None:
            self._on_event("announcement", f"ignored part {event.part_id}: link.announcements is off")
            return
        entry = self._meeting.announce(event.counter, event.part_id, event.received_ns)
        if self.docket.closed:
            self.settle(entry, invalid(Reason.STOPPED, "announced while the daemon stops"))
            self.docket.hurry(self.clock.now_ns())  # this may be the last step
            for settled in self._overdue():
                self._tell(settled)

    def _meet(self, meeting: Meeting) -> None:
        """Frames whose announcements must have been heard by now go to their parts."""
        for arrived in self._arrived.take_all(0, limit=max(0, PARKED - meeting.parked)):
            meeting.arrive(arrived)
        self._take_in(meeting.pair(self.link.heard_ns, self.clock.now_ns()))
        if meeting.unmet >= UNMET and not self.conditions.holds("camera"):
            self.conditions.raise_fault("pairing", f"{meeting.unmet} announcements or frames in a row had no partner")
        elif not meeting.unmet:
            self.conditions.clear("pairing")

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
        """What the book has not written yet; for the last attempt when the line ends."""
        rows, self._unwritten = self._unwritten, []
        return [*rows, *self._gaps(), *self.rows.take_all(0, limit=4096)]

    def note(self, kind: str, text: str) -> None:
        """A line of history in the ledger: camera lost, reload, engine swap, alarm."""
        self._to_book(Note(self.clock.wall_ns(), kind, text))
