"""What rules are refused, and how the refusal speaks."""

from __future__ import annotations

from typing import Any

import pytest
from decision_kit import ONE_TO_ONE, SIZE, blank

from inspector.decision import Rules, Zone, decide
from inspector.errors import ConfigError


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
