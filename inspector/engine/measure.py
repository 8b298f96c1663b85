"""A plan against FP32: maps, masks, verdicts, and latency in the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inspector.clock import Clock
from inspector.engine import Engine
from inspector.engine.bundle import Bundle
from inspector.engine.proof import iou, overlap, warm_up
from inspector.frame import BoolMap, FloatMap, Grey

Judge = Callable[[FloatMap], str]
"""H x W probabilities -> the verdict's word; the decision stage itself, handed in by the command line."""
Progress = Callable[[str, int, int], None]
"""What is being done, how many of it are done, and of how many."""


@dataclass(frozen=True, eq=False)
class ProofImages:
    """What a plan is calibrated and proven on."""

    images: Grey
    """n x H x W uint8, as the network sees them before normalisation."""
    source: str
    """Where they are from, in words."""
    names: tuple[str, ...] = ()
    masks: BoolMap | None = None
    """n x H x W, True = defect; None where they are not known."""

    def take(self, numbers: Sequence[int], source: str) -> ProofImages:
        """Some of them, called otherwise."""
        chosen = list(numbers)
        names = tuple(self.names[n] for n in chosen) if self.names else ()
        return ProofImages(self.images[chosen], source, names, None if self.masks is None else self.masks[chosen])


@dataclass(frozen=True, eq=False)
class Reference:
    """The images and what FP32 by onnxruntime makes of them."""

    images: ProofImages
    maps: FloatMap
    """n x H x W float32."""
    verdicts: tuple[str, ...]

    def take(self, numbers: Sequence[int], source: str) -> Reference:
        """Some of the images with their maps and verdicts."""
        chosen = list(numbers)
        return Reference(self.images.take(chosen, source), self.maps[chosen], tuple(self.verdicts[n] for n in chosen))


def refer(bundle: Bundle, images: ProofImages, judge: Judge, progress: Progress) -> Reference:
    """FP32 maps and verdicts of every image."""
    from inspector.engine.reference import reference_maps

    content = bundle.onnx_path.read_bytes()
    count = len(images.images)
    maps = np.empty(images.images.shape, np.float32)
    for start in range(0, count, 16):
        maps[start : start + 16] = reference_maps(content, bundle.normalise(images.images[start : start + 16]))[:, 0]
        progress("FP32 reference", min(start + 16, count), count)
    return Reference(images, maps, tuple(judge(one) for one in maps))


def compare(engine: Engine, bundle: Bundle, reference: Reference, judge: Judge, progress: Progress) -> dict[str, Any]:
    """The passport's ``parity`` as JSON: see manifest.Parity."""
    images, names = reference.images.images, reference.images.names
    count = len(images)
    masks = reference.images.masks
    largest, total, both, either, worst = 0.0, 0.0, 0, 0, 1.0
    true = np.zeros((2, 2), np.int64)  # plan and FP32: pixels in both masks, in either one
    flipped = []
    for index in range(count):
        found = engine.infer(bundle.normalise(images[index : index + 1]))[0, 0]
        difference = np.abs(np.nan_to_num(found, nan=2.0, posinf=2.0, neginf=2.0) - reference.maps[index])
        largest, total = max(largest, float(difference.max())), total + float(difference.mean())
        pair = overlap(reference.maps[index], found, bundle.threshold)
        both, either, worst = both + pair[0], either + pair[1], min(worst, iou(*pair))
        if masks is not None:
            for row, one in enumerate((found, reference.maps[index])):
                mask = one >= bundle.threshold
                true[row] += np.count_nonzero(mask & masks[index]), np.count_nonzero(mask | masks[index])
        if judge(found) != reference.verdicts[index]:
            flipped.append(names[index] if names else f"image {index}")
        progress("parity", index + 1, count)
    return {
        "images": count,
        "source": reference.images.source,
        "max_abs_diff": largest,
        "mean_abs_diff": total / count,
        "mask_iou": iou(both, either),
        "mask_iou_worst": worst,
        "verdict_flips": len(flipped),
        "flipped": flipped[:100],
        "iou": None if masks is None else iou(*map(int, true[0])),
        "fp32_iou": None if masks is None else iou(*map(int, true[1])),
        "input_mean": float(images.mean()),
        "input_std": float(images.std()),
        "input_min": float(images.min()),
        "input_max": float(images.max()),
    }


Turns = dict[str, list[list[int]]]
"""By engine: nanoseconds of single inferences, turn by turn; turn n of all engines was taken side by side."""


def take_turns(
    engines: dict[str, Engine],
    batch: FloatMap,
    clock: Clock,
    progress: Progress,
    runs: int = 1000,
    budget_s: float = 30.0,
) -> Turns:
    """Time ``infer`` of each engine, ten at a time in alternation, so that load on the machine falls on all alike.

    Ends after ``runs`` each, or when ``budget_s`` is used up, but not before 50.
    """
    block = 10
    taken: Turns = {name: [] for name in engines}
    for engine in engines.values():
        warm_up(engine)
    start_ns = clock.now_ns()
    done = 0
    while done < runs and (done < 50 or clock.now_ns() - start_ns < budget_s * 1e9):
        for name, engine in engines.items():
            engine.infer(batch)  # the first after the other engine finds cold caches
            turn = []
            for _ in range(block):
                before_ns = clock.now_ns()
                engine.infer(batch)
                turn.append(clock.now_ns() - before_ns)
            taken[name].append(turn)
        done += block
        progress("latency", done, runs)
    return taken


def latency(turns: Turns) -> dict[str, dict[str, Any]]:
    """By engine, milliseconds of single inferences: {runs, p50, p99, p999}."""
    return {name: percentiles([time for turn in taken for time in turn]) for name, taken in turns.items()}


def times_faster(turns: Turns, name: str, than: str) -> float:
    """Median over the turns of the two engines' ratio of medians: a burst of load spoils turns, not the figure."""
    pairs = zip(turns[than], turns[name], strict=True)
    return float(np.median([np.median(slow) / np.median(fast) for slow, fast in pairs]))


def percentiles(times_ns: list[int]) -> dict[str, Any]:
    """{runs, p50, p99, p999} in milliseconds."""
    p50, p99, p999 = (float(p) / 1e6 for p in np.percentile(times_ns, [50, 99, 99.9]))
    return {"runs": len(times_ns), "p50": p50, "p99": p99, "p999": p999}
