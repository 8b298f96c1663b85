"""Figures of merit and exact bounds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.bounds import binomial_cdf, clopper_pearson, lower_bound, needed_n, upper_bound
from inspector.figures import (
    PixelCounts,
    Tally,
    count_pixels,
    curve,
    percentiles,
    pixel_figures,
)
from inspector.frame import Verdict


@given(st.integers(0, 60_000), st.floats(0, 1), st.floats(0.5, 0.9999))
@settings(deadline=None, max_examples=150)
def test_bounds_agree_with_scipy(n: int, share: float, confidence: float) -> None:
    """The own incomplete beta gives Clopper-Pearson as scipy's inverse beta does, from n = 1 to 60,000."""
    stats = pytest.importorskip("scipy.stats")
    n = max(n, 1)
    k = round(share * n)
    upper = 1.0 if k == n else stats.beta.ppf(confidence, k + 1, n - k)
    lower = 0.0 if k == 0 else stats.beta.ppf(1 - confidence, k, n - k + 1)
    assert upper_bound(k, n, confidence) == pytest.approx(upper, rel=1e-8, abs=1e-12)
    assert lower_bound(k, n, confidence) == pytest.approx(lower, rel=1e-8, abs=1e-12)
    two = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    assert clopper_pearson(k, n, confidence) == pytest.approx((two.low, two.high), rel=1e-8, abs=1e-12)


@given(st.integers(0, 3000), st.floats(-0.1, 1.1), st.floats(0, 1))
@settings(deadline=None, max_examples=150)
def test_binomial_tail_agrees_with_scipy(n: int, share: float, p: float) -> None:
    """P(X <= k) at every k, p = 0 and p = 1 included."""
    stats = pytest.importorskip("scipy.stats")
    k = round(share * n)
    assert binomial_cdf(k, n, p) == pytest.approx(float(stats.binom.cdf(k, n, p)), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(
    ("max_rate", "confidence", "k", "n"),
    [
        (0.01, 0.95, 0, 299),
        (0.005, 0.95, 0, 598),
        (0.001, 0.95, 0, 2995),
        (0.0001, 0.95, 0, 29956),
        (0.01, 0.99, 0, 459),
        (0.0001, 0.99, 0, 46050),
        (0.01, 0.95, 1, 473),
        (0.01, 0.95, 2, 628),
        (0.01, 0.95, 3, 773),
        (0.001, 0.95, 3, 7752),
    ],
)
def test_needed_parts_for_a_promise(max_rate: float, confidence: float, k: int, n: int) -> None:
    """The known sample sizes: n parts suffice and n - 1 do not."""
    assert needed_n(max_rate, confidence, k) == n
    assert upper_bound(k, n, confidence) <= max_rate < upper_bound(k, n - 1, confidence)


def test_nothing_is_promised_without_evidence() -> None:
    """No part seen, or every part missed: the upper bound is 1."""
    assert upper_bound(0, 0) == upper_bound(5, 5) == 1.0
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("k", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (0, 5, 1.0), (0, 5, 0.0)])
def test_senseless_counts_are_refused(k: int, n: int, confidence: float) -> None:
    """A bound for impossible counts is a programming error."""
    with pytest.raises(ValueError, match="no bound"):
        upper_bound(k, n, confidence)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_pixel_counts_are_the_four_cells(seed: int) -> None:
    """tp, fp, fn and tn are the four cells, and IoU and Dice are each other's transform: D = 2 I / (1 + I)."""
    rng = np.random.default_rng(seed)
    predicted, truth = rng.random((2, 13, 9)) < rng.random()
    got = count_pixels(predicted, truth)
    cells = [(predicted & truth), (predicted & ~truth), (~predicted & truth), (~predicted & ~truth)]
    assert got == PixelCounts(*(int(cell.sum()) for cell in cells))
    assert got.dice == pytest.approx(2 * got.iou / (1 + got.iou))


def test_masks_that_do_not_fit_are_refused() -> None:
    """Different shapes or a mask of 0/255 bytes cannot be compared by mistake."""
    mask = np.zeros((4, 4), np.bool_)
    for other in (np.zeros((4, 5), np.bool_), np.zeros((4, 4), np.uint8)):
        with pytest.raises(ValueError, match="do not compare"):
            count_pixels(mask, other)


def test_averagings_are_as_named() -> None:
    """IoU over the set and Dice over images, an image without defect counting 0: the paper's odd couple."""
    large, small, empty = PixelCounts(900, 50, 50, 0), PixelCounts(1, 1, 8, 990), PixelCounts(0, 0, 0, 1000)
    got = pixel_figures([large, small, empty])
    assert got is not None and got.images == 3
    assert got.iou == 901 / 1010
    assert got.dice_set == 1802 / 1911
    assert got.dice == pytest.approx((1800 / 1900 + 2 / 11 + 0) / 3)
    assert got.dice_defective == pytest.approx((1800 / 1900 + 2 / 11) / 2)
    assert got.iou_image == pytest.approx((0.9 + 0.1 + 0) / 3)
    assert got.pa == (900 + 991 + 1000) / 3000
    assert got.iou > got.dice  # as on the paper's magnetic tiles


def test_tally_counts_escapes_and_overkill() -> None:
    """Defective PASS = escape, good FAIL = overkill, INVALID is neither, unknown labels count only as images."""
    tally = Tally()
    for verdict, label, times in (
        (Verdict.PASS, True, 2), (Verdict.FAIL, True, 37), (Verdict.INVALID, True, 1), (Verdict.PASS, False, 50),
        (Verdict.FAIL, False, 3), (Verdict.INVALID, False, 2), (Verdict.PASS, None, 4), (Verdict.FAIL, None, 1),
    ):  # fmt: skip
        for _ in range(times):
            tally.add(verdict, label)
    got = tally.figures().to_json()
    assert (got["images"], got["pass"], got["fail"], got["invalid"]) == (100, 56, 41, 3)
    assert (got["defective"], got["good"], got["escapes"], got["overkill"]) == (40, 55, 2, 3)
    assert got["escapes_upper95"] == upper_bound(2, 40) and got["overkill_upper95"] == upper_bound(3, 55)
    assert got["iou"] is got["dice"] is got["pa"] is None and got["masks"] == 0


def test_unlabelled_images_give_null_not_zero() -> None:
    """Without labels no escapes are claimed: the keys are there and null, in valid JSON."""
    tally = Tally()
    tally.add(Verdict.PASS)
    got = json.loads(json.dumps(tally.figures().to_json(), allow_nan=False))
    keys = ("iou", "dice", "pa", "iou_image", "dice_set", "escapes", "escapes_upper95", "overkill", "overkill_upper95")
    assert [got[key] for key in keys] == [None] * len(keys)


def test_an_invalid_image_does_not_flatter_the_pixel_figures() -> None:
    """A part that was not inspected counts as if nothing had been found in it."""
    truth = np.zeros((8, 8), np.bool_)
    truth[2:4, 2:4] = True
    tally = Tally()
    tally.add(Verdict.FAIL, True, truth, truth)
    tally.add(Verdict.INVALID, True, None, truth)
    got = tally.figures()
    assert got.pixels is not None and (got.pixels.iou, got.pixels.dice) == (0.5, 0.5)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=3000))
@settings(deadline=None, max_examples=50)
def test_percentiles_are_values_that_occurred(values: list[float]) -> None:
    """Nearest rank: at most 50 / 1 / 0.1 % of the series lies above, and the figure is one of the series."""
    got = percentiles(values)
    series = np.asarray(values)
    for figure, above in ((got.p50, 0.5), (got.p99, 0.01), (got.p999, 0.001), (got.max, 0.0)):
        assert figure in values
        assert np.count_nonzero(series > figure) <= above * len(values) + 1e-9
    assert list(got.to_json()) == ["p50", "p99", "p999", "max"]


def test_percentiles_of_nothing_are_none() -> None:
    """No times, no figures."""
    assert set(percentiles([]).to_json().values()) == {None}


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_roc_area_is_the_chance_to_rank_right(seed: int, bad: int, good: int) -> None:
    """Area under the ROC = share of (defective, good) pairs ranked right, ties half; average precision as defined."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random(bad + good), 1)  # with many ties
    labels = np.arange(bad + good) < bad
    got = curve(scores, labels)
    pairs = np.sign(scores[labels][:, None] - scores[~labels][None, :])
    assert got.roc_area == pytest.approx(float((pairs + 1).mean() / 2))
    recall = [float((scores[labels] >= t).mean()) for t in got.thresholds]
    precision = [float(labels[scores >= t].mean()) for t in got.thresholds]
    assert got.recall == pytest.approx(recall) and got.precision == pytest.approx(precision)
    steps = np.diff([0.0, *recall])
    assert got.average_precision == pytest.approx(float((steps * precision).sum()))


def test_curve_refuses_nan_and_takes_an_empty_set() -> None:
    """A score that is not a number never enters a curve; nothing gives no points."""
    with pytest.raises(ValueError, match="not a number"):
        curve([0.1, float("nan")], [True, False])
    assert curve([], []).thresholds.size == 0
