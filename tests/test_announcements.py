"""With announcements on, the controller's word is the trigger: frames and announcements must meet."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from inspector.bench import OneAtATime
from inspector.clock import SystemClock
from inspector.frame import Frame, Reason, Verdict
from tests.station_kit import Running, Wrapped, running, settings, trivial


def _frame(number: int) -> Frame:
    pixels = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    return Frame(number, pixels, 0)


def _settings(folder: Path, gate_ms: float = 1500.0):  # type: ignore[no-untyped-def]
    return settings(
        folder,
        link={"announcements": True, "frame_earliest_ms": -150.0, "frame_latest_ms": 150.0},
        timing={"gate_ms": gate_ms},
    )


def _announce(seen: Running, counter: int, part_id: str) -> None:
    assert seen.controller is not None
    assert seen.controller.wait_for(lambda counts: counts.connected, 10)
    seen.controller.announce(counter, part_id)


@pytest.mark.parametrize("first", ["announcement", "frame"])
def test_a_part_is_announced_then_seen_or_seen_then_announced(tmp_path: Path, first: str) -> None:
    """Either order gives one answer with the controller's part id."""
    camera = OneAtATime(SystemClock())
    hooks = {"wrap_camera": lambda _: camera, "wrap_engine": lambda engine: Wrapped(engine, trivial)}
    with running(_settings(tmp_path), **hooks) as seen:
        for number in (1, 2, 3):
            if first == "frame":
                camera.push(_frame(number))
            _announce(seen, 6 + number, f"bar {number}")
            if first == "announcement":
                _until_opened(seen, number)
                camera.push(_frame(number))
            seen.wait_for(lambda came, wanted=number: len(came) == wanted)  # type: ignore[misc]
            seen.station.latch.wait(0.35)  # parts are told apart by time
    answers = [one.answer for one in seen.arrivals]
    assert [(one.part_id, one.frame_id) for one in answers if one.verdict is Verdict.PASS] == [("bar 3", 3)]
    assert [one.reason for one in answers[:2]] == [Reason.MISSED, Reason.MISSED]  # until three agree


def test_an_announced_part_without_a_frame_is_missed(tmp_path: Path) -> None:
    """At its due time, with the cause."""
    camera = OneAtATime(SystemClock())
    with running(_settings(tmp_path, 300.0), wrap_camera=lambda _: camera) as seen:
        _announce(seen, 7, "lonely")
        seen.wait_for(lambda came: len(came) == 1)
    answer = seen.arrivals[0].answer
    assert (answer.part_id, answer.frame_id, answer.reason) == ("lonely", -1, Reason.MISSED)


def test_a_frame_that_nobody_announced_is_invalid(tmp_path: Path) -> None:
    """It is a part all the same, and somebody must hear of it."""
    camera = OneAtATime(SystemClock())
    told: list[str] = []
    with running(_settings(tmp_path), wrap_camera=lambda _: camera) as seen:
        event = seen.station.line._on_event

        def listen(kind: str, text: str) -> None:
            told.append(kind)
            event(kind, text)

        seen.station.line._on_event = listen
        camera.push(_frame(3))
        seen.wait_for(lambda came: len(came) == 1)
    assert seen.arrivals[0].answer.reason is Reason.MISSED
    assert "unannounced" in told


def _until_opened(seen: Running, count: int) -> None:
    pause = threading.Event()
    for _ in range(400):
        if seen.station.line.docket.statistics().opened >= count:
            return
        pause.wait(0.01)
    raise AssertionError("the announcement did not open a docket entry")
