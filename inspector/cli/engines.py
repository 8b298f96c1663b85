"""engines, build-engine: which plans there are, whether they fit this machine, and making one that does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.cli.common import Commands, config_option, json_option, load, positive, print_figures, print_json
from inspector.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from inspector.engine.build import Judge, ProofImages
    from inspector.recipe import Ingredients


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
        print(f"{one['path']}: {one['fault'] or one['onnx_sha256'][:16]}")
        for plan in one["plans"]:
            fit = "fits" if plan["fits"] else plan["why_not"]
            figures = (
                f"p50 {plan['latency_p50_ms']:.2f} ms, {plan['speedup']:.2f} x FP32, {plan['verdict_flips']} flips"
            )
            print(f"  {plan['backend']:<12} {plan['precision']:<5} {plan['device']:<28} {figures}: {fit}")
        if not one["fault"] and not one["plans"]:
            print("  no plans: FP32 is compiled from model.onnx at every start")
    return 0 if all(not one["fault"] for one in told) else 3


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
    sub.add_argument("--threads", type=int, default=0, metavar="N", help="0 (default): all cores of this process")
    sub.add_argument("--force", action="store_true", help="install beyond the limits; it then runs only where named")


def _build(arguments: argparse.Namespace) -> int:
    from inspector.clock import SystemClock
    from inspector.engine.build import build_plan
    from inspector.recipe import read_ingredients

    arguments.engine = arguments.bundle  # the configuration's rules and calibration, this bundle
    ingredients = read_ingredients(load(arguments).settings, SystemClock())
    images = _images(arguments, ingredients) if arguments.images is not None else None
    report = build_plan(
        ingredients.bundle,
        arguments.backend,
        arguments.precision,
        judge=judge(ingredients),
        images=images,
        force=arguments.force,
        threads=arguments.threads,
        progress=_progress,
    )
    if arguments.json:
        print_json(report)
    else:
        print_figures({key: value for key, value in report.items() if key not in ("plan", "attempts")})
    return 0 if report["installed"] else 1


def judge(ingredients: Ingredients) -> Judge:
    """The decision stage itself: a flip is a part that would be sorted otherwise."""
    from inspector.decision import decide
    from inspector.frame import FloatMap, Geometry

    def verdict(scores: FloatMap) -> str:
        return decide(scores, ingredients.rules, Geometry())[0].verdict.value

    return verdict


def _images(arguments: argparse.Namespace, ingredients: Ingredients) -> ProofImages:
    """The folder's images as the network sees them on the line; parts that are not found are left out and told."""
    import numpy as np

    from inspector.engine.build import ProofImages
    from inspector.frame import Crop, Frame
    from inspector.layouts import list_samples, read_grey

    crops, names, lost = [], [], 0
    for number, sample in enumerate(
        list_samples(arguments.images, arguments.layout, read_masks=False)[: arguments.limit], start=1
    ):
        crop = ingredients.preprocess.prepare(Frame(number, read_grey(sample.image), 0))
        if isinstance(crop, Crop):
            crops.append(crop.image)
            names.append(sample.id)
        else:
            lost += 1
    if not crops:
        raise ConfigError(f"no image of {arguments.images} shows a part", do="Give the station's --config.")
    if lost:
        print(f"{lost} images are left out: no part was found in them", file=sys.stderr)
    return ProofImages(np.stack(crops), f"{len(crops)} images of {arguments.images.name}", tuple(names))


def _progress(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}: {done} of {of}", end="" if done < of else "\n", file=sys.stderr, flush=True)
