"""Where a stored picture's pixels lay in the frame, written into the PNG itself as a text chunk.

The picture is the part as the engine saw it, located and resized; without this the size of a defect in frame pixels or
millimetres could not be measured from it again.
"""

from __future__ import annotations

import json
import zlib

from inspector.frame import Geometry

_KEY = b"inspector"
_HEAD_BYTES = 8 + 25
"""Signature and IHDR, which must come first (PNG 5.6)."""


def stamped(png: bytes, geometry: Geometry) -> bytes:
    """The same picture with its geometry as a tEXt chunk behind IHDR."""
    told = {"matrix": geometry.matrix, "scale": (geometry.scale_x, geometry.scale_y), "mm_per_px": geometry.mm_per_px}
    body = b"tEXt" + _KEY + b"\0" + json.dumps(told, separators=(",", ":")).encode()
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return png[:_HEAD_BYTES] + chunk + png[_HEAD_BYTES:]


def geometry_of(png: bytes) -> Geometry | None:
    """The geometry that ``stamped`` wrote; None where the picture has none, as a frame that was not located."""
    body = png[_HEAD_BYTES + 4 : _HEAD_BYTES + 4 + int.from_bytes(png[_HEAD_BYTES : _HEAD_BYTES + 4], "big") + 4]
    if not body.startswith(b"tEXt" + _KEY + b"\0"):
        return None
    told = json.loads(body[len(_KEY) + 5 :])
    a, b, c, d, e, f = (float(value) for value in told["matrix"])
    scale_x, scale_y = (float(value) for value in told["scale"])
    scale = told["mm_per_px"]
    return Geometry((a, b, c, d, e, f), scale_x, scale_y, None if scale is None else float(scale))
