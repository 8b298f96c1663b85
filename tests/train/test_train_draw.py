"""Drawn defects: dark where the mask says so, untouched elsewhere, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from train_helpers import small

from train.config import DrawConfig, from_json, to_json
from train.draw import crack, draw, worn_patch

CONFIG = DrawConfig(weakest=0.4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([crack, worn_patch]))
@example(7821, crack)  # runs along the border, half outside the image
@example(140, crack)
def test_drawn_defect_is_dark_under_its_mask(seed: int, kind: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    """A little way off the mask nothing changes; under it the mean falls; what was marked before stays marked."""
    image, mask = np.full((128, 128), 160, np.uint8), np.zeros((128, 128), np.uint8)
    mask[:4, :4] = 1
    out, out_mask = kind(image, mask, CONFIG, np.random.default_rng(seed))
    assert (image == 160).all()
    assert mask.sum() == 16
    assert out_mask[:4, :4].all()
    assert set(np.unique(out_mask)) <= {0, 1}
    far = cv2.dilate(out_mask, np.ones((17, 17), np.uint8)) == 0
    assert (out[far] == 160).all()
    new = (out_mask > 0) & (mask == 0)
    if new.any():
        assert float(out[new].mean()) < 155


def test_cracks_are_long_and_thin_patches_are_broad() -> None:
    """Over many draws: a crack's box is many times as long as the crack is wide, a patch fills much of its box."""
    image, empty = np.full((256, 256), 160, np.uint8), np.zeros((256, 256), np.uint8)
    fill: dict[str, list[float]] = {"crack": [], "worn_patch": []}
    for seed in range(60):
        for kind in (crack, worn_patch):
            own = kind(image, empty, DrawConfig(shortest_px=100), np.random.default_rng(seed))[1]
            if own.sum() > 100:
                points = np.argwhere(own)[:, ::-1].astype(np.float32)
                (_, (a, b), _) = cv2.minAreaRect(points)
                fill[kind.__name__].append(float(own.sum()) / (max(a, b) + 1) ** 2)
    assert np.median(fill["crack"]) < 0.12
    assert np.median(fill["worn_patch"]) > 0.25


@pytest.mark.parametrize("patches", [0.0, 1.0])
def test_draw_repeats_itself(patches: float) -> None:
    """One seed, one defect; the share of patches chooses the kind."""
    image, mask = np.full((64, 64), 160, np.uint8), np.zeros((64, 64), np.uint8)
    config = DrawConfig(patches=patches)
    a, b, c = (draw(image, mask, config, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(a[0], b[0])
    assert np.array_equal(a[1], b[1])
    assert not np.array_equal(a[0], c[0])


def test_older_checkpoints_know_no_drawing() -> None:
    """A configuration written before drawn defects existed is read as one without them."""
    data = to_json(small())
    del data["draw"]
    assert from_json(data) == small()


def test_upright_cracks_run_down() -> None:
    """With ``upright`` 1 a crack is taller than wide; without, directions mix."""
    image, empty = np.full((256, 256), 160, np.uint8), np.zeros((256, 256), np.uint8)
    for share, least, most in ((1.0, 0.95, 1.0), (0.0, 0.2, 0.8)):
        taller = []
        for seed in range(60):
            own = crack(image, empty, DrawConfig(upright=share, shortest_px=60), np.random.default_rng(seed))[1]
            if own.sum() > 150:
                rows, columns = np.nonzero(own)
                taller.append(np.ptp(rows) > np.ptp(columns))
        assert least <= np.mean(taller) <= most
