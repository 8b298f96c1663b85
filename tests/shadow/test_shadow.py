"""The shadow: after the answer, in idle time, never sent, and no fault of it is a fault of the line."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from inspector.bench import OneAtATime
from inspector.cli import run as command
from inspector.clock import PushedClock, SystemClock
from inspector.conditions import Conditions
from inspector.engine import Engine
from inspector.errors import ConfigError
from inspector.frame import Answer, Evidence, FloatMap, Frame, Hashes, Reason, Settled, Verdict
from inspector.recipe import read_ingredients
from inspector.replay import replay
from inspector.shadow import keeper
from inspector.shadow.book import comparisons, flips
from inspector.shadow.gate import Gate
from inspector.shadow.keeper import Shadow
from inspector.shadow.life import Life, ShadowLostError
from inspector.shadow.process import Bench
from inspector.shadow.records import FLIPS, Change, Job, Live, Outcome, change, comparable
from tests.station_kit import ROOT, Running, Wrapped, running, settings
from tests.tiny_bundles import bundle, eager_shadow, images

PARTS = 24
PATIENCE_S = 60


@dataclass
class Stage:
    """A station that is fed one frame at a time, and what its shadow said."""

    seen: Running
    camera: OneAtATime
    sent_ns: dict[int, int]
    outcomes: list[Outcome] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    @property
    def shadow(self) -> Shadow:
        return self.seen.station.rooms.shadow

    def compared(self, outcome: Outcome) -> None:
        with self.came:
            self.outcomes.append(outcome)
            self.came.notify_all()

    def feed(self, number: int, pixels: np.ndarray, part_id: str = "") -> None:
        """One frame, and its answer."""
        before = len(self.seen.arrivals)
        self.camera.push(Frame(number, pixels, 0, part_id=part_id or f"part-{number}"))
        self.seen.wait_for(lambda arrivals: len(arrivals) > before)

    def wait_compared(self, count: int) -> None:
        with self.came:
            assert self.came.wait_for(lambda: len(self.outcomes) >= count, PATIENCE_S), self.shadow.statistics()


def wait_until(holds: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    """For what has no event of its own: a process's state, a count."""
    clock, beat = SystemClock(), threading.Event()
    until_ns = clock.now_ns() + PATIENCE_S * 1_000_000_000
    while not holds():
        assert clock.now_ns() < until_ns, what()
        beat.wait(0.01)


@contextmanager
def stage(folder: Path, live: Path, shadow: Path | str | None, **more: Any) -> Iterator[Stage]:
    """``infer`` and ``station_hook`` among ``more``: the live engine's, and a look before the shadow starts."""
    infer, config_path = more.pop("infer", None), more.pop("config_path", None)
    wanted = settings(
        folder,
        engine={"bundle": live, "threads": 1},
        shadow={"bundle": shadow} if shadow is not None else {},
        timing={"gate_ms": 20_000.0},
        **more,
    )
    camera, sent_ns = OneAtATime(SystemClock()), dict[int, int]()

    def wrap(engine: Engine) -> Engine:
        return Wrapped(engine, infer) if infer is not None else engine

    hooks = {"wrap_camera": lambda _: camera, "wrap_engine": wrap}
    with eager_shadow(), running(wanted, config_path=config_path, **hooks) as seen:
        link = seen.station.line.link
        send = link.send

        def sent(answer: Answer, *, durable: int) -> bool:
            done = send(answer, durable=durable)
            sent_ns[answer.sequence] = SystemClock().now_ns()
            return done

        link.send = sent  # type: ignore[method-assign]
        made = Stage(seen, camera, sent_ns)
        made.shadow.on_compared = made.compared
        yield made


# -- against a plain replay --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    folder: Path
    live: dict[str, dict[str, Any]]
    shadow: dict[str, dict[str, Any]]
    """Results of the replays by part."""
    stage: Stage
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Paired:
    """The same images through a station with a shadow, and through a replay of either engine."""
    folder = tmp_path_factory.mktemp("paired")
    live, shadow = bundle(folder, "live"), bundle(folder, "candidate", shift=-0.25)
    pictures = images(PARTS, seed=11)
    (folder / "images").mkdir()
    for number, image in enumerate(pictures, 1):
        cv2.imwrite(str(folder / "images" / f"{number:03d}.png"), image)
    found = []
    for one in (live, shadow):
        results = folder / f"{one.name}.jsonl"
        replay(folder / "images", settings(folder / one.name, engine={"bundle": one.path}), results=results)
        lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        found.append({line["image"]: line for line in lines})
    with stage(folder, live.path, shadow.path, health={"metrics": "127.0.0.1:0"}) as made:
        for number, (image, part) in enumerate(zip(pictures, sorted(found[0]), strict=True), 1):
            made.feed(number, image, part)
            made.wait_compared(number)
        body, _ = made.seen.station.vitals._metrics()("") if made.seen.station.vitals._metrics() else (b"", "")
    samples = [one for family in text_string_to_metric_families(body.decode()) for one in family.samples]
    told = {f"{one.name}{'/'.join(one.labels.values())}": one.value for one in samples}
    return Paired(folder, found[0], found[1], made, told)


def test_flips_are_those_of_two_replays(paired: Paired) -> None:
    """Engines that differ in one weight: the same parts flip, the same way, with the same rules and scores."""
    expected = {
        part: (paired.live[part]["verdict"], paired.shadow[part]["verdict"])
        for part in paired.live
        if paired.live[part]["verdict"] != paired.shadow[part]["verdict"]
    }
    assert 3 <= len(expected) <= PARTS - 3  # else nothing is shown
    rows = flips(paired.folder / "state" / "shadow", limit=1000)
    assert {row["part_id"]: (row["live"], row["shadow"]) for row in rows} == expected
    for row in rows:
        for who, results in (("live", paired.live), ("shadow", paired.shadow)):
            assert row[f"{who}_rules"] == results[row["part_id"]]["rules"]
            assert row[f"{who}_score"] == pytest.approx(results[row["part_id"]]["score"])


def test_every_part_is_counted_once(paired: Paired) -> None:
    """One pair of recipes, all parts compared, flips by change, in the file and in the metrics."""
    (one,) = comparisons(paired.folder / "state" / "shadow")
    counted = {kind: one.changes[kind] for kind in FLIPS}
    assert one.parts == PARTS == paired.metrics["inspector_shadow_compared_total"]
    assert one.flips == sum(counted.values()) == len(flips(paired.folder / "state" / "shadow", limit=1000))
    assert one.bundle == "candidate"
    assert one.live_engine != one.shadow_engine
    for kind, count in counted.items():
        assert paired.metrics[f"inspector_shadow_flips_total{kind.value}"] == count
    assert sum(count for name, count in paired.metrics.items() if "shadow_skipped" in name) == 0


def test_the_shadow_gets_a_part_only_after_its_answer_left(paired: Paired) -> None:
    """Each judgement begins after the answer was handed to the socket."""
    sent_ns = paired.stage.sent_ns
    assert [one.sequence for one in paired.stage.outcomes] == list(range(1, PARTS + 1))
    assert all(one.began_ns > sent_ns[one.sequence] for one in paired.stage.outcomes)


def test_nothing_of_the_shadow_is_sent(paired: Paired) -> None:
    """The controller heard one answer a part, the live one; a flip changes neither it nor the ledger."""
    arrivals = paired.stage.seen.arrivals
    heard = {one.answer.part_id: one.answer for one in arrivals}
    assert len(arrivals) == len(heard) == PARTS
    assert {part: answer.verdict.value for part, answer in heard.items()} == {
        part: line["verdict"] for part, line in paired.live.items()
    }
    assert {answer.hashes.engine for answer in heard.values()} == {line["engine"] for line in paired.live.values()}
    controller = paired.stage.seen.controller
    assert controller is not None and controller.statistics().conflicts == 0


def test_a_flip_is_kept_with_the_part_and_both_masks(paired: Paired) -> None:
    """What the engines saw, and what each marked: the masks differ where one weight differs."""
    for row in flips(paired.folder / "state" / "shadow", limit=3):
        pictures = {what: cv2.imread(path, cv2.IMREAD_GRAYSCALE) for what, path in row["pictures"].items()}
        assert set(pictures) == {"part", "live", "shadow"}
        original = cv2.imread(str(paired.folder / "images" / row["part_id"]), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(pictures["part"], original)
        assert (pictures["live"] != pictures["shadow"]).any()


def test_people_can_ask_what_the_shadow_found(paired: Paired, capsys: pytest.CaptureFixture[str]) -> None:
    """``shadow stats`` and ``shadow show``, for people and as JSON; without a shadow's file one line and 1."""
    state = str(paired.folder / "state")
    assert command(["shadow", "stats", "--state-dir", state, "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["parts"] == PARTS and 0 < pair["flips"] / PARTS < pair["flip_rate_upper"] < 1
    assert command(["shadow", "stats", "--state-dir", state]) == 0
    assert f"{PARTS} parts, {pair['flips']} flips" in capsys.readouterr().out
    for kind in ("pass_to_fail", "fail_to_pass"):
        assert command(["shadow", "show", "--state-dir", state, "--change", kind, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["flips"]
        assert len(rows) == pair[kind] and {row["change"] for row in rows} <= {kind}
    assert command(["shadow", "show", "--state-dir", state, "--limit", "2"]) == 0
    assert capsys.readouterr().out.count("shadow  ") == 2
    assert command(["shadow", "stats", "--state-dir", str(paired.folder / "nowhere")]) == 1
    assert "no shadow has run here" in capsys.readouterr().err


# -- yielding ----------------------------------------------------------------------------------------------------------


def state_of(pid: int) -> str:
    """R, S, T ... as the kernel says; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def shadow_pid() -> int:
    """The one shadow's process among our children."""
    found = []
    for each in Path("/proc/self/task").iterdir():
        for pid in (each / "children").read_text(encoding="ascii").split():
            if b"inspector.shadow.process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found[0] if len(found) == 1 else 0


def test_the_process_stands_still_while_a_part_is_in_the_line(tmp_path: Path) -> None:
    """It is stopped in the middle of its work when a frame comes, and goes on when the answer has left."""
    inside, release = threading.Event(), threading.Event()

    def held(engine: Engine, batch: FloatMap) -> FloatMap:
        inside.set()
        assert release.wait(PATIENCE_S)
        return engine.infer(batch)

    one = bundle(tmp_path, "one")
    with stage(tmp_path, one.path, one.path, infer=held) as made:
        wait_until(lambda: shadow_pid() > 0)
        pid = shadow_pid()  # it loads its engine: a second of work
        for number in (
            1,
            2,
        ):  # the first may come before it can be stopped at all, the second finds it at work
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
        made.wait_compared(2)
        assert all(one.began_ns > made.sent_ns[one.sequence] for one in made.outcomes)
    assert state_of(pid) == ""


def test_the_process_has_idle_priority(tmp_path: Path) -> None:
    """Every thread of it, so that the kernel itself prefers whatever else wants the core."""
    from inspector.shadow.child import ShadowProcess

    child = ShadowProcess({"tables": {"engine": {"bundle": str(tmp_path / "none")}}})
    try:
        wait_until(lambda: os.sched_getscheduler(child.pid) == os.SCHED_IDLE)
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
        os.kill(shadow_pid(), signal.SIGKILL)
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


def lines_of(made: Stage) -> list[str]:
    from inspector.cli.service import status_lines

    return status_lines(made.seen.station.vitals.look().to_json())


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


# -- bounded memory ----------------------------------------------------------------------------------------------------


def idle_shadow(tmp_path: Path, *, views: int = 1, keep: int = 2, queue: int = 1) -> Shadow:
    """Switched on, with nobody who takes parts."""
    wanted = settings(
        tmp_path, shadow={"bundle": "x", "keep": keep}, camera={"views": views}, timing={"queue": queue, "gate_ms": 100}
    )
    clock = PushedClock()
    made = Shadow(
        wanted,
        ("c", "s"),
        clock=clock,
        conditions=Conditions(clock),
        on_event=lambda kind, text: None,
        idle=lambda: True,
    )
    made._on = True
    return made


def answer(number: int, verdict: Verdict = Verdict.PASS, reason: Reason | None = None, **more: Any) -> Settled:
    fields: dict[str, Any] = {
        "rules": (),
        "defects": (),
        "score": 0.1,
        "review": False,
        "hashes": Hashes("e", "c", "s"),
    }
    fields |= {"taken_ns": 1, "due_ns": 9, "settled_ns": 5, "wall_ns": 7} | more
    made = Answer(
        epoch=1, sequence=number, part_id=f"p{number}", frame_id=number, verdict=verdict, reason=reason, **fields
    )
    return Settled(made, Evidence(), None)


def frame(number: int) -> Frame:
    return Frame(number, np.full((4, 5), number % 256, np.uint8), 1)


def test_what_finds_no_idle_time_is_skipped_and_counted(tmp_path: Path) -> None:
    """The newest parts wait, at most ``shadow.keep``; every answered part is compared, skipped or waiting."""
    shadow = idle_shadow(tmp_path)
    for number in range(1, 21):
        shadow.came(frame(number))
        shadow.answered(answer(number))
    shadow.came(frame(21))
    shadow.answered(answer(21, Verdict.INVALID, Reason.LATE))
    shadow.answered(answer(22))  # its frame never came
    found = shadow.statistics()
    assert (found.waiting, found.skipped_busy, found.skipped_unjudged, found.skipped_gone) == (2, 18, 1, 1)
    job = shadow._next_job()
    assert job is not None and job.live.sequence == 19
    shadow._hashes = ("c", "other rules")
    assert shadow._next_job() is None
    assert shadow.statistics().skipped_recipe == 1


def test_frames_of_parts_that_are_never_answered_do_not_stay(tmp_path: Path) -> None:
    """At most the queue and four parts more are remembered, whatever the line does."""
    shadow = idle_shadow(tmp_path, queue=3)
    for number in range(1, 1000):
        shadow.came(frame(number))
    assert sorted(shadow._frames) == list(range(993, 1000))


def test_all_views_of_a_part_go_together(tmp_path: Path) -> None:
    """A part of three views is judged on its three frames, or not at all."""
    shadow = idle_shadow(tmp_path, views=3, keep=4)
    for number in range(1, 7):
        shadow.came(frame(number))
    shadow.answered(answer(1))
    shadow.answered(replace(answer(4)))
    job = shadow._next_job()
    assert job is not None and [int(one.pixels[0, 0]) for one in job.frames] == [1, 2, 3]
    shadow.answered(answer(7))
    assert shadow.statistics().skipped_gone == 1


def test_without_a_bundle_nothing_is_remembered_or_started(tmp_path: Path) -> None:
    """The default: no thread, no process, no frame held."""
    one = bundle(tmp_path, "one")
    with stage(tmp_path, one.path, None) as made:
        made.feed(1, images(1)[0])
        assert not made.shadow._frames and shadow_pid() == 0
        assert "shadow" not in {thread.name for thread in threading.enumerate()}
        assert made.shadow.statistics().on is False
        assert not any("shadow" in line for line in lines_of(made))


# -- what is compared --------------------------------------------------------------------------------------------------


def test_changes_have_names() -> None:
    """PASS and FAIL both ways; INVALID on either side; two INVALID agree."""
    p, f, i = Verdict.PASS, Verdict.FAIL, Verdict.INVALID
    assert [change(*pair) for pair in ((p, p), (f, f), (i, i))] == [Change.SAME] * 3
    assert [change(p, f), change(f, p)] == [Change.PASS_TO_FAIL, Change.FAIL_TO_PASS]
    assert [change(p, i), change(f, i)] == [Change.TO_INVALID] * 2
    assert [change(i, p), change(i, f)] == [Change.FROM_INVALID] * 2


def test_only_a_judgement_of_the_picture_is_compared() -> None:
    """An answer that was late, dropped or not recorded says nothing that another engine could contradict."""
    judged = {reason for reason in Reason if comparable(answer(1, Verdict.INVALID, reason).answer)}
    assert judged == {Reason.NOT_LOCATED, Reason.BAD_IMAGE, Reason.ENGINE_FAULT, Reason.NOT_FINITE}
    assert comparable(answer(1).answer)


def test_a_job_comes_out_of_the_memory_as_it_went_in() -> None:
    """Frames of several sizes and the mask, in order, and the live answer field by field."""
    frames = (Frame(3, np.arange(20, dtype=np.uint8).reshape(4, 5), 11, origin_px=(7, 8), part_id="p3"), frame(4))
    mask = np.eye(6, dtype=np.bool_)[:, ::-1]
    job = Job(replace(Live.of(answer(3, rules=("x" * 500,) * 40)), truth=True), frames, mask)
    memory = np.concatenate([pixels.ravel() for pixels in job.pixels()])
    found = Job.from_json(json.loads(json.dumps(job.to_json())), memory)
    assert found.live == job.live
    assert len(found.live.rules) == 20 and max(map(len, found.live.rules)) == 200
    for one, other in zip(found.frames, frames, strict=True):
        assert (one.frame_id, one.origin_px, one.taken_ns) == (other.frame_id, other.origin_px, other.taken_ns)
        assert np.array_equal(one.pixels, other.pixels)
    assert found.mask is not None and np.array_equal(found.mask, mask)


def test_another_calibration_on_the_disk_is_refused(tmp_path: Path) -> None:
    """The shadow judges with what the line runs with, not with what was saved since."""
    one = bundle(tmp_path, "one")
    wanted = settings(tmp_path, engine={"bundle": one.path})
    calibration, rules = read_ingredients(wanted, SystemClock()).station_hashes
    order = {"tables": wanted.model_dump(mode="json"), "root": str(tmp_path / "shadow"), "keep": 3, "min_free_bytes": 0}
    with pytest.raises(ConfigError, match="Reload the daemon"):
        Bench(order | {"calibration": "0" * 16, "settings": rules})
    bench = Bench(order | {"calibration": calibration, "settings": rules})
    bench.close()


def test_only_the_newest_flips_are_kept(tmp_path: Path) -> None:
    """Counts stay for ever; rows and pictures beyond the limit go, and none is left without a row."""
    from inspector.frame import Decision
    from inspector.shadow.book import ShadowBook

    book = ShadowBook(tmp_path, keep=3, min_free_bytes=0)
    evidence = Evidence(np.zeros((4, 5), np.uint8), np.ones((4, 5), np.bool_))
    for number in range(1, 11):
        job = Job(Live.of(answer(number)), (frame(number),), np.zeros((4, 5), np.bool_))
        decision = Decision(Verdict.FAIL if number % 2 else Verdict.PASS, rules=("largest 9 px > 4",) * (number % 2))
        book.add(job, decision, evidence, engine="f" * 16, bundle="b", cpu_us=2000)
    book.close()
    assert [row["sequence"] for row in flips(tmp_path, limit=99)] == [9, 7, 5]
    assert len(list((tmp_path / "flips").iterdir())) == 9
    (pair,) = comparisons(tmp_path)
    assert (pair.parts, pair.flips, pair.changes[Change.PASS_TO_FAIL], pair.cpu_ms) == (10, 5, 5, 2.0)


def test_a_reload_switches_the_shadow_on_over_and_off(tmp_path: Path) -> None:
    """SIGHUP's way: no restart of the line, one epoch, and each engine's figures apart."""
    one, other = bundle(tmp_path, "one"), bundle(tmp_path, "other", shift=-0.25)
    pictures, config = images(3), tmp_path / "config.toml"

    def write(shadow: Path | None) -> None:
        text = f'[station]\nname = "test"\nstate_dir = "{tmp_path}/state"\n[engine]\nbundle = "{one.path}"\n'
        text += "[timing]\ngate_ms = 20000.0\n" + (f'[shadow]\nbundle = "{shadow}"\n' if shadow else "")
        config.write_text(text, encoding="utf-8")

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
