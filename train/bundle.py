"""Checkpoint -> bundle: ONNX, operating point with its evidence, training facts, reference images, citations."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inspector.engine.bundle import Bundle, write_bundle
from inspector.preprocess import normalise
from train.checkpoint import load, load_network
from train.config import FitConfig
from train.data import Item
from train.evaluate import evaluate, select_items
from train.export import export_checked, to_onnx
from train.operating import choose
from train.predict import open_predictor

LSA_NET = (
    "Network: W. Li, B. Li, S. Niu, Z. Wang, M. Wang, T. Niu, LSA-Net: Location and shape attention network for "
    "automatic surface defect segmentation, Journal of Manufacturing Processes."
)
DATA = {
    "magnetic-tile": "Data: Y. Huang, C. Qiu, K. Yuan, Surface defect saliency of magnetic tile, The Visual Computer, "
    "2020 (github.com/abin24/Magnetic-tile-defect-datasets).",
    "neu-seg": "Data: G. Song, K. Song, Y. Yan, Saliency detection for strip steel surface defects using multiple "
    "constraints and improved texture features, Optics and Lasers in Engineering, 2020; research use only.",
    "synthetic": "Data: inspector/camera/render.py, procedural; no photographs.",
}
AFTERWARDS = (
    "All figures and the operating point are those of the network before its last {epochs} epochs. Those epochs took "
    "in the validation side too, so nothing here measures the shipped weights on unseen parts."
)
NOT_TO_BE_SHIPPED = {"kolektor-sdd": "KolektorSDD is CC BY-NC-SA 4.0: its weights must not be committed or sold."}
GOLDEN_PER_CLASS = 2


@dataclass(frozen=True, slots=True)
class Exported:
    """What ``make_bundle`` wrote and what it found on the validation side."""

    bundle: Bundle
    evaluation: dict[str, Any]


def reference_images(items: Sequence[Item], per_class: int = GOLDEN_PER_CLASS) -> list[Item]:
    """A few sound images and a few of each class, evenly spread over the list."""
    chosen: list[Item] = []
    for name in sorted({item.cls for item in items}):
        of_class = [item for item in items if item.cls == name]
        step = max(len(of_class) // per_class, 1)
        chosen += of_class[::step][:per_class]
    return chosen


def make_bundle(
    checkpoint: Path,
    out: Path,
    data: Path,
    name: str | None = None,
    notes: Path | None = None,
    judged: Path | None = None,
) -> Exported:
    """Write a bundle to ``out``. The operating point is chosen on the validation side of the training's own split.

    ``notes``: a TOML file whose keys go into the manifest's training facts (further evidence, by hand).
    ``judged``: the checkpoint that ``checkpoint`` went on from, where the last training took in the validation side
    too (``validation_share`` 0). Split, operating point and figures are then those of ``judged``, and the manifest
    says so. Raises RuntimeError where ONNX and torch differ by more than the limit, ValueError where ``checkpoint``
    did not begin with the weights of ``judged``.
    """
    network, config, raw = load_network(checkpoint)
    if judged is not None and config.started_from != hashlib.sha256(judged.read_bytes()).hexdigest():
        raise ValueError(f"{checkpoint} did not begin with the weights of {judged}: its figures do not speak for it")
    predictor = open_predictor(judged or checkpoint)
    items, source = select_items(predictor, data, config.layout, None, "validation")
    maps = predictor.maps(items)
    point = choose(maps, [item.defective for item in items])
    result = evaluate(predictor, items, maps, source, point)
    golden = reference_images(items)
    tensors = [normalise(item.image, config.mean, config.std) for item in golden]
    onnx_bytes, parity = export_checked(network, tensors, point.threshold)
    evidence = point.evidence(source)
    if judged is not None:
        evidence.append(AFTERWARDS.format(epochs=raw["progress"]["epoch"]))
        raw = {**raw, "split_sha256": load(judged)["split_sha256"]}
    evidence += [cite for cite in (LSA_NET, DATA.get(config.layout), NOT_TO_BE_SHIPPED.get(config.layout)) if cite]
    bundle = write_bundle(
        out,
        name=name or out.name,
        onnx_bytes=onnx_bytes,
        mean=config.mean,
        std=config.std,
        classes=["defect"],
        threshold=point.threshold,
        min_area_px=point.min_area_px,
        training=_training_facts(config, raw, source, result.to_json(), notes),
        parity=parity,
        cite=evidence,
        golden_images=np.stack([item.image for item in golden]),
        split=predictor.split.read_bytes() if predictor.split is not None else None,
    )
    return Exported(bundle, result.to_json())


def _training_facts(
    config: FitConfig, raw: dict[str, Any], source: str, validation: dict[str, Any], notes: Path | None
) -> dict[str, Any]:
    progress = raw["progress"]
    slim = {key: value for key, value in validation.items() if key not in ("facts", "engine")}
    return {
        "framework": f"torch {torch.__version__}",
        "config": raw["config"],
        "epochs_done": progress["epoch"],
        "steps": progress["step"],
        "minutes": round(progress["seconds"] / 60, 1),
        "split_sha256": raw["split_sha256"],
        "validation_source": source,
        "validation": slim,
        "synthetic": config.layout == "synthetic",
        **(tomllib.loads(notes.read_text(encoding="utf-8")) if notes else {}),
    }


def write_dynamic(checkpoint: Path, out: Path) -> None:
    """``model_dynamic.onnx`` with a free batch size, for throughput measurements; not part of the bundle."""
    network, config, _ = load_network(checkpoint)
    out.write_bytes(to_onnx(network, config.size, config.size, dynamic_batch=True))
