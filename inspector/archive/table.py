"""A part as a row of a shard: the Arrow schema, and the way from the ledger's record to it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from inspector.archive.place import library
from inspector.frame import Defect, Shape
from inspector.ledger.query import Record

Cells = dict[str, Any]

_NUMBERS = ("area_px", "length_px", "width_px", "x_px", "y_px", "score_mean", "score_max")
_MILLIMETRES = ("area_mm2", "length_mm", "width_mm")


def defect_fields() -> Any:
    """The struct of one defect, as in ``inspector.frame.Defect``."""
    pa = library("pyarrow")
    return pa.struct(
        [(name, pa.float64()) for name in (*_NUMBERS, *_MILLIMETRES)]
        + [("box", pa.list_(pa.int32())), ("shape", pa.string()), ("zone", pa.string()), ("counts", pa.bool_())]
    )


def part_schema() -> Any:
    """The columns of a shard. ``verdict`` is what was sent, ``stored_verdict`` what was decided; times in ns or us."""
    pa = library("pyarrow")
    text, whole, real, yes = pa.string(), pa.int64(), pa.float64(), pa.bool_()
    stage = pa.struct([("name", text), ("us", whole)])
    return pa.schema(
        [
            ("station", text), ("epoch", whole), ("sequence", whole), ("part_id", text), ("frame_id", whole),
            ("time", pa.timestamp("us", "UTC")), ("wall_ns", whole),
            ("verdict", text), ("reason", text), ("stored_verdict", text), ("stored_reason", text),
            ("review", yes), ("score", real), ("rules", pa.list_(text)), ("defects", pa.list_(defect_fields())),
            ("detail", text), ("latency_ms", real), ("margin_ms", real), ("acknowledged_ms", real),
            ("taken_ns", whole), ("due_ns", whole), ("settled_ns", whole), ("stages", pa.list_(stage)),
            ("engine", text), ("calibration", text), ("settings", text), ("truth", yes),
            ("image_sha256", text), ("mask_sha256", text),
        ]
    )  # fmt: skip


def late_schema() -> Any:
    """INVALID that was sent instead of an answer which a shard already holds."""
    pa = library("pyarrow")
    whole, text = pa.int64(), pa.string()
    return pa.schema([("station", text), ("epoch", whole), ("sequence", whole), ("reason", text), ("sent_ns", whole)])


def part_row(station: str, record: Record, image_sha256: str | None, mask_sha256: str | None) -> Cells:
    """One row of ``part_schema``."""
    stored, sent = record.settled.answer, record.sent
    received = None if record.received_ns is None else (record.received_ns - sent.settled_ns) / 1e6
    is_restarted = sent.reason is not None and sent.reason.value == "RESTARTED"
    return {
        "station": station,
        "epoch": stored.epoch,
        "sequence": stored.sequence,
        "part_id": stored.part_id,
        "frame_id": stored.frame_id,
        "time": stored.wall_ns // 1000,
        "wall_ns": stored.wall_ns,
        "verdict": sent.verdict.value,
        "reason": sent.reason.value if sent.reason is not None else None,
        "stored_verdict": stored.verdict.value,
        "stored_reason": stored.reason.value if stored.reason is not None else None,
        "review": stored.review,
        "score": None if math.isnan(stored.score) else stored.score,
        "rules": list(stored.rules),
        "defects": [defect_cells(defect) for defect in stored.defects],
        "detail": sent.detail,
        "latency_ms": None if is_restarted else (sent.settled_ns - sent.taken_ns) / 1e6,
        "margin_ms": None if is_restarted else (sent.due_ns - sent.settled_ns) / 1e6,
        "acknowledged_ms": received,
        "taken_ns": stored.taken_ns,
        "due_ns": stored.due_ns,
        "settled_ns": stored.settled_ns,
        "stages": [{"name": name, "us": us} for name, us in stored.stages_us],
        "engine": stored.hashes.engine,
        "calibration": stored.hashes.calibration,
        "settings": stored.hashes.settings,
        "truth": record.settled.truth,
        "image_sha256": image_sha256,
        "mask_sha256": mask_sha256,
    }


def defect_cells(defect: Defect) -> Cells:
    """A defect as Arrow takes it."""
    cells = {name: getattr(defect, name) for name in (*_NUMBERS, *_MILLIMETRES, "zone", "counts")}
    return cells | {"shape": defect.shape.value, "box": list(defect.box)}


def defect_of(cells: Cells) -> Defect:
    """The defect that ``defect_cells`` gave."""
    x, y, w, h = cells["box"]
    return Defect(**(cells | {"shape": Shape(cells["shape"]), "box": (x, y, w, h)}))


def parquet_bytes(rows: Sequence[Cells], schema: Any) -> bytes:
    """A whole Parquet file; the same rows give the same bytes with the same pyarrow."""
    pa, parquet = library("pyarrow"), library("pyarrow.parquet")
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), out, compression="zstd")
    return out.getvalue()


def parquet_rows(data: bytes, columns: Sequence[str] | None = None) -> list[Cells]:
    """The rows of a Parquet file."""
    file = library("pyarrow.parquet").ParquetFile(io.BytesIO(data))
    rows: list[Cells] = file.read(columns=None if columns is None else list(columns), use_threads=False).to_pylist()
    return rows
