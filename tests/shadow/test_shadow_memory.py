"""What the line remembers for its shadow: a bounded number of parts, whole ones, and none without a shadow."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
from shadow_kit import answer, frame, lines_of, shadow_pid, stage

from inspector.clock import PushedClock
from inspector.conditions import Conditions
from inspector.frame import Frame, Reason, Verdict
from inspector.shadow.keeper import Shadow
from inspector.shadow.records import Job, Live
from tests.station_kit import settings
from tests.tiny_bundles import bundle, images


def idle_shadow(tmp_path: Path, *, views: int = 1, keep: int = 2, queue: int = 1) -> Shadow:
    """Switched on, with nobody who takes parts."""
    wanted = settings(
        tmp_path, shadow={"bundle": "x", "keep": keep}, camera={"views": views}, timing={"queue": queue, "gate_ms": 100}
    )
    clock = PushedClock()
    made = Shadow(
        wanted,
        ("c", "s"),
        clock=clock,
        conditions=Conditions(clock),
        on_event=lambda kind, text: None,
        idle=lambda: True,
    )
    made._on = True
    return made


def test_what_finds_no_idle_time_is_skipped_and_counted(tmp_path: Path) -> None:
    """The newest parts wait, at most ``shadow.keep``; every answered part is compared, skipped or waiting."""
    shadow = idle_shadow(tmp_path)
    for number in range(1, 21):
        shadow.came(frame(number))
        shadow.answered(answer(number))
    shadow.came(frame(21))
    shadow.answered(answer(21, Verdict.INVALID, Reason.LATE))
    shadow.answered(answer(22))  # its frame never came
    found = shadow.statistics()
    assert (found.waiting, found.skipped_busy, found.skipped_unjudged, found.skipped_gone) == (2, 18, 1, 1)
    job = shadow._next_job()
    assert job is not None and job.live.sequence == 19
    shadow._hashes = ("c", "other rules")
    assert shadow._next_job() is None
    assert shadow.statistics().skipped_recipe == 1


def test_frames_of_parts_that_are_never_answered_do_not_stay(tmp_path: Path) -> None:
    """At most the queue and four parts more are remembered, whatever the line does."""
    shadow = idle_shadow(tmp_path, queue=3)
    for number in range(1, 1000):
        shadow.came(frame(number))
    assert sorted(shadow._frames) == list(range(993, 1000))


def test_all_views_of_a_part_go_together(tmp_path: Path) -> None:
    """A part of three views is judged on its three frames, or not at all."""
    shadow = idle_shadow(tmp_path, views=3, keep=4)
    for number in range(1, 7):
        shadow.came(frame(number))
    shadow.answered(answer(1))
    shadow.answered(replace(answer(4)))
    job = shadow._next_job()
    assert job is not None and [int(one.pixels[0, 0]) for one in job.frames] == [1, 2, 3]
    shadow.answered(answer(7))
    assert shadow.statistics().skipped_gone == 1


def test_without_a_bundle_nothing_is_remembered_or_started(tmp_path: Path) -> None:
    """The default: no thread, no process, no frame held."""
    one = bundle(tmp_path, "one")
    with stage(tmp_path, one.path, None) as made:
        made.feed(1, images(1)[0])
        assert not made.shadow._frames and shadow_pid() == 0
        assert "shadow" not in {thread.name for thread in threading.enumerate()}
        assert made.shadow.statistics().on is False
        assert not any("shadow" in line for line in lines_of(made))


def test_a_job_comes_out_of_the_memory_as_it_went_in() -> None:
    """Frames of several sizes and the mask, in order, and the live answer field by field."""
    frames = (Frame(3, np.arange(20, dtype=np.uint8).reshape(4, 5), 11, origin_px=(7, 8), part_id="p3"), frame(4))
    mask = np.eye(6, dtype=np.bool_)[:, ::-1]
    job = Job(replace(Live.of(answer(3, rules=("x" * 500,) * 40)), truth=True), frames, mask)
    memory = np.concatenate([pixels.ravel() for pixels in job.pixels()])
    found = Job.from_json(json.loads(json.dumps(job.to_json())), memory)
    assert found.live == job.live
    assert len(found.live.rules) == 20 and max(map(len, found.live.rules)) == 200
    for one, other in zip(found.frames, frames, strict=True):
        assert (one.frame_id, one.origin_px, one.taken_ns) == (other.frame_id, other.origin_px, other.taken_ns)
        assert np.array_equal(one.pixels, other.pixels)
    assert found.mask is not None and np.array_equal(found.mask, mask)
