"""The page's own process beside a running line: stopped or killed at work, it costs the line no part."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inspector.config import Settings
from inspector.demo_page import environment, free_endpoint
from inspector.frame import Verdict
from inspector.ledger.query import records
from tests.page.page_kit import wait
from tests.page.test_live import Stream
from tests.station_kit import Wrapped, running, settings, trivial

BEFORE, AFTER = 25, 60


@contextlib.contextmanager
def page_beside(wanted: Settings) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``inspector page`` over this line, and its address; killed at the end, stopped or not."""
    command = [sys.executable, "-m", "inspector", "page"]
    process = subprocess.Popen(command, env={**os.environ, **environment(wanted, 0)}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("page: "), first
        yield process, first.removeprefix("page: ").strip()
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def health(url: str) -> dict[str, Any]:
    """What the page says of itself."""
    with urllib.request.urlopen(url + "/health", timeout=20) as answer:
        return dict(json.load(answer))


@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL])
def test_a_page_that_is_stopped_or_killed_loses_no_part(tmp_path: Path, sent: signal.Signals) -> None:
    """It has the socket, the ledger and a viewer open then. Every part after it is answered, acknowledged, booked."""
    wanted = settings(
        tmp_path,
        camera={"rate_hz": 30.0},
        timing={"gate_ms": 30_000.0, "queue": 256},
        link={"viewers": free_endpoint()},
        store={"save": ["PASS", "FAIL", "INVALID"]},
    )
    with (
        page_beside(wanted) as (process, url),
        running(wanted, wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen,
    ):
        viewer = Stream(url)
        viewer.until(b"event: part")
        seen.wait_for(lambda arrivals: len(arrivals) >= BEFORE, 60)
        wait(lambda: health(url)["feed"]["received"] > 5 and health(url)["behind"] == 0, "the page looks on")
        process.send_signal(sent)
        if sent is signal.SIGKILL:
            process.wait(10)
        else:
            state = Path(f"/proc/{process.pid}/stat")
            wait(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "it stands")
        reached = len(seen.arrivals)
        seen.wait_for(lambda arrivals: len(arrivals) >= reached + AFTER, 60)  # while it is gone, not after it came back
        viewer.close()
    assert seen.error is None and seen.controller is not None
    heard = {arrival.answer.sequence: arrival.answer for arrival in seen.arrivals}
    booked = [record.settled.answer.sequence for record in records(tmp_path / "state" / "ledger.db")]
    assert sorted(heard) == list(range(1, len(heard) + 1)) == sorted(booked)
    assert {answer.verdict for answer in heard.values()} == {Verdict.PASS}
