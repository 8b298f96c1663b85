"""Is this engine still the network that was proven? Differences to reference maps, and the self-test before READY."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inspector.engine import Engine
from inspector.engine.bundle import Bundle
from inspector.errors import EngineError
from inspector.frame import FloatMap

FP32_MAX_ABS_DIFF = 2e-3
"""FP32 back ends agree to about 1e-6; float16 storage of the reference adds up to 2.5e-4."""
SLACK_MAX_ABS_DIFF, SLACK_MASK_IOU = 5e-3, 0.01
"""What a plan may differ from its own passport: another number of threads rounds in another order."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the reference images showed, and what was allowed."""

    images: int
    max_abs_diff: float
    mask_iou: float
    max_abs_diff_limit: float
    mask_iou_limit: float


def overlap(reference: FloatMap, found: FloatMap, threshold: float, undecided: float = 0.0) -> tuple[int, int]:
    """Pixels in both masks and in either one.

    Pixels whose reference lies within ``undecided`` of the threshold are left out: the reference does not decide them.
    """
    a, b = reference >= threshold, found >= threshold
    if undecided:
        decided = np.abs(reference - np.float32(threshold)) > undecided
        a, b = a & decided, b & decided
    return int(np.count_nonzero(a & b)), int(np.count_nonzero(a | b))


def iou(both: int, either: int) -> float:
    """Intersection over union; 1 where neither mask has a pixel."""
    return both / either if either else 1.0


def compare_golden(engine: Engine, bundle: Bundle) -> tuple[int, float, float]:
    """Number of reference images, largest difference, mask IoU over all. Raises EngineError if not finite."""
    images, maps = bundle.golden()
    undecided = float(bundle.manifest["references"]["storage_error"])
    largest, both, either = 0.0, 0, 0
    for image, reference in zip(images, maps, strict=True):
        found = engine.infer(bundle.normalise(image[np.newaxis]))[0, 0]
        if not np.isfinite(found).all():
            raise EngineError(
                f"engine {engine.info.bundle} ({engine.info.backend} {engine.info.precision}) fails its self-test",
                expected="finite probabilities on the reference images",
                found=f"{int((~np.isfinite(found)).sum())} values that are not",
                do=_rebuild(engine, bundle),
            )
        largest = max(largest, float(np.abs(found - reference).max()))
        pair = overlap(reference, found, bundle.threshold, undecided)
        both, either = both + pair[0], either + pair[1]
    return len(images), largest, iou(both, either)


def self_test(engine: Engine, bundle: Bundle) -> SelfTest:
    """Run the bundle's reference images and hold the maps to the plan's passport, or to FP32 where it has none.

    Raises EngineError where a value is not finite or a difference is beyond the limit: the engine must not be used.
    """
    info = engine.info
    passport = next((plan for plan in bundle.plans if plan.plan_hash == info.plan_hash), None)
    if passport is not None:
        diff_limit = passport.reference_max_abs_diff + SLACK_MAX_ABS_DIFF
        iou_limit = passport.reference_mask_iou - SLACK_MASK_IOU
    elif info.precision == "fp32":
        diff_limit, iou_limit = FP32_MAX_ABS_DIFF, 0.98
    else:
        raise EngineError(
            f"engine {info.bundle} runs in {info.precision} without a passport",
            do=_rebuild(engine, bundle),
        )
    images, largest, mask_iou = compare_golden(engine, bundle)
    if largest > diff_limit or mask_iou < iou_limit:
        raise EngineError(
            f"engine {info.bundle} ({info.backend} {info.precision}) fails its self-test on {images} reference images",
            expected=f"maps within {diff_limit:.2g} of FP32 and mask IoU of at least {iou_limit:.3f}",
            found=f"{largest:.2g} and {mask_iou:.3f}",
            do=_rebuild(engine, bundle),
        )
    return SelfTest(images, largest, mask_iou, diff_limit, iou_limit)


def warm_up(engine: Engine, runs: int = 20) -> None:
    """Infer ``runs`` times, so that lazy loading and idle clocks do not hit the first part. Raises EngineError."""
    # Noise, not zeros: a blank image lets some kernels take short cuts.
    shape = (1, 1, engine.info.input_height, engine.info.input_width)
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    for _ in range(runs):
        engine.infer(noise)


def _rebuild(engine: Engine, bundle: Bundle) -> str:
    info = engine.info
    if info.precision == "fp32" and info.backend != "tensorrt":
        return "Restore the bundle or export it again; if it persists, name another back end."
    return f"Rebuild it: {rebuild_command(bundle, info.backend, info.precision)}"


def rebuild_command(bundle: Bundle, backend: str, precision: str) -> str:
    """The command that makes the plan anew on this machine."""
    return f"inspector build-engine {bundle.path} --backend {backend} --precision {precision}"
