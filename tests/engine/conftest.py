"""Bundles on disk, made of random networks."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

import networks  # noqa: E402
from networks import LOOSE, SIZE, MakeBundle, judge  # noqa: E402

from inspector.engine.build import build_plan  # noqa: E402
from inspector.engine.bundle import Bundle, load_bundle, write_bundle  # noqa: E402


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Writes a bundle of the given ONNX bytes under a fresh directory."""

    def make(onnx_bytes: bytes, size: tuple[int, int], name: str = "sketch", golden: int = 3) -> Bundle:
        return write_bundle(
            tmp_path / "engines" / name,
            name=name,
            onnx_bytes=onnx_bytes,
            mean=0.5,
            std=0.25,
            classes=["defect"],
            threshold=0.5,
            min_area_px=4,
            training={"data": "random weights"},
            parity={"torch": None},
            cite=["chosen by hand for tests"],
            golden_images=networks.images(golden, size, seed=7),
            created_wall_ns=1_700_000_000_000_000_000,
        )

    return make


@pytest.fixture
def tiny_bundle(make_bundle: MakeBundle) -> Bundle:
    return make_bundle(networks.tiny(), (64, 48), "tiny")


@pytest.fixture
def lsa_bundle(make_bundle: MakeBundle) -> Bundle:
    return make_bundle(networks.lsa_like(), (64, 64), "lsa")


FAKES = HERE.parent / "fakes"
_FAKED = ("tensorrt", "tensorrt._types", "pycuda", "pycuda.driver", "fake_gpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The fakes of tensorrt and pycuda in place of the real packages, and at the end: no rule broken, nothing left."""
    from inspector.engine import cuda, tensorrt

    monkeypatch.syspath_prepend(str(FAKES))
    for name in _FAKED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(cuda, "_PRIMARY", {})
    monkeypatch.setattr(tensorrt, "_OPEN", {})
    importlib.invalidate_caches()
    rules = importlib.import_module("fake_gpu")
    yield rules
    gc.collect()
    left = {kind: number for kind, number in rules.alive.items() if number}
    stacked = list(rules.stack())
    for name in _FAKED:
        sys.modules.pop(name, None)
    assert rules.violations == []
    assert left == {}
    assert stacked == []


@pytest.fixture
def gpu_bundle(gpu: ModuleType, make_bundle: MakeBundle) -> Bundle:
    """A bundle with an FP16 plan for the fake GPU."""
    fresh = make_bundle(networks.lsa_like(3, SIZE, "pool"), SIZE)
    build_plan(fresh, "tensorrt", "fp16", judge=judge, runs=50, limits=LOOSE)
    return load_bundle(fresh.path)
