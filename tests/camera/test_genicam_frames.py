"""Frames of the real viky.cti and of the drill's producer: every id once, whole, or missed by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from genicam_kit import Bench, count, ids, pattern, until, watch

from inspector.camera.genicam import GenicamCamera
from inspector.clock import SystemClock
from inspector.drill.producer import CONTROL_VARIABLE, Count, Fault, ProducerControl
from inspector.frame import Frame, Missed, Reason

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the camera process needs Linux")


def test_viky_at_100_hz_loses_nothing() -> None:
    """The real simulated camera at 100 Hz, 400 x 400: every id, in order, whole."""
    camera = GenicamCamera(
        clock=SystemClock(),
        serial="0",
        features=[("PixelFormat", "Mono8"), ("AcquisitionFrameRate", 100.0)],
        buffers=256,
        ring_slots=256,
        connect_s=60.0,  # a start is mostly imports: on a crowded machine they take their time
        tell=lambda *_: None,
    )
    camera.open()
    items = count(camera, 200)
    camera.close()
    assert all(isinstance(item, Frame) and item.pixels.shape == (400, 400) for item in items)
    assert ids(items) == list(range(items[0].frame_id, items[0].frame_id + 200))
    assert camera.name == "genicam Viky 0"
    square = items[0]
    assert isinstance(square, Frame)
    assert 0 < int((square.pixels < 128).sum()) < 0.1 * square.pixels.size


def test_every_shot_is_accounted_for(bench: Bench) -> None:
    """Skipped ids are MISSED, incomplete buffers INCOMPLETE, all others frames with their own pixels and window."""
    window = (24, 10, 96, 64)
    bench.control.set(Fault.SKIP_EVERY, 11)
    bench.control.set(Fault.INCOMPLETE_EVERY, 7)
    bench.control.set(Fault.FRAME_LIMIT, 201)
    camera = bench.camera(window=window)
    camera.open()
    items = count(camera, 201)
    assert camera.next(0.1) is None
    assert ids(items) == list(range(1, 202))
    for item in items:
        number = item.frame_id
        if number % 11 == 0:
            assert isinstance(item, Missed)
            assert item.reason is Reason.MISSED
        elif number % 7 == 0:
            assert isinstance(item, Missed)
            assert item.reason is Reason.INCOMPLETE
        else:
            assert isinstance(item, Frame)
            assert item.origin_px == (24, 10)
            assert np.array_equal(item.pixels, pattern(number - 1, window))
            assert item.pixels.flags.owndata
            assert item.camera_ns <= item.taken_ns <= SystemClock().now_ns()
    statistics = camera.statistics()
    assert (statistics.frames, statistics.missed, statistics.incomplete) == (157, 18, 26)
    assert statistics.connected
    assert bench.control.get(Count.SHOTS) == 201


def test_ids_wrap_at_16_bits(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """65535 -> 1 is no loss, and a frame skipped at the wrap is one MISSED."""
    with ProducerControl(tmp_path / "control16", width=64, height=48, first_id=65530, id_bits=16) as control:
        monkeypatch.setenv(CONTROL_VARIABLE, str(control.path))
        control.set(Fault.SKIP_EVERY, 7)
        control.set(Fault.FRAME_LIMIT, 20)
        camera = bench.camera(frame_id_bits=16)
        camera.open()
        items = count(camera, 20)
        camera.close()
    assert ids(items) == list(range(65530, 65550))
    assert [item.frame_id for item in items if isinstance(item, Missed)] == [65536, 65543]


def test_truncated_pixels_are_incomplete(bench: Bench) -> None:
    """A buffer that calls itself complete but holds too few bytes is INCOMPLETE, and the journal says why."""
    bench.control.set(Fault.TRUNCATE_NEXT, 2)
    camera = bench.camera()
    camera.open()
    items = count(camera, 6)
    assert [isinstance(item, Missed) and item.reason is Reason.INCOMPLETE for item in items] == [True] * 2 + [False] * 4
    until(camera, lambda _: bool(bench.told("frame counted as incomplete")))  # comes by another way than the frames
    assert "bytes instead of" in str(bench.told("frame counted as incomplete")[0]["why"])


def test_a_full_ring_loses_the_newest_by_name(bench: Bench) -> None:
    """Frames beyond the ring's slots are MISSED with their ids; the unread ones stay as they were."""
    camera = bench.camera(
        features=[("TriggerSource", "Line1"), ("TriggerMode", "On")], ring_slots=4, window=(8, 8, 32, 32)
    )
    camera.open()
    bench.control.trigger(10)
    watch(lambda: camera.statistics().overruns == 6)
    items = count(camera, 10)
    assert ids(items) == list(range(1, 11))
    assert [isinstance(item, Frame) for item in items] == [True] * 4 + [False] * 6
    for item in items[:4]:
        assert isinstance(item, Frame)
        assert np.array_equal(item.pixels, pattern(item.frame_id - 1, (8, 8, 32, 32)))
    bench.control.trigger()
    assert isinstance(count(camera, 1)[0], Frame)


def test_a_counter_that_restarts_does_not_stop_the_line(bench: Bench) -> None:
    """Ids that run backward are noted and counted once; frames and our numbers go on."""
    camera = bench.camera()
    camera.open()
    before = count(camera, 60)
    bench.control.set(Fault.BACK, 50)
    after = until(camera, lambda items: camera.statistics().resyncs == 1 and len(items) > 30)
    assert all(isinstance(item, Frame) for item in before + after)
    assert ids(before + after) == list(range(1, len(before) + len(after) + 1))
    assert any("backward" in str(told["what"]) for told in bench.told("frame ids"))


FALLBACK = """
import sys
from inspector.camera.fetch import HarvestersFetcher
from inspector.camera.session import Order, Session
from inspector.clock import SystemClock, sleep_s
order = Order((sys.argv[1],), features=(("AcquisitionFrameRate", 100.0),), buffers=128)
session = Session(order, SystemClock(), sleep_s)
opened = session.open()
assert opened.way == "direct", opened.way_why
fetcher = HarvestersFetcher(session._acquirer, opened.width, opened.height, SystemClock())
for expected in range(1, 60):
    while (taken := fetcher.fetch(50)) is None:
        pass
    assert taken.frame_id == expected, (taken.frame_id, expected)
    assert int(taken.pixels[3, 20]) == (3 + 20 + expected - 1) % 256
    assert 0 < taken.camera_ns <= taken.fetched_ns
    fetcher.give_back(taken)
session.close()
print("ok")
"""


def test_without_private_names_frames_come_through_harvesters(bench: Bench) -> None:
    """The second way delivers the same frames with the same ids, and their time stamps."""
    done = subprocess.run(
        [sys.executable, "-c", FALLBACK, str(bench.cti)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == "ok\n", done.stderr
