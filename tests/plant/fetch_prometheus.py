"""Fetch Prometheus and promtool into build/prometheus from the distribution's package; nothing is installed.

Needs apt with its lists, and dpkg. Where that is missing this says so and ends with 1; the tests that need the programs
are then skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PLACE = ROOT / "build" / "prometheus"


def program(name: str) -> str | None:
    """The program's path: the one that is installed, else the fetched one; None where there is none."""
    fetched = PLACE / "usr" / "bin" / name
    return shutil.which(name) or (str(fetched) if fetched.is_file() else None)


def main() -> int:
    """Unpacks the package beside the target and renames it, so that a cut run leaves no half of it."""
    if program("promtool") and program("prometheus"):
        PLACE.mkdir(parents=True, exist_ok=True)
        return 0
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        print("no apt here: the tests with promtool and Prometheus will be skipped")
        return 1
    PLACE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE.parent) as scratch:
        fetch = ["apt-get", "download", "prometheus"]
        got = subprocess.run(fetch, cwd=scratch, capture_output=True, text=True, check=False)
        found = sorted(Path(scratch).glob("prometheus_*.deb"))
        if got.returncode or not found:
            why = (got.stderr.strip().splitlines() or ["no package came"])[-1]
            print(f"prometheus cannot be fetched ({why}): the tests with it will be skipped")
            return 1
        unpacked = Path(scratch) / "unpacked"
        subprocess.run(["dpkg", "-x", str(found[0]), str(unpacked)], check=True)
        shutil.rmtree(PLACE, ignore_errors=True)
        unpacked.rename(PLACE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
