"""How late answers come when the engine cannot keep up: the due times must hold without it.

A real station at ``--rate`` parts per second in this process, the reference controller in a thread of it, the engine on
one core. ``hang``: the engine does not return; ``slow``: it computes each part so many times over, on the CPU that the
answering thread needs too; ``sound``: as it is, for comparison. Every part is due a fixed time after its frame; past
due is what its answer took longer, until it was handed to the socket and until the controller had it.
Prints one JSON object; exit code 1 where a part went unanswered or a PASS came late.

    python benchmarks/line_under_load.py --engine hang --parts 2000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from inspector.clock import SystemClock
from inspector.config import Settings, load
from inspector.engine import Engine, EngineInfo
from inspector.figures import percentiles
from inspector.frame import FloatMap, Settled, Verdict
from inspector.link.listen import Arrival, ReferenceController
from inspector.station import Hooks, Station

ROOT = Path(__file__).resolve().parent.parent


class Loaded:
    """The real engine, made to hang or to compute over and over."""

    def __init__(self, engine: Engine, mood: str, times: int, over: threading.Event) -> None:
        self._engine, self._mood, self._times, self._over = engine, mood, times, over

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def infer(self, batch: FloatMap) -> FloatMap:
        if self._mood == "hang":
            self._over.wait()
        for _ in range(self._times - 1 if self._mood == "slow" else 0):
            if self._over.is_set():
                break
            self._engine.infer(batch)
        return self._engine.infer(batch)

    def close(self) -> None:
        self._engine.close()


def settings(options: argparse.Namespace, folder: Path) -> Settings:
    gate_ms = float(options.gate_ms)
    waiting = int(options.rate * gate_ms / 1000) + 4  # every part of one gate time, so that none is displaced
    tables: dict[str, dict[str, Any]] = {
        "station": {"name": "load", "state_dir": folder / "state"},
        "camera": {"kind": "synthetic", "rate_hz": options.rate, "distinct": 20},
        "engine": {"bundle": ROOT / "engines" / "commutator", "keep_alive_s": 0.0, "threads": 1},
        "timing": {"gate_ms": gate_ms, "queue": min(256, 2 * waiting)},
        "alarm": {"fails": 0},
        "link": {"endpoint": "tcp://127.0.0.1:*", "viewers": "tcp://127.0.0.1:*"},
        "store": {
            "quota_mb": 256.0,
            "min_free_mb": 0.0,
            "save": ["FAIL"] if options.no_images else ["FAIL", "INVALID"],
        },
        "health": {"metrics": "", "stale_ms": 600_000.0},
        "log": {"level": "error", "parts": False},
    }
    return load(None, {}, **tables).settings


class Run:
    """One run of the station with what was heard and sent."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.sent_ms: list[float] = []
        self.heard_ms: list[float] = []
        self.late_pass = 0
        self.parts: Counter[str] = Counter()
        self._over = threading.Event()
        self._clock = SystemClock()
        hooks = Hooks(
            wrap_engine=lambda engine: Loaded(engine, options.engine, options.times, self._over),
            on_settled=self._sent,
            on_linked=self._connect,
        )
        self.station = Station(settings(options, folder), hooks=hooks, max_parts=options.parts)
        self._controller: ReferenceController | None = None

    def _connect(self) -> None:
        self._controller = ReferenceController(self.station.endpoint, clock=self._clock, on_answer=self._heard).start()
        self._controller.wait_for(lambda counts: counts.connected, 10)

    def _sent(self, settled: Settled) -> None:
        answer = settled.answer
        self.parts[answer.reason.value if answer.reason is not None else answer.verdict.value] += 1
        self.sent_ms.append((self._clock.now_ns() - answer.due_ns) / 1e6)
        if len(self.sent_ms) == self.station.max_parts:
            self._over.set()  # the engine may end, so that the line can

    def _heard(self, arrival: Arrival) -> None:
        past_ms = (arrival.arrived_ns - arrival.answer.due_ns) / 1e6
        self.heard_ms.append(past_ms)
        self.late_pass += arrival.answer.verdict is Verdict.PASS and past_ms > 0

    def go(self) -> None:
        try:
            self.station.run()
        finally:
            self._over.set()
            if self._controller is not None:
                self._controller.stop()


def past_due(values_ms: list[float]) -> dict[str, Any]:
    """Of the answers that left or came at their due time or after: how far past it."""
    late = [value for value in values_ms if value >= 0]
    return {"answers": len(late), **percentiles(late).to_json()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=40.0)
    parser.add_argument("--gate-ms", type=float, default=150.0)
    parser.add_argument("--engine", choices=("hang", "slow", "sound"), default="hang")
    parser.add_argument("--times", type=int, default=20, help="slow: so many inferences a part")
    parser.add_argument("--no-images", action="store_true", help="save no images of late parts")
    options = parser.parse_args()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="line-under-load-") as scratch:
        run = Run(options, Path(scratch))
        run.go()
    figures = run.station.tally.figures()
    counts = {name: figures[name] for name in ("triggered", "answered", "acknowledged")}
    result = {
        "engine": options.engine if options.engine != "slow" else f"slow x {options.times}",
        "rate_hz": options.rate,
        "gate_ms": options.gate_ms,
        **counts,
        "answers": dict(sorted(run.parts.items())),
        "past_due_ms": {"sent": past_due(run.sent_ms), "heard": past_due(run.heard_ms)},
        "late_pass": run.late_pass,
        "seconds": round(time.monotonic() - began_s, 1),
    }
    print(json.dumps(result))
    return 1 if set(counts.values()) != {options.parts} or run.late_pass else 0


if __name__ == "__main__":
    sys.exit(main())
