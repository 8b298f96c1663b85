"""Connected blobs of a thresholded map and their sums: vectorised, in time that depends on pixels, not on shapes.

Measures are exact under flips and shifts: differences of pixel positions are taken as whole numbers before they are
scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inspector import native
from inspector.decision.callipers import Extents, Floats, Ints, Points, extents
from inspector.decision.rules import Rules
from inspector.decision.runs import joined, row_runs
from inspector.frame import BoolMap, FloatMap, Geometry, Shape

STRIP_ELONGATION = 4.0
"""Length squared over area: 1.3 for a disc, 2 for a square, about L / W for a strip, straight or bent."""
POINT_SHARE = 1.0 / 16.0
"""A defect that is no strip is a point up to this share of the map's longer side, a block beyond."""
LISTED_MAX = 256
"""Defects that a decision lists, largest first. All are judged; a map of noise must not swell the ledger."""


class Blobs(NamedTuple):
    """Blobs of one map; entry i is blob i. Order: first mask, second mask; in each largest, topmost, leftmost first."""

    judged: int
    """So many of them are of the first mask; then up to LISTED_MAX of the second one."""
    area: Ints
    """Map pixels."""
    x: Floats
    """Centroid in map pixels."""
    y: Floats
    score_mean: Floats
    score_max: Floats
    zones: Ints
    """B x Z: pixels of the blob in zone z; column 0 outside all zones. B x 1 without zones."""
    label: Ints
    """Place of the blob among the runs."""
    begin: Points
    """R: first pixel of each row run as x + iy, blob by blob, in each from top to bottom: all that outlines need."""
    end: Points
    """R: its last pixel."""
    first: Ints
    """B + 1: the runs of blob i are ``first[label[i]]`` to ``first[label[i] + 1]``."""
    area_px: Floats | None = None
    """Frame pixels, where they came along."""
    extents: Extents | None = None
    """Length, width and box of each blob, where they came along."""


_COLUMNS = 13
"""What the C function tells of a blob: area, x, y, mean, top, length, width, box (4), label, area in frame pixels."""


class Seen(NamedTuple):
    """A map of finite numbers from 0 to 1, and what was found in it."""

    score: float
    """Highest value outside ignored zones."""
    mask: BoolMap
    """H x W: the threshold is reached."""
    blobs: Blobs | None
    """None: it is not, anywhere."""


def at_once(score_map: FloatMap, rules: Rules, geometry: Geometry) -> Seen | None:
    """What ``find`` and ``measure`` give, and all that comes before them, in one call.

    None: the C functions are not there, the map is not of finite numbers from 0 to 1 in rows one behind the other, or
    the threshold is so low that float64 would not hold the sum of so many scores exactly.
    """
    fast = native.found
    if fast is None or rules.threshold * (1 << 29) < score_map.size:
        return None
    zones = rules.zone_map(*score_map.shape)
    mask = np.empty(score_map.shape, np.bool_)
    x, y = geometry.scale_x, geometry.scale_y
    inspected, owner, count = (None, None, 0) if zones is None else (zones.inspected, zones.owner, len(rules.zones))
    found = fast.blobs(
        *(score_map, mask, inspected, owner, count, float(rules.threshold32), LISTED_MAX, rules.of_extent),
        *(x, y, x**2, y**2),
    )
    if found is None:
        return None
    if len(found) == 1:
        return Seen(found[0], mask, None)
    score, judged, measured, blobs, runs, content = found
    everything = np.frombuffer(content, np.int64)
    zones_at, points_at = _COLUMNS * blobs, everything.size - 4 * runs
    first_at = zones_at + blobs * (count + 1 if count else 0)
    whole = everything[:zones_at].reshape(_COLUMNS, blobs)
    real, points = whole.view(np.float64), everything[points_at:].view(np.complex128)
    area = whole[0]
    return Seen(
        score,
        mask,
        Blobs(
            *(judged, area, real[1], real[2], real[3], real[4]),
            everything[zones_at:first_at].reshape(blobs, count + 1) if count else area[:, None],
            *(whole[11], points[:runs], points[runs:], everything[first_at:points_at]),
            real[12],
            Extents(real[5], real[6], whole[7:11].T) if measured else None,
        ),
    )


def find(masks: Sequence[BoolMap], scores: FloatMap, owner: NDArray[np.uint8] | None, zone_count: int) -> Blobs:
    """8-connected blobs of each of one or two masks (H x W bool, no pixel in common), as one list.

    ``owner``: H x W, which of ``zone_count`` zones a pixel is in.
    """
    pitch, (begin, end) = row_runs(masks)
    if not begin.size:
        return _nothing(zone_count)
    first_run, label = joined(begin, end, pitch, scores.shape[0])
    judged = count = first_run.size
    if len(masks) > 1:
        offset = (scores.shape[0] + 1) * pitch
        second = begin.searchsorted(offset)
        judged = int(first_run.searchsorted(second))
        begin[second:] -= offset
        end[second:] -= offset
    by_blob = label.argsort(kind="stable")
    begin, end = begin.take(by_blob), end.take(by_blob)
    label = label.take(by_blob)
    first = np.empty(count + 1, np.int64)
    first[0], first[-1] = 0, label.size
    first[1:-1] = (label[1:] != label[:-1]).nonzero()[0] + 1
    size, y = end - begin, begin // pitch
    left = np.empty(y.size, np.complex128)
    left.real, left.imag = begin - y * pitch, y
    right = left + (size - 1)
    # All sums are exact in float64 (positions whole, scores float32), so that nothing depends on the order of pixels.
    area = np.add.reduceat(size, first[:-1])
    centre = np.add.reduceat((left + right) * size, first[:-1])
    twice = area + area
    x_mean, y_mean = centre.real / twice, centre.imag / twice
    total, top, zones = _over_pixels(begin - y, size, first[:-1], area, scores, owner, zone_count)
    key = -area
    key[judged:] += scores.size
    order = np.lexsort((x_mean, y_mean, key))[: judged + LISTED_MAX]
    mean, area = (total / area)[order], area[order]
    return Blobs(judged, area, x_mean[order], y_mean[order], mean, top[order], zones[order], order, left, right, first)


def _over_pixels(
    begin: Ints, size: Ints, first: Ints, area: Ints, scores: FloatMap, owner: NDArray[np.uint8] | None, zone_count: int
) -> tuple[Floats, Floats, Ints]:
    """Sum and highest of the scores of each blob, and its pixels in each zone.

    ``begin``, ``size``: flat index of the first pixel, and length, of each row run; ``first[i]``: blob i's first run.
    """
    behind = size.cumsum()
    at = (begin + size - behind).repeat(size)
    at += _places(scores.size)[: at.size]
    values = scores.ravel().take(at)
    start = (behind - size).take(first)
    total, top = np.add.reduceat(values.astype(np.float64), start), np.maximum.reduceat(values, start)
    zones = area[:, None]
    if owner is not None:
        columns = zone_count + 1
        cell = np.arange(0, area.size * columns, columns).repeat(area) + owner.ravel().take(at)
        zones = np.bincount(cell, minlength=area.size * columns).reshape(area.size, columns)
    return total, top.astype(np.float64), zones


def _nothing(zone_count: int) -> Blobs:
    """No blobs."""
    whole, real, points = np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.complex128)
    zones = np.zeros((0, zone_count + 1), np.int64)
    return Blobs(0, whole, real, real, real, real, zones, whole, points, points, np.zeros(1, np.int64))


@lru_cache(8)
def _places(count: int) -> Ints:
    """0, 1 ... ``count`` - 1, kept: it is long, and the same for every map."""
    places = np.arange(count)
    places.setflags(write=False)
    return places


def measure(blobs: Blobs, which: Ints | None, scale_x: float, scale_y: float) -> Extents:
    """Length, width and box of the blobs ``which``, None: of all; scales in frame pixels per map pixel."""
    begin, end, first, label = blobs.begin, blobs.end, blobs.first, blobs.label
    if which is None and label.size == first.size - 1:
        length, width, box = extents(begin, end, first, scale_x, scale_y)
        return Extents(length.take(label), width.take(label), box.take(label, axis=0))
    label = label if which is None else label.take(which)
    size = np.diff(first).take(label)
    behind = size.cumsum()
    runs = np.arange(size.sum()) + (first.take(label) + size - behind).repeat(size)
    return extents(begin.take(runs), end.take(runs), np.append(0, behind), scale_x, scale_y)


_POINT, _STRIP, _BLOCK = Shape.POINT, Shape.STRIP, Shape.BLOCK  # an enum's own look-up takes longer than the rest


def shape_classes(areas_px: list[float], lengths_px: list[float], point_px: float) -> list[Shape]:
    """STRIP when long for its area (and no speck), else POINT up to a length of ``point_px``, else BLOCK."""
    strip_px = point_px / 2
    return [
        _STRIP
        if length > strip_px and length * length >= STRIP_ELONGATION * area
        else (_POINT if length <= point_px else _BLOCK)
        for area, length in zip(areas_px, lengths_px, strict=True)
    ]


def smallest_gap(blobs: Blobs, boxes: Ints, which: Ints, scale_x: float, scale_y: float, below: float) -> float:
    """Distance of the two nearest of the blobs ``which`` between pixel centres, frame pixels; inf when >= ``below``.

    ``boxes`` N x 4 belongs to ``which``. Only pairs whose boxes are nearer than ``below`` are compared pixel by pixel.
    """
    if which.size < 2:
        return np.inf
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1
    scale = np.array([scale_x, scale_y])
    apart = np.maximum(np.maximum(low[:, None] - high[None], low[None] - high[:, None]), 0) * scale
    near = np.argwhere(np.triu(np.hypot(apart[..., 0], apart[..., 1]) < below, 1))
    outlines = {i: _outline(blobs, int(which[i]), boxes[i]) for i in set(near.ravel().tolist())}
    best = np.inf
    for i, j in near.tolist():
        one, other = (outlines[a][_to_box(outlines[a], low[b], high[b], scale) < below] for a, b in ((i, j), (j, i)))
        for some in np.array_split(one, max(1, one.shape[0] * other.shape[0] >> 20)):
            if some.size and other.size:
                step = (some[:, None] - other[None]) * scale
                best = min(best, float(np.sqrt((step * step).sum(axis=2).min())))
    return best if best < below else np.inf


def _to_box(points: Ints, low: Ints, high: Ints, scale: Floats) -> Floats:
    """Distance of each point from a box, frame pixels."""
    apart = np.maximum(np.maximum(low - points, points - high), 0) * scale
    return np.asarray(np.hypot(apart[:, 0], apart[:, 1]), np.float64)


def _outline(blobs: Blobs, index: int, box: Ints) -> Ints:
    """Pixels (x, y) of the blob that have a neighbour outside it."""
    x, y, width, height = (int(each) for each in box)
    own = np.zeros((height + 2, width + 2), np.bool_)
    runs = slice(*blobs.first[blobs.label[index] :][:2])
    for first, last in zip(blobs.begin[runs].tolist(), blobs.end[runs].tolist(), strict=True):
        own[int(first.imag) - y + 1, int(first.real) - x + 1 : int(last.real) - x + 2] = True
    inner = own[1:-1, :-2] & own[1:-1, 2:] & own[:-2, 1:-1] & own[2:, 1:-1]
    rows, columns = np.nonzero(own[1:-1, 1:-1] & ~inner)
    return np.stack((columns + x, rows + y), axis=1).astype(np.int64)
