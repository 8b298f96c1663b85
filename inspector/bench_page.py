"""What the page costs the line: the same frames with the page off and with it crowded, in alternating blocks.

Crowded: the page's own process beside the line, live pages that read every picture, and a flood of requests without a
pause, by ``wrk`` where it is installed. The clients run at the lowest priority: they stand for other computers.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspector.bench import PACE_S, OneAtATime, RunningLine, scratch_settings, taken_frames
from inspector.clock import Clock, SystemClock, sleep_s
from inspector.config import Settings
from inspector.demo_page import free_endpoint, page_process
from inspector.errors import InspectorError
from inspector.figures import percentiles
from inspector.frame import Frame
from inspector.page.priority import step_behind
from inspector.recipe import read_ingredients

PAIRS = 3
"""Blocks with the page off, each followed by one with it crowded."""
VIEWERS = 4
CLIENTS = 16
PATH = "/watch"
BAR = 1.10
"""p99.9 with the page by p99.9 without it."""
_SETTLE = 10
"""Parts at the start of each block that are not counted: the page's start is over, and the caches are warm."""
_LOOK_S = 20.0


def bench_page(settings: Settings, *, parts: int, clock: Clock | None = None) -> dict[str, Any]:
    """Figures with the keys of ``bench --page --json``; ``parts``: of each kind. Times in milliseconds, from the frame
    taken by the camera to the answer handed to the socket. Raises InspectorError where the page does not start."""
    clock = clock or SystemClock()
    off_ms: list[float] = []
    open_ms: list[float] = []
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="inspector-bench-") as scratch:
        wanted = scratch_settings(settings, Path(scratch))
        wanted = wanted.model_copy(update={"link": wanted.link.model_copy(update={"viewers": free_endpoint()})})
        ingredients = read_ingredients(wanted, clock)
        feeder = _Feeder(taken_frames(wanted.camera, ingredients.preprocess.window, clock), clock)
        running = RunningLine(wanted, feeder.camera)
        try:
            for pair in range(PAIRS):
                block = parts * (pair + 1) // PAIRS - parts * pair // PAIRS
                off_ms += feeder.block(running, block)
                with page_process(wanted, 0) as url, _crowd(url, seen):
                    _await_viewers(url, clock)
                    open_ms += feeder.block(running, block)
                    seen["received"] += int(_health(url)["feed"]["received"])
        finally:
            running.stop()
    off, crowded = percentiles(off_ms).to_json(), percentiles(open_ms).to_json()
    return {
        "off_ms": off,
        "open_ms": crowded,
        "ratio": {key: _ratio(crowded[key], off[key]) for key in off},
        "bar": BAR,
        "parts": parts,
        "pairs": PAIRS,
        "viewers": VIEWERS,
        "flood": f"{'wrk' if shutil.which('wrk') else 'own clients'}, {CLIENTS} connections, {PATH}",
        "page": dict(seen),
    }


class _Feeder:
    """Frames for the line, one at a time, over all blocks."""

    def __init__(self, frames: list[Frame], clock: Clock) -> None:
        self.camera = OneAtATime(clock, PACE_S)
        self._frames, self._number = frames, 0

    def block(self, running: RunningLine, parts: int) -> list[float]:
        """What each part took, but for the first of the block."""
        spent = [running.once(self.camera, self._next()) for _ in range(_SETTLE + parts)]
        return spent[_SETTLE:]

    def _next(self) -> Frame:
        self._number += 1
        frame = self._frames[self._number % len(self._frames)]
        return replace(frame, frame_id=self._number, part_id=f"bench-{self._number}")


@contextmanager
def _crowd(url: str, seen: Counter[str]) -> Iterator[None]:
    """Live pages and the flood, until the block ends; ``seen`` gets what they were answered."""
    wrk = shutil.which("wrk")
    command = [sys.executable, "-P", "-m", "inspector.bench_crowd", url, str(VIEWERS), "0" if wrk else str(CLIENTS)]
    people = subprocess.Popen([*command, PATH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    flood = None
    try:
        if wrk is not None:
            wanted = [wrk, "-t1", f"-c{CLIENTS}", "-d3600s", "-H", f"Host: localhost:{url.rpartition(':')[2]}"]
            flood = subprocess.Popen(
                [*wanted, url + PATH],
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: step_behind("idle"),  # noqa: PLW1509
            )
        yield
        if flood is not None:
            flood.send_signal(signal.SIGINT)
            told = flood.communicate(timeout=_LOOK_S)[0]
            done, bad = re.search(r"(\d+) requests in", told), re.search(r"Non-2xx or 3xx responses: (\d+)", told)
            seen["requests"] += int(done[1]) if done else 0
            seen["not 2xx"] += int(bad[1]) if bad else 0
        counts: dict[str, int] = json.loads(people.communicate(timeout=_LOOK_S)[0] or "{}")
        seen["parts shown"] += counts.pop("parts", 0)
        seen["broken"] += counts.pop("broken", 0)
        seen["requests"] += sum(counts.values())
        seen["not 2xx"] += sum(count for status, count in counts.items() if status[0] != "2")
    finally:
        for process in (people, flood):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def _await_viewers(url: str, clock: Clock) -> None:
    """Until every live page is open."""
    give_up_ns = clock.now_ns() + int(_LOOK_S * 1e9)
    while _health(url)["hub"]["viewers"] < VIEWERS:
        if clock.now_ns() > give_up_ns:
            raise InspectorError(
                "the live pages were not let in", expected=f"{VIEWERS} viewers", found=str(_health(url))
            )
        sleep_s(0.05)


def _health(url: str) -> dict[str, Any]:
    request = urllib.request.Request(url + "/health", headers={"Connection": "close"})
    with urllib.request.urlopen(request, timeout=_LOOK_S) as answer:
        return dict(json.load(answer))


def _ratio(crowded: float | None, off: float | None) -> float | None:
    return crowded / off if crowded is not None and off else None
