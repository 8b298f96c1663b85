"""Windows and copied defects: what they hold, where they may lie, and that a resumed run repeats them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_helpers import small

from train.checkpoint import load
from train.config import AugmentConfig, CropConfig, DrawConfig, PasteConfig, from_json, recipe, to_json
from train.crop import MARGIN_PX, paste, patches_of, window
from train.data import load_items, train_batches
from train.fit import fit

STILL = AugmentConfig(vertical_flip=0, value=0, brightness_contrast=0)


def marked(size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A ramp whose every pixel is told apart by its neighbours, with a defect of 5 x 9 px at row 20, column 60."""
    rows, columns = np.indices((size, size))
    image = ((3 * rows + columns) % 200 + 40).astype(np.uint8)
    mask = np.zeros((size, size), np.uint8)
    mask[20:25, 60:69] = 1
    return image, mask


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([32, 48, 96]), st.floats(1.0, 3.0))
def test_focused_window_holds_the_defect(seed: int, side: int, zoom: float) -> None:
    """With focus 1 every window of a defective image holds some of its defect; the size is always the asked one."""
    image, mask = marked()
    part, part_mask = window(image, mask, CropConfig(side, 1.0, zoom), np.random.default_rng(seed))
    assert part.shape == part_mask.shape == (side, side)
    assert set(np.unique(part_mask)) <= {0, 1}
    if zoom == 1.0:
        assert part_mask.any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_window_keeps_the_scale(seed: int, focus: float) -> None:
    """Without zoom a window is a piece of the image and of its mask, pixel for pixel, from one and the same place."""
    image, mask = marked()
    image = np.random.default_rng(0).integers(0, 256, image.shape).astype(np.uint8)
    part, part_mask = window(image, mask, CropConfig(32, focus), np.random.default_rng(seed))
    views = np.lib.stride_tricks.sliding_window_view(image, (32, 32))
    (at,) = np.argwhere((views == part).all((2, 3)))
    assert np.array_equal(part_mask, mask[at[0] : at[0] + 32, at[1] : at[1] + 32])


def test_zoomed_window_shows_more() -> None:
    """A window of twice the side, scaled down: an area keeps its share, a large defect is seen with its edge."""
    image, mask = marked()
    mask[:, 48:] = 1
    shares = [
        window(image, mask, CropConfig(48, 0.0, 2.0), np.random.default_rng(seed))[1].mean() for seed in range(200)
    ]
    assert sum(0.05 < share < 0.95 for share in shares) > 150


def test_patch_is_one_defect_with_its_surroundings() -> None:
    """Each component becomes a patch with a margin; crumbs and large defects are left."""
    image, mask = marked()
    mask[50, 50] = 1
    mask[60:96, 0:50] = 1
    (patch,) = patches_of([(image, mask)], PasteConfig(largest_share=0.1))
    assert patch.mask.sum() == 45
    assert patch.mask.shape == (5 + 2 * MARGIN_PX, 9 + 2 * MARGIN_PX)
    assert (patch.top, patch.left) == (20 - MARGIN_PX, 60 - MARGIN_PX)
    assert np.array_equal(patch.image, image[14:31, 54:75])
    assert abs(patch.ground - np.median(image[14:31, 54:75])) < 10


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_copy_changes_image_and_mask_together(seed: int) -> None:
    """A dark defect on a light ground, copied onto a sound darker one: dark where the mask says so, else untouched."""
    image, mask = np.full((64, 64), 200, np.uint8), np.zeros((64, 64), np.uint8)
    mask[30:38, 30:38], image[30:38, 30:38] = 1, 100
    patches = patches_of([(image, mask)], PasteConfig())
    sound = np.full((64, 64), 120, np.uint8)
    config = PasteConfig(most=1, weakest=1.0, strongest=1.0)
    out, out_mask = paste(sound, np.zeros_like(mask), patches, config, np.random.default_rng(seed))
    assert (sound == 120).all()
    assert 20 < out_mask.sum() < 200
    near = np.argwhere(out_mask)
    far = np.ones_like(out_mask, np.bool_)
    far[tuple(slice(max(near[:, a].min() - 12, 0), near[:, a].max() + 13) for a in (0, 1))] = False
    assert (out[far] == 120).all()
    assert abs(float(np.median(out[out_mask > 0])) - 60) < 12  # half as bright as its surroundings, as it was
    assert float(out[out_mask == 0].mean()) > 117


def test_batches_carry_copies_and_windows(plain_set: Path) -> None:
    """In an epoch of sound images with chance 1 every image gets a defect; windows have the asked size; it repeats."""
    items = load_items(plain_set, "folder", 64)
    config = replace(recipe("fast", "folder", 8), batch=4, size=64, augment=STILL)
    config = replace(config, crop=CropConfig(48), paste=PasteConfig(1.0, largest_share=0.2, scale=1.0, turn_deg=0.0))
    batches = [list(train_batches(items, config, 5)) for _ in range(2)]
    assert batches[0][0].image.shape == (4, 1, 48, 48)
    assert all(torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask) for a, b in zip(*batches, strict=True))
    whole = replace(config, crop=CropConfig())
    masks = torch.cat([b.mask for b in train_batches(items, whole, 5)])
    assert bool(masks.flatten(1).any(1).all())
    none = torch.cat([b.mask for b in train_batches(items, replace(whole, paste=PasteConfig()), 5)])
    assert not bool(none.flatten(1).any(1).all())


def test_resume_with_copies_and_windows_is_bit_exact(plain_set: Path, tmp_path: Path) -> None:
    """A run cut in the middle ends with the very weights of one that was not, with windows and copies too."""
    config = small(epochs=2, crop=CropConfig(48, zoom=2.0), paste=PasteConfig(chance=0.5, largest_share=0.2))
    config = replace(config, draw=DrawConfig(chance=0.5))
    fit(config, plain_set, tmp_path / "whole")
    fit(config, plain_set, tmp_path / "cut", stop_after=1)
    fit(config, plain_set, tmp_path / "cut", resume=True)
    whole, cut = (load(tmp_path / name / "last.pt")["model"] for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_older_checkpoints_know_neither() -> None:
    """A configuration written before windows and copies existed is read as one without them."""
    config = recipe("fast", "magnetic-tile", 8)
    data = to_json(config)
    for name in ("crop", "paste"):
        del data[name]
    assert from_json(data) == config


def test_window_must_fit_the_network(plain_set: Path, tmp_path: Path) -> None:
    """A window the network cannot take is refused before anything is trained."""
    for side in (32, 56, 128):
        with pytest.raises(ValueError, match="multiple of 16"):
            fit(small(crop=CropConfig(side)), plain_set, tmp_path)
