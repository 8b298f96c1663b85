"""A bundle: the directory that carries a trained network from training to the line.

``manifest.json`` says what it is, ``model.onnx`` is the network, ``golden.npz`` holds reference images with their
FP32 maps, ``split.json`` says which images it was trained on, ``plans/`` is what was compiled from it. The manifest
carries the SHA-256 of every other file, is written last, and anything that does not match it is refused.
"""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inspector.clock import SystemClock
from inspector.engine.files import inside, read_hashed, sha256, utc, write_atomically
from inspector.engine.split import Split, read_split
from inspector.errors import EngineError, quoted, shortened
from inspector.frame import FloatMap, Grey

if TYPE_CHECKING:
    from inspector.engine.manifest import Manifest, Passport

MANIFEST = "manifest.json"
MODEL = "model.onnx"
GOLDEN = "golden.npz"
SPLIT = "split.json"
NORMALISATION = "(pixel / 255 - mean) / std"
RESTORE = "Restore the bundle or export it again."
_MANIFEST_BYTES_MAX = 8 << 20


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose manifest and ONNX file were read and agree."""

    path: Path
    name: str
    onnx_path: Path
    onnx_sha256: str
    mean: float
    std: float
    """Fixed normalisation: (pixel / 255 - mean) / std, float32, whatever the image shows."""
    height: int
    width: int
    input_name: str
    output_name: str
    classes: tuple[str, ...]
    threshold: float
    """A map pixel is defective where its probability is at least this."""
    min_area_px: int
    """Map pixels of the smallest defect that counts, as chosen with the threshold."""
    manifest: dict[str, Any]
    """manifest.json as it was read."""
    plans: tuple[Passport, ...]

    def file(self, name: str) -> Path:
        """A file that the manifest names, proven to lie inside the bundle. Raises EngineError where it does not."""
        return inside(self.path, name)

    def normalise(self, images: Grey) -> FloatMap:
        """n x H x W uint8 -> n x 1 x H x W float32, C-contiguous."""
        return normalise(images, self.mean, self.std)

    def read(self, name: str, expected: str, do: str = RESTORE) -> bytes:
        """A file's bytes, proven against the hash that the manifest holds for it. Raises EngineError with ``do``."""
        return read_hashed(self.path, self.name, name, expected, do)

    def golden(self) -> tuple[Grey, FloatMap]:
        """The reference images, n x H x W uint8, and their FP32 maps, n x H x W float32. Raises EngineError."""
        entry = self.manifest["references"]
        raw = self.read(entry["file"], entry["sha256"])
        try:
            with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
                images, maps = stored["images"], stored["maps"].astype(np.float32)
        except (KeyError, ValueError, OSError) as error:
            raise EngineError(
                f"bundle {self.name}: {entry['file']} cannot be read", found=str(error), do="Export it again."
            ) from error
        expected = (int(entry["images"]), self.height, self.width)
        if images.dtype != np.uint8 or images.shape != expected or maps.shape != expected:
            raise EngineError(
                f"bundle {self.name}: reference images do not fit the network",
                expected=f"{expected} uint8",
                found=f"{images.shape} {images.dtype}, maps {maps.shape}",
                do="Export the bundle again.",
            )
        return images, maps

    def split(self) -> Split | None:
        """The training's split; None where the bundle carries none. Raises EngineError where it is damaged."""
        entry = self.manifest.get("split")
        if entry is None:
            return None
        return read_split(self.read(entry["file"], entry["sha256"]), self.split_sha256, f"{self.name}/{SPLIT}")

    @property
    def split_sha256(self) -> str:
        """Of the split that the training names; empty where it names none."""
        return str(self.manifest["training"].get("split_sha256", ""))


def normalise(images: Grey, mean: float, std: float) -> FloatMap:
    """n x H x W uint8 -> n x 1 x H x W float32 by (pixel / 255 - mean) / std."""
    table = ((np.arange(256, dtype=np.float64) / 255.0 - mean) / std).astype(np.float32)
    return table[images][:, np.newaxis]


def load_bundle(path: Path | str) -> Bundle:
    """Read and prove a bundle: schema, ONNX hash, file names. Raises EngineError (exit 3) with what to do."""
    root = Path(path)
    manifest_path = root / MANIFEST
    try:
        if manifest_path.stat().st_size > _MANIFEST_BYTES_MAX:
            raise EngineError(
                f"{manifest_path} is too large", expected="under 8 MiB", do="Restore the bundle or export it again."
            )
        raw = json.loads(manifest_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineError(
            f"no engine bundle at {root}",
            expected=f"a directory with {MANIFEST}",
            found=error.strerror or str(error),
            do="Name a bundle directory such as engines/commutator, or make one with `python -m train export`.",
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or an integer with thousands of digits
        raise EngineError(
            f"{manifest_path} is damaged",
            expected="JSON in UTF-8",
            found=str(error)[:200],
            do="Restore the bundle or export it again.",
        ) from error
    manifest = _validated(manifest_path, raw)
    read_hashed(root, manifest.name, manifest.onnx.file, manifest.onnx.sha256, RESTORE)
    if manifest.output.shape != manifest.input.shape:
        raise EngineError(
            f"bundle {manifest.name}: the map has another size than the image",
            expected=str(list(manifest.input.shape)),
            found=str(list(manifest.output.shape)),
            do="Export a network whose output has the size of its input.",
        )
    return _bundle(root, manifest, raw)


def write_bundle(
    path: Path | str,
    *,
    name: str,
    onnx_bytes: bytes,
    mean: float,
    std: float,
    classes: list[str],
    threshold: float,
    min_area_px: int,
    training: dict[str, Any],
    parity: dict[str, Any],
    cite: list[str],
    golden_images: Grey,
    split: bytes | None = None,
    created_wall_ns: int | None = None,
) -> Bundle:
    """Make or replace a bundle and read it back.

    ``golden_images``: n x H x W uint8, a few that show the good part and every class of defect; their FP32 maps are
    computed here by onnxruntime. ``cite``: the evidence for threshold and area, one sentence each. ``training`` and
    ``parity`` are kept as they are (JSON). ``split``: the training's split.json, which ``training`` names by its hash.
    Plans of an earlier content are removed: they belong to another network.
    Raises EngineError for a network that is not 1 x 1 x H x W float32 -> the same size with values 0..1.
    """
    from inspector.engine.reference import describe, reference_maps

    root = Path(path)
    facts = describe(onnx_bytes)
    images = np.ascontiguousarray(golden_images)
    if images.dtype != np.uint8 or images.ndim != 3 or not len(images) or images.shape[1:] != facts.size:
        raise EngineError(
            f"bundle {name}: reference images do not fit the network",
            expected=f"n x {facts.size[0]} x {facts.size[1]} uint8, n >= 1",
            found=f"{images.shape} {images.dtype}",
        )
    maps = reference_maps(onnx_bytes, normalise(images, mean, std))[:, 0]
    stored = maps.astype(np.float16)
    golden = io.BytesIO()
    np.savez_compressed(golden, images=images, maps=stored)
    size = [1, 1, *facts.size]
    raw: dict[str, Any] = {
        "schema_version": 1,
        "name": name,
        "created": utc(SystemClock().wall_ns() if created_wall_ns is None else created_wall_ns),
        "onnx": {"file": MODEL, "sha256": sha256(onnx_bytes), "opset": facts.opset},
        "input": {"name": facts.input_name, "shape": size, "dtype": "float32", "normalisation": NORMALISATION}
        | {"mean": float(mean), "std": float(std)},
        "output": {"name": facts.output_name, "shape": size},
        "classes": list(classes),
        "operating_point": {"threshold": float(threshold), "min_area_px": int(min_area_px), "evidence": list(cite)},
        "training": training,
        "parity": parity,
        "references": {"file": GOLDEN, "sha256": sha256(golden.getvalue()), "images": len(images)}
        | {"computed_by": facts.runtime, "storage_error": float(np.abs(stored.astype(np.float32) - maps).max())},
        "plans": [],
    }
    if split is not None:
        raw["split"] = {"file": SPLIT, "sha256": sha256(split)}
    _validated(root / MANIFEST, raw)
    root.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / "plans", ignore_errors=True)
    write_atomically(root / MODEL, onnx_bytes)
    write_atomically(root / GOLDEN, golden.getvalue())
    if split is not None:
        write_atomically(root / SPLIT, split)
    write_manifest(root, raw)
    return load_bundle(root)


def write_manifest(root: Path, raw: dict[str, Any]) -> None:
    """Replace manifest.json in one step, so that a reader or a power cut meets the old or the new one, whole."""
    _validated(root / MANIFEST, raw)
    text = json.dumps(raw, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(root / MANIFEST, text.encode())


def _bundle(root: Path, manifest: Manifest, raw: dict[str, Any]) -> Bundle:
    return Bundle(
        path=root,
        name=manifest.name,
        onnx_path=root / manifest.onnx.file,
        onnx_sha256=manifest.onnx.sha256,
        mean=manifest.input.mean,
        std=manifest.input.std,
        height=manifest.input.shape[2],
        width=manifest.input.shape[3],
        input_name=manifest.input.name,
        output_name=manifest.output.name,
        classes=tuple(manifest.classes),
        threshold=manifest.operating_point.threshold,
        min_area_px=manifest.operating_point.min_area_px,
        manifest=raw,
        plans=tuple(manifest.plans),
    )


def _validated(path: Path, raw: object) -> Manifest:
    from pydantic import ValidationError

    from inspector.engine.manifest import SCHEMA, Manifest

    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != SCHEMA:
        raise EngineError(
            f"{path} has another schema",
            expected=f"schema_version {SCHEMA}",
            found=quoted(found),
            do="Export the bundle with this release.",
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        faults = [
            f"{shortened('.'.join(map(str, e['loc'])))}: {shortened(e['msg'])}" for e in error.errors(include_url=False)
        ]
        raise EngineError(
            f"{path} is not a valid manifest",
            found="; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else ""),
            do="Restore the bundle or export it again.",
        ) from error
