"""The result of one task as Parquet: what an engine says of each part. No timings in it: two runs, the same bytes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from inspector.archive.place import library, sha256
from inspector.archive.table import Cells, defect_cells, defect_fields, defect_of
from inspector.frame import BoolMap, Decision, Evidence, Reason, Verdict


def result_schema() -> Any:
    """``mask_*_sha256`` are over the pixels, as replay's; ``error`` is set exactly where there is no verdict."""
    pa = library("pyarrow")
    whole, text = pa.int64(), pa.string()
    return pa.schema(
        [
            ("station", text), ("epoch", whole), ("sequence", whole), ("verdict", text), ("reason", text),
            ("review", pa.bool_()), ("score", pa.float64()), ("rules", pa.list_(text)),
            ("defects", pa.list_(defect_fields())), ("detail", text), ("mask_sha256", text), ("mask_png", pa.binary()),
            ("archived_mask_sha256", text), ("error", text), ("device_class", text),
        ]
    )  # fmt: skip


def result_row(part: Cells, decision: Decision, evidence: Evidence, archived_mask: str | None, device: str) -> Cells:
    """One row: the decision, and the mask where it has a pixel."""
    mask = evidence.mask
    return _identity(part) | {
        "verdict": decision.verdict.value,
        "reason": decision.reason.value if decision.reason is not None else None,
        "review": decision.review,
        "score": decision.score,
        "rules": list(decision.rules),
        "defects": [defect_cells(defect) for defect in decision.defects],
        "detail": decision.detail,
        "mask_sha256": None if mask is None else mask_sha256(mask),
        "mask_png": None if mask is None or not mask.any() else mask_png(mask),
        "archived_mask_sha256": archived_mask,
        "device_class": device,
    }


def error_row(part: Cells, error: str, device: str) -> Cells:
    """A part that could not be judged, and why."""
    return _identity(part) | {"error": error, "device_class": device}


def decision_of(row: Cells, prefix: str = "") -> Decision:
    """The decision in a row of a result, or with ``stored_`` in a row of a shard."""
    reason = row[f"{prefix}reason"]
    return Decision(
        verdict=Verdict(row[f"{prefix}verdict"]),
        reason=None if reason is None else Reason(reason),
        rules=tuple(row["rules"] or ()),
        defects=tuple(defect_of(cells) for cells in row["defects"] or ()),
        score=row["score"] or 0.0,
        review=bool(row["review"]),
        detail=row["detail"] or "",
    )


def mask_sha256(mask: BoolMap) -> str:
    """Over the pixels, one byte each."""
    return sha256(mask.tobytes())


def mask_png(mask: BoolMap) -> bytes:
    """One bit a pixel."""
    pixels = mask.astype(np.uint8) * np.uint8(255)
    _, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 1])
    return bytes(data.tobytes())


def mask_of(png: bytes | None) -> BoolMap | None:
    """The mask in a PNG, whatever its depth; None for none or one that cannot be read."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE) if png else None
    return None if pixels is None else np.asarray(pixels > 127)


def _identity(part: Cells) -> Cells:
    return {name: part[name] for name in ("station", "epoch", "sequence")}
