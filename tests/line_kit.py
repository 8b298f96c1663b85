"""A whole line on one thread: real docket, book and link, a played socket, a camera to push into, pushed time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inspector.camera import CameraStatistics
from inspector.clock import PushedClock
from inspector.conditions import Conditions
from inspector.decision import Alarms, Limits, Rules
from inspector.docket import Docket
from inspector.engine import EngineInfo
from inspector.errors import LedgerError
from inspector.fittings import Pace, Recipe
from inspector.flow import Channel
from inspector.frame import Answer, Crop, FloatMap, Frame, Geometry, Hashes, Missed
from inspector.ledger.book import Book, Row
from inspector.line import Line
from inspector.link import wire
from inspector.link.controller import ControllerLink
from inspector.link.messages import AnswerMessage
from inspector.link.router import Received, Sent

MS = 1_000_000
HASHES = Hashes("e" * 16, "c" * 16, "a" * 16)


class Wire:
    """In place of the ROUTER socket: keeps what is sent, and says what it is told to."""

    keyed, authenticating = False, True

    def __init__(self, clock: PushedClock) -> None:
        self._clock = clock
        self._inbox: deque[Received] = deque()
        self.sent: list[tuple[int, Answer]] = []
        """(when, what) of each answer."""
        self.says = Sent.QUEUED

    def open(self, endpoint: str) -> str:
        return endpoint

    def wake(self) -> None: ...

    def wait(self, timeout_s: float) -> None: ...

    def owned(self) -> None: ...

    def reload_keys(self) -> None: ...

    def close(self, linger_s: float) -> None: ...

    def admits(self, user_id: str) -> bool:
        return True

    def receive(self) -> Received | None:
        return self._inbox.popleft() if self._inbox else None

    def put(self, identity: bytes, frames: list[bytes]) -> Sent:
        message = wire.unpack(frames)
        if self.says is Sent.QUEUED and isinstance(message, AnswerMessage):
            self.sent.append((self._clock.now_ns(), message.answer))
        return self.says

    def say(self, frames: list[bytes]) -> None:
        """The controller speaks."""
        self._inbox.append(Received(b"plc", frames, ""))


class Lens:
    """A camera that gives what is pushed into it, at once or never."""

    name, exhausted = "lens", False

    def __init__(self) -> None:
        self.waiting: deque[Frame | Missed] = deque()

    def open(self) -> None: ...

    def close(self) -> None: ...

    def next(self, timeout_s: float) -> Frame | Missed | None:
        return self.waiting.popleft() if self.waiting else None

    def statistics(self) -> CameraStatistics:
        return CameraStatistics(connected=True)


class Eye:
    """Preprocessing and engine in one: a white frame is defective. Remembers what it saw."""

    info = EngineInfo("eye", "eye", "1", "fp32", "none", "0" * 64, "0" * 64, 12, 12)
    tiled = False

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._white = False

    def prepare(self, frame: Frame) -> Crop:
        self.seen.append(frame.frame_id)
        self._white = bool(frame.pixels[0, 0])
        return Crop(np.zeros((1, 1, 12, 12), np.float32), np.zeros((12, 12), np.uint8), Geometry())

    def infer(self, batch: FloatMap) -> FloatMap:
        scores = np.zeros_like(batch)
        if self._white:
            scores[0, 0, 3:8, 3:8] = 0.9
        return scores

    def close(self) -> None: ...


class Rig:
    """The line; ``steps`` lets each of its threads take one step."""

    def __init__(
        self, folder: Path, pace: Pace | None = None, *, gate_ms: int = 60, slack_ms: int = 5, rows: int = 4096
    ) -> None:
        self.clock, self.events = PushedClock(), list[tuple[str, str]]()
        self.book = Book(folder / "ledger.db", clock=self.clock, ballast_bytes=0)
        self.book.open()
        self.refuses = False
        self.wire, self.lens, self.eye = Wire(self.clock), Lens(), Eye()
        self.link = ControllerLink("tcp://127.0.0.1:*", epoch=self.book.epoch, clock=self.clock, router=self.wire)
        self.link.open()
        self.docket = Docket(
            epoch=self.book.epoch,
            gate_ns=gate_ms * MS,
            slack_ns=slack_ms * MS,
            commit_margin_ns=2 * MS,
            on_open=self.book.mark_opened,
        )
        self.conditions = Conditions(self.clock)
        self.line = Line(
            camera=self.lens,
            docket=self.docket,
            ledger=self,
            link=self.link,
            clock=self.clock,
            conditions=self.conditions,
            alarms=Alarms(0, 1),
            pace=pace or Pace(),
            queue=8,
            on_event=lambda kind, text: self.events.append((kind, text)),
            on_unbooked=self.book.unbooked.note,
            pause=lambda seconds: None,
        )
        self.line.rows = Channel(rows)
        self.use(HASHES)
        self.wire.say(wire.pack_hello(0, 0))
        self.line.answer()

    @property
    def durable(self) -> int:
        return self.book.durable

    def write(self, batch: Sequence[Row]) -> None:
        """The ledger, while it does not refuse."""
        if self.refuses:
            raise LedgerError("the disk is full")
        self.book.write(batch)

    def use(self, hashes: Hashes) -> None:
        """Decide with this recipe from now on."""
        eye: Any = self.eye
        self.line.use(Recipe(eye, eye, Rules(0.5, Limits(min_area_map_px=4)), hashes))

    def frame(self, frame_id: int, *, white: bool = False, age_ms: int = 0) -> None:
        """A frame comes; ``acquire`` takes it."""
        pixels = np.full((4, 4), 255 * white, np.uint8)
        self.lens.waiting.append(Frame(frame_id, pixels, self.clock.now_ns() - age_ms * MS))
        self.line.acquire()

    def announce(self, counter: int, part_id: str) -> None:
        """The controller announces a part, and is heard."""
        self.wire.say(wire.pack_announce(counter, part_id, 0))
        self.line.answer()

    def steps(self, push_ms: int = 0) -> None:
        """Let time pass, then each thread takes a step; the controller acknowledges."""
        self.clock.push(push_ms * MS)
        self.line.acquire()
        self.line.answer()
        while self.line.parts.statistics().waiting:
            self.line.inspect()
        if self.line.rows.statistics().waiting or self.line.has_unwritten:  # else it would wait for rows, in real time
            self.line.book()
        self.line.answer()
        for answer in self.told().values():
            self.wire.say(wire.pack_ack(answer.epoch, [answer.sequence]))
        self.line.answer()

    def told(self) -> dict[int, Answer]:
        """What the controller knows: the first answer to each number. Fails where a number was answered twice."""
        first: dict[int, Answer] = {}
        for _, answer in self.wire.sent:
            known = first.setdefault(answer.sequence, answer)
            assert (known.verdict, known.reason) == (answer.verdict, answer.reason)
        return first

    def words(self) -> dict[str, str]:
        """Part id to verdict, or the reason of an INVALID."""
        return {answer.part_id: word(answer) for answer in self.told().values()}


def word(answer: Answer) -> str:
    """The verdict, or the reason of an INVALID."""
    return answer.reason.value if answer.reason else answer.verdict.value
