"""Pixel arithmetic shared bit for bit by daemon, replay and training. Pure functions, no state but a table cache."""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import cv2
import numpy as np

from inspector import native
from inspector.frame import BoolMap, FloatMap, Grey

_STEP_MAX = 40
"""Means over 39 x 39 pixels lie at least 1 / 3042 from a half; float32 errs by less than half of that."""


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
        out = _shrunk(image, *least)
    if least != (height, width):
        out = cv2.resize(out, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(out, dtype=np.uint8)


def to_input(image: Grey, height: int, width: int, mean: float, std: float) -> tuple[Grey, FloatMap]:
    """``resize_to_input``, and ``normalise`` of what it gives: in one call where the C functions are there."""
    fast = native.found
    if fast is not None and image.strides[-1] == 1 and _in_small_numbers(*image.shape, height, width):
        grey, tensor = np.empty((height, width), np.uint8), np.empty((1, 1, height, width), np.float32)
        fast.shrink(image, grey, tensor[0, 0], _grey_table(mean, std)[None])
        return grey, tensor
    grey = resize_to_input(image, height, width)
    return grey, normalise(grey, mean, std)


def surely_fine(image: Grey, min_contrast: float, max_saturated: float) -> bool:
    """True only where the checks of a frame find nothing, with a grey level to spare; False says nothing."""
    fast, (rows, columns) = native.found, image.shape
    if fast is None or min(rows, columns) < 32 or image.strides[1] != 1:
        return False
    saturated, total, squares = fast.survey(image)
    blocks = (rows // 8) * (columns // 8)
    # Of sums over 64 pixels, in whole numbers. The check rounds each mean, by half a level at most: no standard
    # deviation changes by more than that.
    least = 64.0 * (min_contrast + 1.0) * blocks
    return saturated / image.size <= max_saturated and blocks * squares - total * total >= least * least


def _shrunk(image: Grey, height: int, width: int) -> Grey:
    """The mean over the area that each pixel of the smaller image covers, rounded: what ``INTER_AREA`` gives.

    cv2 has a fast way for whole ratios only. Others of small numbers, such as 400 to 256 = 25 to 16, repeat every few
    pixels: blocks of 25 rows times a 16 x 25 matrix, then the same across, in less than half of cv2's time.
    """
    rows, columns = image.shape
    down, across = gcd(rows, height), gcd(columns, width)
    steps = (rows // down, columns // across)
    if not _in_small_numbers(rows, columns, height, width):
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    lower = _area_weights(steps[0], height // down) @ image.reshape(down, steps[0], columns).astype(np.float32)
    # Small products, one after the other: BLAS does not wake a second thread for them.
    narrower = lower.reshape(down, -1, steps[1]) @ _area_weights(steps[1], width // across).T
    return np.asarray(np.rint(narrower, out=narrower).reshape(height, width), np.uint8)


@lru_cache(maxsize=16)
def _in_small_numbers(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether both axes shrink, if at all, by ratios of small numbers, not both of them whole ones."""
    if height > rows or width > columns or (height, width) == (rows, columns):
        return False
    down, across = gcd(rows, height), gcd(columns, width)
    whole = (height // down, width // across) == (1, 1)
    return not whole and _rounds_alike(rows // down, columns // across)


def _rounds_alike(*steps: int) -> bool:
    """Whether no mean can lie so near to a half that float32 could round it either way: it is a whole number divided
    by an odd one, or by a power of two that float32 holds exactly."""
    small = max(steps) <= _STEP_MAX
    return small and (all(step % 2 for step in steps) or all(step & (step - 1) == 0 for step in steps))


@lru_cache(maxsize=16)
def _area_weights(step: int, count: int) -> FloatMap:
    """count x step: the share of each of ``step`` pixels in each of the ``count`` that they become."""
    begin = np.arange(count)[:, None] * step  # in parts of 1 / count of a pixel
    left = np.arange(step)[None, :] * count
    overlap = np.minimum(begin + step, left + count) - np.maximum(begin, left)
    weights: FloatMap = (np.maximum(overlap, 0) / step).astype(np.float32)
    weights.setflags(write=False)
    return weights


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
