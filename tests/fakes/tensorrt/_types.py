"""Enumerations and the classes that users derive from."""

from __future__ import annotations

import enum
from typing import Any

import fake_gpu as rules

_RELEASE = rules.setting("TRT_VERSION", "10.16.1.11")
_MAJOR = int(_RELEASE.split(".", maxsplit=1)[0])


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3


float32, float16, int8, int32 = DataType.FLOAT, DataType.HALF, DataType.INT8, DataType.INT32


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


# The numbers differ between the releases on purpose: nothing may depend on them.
NetworkDefinitionCreationFlag = enum.IntEnum(
    "NetworkDefinitionCreationFlag",
    {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1} if _MAJOR < 11 else {"STRONGLY_TYPED": 0},
)
BuilderFlag = enum.Enum("BuilderFlag", {"TF32": 7, "FP16": 0} if _MAJOR < 11 else {"TF32": 6})


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


def _checked_logger(logger: ILogger) -> ILogger:
    if not getattr(logger, "_ready", False):
        raise TypeError("tensorrt.ILogger.__init__() must be called when overriding __init__")
    return logger


class IProgressMonitor:
    def __init__(self) -> None:
        self._ready = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class IHostMemory(bytearray):
    """The real one is a buffer."""

    @property
    def nbytes(self) -> int:
        return len(self)


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text
