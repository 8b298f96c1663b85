"""The mask of a map, and the maps that are never judged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from decision_kit import ONE_TO_ONE, SCALED, SEEDS, SIZE, blank, random_map, with_box
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.decision import Limits, Rules, Zone, decide
from inspector.frame import Reason, Verdict


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
