"""Fetch the real TensorRT bindings (a few MB, no libraries) and build stub libraries that let them be imported.

    python tests/engine/fetch_bindings.py        into build/bindings/<version>/ and build/bindings/pycuda/

Of pycuda, which exists as source alone and needs a CUDA toolkit to build, the file that declares its names is kept.
The bindings need three libraries with nine C symbols in all; stubs that return NULL are enough to see every class,
property, enum value and signature. Tests that compare our names and our fakes with them are skipped while the folder
is missing. Needs pip, a C compiler and a package index.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
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


def fetch_pycuda(version: str = "2026.1") -> None:
    """Keep the one C++ file of pycuda's source release that declares what Python sees of the driver."""
    target = TARGET / "pycuda" / "wrap_cudadrv.cpp"
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # Without isolation pip takes setuptools and numpy from here instead of building them for the metadata.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        command += ["--no-binary", ":all:", "--dest", scratch, f"pycuda=={version}"]
        subprocess.run(command, check=True)
        with tarfile.open(next(Path(scratch).glob("pycuda-*.tar.gz"))) as archive:
            file = archive.extractfile(f"pycuda-{version}/src/wrapper/wrap_cudadrv.cpp")
            assert file is not None
            target.write_bytes(file.read())


def main() -> None:
    for version, major in VERSIONS.items():
        fetch(version, major)
        print(f"bindings of TensorRT {version} in {TARGET / version}")
    fetch_pycuda()
    print(f"names of pycuda in {TARGET / 'pycuda'}")


if __name__ == "__main__":
    main()
