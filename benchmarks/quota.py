"""Does the image store keep its quota while it fills, beside a running line? Counted on the disk, not in its books.

A real station keeps every image (``--rate`` parts a second, pictures that no PNG can shrink) until ``--times`` the
quota has been written. Meanwhile the space that the files really take (blocks, drafts included) is summed again and
again. Prints one JSON object; exit code 1 where the quota was passed by more than 1 %, where the store stayed far below
it, where an answer is missing, or where ledger and store do not verify.

    python benchmarks/quota.py --quota-mb 40 --times 4
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from inspector.clock import SystemClock
from inspector.config import load
from inspector.engine import Engine, EngineInfo
from inspector.figures import percentiles
from inspector.frame import FloatMap, Settled
from inspector.ledger.audit import verify
from inspector.ledger.store import StoreStatistics
from inspector.link.listen import ReferenceController
from inspector.station import Hooks, Station

ROOT = Path(__file__).resolve().parent.parent
OVER, UNDER = 1.01, 0.90


class Trivial:
    """A square in every third part, so that verdicts and masks of both kinds are kept."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._count = engine, 0

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def infer(self, batch: FloatMap) -> FloatMap:
        self._count += 1
        out = np.zeros_like(batch)
        if self._count % 3 == 0:
            out[0, 0, 100:120, 100:120] = 0.9
        return out

    def close(self) -> None:
        self._engine.close()


def taken_bytes(root: Path) -> int:
    """What the store below ``root`` takes on the disk, its index with the log's part too; a file that goes meanwhile
    takes nothing."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                total += os.lstat(Path(folder) / name).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def _written(seen: StoreStatistics) -> float:
    """Bytes of pictures written so far, from the mean size of those that are there."""
    return seen.saved * seen.used_bytes / max(1, seen.saved - seen.removed)


def settings(options: argparse.Namespace, folder: Path) -> Any:
    tables: dict[str, dict[str, Any]] = {
        "station": {"name": "quota", "state_dir": folder / "state"},
        "camera": {"kind": "synthetic", "rate_hz": options.rate, "distinct": 50},
        "engine": {"bundle": ROOT / "engines" / "commutator", "keep_alive_s": 0.0, "threads": 1},
        "timing": {"gate_ms": 3000.0, "queue": 16},
        "alarm": {"fails": 0},
        "link": {"endpoint": "tcp://127.0.0.1:*", "viewers": ""},
        "store": {
            "save": ["PASS", "FAIL", "INVALID"],
            "quota_mb": options.quota_mb * (1.05 if options.plant_loose_quota else 1.0),
            "min_free_mb": 0.0,
        },
        "health": {"metrics": "", "stale_ms": 60_000.0},
        "log": {"level": "error", "parts": False},
    }
    return load(None, {}, **tables).settings


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fill until enough has been written; what the disk said meanwhile."""
    ready, late_ms = threading.Event(), list[float]()
    began_s = time.monotonic()

    def left(settled: Settled) -> None:
        late_ms.append((station.clock.now_ns() - settled.answer.settled_ns) / 1e6)

    hooks = Hooks(wrap_engine=Trivial, on_ready=ready.set, on_settled=left)
    station = Station(settings(options, folder), hooks=hooks)
    thread = threading.Thread(target=station.run, name="station")
    thread.start()
    ready.wait()
    controller = ReferenceController(station.endpoint, clock=SystemClock()).start()
    images, quota_bytes = folder / "state" / "images", options.quota_mb * 1e6
    store = station.rooms.store
    samples: list[int] = []
    full_at = 0
    while time.monotonic() - began_s < options.most_s and not station.latch.wait(0.1):
        samples.append(taken_bytes(images))
        if not full_at and samples[-1] >= UNDER * quota_bytes:
            full_at = len(samples)
        seen = store.statistics()
        if full_at and _written(seen) >= options.times * quota_bytes:
            break
    seen = store.statistics()
    written = _written(seen) / quota_bytes
    station.stop("done")
    thread.join()
    controller.stop()
    at_end = sum(taken_bytes(images / name) for name in ("images", "masks"))
    report = verify(folder / "state" / "ledger.db", images, deep=True)
    answered = station.tally.figures()
    full = samples[full_at:] if full_at else []
    peak = max(samples, default=0) / quota_bytes
    faults = [
        *([f"the quota was passed: {peak:.4f} of it"] if peak > OVER else []),
        *(["the quota was never nearly reached"] if not full else []),
        *(
            [f"the store fell to {min(full) / quota_bytes:.2f} of its quota"]
            if full and min(full) < 0.8 * quota_bytes
            else []
        ),
        *([f"given up after {options.most_s} s"] if written < options.times else []),
        *(["nothing was removed"] if not seen.removed else []),
        *(["answers are missing"] if answered["triggered"] != answered["answered"] else []),
        *([f"{finding}" for finding in report.findings if not finding.known][:5]),
    ]
    return {
        "quota_mb": options.quota_mb,
        "peak_of_quota": round(peak, 5),
        "lowest_of_quota_once_full": round(min(full) / quota_bytes, 5) if full else None,
        "disk_against_books_at_end": round(at_end / max(1, store.statistics().used_bytes), 5),
        "samples": len(samples),
        "saved": seen.saved,
        "removed": seen.removed,
        "shed": seen.shed,
        "written_of_quota": round(written, 2),
        "parts": answered["answered"],
        "settled_to_sent_ms": percentiles(late_ms).to_json(),
        "images_verified": report.pictures,
        "seconds": round(time.monotonic() - began_s, 1),
        "load_1min": round(os.getloadavg()[0], 1),
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quota-mb", type=float, default=40.0)
    parser.add_argument("--times", type=float, default=4.0, help="write so many times the quota")
    parser.add_argument("--rate", type=float, default=100.0, help="parts a second")
    parser.add_argument("--most-s", type=float, default=600.0, help="give up after so long")
    parser.add_argument("--folder", type=Path, help="where the state directory goes")
    parser.add_argument(
        "--plant-loose-quota", action="store_true", help="a store that takes 5 % too much, to see it told"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quota-", dir=options.folder) as name:
        result = run(options, Path(name))
    print(json.dumps(result))
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
