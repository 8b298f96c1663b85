"""The service manager's side: notifications, watchdog, unit files, and a manual that leaves nothing out."""

from __future__ import annotations

import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inspector.cli.install import DROP_INS, pieces
from inspector.clock import PushedClock, SystemClock
from inspector.conditions import HINTS, Conditions
from inspector.crew import Crew
from inspector.flow import Latch
from inspector.frame import Reason, State
from inspector.health import Notifier
from inspector.health.metrics import COUNTERS, GAUGES
from inspector.qualification import Register
from inspector.realtime import awake, take_priority
from inspector.watch import Watch
from tests.conftest import ROOT
from tests.station_kit import Wrapped, running, settings, trivial

MANUAL = ROOT / "docs" / "operations.md"
PATIENCE_S = 30.0
"""Far beyond what anything here takes; only a hang reaches it."""


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._kept: queue.SimpleQueue[list[str]] | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(PATIENCE_S)

    def listen(self) -> None:
        """Read from now on, in a thread: the kernel keeps ten datagrams only, and a load may send more."""
        kept = self._kept = queue.SimpleQueue[list[str]]()

        def read() -> None:
            with suppress(OSError):  # closed, or silent for too long
                while True:
                    kept.put(self._socket.recv(4096).decode().split("\n"))

        threading.Thread(target=read, daemon=True).start()

    def next(self) -> list[str]:
        if self._kept is not None:
            return self._kept.get(timeout=PATIENCE_S)
        return self._socket.recv(4096).decode().split("\n")

    def until(self, line: str) -> list[str]:
        """All lines up to the first one that begins with ``line``."""
        heard: list[str] = []
        while not any(one.startswith(line) for one in heard):
            heard += self.next()
        return heard

    def heard(self) -> list[str]:
        """What waits now."""
        self._socket.setblocking(False)
        lines: list[str] = []
        try:
            while True:
                lines += self._socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            self._socket.settimeout(PATIENCE_S)
        return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """On both kinds of address that systemd may hand out."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@inspector-test-{os.getpid()}"
    made = Manager(address)
    yield made
    made.close()


# -- notifications -----------------------------------------------------------------------------------------------------


def test_lines_arrive_in_one_datagram(manager: Manager) -> None:
    """RELOADING=1 and MONOTONIC_USEC must come together, or the reload does not count."""
    Notifier(manager.address).tell("RELOADING=1", "MONOTONIC_USEC=12")
    assert manager.next() == ["RELOADING=1", "MONOTONIC_USEC=12"]


def test_a_manager_that_is_not_there_or_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    """Without an address nothing is sent; with a dead or a full one the loss is counted."""
    Notifier("").tell("READY=1")
    gone = Notifier(str(tmp_path / "nowhere"))
    gone.tell("READY=1")
    assert gone.lost == 1
    deaf = Manager(str(tmp_path / "deaf"))
    notifier = Notifier(deaf.address)
    while not notifier.lost:
        notifier.tell("x" * 1000)
    deaf.close()


def test_the_status_is_sent_when_it_changes(manager: Manager) -> None:
    """Not each round: the manager's journal would fill with it."""
    notifier = Notifier(manager.address)
    for text in ("a", "a", "b", "b", "a"):
        notifier.status(text)
    assert manager.heard() == ["STATUS=a", "STATUS=b", "STATUS=a"]


@pytest.mark.parametrize(
    ("environment", "pulse_ns"),
    [
        ({}, 1_000_000_000),
        ({"WATCHDOG_USEC": "5000000"}, 1_000_000_000),
        ({"WATCHDOG_USEC": "900000"}, 300_000_000),
        ({"WATCHDOG_USEC": "900000", "WATCHDOG_PID": "1"}, 1_000_000_000),
        ({"WATCHDOG_USEC": "900000", "WATCHDOG_PID": str(os.getpid())}, 300_000_000),
        ({"WATCHDOG_USEC": "soon"}, 1_000_000_000),
    ],
)
def test_the_watchdog_is_fed_well_within_its_time(tmp_path: Path, environment: dict[str, str], pulse_ns: int) -> None:
    """Each second, or three times within a shorter watchdog time that is meant for this process."""
    made = Manager(str(tmp_path / "notify"))
    notifier = Notifier(environment={**environment, "NOTIFY_SOCKET": made.address})
    fed = [at_ns for at_ns in range(0, 3_000_000_000, 100_000_000) if notifier.feed(at_ns)]
    assert fed == list(range(0, 3_000_000_000, pulse_ns))
    assert manager_heard(made) == ["WATCHDOG=1"] * len(fed)


def manager_heard(made: Manager) -> list[str]:
    try:
        return made.heard()
    finally:
        made.close()


def test_a_long_load_asks_for_more_time_and_keeps_watch(manager: Manager) -> None:
    """EXTEND_TIMEOUT_USEC each pulse, longer than the pulse; the rounds go on meanwhile and end with the load."""
    rounds = threading.Semaphore(0)
    with Notifier(manager.address).patience(rounds.release, pulse_s=0.01):
        for _ in range(3):
            assert rounds.acquire(timeout=PATIENCE_S)
    lines = manager.heard()
    assert len(lines) >= 3
    assert set(lines) == {"EXTEND_TIMEOUT_USEC=100000"}
    assert "patience" not in [thread.name for thread in threading.enumerate()]


def test_a_load_that_hangs_is_not_excused_for_ever(manager: Manager) -> None:
    """After its limit no more time is asked for, so the manager ends the daemon."""
    over = threading.Event()
    count = 0

    def count_round() -> None:
        nonlocal count
        count += 1
        if count == 5:
            over.set()

    with Notifier(manager.address).patience(count_round, pulse_s=0.01, limit_s=0.05):
        assert over.wait(PATIENCE_S)
        for thread in threading.enumerate():
            if thread.name == "patience":
                thread.join(PATIENCE_S)
    assert manager.heard() == ["EXTEND_TIMEOUT_USEC=100000"] * 5


# -- the watch ---------------------------------------------------------------------------------------------------------


def test_the_watchdog_starves_while_a_stage_is_stuck(tmp_path: Path) -> None:
    """A stage without a heartbeat: state Error, condition and status name it, no WATCHDOG=1, until it moves on."""
    made = Manager(str(tmp_path / "notify"))
    with running(settings(tmp_path), wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen:
        station = seen.station
        clock, latch = PushedClock(), Latch()
        crew = Crew(clock, latch)
        release, entered = threading.Event(), threading.Event()

        def step() -> None:
            entered.set()
            release.wait(PATIENCE_S)

        stage = crew.start("inspect", step)
        assert entered.wait(PATIENCE_S)
        conditions = Conditions(clock)
        conditions.enter(State.CONTINUOUS_EXECUTION)
        notifier = Notifier(made.address, {})
        watch = Watch(
            station.rooms,
            conditions=conditions,
            crew=crew,
            notifier=notifier,
            clock=clock,
            stale_ns=2_000_000_000,
            register=Register(tmp_path),
            present=lambda: None,
            log=station.log,
        )
        assert watch.look()
        clock.push(1_500_000_000)
        assert watch.look()
        assert made.heard().count("WATCHDOG=1") == 2
        clock.push(1_500_000_000)
        assert not watch.look()
        assert conditions.state is State.ERROR
        assert [one.name for one in conditions.present()] == ["stage"]
        lines = made.heard()
        assert any(line.startswith("STATUS=Error, stage: stage inspect has not moved") for line in lines)
        assert "WATCHDOG=1" not in lines
        assert watch.look(loading=True)  # while an engine is loaded, its stage may be silent
        assert "WATCHDOG=1" in made.heard()
        assert not watch.look()
        release.set()
        stage.stop()
        assert stage.join(PATIENCE_S)
        assert watch.look()
        assert conditions.state is State.CONTINUOUS_EXECUTION
        assert not conditions.present()
    made.close()


def test_a_daemons_life_as_the_manager_hears_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More time while the engine loads, READY, status, watchdog; RELOADING with its time and READY; STOPPING."""
    made = Manager(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", made.address)
    made.listen()
    with running(settings(tmp_path), wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen:
        start = made.until("READY=1")
        assert start[0].startswith("EXTEND_TIMEOUT_USEC=")
        assert "WATCHDOG=1" not in start
        first = made.until("WATCHDOG=1")
        unqualified = "STATUS=ContinuousExecution, not qualified, because nobody has qualified this station"
        assert any(line.startswith(unqualified) for line in first)
        before_us = SystemClock().now_ns() // 1000
        seen.station.reload()
        reload = made.until("READY=1")
        told = next(line for line in reload if line.startswith("MONOTONIC_USEC="))
        assert reload[reload.index(told) - 1] == "RELOADING=1"
        assert before_us <= int(told.partition("=")[2]) <= SystemClock().now_ns() // 1000
        seen.station.stop("test")
        assert "STOPPING=1" in made.until("STOPPING=1")
    made.close()


# -- unit files --------------------------------------------------------------------------------------------------------

ANALYZE = shutil.which("systemd-analyze")
needs_analyze = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
COMBINATIONS = [(), ("gpu",), ("usb",), ("gpu", "usb"), ("realtime",), ("gpu", "usb", "realtime"), ("page",)]


def installed(folder: Path, drop_ins: tuple[str, ...], unit: str = "inspector.service") -> Path:
    """The rendered unit with its drop-ins; its command is one that exists everywhere."""
    for piece in pieces(Path("/bin/true"), Path("/etc/inspector/config.toml"), list(drop_ins)):
        if piece.path.parts[:3] == ("etc", "systemd", "system"):
            target = folder.joinpath(*piece.path.parts[3:])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(piece.text)
    return folder / unit


@needs_analyze
@pytest.mark.parametrize("drop_ins", COMBINATIONS, ids="+".join)
def test_systemd_finds_nothing_to_say_about_the_unit(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    """An unknown key is only a warning to systemd, so any word on stderr fails."""
    assert ANALYZE is not None
    unit = installed(tmp_path, drop_ins)
    command = [ANALYZE, "verify", "--man=no", "--recursive-errors=one", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
@pytest.mark.parametrize("drop_ins", COMBINATIONS, ids="+".join)
def test_the_unit_is_hardened(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    """systemd-analyze security scores 1.4 or better, and 2.0 or better whatever drop-ins the station needs."""
    assert ANALYZE is not None
    unit = installed(tmp_path, drop_ins)
    command = [ANALYZE, "security", "--offline=yes", "--threshold=20", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    score = re.search(r"exposure level for inspector\.service: ([0-9.]+)", done.stdout)
    assert score is not None, done.stderr
    assert float(score[1]) <= (2.0 if drop_ins else 1.4)
    assert done.returncode == 0


@needs_analyze
def test_the_pages_unit_is_sound_and_hardened(tmp_path: Path) -> None:
    """Nothing to say about it, 2.0 or better, behind the line in everything it may take, and no file of the line's."""
    assert ANALYZE is not None
    unit = installed(tmp_path, ("page",), "inspector-page.service")
    command = [ANALYZE, "verify", "--man=no", "--recursive-errors=one", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    command = [ANALYZE, "security", "--offline=yes", "--threshold=20", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    score = re.search(r"exposure level for inspector-page\.service: ([0-9.]+)", done.stdout)
    assert score is not None and float(score[1]) <= 2.0, done.stdout[-300:] + done.stderr
    text = unit.read_text()
    for line in ("User=inspector-page", "Nice=19", "CPUWeight=10", "IOWeight=10", "ReadOnlyPaths=-/var/lib/inspector"):
        assert f"\n{line}\n" in text
    assert "\nExecStart=/bin/true page --config /etc/inspector/config.toml\n" in text


@needs_analyze
def test_a_misspelt_key_would_be_seen(tmp_path: Path) -> None:
    """The check above can fail."""
    assert ANALYZE is not None
    unit = installed(tmp_path, ())
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHouse="))
    done = subprocess.run([ANALYZE, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert "ProtectHouse" in done.stderr


@pytest.mark.parametrize(
    ("tool", "name", "arguments", "made"),
    [
        ("systemd-sysusers", "sysusers.conf", [], "etc/passwd"),
        ("systemd-tmpfiles", "tmpfiles.conf", ["--create"], "etc/inspector/keys"),
    ],
)
def test_user_and_directories_are_made(tmp_path: Path, tool: str, name: str, arguments: list[str], made: str) -> None:
    """systemd-sysusers and systemd-tmpfiles accept our files."""
    found = shutil.which(tool)
    if found is None or os.geteuid() != 0:
        pytest.skip(f"{tool} is not installed, or this is not root")
    (tmp_path / "etc").mkdir()
    users = shutil.which("systemd-sysusers")
    assert users is not None
    if name != "sysusers.conf":  # the directories belong to the user
        subprocess.run([users, f"--root={tmp_path}", str(ROOT / "systemd" / "sysusers.conf")], check=True)
    command = [found, f"--root={tmp_path}", *arguments, str(ROOT / "systemd" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / made).exists()


def test_the_unit_keeps_what_the_daemon_needs() -> None:
    """notify with a watchdog, restart for ever but not on a bad configuration, and no memory protection against JIT."""
    text = (ROOT / "systemd" / "inspector.service").read_text()
    for line in (
        "Type=notify",
        "User=inspector",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "WatchdogSec=5",
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "StartLimitIntervalSec=0",
        "KillMode=mixed",
        "UMask=0077",
        "MemoryDenyWriteExecute=no",
    ):
        assert f"\n{line}\n" in text
    others = {"sysusers", "sysusers-page", "tmpfiles"}
    assert set(DROP_INS) == {path.stem for path in (ROOT / "systemd").glob("*.conf")} - others


# -- the manual --------------------------------------------------------------------------------------------------------


def test_the_answering_thread_takes_its_priority_or_says_why_not(tmp_path: Path) -> None:
    """One thread at SCHED_FIFO, its name in the journal; where the kernel refuses, the line runs and says so."""
    told: list[Any] = []
    log = SimpleNamespace(**{kind: lambda event, **facts: told.append((event, facts)) for kind in ("info", "warning")})

    def try_it() -> None:
        take_priority("answer", 7, log)
        told.append((os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(0).sched_priority))

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    (event, facts), (policy, priority) = told
    assert facts["thread"] == "answer"
    taken = {"real time": (os.SCHED_FIFO, 7), "no real time": (os.SCHED_OTHER, 0)}
    assert (policy, priority) == taken[event]
    assert os.sched_getscheduler(0) != os.SCHED_FIFO  # that thread alone


def test_the_cores_stay_awake_for_as_long_as_it_runs_or_the_journal_says_why_not(tmp_path: Path) -> None:
    """The kernel reads four bytes of whole microseconds and holds to them while the file is open."""
    told: list[Any] = []
    log = SimpleNamespace(**{kind: lambda event, **facts: told.append((event, facts)) for kind in ("info", "warning")})
    device = tmp_path / "cpu_dma_latency"

    def opened() -> int:
        return sum(os.path.realpath(link) == str(device) for link in Path("/proc/self/fd").iterdir())

    with awake(20, log, device):
        assert told.pop()[0] == "cores may fall asleep"
    device.touch()
    with awake(20, log, device):
        assert opened() == 1
        assert told.pop() == ("cores stay awake", {"wake_us": 20})
    assert opened() == 0
    assert device.read_bytes() == (20).to_bytes(4, sys.byteorder)
    with awake(None, log, device):
        assert (opened(), told) == (0, [])


def rows(heading: str) -> set[str]:
    """The first column of the table under a heading: what stands there in backticks."""
    section = MANUAL.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert section, heading
    return set(re.findall(r"^\| `([^`]+)`", section, re.MULTILINE))


def test_every_reason_state_and_condition_is_explained() -> None:
    """docs/operations.md has a row for each, and none that does not exist."""
    assert rows("Reasons of INVALID") == {reason.value for reason in Reason}
    assert rows("States") == {state.value for state in State}
    assert rows("Conditions") == set(HINTS)
    assert rows("Exit codes") == {"0", "1", "2", "3", "130"}


def test_every_condition_that_the_code_raises_has_a_hint() -> None:
    """A name without a hint would tell people nothing."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "inspector").rglob("*.py")]
    raised = {name for text in sources for name in re.findall(r"(?:raise_fault|tell_of)\(\s*\"([^\"]+)\"", text)}
    assert raised == set(HINTS)


def test_every_metric_is_explained() -> None:
    """The manual's table lists each family by its name, and no other."""
    table = {f"inspector_{name}" for _, _, name, *_ in GAUGES} | {
        f"inspector_{name}_total" for _, _, name, *_ in COUNTERS
    }
    table |= {"inspector_parts_total", "inspector_events_total", "inspector_state", "inspector_condition"}
    table |= {"inspector_latency_seconds", "inspector_deadline_margin_seconds", "inspector_stage_seconds"}
    table |= {"inspector_shadow_flips_total", "inspector_shadow_skipped_total"}
    table |= {"inspector_station_info", "inspector_engine_info", "inspector_recipe_info"}
    assert rows("Metrics") == table
