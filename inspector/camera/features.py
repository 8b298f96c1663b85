"""GenICam features: written in the given order, read back, refused in one clear line.

Order matters to a camera (selector before value, TriggerMode before exposure, offsets after the size), so nothing is
sorted here. A value is read back past the cache, because a camera may round what it is given.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.errors import CameraError, ConfigError

Value = bool | int | float | str
Feature = tuple[str, Value]

_ACCESS = {0: "not implemented", 1: "not available now", 2: "write only", 3: "read only", 4: "read and write"}
_WRITABLE = (2, 4)
_READABLE = (3, 4)
_FLOAT_TOLERANCE = 0.01
"""A float that comes back within 1 % (or one increment) was kept; cameras round to their own steps."""
_COMMAND_POLLS = 250
_COMMAND_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Written:
    """One feature as the camera keeps it."""

    name: str
    asked: Value
    found: Value
    unit: str = ""


def _binding_errors() -> tuple[type[Exception], ...]:
    from genicam import genapi

    # A register failure comes as the unrelated gentl class and is left to the caller: that is the link, not the value.
    return genapi.GenericException, TypeError, ValueError, AttributeError


def _kind(node: Any) -> str:
    return str(type(node).__name__)


def _reason(error: Exception) -> str:
    """The binding's message without the C++ file and line behind it."""
    text = str(error).split(" : ", maxsplit=1)[-1 if str(error).startswith(("Node", "Feature")) else 0]
    return text.split(" : ", maxsplit=1)[0].splitlines()[0].strip().rstrip(".") if text else type(error).__name__


def find(node_map: Any, name: str) -> Any:
    """The node called ``name``. Raises CameraError, with the nearest name, where the camera lacks it."""
    if node_map.has_node(name):
        return getattr(node_map, name)
    names = [node.node.name for node in node_map.nodes if hasattr(node, "node")]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    raise CameraError(
        f"the camera has no feature {name}", do=f"Did you mean {near[0]}?" if near else "Remove it from the features."
    )


def allowed(node: Any) -> str:
    """What the node takes, in words: range and increment, the entries, or its type."""
    kind = _kind(node)
    try:
        if kind == "IEnumeration":
            return "one of " + ", ".join(node.symbolics)
        if kind == "IInteger":
            step = f" in steps of {node.inc}" if node.inc > 1 else ""
            return f"{node.min}..{node.max}{step}"
        if kind == "IFloat":
            return f"{node.min:g}..{node.max:g} {node.unit}".strip()
        if kind == "IString":
            return f"text of at most {node.max_length} characters"
    except _binding_errors():  # a node that is not readable now has no range either
        return ""
    return {"IBoolean": "true or false", "ICommand": "true"}.get(kind, "")


def read(node: Any) -> Value:
    """The node's value from the device, not from the cache."""
    if _kind(node) == "IEnumeration":
        node.get_int_value(False, True)
        return str(node.value)
    value = node.get_value(False, True)
    return str(value) if _kind(node) == "IString" else value


def _convert(name: str, node: Any, asked: Value) -> Value:
    """``asked`` as the node's own type; a wrong type is a fault of the configuration."""
    kind, good = _kind(node), False
    value = asked
    if kind == "IInteger":
        good = not isinstance(asked, bool) and (
            isinstance(asked, int) or (isinstance(asked, float) and asked.is_integer())
        )
        value = int(asked) if good else asked
    elif kind == "IFloat":
        good = isinstance(asked, int | float) and not isinstance(asked, bool)
        value = float(asked) if good else asked
    elif kind == "IBoolean":
        good = isinstance(asked, bool)
    elif kind in ("IEnumeration", "IString"):
        good = isinstance(asked, str)
    elif kind == "ICommand":
        good = asked is True or asked == "execute"
    if good:
        return value
    raise ConfigError(
        f"camera feature {name} takes another kind of value", expected=allowed(node) or kind, found=repr(asked)
    )


def _same(node: Any, asked: Value, found: Value) -> bool:
    if isinstance(asked, float) and isinstance(found, float):
        step = float(node.inc) if node.has_inc() else 0.0
        return abs(asked - found) <= max(step, _FLOAT_TOLERANCE * abs(asked))
    return asked == found


def _execute(name: str, node: Any, sleep: Callable[[float], None]) -> None:
    node.execute()
    for _ in range(_COMMAND_POLLS):
        if node.is_done():
            return
        sleep(_COMMAND_POLL_S)
    raise CameraError(
        f"camera command {name} did not finish", expected=f"done in {_COMMAND_POLLS * _COMMAND_POLL_S:g} s"
    )


def write(node_map: Any, name: str, asked: Value, sleep: Callable[[float], None]) -> Written:
    """Writes one feature and reads it back.

    Raises CameraError where the camera lacks it, refuses it or keeps another value, ConfigError where the value has the
    wrong type. A broken link raises the binding's own ``gentl`` exception."""
    node = find(node_map, name)
    value = _convert(name, node, asked)
    access = int(node.node.get_access_mode())
    if access not in _WRITABLE:
        raise CameraError(
            f"camera feature {name} cannot be written", expected="write access", found=_ACCESS.get(access, "?")
        )
    try:
        if _kind(node) == "ICommand":
            _execute(name, node, sleep)
            return Written(name, asked, True)
        node.value = value
        found = read(node) if access in _READABLE else value
    except _binding_errors() as error:
        raise CameraError(
            f"the camera refuses {name} = {asked!r}: {_reason(error)}", expected=allowed(node) or "another value"
        ) from error
    if not _same(node, value, found):
        raise CameraError(
            f"the camera did not keep {name} = {asked!r}",
            expected=allowed(node),
            found=f"{found!r} read back",
            do="Write a value that it can keep.",
        )
    return Written(name, asked, found, str(node.unit) if _kind(node) in ("IInteger", "IFloat") else "")


def write_all(node_map: Any, features: Sequence[Feature], sleep: Callable[[float], None]) -> list[Written]:
    """All features, in order; the first fault ends it."""
    return [write(node_map, name, value, sleep) for name, value in features]


def image_size(node_map: Any) -> tuple[int, int]:
    """(width, height) in pixels of the frames to come.

    Raises ConfigError unless the camera is set to Mono8 and to continuous acquisition, the only ones the line reads."""
    found = read(find(node_map, "PixelFormat"))
    if found != "Mono8":
        raise ConfigError(
            "the camera sends another pixel format",
            expected="PixelFormat = Mono8",
            found=str(found),
            do=f"Add PixelFormat = Mono8 to the features; this camera has {', '.join(node_map.PixelFormat.symbolics)}.",
        )
    if node_map.has_node("AcquisitionMode") and read(node_map.AcquisitionMode) != "Continuous":
        raise ConfigError(
            "the camera stops by itself",
            expected="AcquisitionMode = Continuous",
            found=str(read(node_map.AcquisitionMode)),
        )
    return int(read(find(node_map, "Width"))), int(read(find(node_map, "Height")))


def check_window(window: tuple[int, int, int, int] | None, width: int, height: int) -> tuple[int, int, int, int]:
    """The ROI window (x, y, width, height) in pixels, or the whole image for None. Raises ConfigError if outside."""
    if window is None:
        return 0, 0, width, height
    x, y, w, h = window
    if x < 0 or y < 0 or w < 1 or h < 1 or x + w > width or y + h > height:
        raise ConfigError(
            "the ROI window lies outside the image",
            expected=f"x + width <= {width}, y + height <= {height}",
            found=f"x {x}, y {y}, width {w}, height {h}",
        )
    return window


def answers(node_map: Any) -> bool:
    """Whether the camera itself still answers: reads one register past the cache, whatever it holds."""
    from genicam import genapi, gentl

    for name in ("DeviceTemperature", "PayloadSize", "Width", "DeviceSerialNumber"):
        if not node_map.has_node(name):
            continue
        node = getattr(node_map, name)
        try:
            if int(node.node.get_access_mode()) not in _READABLE:
                continue
            node.get_value(False, True)
        except (genapi.GenericException, gentl.GenericException):
            return False
        return True
    return True  # a camera without any of these cannot be asked; silence alone proves nothing
