"""From frame to crop: the right place, the same bytes everywhere, and INVALID for what cannot be judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.calibrate.roi import calibrate_roi, calibrate_synthetic
from inspector.camera.render import Style, render_part
from inspector.clock import PushedClock
from inspector.errors import ConfigError
from inspector.frame import Crop, Decision, Frame, Grey, Reason
from inspector.preprocess import (
    Pose,
    Preprocess,
    load_calibration,
    normalise,
    resize_to_input,
)
from inspector.preprocess.calibration import (
    FrameSize,
    Roi,
    Scale,
    update_calibration,
)
from tests.preprocess_kit import crop_of, frame, plain, reason_of, texture


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic station's calibration."""
    return calibrate_synthetic(out_dir=tmp_path_factory.mktemp("calibration"), clock=PushedClock())


@pytest.fixture(scope="module")
def located(station: Path) -> Preprocess:
    return Preprocess(load_calibration(station), height=256, width=256, mean=0.5, std=0.25)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


# -- without location --------------------------------------------------------------------------------------------------


def test_no_calibration_is_the_training_path_bit_for_bit() -> None:
    """Without a calibration the whole frame becomes the input exactly as training makes it."""
    image = texture(150, 210)
    prepared = Preprocess(load_calibration(None), height=64, width=96, mean=0.5, std=0.25)
    crop = crop_of(prepared.prepare(frame(image)))
    assert prepared.window is None
    assert np.array_equal(crop.image, resize_to_input(image, 64, 96))
    assert np.array_equal(crop.tensor, normalise(crop.image, 0.5, 0.25))
    assert (crop.geometry.scale_x, crop.geometry.scale_y) == (210 / 96, 150 / 64)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), width=st.integers(40, 300), height=st.integers(40, 300), margin=st.integers(0, 80))
def test_window_arithmetic(data: st.DataObject, width: int, height: int, margin: int) -> None:
    """The window lies in the frame, holds the ROI with its margin, and a frame that is only the window, the whole frame
    and any cut between them give the same bytes and the same place in the full frame."""
    w, h = data.draw(st.integers(8, width)), data.draw(st.integers(8, height))
    x, y = data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h))
    stage = plain(
        Roi(x=x, y=y, w=w, h=h),
        FrameSize(width_px=width, height_px=height),
        margin_px=margin,
        checks={"min_contrast": 0.0},
    )
    assert stage.window is not None
    wx, wy, ww, wh = stage.window
    assert (wx, wy) == (max(x - margin, 0), max(y - margin, 0))
    assert (wx + ww, wy + wh) == (min(x + w + margin, width), min(y + h + margin, height))
    image = texture(height, width, seed=w)
    whole = crop_of(stage.prepare(frame(image)))
    assert np.array_equal(whole.image, resize_to_input(image[y : y + h, x : x + w], 64, 64))
    left, top = data.draw(st.integers(0, wx)), data.draw(st.integers(0, wy))
    cut = crop_of(stage.prepare(frame(np.ascontiguousarray(image[top : wy + wh, left : wx + ww]), (left, top))))
    assert np.array_equal(cut.tensor, whole.tensor) and cut.geometry == whole.geometry
    matrix = np.array(whole.geometry.matrix).reshape(2, 3)
    assert np.allclose(matrix @ [-0.5, -0.5, 1], [x - 0.5, y - 0.5])
    assert np.allclose(matrix @ [63.5, 63.5, 1], [x + w - 0.5, y + h - 0.5])


def test_a_frame_without_the_window_is_invalid() -> None:
    """A frame that does not hold the window is BAD_IMAGE, never inspected in part."""
    stage = plain(Roi(x=50, y=60, w=64, h=64), FrameSize(width_px=200, height_px=200), margin_px=10)
    image = texture(200, 200)
    assert reason_of(stage.prepare(frame(np.ascontiguousarray(image[:120])))) is Reason.BAD_IMAGE
    assert reason_of(stage.prepare(frame(np.ascontiguousarray(image[60:]), (0, 60)))) is Reason.BAD_IMAGE


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((200, 200), np.uint8),
        np.full((200, 200), 90, np.uint8),
        np.full((200, 200), 255, np.uint8),
        np.clip(np.random.default_rng(0).normal(60, 3, (200, 200)), 0, 255).astype(np.uint8),
        np.zeros((200, 200, 3), np.uint8),
        np.zeros((200, 200), np.uint16),
        np.zeros((0, 200), np.uint8),
    ],
    ids=["black", "flat", "white", "blank with noise", "colour", "16 bit", "empty"],
)
def test_unusable_pixels_are_bad_images(pixels: Grey) -> None:
    """Black, blank, saturated, colour, 16-bit and empty frames are BAD_IMAGE with a detail, with or without a ROI."""
    for stage in (plain(None, None), plain(Roi(x=50, y=60, w=64, h=64), FrameSize(width_px=200, height_px=200))):
        assert reason_of(stage.prepare(frame(pixels))) is Reason.BAD_IMAGE


def test_published_images_are_not_taken_for_blank(shared_data: Path) -> None:
    """The blank and saturation checks pass every real image that a person can judge."""
    stage = plain(None, None)
    paths = (
        sorted((shared_data / "magnetic-tile").rglob("*.jpg"))[::40]
        + sorted((shared_data / "kolektor-sdd").rglob("*.jpg"))[::20]
    )
    if not paths:
        pytest.skip("no images found in ../shared/data")
    refused = []
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert image is not None, path
        if isinstance(stage.prepare(frame(np.asarray(image, np.uint8))), Decision):
            refused.append(path.name)
    assert refused == []


def test_frame_size_is_checked_in_one_line() -> None:
    """A ROI outside the image and a frame of another size than calibrated are configuration errors of one line."""
    stage = plain(Roi(x=50, y=60, w=64, h=64), FrameSize(width_px=200, height_px=220))
    stage.check_frame_size(200, 220)
    for size, word in (((100, 220), "outside"), ((200, 300), "another size")):
        with pytest.raises(ConfigError, match=word) as error:
            stage.check_frame_size(*size)
        assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_a_frame_of_another_size_than_was_calibrated_is_never_inspected() -> None:
    """Whichever window of it came: the place of the part was measured in frames of another size."""
    stage = plain(Roi(x=50, y=60, w=64, h=64), FrameSize(width_px=200, height_px=220))
    pixels = texture(220, 200)
    assert isinstance(stage.prepare(Frame(1, pixels, 0, full_px=(200, 220))), Crop)
    for whole in (Frame(1, pixels, 0, full_px=(220, 200)), Frame(1, texture(400, 400), 0, full_px=(400, 400))):
        refused = stage.prepare(whole)
        assert isinstance(refused, Decision) and refused.reason is Reason.BAD_IMAGE
        assert "made on frames of 200 x 220, found" in refused.detail


def test_a_window_is_never_judged_as_the_whole_frame() -> None:
    """The camera goes on cutting as it was told at the start, though a reload took the calibration away."""
    stage = plain(None, None)
    assert isinstance(stage.prepare(Frame(1, texture(220, 200), 0, full_px=(200, 220))), Crop)
    refused = stage.prepare(Frame(1, texture(100, 100), 0, (20, 20), full_px=(200, 220)))
    assert isinstance(refused, Decision) and refused.reason is Reason.BAD_IMAGE


# -- with location -----------------------------------------------------------------------------------------------------


def test_a_shifted_and_turned_part_looks_like_the_part_in_its_place(located: Preprocess) -> None:
    """Locating undoes shift and rotation: the crop is the crop of the same part in its nominal place."""
    still = Style(shift_px=0.0, angle_deg=0.0, noise=0.0)
    for index in range(12):
        moved = crop_of(located.prepare(frame(render_part(4, index, style=Style(noise=0.0), defective=False).image)))
        nominal = crop_of(located.prepare(frame(render_part(4, index, style=still, defective=False).image)))
        # The light stays with the station, so compare edges: high-pass both.
        fine = [
            image.image.astype(np.float32) - cv2.blur(image.image.astype(np.float32), (15, 15))
            for image in (moved, nominal)
        ]
        assert float(np.corrcoef(fine[0].ravel(), fine[1].ravel())[0, 1]) > 0.97


def test_geometry_leads_back_to_the_frame(located: Preprocess) -> None:
    """The corners of the map, through the crop's matrix, are the corners of the part in the full frame, within half a
    pixel, for whole frames and for the window alone."""
    assert located.window is not None
    x, y, w, h = located.window
    for index in range(20):
        part = render_part(8, index)
        whole = crop_of(located.prepare(frame(part.image)))
        cut = crop_of(located.prepare(frame(np.ascontiguousarray(part.image[y : y + h, x : x + w]), (x, y))))
        assert cut.geometry == whole.geometry and np.array_equal(cut.tensor, whole.tensor)
        matrix = np.array(whole.geometry.matrix).reshape(2, 3)
        corners = np.array([[-0.5, -0.5, 1], [255.5, -0.5, 1], [255.5, 255.5, 1], [-0.5, 255.5, 1]])
        assert np.abs(corners @ matrix.T - np.array(part.roi_corners)).max() < 0.5
        assert whole.geometry.scale_x == 280 / 256


@settings(max_examples=200, deadline=None)
@given(
    x=st.floats(-50, 50),
    y=st.floats(-50, 50),
    angle=st.floats(-15, 15),
    centre=st.tuples(st.floats(0, 2000), st.floats(0, 2000)),
    point=st.tuples(st.floats(0, 2000), st.floats(0, 2000)),
)
def test_pose_and_its_inverse_return_every_point(
    x: float, y: float, angle: float, centre: tuple[float, float], point: tuple[float, float]
) -> None:
    """A pose keeps distances, moves the centre by exactly its shift, and its inverse brings every point back."""
    matrix = Pose(x, y, angle).matrix(centre)
    assert np.allclose(matrix @ [*centre, 1.0], np.add(centre, (x, y)), atol=1e-8)
    moved = matrix @ [*point, 1.0]
    assert np.isclose(np.hypot(*(moved - np.add(centre, (x, y)))), np.hypot(*np.subtract(point, centre)), atol=1e-8)
    back = cv2.invertAffineTransform(matrix) @ [*moved, 1.0]
    assert np.allclose(back, point, atol=1e-6)


def test_the_same_frame_gives_the_same_bytes(located: Preprocess, station: Path, two_threads: None) -> None:
    """Preparing is deterministic: repeated, in a new instance, and with one thread or two."""
    images = [render_part(2, index).image for index in range(6)]
    first = [crop_of(located.prepare(frame(image))) for image in images]
    again = Preprocess(load_calibration(station), height=256, width=256, mean=0.5, std=0.25)
    for threads in (1, 2):
        cv2.setNumThreads(threads)
        for image, one in zip(images, first, strict=True):
            other = crop_of(again.prepare(frame(image)))
            assert other.tensor.tobytes() == one.tensor.tobytes() and other.geometry == one.geometry


def test_what_is_not_the_part_is_not_located(located: Preprocess) -> None:
    """A frame without the part is INVALID NOT_LOCATED and its detail says why."""
    wrong = render_part(1, 0, style=Style(bars=7)).image
    result = located.prepare(frame(wrong))
    assert reason_of(result) is Reason.NOT_LOCATED
    assert isinstance(result, Decision) and "correlates" in result.detail


def test_an_overexposed_part_is_a_bad_image(located: Preprocess) -> None:
    """Where the light saturates a fifth of the window nothing is judged, though the part could be located."""
    for index in range(5):
        image = np.clip(render_part(6, index).image * 3.0, 0, 255).astype(np.uint8)
        result = located.prepare(frame(image))
        assert reason_of(result) is Reason.BAD_IMAGE
        assert isinstance(result, Decision) and "saturated" in result.detail


def test_a_part_that_reaches_out_of_the_frame_is_not_located(tmp_path: Path) -> None:
    """No pixel outside the frame is ever made up: a located part that reaches beyond it is NOT_LOCATED."""
    image = texture(320, 320)
    path = calibrate_roi([image], name="edge", out_dir=tmp_path, clock=PushedClock(), roi=(7, 70, 180, 180))
    update_calibration(path, locate=load_calibration(path).file.locate.model_copy(update={"min_score": 0.3}))
    stage = Preprocess(load_calibration(path), height=256, width=256, mean=0.5, std=0.25)
    for dx, inside in ((12, True), (0, True), (-6, True), (-9, False), (-12, False)):
        shift = np.array([[1.0, 0, dx], [0, 1.0, 0]])
        moved = cv2.warpAffine(image, shift, (320, 320), borderMode=cv2.BORDER_REPLICATE)
        result = stage.prepare(frame(np.asarray(moved, np.uint8)))
        assert isinstance(result, Crop) is inside, (dx, result)
        if isinstance(result, Decision):
            assert reason_of(result) is Reason.NOT_LOCATED and "reaches out" in result.detail


def test_scale_travels_with_the_crop(tmp_path: Path) -> None:
    """The crop's geometry carries the calibrated millimetres per pixel; without a scale it carries none."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    image = render_part(1, 1).image
    for scale in (None, Scale(mm_per_px=0.0312, residual_px=0.05, residual_mm=0.0015)):
        update_calibration(path, scale=scale)
        stage = Preprocess(load_calibration(path), height=256, width=256, mean=0.5, std=0.25)
        expected = scale.mm_per_px if scale else None
        assert crop_of(stage.prepare(frame(image))).geometry.mm_per_px == expected
