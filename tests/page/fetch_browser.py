"""Fetch what the tests in a real browser need: Debian's chromium where apt and the right to use it are at hand, and
axe-core from its npm package into build/browser. What cannot be had is left out; the tests that need it are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent.parent / "build" / "browser"
AXE = "axe-core@4.14.1"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def install_browser() -> str:
    """The browser's path; empty where there is none and none can be installed."""
    found = next((path for path in map(shutil.which, NAMES) if path), "")
    if found or shutil.which("apt-get") is None:
        return found
    before = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if before and shutil.which("sudo") is None:
        return ""
    command = [*before, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    )
    if done.returncode:
        print(f"chromium was not installed: {done.stderr.strip()[-200:]}", file=sys.stderr)
    return next((path for path in map(shutil.which, NAMES) if path), "")


def fetch_axe() -> None:
    """axe.min.js and its licence into TARGET."""
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not installed: accessibility is not checked", file=sys.stderr)
        return
    done = subprocess.run([npm, "pack", "--silent", AXE], cwd=TARGET, capture_output=True, text=True, check=False)
    packed = sorted(TARGET.glob("axe-core-*.tgz"))
    if done.returncode or not packed:
        print(f"axe-core was not fetched: {done.stderr.strip()[-200:]}", file=sys.stderr)
        return
    with tarfile.open(packed[-1]) as archive:
        for name in ("axe.min.js", "LICENSE"):
            member = archive.extractfile(f"package/{name}")
            assert member is not None
            (TARGET / name).write_bytes(member.read())
    packed[-1].unlink()


if __name__ == "__main__":
    TARGET.mkdir(parents=True, exist_ok=True)
    print(f"browser: {install_browser() or 'none'}")
    fetch_axe()
