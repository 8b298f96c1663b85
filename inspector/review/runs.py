"""Run-length forms of masks that other tools read. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inspector.frame import BoolMap

_LONGEST = 1 << 16
_SIZES_BITS = (3, 4, 8, 16)


def coco_counts(mask: BoolMap) -> list[int]:
    """COCO's uncompressed RLE: lengths of runs down the columns, the first of background (0 where there is none)."""
    flat = np.asfortranarray(mask).ravel(order="F")
    lengths, values = _runs(flat)
    return [0, *lengths] if len(values) and values[0] else lengths


def brush_rle(mask: BoolMap) -> list[int]:
    """Label Studio's brush: rle-pack over RGBA rows, 0 and 255 in all four channels; bytes as numbers.

    Header: 32 bit number of values, 5 bit word size - 1, four times 4 bit length size - 1. Then for each run one bit 1,
    two bits for the size of its length, length - 1, and the 8 bit value; zeros fill the last byte.
    https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
    """
    flat = mask.ravel()
    bits = [f"{4 * flat.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _SIZES_BITS)]
    for length, value in zip(*_runs(flat), strict=True):
        left = 4 * length  # four channels
        while left:
            step = min(left, _LONGEST)
            which = next(index for index, size in enumerate(_SIZES_BITS) if step <= 1 << size)
            bits.append(f"1{which:02b}{step - 1:0{_SIZES_BITS[which]}b}{255 if value else 0:08b}")
            left -= step
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _runs(flat: NDArray[np.bool_]) -> tuple[list[int], Sequence[bool]]:
    """Lengths and values of the runs of equal values."""
    if not flat.size:
        return [], []
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    return np.diff(np.append(starts, flat.size)).tolist(), flat[starts].tolist()
