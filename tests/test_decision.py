"""From map to verdict: what the rules promise, whatever the map."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.decision import Alarms, Limits, Rules, Zone, decide, worst
from inspector.decision import blobs as blob
from inspector.decision.judge import LISTED_MAX
from inspector.decision.rules import LIMIT_NAMES
from inspector.errors import ConfigError
from inspector.frame import Decision, FloatMap, Geometry, Reason, Shape, Verdict, invalid

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


# ---------------------------------------------------------------------------------------------------- maps and masks


def test_clean_map_passes_with_its_score() -> None:
    """Nothing at or above the threshold: PASS, no defects, an empty mask, and the map's highest value as score."""
    scores = blank()
    scores[5, 7] = 0.49
    decision, mask = decide(scores, Rules(0.5), ONE_TO_ONE)
    assert (decision.verdict, decision.defects, decision.rules) == (Verdict.PASS, (), ())
    assert decision.score == np.float32(0.49) and not mask.any() and mask.dtype == np.bool_


def test_one_pixel_fails_without_limits() -> None:
    """With a threshold alone, a single pixel at the threshold fails the part, and the rule says so with figures."""
    scores = blank()
    scores[5, 7] = 0.5
    decision, mask = decide(scores, Rules(0.5), ONE_TO_ONE)
    assert decision.verdict is Verdict.FAIL and mask.sum() == 1
    assert decision.rules == ("count 1 > 0 (largest 1 px, 1.0 px long)",)
    (defect,) = decision.defects
    assert (defect.area_px, defect.length_px, defect.width_px) == (1.0, 1.0, 1.0)
    assert (defect.x_px, defect.y_px, defect.box) == (7.0, 5.0, (7, 5, 1, 1))
    json.dumps([defect.box, defect.area_px, defect.counts, decision.score])  # no numpy types on the wire


@given(SEEDS, st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.7, 1.0]))
@settings(deadline=None, max_examples=60)
def test_mask_is_the_thresholded_map(seed: int, threshold: float) -> None:
    """The mask is exactly ``map >= threshold``, whatever the rules and zones make of it."""
    scores = random_map(seed)
    scores[40, 40], scores[42, 42] = threshold, np.nextafter(np.float32(threshold), np.float32(0))
    zones = (Zone("rim", Zone.rectangle(0, 0, SIZE, 9), ignore=True),)
    for rules in (Rules(threshold), Rules(threshold, Limits(min_area_px=1e9), zones=zones)):
        _, mask = decide(scores, rules, SCALED)
        assert np.array_equal(mask, scores.astype(np.float64) >= threshold)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e-6, 1.0001])
@pytest.mark.parametrize("where", [(0, 0), (SIZE - 1, SIZE - 1), (20, 31)])
@pytest.mark.parametrize("defective", [True, False])
def test_a_single_bad_value_is_invalid(value: float, where: tuple[int, int], defective: bool) -> None:
    """NaN, infinity or a value outside 0..1 anywhere, in an ignored zone too: INVALID NOT_FINITE, never a verdict."""
    scores = with_box(10, 10, 9, 9) if defective else blank()
    scores[where] = value
    zones = (Zone("corner", Zone.rectangle(0, 0, 5, 5), ignore=True),)
    decision, mask = decide(scores, Rules(0.5, zones=zones), ONE_TO_ONE)
    assert (decision.verdict, decision.reason) == (Verdict.INVALID, Reason.NOT_FINITE)
    assert not mask.any() and mask.shape == scores.shape and "1 of 2304" in decision.detail


def test_wrong_maps_are_programming_errors() -> None:
    """A batch, a float64 map or an empty one is never judged."""
    for bad in (np.zeros((1, 8, 8), np.float32), np.zeros((8, 8)), np.zeros((0, 8), np.float32)):
        with pytest.raises(ValueError, match="2-D float32"):
            decide(bad, Rules(0.5), ONE_TO_ONE)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- measures


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=60)
def test_measures_agree_with_brute_force(seed: int, scaled: bool) -> None:
    """Area, centroid, box, scores, largest and smallest calliper of every blob agree with a slow direct computation."""
    scores = random_map(seed)
    mask = scores >= 0.3
    sx, sy = (1.7, 0.6) if scaled else (1.0, 1.0)
    found = blob.find(mask, scores, None, 0)
    extents = blob.measure(found, np.arange(len(found)), sx, sy)
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    assert len(found) == count - 1
    angles = np.linspace(0, np.pi, 3601)[:-1]
    normal = np.stack((np.cos(angles), np.sin(angles)))
    own = np.hypot(normal[0] * sx, normal[1] * sy)
    for i in range(len(found)):
        drawn = np.zeros(mask.shape, np.bool_)
        for (row, left), (_, right) in found.runs[found.first[i] : found.first[i + 1]].tolist():
            drawn[row, left : right + 1] = True
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
    found = blob.find(mask, mask.astype(np.float32), None, 0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    assert len(found) == count - 1
    drawn = np.zeros(mask.shape, np.int64)
    for i in range(len(found)):
        for (row, left), (_, right) in found.runs[found.first[i] : found.first[i + 1]].tolist():
            drawn[row, left : right + 1] = i + 1
    assert np.array_equal(drawn > 0, mask)
    assert len({(int(a), int(b)) for a, b in zip(drawn[mask], labels[mask], strict=True)}) == count - 1
    assert sorted(found.area.tolist()) == sorted(stats[1:, cv2.CC_STAT_AREA].tolist())


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


# ------------------------------------------------------------------------------------------------------------ limits


@given(SEEDS, st.sampled_from(LIMIT_NAMES), st.floats(0, 2))
@settings(deadline=None, max_examples=300)
def test_verdict_is_monotone_in_every_limit(seed: int, name: str, factor: float) -> None:
    """Loosening any one limit never turns PASS into FAIL, whatever the others are."""
    rng = np.random.default_rng(seed)
    scores, limits = random_map(seed), random_limits(rng)
    old = getattr(limits, name)
    looser_is_higher = not name.startswith("min_distance")
    new = (
        (old + factor * 30 if looser_is_higher else old * min(factor, 1.0))
        if "score" not in name
        else max(old, factor / 2)
    )
    if name == "max_count":
        new = round(new)
    verdicts = [
        decide(scores, Rules(0.3, each), SCALED)[0].verdict for each in (limits, replace(limits, **{name: new}))
    ]
    assert verdicts != [Verdict.PASS, Verdict.FAIL]


@given(SEEDS, st.floats(0.05, 1), st.floats(0.05, 1))
@settings(deadline=None, max_examples=100)
def test_verdict_is_monotone_in_the_threshold(seed: int, one: float, other: float) -> None:
    """With limits on area, length, width and total area, a higher threshold never turns PASS into FAIL."""
    rng = np.random.default_rng(seed)
    limits = Limits(*(float(each) for each in rng.random(5) * (30, 30, 1, 9, 1)), max_total_area_px=150.0)
    low, high = sorted((one, other))
    verdicts = [decide(random_map(seed), Rules(each, limits), SCALED)[0].verdict for each in (low, high)]
    assert verdicts != [Verdict.PASS, Verdict.FAIL]


@given(SEEDS, st.integers(-8, 8), st.integers(-8, 8))
@settings(deadline=None, max_examples=150)
def test_flips_and_shifts_change_no_verdict(seed: int, dx: int, dy: int) -> None:
    """Without zones, a map flipped or shifted inside the ROI gets the same verdict, rules and measures."""
    rng = np.random.default_rng(seed)
    scores = random_map(seed, margin=8)
    limits = random_limits(rng)
    rules = Rules(0.3, limits, replace(limits, min_area_px=limits.min_area_px / 2, max_count=0))

    def seen(scores: FloatMap) -> tuple[Any, ...]:
        decision, _ = decide(np.ascontiguousarray(scores), rules, SCALED)
        measures = [
            (each.area_px, each.length_px, each.width_px, each.score_mean, each.score_max, each.shape, each.counts)
            for each in decision.defects
        ]
        return decision.verdict, decision.review, decision.rules, decision.score, sorted(measures, key=str)

    here = seen(scores)
    for other in (scores[::-1], scores[:, ::-1], scores[::-1, ::-1], np.roll(scores, (dy, dx), (0, 1))):
        assert seen(other) == here


@given(SEEDS)
@settings(deadline=None, max_examples=50)
def test_result_does_not_depend_on_blob_order(seed: int) -> None:
    """Blobs are ordered by what they are (size, then place), not by how they were labelled: transposing back agrees."""
    scores = random_map(seed)
    rules = Rules(0.3, random_limits(np.random.default_rng(seed)))
    turned, _ = decide(np.ascontiguousarray(scores.T), rules, Geometry(scale_x=1.5, scale_y=1.5, mm_per_px=0.1))
    here, _ = decide(scores, rules, Geometry(scale_x=1.5, scale_y=1.5, mm_per_px=0.1))
    assert (here.verdict, here.rules) == (turned.verdict, turned.rules)
    boxes = sorted((each.box[1], each.box[0], each.box[3], each.box[2], each.length_px) for each in turned.defects)
    assert sorted((*each.box, each.length_px) for each in here.defects) == boxes
    areas = [each.area_px for each in here.defects if each.counts]
    assert areas == sorted(areas, reverse=True)
    assert decide(scores.copy(), rules, SCALED)[0] == decide(scores, rules, SCALED)[0]


CASES = {
    # limit: (a value that lets the part pass, one that fails it, a word of the rule). One box of 8 x 4 px at 0.9, and
    # one of 3 x 3 px at 0.6, 10 px apart between nearest centres; scale 0.1 mm.
    "min_area_px": (33, 32, "count 1 > 0 (largest 0.32 mm2"),
    "min_area_map_px": (33, 32, "at min_area_map_px 32"),
    "min_area_mm2": (0.33, 0.31, "count 1 > 0"),
    "min_length_px": (9, 8, "count 1 > 0"),
    "min_length_mm": (0.9, 0.8, "count 1 > 0"),
    "min_width_px": (4.1, 3.9, "count 1 > 0"),
    "min_width_mm": (0.41, 0.39, "count 1 > 0"),
    "min_score_mean": (0.91, 0.7, "count 1 > 0"),
    "min_score_max": (0.91, 0.7, "count 1 > 0"),
    "max_count": (2, 1, "count 2 > 1"),
    "max_area_px": (32, 31, "area 32 px > max_area_px 31"),
    "max_area_mm2": (0.33, 0.31, "area 0.32 mm2 > max_area_mm2 0.31"),
    "max_length_px": (9, 8, "length 8.616 px > max_length_px 8"),
    "max_length_mm": (0.9, 0.8, "length 0.8616 mm > max_length_mm 0.8"),
    "max_total_area_px": (41, 40, "total area 41 px > max_total_area_px 40"),
    "max_total_area_mm2": (0.42, 0.4, "total area 0.41 mm2 > max_total_area_mm2 0.4"),
    "min_distance_px": (10, 11, "distance 10.0 px < min_distance_px 11"),
    "min_distance_mm": (1.0, 1.1, "distance 1 mm < min_distance_mm 1.1"),
}


@pytest.mark.parametrize("name", LIMIT_NAMES)
def test_every_limit_passes_and_fails_where_it_says(name: str) -> None:
    """Each limit has a figure on either side of it that decides, and the rule's text names figure and limit."""
    scores = with_box(26, 20, 3, 3, 0.6, with_box(9, 20, 8, 4))
    passing, failing, words = CASES[name]
    allowed = {} if name.startswith("min_") and "distance" not in name else {"max_count": 5}
    geometry = Geometry(mm_per_px=0.1)
    good, _ = decide(scores, Rules.parse({"threshold": 0.5, **allowed, name: passing}), geometry)
    bad, _ = decide(scores, Rules.parse({"threshold": 0.5, **allowed, name: failing}), geometry)
    assert (good.verdict, bad.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert len(good.defects) == 2 and len(bad.rules) == 1 and words in bad.rules[0]


def test_small_blobs_are_listed_but_do_not_count() -> None:
    """What the rules let pass is still in the list, marked; what counts stands first."""
    scores = with_box(26, 20, 3, 3, 0.6, with_box(9, 20, 8, 4))
    decision, _ = decide(scores, Rules(0.5, Limits(min_score_max=0.55, min_area_px=10)), ONE_TO_ONE)
    assert [(each.area_px, each.counts) for each in decision.defects] == [(32.0, True), (9.0, False)]


def test_review_band_lies_between_two_limits() -> None:
    """Above the limit FAIL, between the two limits FAIL for review, below both PASS: never a PASS for review."""
    rules = Rules.parse({"threshold": 0.5, "min_area_px": 20, "review": {"min_area_px": 10}})
    got = [decide(with_box(5, 5, n, 1), rules, ONE_TO_ONE)[0] for n in (9, 10, 19, 20)]
    assert [(each.verdict, each.review) for each in got] == [
        (Verdict.PASS, False), (Verdict.FAIL, True), (Verdict.FAIL, True), (Verdict.FAIL, False),
    ]  # fmt: skip
    assert got[1].rules == ("review: count 1 > 0 (largest 10 px, 10.0 px long) at min_area_px 10",)
    assert got[1].defects[0].counts and not got[0].defects[0].counts


# ------------------------------------------------------------------------------------------------------------- zones


def test_zone_has_its_own_limits() -> None:
    """Inside a zone its limits replace the station's one by one; outside the station's hold."""
    rules = Rules.parse(
        {
            "threshold": 0.5,
            "min_area_px": 5,
            "min_score_mean": 0.4,
            "zones": [{"name": "edge", "rectangle": [0, 0, 10, SIZE], "limits": {"min_area_px": 50}}],
        }
    )
    assert rules.zones[0].limits == replace(rules.limits, min_area_px=50.0)
    inside, _ = decide(with_box(2, 5, 6, 6), rules, ONE_TO_ONE)
    outside, _ = decide(with_box(20, 5, 6, 6), rules, ONE_TO_ONE)
    assert (inside.verdict, outside.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert (inside.defects[0].zone, outside.defects[0].zone) == ("edge", "")
    large, _ = decide(with_box(1, 5, 8, 8), rules, ONE_TO_ONE)
    assert large.rules[0].startswith("zone edge: count 1 > 0 (largest 64 px")


def test_blob_across_a_border_is_judged_by_both_sides_whole() -> None:
    """A defect cannot hide by lying half in a lenient zone: each side judges all of it."""
    zones = [{"name": "edge", "rectangle": [0, 0, 10, SIZE], "limits": {"min_area_px": 500}}]
    rules = Rules.parse({"threshold": 0.5, "min_area_px": 30, "zones": zones})
    decision, _ = decide(with_box(2, 5, 9, 4), rules, ONE_TO_ONE)  # 32 px in the zone, 4 outside
    assert decision.verdict is Verdict.FAIL and decision.defects[0].zone == "edge"
    assert decision.rules[0].startswith("count 1 > 0 (largest 36 px")


def test_ignored_zone_is_listed_but_decides_nothing() -> None:
    """What lies in an ignored zone neither fails the part nor adds to a blob beside it nor sets the score."""
    zones = [{"name": "chamfer", "polygon": [[-0.5, -0.5], [9.5, -0.5], [9.5, 50], [-0.5, 50]], "ignore": True}]
    rules = Rules.parse({"threshold": 0.5, "min_area_px": 10, "zones": zones})
    decision, mask = decide(with_box(4, 5, 8, 4), rules, ONE_TO_ONE)  # 24 px inside, 8 outside
    assert decision.verdict is Verdict.PASS and mask.sum() == 32
    assert [(each.area_px, each.zone, each.counts) for each in decision.defects] == [
        (8.0, "", False),
        (24.0, "chamfer", False),
    ]
    only, _ = decide(with_box(1, 1, 5, 5), rules, ONE_TO_ONE)
    assert only.score == np.float32(0.1) and only.verdict is Verdict.PASS


def test_first_zone_holds_where_zones_overlap() -> None:
    """Order in the list is precedence: an inspected island in an ignored field is inspected."""
    island = Zone("island", Zone.rectangle(10, 10, 10, 10))
    field = Zone("field", Zone.rectangle(0, 0, 40, 40), ignore=True)
    scores = with_box(12, 12, 3, 3)
    for zones, verdict in (((island, field), Verdict.FAIL), ((field, island), Verdict.PASS)):
        assert decide(scores, Rules(0.5, zones=zones), ONE_TO_ONE)[0].verdict is verdict


def test_zone_review_follows_its_own_limit() -> None:
    """A limit that a zone sets itself does not keep the station's review band for it."""
    table = {
        "threshold": 0.5, "min_area_px": 20, "review": {"min_area_px": 10},
        "zones": [{"name": "edge", "rectangle": [0, 0, 10, SIZE], "limits": {"min_area_px": 60}}],
    }  # fmt: skip
    scores = with_box(2, 5, 5, 5)
    assert decide(scores, Rules.parse(table), ONE_TO_ONE)[0].verdict is Verdict.PASS
    table["zones"][0]["review"] = {"min_area_px": 25}  # type: ignore[index]
    decision, _ = decide(scores, Rules.parse(table), ONE_TO_ONE)
    assert decision.review and decision.rules[0].startswith("review: zone edge: count 1 > 0")


def test_rectangle_covers_its_pixels_exactly() -> None:
    """A rectangle is whole pixels, no row more and none less; a polygon takes the pixels whose centre it holds."""
    rules = Rules(0.5, zones=(Zone("a", Zone.rectangle(3, 4, 5, 6)),))
    zones = rules.zone_map(20, 20)
    expected = np.zeros((20, 20), np.uint8)
    expected[4:10, 3:8] = 1
    assert zones is not None and np.array_equal(zones.owner, expected)
    corners = ((2.0, 2.0), (17.3, 5.1), (9.7, 16.2), (8.0, 8.0))
    zones = Rules(0.5, zones=(Zone("a", corners),)).zone_map(20, 20)
    assert zones is not None
    outline = np.array(corners, np.float32).reshape(-1, 1, 2)
    for y, x in np.ndindex(20, 20):
        side = cv2.pointPolygonTest(outline, (float(x), float(y)), True)
        assert abs(side) < 1e-3 or (side > 0) == bool(zones.owner[y, x])


# ---------------------------------------------------------------------------------------------------- parse and check


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, ["threshold = None", "0 to 1"]),
        ({"threshold": 1.2}, ["threshold = 1.2", "0 to 1"]),
        ({"threshold": True}, ["threshold = True"]),
        ({"threshold": 0.5, "min_aera_px": 3}, ["min_aera_px is unknown", "did you mean min_area_px"]),
        ({"threshold": 0.5, "wibble": 3}, ["wibble is unknown", "allowed: threshold"]),
        ({"threshold": 0.5, "min_area_px": -1}, ["min_area_px = -1", "from 0 up"]),
        ({"threshold": 0.5, "min_area_px": "12"}, ["min_area_px = '12'"]),
        ({"threshold": 0.5, "min_area_px": float("nan")}, ["min_area_px = nan"]),
        ({"threshold": 0.5, "max_count": 1.5}, ["max_count = 1.5", "whole number"]),
        ({"threshold": 0.5, "min_score_mean": 1.5}, ["min_score_mean = 1.5", "0 to 1"]),
        ({"threshold": 0.5, "min_area_px": 5, "review": {"min_area_px": 6}}, ["review.min_area_px = 6", "at most"]),
        ({"threshold": 0.5, "min_distance_px": 5, "review": {"min_distance_px": 4}}, ["at least the limit 5"]),
        ({"threshold": 0.5, "review": 3}, ["review = 3", "a table"]),
        ({"threshold": 0.5, "zones": {"name": "a"}}, ["zones = ", "a list of tables"]),
        ({"threshold": 0.5, "zones": [{"rectangle": [0, 0, 1, 1]}]}, ["zones[0].name = None"]),
        ({"threshold": 0.5, "zones": [{"name": "a"}]}, ["zones[0] needs either polygon or rectangle"]),
        (
            {"threshold": 0.5, "zones": [{"name": "a", "rectangle": [0, 0, 0, 1]}]},
            ["zones[0].rectangle = [0, 0, 0, 1]"],
        ),
        ({"threshold": 0.5, "zones": [{"name": "a", "polygon": [[0, 0], [1, 1]]}]}, ["three or more corners"]),
        ({"threshold": 0.5, "zones": [{"name": "a", "rectangle": [0, 0, 1, 1], "ignore": 1}]}, ["zones[0].ignore = 1"]),
        (
            {"threshold": 0.5, "zones": [{"name": "a", "rectangle": [0, 0, 1, 1], "limits": {"max_cuont": 1}}]},
            ["zones[0].limits.max_cuont", "did you mean max_count"],
        ),
        ({"threshold": 0.5, "zones": [{"name": "a", "rectangle": [0, 0, 1, 1]}] * 2}, ["zones[1].name = 'a'"]),
        ({"threshold": 2, "min_area_px": -1}, ["threshold = 2", "min_area_px = -1"]),
    ],
)
def test_bad_rules_name_key_value_and_what_is_allowed(table: dict[str, Any], words: list[str]) -> None:
    """Every fault at once, in one line: key, value, allowed."""
    with pytest.raises(ConfigError) as caught:
        Rules.parse(table)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_check_finds_what_parsing_cannot_know() -> None:
    """A zone off the map, nothing left to inspect, millimetres without a scale: errors before the line starts."""
    off = Rules(0.5, zones=(Zone("far", Zone.rectangle(300, 0, 5, 5)),))
    blind = Rules(0.5, zones=(Zone("all", Zone.rectangle(0, 0, 99, 99), ignore=True),))
    in_mm = Rules.parse({"threshold": 0.5, "review": {"max_total_area_mm2": 1}})
    for rules, words in ((off, "'far' covers no pixel"), (blind, "whole map"), (in_mm, "max_total_area_mm2")):
        with pytest.raises(ConfigError, match=words):
            rules.check(SIZE, SIZE, None)
        with pytest.raises(ConfigError, match=words):
            decide(blank(), rules, ONE_TO_ONE)
    in_mm.check(SIZE, SIZE, 0.1)


def test_every_limit_has_a_case() -> None:
    """A new limit without a test of both its sides cannot slip in."""
    assert set(CASES) == {each.name for each in fields(Limits) if each.init}


# ---------------------------------------------------------------------------------------------------- views and alarms


def test_worst_view_wins() -> None:
    """INVALID before FAIL before PASS, whatever the order; review only if every failing view says so."""
    good, _ = decide(blank(), Rules(0.5), ONE_TO_ONE)
    bad, _ = decide(with_box(3, 3, 4, 4), Rules(0.5), ONE_TO_ONE)
    review = replace(bad, review=True)
    broken = invalid(Reason.NOT_LOCATED, "no part")
    assert worst([good]) is good and worst([good, good]).verdict is Verdict.PASS
    for views in ([good, bad], [bad, good]):
        merged = worst(views)
        assert merged.verdict is Verdict.FAIL and merged.score == bad.score and merged.defects == bad.defects
        assert merged.rules == (f"view {views.index(bad) + 1}: {bad.rules[0]}",)
    assert worst([review, good]).review and not worst([review, bad]).review
    for views in ([broken, bad], [good, broken]):
        merged = worst(views)
        assert (merged.verdict, merged.reason) == (Verdict.INVALID, Reason.NOT_LOCATED)
        assert merged.detail == f"view {views.index(broken) + 1}: no part"


def test_no_view_is_no_verdict() -> None:
    """A part without views is INVALID, never PASS."""
    assert worst([]) == Decision(Verdict.INVALID, Reason.VIEW_MISSING, detail="no view came")


def run(alarms: Alarms, word: str) -> list[int]:
    """Indices at which an alarm began; p, f, i = PASS, FAIL, INVALID."""
    verdicts = {"p": Verdict.PASS, "f": Verdict.FAIL, "i": Verdict.INVALID}
    return [index for index, letter in enumerate(word) if alarms.update(verdicts[letter])]


def test_alarm_when_n_of_m_parts_failed() -> None:
    """It sounds at the N-th fail among the last M, once, and again only after it had stopped."""
    assert run(Alarms(3, 5), "ffpfpfpppppfff") == [3, 13]
    assert run(Alarms(2, 2), "fpfpff") == [5]
    assert run(Alarms(0, 10), "fffff") == []
    assert Alarms(1, 1).update(Verdict.FAIL) == ["1 of the last 1 parts failed, alarm at 1"]


def test_invalid_parts_enter_no_alarm() -> None:
    """INVALID neither fills nor breaks the window of fails, nor counts as a part that passed or was rejected."""
    assert run(Alarms(3, 3), "fiififf") == [5]
    assert run(Alarms(0, 1, 3), "pipip") == [4]


def test_alarm_when_nothing_is_ever_rejected() -> None:
    """A line that never rejects may be blind: it sounds every so many parts without a reject."""
    alarms = Alarms(0, 1, 4)
    assert run(alarms, "ppppppppfppp") == [3, 7]
    assert alarms.update(Verdict.PASS) == ["no reject in 4 parts, alarm every 4"]


@pytest.mark.parametrize("settings_", [(6, 5, 0), (-1, 5, 0), (1, 5, -1)])
def test_alarm_that_could_never_sound_is_refused(settings_: tuple[int, int, int]) -> None:
    """More fails than parts in the window cannot happen: an error, not silence."""
    with pytest.raises(ConfigError, match="alarm"):
        Alarms(*settings_)
