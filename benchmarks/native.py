"""What the C functions save where it counts: python benchmarks/native.py [--parts 400] [--config config.toml]

Each stage runs once behind an inference of the real engine, as on the line, with the C functions and without them in
turn, on the same frame: so both see the same disturbances of the machine. Their results are compared bit for bit.
Prints the median and the lower quartile of each stage in microseconds; then one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from inspector import native
from inspector.bench import scratch_settings, taken_frames
from inspector.clock import SystemClock
from inspector.config import load
from inspector.decision import decide
from inspector.fittings import Recipe
from inspector.frame import Crop, Frame
from inspector.recipe import engine_opener, open_proven, read_ingredients


def main() -> None:
    """Measure, print, and fail where the two differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=400)
    parser.add_argument("--config", type=Path)
    wanted = parser.parse_args()
    if native.found is None:
        sys.exit("the C functions are not built, or INSPECTOR_NATIVE=0")
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as scratch:
        settings = scratch_settings(load(wanted.config).settings, Path(scratch))
        ingredients = read_ingredients(settings, clock)
        frames = taken_frames(settings.camera, ingredients.preprocess.window, clock)
        opened = open_proven(ingredients.bundle, engine_opener(settings))
        times = measure(ingredients.recipe(opened.engine), frames, wanted.parts)
        opened.engine.close()
    for stage, used in sorted(times):
        low, middle = np.percentile(times[stage, used], (25, 50))
        print(f"{stage:22} {used:6}  p50 {middle:7.1f}  p25 {low:7.1f} us  of {len(times[stage, used])}")
    print(json.dumps({f"{stage}, {used}": float(np.median(values)) for (stage, used), values in times.items()}))


def measure(recipe: Recipe, frames: list[Frame], parts: int) -> dict[tuple[str, str], list[float]]:
    """(stage, native or python) -> microseconds of each part."""
    warm = recipe.preprocess.prepare(frames[0])
    assert isinstance(warm, Crop)
    times: dict[tuple[str, str], list[float]] = {}
    gc.collect()
    gc.freeze()
    gc.disable()
    for part in range(parts):
        frame, results = frames[part % len(frames)], []
        for used in ("native", "python") if part % 2 else ("python", "native"):
            with native.without() if used == "python" else contextlib.nullcontext():
                time.sleep(0.004)
                recipe.engine.infer(warm.tensor)
                t0 = time.perf_counter_ns()
                crop = recipe.preprocess.prepare(frame)
                t1 = time.perf_counter_ns()
                if not isinstance(crop, Crop):
                    continue
                scores = recipe.engine.infer(crop.tensor)[0, 0]
                t2 = time.perf_counter_ns()
                decision, mask = decide(scores, recipe.rules, crop.geometry)
                t3 = time.perf_counter_ns()
            what = "decide, with defects" if decision.defects else "decide, clean map"
            times.setdefault(("prepare", used), []).append((t1 - t0) / 1e3)
            times.setdefault((what, used), []).append((t3 - t2) / 1e3)
            results.append((repr(decision), mask.tobytes(), crop.tensor.tobytes(), crop.image.tobytes()))
        if len(results) == 2 and results[0] != results[1]:
            sys.exit(f"part {part}: the C functions and Python differ")
    return times


if __name__ == "__main__":
    main()
