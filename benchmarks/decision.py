"""How long a decision takes: python benchmarks/decision.py [--maps 200] [--rounds 20] [--blobs 50] [--size 256]

Random maps with the asked number of blobs (ellipses of 3 to 12 px), rules on area, length and score in frame pixels.
Prints wall and processor time of each case and one JSON object, in milliseconds; on a busy machine the processor time
is what the decision itself needs. One thread, collector off, as
on the line.
"""

from __future__ import annotations

import argparse
import gc
import json
import time

import cv2
import numpy as np

from inspector.decision import Rules, decide
from inspector.figures import percentiles
from inspector.frame import FloatMap, Geometry


def make_map(rng: np.random.Generator, size: int, blobs: int) -> FloatMap:
    """``blobs`` ellipses on a jittered grid, so that none touch, on a faint noisy ground."""
    cells = max(1, int(np.ceil(np.sqrt(blobs))))
    pitch = size / cells
    out = rng.random((size, size), np.float32) * np.float32(0.2)
    for cell in rng.permutation(cells * cells)[:blobs].tolist():
        x, y = (int((each + 0.5) * pitch + rng.uniform(-1, 1)) for each in divmod(cell, cells))
        axes = tuple(int(each) for each in rng.integers(1, max(2, int(0.4 * pitch)), 2))
        cv2.ellipse(out, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.55, 1)), -1)
    return out


def main() -> None:
    """Measure each case over all maps, interleaved."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("maps", 200), ("rounds", 20), ("blobs", 50), ("size", 256), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wanted = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(wanted.seed)
    full = [make_map(rng, wanted.size, wanted.blobs) for _ in range(wanted.maps)]
    clean = [make_map(rng, wanted.size, 0) for _ in range(wanted.maps)]
    plain = {
        "threshold": 0.5,
        "min_area_px": 12,
        "min_length_px": 5,
        "min_score_mean": 0.5,
        "review": {"min_area_px": 6},
    }
    half = wanted.size // 2
    zones = [
        {"name": "left", "rectangle": [0, 0, half, wanted.size], "limits": {"min_area_px": 40, "max_count": 3}},
        {"name": "rim", "rectangle": [0, wanted.size - 9, wanted.size, 9], "ignore": True},
    ]
    geometry = Geometry(scale_x=1.4, scale_y=1.4, mm_per_px=0.02)
    cases = {
        f"{wanted.blobs} blobs": (full, Rules.parse(plain)),
        f"{wanted.blobs} blobs, zones": (full, Rules.parse({**plain, "zones": zones})),
        "clean": (clean, Rules.parse(plain)),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    gc.collect()
    gc.disable()
    for round_ in range(wanted.rounds + 1):
        for index in range(wanted.maps):
            for name, (maps, rules) in cases.items():
                begun, used = time.perf_counter_ns(), time.thread_time_ns()
                decide(maps[index], rules, geometry)
                used, spent = time.thread_time_ns() - used, time.perf_counter_ns() - begun
                if round_:  # the first round warms up
                    times[name].append(spent / 1e6)
                    cpu[name].append(used / 1e6)
    found = {name: percentiles(values).to_json() for name, values in times.items()}
    own = {name: percentiles(values).to_json() for name, values in cpu.items()}
    for name in cases:
        for kind, row in (("wall", found[name]), ("cpu", own[name])):
            print(f"{name:18} {kind:4}  p50 {row['p50']:.3f}  p99 {row['p99']:.3f}  max {row['max']:.3f} ms")
    decisions = wanted.maps * wanted.rounds
    print(json.dumps({"size": wanted.size, "decisions": decisions, "decide_ms": found, "decide_cpu_ms": own}))


if __name__ == "__main__":
    main()
