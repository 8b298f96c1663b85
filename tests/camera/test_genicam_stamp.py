"""A camera process that stands still: its frames are as old as their stamps say, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
from importlib import resources
from pathlib import Path

import pytest
from genicam_kit import Bench, Item, count, until

from inspector.camera.genicam import GenicamCamera
from inspector.clock import SystemClock, sleep_s
from inspector.drill.producer import Fault
from inspector.frame import Frame, Missed

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the camera process needs Linux")

AHEAD_NS = 5_000_000_000_000
"""Of the host's clock, as in own_clock.c."""
PERIOD_NS = 10_000_000
STOP_S = 1.5
MS = 1_000_000


@pytest.fixture
def own_clock(bench: Bench, tmp_path: Path) -> Bench:
    """The bench, its camera with a clock of its own."""
    producer = resources.files("inspector.drill").joinpath("producer.c")
    cti = tmp_path / "own_clock.cti"
    flags = ["-O2", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden", f"-I{Path(str(producer)).parent}"]
    source = Path(__file__).parent / "own_clock.c"
    subprocess.run(["gcc", *flags, "-o", str(cti), str(source), "-lm"], check=True)
    bench.cti = cti
    return bench


def stop(camera: GenicamCamera) -> tuple[int, int]:
    """Stops the camera's process for STOP_S; when, by the host's clock."""
    assert camera._child is not None
    clock = SystemClock()
    os.kill(camera._child.pid, signal.SIGSTOP)
    from_ns = clock.now_ns()
    sleep_s(STOP_S)
    until_ns = clock.now_ns()
    os.kill(camera._child.pid, signal.SIGCONT)
    return from_ns, until_ns


def when_ns(item: Item) -> int:
    return item.taken_ns if isinstance(item, Frame) else item.noticed_ns


def test_frames_of_a_stopped_process_are_as_old_as_they_are(own_clock: Bench) -> None:
    """SIGSTOP for 1.5 s: the pictures planned meanwhile count from their time, not from the wake-up."""
    camera = own_clock.camera(rate_hz=1e9 / PERIOD_NS, hang_s=30.0)
    camera.open()
    items = count(camera, 250)  # 2.5 s: the clock is proven after one
    from_ns, until_ns = stop(camera)
    items += until(camera, lambda items: bool(items) and when_ns(items[-1]) > until_ns + 200 * MS)
    frames = [item for item in items if isinstance(item, Frame)]
    assert len(frames) == len(items)
    stopped = [frame for frame in frames if from_ns + 20 * MS < frame.camera_ns - AHEAD_NS < until_ns - 20 * MS]
    assert len(stopped) > 100
    for frame in stopped:
        # The bound may lie off by how late the first picture was taken; far below what the process stood.
        assert abs(frame.taken_ns - (frame.camera_ns - AHEAD_NS)) < 100 * MS
    assert [frame.taken_ns for frame in frames] == sorted(frame.taken_ns for frame in frames)
    assert own_clock.told("camera clock not used") == []


def test_incomplete_ones_are_as_old_as_they_are(own_clock: Bench) -> None:
    """What is lost while the process stands is noticed at its time too."""
    camera = own_clock.camera(rate_hz=1e9 / PERIOD_NS, hang_s=30.0)
    camera.open()
    items = count(camera, 250)
    own_clock.control.set(Fault.INCOMPLETE_EVERY, 2)
    own_clock.control.set(Fault.SKIP_EVERY, 3)
    from_ns, until_ns = stop(camera)
    items += until(camera, lambda items: bool(items) and when_ns(items[-1]) > until_ns + 200 * MS)
    losses = [item for item in items if isinstance(item, Missed)]
    assert sum(from_ns + 100 * MS < loss.noticed_ns < until_ns - 100 * MS for loss in losses) > 50


def test_stamps_in_ticks_are_noted_and_left_alone(own_clock: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of 8 ns ticks that call themselves ns: no frame is made older, and the journal says it once."""
    monkeypatch.setenv("OWN_CLOCK_TICK_NS", "8")
    camera = own_clock.camera(rate_hz=1e9 / PERIOD_NS, hang_s=30.0)
    camera.open()
    until(camera, lambda _: bool(own_clock.told("camera clock not used")))
    _, woken_ns = stop(camera)
    items = until(camera, lambda items: bool(items) and when_ns(items[-1]) > woken_ns + 200 * MS)
    assert sum(when_ns(item) >= woken_ns - 20 * MS for item in items) > 100
    assert len(own_clock.told("camera clock not used")) == 1
