"""Figures of merit, each with its averaging stated, and exact bounds. Pure; used by replay, calibration and training.

Pixel figures follow the readings that fit the LSA-Net paper's tables: ``iou`` and ``pa`` accumulated over the set,
``dice`` averaged over images with an image without defect counting 0. The other two averagings stand beside them.
Part figures use the line's words: an *escape* is a defective image answered PASS, *overkill* a good one answered FAIL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspector.bounds import upper_bound
from inspector.frame import BoolMap, Verdict

# ------------------------------------------------------------------------------------------------------ pixel figures


@dataclass(frozen=True, slots=True)
class PixelCounts:
    """Pixels of one image, or of a whole set when added up."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def iou(self) -> float:
        """tp / (tp + fp + fn); 0 where neither mask has a pixel."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def dice(self) -> float:
        """2 tp / (2 tp + fp + fn); 0 where neither mask has a pixel, as the paper's image average needs."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def pa(self) -> float:
        """Pixel accuracy: (tp + tn) / all."""
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn)


def count_pixels(predicted: BoolMap, truth: BoolMap) -> PixelCounts:
    """Counts of two H x W bool masks of the same shape. Raises ValueError otherwise."""
    if predicted.shape != truth.shape or predicted.dtype != np.bool_ or truth.dtype != np.bool_:
        raise ValueError(f"masks {predicted.shape} {predicted.dtype} and {truth.shape} {truth.dtype} do not compare")
    tp = int(np.count_nonzero(predicted & truth))
    found, wanted = int(np.count_nonzero(predicted)), int(np.count_nonzero(truth))
    return PixelCounts(tp, found - tp, wanted - tp, predicted.size - found - wanted + tp)


@dataclass(frozen=True, slots=True)
class PixelFigures:
    """Pixel figures of a set, under every averaging, so that nobody has to guess."""

    images: int
    """Images that had a true mask."""
    iou: float
    """Over the set: sum of intersections / sum of unions. The paper's reading."""
    iou_image: float
    """Mean over all images; an image without any defect pixel counts 0."""
    dice: float
    """Mean over all images; an image without any defect pixel counts 0. The paper's reading."""
    dice_set: float
    """Over the set: 2 sum tp / (2 sum tp + sum fp + sum fn)."""
    dice_defective: float | None
    """Mean over the images whose true mask is not empty; None without such."""
    pa: float
    """Over the set: right pixels / all pixels."""


def pixel_figures(counts: Sequence[PixelCounts]) -> PixelFigures | None:
    """The figures of a set from the counts of its images; None for no images."""
    if not counts:
        return None
    total = sum(counts, PixelCounts())
    dices = [each.dice for each in counts]
    defective = [each.dice for each in counts if each.tp + each.fn > 0]
    return PixelFigures(
        images=len(counts),
        iou=total.iou,
        iou_image=math.fsum(each.iou for each in counts) / len(counts),
        dice=math.fsum(dices) / len(counts),
        dice_set=total.dice,
        dice_defective=math.fsum(defective) / len(defective) if defective else None,
        pa=total.pa,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


# -------------------------------------------------------------------------------------------- images, verdicts, times


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a set of images; None where the masks or labels it needs are missing."""

    images: int
    passed: int
    failed: int
    invalid: int
    defective: int
    """Images known to be defective, INVALID ones among them."""
    good: int
    escapes: int | None
    """Defective images answered PASS. None without defective images."""
    escapes_upper95: float | None
    """One-sided exact 95 % upper bound of the escape rate (escapes / defective)."""
    overkill: int | None
    """Good images answered FAIL. An INVALID is neither escape nor overkill; it has its own count."""
    overkill_upper95: float | None
    pixels: PixelFigures | None

    def to_json(self) -> dict[str, int | float | None]:
        """Flat, with the keys that every ``--json`` uses."""
        pixels = self.pixels
        return {
            "images": self.images,
            "pass": self.passed,
            "fail": self.failed,
            "invalid": self.invalid,
            "defective": self.defective,
            "good": self.good,
            "escapes": self.escapes,
            "escapes_upper95": self.escapes_upper95,
            "overkill": self.overkill,
            "overkill_upper95": self.overkill_upper95,
            "masks": pixels.images if pixels else 0,
            "iou": pixels.iou if pixels else None,
            "iou_image": pixels.iou_image if pixels else None,
            "dice": pixels.dice if pixels else None,
            "dice_set": pixels.dice_set if pixels else None,
            "dice_defective": pixels.dice_defective if pixels else None,
            "pa": pixels.pa if pixels else None,
        }


class Tally:
    """Adds up images one by one and gives their Figures. Not for several threads."""

    def __init__(self) -> None:
        self._verdicts: list[tuple[Verdict, bool | None]] = []
        self._pixels: list[PixelCounts] = []

    def add(
        self,
        verdict: Verdict,
        defective: bool | None = None,
        predicted: BoolMap | None = None,
        truth: BoolMap | None = None,
    ) -> None:
        """One image: its verdict, its label and its masks (H x W bool, same shape) where known.

        An image with a true mask but no predicted one (INVALID) counts as if nothing had been found in it.
        """
        self._verdicts.append((verdict, defective))
        if truth is not None:
            self._pixels.append(count_pixels(np.zeros_like(truth) if predicted is None else predicted, truth))

    def figures(self) -> Figures:
        """The figures of what was added so far."""

        def number(verdict: Verdict | None = None, defective: bool | None = None) -> int:
            return sum(
                (verdict is None or each is verdict) and (defective is None or label is defective)
                for each, label in self._verdicts
            )

        bad, good = number(defective=True), number(defective=False)
        escapes, overkill = number(Verdict.PASS, True), number(Verdict.FAIL, False)
        return Figures(
            images=len(self._verdicts),
            passed=number(Verdict.PASS),
            failed=number(Verdict.FAIL),
            invalid=number(Verdict.INVALID),
            defective=bad,
            good=good,
            escapes=escapes if bad else None,
            escapes_upper95=upper_bound(escapes, bad) if bad else None,
            overkill=overkill if good else None,
            overkill_upper95=upper_bound(overkill, good) if good else None,
            pixels=pixel_figures(self._pixels),
        )


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a series of times, in the unit it came in; each is a value that occurred (nearest rank). None if empty."""

    p50: float | None
    p99: float | None
    p999: float | None
    max: float | None

    def to_json(self) -> dict[str, float | None]:
        """``{p50, p99, p999, max}``."""
        return {"p50": self.p50, "p99": self.p99, "p999": self.p999, "max": self.max}


def percentiles(values: ArrayLike) -> Percentiles:
    """Nearest-rank percentiles: the smallest value that at least 50 / 99 / 99.9 % do not exceed."""
    series = np.asarray(values, dtype=np.float64).ravel()
    if series.size == 0:
        return Percentiles(None, None, None, None)
    p50, p99, p999 = np.percentile(series, [50.0, 99.0, 99.9], method="inverted_cdf").tolist()
    return Percentiles(p50, p99, p999, float(series.max()))


@dataclass(frozen=True, slots=True)
class Curve:
    """Image-level trade-off: entry i is the rule "FAIL where score >= thresholds[i]"; thresholds fall."""

    thresholds: NDArray[np.float64]
    """The distinct scores, highest first."""
    tp: NDArray[np.int64]
    """Defective images at or above the threshold."""
    fp: NDArray[np.int64]
    defective: int
    good: int

    @property
    def recall(self) -> NDArray[np.float64]:
        """True positive rate: share of defective images found. NaN without defective ones."""
        return self.tp / (self.defective or math.nan)

    @property
    def false_positive_rate(self) -> NDArray[np.float64]:
        """Share of good images rejected. NaN without good ones."""
        return self.fp / (self.good or math.nan)

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of the rejected that is defective."""
        return self.tp / (self.tp + self.fp)

    @property
    def roc_area(self) -> float:
        """Area under the ROC by trapezes = chance that a defective image scores above a good one, ties half."""
        x = np.concatenate(([0.0], self.false_positive_rate))
        y = np.concatenate(([0.0], self.recall))
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2.0))

    @property
    def average_precision(self) -> float:
        """Sum over thresholds of (gain in recall) x precision, without interpolation."""
        return float(np.sum(np.diff(np.concatenate(([0.0], self.recall))) * self.precision))


def curve(scores: ArrayLike, defective: ArrayLike) -> Curve:
    """ROC / PR points from one score and one label an image. Raises ValueError for unequal lengths or a NaN."""
    values = np.asarray(scores, dtype=np.float64).ravel()
    labels = np.asarray(defective, dtype=np.bool_).ravel()
    if values.shape != labels.shape or np.isnan(values).any():
        raise ValueError(f"{values.size} scores for {labels.size} labels, or a score that is not a number")
    order = np.argsort(-values, kind="stable")
    values, labels = values[order], labels[order]
    last = np.flatnonzero(np.append(np.diff(values) != 0, True)) if values.size else np.zeros(0, np.intp)
    tp = np.cumsum(labels, dtype=np.int64)[last]
    return Curve(values[last], tp, last.astype(np.int64) + 1 - tp, int(labels.sum()), int((~labels).sum()))
