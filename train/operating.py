"""The operating point: pixel threshold and smallest area that counts, chosen on validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.bounds import clopper_pearson
from inspector.frame import FloatMap

THRESHOLDS: tuple[float, ...] = tuple(round(0.1 + 0.05 * i, 2) for i in range(17))
AREAS_PX: tuple[int, ...] = (1, 4, 8, 12, 16, 24, 32, 48, 64, 96)


def largest_area_px(probability: FloatMap, threshold: float) -> int:
    """Pixels of the largest 8-connected defect of a H x W map cut at ``threshold``; 0 where nothing reaches it."""
    binary = (probability >= threshold).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    return int(stats[1:, cv2.CC_STAT_AREA].max()) if count > 1 else 0


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What was chosen, and what it does on the images it was chosen on."""

    threshold: float
    min_area_px: int
    escapes: int
    defective: int
    overkill: int
    good: int

    def evidence(self, source: str) -> list[str]:
        """Sentences for the manifest."""
        sentences = [
            f"threshold {self.threshold:g} and least area {self.min_area_px} map px: centre of the region with the "
            f"fewest escapes plus overkill on {source}"
        ]
        for name, count, of in (("escapes", self.escapes, self.defective), ("overkill", self.overkill, self.good)):
            if of:
                low, high = clopper_pearson(count, of)
                sentences.append(
                    f"{name} there: {count} of {of} ({100 * count / of:.2f} %, exact 95 % interval "
                    f"{100 * low:.2f} to {100 * high:.2f} %; chosen on the same images, hence optimistic)"
                )
        return sentences


def choose(maps: FloatMap, defective: Sequence[bool]) -> OperatingPoint:
    """The grid point with the least mean of escape rate and overkill rate over it and its neighbours.

    Averaging over neighbours prefers the middle of a good region to a lucky corner. Without good images, or without
    defective ones, there is nothing to weigh: 0.5 and 1 px.
    """
    truth = np.asarray(defective, np.bool_)
    areas = np.array([[largest_area_px(each, t) for t in THRESHOLDS] for each in maps])
    flagged = areas[:, :, None] >= np.array(AREAS_PX)[None, None, :]  # image x threshold x area
    escapes, overkill = (~flagged[truth]).sum(0), flagged[~truth].sum(0)
    bad, good = int(truth.sum()), int((~truth).sum())
    at = (THRESHOLDS.index(0.5), 0)
    if bad and good:
        cost = _neighbourhood(escapes / bad + overkill / good)
        best = np.argwhere(cost <= cost.min() + 1e-12)
        middle = best.mean(0)
        near = best[np.argmin(((best - middle) ** 2).sum(1))]
        at = (int(near[0]), int(near[1]))
    return OperatingPoint(THRESHOLDS[at[0]], AREAS_PX[at[1]], int(escapes[at]), bad, int(overkill[at]), good)


def _neighbourhood(cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """3 x 3 mean, edges repeated."""
    return np.asarray(cv2.blur(cost, (3, 3), borderType=cv2.BORDER_REPLICATE), np.float64)
