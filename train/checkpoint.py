"""Checkpoints: weights, averaged weights, optimiser, place in the schedule and the whole configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.config import FitConfig, from_json, to_json
from train.model import LSANet

FORMAT = 1


@dataclass(slots=True)
class Progress:
    """How far a training is; what a resumed run must know besides weights."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    best_iou: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    """One row an epoch: loss parts, lr, IoU, images/s."""


def save(
    path: Path,
    config: FitConfig,
    model: dict[str, Tensor],
    progress: Progress,
    split_sha256: str,
    optimiser: dict[str, Any] | None = None,
    average: dict[str, Tensor] | None = None,
) -> None:
    """Write whole or not at all: a kill in between leaves the earlier file."""
    data = {
        "format": FORMAT,
        "config": to_json(config),
        "model": model,
        "average": average,
        "optimiser": optimiser,
        "progress": {name: getattr(progress, name) for name in Progress.__slots__},
        "split_sha256": split_sha256,
        "torch": str(torch.__version__),
    }
    part = path.with_name(path.name + ".part")
    torch.save(data, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def load(path: Path) -> dict[str, Any]:
    """The raw checkpoint; only tensors and plain data are unpacked. Raises ValueError for another format."""
    torch.serialization.add_safe_globals([torch.torch_version.TorchVersion])  # a version string, in older files
    data: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if data.get("format") != FORMAT:
        raise ValueError(f"{path}: checkpoint format {data.get('format')}, expected {FORMAT}")
    return data


def load_network(path: Path) -> tuple[LSANet, FitConfig, dict[str, Any]]:
    """The network to use (averaged weights where they were kept), in eval mode, with configuration and raw data."""
    data = load(path)
    config = from_json(data["config"])
    model = LSANet(config.model)
    model.load_state_dict(data["average"] or data["model"])
    return model.eval(), config, data
