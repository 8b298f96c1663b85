"""Print the surface of one version of the real TensorRT bindings as JSON: {class: [attributes]}, and enum members.

    python tests/engine/show_bindings.py build/bindings/11.4.0.106

Runs in a process of its own, for only one version can be loaded at a time.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path


def surface(place: Path) -> dict[str, object]:
    major = (place / "ready").read_text().strip()
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        ctypes.CDLL(str(place / f"lib{name}.so.{major}"), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(place))
    import tensorrt_bindings as trt

    names: dict[str, list[str]] = {"": sorted(name for name in dir(trt) if not name.startswith("__"))}
    names[""].append("__version__")
    signatures: dict[str, str] = {}
    for name in names[""]:
        thing = getattr(trt, name)
        if isinstance(thing, type):
            names[name] = sorted(n for n in dir(thing) if not n.startswith("__"))
            for method in names[name]:
                signatures[f"{name}.{method}"] = str(getattr(getattr(thing, method), "__doc__", "") or "")[:300]
    return {"version": trt.__version__, "names": names, "signatures": signatures}


if __name__ == "__main__":
    print(json.dumps(surface(Path(sys.argv[1]))))
