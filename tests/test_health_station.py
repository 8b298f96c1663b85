"""What a running station tells about itself: metrics over HTTP, status over the local socket, all its life."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inspector.cli.service import status_lines
from inspector.clock import SystemClock
from inspector.conditions import HINTS
from inspector.engine.bundle import Bundle
from inspector.engine.choose import Opened
from inspector.errors import ConfigError
from inspector.frame import Reason, State
from inspector.health.asking import NotRunningError, ask
from inspector.health.doors import SOCKET_NAME
from inspector.health.timings import SECONDS
from inspector.recipe import engine_opener
from tests.health_kit import http_socket, scrape, value
from tests.station_kit import Running, Wrapped, finish, running, settings, trivial


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running station after 40 parts."""
    wanted = settings(
        tmp_path_factory.mktemp("station"),
        health={"metrics": "127.0.0.1:0"},
        camera={"rate_hz": 50.0, "distinct": 5},
        timing={"gate_ms": 5000.0, "queue": 256},
        link={"viewers": "tcp://127.0.0.1:*"},
    )
    with running(wanted, wrap_engine=lambda engine: Wrapped(engine, trivial)) as station:
        station.wait_for(lambda arrivals: len(arrivals) >= 45)
        yield station


def test_a_scrape_tells_parts_states_queues_ledger_and_link(seen: Running) -> None:
    """Counts agree with the tally, which goes on meanwhile; exactly one state is 1; no condition holds."""
    before = seen.station.tally.answered
    samples = scrape(seen.station.vitals.desk.address)
    parts = {dict(labels)["reason"]: count for (name, labels), count in samples.items() if name.endswith("parts_total")}
    total = sum(count for (name, _), count in samples.items() if name == "inspector_parts_total")
    assert before <= total <= seen.station.tally.answered
    assert set(parts) == {"", *(reason.value for reason in Reason)}
    assert value(samples, "triggers_total") >= before
    assert value(samples, "answers_sent_total") >= before
    assert value(samples, "ledger_rows_total") >= before
    assert value(samples, "camera_frames_total") >= before
    assert value(samples, "disk_free_bytes") > 0
    assert value(samples, "queue_capacity", queue="parts") == 256
    states = {state: value(samples, "state", state=state.value) for state in State}
    assert [state for state, is_on in states.items() if is_on] == [State.CONTINUOUS_EXECUTION]
    assert {name: value(samples, "condition", condition=name) for name in HINTS} == dict.fromkeys(HINTS, 0.0)


def test_histograms_and_infos_are_whole(seen: Running) -> None:
    """Buckets rise to +Inf, which equals the count; each stage has its own; the hashes stand as info."""
    samples = scrape(seen.station.vitals.desk.address)
    for stage in ("queue", "prepare", "engine", "decide", "commit"):
        buckets = [
            count
            for (name, labels), count in samples.items()
            if name == "inspector_stage_seconds_bucket" and dict(labels)["stage"] == stage
        ]
        assert len(buckets) == len(SECONDS) + 1
        assert buckets == sorted(buckets)
        assert buckets[-1] == value(samples, "stage_seconds_count", stage=stage) >= 30
    assert value(samples, "deadline_margin_seconds_bucket", le="+Inf") >= 30
    assert value(samples, "deadline_margin_seconds_bucket", le="0.0") == 0
    recipe = seen.station.line.recipe
    assert recipe is not None
    infos = {name: dict(labels) for (name, labels), _ in samples.items() if name.endswith("_info")}
    assert infos["inspector_engine_info"]["plan_hash"] == recipe.engine.info.plan_hash
    assert infos["inspector_recipe_info"]["settings"] == recipe.hashes.settings
    assert infos["inspector_recipe_info"]["calibration"] == recipe.hashes.calibration


def test_status_over_the_local_socket_agrees_with_the_station(seen: Running) -> None:
    """One line of JSON: state, counts, margins, engine and hashes; only the owner may open the socket."""
    state_dir = seen.station.settings.station.state_dir
    report = ask(state_dir, clock=SystemClock())
    assert report["state"] == "ContinuousExecution"
    assert report["conditions"] == []
    assert report["counts"]["answered"] >= 40
    assert report["counts"]["pass"] + report["counts"]["fail"] + report["counts"]["invalid"] >= 40
    assert 0 < report["margin_ms"]["min"] <= report["margin_ms"]["p50"] < 5000
    assert report["latency_ms"]["p50"] > 0
    assert report["engine"]["bundle"] == "commutator"
    assert len(report["hashes"]["settings"]) == 16
    assert report["station"]["endpoint"] == seen.station.endpoint
    assert stat.S_IMODE((state_dir / SOCKET_NAME).stat().st_mode) == 0o600


def test_a_condition_is_in_status_and_metrics_while_it_holds(seen: Running) -> None:
    """With its text and what to do; afterwards it is gone from both."""
    station = seen.station
    station.conditions.tell_of("controller", "nobody is there")
    try:
        report = ask(station.settings.station.state_dir, clock=SystemClock())
        samples = scrape(station.vitals.desk.address)
    finally:
        station.conditions.clear("controller")
    assert [(one["name"], one["do"]) for one in report["conditions"]] == [("controller", HINTS["controller"])]
    assert value(samples, "condition", condition="controller") == 1.0
    assert ask(station.settings.station.state_dir, clock=SystemClock())["conditions"] == []


def test_hundred_scrapes_and_stuck_clients_delay_no_answer(seen: Running) -> None:
    """While clients hang on the desk and others scrape, every part is answered in time."""
    station = seen.station
    stuck = [http_socket(station.vitals.desk) for _ in range(8)]
    late_before = station.tally.reasons["LATE"]
    for _ in range(100):
        scrape(station.vitals.desk.address)
    count = len(seen.arrivals)
    seen.wait_for(lambda arrivals: len(arrivals) >= count + 5)
    assert station.tally.reasons["LATE"] == late_before
    for one in stuck:
        one.close()


# -- its life ----------------------------------------------------------------------------------------------------------


def test_the_socket_file_goes_with_the_station(tmp_path: Path) -> None:
    """After an orderly end nobody is fooled by a socket that lies there; asking says that no daemon runs."""
    with running(settings(tmp_path), parts=3, wrap_engine=lambda engine: Wrapped(engine, trivial)) as station:
        station.wait_for(lambda arrivals: len(arrivals) >= 3)
    assert not (tmp_path / "state" / SOCKET_NAME).exists()
    with pytest.raises(NotRunningError, match="no daemon runs") as caught:
        ask(tmp_path / "state", clock=SystemClock())
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_status_is_answered_while_the_engine_still_loads(tmp_path: Path) -> None:
    """Preoperational, without an engine and without an endpoint: a long load does not look like a dead daemon."""
    wanted = settings(tmp_path, health={"metrics": "127.0.0.1:0"})
    told: list[dict[str, Any]] = []

    def opener(bundle: Bundle) -> Opened:
        told.append(ask(wanted.station.state_dir, clock=SystemClock()))
        scrape(told[-1]["station"]["metrics"])
        return engine_opener(wanted)(bundle)

    finish(wanted, 3, opener=opener, wrap_engine=lambda engine: Wrapped(engine, trivial))
    assert [(one["state"], one["engine"], one["station"]["endpoint"]) for one in told] == [("Preoperational", {}, "")]
    assert any("Preoperational" in line for line in status_lines(told[0]))


def test_a_station_whose_metrics_port_is_taken_does_not_start(tmp_path: Path) -> None:
    """It ends with the configuration's fault before a part is triggered, and leaves the ledger closed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = settings(tmp_path, health={"metrics": f"127.0.0.1:{taken.getsockname()[1]}"})
        with running(wanted) as station:
            pass
    assert isinstance(station.error, ConfigError)
    assert station.station.tally.answered == 0
