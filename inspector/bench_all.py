"""Every runnable back end and precision of a bundle side by side, on the same frames, in turn, in one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from inspector.clock import Clock, SystemClock
from inspector.config import Settings
from inspector.engine.bundle import Bundle
from inspector.engine.choose import candidates, installed, open_fp32, open_plan
from inspector.engine.cpu import CpuOptions
from inspector.figures import percentiles
from inspector.frame import FloatMap
from inspector.recipe import read_ingredients

TURN = 10
"""Frames per engine and turn: all rows see the same disturbances of the machine."""


def bench_all(settings: Settings, *, frames: int, clock: Clock | None = None) -> list[dict[str, Any]]:
    """One row per engine: backend, precision, p50_ms, p99_ms, speedup over FP32 OpenVINO, why_not for plans that
    do not fit. The row ``bare`` is OpenVINO's own loop in FP32 without this project's engine around it."""
    clock = clock or SystemClock()
    bundle = read_ingredients(settings, clock).bundle
    options = CpuOptions(settings.engine.threads, settings.engine.pinning)
    images, _ = bundle.golden()
    tensors = [bundle.normalise(image[None]) for image in images]
    engines, refused = _open_all(bundle, options)
    calls = {name: engine.infer for name, engine in engines.items()} | {"bare openvino fp32": _bare(bundle, options)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    try:
        for call in calls.values():
            call(tensors[0])
        for start in range(0, frames, TURN):
            for name, call in calls.items():
                for number in range(start, min(start + TURN, frames)):
                    t0 = clock.now_ns()
                    call(tensors[number % len(tensors)])
                    times[name].append((clock.now_ns() - t0) / 1e6)
    finally:
        for engine in engines.values():
            engine.close()
    base = percentiles(times["openvino fp32"]).p50 or 1.0
    rows = [_row(name, series, base) for name, series in times.items()]
    return [*sorted(rows, key=lambda row: float(row["p50_ms"])), *refused]


def _open_all(bundle: Bundle, options: CpuOptions) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    engines: dict[str, Any] = {
        f"{runtime} fp32": open_fp32(bundle, runtime, options)
        for runtime in ("openvino", "onnxruntime")
        if installed(runtime)
    }
    refused: list[dict[str, Any]] = []
    for candidate in candidates(bundle):
        name = f"{candidate.plan.backend} {candidate.plan.precision} plan"
        if candidate.fits:
            engines[name] = open_plan(bundle, candidate.plan, options)
        else:
            refused.append({"engine": name, "why_not": candidate.why_not})
    return engines, refused


def _bare(bundle: Bundle, options: CpuOptions) -> Callable[[FloatMap], Any]:
    import openvino

    from inspector.engine.openvino import properties

    compiled = openvino.Core().compile_model(str(bundle.onnx_path), "CPU", properties(options, "f32"))
    request = compiled.create_infer_request()
    held = np.empty((1, 1, bundle.height, bundle.width), np.float32)
    request.set_input_tensor(openvino.Tensor(held, shared_memory=True))

    def call(tensor: FloatMap) -> Any:
        held[...] = tensor
        request.infer()
        return request.get_output_tensor().data

    return call


def _row(name: str, series: list[float], base_ms: float) -> dict[str, Any]:
    found = percentiles(series)
    return {
        "engine": name,
        "p50_ms": found.p50,
        "p99_ms": found.p99,
        "speedup": base_ms / found.p50 if found.p50 else None,
    }
