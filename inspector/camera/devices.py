"""The devices that GenTL producers see, and the producers themselves."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inspector.camera.child import CameraProcess
from inspector.camera.session import DeviceLine, Order
from inspector.errors import CameraError, ConfigError, InspectorError

_GRACE_S = 1.5


def simulator() -> Path:
    """The viky.cti in the genicam wheel. Raises CameraError where the wheel has none."""
    spec = importlib.util.find_spec("genicam")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / "viky.cti"
        if path.is_file():
            return path
    raise CameraError("no simulated camera", expected="viky.cti in the genicam 1.6.0 wheel", do="Name a producer.")


def producer_paths(producers: Sequence[Path]) -> tuple[str, ...]:
    """Absolute paths of the .cti files, each once; none = the simulator. Raises CameraError for a missing file."""
    paths = [Path(path).absolute() for path in producers] or [simulator()]
    for path in paths:
        if not path.is_file():
            raise CameraError(f"no GenTL producer at {path}", expected="a .cti file", do="Check camera.producers.")
    return tuple(dict.fromkeys(str(path) for path in paths))


def told_error(message: Mapping[str, Any]) -> InspectorError:
    """The error that a camera process reported."""
    kind = ConfigError if message["kind"] == "ConfigError" else CameraError
    return kind(message["what"], expected=message["expected"], found=message["found"], do=message["do"])


def list_devices(producers: Sequence[Path] = (), *, timeout_s: float = 15.0) -> list[DeviceLine]:
    """Every device that the producers (none = the simulator) see now; asked in a process of its own.

    Raises CameraError for a missing file or a producer that fails."""
    order = Order(producer_paths(producers))
    child = CameraProcess("list", order, first=True, hang_s=timeout_s, connect_s=timeout_s)
    answer = child.receive() if child.wait(timeout_s * 1000) else None
    if answer is None and not child.ended:
        child.kill()
    ending = child.finish(_GRACE_S)
    if answer is None:
        raise CameraError("the GenTL producers did not list their devices", found=ending)
    if answer[0]["event"] == "failed":
        raise told_error(answer[0])
    return [DeviceLine(**line) for line in answer[0]["devices"]]
