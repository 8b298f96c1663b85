"""Where the machine found defects, as an SVG path over the picture: sharp at every size, in the page's own colours."""

from __future__ import annotations

import cv2
import numpy as np

from inspector.errors import LedgerError
from inspector.frame import BoolMap

LONGEST_PATH = 24_000
"""Characters; a map that is full of specks is drawn coarser rather than sent whole."""
_MOST_CONTOURS = 400


def path_of(mask: BoolMap) -> str:
    """The borders of H x W bool as the ``d`` of an SVG path in pixels of the mask; empty where nothing is found."""
    # doubled, so that a border runs along the edges of its pixels and one pixel has an inside
    doubled = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(doubled, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    largest = sorted(contours, key=len, reverse=True)[:_MOST_CONTOURS]
    for coarseness in (0.0, 1.0, 2.0, 4.0, 8.0):
        pieces = [_closed(cv2.approxPolyDP(one, coarseness, closed=True)) for one in largest]
        if sum(map(len, pieces)) <= LONGEST_PATH:
            return "".join(pieces)
    path = ""
    for piece in pieces:
        path += piece if len(path) + len(piece) <= LONGEST_PATH else ""
    return path


def path_of_png(png: bytes) -> str:
    """The same of a stored mask. Raises LedgerError for what is no picture."""
    try:
        mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:
        mask = None
    if mask is None:
        raise LedgerError("a stored mask cannot be read", expected="a PNG", found=f"{len(png)} bytes")
    return path_of(np.asarray(mask) > 127)


def _closed(contour: np.ndarray) -> str:
    points = contour.reshape(-1, 2) / 2 + 0.25
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points.tolist()) + "Z"
