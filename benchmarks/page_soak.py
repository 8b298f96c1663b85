"""Memory of the page's process over many parts with four live pages: a fast line by the real wire format and ledger.

    python benchmarks/page_soak.py [--parts 100000] [--rate 1000] [--warm 10000] [--growth-mb 10]

Publications with picture and mask go to the viewers' socket, answers into a ledger by the daemon's own book. Memory is
compared between the end of the warm-up and the end. A fifth viewer takes nothing: it must be dropped and counted, the
four may not be, and no queue may pass its bound. Exit 1 where memory grew by more, or one of these does not hold."""

from __future__ import annotations

import argparse
import json
import os
import socket
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
from inspector.page.hub import QUEUE  # noqa: E402
from tests.station_kit import settings  # noqa: E402

BATCH = 100
VIEWERS = 4
_OPEN_S = 120.0
_EARLY_S, _STILL_S = 0.002, 5.0
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
        early_s = (number + 1 - first) / rate - (clock.now_ns() - began_ns) / 1e9
        if early_s > _EARLY_S:  # no burst that the socket would have to drop
            sleep_s(early_s)
    book.write(rows)


def sleeper(url: str) -> socket.socket:
    """A live page that is opened and never read."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    door.connect((host, int(port)))
    door.sendall(f"GET /live HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
    return door


def opened(url: str, viewers: int) -> None:
    """Waits until so many live pages are open."""
    clock = SystemClock()
    give_up_ns = clock.now_ns() + int(_OPEN_S * 1e9)
    while (found := health(url)["hub"]["viewers"]) < viewers:
        if clock.now_ns() > give_up_ns:
            raise TimeoutError(f"{found} of {viewers} live pages are open after {_OPEN_S:.0f} s")
        sleep_s(0.1)


def seen(told: dict[str, Any]) -> int:
    """Publications that the page knows of."""
    return int(told["feed"]["received"] + told["feed"]["lost"])


def settled(url: str, wanted: int) -> dict[str, Any]:
    """The page's health once it knows of so many publications, or of no more for a while."""
    clock = SystemClock()
    last, since_ns = -1, clock.now_ns()
    while (count := seen(told := health(url))) < wanted and clock.now_ns() - since_ns < _STILL_S * 1e9:
        if count != last:
            last, since_ns = count, clock.now_ns()
        sleep_s(0.5)
    return told


def faults_of(told: dict[str, Any], counted: int, parts: int, growth_mb: float, limit_mb: float) -> list[str]:
    """What does not hold; ``counted``: publications that the page knows of since the warm-up."""
    hub = told["hub"]
    return [
        *([f"memory grew by {growth_mb} MB"] if growth_mb >= limit_mb else []),
        *([f"{hub['dropped']} viewers were dropped, not the one that sleeps"] if hub["dropped"] != 1 else []),
        *([f"{hub['viewers']} viewers at the end, not {VIEWERS}"] if hub["viewers"] != VIEWERS else []),
        *([f"{hub['waiting_peak']} messages waited for a viewer"] if hub["waiting_peak"] > QUEUE else []),
        *([f"only {counted} of {parts} parts were received or counted as lost"] if counted < 0.99 * parts else []),
    ]


def main() -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--warm", type=int, default=10_000)
    parser.add_argument("--growth-mb", type=float, default=10.0)
    arguments = parser.parse_args()
    if arguments.warm < BATCH or arguments.warm % BATCH or arguments.parts < BATCH or arguments.parts % BATCH:
        parser.error(f"--parts and --warm go by {BATCH}")
    began_ns, total = SystemClock().now_ns(), arguments.warm + arguments.parts
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
            crowd = [sys.executable, "-P", "-m", "inspector.bench_crowd", url, str(VIEWERS), "0", "/watch"]
            people = subprocess.Popen(crowd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            opened(url, VIEWERS)
            asleep = sleeper(url)
            opened(url, VIEWERS + 1)
            marks: dict[int, float] = {}
            step = max(BATCH, arguments.parts // 10 // BATCH * BATCH)
            for first in range(1, total + 1, BATCH):
                feed(book, door, first, arguments.rate)
                done = first + BATCH - 1
                if done == arguments.warm:
                    before = seen(health(url))
                if done >= arguments.warm and ((done - arguments.warm) % step == 0 or done >= total):
                    marks[done] = round(resident_mb(page.pid), 1)
            told = settled(url, before + arguments.parts)
            asleep.close()
        finally:
            for process in (people, page):
                if process is not None:
                    process.kill()
                    process.wait()
            book.close()
            door.close(linger=0)
    growth_mb = round(marks[total] - marks[arguments.warm], 1)
    faults = faults_of(told, seen(told) - before, arguments.parts, growth_mb, arguments.growth_mb)
    result = {"parts": total, "growth_mb": growth_mb, "resident_mb": marks, "hub": told["hub"], "feed": told["feed"]}
    print(json.dumps({**result, "seconds": round((SystemClock().now_ns() - began_ns) / 1e9), "faults": faults}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
