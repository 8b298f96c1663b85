"""The simulated drill: thousands of seeded schedules through the line's own steps, each judged by the oracle."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from inspector.conditions import Conditions
from inspector.decision import Alarms, Limits, Rules
from inspector.docket import Docket
from inspector.drill.oracle import Key, Oracle
from inspector.drill.plan import MS, Disturbance, Faults, Plan, Shot, draw
from inspector.drill.world import Killed, Network, SimCamera, SimController, SimLedger, SimSight, World
from inspector.engine import Engine
from inspector.figures import percentiles
from inspector.fittings import Pace, Part, Recipe
from inspector.flow import Channel
from inspector.frame import Answer, Hashes, Settled, Verdict
from inspector.ledger.book import Book, Row
from inspector.line import Line
from inspector.link.controller import ControllerLink
from inspector.link.events import Handed
from inspector.preprocess import Preprocess

GATE_NS, SLACK_NS, MARGIN_NS = 60 * MS, 5 * MS, 2 * MS
JITTER_NS = 3 * MS
Sabotage = Callable[[Line], None]
"""Breaks a fresh line on purpose, to see the oracle catch it."""


@dataclass(slots=True)
class Result:
    """What one schedule came to; ``faults`` is empty when every invariant held."""

    seed: int
    parts: int
    faults: list[str]
    outcomes: Counter[str] = field(default_factory=Counter)
    lateness_us: list[int] = field(default_factory=list)
    kills: int = 0


class Simulation:
    """One schedule."""

    def __init__(self, plan: Plan, faults: Faults, folder: Path, sabotage: Sabotage | None = None) -> None:
        self._plan, self._faults, self._folder, self._sabotage = plan, faults, folder, sabotage
        self.world = World(plan.seed)
        self.world.clock.push(1)
        self.controller = SimController(self.world, faults)
        self.world.network = Network(self.world, self.controller)
        self.oracle = Oracle(self.world.clock, MARGIN_NS, JITTER_NS + MS)
        self.shots = {shot.frame_id: shot for shot in plan.shots}
        self.opened: dict[Key, int] = {}
        self._left: deque[Shot] = deque(plan.shots)
        self._book: Book | None = None
        self._kills = 0
        self._stopped = False

    def run(self) -> Result:
        """Play the plan to its end and judge."""
        world = self.world
        for disturbance in self._plan.disturbances:
            world.after(disturbance.at_ns - world.clock.now_ns(), self._happen(disturbance))
        self._start()
        self.controller.keep_saying_hello()
        end_ns = self._plan.shots[-1].taken_ns + 6 * MS  # parts are open then: stopping has something to settle
        world.after(end_ns - world.clock.now_ns(), self._stop)
        while world.clock.now_ns() < end_ns + 3000 * MS:
            try:
                world.let_pass(end_ns + 3000 * MS - world.clock.now_ns())
            except Killed:
                self._restart()
        self._end()
        self.oracle.judge(self.shots, self.opened)
        for first, then in self.controller.conflicts:
            self.oracle.faults.append(f"({first.epoch}, {first.sequence}) came twice: {first.reason}, {then.reason}")
        outcomes = Counter((a.reason.value if a.reason else a.verdict.value) for a, _ in self.oracle.sent.values())
        return Result(
            self._plan.seed, len(self.opened), self.oracle.faults, outcomes, self.oracle.lateness_us, self._kills
        )

    def _start(self) -> None:
        world = self.world
        book = self._book = Book(self._folder / "ledger.db", clock=world.clock, ballast_bytes=0, tail_rows=10)
        book.open()
        ledger = SimLedger(world, book, self._faults)
        ledger.on_committed = self.oracle.hear_commit
        self._ledger = ledger
        world.camera = camera = SimCamera(world, self._left)
        world.link = link = self._link(book.epoch)
        docket = Docket(
            epoch=book.epoch,
            gate_ns=GATE_NS,
            slack_ns=SLACK_NS,
            commit_margin_ns=MARGIN_NS,
            on_open=lambda sequence: self._open(book, sequence),
        )
        line = Line(
            camera=camera,
            docket=docket,
            ledger=ledger,
            link=link,
            clock=world.clock,
            conditions=Conditions(world.clock),
            alarms=Alarms(0, 1),
            pace=Pace(),
            queue=3,
            pause=self._rest,
            on_unbooked=book.unbooked.note,
        )
        line.parts = _Parts(3, self.oracle, book.epoch)
        line.rows = _Rows(4096, self.oracle)
        sight = SimSight(world, self.shots)
        rules = Rules(0.5, Limits(min_area_map_px=4))
        line.use(Recipe(cast(Engine, sight), cast(Preprocess, sight), rules, Hashes("e" * 16, "c" * 16, "a" * 16)))
        if self._sabotage is not None:
            self._sabotage(line)
        world.on_answered = lambda: self.oracle.nothing_overdue(line.docket.next_due_ns())
        for answer in self._recovered(book):
            link.send(answer, durable=0)
        world.line = line
        if self._stopped:
            line.stop()

    def _link(self, epoch: int) -> ControllerLink:
        # The network is played, the link is not.
        link = ControllerLink("tcp://127.0.0.1:*", epoch=epoch, clock=self.world.clock, router=self.world.network)
        link.open()
        send = link.send

        def heard(answer: Answer, *, durable: int = 0) -> Handed:
            left_ns = answer.due_ns - self.world.clock.now_ns()
            if answer.verdict is not Verdict.INVALID and 0 < left_ns <= JITTER_NS:
                self.world.stall(left_ns, self._faults.answer_stalled)
            handed = send(answer, durable=durable)
            if handed is not Handed.TOO_LATE:
                self.oracle.hear_send(answer)
            return handed

        cast(Any, link).send = heard
        return link

    def _recovered(self, book: Book) -> list[Answer]:
        recovery = book.recover(self.world.clock.now_ns())
        for answer in recovery.restarted:
            self.oracle.committed.setdefault((answer.epoch, answer.sequence), (answer, self.world.clock.now_ns()))
        return [*recovery.resend, *recovery.restarted]

    def _open(self, book: Book, sequence: int) -> None:
        book.mark_opened(sequence)
        self.opened[book.epoch, sequence] = len(self.opened) + 1  # shots open in the order of their frame ids

    def _rest(self, seconds: float) -> None:
        self.world.book_rests_until_ns = self.world.clock.now_ns() + int(seconds * 1e9)

    def _happen(self, what: Disturbance) -> Callable[[], None]:
        def happen() -> None:
            world, until_ns = self.world, self.world.clock.now_ns() + what.duration_ns
            if world.line is None or self._stopped:
                return
            if what.kind == "killed":
                self._down_ns = what.duration_ns
                raise Killed
            if what.kind == "ledger_refuses":
                self._ledger.refuses_until_ns = until_ns
            elif what.kind == "answer_delayed":
                world.answer_rests_until_ns = until_ns
            elif what.kind == "cut":
                world.network.cut(what.duration_ns)
            elif what.kind == "wall_stepped":
                world.clock.step_wall(-3_600_000_000_000)
            else:
                self.controller.silent = True
                world.after(what.duration_ns, self._speak)

        return happen

    def _speak(self) -> None:
        self.controller.silent = False
        self.controller.hello()

    def _restart(self) -> None:
        """The process is gone; its file descriptors are closed by the kernel, and the camera's frames meanwhile too."""
        if self._book is None:
            return
        self._kills += 1
        self.oracle.killed.add(self._book.epoch)
        self._book._release()  # what the kernel does to a dead process: descriptors close, nothing is written
        self.world.forget()
        self.world.book_rests_until_ns = self.world.answer_rests_until_ns = 0
        self.world.network.inbox.clear()
        self.world.let_pass(self._down_ns)
        while self._left and self._left[0].taken_ns <= self.world.clock.now_ns():
            shot = self._left.popleft()  # nobody was there to see it; with announcements the controller knows
            self.shots.pop(shot.frame_id)
        self._renumber()
        self._start()

    def _renumber(self) -> None:
        """Keep frame ids in step with numbers opened, so that ``_open`` knows which shot a number belongs to."""
        first = len(self.opened) + 1
        left = [Shot(first + index, s.taken_ns, s.cause, s.engine_ns) for index, s in enumerate(self._left)]
        self._left = deque(left)
        known = {frame_id: shot for frame_id, shot in self.shots.items() if frame_id < first}
        self.shots = known | {shot.frame_id: shot for shot in left}

    def _stop(self) -> None:
        """SIGTERM: the engine may be busy, parts may be waiting."""
        self._stopped = True
        if self.world.line is not None:
            self.world.line.stop()

    def _end(self) -> None:
        line, book = self.world.line, self._book
        if line is None or book is None:
            return
        counts = line.docket.statistics()
        if not counts.opened == counts.settled == counts.answered:
            self.oracle.faults.append(f"opened {counts.opened}, settled {counts.settled}, answered {counts.answered}")
        book.close()


class _Parts(Channel[Part]):
    """The queue of parts, telling the oracle what it hands back."""

    def __init__(self, capacity: int, oracle: Oracle, epoch: int) -> None:
        super().__init__(capacity)
        self._oracle, self._epoch = oracle, epoch

    def offer(self, item: Part) -> Part | None:
        displaced = super().offer(item)
        if displaced is not None:
            entry = displaced.entry
            self._oracle.hear_displaced((self._epoch, entry.sequence), entry.due_ns)
        return displaced


class _Rows(Channel[Row]):
    """The way to the book, telling the oracle when a part was settled."""

    def __init__(self, capacity: int, oracle: Oracle) -> None:
        super().__init__(capacity)
        self._oracle = oracle

    def offer(self, item: Row) -> Row | None:
        if isinstance(item, Settled):
            self._oracle.hear_settled(item.answer)
        return super().offer(item)


def simulate(
    seed: int, parts: int, folder: Path, faults: Faults | None = None, sabotage: Sabotage | None = None
) -> Result:
    """One seeded schedule; the same seed gives the same result."""
    chosen = faults or Faults()
    folder.mkdir(parents=True, exist_ok=True)
    plan = draw(seed, parts, chosen, start_ns=2_000 * MS, due_after_ns=GATE_NS - SLACK_NS)
    return Simulation(plan, chosen, folder, sabotage).run()


def figures(results: list[Result]) -> dict[str, Any]:
    """Totals over many schedules, keys as ``drill --json``."""
    outcomes: Counter[str] = sum((result.outcomes for result in results), Counter())
    lateness = percentiles([max(0, us) / 1000 for result in results for us in result.lateness_us])
    return {
        "schedules": len(results),
        "parts": sum(result.parts for result in results),
        "answered": outcomes.total(),
        "violations": sum(len(result.faults) for result in results),
        "kills": sum(result.kills for result in results),
        "outcomes": dict(sorted(outcomes.items())),
        "passed": outcomes[Verdict.PASS.value],
        "lateness_ms": lateness.to_json(),
        "first_violations": [f"seed {r.seed}: {fault}" for r in results for fault in r.faults][:10],
    }
