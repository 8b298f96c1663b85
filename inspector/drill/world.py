"""A simulated plant around the real line: pushed clock, camera, engine, network and controller on one event list.

The line's own steps, the real link (bytes and all) and the real ledger run in it; only what touches hardware or waits
is played. A step that would take time (the engine, a commit) lets the rest of the world go on meanwhile.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from inspector.camera import CameraStatistics
from inspector.clock import PushedClock
from inspector.drill.plan import MS, Cause, Faults, Shot
from inspector.engine import EngineInfo
from inspector.errors import EngineError, LedgerError
from inspector.frame import Answer, Crop, Decision, FloatMap, Frame, Geometry, Missed, Reason, invalid
from inspector.ledger.book import Book, Row
from inspector.line import Line
from inspector.link import wire
from inspector.link.controller import ControllerLink
from inspector.link.messages import AnswerMessage
from inspector.link.router import Received, Sent

PLC = b"plc"
LATENCY_NS = 200_000
_SIDE = 12


class Killed(Exception):
    """kill -9: everything in the daemon's memory is gone."""


class World:
    """Time, events and who is busy."""

    def __init__(self, seed: int) -> None:
        self.clock = PushedClock()
        self.random = random.Random(seed)
        self.line: Line | None = None
        self.link: ControllerLink | None = None
        self.camera: SimCamera | None = None
        self.busy: set[str] = set()
        self.book_rests_until_ns = self.answer_rests_until_ns = 0
        self.on_answered: Callable[[], None] = lambda: None
        self._stalled = False
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, delay_ns: int, happens: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self.clock.now_ns() + delay_ns, next(self._numbers), happens))

    def let_pass(self, duration_ns: int) -> None:
        """Time passes; whoever is not busy works."""
        end_ns = self.clock.now_ns() + duration_ns
        while True:
            self._work()
            at_ns = self._next_ns()
            if at_ns is None or at_ns > end_ns:
                break
            self.clock.push(max(0, at_ns - self.clock.now_ns()))
            while self._events and self._events[0][0] <= self.clock.now_ns():
                heapq.heappop(self._events)[2]()
        self.clock.push(max(0, end_ns - self.clock.now_ns()))
        self._work()

    def stall(self, duration_ns: int, chance: float) -> None:
        """Perhaps the thread whose step this is does not run for so long."""
        if self.random.random() < chance:
            self._stalled = True
            self.let_pass(duration_ns)

    def forget(self) -> None:
        """The daemon is gone; the plant goes on."""
        self.line = self.link = self.camera = None
        self.busy.clear()

    def _next_ns(self) -> int | None:
        times = [self._events[0][0]] if self._events else []
        if self.line is not None and self.link is not None and self.camera is not None:
            if "acquire" not in self.busy and self.camera.next_ns is not None:
                times.append(self.camera.next_ns)
            if "answer" not in self.busy:
                wakes = [self.line.docket.next_due_ns(), self.link.next_wake_ns()]
                times += [max(wake, self.answer_rests_until_ns) for wake in wakes if wake is not None]
            if "book" not in self.busy and self.line.has_unwritten:
                times.append(self.book_rests_until_ns)
        return min(times) if times else None

    def _work(self) -> None:
        while self.line is not None and self._one_step(self.line):
            continue

    def _one_step(self, line: Line) -> bool:
        now_ns = self.clock.now_ns()
        camera, link = self.camera, self.link
        if camera is None or link is None:
            return False
        if "acquire" not in self.busy and camera.next_ns is not None and camera.next_ns <= now_ns:
            return self._do("acquire", line.acquire)
        if "answer" not in self.busy and now_ns >= self.answer_rests_until_ns and self._must_answer(line, link):
            self._stalled = False
            self._do("answer", line.answer)
            if not self._stalled:
                self.on_answered()
            due_ns = line.docket.next_due_ns()
            if due_ns is not None and due_ns <= now_ns:
                self.answer_rests_until_ns = now_ns + MS  # a line broken on purpose must not stop the world
            return True
        waiting = line.rows.statistics().waiting
        if "book" not in self.busy and now_ns >= self.book_rests_until_ns and (waiting or line.has_unwritten):
            return self._do("book", line.book)
        if "inspect" not in self.busy and line.parts.statistics().waiting:
            return self._do("inspect", line.inspect)
        return False

    def _must_answer(self, line: Line, link: ControllerLink) -> bool:
        now_ns = self.clock.now_ns()
        wakes = [line.docket.next_due_ns(), link.next_wake_ns()]
        due = any(wake is not None and wake <= now_ns for wake in wakes)
        return due or bool(line.committed.statistics().waiting) or bool(self.network.inbox)

    def _do(self, name: str, step: Callable[[], None]) -> bool:
        self.busy.add(name)
        step()
        self.busy.discard(name)
        return True

    network: Network


@dataclass(slots=True)
class SimCamera:
    """Delivers the planned shots at their times."""

    world: World
    shots: deque[Shot]
    name: str = "simulated"

    @property
    def next_ns(self) -> int | None:
        return self.shots[0].taken_ns if self.shots else None

    @property
    def exhausted(self) -> bool:
        return not self.shots

    def open(self) -> None:
        return

    def close(self) -> None:
        return

    def next(self, timeout_s: float) -> Frame | Missed | None:
        if not self.shots or self.shots[0].taken_ns > self.world.clock.now_ns():
            return None
        shot = self.shots.popleft()
        if shot.cause in (Cause.MISSED, Cause.INCOMPLETE):
            reason = Reason.MISSED if shot.cause is Cause.MISSED else Reason.INCOMPLETE
            return Missed(shot.frame_id, shot.taken_ns, reason)
        pixels = np.zeros((1, 1), np.uint8)
        return Frame(shot.frame_id, pixels, shot.taken_ns, truth=shot.cause is Cause.DEFECT)

    def statistics(self) -> CameraStatistics:
        return CameraStatistics(connected=True)


class SimSight:
    """Preprocessing and engine in one, so that the engine knows which part it has in hand."""

    info = EngineInfo("simulated", "simulated", "1", "fp32", "none", "0" * 64, "0" * 64, _SIDE, _SIDE)

    def __init__(self, world: World, causes: dict[int, Shot]) -> None:
        self._world, self._causes = world, causes
        self._shot: Shot | None = None
        self.examined: set[int] = set()
        self.tiled = False

    def prepare(self, frame: Frame) -> Crop | Decision:
        shot = self._shot = self._causes[frame.frame_id]
        self.examined.add(frame.frame_id)
        if shot.cause is Cause.BLANK:
            return invalid(Reason.BAD_IMAGE, "blank")
        if shot.cause is Cause.NOT_LOCATED:
            return invalid(Reason.NOT_LOCATED, "no part")
        return Crop(np.zeros((1, 1, _SIDE, _SIDE), np.float32), np.zeros((_SIDE, _SIDE), np.uint8), Geometry())

    def infer(self, batch: FloatMap) -> FloatMap:
        shot = self._shot
        out = np.zeros_like(batch)
        if shot is None:
            return out
        self._world.let_pass(shot.engine_ns)
        if shot.cause is Cause.ENGINE_ERROR:
            raise EngineError("the engine failed on purpose")
        if shot.cause is Cause.NOT_FINITE:
            out[0, 0, 5, 5] = np.nan
        if shot.cause is Cause.DEFECT:
            out[0, 0, 3:8, 3:8] = 0.9
        return out

    def close(self) -> None:
        return


class SimLedger:
    """The real book, with commits that take time and a disk that refuses now and then."""

    def __init__(self, world: World, book: Book, faults: Faults) -> None:
        self._world, self.book, self._faults = world, book, faults
        self.refuses_until_ns = 0
        self.on_committed: Callable[[Sequence[Row]], None] = lambda rows: None

    @property
    def durable(self) -> int:
        return self.book.durable

    def write(self, batch: Sequence[Row]) -> None:
        dice = self._world.random
        slow = dice.random() < self._faults.commit_slow
        self._world.let_pass(dice.randrange(20, 200) * (MS if slow else 1000))
        if self._world.clock.now_ns() < self.refuses_until_ns:
            raise LedgerError("the disk refuses on purpose")
        self.book.write(batch)
        self.on_committed(batch)


class Network:
    """Stands in for the ROUTER socket: delivers after a latency, loses what is on the way when the line is cut."""

    keyed = False
    authenticating = True

    def __init__(self, world: World, controller: SimController) -> None:
        self._world, self._controller = world, controller
        self.inbox: deque[Received] = deque()
        self.connected = True
        self._generation = 0

    def open(self, endpoint: str) -> str:
        return endpoint

    def wake(self) -> None:
        return

    def wait(self, timeout_s: float) -> None:
        return

    def owned(self) -> None:
        return

    def admits(self, user_id: str) -> bool:
        return True

    def reload_keys(self) -> None:
        return

    def close(self, linger_s: float) -> None:
        self.inbox.clear()

    def receive(self) -> Received | None:
        return self.inbox.popleft() if self.inbox else None

    def put(self, identity: bytes, frames: list[bytes]) -> Sent:
        if not self.connected:
            return Sent.UNREACHABLE
        generation = self._generation
        self._world.after(LATENCY_NS, lambda: self._arrive(generation, frames))
        return Sent.QUEUED

    def to_daemon(self, frames: list[bytes]) -> None:
        """What the controller sends."""
        generation = self._generation
        self._world.after(LATENCY_NS, lambda: self._come_in(generation, frames))

    def cut(self, duration_ns: int) -> None:
        """The connection breaks and comes back."""
        if self.connected:
            self.connected = False
            self._generation += 1
            self._world.after(duration_ns, self._reconnect)

    def _reconnect(self) -> None:
        self.connected = True
        self._controller.hello()

    def _arrive(self, generation: int, frames: list[bytes]) -> None:
        if generation == self._generation:
            self._controller.hear(frames)

    def _come_in(self, generation: int, frames: list[bytes]) -> None:
        if generation == self._generation and self._world.line is not None:
            self.inbox.append(Received(PLC, frames, ""))


class SimController:
    """Keeps the first of each answer and acknowledges each copy, unless it is told to misbehave."""

    def __init__(self, world: World, faults: Faults) -> None:
        self._world, self._faults = world, faults
        self.silent = False
        self.first: dict[tuple[int, int], tuple[Answer, int]] = {}
        self._digests: dict[tuple[int, int], bytes] = {}
        self.conflicts: list[tuple[Answer, Answer]] = []

    def hello(self) -> None:
        if not self.silent:
            self._world.network.to_daemon(wire.pack_hello(0, 0))

    def keep_saying_hello(self) -> None:
        """Once a second, as the protocol asks."""
        self.hello()
        self._world.after(1000 * MS, self.keep_saying_hello)

    def hear(self, frames: list[bytes]) -> None:
        message = wire.unpack(frames)
        if not isinstance(message, AnswerMessage):
            return
        answer = message.answer
        key, digest = (answer.epoch, answer.sequence), wire.content_digest(frames)
        if key not in self.first:
            self.first[key], self._digests[key] = (answer, self._world.clock.now_ns()), digest
        elif self._digests[key] != digest:
            self.conflicts.append((self.first[key][0], answer))
        dice = self._world.random
        copies = 0 if dice.random() < self._faults.ack_lost else 2 if dice.random() < self._faults.ack_doubled else 1
        for _ in range(0 if self.silent else copies):
            self._world.network.to_daemon(wire.pack_ack(answer.epoch, [answer.sequence]))
