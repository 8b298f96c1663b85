"""Blobs and their measures, against slow direct computations."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from decision_kit import ONE_TO_ONE, SEEDS, random_map, with_box
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.decision import Limits, Rules, decide
from inspector.decision import blobs as blob
from inspector.decision.blobs import LISTED_MAX
from inspector.frame import Geometry, Shape


def draw(found: blob.Blobs, index: int, on: Any, value: int = 1) -> None:
    """Draw the pixels of a blob from its row runs."""
    place = found.label[index]
    runs = slice(found.first[place], found.first[place + 1])
    for begin, end in zip(found.begin[runs].tolist(), found.end[runs].tolist(), strict=True):
        on[int(begin.imag), int(begin.real) : int(end.real) + 1] = value


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=60)
def test_measures_agree_with_brute_force(seed: int, scaled: bool) -> None:
    """Area, centroid, box, scores, largest and smallest calliper of every blob agree with a slow direct computation."""
    scores = random_map(seed)
    mask = scores >= 0.3
    sx, sy = (1.7, 0.6) if scaled else (1.0, 1.0)
    found = blob.find((mask,), scores, None, 0)
    extents = blob.measure(found, np.arange(found.area.size), sx, sy)
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    assert found.area.size == count - 1
    angles = np.linspace(0, np.pi, 3601)[:-1]
    normal = np.stack((np.cos(angles), np.sin(angles)))
    own = np.hypot(normal[0] * sx, normal[1] * sy)
    for i in range(found.area.size):
        drawn = np.zeros(mask.shape, np.bool_)
        draw(found, i, drawn)
        rows, columns = np.nonzero(drawn)
        assert np.array_equal(drawn, labels == labels[rows[0], columns[0]])
        values = scores[rows, columns].astype(np.float64)
        assert (found.area[i], found.score_max[i]) == (len(rows), values.max())
        assert found.score_mean[i] == pytest.approx(values.mean())
        assert (found.x[i], found.y[i]) == pytest.approx((columns.mean(), rows.mean()))
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert tuple(extents.box[i]) == box
        along = np.stack((columns * sx, rows * sy), 1) @ normal
        calliper = np.ptp(along, axis=0) + own
        # the brute force turns in steps of 0.05 degrees; with unequal scales ours is near, not exact
        slack = 0.25 * sx if scaled else 1e-9
        assert calliper.max() - slack <= extents.length_px[i] <= calliper.max() + slack + 1e-3
        assert calliper.min() - slack - 0.03 <= extents.width_px[i] <= calliper.min() + slack


@given(SEEDS, st.sampled_from([0.01, 0.1, 0.3, 0.45, 0.6, 0.9]), st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None, max_examples=80)
def test_blobs_are_the_connected_components(seed: int, share: float, height: int, width: int) -> None:
    """Specks, combs and mazes, maps of one row or column too: the same 8-connected blobs as cv2's labelling."""
    mask = np.random.default_rng(seed).random((height, width)) < share
    found = blob.find((mask,), mask.astype(np.float32), None, 0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    assert found.area.size == count - 1
    drawn = np.zeros(mask.shape, np.int64)
    for i in range(found.area.size):
        draw(found, i, drawn, i + 1)
    assert np.array_equal(drawn > 0, mask)
    assert len({(int(a), int(b)) for a, b in zip(drawn[mask], labels[mask], strict=True)}) == count - 1
    assert sorted(found.area.tolist()) == sorted(stats[1:, cv2.CC_STAT_AREA].tolist())


def mixed_mask(seed: int) -> Any:
    """Specks and mazes, blotches, scratches, or a side that is bent like a bow and ends in a point far out."""
    rng = np.random.default_rng(seed)
    height, width = (int(each) for each in rng.integers(1, 90, 2))
    kind = rng.integers(0, 4)
    if kind == 0:
        return rng.random((height, width)) < rng.random()
    if kind == 1:
        soft = cv2.GaussianBlur(rng.random((height, width)), (0, 0), float(rng.uniform(0.5, 5)))
        return soft >= np.quantile(soft, rng.random())
    if kind == 2:
        drawn = np.zeros((height, width), np.uint8)
        for x0, y0, x1, y1 in rng.integers(0, 90, (4, 4)).tolist():
            cv2.line(drawn, (x0, y0), (x1, y1), 1, int(rng.integers(1, 4)))
        return drawn > 0
    depth = width * rng.random() * np.abs(np.linspace(-rng.random(), rng.random(), height)) ** rng.uniform(0.3, 3)
    drawn = np.arange(width) >= np.minimum(depth, width - 1)[:, None]
    drawn[rng.integers(0, height)] = True
    return drawn[:, ::-1] if rng.random() < 0.5 else drawn


@given(SEEDS)
@settings(deadline=None, max_examples=150)
def test_length_and_width_are_those_of_the_convex_hull(seed: int) -> None:
    """Length, width and box are, to the last bit, what cv2's convex hull of each blob's pixels gives, pair by pair."""
    mask = mixed_mask(seed)
    found = blob.find((mask,), mask.astype(np.float32), None, 0)
    extents = blob.measure(found, np.arange(found.area.size), 1.4, 1.4)
    for i in range(found.area.size):
        drawn = np.zeros(mask.shape, np.uint8)
        draw(found, i, drawn)
        corners = cv2.convexHull(cv2.findNonZero(drawn))[:, 0].astype(np.float64)
        span = corners[:, None] - corners[None]
        edge = np.roll(corners, -1, axis=0) - corners
        across = np.abs(edge[:, None, 0] * span[..., 1] - edge[:, None, 1] * span[..., 0]).max(axis=1)
        edge_px = np.sqrt((edge * edge).sum(axis=1))
        width = (across / np.maximum(edge_px, 1.0)).min()
        assert extents.length_px[i] == (np.sqrt((span * span).sum(axis=2).max()) + 1.0) * 1.4
        assert extents.width_px[i] == (width + 1.0) * 1.4
        assert tuple(extents.box[i]) == cv2.boundingRect(drawn)


@pytest.mark.parametrize("angle", [0, 17, 45, 71, 90, 133])
def test_a_scratch_is_as_long_as_it_is_in_any_direction(angle: int) -> None:
    """A line drawn 100 px long measures 100 px within 2 px and stays a narrow strip, however it lies."""
    scores = np.zeros((256, 256), np.float32)
    step = 49.5 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    start, stop = ([round(float(each)) for each in 128 + sign * step] for sign in (-1, 1))
    cv2.line(scores, start, stop, 0.9, 1)
    (defect,) = decide(scores, Rules(0.5), ONE_TO_ONE)[0].defects
    assert defect.length_px == pytest.approx(100, abs=2) and defect.width_px < 3
    assert defect.shape is Shape.STRIP


@pytest.mark.parametrize(
    ("draw", "shape"),
    [
        (lambda m: cv2.circle(m, (128, 128), 5, 0.9, -1), Shape.POINT),
        (lambda m: cv2.rectangle(m, (100, 100), (102, 101), 0.9, -1), Shape.POINT),
        (lambda m: cv2.circle(m, (128, 128), 30, 0.9, -1), Shape.BLOCK),
        (lambda m: cv2.rectangle(m, (60, 60), (120, 95), 0.9, -1), Shape.BLOCK),
        (lambda m: cv2.rectangle(m, (20, 100), (220, 107), 0.9, -1), Shape.STRIP),
        (lambda m: cv2.ellipse(m, (128, 128), (80, 80), 0, 0, 140, 0.9, 3), Shape.STRIP),
    ],
)
def test_shape_class_from_geometry(draw: Any, shape: Shape) -> None:
    """Specks are points, large compact ones blocks, long thin ones strips, bent ones too."""
    scores = np.zeros((256, 256), np.float32)
    draw(scores)
    (defect,) = decide(scores, Rules(0.5), ONE_TO_ONE)[0].defects
    assert defect.shape is shape


def test_measures_are_frame_pixels_and_millimetres() -> None:
    """A box of 8 x 4 map pixels at scale 1.5 x 2 is 12 x 8 frame pixels, placed by the matrix; mm follow the scale."""
    geometry = Geometry((0.0, -2.0, 300.0, 1.5, 0.0, 40.0), 1.5, 2.0, mm_per_px=0.05)
    (defect,) = decide(with_box(10, 20, 8, 4), Rules(0.5), geometry)[0].defects
    assert defect.area_px == 96.0 and defect.area_mm2 == pytest.approx(96 * 0.0025)
    assert defect.width_px == pytest.approx(8.0) and defect.width_mm == pytest.approx(0.4)
    assert defect.length_mm == pytest.approx(defect.length_px * 0.05)
    assert (defect.x_px, defect.y_px) == (300.0 - 2 * 21.5, 40.0 + 1.5 * 13.5)
    assert defect.box == (10, 20, 8, 4)


def test_blob_in_a_ring_is_its_own_defect() -> None:
    """A speck inside a ring's hole is a second defect with its own measures."""
    scores = np.zeros((64, 64), np.float32)
    cv2.circle(scores, (32, 32), 20, 0.9, 2)
    scores[30:33, 30:35] = 0.8
    defects = decide(scores, Rules(0.5), ONE_TO_ONE)[0].defects
    assert [each.box for each in defects][1:] == [(30, 30, 5, 3)] and len(defects) == 2


def test_noise_is_judged_whole_and_listed_in_part() -> None:
    """Of thousands of specks the rule tells the true number, the list stops at its limit, each entry is measured."""
    scores = np.zeros((256, 256), np.float32)
    scores[::2, ::2] = 0.6
    scores[100, 100] = 0.9
    decision, _ = decide(scores, Rules(0.5), ONE_TO_ONE)
    assert decision.rules[0].startswith("count 16384 > 0") and len(decision.defects) == LISTED_MAX
    decision, _ = decide(scores, Rules(0.5, Limits(min_score_max=0.8)), ONE_TO_ONE)
    first = decision.defects[0]
    assert decision.rules[0].startswith("count 1 > 0") and first.counts and first.box == (100, 100, 1, 1)
    assert all(each.length_px == 1.0 for each in decision.defects)
