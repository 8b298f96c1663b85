"""The shadow's process: it stands still while a part is in the line, and no fault of it is a fault of the line."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from shadow_kit import PATIENCE_S, Stage, lines_of, shadow_pid, stage, state_of, wait_until

from benchmarks.file_damage import toml
from inspector.clock import PushedClock
from inspector.engine import Engine
from inspector.frame import FloatMap, Frame
from inspector.shadow import keeper
from inspector.shadow.book import comparisons
from inspector.shadow.child import ShadowProcess
from inspector.shadow.gate import Gate
from inspector.shadow.life import Life, ShadowLostError
from tests.station_kit import ROOT
from tests.tiny_bundles import bundle, images

# -- yielding ----------------------------------------------------------------------------------------------------------


def test_the_process_stands_still_while_a_part_is_in_the_line(tmp_path: Path) -> None:
    """It is stopped in the middle of its work when a frame comes, and goes on when the answer has left.

    Its work is to load a bundle that ends only when the test says so."""
    inside, release = threading.Event(), threading.Event()

    def held(engine: Engine, batch: FloatMap) -> FloatMap:
        inside.set()
        assert release.wait(PATIENCE_S)
        return engine.infer(batch)

    live, other = bundle(tmp_path, "live"), bundle(tmp_path, "other")
    unread, manifest = other.path / "manifest.json", (other.path / "manifest.json").read_bytes()
    unread.unlink()
    os.mkfifo(unread)
    with stage(tmp_path, live.path, other.path, infer=held) as made:
        wait_until(lambda: shadow_pid() > 0)
        pid = shadow_pid()
        for number in (1, 2):  # the first may come before it can be stopped at all, the second finds it at work
            made.camera.push(Frame(number, images(1)[0], 0))
            assert inside.wait(PATIENCE_S)
            wait_until(lambda: state_of(pid) == "T", lambda: state_of(pid))
            assert not made.shadow.statistics().up
            assert made.shadow.statistics().yields == number
            inside.clear()
            release.set()
            wait_until(lambda: state_of(pid) in {"R", "S", "D"}, lambda: state_of(pid))
            release.clear()
        release.set()
        with unread.open("wb") as end:
            (tmp_path / "read").write_bytes(manifest)
            (tmp_path / "read").replace(unread)
            end.write(manifest)
        made.wait_compared(2)
        assert all(one.began_ns > made.sent_ns[one.sequence] for one in made.outcomes)
    assert state_of(pid) == ""


def test_the_process_has_idle_priority(tmp_path: Path) -> None:
    """Before its first word, so that each thread of it inherits it, and the kernel prefers whatever wants the core."""
    child = ShadowProcess({"tables": {"engine": {"bundle": str(tmp_path / "none")}}})
    try:
        assert select.select([child], [], [], PATIENCE_S)[0], "it says nothing"
        assert child.receive() == {"event": "begun"}
        assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
    finally:
        child.kill()
        child.finish(1.0)


def test_a_process_held_still_dies_with_its_parent() -> None:
    """kill -9 of the daemon leaves no stopped process behind."""
    program = (
        "import os, select, signal, sys\n"
        "from inspector.shadow.child import ShadowProcess\n"
        "child = ShadowProcess({'tables': {}}, idle=False)\n"
        "select.select([child], [], [])\n"
        "assert child.receive() == {'event': 'begun'}\n"
        "os.kill(child.pid, signal.SIGSTOP)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None and parent.stdin is not None
    orphan = os.pidfd_open(int(parent.stdout.readline()))
    try:
        parent.kill()
        parent.wait()
        assert select.select([orphan], [], [], PATIENCE_S)[0], "the stopped process lives on"
    finally:
        os.close(orphan)
        parent.stdin.close()
        parent.stdout.close()


def test_the_gate_opens_only_for_a_line_that_stayed_idle() -> None:
    """A part that comes between the look and the opening keeps the process where it is."""
    clock = PushedClock()
    gate = Gate(clock)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        gate.guard(process.pid, gate.came)
        clock.push(30)
        seen = gate.came
        gate.shut()
        wait_until(lambda: state_of(process.pid) == "T")
        assert not gate.open(seen)
        assert state_of(process.pid) == "T"
        clock.push(1000)
        assert gate.ran_ns == 30
        assert gate.open(gate.came)
        wait_until(lambda: state_of(process.pid) != "T")
        clock.push(12)
        assert (gate.ran_ns, gate.yields) == (42, 1)
        gate.rest()
        gate.shut()  # it rests: there is nothing to stop
        assert (state_of(process.pid) == "T", gate.yields) == (False, 1)
        gate.guard(process.pid, came=gate.came - 1)  # a part came while the process was started
        wait_until(lambda: state_of(process.pid) == "T")
        gate.release()
        gate.release()
        process.communicate(b"\n", timeout=PATIENCE_S)
    assert not gate.open(gate.came)


# -- failing -----------------------------------------------------------------------------------------------------------


def troubles(made: Stage) -> dict[str, str]:
    return {one.name: one.text for one in made.seen.station.conditions.present()}


def test_a_killed_process_is_told_counted_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part in its hands is lost to the shadow; the line answers on, and later parts are compared."""
    monkeypatch.setattr(keeper, "BACKOFF_S", (0.05, 0.1))
    one, pictures = bundle(tmp_path, "one"), images(4)
    with stage(tmp_path, one.path, one.path) as made:
        made.feed(1, pictures[0])
        made.wait_compared(1)
        pid = shadow_pid()
        assert pid  # 0 would be our own group
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: made.shadow.statistics().restarts == 1)
        wait_until(lambda: made.shadow.statistics().up)
        assert "shadow" not in troubles(made)
        made.feed(2, pictures[1])
        made.wait_compared(2)
        assert made.seen.station.tally.answered == 2
    (pair,) = comparisons(tmp_path / "state" / "shadow")
    assert pair.parts == 2


def test_a_bundle_that_is_not_there_is_one_line_and_no_fault_of_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told once, whatever the number of attempts; the state stays operational; parts are counted as skipped."""
    monkeypatch.setattr(keeper, "BACKOFF_S", (0.01, 0.05))
    one = bundle(tmp_path, "one")
    with stage(tmp_path, one.path, tmp_path / "none", log={"level": "warning", "format": "json"}) as made:
        wait_until(lambda: made.shadow.statistics().restarts >= 2)
        made.feed(1, images(1)[0])
        wait_until(lambda: made.shadow.statistics().skipped_lost == 1, made.shadow.statistics)
        assert "no engine bundle" in troubles(made)["shadow"]
        assert made.seen.station.conditions.state.value == "ContinuousExecution"
        assert "not up" in " ".join(lines_of(made))
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert sum(line["event"] == "shadow fault" for line in told) == 1


BEGUN = {"event": "begun"}


class Silent:
    """A process that says what it is given, then nothing."""

    def __init__(self, pid: int, *messages: dict[str, Any]) -> None:
        self.pid, self.ended, self._messages = pid, False, list(messages)

    def receive(self) -> dict[str, Any] | None:
        return self._messages.pop(0) if self._messages else None


def test_a_process_that_hangs_is_given_up_after_its_idle_time() -> None:
    """Only time in which it could run counts: held still for hours it does not hang."""
    clock = PushedClock()
    gate = Gate(clock)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        life = Life(Silent(process.pid, BEGUN, {"event": "ready"}), gate, gate.came, hang_s=5.0)  # type: ignore[arg-type]
        clock.push(4_000_000_000)
        assert [one["event"] for one in life.hear()] == ["ready"]
        clock.push(3_600_000_000_000)
        assert list(life.hear()) == []  # it waits for work
        gate.release()
        life = Life(Silent(process.pid, BEGUN), gate, gate.came, hang_s=5.0)  # type: ignore[arg-type]
        gate.shut()
        clock.push(3_600_000_000_000)
        assert list(life.hear()) == []
        gate.open(gate.came)
        clock.push(5_000_000_001)
        with pytest.raises(ShadowLostError, match="5 s of idle time"):
            list(life.hear())
        gate.release()
        process.communicate(b"\n", timeout=PATIENCE_S)


def test_a_process_that_cannot_begin_says_why() -> None:
    """Its own words reach the journal."""
    clock = PushedClock()
    gate = Gate(clock)
    told = {"event": "failed", "what": "no engine bundle at x"}
    life = Life(Silent(os.getpid(), told), gate, gate.came)  # type: ignore[arg-type]
    with pytest.raises(ShadowLostError, match="no engine bundle at x"):
        list(life.hear())
    gate.release()


# -- switching ---------------------------------------------------------------------------------------------------------


def test_a_reload_switches_the_shadow_on_over_and_off(tmp_path: Path) -> None:
    """SIGHUP's way: no restart of the line, one epoch, and each engine's figures apart."""
    one, other = bundle(tmp_path, "one"), bundle(tmp_path, "other", shift=-0.25)
    pictures, config = images(3), tmp_path / "config.toml"

    def write(shadow: Path | None) -> None:
        tables = made.seen.station.settings.model_dump(mode="json", exclude_none=True)
        tables["shadow"].pop("bundle", None)
        tables["shadow"] |= {"bundle": str(shadow)} if shadow else {}
        config.write_bytes(toml(tables))

    def reload(shadow: Path | None, up: str) -> None:
        write(shadow)
        made.seen.station.reload()
        now = made.shadow.statistics
        wait_until(lambda: now().bundle == up if up else not now().on, now)
        wait_until(lambda: now().up == bool(up), now)

    with stage(tmp_path, one.path, None, config_path=config) as made:
        reload(one.path, "one")
        made.feed(1, pictures[0])
        made.wait_compared(1)
        reload(other.path, "other")
        made.feed(2, pictures[1])
        made.wait_compared(2)
        reload(None, "")
        made.feed(3, pictures[2])
        wait_until(lambda: shadow_pid() == 0)
        assert len(made.outcomes) == 2
    assert {pair.bundle: pair.parts for pair in comparisons(tmp_path / "state" / "shadow")} == {"one": 1, "other": 1}
