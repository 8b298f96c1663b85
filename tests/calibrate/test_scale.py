"""`calibrate scale`: a rendered target of known pitch gives the millimetres back."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from inspector.calibrate.roi import calibrate_roi, calibrate_synthetic
from inspector.calibrate.scale import Target, calibrate_scale, find_points, measure
from inspector.clock import PushedClock
from inspector.errors import ConfigError
from inspector.frame import Crop, Frame, Grey
from inspector.preprocess import Preprocess, load_calibration

FINE = 4  # samples per pixel and axis


def sample_points(width: int, height: int, k1: float) -> tuple[np.ndarray, np.ndarray]:
    """Undistorted coordinates of the sub-samples of every pixel of a camera with the radial term ``k1``."""
    sub = (np.arange(FINE) + 0.5) / FINE - 0.5
    x, y = np.meshgrid((np.arange(width)[:, None] + sub).ravel(), (np.arange(height)[:, None] + sub).ravel())
    if not k1:
        return x, y
    size = float(max(width, height))
    matrix = np.array([[size, 0, (width - 1) / 2], [0, size, (height - 1) / 2], [0, 0, 1]])
    points = np.stack([x.ravel(), y.ravel()], 1)[:, None]
    straight = cv2.undistortPoints(points, matrix, np.array([k1, 0, 0, 0.0]), None, None, matrix).reshape(-1, 2)
    return straight[:, 0].reshape(x.shape), straight[:, 1].reshape(y.shape)


def render(
    target: Target, columns: int, rows: int, pitch_px: float, angle_deg: float = 0.0, k1: float = 0.0, tilt: float = 0.0
) -> Grey:
    """400 x 400 uint8 picture of a target off the middle by (3.3, -2.1) px, blurred and noisy like a camera's."""
    x, y = sample_points(400, 400, k1)
    angle = math.radians(angle_deg)
    dx, dy = x - 199.5 - 3.3, y - 199.5 + 2.1
    depth = 1 + tilt * dx / 200
    u = (math.cos(angle) * dx + math.sin(angle) * dy) / pitch_px / depth
    v = (math.cos(angle) * dy - math.sin(angle) * dx) / pitch_px / depth
    if target == "checkerboard":
        u, v = u + (columns + 1) / 2, v + (rows + 1) / 2
        inside = (u >= 0) & (u < columns + 1) & (v >= 0) & (v < rows + 1)
        dark = inside & ((np.floor(u) + np.floor(v)) % 2 == 0)
    else:
        u, v = u + (columns - 1) / 2, v + (rows - 1) / 2
        at_u, at_v = np.round(u), np.round(v)
        inside = (at_u >= 0) & (at_u < columns) & (at_v >= 0) & (at_v < rows)
        dark = inside & ((u - at_u) ** 2 + (v - at_v) ** 2 < 0.3**2)
    grey = np.where(dark, 30.0, 200.0).reshape(400, FINE, 400, FINE).mean((1, 3))
    noisy = cv2.GaussianBlur(grey, (0, 0), 0.7) + np.random.default_rng(0).normal(0, 1, (400, 400))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


CASES: list[tuple[Target, int, int, float]] = [
    ("checkerboard", 9, 8, 33.3),
    ("dots", 9, 8, 33.3),
    ("dots", 11, 9, 30.7),
]


@pytest.mark.parametrize(("target", "columns", "rows", "pitch_px"), CASES)
@pytest.mark.parametrize("angle_deg", [0.0, 1.7, -4.0])
def test_millimetres_are_right_to_a_tenth_of_a_percent(
    target: Target, columns: int, rows: int, pitch_px: float, angle_deg: float
) -> None:
    """A rendered target with a pitch of 0.5 mm gives mm per px within 0.1 %, a small residual and no lens."""
    points = find_points(render(target, columns, rows, pitch_px, angle_deg), target, columns, rows)
    measured = measure(points, columns, rows, 0.5, (400, 400))
    assert abs(measured.mm_per_px * pitch_px / 0.5 - 1) < 0.001
    assert measured.residual_px < 0.2 and measured.lens is None and measured.tilt < 0.01


@pytest.mark.parametrize(("target", "columns", "rows", "pitch_px"), CASES)
@pytest.mark.parametrize("k1", [0.05, -0.1])
def test_a_lens_that_matters_is_found_and_taken_out(
    target: Target, columns: int, rows: int, pitch_px: float, k1: float
) -> None:
    """With a lens that moves the corners by several pixels, the scale at the middle is still right to 0.1 % and the
    radial term is found."""
    points = find_points(render(target, columns, rows, pitch_px, 1.7, k1), target, columns, rows)
    measured = measure(points, columns, rows, 0.5, (400, 400))
    assert measured.lens is not None and measured.lens.largest_px > 3
    assert abs(measured.lens.distortion[0] - k1) < 0.01
    assert abs(measured.mm_per_px * pitch_px / 0.5 - 1) < 0.001


def test_wrong_targets_are_refused() -> None:
    """A target that is not there, has other counts, or is tilted is refused, not measured wrongly."""
    blank = np.full((400, 400), 128, np.uint8)
    with pytest.raises(ConfigError, match="not found"):
        find_points(blank, "dots", 9, 8)
    with pytest.raises(ConfigError, match="not found"):
        find_points(render("checkerboard", 9, 8, 33.3), "checkerboard", 10, 8)
    with pytest.raises(ConfigError, match="at least 3"):
        find_points(blank, "dots", 2, 8)
    with pytest.raises(ConfigError, match="grey"):
        find_points(np.dstack([blank] * 3), "dots", 9, 8)
    with pytest.raises(ConfigError, match="tilted"):
        points = find_points(render("dots", 9, 8, 33.3, tilt=0.05), "dots", 9, 8)
        measure(points, 9, 8, 0.5, (400, 400))
    scattered = np.random.default_rng(0).uniform(0, 400, (72, 2))
    with pytest.raises(ConfigError):
        measure(scattered, 9, 8, 0.5, (400, 400))


def test_the_scale_is_entered_with_its_residual(tmp_path: Path) -> None:
    """The measured scale and residual stand in the calibration, beside what was there, with a picture of the points."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    before = load_calibration(path)
    image = render("dots", 9, 8, 33.3)
    measured = calibrate_scale(
        image, calibration_path=path, target="dots", columns=9, rows=8, pitch_mm=0.5, clock=PushedClock()
    )
    after = load_calibration(path)
    assert after.file.scale is not None and after.file.scale.mm_per_px == measured.mm_per_px
    assert 0 < after.file.scale.residual_mm < 0.001
    assert after.file.locate == before.file.locate and after.hash != before.hash
    assert (tmp_path / "synthetic.scale.png").exists()


def test_a_lens_and_a_roi_drawn_without_it_do_not_mix(tmp_path: Path) -> None:
    """A significant lens is refused where the ROI was drawn on distorted frames, and the file stays as it was."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    text = path.read_text()
    image = render("dots", 9, 8, 33.3, k1=-0.1)
    arguments = {"target": "dots", "columns": 9, "rows": 8, "pitch_mm": 0.5, "clock": PushedClock()}
    with pytest.raises(ConfigError, match="lens"):
        calibrate_scale(image, calibration_path=path, **arguments)  # type: ignore[arg-type]
    assert path.read_text() == text
    with pytest.raises(ConfigError, match="pitch"):
        calibrate_scale(image, calibration_path=path, **(arguments | {"pitch_mm": 0.0}))  # type: ignore[arg-type]


def test_a_calibrated_lens_straightens_what_the_engine_sees(tmp_path: Path) -> None:
    """Scale first, then ROI: from then on a distorted frame is prepared as the same frame without distortion."""
    path = tmp_path / "bent.toml"
    calibrate_scale(
        render("dots", 9, 8, 33.3, k1=-0.1),
        calibration_path=path,
        target="dots",
        columns=9,
        rows=8,
        pitch_mm=0.5,
        clock=PushedClock(),
    )
    board = render("checkerboard", 7, 6, 40.0, 1.0)
    bent = render("checkerboard", 7, 6, 40.0, 1.0, k1=-0.1)
    calibrate_roi([bent], name="bent", out_dir=tmp_path, clock=PushedClock(), roi=(60, 60, 256, 256), max_shift_px=8.0)
    stage = Preprocess(load_calibration(path), height=256, width=256, mean=0.5, std=0.25)
    crop = stage.prepare(Frame(0, bent, 0))
    assert isinstance(crop, Crop), crop
    assert np.abs(np.array(crop.geometry.matrix) - (1, 0, 60, 0, 1, 60)).max() < 0.1
    straight = np.abs(crop.image.astype(float) - board[60:316, 60:316]).mean()
    untouched = np.abs(bent[60:316, 60:316].astype(float) - board[60:316, 60:316]).mean()
    assert straight < 3.0 < untouched
    assert stage.window is not None
    x, y, w, h = stage.window
    window = stage.prepare(Frame(0, np.ascontiguousarray(bent[y : y + h, x : x + w]), 0, (x, y)))
    assert isinstance(window, Crop) and np.abs(window.image.astype(int) - crop.image).max() <= 1
