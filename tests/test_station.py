"""The whole station: real camera process or renderer, engine, sockets and ledger, in one piece."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import threading
import zipfile
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

from inspector.clock import PushedClock
from inspector.conditions import Conditions
from inspector.config import load
from inspector.decision import Alarms
from inspector.docket import Docket
from inspector.engine import Engine
from inspector.errors import EngineError, InspectorError, LedgerError, LinkError
from inspector.fittings import Pace
from inspector.flow import Channel
from inspector.frame import Decision, Entry, FloatMap, Frame, Missed, Reason, Verdict
from inspector.ledger.book import Note
from inspector.line import Line
from tests.station_kit import BUNDLE, Wrapped, finish, running, settings, trivial
from tests.station_more_kit import AMPLE, PATIENCE_S, Counted, Journal, finish_acknowledged, until


def wrap(infer: Any) -> Any:
    return lambda engine: Wrapped(engine, infer)


def test_every_trigger_gets_exactly_one_answer(tmp_path: Path) -> None:
    """triggered = answered = acknowledged, numbers without a gap, one content each."""
    seen = finish_acknowledged(settings(tmp_path), 300, wrap_engine=wrap(trivial))
    figures = seen.station.tally.figures()
    assert figures["triggered"] == figures["answered"] == figures["acknowledged"] == 300
    # not in order: on a busy machine a DROPPED one overtakes
    assert sorted(one.answer.sequence for one in seen.arrivals) == list(range(1, 301))
    assert seen.controller is not None
    assert seen.controller.statistics().conflicts == 0


def test_the_engine_decides_as_the_truth_says(tmp_path: Path) -> None:
    """The committed engine tells good from defective on rendered parts, and each answer carries its stages."""
    wanted = settings(tmp_path, camera={"distinct": 40, "rate_hz": 20.0}, engine={"threads": 0}, timing=AMPLE)
    seen = finish_acknowledged(wanted, 40)
    figures: dict[str, Any] = seen.station.tally.figures()
    assert figures["pass"] > 5 and figures["fail"] > 5
    assert figures["escapes"] + figures["overkill"] <= 2
    names = [name for name, _ in seen.arrivals[0].answer.stages_us]
    assert names == ["queue", "prepare", "engine", "decide"]
    assert len(seen.arrivals[0].answer.hashes.engine) == 16


def test_an_engine_far_too_slow_gives_no_late_pass(tmp_path: Path) -> None:
    """While the engine holds its first part for ever, each is answered at its due time or displaced before."""
    release, gate_ms = threading.Event(), 200.0

    def held(_: Engine, batch: FloatMap) -> FloatMap:
        assert release.wait(PATIENCE_S)
        return np.zeros_like(batch)

    wanted = settings(tmp_path, timing={"gate_ms": gate_ms}, camera={"rate_hz": 40.0})
    cameras: Any = {"wrap_camera": lambda camera: Counted(camera, 60)}
    with running(wanted, wrap_engine=wrap(held), **cameras) as seen:
        try:
            seen.wait_for(lambda came: len(came) >= 60, PATIENCE_S)
        finally:
            release.set()
    assert sorted(one.answer.sequence for one in seen.arrivals) == list(range(1, 61))
    assert {one.answer.reason for one in seen.arrivals} <= {Reason.LATE, Reason.DROPPED}
    assert {one.answer.verdict for one in seen.arrivals} == {Verdict.INVALID}
    late_us = sorted(-one.left_us for one in seen.arrivals if one.answer.reason is Reason.LATE)
    assert late_us[0] >= 0 and late_us[len(late_us) // 2] < 1000 * gate_ms  # the median leaves within another gate


def test_an_engine_error_and_a_map_that_is_not_finite_are_invalid(tmp_path: Path) -> None:
    """Each with its own reason; the parts around them are decided as ever."""
    calls = iter(range(10_000))

    def moody(engine: Engine, batch: FloatMap) -> FloatMap:
        number = next(calls)
        if number == 3:
            raise EngineError("the device fell off the bus")
        return np.full_like(batch, np.nan) if number == 5 else np.zeros_like(batch)

    wanted = settings(tmp_path, camera={"rate_hz": 30.0}, timing=AMPLE)
    seen = finish_acknowledged(wanted, 12, wrap_engine=wrap(moody))
    reasons = [one.answer.reason for one in seen.arrivals]
    assert reasons.count(Reason.ENGINE_FAULT) == reasons.count(Reason.NOT_FINITE) == 1
    assert sum(one.answer.verdict is Verdict.PASS for one in seen.arrivals) == 10


def test_a_bug_in_a_stage_ends_the_line_with_every_part_answered(tmp_path: Path) -> None:
    """An error that is none of ours stops the daemon; what is open is answered STOPPED."""
    calls = iter(range(10_000))

    def buggy(_: Engine, batch: FloatMap) -> FloatMap:
        if next(calls) == 5:
            raise ZeroDivisionError("a bug")
        return np.zeros_like(batch)

    with running(settings(tmp_path), parts=1000, wrap_engine=wrap(buggy)) as seen:
        pass
    assert isinstance(seen.error, ZeroDivisionError)
    counts = seen.station.line.docket.statistics()
    assert counts.opened == counts.settled == counts.answered == len(seen.arrivals)
    assert Reason.STOPPED in {one.answer.reason for one in seen.arrivals}


def test_stopping_answers_what_is_open(tmp_path: Path) -> None:
    """SIGTERM's way: drain, answer, close."""
    with running(settings(tmp_path), wrap_engine=wrap(trivial)) as seen:
        seen.wait_for(lambda came: len(came) >= 20)
        seen.station.stop("SIGTERM")
    counts = seen.station.line.docket.statistics()
    assert counts.opened == counts.answered == len(seen.arrivals)


def test_views_of_one_part_give_one_answer(tmp_path: Path) -> None:
    """The worst of the views decides."""
    wanted = settings(tmp_path, camera={"views": 3, "rate_hz": 45.0}, timing=AMPLE)
    calls = iter(range(10_000))

    def one_in_five(_: Engine, batch: FloatMap) -> FloatMap:
        out = np.zeros_like(batch)
        if next(calls) % 15 == 1:
            out[0, 0, 100:120, 100:120] = 0.99
        return out

    seen = finish(wanted, 20, wrap_engine=wrap(one_in_five))
    verdicts = [one.answer.verdict for one in seen.arrivals]
    assert [one.answer.frame_id for one in seen.arrivals[:4]] == [1, 4, 7, 10]
    assert verdicts.count(Verdict.FAIL) == 4
    assert verdicts.count(Verdict.PASS) >= 15


class Lossy(Counted):
    """Frame 5 is lost."""

    def next(self, timeout_s: float) -> Frame | Missed | None:
        arrived = super().next(timeout_s)
        if arrived is None or arrived.frame_id != 5:
            return arrived
        return Missed(5, arrived.taken_ns if isinstance(arrived, Frame) else arrived.noticed_ns)


def test_a_lost_view_makes_its_part_invalid(tmp_path: Path) -> None:
    """That part alone, as VIEW_MISSING; there is no PASS on the views that came."""
    wanted = settings(tmp_path, camera={"views": 3, "rate_hz": 90.0}, timing=AMPLE)
    lossy: Any = {"wrap_camera": lambda camera: Lossy(camera, 12)}
    with running(wanted, wrap_engine=wrap(trivial), **lossy) as seen:
        seen.wait_for(lambda came: len(came) >= 4, PATIENCE_S)
    found = {one.answer.frame_id: (one.answer.verdict, one.answer.reason) for one in seen.arrivals}
    passed = (Verdict.PASS, None)
    assert found == {1: passed, 4: (Verdict.INVALID, Reason.VIEW_MISSING), 7: passed, 10: passed}


# -- reload ----------------------------------------------------------------------------------------------------------


def test_reload_changes_rules_between_two_parts(tmp_path: Path) -> None:
    """No part is lost, and the answers say from which part on the new rules hold."""
    path = tmp_path / "config.toml"
    path.write_text(_toml(tmp_path, "threshold = 0.5"))
    with running(load(path, {}).settings, wrap_engine=wrap(trivial), config_path=path) as seen:
        seen.wait_for(lambda came: len(came) >= 10)
        before = seen.arrivals[0].answer.hashes.settings
        path.write_text(_toml(tmp_path, "threshold = 0.25"))
        seen.station.reload()
        seen.wait_for(lambda came: came[-1].answer.hashes.settings != before)
        journal = seen.station.log = Journal()
        path.write_text("[decision]\nthreshhold = 1\n")
        seen.station.reload()
        journal.wait_for("reload refused, the old settings keep running")
        journal = seen.station.log = Journal()
        wanted = _toml(tmp_path, "threshold = 0.25").replace("queue = 256", "queue = 255")
        path.write_text(wanted + "[alarm]\nfails = 2\n")
        seen.station.reload()
        journal.wait_for("reload refused, the old settings keep running")
        assert any("timing.queue, alarm.fails cannot change while the daemon runs" in one for one in journal.faults)
        count = len(seen.arrivals)
        seen.wait_for(lambda came: len(came) > count + 30)
    hashes = [one.answer.hashes.settings for one in seen.arrivals]
    assert len(set(hashes)) == 2 and hashes == sorted(hashes, key=hashes.index)
    assert [one.answer.sequence for one in seen.arrivals] == list(range(1, len(seen.arrivals) + 1))


def test_a_changed_bundle_is_swapped_in_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    """The new engine is proven beside the old one; on any fault the old one keeps running."""
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("cache", "*.blob"))
    path = tmp_path / "config.toml"
    path.write_text(_toml(tmp_path, "threshold = 0.5", bundle))
    with running(load(path, {}).settings, config_path=path) as seen:
        seen.wait_for(lambda came: len(came) >= 3)
        first = seen.station.crew.get("inspect")
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["training"]["remark"] = "changed"
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        seen.station.reload()
        until(lambda: seen.station.crew.get("inspect") is not first)
        count = len(seen.arrivals)
        seen.wait_for(lambda came: len(came) > count + 5)
        second = seen.station.crew.get("inspect")
        journal = seen.station.log = Journal()
        (bundle / "model.onnx").write_bytes(b"broken")
        seen.station.reload()
        journal.wait_for("reload refused, the old settings keep running")
        count = len(seen.arrivals)
        seen.wait_for(lambda came: len(came) > count + 10)
        assert seen.station.crew.get("inspect") is second
    assert all(one.answer.reason is not Reason.ENGINE_FAULT for one in seen.arrivals)


def _toml(folder: Path, decision: str, bundle: Path = BUNDLE) -> str:
    return f"""
[station]
state_dir = "{folder}/state"
[camera]
rate_hz = 40.0
distinct = 5
[engine]
bundle = "{bundle}"
threads = 1
[timing]
gate_ms = 20000.0
queue = 256
[decision]
{decision}
[link]
endpoint = "tcp://127.0.0.1:*"
viewers = ""
[health]
metrics = ""
[log]
level = "error"
parts = false
"""


# -- what keeps it from starting -------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """LinkError, and the ledger is closed again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(LinkError, match="in use"):
            finish(settings(tmp_path, link={"endpoint": endpoint}), 1)


def test_two_daemons_do_not_share_a_ledger(tmp_path: Path) -> None:
    """The second is refused while the first runs, and the first goes on."""
    with running(settings(tmp_path), wrap_engine=wrap(trivial)) as seen:
        with pytest.raises(LedgerError):
            finish(settings(tmp_path), 1)
        count = len(seen.arrivals)
        seen.wait_for(lambda came: len(came) > count)


def test_a_bundle_with_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    """Exit 3, before any socket is opened."""
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("cache"))
    model = bytearray((bundle / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(bytes(model))
    with running(settings(tmp_path, engine={"bundle": bundle}), parts=1) as seen:
        pass
    assert isinstance(seen.error, InspectorError) and seen.error.exit_code == 3
    assert seen.controller is None, "the station had bound its socket"


def test_an_engine_that_differs_from_its_reference_images_is_refused(tmp_path: Path) -> None:
    """READY is earned: the reference images are run at every start."""
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("cache"))
    golden = bundle / "golden.npz"
    with np.load(golden) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    maps = next(name for name, array in changed.items() if array.dtype.kind == "f")
    changed[maps] = (1.0 - changed[maps]).astype(changed[maps].dtype)
    np.savez_compressed(golden, **changed)
    assert zipfile.is_zipfile(golden)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["references"]["sha256"] = hashlib.sha256(golden.read_bytes()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError):
        finish(settings(tmp_path, engine={"bundle": bundle}), 1)


def test_rows_displaced_for_ever_are_told_as_gaps(tmp_path: Path) -> None:
    """The ledger accounts for every number: a row that found no room is a gap, not a hole."""
    clock, written = PushedClock(), list[Any]()
    docket = Docket(epoch=4, gate_ns=100, slack_ns=10, commit_margin_ns=0)
    ledger: Any = type("Ledger", (), {"durable": 0, "write": staticmethod(written.extend)})()
    link: Any = type("Link", (), {"wake": lambda self: None, "raise_alarm": lambda self, text: None})()
    camera: Any = None
    line = Line(
        camera=camera,
        docket=docket,
        ledger=ledger,
        link=link,
        clock=clock,
        conditions=Conditions(clock),
        alarms=Alarms(0, 1),
        pace=Pace(),
        queue=1,
    )
    line.rows = Channel(2)
    for frame_id in range(1, 7):
        line._take_in(line.grouping.place(Missed(frame_id, clock.now_ns())))
    line.book()
    gaps = [row for row in written if isinstance(row, Note)]
    assert [(gap.kind, gap.epoch, gap.first, gap.last) for gap in gaps] == [("gap", 4, 1, 4)]


def _opened(line: Line, frame_id: int) -> Entry:
    return line.docket.open(part_id="", frame_id=frame_id, taken_ns=line.clock.now_ns(), wall_ns=0)


def test_what_an_answer_sets_off_begins_when_it_has_left(tmp_path: Path) -> None:
    """Committed, sent, then told, then to the image store; what no answering step took is handed over at the end."""
    done: list[str] = []
    link: Any = type(
        "Link",
        (),
        {
            "wait": lambda self, timeout_s: None,
            "wake": lambda self: done.append("woken"),
            "send": lambda self, answer, durable: done.append(f"sent {answer.sequence}"),
            "service": lambda self, now_ns: [],
            "next_wake_ns": lambda self: None,
        },
    )()
    clock = PushedClock()
    line = Line(
        camera=None,  # type: ignore[arg-type]
        docket=Docket(epoch=1, gate_ns=1000, slack_ns=10, commit_margin_ns=0),
        ledger=type("Ledger", (), {"durable": 0, "write": lambda self, batch: done.append("committed")})(),
        link=link,
        clock=clock,
        conditions=Conditions(clock),
        alarms=Alarms(0, 1),
        pace=Pace(),
        queue=1,
        on_settled=lambda settled: done.append(f"told {settled.answer.sequence}"),
        on_booked=lambda settled: done.append(f"stored {settled.answer.sequence}"),
        pause=lambda seconds: done.append("rested"),
    )
    for frame_id in (1, 2):
        line.settle(_opened(line, frame_id), Decision(Verdict.PASS))
    line.book()
    assert done == ["committed", "woken", "rested"]
    line.answer()
    assert done[3:] == ["sent 1", "sent 2", "told 1", "told 2", "stored 1", "stored 2"]
    line.settle(_opened(line, 3), Decision(Verdict.PASS))
    line.book()
    line.hand_over()
    assert done[9:] == ["committed", "woken", "rested", "stored 3"]


def test_a_run_of_fails_alarms_the_controller(tmp_path: Path) -> None:
    """N of the last M parts failed: the heartbeat says so, and the ledger keeps it."""

    def always(_: Engine, batch: FloatMap) -> FloatMap:
        out = np.zeros_like(batch)
        out[0, 0, 50:90, 50:90] = 0.99
        return out

    wanted = settings(tmp_path, alarm={"fails": 3, "among": 5}, camera={"rate_hz": 30.0})
    with running(wanted, wrap_engine=wrap(always)) as seen:
        controller = seen.controller
        assert controller is not None
        until(lambda: controller.state is not None and controller.state.alarms > 0)
        assert controller.state is not None and "3 of the last" in controller.state.alarm
    connection = apsw.Connection(str(tmp_path / "state" / "ledger.db"), flags=apsw.SQLITE_OPEN_READONLY)
    kept = [text for (text,) in connection.execute("SELECT text FROM events WHERE kind = 'alarm'")]
    connection.close()
    assert kept and "3 of the last" in kept[0]
