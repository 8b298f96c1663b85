"""Whether the promise of an operating point still holds, by what people found. Pure."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace

from inspector.review.learn import PASSED, Cells, Rate, escapes
from inspector.review.records import Stratum

_MOST = 1 << 24
"""Nobody judges more; a bound over more would also take long to work out."""


class State(enum.Enum):
    """Where a promise stands."""

    HOLDS = "holds"
    """The upper bound of the escape rate is at most what was promised."""
    WITHDRAWN = "withdrawn"
    """Even the lower bound is above it."""
    OPEN = "not enough evidence"
    NONE = "no promise"


@dataclass(frozen=True, slots=True)
class Promise:
    """Of defective parts at most ``max_escape`` pass."""

    max_escape: float
    confidence: float = 0.95
    parts: int = 0
    """Defective parts of the calibration that it was made from; 0 = it was only asked for."""
    escapes: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """A promise and what the reviews say to it."""

    state: State
    promise: Promise | None
    defective: int
    """n: defective parts seen by people, caught and escaped."""
    escaped: int
    """k of them had passed."""
    doubtful: int
    """Passed parts that nobody could tell or people disagree about; each counts as an escape in the upper bound."""
    rate: Rate
    more_reviews: int | None
    """Further PASS that must be judged without another escape; 0 where it holds; None where judging all of them would
    not do."""
    more_defects: int | None
    """Or: further rejects that are confirmed as defective, at the present shares and without another escape."""
    sentences: tuple[str, ...]


def stand(cells: Cells, promise: Promise | None) -> Standing:
    """The standing by these judgements."""
    confidence = 0.95 if promise is None else promise.confidence
    rate = escapes(cells, confidence)
    escaped, doubtful = (sum(getattr(cells[h], name) for h in PASSED) for name in ("defect", "unclear"))
    state, reviews, defects = State.NONE, None, None
    if promise is not None:
        state = State.OPEN
        if rate.upper <= promise.max_escape:
            state, reviews, defects = State.HOLDS, 0, 0
        elif rate.lower > promise.max_escape:
            state = State.WITHDRAWN
        else:
            reviews, defects = _more_reviews(cells, promise), _more_defects(cells, promise)
    found = Standing(
        state=state,
        promise=promise,
        defective=escaped + cells[Stratum.FAIL].defect,
        escaped=escaped,
        doubtful=doubtful,
        rate=rate,
        more_reviews=reviews,
        more_defects=defects,
        sentences=(),
    )
    return replace(found, sentences=tuple(_sentences(found)))


def _more_reviews(cells: Cells, promise: Promise) -> int | None:
    """The fewest further judgements of other PASS, all good, that make the promise hold."""
    cell = cells[Stratum.PASS]

    def holds(more: int) -> bool:
        return _kept(cells | {Stratum.PASS: replace(cell, good=cell.good + more)}, promise)

    return _least(holds, cell.parts - cell.judged)


def _more_defects(cells: Cells, promise: Promise) -> int | None:
    """The fewest further confirmed rejects, with the parts that come along at the present shares."""
    cell = cells[Stratum.FAIL]
    if not cell.judged:
        return None

    def holds(more: int) -> bool:
        parts = cell.parts + round(more / cell.share)
        return _kept(cells | {Stratum.FAIL: replace(cell, parts=parts, defect=cell.defect + more)}, promise)

    return _least(holds, _MOST)


def _kept(cells: Cells, promise: Promise) -> bool:
    return escapes(cells, promise.confidence).upper <= promise.max_escape


def _least(holds: Callable[[int], bool], most: int) -> int | None:
    """The smallest number up to ``most`` from which on it holds; None where it does not even there."""
    low, high = 0, 1
    while high < most and not holds(high):
        low, high = high, 2 * high
    high = min(high, most)
    if high <= low or not holds(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _sentences(found: Standing) -> list[str]:
    rate, promise = found.rate, found.promise
    seen = f"{found.escaped} of {found.defective} defective parts that people saw had passed"
    bounds = f"escape rate at most {rate.upper:.4g}, at least {rate.lower:.4g} ({rate.confidence:.4g} each)"
    if promise is None:
        return ["Nothing was promised.", f"{seen}; {bounds}."]
    basis = f" from {promise.escapes} of {promise.parts} parts at calibration" if promise.parts else ""
    out = [
        f"Promised: at most {promise.max_escape:.4g} of defective parts pass{basis}. {found.state.value.capitalize()}."
    ]
    out.append(f"{seen}; {bounds}.")
    if found.doubtful:
        out.append(f"{found.doubtful} passed parts are in doubt and count as escapes in the upper bound.")
    if found.state is State.OPEN:
        ways = []
        if found.more_reviews is not None:
            ways.append(f"judging {found.more_reviews} more PASS without another escape")
        if found.more_defects is not None:
            ways.append(f"{found.more_defects} more confirmed rejects at the present share of judged PASS")
        ways = ways or ["more pictures of PASS (store.every_pass), or parts that are known to be defective"]
        out.append(f"It takes {', or '.join(ways)}.")
    return out
