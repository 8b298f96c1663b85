"""Exact binomial bounds, without scipy: what n parts with k failures say about the rate of failures. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Bin(n, p), by the regularised incomplete beta function I_{1-p}(n-k, k+1)."""
    if not 0.0 <= p <= 1.0 or n < 0:
        raise ValueError(f"binomial with n = {n}, p = {p}")
    if k < 0:
        return 0.0
    if k >= n or p == 0.0:
        return 1.0
    if p == 1.0:
        return 0.0
    return _incomplete_beta(n - k, k + 1, 1.0 - p, p)


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """I_x(a, b) with y = 1 - x, by the continued fraction of DLMF 8.17.22 on the side where it converges fast."""
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _incomplete_beta(b, a, y, x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * _log(x, y) + b * _log(y, x) - math.log(a)
    )
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 20_000):  # modified Lentz; needs about sqrt(max(a, b)) steps
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return min(1.0, front * value)


def _log(x: float, complement: float) -> float:
    """log(x), exact near 1 where ``complement`` = 1 - x is the number with the digits."""
    return math.log1p(-complement) if complement < 0.5 else math.log(x)


def upper_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """One-sided exact (Clopper-Pearson) upper bound of a rate seen k times in n: BetaInv(confidence; k+1, n-k).

    The p at which P(Bin(n, p) <= k) = 1 - confidence; 1.0 where n = 0 or k = n: without evidence nothing is promised.
    """
    _require_counts(k, n, confidence)
    if k == n:
        return 1.0
    if k == 0:
        return -math.expm1(math.log1p(-confidence) / n)
    return _solve(lambda p: binomial_cdf(k, n, p) > 1.0 - confidence)


def lower_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """One-sided exact lower bound: BetaInv(1 - confidence; k, n-k+1); 0.0 where k = 0."""
    _require_counts(k, n, confidence)
    return 1.0 - upper_bound(n - k, n, confidence) if k > 0 else 0.0


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval of a rate seen k times in n, half of 1 - confidence on each side."""
    side = 0.5 + confidence / 2.0
    return lower_bound(k, n, side), upper_bound(k, n, side)


def needed_n(max_rate: float, confidence: float = 0.95, k: int = 0) -> int:
    """The fewest trials that allow k failures and still show, with ``confidence``, a rate of at most ``max_rate``."""
    if not 0.0 < max_rate < 1.0 or not 0.0 < confidence < 1.0 or k < 0:
        raise ValueError(f"no number of parts for max_rate {max_rate}, confidence {confidence}, k {k}")
    low, high = k, max(2 * k, 1)
    while binomial_cdf(k, high, max_rate) > 1.0 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(k, middle, max_rate) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


def _solve(too_small: Callable[[float], bool]) -> float:
    """The p in 0..1 where ``too_small`` turns from True to False; always the side that is not too small."""
    low, high = 0.0, 1.0
    while True:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return high
        if too_small(middle):
            low = middle
        else:
            high = middle


def _require_counts(k: int, n: int, confidence: float) -> None:
    if not 0 <= k <= n or not 0.0 < confidence < 1.0:
        raise ValueError(f"no bound for {k} of {n} at confidence {confidence}")
