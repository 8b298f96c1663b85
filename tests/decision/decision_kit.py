"""Maps, limits and scales that tests of the decision share."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from hypothesis import strategies as st

from inspector.decision import Limits
from inspector.decision.rules import LIMIT_NAMES
from inspector.frame import FloatMap, Geometry

ONE_TO_ONE = Geometry()
SIZE = 48


def blank(height: int = SIZE, width: int = SIZE) -> FloatMap:
    return np.full((height, width), 0.1, np.float32)


def with_box(x: int, y: int, width: int, height: int, value: float = 0.9, on: FloatMap | None = None) -> FloatMap:
    out = blank() if on is None else on
    out[y : y + height, x : x + width] = value
    return out


def random_map(seed: int, margin: int = 0, size: int = SIZE) -> FloatMap:
    """Ellipses, specks and soft edges; nothing within ``margin`` of the border."""
    rng = np.random.default_rng(seed)
    out = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(0, 7)):
        centre = tuple(int(each) for each in rng.integers(0, size, 2))
        axes = tuple(int(each) for each in rng.integers(0, 9, 2))
        cv2.ellipse(out, centre, axes, float(rng.integers(0, 180)), 0, 360, float(rng.random()), -1)
    specks = rng.random(out.shape) < rng.choice([0.0, 0.01, 0.05])
    out[specks] = rng.random(int(specks.sum()), np.float32)
    if margin:
        kept = out[margin:-margin, margin:-margin].copy()
        out[:] = 0.0
        out[margin:-margin, margin:-margin] = kept
    return out


def random_limits(rng: np.random.Generator) -> Limits:
    """A few limits of sensible size; the rest as they are."""
    ranges = {
        "min_area_px": 40, "min_area_map_px": 40, "min_area_mm2": 1, "min_length_px": 12, "min_length_mm": 2,
        "min_width_px": 5, "min_width_mm": 1, "min_score_mean": 1, "min_score_max": 1, "max_count": 4,
        "max_area_px": 120, "max_area_mm2": 3, "max_length_px": 20, "max_length_mm": 4, "max_total_area_px": 200,
        "max_total_area_mm2": 5, "min_distance_px": 15, "min_distance_mm": 3,
    }  # fmt: skip
    assert set(ranges) == set(LIMIT_NAMES)
    chosen = rng.choice(list(ranges), int(rng.integers(0, 6)), replace=False)
    values: dict[str, Any] = {str(name): float(rng.random() * ranges[str(name)]) for name in chosen}
    if "max_count" in values:
        values["max_count"] = round(values["max_count"])
    return Limits(**values)


SCALED = Geometry(scale_x=1.5, scale_y=1.25, mm_per_px=0.12)
SEEDS = st.integers(0, 2**32 - 1)
