"""The JSON detail of an answer: canonical bytes out, strict reading in. Pure functions, no sockets."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from inspector.errors import LinkError
from inspector.frame import Answer, Defect, Shape

MAX_DETAIL_BYTES = 60_000
"""Longest detail frame that is sent. Answers above it list fewer defects and carry the flag CUT."""
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_SHAPES = {shape.value: shape for shape in Shape}
_INT_LIMIT = 1 << 63


@dataclass(frozen=True, slots=True)
class Detail:
    """What an answer's detail says; the rest of the answer stands in the header."""

    part_id: str
    due_ns: int
    wall_ns: int
    score: float
    rules: tuple[str, ...]
    defects: tuple[Defect, ...]
    stages_us: tuple[tuple[str, int], ...]
    detail: str


def canonical(value: dict[str, Any]) -> bytes:
    """``value`` as JSON with sorted keys, no spaces, ASCII only: the same value gives the same bytes.

    Raises LinkError for NaN and infinity, which JSON has no words for."""
    try:
        return _ENCODER.encode(value).encode("ascii")
    except (ValueError, TypeError) as error:
        raise LinkError(
            "detail cannot be written", expected="finite numbers and text", found=str(error)[:80]
        ) from error


def encode(answer: Answer) -> tuple[bytes, bool]:
    """The detail bytes, and whether something had to be left out to stay within MAX_DETAIL_BYTES.

    What is left out, in this order: defects from the end of the list (halved until it fits), then rules beyond
    20, then text beyond 200 characters. The ledger keeps all of it; verdict and reason never depend on it."""
    value = _value(answer)
    encoded = canonical(value)
    if len(encoded) <= MAX_DETAIL_BYTES:
        return encoded, False
    while value["defects"] and len(encoded) > MAX_DETAIL_BYTES:
        value["defects"] = value["defects"][: len(value["defects"]) // 2]
        encoded = canonical(value)
    if len(encoded) > MAX_DETAIL_BYTES:
        value["rules"] = [rule[:200] for rule in value["rules"][:20]]
        value["stages_us"] = [[name[:40], spent] for name, spent in value["stages_us"][:40]]
        value["detail"], value["part_id"] = value["detail"][:200], value["part_id"][:200]
        encoded = canonical(value)
    return encoded, True


def decode(encoded: bytes) -> Detail:
    """Read what ``encode`` wrote. Unknown keys are ignored (see the versioning rule). Raises LinkError."""
    value = parse(encoded)
    return Detail(
        part_id=text(value, "part_id"),
        due_ns=whole(value, "due_ns"),
        wall_ns=whole(value, "wall_ns"),
        score=_number(value, "score"),
        rules=tuple(_texts(items(value, "rules"), "rules")),
        defects=tuple(_defect(item) for item in items(value, "defects")),
        stages_us=tuple(_stage(item) for item in items(value, "stages_us")),
        detail=text(value, "detail"),
    )


def parse(encoded: bytes) -> dict[str, Any]:
    """A JSON object of strict JSON in UTF-8. Raises LinkError."""
    try:
        value = json.loads(encoded.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        # RecursionError: a few kilobytes of "[[[[" are enough for it
        raise LinkError("detail cannot be read", expected="one JSON object in UTF-8", found=str(error)[:80]) from error
    if not isinstance(value, dict):
        raise LinkError("detail cannot be read", expected="one JSON object", found=type(value).__name__)
    return value


def text(value: dict[str, Any], key: str) -> str:
    """The string at ``key``. Raises LinkError."""
    found = value.get(key)
    if not isinstance(found, str):
        raise _wrong(key, "text", found)
    return found


def whole(value: dict[str, Any], key: str) -> int:
    """The integer at ``key``, within 64 bits. Raises LinkError."""
    return _whole(value.get(key), key)


def items(value: dict[str, Any], key: str) -> list[Any]:
    """The list at ``key``. Raises LinkError."""
    found = value.get(key)
    if not isinstance(found, list):
        raise _wrong(key, "a list", found)
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _wrong(key: str, expected: str, found: object) -> LinkError:
    return LinkError(f"detail field '{key}' is wrong", expected=expected, found=repr(found)[:80])


def _whole(found: object, key: str) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not -_INT_LIMIT <= found < _INT_LIMIT:
        raise _wrong(key, "a whole number of 64 bits", found)
    return found


def _finite(found: object, key: str) -> float:
    if not isinstance(found, (int, float)) or isinstance(found, bool):
        raise _wrong(key, "a number", found)
    try:
        number = float(found)
    except OverflowError as error:
        raise _wrong(key, "a number that a double can hold", "a larger one") from error
    if not math.isfinite(number):
        raise _wrong(key, "a finite number", found)
    return number


def _number(value: dict[str, Any], key: str) -> float:
    return _finite(value.get(key), key)


def _length(value: dict[str, Any], key: str) -> float | None:
    return None if value.get(key) is None else _number(value, key)


def _texts(found: list[Any], key: str) -> list[str]:
    for item in found:
        if not isinstance(item, str):
            raise _wrong(key, "text", item)
    return found


def _stage(item: object) -> tuple[str, int]:
    if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str):
        raise _wrong("stages_us", "[name, microseconds]", item)
    return item[0], _whole(item[1], "stages_us")


def _defect(item: object) -> Defect:
    if not isinstance(item, dict):
        raise _wrong("defects", "objects", item)
    box = [_whole(side, "box") for side in items(item, "box")]
    shape = _SHAPES.get(text(item, "shape"))
    if len(box) != 4 or shape is None or not isinstance(item.get("counts"), bool):
        raise _wrong("defects", "box of four, a known shape, counts true or false", item)
    return Defect(
        area_px=_number(item, "area_px"),
        length_px=_number(item, "length_px"),
        width_px=_number(item, "width_px"),
        x_px=_number(item, "x_px"),
        y_px=_number(item, "y_px"),
        box=(box[0], box[1], box[2], box[3]),
        score_mean=_number(item, "score_mean"),
        score_max=_number(item, "score_max"),
        shape=shape,
        zone=text(item, "zone"),
        area_mm2=_length(item, "area_mm2"),
        length_mm=_length(item, "length_mm"),
        width_mm=_length(item, "width_mm"),
        counts=item["counts"],
    )


def _value(answer: Answer) -> dict[str, Any]:
    return {
        "part_id": answer.part_id,
        "due_ns": int(answer.due_ns),
        "wall_ns": int(answer.wall_ns),
        "score": float(answer.score),
        "rules": list(answer.rules),
        "defects": [_defect_value(defect) for defect in answer.defects],
        "stages_us": [[name, int(spent)] for name, spent in answer.stages_us],
        "detail": answer.detail,
    }


def _defect_value(defect: Defect) -> dict[str, Any]:
    # float() and int(): numpy scalars would not be JSON, and 5 and 5.0 must give the same bytes
    return {
        "area_px": float(defect.area_px),
        "length_px": float(defect.length_px),
        "width_px": float(defect.width_px),
        "x_px": float(defect.x_px),
        "y_px": float(defect.y_px),
        "box": [int(side) for side in defect.box],
        "score_mean": float(defect.score_mean),
        "score_max": float(defect.score_max),
        "shape": defect.shape.value,
        "zone": defect.zone,
        "area_mm2": None if defect.area_mm2 is None else float(defect.area_mm2),
        "length_mm": None if defect.length_mm is None else float(defect.length_mm),
        "width_mm": None if defect.width_mm is None else float(defect.width_mm),
        "counts": bool(defect.counts),
    }
