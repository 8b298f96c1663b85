"""Masks that people brush: checked before they are kept, and brought to one form."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from inspector.errors import ConfigError
from inspector.frame import BoolMap

MASK_BYTES_MAX = 2 << 20
"""Of a PNG that is handed in. A mask of 4096 x 4096 px with ragged edges takes a tenth of this."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGBA = 0, 6


def read_size(png: bytes) -> tuple[int, int]:
    """(width, height) in px from a PNG's header alone. Raises ConfigError for what is no PNG."""
    width, height, _, _ = _header(png, len(png))
    return width, height


def checked(png: bytes, size: tuple[int, int]) -> bytes:
    """A reviewer's mask as it is kept: 8-bit grey PNG, 0 or 255. ``size``: (width, height) of the picture.

    Raises ConfigError: no PNG, too many bytes, not grey of 1 or 8 bit, another size than the picture, damaged.
    """
    return encode(read(png, size))


def read(png: bytes, size: tuple[int, int]) -> BoolMap:
    """H x W bool, True = defect. Raises ConfigError as ``checked`` does."""
    width, height, depth, colour = _header(png)
    if colour != _GREY or depth not in {1, 8}:
        raise _refuse("grey of 1 or 8 bit", f"{depth} bit, PNG colour type {colour}")
    _check_size((width, height), size)
    return _decode(png, cv2.IMREAD_GRAYSCALE) > 127


def from_canvas(png: bytes, size: tuple[int, int]) -> bytes:
    """A browser's canvas (8-bit RGBA PNG, painted where alpha is above half) as a mask. Raises ConfigError."""
    width, height, depth, colour = _header(png)
    if colour != _RGBA or depth != 8:
        raise _refuse("a canvas: 8-bit RGBA", f"{depth} bit, PNG colour type {colour}")
    _check_size((width, height), size)
    return encode(_decode(png, cv2.IMREAD_UNCHANGED)[..., 3] > 127)


def encode(mask: BoolMap) -> bytes:
    """H x W bool -> 8-bit grey PNG, 0 and 255."""
    _, data = cv2.imencode(".png", mask.astype(np.uint8) * np.uint8(255))
    return data.tobytes()


def _header(png: bytes, bytes_max: int = MASK_BYTES_MAX) -> tuple[int, int, int, int]:
    """Width, height, bit depth, colour type; nothing is unpacked before these are known to be sane."""
    if len(png) > bytes_max:
        raise _refuse(f"at most {bytes_max} bytes", f"{len(png)} bytes")
    if len(png) < 33 or not png.startswith(_SIGNATURE) or png[12:16] != b"IHDR":
        raise _refuse("a PNG file", f"{len(png)} bytes that are none")
    width, height, depth, colour = struct.unpack_from(">IIBB", png, 16)
    return width, height, depth, colour


def _check_size(found: tuple[int, int], wanted: tuple[int, int]) -> None:
    if found != wanted:
        raise _refuse(f"{wanted[0]} x {wanted[1]} px as the picture", f"{found[0]} x {found[1]} px")


def _decode(png: bytes, mode: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(png, np.uint8), mode)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise _refuse("a PNG file", "a damaged one")
    return np.asarray(pixels)


def _refuse(expected: str, found: str) -> ConfigError:
    return ConfigError("the mask cannot be used", expected=expected, found=found)
