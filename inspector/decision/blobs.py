"""Connected blobs of a thresholded map and their measures: vectorised, in time that depends on pixels, not on shapes.

Measures are exact under flips and shifts: differences of pixel positions are taken as whole numbers before they are
scaled. Length is the largest, width the smallest calliper (Feret diameter) over the blob's pixels, each pixel taken as
a disc of its own size: a run of n pixels is n long and 1 wide in any direction (where the map's two scales differ, to
a quarter of a pixel). Unlike the sides of the smallest rectangle, both can only shrink when a blob loses pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.frame import BoolMap, FloatMap, Shape

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STRIP_ELONGATION = 4.0
"""Length squared over area: 1.3 for a disc, 2 for a square, about L / W for a strip, straight or bent."""
POINT_SHARE = 1.0 / 16.0
"""A defect that is no strip is a point up to this share of the map's longer side, a block beyond."""


@dataclass(frozen=True, slots=True)
class Blobs:
    """Blobs of one map; entry i of every array is blob i. Order: largest first, then topmost, then leftmost."""

    area: Ints
    """Map pixels."""
    x: Floats
    """Centroid in map pixels."""
    y: Floats
    score_mean: Floats
    score_max: Floats
    zones: Ints
    """B x Z: pixels of the blob in zone z; column 0 outside all zones. B x 1 without zones."""
    labels: NDArray[np.int32]
    """H x W: 0 = no blob."""
    label: Ints
    """Value of blob i in ``labels``."""
    ends: NDArray[np.int32]
    """R x 2 x 2: (x, y) of the first and last pixel of each row run, blob by blob: all that hulls need."""
    run_begin: Ints
    """Where in ``ends`` the runs of blob i begin ..."""
    run_end: Ints
    """... and end."""

    def __len__(self) -> int:
        return int(self.area.size)


def find(mask: BoolMap, scores: FloatMap, owner: NDArray[np.uint8] | None, zone_count: int) -> Blobs:
    """8-connected blobs of ``mask`` (H x W bool). ``owner``: H x W, which of ``zone_count`` zones a pixel is in."""
    # Not ...WithStats: its pass over all pixels takes three times as long as the sums over row runs below.
    count, found = cv2.connectedComponentsWithAlgorithm(mask.view(np.uint8), 8, cv2.CV_32S, cv2.CCL_BBDT)
    labels = np.asarray(found, np.int32)
    at = np.flatnonzero(mask)
    row = at // mask.shape[1]  # a division by one number is fast, a remainder is not
    begins = np.ones(at.size + 1, np.bool_)
    begins[1:-1] = (at[1:] != at[:-1] + 1) | (row[1:] != row[:-1])
    edges = np.flatnonzero(begins)
    begin, size = edges[:-1], edges[1:] - edges[:-1]
    label = labels.ravel()[at[begin]]
    by_blob = np.argsort(label, kind="stable")
    begin, size = begin[by_blob], size[by_blob]
    y = row[begin]
    x = at[begin] - y * mask.shape[1]
    run_begin = np.searchsorted(label[by_blob], np.arange(1, count + 1))
    # One row a run: pixels, sums of x, y and score. All are exact in float64 (scores are float32, positions whole), so
    # that nothing depends on the order of pixels.
    sums, top = np.zeros((count - 1, 4)), np.zeros(count - 1)
    if at.size:
        score = scores.ravel()[at]
        parts = np.empty((size.size, 4))
        parts[:, 0], parts[:, 1], parts[:, 2] = size, size * x + (size * (size - 1) >> 1), size * y
        parts[:, 3] = np.add.reduceat(score, edges[:-1], dtype=np.float64)[by_blob]
        sums = np.add.reduceat(parts, run_begin[:-1])
        top = np.maximum.reduceat(np.maximum.reduceat(score, edges[:-1])[by_blob], run_begin[:-1]).astype(np.float64)
    area = sums[:, 0]
    mean_x, mean_y, mean = (sums[:, 1:] / area[:, None]).T
    if owner is None:
        zones = area[:, None].astype(np.int64)
    else:
        columns = zone_count + 1
        cell = labels.ravel()[at] * columns + owner.ravel()[at]
        zones = np.bincount(cell, minlength=count * columns).reshape(count, columns)[1:]
    ends = np.empty((size.size, 2, 2), np.int32)
    ends[:, 0, 0], ends[:, 1, 0], ends[:, 0, 1], ends[:, 1, 1] = x, x + size - 1, y, y
    order = np.lexsort((mean_x, mean_y, -area))
    return Blobs(
        area[order].astype(np.int64), mean_x[order], mean_y[order], mean[order], top[order],
        np.asarray(zones[order], np.int64), labels, order + 1, ends, run_begin[order], run_begin[order + 1],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Extents:
    """Outer measures of the blobs that were asked for; entry i belongs to ``which[i]``."""

    length_px: Floats
    """Frame pixels."""
    width_px: Floats
    box: Ints
    """N x 4: x, y, width, height in map pixels."""


def measure(blobs: Blobs, which: Ints, scale_x: float, scale_y: float) -> Extents:
    """Length, width and box of the blobs ``which``; scales in frame pixels per map pixel."""
    if which.size == 0:
        return Extents(np.zeros(0), np.zeros(0), np.zeros((0, 4), np.int64))
    points = blobs.ends.reshape(-1, 1, 2)
    begin, end = (2 * blobs.run_begin[which]).tolist(), (2 * blobs.run_end[which]).tolist()
    hull = cv2.convexHull
    hulls = [hull(points[a:b]) for a, b in zip(begin, end, strict=True)]
    corners = np.asarray(np.concatenate(hulls)[:, 0], np.int32)
    first = np.zeros(which.size + 1, np.int64)
    np.cumsum([len(each) for each in hulls], out=first[1:])
    length, width = callipers(corners, first, scale_x, scale_y)
    low, high = np.minimum.reduceat(corners, first[:-1]), np.maximum.reduceat(corners, first[:-1])
    size = high - low + 1
    # Matters only where the two scales differ: then two pixels one above the other can be wider than high.
    width = np.minimum(width, np.minimum(size[:, 0] * scale_x, size[:, 1] * scale_y))
    return Extents(length, width, np.concatenate((low, size), axis=1).astype(np.int64))


def callipers(corners: NDArray[np.int32], first: Ints, scale_x: float, scale_y: float) -> tuple[Floats, Floats]:
    """Largest and smallest calliper of convex polygons: N x 2 corners (x, y) as cv2.convexHull orders them, polygon
    after polygon, polygon i from ``first[i]`` to ``first[i + 1]`` -> B lengths, B widths in frame pixels.

    Rotating callipers (Shamos 1978), for all edges of all polygons at once: the corner farthest from an edge begins
    the first edge that has turned by at least half a turn, found by bisection on the edges' angles.
    Length = longest distance of an edge's first corner from that corner or (parallel edges) the one after it, plus the
    pixel's own extent along it; width = shortest distance of such a corner from its edge, plus the pixel's across.
    """
    begin, count = first[:-1], np.diff(first)
    polygon = np.repeat(np.arange(count.size), count)
    following = np.arange(1, polygon.size + 1)
    following[first[1:] - 1] = begin
    x, y = corners[:, 0].astype(np.float64), corners[:, 1].astype(np.float64)
    ex, ey = x[following] - x, y[following] - y
    angle = np.arctan2(ey, ex)
    start = begin[polygon]
    turned = (angle - angle[start]) % _TURN
    base = 8.0 * polygon
    # Edges of a pixel grid differ by far more than 1e-9 in angle or not at all: parallel ones are always hit.
    wanted = (turned + (_TURN / 2 - 1e-9)) % _TURN
    opposite = np.searchsorted(base + turned, base + wanted)
    opposite = np.where(opposite >= first[1:][polygon], start, opposite)
    dx, dy = x[opposite] - x, y[opposite] - y
    cross = np.abs(ex * dy - ey * dx)
    xx, yy = scale_x * scale_x, scale_y * scale_y
    edge2 = ex * ex * xx + ey * ey * yy
    # the edge's normal is (-ey * scale_y, ex * scale_x) / edge, and the pixel an ellipse of those scales
    with np.errstate(invalid="ignore"):
        across = (cross + np.sqrt(ex * ex + ey * ey)) * (scale_x * scale_y) / np.sqrt(edge2)
    across[edge2 == 0.0] = min(scale_x, scale_y)  # a single pixel
    dx, dy = np.stack((dx, x[following[opposite]] - x)), np.stack((dy, y[following[opposite]] - y))
    reach = np.sqrt(dx * dx * xx + dy * dy * yy)
    if scale_x == scale_y:
        reach += scale_x
    else:
        reach += np.sqrt(dx * dx * (xx * xx) + dy * dy * (yy * yy)) / np.maximum(reach, 1e-9)
    length = np.maximum.reduceat(reach.max(axis=0), begin)
    return np.maximum(length, max(scale_x, scale_y)), np.minimum.reduceat(across, begin)


_TURN = 2.0 * np.pi
_SHAPES = (Shape.POINT, Shape.STRIP, Shape.BLOCK)


def shape_classes(area_px: Floats, length_px: Floats, point_length_px: float) -> list[Shape]:
    """STRIP when long for its area (and no speck), else POINT up to ``point_length_px``, else BLOCK."""
    strip = (length_px > point_length_px / 2) & (length_px * length_px >= STRIP_ELONGATION * area_px)
    return [_SHAPES[i] for i in np.where(strip, 1, np.where(length_px <= point_length_px, 0, 2)).tolist()]


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
    outlines = {i: _outline(blobs, int(blobs.label[which[i]]), boxes[i]) for i in set(near.ravel().tolist())}
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


def _outline(blobs: Blobs, label: int, box: Ints) -> Ints:
    """Pixels (x, y) of the blob that have a neighbour outside it."""
    x, y, width, height = (int(each) for each in box)
    own = np.pad(blobs.labels[y : y + height, x : x + width] == label, 1)
    inner = own[1:-1, :-2] & own[1:-1, 2:] & own[:-2, 1:-1] & own[2:, 1:-1]
    rows, columns = np.nonzero(own[1:-1, 1:-1] & ~inner)
    return np.stack((columns + x, rows + y), axis=1).astype(np.int64)
