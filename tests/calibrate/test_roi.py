"""`calibrate roi`: finds the piece, proves that it finds it again, and writes what the line reads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from inspector.calibrate.roi import calibrate_roi, calibrate_synthetic, find_piece
from inspector.camera.render import Style, nominal_roi, render_part, render_reference
from inspector.clock import PushedClock
from inspector.errors import ConfigError
from inspector.frame import Crop, Frame
from inspector.preprocess import Preprocess, load_calibration
from inspector.preprocess.calibration import Scale, TileRule, update_calibration


@pytest.mark.parametrize(
    "style", [Style(), Style(frame_px=(640, 480), bars=9), Style(frame_px=(300, 260), piece_px=(150, 190), bars=3)]
)
def test_the_piece_is_found_to_a_pixel(style: Style) -> None:
    """The outline is found within a pixel and the angle within 0.2 degrees, slots and defects notwithstanding."""
    for index in range(15):
        part = render_part(21, index, style=style)
        found = find_piece(part.image)
        assert np.abs(found.corners_px() - np.array(part.roi_corners)).max() < 1.0
        assert abs(found.angle_deg - part.angle_deg) < 0.2


def test_no_piece_is_said_in_one_line() -> None:
    """Frames without a bright rectangle are refused with what to do, not calibrated on something else."""
    noise = np.random.default_rng(0).integers(0, 30, (400, 400), dtype=np.uint8)
    for image in (np.zeros((400, 400), np.uint8), np.full((400, 400), 200, np.uint8), noise):
        with pytest.raises(ConfigError) as error:
            find_piece(image)
        assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_calibration_on_parts_in_play_locates_new_parts(tmp_path: Path) -> None:
    """From twenty shifted and turned good parts the calibration finds every new part, to the outline within a pixel,
    and writes an overlay of the frame's size."""
    images = [render_part(41, index, defective=False).image for index in range(20)]
    path = calibrate_roi(
        images, name="line7", out_dir=tmp_path, clock=PushedClock(), max_shift_px=28.0, max_angle_deg=4.5
    )
    assert path == tmp_path / "line7.toml"
    picture = cv2.imread(str(tmp_path / "line7.overlay.png"))
    assert picture is not None and picture.shape == (400, 400, 3)
    stage = Preprocess(load_calibration(path), height=256, width=256, mean=0.5, std=0.25)
    for index in range(40):
        part = render_part(42, index)
        crop = stage.prepare(Frame(index, part.image, 0))
        assert isinstance(crop, Crop), crop
        corners = np.array([[-0.5, -0.5, 1], [255.5, -0.5, 1], [255.5, 255.5, 1], [-0.5, 255.5, 1]])
        off = corners @ np.array(crop.geometry.matrix).reshape(2, 3).T - np.array(part.roi_corners)
        assert np.abs(off).max() < 1.0


def test_a_given_roi_is_taken_as_it_is(tmp_path: Path) -> None:
    """With a ROI given nothing is searched; a ROI outside the image is refused."""
    image = render_reference().image
    path = calibrate_roi([image], name="given", out_dir=tmp_path, clock=PushedClock(), roi=(58, 62, 284, 276))
    roi = load_calibration(path).file.roi
    assert roi is not None and (roi.x, roi.y, roi.w, roi.h) == (58, 62, 284, 276)
    with pytest.raises(ConfigError, match="outside the image"):
        calibrate_roi([image], name="out", out_dir=tmp_path, clock=PushedClock(), roi=(200, 62, 284, 276))
    assert not (tmp_path / "out.toml").exists()


def test_the_same_images_give_the_same_calibration(tmp_path: Path) -> None:
    """Calibrating twice on the same images at the same time gives the same file, template and hash."""
    paths = [calibrate_synthetic(out_dir=tmp_path / name, clock=PushedClock()) for name in ("a", "b")]
    first, second = (load_calibration(path) for path in paths)
    assert first.hash == second.hash and paths[0].read_bytes() == paths[1].read_bytes()
    assert first.file.roi is not None
    assert (first.file.roi.x, first.file.roi.y, first.file.roi.w, first.file.roi.h) == nominal_roi()


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """No image, images of different size, colour, pieces of different size, and a part that the template does not find
    again are each refused by number, and nothing is written."""
    good = render_part(1, 0, defective=False).image
    other = render_part(1, 0, style=Style(piece_px=(260, 280)), defective=False).image
    six_bars = render_part(1, 0, style=Style(bars=6), defective=False).image
    cases = (
        ([], "no image"),
        ([good, good[:300]], "image 1"),
        ([np.dstack([good] * 3)], "image 0"),
        ([good, good, other], "image 2: the piece differs in size"),
        ([good, good, six_bars], "image 2: the part is not located"),
    )
    for images, words in cases:
        with pytest.raises(ConfigError, match=words):
            calibrate_roi(images, name="bad", out_dir=tmp_path, clock=PushedClock())
    assert list(tmp_path.iterdir()) == []


def test_what_was_calibrated_before_is_kept(tmp_path: Path) -> None:
    """Drawing the ROI anew keeps the scale and the tiles of the file."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    scale = Scale(mm_per_px=0.05, residual_px=0.1, residual_mm=0.005)
    update_calibration(path, scale=scale, tiles=TileRule(enabled=True, overlap_px=20))
    calibrate_synthetic(out_dir=tmp_path, clock=PushedClock(wall_ns=1_800_000_000_000_000_000))
    file = load_calibration(path).file
    assert file.scale == scale and file.tiles.overlap_px == 20 and file.created.year == 2027
