"""Pixels on their way to the engine: the same as in training, flat, and in tiles that lose nothing."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.calibrate.roi import calibrate_synthetic
from inspector.camera.render import render_part
from inspector.clock import PushedClock
from inspector.frame import Reason
from inspector.preprocess import (
    CalibrationFile,
    Preprocess,
    TiledCrop,
    apply_flat_field,
    cut_tiles,
    load_calibration,
    normalise,
    resize_to_input,
    stitch,
    tile_grid,
)
from inspector.preprocess.calibration import (
    Roi,
    TileRule,
    update_calibration,
    write_beside,
    write_calibration,
)
from tests.preprocess_kit import DATE, crop_of, frame, plain, reason_of, texture

# -- shared with training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (200, 131), (20, 31), (300, 40), (64, 90)])
def test_resize_gives_the_size_asked_for_and_keeps_the_mean(shape: tuple[int, int]) -> None:
    """Resizing to the input neither brightens nor darkens, whichever axis shrinks or grows."""
    image = texture(*shape)
    out = resize_to_input(image, 64, 64)
    assert out.shape == (64, 64) and out.dtype == np.uint8 and out.flags.c_contiguous
    assert abs(float(out.mean()) - float(image.mean())) < 2.0


def test_resize_keeps_a_single_pixel_when_shrinking() -> None:
    """A defect of one pixel leaves its share of grey wherever it lies, since area is averaged and not sampled."""
    for x in range(100, 108):
        image = np.full((512, 512), 100, np.uint8)
        image[200, x] = 255
        assert int(resize_to_input(image, 128, 128).max()) > 105


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [(25, 16), (3, 2), (31, 16), (9, 5), (8, 5), (4, 3), (5, 1), (6, 5), (40, 33), (35, 32), (39, 38), (1, 1)]
    ),
    st.sampled_from([(25, 16), (7, 5), (29, 28), (16, 11), (2, 1), (6, 5), (1, 1)]),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_shrinking_is_the_rounded_mean_over_area(
    down: tuple[int, int], across: tuple[int, int], times: int, seed: int
) -> None:
    """In whole numbers: shares of pixels covered, summed, divided once. cv2's own INTER_AREA gives the same."""
    image = np.random.default_rng(seed).integers(0, 256, (down[0] * times, across[0] * times), dtype=np.uint8)
    height, width = down[1] * times, across[1] * times
    exact = _shares(down, times) @ image.astype(np.int64) @ _shares(across, times).T
    twice, whole = 2 * exact, 2 * down[0] * across[0]
    out = resize_to_input(image, height, width).astype(np.int64)
    assert (np.abs(out * whole - twice) <= down[0] * across[0]).all()  # half a level at most, ties either way
    by_cv2 = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    tie = (twice - down[0] * across[0]) % whole == 0
    assert np.array_equal(out[~tie], by_cv2[~tie])


def _shares(ratio: tuple[int, int], times: int) -> np.ndarray:
    """By loops: how much of each pixel lies in each of the larger ones, in parts of 1 / ratio[1] of a pixel."""
    step, count = ratio
    shares = np.zeros((count * times, step * times), np.int64)
    for unit in range(step * count * times):
        shares[unit // step, unit // count] += 1
    return shares


def test_resize_of_the_same_size_is_an_independent_copy() -> None:
    """The engine's image never aliases the camera's buffer."""
    image = texture(64, 64)
    out = resize_to_input(image, 64, 64)
    assert np.array_equal(out, image) and not np.shares_memory(out, image)


def test_normalise_is_the_formula_and_looks_at_no_other_pixel() -> None:
    """Each value is (x / 255 - mean) / std rounded once to float32, whatever the rest of the image holds."""
    image = np.arange(256, dtype=np.uint8).reshape(8, 32)
    out = normalise(image, 0.4714, 0.1931)
    expected = ((image.astype(np.float64) / 255 - 0.4714) / 0.1931).astype(np.float32)
    assert out.shape == (1, 1, 8, 32) and out.dtype == np.float32 and out.flags.c_contiguous
    assert np.array_equal(out[0, 0], expected)
    assert normalise(np.full((4, 4), 7, np.uint8), 0.4714, 0.1931)[0, 0, 0, 0] == expected[0, 7]


def test_normalise_and_resize_refuse_what_is_not_grey() -> None:
    """Colour, 16-bit and empty images and a standard deviation of 0 are programmer's errors and raise."""
    for image in (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError):
            resize_to_input(image, 8, 8)
        with pytest.raises(ValueError):
            normalise(image, 0.5, 0.25)
    with pytest.raises(ValueError):
        normalise(texture(4, 4), 0.5, 0.0)


# -- flat field --------------------------------------------------------------------------------------------------------


def test_flat_field_multiplies_rounds_and_saturates() -> None:
    """The gain is applied per pixel, rounded to the nearest grey level and held at 255."""
    image = np.array([[10, 100, 200, 255]], np.uint8)
    gain = np.array([[1.26, 0.5, 1.5, 1.0]], np.float32)
    assert apply_flat_field(image, gain).tolist() == [[13, 50, 255, 255]]


def test_flat_field_corrects_the_right_place(tmp_path: Path) -> None:
    """The full-frame gain meets the pixel it was measured for, also when only the window is delivered."""
    height, width = 200, 220
    gain = np.linspace(0.6, 1.9, width, dtype=np.float32)[None, :] * np.ones((height, 1), np.float32)
    gain = gain.astype(np.float16)
    np.savez(tmp_path / "gain.npz", gain=gain)
    sha256 = write_beside(tmp_path, "gain.npz", (tmp_path / "gain.npz").read_bytes())
    roi = Roi(x=70, y=40, w=64, h=64)
    dates = {"created": DATE, "expires": DATE + timedelta(days=1)}
    raw = {
        "name": "flat",
        "created": DATE,
        "roi": roi,
        "margin_px": 9,
        "frame": {"width_px": width, "height_px": height},
    }
    raw |= {"flat_field": {"file": "gain.npz", "sha256": sha256} | dates}
    write_calibration(tmp_path / "flat.toml", CalibrationFile.model_validate(raw))
    stage = Preprocess(load_calibration(tmp_path / "flat.toml"), height=64, width=64, mean=0.5, std=0.25)
    image = texture(height, width) // 2
    expected = apply_flat_field(image, gain.astype(np.float32))[40:104, 70:134]
    assert np.array_equal(crop_of(stage.prepare(frame(image))).image, expected)
    assert stage.window == (61, 31, 82, 82)
    window = np.ascontiguousarray(image[31:113, 61:143])
    assert np.array_equal(crop_of(stage.prepare(frame(window, (61, 31)))).image, expected)


# -- tiles -------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(data=st.data(), height=st.integers(1, 400), width=st.integers(1, 400))
def test_tiles_cover_everything_and_stitch_back(data: st.DataObject, height: int, width: int) -> None:
    """Tiles cover every pixel, neighbours share at least the overlap, and what is cut stitches back to itself."""
    tile_h, tile_w = data.draw(st.integers(4, 128)), data.draw(st.integers(4, 128))
    overlap = data.draw(st.integers(0, min(tile_h, tile_w) - 1))
    if (height // (tile_h - overlap) + 1) * (width // (tile_w - overlap) + 1) > 400:
        overlap = 0
    tiles = tile_grid(height, width, tile_h, tile_w, overlap)
    for starts, length, tile in (
        (sorted({t.x for t in tiles}), width, tile_w),
        (sorted({t.y for t in tiles}), height, tile_h),
    ):
        assert starts[0] == 0 and (starts[-1] + tile == length or length <= tile)
        assert all(left + tile - right >= overlap for left, right in pairwise(starts))
    image = np.random.default_rng(height).integers(0, 256, (height, width), dtype=np.uint8)
    parts = cut_tiles(image, tiles, tile_h, tile_w)
    assert all(part.shape == (tile_h, tile_w) for part in parts)
    maps = [part.astype(np.float32) for part in parts]
    assert np.array_equal(stitch(maps, tiles, height, width), image)
    assert np.allclose(stitch(maps, tiles, height, width, "weighted"), image, atol=1e-3)


def test_stitching_keeps_the_highest_score_and_every_nan() -> None:
    """Where tiles overlap the higher score stays, and a NaN of any tile is never hidden by its neighbour."""
    tiles = tile_grid(8, 12, 8, 8, 4)
    left, right = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32)
    left[3, 6], right[5, 1], left[1, 7] = 0.9, 0.7, np.nan
    whole = stitch([left, right], tiles, 8, 12)
    assert whole[3, 6] == np.float32(0.9) and whole[5, 5] == np.float32(0.7) and np.isnan(whole[1, 7])
    assert np.isnan(stitch([left, right], tiles, 8, 12, "weighted")[1, 7])
    with pytest.raises(ValueError):
        stitch([left], tiles, 8, 12)


@pytest.mark.parametrize("height", [40, 64, 333, 1700])
def test_line_scan_frames_of_any_height(height: int) -> None:
    """A calibration without a ROI tiles frames of any height at the frame's own scale, and each tile's geometry leads
    to its own pixels."""
    stage = plain(None, None, tiles=TileRule(enabled=True, overlap_px=16))
    image = texture(height, 150)
    result = stage.prepare_tiles(frame(image))
    assert isinstance(result, TiledCrop) and np.array_equal(result.image, image)
    for tile, crop in zip(result.tiles, result.crops, strict=True):
        assert crop.image.shape == (64, 64) and crop.geometry.scale_x == 1.0
        a, b, c, d, e, f = crop.geometry.matrix
        assert (a * 3 + b * 5 + c, d * 3 + e * 5 + f) == (tile.x + 3, tile.y + 5)
        assert crop.image[5, 3] == image[tile.y + 5, tile.x + 3]
    maps = [crop.image.astype(np.float32)[None, None] for crop in result.crops]
    assert np.array_equal(result.stitch(maps), image)


def test_a_calibration_with_tiles_is_never_shrunk() -> None:
    """Where the calibration asks for tiles, preparing without them is INVALID, since small defects would vanish."""
    stage = plain(None, None, tiles=TileRule(enabled=True))
    assert stage.tiled
    assert reason_of(stage.prepare(frame(texture(300, 300)))) is Reason.BAD_IMAGE


def test_tiles_of_a_located_part(tmp_path: Path) -> None:
    """Tiles of a shifted part are cut from the part, and the stitched map's corners are the part's corners."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    update_calibration(path, tiles=TileRule(enabled=True, overlap_px=24))
    stage = Preprocess(load_calibration(path), height=128, width=128, mean=0.5, std=0.25)
    part = render_part(8, 3)
    result = stage.prepare_tiles(frame(part.image))
    assert isinstance(result, TiledCrop) and len(result.tiles) == 9 and result.image.shape == (280, 280)
    corners = np.array([[-0.5, -0.5, 1], [279.5, -0.5, 1], [279.5, 279.5, 1], [-0.5, 279.5, 1]])
    matrix = np.array(result.geometry.matrix).reshape(2, 3)
    assert np.abs(corners @ matrix.T - np.array(part.roi_corners)).max() < 0.5
    last = np.array(result.crops[-1].geometry.matrix).reshape(2, 3) @ [127.5, 127.5, 1]
    assert np.allclose(last, corners[2] @ matrix.T)
