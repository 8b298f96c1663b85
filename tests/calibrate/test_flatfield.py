"""`calibrate flat-field`: even light from frames of an even reference, with a date."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inspector.calibrate.flatfield import calibrate_flat_field, shading_gain, unevenness
from inspector.calibrate.roi import calibrate_synthetic
from inspector.camera.render import render_part
from inspector.clock import PushedClock
from inspector.errors import ConfigError
from inspector.frame import Crop, Frame, Grey
from inspector.preprocess import Preprocess, apply_flat_field, load_calibration

RNG = np.random.default_rng(1)


def shade(height: int = 400, width: int = 400) -> np.ndarray:
    x, y = np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]
    return 1.0 - 0.35 * x * x - 0.2 * (y - 0.3) ** 2 + 0.1 * x


def reference(count: int = 8, level: float = 150.0) -> list[Grey]:
    frames = [np.rint(level * shade() + RNG.normal(0, 2, (400, 400))) for _ in range(count)]
    return [np.clip(frame, 0, 255).astype(np.uint8) for frame in frames]


def test_the_corrected_reference_is_even() -> None:
    """A shading of more than a third is reduced to less than 2 %, and the mean level stays."""
    images = reference()
    gain = shading_gain(images)
    assert gain.shape == (400, 400) and gain.dtype == np.float32
    flat = level_of(apply_flat_field(images[0], gain))
    assert unevenness(shade()) > 0.33
    assert unevenness(flat) < 0.02
    assert abs(float(flat.mean()) / float(images[0].mean()) - 1) < 0.01


def level_of(image: Grey) -> np.ndarray:
    """Means of 20 x 20 blocks, without the noise."""
    return image.reshape(20, 20, 20, 20).mean(axis=(1, 3))


def test_dust_on_the_reference_is_not_learned() -> None:
    """A speck of dust on the reference leaves no bright spot in the gain."""
    images = reference()
    clean = shading_gain(images)
    for image in images:
        image[200:202, 100:102] = 20
    assert np.abs(shading_gain(images) / clean - 1).max() < 0.02


def test_bad_references_are_refused() -> None:
    """Drifting light, a dark or saturated reference, no frame, and frames of different size are each refused."""
    drift = [
        np.clip(image * factor, 0, 255).astype(np.uint8) for image, factor in zip(reference(2), (1, 0.9), strict=True)
    ]
    cases = (
        (drift, "light changes"),
        (reference(level=10.0), "too dark or saturated"),
        (reference(level=400.0), "too dark or saturated"),
        ([], "no frame"),
        ([reference(1)[0], reference(1)[0][:300]], "differ"),
        ([np.zeros((40, 40), np.uint8)], "light changes"),
    )
    for images, words in cases:
        with pytest.raises(ConfigError, match=words):
            shading_gain(images)


def test_a_flat_field_is_dated_versioned_and_used(tmp_path: Path) -> None:
    """The reference is written beside the calibration under its time, entered with its expiry, changes the hash, and
    from then on evens what is prepared; a second one does not overwrite the first."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    before = load_calibration(path)
    clock = PushedClock()
    written = calibrate_flat_field(reference(), calibration_path=path, clock=clock, valid_days=10)
    after = load_calibration(path)
    flat = after.file.flat_field
    assert flat is not None and written == tmp_path / flat.file and written.exists()
    assert (flat.expires - flat.created).days == 10 and flat.frames == 8
    assert flat.unevenness_before > 10 * flat.unevenness_after
    assert after.hash != before.hash
    after.check_expiry(clock.wall_ns())
    with pytest.raises(ConfigError, match="expired"):
        after.check_expiry(clock.wall_ns() + 11 * 86400 * 10**9)
    clock.push(3600 * 10**9)
    assert calibrate_flat_field(reference(), calibration_path=path, clock=clock) != written and written.exists()


def test_prepared_parts_are_evened_by_the_stored_gain(tmp_path: Path) -> None:
    """A shaded frame, prepared with the flat field of that shade, is the unshaded frame to a few grey levels."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    plain = Preprocess(load_calibration(path), height=256, width=256, mean=0.5, std=0.25)
    calibrate_flat_field(reference(), calibration_path=path, clock=PushedClock())
    evened = Preprocess(load_calibration(path), height=256, width=256, mean=0.5, std=0.25)
    level = float(shade()[60:340, 60:340].mean())
    for index in range(5):
        image = render_part(3, index, defective=False).image
        shaded = np.rint(image * shade() / level * 0.9).clip(0, 255).astype(np.uint8)
        want, got = plain.prepare(Frame(0, image, 0)), evened.prepare(Frame(0, shaded, 0))
        assert isinstance(want, Crop) and isinstance(got, Crop)
        off = got.image.astype(float) - 0.9 * want.image
        assert np.abs(off).mean() < 2.0


def test_a_reference_of_another_size_or_without_days_is_refused(tmp_path: Path) -> None:
    """A reference that is not of the calibrated frame size, and a validity of no days, write nothing."""
    path = calibrate_synthetic(out_dir=tmp_path, clock=PushedClock())
    small = [image[:300] for image in reference(2)]
    for images, days, words in ((small, 30.0, "frame size"), (reference(2), 0.0, "valid_days")):
        with pytest.raises(ConfigError, match=words):
            calibrate_flat_field(images, calibration_path=path, clock=PushedClock(), valid_days=days)
    assert load_calibration(path).file.flat_field is None
