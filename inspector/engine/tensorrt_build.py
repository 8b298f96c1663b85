"""Compile a TensorRT plan for this GPU: strongly typed, so the precision is what the ONNX says."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.engine import cuda
from inspector.engine.draft import Draft
from inspector.engine.files import write_atomically
from inspector.engine.graph import fix_batch
from inspector.engine.half import to_half
from inspector.engine.int8 import Calibration, Recipe, check_symmetric, quantise_onnx
from inspector.engine.manifest import Machine
from inspector.engine.tensorrt import Log, module
from inspector.errors import EngineError

if TYPE_CHECKING:
    from inspector.engine.bundle import Bundle
    from inspector.engine.measure import Progress

WORKSPACE_BYTES = 1 << 30
OPTIMISATION_LEVEL = 5
"""The highest: the network is small and is built seldom."""


def compile_tensorrt(
    bundle: Bundle,
    precision: str,
    staging: Path,
    recipe: Recipe | None,
    calibration: Calibration | None,
    progress: Progress,
) -> Draft:
    """Convert the ONNX to ``precision``, build, and leave plan and typed ONNX in ``staging``. Raises EngineError."""
    trt, gpu = module(), cuda.gpu()
    islands: tuple[str, ...] = ()
    settings: dict[str, Any] = {
        "workspace_bytes": WORKSPACE_BYTES,
        "optimisation_level": OPTIMISATION_LEVEL,
        "tf32": False,
        "strongly_typed": True,
    }
    typed = static_batch(bundle.onnx_path.read_bytes())
    if precision == "fp16":
        half = to_half(typed)
        typed, islands = half.onnx_bytes, half.islands
        settings["fp32_unknown"] = list(half.unknown)
    elif precision == "int8":
        if recipe is None or calibration is None:
            raise EngineError("INT8 needs calibration images", do="Name them with --images.")
        typed, kept = quantise_onnx(typed, calibration, recipe)
        islands = tuple(kept)
        settings |= {"kept": kept, **calibration.facts(recipe)}
    timing_path = timing_cache_path(bundle.path, str(trt.__version__), gpu.facts)
    with gpu.current("build the plan"):
        plan, timing = build_serialized(trt, typed, _read(timing_path), progress)
    timing_path.parent.mkdir(exist_ok=True)
    write_atomically(timing_path, timing)
    (staging / "engine.plan").write_bytes(plan)
    (staging / "typed.onnx").write_bytes(typed)
    machine = Machine(
        device=gpu.facts.name,
        driver=gpu.facts.driver,
        cuda=cuda_package(),
        compute_capability=gpu.facts.compute_capability,
        multiprocessors=gpu.facts.multiprocessors,
    )
    files = (staging / "engine.plan", staging / "typed.onnx")
    return Draft(files, str(trt.__version__), machine, "", settings, islands)


def static_batch(onnx_bytes: bytes) -> bytes:
    """The network with its batch fixed to 1."""
    import onnx

    model = onnx.load_model_from_string(onnx_bytes)
    fix_batch(model)
    data: bytes = model.SerializeToString()
    return data


def build_serialized(trt: Any, onnx_bytes: bytes, timing: bytes, progress: Progress) -> tuple[bytes, bytes]:
    """Plan and timing cache. Needs the CUDA context current. Raises EngineError with TensorRT's own words.

    Every explicit quantiser must be signed and symmetric: the parser only warns of others and then computes wrongly.
    """
    if _is_quantised(onnx_bytes):
        check_symmetric(onnx_bytes)
    log = Log(trt)
    try:
        builder = trt.Builder(log.logger)
    except TypeError as error:
        if "nullptr" not in str(error):  # what the binding makes of a NULL builder
            raise
        raise _error("its builder does not start, so the driver or CUDA is not usable", log.errors()) from error
    # The flag's number is 1 in TensorRT 10 and 0 in 11, where it is always on.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(onnx_bytes):
        reasons = " / ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise _error("it cannot read the network", reasons or log.errors())
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.builder_optimization_level = OPTIMISATION_LEVEL
    config.max_aux_streams = 0  # one stream: least cost to queue
    config.clear_flag(trt.BuilderFlag.TF32)  # or the FP32 islands would quietly run in TF32
    config.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    config.progress_monitor = _monitor(trt, progress)
    cache = config.create_timing_cache(timing)
    if timing and (cache is None or not config.set_timing_cache(cache, False)):
        cache = config.create_timing_cache(b"")  # one of another device or release: dropped, not fatal
        config.set_timing_cache(cache, False)
    elif cache is not None and not timing:
        config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _error("it cannot build the plan", log.errors())
    used = config.get_timing_cache()
    return bytes(plan), bytes(used.serialize()) if used is not None else b""


def timing_cache_path(bundle: Path, version: str, facts: cuda.GpuFacts) -> Path:
    """Where timings are kept for quicker rebuilds: a file by release and GPU, of no meaning to a running engine."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"timing-{version}-{facts.name}-sm{facts.compute_capability}")
    return bundle / "plans" / f"{name}.cache"


def cuda_package() -> str:
    """Which CUDA generation the installed TensorRT wheels are for: cu12, cu13, or empty where it came otherwise."""
    for generation in ("cu12", "cu13"):
        try:
            importlib.metadata.version(f"tensorrt-{generation}")
        except importlib.metadata.PackageNotFoundError:
            continue
        return generation
    return ""


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Called from several threads; anything but True cancels the build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                progress(f"TensorRT: {phase_name}", step, self.steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _is_quantised(onnx_bytes: bytes) -> bool:
    import onnx

    graph = onnx.load_model_from_string(onnx_bytes).graph
    return any(node.op_type in {"QuantizeLinear", "DequantizeLinear"} for node in graph.node)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _error(what: str, found: str) -> EngineError:
    return EngineError(
        f"TensorRT does not build the plan: {what}",
        found=found,
        do="Check the driver with nvidia-smi and the release with `pip show tensorrt-cu12 tensorrt-cu13`.",
    )
