"""Opening a GenICam camera: features in their order, and one line of reason for whatever cannot be opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from genicam_kit import HEIGHT, WIDTH, Bench, count

from inspector.camera.genicam import GenicamCamera, list_devices, simulator
from inspector.clock import SystemClock
from inspector.drill.producer import Count
from inspector.errors import CameraError, ConfigError, InspectorError
from inspector.frame import Frame

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the camera process needs Linux")


@pytest.mark.parametrize(("features", "rate_mhz"), [
    ([("AcquisitionFrameRate", 200.0), ("UserSetLoad", True)], 20_000),
    ([("UserSetLoad", True), ("AcquisitionFrameRate", 200)], 200_000),
])  # fmt: skip
def test_features_are_written_in_the_given_order(
    bench: Bench, features: list[tuple[str, object]], rate_mhz: int
) -> None:
    """Loading a user set resets what was written before it, and nothing after it."""
    camera = bench.camera(features=[*features, ("DeviceUserID", "line 4"), ("Gain", 1.5), ("Width", 64)])
    camera.open()
    assert bench.control.get(Count.RATE_MHZ) == rate_mhz
    written = bench.told("camera open")[0]["features"]
    assert isinstance(written, dict)
    assert list(written) == [name for name, _ in features] + ["DeviceUserID", "Gain", "Width"]
    assert (written["DeviceUserID"], written["Gain"], written["Width"]) == ("line 4", 1.5, 64)
    frame = count(camera, 1)[0]
    assert isinstance(frame, Frame)
    assert frame.pixels.shape == (HEIGHT, 64)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"serial": "nope"}, CameraError, ["no such camera", "serial nope", "DRILL-1"]),
        ({"model": "Drill", "user_name": "other"}, CameraError, ["user_name other", "bench"]),
        ({"window": (0, 0, WIDTH + 1, 10)}, ConfigError, ["ROI window", "x + width <= 320", "width 321"]),
        ({"window": (-1, 0, 10, 10)}, ConfigError, ["ROI window", "x -1"]),
        ({"features": [("ExposureTim", 100.0)]}, CameraError, ["no feature ExposureTim", "ExposureTime?"]),
        ({"features": [("ExposureTime", 1.0)]}, CameraError, ["refuses ExposureTime = 1.0", "10..100000 us"]),
        ({"features": [("Width", 66)]}, CameraError, ["refuses Width = 66", "16..320 in steps of 4"]),
        ({"features": [("PixelFormat", "Mono12")]}, CameraError, ["refuses PixelFormat", "one of Mono8, Mono16"]),
        ({"features": [("Width", "wide")]}, ConfigError, ["Width", "another kind", "'wide'"]),
        ({"features": [("Gain", 1.3)]}, CameraError, ["did not keep Gain = 1.3", "1.0 read back", "0..24 dB"]),
        ({"features": [("DeviceTemperature", 20.0)]}, CameraError, ["DeviceTemperature cannot", "read only"]),
        ({"features": [("PixelFormat", "Mono16")]}, ConfigError, ["PixelFormat = Mono8", "found Mono16"]),
        ({"features": [("AcquisitionMode", "SingleFrame")]}, ConfigError, ["AcquisitionMode = Continuous"]),
    ],
)
def test_what_cannot_be_opened_says_why(
    bench: Bench, settings: dict[str, Any], kind: type[InspectorError], words: list[str]
) -> None:
    """One line with what was asked, what is there or allowed; the right exit code; the camera left free."""
    camera = bench.camera(**settings)
    with pytest.raises(kind) as caught:
        camera.open()
    line = str(caught.value)
    assert [word for word in words if word not in line] == [], line
    assert "\n" not in line
    assert caught.value.exit_code == (2 if kind is ConfigError else 3)
    assert bench.control.get(Count.OWNER) == 0


def test_a_camera_in_use_is_not_taken(bench: Bench) -> None:
    """A second owner is refused with one line, and the first goes on."""
    first, second = bench.camera(), bench.camera(patience_s=0.0)
    first.open()
    with pytest.raises(CameraError, match="DRILL-1 is in use"):
        second.open()
    assert isinstance(count(first, 5)[-1], Frame)


def test_several_cameras_need_a_choice() -> None:
    """Three devices and no serial: nothing is opened by chance, and the line lists them."""
    camera = GenicamCamera(clock=SystemClock(), tell=lambda *_: None)
    with pytest.raises(ConfigError, match="more than one camera") as caught:
        camera.open()
    assert all(f"serial {serial}" in str(caught.value) for serial in "012")
    assert [(line.serial, line.model, line.access) for line in list_devices()] == [
        (serial, "Viky", "free") for serial in "012"
    ]


def test_a_colour_camera_is_refused() -> None:
    """viky's default RGBa8 is refused with the setting that would do."""
    camera = GenicamCamera(clock=SystemClock(), serial="0", tell=lambda *_: None)
    with pytest.raises(ConfigError, match=r"found RGBa8\. Add PixelFormat = Mono8"):
        camera.open()


def test_producers_that_are_none(tmp_path: Path) -> None:
    """A missing .cti, a file that is no library and a library that is no producer: one line each."""
    missing, text, library = tmp_path / "no.cti", tmp_path / "text.cti", tmp_path / "lib.cti"
    text.write_text("not a library")
    library.write_bytes((simulator().parent / "libMathParser_gcc8_v3_5.so").read_bytes())
    for path, kind, words in (
        (missing, CameraError, "no GenTL producer at"),
        (text, CameraError, "cannot be loaded"),
        (library, CameraError, "GenTL producer"),
    ):
        with pytest.raises(kind, match=words):
            list_devices([path])
        with pytest.raises(kind, match=words):
            GenicamCamera(clock=SystemClock(), producers=[path], tell=lambda *_: None).open()
