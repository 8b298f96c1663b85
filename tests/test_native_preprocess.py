"""Frame -> tensor by the C functions: to the last bit what the Python code gives."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector import native
from inspector.camera.render import render_part
from inspector.frame import Crop, Decision, Grey
from inspector.preprocess import Preprocess, TiledCrop, load_calibration
from inspector.preprocess.calibration import FrameSize, Roi
from inspector.preprocess.pixels import normalise, resize_to_input, surely_fine, to_input
from tests.native_kit import needs_native
from tests.preprocess_kit import crop_of, frame, plain, texture

pytestmark = needs_native
ROOT = Path(__file__).resolve().parent.parent
SEEDS = st.integers(0, 2**32 - 1)
STEPS = (1, 35, 39, 25, 3, 31, 31, 32, 32, 9, 4, 16, 5, 8, 7)
RATIOS = list(zip(STEPS, (1, 32, 38, 16, 2, 16, 1, 1, 31, 5, 1, 1, 1, 5, 6), strict=True))


def pattern(seed: int, height: int, width: int) -> Grey:
    """Noise, black and white, or one level and its neighbour: means near and on a half."""
    rng = np.random.default_rng(seed)
    low, high = [(0, 256), (0, 2), (254, 256), (127, 129)][int(rng.integers(0, 4))]
    image = rng.integers(low, high, (height, width), dtype=np.uint8)
    return image * np.uint8(255) if (low, high) == (0, 2) and rng.random() < 0.5 else image


@given(SEEDS, st.sampled_from(RATIOS), st.sampled_from(RATIOS), st.integers(1, 5), st.integers(0, 9))
@settings(deadline=None, max_examples=400)
def test_the_tensor_is_the_references(
    seed: int, down: tuple[int, int], across: tuple[int, int], times: int, margin: int
) -> None:
    """Grey and tensor of every ratio, of windows of larger frames too, bit for bit."""
    rows, columns = down[0] * times, across[0] * times
    height, width = down[1] * times, across[1] * times
    whole = pattern(seed, rows + margin, columns + margin)
    image = whole[margin:, margin:]
    mean, std = float(np.float32(0.47)), float(np.float32(0.19))
    grey, tensor = to_input(image, height, width, mean, std)
    with native.without():
        wanted = to_input(image, height, width, mean, std)
    assert grey.dtype == np.uint8 and tensor.dtype == np.float32 and tensor.flags.c_contiguous
    assert np.array_equal(grey, wanted[0]) and tensor.tobytes() == wanted[1].tobytes()
    assert np.array_equal(grey, resize_to_input(np.ascontiguousarray(image), height, width))
    assert tensor.tobytes() == normalise(grey, mean, std).tobytes()


@given(SEEDS, st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
@settings(deadline=None, max_examples=200)
def test_sizes_of_all_kinds(seed: int, rows: int, columns: int, height: int, width: int) -> None:
    """Axes that grow, stay, shrink by whole or odd ratios: the same picture and tensor, whoever makes them."""
    image = pattern(seed, rows, columns)
    ours = to_input(image, height, width, 0.4, 0.2)
    with native.without():
        wanted = to_input(image, height, width, 0.4, 0.2)
    assert np.array_equal(ours[0], wanted[0]) and ours[1].tobytes() == wanted[1].tobytes()


@given(SEEDS, st.integers(1, 150), st.integers(1, 150), st.floats(0, 60), st.floats(0.01, 1.0), st.floats(0, 40))
@settings(deadline=None, max_examples=300)
def test_only_what_the_checks_pass_is_surely_fine(
    seed: int, height: int, width: int, contrast: float, saturated: float, spread: float
) -> None:
    """Where the one call says fine, the checks themselves find nothing; blank, dark and glaring frames included."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.normal(128, spread, (3, 3)), (width, height))
    image = np.clip(ground + rng.normal(0, 3, (height, width)), 0, 255).astype(np.uint8)
    image[rng.random((height, width)) < rng.choice([0.0, saturated, 1.2 * saturated])] = 255
    stage = plain(None, None, checks={"min_contrast": contrast, "max_saturated": saturated})
    fine = surely_fine(image, contrast, saturated)
    with native.without():
        poor = stage._too_poor(image)
    assert not (fine and poor)
    assert stage._too_poor(image) == poor


def test_a_frame_of_a_part_is_surely_fine() -> None:
    """The one call suffices for ordinary frames; without it nothing is sure."""
    image = render_part(3, 0).image
    assert surely_fine(image, 1.0, 0.2)
    assert not surely_fine(np.full_like(image, 255), 1.0, 0.2) and not surely_fine(np.zeros_like(image), 1.0, 0.2)
    with native.without():
        assert not surely_fine(image, 1.0, 0.2)


def test_frames_give_the_same_crops() -> None:
    """Rendered parts, whole, by a ROI and located, prepared by both: tensor, picture and geometry are the same."""
    located = Preprocess(
        load_calibration(ROOT / "calibration" / "synthetic.toml"), height=256, width=256, mean=0.5, std=0.25
    )
    stages = [plain(None, None), plain(Roi(x=50, y=60, w=100, h=96), FrameSize(width_px=400, height_px=400)), located]
    for index in range(12):
        image = render_part(index, 5).image
        for stage in stages:
            ours = stage.prepare(frame(image))
            with native.without():
                wanted = stage.prepare(frame(image))
            same_crop(ours, wanted)


def same_crop(ours: Crop | Decision | TiledCrop, wanted: Crop | Decision | TiledCrop) -> None:
    if isinstance(wanted, Decision):
        assert ours == wanted
        return
    assert isinstance(ours, Crop) and isinstance(wanted, Crop)
    assert np.array_equal(ours.image, wanted.image) and ours.tensor.tobytes() == wanted.tensor.tobytes()
    assert repr(ours.geometry) == repr(wanted.geometry)


def test_a_turned_view_is_prepared_too() -> None:
    """Pixels that do not lie side by side are left to the reference."""
    image = texture(100, 100)
    stage = plain(None, None)
    assert np.array_equal(
        crop_of(stage.prepare(frame(image[:, ::-1]))).image,
        crop_of(stage.prepare(frame(np.ascontiguousarray(image[:, ::-1])))).image,
    )


@pytest.mark.parametrize("shape", [(25, 40), (50, 16), (64, 64)])
def test_no_call_writes_beyond_its_arrays(shape: tuple[int, int]) -> None:
    """Wrong sizes, types and read-only arrays are refused before anything is written."""
    assert native.found is not None
    image = texture(100, 100)
    grey, tensor = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    table = np.zeros((1, 256), np.float32)
    shrink = native.found.shrink
    frozen = np.zeros(shape, np.uint8)
    frozen.setflags(write=False)
    wrong = [
        (image, grey, tensor[1:], table),
        (image, grey[:, 1:], tensor[:, 1:], table),
        (image, grey.astype(np.int8), tensor, table),
        (image, grey, tensor.astype(np.float64), table),
        (image, grey, tensor, table[:, :255]),
        (image, frozen, tensor, table),
        (image[:9], grey, tensor, table),
        (image.astype(np.uint16), grey, tensor, table),
        (image[None], grey, tensor, table),
        (image[:0], grey, tensor, table),
        (np.zeros((97, 97), np.uint8), grey, tensor, table),
        (image, grey, tensor),
    ]
    for arguments in wrong:
        with pytest.raises((TypeError, ValueError, BufferError)):
            shrink(*arguments)  # type: ignore[arg-type,call-arg]
    assert not grey.any() and not tensor.any()
