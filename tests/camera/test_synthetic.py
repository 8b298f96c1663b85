"""The synthetic camera: seeded parts on an absolute schedule."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from inspector.camera.paced import Paced
from inspector.camera.render import Style, render_part
from inspector.camera.synthetic import SyntheticCamera
from inspector.clock import PushedClock, SystemClock
from inspector.errors import ConfigError
from inspector.frame import Frame, Missed, Reason

SMALL = Style(frame_px=(200, 200), shift_px=8.0)
PATIENT_S = 20.0


def frame_of(camera: SyntheticCamera) -> Frame:
    arrived = camera.next(PATIENT_S)
    assert isinstance(arrived, Frame)
    return arrived


def test_frames_are_the_rendered_parts_with_id_and_truth():
    """Frame n is part n of the seed, complete with part id, truth and a contiguous image of its own."""
    camera = SyntheticCamera(seed=7, rate_hz=0, clock=SystemClock(), count=5, style=SMALL)
    camera.open()
    for number in range(1, 6):
        frame, part = frame_of(camera), render_part(7, number, style=SMALL)
        assert (frame.frame_id, frame.part_id, frame.truth) == (number, f"S7-{number:06d}", part.defective)
        assert np.array_equal(frame.pixels, part.image)
        assert frame.pixels.flags.c_contiguous and frame.origin_px == (0, 0)
    assert camera.exhausted and camera.next(0.0) is None
    assert camera.statistics().frames == 5 and camera.statistics().connected
    camera.close()
    assert not camera.statistics().connected


@pytest.mark.parametrize("distinct", [0, 2])
def test_window_is_the_crop_of_the_full_frame(distinct: int):
    """A window delivers exactly those pixels of the frame, with its origin, in memory of its own."""
    window = (30, 20, 120, 140)
    camera = SyntheticCamera(seed=3, rate_hz=0, clock=SystemClock(), style=SMALL, window=window, distinct=distinct)
    camera.open()
    frame = frame_of(camera)
    camera.close()
    assert frame.origin_px == (30, 20)
    assert np.array_equal(frame.pixels, render_part(3, 1, style=SMALL).image[20:160, 30:150])
    assert frame.pixels.flags.c_contiguous and frame.pixels.base is None


def test_distinct_parts_come_round_again_and_are_not_shared():
    """Cycled parts repeat their pixels; writing into one frame does not reach the next."""
    camera = SyntheticCamera(seed=3, rate_hz=0, clock=SystemClock(), style=SMALL, distinct=2)
    camera.open()
    frames = [frame_of(camera) for _ in range(4)]
    camera.close()
    assert [frame.part_id for frame in frames] == [f"S3-{number:06d}" for number in range(1, 5)]
    assert np.array_equal(frames[0].pixels, frames[2].pixels) and frames[0].truth == frames[2].truth
    assert not np.array_equal(frames[0].pixels, frames[1].pixels)
    assert not np.shares_memory(frames[0].pixels, frames[2].pixels)


def test_schedule_is_absolute_on_the_pushed_clock():
    """Frame n is available at start + (n - 1) / rate; lateness of one does not shift the next."""
    clock = PushedClock()
    camera = SyntheticCamera(seed=1, rate_hz=100, clock=clock, style=SMALL, distinct=1)
    camera.open()
    clock.push(3_000_000_000)  # the rest of the line takes its time to start
    start_ns = clock.now_ns()
    assert frame_of(camera).taken_ns == start_ns
    assert camera.next(0.0) is None
    clock.push(9_999_999)
    assert camera.next(0.0) is None
    clock.push(1)
    assert frame_of(camera).taken_ns == start_ns + 10_000_000
    clock.push(27_000_000)  # 3.7 periods: two frames are overdue, each with its own time
    assert [frame_of(camera).taken_ns - start_ns for _ in range(2)] == [20_000_000, 30_000_000]
    assert camera.next(0.0) is None
    clock.push(3_000_000)
    assert frame_of(camera).taken_ns == start_ns + 40_000_000
    camera.close()


def test_waiting_on_the_machine_clock_ends_at_the_due_time_or_the_timeout():
    """No frame before its due time; None when the timeout comes first."""
    clock = SystemClock()
    camera = SyntheticCamera(seed=1, rate_hz=50, clock=clock, style=SMALL, distinct=1)
    camera.open()
    first = frame_of(camera)
    assert camera.next(0.001) is None
    for number in range(1, 4):
        frame = frame_of(camera)
        assert frame.taken_ns == first.taken_ns + number * 20_000_000
        assert clock.now_ns() >= frame.taken_ns
    camera.close()


def test_close_ends_a_waiting_next_at_once():
    """close from another thread ends a next that would wait for a day, and may be called again."""
    entered = threading.Event()

    class Watched(PushedClock):
        def now_ns(self) -> int:
            if armed.is_set():
                entered.set()
            return super().now_ns()

    armed = threading.Event()
    camera = SyntheticCamera(seed=1, rate_hz=1e-5, clock=Watched(), style=SMALL)
    camera.open()
    frame_of(camera)
    got: list[object] = ["nothing yet"]
    thread = threading.Thread(target=lambda: got.__setitem__(0, camera.next(86_400.0)))
    armed.set()
    thread.start()
    assert entered.wait(PATIENT_S)
    camera.close()
    thread.join(PATIENT_S)
    assert not thread.is_alive() and got == [None]
    camera.close()
    assert camera.next(5.0) is None
    assert not [thread for thread in threading.enumerate() if thread.name == "camera-ahead"]


def test_lost_frames_come_as_missed_with_their_truth():
    """Every lose_every-th frame is a known loss; ids go on, nothing is lost in silence."""
    camera = SyntheticCamera(seed=2, rate_hz=0, clock=SystemClock(), style=SMALL, count=7, lose_every=3)
    camera.open()
    arrived = [camera.next(PATIENT_S) for _ in range(7)]
    camera.close()
    assert [isinstance(one, Missed) for one in arrived] == [False, False, True, False, False, True, False]
    lost = arrived[2]
    assert isinstance(lost, Missed)
    assert (lost.frame_id, lost.reason, lost.part_id) == (3, Reason.MISSED, "S2-000003")
    assert lost.truth == render_part(2, 3, style=SMALL).defective
    seen = camera.statistics()
    assert (seen.frames, seen.missed) == (5, 2)


def test_opening_again_begins_anew():
    """A camera that was closed and opened delivers the same parts from the first on."""
    camera = SyntheticCamera(seed=2, rate_hz=0, clock=SystemClock(), style=SMALL, count=2)
    camera.open()
    first = frame_of(camera)
    camera.close()
    camera.open()
    again = frame_of(camera)
    camera.close()
    assert (again.frame_id, again.pixels.tobytes()) == (first.frame_id, first.pixels.tobytes())


def test_what_is_made_ahead_is_bounded_and_its_error_reaches_the_reader():
    """The read-ahead stops at its depth, and an error in its thread is raised by next, after what came before."""
    made: list[int] = []
    full = threading.Event()

    def make(number: int) -> int:
        made.append(number)
        if len(made) == 2:
            full.set()
        if number == 4:
            raise ConfigError("the fourth fails")
        return number

    paced = Paced(make, rate_hz=0, clock=SystemClock(), ahead=2)
    paced.open()
    assert full.wait(PATIENT_S) and made == [1, 2]
    numbers = [paced.next(PATIENT_S) for _ in range(3)]
    assert [one.item for one in numbers if one is not None] == [1, 2, 3]
    with pytest.raises(ConfigError, match="the fourth fails"):
        paced.next(PATIENT_S)
    paced.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": (0, 0, 201, 10)},
        {"window": (-1, 0, 10, 10)},
        {"window": (0, 0, 0, 10)},
        {"rate_hz": -1.0},
        {"seed": -1},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]):
    """A window outside the frame, a negative rate or seed is a ConfigError with one line."""
    with pytest.raises(ConfigError) as caught:
        SyntheticCamera(**{"seed": 1, "rate_hz": 1.0, "clock": PushedClock(), "style": SMALL, **wrong})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
