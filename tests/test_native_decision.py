"""Map -> blobs by the C functions: to the last bit what the Python code gives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector import native
from inspector.decision import Limits, Rules, Zone, decide, judge
from inspector.decision import blobs as blob
from inspector.decision.blobs import LISTED_MAX, Blobs, Seen
from inspector.engine.bundle import load_bundle
from inspector.errors import ConfigError
from inspector.frame import FloatMap, Geometry, Reason
from tests.native_kit import needs_native

pytestmark = needs_native
ROOT = Path(__file__).resolve().parent.parent
SEEDS = st.integers(0, 2**32 - 1)
GEOMETRIES = st.sampled_from(
    [Geometry(), Geometry(scale_x=1.5625, scale_y=1.5625, mm_per_px=0.02), Geometry(scale_x=1.7, scale_y=0.6)]
)
EXTENT = Limits(min_length_px=3.0, min_width_px=2.0, min_score_mean=0.6, max_count=2, min_distance_px=9.0)
LIMITS = st.sampled_from([Limits(), Limits(min_area_px=12.0, max_total_area_px=300.0), EXTENT])


def drawn_map(seed: int) -> FloatMap:
    """Noise and mazes, blotches, scratches, combs, rings in rings, a grid of specks; of any size, one row too."""
    rng = np.random.default_rng(seed)
    height, width = (int(each) for each in rng.choice([1, 2, 7, 8, 9, 31, 48, 64, 97, 130], 2))
    kind = rng.integers(0, 7)
    out = np.zeros((height, width), np.float32)
    if kind == 0:
        out = rng.random((height, width), np.float32)
    elif kind == 1:
        soft = cv2.GaussianBlur(rng.random((height, width), np.float32), (0, 0), float(rng.uniform(0.5, 5)))
        out = (soft - soft.min()) / max(float(np.ptp(soft)), 1e-6)
    elif kind == 2:
        for x0, y0, x1, y1 in rng.integers(0, 130, (6, 4)).tolist():
            cv2.line(out, (x0, y0), (x1, y1), float(rng.random()), int(rng.integers(1, 4)))
    elif kind == 3:
        out[:, ::2] = rng.random()
        out[int(rng.integers(0, height))] = rng.random()
    elif kind == 4:
        for radius in range(2, 60, 4):
            cv2.circle(out, (width // 2, height // 2), radius, float(rng.random()), 1)
    elif kind == 5:
        out[:: int(rng.integers(2, 4)), :: int(rng.integers(2, 4))] = rng.random()
    else:
        out[:] = rng.choice([0.0, 0.5, 1.0])
        out[int(rng.integers(0, height)), int(rng.integers(0, width))] = rng.random()
    levels = rng.choice([0, 0, 10])  # few levels: many equal values, and some on the threshold
    return np.asarray(np.round(out * levels) / levels if levels else out, np.float32)


def drawn_rules(seed: int, shape: tuple[int, int], threshold: float, limits: Limits) -> Rules:
    """With up to four zones, some of them ignored, or none."""
    rng = np.random.default_rng(seed)
    height, width = shape
    zones: list[Zone] = []
    for index in range(int(rng.integers(0, 5)) if height * width > 1 else 0):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        w, h = int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))
        ignore = bool(rng.random() < 0.4) and w * h < height * width
        zones.append(Zone(f"z{index}", Zone.rectangle(x, y, w, h), ignore, limits, EXTENT if index % 2 else None))
    try:
        Rules(threshold, zones=tuple(zones)).check(height, width, None)
    except ConfigError:  # the ignored ones cover the whole map
        zones = []
    return Rules(threshold, limits, None, tuple(zones))


def same(ours: Any, wanted: Any) -> None:
    """Equal type for type and bit for bit."""
    assert ours.dtype == wanted.dtype and ours.shape == wanted.shape
    assert np.ascontiguousarray(ours).tobytes() == np.ascontiguousarray(wanted).tobytes()


def compare(score_map: FloatMap, rules: Rules, geometry: Geometry) -> Seen | None:
    """What the C functions found, equal to the reference in every array; None where they leave it to that."""
    ours = blob.at_once(score_map, rules, geometry)
    with native.without():
        wanted = judge._step_by_step(score_map, rules)
        by_python = decide(score_map, rules, geometry)
    by_native = decide(score_map, rules, geometry)
    assert repr(by_native[0]) == repr(by_python[0])
    same(by_native[1], by_python[1])
    if ours is None:
        return None
    assert isinstance(wanted, Seen)
    assert math.copysign(1, ours.score) == math.copysign(1, wanted.score) and ours.score == wanted.score
    same(ours.mask, wanted.mask)
    assert (ours.blobs is None) == (wanted.blobs is None)
    if ours.blobs is not None and wanted.blobs is not None:
        same_blobs(ours.blobs, wanted.blobs, rules, geometry)
    return ours


def same_blobs(ours: Blobs, wanted: Blobs, rules: Rules, geometry: Geometry) -> None:
    scale = (geometry.scale_x, geometry.scale_y)
    assert ours.judged == wanted.judged
    for name in ("area", "x", "y", "score_mean", "score_max", "zones", "label", "begin", "end", "first"):
        same(getattr(ours, name), getattr(wanted, name))
    assert ours.area_px is not None
    same(ours.area_px, wanted.area * (scale[0] * scale[1]))
    assert (ours.extents is not None) == (rules.of_extent or ours.judged <= LISTED_MAX)
    if ours.extents is not None:
        for found, measured in zip(ours.extents, blob.measure(wanted, None, *scale), strict=True):
            same(found, measured)


@given(SEEDS, st.sampled_from([0.05, 0.3, 0.5, 0.7, 1.0]) | st.floats(0.01, 1.0), LIMITS, GEOMETRIES)
@settings(deadline=None, max_examples=400)
def test_every_array_is_the_references(seed: int, threshold: float, limits: Limits, geometry: Geometry) -> None:
    """Blobs, sums, zones, callipers, boxes, order, runs, mask, score, decision: bit for bit, on all kinds of maps."""
    score_map = drawn_map(seed)
    height, width = score_map.shape
    compare(score_map, drawn_rules(seed, (height, width), threshold, limits), geometry)


@given(SEEDS, st.lists(st.sampled_from([np.nan, -np.nan, np.inf, -np.inf, -0.0, -1e-30, 1.0000001, 3e38]), max_size=3))
@settings(deadline=None, max_examples=150)
def test_what_is_no_probability_is_found_as_before(seed: int, odd: list[float]) -> None:
    """NaN, infinity, what is below 0 or above 1, and negative zero: counted, told and judged as the reference does."""
    score_map = drawn_map(seed)
    rng = np.random.default_rng(seed)
    for value in odd:
        score_map[int(rng.integers(0, score_map.shape[0])), int(rng.integers(0, score_map.shape[1]))] = value
    found = compare(score_map, Rules(0.5, EXTENT), Geometry())
    assert (found is None) == bool(np.signbit(score_map).any() or not (score_map <= 1.0).all())


def test_a_nan_is_never_passed() -> None:
    """One NaN in any pixel makes the part INVALID NOT_FINITE, first and last pixel and those of long rows too."""
    for height, width in ((1, 1), (3, 5), (16, 33)):
        for at in range(height * width):
            score_map = np.zeros((height, width), np.float32)
            score_map.ravel()[at] = np.nan
            assert decide(score_map, Rules(0.5), Geometry())[0].reason is Reason.NOT_FINITE


@given(SEEDS, st.integers(0, 10), GEOMETRIES)
@settings(deadline=None, max_examples=40)
def test_a_map_full_of_noise(seed: int, tenths: int, geometry: Geometry) -> None:
    """More blobs than are listed, up to thousands, with and without zones, measured or not."""
    rng = np.random.default_rng(seed)
    score_map = np.where(rng.random((128, 160)) < tenths / 20, rng.random((128, 160)), 0.0).astype(np.float32)
    for limits in (Limits(), EXTENT):
        for rules in (Rules(0.2, limits), drawn_rules(seed, (128, 160), 0.2, limits)):
            compare(score_map, rules, geometry)


def test_five_hundred_blobs() -> None:
    """All of them are found, in the same order, with the same measures."""
    score_map = np.zeros((256, 256), np.float32)
    for index in range(500):
        y, x = divmod(index, 25)
        score_map[y * 12 : y * 12 + 1 + index % 7, x * 10 : x * 10 + 1 + index % 5] = 0.5 + index / 1001
    seen = compare(score_map, Rules(0.5, EXTENT), Geometry(scale_x=1.3, scale_y=1.3))
    assert seen is not None and seen.blobs is not None and seen.blobs.judged == 500


@pytest.mark.parametrize("bundle", ["commutator", "magnetic-tile"])
def test_maps_of_the_engines(bundle: str) -> None:
    """The reference maps of the bundles we ship, at their own thresholds and around them."""
    read = load_bundle(ROOT / "engines" / bundle)
    for score_map in read.golden()[1]:
        for threshold in (read.threshold, 0.01, 0.2, 0.9):
            for limits in (Limits(min_area_px=12.0), EXTENT):
                assert compare(np.clip(score_map, 0.0, 1.0), Rules(threshold, limits), Geometry()) is not None


def test_what_is_left_to_the_reference() -> None:
    """Thresholds so low that sums would be rounded, large maps, and maps whose rows do not follow each other."""
    score_map = np.random.default_rng(0).random((64, 64), np.float32)
    assert compare(score_map, Rules(1e-7), Geometry()) is None and compare(score_map, Rules(0.0), Geometry()) is None
    assert compare(score_map, Rules(1e-5), Geometry()) is not None
    assert compare(score_map[:, ::2], Rules(0.5), Geometry()) is None
    assert compare(score_map[::2], Rules(0.5), Geometry()) is None
    assert compare(np.zeros((4097, 3), np.float32), Rules(0.5), Geometry()) is None
    assert compare(np.ones((4096, 3), np.float32), Rules(0.5), Geometry()) is not None
    raw = np.zeros(64 * 64 * 4 + 1, np.uint8)
    shifted = raw[1:].view(np.float32).reshape(64, 64)  # a float that lies across words
    shifted[3, 4:9] = 0.75
    assert compare(shifted, Rules(0.5), Geometry()) is None
