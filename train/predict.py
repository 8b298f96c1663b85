"""Probability maps of items, from a checkpoint (torch) or from a bundle (onnxruntime), FP32 on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inspector.frame import FloatMap
from inspector.preprocess import normalise
from train.data import Item


@dataclass(frozen=True)
class Predictor:
    """A trained network, wherever it came from."""

    name: str
    size: int
    mean: float
    std: float
    threshold: float
    min_area_px: int
    facts: dict[str, Any]
    """For reports: recipe, hashes, training."""
    split: Path | None
    """The split it was trained on, where it is known."""
    _run: Any

    def maps(self, items: Sequence[Item]) -> FloatMap:
        """n x H x W float32 in 0..1."""
        return np.concatenate([self._run(normalise(item.image, self.mean, self.std))[:, 0] for item in items])


def open_predictor(path: Path) -> Predictor:
    """``path``: a bundle directory, or a checkpoint file."""
    return _from_bundle(path) if path.is_dir() else _from_checkpoint(path)


def _from_checkpoint(path: Path) -> Predictor:
    from train.checkpoint import load_network

    network, config, data = load_network(path)

    @torch.no_grad()
    def run(tensor: FloatMap) -> FloatMap:
        return np.asarray(torch.sigmoid(network(torch.from_numpy(tensor)).logits).numpy())

    split = path.parent / "split.json"
    facts = {"checkpoint": path.name, "config": data["config"], "epoch": data["progress"]["epoch"]}
    return Predictor(
        path.parent.name, config.size, config.mean, config.std, 0.5, 1, facts, split if split.is_file() else None, run
    )


def _from_bundle(path: Path) -> Predictor:
    import onnxruntime

    from inspector.engine.bundle import load_bundle

    bundle = load_bundle(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(bundle.onnx_path), options, providers=["CPUExecutionProvider"])

    def run(tensor: FloatMap) -> FloatMap:
        return np.asarray(session.run([bundle.output_name], {bundle.input_name: tensor})[0], np.float32)

    facts = {"bundle": bundle.name, "onnx_sha256": bundle.onnx_sha256}
    return Predictor(
        bundle.name, bundle.height, bundle.mean, bundle.std, bundle.threshold, bundle.min_area_px, facts, None, run
    )
