"""Small engines, and archives that the real line wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent / "engine"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

import networks  # noqa: E402
from archive_kit import SIZE, Written, bundle_of, write_station  # noqa: E402


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles that differ in one weight: the bias of the last layer."""
    root = tmp_path_factory.mktemp("engines")
    first = networks.tiny(seed=6, size=(SIZE, SIZE))
    model = onnx.load_from_string(first)
    for weight in model.graph.initializer:
        if weight.name == "last.bias":
            changed = numpy_helper.to_array(weight) + np.float32(0.25)
            weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    return bundle_of(root / "old", first), bundle_of(root / "new", model.SerializeToString())


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, engines: tuple[Path, Path]) -> Written:
    """A station that the first engine ran, every picture kept, exported in four shards."""
    return write_station(tmp_path_factory.mktemp("station"), engines[0])
