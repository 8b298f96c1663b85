"""How long a decision takes: python benchmarks/decision.py [--maps 200] [--rounds 20] [--blobs 50] [--size 256]

Random maps with the asked number of blobs (ellipses of 3 to 12 px), rules on area, length and score in frame pixels.
One thread, collector off, as on the line; cases take turns map by map, with a reference between them: a fixed piece of
work on a fixed map that no change to the decision touches.

Prints wall and processor time of each case in milliseconds, and p50 and p99 as shares of the reference's: in a phase in
which the machine is slow or busy both grow, so that figures from two phases can be compared. Then one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.decision import Rules, decide
from inspector.figures import percentiles
from inspector.frame import FloatMap, Geometry

GEOMETRY = Geometry(scale_x=1.4, scale_y=1.4, mm_per_px=0.02)


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


def reference(score_map: FloatMap, numbers: NDArray[np.int64]) -> None:
    """What decisions are made of, a pass over the map and many small steps, always the same ones."""
    (score_map >= 0.5).ravel().nonzero()
    for _ in range(12):
        order = (numbers & 255).argsort(kind="stable")
        np.add.reduceat(numbers.take(order), numbers[::64] >> 8)


def main() -> None:
    """Measure each case over all maps, interleaved."""
    wanted = arguments()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(wanted.seed)
    fixed_map, numbers = rng.random((256, 256), np.float32), np.sort(rng.integers(0, 600 << 8, 640))
    cases = make_cases(rng, wanted)
    works: dict[str, list[Callable[[], object]]] = {
        name: [partial(decide, each, rules, GEOMETRY) for each in maps] for name, (maps, rules) in cases.items()
    }
    works["reference"] = [partial(reference, fixed_map, numbers)] * wanted.maps
    times: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    gc.collect()
    gc.disable()
    for round_ in range(wanted.rounds + 1):
        for index in range(wanted.maps):
            for name, work in works.items():
                run = work[index]
                begun, used = time.perf_counter_ns(), time.thread_time_ns()
                run()
                used, spent = time.thread_time_ns() - used, time.perf_counter_ns() - begun
                if round_:  # the first round warms up
                    times[name].append(spent / 1e6)
                    cpu[name].append(used / 1e6)
    found, own = ({name: figures(values) for name, values in each.items()} for each in (times, cpu))
    for name in works:
        for kind, rows in (("wall", found), ("cpu", own)):
            told = "  ".join(f"{key} {value:.3f}" for key, value in rows[name].items())
            ratios = " ".join(f"{rows[name][key] / rows['reference'][key]:.2f}" for key in ("p50", "p99"))
            print(f"{name:18} {kind:4}  {told} ms  of the reference's: {ratios}")
    decisions = wanted.maps * wanted.rounds
    print(json.dumps({"size": wanted.size, "decisions": decisions, "decide_ms": found, "decide_cpu_ms": own}))


def figures(values: list[float]) -> dict[str, float]:
    """p50, p99, p999 and max."""
    return {key: float(value or 0.0) for key, value in percentiles(values).to_json().items()}


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("maps", 200), ("rounds", 20), ("blobs", 50), ("size", 256), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def make_cases(rng: np.random.Generator, wanted: argparse.Namespace) -> dict[str, tuple[list[FloatMap], Rules]]:
    """Maps and rules of each case."""
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
    return {
        f"{wanted.blobs} blobs": (full, Rules.parse(plain)),
        f"{wanted.blobs} blobs, zones": (full, Rules.parse({**plain, "zones": zones})),
        "clean": (clean, Rules.parse(plain)),
    }


if __name__ == "__main__":
    main()
