"""Seeded fault schedules: what happens to each part is fixed before the line starts."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

MS = 1_000_000


class Cause(enum.Enum):
    """What is wrong, or not, with one shot."""

    GOOD = "good"
    DEFECT = "defect"
    MISSED = "missed"
    INCOMPLETE = "incomplete"
    BLANK = "blank"
    NOT_LOCATED = "not located"
    ENGINE_ERROR = "engine error"
    NOT_FINITE = "not finite"


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities per part; a schedule is these and a seed."""

    missed: float = 0.02
    incomplete: float = 0.02
    blank: float = 0.02
    not_located: float = 0.02
    engine_error: float = 0.02
    not_finite: float = 0.02
    engine_slow: float = 0.03
    """30 to 120 ms: near and past the due time."""
    engine_hang: float = 0.005
    """Half a second."""
    photo_finish: float = 0.02
    """The engine ends within a millisecond of the due time, and the answering thread just then does not run."""
    burst: float = 0.02
    """Ten parts within 2 ms."""
    commit_slow: float = 0.01
    ledger_refuses: float = 0.004
    answer_delayed: float = 0.02
    """The answering thread does not run for up to 3 ms."""
    answer_stalled: float = 0.5
    """Of the decisions that leave within 3 ms of their due time: the answering thread does not run until it is over."""
    ack_lost: float = 0.1
    ack_doubled: float = 0.05
    cut: float = 0.004
    silent: float = 0.004
    wall_stepped: float = 0.01
    killed: float = 0.002


@dataclass(frozen=True, slots=True)
class Shot:
    """One trigger of the plan."""

    frame_id: int
    taken_ns: int
    cause: Cause
    engine_ns: int


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Something that happens to the plant at a time, not to a part."""

    at_ns: int
    kind: str
    duration_ns: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All shots and disturbances of one schedule."""

    seed: int
    shots: tuple[Shot, ...]
    disturbances: tuple[Disturbance, ...]


_DISTURBANCES = ("ledger_refuses", "answer_delayed", "cut", "silent", "wall_stepped", "killed")


def draw(seed: int, parts: int, faults: Faults, *, start_ns: int, due_after_ns: int, period_ns: int = 20 * MS) -> Plan:
    """The plan of this seed: ``parts`` shots from ``start_ns`` on, one each ``period_ns`` but for bursts."""
    dice = random.Random(seed)
    shots: list[Shot] = []
    disturbances: list[Disturbance] = []
    at_ns, hurried = start_ns, 0
    for frame_id in range(1, parts + 1):
        if dice.random() < faults.burst:
            hurried = 10
        at_ns += 200_000 if hurried else period_ns + dice.randrange(-MS, MS)
        hurried = max(0, hurried - 1)
        engine_ns = 500 * MS if frame_id == parts else _engine_ns(dice, faults)  # stopping finds a busy engine
        if dice.random() < faults.photo_finish:
            engine_ns = due_after_ns + dice.randrange(-MS, MS)
            disturbances.append(Disturbance(at_ns + due_after_ns - MS, "answer_delayed", 3 * MS))
        shots.append(Shot(frame_id, at_ns, _cause(dice, faults), engine_ns))
        for kind in _DISTURBANCES:
            if dice.random() < getattr(faults, kind):
                disturbances.append(Disturbance(at_ns + dice.randrange(0, period_ns), kind, _duration_ns(dice, kind)))
    return Plan(seed, tuple(shots), tuple(disturbances))


def _cause(dice: random.Random, faults: Faults) -> Cause:
    roll = dice.random()
    for cause, share in (
        (Cause.MISSED, faults.missed),
        (Cause.INCOMPLETE, faults.incomplete),
        (Cause.BLANK, faults.blank),
        (Cause.NOT_LOCATED, faults.not_located),
        (Cause.ENGINE_ERROR, faults.engine_error),
        (Cause.NOT_FINITE, faults.not_finite),
    ):
        roll -= share
        if roll < 0:
            return cause
    return Cause.DEFECT if dice.random() < 0.3 else Cause.GOOD


def _engine_ns(dice: random.Random, faults: Faults) -> int:
    roll = dice.random()
    if roll < faults.engine_hang:
        return 500 * MS
    if roll < faults.engine_hang + faults.engine_slow:
        return dice.randrange(30 * MS, 120 * MS)
    return dice.randrange(4 * MS, 9 * MS)


def _duration_ns(dice: random.Random, kind: str) -> int:
    longest = {"ledger_refuses": 400, "answer_delayed": 3, "cut": 500, "silent": 1500, "wall_stepped": 1, "killed": 300}
    shortest_ns = 20 * MS if kind == "killed" else MS // 10  # no process restarts faster
    return dice.randrange(shortest_ns, longest[kind] * MS)
