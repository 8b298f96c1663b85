"""Small networks as bundles on disk, for tests that want engines and not their verdicts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from inspector.engine.bundle import Bundle, write_bundle
from inspector.shadow.keeper import Shadow
from tests.station_kit import ROOT

sys.path.insert(0, str(ROOT / "tests" / "engine"))
import networks

SIZE = (64, 48)


def bundle(folder: Path, name: str, shift: float = 0.0) -> Bundle:
    """A small network; ``shift`` changes one weight of it, the bias of the last layer."""
    model = networks.onnx.load_from_string(networks.tiny(seed=3, size=SIZE))
    for weight in model.graph.initializer:
        if weight.name == "last.bias":
            values = networks.numpy_helper.to_array(weight) + np.float32(shift - 1.5)
            weight.CopyFrom(networks.numpy_helper.from_array(values, weight.name))
    return write_bundle(
        folder / name,
        name=name,
        onnx_bytes=model.SerializeToString(),
        mean=0.5,
        std=0.25,
        classes=["defect"],
        threshold=0.5,
        min_area_px=60,
        training={"data": "random weights"},
        parity={"torch": None},
        cite=["chosen by hand for tests"],
        golden_images=images(3, seed=7),
        created_wall_ns=1_700_000_000_000_000_000,
    )


def images(count: int, seed: int = 0) -> np.ndarray:
    """n x H x W uint8 of the networks' size: noise with blobs and lines."""
    found: np.ndarray = networks.images(count, SIZE, seed=seed)
    return found


@contextmanager
def eager_shadow() -> Iterator[None]:
    """Shadows run at ordinary priority: on a loaded machine an idle process may not get on for minutes."""
    start = Shadow.start

    def eager(self: Shadow) -> None:
        self.at_idle_priority = False
        start(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shadow, "start", eager)
        yield
