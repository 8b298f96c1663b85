"""The drill's own producer, built once a session, under a control page of the test's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from genicam_kit import HEIGHT, WIDTH, Bench

from inspector.drill.producer import CONTROL_VARIABLE, ProducerControl, build_producer


@pytest.fixture
def bench(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    cti = build_producer(tmp_path_factory.getbasetemp() / "cti")
    with ProducerControl(tmp_path / "control", width=WIDTH, height=HEIGHT) as control:
        monkeypatch.setenv(CONTROL_VARIABLE, str(control.path))
        bench = Bench(cti, control)
        yield bench
        for camera in bench.cameras:
            camera.close()
