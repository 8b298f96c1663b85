"""Attribute agreement analysis: reviewers against each other, against themselves, the machine and the reference. Pure.

After AIAG, Measurement Systems Analysis, 4th ed. (2010), chapter III, section C ("attribute measurement systems
study"), with exact Clopper-Pearson bounds. The figures speak of the parts that were judged, which are chosen to hold
many rejects; kappa, other than miss and false-alarm rate, depends on that choice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from inspector.bounds import clopper_pearson
from inspector.frame import Verdict
from inspector.review.kappa import Kappa, cohen, fleiss
from inspector.review.learn import majority
from inspector.review.records import Opinion, PartKey, Review

MACHINE = "machine"
ORDER = (Opinion.GOOD, Opinion.DEFECT, Opinion.CANNOT_TELL)


@dataclass(frozen=True, slots=True)
class Rating:
    """One judgement of one part by one rater; later ones of the same rater are further trials."""

    part: PartKey
    rater: str
    opinion: Opinion


@dataclass(frozen=True, slots=True)
class Share:
    """k of n with its exact two-sided interval."""

    k: int
    n: int
    lower: float
    upper: float

    @property
    def rate(self) -> float | None:
        """None where there is nothing to divide by."""
        return self.k / self.n if self.n else None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two raters on the parts that both judged, trial by trial."""

    first: str
    second: str
    table: tuple[tuple[int, ...], ...]
    """[i][j]: first said ORDER[i], second ORDER[j]."""
    kappa: Kappa | None
    """None where they have no part in common."""


@dataclass(frozen=True, slots=True)
class Against:
    """A rater against the reference. Rates are over single judgements, effectiveness over parts."""

    rater: str
    table: tuple[tuple[int, int], tuple[int, int]]
    """[rater][reference], 0 = good, 1 = defect; judgements that could tell."""
    kappa: Kappa | None
    effectiveness: Share
    """Parts that were judged as the reference in every trial."""
    misses: Share
    """Of the judgements of defective parts, those that said good."""
    false_alarms: Share
    """Of the judgements of good parts, those that said defect."""
    cannot_tell: int
    """Judgements left out of kappa and rates; their parts are not effective."""


@dataclass(frozen=True, slots=True)
class Within:
    """A rater against themselves."""

    rater: str
    repeated: Share
    """Of the parts judged more than once, those judged alike every time."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The whole analysis."""

    parts: int
    ratings: int
    reference: Literal["consensus", "truth"]
    pairs: tuple[Pair, ...]
    """Every two reviewers, then each reviewer and the machine."""
    together: Kappa | None
    """Fleiss over the parts that every reviewer judged, first trials; None with fewer than two reviewers or no part."""
    together_parts: int
    against: tuple[Against, ...]
    """Reviewers by name, then the machine."""
    within: tuple[Within, ...]
    between: Share
    """Of the parts that all reviewers judged, those on which all agree in every trial."""


def analyse(
    reviews: Iterable[Review],
    *,
    reference: Literal["consensus", "truth"] = "consensus",
    blind_only: bool = True,
    confidence: float = 0.95,
) -> Agreement:
    """The analysis of a station's reviews.

    ``truth``: as the ledger knows it (synthetic or prepared parts). ``consensus``: for the machine the majority of the
    reviewers who could tell; for a reviewer that of the others, so that nobody is held against themselves.
    """
    used = [each for each in reviews if each.blind or not blind_only]
    ratings = [Rating(each.key, each.reviewer, each.opinion) for each in used]
    machine = {each.key: _machine(each.machine_verdict) for each in used if each.machine_verdict is not Verdict.INVALID}
    known: dict[PartKey, Opinion] | None = None
    if reference == "truth":
        known = {each.key: _opinion(each.truth) for each in used if each.truth is not None}
    return analyse_ratings(ratings, machine=machine, truth=known, confidence=confidence)


def analyse_ratings(
    ratings: Sequence[Rating],
    *,
    machine: Mapping[PartKey, Opinion] | None = None,
    truth: Mapping[PartKey, Opinion] | None = None,
    confidence: float = 0.95,
) -> Agreement:
    """The same for any ratings. ``truth`` None: consensus. Trials are the ratings of one rater in their order."""
    trials: dict[str, dict[PartKey, list[Opinion]]] = defaultdict(lambda: defaultdict(list))
    for each in ratings:
        trials[each.rater][each.part].append(each.opinion)
    people = sorted(trials)
    raters: dict[str, dict[PartKey, list[Opinion]]] = {name: trials[name] for name in people}
    if machine:
        raters[MACHINE] = {part: [opinion] for part, opinion in machine.items()}
    pairs = [_pair(a, b, raters[a], raters[b], confidence) for a, b in combinations(raters, 2)]
    common = _common([trials[name] for name in people])
    together = None
    if len(people) >= 2 and common:
        first = [Counter(trials[name][part][0] for name in people) for part in common]
        together = fleiss([[said[opinion] for opinion in ORDER] for said in first], confidence)
    alike = sum(len({opinion for name in people for opinion in trials[name][part]}) == 1 for part in common)
    return Agreement(
        parts=len({each.part for each in ratings}),
        ratings=len(ratings),
        reference="consensus" if truth is None else "truth",
        pairs=tuple(pairs),
        together=together,
        together_parts=len(common),
        against=tuple(_against(name, raters[name], _reference(name, trials, truth), confidence) for name in raters),
        within=tuple(_within(name, trials[name], confidence) for name in people),
        between=_share(alike, len(common), confidence),
    )


def _pair(
    first: str, second: str, a: Mapping[PartKey, list[Opinion]], b: Mapping[PartKey, list[Opinion]], confidence: float
) -> Pair:
    """Trial n of one meets trial n of the other; the machine's one answer meets every trial."""
    table = np.zeros((len(ORDER), len(ORDER)), np.int64)
    for part in _common([a, b]):
        ours, theirs = a[part], b[part]
        if second == MACHINE:
            theirs = theirs * len(ours)
        for one, other in zip(ours, theirs, strict=False):
            table[ORDER.index(one), ORDER.index(other)] += 1
    used = table if second != MACHINE else table[:2, :2]
    kappa = cohen(used, confidence) if used.sum() else None
    return Pair(first, second, tuple(tuple(row) for row in table.tolist()), kappa)


def _against(
    name: str, said: Mapping[PartKey, list[Opinion]], reference: Mapping[PartKey, Opinion], confidence: float
) -> Against:
    table = np.zeros((2, 2), np.int64)
    effective = parts = unsure = 0
    for part in _common([said, reference]):
        right = reference[part]
        parts += 1
        effective += all(opinion is right for opinion in said[part])
        for opinion in said[part]:
            if opinion is Opinion.CANNOT_TELL:
                unsure += 1
            else:
                table[ORDER.index(opinion), ORDER.index(right)] += 1
    return Against(
        rater=name,
        table=((int(table[0, 0]), int(table[0, 1])), (int(table[1, 0]), int(table[1, 1]))),
        kappa=cohen(table, confidence) if table.sum() else None,
        effectiveness=_share(effective, parts, confidence),
        misses=_share(int(table[0, 1]), int(table[:, 1].sum()), confidence),
        false_alarms=_share(int(table[1, 0]), int(table[:, 0].sum()), confidence),
        cannot_tell=unsure,
    )


def _reference(
    name: str, trials: Mapping[str, Mapping[PartKey, list[Opinion]]], truth: Mapping[PartKey, Opinion] | None
) -> dict[PartKey, Opinion]:
    """What a rater is held against: the truth, or the majority of the others by their last word."""
    if truth is not None:
        return dict(truth)
    others: dict[PartKey, list[Opinion]] = defaultdict(list)
    for other, said in trials.items():
        if other != name:
            for part, opinions in said.items():
                others[part].append(opinions[-1])
    found = {part: majority(said) for part, said in others.items()}
    return {part: opinion for part, opinion in found.items() if opinion is not Opinion.CANNOT_TELL}


def _within(name: str, said: Mapping[PartKey, list[Opinion]], confidence: float) -> Within:
    repeated = [opinions for opinions in said.values() if len(opinions) > 1]
    return Within(name, _share(sum(len(set(each)) == 1 for each in repeated), len(repeated), confidence))


def _common(maps: Sequence[Mapping[PartKey, object]]) -> list[PartKey]:
    return sorted(set.intersection(*(set(each) for each in maps))) if maps else []


def _share(k: int, n: int, confidence: float) -> Share:
    return Share(k, n, *(clopper_pearson(k, n, confidence) if n else (0.0, 1.0)))


def _machine(verdict: Verdict) -> Opinion:
    return Opinion.DEFECT if verdict is Verdict.FAIL else Opinion.GOOD


def _opinion(truth: bool | None) -> Opinion:
    return Opinion.DEFECT if truth else Opinion.GOOD
