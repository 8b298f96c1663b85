"""A camera that goes, stands, hangs or dies: what it costs, and that it comes back as it was set."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from genicam_kit import PATIENCE_S, Bench, count, descriptors, ids, until, watch

from inspector.camera.genicam import list_devices
from inspector.drill.producer import Count, Fault
from inspector.frame import Frame, Missed

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the camera process needs Linux")


def test_a_stalled_camera_is_not_a_lost_one(bench: Bench) -> None:
    """Silence alone is legal as long as the camera answers; nothing is torn down."""
    camera = bench.camera()
    camera.open()
    count(camera, 10)
    bench.control.set(Fault.STALL_MS, 900)
    until(camera, lambda _: bench.control.get(Count.STALLS) == 1)
    items = count(camera, 60)
    assert camera.statistics().reconnects == 0
    assert bench.control.get(Count.STARTS) == 1
    assert all(isinstance(item, Frame) for item in items)


def test_a_register_access_that_hangs_costs_only_reported_frames(bench: Bench) -> None:
    """While a dying link holds the camera process, the producer runs out of buffers: each such frame is MISSED."""
    camera = bench.camera(rate_hz=100.0, buffers=8)
    camera.open()
    items = count(camera, 5)
    bench.control.set(Fault.PORT_HANG_MS, 1500)
    bench.control.set(Fault.STALL_MS, 1000)  # silence makes the process ask the camera, and hang there
    items += until(camera, lambda items: any(isinstance(item, Missed) for item in items))
    bench.control.set(Fault.PORT_HANG_MS, 0)
    items += until(camera, lambda items: len(items) > 80 and isinstance(items[-1], Frame))
    missed = sum(isinstance(item, Missed) for item in items)
    assert ids(items) == list(range(1, len(items) + 1))
    assert 0 < missed <= bench.control.get(Count.UNDERRUNS)
    watch(lambda: camera.statistics().producer_underruns >= missed)
    assert camera._child is not None
    camera._child.kill()
    items += until(camera, lambda _: camera.statistics().reconnects == 1)
    assert camera.statistics().producer_underruns >= missed


def test_a_pulled_cable_is_noticed_and_the_camera_comes_back_as_it_was_set(bench: Bench) -> None:
    """Cable out: not connected, no frame; cable in: the same camera, all features written anew, numbers go on."""
    camera = bench.camera()
    camera.open()
    before = count(camera, 50)
    for cycle in (1, 2):
        bench.control.pull()
        before += until(camera, lambda _: not camera.statistics().connected)
        while (item := camera.next(0.05)) is not None:
            before.append(item)
        bench.control.plug()
        before += until(camera, lambda items: len(items) > 30)
        assert camera.statistics().reconnects == cycle
        assert camera.statistics().connected
        assert bench.control.get(Count.RATE_MHZ) == 200_000
    assert ids(before) == list(range(1, len(before) + 1))
    assert all(isinstance(item, Frame) for item in before)
    assert camera.statistics().resyncs == 0
    assert len(bench.told("camera lost")) == 2
    assert bench.told("camera process ended") == []
    assert bench.control.get(Count.STARTS) == 3


@pytest.mark.parametrize("how", ["kill", "crash", "stop", "hang"])
def test_a_dead_or_standing_camera_process_is_replaced(bench: Bench, how: str) -> None:
    """SIGKILL, a driver's SIGSEGV, a stopped process and a driver that hangs each cost one restart, not the line."""
    waits_for_it = how in ("stop", "hang")
    camera = bench.camera(hang_s=2.0 if waits_for_it else 30.0)
    camera.open()
    before = count(camera, 20)
    assert camera._child is not None
    pid = camera._child.pid
    if how == "kill":
        os.kill(pid, signal.SIGKILL)
    elif how == "crash":
        bench.control.set(Fault.CRASH, 1)
    elif how == "stop":
        os.kill(pid, signal.SIGSTOP)
    else:
        bench.control.set(Fault.PORT_HANG_MS, 60_000)
        bench.control.set(Fault.STALL_MS, 60_000)
    before += until(camera, lambda _: bool(bench.told("camera process ended")))
    bench.control.set(Fault.PORT_HANG_MS, 0)
    before += until(camera, lambda items: camera.statistics().reconnects == 1 and len(items) > 30)
    assert ids(before) == list(range(1, len(before) + 1))
    assert camera._child is not None
    assert camera._child.pid != pid
    assert camera.statistics().resyncs == 0
    why = str(bench.told("camera process ended")[0]["why"])
    assert ("SIGSEGV" if how == "crash" else "SIGKILL") in why
    assert bool(bench.told("camera process stands still")) == waits_for_it


def test_signals_for_the_whole_group_are_the_lines_business(bench: Bench) -> None:
    """Ctrl-C and a service manager's SIGTERM reach the camera process too; it goes on until the line hangs up."""
    camera = bench.camera()
    camera.open()
    before = count(camera, 5)
    assert camera._child is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(camera._child.pid, number)
    before += until(camera, lambda items: len(items) > 100)
    assert ids(before) == list(range(1, len(before) + 1))
    assert camera.statistics().reconnects == 0
    assert bench.told("camera process ended") == []


def test_unread_frames_outlive_a_reconnect(bench: Bench) -> None:
    """Frames that waited while the camera went and came back are delivered first, then the new ones."""
    camera = bench.camera(features=[("TriggerSource", "Line1"), ("TriggerMode", "On")])
    camera.open()
    open_fds = descriptors()
    bench.control.trigger(3)
    watch(lambda: bench.control.get(Count.DELIVERED) == 3)
    bench.control.pull()
    watch(lambda: bench.control.get(Count.OWNER) == 0)
    bench.control.plug()
    watch(lambda: bench.control.get(Count.STARTS) == 2)
    bench.control.trigger(2)
    items = count(camera, 5)
    assert ids(items) == [1, 2, 3, 4, 5]
    shots = [int.from_bytes(item.pixels[0, :8].tobytes(), "little") for item in items if isinstance(item, Frame)]
    assert shots == [0, 1, 2, 3, 4]
    assert descriptors() == open_fds


def test_while_lost_next_says_nothing(bench: Bench) -> None:
    """A camera that never came back is no error of next(): None each time, and statistics tell."""
    camera = bench.camera()
    camera.open()
    count(camera, 5)
    bench.control.pull()
    until(camera, lambda _: not camera.statistics().connected)
    while camera.next(0.0) is not None:
        pass
    assert camera.next(0.6) is None
    assert not camera.statistics().connected
    assert not camera.exhausted


OWNER = """
import sys
from pathlib import Path
from inspector.camera.genicam import GenicamCamera
from inspector.clock import SystemClock
from threading import Thread
camera = GenicamCamera(clock=SystemClock(), producers=[Path(sys.argv[1])], hang_s=2.0, tell=lambda *_: None)
def work():
    camera.open()
    assert camera.next(10).frame_id == 1
    print(camera._child.pid, flush=True)
    while True:
        camera.next(1)
Thread(target=work).start()
"""


@pytest.mark.parametrize("driver_hangs", [False, True])
def test_the_camera_process_does_not_outlive_the_line(bench: Bench, driver_hangs: bool) -> None:
    """Opened in a thread of a bare script: after kill -9 of that script its camera process ends, hung driver or not."""
    line = subprocess.Popen([sys.executable, "-c", OWNER, str(bench.cti)], stdout=subprocess.PIPE, text=True)
    assert line.stdout is not None
    pid = int(line.stdout.readline())
    watched = os.pidfd_open(pid)
    assert bench.control.get(Count.OWNER) == pid
    assert list_devices([bench.cti])[0].access == "busy"
    if driver_hangs:
        bench.control.set(Fault.STALL_MS, 60_000)
        bench.control.set(Fault.PORT_HANG_MS, 60_000)
    line.kill()
    line.wait()
    line.stdout.close()
    assert select.select([watched], [], [], PATIENCE_S)[0], "the camera process lives on"
    os.close(watched)
    assert driver_hangs or bench.control.get(Count.OWNER) == 0


def test_open_and_close_leave_nothing_behind(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    """Repeated opening leaks no descriptor and no process, and the drivers' chatter reaches no output of ours."""
    bench.control.set(Fault.CHATTER, 1)
    camera = bench.camera()
    camera.close()
    camera.open()
    count(camera, 3)
    camera.close()
    open_fds = descriptors()
    for _ in range(2):
        camera.open()
        assert [item.frame_id for item in count(camera, 3)] == [1, 2, 3]
        assert camera._child is not None
        pid = camera._child.pid
        camera.close()
        camera.close()
        assert camera.next(0.0) is None
        assert not Path(f"/proc/{pid}").exists()
    assert descriptors() == open_fds
    assert capfd.readouterr() == ("", "")
    assert bench.control.get(Count.OWNER) == 0
