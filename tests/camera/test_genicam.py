"""The GenICam camera against the real viky.cti and the drill's own producer, each in a real camera process."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inspector.camera.genicam import GenicamCamera, list_devices, simulator
from inspector.clock import SystemClock
from inspector.drill.producer import CONTROL_VARIABLE, Count, Fault, ProducerControl, build_producer
from inspector.errors import CameraError, ConfigError, InspectorError
from inspector.frame import Frame, Missed, Reason

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the camera process needs Linux")

WIDTH, HEIGHT = 320, 240
PATIENCE_S = 30.0
"""Far beyond what anything here takes; only a hang reaches it."""
Item = Frame | Missed


class Bench:
    """The own producer under one control page, and cameras on it."""

    def __init__(self, cti: Path, control: ProducerControl) -> None:
        self.cti, self.control = cti, control
        self.events: list[tuple[str, dict[str, object]]] = []
        self.cameras: list[GenicamCamera] = []

    def tell(self, what: str, details: Mapping[str, object]) -> None:
        self.events.append((what, dict(details)))

    def told(self, what: str) -> list[dict[str, object]]:
        return [details for name, details in self.events if name == what]

    def camera(self, rate_hz: float = 500.0, **settings: Any) -> GenicamCamera:
        # Half a second of buffers: a machine that stands still meanwhile must not look like a fault of ours.
        defaults = {"features": [("AcquisitionFrameRate", rate_hz)], "buffers": 256, "ring_slots": 256}
        settings = defaults | settings
        camera = GenicamCamera(clock=SystemClock(), producers=[self.cti], tell=self.tell, **settings)
        self.cameras.append(camera)
        return camera


@pytest.fixture
def bench(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    cti = build_producer(tmp_path_factory.getbasetemp() / "cti")
    with ProducerControl(tmp_path / "control", width=WIDTH, height=HEIGHT) as control:
        monkeypatch.setenv(CONTROL_VARIABLE, str(control.path))
        bench = Bench(cti, control)
        yield bench
        for camera in bench.cameras:
            camera.close()


def until(camera: GenicamCamera, done: Callable[[list[Item]], bool]) -> list[Item]:
    """What comes until ``done`` holds for it; past PATIENCE_S it fails."""
    clock, items = SystemClock(), list[Item]()
    limit_ns = clock.now_ns() + int(PATIENCE_S * 1e9)
    while not done(items):
        item = camera.next(0.05)
        if item is not None:
            items.append(item)
        assert clock.now_ns() < limit_ns, f"it never happened; {len(items)} items came"
    return items


def watch(done: Callable[[], bool]) -> None:
    """Waits for a count of another process, which wakes nobody; past PATIENCE_S it fails."""
    quiet, clock = threading.Event(), SystemClock()
    limit_ns = clock.now_ns() + int(PATIENCE_S * 1e9)
    while not done():
        assert clock.now_ns() < limit_ns, "it never happened"
        quiet.wait(0.005)


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def count(camera: GenicamCamera, number: int) -> list[Item]:
    return until(camera, lambda items: len(items) >= number)


def pattern(shot: int, window: tuple[int, int, int, int]) -> np.ndarray:
    """What the producer paints without a stamp: (x + y + shot) mod 256."""
    x, y, w, h = window
    return (np.add.outer(np.arange(y, y + h), np.arange(x, x + w)) + shot).astype(np.uint8)


def ids(items: list[Item]) -> list[int]:
    return [item.frame_id for item in items]


# -- frames and losses --------------------------------------------------------------------------------------------


def test_viky_at_100_hz_loses_nothing() -> None:
    """The real simulated camera at 100 Hz, 400 x 400: every id, in order, whole."""
    camera = GenicamCamera(
        clock=SystemClock(),
        serial="0",
        features=[("PixelFormat", "Mono8"), ("AcquisitionFrameRate", 100.0)],
        buffers=64,
        ring_slots=64,
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


def test_ids_wrap_at_16_bits(bench: Bench, tmp_path: Path) -> None:
    """65535 -> 1 is no loss, and a frame skipped at the wrap is one MISSED."""
    with ProducerControl(tmp_path / "control16", width=64, height=48, first_id=65530, id_bits=16) as control:
        os.environ[CONTROL_VARIABLE] = str(control.path)
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


# -- lost and found -----------------------------------------------------------------------------------------------


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
        assert bench.control.get(Count.RATE_MHZ) == 500_000
    assert ids(before) == list(range(1, len(before) + 1))
    assert all(isinstance(item, Frame) for item in before)
    assert camera.statistics().resyncs == 0
    assert len(bench.told("camera lost")) == 2
    assert bench.told("camera process ended") == []
    assert bench.control.get(Count.STARTS) == 3


@pytest.mark.parametrize("how", ["kill", "crash", "stop", "hang"])
def test_a_dead_or_standing_camera_process_is_replaced(bench: Bench, how: str) -> None:
    """SIGKILL, a driver's SIGSEGV, a stopped process and a driver that hangs each cost one restart, not the line."""
    camera = bench.camera(hang_s=0.6)
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
    assert bool(bench.told("camera process stands still")) == (how in ("stop", "hang"))


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
camera = GenicamCamera(clock=SystemClock(), producers=[Path(sys.argv[1])], hang_s=0.5, tell=lambda *_: None)
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


# -- features and errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("features", "rate_mhz"), [
    ([("AcquisitionFrameRate", 200.0), ("UserSetLoad", True)], 20_000),
    ([("UserSetLoad", True), ("AcquisitionFrameRate", 200)], 200_000),
])  # fmt: skip
def test_features_are_written_in_the_given_order(
    bench: Bench, features: list[tuple[str, object]], rate_mhz: int
) -> None:
    """Loading a user set resets what was written before it, and nothing after it."""
    camera = bench.camera(features=[*features, ("DeviceUserID", "line 4"), ("Gain", 1.5), ("Width", 64)])
    camera.open()
    assert bench.control.get(Count.RATE_MHZ) == rate_mhz
    written = bench.told("camera open")[0]["features"]
    assert isinstance(written, dict)
    assert list(written) == [name for name, _ in features] + ["DeviceUserID", "Gain", "Width"]
    assert (written["DeviceUserID"], written["Gain"], written["Width"]) == ("line 4", 1.5, 64)
    frame = count(camera, 1)[0]
    assert isinstance(frame, Frame)
    assert frame.pixels.shape == (HEIGHT, 64)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"serial": "nope"}, CameraError, ["no such camera", "serial nope", "DRILL-1"]),
        ({"model": "Drill", "user_name": "other"}, CameraError, ["user_name other", "bench"]),
        ({"window": (0, 0, WIDTH + 1, 10)}, ConfigError, ["ROI window", "x + width <= 320", "width 321"]),
        ({"window": (-1, 0, 10, 10)}, ConfigError, ["ROI window", "x -1"]),
        ({"features": [("ExposureTim", 100.0)]}, CameraError, ["no feature ExposureTim", "ExposureTime?"]),
        ({"features": [("ExposureTime", 1.0)]}, CameraError, ["refuses ExposureTime = 1.0", "10..100000 us"]),
        ({"features": [("Width", 66)]}, CameraError, ["refuses Width = 66", "16..320 in steps of 4"]),
        ({"features": [("PixelFormat", "Mono12")]}, CameraError, ["refuses PixelFormat", "one of Mono8, Mono16"]),
        ({"features": [("Width", "wide")]}, ConfigError, ["Width", "another kind", "'wide'"]),
        ({"features": [("Gain", 1.3)]}, CameraError, ["did not keep Gain = 1.3", "1.0 read back", "0..24 dB"]),
        ({"features": [("DeviceTemperature", 20.0)]}, CameraError, ["DeviceTemperature cannot", "read only"]),
        ({"features": [("PixelFormat", "Mono16")]}, ConfigError, ["PixelFormat = Mono8", "found Mono16"]),
        ({"features": [("AcquisitionMode", "SingleFrame")]}, ConfigError, ["AcquisitionMode = Continuous"]),
    ],
)
def test_what_cannot_be_opened_says_why(
    bench: Bench, settings: dict[str, Any], kind: type[InspectorError], words: list[str]
) -> None:
    """One line with what was asked, what is there or allowed; the right exit code; the camera left free."""
    camera = bench.camera(**settings)
    with pytest.raises(kind) as caught:
        camera.open()
    line = str(caught.value)
    assert [word for word in words if word not in line] == [], line
    assert "\n" not in line
    assert caught.value.exit_code == (2 if kind is ConfigError else 3)
    assert bench.control.get(Count.OWNER) == 0


def test_a_camera_in_use_is_not_taken(bench: Bench) -> None:
    """A second owner is refused with one line, and the first goes on."""
    first, second = bench.camera(), bench.camera(patience_s=0.0)
    first.open()
    with pytest.raises(CameraError, match="DRILL-1 is in use"):
        second.open()
    assert isinstance(count(first, 5)[-1], Frame)


def test_several_cameras_need_a_choice() -> None:
    """Three devices and no serial: nothing is opened by chance, and the line lists them."""
    camera = GenicamCamera(clock=SystemClock(), tell=lambda *_: None)
    with pytest.raises(ConfigError, match="more than one camera") as caught:
        camera.open()
    assert all(f"serial {serial}" in str(caught.value) for serial in "012")
    assert [(line.serial, line.model, line.access) for line in list_devices()] == [
        (serial, "Viky", "free") for serial in "012"
    ]


def test_a_colour_camera_is_refused() -> None:
    """viky's default RGBa8 is refused with the setting that would do."""
    camera = GenicamCamera(clock=SystemClock(), serial="0", tell=lambda *_: None)
    with pytest.raises(ConfigError, match=r"found RGBa8\. Add PixelFormat = Mono8"):
        camera.open()


def test_producers_that_are_none(tmp_path: Path) -> None:
    """A missing .cti, a file that is no library and a library that is no producer: one line each."""
    missing, text, library = tmp_path / "no.cti", tmp_path / "text.cti", tmp_path / "lib.cti"
    text.write_text("not a library")
    library.write_bytes((simulator().parent / "libMathParser_gcc8_v3_5.so").read_bytes())
    for path, kind, words in (
        (missing, CameraError, "no GenTL producer at"),
        (text, CameraError, "cannot be loaded"),
        (library, CameraError, "GenTL producer"),
    ):
        with pytest.raises(kind, match=words):
            list_devices([path])
        with pytest.raises(kind, match=words):
            GenicamCamera(clock=SystemClock(), producers=[path], tell=lambda *_: None).open()


FALLBACK = """
import sys
from inspector.camera.fetch import HarvestersFetcher
from inspector.camera.session import Order, Session
from inspector.clock import SystemClock, sleep_s
session = Session(Order((sys.argv[1],), features=(("AcquisitionFrameRate", 500.0),)), SystemClock(), sleep_s)
opened = session.open()
assert opened.way == "direct", opened.way_why
fetcher = HarvestersFetcher(session._acquirer, opened.width, opened.height, SystemClock())
for expected in range(1, 60):
    while (taken := fetcher.fetch(50)) is None:
        pass
    assert taken.frame_id == expected, (taken.frame_id, expected)
    assert int(taken.pixels[3, 20]) == (3 + 20 + expected - 1) % 256
    fetcher.give_back(taken)
session.close()
print("ok")
"""


def test_without_private_names_frames_come_through_harvesters(bench: Bench) -> None:
    """The second way delivers the same frames with the same ids."""
    done = subprocess.run(
        [sys.executable, "-c", FALLBACK, str(bench.cti)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "ok\n", done.stderr
