"""Pixel arithmetic shared bit for bit by daemon, replay and training. Pure functions, no state but a table cache."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from inspector.frame import BoolMap, FloatMap, Grey


def resize_to_input(image: Grey, height: int, width: int) -> Grey:
    """Resize ``image`` (H x W uint8) to ``height`` x ``width``, each axis by the filter that suits it.

    An axis that shrinks is averaged over its area (``INTER_AREA``), so that a defect of one pixel still leaves its
    share of grey instead of falling between samples; an axis that grows is interpolated (``INTER_LINEAR``). Where one
    shrinks and the other grows, the shrinking goes first. The same size returns a contiguous copy. Pixel centres
    follow ``x_in = (x_out + 0.5) * W_in / W_out - 0.5``. Deterministic. Raises ValueError unless 2-D uint8, not empty.
    """
    _require_grey(image)
    if height < 1 or width < 1:
        raise ValueError(f"target size {height} x {width} is empty")
    rows, columns = image.shape
    if (rows, columns) == (height, width):
        return np.array(image, dtype=np.uint8, order="C")
    out: np.ndarray = image
    least = (min(rows, height), min(columns, width))
    if least != (rows, columns):
        out = cv2.resize(out, (least[1], least[0]), interpolation=cv2.INTER_AREA)
    if least != (height, width):
        out = cv2.resize(out, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(out, dtype=np.uint8)


def normalise(image: Grey, mean: float, std: float) -> FloatMap:
    """``(x / 255 - mean) / std`` for each pixel: H x W uint8 -> 1 x 1 x H x W float32, C-contiguous.

    The two numbers come from the engine bundle and never from the image, so that a dark part stays a dark part.
    Computed in float64 once per grey value and rounded to float32, hence exact and the same everywhere.
    Raises ValueError unless 2-D uint8, and for a ``std`` that is not a positive finite number.
    """
    _require_grey(image)
    values = cv2.LUT(np.ascontiguousarray(image), _grey_table(float(mean), float(std)))
    return np.asarray(values, np.float32)[None, None]


def apply_flat_field(image: Grey, gain: FloatMap) -> Grey:
    """``image * gain``, rounded and held within 0..255: uint8 and float32 of the same H x W -> H x W uint8."""
    if image.shape != gain.shape:
        raise ValueError(f"image of shape {image.shape}, gain of shape {gain.shape}")
    return np.asarray(cv2.multiply(image, gain, dtype=cv2.CV_8U), np.uint8)


@lru_cache(maxsize=16)
def _grey_table(mean: float, std: float) -> FloatMap:
    if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
        raise ValueError(f"normalisation by mean {mean}, std {std}: std must be positive and both finite")
    table: FloatMap = ((np.arange(256, dtype=np.float64) / 255.0 - mean) / std).astype(np.float32)
    table.setflags(write=False)
    return table


def _require_grey(image: Grey) -> None:
    if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected a 2-D uint8 image, found {image.dtype} of shape {image.shape}")


def resize_mask(mask: BoolMap, height: int, width: int) -> BoolMap:
    """A labelled mask (H x W bool) at the size of the score map: a pixel half covered counts.

    A defect that would vanish keeps its best-covered pixels, so that no defective image turns good by shrinking.
    """
    soft = resize_to_input(np.where(mask, 255, 0).astype(np.uint8), height, width)
    if mask.any() and soft.max() <= 127:
        return np.asarray(soft == soft.max())
    return np.asarray(soft > 127)
