"""What the tests of preprocessing share: frames, textures, the smallest calibration, and what came of a frame."""

from __future__ import annotations

from datetime import UTC, datetime

import cv2
import numpy as np

from inspector.frame import Crop, Decision, Frame, Grey, Reason, Verdict
from inspector.preprocess import (
    Calibration,
    CalibrationFile,
    Preprocess,
    TiledCrop,
)
from inspector.preprocess.calibration import (
    FrameSize,
    Roi,
)

DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def frame(pixels: Grey, origin: tuple[int, int] = (0, 0)) -> Frame:
    """The camera's first; ``origin`` is where a window begins in the full frame."""
    return Frame(1, pixels, 0, origin)


def texture(height: int, width: int, seed: int = 0) -> Grey:
    """Something to see everywhere, in patches of four pixels."""
    coarse = np.random.default_rng(seed).integers(30, 220, (height // 4 + 2, width // 4 + 2), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(coarse, (width, height)))


def plain(roi: Roi | None, size: FrameSize | None, **more: object) -> Preprocess:
    """To 64 x 64 by a calibration that only says this."""
    file = CalibrationFile.model_validate({"name": "plain", "created": DATE, "roi": roi, "frame": size} | more)
    return Preprocess(Calibration(file, "0" * 64), height=64, width=64, mean=0.4, std=0.2)


def crop_of(result: Crop | Decision) -> Crop:
    assert isinstance(result, Crop), result
    return result


def reason_of(result: Crop | TiledCrop | Decision) -> Reason:
    assert isinstance(result, Decision)
    assert result.verdict is Verdict.INVALID and result.detail and result.reason is not None
    return result.reason
