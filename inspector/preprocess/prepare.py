"""The stage between acquisition and engine: checks, locates, corrects and cuts, or says why the part is INVALID."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from inspector.errors import ConfigError
from inspector.frame import Crop, Decision, FloatMap, Frame, Geometry, Grey, Reason, invalid
from inspector.preprocess.calibration import Calibration, Lens, Roi
from inspector.preprocess.locate import Locator, NotFound, Pose
from inspector.preprocess.pixels import apply_flat_field, normalise, surely_fine, to_input
from inspector.preprocess.tiles import Tile, cut_tiles, stitch, tile_grid

_CHECK_BLOCK_PX = 8
_OVERHANG_PX = 0.5  # a warped corner may ask for this much beyond the last pixel centre


@dataclass(frozen=True, slots=True)
class TiledCrop:
    """A large part as tiles of the engine's input size, at the frame's own scale."""

    tiles: tuple[Tile, ...]
    crops: tuple[Crop, ...]
    """One per tile, each with its own geometry."""
    image: Grey
    """The whole ROI, h x w uint8."""
    geometry: Geometry
    """Of the whole ROI, and so of the stitched map."""

    def stitch(self, maps: Sequence[FloatMap]) -> FloatMap:
        """The tiles' maps (H x W float32 each, or 1 x 1 x H x W) as one map of the size of ``image``."""
        flat = [values.reshape(values.shape[-2:]) for values in maps]
        return stitch(flat, self.tiles, self.image.shape[0], self.image.shape[1])


@dataclass(frozen=True, slots=True)
class _Cut:
    """The corrected pixels a part is cut from."""

    pixels: Grey
    origin_px: tuple[int, int]
    """(x, y) of ``pixels[0, 0]`` in the full frame."""
    roi: Roi
    pose: Pose | None
    """None: not located; the part is where the ROI says."""


class Preprocess:
    """Built once per calibration and engine; keeps no state between frames, so the same frame gives the same bytes."""

    def __init__(self, calibration: Calibration, *, height: int, width: int, mean: float, std: float) -> None:
        """``height``, ``width``, ``mean`` and ``std`` are the engine bundle's input and normalisation.

        Raises ConfigError where tiles of that input cannot overlap as the calibration wants."""
        tiles = calibration.file.tiles
        if tiles.enabled and tiles.overlap_px >= min(height, width):
            raise ConfigError(
                f"tiles of calibration {calibration.file.name!r} cannot overlap so much",
                expected=f"overlap_px less than the engine's input, {width} x {height}",
                found=str(tiles.overlap_px),
            )
        self.calibration = calibration
        self._shape = (height, width)
        self._mean, self._std = mean, std
        file = calibration.file
        # The lens correction reads this much around each pixel it corrects.
        self._lens_px = math.ceil(file.lens.largest_px) + 1 if file.lens is not None else 0
        self._work = self._grown(file.margin_px)
        self._window = self._grown(file.margin_px + self._lens_px)
        self._locator: Locator | None = None
        if file.locate.enabled and file.roi is not None and self._work is not None and calibration.template is not None:
            border = file.locate.border_px
            self._locator = Locator(
                calibration.template,
                border_px=border,
                corner_px=(file.roi.x - border - self._work[0], file.roi.y - border - self._work[1]),
                window_wh_px=(self._work[2], self._work[3]),
                max_shift_px=file.locate.max_shift_px,
                max_angle_deg=file.locate.max_angle_deg,
                min_score=file.locate.min_score,
            )
        # Cut once: the same place of the same station for every frame.
        self._gain = calibration.gain
        if self._gain is not None and self._window is not None:
            x, y, w, h = self._window
            self._gain = np.ascontiguousarray(self._gain[y : y + h, x : x + w])
        self._mm_per_px = file.scale.mm_per_px if file.scale is not None else None
        self._lens_maps: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def _grown(self, by_px: int) -> tuple[int, int, int, int] | None:
        file = self.calibration.file
        if file.roi is None or file.frame is None:
            return None
        left, top = max(file.roi.x - by_px, 0), max(file.roi.y - by_px, 0)
        right = min(file.roi.x + file.roi.w + by_px, file.frame.width_px)
        bottom = min(file.roi.y + file.roi.h + by_px, file.frame.height_px)
        return left, top, right - left, bottom - top

    @property
    def window(self) -> tuple[int, int, int, int] | None:
        """(x, y, width, height) in full-frame pixels that acquisition must copy; None = the whole frame."""
        return self._window

    @property
    def calibration_hash(self) -> str:
        """SHA-256 in hex, for ``Hashes.calibration``."""
        return self.calibration.hash

    @property
    def tiled(self) -> bool:
        """True when the calibration asks for ``prepare_tiles`` instead of ``prepare``."""
        return self.calibration.file.tiles.enabled

    def check_frame_size(self, width: int, height: int) -> None:
        """Call with the camera's full frame size before the first part. Raises ConfigError in one line when the ROI is
        outside it or the frame is not of the size that was calibrated."""
        file = self.calibration.file
        if file.roi is not None and (file.roi.x + file.roi.w > width or file.roi.y + file.roi.h > height):
            raise ConfigError(
                f"ROI {file.roi.w} x {file.roi.h} at ({file.roi.x}, {file.roi.y}) of calibration {file.name!r} "
                "is outside the image",
                expected=f"a frame of {file.frame.width_px} x {file.frame.height_px}" if file.frame else "",
                found=f"{width} x {height}",
                do="Correct the camera's size or binning, or run `inspector calibrate roi`",
            )
        if file.frame is not None and (file.frame.width_px, file.frame.height_px) != (width, height):
            raise ConfigError(
                f"calibration {file.name!r} was made on frames of another size",
                expected=f"{file.frame.width_px} x {file.frame.height_px}",
                found=f"{width} x {height}",
                do="Correct the camera's size or binning, or run `inspector calibrate roi`",
            )

    def prepare(self, frame: Frame) -> Crop | Decision:
        """The located, corrected part at the engine's input size, or INVALID (BAD_IMAGE, NOT_LOCATED) with its detail.

        A ROI that is not larger than the input is warped once, from frame to input. A larger one is warped at the
        frame's scale and then averaged over area, as ``resize_to_input`` does in training, so that small defects stay.
        A calibration that asks for tiles gets INVALID here, since shrinking would hide what the tiles are for.
        """
        if self.tiled:
            return invalid(Reason.BAD_IMAGE, "the calibration asks for tiles, and the part was not cut into tiles")
        cut = self._cut(frame)
        if isinstance(cut, Decision):
            return cut
        height, width = self._shape
        roi = cut.roi
        if cut.pose is None:
            image, tensor = to_input(_roi_pixels(cut), height, width, self._mean, self._std)
            return Crop(tensor, image, _lying(roi.x, roi.y, roi.w, roi.h, width, height, self._mm_per_px))
        to_frame = _map_to_frame(roi, width, height, cut.pose)
        if roi.w <= width and roi.h <= height:
            image = _warp(cut, to_frame, width, height)
            tensor = normalise(image, self._mean, self._std)
        else:
            image, tensor = to_input(_roi_pixels(cut), height, width, self._mean, self._std)
        return Crop(tensor, image, _geometry(to_frame, roi.w / width, roi.h / height, self._mm_per_px))

    def prepare_tiles(self, frame: Frame) -> TiledCrop | Decision:
        """The located, corrected part at the frame's own scale, as overlapping tiles of the engine's input size."""
        cut = self._cut(frame)
        if isinstance(cut, Decision):
            return cut
        roi = cut.roi
        to_frame = _map_to_frame(roi, roi.w, roi.h, cut.pose)
        return self._tiled(_roi_pixels(cut), _geometry(to_frame, 1.0, 1.0, self._mm_per_px))

    def recrop(self, image: Grey, geometry: Geometry | None) -> Crop | TiledCrop:
        """What ``prepare`` or ``prepare_tiles`` gave when ``image`` was stored: the part, located and corrected.

        ``geometry`` is the one stored with it; None = the part lies where the calibration says, or fills the frame.
        Raises ConfigError for a picture of another size than this engine takes: it was cut for another one.
        """
        height, width = image.shape
        if geometry is None:
            roi = self.calibration.file.roi or Roi(x=0, y=0, w=width, h=height)
            geometry = _lying(roi.x, roi.y, roi.w, roi.h, width, height, self._mm_per_px)
        if self.tiled:
            return self._tiled(image, geometry)
        if (height, width) != self._shape:
            raise ConfigError(
                "the stored picture was cut for an engine with another input",
                expected=f"{self._shape[1]} x {self._shape[0]}",
                found=f"{width} x {height}",
            )
        return Crop(normalise(image, self._mean, self._std), image, geometry)

    def _tiled(self, image: Grey, geometry: Geometry) -> TiledCrop:
        height, width = self._shape
        tiles = tile_grid(image.shape[0], image.shape[1], height, width, self.calibration.file.tiles.overlap_px)
        a, b, c, d, e, f = geometry.matrix
        crops = []
        for tile, part in zip(tiles, cut_tiles(image, tiles, height, width), strict=True):
            place = (a, b, c + (a * tile.x + b * tile.y), d, e, f + (d * tile.x + e * tile.y))
            crops.append(Crop(normalise(part, self._mean, self._std), part, replace(geometry, matrix=place)))
        return TiledCrop(tiles, tuple(crops), image, geometry)

    def _cut(self, frame: Frame) -> _Cut | Decision:
        pixels = frame.pixels
        if pixels.ndim != 2 or pixels.dtype != np.uint8 or pixels.size == 0:
            return invalid(Reason.BAD_IMAGE, f"expected 8-bit grey pixels, found {pixels.dtype} of {pixels.shape}")
        origin, size = frame.origin_px, self.calibration.file.frame
        full = frame.full_px
        if size is not None and full is not None and full != (size.width_px, size.height_px):
            made = f"calibration {self.calibration.file.name!r} was made on frames of {size.width_px} x"
            return invalid(Reason.BAD_IMAGE, f"{made} {size.height_px}, found {full[0]} x {full[1]}")
        work = self._work
        if work is None and full is not None and full != (pixels.shape[1], pixels.shape[0]):
            cut = f"{pixels.shape[1]} x {pixels.shape[0]} of {full[0]} x {full[1]}"
            return invalid(Reason.BAD_IMAGE, f"the whole frame is the part, and the camera cut {cut} out: restart it")
        if work is not None and self._window is not None:
            x, y, w, h = self._window[0] - origin[0], self._window[1] - origin[1], *self._window[2:]
            if x < 0 or y < 0 or x + w > pixels.shape[1] or y + h > pixels.shape[0]:
                return invalid(
                    Reason.BAD_IMAGE,
                    f"expected pixels that hold {w} x {h} at {self._window[:2]}, "
                    f"found {pixels.shape[1]} x {pixels.shape[0]} at {origin}",
                )
            pixels, origin = pixels[y : y + h, x : x + w], self._window[:2]
        poor = self._too_poor(pixels)
        if poor:
            return invalid(Reason.BAD_IMAGE, poor)
        if self._gain is not None:
            if self._gain.shape != pixels.shape:
                return invalid(
                    Reason.BAD_IMAGE, f"expected {self._gain.shape} as the flat field has, found {pixels.shape}"
                )
            pixels = apply_flat_field(pixels, self._gain)
        if self._lens_px:
            pixels, origin = self._undistort(pixels, origin)
        roi = self.calibration.file.roi or _whole(*origin, *pixels.shape)
        pose: Pose | None = None
        if self._locator is not None:
            found = self._locator.locate(pixels)
            if isinstance(found, NotFound):
                return invalid(Reason.NOT_LOCATED, found.why)
            pose = found
            if not _covered(roi, pose, pixels, origin):
                return invalid(Reason.NOT_LOCATED, "the part reaches out of the frame")
        return _Cut(pixels, origin, roi, pose)

    def _too_poor(self, pixels: Grey) -> str:
        checks = self.calibration.file.checks
        if surely_fine(pixels, checks.min_contrast, checks.max_saturated):
            return ""
        saturated = int(np.count_nonzero(pixels == 255)) / pixels.size
        if saturated > checks.max_saturated:
            return f"{100 * saturated:.0f} % of the pixels are saturated, allowed {100 * checks.max_saturated:.0f} %"
        # Means over blocks: sensor noise averages out, so a blank noisy frame is blank.
        block = _CHECK_BLOCK_PX if min(pixels.shape) >= 4 * _CHECK_BLOCK_PX else 1
        rows, columns = pixels.shape[0] // block, pixels.shape[1] // block
        whole = pixels[: rows * block, : columns * block]  # whole blocks are averaged five times faster
        _, deviation = cv2.meanStdDev(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA))
        contrast = float(np.asarray(deviation).ravel()[0])
        if contrast < checks.min_contrast:
            return f"blank: contrast of {contrast:.2f} grey levels, at least {checks.min_contrast:.2f} needed"
        return ""

    def _undistort(self, pixels: Grey, origin: tuple[int, int]) -> tuple[Grey, tuple[int, int]]:
        """Where a lens is calibrated, everything behind this lives in the undistorted frame. Two samplings then."""
        lens = self.calibration.file.lens
        if lens is None:
            return pixels, origin
        x, y, w, h = self._work or (origin[0], origin[1], pixels.shape[1], pixels.shape[0])
        if (w, h) not in self._lens_maps:
            map_x, map_y = undistortion(lens, (x, y), (w, h))
            fixed = cv2.convertMaps(map_x - np.float32(origin[0]), map_y - np.float32(origin[1]), cv2.CV_16SC2)
            self._lens_maps = {(w, h): (fixed[0], fixed[1])}
        straight = cv2.remap(pixels, *self._lens_maps[w, h], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(straight, np.uint8), (x, y)


def undistortion(lens: Lens, origin_px: tuple[int, int], size_px: tuple[int, int]) -> tuple[FloatMap, FloatMap]:
    """Where in the camera's full frame each pixel of the window at ``origin_px`` of the undistorted frame comes from:
    x and y, each height x width float32, for ``cv2.remap``."""
    matrix, distortion = np.array(lens.matrix).reshape(3, 3), np.array(lens.distortion)
    moved = matrix.copy()
    moved[:2, 2] -= origin_px
    maps = cv2.initUndistortRectifyMap(matrix, distortion, np.eye(3), moved, size_px, cv2.CV_32FC1)
    return np.asarray(maps[0], np.float32), np.asarray(maps[1], np.float32)


@lru_cache(8)
def _whole(x: int, y: int, height: int, width: int) -> Roi:
    """All pixels; kept, since checking a ROI takes longer than finding the blobs of a map."""
    return Roi(x=x, y=y, w=width, h=height)


@lru_cache(8)
def _lying(x: int, y: int, w: int, h: int, width: int, height: int, mm_per_px: float | None) -> Geometry:
    """Where a ``width`` x ``height`` map of a ROI lies that is not located: the same for every frame, hence kept."""
    to_frame = _map_to_frame(Roi(x=x, y=y, w=w, h=h), width, height, None)
    return _geometry(to_frame, w / width, h / height, mm_per_px)


def _geometry(to_frame: np.ndarray, scale_x: float, scale_y: float, mm_per_px: float | None) -> Geometry:
    a, b, c, d, e, f = (float(value) for value in to_frame.ravel())
    return Geometry((a, b, c, d, e, f), scale_x, scale_y, mm_per_px)


def _map_to_frame(roi: Roi, width: int, height: int, pose: Pose | None) -> np.ndarray:
    """2 x 3 float64: pixel centre of a ``width`` x ``height`` map of the ROI -> full-frame pixel centre."""
    scale_x, scale_y = roi.w / width, roi.h / height
    nominal = np.array([[scale_x, 0, roi.x + 0.5 * scale_x - 0.5], [0, scale_y, roi.y + 0.5 * scale_y - 0.5]])
    if pose is None:
        return nominal
    moved = pose.matrix(roi.centre_px)
    out: np.ndarray = moved[:, :2] @ nominal
    out[:, 2] += moved[:, 2]
    return out


def _covered(roi: Roi, pose: Pose, pixels: Grey, origin: tuple[int, int]) -> bool:
    corners = np.array([[0, 0], [roi.w - 1, 0], [0, roi.h - 1], [roi.w - 1, roi.h - 1]], np.float64)
    matrix = _map_to_frame(roi, roi.w, roi.h, pose)
    at = corners @ matrix[:, :2].T + matrix[:, 2] - origin
    limit = np.array([pixels.shape[1] - 1, pixels.shape[0] - 1])
    return bool((at >= -_OVERHANG_PX).all() and (at <= limit + _OVERHANG_PX).all())


def _warp(cut: _Cut, to_frame: np.ndarray, width: int, height: int) -> Grey:
    matrix = to_frame.copy()
    matrix[:, 2] -= cut.origin_px
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(cut.pixels, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def _roi_pixels(cut: _Cut) -> Grey:
    """The ROI at the frame's own scale."""
    roi = cut.roi
    if cut.pose is not None:
        return _warp(cut, _map_to_frame(roi, roi.w, roi.h, cut.pose), roi.w, roi.h)
    x, y = roi.x - cut.origin_px[0], roi.y - cut.origin_px[1]
    return np.ascontiguousarray(cut.pixels[y : y + roi.h, x : x + roi.w])
