"""From frame to crop: the same bytes everywhere, the right place, and INVALID for what cannot be judged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.calibrate.roi import calibrate_roi, calibrate_synthetic
from inspector.camera.render import Style, nominal_roi, render_part
from inspector.clock import PushedClock
from inspector.errors import ConfigError
from inspector.frame import Crop, Decision, Frame, Grey, Reason, Verdict
from inspector.preprocess import (
    Calibration,
    CalibrationFile,
    Pose,
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
    Checks,
    FrameSize,
    Roi,
    Scale,
    TileRule,
    update_calibration,
    write_beside,
    write_calibration,
)

DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic station's calibration."""
    return calibrate_synthetic(out_dir=tmp_path_factory.mktemp("calibration"), clock=PushedClock())


@pytest.fixture(scope="module")
def located(station: Path) -> Preprocess:
    return Preprocess(load_calibration(station), height=256, width=256, mean=0.5, std=0.25)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


def frame(pixels: Grey, origin: tuple[int, int] = (0, 0)) -> Frame:
    return Frame(1, pixels, 0, origin)


def texture(height: int, width: int, seed: int = 0) -> Grey:
    coarse = np.random.default_rng(seed).integers(30, 220, (height // 4 + 2, width // 4 + 2), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(coarse, (width, height)))


def plain(roi: Roi | None, size: FrameSize | None, **more: object) -> Preprocess:
    file = CalibrationFile.model_validate({"name": "plain", "created": DATE, "roi": roi, "frame": size} | more)
    return Preprocess(Calibration(file, "0" * 64), height=64, width=64, mean=0.4, std=0.2)


def crop_of(result: Crop | Decision) -> Crop:
    assert isinstance(result, Crop), result
    return result


def reason_of(result: Crop | TiledCrop | Decision) -> Reason:
    assert isinstance(result, Decision)
    assert result.verdict is Verdict.INVALID and result.detail and result.reason is not None
    return result.reason


# Pixels shared with training


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


# Without location


def test_no_calibration_is_the_training_path_bit_for_bit() -> None:
    """Without a calibration the whole frame becomes the input exactly as training makes it."""
    image = texture(150, 210)
    prepared = Preprocess(load_calibration(None), height=64, width=96, mean=0.5, std=0.25)
    crop = crop_of(prepared.prepare(frame(image)))
    assert prepared.window is None
    assert np.array_equal(crop.image, resize_to_input(image, 64, 96))
    assert np.array_equal(crop.tensor, normalise(crop.image, 0.5, 0.25))
    assert (crop.geometry.scale_x, crop.geometry.scale_y) == (210 / 96, 150 / 64)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), width=st.integers(40, 300), height=st.integers(40, 300), margin=st.integers(0, 80))
def test_window_arithmetic(data: st.DataObject, width: int, height: int, margin: int) -> None:
    """The window lies in the frame, holds the ROI with its margin, and a frame that is only the window, the whole frame
    and any cut between them give the same bytes and the same place in the full frame."""
    w, h = data.draw(st.integers(8, width)), data.draw(st.integers(8, height))
    x, y = data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h))
    stage = plain(
        Roi(x=x, y=y, w=w, h=h),
        FrameSize(width_px=width, height_px=height),
        margin_px=margin,
        checks={"min_contrast": 0.0},
    )
    assert stage.window is not None
    wx, wy, ww, wh = stage.window
    assert (wx, wy) == (max(x - margin, 0), max(y - margin, 0))
    assert (wx + ww, wy + wh) == (min(x + w + margin, width), min(y + h + margin, height))
    image = texture(height, width, seed=w)
    whole = crop_of(stage.prepare(frame(image)))
    assert np.array_equal(whole.image, resize_to_input(image[y : y + h, x : x + w], 64, 64))
    left, top = data.draw(st.integers(0, wx)), data.draw(st.integers(0, wy))
    cut = crop_of(stage.prepare(frame(np.ascontiguousarray(image[top : wy + wh, left : wx + ww]), (left, top))))
    assert np.array_equal(cut.tensor, whole.tensor) and cut.geometry == whole.geometry
    matrix = np.array(whole.geometry.matrix).reshape(2, 3)
    assert np.allclose(matrix @ [-0.5, -0.5, 1], [x - 0.5, y - 0.5])
    assert np.allclose(matrix @ [63.5, 63.5, 1], [x + w - 0.5, y + h - 0.5])


def test_a_frame_without_the_window_is_invalid() -> None:
    """A frame that does not hold the window is BAD_IMAGE, never inspected in part."""
    stage = plain(Roi(x=50, y=60, w=64, h=64), FrameSize(width_px=200, height_px=200), margin_px=10)
    image = texture(200, 200)
    assert reason_of(stage.prepare(frame(np.ascontiguousarray(image[:120])))) is Reason.BAD_IMAGE
    assert reason_of(stage.prepare(frame(np.ascontiguousarray(image[60:]), (0, 60)))) is Reason.BAD_IMAGE


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((200, 200), np.uint8),
        np.full((200, 200), 90, np.uint8),
        np.full((200, 200), 255, np.uint8),
        np.clip(np.random.default_rng(0).normal(60, 3, (200, 200)), 0, 255).astype(np.uint8),
        np.zeros((200, 200, 3), np.uint8),
        np.zeros((200, 200), np.uint16),
        np.zeros((0, 200), np.uint8),
    ],
    ids=["black", "flat", "white", "blank with noise", "colour", "16 bit", "empty"],
)
def test_unusable_pixels_are_bad_images(pixels: Grey) -> None:
    """Black, blank, saturated, colour, 16-bit and empty frames are BAD_IMAGE with a detail, with or without a ROI."""
    for stage in (plain(None, None), plain(Roi(x=50, y=60, w=64, h=64), FrameSize(width_px=200, height_px=200))):
        assert reason_of(stage.prepare(frame(pixels))) is Reason.BAD_IMAGE


def test_published_images_are_not_taken_for_blank(shared_data: Path) -> None:
    """The blank and saturation checks pass every real image that a person can judge."""
    stage = plain(None, None)
    paths = (
        sorted((shared_data / "magnetic-tile").rglob("*.jpg"))[::40]
        + sorted((shared_data / "kolektor-sdd").rglob("*.jpg"))[::20]
    )
    if not paths:
        pytest.skip("no images found in ../shared/data")
    refused = []
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if image is not None and isinstance(stage.prepare(frame(np.asarray(image, np.uint8))), Decision):
            refused.append(path.name)
    assert refused == []


def test_frame_size_is_checked_in_one_line() -> None:
    """A ROI outside the image and a frame of another size than calibrated are configuration errors of one line."""
    stage = plain(Roi(x=50, y=60, w=64, h=64), FrameSize(width_px=200, height_px=220))
    stage.check_frame_size(200, 220)
    for size, word in (((100, 220), "outside"), ((200, 300), "another size")):
        with pytest.raises(ConfigError, match=word) as error:
            stage.check_frame_size(*size)
        assert "\n" not in str(error.value) and error.value.exit_code == 2


# With location


def test_a_shifted_and_turned_part_looks_like_the_part_in_its_place(located: Preprocess) -> None:
    """Locating undoes shift and rotation: the crop is the crop of the same part in its nominal place."""
    still = Style(shift_px=0.0, angle_deg=0.0, noise=0.0)
    for index in range(12):
        moved = crop_of(located.prepare(frame(render_part(4, index, style=Style(noise=0.0), defective=False).image)))
        nominal = crop_of(located.prepare(frame(render_part(4, index, style=still, defective=False).image)))
        # The light stays with the station, so compare edges: high-pass both.
        fine = [
            image.image.astype(np.float32) - cv2.blur(image.image.astype(np.float32), (15, 15))
            for image in (moved, nominal)
        ]
        assert float(np.corrcoef(fine[0].ravel(), fine[1].ravel())[0, 1]) > 0.97


def test_geometry_leads_back_to_the_frame(located: Preprocess) -> None:
    """The corners of the map, through the crop's matrix, are the corners of the part in the full frame, within half a
    pixel, for whole frames and for the window alone."""
    assert located.window is not None
    x, y, w, h = located.window
    for index in range(20):
        part = render_part(8, index)
        whole = crop_of(located.prepare(frame(part.image)))
        cut = crop_of(located.prepare(frame(np.ascontiguousarray(part.image[y : y + h, x : x + w]), (x, y))))
        assert cut.geometry == whole.geometry and np.array_equal(cut.tensor, whole.tensor)
        matrix = np.array(whole.geometry.matrix).reshape(2, 3)
        corners = np.array([[-0.5, -0.5, 1], [255.5, -0.5, 1], [255.5, 255.5, 1], [-0.5, 255.5, 1]])
        assert np.abs(corners @ matrix.T - np.array(part.roi_corners)).max() < 0.5
        assert whole.geometry.scale_x == 280 / 256


@settings(max_examples=200, deadline=None)
@given(
    x=st.floats(-50, 50),
    y=st.floats(-50, 50),
    angle=st.floats(-15, 15),
    centre=st.tuples(st.floats(0, 2000), st.floats(0, 2000)),
    point=st.tuples(st.floats(0, 2000), st.floats(0, 2000)),
)
def test_pose_and_its_inverse_return_every_point(
    x: float, y: float, angle: float, centre: tuple[float, float], point: tuple[float, float]
) -> None:
    """A pose keeps distances, moves the centre by exactly its shift, and its inverse brings every point back."""
    matrix = Pose(x, y, angle).matrix(centre)
    assert np.allclose(matrix @ [*centre, 1.0], np.add(centre, (x, y)), atol=1e-8)
    moved = matrix @ [*point, 1.0]
    assert np.isclose(np.hypot(*(moved - np.add(centre, (x, y)))), np.hypot(*np.subtract(point, centre)), atol=1e-8)
    back = cv2.invertAffineTransform(matrix) @ [*moved, 1.0]
    assert np.allclose(back, point, atol=1e-6)


def test_the_same_frame_gives_the_same_bytes(located: Preprocess, station: Path, two_threads: None) -> None:
    """Preparing is deterministic: repeated, in a new instance, and with one thread or two."""
    images = [render_part(2, index).image for index in range(6)]
    first = [crop_of(located.prepare(frame(image))) for image in images]
    again = Preprocess(load_calibration(station), height=256, width=256, mean=0.5, std=0.25)
    for threads in (1, 2):
        cv2.setNumThreads(threads)
        for image, one in zip(images, first, strict=True):
            other = crop_of(again.prepare(frame(image)))
            assert other.tensor.tobytes() == one.tensor.tobytes() and other.geometry == one.geometry


def test_what_is_not_the_part_is_not_located(located: Preprocess) -> None:
    """A frame without the part is INVALID NOT_LOCATED and its detail says why."""
    wrong = render_part(1, 0, style=Style(bars=7)).image
    result = located.prepare(frame(wrong))
    assert reason_of(result) is Reason.NOT_LOCATED
    assert isinstance(result, Decision) and "correlates" in result.detail


def test_an_overexposed_part_is_a_bad_image(located: Preprocess) -> None:
    """Where the light saturates a fifth of the window nothing is judged, though the part could be located."""
    for index in range(5):
        image = np.clip(render_part(6, index).image * 3.0, 0, 255).astype(np.uint8)
        result = located.prepare(frame(image))
        assert reason_of(result) is Reason.BAD_IMAGE
        assert isinstance(result, Decision) and "saturated" in result.detail


def test_a_part_that_reaches_out_of_the_frame_is_not_located(tmp_path: Path) -> None:
    """No pixel outside the frame is ever made up: a located part that reaches beyond it is NOT_LOCATED."""
    image = texture(320, 320)
    path = calibrate_roi([image], name="edge", out_dir=tmp_path, clock=PushedClock(), roi=(7, 70, 180, 180))
    update_calibration(path, locate=load_calibration(path).file.locate.model_copy(update={"min_score": 0.3}))
    stage = Preprocess(load_calibration(path), height=256, width=256, mean=0.5, std=0.25)
    for dx, inside in ((12, True), (0, True), (-6, True), (-9, False), (-12, False)):
        shift = np.array([[1.0, 0, dx], [0, 1.0, 0]])
        moved = cv2.warpAffine(image, shift, (320, 320), borderMode=cv2.BORDER_REPLICATE)
        result = stage.prepare(frame(np.asarray(moved, np.uint8)))
        assert isinstance(result, Crop) is inside, (dx, result)
        if isinstance(result, Decision):
            assert reason_of(result) is Reason.NOT_LOCATED and "reaches out" in result.detail


def test_scale_travels_with_the_crop(tmp_path: Path) -> None:
    """The crop's geometry carries the calibrated millimetres per pixel; without a scale it carries none."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    image = render_part(1, 1).image
    for scale in (None, Scale(mm_per_px=0.0312, residual_px=0.05, residual_mm=0.0015)):
        update_calibration(path, scale=scale)
        stage = Preprocess(load_calibration(path), height=256, width=256, mean=0.5, std=0.25)
        expected = scale.mm_per_px if scale else None
        assert crop_of(stage.prepare(frame(image))).geometry.mm_per_px == expected


# Flat field


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


# Tiles


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


# The calibration file


def test_a_calibration_reads_back_as_written(station: Path) -> None:
    """What is written is what is read, and the hash does not depend on comments or layout."""
    first = load_calibration(station)
    write_calibration(station, first.file)
    again = load_calibration(station)
    assert again.file == first.file and again.hash == first.hash and len(first.hash) == 64
    station.write_text("# a remark\n\n" + station.read_text())
    assert load_calibration(station).hash == first.hash


def test_the_hash_follows_values_and_pixels(tmp_path: Path) -> None:
    """A changed value or another template changes the hash; nothing at all has a hash too."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    first = load_calibration(path)
    update_calibration(path, checks=Checks(min_contrast=1.5))
    assert load_calibration(path).hash != first.hash
    other = calibrate_synthetic(out_dir=tmp_path / "other", clock=PushedClock(), style=Style(bars=6))
    assert load_calibration(other).hash != first.hash
    assert load_calibration(None).hash == load_calibration(None).hash != first.hash


def test_a_swapped_or_missing_template_is_refused(tmp_path: Path) -> None:
    """A file beside the calibration that is not the one calibrated, though readable, or is gone, is refused by name."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    template = tmp_path / "synthetic.template.png"
    other = calibrate_synthetic(out_dir=tmp_path / "other", clock=PushedClock(), style=Style(bars=6))
    template.write_bytes((other.parent / template.name).read_bytes())
    with pytest.raises(ConfigError, match=r"synthetic\.template\.png is not the one"):
        load_calibration(path)
    template.unlink()
    with pytest.raises(ConfigError, match=r"synthetic\.template\.png cannot be read"):
        load_calibration(path)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("margin_px = 43", "margin_px = -1", "margin_px"),
        ("margin_px = 43", "margin_px = 5", "margin_px 5 is less"),
        ("margin_px = 43", "margin_pix = 43", "margin_pix"),
        ("w = 280", "w = 2800", "outside the frame"),
        ("w = 280", 'w = "280"', "roi.w"),
        ("max_angle_deg = 3.0", "max_angle_deg = 90.0", "locate.max_angle_deg"),
        ("max_angle_deg = 3.0", "max_angle_deg = nan", "locate.max_angle_deg"),
        ('template = "synthetic.template.png"', 'template = "../secret.png"', "locate.template"),
        ("format = 1", "format = 2", "format"),
        ("[roi]", "[roi", "TOML"),
        ("created = 2023-11-14T22:13:20Z", "created = 2023-11-14T22:13:20", "created"),
    ],
)
def test_faults_of_a_calibration_name_key_and_value(tmp_path: Path, old: str, new: str, key: str) -> None:
    """A faulty calibration is a ConfigError of exit code 2 in one line that names the key."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as error:
        load_calibration(path)
    assert key in str(error.value) and error.value.exit_code == 2


def test_a_missing_calibration_is_a_config_error(tmp_path: Path) -> None:
    """A path that is not there, or is a folder, is a ConfigError that names it."""
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_calibration(path)


def test_an_expired_flat_field_is_refused() -> None:
    """A flat field is used up to its date and refused from then on."""
    flat = {"file": "a.npz", "sha256": "0" * 64, "created": DATE, "expires": DATE + timedelta(days=30)}
    file = CalibrationFile.model_validate({"name": "a", "created": DATE, "flat_field": flat})
    calibration = Calibration(file, "0" * 64)
    end_ns = int((DATE + timedelta(days=30)).timestamp()) * 10**9
    calibration.check_expiry(end_ns - 1_000_000_000)
    with pytest.raises(ConfigError, match="expired"):
        calibration.check_expiry(end_ns)


def test_the_committed_calibration_is_the_renderers() -> None:
    """The calibration in the repository loads, is that of the synthetic camera's part, and locates it."""
    path = Path(__file__).resolve().parent.parent / "calibration" / "synthetic.toml"
    calibration = load_calibration(path)
    roi = calibration.file.roi
    assert roi is not None and (roi.x, roi.y, roi.w, roi.h) == nominal_roi()
    stage = Preprocess(calibration, height=256, width=256, mean=0.5, std=0.25)
    assert all(isinstance(stage.prepare(frame(render_part(77, index).image)), Crop) for index in range(30))
