"""Connected blobs of a thresholded map and their measures: vectorised, in time that depends on pixels, not on shapes.

Measures are exact under flips and shifts: differences of pixel positions are taken as whole numbers before they are
scaled. Length is the largest, width the smallest calliper (Feret diameter) over the blob's pixels, each pixel taken
as a disc of its own size, so that a run of n pixels is n long and 1 wide in any direction. Unlike the sides of the
smallest rectangle, both can only shrink when a blob loses pixels.
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

    def __len__(self) -> int:
        return int(self.area.size)


def find(mask: BoolMap, scores: FloatMap, owner: NDArray[np.uint8] | None, zone_count: int) -> Blobs:
    """8-connected blobs of ``mask`` (H x W bool). ``owner``: H x W, which of ``zone_count`` zones a pixel is in."""
    # Not ...WithStats: its pass over all pixels takes three times as long as the sums over the blobs' pixels below.
    count, found = cv2.connectedComponentsWithAlgorithm(mask.view(np.uint8), 8, cv2.CV_32S, cv2.CCL_BBDT)
    labels = np.asarray(found, np.int32)
    at = np.flatnonzero(mask)
    of = labels.ravel()[at].astype(np.intp)
    score = scores.ravel()[at].astype(np.float64)
    y, x = np.divmod(at, mask.shape[1])
    area = np.bincount(of, minlength=count)[1:]
    top = np.zeros(count, np.float64)
    np.maximum.at(top, of, score)
    if owner is None:
        zones = area[:, None]
    else:
        columns = zone_count + 1
        zones = np.bincount(of * columns + owner.ravel()[at], minlength=count * columns).reshape(count, columns)[1:]
    mean_x = np.bincount(of, x, count)[1:] / area
    mean_y = np.bincount(of, y, count)[1:] / area
    mean = np.bincount(of, score, count)[1:] / area
    order = np.lexsort((mean_x, mean_y, -area))
    return Blobs(
        area[order], mean_x[order], mean_y[order], mean[order], top[1:][order], zones[order], labels, order + 1
    )


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
    length, width = np.zeros(which.size), np.zeros(which.size)
    box = np.zeros((which.size, 4), np.int64)
    hulls = _hulls(blobs, which)
    sizes = np.array([hull.shape[0] for hull in hulls], np.int64)
    slot = 4
    while sizes.size and slot < 2 * int(sizes.max()):
        mine = np.flatnonzero((sizes <= slot) & (sizes > (slot // 2 if slot > 4 else 0)))
        # 64 Mi pair cells would be 0.5 GB: take the large hulls in portions
        for some in np.array_split(mine, max(1, mine.size * slot * slot >> 20)):
            if some.size:
                points = np.stack([_padded(hulls[i], slot) for i in some])
                length[some], width[some] = callipers(points, scale_x, scale_y)
                low, high = points.min(axis=1), points.max(axis=1)
                box[some] = np.concatenate((low, high - low + 1), axis=1)
        slot *= 2
    return Extents(length, width, box)


def _hulls(blobs: Blobs, which: Ints) -> list[NDArray[np.int32]]:
    """Convex hull of each wanted blob, h x 2 (x, y), in the order of ``which``."""
    position = np.full(len(blobs) + 1, -1, np.int64)
    position[blobs.label[which]] = np.arange(which.size)
    hulls: list[NDArray[np.int32]] = [np.zeros((0, 2), np.int32)] * which.size
    # RETR_CCOMP and not RETR_EXTERNAL: a blob inside another's hole is a blob too.
    mask = (blobs.labels > 0).view(np.uint8)
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return hulls
    outer = np.flatnonzero(tree[0, :, 3] < 0)
    first = np.array([contours[i][0, 0] for i in outer.tolist()])
    wanted = position[blobs.labels[first[:, 1], first[:, 0]]]
    for contour, place in zip(outer.tolist(), wanted.tolist(), strict=True):
        if place >= 0:
            hulls[place] = cv2.convexHull(contours[contour])[:, 0]
    return hulls


def _padded(hull: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Repeat the last corner: it adds no pair that is not there and an edge of length 0."""
    out = np.empty((size, 2), np.int32)
    out[: len(hull)] = hull
    out[len(hull) :] = hull[-1]
    return out


def callipers(points: NDArray[np.int32], scale_x: float, scale_y: float) -> tuple[Floats, Floats]:
    """Largest and smallest calliper of each hull: B x H x 2 corners (x, y), padded by repeats -> B lengths, B widths.

    Length: largest distance of two corners, plus the pixel's own extent along it. Width: over all edges the largest
    distance of a corner from the edge's line, the smallest of these (a convex polygon is narrowest along an edge's
    normal), plus the pixel's own extent across it.
    """
    x, y = points[..., 0].astype(np.float64), points[..., 1].astype(np.float64)
    dx, dy = x[:, :, None] - x[:, None, :], y[:, :, None] - y[:, None, :]
    squared = dx * dx * (scale_x * scale_x) + dy * dy * (scale_y * scale_y)
    if scale_x == scale_y:
        length = np.sqrt(squared.max(axis=(1, 2))) + scale_x
    else:
        apart = np.sqrt(squared)
        own = np.sqrt(dx * dx * scale_x**4 + dy * dy * scale_y**4) / np.where(apart > 0, apart, 1.0)
        length = np.maximum((apart + own).max(axis=(1, 2)), max(scale_x, scale_y))
    ex, ey = np.roll(x, -1, axis=1) - x, np.roll(y, -1, axis=1) - y
    cross = np.abs(ex[:, :, None] * dy - ey[:, :, None] * dx).max(axis=2)
    edge = np.sqrt(ex * ex * (scale_x * scale_x) + ey * ey * (scale_y * scale_y))
    # normal = (-ey * scale_y, ex * scale_x) / edge; the pixel is an ellipse of axes scale_x, scale_y
    across = cross * (scale_x * scale_y) + (scale_x * scale_y) * np.sqrt(ex * ex + ey * ey)
    width = np.where(edge > 0, across / np.where(edge > 0, edge, 1.0), np.inf).min(axis=1)
    return length, np.where(np.isfinite(width), width, min(scale_x, scale_y))


def shape_class(area_px: float, length_px: float, point_length_px: float) -> Shape:
    """STRIP when long for its area, else POINT up to ``point_length_px``, else BLOCK."""
    if length_px > point_length_px / 2 and length_px * length_px >= STRIP_ELONGATION * area_px:
        return Shape.STRIP
    return Shape.POINT if length_px <= point_length_px else Shape.BLOCK


def smallest_gap(blobs: Blobs, boxes: Ints, which: Ints, scale_x: float, scale_y: float, below: float) -> float:
    """Distance of the two nearest of the blobs ``which`` between pixel centres, frame pixels; inf when >= ``below``.

    ``boxes`` N x 4 belongs to ``which``. Only pairs whose boxes are nearer than ``below`` are compared pixel by pixel.
    """
    if which.size < 2:
        return np.inf
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1
    apart = np.maximum(np.maximum(low[:, None] - high[None], low[None] - high[:, None]), 0) * (scale_x, scale_y)
    near = np.argwhere(np.triu(np.hypot(apart[..., 0], apart[..., 1]) < below, 1))
    scale = np.array([scale_x, scale_y], np.float32)
    outlines: dict[int, NDArray[np.float32]] = {}
    best = np.inf
    for pair in near.tolist():
        for i in pair:
            if i not in outlines:
                outlines[i] = _outline(blobs, int(blobs.label[which[i]]), boxes[i]) * scale
        one, other = (outlines[i] for i in pair)
        distance, _ = cv2.batchDistance(one, other, cv2.CV_32F, normType=cv2.NORM_L2)
        best = min(best, float(distance.min()))
    return best if best < below else np.inf


def _outline(blobs: Blobs, label: int, box: Ints) -> NDArray[np.float32]:
    """Pixels (x, y) of the blob that have a neighbour outside it."""
    x, y, width, height = (int(each) for each in box)
    own = np.pad(blobs.labels[y : y + height, x : x + width] == label, 1)
    inner = own[1:-1, :-2] & own[1:-1, 2:] & own[:-2, 1:-1] & own[2:, 1:-1]
    rows, columns = np.nonzero(own[1:-1, 1:-1] & ~inner)
    return np.stack((columns + x, rows + y), axis=1).astype(np.float32)
