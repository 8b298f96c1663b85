"""What the station tells about itself: metrics over HTTP, status over the local socket, the desk's patience."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from inspector.camera import CameraStatistics
from inspector.cli.service import status_lines
from inspector.clock import PushedClock, SystemClock
from inspector.conditions import HINTS
from inspector.docket import DocketStatistics
from inspector.engine.bundle import Bundle
from inspector.engine.choose import Opened
from inspector.errors import ConfigError, InspectorError
from inspector.flow import ChannelStatistics
from inspector.frame import Answer, Hashes, Reason, Settled, State, Verdict
from inspector.health import Tally
from inspector.health.asking import NotRunningError, ask
from inspector.health.desk import Desk, DeskStatistics
from inspector.health.doors import SOCKET_NAME, split_address
from inspector.health.metrics import COUNTERS, GAUGES, SHADOW_LABELS
from inspector.health.tally import Recent
from inspector.health.timings import MARGINS, SECONDS, Histogram, Timings
from inspector.ledger.book import BookStatistics
from inspector.ledger.store import StoreStatistics
from inspector.link.events import ControllerStatistics
from inspector.link.viewers import ViewersStatistics
from inspector.recipe import engine_opener
from inspector.shadow.counts import ShadowStatistics
from tests.station_kit import Running, Wrapped, finish, running, settings, trivial

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def answered(*, taken_ns: int = 0, settled_ns: int = 10_000_000, due_ns: int = 50_000_000, **rest: Any) -> Settled:
    fields: dict[str, Any] = dict.fromkeys(("epoch", "sequence", "frame_id", "wall_ns"), 1)
    fields |= {"part_id": "p", "verdict": Verdict.PASS, "reason": None, "review": False, "rules": (), "defects": ()}
    fields |= {"score": 0.0, "hashes": Hashes(), "stages_us": (("queue", 100), ("engine", 8000))}
    return Settled(Answer(taken_ns=taken_ns, settled_ns=settled_ns, due_ns=due_ns, **(fields | rest)))


def samples_of(text: str) -> Samples:
    """Every sample by name and labels."""
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def scrape(address: str, path: str = "/metrics") -> Samples:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as reply:
        return samples_of(reply.read().decode())


@contextmanager
def desk(folder: Path, clock: Any = None, **wanted: Any) -> Iterator[Desk]:
    made = Desk(
        status=wanted.pop("status", lambda: b'{"state": "Ready"}'),
        metrics=wanted.pop("metrics", lambda accept: (b"up 1\n", "text/plain")),
        clock=clock or SystemClock(),
        **wanted,
    )
    made.open(folder, "127.0.0.1:0")
    try:
        yield made
    finally:
        made.close()


def http_socket(made: Desk) -> socket.socket:
    return socket.create_connection(split_address(made.address), timeout=5)


def ended(channel: socket.socket) -> bool:
    """The desk has closed the connection."""
    try:
        return channel.recv(1) == b""
    except ConnectionResetError:
        return True


# -- the whole station -------------------------------------------------------------------------------------------------


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


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[(f"inspector_{name}", frozenset(labels.items()))]


def test_a_scrape_tells_parts_states_queues_ledger_and_link(seen: Running) -> None:
    """Counts agree with each other and with the tally; exactly one state is 1; no condition holds."""
    before = seen.station.tally.answered
    samples = scrape(seen.station.vitals.desk.address)
    parts = {dict(labels)["reason"]: count for (name, labels), count in samples.items() if name.endswith("parts_total")}
    total = sum(count for (name, _), count in samples.items() if name == "inspector_parts_total")
    assert before <= total <= seen.station.tally.answered
    assert set(parts) == {"", *(reason.value for reason in Reason)}
    assert value(samples, "triggers_total") >= total
    assert value(samples, "answers_sent_total") >= before
    assert value(samples, "ledger_rows_total") >= before
    assert value(samples, "camera_frames_total") >= total
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


# -- names -------------------------------------------------------------------------------------------------------------

RECORDS = {
    "queues": ChannelStatistics,
    "docket": DocketStatistics,
    "camera": CameraStatistics,
    "link": ControllerStatistics,
    "viewers": ViewersStatistics,
    "ledger": BookStatistics,
    "store": StoreStatistics,
    "desk": DeskStatistics,
    "shadow": ShadowStatistics,
}
OTHERS = {"disk": {"free_bytes", "total_bytes"}, "station": {"epoch", "uptime_s"}, "promise": {"max_escape"}}
LEFT_OUT = {
    ("queues", "offered"), ("queues", "taken"), ("docket", "settled"), ("docket", "late"), ("docket", "unrecorded"),
    ("link", "acks_repeated"), ("link", "acks_unknown"), ("link", "displaced"), ("link", "announcements_repeated"),
    ("link", "heartbeats"), ("viewers", "bytes_sent"), ("viewers", "authenticating"), ("ledger", "epoch"),
    ("ledger", "batch_peak"), ("store", "waiting_peak"), ("store", "last_error"),
    ("shadow", "bundle"), ("shadow", "engine"), ("shadow", "last_fault"),
    *(("shadow", change) for change in SHADOW_LABELS["change"]),
    *(("shadow", f"skipped_{why}") for why in SHADOW_LABELS["why"]),
}  # fmt: skip
"""Told by status only, as a reason of ``parts_total``, or by label."""


def test_every_field_of_every_statistics_is_exported_or_left_out_by_name() -> None:
    """A renamed or new field cannot silently vanish from the metrics."""
    exported = {(section, field) for section, field, *_ in (*GAUGES, *COUNTERS)}
    known = {(section, field.name) for section, kind in RECORDS.items() for field in dataclasses.fields(kind)}
    known |= {(section, name) for section, names in OTHERS.items() for name in names}
    assert exported <= known
    assert known - exported == LEFT_OUT


def test_metric_names_follow_prometheus() -> None:
    """Lower case, no repeated name, counters without ``_total`` in the table, base units last."""
    names = [name for _, _, name, *_ in (*GAUGES, *COUNTERS)]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert not name.endswith(("_total", "_ms", "_us", "_ns", "_mb"))


# -- histograms and tally ----------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-2.0, 2.0), max_size=200))
def test_a_histogram_counts_each_value_under_its_edge(values: list[float]) -> None:
    """``le`` means at most: cumulated counts equal a plain count, and +Inf counts all."""
    histogram = Histogram(MARGINS)
    for one in values:
        histogram.observe(one)
    for edge, count in histogram.cumulated():
        assert count == sum(one <= float(edge) for one in values)
    assert histogram.sum == pytest.approx(sum(values))


def test_timings_take_the_margin_at_sending() -> None:
    """Latency runs from the frame to the send, margin from the send to the due time, commit from settled to sent."""
    timings = Timings()
    timings.observe(answered(), sent_ns=12_000_000)
    timings.observe(answered(), sent_ns=51_000_000)
    assert list(timings.latencies_ms) == [12.0, 51.0]
    assert list(timings.margins_ms) == [38.0, -1.0]
    assert dict(timings.margin.cumulated())["0.0"] == 1
    assert dict(timings.stages["commit"].cumulated())["0.002"] == 1
    assert timings.stages["engine"].sum == pytest.approx(0.016)


def test_the_tally_sorts_by_verdict_and_reason() -> None:
    """Escapes and overkill are counted only where the truth is known."""
    tally = Tally()
    tally.add(answered(), 1)
    tally.add(dataclasses.replace(answered(), truth=True), 1)
    tally.add(dataclasses.replace(answered(verdict=Verdict.FAIL), truth=False), 1)
    tally.add(answered(verdict=Verdict.INVALID, reason=Reason.LATE), 1)
    assert (tally.answered, tally.escapes, tally.overkill) == (4, 1, 1)
    assert dict(tally.reasons) == {"LATE": 1}


def test_the_tally_keeps_the_last_latencies_in_memory_of_one_size() -> None:
    """However long the daemon runs, only the newest latencies count, and nothing grows for them."""
    recent = Recent(3)
    with pytest.raises(IndexError):
        assert recent.last
    assert not recent.values()
    for value in (1.0, 2.0, 3.0, 4.0):
        recent.append(value)
    assert recent.last == 4.0
    assert sorted(recent.values()) == [2.0, 3.0, 4.0]


# -- the desk ----------------------------------------------------------------------------------------------------------


def test_many_clients_that_say_nothing_hold_up_nobody(tmp_path: Path) -> None:
    """With more silent clients than the desk keeps, a scrape is still answered; the oldest had to go."""
    with desk(tmp_path, clients_max=4, patience_s=600) as made:
        silent = [http_socket(made) for _ in range(12)]
        for one in silent:
            with suppress(OSError):  # the first ones have been given up already
                one.sendall(b"GET /met")
        assert scrape(made.address) == {("up", frozenset()): 1.0}
        assert ended(silent[0])
        assert made.statistics().given_up >= 9
        for one in silent:
            one.close()


def test_a_slow_client_is_given_up_when_its_time_is_over(tmp_path: Path) -> None:
    """The time counts from the connection on, however often the client says a little."""
    clock = PushedClock()
    with desk(tmp_path, clock, patience_s=1.0) as made:
        slow = http_socket(made)
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        for _ in range(2):
            with http_socket(made) as probe:  # its answer shows that the desk has heard the first one
                probe.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                assert probe.recv(65536).startswith(b"HTTP/1.1 200")
            clock.push(600_000_000)
            slow.sendall(b"Host: a\r\n")
        assert ended(slow)
        slow.close()


def test_a_status_client_that_does_not_read_is_given_up(tmp_path: Path) -> None:
    """A report larger than the socket's buffer waits for its reader only so long; others get theirs meanwhile."""
    large = json.dumps({"state": "Ready", "filler": "x" * 900_000}).encode()
    clock = PushedClock()
    with desk(tmp_path, clock, status=lambda: large, patience_s=1.0) as made:
        deaf = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deaf.connect(str(tmp_path / SOCKET_NAME))
        assert ask(tmp_path, clock=SystemClock())["state"] == "Ready"
        clock.push(2_000_000_000)
        assert ask(tmp_path, clock=SystemClock())["state"] == "Ready"
        assert made.statistics().given_up == 1
        deaf.close()


@pytest.mark.parametrize(
    ("request_text", "reply"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"HEAD /metrics HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 405"),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400"),
        (b"\x00\xff\xfe\r\n\r\n", b"HTTP/1.1 400"),
        (b"x" * 20_000, b""),
    ],
)
def test_what_is_no_scrape_is_refused(tmp_path: Path, request_text: bytes, reply: bytes) -> None:
    """Only GET and HEAD of /metrics; a request that is too large ends the connection."""
    with desk(tmp_path) as made, http_socket(made) as client:
        client.sendall(request_text)
        heard = b""
        try:
            while piece := client.recv(65536):
                heard += piece
        except ConnectionResetError:
            pass
        assert heard.startswith(reply)
        if not reply:
            assert heard == b""
        assert b"up 1" not in heard or request_text.startswith(b"GET /metrics")


@given(st.binary(max_size=300))
def test_no_request_kills_the_desk(noise: bytes) -> None:
    """Whatever a client sends, the next scrape is answered."""
    with http_socket(_shared()) as client:
        client.sendall(noise + b"\r\n\r\n")
        with suppress(ConnectionResetError):
            client.recv(65536)
    assert scrape(_shared().address) == {("up", frozenset()): 1.0}


_kept: list[Desk] = []


def _shared() -> Desk:
    return _kept[0]


@pytest.fixture(autouse=True, scope="module")
def _one_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with desk(tmp_path_factory.mktemp("desk")) as made:
        _kept.append(made)
        yield


def test_a_fault_in_telling_is_told_and_counted(tmp_path: Path) -> None:
    """Metrics that cannot be made are a 500, a status a line that says so; the desk lives on."""

    def broken(*_: object) -> Any:
        raise RuntimeError("planted")

    with desk(tmp_path, metrics=broken, status=broken) as made:
        for _ in range(2):
            with pytest.raises(urllib.error.HTTPError, match="500"):
                scrape(made.address)
        with pytest.raises(InspectorError, match="no status"):
            ask(tmp_path, clock=SystemClock())
        assert made.statistics().failed == 3


def test_a_port_in_use_is_a_fault_of_the_configuration_in_one_line(tmp_path: Path) -> None:
    """Exit code 2, the address and what to do; nothing stays open."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        made = Desk(status=bytes, metrics=lambda accept: (b"", ""), clock=SystemClock())
        with pytest.raises(ConfigError, match="Set health") as caught:
            made.open(tmp_path, address)
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / SOCKET_NAME).exists()


@pytest.mark.parametrize("text", ["9570", ":9570", "host", "host:", "host:x", "127.0.0.1:99999", "127.0.0.1:-1", "a:²"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    """host:port, nothing guessed."""
    with pytest.raises(ConfigError, match="is no address"):
        split_address(text)
    assert split_address("[::1]:9570") == ("::1", 9570)


def test_a_station_whose_metrics_port_is_taken_does_not_start(tmp_path: Path) -> None:
    """It ends with the configuration's fault before a part is triggered, and leaves the ledger closed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = settings(tmp_path, health={"metrics": f"127.0.0.1:{taken.getsockname()[1]}"})
        with running(wanted) as station:
            pass
    assert isinstance(station.error, ConfigError)
    assert station.station.tally.answered == 0


def test_a_socket_left_by_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    """A dead socket file answers nobody: asking says so, and the next daemon takes its place."""
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(tmp_path / SOCKET_NAME))
    dead.close()
    with pytest.raises(NotRunningError):
        ask(tmp_path, clock=SystemClock())
    with desk(tmp_path):
        assert ask(tmp_path, clock=SystemClock()) == {"state": "Ready"}


def test_a_deep_state_directory_works(tmp_path: Path) -> None:
    """A path beyond the 107 bytes of a socket address is reached all the same, from both sides."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with desk(deep):
        assert ask(deep, clock=SystemClock()) == {"state": "Ready"}
    assert not (deep / SOCKET_NAME).exists()


def test_a_daemon_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    """Exit code 1 after the given time, not 3: something is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
        mute.bind(str(tmp_path / SOCKET_NAME))
        mute.listen(1)
        with pytest.raises(InspectorError, match="does not answer") as caught:
            ask(tmp_path, clock=SystemClock(), timeout_s=0.05)
    assert caught.value.exit_code == 1


def test_what_answers_but_is_no_daemon_is_told(tmp_path: Path) -> None:
    """A broken line of JSON is a fault, not a crash."""
    with desk(tmp_path, status=lambda: b"{half"), pytest.raises(InspectorError, match="broke off"):
        ask(tmp_path, clock=SystemClock())


def test_closing_twice_and_without_opening_is_harmless(tmp_path: Path) -> None:
    """The station closes its desk whatever happened before; no thread stays."""
    before = threading.active_count()
    made = Desk(status=bytes, metrics=None, clock=SystemClock())
    made.close()
    made = Desk(status=bytes, metrics=None, clock=SystemClock())
    made.open(tmp_path)
    made.close()
    made.close()
    assert threading.active_count() == before
