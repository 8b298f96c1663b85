"""Does a ledger that writes 2,000 answers a second hold up the line's own answers? Blocks with and without, in turns.

A real station (synthetic camera, engine that costs nothing, sockets, ledger, sync and checkpoint threads) answers at
``--rate``; the controller is a process of its own. In every second block a feeder puts ``--load`` further settled
answers a second into the line's own channel to the book, so that they share its thread, its transactions and its log.
They are of an epoch that no controller knows, so they are booked and not sent. Latency is settled -> at the controller.
Neighbouring blocks are compared, so that the machine's mood hits both. Prints one JSON object; exit code 1 where an
answer is missing, rows were displaced, the load was not reached, the ledger does not verify, or the bar is missed.

    python benchmarks/ledger_beside_line.py --pairs 10 --block-s 4
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from inspector.clock import SystemClock
from inspector.config import load
from inspector.engine import Engine, EngineInfo
from inspector.figures import percentiles
from inspector.frame import Answer, FloatMap, Hashes, Settled, Verdict
from inspector.ledger.audit import verify
from inspector.link.listen import Arrival, ReferenceController
from inspector.station import Hooks, Station

ROOT = Path(__file__).resolve().parent.parent
STRANGE_EPOCH, STRANGE_FIRST = 1_000_000, 1_000_000_000
"""Numbers of the load: none of the line's own."""
TICK_S = 0.005
BAR = 1.10


class Trivial:
    """Finds nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def infer(self, batch: FloatMap) -> FloatMap:
        return np.zeros_like(batch)

    def close(self) -> None:
        self._engine.close()


def control(endpoint: str, pipe: Connection) -> None:
    """The controller's process: acknowledges until the pipe is used, then tells when each answer came."""
    heard: list[tuple[int, int]] = []

    def came(arrival: Arrival) -> None:
        heard.append((arrival.answer.settled_ns, arrival.arrived_ns))

    controller = ReferenceController(endpoint, clock=SystemClock(), on_answer=came)
    controller.run(until=lambda: pipe.poll(0))
    pipe.send(heard)


@dataclass
class Block:
    """A stretch of time with the load or without it."""

    loaded: bool
    begin_ns: int
    end_ns: int = 0
    fed: int = 0


class Feeder:
    """Puts rows into the line's channel to the book at a steady rate while ``on``."""

    def __init__(self, station: Station, rate_hz: float, slow_commit_ms: float) -> None:
        self._station, self._each = station, max(1, round(rate_hz * TICK_S))
        self.on, self._over = threading.Event(), threading.Event()
        self.fed = 0
        self._next = STRANGE_FIRST
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        if slow_commit_ms:
            self._slow_down(slow_commit_ms)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self.on.set()
        self._thread.join()

    def _slow_down(self, by_ms: float) -> None:
        book = self._station.rooms.book
        write = book.write

        def slow(batch: Any) -> None:
            time.sleep(by_ms / 1000 if self.on.is_set() else 0.0)
            write(batch)

        book.write = slow  # type: ignore[method-assign]

    def _run(self) -> None:
        rows, clock = self._station.line.rows, self._station.clock
        model = _answer(clock.now_ns(), clock.wall_ns())
        due_s = time.perf_counter()
        while not self._over.is_set():
            if not self.on.is_set():
                self.on.wait()
                due_s = time.perf_counter()
            for _ in range(self._each):
                self._next += 1
                rows.offer(Settled(replace(model, sequence=self._next, settled_ns=clock.now_ns())))
            self.fed += self._each
            due_s += TICK_S
            time.sleep(max(0.0, due_s - time.perf_counter()))


def _answer(now_ns: int, wall_ns: int) -> Answer:
    return Answer(
        epoch=STRANGE_EPOCH,
        sequence=0,
        part_id="load",
        frame_id=1,
        verdict=Verdict.PASS,
        reason=None,
        review=False,
        rules=(),
        defects=(),
        score=0.123456789,
        taken_ns=now_ns,
        due_ns=now_ns,
        settled_ns=now_ns,
        wall_ns=wall_ns,
        hashes=Hashes("0123456789abcdef", "fedcba9876543210", "00112233445566aa"),
        stages_us=(("queue", 120), ("prepare", 850), ("engine", 15321), ("decide", 412)),
    )


def settings(options: argparse.Namespace, folder: Path) -> Any:
    tables: dict[str, dict[str, Any]] = {
        "station": {"name": "beside", "state_dir": folder / "state"},
        "camera": {"kind": "synthetic", "rate_hz": options.rate, "distinct": 20},
        "engine": {"bundle": ROOT / "engines" / "commutator", "keep_alive_s": 0.0, "threads": 1},
        "timing": {"gate_ms": 2000.0, "queue": 16},
        "alarm": {"fails": 0},
        "link": {"endpoint": "tcp://127.0.0.1:*", "viewers": ""},
        "store": {"quota_mb": 64.0, "min_free_mb": 0.0},
        "health": {"metrics": "", "stale_ms": 60_000.0},
        "log": {"level": "error", "parts": False},
    }
    return load(None, {}, **tables).settings


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All blocks; what came of them."""
    ready, spawn = threading.Event(), multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    processes: list[Any] = []

    def connect() -> None:
        processes.append(spawn.Process(target=control, args=(station.endpoint, theirs)))
        processes[0].start()

    hooks = Hooks(wrap_engine=Trivial, on_linked=connect, on_ready=ready.set)
    station = Station(settings(options, folder), hooks=hooks)
    thread = threading.Thread(target=station.run, name="station")
    thread.start()
    ready.wait()
    station.latch.wait(2.0)  # the first parts warm everything
    feeder = Feeder(station, options.load, options.plant_slow_commit_ms)
    feeder.start()
    blocks: list[Block] = []
    for number in range(2 * options.pairs):
        loaded = number % 4 in (1, 2)  # without, with, with, without: neither is always the second
        feeder.on.set() if loaded else feeder.on.clear()
        station.latch.wait(0.3)
        block = Block(loaded, station.clock.now_ns(), fed=feeder.fed)
        station.latch.wait(options.block_s)
        block.end_ns, block.fed = station.clock.now_ns(), feeder.fed - block.fed
        blocks.append(block)
    feeder.on.clear()
    feeder.stop()
    station.latch.wait(0.5)
    displaced = station.line.rows.statistics().displaced
    commit = station.rooms.book.statistics()
    station.stop("done")
    thread.join()
    pipe.send("enough")
    heard: list[tuple[int, int]] = pipe.recv()
    processes[0].join()
    answered = station.tally.figures()
    report = verify(folder / "state" / "ledger.db")
    return judge(options, blocks, heard, answered, displaced, commit.batch_peak, report)


def judge(
    options: argparse.Namespace,
    blocks: list[Block],
    heard: list[tuple[int, int]],
    answered: dict[str, Any],
    displaced: int,
    batch_peak: int,
    report: Any,
) -> dict[str, Any]:
    """Figures and faults."""
    by_block = [
        [(came - settled) / 1e6 for settled, came in heard if one.begin_ns <= settled < one.end_ns] for one in blocks
    ]
    alone = [value for one, values in zip(blocks, by_block, strict=True) if not one.loaded for value in values]
    beside = [value for one, values in zip(blocks, by_block, strict=True) if one.loaded for value in values]
    ratios = []
    for first in range(0, len(blocks) - 1, 2):
        pair = sorted((blocks[first + at].loaded, by_block[first + at]) for at in (0, 1))
        ratios.append(float(np.percentile(pair[1][1], 99) / np.percentile(pair[0][1], 99)))
    span_s = sum(one.end_ns - one.begin_ns for one in blocks if one.loaded) / 1e9
    rate = sum(one.fed for one in blocks if one.loaded) / span_s + options.rate
    pooled = float(np.percentile(beside, 99) / np.percentile(alone, 99))
    unknown = [finding for finding in report.findings if not finding.known and finding.epoch != STRANGE_EPOCH]
    faults = [
        *([f"p99 is {pooled:.2f} times what it is without the load"] if pooled > BAR else []),
        *(["the load was not reached"] if rate < 0.98 * options.load else []),
        *([f"{displaced} rows were displaced"] if displaced else []),
        *(["answers are missing"] if not answered["triggered"] == answered["answered"] == len(heard) else []),
        *(["parts were not decided"] if answered["invalid"] else []),
        *([f"the ledger: {unknown[0]}"] if unknown else []),
    ]
    return {
        "rate": options.rate,
        "load": options.load,
        "answers_per_s_in_loaded_blocks": round(rate, 1),
        "pairs": options.pairs,
        "block_s": options.block_s,
        "parts": {"alone": len(alone), "beside": len(beside)},
        "alone_ms": percentiles(alone).to_json(),
        "beside_ms": percentiles(beside).to_json(),
        "p99_ratio": round(pooled, 3),
        "p99_ratio_by_pair": sorted(round(ratio, 3) for ratio in ratios),
        "p50_ratio": round(float(np.median(beside) / np.median(alone)), 3),
        "batch_peak": batch_peak,
        "rows": report.rows,
        "load_1min": round(os.getloadavg()[0], 1),
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50.0, help="parts a second of the line itself")
    parser.add_argument("--load", type=float, default=2000.0, help="further answers a second for the ledger")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--block-s", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, help="where the ledger goes; the disk under it takes part")
    parser.add_argument("--plant-slow-commit-ms", type=float, default=0.0, help="to see the bar missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="beside-", dir=options.folder) as name:
        result = run(options, Path(name))
    print(json.dumps(result))
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
