"""Decide one view by the rules, and a part by the worst of its views. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inspector.decision import blobs as blob
from inspector.decision.blobs import LISTED_MAX, Blobs, Seen
from inspector.decision.callipers import Extents, Floats, Ints
from inspector.decision.rules import Limits, Rules
from inspector.frame import BoolMap, Decision, Defect, FloatMap, Geometry, Reason, Verdict, invalid

_ONE_AS_BITS = 0x3F800000


def decide(score_map: FloatMap, rules: Rules, geometry: Geometry) -> tuple[Decision, BoolMap]:
    """Probability map (H x W float32) -> decision, and the mask ``score_map >= threshold`` (H x W bool).

    PASS only where the whole map is a finite number in 0..1 and nothing breaks a limit; FAIL with every rule that says
    so; INVALID NOT_FINITE, with an empty mask, otherwise. A blob is judged by the limits of every zone it touches, with
    its whole size, ignored zones cut away. Lengths and areas are frame pixels through ``geometry``.
    Raises ValueError unless 2-D float32, and ConfigError where ``rules.check`` would (so check before the line starts).
    """
    if score_map.ndim != 2 or score_map.dtype != np.float32 or score_map.size == 0:
        raise ValueError(f"expected a 2-D float32 map, found {score_map.dtype} of shape {score_map.shape}")
    rules.require_scale(geometry.mm_per_px)
    seen = blob.at_once(score_map, rules, geometry) or _step_by_step(score_map, rules)
    if isinstance(seen, Decision):
        return seen, np.zeros(score_map.shape, np.bool_)
    score, mask, found = seen
    if found is None:
        return Decision(Verdict.PASS, score=score), mask
    failing, defects = _judge(found, rules, geometry, score_map.shape)
    if not failing.texts:
        return Decision(Verdict.PASS, defects=defects, score=score), mask
    return Decision(Verdict.FAIL, None, failing.texts, defects, score, failing.review), mask


def _step_by_step(score_map: FloatMap, rules: Rules) -> Seen | Decision:
    """What ``at_once`` gives, but for extents; INVALID where the map is not of finite numbers from 0 to 1."""
    zones = rules.zone_map(*score_map.shape)
    # As bits, floats from 0 to 1 are ordered as whole numbers; NaN, infinity and all below zero lie above them.
    flat = score_map.ravel()
    bits = flat.view(np.uint32)
    peak = int(bits.argmax())
    if bits[peak] > _ONE_AS_BITS:
        bad = np.count_nonzero(~((score_map >= 0.0) & (score_map <= 1.0)))
        if bad:  # not so for a negative zero
            text = f"{bad} of {score_map.size} map values are not in 0..1"
            return invalid(Reason.NOT_FINITE, text)
        peak = int(flat.argmax())
    highest = flat[peak]
    inspected = zones.inspected if zones is not None else None
    score = float(highest)
    if inspected is not None and not inspected.ravel()[peak]:
        score = float(score_map.max(where=inspected, initial=0.0))
    if highest < rules.threshold32:
        return Seen(score, np.zeros(score_map.shape, np.bool_), None)
    mask: BoolMap = score_map >= rules.threshold32
    masks = (mask,) if inspected is None else (mask & inspected, mask > inspected)
    owner, count = (zones.owner, len(rules.zones)) if zones is not None else (None, 0)
    return Seen(score, mask, blob.find(masks, score_map, owner, count))


def worst(decisions: Sequence[Decision]) -> Decision:
    """One decision for a part seen in several views: INVALID before FAIL before PASS.

    INVALID: the first such view as it is. FAIL: the rules of every failing view, each with its view's number; review
    only where every failing view says review. Defects and the highest score come from all. No view: INVALID.
    """
    if not decisions:
        return invalid(Reason.VIEW_MISSING, "no view came")
    if len(decisions) == 1:
        return decisions[0]
    score = max(each.score for each in decisions)
    defects = tuple(defect for each in decisions for defect in each.defects)
    for number, each in enumerate(decisions, 1):
        if each.verdict is Verdict.INVALID:
            return replace(each, detail=f"view {number}: {each.detail}" if each.detail else f"view {number}")
    failed = [(number, each) for number, each in enumerate(decisions, 1) if each.verdict is Verdict.FAIL]
    if not failed:
        return Decision(Verdict.PASS, defects=defects, score=score)
    texts = tuple(f"view {number}: {rule}" for number, each in failed for rule in each.rules)
    return Decision(Verdict.FAIL, None, texts, defects, score, all(each.review for _, each in failed))


class _Failing(NamedTuple):
    texts: tuple[str, ...]
    review: bool


class _Sized(NamedTuple):
    """Blobs with everything that limits speak of, in frame units."""

    blobs: Blobs
    area_px: Floats
    extents: Extents
    measured: bool
    """False: too many to measure them all, no limit needs it, and lengths, widths and boxes are 0."""
    scale: tuple[float, float]
    mm: float
    """Millimetres per frame pixel; 0 while unknown, where limits in millimetres were refused before."""
    measures: tuple[tuple[Floats | Ints, float], ...]
    """What minimums speak of, in their order, each with the figure that turns it into the limit's unit."""


def _judge(
    found: Blobs, rules: Rules, geometry: Geometry, shape: tuple[int, ...]
) -> tuple[_Failing, tuple[Defect, ...]]:
    sized = _sized(found, geometry, everything=rules.of_extent)
    counts = np.zeros(found.area.size, np.bool_)
    hard: list[str] = []
    reviewed: list[tuple[str, Limits, int, NDArray[np.bool_]]] = []
    for index, name, limits, review in rules.regions:
        if rules.zones:
            touching = found.zones[:, index] > 0
            if not np.count_nonzero(touching):
                continue
        else:
            touching = np.ones(counts.size, np.bool_)
        place = f"zone {name}: " if name else ""
        counting = _reaching(sized, limits, touching)
        hard += [place + text for text in _broken(sized, limits, index, counting)]
        counts |= counting
        if review is not None:
            counting = _reaching(sized, review, touching)
            reviewed.append((f"review: {place}", review, index, counting))
            counts |= counting
    defects = _defects(sized, counts, rules, geometry, shape)
    if hard:
        return _Failing(tuple(hard), review=False), defects
    soft = [place + text for place, review, index, those in reviewed for text in _broken(sized, review, index, those)]
    return _Failing(tuple(soft), review=bool(soft)), defects


def _sized(found: Blobs, geometry: Geometry, *, everything: bool) -> _Sized:
    scale = (geometry.scale_x, geometry.scale_y)
    mm = geometry.mm_per_px or 0.0
    size = found.area.size
    measured = everything or found.judged <= LISTED_MAX
    extents = found.extents
    if extents is None:
        extents = (
            blob.measure(found, None, *scale)
            if measured
            else Extents(np.zeros(size), np.zeros(size), np.zeros((size, 4), np.int64))
        )
    area_px = found.area_px
    if area_px is None:
        area_px = np.asarray(found.area * (scale[0] * scale[1]), np.float64)
    length, width = extents.length_px, extents.width_px
    measures = (
        *((area_px, 1.0), (found.area, 1.0), (area_px, mm * mm)),
        *((length, 1.0), (length, mm), (width, 1.0), (width, mm)),
        *((found.score_mean, 1.0), (found.score_max, 1.0)),
    )
    return _Sized(found, area_px, extents, measured, scale, mm, measures)


def _reaching(sized: _Sized, limits: Limits, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the blobs ``among`` reach every minimum."""
    out = among
    for place, least in limits.least:
        values, unit = sized.measures[place]
        out = out & ((values if unit == 1.0 else values * unit) >= least)
    return out


def _broken(sized: _Sized, limits: Limits, region: int, counting: NDArray[np.bool_]) -> list[str]:
    """The limits that are broken, each with its figure."""
    out = []
    mm = sized.mm
    number = int(np.count_nonzero(counting))
    if number:
        area = float(sized.area_px[counting.argmax()])  # blobs are ordered by area
        length = max(sized.extents.length_px[counting].tolist())
        if number > limits.max_count:
            unit = f"{area * mm * mm:.3g} mm2, {length * mm:.3g} mm long" if mm else _px(area, length)
            out.append(f"count {number} > {limits.max_count} (largest {unit}){limits.least_told}")
        out += _above("area", "px", area, limits.max_area_px)
        out += _above("area", "mm2", area * mm * mm, limits.max_area_mm2)
        out += _above("length", "px", length, limits.max_length_px)
        out += _above("length", "mm", length * mm, limits.max_length_mm)
    if min(limits.max_total_area_px, limits.max_total_area_mm2) < np.inf:
        total = float(sized.blobs.zones[:, region].sum()) * (sized.scale[0] * sized.scale[1])
        out += _above("total area", "px", total, limits.max_total_area_px)
        out += _above("total area", "mm2", total * mm * mm, limits.max_total_area_mm2)
    apart = max(limits.min_distance_px, limits.min_distance_mm / mm if mm else 0.0)
    # More than the allowed count has failed already; the distance only tells how close the allowed ones lie.
    if apart > 0.0 and 2 <= number <= limits.max_count:
        which = np.flatnonzero(counting)
        gap = blob.smallest_gap(sized.blobs, sized.extents.box[which], which, *sized.scale, apart)
        if gap < limits.min_distance_px:
            out.append(f"distance {gap:.1f} px < min_distance_px {limits.min_distance_px:g}")
        if gap * mm < limits.min_distance_mm:
            out.append(f"distance {gap * mm:.3g} mm < min_distance_mm {limits.min_distance_mm:g}")
    return out


def _px(area: float, length: float) -> str:
    return f"{_plain(area)} px, {length:.1f} px long" if length else f"{_plain(area)} px"


def _above(what: str, unit: str, value: float, limit: float) -> list[str]:
    if value <= limit:
        return []
    return [f"{what} {_plain(value)} {unit} > max_{what.replace(' ', '_')}_{unit} {limit:g}"]


def _defects(
    sized: _Sized, counts: NDArray[np.bool_], rules: Rules, geometry: Geometry, shape: tuple[int, ...]
) -> tuple[Defect, ...]:
    """The largest LISTED_MAX judged blobs as records, those that count before those that do not; then as many of the
    ignored zones."""
    found, told = sized.blobs, counts.tolist()
    listed: Ints | slice = slice(None)
    extents = sized.extents
    if found.judged > LISTED_MAX or not all(told[: sum(told)]):  # else they are in this order already
        listed = (~counts).argsort(kind="stable")  # blobs of ignored zones are last, and none of them counts
        if found.judged > LISTED_MAX:
            listed = np.concatenate((listed[:LISTED_MAX], listed[found.judged :]))
        if not sized.measured:
            extents = blob.measure(found, listed, *sized.scale)
    length, width, box = (each[listed] for each in extents) if sized.measured else extents
    a, b, c, d, e, f = geometry.matrix
    x, y, area = found.x[listed], found.y[listed], sized.area_px[listed]
    areas, lengths = area.tolist(), length.tolist()
    point_px = blob.POINT_SHARE * max(shape) * (geometry.scale_x * geometry.scale_y) ** 0.5
    mm = sized.mm
    unknown = [None] * area.size
    zones = [""] * area.size
    if rules.zones:
        names = ("", *(zone.name for zone in rules.zones))
        zones = [names[zone] for zone in found.zones[listed].argmax(axis=1).tolist()]
    columns = (
        areas,
        lengths,
        width.tolist(),
        (a * x + b * y + c).tolist(),
        (d * x + e * y + f).tolist(),
        map(tuple, box.tolist()),
        found.score_mean[listed].tolist(),
        found.score_max[listed].tolist(),
        blob.shape_classes(areas, lengths, point_px),
        zones,
        (area * mm * mm).tolist() if mm else unknown,
        (length * mm).tolist() if mm else unknown,
        (width * mm).tolist() if mm else unknown,
        counts[listed].tolist(),
    )
    return tuple(map(Defect._make, zip(*columns, strict=True)))


def _plain(value: float) -> str:
    """Four figures as people write them, never 2e+04."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
