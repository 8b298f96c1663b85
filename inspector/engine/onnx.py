"""onnxruntime on the CPU: the second back end, and the reference for parity. FP32 only.

Quantised QDQ graphs ran slower here than FP32 (docs/decisions/0004-int8-artefacts.md), so none is offered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inspector.engine import EngineInfo
from inspector.engine.cpu import CpuOptions, check_batch, closed
from inspector.errors import EngineError
from inspector.frame import FloatMap


def version() -> str:
    """The release. Raises EngineError where onnxruntime is missing."""
    return str(_onnxruntime().__version__)


class OnnxEngine:
    """One session. One thread opens, runs and closes it."""

    def __init__(self, model: Path | bytes, info: EngineInfo, options: CpuOptions) -> None:
        """Open a session on an ONNX file or its bytes. Raises EngineError where that fails."""
        self._info = info
        onnxruntime = _onnxruntime()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = options.thread_count
        settings.inter_op_num_threads = 1
        # Spinning gives the lowest p50 on dedicated cores and starves the neighbours on shared ones.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.pinning else "0")
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session: Any = onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise EngineError(
                f"engine {info.bundle}: onnxruntime cannot open the network",
                found=str(error).splitlines()[0][:300],
                do="Export the bundle again.",
            ) from error
        self._input = self._session.get_inputs()[0].name

    @property
    def info(self) -> EngineInfo:
        return self._info

    def infer(self, batch: FloatMap) -> FloatMap:
        """n x 1 x H x W float32, normalised -> n x 1 x H x W float32 probabilities, owned by the caller."""
        check_batch(self._info, batch)
        if self._session is None:
            raise closed(self._info)
        result = np.empty(batch.shape, np.float32)
        try:
            for index in range(len(batch)):
                image = np.ascontiguousarray(batch[index : index + 1])
                result[index] = self._session.run(None, {self._input: image})[0][0]
        except Exception as error:  # its exceptions share no base class
            raise EngineError(
                f"engine {self._info.bundle}: onnxruntime failed",
                found=str(error).splitlines()[0][:300],
                do="Restart; if it persists, run `inspector engines` and name another plan.",
            ) from error
        return result

    def close(self) -> None:
        """Release; idempotent."""
        self._session = None


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "onnxruntime is not installed", found=str(error), do="Install it: pip install 'onnxruntime>=1.22'."
        ) from error
    return onnxruntime
