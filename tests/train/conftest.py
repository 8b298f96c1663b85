"""Small networks and small sets: the tests share two cores with everything else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra")


@pytest.fixture(autouse=True)
def two_threads() -> None:
    """Every test computes on two threads, so that sums run in the same order."""
    torch.set_num_threads(2)


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


@pytest.fixture(scope="session")
def plain_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of 64 x 64, half of them defective."""
    return draw_set(tmp_path_factory.mktemp("plain") / "set", 24)
