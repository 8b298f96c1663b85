"""The drill's own GenTL producer: built, loaded and controlled."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import numpy as np
import pytest

from inspector.camera.genicam import GenicamCamera, list_devices
from inspector.clock import SystemClock
from inspector.drill.producer import CONTROL_VARIABLE, Count, Fault, ProducerControl, build_producer
from inspector.errors import CameraError
from inspector.frame import Frame

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

NEEDED = """
GCInitLib GCCloseLib GCGetInfo GCGetLastError GCReadPort GCWritePort GCGetPortInfo GCGetNumPortURLs GCGetPortURLInfo
GCRegisterEvent TLOpen TLClose TLGetNumInterfaces TLGetInterfaceID TLOpenInterface TLUpdateInterfaceList IFClose
IFGetInfo IFGetNumDevices IFGetDeviceID IFGetDeviceInfo IFOpenDevice IFUpdateDeviceList DevClose DevGetInfo DevGetPort
DevGetNumDataStreams DevGetDataStreamID DevOpenDataStream DSAnnounceBuffer DSRevokeBuffer DSQueueBuffer DSFlushQueue
DSStartAcquisition DSStopAcquisition DSGetInfo DSGetBufferInfo DSClose EventGetData EventGetInfo EventFlush
"""
"""What the binding calls; a missing one is a jump to address 0."""


@needs_gcc
def test_built_once_and_complete(tmp_path: Path) -> None:
    """An unchanged source is compiled once, and every function that the binding calls is there."""
    first = build_producer(tmp_path)
    made_ns = first.stat().st_mtime_ns
    assert build_producer(tmp_path) == first
    assert first.stat().st_mtime_ns == made_ns
    library = ctypes.CDLL(str(first))
    assert [name for name in NEEDED.split() if not hasattr(library, name)] == []


def test_without_a_compiler_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gcc there is one clear line, not a traceback of a missing program."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CameraError, match="Install gcc"):
        build_producer(tmp_path / "cache")


def test_a_file_of_broken_frames_is_refused(tmp_path: Path) -> None:
    """A frames file whose size is no multiple of one image is refused before a camera serves shifted pictures."""
    frames = tmp_path / "frames.raw"
    frames.write_bytes(bytes(1001))
    with pytest.raises(CameraError, match="raw frames"):
        ProducerControl(tmp_path / "control", width=40, height=25, frames=frames)


@needs_gcc
def test_recorded_frames_come_in_order_and_cycle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Picture n shows image n % N of the file, pixel for pixel, a lost one included in the count."""
    images = np.random.default_rng(3).integers(0, 256, (5, 48, 64), np.uint8)
    (tmp_path / "frames.raw").write_bytes(images.tobytes())
    cti = build_producer(tmp_path)
    with ProducerControl(
        tmp_path / "control", width=64, height=48, frames=tmp_path / "frames.raw", stamp=False
    ) as control:
        monkeypatch.setenv(CONTROL_VARIABLE, str(control.path))
        control.set(Fault.SKIP_EVERY, 4)
        control.set(Fault.FRAME_LIMIT, 23)
        camera = GenicamCamera(
            clock=SystemClock(), producers=[cti], features=[("AcquisitionFrameRate", 500.0)], tell=lambda *_: None
        )
        camera.open()
        items = []
        while len(items) < 23:
            item = camera.next(10.0)
            assert item is not None, "the producer stands still"
            items.append(item)
        camera.close()
        assert control.get(Count.SHOTS) == 23
        for shot, item in enumerate(items):
            assert item.frame_id == shot + 1
            if (shot + 1) % 4:
                assert isinstance(item, Frame)
                assert np.array_equal(item.pixels, images[shot % 5])
            else:
                assert not isinstance(item, Frame)


@needs_gcc
def test_a_pulled_cable_takes_the_device_off_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The producer lists its one device only while the cable is in."""
    cti = build_producer(tmp_path)
    with ProducerControl(tmp_path / "control") as control:
        monkeypatch.setenv(CONTROL_VARIABLE, str(control.path))
        assert [(line.serial, line.model, line.user_name, line.access) for line in list_devices([cti])] == [
            ("DRILL-1", "Drill", "bench", "free")
        ]
        control.pull()
        assert list_devices([cti]) == []
        control.plug()
        assert len(list_devices([cti])) == 1
