"""The whole line over many parts with an engine that costs nothing: does it grow, leak or slow down?

A real station (camera thread, sockets, ledger, image store) in this process, the reference controller in another.
A part is let in when fewer than ``--window`` are on their way, so that nothing is dropped and the line runs as fast
as it can; ``--rate`` runs it on a schedule instead. The parts follow a warm-up, in which bounded memories fill (the
link remembers its last 8192 answers, SQLite its page cache); growth counts from its end. On two quiet cores a million
parts take about 22 minutes; ``--minutes`` ends the run earlier and judges the parts that were.
Prints one JSON object; exit code 1 where parts were lost, the process grew, or its slowest answers became slower.
``--plant`` breaks the line on purpose, to see the run fail.

    python benchmarks/soak.py --parts 1000000
    python benchmarks/soak.py --parts 20000 --growth-mb 2
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import tracemalloc
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from inspector.camera import Camera, CameraStatistics
from inspector.clock import SystemClock
from inspector.config import Settings, load
from inspector.engine import Engine, EngineInfo
from inspector.figures import percentiles
from inspector.frame import FloatMap, Frame, Missed
from inspector.ledger.audit import verify
from inspector.link.listen import Arrival, ReferenceController
from inspector.station import Hooks, Station

ROOT = Path(__file__).resolve().parent.parent
UNACKNOWLEDGED = 64
"""So many answers may wait for the controller before the next part is let in."""
STALLED_S = 60.0


class Gate:
    """Lets a part in when there is room on the line, and as many in all as were admitted."""

    def __init__(self, camera: Camera, window: int) -> None:
        self._camera, self._left, self._window = camera, 0, window
        self._moved = threading.Condition()
        self._inside = 0
        self.unacknowledged: Callable[[], int] = lambda: 0

    @property
    def name(self) -> str:
        return self._camera.name

    @property
    def exhausted(self) -> bool:
        return False  # the line runs on until the last answer was acknowledged and the figures are read

    def open(self) -> None:
        self._camera.open()

    def close(self) -> None:
        self._camera.close()

    def statistics(self) -> CameraStatistics:
        return self._camera.statistics()

    def admit(self, parts: int) -> None:
        with self._moved:
            self._left += parts
            self._moved.notify()

    def ends(self) -> bool:
        """Let no further part in."""
        with self._moved:
            self._left = 0
        return True

    def left(self, _: object) -> None:
        """A part was answered."""
        with self._moved:
            self._inside -= 1
            self._moved.notify()

    def next(self, timeout_s: float) -> Frame | Missed | None:
        with self._moved:
            if not self._left:
                self._moved.wait(timeout_s)
                return None
            if self._window and not self._moved.wait_for(lambda: self._inside < self._window, timeout_s):
                return None
            if self._window and self.unacknowledged() > UNACKNOWLEDGED:
                self._moved.wait(0.001)
                return None
        arrived = self._camera.next(timeout_s)
        if arrived is not None:
            with self._moved:
                self._inside += 1
                self._left = max(0, self._left - 1)  # ``ends`` may have come between
        return arrived


class Trivial:
    """Finds nothing, and in every ``fail_every``-th part a square, so that defects and images are made too."""

    def __init__(self, engine: Engine, fail_every: int, plant: str = "") -> None:
        self._engine, self._fail_every, self._count = engine, fail_every, 0
        self._plant, self._leaked = plant, list[Any]()

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def infer(self, batch: FloatMap) -> FloatMap:
        self._count += 1
        if self._plant:
            self._break()
        out = np.zeros_like(batch)
        if self._fail_every and self._count % self._fail_every == 0:
            out[0, 0, 100:120, 100:120] = 0.9
        return out

    def _break(self) -> None:
        if self._plant == "memory":
            self._leaked.append(b"x" * 2000 + bytes(self._count % 7))
        elif self._plant == "descriptors" and self._count % 1000 == 0:
            self._leaked.append(os.open("/dev/null", os.O_RDONLY))
        elif self._plant == "threads" and self._count % 1000 == 0:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        elif self._plant == "slower" and self._count % 200 == 0:
            time.sleep(self._count * 2e-6)

    def close(self) -> None:
        self._engine.close()


def control(endpoint: str, pipe: Connection) -> None:
    """The controller's process: acknowledges until the pipe is used, then tells what it heard."""
    latency_ms = array("d")

    def heard(arrival: Arrival) -> None:
        latency_ms.append((arrival.arrived_ns - arrival.answer.taken_ns) / 1e6)

    controller = ReferenceController(endpoint, clock=SystemClock(), on_answer=heard)
    connected = False

    def enough() -> bool:
        nonlocal connected
        if not connected and controller.statistics().connected:
            connected = True
            pipe.send("connected")
        return pipe.poll(0)

    controller.run(until=enough)
    counts = controller.statistics()
    tenth = max(1, len(latency_ms) // 10)
    tenths = [percentiles(latency_ms[start : start + tenth]).to_json() for start in range(0, 10 * tenth, tenth)]
    pipe.send(
        {
            "received": counts.received,
            "conflicts": counts.conflicts,
            "duplicates": counts.duplicates,
            "latency_ms": percentiles(latency_ms).to_json(),
            "tenths": tenths,
        }
    )


def rss_mb() -> float:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def entries(name: str) -> int:
    return len(os.listdir(f"/proc/self/{name}"))  # noqa: PTH208 - the listing must not open more than itself


@dataclass
class Sample:
    """The process at one moment."""

    parts: int
    rss_mb: float = field(default_factory=rss_mb)
    threads: int = field(default_factory=lambda: entries("task"))
    fds: int = field(default_factory=lambda: entries("fd"))


def settings(options: argparse.Namespace, folder: Path) -> Settings:
    tables: dict[str, dict[str, Any]] = {
        "station": {"name": "soak", "state_dir": folder / "state"},
        "camera": {"kind": "synthetic", "rate_hz": options.rate, "distinct": 20},
        "part": {"calibration": options.calibration},
        "engine": {"bundle": ROOT / "engines" / "commutator", "keep_alive_s": 0.0, "threads": 1},
        "timing": {"gate_ms": 5000.0, "queue": 8},
        "alarm": {"fails": 0},
        "link": {"endpoint": "tcp://127.0.0.1:*", "viewers": "tcp://127.0.0.1:*"},
        "store": {"quota_mb": 64.0, "min_free_mb": 0.0, "every_pass": 1000},
        "health": {"metrics": "", "stale_ms": 60_000.0},
        "log": {"level": "error", "parts": False},
    }
    return load(None, {}, **tables).settings


class Soak:
    """A station in a thread, watched from the main one."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.parts, self.samples = options.warm_up + options.parts, list[Sample]()
        self.gate: Gate | None = None
        self.garbage = -1
        """Objects in cycles at the end: the station runs without the collector, so they would pile up."""
        self._trace, self._warm_up = options.trace, options.warm_up
        self._before: tracemalloc.Snapshot | None = None
        self._window = 0 if options.rate else options.window
        self._most_s = options.minutes * 60.0
        self._ready = threading.Event()
        self._spawn = multiprocessing.get_context("spawn")
        self.pipe, self._theirs = self._spawn.Pipe()
        hooks = Hooks(
            wrap_camera=self._gated,
            wrap_engine=lambda engine: Trivial(engine, options.fail_every, options.plant),
            on_linked=self._connect,
            on_ready=self._ready.set,
        )
        self.station = Station(settings(options, folder), hooks=hooks)
        self._thread = threading.Thread(target=self._run, name="station")

    def _gated(self, camera: Camera) -> Camera:
        self.gate = Gate(camera, self._window)
        self.station.hooks.on_settled = self.gate.left
        return self.gate

    def _connect(self) -> None:
        link = self.station.rooms.link
        assert self.gate is not None
        self.gate.unacknowledged = lambda: link.unacknowledged
        process = self._spawn.Process(target=control, args=(self.station.endpoint, self._theirs))
        process.start()
        self._controller = process

    def _run(self) -> None:
        try:
            self.station.run()
        finally:
            self._ready.set()

    def go(self) -> dict[str, Any]:
        """Run all parts; what the controller heard."""
        self._thread.start()
        self._ready.wait()
        if self._thread.is_alive() and self.gate is not None:
            self.pipe.recv()  # the controller hears the daemon
            self.gate.admit(self.parts)
            self._watch()
            self.parts = min(self.parts, self.station.line.docket.statistics().opened)
        self.pipe.send("enough")
        heard: dict[str, Any] = self.pipe.recv()
        self.station.stop("soak done")
        self._thread.join()
        self._controller.join()
        return heard

    def _watch(self) -> None:
        """Sample the process about 200 times, and last when every answer has been acknowledged."""
        link, step = self.station.rooms.link, max(1, self.parts // 200)
        assert self.gate is not None
        last, began_s = 0, time.monotonic()
        moved_s = began_s
        while last < self.parts and not self.station.latch.wait(0.02):
            count = link.statistics().acknowledged
            if self._most_s and time.monotonic() - began_s > self._most_s and self.gate.ends():
                self.parts = self.station.line.docket.statistics().opened
            if count != last:
                moved_s = time.monotonic()
            elif time.monotonic() - moved_s > STALLED_S:
                return
            if count // step > last // step:
                self.samples.append(Sample(count))
            if self._trace and last < self._warm_up <= count:
                tracemalloc.start(12)
                self._before = tracemalloc.take_snapshot()
            last = count
        self.garbage = gc.collect()
        if self._before is not None:
            grown = tracemalloc.take_snapshot().compare_to(self._before, "lineno")
            sys.stderr.write("\n".join(str(each) for each in grown[:20]) + "\n")


def growth(samples: list[Sample], warm_up: int) -> dict[str, Any]:
    """What changed between the end of the warm-up and the last part."""
    warm = [sample for sample in samples if sample.parts >= warm_up] or samples
    first, last = warm[0], warm[-1]
    rss = np.array([sample.rss_mb for sample in warm])
    at = np.array([sample.parts for sample in warm]) / 1e6
    slope = float(np.polyfit(at, rss, 1)[0]) if len(warm) > 2 else None
    return {
        "rss_mb": {
            "start": round(samples[0].rss_mb, 2),
            "warm": round(first.rss_mb, 2),
            "end": round(last.rss_mb, 2),
            "peak": round(float(rss.max()), 2),
        },
        "rss_growth_mb": round(last.rss_mb - first.rss_mb, 3),
        "rss_slope_mb_per_million": round(slope, 2) if slope is not None else None,
        "threads": {"warm": first.threads, "end": last.threads},
        "fds": {"warm": first.fds, "end": last.fds},
        "rss_series_mb": [round(sample.rss_mb, 2) for sample in samples[:: max(1, len(samples) // 20)]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=1_000_000, help="parts after the warm-up")
    parser.add_argument("--warm-up", type=int, default=10_000, help="parts before they count")
    parser.add_argument("--window", type=int, default=6, help="parts on their way at once; up to 8")
    parser.add_argument("--rate", type=float, default=0.0, help="parts per second instead of a window")
    parser.add_argument("--fail-every", type=int, default=500, help="every so many-th part fails; 0 = none")
    parser.add_argument("--calibration", type=Path, help="locate the part, too")
    parser.add_argument("--growth-mb", type=float, default=5.0, help="RSS may grow by so much after the warm-up")
    parser.add_argument("--minutes", type=float, default=0.0, help="end after so long; 0 = run all parts")
    parser.add_argument("--drift", type=float, default=1.5, help="p99.9 of the last tenth against the first, at most")
    parser.add_argument("--plant", choices=("memory", "descriptors", "threads", "slower"), default="")
    parser.add_argument("--trace", action="store_true", help="tell which lines hold more memory than after the warm-up")
    parser.add_argument("--folder", type=Path, help="where the ledger goes; it takes about 1 kB a part")
    options = parser.parse_args()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-", dir=options.folder) as scratch:
        soak = Soak(options, Path(scratch))
        heard = soak.go()
        gc.collect()
        after = Sample(soak.parts)
        seconds = time.monotonic() - began_s
        report = verify(Path(scratch) / "state" / "ledger.db", Path(scratch) / "state" / "images")
    figures = soak.station.tally.figures()
    counts = [figures["triggered"], figures["answered"], figures["acknowledged"], heard["received"], report.rows]
    grown = growth(soak.samples, options.warm_up) if soak.samples else {}
    tenths = heard.pop("tenths")
    drift = tenths[-1]["p999"] / tenths[0]["p999"] if tenths[0]["p999"] else 1.0
    result = {
        "parts": soak.parts - options.warm_up,
        "parts_wanted": options.parts,
        "warm_up": options.warm_up,
        **{name: figures[name] for name in ("triggered", "answered", "acknowledged", "pass", "fail", "invalid")},
        "reasons": figures["reasons"],
        **heard,
        "ledger": {
            "answers": sum(epoch.answers for epoch in report.epochs),
            "receipts": sum(epoch.receipts for epoch in report.epochs),
            "ok": report.ok,
        },
        **grown,
        "garbage_objects": soak.garbage,
        "after_stop": {"rss_mb": round(after.rss_mb, 2), "threads": after.threads, "fds": after.fds},
        "p999_ms": {"first_tenth": tenths[0]["p999"], "last_tenth": tenths[-1]["p999"]},
        "p999_drift": round(drift, 3),
        "load_1min": round(os.getloadavg()[0], 1),
        "tenths_ms": {key: [tenth[key] for tenth in tenths] for key in ("p50", "p99", "p999", "max")},
        "seconds": round(seconds, 1),
        "parts_per_s": round(soak.parts / seconds, 1),
    }
    counts[-1] = result["ledger"]["answers"]
    faults = [
        *(["counts differ"] if set(counts) != {soak.parts} else []),
        *(["answers changed"] if heard["conflicts"] else []),
        *(["invalid answers"] if figures["invalid"] else []),
        *(["the ledger does not verify"] if not report.ok else []),
        *(["memory"] if not grown or grown["rss_growth_mb"] > options.growth_mb else []),
        *(["threads"] if not grown or grown["threads"]["end"] > grown["threads"]["warm"] else []),
        *(["p99.9 drifts"] if drift > options.drift else []),
        *(["descriptors"] if not grown or grown["fds"]["end"] > grown["fds"]["warm"] else []),
    ]
    print(json.dumps(result | {"faults": faults}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
