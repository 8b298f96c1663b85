"""Whose share is it when the line is slower beside a flooded page? The same frames in turns beside each of these:

``off`` nothing; ``spinner`` two processes at idle priority that copy 64 MB to and fro (caches and memory alone);
``clients`` the flood and the viewers with the page stopped (SIGSTOP), so that they only wait;
``idle`` and ``nice`` the page crowded, at idle priority and at nice 19. Prints one JSON object with p50, p99 and p99.9
in milliseconds, and each by ``off``. It judges nothing: `inspector bench --page` does.

    python benchmarks/page_shares.py --parts 1200 --rounds 4
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inspector.bench import RunningLine, scratch_settings, taken_frames
from inspector.bench_page import _await_viewers, _crowd, _Feeder
from inspector.clock import SystemClock
from inspector.config import Settings, load
from inspector.demo_page import environment, free_endpoint
from inspector.figures import percentiles
from inspector.page.priority import step_behind
from inspector.recipe import read_ingredients

KINDS = ("off", "spinner", "clients", "idle", "nice")
_SPIN = "import numpy as n\na = n.ones(1 << 23); b = a.copy()\nprint(flush=True)\nwhile True: b[:] = a; a[:] = b"


@contextlib.contextmanager
def ended(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Kills them at the end, stopped or not."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def spinners() -> Iterator[None]:
    """One for each core, at idle priority."""
    command = [sys.executable, "-P", "-c", _SPIN]
    crew = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: step_behind("idle"))  # type: ignore[arg-type,return-value]  # noqa: PLW1509
        for _ in range(os.cpu_count() or 1)
    ]
    with ended(*crew):
        for process in crew:
            assert process.stdout is not None
            process.stdout.readline()
        yield


@contextlib.contextmanager
def page(settings: Settings, kind: str, seen: Counter[str]) -> Iterator[None]:
    """The page with its crowd."""
    command = [sys.executable, "-m", "inspector", "page", "--priority", "nice" if kind == "nice" else "idle"]
    process = subprocess.Popen(command, env=os.environ | environment(settings, 0), stdout=subprocess.PIPE, text=True)
    with ended(process):
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("page: ").strip()
        with contextlib.ExitStack() as crowd:
            crowd.enter_context(_crowd(url, seen))
            _await_viewers(url, SystemClock())
            if kind == "clients":
                process.send_signal(signal.SIGSTOP)
            try:
                yield
            finally:
                process.send_signal(signal.SIGCONT)


def beside(settings: Settings, kind: str, seen: Counter[str]) -> contextlib.AbstractContextManager[None]:
    """What runs beside the line in a block of this kind."""
    if kind == "off":
        return contextlib.nullcontext()
    return spinners() if kind == "spinner" else page(settings, kind, seen)


def measure(parts: int, rounds: int, kinds: list[str]) -> dict[str, Any]:
    """Blocks of all kinds in turn, ``rounds`` times."""
    clock, times = SystemClock(), {kind: list[float]() for kind in kinds}
    seen = {kind: Counter[str]() for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="page-shares-") as scratch:
        wanted = scratch_settings(load(None, {}).settings, Path(scratch))
        wanted = wanted.model_copy(update={"link": wanted.link.model_copy(update={"viewers": free_endpoint()})})
        window = read_ingredients(wanted, clock).preprocess.window
        feeder = _Feeder(taken_frames(wanted.camera, window, clock), clock)
        running = RunningLine(wanted, feeder.camera)
        try:
            for _ in range(rounds):
                for kind in kinds:
                    with beside(wanted, kind, seen[kind]):
                        times[kind] += feeder.block(running, max(1, parts // rounds))
        finally:
            running.stop()
    figures = {kind: percentiles(found).to_json() for kind, found in times.items()}
    off = figures.get("off", {})
    shares = {
        kind: {key: round(value / off[key], 3) for key, value in found.items() if value and off.get(key)}  # type: ignore[operator]
        for kind, found in figures.items()
    }
    return {"parts": parts, "ms": figures, "by_off": shares, "requests": {k: dict(v) for k, v in seen.items() if v}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=1200, help="of each kind; 1000 or more for p99.9")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    found = measure(options.parts, options.rounds, options.kinds.split(","))
    print(json.dumps({**found, "load_1min": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()
