"""The folder camera: recorded images in order; an image that cannot be used is a part all the same."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from inspector.camera.folder import FolderCamera
from inspector.clock import PushedClock, SystemClock
from inspector.errors import ConfigError
from inspector.frame import Frame, Missed, Reason

PATIENT_S = 20.0
KOLEKTOR = Path(__file__).resolve().parents[3] / "shared" / "data" / "kolektor-sdd"


def write(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return pixels


def picture(seed: int, shape: tuple[int, ...] = (40, 50)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def drain(camera: FolderCamera) -> list[Frame | Missed]:
    out = []
    camera.open()
    while not camera.exhausted:
        arrived = camera.next(PATIENT_S)
        assert arrived is not None
        out.append(arrived)
    camera.close()
    return out


def test_images_come_sorted_with_truth_from_their_masks(tmp_path: Path):
    """Every image once, in the order of ids, pixels as stored; a mask with a defect says so."""
    images = {name: write(tmp_path / "images" / name, picture(n)) for n, name in enumerate(("b.png", "a.png", "c.bmp"))}
    for name, value in (("a", 255), ("b", 0)):
        write(tmp_path / "masks" / f"{name}.png", np.full((40, 50), value, np.uint8))
    frames = drain(FolderCamera(tmp_path, rate_hz=0, clock=SystemClock()))
    assert [frame.part_id for frame in frames] == ["images/a.png", "images/b.png", "images/c.bmp"]
    assert [frame.truth for frame in frames] == [True, False, None]
    assert [frame.frame_id for frame in frames] == [1, 2, 3]
    for frame in frames:
        assert isinstance(frame, Frame)
        assert np.array_equal(frame.pixels, images[Path(frame.part_id).name]) and frame.pixels.flags.c_contiguous


def test_an_unusable_image_is_missed_as_bad_image_and_says_why(tmp_path: Path):
    """Truncated, 16-bit, colour, empty and too small images are each answered for, and the next one still comes."""
    write(tmp_path / "0-good.png", picture(1))
    truncated = tmp_path / "1-truncated.png"
    write(truncated, picture(2))
    truncated.write_bytes(truncated.read_bytes()[:-200])
    write(tmp_path / "2-deep.png", picture(3).astype(np.uint16) * 257)
    write(tmp_path / "3-colour.png", picture(4, (40, 50, 3)))
    (tmp_path / "4-empty.jpg").write_bytes(b"")
    write(tmp_path / "5-small.png", picture(5, (10, 10)))
    grey = picture(6)
    write(tmp_path / "6-grey-in-colour.png", cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    camera = FolderCamera(tmp_path, rate_hz=0, clock=SystemClock(), window=(5, 5, 30, 20))
    camera.open()
    faults = []
    for _ in range(7):
        arrived = camera.next(PATIENT_S)
        if isinstance(arrived, Missed):
            assert arrived.reason is Reason.BAD_IMAGE
            assert "\n" not in camera.last_fault and arrived.part_id in camera.last_fault
            faults.append((arrived.part_id, camera.last_fault))
    assert camera.exhausted
    words = {"1-": "truncated", "2-": "16 bit", "3-": "colour", "4-": "empty", "5-": "10 x 10"}
    assert [name[:2] for name, _ in faults] == list(words)
    for name, fault in faults:
        assert words[name[:2]] in fault
    assert isinstance(arrived, Frame) and np.array_equal(arrived.pixels, grey[5:25, 5:35])
    assert (camera.statistics().frames, camera.statistics().missed) == (2, 5)
    camera.close()


def test_window_is_the_crop_of_the_image(tmp_path: Path):
    """A window delivers those pixels with their origin, in memory of its own."""
    full = write(tmp_path / "one.png", picture(1))
    (frame,) = drain(FolderCamera(tmp_path, rate_hz=0, clock=SystemClock(), window=(7, 3, 20, 30)))
    assert isinstance(frame, Frame) and frame.origin_px == (7, 3)
    assert np.array_equal(frame.pixels, full[3:33, 7:27]) and frame.pixels.flags.c_contiguous


def test_limit_and_loop(tmp_path: Path):
    """A limit ends the folder early; a loop goes round with part ids that stay distinct."""
    for n in range(3):
        write(tmp_path / f"{n}.png", picture(n))
    clock = SystemClock()
    assert len(drain(FolderCamera(tmp_path, rate_hz=0, clock=clock, limit=2))) == 2
    assert len(drain(FolderCamera(tmp_path, rate_hz=0, clock=clock, limit=9))) == 3
    looped = drain(FolderCamera(tmp_path, rate_hz=0, clock=clock, loop=True, limit=5))
    assert [one.part_id for one in looped] == ["0.png", "1.png", "2.png", "0.png#2", "1.png#2"]
    assert [one.frame_id for one in looped] == [1, 2, 3, 4, 5]
    endless = FolderCamera(tmp_path, rate_hz=0, clock=clock, loop=True)
    endless.open()
    assert [endless.next(PATIENT_S) is not None for _ in range(10)] == [True] * 10 and not endless.exhausted
    endless.close()


def test_rate_on_the_pushed_clock(tmp_path: Path):
    """With a rate, images become available on the schedule, decoded ahead or not."""
    for n in range(3):
        write(tmp_path / f"{n}.png", picture(n))
    clock = PushedClock()
    camera = FolderCamera(tmp_path, rate_hz=4, clock=clock)
    camera.open()
    start_ns = clock.now_ns()
    first = camera.next(PATIENT_S)
    assert isinstance(first, Frame) and first.taken_ns == start_ns
    assert camera.next(0.0) is None
    clock.push(250_000_000)
    second = camera.next(PATIENT_S)
    assert isinstance(second, Frame) and second.taken_ns == start_ns + 250_000_000
    camera.close()
    assert camera.next(PATIENT_S) is None


def test_missing_empty_and_misfitting_folders_are_refused_in_one_line(tmp_path: Path):
    """No folder, no images in it, and a window outside the images end before the first part."""
    (tmp_path / "empty").mkdir()
    write(tmp_path / "one" / "a.png", picture(1))
    clock = SystemClock()
    for camera in (
        FolderCamera(tmp_path / "nowhere", rate_hz=0, clock=clock),
        FolderCamera(tmp_path / "empty", rate_hz=0, clock=clock),
        FolderCamera(tmp_path / "one", rate_hz=0, clock=clock, window=(40, 0, 20, 20)),
        FolderCamera(tmp_path / "one", rate_hz=0, clock=clock, layout="nonsense"),
    ):
        with pytest.raises(ConfigError) as caught:
            camera.open()
        assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
        camera.close()


def test_an_image_that_vanishes_is_a_bad_image(tmp_path: Path):
    """A file deleted after the listing is a part without an image, not a crash."""
    for n in range(2):
        write(tmp_path / f"{n}.png", picture(n))
    camera = FolderCamera(tmp_path, rate_hz=0, clock=SystemClock())
    camera.open()
    (tmp_path / "0.png").unlink()
    gone, there = camera.next(PATIENT_S), camera.next(PATIENT_S)
    camera.close()
    assert isinstance(gone, Missed) and gone.reason is Reason.BAD_IMAGE and "0.png" in camera.last_fault
    assert isinstance(there, Frame)


@pytest.mark.skipif(not KOLEKTOR.is_dir(), reason="the published images are not beside this checkout")
def test_published_layout_is_read_whole():
    """All KolektorSDD images come, each usable, with the truth of their masks."""
    frames = drain(FolderCamera(KOLEKTOR, rate_hz=0, clock=SystemClock()))
    assert len(frames) == 142 and all(isinstance(frame, Frame) for frame in frames)
    assert sum(frame.truth is True for frame in frames) == 37
