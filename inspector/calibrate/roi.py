"""`inspector calibrate roi`: finds the contact piece, writes the calibration, its template and a picture of both.

The piece is the largest bright rectangle against the darker fixture. Its four sides are measured with calipers (the
steepest grey step along many short scans across each side) and fitted with lines that outliers, such as slots that
run out of the piece, do not bend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np

from inspector.camera.render import Style, nominal_roi, render_reference
from inspector.clock import Clock
from inspector.errors import ConfigError
from inspector.frame import Grey
from inspector.preprocess.calibration import (
    Calibration,
    CalibrationFile,
    Checks,
    FrameSize,
    Lens,
    Locate,
    Roi,
    TileRule,
    load_calibration,
    reach_px,
    write_beside,
    write_calibration,
)
from inspector.preprocess.locate import Locator, NotFound, Pose, template_border_px
from inspector.preprocess.prepare import undistortion

_SCANS = 64
_SCAN_PX = 12
_MIN_SHARE = 0.02  # of the frame's area; a smaller bright spot is no contact piece
_SCORE_SHARE = 0.85  # of the worst score on the calibration images
_SCORE_RANGE = (0.4, 0.8)


@dataclass(frozen=True, slots=True)
class Piece:
    """The contact piece as found in one image."""

    centre_px: tuple[float, float]
    size_px: tuple[float, float]
    """Width, height."""
    angle_deg: float
    """Positive turns x towards y."""

    def corners_px(self) -> np.ndarray:
        """4 x 2 float64: top left, top right, bottom right, bottom left outer corner."""
        angle = math.radians(self.angle_deg)
        across, down = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
        half_w, half_h = self.size_px[0] / 2, self.size_px[1] / 2
        signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        return np.array([np.array(self.centre_px) + x * half_w * across + y * half_h * down for x, y in signs])


def find_piece(image: Grey) -> Piece:
    """The bright rectangle in ``image`` (H x W uint8). Raises ConfigError when none stands out or its sides are not
    straight."""
    smooth = cv2.GaussianBlur(image, (0, 0), 2.0)
    threshold, mask = cv2.threshold(smooth, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    # Slots divide the piece into bars; closing joins them again.
    reach = max(min(image.shape) // 24, 3) | 1
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea, default=None)
    if largest is None or cv2.contourArea(largest) < _MIN_SHARE * image.size:
        raise ConfigError(
            "no contact piece found",
            expected=f"a bright area of at least {_MIN_SHARE:.0%} of the frame (threshold {threshold:.0f})",
            found="none",
            do="Light the part, or give its place with --roi x,y,w,h",
        )
    (x, y), (width, height), angle = cv2.minAreaRect(largest)
    while angle > 45:
        angle, width, height = angle - 90, height, width
    while angle < -45:
        angle, width, height = angle + 90, height, width
    piece = Piece((float(x), float(y)), (float(width), float(height)), float(angle))
    for _ in range(2):  # the second time from where the first one ended
        piece = _measure(smooth, piece)
    return piece


def _measure(image: np.ndarray, rough: Piece) -> Piece:
    corners = rough.corners_px()
    lines = [_fit_side(image, corners[side], corners[(side + 1) % 4]) for side in range(4)]
    met = np.array([_meet(lines[side - 1], lines[side]) for side in range(4)])
    width = (np.linalg.norm(met[1] - met[0]) + np.linalg.norm(met[2] - met[3])) / 2
    height = (np.linalg.norm(met[3] - met[0]) + np.linalg.norm(met[2] - met[1])) / 2
    across, down = met[1] + met[2] - met[0] - met[3], met[2] + met[3] - met[0] - met[1]
    turn = math.degrees((math.atan2(across[1], across[0]) + math.atan2(-down[0], down[1])) / 2)
    centre = met.mean(axis=0)
    return Piece((float(centre[0]), float(centre[1])), (float(width), float(height)), turn)


def _fit_side(image: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Point and direction of the line through the steepest fall of grey outwards from start -> end, its left being
    outside (corners run clockwise on the screen)."""
    along = (end - start) / np.linalg.norm(end - start)
    outward = np.array([along[1], -along[0]])
    places = start + np.linspace(0.1, 0.9, _SCANS)[:, None] * (end - start)
    offsets = np.arange(-_SCAN_PX, _SCAN_PX + 1)
    points = places[:, None, :] + offsets[None, :, None] * outward
    maps = points[..., 0].astype(np.float32), points[..., 1].astype(np.float32)
    grey = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    fall = -np.diff(grey.astype(np.float64), axis=1)
    best = np.clip(fall.argmax(axis=1), 1, fall.shape[1] - 2)
    rows = np.arange(_SCANS)
    left, middle, right = fall[rows, best - 1], fall[rows, best], fall[rows, best + 1]
    bend = left - 2 * middle + right
    peak = best + np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1), 0.0)
    # A slot that runs out has no edge there: keep the scans whose step is at least half the usual one.
    keep = middle > 0.5 * np.median(middle)
    edge = (places + (peak - _SCAN_PX + 0.5)[:, None] * outward)[keep]
    if len(edge) < _SCANS // 4 or np.median(middle) < 2.0:
        raise ConfigError(
            "the sides of the contact piece are not clear", expected="a straight bright outline",
            found=f"{len(edge)} of {_SCANS} scans with an edge", do="Improve the light, or give --roi x,y,w,h",
        )  # fmt: skip
    vx, vy, x, y = cv2.fitLine(edge.astype(np.float32), cv2.DIST_HUBER, 0, 0.01, 0.001).ravel()
    return np.array([x, y], np.float64), np.array([vx, vy], np.float64)


def _meet(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    (point, along), (other, across) = first, second
    share = np.linalg.solve(np.column_stack([along, -across]), other - point)
    out: np.ndarray = point + share[0] * along
    return out


def calibrate_roi(
    images: Sequence[Grey],
    *,
    name: str,
    out_dir: Path,
    clock: Clock,
    roi: tuple[int, int, int, int] | None = None,
    max_shift_px: float = 20.0,
    max_angle_deg: float = 3.0,
) -> Path:
    """Write ``<name>.toml``, ``<name>.template.png`` and ``<name>.overlay.png`` into ``out_dir``; returns the TOML.

    ``images`` are full frames of good parts (H x W uint8, all of one size). Without ``roi`` (x, y, width, height) the
    piece is found in each; the ROI is its median place and size, upright, and the template the mean of the images
    turned upright, so that texture that differs from part to part fades. With ``roi`` the first image is the template
    as it stands. What an existing file says of scale, lens, flat field, tiles and checks is kept. Every image must
    then be located again. Raises ConfigError when an image is unusable, pieces differ in size by more than 2 %, the
    ROI is outside the image, or an image is not located.
    """
    _check_images(images)
    path = out_dir / f"{name}.toml"
    kept = load_calibration(path).file if path.exists() else None
    images = [_straight(image, kept.lens) for image in images] if kept and kept.lens else images
    height, width = images[0].shape
    frame = FrameSize(width_px=width, height_px=height)
    pieces = None if roi is not None else [_find_nth(image, index) for index, image in enumerate(images)]
    where = Roi(x=roi[0], y=roi[1], w=roi[2], h=roi[3]) if roi is not None else _common_roi(pieces or [])
    if where.x + where.w > width or where.y + where.h > height:
        raise ConfigError(
            f"ROI {where.w} x {where.h} at ({where.x}, {where.y}) is outside the image", expected=f"{width} x {height}"
        )
    border = template_border_px(where.w, where.h)
    template = _template(images, pieces, where, border)
    margin = reach_px(where.w, where.h, max_shift_px, max_angle_deg) + border
    found = _locate_all(images, template, where, border, (max_shift_px, max_angle_deg))
    low, high = _SCORE_RANGE
    min_score = round(min(max(_SCORE_SHARE * min(pose.score for pose in found), low), high), 2)
    coded, png = cv2.imencode(".png", template)
    assert coded, "OpenCV encodes any 2-D uint8 image"
    template_name = f"{name}.template.png"
    locate = Locate(
        enabled=True,
        template=template_name,
        sha256=write_beside(out_dir, template_name, png.tobytes()),
        border_px=border,
        max_shift_px=max_shift_px,
        max_angle_deg=max_angle_deg,
        min_score=min_score,
    )
    file = CalibrationFile(
        name=name,
        created=datetime.fromtimestamp(clock.wall_ns() // 1_000_000_000, tz=UTC),
        margin_px=margin,
        frame=frame,
        roi=where,
        locate=locate,
        flat_field=kept.flat_field if kept else None,
        scale=kept.scale if kept else None,
        lens=kept.lens if kept else None,
        tiles=kept.tiles if kept else TileRule(),
        checks=kept.checks if kept else Checks(),
    )
    write_calibration(path, file)
    write_beside(out_dir, f"{name}.overlay.png", _png(overlay(images[0], load_calibration(path), found[0])))
    return path


def calibrate_synthetic(*, out_dir: Path, clock: Clock, name: str = "synthetic", style: Style | None = None) -> Path:
    """The calibration of the synthetic camera, whose nominal place is known: its clean reference part there."""
    style = style or Style()
    image = render_reference(style).image
    return calibrate_roi(
        [image],
        name=name,
        out_dir=out_dir,
        clock=clock,
        roi=nominal_roi(style),
        max_shift_px=style.shift_px,
        max_angle_deg=style.angle_deg,
    )


def _check_images(images: Sequence[Grey]) -> None:
    if not images:
        raise ConfigError("no image to calibrate on", expected="at least one frame of a good part")
    for index, image in enumerate(images):
        if image.ndim != 2 or image.dtype != np.uint8 or image.shape != images[0].shape:
            raise ConfigError(
                f"image {index} cannot be used",
                expected=f"8-bit grey of {images[0].shape}",
                found=f"{image.dtype} of {image.shape}",
            )


def _straight(image: Grey, lens: Lens) -> Grey:
    maps = undistortion(lens, (0, 0), (image.shape[1], image.shape[0]))
    return np.asarray(cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _find_nth(image: Grey, index: int) -> Piece:
    try:
        return find_piece(image)
    except ConfigError as error:
        raise ConfigError(
            f"image {index}: {error.what}", expected=error.expected, found=error.found, do=error.do
        ) from error


def _common_roi(pieces: Sequence[Piece]) -> Roi:
    sizes = np.array([piece.size_px for piece in pieces])
    centres = np.array([piece.centre_px for piece in pieces])
    size = np.median(sizes, axis=0)
    off = np.abs(sizes / size - 1).max(axis=1)
    if off.max() > 0.02:
        worst = int(off.argmax())
        raise ConfigError(
            f"image {worst}: the piece differs in size from the others",
            expected=f"{size[0]:.0f} x {size[1]:.0f} px within 2 %",
            found=f"{sizes[worst, 0]:.0f} x {sizes[worst, 1]:.0f} px",
        )
    w, h = (round(float(value)) for value in size)
    x, y = np.median(centres, axis=0) - (np.array([w, h]) - 1) / 2
    return Roi(x=max(round(float(x)), 0), y=max(round(float(y)), 0), w=w, h=h)


def _template(images: Sequence[Grey], pieces: Sequence[Piece] | None, roi: Roi, border: int) -> Grey:
    """(h + 2 border) x (w + 2 border) uint8."""
    size = (roi.w + 2 * border, roi.h + 2 * border)
    to_frame = np.array([[1.0, 0, roi.x - border], [0, 1.0, roi.y - border]])
    if pieces is None:
        images, matrices = images[:1], [to_frame]
    else:
        matrices = []
        for piece in pieces:
            shift_x, shift_y = (found - mid for found, mid in zip(piece.centre_px, roi.centre_px, strict=True))
            moved = Pose(shift_x, shift_y, piece.angle_deg).matrix(roi.centre_px)
            matrices.append(np.column_stack([moved[:, :2] @ to_frame[:, :2], moved @ [*to_frame[:, 2], 1.0]]))
    total = np.zeros((size[1], size[0]), np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for image, matrix in zip(images, matrices, strict=True):
        total += cv2.warpAffine(
            image.astype(np.float32), matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
        )  # fmt: skip
    return np.rint(total / len(images)).astype(np.uint8)


def _locate_all(
    images: Sequence[Grey], template: Grey, roi: Roi, border: int, limits: tuple[float, float]
) -> list[Pose]:
    locator = Locator(
        template,
        border_px=border,
        corner_px=(roi.x - border, roi.y - border),
        window_wh_px=(images[0].shape[1], images[0].shape[0]),
        max_shift_px=limits[0],
        max_angle_deg=limits[1],
        min_score=_SCORE_RANGE[0] / _SCORE_SHARE,
    )
    poses = []
    for index, image in enumerate(images):
        found = locator.locate(image)
        if isinstance(found, NotFound):
            raise ConfigError(
                f"image {index}: the part is not located again with the template made from these images",
                found=found.why,
                do="Leave out frames that are not of a good part in its usual place, or raise the limits",
            )
        poses.append(found)
    return poses


def overlay(image: Grey, calibration: Calibration, pose: Pose) -> np.ndarray:
    """H x W x 3 uint8 (BGR): nominal ROI in yellow, the window that is copied in blue, the part as found in green."""
    picture = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    file = calibration.file
    roi = file.roi
    if roi is None:
        return picture
    margin = file.margin_px
    low, high = (roi.x - margin, roi.y - margin), (roi.x + roi.w - 1 + margin, roi.y + roi.h - 1 + margin)
    cv2.rectangle(picture, low, high, (220, 120, 40), 1)
    cv2.rectangle(picture, (roi.x, roi.y), (roi.x + roi.w - 1, roi.y + roi.h - 1), (0, 220, 255), 1)
    corners = np.array([[0, 0, 1], [roi.w - 1, 0, 1], [roi.w - 1, roi.h - 1, 1], [0, roi.h - 1, 1]], np.float64)
    corners[:, :2] += (roi.x, roi.y)
    found = np.rint(corners @ pose.matrix(roi.centre_px).T * 16).astype(np.int32)
    cv2.polylines(picture, [found], True, (80, 230, 80), 1, cv2.LINE_AA, 4)
    words = f"{file.name}: {roi.w} x {roi.h} px, shift {pose.shift_x_px:+.2f} {pose.shift_y_px:+.2f}, "
    words += f"{pose.angle_deg:+.2f} deg, score {pose.score:.2f}"
    cv2.putText(picture, words, (6, image.shape[0] - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (80, 230, 80), 1, cv2.LINE_AA)
    return picture


def _png(picture: np.ndarray) -> bytes:
    coded, data = cv2.imencode(".png", picture)
    assert coded, "OpenCV encodes any uint8 picture"
    return bytes(data.tobytes())
