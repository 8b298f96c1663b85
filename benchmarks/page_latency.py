"""From answer to picture: the line at 10 parts a second, the page in its own process, a real browser that notes when
each part stood on the page. Needs chromium and playwright.

    python benchmarks/page_latency.py [--parts 150] [--rate 10]"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from inspector.demo_page import free_endpoint, page_process  # noqa: E402
from inspector.ledger.query import records  # noqa: E402
from tests.page.conftest import quick  # noqa: E402
from tests.station_kit import Wrapped, running, settings  # noqa: E402

WATCHED = """() => { window.seen = [];
  new MutationObserver(() => { const part = document.querySelector('[data-part]');
    if (part) window.seen.push([part.dataset.part, performance.timeOrigin + performance.now()]); }
  ).observe(document.querySelector('[data-slot=part]'), {childList: true}); }"""


def main() -> None:
    """Prints one JSON object: milliseconds from the answer's decision to the decoded picture in the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", type=int, default=150)
    parser.add_argument("--rate", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wanted = settings(
            Path(scratch),
            camera={"rate_hz": arguments.rate},
            timing={"gate_ms": 30_000.0},
            link={"viewers": free_endpoint()},
        )
        with sync_playwright() as driver, page_process(wanted, 0) as url:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            view = browser.new_page()
            view.goto(url + "/watch")
            view.evaluate(WATCHED)
            with running(wanted, wrap_engine=lambda engine: Wrapped(engine, quick)) as seen:
                seen.wait_for(lambda arrivals: len(arrivals) >= arguments.parts, 120)
                view.wait_for_timeout(500)
                shown = dict(view.evaluate("window.seen"))
            browser.close()
        spent = []
        for record in records(Path(scratch) / "state" / "ledger.db"):
            answer = record.settled.answer
            key = f"{answer.epoch:06d}-{answer.sequence:09d}"
            if key in shown and answer.sequence > 10:
                decided_ms = (answer.wall_ns + answer.settled_ns - answer.taken_ns) / 1e6
                spent.append(shown[key] - decided_ms)
    p50, p95, most = np.percentile(spent, (50, 95, 100))
    figures = {"parts": len(spent), "p50_ms": p50, "p95_ms": p95, "max_ms": most}
    print(json.dumps({name: round(float(value), 1) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
