"""Every page over a ledger of a million parts: time to count it, and p50, p95 of each page's answer.

    python benchmarks/page_million.py [--parts 1000000] [--rounds 40] [--folder DIR]

The ledger is written by the daemon's own book. With --folder it is kept and used again."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "ledger")]

from ledger_parts import make_part  # noqa: E402

from inspector.clock import SystemClock, sleep_s  # noqa: E402
from inspector.frame import Reason, Verdict  # noqa: E402
from inspector.ledger.book import Book  # noqa: E402
from tests.page.page_kit import browsing, make_page  # noqa: E402

BATCH = 5000
PATHS = (
    "/watch", "/rejects", "/rejects?verdict=INVALID&reason=MISSED", "/rejects?shape=strip&zone=bar",
    "/rejects?part=part-99", "/rejects?before=500000", "/rejects?since=2000-01-01&verdict=FAIL",
    "/part/000001-000500000", "/trends", "/trends?window=7d", "/trends.json?window=parts", "/trends.json?window=1h",
    "/trends.json?window=7d", "/alarms", "/station", "/judge", "/learn", "/health",
)  # fmt: skip


def write(folder: Path, parts: int) -> None:
    """A week of parts, 93 % PASS."""
    clock, chance = SystemClock(), random.Random(1)
    start_ns, step_ns = clock.wall_ns() - 7 * 86_400 * 10**9, 7 * 86_400 * 10**9 // parts
    book = Book(folder / "ledger.db", clock=clock, ballast_bytes=0)
    book.open()
    for first in range(1, parts + 1, BATCH):
        rows = []
        for number in range(first, min(first + BATCH, parts + 1)):
            verdict = chance.choices([Verdict.PASS, Verdict.FAIL, Verdict.INVALID], [93, 5, 2])[0]
            reason = chance.choice([Reason.LATE, Reason.MISSED]) if verdict is Verdict.INVALID else None
            rows.append(make_part(book.epoch, number, verdict, reason=reason, wall_ns=start_ns + number * step_ns))
        book.write(rows)
    book.close()


def main() -> None:
    """Write where there is none, count, ask."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "ledger.db").exists():
            write(folder, arguments.parts)
        measure(folder, arguments.rounds)


def measure(folder: Path, rounds: int) -> None:
    """Prints one JSON object."""
    clock, page = SystemClock(), make_page(folder)
    figures: dict[str, object] = {}
    with browsing(page) as client:
        began_ns = clock.now_ns()
        while page.digest.followed().behind or page.digest.followed().error or page.promise.standing().why_not:
            sleep_s(0.1)
        figures["counted_s"] = round((clock.now_ns() - began_ns) / 1e9, 1)
        figures["rows"] = page.digest.followed().link
        for path in PATHS:
            spent = []
            for _ in range(rounds + 2):
                asked_ns = clock.now_ns()
                status = client.get(path).status_code
                spent.append((clock.now_ns() - asked_ns) / 1e6)
                assert status == 200, (path, status)
            p50, p95 = np.percentile(spent[2:], (50, 95))
            figures[path] = {"p50_ms": round(float(p50), 1), "p95_ms": round(float(p95), 1)}
            print(path, figures[path], file=sys.stderr)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
