"""Agreement beyond chance. Pure; tables of whole numbers in, figures out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64] | Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Kappa:
    """A kappa with its two-sided interval; NaN where only one category was ever used: chance explains all of it."""

    kappa: float
    lower: float
    upper: float
    agreed: float
    """Share of agreement, chance included."""
    n: int


def cohen(table: Table, confidence: float = 0.95) -> Kappa:
    """Two raters: ``table[i][j]`` parts that one put into category i and the other into j.

    kappa = (po - pe) / (1 - pe); J. Cohen, Educ. Psychol. Meas. 20 (1960) 37. The interval uses the large-sample
    standard error for kappa other than 0 of J. L. Fleiss, J. Cohen, B. S. Everitt, Psychol. Bull. 72 (1969) 323,
    cut at -1 and 1. Raises ValueError for a table that is not square or is empty.
    """
    counts = np.asarray(table, np.float64)
    n = counts.sum()
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or n == 0:
        raise ValueError(f"kappa needs a square table of counts, found {counts.tolist()}")
    shares = counts / n
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    agreed, chance = float(np.trace(shares)), float(rows @ columns)
    if math.isclose(chance, 1.0):
        return Kappa(math.nan, math.nan, math.nan, agreed, int(n))
    kappa = (agreed - chance) / (1.0 - chance)
    both = rows[None, :] + columns[:, None]  # [i, j]: how often either rater used the other's category
    diagonal = np.diag(shares) * (1.0 - (rows + columns) * (1.0 - kappa)) ** 2
    off = shares * both**2
    np.fill_diagonal(off, 0.0)
    spread = diagonal.sum() + (1.0 - kappa) ** 2 * off.sum() - (kappa - chance * (1.0 - kappa)) ** 2
    error = math.sqrt(max(0.0, float(spread)) / n) / (1.0 - chance)
    return Kappa(kappa, *_interval(kappa, error, confidence), agreed, int(n))


def fleiss(table: Table, confidence: float = 0.95) -> Kappa:
    """Many raters: ``table[i][j]`` raters that put part i into category j; every part has the same number of raters.

    J. L. Fleiss, Psychol. Bull. 76 (1971) 378. The interval uses the standard error of J. L. Fleiss, J. C. M. Nee,
    J. R. Landis, Psychol. Bull. 86 (1979) 974, which is exact only for kappa 0 and therefore a rough one.
    Raises ValueError for parts with different numbers of raters, or fewer than two.
    """
    counts = np.asarray(table, np.float64)
    raters = counts.sum(axis=1) if counts.ndim == 2 and counts.size else np.zeros(1)
    m = float(raters[0])
    if m < 2 or not np.all(raters == m):
        raise ValueError("Fleiss' kappa needs the same number of raters, two or more, for every part")
    n = counts.shape[0]
    shares = counts.sum(axis=0) / (n * m)
    agreed = float(((counts**2).sum() - n * m) / (n * m * (m - 1.0)))
    chance = float((shares**2).sum())
    if math.isclose(chance, 1.0):
        return Kappa(math.nan, math.nan, math.nan, agreed, n)
    kappa = (agreed - chance) / (1.0 - chance)
    pq = shares * (1.0 - shares)
    inner = pq.sum() ** 2 - float((pq * (1.0 - 2.0 * shares)).sum())
    error = math.sqrt(2.0 * max(0.0, inner) / (n * m * (m - 1.0))) / float(pq.sum())
    return Kappa(kappa, *_interval(kappa, error, confidence), agreed, n)


def words(kappa: float) -> str:
    """The limits of the AIAG manual (Measurement Systems Analysis, 4th ed., 2010, ch. III section C)."""
    if math.isnan(kappa):
        return "no variation"
    if kappa > 0.75:
        return "good to excellent"
    return "poor" if kappa < 0.40 else "between poor and good"


def _interval(kappa: float, error: float, confidence: float) -> tuple[float, float]:
    reach = NormalDist().inv_cdf(0.5 + confidence / 2.0) * error
    return max(-1.0, kappa - reach), min(1.0, kappa + reach)
