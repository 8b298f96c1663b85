"""Agreement figures equal to published examples worked by hand, and to scipy, statsmodels and scikit-learn."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_kit import Open, Station, in_strata, judge, part

from inspector.frame import Verdict
from inspector.review.agreement import MACHINE, ORDER, Rating, analyse, analyse_ratings
from inspector.review.kappa import cohen, fleiss, words
from inspector.review.records import Opinion, PartKey

GOOD, DEFECT, UNSURE = Opinion.GOOD, Opinion.DEFECT, Opinion.CANNOT_TELL

DIAGNOSES = (
    "444444 222555 233335 555555 222444 113333 333355 113334 114444 555555 144444 124444 222333 144444 224445 "
    "333335 111455 111112 224444 133555 555555 244444 224555 114444 144445 222224 111155 224444 133333 555555"
)
"""J. L. Fleiss, Measuring nominal scale agreement among many raters, Psychological Bulletin 76 (1971) 378, table 1:
the diagnoses (1 to 5) that six psychiatrists gave each of 30 patients. He finds kappa = 0.430."""


def test_fleiss_kappa_of_his_own_example() -> None:
    """0.430, observed agreement 0.5556 and chance agreement 0.2199, as printed in 1971."""
    table = [[patient.count(str(category)) for category in range(1, 6)] for patient in DIAGNOSES.split()]
    assert len(table) == 30
    found = fleiss(table)
    assert round(found.kappa, 3) == 0.430 and round(found.agreed, 4) == 0.5556
    error = (found.upper - found.lower) / 2 / 1.959964
    assert round(found.kappa / error, 1) == 17.7  # z of these data in the R package irr, kappam.fleiss
    shares = np.sum(table, axis=0) / 180
    assert shares.tolist() == pytest.approx([26 / 180, 26 / 180, 30 / 180, 55 / 180, 43 / 180])
    assert round(float((shares**2).sum()), 4) == 0.2199


def test_fleiss_kappa_of_ten_subjects_and_fourteen_raters() -> None:
    """The worked example of the encyclopaedia's article "Fleiss' kappa": 0.210."""
    rows = "0 0 0 0 14/0 2 6 4 2/0 0 3 5 6/0 3 9 2 0/2 2 8 1 1/7 7 0 0 0/3 2 6 3 0/2 5 3 2 2/6 5 2 1 0/0 2 2 3 7"
    table = [[int(cell) for cell in row.split()] for row in rows.split("/")]
    assert round(fleiss(table).kappa, 3) == 0.210


def test_cohens_kappa_by_hand() -> None:
    """20, 5, 10, 15 of 50: po = 0.7, pe = 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa = 0.40."""
    found = cohen([[20, 5], [10, 15]])
    assert (found.kappa, found.agreed, found.n) == (pytest.approx(0.4), pytest.approx(0.7), 50)


def test_cohens_kappa_of_three_diagnoses() -> None:
    """J. L. Fleiss, Statistical Methods for Rates and Proportions, 2nd ed. (1981), table 13.1: kappa = 0.68."""
    assert round(cohen([[75, 1, 4], [5, 4, 1], [0, 0, 10]]).kappa, 2) == 0.68


AIAG = {
    "A x B": ([[44, 6], [3, 97]], 0.86),
    "B x C": ([[42, 5], [9, 94]], 0.79),
    "A x C": ([[43, 7], [8, 92]], 0.78),
    "A x reference": ([[45, 5], [3, 97]], 0.88),
    "B x reference": ([[45, 2], [3, 100]], 0.92),
    "C x reference": ([[42, 9], [6, 93]], 0.77),
}
"""AIAG, Measurement Systems Analysis, 4th ed. (2010), chapter III section C: 50 parts, three appraisers, three trials;
cross-tabulations (0 = not acceptable first) and kappas as printed."""


@pytest.mark.parametrize("pair", AIAG)
def test_kappas_of_the_aiag_study(pair: str) -> None:
    """The manual's cross-tabulations give the manual's kappas."""
    table, kappa = AIAG[pair]
    assert round(cohen(table).kappa, 2) == kappa


@pytest.mark.parametrize(
    ("pair", "matched", "effectiveness", "interval", "misses", "alarms"),
    [
        ("A x reference", 42, 84, (71, 93), 6.3, 4.9),
        ("B x reference", 45, 90, (78, 97), 6.3, 2.0),
        ("C x reference", 40, 80, (66, 90), 12.5, 8.8),
    ],
)
def test_effectiveness_misses_and_false_alarms_of_the_aiag_study(
    pair: str, matched: int, effectiveness: int, interval: tuple[int, int], misses: float, alarms: float
) -> None:
    """Ratings laid out so that tables and matched parts are the manual's give its percentages and 95 % limits."""
    (caught, false), (missed, right) = AIAG[pair][0]
    ratings, truth = _study(caught, false, missed, right, matched)
    (found,) = analyse_ratings(ratings, truth=truth).against
    assert (found.effectiveness.k, found.effectiveness.n) == (matched, 50)
    assert round(100 * (found.effectiveness.rate or 0)) == effectiveness
    assert (round(100 * found.effectiveness.lower), round(100 * found.effectiveness.upper)) == interval
    assert math.isclose(100 * (found.misses.rate or 0), misses, abs_tol=0.051)
    assert math.isclose(100 * (found.false_alarms.rate or 0), alarms, abs_tol=0.051)
    assert found.kappa is not None and round(found.kappa.kappa, 2) == AIAG[pair][1]
    assert found.table == ((right, missed), (false, caught))


def _study(
    caught: int, false: int, missed: int, right: int, matched: int
) -> tuple[list[Rating], dict[PartKey, Opinion]]:
    """16 defective and 34 good parts, three trials each; the wrong ones spread over exactly 50 - matched parts."""
    assert (caught + missed, false + right) == (48, 102)
    parts = [PartKey("s", 1, n) for n in range(50)]
    truth = {key: DEFECT if key.sequence < 16 else GOOD for key in parts}
    wrong = dict.fromkeys(parts, 0)
    bad_parts = 50 - matched
    on_defects = min(missed, max(1, round(bad_parts * missed / (missed + false))))
    for total, chosen in ((missed, parts[:on_defects]), (false, parts[16 : 16 + bad_parts - on_defects])):
        for number in range(total):
            wrong[chosen[number % len(chosen)]] += 1
    assert sum(each > 0 for each in wrong.values()) == bad_parts and max(wrong.values()) <= 3
    other = {GOOD: DEFECT, DEFECT: GOOD}
    return [
        Rating(key, "A", other[truth[key]] if trial < wrong[key] else truth[key]) for key in parts for trial in range(3)
    ], truth


def test_repeatability_and_agreement_between_reviewers() -> None:
    """By hand: ann repeats 2 of 3 parts alike; of the 2 parts that both judged, both agree on one in every trial."""
    keys = [PartKey("s", 1, n) for n in range(4)]
    said = [
        *((keys[0], "ann", DEFECT), (keys[0], "ann", DEFECT), (keys[0], "bob", DEFECT)),
        *((keys[1], "ann", GOOD), (keys[1], "ann", DEFECT), (keys[1], "bob", GOOD)),
        *((keys[2], "ann", GOOD), (keys[2], "ann", GOOD), (keys[3], "ann", UNSURE)),
    ]
    found = analyse_ratings([Rating(*each) for each in said])
    assert [(each.rater, each.repeated.k, each.repeated.n) for each in found.within] == [("ann", 2, 3), ("bob", 0, 0)]
    assert (found.between.k, found.between.n, found.parts, found.ratings) == (1, 2, 4, 9)
    (pair,) = found.pairs
    assert pair.kappa is not None and pair.kappa.n == 2  # trial one of ann meets trial one of bob


def test_nobody_is_held_against_themselves() -> None:
    """The consensus that a reviewer is measured by is that of the others."""
    keys = [PartKey("s", 1, n) for n in range(3)]
    ratings = [Rating(key, "ann", DEFECT) for key in keys]
    ratings += [Rating(key, name, GOOD) for key in keys for name in ("bob", "eve")]
    found = {each.rater: each for each in analyse_ratings(ratings, machine=dict.fromkeys(keys, DEFECT)).against}
    assert found["ann"].false_alarms.k == 3 and found["ann"].effectiveness.k == 0
    assert found["bob"].effectiveness.n == 0  # ann and eve: one word against one
    assert (found[MACHINE].false_alarms.k, found[MACHINE].false_alarms.n) == (3, 3)


def test_reviews_of_a_station_against_machine_and_truth(open_store: Open, station: Station) -> None:
    """INVALID parts have no machine opinion; what was not blind is left out; the truth is the ledger's."""
    store = open_store()
    station.add([part(13, Verdict.FAIL, truth=False), part(14, Verdict.PASS, truth=True), part(15, truth=False)])
    for sequence, opinion in ((1, DEFECT), (3, GOOD), (5, DEFECT), (8, GOOD), (13, GOOD), (14, GOOD), (15, UNSURE)):
        judge(store, station.key(sequence), opinion)
    judge(store, station.key(2), DEFECT, "bob", blind=False)
    found = analyse(store.reviews())
    (pair,) = found.pairs
    assert (pair.first, pair.second, found.parts) == ("ann", MACHINE, 7)
    assert [sum(row) for row in pair.table] == [4, 1, 1] and pair.kappa is not None and pair.kappa.n == 5
    known = {each.rater: each for each in analyse(store.reviews(), reference="truth").against}
    assert (known[MACHINE].misses.k, known[MACHINE].false_alarms.k, known[MACHINE].effectiveness.n) == (1, 1, 3)
    assert (known["ann"].misses.k, known["ann"].cannot_tell, known["ann"].effectiveness.k) == (1, 1, 1)
    assert len(analyse(store.reviews(), blind_only=False).pairs) == 3


def test_no_reviews_give_an_empty_analysis(open_store: Open, station: Station) -> None:
    """Nothing judged, nothing claimed."""
    found = analyse([])
    assert (found.parts, found.pairs, found.together, found.against, found.between.rate) == (0, (), None, (), None)
    one = judge(open_store(), station.key(5), GOOD)
    assert analyse([one, in_strata(one, link=2, reviewer="bob")]).together is not None


def test_one_category_alone_has_no_kappa() -> None:
    """Chance explains all of it: not a number, and said so."""
    assert math.isnan(cohen([[7, 0], [0, 0]]).kappa) and math.isnan(fleiss([[3, 0], [3, 0]]).kappa)
    assert words(math.nan) == "no variation" and words(0.8) == "good to excellent" and words(0.1) == "poor"
    for bad in ([[1, 2]], [[0, 0], [0, 0]]):
        with pytest.raises(ValueError, match="square"):
            cohen(bad)
    with pytest.raises(ValueError, match="same number"):
        fleiss([[1, 2], [2, 2]])


tables = st.integers(2, 4).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 40), min_size=k, max_size=k), min_size=k, max_size=k)
).filter(lambda table: sum(map(sum, table)) > 1 and sum(any(row) for row in table) > 1)  # fmt: skip


def _checker(name: str) -> Any:
    pytest.importorskip(name)
    return importlib.import_module(name)


@settings(max_examples=80, deadline=None)
@given(tables)
def test_cohen_is_what_statsmodels_and_scikit_learn_say(table: list[list[int]]) -> None:
    """Kappa and its 95 % interval, for any table."""
    rater = _checker("statsmodels.stats.inter_rater")
    metrics = _checker("sklearn.metrics")
    found, theirs = cohen(table), rater.cohens_kappa(np.array(table))
    assert found.kappa == pytest.approx(theirs.kappa, abs=1e-9)
    low, high = max(-1.0, theirs.kappa_low), min(1.0, theirs.kappa_upp)
    assert (found.lower, found.upper) == (pytest.approx(low, abs=1e-7), pytest.approx(high, abs=1e-7))
    size = len(table)
    pairs = [(i, j) for i in range(size) for j in range(size) for _ in range(table[i][j])]
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(*zip(*pairs, strict=True)), abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 6), st.integers(2, 12), st.integers(0, 10_000))
def test_fleiss_is_what_statsmodels_says(raters: int, parts: int, seed: int) -> None:
    """Any number of raters and parts, three categories."""
    rater = _checker("statsmodels.stats.inter_rater")
    rng = np.random.default_rng(seed)
    table = [np.bincount(rng.integers(0, 3, raters), minlength=3).tolist() for _ in range(parts)]
    if sum(any(row[j] for row in table) for j in range(3)) > 1:
        assert fleiss(table).kappa == pytest.approx(rater.fleiss_kappa(np.array(table)), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.data())
def test_intervals_are_scipys_exact_ones(n: int, data: st.DataObject) -> None:
    """Clopper-Pearson of every share."""
    scipy = _checker("scipy.stats")
    k = data.draw(st.integers(0, n))
    keys = [PartKey("s", 1, number) for number in range(n)]
    ratings = [Rating(key, "ann", GOOD if key.sequence < k else DEFECT) for key in keys]
    (found,) = analyse_ratings(ratings, truth=dict.fromkeys(keys, GOOD)).against
    exact = scipy.binomtest(k, n).proportion_ci(0.95, "exact")
    assert (found.effectiveness.lower, found.effectiveness.upper) == (
        pytest.approx(exact.low, abs=1e-9),
        pytest.approx(exact.high, abs=1e-9),
    )
    assert found.false_alarms.k == n - k and ORDER[0] is GOOD
