"""Compile a plan for this machine, prove it against FP32, and enter it in the bundle with its passport.

Runs in its own process (``inspector build-engine``), never inside the daemon. The decision stage comes as a function:
engines and decisions are neighbours and do not know each other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inspector.bounds import upper_bound
from inspector.clock import Clock, SystemClock
from inspector.engine import Engine, EngineInfo
from inspector.engine.bundle import Bundle
from inspector.engine.choose import check_names, open_file, open_fp32, require_installed
from inspector.engine.cpu import CpuOptions, plan_hash
from inspector.engine.draft import Draft
from inspector.engine.files import sha256, utc
from inspector.engine.install import file_entries, install
from inspector.engine.int8 import LADDER, Calibration, Recipe
from inspector.engine.machine import cpu
from inspector.engine.manifest import Limits, Machine, Passport
from inspector.engine.measure import (
    Judge,
    Progress,
    ProofImages,
    Reference,
    Turns,
    compare,
    latency,
    refer,
    take_turns,
    times_faster,
)
from inspector.engine.proof import compare_golden
from inspector.errors import ConfigError

CALIBRATION_MOST = 300
"""More brought nothing (docs/decisions/0004-int8-artefacts.md)."""

__all__ = ["Judge", "Limits", "Progress", "ProofImages", "build_plan"]


@dataclass(frozen=True, eq=False)
class _Proven:
    draft: Draft
    info: EngineInfo
    parity: dict[str, Any]
    golden: tuple[int, float, float]
    beyond: list[str]


def _silent(what: str, done: int, of: int) -> None:
    pass


def build_plan(
    bundle: Bundle,
    backend: str,
    precision: str,
    *,
    judge: Judge,
    images: ProofImages | None = None,
    calibration: ProofImages | None = None,
    limits: Limits | None = None,
    force: bool = False,
    threads: int = 0,
    runs: int = 1000,
    recipes: Sequence[Recipe] = LADDER,
    progress: Progress = _silent,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Compile ``bundle`` for ``backend`` and ``precision`` here, prove it, install it if it is within ``limits``.

    ``images``: what to prove on; None = the bundle's reference images. ``calibration``: what to quantise INT8 with;
    None = up to half of ``images`` from 40 on, at most 300, which then prove nothing, and all where they are fewer.
    ``force`` installs a plan beyond the limits, which then runs only where it is named. Of the INT8 ``recipes`` the
    first within the limits is taken, else the nearest.
    ``threads``: 0 = physical cores that this process may use; ``runs``: inferences timed, fewer on a slow machine.
    Returns the report: backend, precision, device, verdict_flips, flips_upper95 (the share of parts that flip is at
    most this, one-sided exact 95 % bound), images, mask_iou, max_abs_diff, latency_ms,
    fp32_latency_ms, speedup, installed, beyond (why not), attempts, plan (the passport).
    Raises EngineError where it cannot be compiled, ConfigError for an unknown back end or precision.
    """
    if "auto" in {backend, precision}:
        raise ConfigError("a plan is built for one back end and one precision", found=f"{backend} {precision}")
    check_names(backend, precision)
    require_installed(backend)
    clock, limits = clock or SystemClock(), limits or Limits()
    images = _checked(bundle, images)
    options = CpuOptions(threads=threads)
    reference = refer(bundle, images, judge, progress)
    known, proof = None, reference
    if precision == "int8" and calibration is not None:
        dealt = calibration.take(deal(len(calibration.images)), calibration.source)
        known = _calibration(bundle, refer(bundle, _checked(bundle, dealt), judge, progress))
    elif precision == "int8":
        known, proof = _split(bundle, reference)
    attempts: list[dict[str, Any]] = []
    best: _Proven | None = None
    # Beside the plans, so that a finished plan moves in by renaming.
    with tempfile.TemporaryDirectory(prefix=".building-", dir=bundle.path) as scratch:
        ways = _ways(recipes, backend) if precision == "int8" else [None]
        for number, recipe in enumerate(ways):
            staging = Path(scratch) / str(number)
            staging.mkdir()
            progress(f"compile {backend} {precision}" + (f": {recipe.name}" if recipe else ""), number, len(ways))
            draft = _compile(bundle, backend, precision, staging, recipe, known, options.thread_count, progress)
            proven = _prove(bundle, backend, precision, draft, options, proof, judge, limits, progress)
            attempts.append({"recipe": recipe.name if recipe else "", **_figures(proven), "beyond": proven.beyond})
            if best is None or _rank(proven) < _rank(best):
                best = proven
            if not proven.beyond:
                break
        if best is None:
            raise ConfigError("INT8 needs at least one recipe")
        turns = _race(bundle, best, options, runs, clock, progress)
        return _conclude(bundle, best, turns, limits, force, attempts, utc(clock.wall_ns()))


def _checked(bundle: Bundle, images: ProofImages | None) -> ProofImages:
    if images is None:
        images = ProofImages(bundle.golden()[0], "the bundle's reference images")
    shape, size = images.images.shape, (bundle.height, bundle.width)
    if len(shape) != 3 or not shape[0] or shape[1:] != size or images.images.dtype != np.uint8:
        raise ConfigError(
            "these images do not fit the network",
            expected=f"n x {size[0]} x {size[1]} uint8, n >= 1",
            found=f"{shape} {images.images.dtype}",
        )
    return images


def _ways(recipes: Sequence[Recipe], backend: str) -> list[Recipe]:
    return [recipe for recipe in recipes if backend == "openvino" or not recipe.folded]


def _split(bundle: Bundle, reference: Reference) -> tuple[Calibration, Reference]:
    """From 40 images on, up to half of them calibrate and the rest proves; fewer do both."""
    source, count = reference.images.source, len(reference.maps)
    if count < 40:
        both = reference.take(range(count), f"{source}, which calibrate too")
        return _calibration(bundle, reference), both
    dealt = deal(count, count // 2)
    rest = sorted(set(range(count)) - set(dealt))
    proof = reference.take(rest, f"{source} ({len(rest)} of them; not those of the calibration)")
    return _calibration(bundle, reference.take(dealt, f"{source} ({len(dealt)} of them, dealt at random)")), proof


def _calibration(bundle: Bundle, reference: Reference) -> Calibration:
    images = reference.images
    return Calibration(bundle.normalise(images.images), reference.maps, bundle.threshold, images.source)


def deal(count: int, most: int = CALIBRATION_MOST) -> list[int]:
    """Which of ``count`` images calibrate, at most ``most`` and 300: at random but always the same ones.

    Lists of images are sorted by class, and NNCF takes the first.
    """
    return [int(n) for n in np.random.default_rng(0).permutation(count)[: min(most, CALIBRATION_MOST)]]


def _compile(
    bundle: Bundle,
    backend: str,
    precision: str,
    staging: Path,
    recipe: Recipe | None,
    calibration: Calibration | None,
    threads: int,
    progress: Progress,
) -> Draft:
    if backend == "tensorrt":
        from inspector.engine.tensorrt_build import compile_tensorrt

        return compile_tensorrt(bundle, precision, staging, recipe, calibration, progress)
    here = cpu()
    machine = Machine(device=here.name, isa=list(here.isa), threads=threads)
    if backend == "onnxruntime":
        from inspector.engine.onnx import version

        return Draft((bundle.onnx_path,), version(), machine, "f32")
    return _compile_openvino(bundle, precision, staging, recipe, calibration, machine)


def _compile_openvino(
    bundle: Bundle,
    precision: str,
    staging: Path,
    recipe: Recipe | None,
    calibration: Calibration | None,
    machine: Machine,
) -> Draft:
    import openvino

    from inspector.engine.int8 import quantise_openvino
    from inspector.engine.openvino import HINTS, version

    target = staging / "model.xml"
    files = (target, target.with_suffix(".bin"))
    if precision == "fp16":
        model = openvino.Core().read_model(str(bundle.onnx_path))
        openvino.save_model(model, str(target), compress_to_fp16=True)
        return Draft(files, version(), machine, "f32", {"weights": "fp16"})
    if recipe is not None and calibration is not None:
        kept = quantise_openvino(bundle.onnx_path, calibration, recipe, target)
        hint = recipe.floats if cpu().bf16 else "f32"
        return Draft(files, version(), machine, hint, {"kept": kept, **calibration.facts(recipe)})
    return Draft((bundle.onnx_path,), version(), machine, HINTS[precision])


def _prove(
    bundle: Bundle,
    backend: str,
    precision: str,
    draft: Draft,
    options: CpuOptions,
    reference: Reference,
    judge: Judge,
    limits: Limits,
    progress: Progress,
) -> _Proven:
    hashes = [sha256(path.read_bytes()) for path in draft.files]
    info = EngineInfo(
        bundle=bundle.name,
        backend=backend,
        backend_version=draft.version,
        precision=precision,
        device=draft.machine.device,
        onnx_hash=bundle.onnx_sha256,
        plan_hash=plan_hash(hashes, backend, draft.version, precision, draft.hint),
        input_height=bundle.height,
        input_width=bundle.width,
    )
    engine = _open(bundle, draft, info, options)
    try:
        parity = compare(engine, bundle, reference, judge, progress)
        golden = compare_golden(engine, bundle)
    finally:
        engine.close()
    beyond = []
    if parity["verdict_flips"] > limits.verdict_flips:
        beyond.append(f"{parity['verdict_flips']} verdicts flip, {limits.verdict_flips} may")
    if parity["mask_iou"] < limits.mask_iou:
        beyond.append(f"mask IoU with FP32 is {parity['mask_iou']:.4f}, at least {limits.mask_iou:g} is asked")
    loss = (parity["fp32_iou"] or 0.0) - (parity["iou"] or 0.0)
    if loss > limits.iou_loss:
        beyond.append(f"IoU with the true masks falls by {loss:.4f}, at most {limits.iou_loss:g} may be lost")
    if parity["max_abs_diff"] > limits.max_abs_diff:
        beyond.append(f"a probability differs by {parity['max_abs_diff']:.3g}, at most {limits.max_abs_diff:g} may")
    return _Proven(draft, info, parity, golden, beyond)


def _open(bundle: Bundle, draft: Draft, info: EngineInfo, options: CpuOptions) -> Engine:
    return open_file(bundle, draft.files[0], draft.files[0].read_bytes(), info, options, draft.hint)


def _figures(proven: _Proven) -> dict[str, Any]:
    keys = ("verdict_flips", "images", "mask_iou", "max_abs_diff", "iou", "fp32_iou")
    figures = {key: proven.parity[key] for key in keys}
    return figures | {"flips_upper95": upper_bound(figures["verdict_flips"], figures["images"])}


def _rank(proven: _Proven) -> tuple[bool, int, float]:
    return bool(proven.beyond), proven.parity["verdict_flips"], -proven.parity["mask_iou"]


def _race(bundle: Bundle, proven: _Proven, options: CpuOptions, runs: int, clock: Clock, progress: Progress) -> Turns:
    """Latencies of the plan and of OpenVINO FP32 on this machine's CPU."""
    plan = _open(bundle, proven.draft, proven.info, options)
    try:
        fp32 = open_fp32(bundle, "openvino", options)
        try:
            batch = bundle.normalise(bundle.golden()[0][:1])
            return take_turns({"plan": plan, "fp32": fp32}, batch, clock, progress, runs)
        finally:
            fp32.close()
    finally:
        plan.close()


def _conclude(
    bundle: Bundle,
    proven: _Proven,
    turns: Turns,
    limits: Limits,
    force: bool,
    attempts: list[dict[str, Any]],
    built: str,
) -> dict[str, Any]:
    """Write the passport; install the plan if it may be; the report."""
    draft, info = proven.draft, proven.info
    times, speedup = latency(turns), times_faster(turns, "plan", "fp32")
    plan_id = f"{info.backend}-{info.precision}-{info.plan_hash[:8]}"
    passport = {
        "id": plan_id,
        "backend": info.backend,
        "backend_version": info.backend_version,
        "precision": info.precision,
        "files": file_entries(bundle, draft.files, plan_id),
        "onnx_sha256": info.onnx_hash,
        "plan_hash": info.plan_hash,
        "built": built,
        "machine": draft.machine.model_dump(),
        "settings": {"hint": draft.hint, **draft.settings, **({"search": attempts} if len(attempts) > 1 else {})},
        "fp32_islands": list(draft.islands),
        "parity": proven.parity,
        "limits": limits.model_dump(),
        "forced": bool(proven.beyond),
        "reference_max_abs_diff": proven.golden[1],
        "reference_mask_iou": proven.golden[2],
        "latency_ms": times["plan"],
        "fp32_latency_ms": times["fp32"],
        "speedup": speedup,
        "notes": _notes(info.backend, info.precision, times["plan"]["runs"], proven.beyond),
    }
    Passport.model_validate(passport)
    installed = force or not proven.beyond
    if installed:
        install(bundle, passport, draft.files)
    return {
        "backend": info.backend,
        "precision": info.precision,
        "device": info.device,
        **_figures(proven),
        "latency_ms": times["plan"],
        "fp32_latency_ms": times["fp32"],
        "speedup": speedup,
        "installed": installed,
        "beyond": proven.beyond,
        "attempts": attempts,
        "plan": passport,
    }


def _notes(backend: str, precision: str, runs: int, beyond: list[str]) -> list[str]:
    notes = [f"installed by name although {reason}" for reason in beyond]
    if backend == "tensorrt" and precision == "fp16":
        notes.append("parity was taken on this GPU; FP16 accumulation is the GPU's own")
    if runs < 1000:
        notes.append(f"p99.9 is the maximum of {runs} runs")
    return notes
