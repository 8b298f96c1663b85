"""What the archive's tests share: bundles of small networks, and a station that wrote a ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networks
import numpy as np

from inspector.archive.catalogue import Manifest, read_manifest
from inspector.archive.export import Source, export_archive
from inspector.archive.place import Place
from inspector.archive.table import parquet_rows
from inspector.cli import run
from inspector.clock import SystemClock
from inspector.engine.bundle import write_bundle
from inspector.requalify.run import Wanted, requalify
from tests import station_kit

SIZE, PARTS, SHARD_PARTS = 64, 120, 32
STATION = "line-7"


@dataclass(frozen=True)
class Written:
    """A station's state directory and its archive."""

    state: Path
    archive: Path

    @property
    def source(self) -> Source:
        return Source(STATION, self.state)

    def manifest(self) -> Manifest:
        return read_manifest(Place(self.archive), STATION)


def bundle_of(folder: Path, onnx_bytes: bytes) -> Path:
    """A bundle whose operating point makes about half of the parts fail."""
    write_bundle(
        folder,
        name=folder.name,
        onnx_bytes=onnx_bytes,
        mean=0.5,
        std=0.25,
        classes=["defect"],
        threshold=0.72,
        min_area_px=4,
        training={"data": "random weights"},
        parity={"torch": None},
        cite=["chosen by hand for tests"],
        golden_images=networks.images(3, (SIZE, SIZE), seed=7),
        created_wall_ns=1_700_000_000_000_000_000,
    )
    return folder


def write_station(folder: Path, bundle: Path, parts: int = PARTS) -> Written:
    """The real line over the synthetic camera, located by the calibration in the checkout; then the export."""
    calibration = station_kit.ROOT / "calibration" / "synthetic.toml"
    wanted = station_kit.settings(
        folder,
        station={"name": STATION, "state_dir": folder / "state"},
        camera={"rate_hz": 50.0, "distinct": 40},
        part={"calibration": calibration},
        engine={"bundle": bundle},
        store={"save": ["PASS", "FAIL", "INVALID"], "every_pass": 1},
        timing={"gate_ms": 10_000.0, "queue": 128},
    )
    station_kit.finish(wanted, parts)
    written = Written(folder / "state", folder / "archive")
    export(written, written.archive)
    return written


def export(written: Written, target: Path | str, **options: Any) -> Any:
    """One call of the export, by its function."""
    options.setdefault("shard_rows", SHARD_PARTS)
    return export_archive(written.source, Place(target), clock=SystemClock(), **options)


def judged(archive: Path | str, engine: Path, out: Path | str, **options: Any) -> dict[str, Any]:
    """One call of requalify, by its function."""
    return requalify(Wanted(str(archive), engine, str(out), **options))


def told(capsys: Any, *arguments: str) -> tuple[int, dict[str, Any]]:
    """One command: its exit code and the object on its last line."""
    code = run(list(arguments))
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def result_rows(out: Path) -> list[dict[str, Any]]:
    return parquet_rows((out / "results.parquet").read_bytes())


def result_files(out: Path) -> dict[str, bytes]:
    """What must be the same in two runs."""
    return {path.name: path.read_bytes() for path in [out / "results.parquet", *sorted(out.glob("shards/*.parquet"))]}


def parts_of(written: Written) -> list[dict[str, Any]]:
    """All rows of the archive."""
    manifest = written.manifest()
    folder = written.archive / "stations" / STATION
    return [row for shard in manifest.shards for row in parquet_rows((folder / shard.name).read_bytes())]


def png_of(written: Written, digest: str) -> np.ndarray:
    import cv2

    path = written.archive / "pictures" / digest[:2] / f"{digest}.png"
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
