"""engines, build-engine: which plans there are, whether they fit this machine, and making one that does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.cli.common import Commands, config_option, json_option, load, positive, print_json
from inspector.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from inspector.engine.build import Judge, Limits
    from inspector.recipe import Ingredients
    from inspector.sections import EngineSettings


def add(commands: Commands) -> None:
    """Add these commands."""
    commands.add("engines", "Bundles and plans, and whether they fit here", _engines, config_option, _list, json_option)
    commands.add(
        "build-engine",
        "Compile, prove and install a plan for this machine",
        _build,
        config_option,
        _options,
        json_option,
    )


def _list(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE", help="(default: beside the configuration's)")


def _engines(arguments: argparse.Namespace) -> int:
    chosen: list[Path] = arguments.bundles or _beside(load(arguments).settings.engine.bundle)
    told = [_bundle_json(path) for path in chosen]
    if arguments.json:
        print_json({"bundles": told})
        return 0 if all(not one["fault"] for one in told) else 3
    for one in told:
        print("\n".join(_bundle_lines(one)))
    return 0 if all(not one["fault"] for one in told) else 3


def _bundle_lines(one: dict[str, Any]) -> list[str]:
    """What a person reads of one bundle; figures of a plan are those of its own proof."""
    if one["fault"]:
        return [f"{one['path']}: {one['fault']}"]
    lines = [f"{one['path']}  network {one['onnx_sha256'][:16]}"]
    if not one["plans"]:
        return [*lines, "  no plan: FP32 is compiled from model.onnx at every start"]
    lines.append(f"  {'plan':<26} {'p50 ms':>7} {'x FP32':>7} {'mask IoU':>9} {'flips':>11}  on this machine")
    for plan in one["plans"]:
        flips = f"{plan['verdict_flips']} of {plan['images']}"
        figures = f"{plan['latency_p50_ms']:7.2f} {plan['speedup']:7.2f} {plan['mask_iou']:9.4f} {flips:>11}"
        fit = "fits" if plan["fits"] else f"does not fit: {plan['why_not']}"
        if plan["fits"] and plan["forced"]:
            fit = f"beyond its limits: runs only where named (--precision {plan['precision']})"
        lines.append(f"  {plan['id']:<26} {figures}  {fit}")
        lines.append(f"  {'':<26} {plan['device']}")
    return lines


def _beside(bundle: Path) -> list[Path]:
    found = sorted(manifest.parent for manifest in bundle.parent.glob("*/manifest.json"))
    return found or [bundle]


def _bundle_json(path: Path) -> dict[str, Any]:
    from inspector.engine.bundle import load_bundle
    from inspector.engine.choose import candidates

    try:
        bundle = load_bundle(path)
    except EngineError as error:
        return {"path": str(path), "fault": str(error), "plans": []}
    plans = [
        {
            "id": one.plan.id,
            "backend": one.plan.backend,
            "precision": one.plan.precision,
            "device": one.plan.machine.device,
            "fits": one.fits,
            "why_not": one.why_not,
            "forced": one.plan.forced,
            "plan_hash": one.plan.plan_hash,
            "verdict_flips": one.plan.parity.verdict_flips,
            "images": one.plan.parity.images,
            "mask_iou": one.plan.parity.mask_iou,
            "latency_p50_ms": one.plan.latency_ms.p50,
            "speedup": one.plan.speedup,
        }
        for one in candidates(bundle)
    ]
    return {"path": str(path), "fault": "", "onnx_sha256": bundle.onnx_sha256, "plans": plans}


# -- building --------------------------------------------------------------------------------------------------------


def _options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("bundle", type=Path, metavar="BUNDLE", help="engine bundle, such as engines/commutator")
    sub.add_argument("--backend", choices=("openvino", "onnxruntime", "tensorrt"), default="openvino")
    sub.add_argument("--precision", choices=("fp32", "fp16", "bf16", "int8"), default="fp32")
    sub.add_argument("--images", type=Path, metavar="DIR", help="prove on these (default: the reference images)")
    sub.add_argument("--layout", default="auto", help="of --images: auto, folder, kolektor-sdd, ...")
    sub.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    sub.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help="the training's split.json, where the bundle carries none: its training side calibrates, the other proves",
    )
    sub.add_argument("--threads", type=int, default=0, metavar="N", help="0 (default): all cores of this process")
    sub.add_argument("--force", action="store_true", help="install beyond the limits; it then runs only where named")


def _build(arguments: argparse.Namespace) -> int:
    from inspector.cli.proof_images import proof_images
    from inspector.clock import SystemClock
    from inspector.engine.build import build_plan
    from inspector.recipe import read_ingredients

    lost = [f"--{name}" for name in ("limit", "split") if getattr(arguments, name) is not None]
    if lost and arguments.images is None:
        raise ConfigError(f"{' and '.join(lost)} without images", expected="--images DIR beside it")
    arguments.engine = arguments.bundle  # the configuration's rules and calibration, this bundle
    settings = load(arguments).settings
    ingredients = read_ingredients(settings, SystemClock())
    images = calibration = None
    if arguments.images is not None:
        images, calibration = proof_images(arguments, ingredients)
    report = build_plan(
        ingredients.bundle,
        arguments.backend,
        arguments.precision,
        judge=judge(ingredients),
        images=images,
        calibration=calibration,
        limits=_limits(settings.engine),
        force=arguments.force,
        threads=arguments.threads,
        progress=_progress,
    )
    if arguments.json:
        print_json(report)
    else:
        print("\n".join(_report_lines(report, ingredients.bundle.path)))
    return 0 if report["installed"] else 1


def judge(ingredients: Ingredients) -> Judge:
    """The decision stage itself: a flip is a part that would be sorted otherwise."""
    from inspector.decision import decide
    from inspector.frame import FloatMap, Geometry

    def verdict(scores: FloatMap) -> str:
        return decide(scores, ingredients.rules, Geometry())[0].verdict.value

    return verdict


def _report_lines(report: dict[str, Any], bundle: Path) -> list[str]:
    """The proof as a person reads it: what was asked, what came out, and whether it was installed."""
    plan, parity = report["plan"], report["plan"]["parity"]
    lines = [f"{report['backend']} {report['precision']} on {report['device']}", f"  proven on     {parity['source']}"]
    if "calibration_source" in plan["settings"]:
        lines.append(f"  calibrated on {plan['settings']['calibration_source']}")
    if len(report["attempts"]) > 1 or report["attempts"][0]["recipe"]:
        lines.append(f"  {'tried, the fastest first':<40} {'mask IoU':>9} {'flips':>6}")
        for tried in report["attempts"]:
            found = f"{tried['mask_iou']:9.4f} {tried['verdict_flips']:6}"
            lines.append(f"    {tried['recipe']:<38} {found}  {'beyond the limits' if tried['beyond'] else 'within'}")
    bound = 100 * report["flips_upper95"]
    lines.append(
        f"  verdict flips {report['verdict_flips']} of {report['images']} images, at most {bound:.2g} % (95 %)"
    )
    if parity["flipped"]:
        lines.append(f"                {', '.join(parity['flipped'][:5])}")
    lines.append(f"  mask IoU      {report['mask_iou']:.4f} with FP32, the worst image {parity['mask_iou_worst']:.4f}")
    if report["iou"] is not None:
        lines.append(f"  IoU           {report['iou']:.4f} with the true masks, FP32 {report['fp32_iou']:.4f}")
    lines.append(
        f"  probability   off by {parity['mean_abs_diff']:.2g} on average, {parity['max_abs_diff']:.3g} at most"
    )
    for name, key in (("plan", "latency_ms"), ("FP32", "fp32_latency_ms")):
        took = report[key]
        lines.append(f"  {name:<13} p50 {took['p50']:.2f} ms, p99 {took['p99']:.2f} ms ({took['runs']} runs)")
    lines.append(f"  speed-up      {report['speedup']:.2f} x FP32 in the same run")
    if report["installed"]:
        forced = f" although {'; '.join(report['beyond'])}" if report["beyond"] else ""
        return [*lines, f"installed in {bundle} as {plan['id']}{forced}"]
    return [*lines, f"NOT installed: {'; '.join(report['beyond'])}", "  --force installs it all the same"]


def _limits(settings: EngineSettings) -> Limits:
    from inspector.engine.build import Limits

    return Limits(
        verdict_flips=settings.max_verdict_flips, mask_iou=settings.min_mask_iou, iou_loss=settings.max_iou_loss
    )


def _progress(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}: {done} of {of}", end="" if done < of else "\n", file=sys.stderr, flush=True)
