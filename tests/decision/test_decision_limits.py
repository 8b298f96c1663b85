"""Every limit, and what verdicts promise whatever the map."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from decision_kit import ONE_TO_ONE, SCALED, SEEDS, random_limits, random_map, with_box
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.decision import Limits, Rules, decide
from inspector.decision.rules import LIMIT_NAMES
from inspector.frame import FloatMap, Geometry, Verdict


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


@given(SEEDS, st.integers(-8, 8), st.integers(-8, 8), st.sampled_from([SCALED, replace(SCALED, scale_y=1.5)]))
@settings(deadline=None, max_examples=200)
def test_flips_and_shifts_change_no_verdict(seed: int, dx: int, dy: int, geometry: Geometry) -> None:
    """Without zones, a map flipped or shifted inside the ROI gets the same verdict, rules and measures."""
    rng = np.random.default_rng(seed)
    scores = random_map(seed, margin=8)
    limits = random_limits(rng)
    rules = Rules(0.3, limits, replace(limits, min_area_px=limits.min_area_px / 2, max_count=0))

    def seen(scores: FloatMap) -> tuple[Any, ...]:
        decision, _ = decide(np.ascontiguousarray(scores), rules, geometry)
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


def test_every_limit_has_a_case() -> None:
    """A new limit without a test of both its sides cannot slip in."""
    assert set(CASES) == {each.name for each in fields(Limits) if each.init}
