"""Random requests to every route of the page, by its own table: no 500, no hang, nobody let in who must not be.

    python benchmarks/page_fuzz.py [--requests 10000] [--seed 1] [--json]

The real line writes a ledger and pictures, the real server answers over sockets. Exit 1 where something was found."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from inspector.clock import SystemClock  # noqa: E402
from tests.page.conftest import quick  # noqa: E402
from tests.page.fuzz_kit import Fuzzer  # noqa: E402
from tests.page.page_kit import PASSWORD, USERS, Journal, count_all, make_page, served  # noqa: E402
from tests.station_kit import Wrapped, finish, settings  # noqa: E402


def main() -> int:
    """Prints what was asked, what came, and what must not have come."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder, clock, journal = Path(tempfile.mkdtemp(prefix="page-fuzz-")), SystemClock(), Journal()
    try:
        wanted = settings(
            folder,
            store={"save": ["PASS", "FAIL", "INVALID"]},
            camera={"rate_hz": 25.0, "distinct": 20},
            timing={"gate_ms": 100_000.0, "queue": 64},
        )
        finish(wanted, 30, wrap_engine=lambda engine: Wrapped(engine, quick))
        page = make_page(folder / "state", journal=journal)
        for name, role in USERS.items():
            page.users.add(name, role, PASSWORD)
        with served(page) as url:
            count_all(page)
            began_ns = clock.now_ns()
            found = Fuzzer(page, url, arguments.seed, clock).run(arguments.requests)
            spent_s = (clock.now_ns() - began_ns) / 1e9
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found.faults += [str(line) for line in journal.lines if line["level"] == "error"]
    found.faults += ["a password in the log" for line in journal.lines if PASSWORD in str(line)]
    figures = {
        "requests": found.requests,
        "seed": arguments.seed,
        "statuses": dict(found.statuses.most_common()),
        "routes": len(found.routes),
        "reached_by_route": dict(found.admitted),
        "slowest_ms": round(found.slowest_ms, 1),
        "wall_s": round(spent_s, 1),
        "faults": found.faults,
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name}: {value}")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
