"""What the shadow's tests share: a station fed one frame at a time, its shadow's process, answers and frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inspector.bench import OneAtATime
from inspector.cli.service import status_lines
from inspector.clock import SystemClock
from inspector.engine import Engine
from inspector.frame import Answer, Evidence, Frame, Hashes, Reason, Settled, Verdict
from inspector.shadow.keeper import Shadow
from inspector.shadow.records import Outcome
from tests.station_kit import Running, Wrapped, running, settings
from tests.tiny_bundles import eager_shadow

PATIENCE_S = 60
"""Far beyond what anything here takes; only a hang reaches it."""


def wait_until(holds: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    """For what has no event of its own: a process's state, a count."""
    clock, beat = SystemClock(), threading.Event()
    until_ns = clock.now_ns() + PATIENCE_S * 1_000_000_000
    while not holds():
        assert clock.now_ns() < until_ns, what()
        beat.wait(0.01)


@dataclass
class Stage:
    """A station that is fed one frame at a time, and what its shadow said."""

    seen: Running
    camera: OneAtATime
    sent_ns: dict[int, int]
    outcomes: list[Outcome] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    @property
    def shadow(self) -> Shadow:
        return self.seen.station.rooms.shadow

    def compared(self, outcome: Outcome) -> None:
        with self.came:
            self.outcomes.append(outcome)
            self.came.notify_all()

    def feed(self, number: int, pixels: np.ndarray, part_id: str = "") -> None:
        """One frame, and its answer."""
        before = len(self.seen.arrivals)
        self.camera.push(Frame(number, pixels, 0, part_id=part_id or f"part-{number}"))
        self.seen.wait_for(lambda arrivals: len(arrivals) > before, PATIENCE_S)

    def wait_compared(self, count: int) -> None:
        with self.came:
            assert self.came.wait_for(lambda: len(self.outcomes) >= count, PATIENCE_S), self.shadow.statistics()


@contextmanager
def stage(folder: Path, live: Path, shadow: Path | str | None, **more: Any) -> Iterator[Stage]:
    """``infer`` and ``station_hook`` among ``more``: the live engine's, and a look before the shadow starts."""
    infer, config_path = more.pop("infer", None), more.pop("config_path", None)
    wanted = settings(
        folder,
        engine={"bundle": live, "threads": 1},
        shadow={"bundle": shadow} if shadow is not None else {},
        timing={"gate_ms": 20_000.0},
        **more,
    )
    camera, sent_ns = OneAtATime(SystemClock()), dict[int, int]()

    def wrap(engine: Engine) -> Engine:
        return Wrapped(engine, infer) if infer is not None else engine

    hooks = {"wrap_camera": lambda _: camera, "wrap_engine": wrap}
    with eager_shadow(), running(wanted, config_path=config_path, **hooks) as seen:
        link = seen.station.line.link
        send = link.send

        def sent(answer: Answer, *, durable: int) -> bool:
            done = send(answer, durable=durable)
            sent_ns[answer.sequence] = SystemClock().now_ns()
            return done

        link.send = sent  # type: ignore[method-assign]
        made = Stage(seen, camera, sent_ns)
        made.shadow.on_compared = made.compared
        yield made


def lines_of(made: Stage) -> list[str]:
    """What ``status`` prints of this station."""
    return status_lines(made.seen.station.vitals.look().to_json())


# -- its process -------------------------------------------------------------------------------------------------------


def state_of(pid: int) -> str:
    """R, S, T ... as the kernel says; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def shadow_pid() -> int:
    """The one shadow's process among our children; 0 where there is none, or more than one."""
    found = []
    for each in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread or a child that ended a moment ago
            for pid in (each / "children").read_text(encoding="ascii").split():
                if b"inspector.shadow.process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
    return found[0] if len(found) == 1 else 0


# -- parts -------------------------------------------------------------------------------------------------------------


def answer(number: int, verdict: Verdict = Verdict.PASS, reason: Reason | None = None, **more: Any) -> Settled:
    fields: dict[str, Any] = {
        "rules": (),
        "defects": (),
        "score": 0.1,
        "review": False,
        "hashes": Hashes("e", "c", "s"),
    }
    fields |= {"taken_ns": 1, "due_ns": 9, "settled_ns": 5, "wall_ns": 7} | more
    made = Answer(
        epoch=1, sequence=number, part_id=f"p{number}", frame_id=number, verdict=verdict, reason=reason, **fields
    )
    return Settled(made, Evidence(), None)


def frame(number: int) -> Frame:
    return Frame(number, np.full((4, 5), number % 256, np.uint8), 1)
