"""What several tests of the training room share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from train.config import FitConfig, recipe


def draw_set(root: Path, count: int, size: int = 64) -> Path:
    """A plain set: grey noise, every second image with a dark square or bar and its mask."""
    rng = np.random.default_rng(7)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        image = rng.normal(140, 6, (size, size)).clip(0, 255).astype(np.uint8)
        mask = np.zeros((size, size), np.uint8)
        if number % 2:
            high, wide = (20, 20) if number % 4 == 1 else (8, 40)
            top, left = (int(rng.integers(0, size - side)) for side in (high, wide))
            mask[top : top + high, left : left + wide] = 255
            image[mask > 0] //= 3
        cv2.imwrite(str(root / "images" / f"{number:03d}.png"), image)
        cv2.imwrite(str(root / "masks" / f"{number:03d}.png"), mask)
    return root


def small(**changes: Any) -> FitConfig:
    """A recipe that trains in seconds: width 4, 64 x 64, float32."""
    config = replace(
        recipe("fast", "folder", 4), size=64, batch=4, epochs=4, warmup_steps=2, precision="f32", ema=0.9, threads=1
    )
    return replace(config, **changes)
