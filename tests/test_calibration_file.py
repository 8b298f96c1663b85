"""The calibration's file: what is written is read, a hash for all that decides, and one line for each fault."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from inspector.calibrate.roi import calibrate_synthetic
from inspector.camera.render import Style, nominal_roi, render_part
from inspector.clock import PushedClock
from inspector.errors import ConfigError
from inspector.frame import Crop
from inspector.preprocess import (
    Calibration,
    CalibrationFile,
    Preprocess,
    load_calibration,
)
from inspector.preprocess.calibration import (
    Checks,
    update_calibration,
    write_calibration,
)
from tests.preprocess_kit import DATE, frame


def test_a_calibration_reads_back_as_written(tmp_path: Path) -> None:
    """What is written is what is read, and the hash does not depend on comments or layout."""
    station = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
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
    assert "\n" not in str(error.value)


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
