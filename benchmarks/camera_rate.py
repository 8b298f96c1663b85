"""How many frames a GenICam camera delivers without a loss, how late they are, and how soon it is back after a pull.

    python benchmarks/camera_rate.py                      viky.cti, 100 Hz, 60 s
    python benchmarks/camera_rate.py --producer drill --rate 500 --seconds 20 --pulls 10

The last line is one JSON object. ``late_us`` is the time from "frame available in the camera process" to "frame in
hand in this process"; ``recovery_ms`` from the cable's return to the first new frame.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import tempfile
from pathlib import Path

import numpy as np

from inspector.camera.genicam import GenicamCamera, simulator
from inspector.clock import Clock, SystemClock
from inspector.drill.producer import Count, ProducerControl, build_producer
from inspector.frame import Frame


def stream(camera: GenicamCamera, clock: Clock, seconds: float) -> dict[str, object]:
    """Reads for so long; every frame once, nothing kept but its id and its lateness."""
    ids, late_ns = [], []
    start_ns = clock.now_ns()
    while clock.now_ns() - start_ns < seconds * 1e9:
        item = camera.next(0.5)
        if isinstance(item, Frame):
            late_ns.append(clock.now_ns() - item.taken_ns)
            ids.append(item.frame_id)
    late_us = np.percentile(late_ns, (50, 99, 99.9, 100)) / 1e3
    return {
        "frames": len(ids),
        "first_id": ids[0],
        "last_id": ids[-1],
        "rate_hz": round((len(ids) - 1) / ((clock.now_ns() - start_ns) / 1e9), 2),
        "lost": ids[-1] - ids[0] + 1 - len(ids),
        "late_us": dict(zip(("p50", "p99", "p999", "max"), map(round, late_us.tolist()), strict=True)),
    }


def recover(camera: GenicamCamera, clock: Clock, control: ProducerControl, pulls: int) -> list[float]:
    """Milliseconds from the cable's return to the next frame, for each pull."""
    times = []
    for _ in range(pulls):
        control.pull()
        while camera.statistics().connected or camera.next(0.0) is not None:
            camera.next(0.05)
        camera.next(0.7)
        back_ns = clock.now_ns()
        control.plug()
        while camera.next(0.05) is None:
            pass
        times.append(round((clock.now_ns() - back_ns) / 1e6, 1))
    return times


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--producer", choices=["viky", "drill"], default="viky")
    options.add_argument("--rate", type=float, default=100.0)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--pulls", type=int, default=0)
    asked = options.parse_args()
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        control = ProducerControl(Path(folder) / "control")
        os.environ.update(control.environment)
        drill = asked.producer == "drill"
        camera = GenicamCamera(
            clock=clock,
            producers=[build_producer(Path(folder)) if drill else simulator()],
            serial="" if drill else "0",
            features=[("PixelFormat", "Mono8"), ("AcquisitionFrameRate", asked.rate)],
            tell=lambda what, details: print(what, dict(details)),
        )
        camera.open()
        gc.freeze()
        before, rss_kb = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = stream(camera, clock, asked.seconds)
        after = resource.getrusage(resource.RUSAGE_SELF)
        found["recovery_ms"] = recover(camera, clock, control, asked.pulls) if drill else []
        statistics = camera.statistics()
        camera.close()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found |= {
            "producer": asked.producer,
            "missed": statistics.missed,
            "incomplete": statistics.incomplete,
            "underruns": statistics.producer_underruns,
            "overruns": statistics.overruns,
            "shots": control.get(Count.SHOTS) if drill else None,
            "cpu_line_percent": round(100 * spent_s / asked.seconds, 2),
            "cpu_children_s": round(children.ru_utime + children.ru_stime, 2),
            "rss_growth_kb": after.ru_maxrss - rss_kb,
            "load_average": os.getloadavg()[0],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
