"""What the ledger costs: settled -> committed at a steady rate, rows a second at full speed, verify of many rows.

The steady runs use the daemon's own arrangement: a channel, a book thread that commits what waits, a sync thread
that fdatasyncs every 50 ms and checkpoints. Every answer also gets its receipt. The rates are measured in turns
(25/s, 2,000/s, 25/s, ...), so that a change of the machine's mood hits both.

    python benchmarks/ledger_rate.py --seconds 20 --rows 1000000 --json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inspector.clock import SystemClock
from inspector.flow import Channel
from inspector.frame import Answer, Defect, Hashes, Receipt, Settled, Shape, Verdict
from inspector.ledger.audit import stats, verify
from inspector.ledger.book import Book, Row


def settled(epoch: int, number: int, now_ns: int) -> Settled:
    """A part as the line makes it: one in ten is FAIL with two defects."""
    failed = number % 10 == 0
    defect = Defect(153.25, 41.5, 6.25, 320.125, 88.5, (31, 12, 40, 7), 0.71, 0.98, Shape.STRIP, zone="bar")
    answer = Answer(
        epoch=epoch,
        sequence=number,
        part_id=f"{epoch}-{number:06d}",
        frame_id=number,
        verdict=Verdict.FAIL if failed else Verdict.PASS,
        reason=None,
        review=False,
        rules=("length 41.5 px over 20 px",) if failed else (),
        defects=(defect, defect) if failed else (),
        score=0.98 if failed else 0.12345678901 + number * 1e-9,
        taken_ns=now_ns - 20_000_000,
        due_ns=now_ns + 60_000_000,
        settled_ns=now_ns,
        wall_ns=1_700_000_000_000_000_000 + now_ns,
        hashes=Hashes("0123456789abcdef", "fedcba9876543210", "00112233445566aa"),
        stages_us=(("queue", 120), ("prepare", 850), ("engine", 15321), ("decide", 412)),
    )
    return Settled(answer)


CHECKPOINT_BYTES = 4 << 20
"""As the station does."""


@dataclass
class Steady:
    """One run at a steady rate."""

    rate_hz: float
    latencies_ms: list[float] = field(default_factory=list)
    write_ms: list[float] = field(default_factory=list)
    sync_ms: list[float] = field(default_factory=list)
    checkpoint_ms: list[float] = field(default_factory=list)
    wal_peak_bytes: int = 0
    lag_peak_ms: float = 0.0
    batch_peak: int = 0


def steady(folder: Path, rate_hz: float, seconds: float) -> Steady:
    """Run the book as the daemon does; latency is from ``settle`` to the return of the commit."""
    clock, run = SystemClock(), Steady(rate_hz)
    book = Book(folder / f"rate-{rate_hz:g}-{time.monotonic_ns()}.db", clock=clock, ballast_bytes=0)
    book.open()
    book.recover(clock.now_ns())
    rows: Channel[Row] = Channel(4096)
    stop = threading.Event()

    def write() -> None:
        receipts: list[Receipt] = []
        while not stop.is_set() or rows.statistics().waiting:
            batch = rows.take_all(0.1)
            if batch:
                begun_ns = clock.now_ns()
                book.write([*batch, *receipts])
                now_ns = clock.now_ns()
                run.write_ms.append((now_ns - begun_ns) / 1e6)
                answers = [row.answer for row in batch if isinstance(row, Settled)]
                run.latencies_ms.extend((now_ns - answer.settled_ns) / 1e6 for answer in answers)
                receipts = [Receipt(answer.epoch, answer.sequence, now_ns) for answer in answers]

    def sync() -> None:
        while not stop.wait(0.05):
            run.lag_peak_ms = max(run.lag_peak_ms, book.statistics().lag_ns / 1e6)
            started = time.perf_counter()
            book.sync()
            synced = time.perf_counter()
            run.sync_ms.append((synced - started) * 1000)
            if book.wal_bytes > CHECKPOINT_BYTES:
                book.checkpoint()
                run.checkpoint_ms.append((time.perf_counter() - synced) * 1000)
            run.wal_peak_bytes = max(run.wal_peak_bytes, book.wal_bytes)

    threads = [threading.Thread(target=write), threading.Thread(target=sync)]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    for number in range(1, int(rate_hz * seconds) + 1):
        wait_s = started + number / rate_hz - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        book.mark_opened(number)
        if rows.offer(settled(book.epoch, number, clock.now_ns())) is not None:
            raise SystemExit(f"the channel overflowed at {rate_hz}/s: the ledger cannot keep up on this machine")
    stop.set()
    for thread in threads:
        thread.join()
    run.batch_peak = book.statistics().batch_peak
    book.close()
    return run


def full_speed(folder: Path, batch: int, rows: int) -> float:
    """Rows a second with batches of this size, nothing else running."""
    clock = SystemClock()
    book = Book(folder / f"full-{batch}.db", clock=clock, ballast_bytes=0)
    book.open()
    made = [settled(book.epoch, number, clock.now_ns()) for number in range(1, rows + 1)]
    started = time.perf_counter()
    for first in range(0, rows, batch):
        book.write(made[first : first + batch])
    spent = time.perf_counter() - started
    book.close()
    return rows / spent


def big_ledger(path: Path, rows: int) -> dict[str, float | int | bool]:
    """Fill a ledger of so many answers and receipts, then verify it and take its figures."""
    clock = SystemClock()
    book = Book(path, clock=clock, ballast_bytes=0)
    book.open()
    started = time.perf_counter()
    for first in range(1, rows + 1, 2000):
        numbers = range(first, min(first + 2000, rows + 1))
        now_ns = clock.now_ns()
        batch: list[Row] = [settled(book.epoch, number, now_ns) for number in numbers]
        book.write([*batch, *(Receipt(book.epoch, number, now_ns) for number in numbers)])
        book.mark_opened(numbers[-1])
        if first % 100_000 == 1:
            book.checkpoint()
    book.close()
    filled_s = time.perf_counter() - started
    started = time.perf_counter()
    found = verify(path)
    verify_s = time.perf_counter() - started
    started = time.perf_counter()
    stats(path)
    stats_s = time.perf_counter() - started
    started = time.perf_counter()
    book = Book(path, clock=clock, ballast_bytes=0)
    book.open()
    book.recover(clock.now_ns())
    open_s = time.perf_counter() - started
    book.close()
    return {
        "rows": found.rows,
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "fill_s": round(filled_s, 2),
        "verify_s": round(verify_s, 2),
        "verify_ok": found.ok and not found.findings,
        "stats_s": round(stats_s, 2),
        "open_and_recover_s": round(open_s, 2),
    }


def summary(runs: list[Steady]) -> dict[str, object]:
    """Figures over all runs of one rate; percentiles are p50, p99, p99.9, max."""
    return {
        "answers": sum(len(run.latencies_ms) for run in runs),
        "settled_to_committed_ms": percentiles([value for run in runs for value in run.latencies_ms]),
        "p99_ms_by_run": [round(float(np.percentile(run.latencies_ms, 99)), 3) for run in runs],
        "write_ms": percentiles([value for run in runs for value in run.write_ms]),
        "sync_ms": percentiles([value for run in runs for value in run.sync_ms]),
        "checkpoint_ms": percentiles([value for run in runs for value in run.checkpoint_ms]),
        "checkpoints": sum(len(run.checkpoint_ms) for run in runs),
        "batch_peak": max(run.batch_peak for run in runs),
        "wal_peak_mb": round(max(run.wal_peak_bytes for run in runs) / 1e6, 1),
        "lag_peak_ms": round(max(run.lag_peak_ms for run in runs), 1),
    }


def percentiles(values_ms: list[float]) -> list[float] | None:
    """p50, p99, p99.9, max; None of nothing."""
    if not values_ms:
        return None
    return [round(float(value), 3) for value in (*np.percentile(values_ms, (50, 99, 99.9)), max(values_ms))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--slow-rate", type=float, default=25.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000, help="0 leaves out the big ledger")
    parser.add_argument("--folder", type=Path, help="where the files go; the disk under it is what is measured")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sys.setswitchinterval(0.0005)  # this and the next as the daemon runs
    gc.freeze()
    random.seed(1)
    with tempfile.TemporaryDirectory(prefix="ledger-rate-", dir=options.folder) as name:
        folder = Path(name)
        runs: dict[float, list[Steady]] = {options.slow_rate: [], options.rate: []}
        for _ in range(options.turns):
            for rate_hz, done in runs.items():
                done.append(steady(folder, rate_hz, options.seconds))
        result: dict[str, object] = {f"{rate_hz:g}/s": summary(done) for rate_hz, done in runs.items()}
        result["rows_per_s"] = {str(batch): round(full_speed(folder, batch, 20_000)) for batch in (1, 10, 100)}
        if options.rows:
            result["big"] = big_ledger(folder / "big.db", options.rows)
    result["load_1min"] = round(os.getloadavg()[0], 1)
    if options.json:
        print(json.dumps(result))
        return 0
    for name, value in result.items():
        print(name)
        for key, figure in value.items() if isinstance(value, dict) else [("", value)]:
            print(f"  {key:28} {figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
