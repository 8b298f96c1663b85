"""The real drill at small scale: a daemon process, the drill's own GenTL producer, real sockets and ledger."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inspector.drill.real import choose, drill
from inspector.drill.report import render
from inspector.errors import ConfigError
from tests.station_kit import BUNDLE

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the drill's GenTL producer needs gcc")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_line_keeps_its_promises_under_faults(tmp_path: Path) -> None:
    """No part unanswered, none answered twice with different content, no PASS that was not earned, and it recovers."""
    names = ["incomplete frames", "frame-id gaps", "camera lost and back", "engine error", "engine hang"]
    names += ["ledger locked", "acknowledgements lost and doubled", "config reload", "kill -9"]
    certificate = drill(parts=150, bundle=BUNDLE, folder=tmp_path, names=names, rate_hz=15.0, gate_ms=800.0)
    figures = certificate.figures
    assert certificate.violations == []
    assert (figures["unanswered"], figures["conflicting"], figures["false_pass"]) == (0, 0, 0)
    assert figures["parts"] == figures["answered"] + figures["cut_off"]
    rows = {row["name"]: row for row in figures["faults"]}
    assert set(rows) == set(names)
    assert all(row["recovered_ms"] is not None for row in rows.values())
    assert rows["incomplete frames"]["invalid"].get("INCOMPLETE", 0) >= 5
    assert rows["frame-id gaps"]["invalid"].get("MISSED", 0) >= 4
    assert rows["engine error"]["invalid"].get("ENGINE_FAULT", 0) >= 4
    page = render(certificate)
    assert "No violation" in page and "kill -9" in page


def test_an_unknown_fault_is_refused_with_the_known_ones() -> None:
    """Bad usage is told before anything is started."""
    with pytest.raises(ConfigError, match="camera lost and back"):
        choose(["camera on fire"])
