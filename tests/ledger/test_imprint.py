"""A stored picture knows where its pixels lay."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inspector.frame import Geometry
from inspector.ledger.imprint import geometry_of, stamped

_NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)


def _png() -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (16, 12), np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


@given(st.tuples(*[_NUMBERS] * 6), _NUMBERS, _NUMBERS, st.none() | _NUMBERS)
def test_what_is_stamped_is_read_back_to_the_last_digit(
    matrix: tuple[float, float, float, float, float, float], x: float, y: float, scale: float | None
) -> None:
    """Sizes measured from the archive are those that the line measured."""
    told = Geometry(matrix, x, y, scale)
    assert geometry_of(stamped(_png(), told)) == told


def test_the_pixels_stay() -> None:
    """Every reader of PNG still reads it, checksums included."""
    plain, written = _png(), stamped(_png(), Geometry())
    first, second = (cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_UNCHANGED) for each in (plain, written))
    assert np.array_equal(first, second)
    assert geometry_of(plain) is None
