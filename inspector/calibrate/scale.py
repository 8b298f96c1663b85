"""`inspector calibrate scale`: millimetres per pixel, and the lens where it matters, from a printed target.

The target's points are fitted by a similarity (scale, rotation, shift; closed form by least squares over complex
numbers). One radial term of the Brown-Conrady model is fitted with it, and kept only where it moves a pixel by more
than half a pixel and explains most of the residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from inspector.clock import Clock
from inspector.errors import ConfigError
from inspector.frame import Grey
from inspector.preprocess.calibration import (
    CalibrationFile,
    FrameSize,
    Lens,
    Scale,
    load_calibration,
    update_calibration,
    write_calibration,
)

_SIGNIFICANT_PX = 0.5
_MAX_TILT = 0.01  # change of scale over the target
_MAX_RESIDUAL = 0.02  # of the pitch in pixels
_MAX_K1 = 1.0

Target = Literal["checkerboard", "dots"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a target says."""

    mm_per_px: float
    residual_px: float
    tilt: float
    """How much the scale changes from one end of the target to the other; 0 = seen straight on."""
    lens: Lens | None
    points_px: np.ndarray
    """N x 2 float64, as found."""


def find_points(image: Grey, target: Target, columns: int, rows: int) -> np.ndarray:
    """The target's points row by row, (rows * columns) x 2 float64 in pixels: inner corners of a checkerboard or
    centres of dark dots. Raises ConfigError when they are not all found."""
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ConfigError("the target's image", expected="8-bit grey", found=f"{image.dtype} of {image.shape}")
    if min(columns, rows) < 3:
        raise ConfigError("the target is too small", expected="at least 3 x 3 points", found=f"{columns} x {rows}")
    if target == "checkerboard":
        flags = cv2.CALIB_CB_ACCURACY | cv2.CALIB_CB_NORMALIZE_IMAGE
        found, points = cv2.findChessboardCornersSB(image, (columns, rows), flags=flags)
        if found:
            # The detector is good to a fifth of a pixel; the saddle points themselves to a fiftieth.
            near = int(max(0.3 * float(np.linalg.norm(points.reshape(-1, 2)[1] - points.reshape(-1, 2)[0])), 3))
            stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
            points = cv2.cornerSubPix(image, points.astype(np.float32), (near, near), (-1, -1), stop)
    else:
        found, points = cv2.findCirclesGrid(image, (columns, rows), flags=cv2.CALIB_CB_SYMMETRIC_GRID)
    if not found or points is None or len(points) != columns * rows:
        raise ConfigError(
            f"the {target} target is not found",
            expected=f"{columns} x {rows} {'inner corners' if target == 'checkerboard' else 'dots'}, all in the image",
            found=f"{0 if points is None else len(points)} points",
            do="Check the counts, the focus and the light",
        )
    out: np.ndarray = np.asarray(points, np.float64).reshape(-1, 2)
    return out


def measure(points_px: np.ndarray, columns: int, rows: int, pitch_mm: float, frame_px: tuple[int, int]) -> Measured:
    """Scale, residual, tilt and, where significant, the lens from the points of a target.

    Raises ConfigError when the target is tilted or does not fit a grid."""
    grid = np.array([(x, y) for y in range(rows) for x in range(columns)], np.float64) * pitch_mm
    size = float(max(frame_px))
    centre = (np.array(frame_px, np.float64) - 1) / 2
    k1 = _best_k1(points_px, grid, centre, size)
    plain_px, straight = _residual(points_px, grid), _undistorted(points_px, centre, size, k1)
    corners = np.array(
        [[-0.5, -0.5], [frame_px[0] - 0.5, frame_px[1] - 0.5], [points_px[:, 0].max(), points_px[:, 1].max()]]
    )
    largest_px = float(np.linalg.norm(_undistorted(corners, centre, size, k1) - corners, axis=1).max())
    lens = None
    if largest_px > _SIGNIFICANT_PX and _residual(straight, grid) < 0.5 * plain_px:
        lens = Lens(
            matrix=(size, 0.0, float(centre[0]), 0.0, size, float(centre[1]), 0.0, 0.0, 1.0),
            distortion=(k1, 0.0, 0.0, 0.0),
            largest_px=round(largest_px, 3),
        )
    used = straight if lens is not None else points_px
    px_per_mm, residual_px = _similarity(used, grid)
    tilt = _tilt(used, grid)
    if tilt > _MAX_TILT:
        raise ConfigError(
            "the target is tilted", expected=f"the same scale everywhere within {_MAX_TILT:.1%}", found=f"{tilt:.1%}",
            do="Lay it flat in the plane of the part's surface",
        )  # fmt: skip
    if residual_px > _MAX_RESIDUAL * px_per_mm * pitch_mm:
        raise ConfigError(
            "the points do not lie on a grid", expected=f"a residual below {_MAX_RESIDUAL:.0%} of the pitch",
            found=f"{residual_px:.2f} px", do="Check the counts and that the target is flat",
        )  # fmt: skip
    return Measured(1 / px_per_mm, residual_px, tilt, lens, points_px)


def _similarity(points_px: np.ndarray, grid_mm: np.ndarray) -> tuple[float, float]:
    """Pixels per millimetre and the RMS residual in pixels; the grid may be counted from any corner, hence mirrored."""
    seen = points_px[:, 0] + 1j * points_px[:, 1]
    seen = seen - seen.mean()
    best = (0.0, np.inf)
    for grid in (grid_mm[:, 0] + 1j * grid_mm[:, 1], grid_mm[:, 0] - 1j * grid_mm[:, 1]):
        grid = grid - grid.mean()
        factor = np.vdot(grid, seen) / np.vdot(grid, grid).real
        residual = float(np.sqrt(np.mean(np.abs(seen - factor * grid) ** 2)))
        if residual < best[1]:
            best = (float(abs(factor)), residual)
    return best


def _residual(points_px: np.ndarray, grid_mm: np.ndarray) -> float:
    """RMS residual of a homography, so that tilt is not mistaken for distortion."""
    matrix, _ = cv2.findHomography(grid_mm, points_px, 0)
    projected = cv2.perspectiveTransform(grid_mm[None], matrix)[0]
    return float(np.sqrt(np.mean(np.sum((projected - points_px) ** 2, axis=1))))


def _tilt(points_px: np.ndarray, grid_mm: np.ndarray) -> float:
    matrix, _ = cv2.findHomography(grid_mm, points_px, 0)
    # The local scale of a homography goes with its denominator to the power of 3/2.
    depth = np.column_stack([grid_mm, np.ones(len(grid_mm))]) @ matrix[2]
    return float((depth.max() / depth.min()) ** 1.5 - 1) if depth.min() > 0 else float("inf")


def _undistorted(points_px: np.ndarray, centre: np.ndarray, size: float, k1: float) -> np.ndarray:
    matrix = np.array([[size, 0, centre[0]], [0, size, centre[1]], [0, 0, 1]])
    distortion = np.array([k1, 0, 0, 0], np.float64)
    out = cv2.undistortPoints(points_px[:, None].astype(np.float64), matrix, distortion, None, None, matrix)
    return np.asarray(out, np.float64).reshape(-1, 2)


def _best_k1(points_px: np.ndarray, grid_mm: np.ndarray, centre: np.ndarray, size: float) -> float:
    """Golden-section search for the radial term; the residual has one valley over the range of usable lenses."""
    low, high = -_MAX_K1, _MAX_K1
    golden = (5**0.5 - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        at_left = _residual(_undistorted(points_px, centre, size, left), grid_mm)
        at_right = _residual(_undistorted(points_px, centre, size, right), grid_mm)
        low, high = (low, right) if at_left < at_right else (left, high)
    return (low + high) / 2


def calibrate_scale(
    image: Grey,
    *,
    calibration_path: Path,
    target: Target,
    columns: int,
    rows: int,
    pitch_mm: float,
    clock: Clock,
) -> Measured:
    """Measure the target in a full frame and enter scale, residual and lens into the calibration (made if it is not
    there). Writes ``<station>.scale.png`` with the points found. Raises ConfigError as ``find_points`` and ``measure``
    do, for a pitch that is not positive, and when a significant lens meets a ROI that was drawn without it."""
    if not pitch_mm > 0:
        raise ConfigError("pitch of the target", expected="more than 0 mm", found=f"{pitch_mm:g}")
    height, width = image.shape[:2]
    measured = measure(find_points(image, target, columns, rows), columns, rows, pitch_mm, (width, height))
    created = datetime.fromtimestamp(clock.wall_ns() // 1_000_000_000, tz=UTC)
    scale = Scale(
        mm_per_px=measured.mm_per_px,
        residual_px=round(measured.residual_px, 4),
        residual_mm=round(measured.residual_px * measured.mm_per_px, 6),
        created=created,
    )
    frame = FrameSize(width_px=width, height_px=height)
    if calibration_path.exists():
        file = load_calibration(calibration_path).file
        if file.frame is not None and file.frame != frame:
            raise ConfigError(
                "the target's image is not of the calibrated frame size",
                expected=f"{file.frame.width_px} x {file.frame.height_px}", found=f"{width} x {height}",
            )  # fmt: skip
        if file.roi is not None and (measured.lens is None) != (file.lens is None):
            moves = measured.lens.largest_px if measured.lens is not None else 0.0
            raise ConfigError(
                f"the lens moves pixels by up to {moves:.1f} px, and the ROI was drawn "
                f"{'with' if file.lens else 'without'} a lens correction",
                do="Run `inspector calibrate scale` into a new calibration first, then `inspector calibrate roi`",
            )
        update_calibration(calibration_path, scale=scale, lens=measured.lens, frame=frame)
    else:
        name = calibration_path.stem
        write_calibration(
            calibration_path, CalibrationFile(name=name, created=created, frame=frame, scale=scale, lens=measured.lens)
        )
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    cv2.drawChessboardCorners(picture, (columns, rows), measured.points_px.astype(np.float32)[:, None], True)
    cv2.imwrite(str(calibration_path.with_suffix(".scale.png")), picture)
    return measured
