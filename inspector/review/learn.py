"""What the reviews say about the machine: false calls, overkill, escapes, each with its bound. Pure.

The line's parts fall into strata by what the machine answered: FAIL, borderline PASS, other PASS (INVALID parts are
neither passed nor inspected). Of each stratum a random share is judged; N, n, k are parts, judged parts, and those
judged defective. The share n / N differs by stratum, so single reviews do not count alike:

* **Escape rate** (of defective parts, the share that passed). With f = n / N of its stratum, a defective part is seen
  as an escape with probability theta_h f_h and as a catch with (1 - theta) f_FAIL. Among those seen in stratum h or in
  FAIL the escapes are therefore binomial, with odds o_h f_h / f_FAIL where o_h = theta_h / (1 - theta). The exact
  (Clopper-Pearson) bound of that binomial gives a bound of o_h; the odds of all PASS strata are added, each with its
  part of 1 - confidence (Bonferroni), and theta = o / (1 + o). Where the strata's shares are about the same they are
  taken as one: sum of o_h f_h is at least o times the smallest share, at most o times the largest. Either way
  conservative for any mix of strata.
* **Estimates** are expansion estimates: each judged part stands for N / n (Cochran, Sampling Techniques, 1977, ch. 5;
  Horvitz and Thompson 1952, with the shares that were found instead of those that were planned).
* **Doubt counts against the machine** in every bound: what nobody could tell, or two people saw differently, is an
  escape in PASS, a false call in FAIL, and no catch.

Bounds are one-sided, each at the confidence by itself. Clopper and Pearson, Biometrika 26 (1934) 404.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from inspector.bounds import lower_bound, upper_bound
from inspector.review.records import Opinion, PartKey, Review, Stratum

PASSED = (Stratum.BORDERLINE, Stratum.PASS)


@dataclass(frozen=True, slots=True)
class Cell:
    """One stratum in numbers of parts."""

    parts: int
    """N: answered by the line."""
    defect: int
    good: int
    unclear: int
    """Nobody could tell, or people disagree."""

    @property
    def judged(self) -> int:
        """n."""
        return self.defect + self.good + self.unclear

    @property
    def share(self) -> float:
        """n / N; 0 where there is nothing."""
        return self.judged / self.parts if self.parts else 0.0


Cells = dict[Stratum, Cell]


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate with its one-sided bounds; ``estimate`` None where nothing was judged."""

    estimate: float | None
    lower: float
    upper: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of the machine."""

    cells: Cells
    false_calls: Rate
    """Of the rejected parts, the share that is good."""
    overkill: Rate
    """Of the good parts, the share that was rejected."""
    escapes: Rate
    """Of the defective parts, the share that passed: what the promise speaks of."""
    outgoing: Rate
    """Of the passed parts, the share that is defective."""


def learn(reviews: Iterable[Review], parts: Mapping[Stratum, int], confidence: float = 0.95) -> Learned:
    """``parts``: N of each stratum, of the same scope as the reviews."""
    cells = count(reviews, parts)
    return Learned(
        cells,
        false_calls(cells, confidence),
        overkill(cells, confidence),
        escapes(cells, confidence),
        outgoing(cells, confidence),
    )


def consensus(reviews: Iterable[Review]) -> dict[PartKey, Opinion]:
    """One opinion a part: the latest of each reviewer, and of those that could tell the majority.

    CANNOT_TELL where nobody could, or as many say defect as good.
    """
    latest: dict[PartKey, dict[str, Opinion]] = defaultdict(dict)
    for review in sorted(reviews, key=lambda each: each.link):
        latest[review.key][review.reviewer] = review.opinion
    return {key: majority(said.values()) for key, said in latest.items()}


def majority(opinions: Iterable[Opinion]) -> Opinion:
    """Of those that could tell; a tie is CANNOT_TELL."""
    said = Counter(opinions)
    defect, good = said[Opinion.DEFECT], said[Opinion.GOOD]
    if defect == good:
        return Opinion.CANNOT_TELL
    return Opinion.DEFECT if defect > good else Opinion.GOOD


def count(reviews: Iterable[Review], parts: Mapping[Stratum, int]) -> Cells:
    """The cells of the plan's strata; what was picked by hand or not judged blind is left out."""
    planned = [each for each in reviews if each.stratum is not Stratum.PICKED]
    strata = {each.key: each.stratum for each in planned}
    said = {stratum: Counter[Opinion]() for stratum in Stratum}
    for key, opinion in consensus(planned).items():
        said[strata[key]][opinion] += 1
    return {
        stratum: Cell(
            parts=max(parts.get(stratum, 0), said[stratum].total()),
            defect=said[stratum][Opinion.DEFECT],
            good=said[stratum][Opinion.GOOD],
            unclear=said[stratum][Opinion.CANNOT_TELL],
        )
        for stratum in Stratum
        if stratum is not Stratum.PICKED
    }


def escapes(cells: Cells, confidence: float) -> Rate:
    """Of the defective parts that were answered PASS or FAIL, the share that passed; see the module's text."""
    upper = lower = 0.0
    for group in _groups(cells, 1.0 - confidence):
        upper += _odds(group, cells[Stratum.FAIL], worst=True)
        lower += _odds(group, cells[Stratum.FAIL], worst=False)
    passed, caught = _expanded(cells, *PASSED), _expanded(cells, Stratum.FAIL)
    estimate = passed / (passed + caught) if passed is not None and caught is not None and passed + caught else None
    return Rate(estimate, lower / (1.0 + lower), 1.0 if math.isinf(upper) else upper / (1.0 + upper), confidence)


def outgoing(cells: Cells, confidence: float) -> Rate:
    """Of the passed parts, the share that is defective: sum of N_h p_h / N with each p_h bounded by itself, or all in
    one where their shares are about the same (a sum of unlike chances spreads less than the binomial; W. Hoeffding,
    Ann. Math. Stat. 27 (1956) 713).
    """
    total = sum(cells[stratum].parts for stratum in PASSED)
    if not total:
        return Rate(None, 0.0, 1.0, confidence)
    upper = lower = 0.0
    for group in _groups(cells, 1.0 - confidence):
        cell = group.cell
        if cell.parts:
            weight, side = cell.parts / total, 1.0 - group.alpha
            spread = cell.share / group.least if group.least else 1.0
            upper += weight * min(1.0, spread * upper_bound(cell.defect + cell.unclear, cell.judged, side))
            lower += (
                weight * lower_bound(cell.defect, cell.judged, side) * cell.share / group.most if cell.judged else 0
            )
    found = _expanded(cells, *PASSED)
    return Rate(None if found is None else found / total, lower, upper, confidence)


def false_calls(cells: Cells, confidence: float) -> Rate:
    """Of the rejected parts, the share that is good."""
    cell = cells[Stratum.FAIL]
    sure = cell.defect + cell.good
    return Rate(
        cell.good / sure if sure else None,
        lower_bound(cell.good, cell.judged, confidence),
        upper_bound(cell.good + cell.unclear, cell.judged, confidence),
        confidence,
    )


def overkill(cells: Cells, confidence: float) -> Rate:
    """Of the good parts, the share that was rejected: false calls N_FAIL p over them and the good parts that passed.

    Both shares are bounded, each with half of 1 - confidence.
    """
    half = 0.5 + confidence / 2.0
    wrong, missed = false_calls(cells, half), outgoing(cells, half)
    rejected, passed = cells[Stratum.FAIL].parts, sum(cells[stratum].parts for stratum in PASSED)

    def rate(false_share: float, missed_share: float) -> float:
        false, good = rejected * false_share, passed * (1.0 - missed_share)
        return false / (false + good) if false + good else 0.0

    estimate = None
    if wrong.estimate is not None and missed.estimate is not None:
        estimate = rate(wrong.estimate, missed.estimate)
    upper = rate(wrong.upper, missed.upper) if rejected + passed else 1.0
    return Rate(estimate, rate(wrong.lower, missed.lower), upper, confidence)


@dataclass(frozen=True, slots=True)
class _Group:
    """PASS strata that are taken as one."""

    cell: Cell
    least: float
    """Smallest share of its strata."""
    most: float
    alpha: float
    """Its part of 1 - confidence."""


def _groups(cells: Cells, alpha: float) -> list[_Group]:
    """One group where the shares are within a factor of two, else each stratum by itself. Its part of ``alpha`` is
    larger where less was judged, because there one unseen escape weighs more.

    Decided by how many were judged, never by what was found. A stratum without a part was judged in full.
    """
    shares = {stratum: cells[stratum].share if cells[stratum].parts else 1.0 for stratum in PASSED}
    least, most = min(shares.values()), max(shares.values())
    if most <= 2.0 * least:
        one, other = (cells[stratum] for stratum in PASSED)
        names = ("parts", "defect", "good", "unclear")
        return [_Group(Cell(*(getattr(one, n) + getattr(other, n) for n in names)), least, most, alpha)]
    weights = {stratum: 1.0 / max(share, 1e-9) for stratum, share in shares.items()}
    total = sum(weights.values())
    return [_Group(cells[each], share, share, alpha * weights[each] / total) for each, share in shares.items()]


def _odds(group: _Group, caught: Cell, *, worst: bool) -> float:
    """Bound of theta_h / (1 - theta): upper where ``worst``, else lower."""
    cell = group.cell
    if not caught.judged or not group.least:
        return math.inf if worst else 0.0
    if worst:
        k, share = cell.defect + cell.unclear, group.least
        bound = upper_bound(k, k + caught.defect, 1.0 - group.alpha)
    else:
        share = group.most
        bound = lower_bound(cell.defect, cell.defect + caught.defect + caught.unclear, 1.0 - group.alpha)
    return math.inf if bound >= 1.0 else bound / (1.0 - bound) * caught.share / share


def _expanded(cells: Cells, *strata: Stratum) -> float | None:
    """Estimated defective parts: each judged one stands for N / n; None where a stratum with parts has no judgement."""
    total = 0.0
    for stratum in strata:
        cell = cells[stratum]
        if cell.parts:
            sure = cell.defect + cell.good
            if not sure:
                return None
            total += cell.parts * cell.defect / sure
    return total
