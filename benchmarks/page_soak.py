"""Memory of the page's process over many parts with four live pages: a fast line by the real wire format and ledger.

    python benchmarks/page_soak.py [--parts 100000] [--rate 1000] [--warm 10000] [--growth-mb 10]

Publications with picture and mask go to the viewers' socket, answers into a ledger by the daemon's own book. Memory is
compared between the end of the warm-up and the end. Exit 1 where it grew by more."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "ledger")]

import zmq  # noqa: E402
from ledger_parts import make_evidence, make_part  # noqa: E402

from inspector.clock import SystemClock, sleep_s  # noqa: E402
from inspector.demo_page import environment, free_endpoint  # noqa: E402
from inspector.frame import Evidence, Verdict  # noqa: E402
from inspector.ledger.book import Book  # noqa: E402
from inspector.link.viewers import encode  # noqa: E402
from tests.station_kit import settings  # noqa: E402

BATCH = 100
PAIRS = [make_evidence(seed, 256) for seed in range(20)]


def resident_mb(pid: int) -> float:
    """VmRSS of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def health(url: str) -> dict[str, Any]:
    """What the page says of itself."""
    with urllib.request.urlopen(url + "/health", timeout=60) as answer:
        return dict(json.load(answer))


def feed(book: Book, door: zmq.Socket[bytes], first: int, rate: float) -> None:
    """One batch into both, at most at this rate."""
    clock = SystemClock()
    began_ns, rows = clock.now_ns(), []
    for number in range(first, first + BATCH):
        verdict = Verdict.FAIL if number % 15 == 0 else Verdict.PASS
        settled = make_part(book.epoch, number, verdict, wall_ns=clock.wall_ns(), evidence=PAIRS[number % len(PAIRS)])
        door.send_multipart(encode(settled, number, now_ns=0, images=True))
        rows.append(make_part(book.epoch, number, verdict, wall_ns=settled.answer.wall_ns, evidence=Evidence()))
    book.write(rows)
    sleep_s(max(0.0, BATCH / rate - (clock.now_ns() - began_ns) / 1e9))


def main() -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--warm", type=int, default=10_000)
    parser.add_argument("--growth-mb", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="page-soak-") as scratch:
        wanted = settings(Path(scratch), link={"viewers": free_endpoint()})
        book = Book(Path(scratch) / "state" / "ledger.db", clock=SystemClock(), ballast_bytes=0)
        book.open()
        door = zmq.Context.instance().socket(zmq.PUB)
        door.bind(wanted.link.viewers)
        command = [sys.executable, "-m", "inspector", "page"]
        page = subprocess.Popen(command, env=os.environ | environment(wanted, 0), stdout=subprocess.PIPE, text=True)
        people = None
        try:
            assert page.stdout is not None
            url = page.stdout.readline().removeprefix("page: ").strip()
            crowd = [sys.executable, "-P", "-m", "inspector.bench_crowd", url, "4", "0", "/watch"]
            people = subprocess.Popen(crowd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            while health(url)["hub"]["viewers"] < 4:
                sleep_s(0.1)
            marks: dict[int, float] = {}
            for first in range(1, arguments.warm + arguments.parts + 1, BATCH):
                feed(book, door, first, arguments.rate)
                done = first + BATCH - 1
                if done >= arguments.warm and (done - arguments.warm) % 10_000 == 0:
                    marks[done] = round(resident_mb(page.pid), 1)
            told = health(url)
        finally:
            for process in (people, page):
                if process is not None:
                    process.kill()
                    process.wait()
            book.close()
            door.close(linger=0)
    growth_mb = round(list(marks.values())[-1] - marks[arguments.warm], 1)
    print(json.dumps({"growth_mb": growth_mb, "resident_mb": marks, "hub": told["hub"], "feed": told["feed"]}))
    return 0 if growth_mb < arguments.growth_mb else 1


if __name__ == "__main__":
    sys.exit(main())
