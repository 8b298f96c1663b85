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
    runs: NDArray[np.int32]
    """R x 2 x 2: (y, x) of the first and last pixel of each row run, blob by blob: all that outlines need."""
    first: Ints
    """B + 1: the runs of blob i are ``runs[first[i] : first[i + 1]]``."""

    def __len__(self) -> int:
        return int(self.area.size)


def find(mask: BoolMap, scores: FloatMap, owner: NDArray[np.uint8] | None, zone_count: int) -> Blobs:
    """8-connected blobs of ``mask`` (H x W bool). ``owner``: H x W, which of ``zone_count`` zones a pixel is in."""
    pitch, begin, size = _row_runs(mask)
    y = begin // pitch
    x = begin - y * pitch
    label, count = _joined(begin, begin + size, pitch)
    # All sums are exact in float64 (positions whole, scores float32), so that nothing depends on the order of pixels.
    area = np.bincount(label, size, count)
    mean_x = np.bincount(label, size * x + (size * (size - 1) >> 1), count) / area
    mean_y = np.bincount(label, size * y, count) / area
    order = np.lexsort((mean_x, mean_y, -area))
    rank = np.empty(count, np.uint16 if count <= 1 << 16 else np.int64)  # 16 bits are sorted twice as fast
    rank[order] = np.arange(count)
    blob = rank[label]
    by_blob = blob.argsort(kind="stable")
    size, x, y = size[by_blob], x[by_blob], y[by_blob]
    first = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(blob, minlength=count), out=first[1:])
    # the pixels, blob by blob
    behind = size.cumsum()
    at = np.repeat(begin[by_blob] - y + size - behind, size)
    at += np.arange(at.size)
    values = scores.ravel().take(at)
    start = (behind - size)[first[:-1]]
    area = area[order]
    total = top = np.zeros(0)
    if count:
        total = np.add.reduceat(values, start, dtype=np.float64)
        top = np.maximum.reduceat(values, start).astype(np.float64)
    pixels = area.astype(np.int64)
    zones = pixels[:, None]
    if owner is not None:
        columns = zone_count + 1
        cell = np.repeat(np.arange(count) * columns, pixels) + owner.ravel().take(at)
        zones = np.bincount(cell, minlength=count * columns).reshape(count, columns)
    runs = np.empty((size.size, 2, 2), np.int32)
    runs[:, :, 0], runs[:, 0, 1], runs[:, 1, 1] = y[:, None], x, x + size - 1
    return Blobs(pixels, mean_x[order], mean_y[order], total / area, top, zones, runs, first)


def _row_runs(mask: BoolMap) -> tuple[int, Ints, Ints]:
    """The row runs of ``mask`` in reading order, where each row is followed by a pixel of nothing: pixels from one row
    to the next; flat index of the first pixel of each run, and its length."""
    height, width = mask.shape
    pitch = width + 1
    padded = np.zeros((height * pitch + 9) // 8 * 8 + 1, np.uint8)  # one pixel goes before, and whole words follow
    padded[1 : height * pitch + 1].reshape(height, pitch)[:, :width] = mask
    changes = padded[1:] ^ padded[:-1]
    # Changes are rare: looked for in words of eight pixels first, it takes half the time.
    words = changes.view(np.uint64)
    found = (words != 0).nonzero()[0]
    lane = words[found].view(np.bool_).nonzero()[0]
    edges = (found[lane >> 3] << 3) + (lane & 7)
    begin = edges[::2]
    return pitch, begin, edges[1::2] - begin


def _joined(begin: Ints, end: Ints, pitch: int) -> tuple[Ints, int]:
    """For each row run which blob it belongs to (from 0, in reading order of first pixels), and how many there are.

    A run touches those of the row above that reach from a pixel before its first to a pixel behind its last one. Each
    run points at the first that it touches, and pointers are followed to their ends, all at once (Shiloach and
    Vishkin 1982). cv2's labelling of the pixels takes twice as long on a map with 50 blobs, four times with two.
    """
    above = end.searchsorted(begin - (pitch + 1), "right")
    touching = begin.searchsorted(end - (pitch - 1)) - above
    own = np.arange(begin.size)
    root = _followed(np.where(touching > 0, above, own))
    several = (touching > 1).nonzero()[0]
    if several.size:
        more = touching[several] - 1
        one = np.repeat(several, more)
        other = np.arange(one.size) + np.repeat(above[several] + 1 + more - more.cumsum(), more)
        while one.size:
            low, high = np.minimum(root[one], root[other]), np.maximum(root[one], root[other])
            apart = (low != high).nonzero()[0]
            one, other = one[apart], other[apart]
            np.minimum.at(root, high[apart], low[apart])
            root = _followed(root)
    is_first = root == own
    return (is_first.cumsum() - 1)[root], int(np.count_nonzero(is_first))


def _followed(pointer: Ints) -> Ints:
    """Each pointer to the end of its chain."""
    while True:
        further = pointer[pointer]
        if (further == pointer).all():
            return pointer
        pointer = further


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
    points = blobs.runs.reshape(-1, 1, 2)  # sorted by y, then x; cv2 sorts them so itself, and is faster when they are
    begin, end = (2 * blobs.first[which]).tolist(), (2 * blobs.first[which + 1]).tolist()
    hull = cv2.convexHull
    hulls = [hull(points[a:b]) for a, b in zip(begin, end, strict=True)]
    corners = np.asarray(np.concatenate(hulls)[:, 0], np.int32)
    first = np.zeros(which.size + 1, np.int64)
    np.cumsum([len(each) for each in hulls], out=first[1:])
    length, width = callipers(corners, first, scale_y, scale_x)
    box = _boxes(blobs, which)
    if scale_x != scale_y:  # then two pixels one above the other can be wider than high
        width = np.minimum(width, np.minimum(box[:, 2] * scale_x, box[:, 3] * scale_y))
    return Extents(length, width, box)


def _boxes(blobs: Blobs, which: Ints) -> Ints:
    """N x 4: x, y, width, height in map pixels."""
    first, last = blobs.first[:-1], blobs.first[1:] - 1
    box = np.empty((which.size, 4), np.int64)
    box[:, 0] = np.minimum.reduceat(blobs.runs[:, 0, 1], first)[which]
    box[:, 1] = blobs.runs[first[which], 0, 0]
    box[:, 2] = np.maximum.reduceat(blobs.runs[:, 1, 1], first)[which] + 1 - box[:, 0]
    box[:, 3] = blobs.runs[last[which], 0, 0] + 1 - box[:, 1]
    return box


def callipers(corners: NDArray[np.int32], first: Ints, scale_u: float, scale_v: float) -> tuple[Floats, Floats]:
    """Largest and smallest calliper of convex polygons: N x 2 corners (u, v) as cv2.convexHull orders them, polygon
    after polygon, polygon i from ``first[i]`` to ``first[i + 1]`` -> B lengths, B widths in frame pixels.

    Rotating callipers (Shamos 1978), for all edges of all polygons at once: the corner farthest from an edge begins
    the first edge that has turned by at least half a turn. The two corners farthest apart are such a corner and the
    first of its edge. Length = longest of these distances plus a pixel, width = shortest distance of such a corner
    from its edge plus a pixel.
    """
    begin = first[:-1]
    following = np.arange(1, len(corners) + 1)
    following[first[1:] - 1] = begin
    at = corners.astype(np.float64).view(np.complex128)[:, 0]  # u + iv: half the steps
    edge = at[following] - at
    opposite = _opposite(edge, first, following)
    span = at[opposite] - at
    cross = np.abs((edge.conj() * span).imag)
    edge_px = np.sqrt(edge.real**2 + edge.imag**2)
    if scale_u == scale_v:
        reach = np.maximum.reduceat(span.real**2 + span.imag**2, begin)
        across = np.minimum.reduceat(cross / np.maximum(edge_px, 1.0), begin)
        return (np.sqrt(reach) + 1.0) * scale_u, (across + 1.0) * scale_u
    beyond = at[following[opposite]] - at
    reach = np.maximum(_stretched(span, scale_u, scale_v), _stretched(beyond, scale_u, scale_v))
    length = np.maximum(np.maximum.reduceat(reach, begin), max(scale_u, scale_v))
    # the edge's normal is (-ev * scale_v, eu * scale_u) / edge, and the pixel an ellipse of those scales
    edge_frame_px = np.sqrt((edge.real * scale_u) ** 2 + (edge.imag * scale_v) ** 2)
    with np.errstate(invalid="ignore"):
        across = (cross + edge_px) * (scale_u * scale_v) / edge_frame_px
    across[edge_px == 0.0] = min(scale_u, scale_v)  # a single pixel
    return length, np.minimum.reduceat(across, begin)


def _opposite(edge: NDArray[np.complex128], first: Ints, following: Ints) -> Ints:
    """For each edge the corner farthest from it, found by bisection on the edges' angles."""
    angle, count = np.arctan2(edge.imag, edge.real), np.diff(first)
    turned = angle - np.repeat(angle[first[:-1]], count)
    turned[turned < 0.0] += _TURN
    key = turned + np.repeat(np.arange(0.0, 8.0 * count.size, 8.0), count)
    # Edges of a pixel grid differ by far more than 1e-9 in angle or not at all: parallel ones are always hit.
    half, past = _TURN / 2 - 1e-9, _TURN / 2 + 1e-9
    found = np.searchsorted(key, key + np.where(turned < past, half, -past))
    return np.asarray(following[found - 1], np.int64)  # past a polygon's last edge comes its first


def _stretched(span: NDArray[np.complex128], scale_u: float, scale_v: float) -> Floats:
    """Length of ``span`` in frame pixels plus the pixel's own extent along it, where its two scales differ."""
    u, v = (span.real * scale_u) ** 2, (span.imag * scale_v) ** 2
    reach = np.sqrt(u + v)
    return np.asarray(reach + np.sqrt(u * scale_u**2 + v * scale_v**2) / np.maximum(reach, 1e-9))


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
    for (row, left), (_, right) in blobs.runs[blobs.first[index] : blobs.first[index + 1]].tolist():
        own[row - y + 1, left - x + 1 : right - x + 2] = True
    inner = own[1:-1, :-2] & own[1:-1, 2:] & own[:-2, 1:-1] & own[2:, 1:-1]
    rows, columns = np.nonzero(own[1:-1, 1:-1] & ~inner)
    return np.stack((columns + x, rows + y), axis=1).astype(np.int64)
