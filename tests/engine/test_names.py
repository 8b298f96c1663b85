"""Every TensorRT and pycuda name that our code or our fakes use exists in the real ones, of both majors.

The bindings are fetched by `python tests/engine/fetch_bindings.py`; without them these tests are skipped.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import fetch_bindings
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "inspector" / "engine" / name for name in ("tensorrt.py", "tensorrt_build.py", "cuda.py")]
FETCH = "run `python tests/engine/fetch_bindings.py`"

METHODS = {
    "Runtime": {"deserialize_cuda_engine"},
    "ICudaEngine": {
        "create_execution_context",
        "get_tensor_dtype",
        "get_tensor_location",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_shape",
        "num_io_tensors",
    },
    "IExecutionContext": {"execute_async_v3", "set_tensor_address"},
    "Builder": {"build_serialized_network", "create_builder_config", "create_network"},
    "OnnxParser": {"get_error", "num_errors", "parse"},
    "ParserError": {"desc"},
    "IBuilderConfig": {
        "builder_optimization_level",
        "clear_flag",
        "create_timing_cache",
        "get_timing_cache",
        "max_aux_streams",
        "profiling_verbosity",
        "progress_monitor",
        "set_memory_pool_limit",
        "set_timing_cache",
    },
    "ITimingCache": {"serialize"},
    "ILogger": {"log"},
    "IProgressMonitor": {"phase_finish", "phase_start", "step_complete"},
}
"""What our code calls on TensorRT's objects; the next test proves that the list is whole."""


@functools.cache
def real(version: str) -> dict[str, Any]:
    place = fetch_bindings.TARGET / version
    if not (place / "ready").exists():
        pytest.skip(f"the bindings of TensorRT {version} are not here: {FETCH}")
    command = [sys.executable, str(Path(__file__).with_name("show_bindings.py")), str(place)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr[-500:]
    surface: dict[str, Any] = json.loads(shown.stdout.splitlines()[-1])
    return surface


@pytest.fixture(params=fetch_bindings.VERSIONS)
def surface(request: pytest.FixtureRequest) -> dict[str, Any]:
    return real(request.param)


def chains(path: Path, root: str) -> set[tuple[str, ...]]:
    """Every ``root.a.b`` of a source file as (a, b)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        at: ast.AST = node
        while isinstance(at, ast.Attribute):
            names.append(at.attr)
            at = at.value
        if names and isinstance(at, ast.Name) and at.id == root:
            found.add(tuple(reversed(names)))
    return found


def test_every_trt_name_exists(surface: dict[str, Any]) -> None:
    """Each `trt.X` and `trt.X.Y` of our sources is in the bindings of 10 and of 11."""
    names = surface["names"]
    used = {chain for path in SOURCES for chain in chains(path, "trt")}
    assert len(used) > 15  # the walk finds them
    for chain in used:
        assert chain[0] in names[""], f"trt.{chain[0]}"
        if len(chain) > 1 and chain[1] != "__init__":
            assert chain[1] in names[chain[0]], ".".join(chain)


def test_every_method_exists(surface: dict[str, Any]) -> None:
    """Each method and property that our code uses of TensorRT's objects is in the bindings of 10 and of 11."""
    for kind, methods in METHODS.items():
        missing = methods - set(surface["names"][kind])
        assert not missing, f"{kind} lacks {missing}"


def test_the_list_of_methods_is_whole() -> None:
    """Every attribute used of an object that TensorRT gave us stands in METHODS."""
    ours = {"builder", "network", "parser", "config", "cache", "used", "runtime", "engine", "context"}
    listed = {method for methods in METHODS.values() for method in methods}
    for path in SOURCES[:2]:
        for name in ours:
            for chain in chains(path, name):
                assert chain[0] in listed, f"{path.name}: {name}.{chain[0]}"
    text = SOURCES[0].read_text()
    for method in re.findall(r"context\.(\w+)\(", text) + re.findall(r"parser\.(\w+)\(", text):
        assert method in listed


def test_the_signatures_are_as_we_call_them(surface: dict[str, Any]) -> None:
    """Argument names and results that the code relies on."""
    signatures = surface["signatures"]
    assert "stream_handle" in signatures["IExecutionContext.execute_async_v3"]
    assert "-> bool" in signatures["IExecutionContext.execute_async_v3"]
    assert "-> bool" in signatures["IExecutionContext.set_tensor_address"]
    assert "ignore_mismatch: bool) -> bool" in signatures["IBuilderConfig.set_timing_cache"]
    assert "-> bool" in signatures["OnnxParser.parse"]
    assert "phase_name: str, step" in signatures["IProgressMonitor.step_complete"]
    assert "severity:" in signatures["ILogger.log"]


def test_the_fake_has_no_names_of_its_own(surface: dict[str, Any], gpu: ModuleType, monkeypatch: Any) -> None:
    """What the fake offers, the real bindings of that release offer too."""
    monkeypatch.setenv("FAKE_TRT_VERSION", surface["version"])
    for name in ("tensorrt", "tensorrt._types"):
        sys.modules.pop(name, None)
    fake = importlib.import_module("tensorrt")
    assert str(gpu.__file__).startswith(str(ROOT / "tests"))
    for name, thing in vars(fake).items():
        public = not name.startswith("_") and name not in {
            "enum",
            "json",
            "threading",
            "rules",
            "np",
            "Any",
            "annotations",
        }
        if not public:
            continue
        assert name in surface["names"][""], name
        if isinstance(thing, type):
            own = {n for kind in thing.__mro__[:-1] if kind.__module__.startswith("tensorrt") for n in vars(kind)}
            members = set(getattr(thing, "__members__", {}))
            offered = {n for n in own | members if not n.startswith("_")} - {"kind"}
            missing = offered - set(surface["names"][name])
            assert not missing, f"{name}: {missing}"


class TestPycuda:
    """Names of pycuda, looked up in the sources of its release: building it needs a CUDA toolkit."""

    @pytest.fixture
    def names(self) -> set[str]:
        source = fetch_bindings.TARGET / "pycuda" / "wrap_cudadrv.cpp"
        if not source.exists():
            pytest.skip(f"the sources of pycuda are not here: {FETCH}")
        text = source.read_text()
        patterns = (
            r'(?:class_<[^"]*?|enum_<[^"]*?)\(?"(\w+)"',
            r'\bdef\("(\w+)"',
            r"DEF_SIMPLE_(?:METHOD|FUNCTION)(?:_WITH_ARGS)?\((\w+)",
            r'\.value\("(\w+)"',
            r'add_property\("(\w+)"',
            r"DEF_SIMPLE_\w+\((\w+)\)",
            r'staticmethod\("(\w+)"',
            r"DECLARE_EXC\((\w+)",
        )
        found = {name for pattern in patterns for name in re.findall(pattern, text, re.DOTALL)}
        assert {"Device", "Context", "Stream"} <= found
        return found

    def test_every_driver_name_exists(self, names: set[str]) -> None:
        """Each `driver.X` of our source is in pycuda."""
        members = {chain[1:] for chain in chains(SOURCES[2], "self") if chain[0] in {"driver", "_driver"}}
        used = chains(SOURCES[2], "driver") | {chain for chain in members if chain}
        assert len(used) > 12
        for chain in used:
            for name in chain:
                assert name in names or name == "Error", ".".join(chain)

    def test_every_method_exists(self, names: set[str]) -> None:
        """Each method that our code uses of pycuda's objects is in pycuda."""
        called = "push pop retain_primary_context compute_capability name get_attribute record synchronize free handle"
        assert set(called.split()) <= names

    def test_the_fake_has_no_names_of_its_own(self, names: set[str], gpu: ModuleType) -> None:
        """What the fake offers, pycuda offers too."""
        fake = importlib.import_module("pycuda.driver")
        assert str(gpu.__file__).startswith(str(ROOT / "tests"))
        for name, thing in vars(fake).items():
            if name.startswith("_") or name in {"rules", "np", "Any", "annotations"}:
                continue
            assert name in names or name in {"Error", "LogicError", "MemoryError"}, name
            if isinstance(thing, type) and not issubclass(thing, Exception):
                offered = {n for n in vars(thing) if not n.startswith("_")} - {"kind", "bytes"}
                assert offered <= names, f"{name}: {offered - names}"
