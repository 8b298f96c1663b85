"""Length, width and box of blobs, all at once, from the ends of their row runs.

Length is the largest, width the smallest calliper (Feret diameter) over a blob's pixels, each pixel taken as a disc of
its own size: a run of n pixels is n long and 1 wide in any direction (where the map's two scales differ, to a quarter
of a pixel). Unlike the sides of the smallest rectangle, both can only shrink when a blob loses pixels.

Pixels are complex numbers x + iy here, which halves the steps: small arrays cost their calls, not their contents.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Points = NDArray[np.complex128]


class Extents(NamedTuple):
    """Outer measures of blobs; entry i of every array belongs to the same blob."""

    length_px: Floats
    """Frame pixels."""
    width_px: Floats
    box: Ints
    """N x 4: x, y, width, height in map pixels."""


def extents(left: Points, right: Points, first: Ints, scale_x: float, scale_y: float) -> Extents:
    """First and last pixel of each row run, blob by blob from top to bottom, blob i from ``first[i]`` to
    ``first[i + 1]``; scales in frame pixels per map pixel -> measures of each blob."""
    if first.size == 1:
        return Extents(np.zeros(0), np.zeros(0), np.zeros((0, 4), np.int64))
    corners, edges, begins = _hulls(left, right, first)
    begin = begins.nonzero()[0]
    box = _boxes(corners, begin[:-1])
    length, width = _callipers(corners, edges, begins, begin, scale_x, scale_y)
    if scale_x != scale_y:  # then two pixels one above the other can be wider than high
        width = np.minimum(width, np.minimum(box[:, 2] * scale_x, box[:, 3] * scale_y))
    return Extents(length, width, box)


_BEGIN, _LAST = 1e301, 1e300  # larger than any turn


def _hulls(left: Points, right: Points, first: Ints) -> tuple[Points, Points, NDArray[np.bool_]]:
    """Convex hulls as chains of corners: the corners, the step from each to the next, and which of them, and what would
    follow the last, begin a chain.

    Of B blobs first the B left sides from top to bottom, then, turned by half a turn about the origin, the right sides,
    last blob first, from bottom to top. So all are left sides of rising y, and the two chains of a blob lie as far from
    the start as from the end. Where a row has several runs, the inner ones go like all that is no corner.
    """
    count = left.size
    corners = np.zeros(2 * count + 1, np.complex128)
    corners[:count] = left
    np.negative(right[::-1], out=corners[count:-1])
    bar = np.zeros(corners.size)
    begin = np.concatenate((first[:-1], 2 * count - first[::-1]))
    bar[begin - 1] = _LAST
    bar[begin] = _BEGIN
    while True:
        # What lies on the line between two others, or right of it, is no corner: all such may go at once. It takes two
        # or three rounds, and a third of the time of a hull from cv2 for each blob.
        step = corners[1:] - corners[:-1]
        turn = step[:-1].conj()
        turn *= step[1:]
        kept = np.empty(corners.size, np.bool_)
        kept[0] = kept[-1] = True
        np.less(turn.imag, bar[1:-1], out=kept[1:-1])
        at = kept.nonzero()[0]  # an index by booleans takes three times as long
        if at.size == corners.size:
            return corners[:-1], step, bar == _BEGIN
        corners, bar = corners.take(at), bar.take(at)


def _boxes(corners: Points, begin: Ints) -> Ints:
    """N x 4: x, y, width, height in map pixels."""
    low = corners[begin]  # a chain begins at its lowest y
    low.real = np.minimum.reduceat(corners.real, begin)
    count = begin.size // 2
    box = np.empty((count, 2), np.complex128)
    box[:, 0] = low[:count]
    box[:, 1] = (1 + 1j) - (low[:count] + low[: count - 1 : -1])
    return box.view(np.float64).astype(np.int64)


def _callipers(
    corners: Points, edges: Points, begins: NDArray[np.bool_], begin: Ints, scale_x: float, scale_y: float
) -> tuple[Floats, Floats]:
    """Largest and smallest calliper of hulls: lengths and widths in frame pixels.

    Rotating callipers (Shamos 1978), for all edges of all hulls at once. An edge runs from each corner to the next, and
    from the last one of a chain level to the other chain. Edges turn one way along a chain, and the chains of a blob
    are turned alike, so that the corner farthest from an edge begins the first edge of the other chain that is turned
    as far. The two corners farthest apart are such a corner and the first of its edge. Length = longest of these
    distances plus a pixel, width = shortest distance of such a corner from its edge plus a pixel.
    """
    begin, last = begin[:-1], begin[1:] - 1
    edges[last] = 1.0
    across, down = edges.real, edges.imag
    turned = across / (np.abs(across) + down)  # rises along each chain, from above -1 to 1 at its end
    chain = begins[:-1].cumsum()
    chain *= 4
    chain -= 2 * begin.size + 2  # now the other chain of a blob has the negative of its number
    span = corners.take((turned + chain).searchsorted(turned - chain))
    span += corners
    back = edges.conj()
    edge_px, cross = np.sqrt((edges * back).real), (back * span).imag
    if scale_x == scale_y:
        reach = np.maximum.reduceat((span * span.conj()).real, begin)
        wide = np.minimum.reduceat(cross / edge_px, begin)
        return (np.sqrt(_either(np.maximum, reach)) + 1.0) * scale_x, (_either(np.minimum, wide) + 1.0) * scale_x
    reach = np.maximum.reduceat(_stretched(span, scale_x, scale_y), begin)
    length = np.maximum(_either(np.maximum, reach), max(scale_x, scale_y))
    # the edge's normal is (-down * scale_y, across * scale_x) / edge, and the pixel an ellipse of those scales
    edge_frame_px = np.sqrt((across * scale_x) ** 2 + (down * scale_y) ** 2)
    wide = (cross + edge_px) * (scale_x * scale_y) / edge_frame_px
    wide[last] = np.inf  # the height: the box has it exactly
    return length, _either(np.minimum, np.minimum.reduceat(wide, begin))


def _either(choose: np.ufunc, found: Floats) -> Floats:
    """The better of what the two chains of each blob found."""
    count = found.size // 2
    return np.asarray(choose(found[:count], found[: count - 1 : -1]), np.float64)


def _stretched(span: Points, scale_x: float, scale_y: float) -> Floats:
    """Length of ``span`` in frame pixels plus the pixel's own extent along it, where its two scales differ."""
    x, y = (span.real * scale_x) ** 2, (span.imag * scale_y) ** 2
    reach = np.sqrt(x + y)
    return np.asarray(reach + np.sqrt(x * scale_x**2 + y * scale_y**2) / np.maximum(reach, 1e-9))
