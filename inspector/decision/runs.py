"""Row runs of a mask and how they join to blobs: everything at once, in time that depends on pixels, not on shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.frame import BoolMap

Ints = NDArray[np.int64]


def row_runs(masks: Sequence[BoolMap]) -> tuple[int, Ints]:
    """The row runs of masks of one size, as if they lay one under the other with an empty row after each.

    Each row is followed by a pixel of nothing. Returns the pixels from one row to the next, and for all runs in reading
    order the flat indices of the first pixel (row 0 of 2 x R) and of the pixel behind the last (row 1).
    """
    height, width = masks[0].shape
    pitch = width + 1
    pixels = len(masks) * (height + 1) * pitch
    padded = np.zeros((pixels + 8) // 8 * 8 + 1, np.uint8)  # one pixel goes before, and whole words follow
    rows = padded[1 : pixels + 1].reshape(len(masks), height + 1, pitch)
    for index, mask in enumerate(masks):
        rows[index, :height, :width] = mask
    changes = padded[1:] ^ padded[:-1]
    # Changes are rare: looked for in words of eight pixels first, it takes half the time.
    words = changes.view(np.uint64)
    found = words.astype(np.bool_).nonzero()[0]
    lane = words.take(found).view(np.bool_).nonzero()[0]
    found <<= 3
    edges = found.take(lane >> 3)
    lane &= 7
    edges += lane
    return pitch, np.ascontiguousarray(edges.reshape(-1, 2).T)


def joined(begin: Ints, end: Ints, pitch: int, rows: int) -> tuple[Ints, NDArray[Any]]:
    """The first run of each blob, in reading order, and for each run which blob it belongs to.

    A run touches those of the row above that reach from a pixel before its first to a pixel behind its last one. Each
    run points at the first that it touches, and pointers are followed to their ends, all at once (Shiloach and
    Vishkin 1982). cv2's labelling of the pixels takes twice as long on a map with 50 blobs, four times with two.
    """
    root = end.searchsorted(begin - (pitch + 1), "right")
    reach = end - (pitch - 1)
    first = (begin.take(root) >= reach).nonzero()[0]
    several = (begin.take(root + 1, mode="clip") < reach).nonzero()[0]
    above = root.take(several)
    root[first] = first
    for _ in range(rows.bit_length()):  # each pointer leads a row up, and each time twice as far
        root = root.take(root)
    if several.size:
        root = _merged(root, several, above, begin.searchsorted(reach.take(several)) - above)
        first = (root == np.arange(root.size)).nonzero()[0]
    # 16 bits are sorted twice as fast
    number: NDArray[Any] = np.empty(root.size, np.uint16 if first.size <= 1 << 16 else np.int64)
    number[first] = np.arange(first.size, dtype=number.dtype)
    return np.asarray(first, np.int64), number.take(root)


def _merged(root: Ints, several: Ints, above: Ints, touching: Ints) -> Ints:
    """``root`` where the runs ``several`` join all that they touch: from ``above`` on, so many."""
    more = touching - 1
    one = np.repeat(several, more)
    other = np.arange(one.size) + np.repeat(above + 1 + more - more.cumsum(), more)
    while one.size:
        low, high = np.minimum(root[one], root[other]), np.maximum(root[one], root[other])
        apart = (low != high).nonzero()[0]
        one, other = one[apart], other[apart]
        np.minimum.at(root, high[apart], low[apart])
        root = _followed(root)
    return root


def _followed(pointer: Ints) -> Ints:
    """Each pointer to the end of its chain."""
    while True:
        further = pointer.take(pointer)
        if (further == pointer).all():
            return pointer
        pointer = further
