"""A part in several views, and alarms over many parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decision_kit import ONE_TO_ONE, blank, with_box

from inspector.decision import Alarms, Rules, decide, worst
from inspector.errors import ConfigError
from inspector.frame import Decision, Reason, Verdict, invalid


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
