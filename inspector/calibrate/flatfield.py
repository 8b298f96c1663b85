"""`inspector calibrate flat-field`: from frames of a clean, even reference to a gain per pixel, with an expiry."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np

from inspector.clock import Clock
from inspector.errors import ConfigError
from inspector.frame import FloatMap, Grey
from inspector.preprocess.calibration import FlatFieldFile, Roi, load_calibration, update_calibration, write_beside

_LEVEL_RANGE = (20.0, 250.0)  # grey levels of the reference: above the noise, below saturation
_MAX_GAIN = 8.0
_MAX_DRIFT = 0.03  # of the mean level between frames; more means that the light was changing
_SPECK_PX = 5
_SMOOTH_PX = 3.0


def shading_gain(images: Sequence[Grey], roi: Roi | None = None) -> FloatMap:
    """The gain per pixel, H x W float32, that makes the mean of ``images`` (H x W uint8 each) even.

    The mean over the ROI keeps its level, so that a flat field does not change the exposure. Specks of dust up to two
    pixels are removed by a median, noise by averaging over the frames and over a few pixels. Raises ConfigError when
    there is no frame, sizes differ, the light drifts, or the reference is too dark or saturated inside the ROI.
    """
    if not images:
        raise ConfigError("no frame of the reference", expected="at least one, better sixteen")
    shape = images[0].shape
    if any(image.ndim != 2 or image.dtype != np.uint8 or image.shape != shape for image in images):
        raise ConfigError("frames of the reference differ", expected=f"8-bit grey of {shape}")
    inside = np.s_[roi.y : roi.y + roi.h, roi.x : roi.x + roi.w] if roi is not None else np.s_[:, :]
    levels = np.array([image[inside].mean() for image in images])
    level = float(levels.mean())
    if level < 1 or np.ptp(levels) > _MAX_DRIFT * level:
        raise ConfigError(
            "the light changes between the frames of the reference, or there is none",
            expected=f"mean levels within {_MAX_DRIFT:.0%}",
            found=f"{levels.min():.1f} to {levels.max():.1f}",
            do="Let the lamp warm up and take them again",
        )
    mean = np.asarray(np.mean(np.stack(images), axis=0, dtype=np.float64), np.float32)
    shade = cv2.GaussianBlur(cv2.medianBlur(mean, _SPECK_PX), (0, 0), _SMOOTH_PX)
    low, high = float(shade[inside].min()), float(shade[inside].max())
    if low < _LEVEL_RANGE[0] or high > _LEVEL_RANGE[1]:
        raise ConfigError(
            "the reference is too dark or saturated",
            expected=f"grey levels from {_LEVEL_RANGE[0]:.0f} to {_LEVEL_RANGE[1]:.0f} in the ROI",
            found=f"{low:.0f} to {high:.0f}",
            do="Correct exposure or light",
        )
    # Outside the ROI the fixture may be as dark as it likes.
    gain = np.clip(level / np.maximum(shade, 1.0), 1 / _MAX_GAIN, _MAX_GAIN)
    return np.asarray(gain, np.float32)


def unevenness(image: np.ndarray) -> float:
    """99th less 1st percentile over the mean."""
    low, high = np.percentile(image, [1, 99])
    return float((high - low) / max(float(image.mean()), 1e-9))


def calibrate_flat_field(
    images: Sequence[Grey], *, calibration_path: Path, clock: Clock, valid_days: float = 30.0
) -> Path:
    """Write ``<station>.flat-<time>.npz`` (array ``gain``, float16 H x W) beside the calibration and enter it there
    with its dates; earlier references stay on disk. Returns the NPZ's path. Raises ConfigError as ``shading_gain``
    does, and when the frames are not of the calibrated size or ``valid_days`` is not positive."""
    if not valid_days > 0:
        raise ConfigError("valid_days of a flat field", expected="more than 0", found=f"{valid_days:g}")
    file = load_calibration(calibration_path).file
    if images and file.frame is not None and images[0].shape != (file.frame.height_px, file.frame.width_px):
        raise ConfigError(
            "the reference is not of the calibrated frame size",
            expected=f"{file.frame.width_px} x {file.frame.height_px}",
            found=f"{images[0].shape[1]} x {images[0].shape[0]}",
        )
    stored = shading_gain(images, file.roi).astype(np.float16)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, gain=stored)
    created = datetime.fromtimestamp(clock.wall_ns() // 1_000_000_000, tz=UTC)
    name = f"{calibration_path.stem}.flat-{created:%Y%m%dT%H%M%SZ}.npz"
    inside = (
        np.s_[file.roi.y : file.roi.y + file.roi.h, file.roi.x : file.roi.x + file.roi.w] if file.roi else np.s_[:, :]
    )
    mean = cv2.GaussianBlur(np.mean(np.stack(images), axis=0, dtype=np.float64), (0, 0), _SMOOTH_PX)
    flat = FlatFieldFile(
        file=name,
        sha256=write_beside(calibration_path.parent, name, buffer.getvalue()),
        created=created,
        expires=created + timedelta(days=valid_days),
        frames=len(images),
        unevenness_before=round(unevenness(mean[inside]), 5),
        unevenness_after=round(unevenness((mean * stored)[inside]), 5),
    )
    update_calibration(calibration_path, flat_field=flat)
    return calibration_path.parent / name
