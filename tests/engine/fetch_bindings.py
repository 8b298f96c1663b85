"""Fetch the real TensorRT bindings (a few MB, no libraries) and build stub libraries that let them be imported.

    python tests/engine/fetch_bindings.py        into build/bindings/<version>/

The bindings need three libraries with nine C symbols in all; stubs that return NULL are enough to see every class,
property, enum value and signature. Tests that compare our names and our fakes with them are skipped while the folder
is missing. Needs pip, a C compiler and a package index.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

VERSIONS = {"10.13.3.9": 10, "10.16.1.11": 10, "11.4.0.106": 11}
"""The oldest, the newest of 10 and the newest of 11 that the extra ``tensorrt`` allows."""
TARGET = Path(__file__).resolve().parents[2] / "build" / "bindings"
_STUB = (
    "".join(
        f"void* {name}(void){{return 0;}}\n"
        for name in (
            "createInferBuilder_INTERNAL",
            "createInferRefitter_INTERNAL",
            "createInferRuntime_INTERNAL",
            "createNvOnnxParser_INTERNAL",
            "createNvOnnxParserRefitter_INTERNAL",
            "getBuilderPluginRegistry",
            "getPluginRegistry",
            "initLibNvInferPlugins",
        )
    )
    + "int getNvOnnxParserVersion(void){return 0;}\n"
)


def fetch(version: str, major: int) -> None:
    """Unpack one version and put its stub libraries beside it."""
    place = TARGET / version
    if (place / "ready").exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    package = f"tensorrt-cu13-bindings=={version}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), package]
    subprocess.run(pip, check=True)
    (place / "stub.c").write_text(_STUB)
    (place / "empty.c").write_text("")
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{major}"
        source = "stub.c" if name == "nvinfer" else "empty.c"
        subprocess.run(
            ["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", library, source], cwd=place, check=True
        )
    (place / "ready").write_text(str(major))


def main() -> None:
    for version, major in VERSIONS.items():
        fetch(version, major)
        print(f"bindings of TensorRT {version} in {TARGET / version}")


if __name__ == "__main__":
    main()
