"""The costliest pure functions in C, where a compiler was there to build them: one call instead of many small ones.

What makes them slow in Python is not arithmetic: an inference sweeps the caches, and each part then runs a lot of
distinct code once, cold. The Python code beside each caller stays the reference. It gives the same results bit for bit
(tests/test_native.py), and it answers alone where nothing was built or ``INSPECTOR_NATIVE=0`` is set, to compare.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from inspector.frame import FloatMap, Grey

VARIABLE = "INSPECTOR_NATIVE"
_REVISION = 1
"""Of what the C functions take and give: what was built from another state of the sources is not used."""


class Functions(NamedTuple):
    """What _native.c offers; it checks types, sizes and strides of what it is given."""

    survey: Callable[[Grey], tuple[int, int, int]]
    """Pixels at 255; over all whole blocks of 8 x 8 pixels the sum, and the sum of the squares of their sums."""
    shrink: Callable[[Grey, Grey, FloatMap, FloatMap], None]
    """``shrink(image, grey, tensor, table)``: fills ``grey`` with means over area, ``tensor`` with ``table`` of it."""
    blobs: Callable[..., tuple[Any, ...] | None]
    """``decision.blobs.at_once`` says what it takes and gives."""


def find(environment: Mapping[str, str]) -> Functions | None:
    """The functions; None where they are not built, built from other sources, or switched off."""
    if environment.get(VARIABLE, "") == "0":
        return None
    try:
        from inspector import _native
    except ImportError:
        return None
    if _native.REVISION != _REVISION:
        return None
    return Functions(_native.survey, _native.shrink, _native.blobs)


found: Functions | None = find(os.environ)
"""Once, when the program starts: no part is judged by one and the next by the other."""


def word() -> str:
    """For the journal: which of the two is used."""
    return "python" if found is None else "native"


@contextmanager
def without() -> Iterator[None]:
    """For tests and comparisons: the reference alone."""
    global found
    kept, found = found, None
    try:
        yield
    finally:
        found = kept
