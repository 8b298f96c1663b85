"""Estimates and bounds from reviews: right on paper, and holding as often as they say."""

from __future__ import annotations

from itertools import count as counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_kit import HASHES, Open, Station, in_strata, judge, part

from inspector.bounds import lower_bound, upper_bound
from inspector.clock import PushedClock
from inspector.frame import Hashes, Reason, Verdict
from inspector.ledger.book import Override
from inspector.review.learn import (
    Cell,
    Cells,
    consensus,
    count,
    escapes,
    false_calls,
    learn,
    outgoing,
    overkill,
)
from inspector.review.plan import DAY_NS, Plan
from inspector.review.population import Population, Scope
from inspector.review.records import Opinion, Stratum
from inspector.review.standing import Promise, State, stand
from inspector.review.verify import verify

GOOD, DEFECT, UNSURE = Opinion.GOOD, Opinion.DEFECT, Opinion.CANNOT_TELL
FAIL, BORDERLINE, PASS = Stratum.FAIL, Stratum.BORDERLINE, Stratum.PASS
NONE = Cell(0, 0, 0, 0)


def cells(fail: Cell, borderline: Cell = NONE, passed: Cell = NONE) -> Cells:
    return {FAIL: fail, Stratum.INVALID: NONE, BORDERLINE: borderline, PASS: passed}


# -- on paper --------------------------------------------------------------------------------------------------------


def test_everything_judged_is_the_plain_binomial() -> None:
    """With every part judged, n = caught + escaped and k = escaped, as at calibration."""
    found = escapes(cells(Cell(60, 57, 3, 0), passed=Cell(1000, 2, 998, 0)), 0.95)
    assert found.estimate == pytest.approx(2 / 59)
    assert found.upper == pytest.approx(upper_bound(2, 59))
    assert found.lower == pytest.approx(lower_bound(2, 59))


def test_a_sample_is_weighed_by_its_share() -> None:
    """Worked by hand: 40 of 40 rejects, 100 of 1000 PASS judged, 1 escape: it stands for 10; 36 caught."""
    found = escapes(cells(Cell(40, 36, 4, 0), passed=Cell(1000, 1, 99, 0)), 0.9)
    assert found.estimate == pytest.approx(10 / 46)
    # No borderline part came: judged in full, with 1 of 11 parts of the 10 % (weights 1 and 1000 / 100).
    odds = [
        upper_bound(k, 36 + k, 1 - a) / (1 - upper_bound(k, 36 + k, 1 - a)) for k, a in ((0, 0.1 / 11), (1, 1 / 11))
    ]
    expected = odds[0] + 10 * odds[1]
    assert found.upper == pytest.approx(expected / (1 + expected))
    sent = outgoing(cells(Cell(40, 36, 4, 0), passed=Cell(1000, 1, 99, 0)), 0.9)
    assert (sent.estimate, sent.upper) == (pytest.approx(0.01), pytest.approx(upper_bound(1, 100, 1 - 1 / 11)))


def test_strata_of_about_the_same_share_are_taken_as_one_on_the_safe_side() -> None:
    """All 10 borderline and 60 of 100 other PASS judged, an escape in each: 2 of 38, weighed by 0.6 above, 1 below."""
    found = escapes(cells(Cell(40, 36, 4, 0), Cell(10, 1, 9, 0), Cell(100, 1, 59, 0)), 0.95)
    up, low = upper_bound(2, 38), lower_bound(2, 38)
    assert found.upper == pytest.approx(up / (1 - up) / 0.6 / (1 + up / (1 - up) / 0.6))
    assert found.lower == pytest.approx(low)
    sent = outgoing(cells(Cell(40, 36, 4, 0), Cell(10, 1, 9, 0), Cell(100, 1, 59, 0)), 0.95)
    assert sent.upper == pytest.approx(upper_bound(2, 70) * (70 / 110) / 0.6)
    assert sent.lower == pytest.approx(lower_bound(2, 70) * (70 / 110))


def test_false_calls_and_overkill_by_hand() -> None:
    """4 of 40 rejects are good: 10 %; of 4 + 990 good parts 4 were rejected."""
    made = cells(Cell(40, 36, 4, 0), passed=Cell(1000, 1, 99, 0))
    wrong = false_calls(made, 0.95)
    assert (wrong.estimate, wrong.upper) == (pytest.approx(0.1), pytest.approx(upper_bound(4, 40)))
    assert overkill(made, 0.95).estimate == pytest.approx(4 / 994)
    assert overkill(made, 0.95).upper > 40 * upper_bound(4, 40) / 1040


def test_doubt_counts_against_the_machine_in_the_bound_and_not_in_the_estimate() -> None:
    """What nobody could tell is an escape for the upper bound, and none for the lower."""
    sure = escapes(cells(Cell(60, 60, 0, 0), passed=Cell(100, 1, 99, 0)), 0.95)
    doubt = escapes(cells(Cell(60, 58, 0, 2), passed=Cell(100, 1, 96, 3)), 0.95)
    assert (sure.upper, sure.lower) == (pytest.approx(upper_bound(1, 61)), pytest.approx(lower_bound(1, 61)))
    assert (doubt.upper, doubt.lower) == (pytest.approx(upper_bound(4, 62)), pytest.approx(lower_bound(1, 61)))
    assert doubt.estimate == pytest.approx(100 / 97 / (100 / 97 + 60))
    assert false_calls(cells(Cell(60, 58, 0, 2)), 0.95).upper == pytest.approx(upper_bound(2, 60))


def test_without_evidence_nothing_is_known() -> None:
    """No judgement, no estimate, and the widest bounds; never an error."""
    found = learn([], {FAIL: 5, PASS: 100})
    for rate in (found.false_calls, found.overkill, found.escapes, found.outgoing):
        assert (rate.estimate, rate.lower, rate.upper) == (None, 0.0, 1.0)
    nothing = count([], {})
    assert escapes(nothing, 0.95).upper == 1.0
    assert stand(nothing, None).state is State.NONE
    assert stand(nothing, Promise(0.5)).state is State.OPEN
    assert stand(cells(Cell(10, 0, 0, 0), passed=Cell(9, 0, 9, 0)), Promise(0.5)).state is State.OPEN
    assert stand(cells(Cell(10, 10, 0, 0), passed=Cell(9, 0, 0, 0)), Promise(0.5)).state is State.OPEN
    assert escapes(cells(Cell(10, 10, 0, 0)), 0.95).upper == pytest.approx(upper_bound(0, 10))


def test_the_latest_opinion_counts_and_the_majority_decides(open_store: Open, station: Station) -> None:
    """One part, one opinion; a tie and a pair of doubters are no opinion."""
    store = open_store()
    told = {
        1: [("ann", GOOD), ("ann", DEFECT)],
        2: [("ann", GOOD), ("bob", DEFECT)],
        3: [("ann", GOOD), ("bob", DEFECT), ("eve", DEFECT)],
        4: [("ann", UNSURE), ("bob", GOOD)],
        6: [("ann", UNSURE), ("bob", UNSURE)],
    }
    for sequence, said in told.items():
        for reviewer, opinion in said:
            judge(store, station.key(sequence), opinion, reviewer)
    found = consensus(store.reviews())
    assert [found[station.key(n)] for n in told] == [DEFECT, UNSURE, DEFECT, GOOD, UNSURE]
    made = count(store.reviews(), {FAIL: 4, BORDERLINE: 2, PASS: 5})
    assert made[FAIL] == Cell(4, 2, 1, 1) and made[BORDERLINE] == Cell(2, 0, 0, 1)


def test_what_was_picked_or_seen_never_enters(open_store: Open, station: Station) -> None:
    """A part that somebody went to look for says nothing about the rest."""
    store = open_store()
    judge(store, station.key(8), DEFECT, blind=False)
    assert count(store.reviews(), {PASS: 5})[PASS] == Cell(5, 0, 0, 0)


# -- as often as they say --------------------------------------------------------------------------------------------

N_RUNS = 300


@pytest.mark.parametrize(
    ("escape", "near", "pass_rate", "false_share"),
    [(0.05, 0.5, 0.05, 0.2), (0.02, 0.9, 0.2, 0.5), (0.2, 0.0, 0.1, 0.0), (0.01, 0.5, 1.0, 0.1)],
)
def test_the_bounds_hold_as_often_as_they_say(escape: float, near: float, pass_rate: float, false_share: float) -> None:
    """Simulated lines with a known escape rate: each bound is on the right side in at least 95 % of them.

    5 % may fail; with 300 lines more than 26 failures would be three standard deviations too many.
    """
    rng = np.random.default_rng(int(1e6 * escape) + 7)
    wrong = dict.fromkeys(("escapes up", "escapes low", "outgoing up", "outgoing low", "false up", "overkill up"), 0)
    for _ in range(N_RUNS):
        defective, sound = rng.binomial(20_000, 0.01), 20_000
        passed = rng.binomial(defective, escape)
        close = rng.binomial(passed, near)
        false = rng.binomial(round(false_share * 200), 0.9)
        sound_close = rng.binomial(300, 0.9)
        sound_far = sound - sound_close - false

        def judged(bad: int, good: int, rate: float) -> Cell:
            return Cell(bad + good, rng.binomial(bad, rate), rng.binomial(good, rate), 0)

        made = cells(
            judged(defective - passed, false, 0.8),
            judged(close, sound_close, 0.8),
            judged(passed - close, sound_far, 0.8 * pass_rate),
        )
        one, out = escapes(made, 0.95), outgoing(made, 0.95)
        sent = passed / (passed + sound - false)
        wrong["escapes up"] += one.upper < escape
        wrong["escapes low"] += one.lower > escape
        wrong["outgoing up"] += out.upper < sent
        wrong["outgoing low"] += out.lower > sent
        rejected = defective - passed + false
        wrong["false up"] += false_calls(made, 0.95).upper < false / rejected
        wrong["overkill up"] += overkill(made, 0.95).upper < false / sound
    assert all(failures <= 26 for failures in wrong.values()), wrong


def test_the_estimate_is_right_on_average() -> None:
    """Stratified and sampled at different shares, the escape rate comes out unbiased where a plain count would not."""
    rng = np.random.default_rng(5)
    weighed, plain = [], []
    for _ in range(400):
        passed, caught = rng.binomial(400, 0.1), 400
        caught -= passed
        close = rng.binomial(passed, 0.5)
        near, far = rng.binomial(close, 1.0), rng.binomial(passed - close, 0.1)
        good_far = rng.binomial(50_000, 0.1)
        made = cells(
            Cell(caught, caught, 0, 0), Cell(close, near, 0, 0), Cell(50_000 + passed - close, far, good_far, 0)
        )
        found = escapes(made, 0.95).estimate
        assert found is not None
        weighed.append(found)
        plain.append((near + far) / (near + far + caught))
    assert abs(np.mean(weighed) - 0.1) < 4 * np.std(weighed) / 20
    assert np.mean(plain) < 0.07


some = st.builds(
    lambda d, g, u, rest: Cell(d + g + u + rest, d, g, u),
    st.integers(0, 60), st.integers(0, 60), st.integers(0, 5), st.integers(0, 5000),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(some, some, some, st.floats(0.5, 0.999))
def test_bounds_enclose_and_grow_with_every_further_escape(
    fail: Cell, borderline: Cell, passed: Cell, confidence: float
) -> None:
    """lower <= upper, inside 0..1, and one more escape never makes the machine look better."""
    made = cells(fail, borderline, passed)
    for rate in (escapes(made, confidence), outgoing(made, confidence), overkill(made, confidence)):
        assert 0.0 <= rate.lower <= rate.upper <= 1.0
    if passed.good:
        worse = cells(fail, borderline, Cell(passed.parts, passed.defect + 1, passed.good - 1, passed.unclear))
        assert escapes(worse, confidence).upper >= escapes(made, confidence).upper - 1e-12
        assert escapes(worse, confidence).lower >= escapes(made, confidence).lower - 1e-12


# -- the promise -----------------------------------------------------------------------------------------------------


def test_a_promise_holds_is_withdrawn_or_waits_for_evidence() -> None:
    """By the upper bound, by the lower, or by neither."""
    promise = Promise(0.05, 0.95, 80, 0)
    holds = stand(cells(Cell(100, 100, 0, 0), passed=Cell(1000, 0, 1000, 0)), promise)
    assert (holds.state, holds.defective, holds.escaped, holds.more_reviews) == (State.HOLDS, 100, 0, 0)
    gone = stand(cells(Cell(100, 80, 20, 0), passed=Cell(1000, 20, 980, 0)), promise)
    assert (gone.state, gone.defective, gone.escaped) == (State.WITHDRAWN, 100, 20)
    waits = stand(cells(Cell(100, 100, 0, 0), passed=Cell(1000, 0, 300, 0)), promise)
    assert waits.state is State.OPEN
    assert any("judging" in line for line in waits.sentences) and "80 parts" in waits.sentences[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(1, 400), st.integers(0, 2000), st.floats(0.005, 0.2))
def test_what_it_takes_is_exactly_what_it_takes(escaped: int, caught: int, judged: int, most: float) -> None:
    """With so many further judgements the promise holds, with one fewer it does not."""
    promise = Promise(most)
    made = cells(Cell(caught, caught, 0, 0), passed=Cell(2000 + escaped, escaped, judged, 0))
    found = stand(made, promise)
    if found.state is not State.OPEN:
        return

    def held(reviews: int = 0, defects: int = 0) -> bool:
        more = cells(
            Cell(caught + defects, caught + defects, 0, 0),
            passed=Cell(2000 + escaped, escaped, judged + reviews, 0),
        )
        return stand(more, promise).state is State.HOLDS

    if found.more_reviews is not None:
        assert held(reviews=found.more_reviews) and not held(reviews=found.more_reviews - 1)
    else:
        assert not held(reviews=2000 - judged)
    if found.more_defects is None:
        assert judged + escaped == 0 or not held(defects=1 << 24)
    if found.more_defects is not None:
        assert held(defects=found.more_defects) and not held(defects=found.more_defects - 1)


# -- what the sample speaks for --------------------------------------------------------------------------------------


def test_the_population_is_counted_as_it_was_sent_and_only_once(station: Station) -> None:
    """By stratum, day and hashes; an answer that was replaced later moves to INVALID; new rows are added."""
    counted = Population(station.sources.ledger, station.plan)
    counted.refresh()
    assert counted.parts(Scope()) == {FAIL: 4, Stratum.INVALID: 1, BORDERLINE: 2, PASS: 5}
    station.book.write([Override(1, 6, Reason.UNRECORDED, 9, "late"), Override(1, 8, Reason.UNRECORDED, 9, "late")])
    other = Hashes("f" * 16, HASHES.calibration, HASHES.settings)
    station.add([part(13, Verdict.FAIL, hashes=other, wall_ns=1_700_000_000_000_000_000 + DAY_NS)])
    counted.refresh()
    counted.refresh()
    assert counted.parts(Scope()) == {FAIL: 5, Stratum.INVALID: 3, BORDERLINE: 1, PASS: 4}
    assert counted.parts(Scope(HASHES)) == {FAIL: 4, Stratum.INVALID: 3, BORDERLINE: 1, PASS: 4}
    assert counted.newest_hashes() == other
    day = 1_700_000_000_000_000_000 // DAY_NS
    assert sum(counted.parts(Scope(first_day=day + 1)).values()) == 1
    assert sum(counted.parts(Scope(last_day=day)).values()) == 12
    fresh = Population(station.sources.ledger, station.plan)
    fresh.refresh()
    assert fresh.parts(Scope()) == counted.parts(Scope())


def test_reviews_of_another_engine_are_out_of_scope(open_store: Open, station: Station, clock: PushedClock) -> None:
    """A promise speaks of one set of hashes and of no other."""
    review = judge(open_store(), station.key(1), GOOD)
    links = counter(2)
    others = [in_strata(review, link=next(links), engine="x"), in_strata(review, link=next(links), settings="y")]
    assert Scope(HASHES).of([review, *others]) == [review]
    assert len(Scope().of([review, *others])) == 3


def test_a_moved_border_moves_reviews_and_parts_alike(open_store: Open, station: Station) -> None:
    """n and N of a stratum are always counted by the same plan, whatever was planned when the part was judged."""
    store = open_store()
    for sequence in (1, 6, 8):
        judge(store, station.key(sequence), GOOD)
    judge(store, station.key(7), GOOD, blind=False)
    moved = Population(station.sources.ledger, Plan(threshold=0.9, every_pass=1))
    moved.refresh()
    scope = moved.scope()
    made = count(moved.reviews(scope, store.reviews()), moved.parts(scope))
    assert made[BORDERLINE] == NONE and made[PASS] == Cell(7, 0, 2, 0) and made[FAIL] == Cell(4, 0, 1, 0)


def test_parts_that_left_the_ledger_by_age_are_out_of_scope(
    open_store: Open, station: Station, clock: PushedClock
) -> None:
    """Reviews whose N is gone are not weighed as if they were all there is; verify does not miss their answers."""
    store = open_store()
    judge(store, station.key(1), DEFECT)
    day_ns = 1_700_000_000_000_000_000 + 2 * DAY_NS
    station.add([part(n, Verdict.FAIL, wall_ns=day_ns + n) for n in range(13, 16)])
    judge(store, station.key(14), DEFECT)
    clock.push(7 * DAY_NS // 2)
    station.retire(keep_days=2)
    counted = Population(station.sources.ledger, station.plan)
    counted.refresh()
    scope = counted.scope()
    assert sum(counted.parts(Scope()).values()) == 3
    assert scope.first_day == day_ns // DAY_NS + 1  # of the oldest day a part may have left
    assert counted.reviews(scope, store.reviews()) == []
    store.close()
    assert verify(station.reviews, station.sources.ledger).ok


def test_the_plan_and_the_population_draw_the_same_line() -> None:
    """A score at the border belongs to the same stratum in both."""
    plan = Plan(threshold=0.625)
    assert plan.stratum(Verdict.PASS, plan.borderline_from) is BORDERLINE
    assert plan.stratum(Verdict.PASS, float(np.nextafter(plan.borderline_from, 0))) is PASS
    assert plan.stratum(Verdict.PASS, None) is PASS and plan.stratum(Verdict.FAIL, None) is FAIL
