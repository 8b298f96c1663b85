"""The ledger for other tools: CSV, Parquet, and images + masks in the plain layout that training reads."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from inspector.errors import ConfigError, LedgerError
from inspector.ledger.pictures import STORED, Stored, read_index
from inspector.ledger.query import Filter, Record, records
from inspector.ledger.rows import utc_time

Cell = int | float | str | bool | None

COLUMNS = (
    "epoch", "sequence", "part_id", "frame_id", "time", "verdict", "reason", "stored_verdict", "review", "score",
    "defects", "area_px_max", "length_px_max", "area_mm2_max", "length_mm_max", "shapes", "zones", "rules",
    "latency_ms", "margin_ms", "acknowledged_ms", "engine", "calibration", "settings", "stages_us", "truth", "detail",
)  # fmt: skip
"""One line a part. ``verdict`` is what was sent; maxima are over the
counting defects; ``margin_ms`` is due - settled; ``acknowledged_ms`` is receipt - settled."""

_PARQUET_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class ExportedImages:
    """What ``export_images`` wrote."""

    images: int
    defective: int
    """Those whose mask is not empty."""
    without_image: int
    """Answers that fit, but of which the store has no image."""


def export_csv(path: Path, out: Path, wanted: Filter | None = None) -> int:
    """One line a part with COLUMNS as its header, UTF-8; returns the number of parts. Raises LedgerError."""
    count = 0
    with _Draft(out) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for line in _lines(path, wanted):
            writer.writerow("" if cell is None else cell for cell in line)
            count += 1
    return count


def export_parquet(path: Path, out: Path, wanted: Filter | None = None) -> int:
    """The same table as Parquet; returns the number of parts. Raises ConfigError without pyarrow, LedgerError."""
    try:
        pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(
            "Parquet needs pyarrow, which is not installed", do="Run 'pip install pyarrow', or export CSV."
        ) from error
    kinds = {name: pa.string() for name in COLUMNS}
    kinds |= dict.fromkeys(("epoch", "sequence", "frame_id", "defects"), pa.int64())
    kinds |= dict.fromkeys(
        (name for name in COLUMNS if name.endswith(("_ms", "_max")) or name == "score"), pa.float64()
    )
    kinds |= dict.fromkeys(("review", "truth"), pa.bool_())
    schema = pa.schema(list(kinds.items()))
    count = 0
    with _Draft(out) as draft, parquet.ParquetWriter(str(draft), schema) as writer:
        batch: list[tuple[Cell, ...]] = []
        for line in _lines(path, wanted):
            batch.append(line)
            if len(batch) == _PARQUET_ROWS:
                count += _write_parquet(pa, writer, schema, batch)
        count += _write_parquet(pa, writer, schema, batch)
    return count


def export_images(
    path: Path,
    store: Path,
    out: Path,
    wanted: Filter | None = None,
    *,
    masks: Literal["auto", "found", "empty"] = "auto",
) -> ExportedImages:
    """``out/images/E-S.png`` + ``out/masks/E-S.png`` + ``out/parts.csv``: the plain layout that training reads.

    ``masks``: ``found`` = the mask as the network found it, for a person to correct; ``empty`` = sound parts, which
    turns false calls into training data; ``auto`` = empty where the part is known to be good, else found. A part
    without a stored mask is left out unless its mask is to be empty. Raises LedgerError.
    """
    index = {(each.epoch, each.sequence): each for each in read_index(store) if each.state == STORED}
    written = defective = without = 0
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    with (out / "parts.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", *COLUMNS))
        for record in records(path, wanted):
            answer = record.settled.answer
            stored = index.get((answer.epoch, answer.sequence))
            is_good = masks == "empty" or (masks == "auto" and record.settled.truth is False)
            if stored is None or not (is_good or stored.mask_bytes):
                without += 1
                continue
            name = f"{answer.epoch:06d}-{answer.sequence:09d}.png"
            defective += _copy(store, stored, out, name, is_good)
            written += 1
            writer.writerow((name, *("" if cell is None else cell for cell in _line(record))))
    return ExportedImages(written, defective, without)


def _copy(store: Path, stored: Stored, out: Path, name: str, is_good: bool) -> bool:
    """Copy one part; True when its mask has a pixel."""
    source = store / "images" / stored.name
    try:
        shutil.copyfile(source, out / "images" / name)
        if is_good:
            image = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
            if image is None:
                raise LedgerError(f"{source} is no readable image", do="Run ledger verify --deep.")
            mask = np.zeros(image.shape[:2], np.uint8)
            (out / "masks" / name).write_bytes(cv2.imencode(".png", mask)[1].tobytes())
            return False
        shutil.copyfile(store / "masks" / stored.name, out / "masks" / name)
    except OSError as error:
        found = error.strerror or str(error)
        raise LedgerError(f"cannot export the image {stored.name}", found=found, do="Run ledger verify.") from error
    found_mask = cv2.imread(str(out / "masks" / name), cv2.IMREAD_UNCHANGED)
    return found_mask is not None and bool(np.any(found_mask))


def _lines(path: Path, wanted: Filter | None) -> Iterator[tuple[Cell, ...]]:
    for record in records(path, wanted):
        yield _line(record)


def _line(record: Record) -> tuple[Cell, ...]:
    """One part in the order of COLUMNS."""
    stored, sent = record.settled.answer, record.sent
    counting = [defect for defect in stored.defects if defect.counts]
    is_restarted = sent.reason is not None and sent.reason.value == "RESTARTED"
    received = None if record.received_ns is None else (record.received_ns - sent.settled_ns) / 1e6
    return (
        sent.epoch,
        sent.sequence,
        sent.part_id,
        sent.frame_id,
        utc_time(sent.wall_ns),
        sent.verdict.value,
        None if sent.reason is None else sent.reason.value,
        stored.verdict.value,
        sent.review,
        stored.score,
        len(counting),
        max((defect.area_px for defect in counting), default=None),
        max((defect.length_px for defect in counting), default=None),
        max((defect.area_mm2 for defect in counting if defect.area_mm2 is not None), default=None),
        max((defect.length_mm for defect in counting if defect.length_mm is not None), default=None),
        " ".join(sorted({defect.shape.value for defect in counting})),
        " ".join(sorted({defect.zone for defect in counting if defect.zone})),
        "; ".join(stored.rules),
        None if is_restarted else (sent.settled_ns - sent.taken_ns) / 1e6,
        None if is_restarted else (sent.due_ns - sent.settled_ns) / 1e6,
        received,
        sent.hashes.engine,
        sent.hashes.calibration,
        sent.hashes.settings,
        json.dumps(dict(stored.stages_us)),
        record.settled.truth,
        sent.detail,
    )


def _write_parquet(pa: object, writer: object, schema: object, batch: list[tuple[Cell, ...]]) -> int:
    columns = {name: [line[number] for line in batch] for number, name in enumerate(COLUMNS)}
    table = pa.table(columns, schema=schema)  # type: ignore[attr-defined]
    writer.write_table(table)  # type: ignore[attr-defined]
    count = len(batch)
    batch.clear()
    return count


class _Draft:
    """``with _Draft(out) as path``: write to ``path``; it becomes ``out`` only when all went well."""

    def __init__(self, out: Path) -> None:
        self._out = Path(out)
        self._path = self._out.with_name(f".{self._out.name}.part")

    def __enter__(self) -> Path:
        try:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
        except OSError as error:
            raise LedgerError(f"cannot write {self._out}", found=error.strerror or str(error)) from error
        return self._path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._path.rename(self._out)
            return
        self._path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise LedgerError(f"cannot write {self._out}", found=error.strerror or str(error)) from error
