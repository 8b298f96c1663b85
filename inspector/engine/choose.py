"""Which plan runs here, and why. What was named is opened or refused; only ``auto`` chooses, and it says its reason."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inspector.engine import Engine, EngineInfo
from inspector.engine.bundle import MANIFEST, Bundle
from inspector.engine.cpu import CpuOptions, plan_hash
from inspector.engine.files import check_trusted, sha256
from inspector.engine.machine import cpu
from inspector.engine.proof import SelfTest, rebuild_command, self_test, warm_up
from inspector.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from inspector.engine.manifest import Passport

__all__ = ["Candidate", "Opened", "SelfTest", "candidates", "open_engine", "open_plan", "self_test", "warm_up"]

SUPPORTED = {
    "openvino": ("fp32", "fp16", "bf16", "int8"),
    "onnxruntime": ("fp32",),
    "tensorrt": ("fp32", "fp16", "int8"),
}
"""Which precision each back end offers; fp16 of OpenVINO is FP16 weights with FP32 arithmetic."""
INSTALL = {
    "openvino": "pip install 'openvino>=2025.4'",
    "onnxruntime": "pip install 'onnxruntime>=1.22'",
    "tensorrt": "pip install 'inspector[tensorrt]' --extra-index-url https://pypi.nvidia.com",
}
_MODULES = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime",), "tensorrt": ("tensorrt", "pycuda")}


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine, and why it is this one: the words of the first log line."""

    engine: Engine
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan of the bundle, seen from this machine."""

    plan: Passport
    fits: bool
    why_not: str = ""
    """What is in the way and the command that clears it; empty where it fits."""


def candidates(bundle: Bundle) -> list[Candidate]:
    """Every plan of the bundle and whether it fits this machine, its files held to their hashes."""
    whys = [(plan, _why_not(bundle, plan) or _why_damaged(bundle, plan)) for plan in bundle.plans]
    return [Candidate(plan, not why, why) for plan, why in whys]


def open_engine(
    bundle: Bundle,
    *,
    backend: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    pinning: bool = False,
    cache_dir: Path | None = None,
    throughput: bool = False,
) -> Opened:
    """Open the plan that is named, or with ``auto`` the fastest proven one that fits, else FP32 from the ONNX itself.

    ``threads``: 0 = physical cores that this process may use. ``throughput``: several images at a time, for replay.
    Raises EngineError where what is named is missing or stale, ConfigError for a word that means nothing.
    """
    check_names(backend, precision)
    options, remark = CpuOptions(threads, pinning, cache_dir, throughput), ""
    if cache_dir is not None:
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            options = CpuOptions(threads, pinning, None, throughput)
            remark = f"; compiled models are not kept: {cache_dir}: {error.strerror}"
    if backend != "auto":
        require_installed(backend)
    # Hashes are held when a plan is opened: one that was chosen and is damaged is an error, nothing to step over.
    wanted = [
        Candidate(plan, not why, why)
        for plan in bundle.plans
        if backend in {"auto", plan.backend} and precision in {"auto", plan.precision}
        for why in [_why_not(bundle, plan)]
    ]
    from_onnx = precision in {"auto", "fp32"} and backend != "tensorrt"
    best = _best(wanted, named="auto" not in {backend, precision}, from_onnx=from_onnx)
    if best is not None:
        engine = open_plan(bundle, best.plan, options)
        return Opened(engine, _reason(best.plan, wanted, backend, precision) + remark)
    if not from_onnx:
        raise _refusal(bundle, wanted, backend, precision)
    runtime = "openvino" if backend == "auto" else backend
    engine = open_fp32(bundle, runtime, options)
    return Opened(engine, _reason_fp32(wanted, backend, precision, runtime) + remark)


def check_names(backend: str, precision: str) -> None:
    """Raise ConfigError unless there is such a back end and it offers the precision; ``auto`` is both."""
    offered = {backend: SUPPORTED[backend]} if backend in SUPPORTED else SUPPORTED if backend == "auto" else {}
    if not any(precision in (*precisions, "auto") for precisions in offered.values()):
        raise ConfigError(
            f"there is no engine {backend} {precision}",
            expected="; ".join(f"{name}: {', '.join(precisions)}" for name, precisions in SUPPORTED.items()),
        )


def open_plan(bundle: Bundle, plan: Passport, options: CpuOptions) -> Engine:
    """Open one plan after its file hashes, whatever the passport says of its speed. Raises EngineError."""
    rebuild = f"Rebuild it: {rebuild_command(bundle, plan.backend, plan.precision)}"
    for entry in plan.files[1:]:
        bundle.read(entry.file, entry.sha256, rebuild)
    if plan.backend == "tensorrt":
        check_trusted(bundle.name, bundle.file(plan.files[0].file))
        check_trusted(bundle.name, bundle.path / MANIFEST)
    content = bundle.read(plan.files[0].file, plan.files[0].sha256, rebuild)
    info = EngineInfo(
        bundle=bundle.name,
        backend=plan.backend,
        backend_version=plan.backend_version,
        precision=plan.precision,
        device=plan.machine.device,
        onnx_hash=bundle.onnx_sha256,
        plan_hash=plan.plan_hash,
        input_height=bundle.height,
        input_width=bundle.width,
    )
    return open_file(bundle, bundle.file(plan.files[0].file), content, info, options, str(plan.settings["hint"]))


def open_file(bundle: Bundle, path: Path, content: bytes, info: EngineInfo, options: CpuOptions, hint: str) -> Engine:
    """Open a compiled plan that lies at ``path`` with ``content``; ``hint`` names the CPU arithmetic of FP layers."""
    match info.backend:
        case "openvino":
            from inspector.engine.openvino import OpenVinoEngine

            return OpenVinoEngine(path, info, options, hint)
        case "onnxruntime":
            from inspector.engine.onnx import OnnxEngine

            return OnnxEngine(content, info, options)
        case _:
            from inspector.engine.tensorrt import TensorRtEngine

            names = (bundle.input_name, bundle.output_name)
            return TensorRtEngine(content, info, options, names, rebuild_command(bundle, "tensorrt", info.precision))


def open_fp32(bundle: Bundle, runtime: str, options: CpuOptions) -> Engine:
    """FP32 on the CPU, compiled from the bundle's ONNX: needs no plan and no passport. Raises EngineError."""
    if runtime == "openvino":
        from inspector.engine.openvino import OpenVinoEngine, version

        return OpenVinoEngine(bundle.onnx_path, _fp32_info(bundle, runtime, version()), options)
    from inspector.engine.onnx import OnnxEngine
    from inspector.engine.onnx import version as runtime_version

    return OnnxEngine(bundle.onnx_path, _fp32_info(bundle, runtime, runtime_version()), options)


def _fp32_info(bundle: Bundle, runtime: str, version: str) -> EngineInfo:
    return EngineInfo(
        bundle=bundle.name,
        backend=runtime,
        backend_version=version,
        precision="fp32",
        device=cpu().name,
        onnx_hash=bundle.onnx_sha256,
        plan_hash=plan_hash([bundle.onnx_sha256], runtime, version, "fp32", "f32"),
        input_height=bundle.height,
        input_width=bundle.width,
    )


def installed(backend: str) -> bool:
    """Whether the back end's packages can be found (not whether its driver works)."""
    return all(importlib.util.find_spec(module) is not None for module in _MODULES[backend])


def require_installed(backend: str) -> None:
    """Raise EngineError with the command to install where the back end's packages are missing."""
    if not installed(backend):
        raise EngineError(
            f"back end {backend} is not installed",
            expected=f"the packages {' and '.join(_MODULES[backend])}",
            do=f"Install it: {INSTALL[backend]}",
        )


def _why_not(bundle: Bundle, plan: Passport) -> str:
    rebuild = f"rebuild it: {rebuild_command(bundle, plan.backend, plan.precision)}"
    if plan.onnx_sha256 != bundle.onnx_sha256:
        return f"it was built from another model.onnx; {rebuild}"
    if not installed(plan.backend):
        return f"{plan.backend} is not installed; {INSTALL[plan.backend]}"
    missing = [entry.file for entry in plan.files if not bundle.file(entry.file).is_file()]
    if missing:
        return f"{missing[0]} is missing; {rebuild}"
    if plan.backend == "tensorrt":
        from inspector.engine.tensorrt import why_stale

        stale = why_stale(plan.backend_version, plan.machine)
    else:
        stale = _why_stale_cpu(plan)
    return f"{stale}; {rebuild}" if stale else ""


def _why_damaged(bundle: Bundle, plan: Passport) -> str:
    for entry in plan.files:
        if sha256(bundle.file(entry.file).read_bytes()) != entry.sha256:
            command = rebuild_command(bundle, plan.backend, plan.precision)
            return f"{entry.file} is not the file that was proven; rebuild it: {command}"
    return ""


def _why_stale_cpu(plan: Passport) -> str:
    if plan.backend == "openvino":
        from inspector.engine.openvino import version
    else:
        from inspector.engine.onnx import version
    found = version()
    if plan.backend_version != found:
        return f"it was proven with {plan.backend} {plan.backend_version}, here is {found}"
    here = cpu()
    if tuple(plan.machine.isa) != here.isa:
        built, present = set(plan.machine.isa), set(here.isa)
        changes = [f"without {flag}" for flag in sorted(built - present)]
        changes += [f"with {flag}" for flag in sorted(present - built)]
        return f"it was proven on {plan.machine.device}, this is {here.name} {' '.join(changes)}"
    return ""


def _best(wanted: list[Candidate], *, named: bool, from_onnx: bool) -> Candidate | None:
    # A forced plan is beyond the parity limits: it runs only where back end and precision are both named.
    fitting = [c for c in wanted if c.fits and (named or not c.plan.forced)]
    # Each speed-up was taken against FP32 in the plan's own run; times of different runs do not compare.
    best = max(fitting, key=lambda c: (c.plan.speedup, c.plan.id), default=None)
    slower = best is not None and best.plan.speedup < 1.0
    return None if slower and from_onnx and not named else best


def _reason(plan: Passport, wanted: list[Candidate], backend: str, precision: str) -> str:
    if "auto" not in {backend, precision}:
        return f"named: {plan.backend} {plan.precision}" + (" (installed beyond its limits)" if plan.forced else "")
    fitting = sum(c.fits for c in wanted)
    return (
        f"auto: {plan.id} is the fastest of {fitting} proven plans that fit this machine, "
        f"{plan.speedup:.1f}x FP32 when it was built"
    )


def _reason_fp32(wanted: list[Candidate], backend: str, precision: str, runtime: str) -> str:
    if "auto" not in {backend, precision} or precision == "fp32":
        return f"named: {runtime} fp32"
    if not wanted:
        return f"auto: the bundle has no plan for this, so {runtime} fp32 from the ONNX"
    why = "; ".join(
        f"{c.plan.id}: "
        + (c.why_not or ("installed beyond its limits" if c.plan.forced else f"{c.plan.speedup:.2f}x FP32, slower"))
        for c in wanted
    )
    return f"auto: {runtime} fp32 from the ONNX, because no plan is better here ({why})"


def _refusal(bundle: Bundle, wanted: list[Candidate], backend: str, precision: str) -> EngineError:
    build = "openvino" if backend == "auto" else backend
    command = rebuild_command(bundle, build, "fp16" if precision == "auto" else precision)
    what = f"bundle {bundle.name} has no plan for {backend} {precision} that may run here"
    if not wanted:
        return EngineError(what, found="none built", do=f"Build it: {command}")
    reasons = [c.why_not or f"it is beyond its limits; name it: --precision {c.plan.precision}" for c in wanted]
    return EngineError(what, found="; ".join(f"{c.plan.id}: {r}" for c, r in zip(wanted, reasons, strict=True)))
