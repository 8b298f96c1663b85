"""Zones: their limits, borders and order, and what is ignored."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from decision_kit import ONE_TO_ONE, SCALED, SEEDS, SIZE, random_map, with_box
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.decision import Limits, Rules, Zone, decide
from inspector.decision.blobs import LISTED_MAX
from inspector.frame import Verdict


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


def test_dust_in_an_ignored_zone_is_listed_in_part_and_changes_nothing() -> None:
    """Thousands of specks beside what is judged leave its rules, measures and places alone, and the list has an end."""
    scores = np.zeros((128, 128), np.float32)
    scores[64::2, ::2] = 0.9
    scores[70:76, 40:44] = 0.8
    scores[10:14, 20:30] = scores[30, 50] = 0.8
    zone = Zone("dust", Zone.rectangle(0, 60, 128, 68), ignore=True)
    limits = Limits(min_area_px=5)
    with_dust, mask = decide(scores, Rules(0.5, limits, zones=(zone,)), ONE_TO_ONE)
    scores[60:] = 0.0
    without, _ = decide(scores, Rules(0.5, limits, zones=(zone,)), ONE_TO_ONE)
    assert without.rules == ("count 1 > 0 (largest 40 px, 10.5 px long) at min_area_px 5",)
    assert (with_dust.verdict, with_dust.rules, with_dust.score) == (without.verdict, without.rules, without.score)
    assert with_dust.defects[:2] == without.defects and mask[64::2, ::2].all()
    ignored = with_dust.defects[2:]
    assert len(ignored) == LISTED_MAX and all(each.zone == "dust" and not each.counts for each in ignored)
    assert ignored[0].area_px > 24 and ignored[1].box == (0, 64, 1, 1)
    assert [each.area_px for each in ignored] == sorted((each.area_px for each in ignored), reverse=True)


@given(SEEDS, st.integers(1, 40))
@settings(deadline=None, max_examples=80)
def test_an_ignored_zone_is_cut_off_exactly(seed: int, top: int) -> None:
    """Above and in an ignored strip the same blobs are found as in either part of the map alone."""
    scores = random_map(seed)
    zone = Zone("strip", Zone.rectangle(0, top, SIZE, SIZE - top), ignore=True)
    both, _ = decide(scores, Rules(0.3, zones=(zone,)), SCALED)
    parts = []
    for kept in (slice(0, top), slice(top, SIZE)):
        part = np.zeros_like(scores)
        part[kept] = scores[kept]
        parts.append(decide(part, Rules(0.3), SCALED)[0].defects)
    assert both.defects == parts[0] + tuple(each._replace(zone="strip", counts=False) for each in parts[1])


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
