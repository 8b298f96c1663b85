"""OpenVINO on the CPU: the default back end.

Chosen for its measured speed (docs/results.md). It computes in bf16 by default on CPUs that have it, so the precision
is always set, and read back after compiling.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from inspector.engine import EngineInfo
from inspector.engine.cpu import CpuOptions, check_batch, closed
from inspector.errors import EngineError
from inspector.frame import FloatMap

HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}
"""Precision of the plan -> arithmetic of the layers that are not quantised. fp16 is a matter of stored weights here."""


def version() -> str:
    """Release and build, such as ``2026.4.1-22982-e213a147257``. Raises EngineError where OpenVINO is missing."""
    return str(_openvino().__version__).partition("-releases")[0]


def device_name() -> str:
    """OpenVINO's name for the CPU."""
    return str(_openvino().Core().get_property("CPU", "FULL_DEVICE_NAME"))


def properties(options: CpuOptions, hint: str) -> dict[str, Any]:
    """The compile-time properties for a latency or a throughput engine computing in ``hint`` (f32 or bf16)."""
    chosen: dict[str, Any] = {
        "PERFORMANCE_HINT": "THROUGHPUT" if options.throughput else "LATENCY",
        "INFERENCE_NUM_THREADS": options.thread_count,
        "INFERENCE_PRECISION_HINT": hint,
        "ENABLE_CPU_PINNING": options.pinning,
    }
    if not options.throughput:
        chosen["NUM_STREAMS"] = 1
    if options.cache_dir is not None:
        chosen["CACHE_DIR"] = str(options.cache_dir)
    return chosen


class OpenVinoEngine:
    """One compiled model with its own requests. One thread opens, runs and closes it."""

    def __init__(self, model: Path, info: EngineInfo, options: CpuOptions, hint: str = "") -> None:
        """Compile ``model`` (.onnx or .xml). ``hint``: f32 or bf16; empty = as ``info.precision`` asks.

        Raises EngineError where OpenVINO is missing, the CPU lacks the precision, or compiling fails."""
        self._info = info
        hint = hint or HINTS[info.precision]
        openvino = _openvino()
        core = openvino.Core()
        if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError(
                f"engine {info.bundle}: this CPU has no bf16 arithmetic",
                expected="avx512_bf16 or amx_bf16",
                do="Choose precision fp32 or int8.",
            )
        try:
            network = core.read_model(str(model))
            network.reshape([1, 1, info.input_height, info.input_width])
            compiled = core.compile_model(network, "CPU", properties(options, hint))
            applied = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") if options.throughput else 1
            self._requests = [compiled.create_infer_request() for _ in range(count)]
            size = (1, 1, info.input_height, info.input_width)
            self._inputs = [np.zeros(size, np.float32) for _ in self._requests]
            for request, array in zip(self._requests, self._inputs, strict=True):
                request.set_input_tensor(openvino.Tensor(array, shared_memory=True))
        except RuntimeError as error:
            raise EngineError(
                f"engine {info.bundle}: OpenVINO cannot compile {model.name}",
                found=_first_line(error),
                do="Export the bundle again, or name another back end.",
            ) from error
        if applied != hint:
            raise EngineError(
                f"engine {info.bundle}: OpenVINO took another precision", expected=hint, found=applied, do="Report it."
            )
        self._compiled: Any = compiled
        self.loaded_from_cache = bool(compiled.get_property("LOADED_FROM_CACHE"))

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def parallel(self) -> int:
        """How many images are computed at a time."""
        return len(self._requests)

    def infer(self, batch: FloatMap) -> FloatMap:
        """n x 1 x H x W float32, normalised -> n x 1 x H x W float32 probabilities, owned by the caller."""
        check_batch(self._info, batch)
        if not self._requests:
            raise closed(self._info)
        result = np.empty(batch.shape, np.float32)
        try:
            if len(self._requests) == 1:
                request, array = self._requests[0], self._inputs[0]
                for image, out in zip(batch, result, strict=True):
                    array[0] = image
                    request.infer()
                    out[...] = request.get_output_tensor().data[0]
            else:
                self._infer_overlapped(batch, result)
        except RuntimeError as error:
            self._drain()
            raise EngineError(
                f"engine {self._info.bundle}: OpenVINO failed",
                found=_first_line(error),
                do="Restart; if it persists, run `inspector engines` and name another plan.",
            ) from error
        return result

    def _infer_overlapped(self, batch: FloatMap, result: FloatMap) -> None:
        count = len(self._requests)
        for index in range(len(batch) + count):
            request, done = self._requests[index % count], index - count
            if 0 <= done < len(batch):
                request.wait()
                result[done] = request.get_output_tensor().data[0]
            if index < len(batch):
                self._inputs[index % count][0] = batch[index]
                request.start_async()

    def _drain(self) -> None:
        """After a failure nothing may still be reading the inputs that the next call fills."""
        for request in self._requests:
            with contextlib.suppress(RuntimeError):  # the failure that is being reported already
                request.wait()

    def close(self) -> None:
        """Release; idempotent."""
        self._requests = []
        self._inputs = []
        self._compiled = None


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EngineError(
            "OpenVINO is not installed", found=str(error), do="Install it: pip install 'openvino>=2025.4'."
        ) from error
    return openvino


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " / ".join(lines[:3])[:300] or type(error).__name__
