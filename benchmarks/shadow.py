"""What a shadow costs the answer: the same station, parts at a steady rate, blocks with and without a shadow in turn.

One station, one live engine, the controller in a process of its own. Each block starts or ends the shadow and waits
until it is up. A part's latency is frame available -> answer at the controller (``heard``), and -> answer handed to the
socket (``left``). Which kind of block comes first changes from pair to pair; the interval of each ratio is a bootstrap
over the pairs. Prints one JSON object; exit code 1 where p50 or p99 with the shadow is more than ``--bar`` above that
without, or where the shadow compared nothing.

    python benchmarks/shadow.py --pairs 12 --block 150
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from inspector.bench import OneAtATime
from inspector.bench_far import FarController
from inspector.cameras import make_camera
from inspector.clock import SystemClock
from inspector.config import Settings, load
from inspector.frame import Frame, Settled
from inspector.recipe import read_ingredients
from inspector.station import Hooks, Station

ROOT = Path(__file__).resolve().parent.parent
DISTINCT = 40


def settings(options: argparse.Namespace, folder: Path) -> Settings:
    tables: dict[str, dict[str, Any]] = {
        "station": {"name": "shadow", "state_dir": folder / "state"},
        "camera": {"kind": "synthetic", "rate_hz": 0.0},
        "part": {"calibration": ROOT / "calibration" / "synthetic.toml"},
        "engine": {"bundle": options.engine, "keep_alive_s": 0.0},
        "shadow": {"bundle": options.shadow or options.engine},
        "timing": {"gate_ms": 20_000.0},
        "alarm": {"fails": 0},
        "link": {"endpoint": "tcp://127.0.0.1:*", "viewers": "tcp://127.0.0.1:*"},
        "health": {"metrics": "", "stale_ms": 600_000.0},
        "log": {"level": "error", "parts": False},
    }
    return load(None, {}, **tables).settings


class Paired:
    """A running station that is fed one frame at a time."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._clock, self._options = SystemClock(), options
        self._camera = OneAtATime(self._clock)
        self._left: queue.SimpleQueue[tuple[int, int, int]] = queue.SimpleQueue()
        self._ready = threading.Event()
        wanted = settings(options, folder)
        self._frames = self._rendered(wanted)
        hooks = Hooks(
            wrap_camera=lambda _: self._camera,
            on_linked=self._connect,
            on_ready=self._ready.set,
            on_settled=self._sent,
        )
        self.station = Station(wanted, hooks=hooks)
        self._thread = threading.Thread(target=self.station.run, daemon=True)
        self._number = 0

    def _rendered(self, wanted: Settings) -> list[Frame]:
        window = read_ingredients(wanted, self._clock).preprocess.window
        camera = make_camera(wanted.camera, clock=self._clock, window=window, count=DISTINCT)
        camera.open()
        found: list[Frame] = []
        while len(found) < DISTINCT:
            arrived = camera.next(5.0)
            if isinstance(arrived, Frame):
                found.append(arrived)
        camera.close()
        return found

    def _connect(self) -> None:
        self._controller = FarController(self.station.endpoint)

    def _sent(self, settled: Settled) -> None:
        self._left.put((settled.answer.sequence, settled.answer.taken_ns, self._clock.now_ns()))

    def run(self) -> dict[str, dict[str, list[list[float]]]]:
        """Latencies in milliseconds by ``heard`` or ``left``, kind of block, and block."""
        self._thread.start()
        if not self._ready.wait(60):
            raise SystemExit("the station did not start")
        blocks: dict[str, list[list[tuple[int, int, int]]]] = {"off": [], "on": []}
        came: dict[int, int] = {}
        try:
            while not self.station.rooms.link.statistics().connected:
                time.sleep(0.02)
            self._block(self._options.warm)
            for pair in range(self._options.pairs):
                for kind in ("off", "on") if pair % 2 else ("on", "off"):
                    self._switch(on=kind == "on")
                    self._block(5)
                    blocks[kind].append(self._block(self._options.block))
            self.figures = self.station.rooms.shadow.statistics()
        finally:
            self.station.stop("done")
            self._thread.join(30)
            came = self._controller.stop()
        return {
            "heard": {
                kind: [[(came[n] - taken) / 1e6 for n, taken, _ in block] for block in of_kind]
                for kind, of_kind in blocks.items()
            },
            "left": {
                kind: [[(left - taken) / 1e6 for _, taken, left in block] for block in of_kind]
                for kind, of_kind in blocks.items()
            },
        }

    def _switch(self, *, on: bool) -> None:
        shadow = self.station.rooms.shadow
        shadow.stop()
        if not on:
            return
        shadow.start()
        give_up_ns = self._clock.now_ns() + 120_000_000_000
        while not shadow.statistics().up:
            if self._clock.now_ns() > give_up_ns:
                raise SystemExit(f"the shadow did not come up: {shadow.statistics().last_fault or 'no idle time'}")
            time.sleep(0.05)

    def _block(self, parts: int) -> list[tuple[int, int, int]]:
        """Parts at a steady rate, each a while after the last was taken, whatever its answer took."""
        period_ns = int(1e9 / self._options.rate)
        next_ns, out = self._clock.now_ns() + period_ns, list[tuple[int, int, int]]()
        for _ in range(parts):
            time.sleep(max(0.0, (next_ns - self._clock.now_ns()) / 1e9))
            self._number += 1
            picture = self._frames[self._number % len(self._frames)]
            self._camera.push(replace(picture, frame_id=self._number, part_id=f"part-{self._number}"))
            out.append(self._left.get(timeout=60))
            next_ns = max(next_ns + period_ns, self._clock.now_ns())
        return out


def ratios(blocks: dict[str, list[list[float]]], percentile: float) -> dict[str, Any]:
    """On over off of the pooled percentile, with the 95 % bootstrap interval over pairs of blocks."""
    on, off = np.array(blocks["on"]), np.array(blocks["off"])
    random = np.random.default_rng(1)
    drawn = []
    for _ in range(2000):
        pick = random.integers(0, len(on), len(on))
        drawn.append(np.percentile(on[pick], percentile) / np.percentile(off[pick], percentile))
    low, high = np.percentile(drawn, [2.5, 97.5])
    with_it, without = float(np.percentile(on, percentile)), float(np.percentile(off, percentile))
    return {"on_ms": with_it, "off_ms": without, "ratio": with_it / without, "interval": [float(low), float(high)]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--engine", type=Path, default=ROOT / "engines" / "commutator")
    parser.add_argument("--shadow", type=Path, help="bundle of the shadow (default: the live one)")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of blocks (default 12)")
    parser.add_argument("--block", type=int, default=150, help="parts a block (default 150)")
    parser.add_argument("--rate", type=float, default=10.0, help="parts per second (default 10)")
    parser.add_argument("--warm", type=int, default=30, help="parts before the first block (default 30)")
    parser.add_argument("--bar", type=float, default=0.05, help="allowed rise of p50 and p99 (default 0.05)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inspector-shadow-") as folder:
        paired = Paired(options, Path(folder))
        blocks = paired.run()
    found = {f"{what}_p{each}": ratios(blocks[what], each) for what in ("heard", "left") for each in (50, 99)}
    counts = paired.figures
    within = all(one["ratio"] <= 1 + options.bar for one in found.values())
    print(
        json.dumps(
            {
                **found,
                "parts_each": options.pairs * options.block,
                "compared": counts.compared,
                "skipped_busy": counts.skipped_busy,
                "yields": counts.yields,
                "flips": counts.pass_to_fail + counts.fail_to_pass,
                "rate_hz": options.rate,
                "within": within,
            },
            sort_keys=True,
        )
    )
    return 0 if within and counts.compared > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
