"""How well and how fast parts are located, on synthetic frames with known shift and rotation, on one core.

    python benchmarks/locate.py [--frames 1000] [--seed 7] [--calibration calibration/synthetic.toml]

Prints one JSON object: error percentiles of the located frames, the share within 0.5 px and 0.2 degrees, times of
locating alone, of the whole preparation and of the flat field on 256 x 256, and how many blank, saturated and wrong
frames were refused, by reason. Wrong parts have another number of bars or another size, lie upside down, on their
side or a bar pitch away, are half covered, or are no part at all.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from inspector.camera.render import Style, render_part
from inspector.frame import Decision, Frame, Grey
from inspector.preprocess import NotFound, Preprocess, apply_flat_field, load_calibration
from inspector.preprocess.locate import Locator

Draw = Callable[[int], Grey]


def blank(rng: np.random.Generator) -> Grey:
    """An even frame with sensor noise, at any level from black to bright."""
    return np.clip(rng.normal(rng.uniform(0, 220), rng.uniform(0, 4), (400, 400)), 0, 255).astype(np.uint8)


def saturated(seed: int, index: int) -> Grey:
    """A part under three to twelve times the light it should have."""
    return np.asarray(np.clip(render_part(seed, index).image * (3.0 + index % 10), 0, 255), np.uint8)


def wrong(seed: int, index: int, rng: np.random.Generator) -> Grey:
    """One of the ways in which the part is not the part."""
    near = Style(shift_px=5.0)
    ways: list[Callable[[], Grey]] = [
        *(
            lambda bars=bars: render_part(seed, index, style=Style(bars=bars)).image
            for bars in (1, 2, 3, 4, 6, 7, 8, 10)
        ),
        *(
            lambda size=size: render_part(seed, index, style=Style(piece_px=size, shift_px=12.0)).image
            for size in ((240, 280), (266, 280), (280, 266), (270, 270), (292, 292))
        ),
        lambda: render_part(seed, index).image[::-1, ::-1],
        lambda: np.rot90(render_part(seed, index).image),
        lambda: np.roll(render_part(seed, index, style=near).image, 56 if index % 2 else -56, axis=1),
        lambda: np.hstack([np.full((400, 150), 28, np.uint8), render_part(seed, index).image[:, 150:]]),
        lambda: rng.integers(0, 256, (400, 400), dtype=np.uint8),
        lambda: np.asarray(cv2.resize(rng.integers(0, 256, (20, 20), dtype=np.uint8), (400, 400)), np.uint8),
    ]
    return np.ascontiguousarray(ways[index % len(ways)]())


def timed(repeat: int, work: Callable[[int], object]) -> dict[str, float]:
    """p50 and p99 in milliseconds, by the clock and by the processor time of this thread: on a machine that does other
    work besides, the first holds the waiting for a core too."""
    clock, processor = [], []
    for index in range(repeat):
        start, spent = time.perf_counter_ns(), time.thread_time_ns()
        work(index)
        processor.append((time.thread_time_ns() - spent) / 1e6)
        clock.append((time.perf_counter_ns() - start) / 1e6)
    figures = {
        "p50": (clock, 50),
        "p99": (clock, 99),
        "processor_p50": (processor, 50),
        "processor_p99": (processor, 99),
    }
    return {name: round(float(np.percentile(took, q)), 3) for name, (took, q) in figures.items()}


def refused(stage: Preprocess, count: int, draw: Draw) -> dict[str, object]:
    """How many of ``count`` frames were refused, and the reasons."""
    reasons: Counter[str] = Counter()
    for index in range(count):
        result = stage.prepare(Frame(index, draw(index), 0))
        reason = result.reason if isinstance(result, Decision) else None
        reasons[reason.value if reason is not None else "ACCEPTED"] += 1
    return {"frames": count, "refused": count - reasons["ACCEPTED"], "reasons": dict(reasons)}


def locator_of(stage: Preprocess) -> Locator:
    """The locator on its own, over the same window as the stage's."""
    calibration = stage.calibration
    file, window = calibration.file, stage.window
    assert file.roi is not None and window is not None and calibration.template is not None
    border = file.locate.border_px
    return Locator(
        calibration.template,
        border_px=border,
        corner_px=(file.roi.x - border - window[0], file.roi.y - border - window[1]),
        window_wh_px=(window[2], window[3]),
        max_shift_px=file.locate.max_shift_px,
        max_angle_deg=file.locate.max_angle_deg,
        min_score=file.locate.min_score,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--calibration", type=Path, default=Path("calibration/synthetic.toml"))
    wanted = parser.parse_args()
    cv2.setNumThreads(1)
    stage = Preprocess(load_calibration(wanted.calibration), height=256, width=256, mean=0.5, std=0.25)
    locator = locator_of(stage)
    x, y, w, h = stage.window or (0, 0, 0, 0)
    parts = [render_part(wanted.seed, index) for index in range(wanted.frames)]
    windows = [np.ascontiguousarray(part.image[y : y + h, x : x + w]) for part in parts]
    errors, scores = [], []
    for part, window in zip(parts, windows, strict=True):
        found = locator.locate(window)
        if isinstance(found, NotFound):
            errors.append((math.inf, math.inf))
            continue
        away = math.hypot(found.shift_x_px - part.shift_px[0], found.shift_y_px - part.shift_px[1])
        errors.append((away, abs(found.angle_deg - part.angle_deg)))
        scores.append(found.score)
    table = np.array(errors)
    located = table[np.isfinite(table[:, 0])]
    rng = np.random.default_rng(wanted.seed)
    gain = rng.uniform(0.8, 1.3, (256, 256)).astype(np.float32)
    crop = np.ascontiguousarray(parts[0].image[:256, :256])
    frames = [Frame(index, window, 0, (x, y)) for index, window in enumerate(windows)]
    percentiles = (50, 90, 99, 100)
    print(
        json.dumps(
            {
                "frames": wanted.frames,
                "located": len(located),
                "within_half_px_and_fifth_degree": float(((table[:, 0] < 0.5) & (table[:, 1] < 0.2)).mean()),
                "error_px": {f"p{q}": round(float(np.percentile(located[:, 0], q)), 4) for q in percentiles},
                "error_deg": {f"p{q}": round(float(np.percentile(located[:, 1], q)), 4) for q in percentiles},
                "score_min": round(min(scores), 3),
                "locate_ms": timed(len(windows), lambda index: locator.locate(windows[index])),
                "prepare_ms": timed(len(frames), lambda index: stage.prepare(frames[index])),
                "flat_field_256_ms": timed(len(frames), lambda index: apply_flat_field(crop, gain)),
                "blank": refused(stage, wanted.frames, lambda index: blank(rng)),
                "saturated": refused(stage, wanted.frames, lambda index: saturated(wanted.seed + 1, index)),
                "wrong_part": refused(stage, wanted.frames, lambda index: wrong(wanted.seed + 2, index, rng)),
            }
        )
    )


if __name__ == "__main__":
    main()
