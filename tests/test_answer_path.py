"""A part's answer where things go wrong at the worst moment: one thread, pushed time, real docket, book and link."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from inspector.crew import StoppedEarly
from inspector.engine import Engine
from inspector.engine.bundle import Bundle
from inspector.engine.choose import Opened
from inspector.errors import LedgerError
from inspector.fittings import Pace
from inspector.frame import Reason, Verdict
from inspector.ledger.audit import show, verify
from inspector.ledger.book import Row
from inspector.link import wire
from inspector.link.router import Sent
from inspector.recipe import engine_opener
from inspector.station import Station
from inspector.unhurried import Unhurried
from tests.line_kit import HASHES, MS, Rig, word
from tests.station_kit import Wrapped, finish, running, settings, trivial
from tests.station_more_kit import Journal

ANNOUNCED = Pace(announcements=True)


def _in_ledger(rig: Rig, folder: Path) -> dict[int, str]:
    rig.line.book()
    return {record.sent.sequence: word(record.sent) for record in show(folder / "ledger.db")}


def _outage(rig: Rig, parts: int) -> None:
    """The ledger refuses so many parts; then it takes rows again."""
    rig.refuses = True
    for number in range(1, parts + 1):
        rig.frame(number)
        rig.line.inspect()
        rig.line.book()  # the first row is in hand when its part is told otherwise, and that is displaced later
        rig.steps(60)
    rig.refuses = False


def test_a_pass_that_finds_no_room_until_it_is_too_late_is_answered_late(tmp_path: Path) -> None:
    """The controller is there and reads slowly: its number gets an answer all the same."""
    rig = Rig(tmp_path)
    rig.frame(1)
    rig.line.inspect()
    rig.line.book()
    rig.wire.says = Sent.FULL
    rig.line.answer()
    rig.clock.push(55 * MS)
    rig.line.answer()
    assert rig.wire.sent == []
    rig.wire.says = Sent.QUEUED
    rig.steps(2)
    assert [word(answer) for answer in rig.told().values()] == ["LATE"]
    assert _in_ledger(rig, tmp_path) == {1: "LATE"}
    assert rig.docket.statistics().late == 1


def test_a_pass_that_no_controller_waits_for_stays_as_it_was_decided(tmp_path: Path) -> None:
    """One that is away takes silence for a reject; nothing is told to nobody."""
    rig = Rig(tmp_path)
    rig.frame(1)
    rig.wire.says = Sent.UNREACHABLE
    rig.steps(1)
    rig.steps(60)
    assert rig.wire.sent == []
    assert _in_ledger(rig, tmp_path) == {1: "PASS"}


def test_what_was_told_in_an_outage_is_in_the_ledger_though_its_rows_were_displaced(tmp_path: Path) -> None:
    """Rows overflow, each part is told UNRECORDED: the ledger accounts for every number and verifies."""
    rig = Rig(tmp_path, rows=3)
    _outage(rig, 12)
    assert set(rig.words().values()) == {"UNRECORDED"}
    for _ in range(4):
        rig.steps(1)
    known = _in_ledger(rig, tmp_path)
    assert set(known.values()) == {"UNRECORDED"}
    found = verify(tmp_path / "ledger.db")
    gaps = sum(finding.count for finding in found.findings if finding.kind == "gap")
    assert len(known) + gaps == 12
    assert found.ok, [finding.text for finding in found.findings if not finding.known]


def test_a_part_announced_while_the_line_stops_is_answered_in_the_same_step(tmp_path: Path) -> None:
    """It may be the last one that the answering thread takes."""
    rig = Rig(tmp_path, ANNOUNCED)
    rig.line.stop()
    rig.announce(1, "late guest")
    assert rig.words() == {"late guest": "STOPPED"}
    rig.steps(1)
    assert _in_ledger(rig, tmp_path) == {1: "STOPPED"}


def test_a_stuck_ledger_holds_no_stopped_answer_back(tmp_path: Path) -> None:
    """Even where the gate is far: the line ends sooner than that."""
    rig = Rig(tmp_path, gate_ms=20_000)
    rig.refuses = True
    rig.frame(1)
    rig.frame(2)
    rig.line.inspect()
    rig.line.stop()
    rig.line.answer()
    assert rig.wire.sent == []
    rig.docket.hurry(rig.clock.now_ns())
    rig.line.answer()
    assert [word(answer) for answer in rig.told().values()] == ["UNRECORDED", "STOPPED"]
    assert rig.docket.unanswered == 0


def test_a_station_whose_ledger_is_stuck_ends_with_every_part_answered(tmp_path: Path) -> None:
    """Its gate is far: the answers leave before the threads end, not at their due times."""

    def stuck(batch: Sequence[Row]) -> None:
        raise LedgerError("the disk is full")

    wanted = settings(tmp_path, timing={"gate_ms": 60_000.0})
    with running(wanted, wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen:
        seen.wait_for(lambda came: len(came) >= 5)
        seen.station.rooms.book.write = stuck  # type: ignore[method-assign]
        opened = seen.station.line.docket.statistics().opened
        while seen.station.line.docket.statistics().opened < opened + 5:
            seen.station.latch.wait(0.01)
    counts = seen.station.line.docket.statistics()
    assert counts.opened == counts.answered == len({one.answer.sequence for one in seen.arrivals})
    assert "UNRECORDED" in {word(one.answer) for one in seen.arrivals}


def test_views_decided_by_two_recipes_make_no_answer(tmp_path: Path) -> None:
    """An answer names one recipe; a reload between two views makes that part INVALID, and only that part."""
    rig = Rig(tmp_path, Pace(views=2))
    rig.frame(1)
    rig.line.inspect()
    rig.use(replace(HASHES, settings="b" * 16))
    for number in (2, 3, 4):
        rig.frame(number)
        rig.line.inspect()
    rig.steps(1)
    assert [word(answer) for answer in rig.told().values()] == ["VIEW_MISSING", "PASS"]
    assert "reload" in rig.told()[1].detail


def test_a_missed_trigger_lets_no_part_pass_by_its_neighbours_picture(tmp_path: Path) -> None:
    """Part 5 was never photographed, and the camera did not count it; part 8 is defective."""
    rig = Rig(tmp_path, ANNOUNCED, gate_ms=150, slack_ms=10)
    frame_id = 0
    for part in range(1, 12):
        rig.announce(part, f"bar-{part}")
        rig.clock.push(5 * MS)
        if part != 5:
            frame_id += 1
            rig.frame(frame_id, white=part == 8)
        for _ in range(5):
            rig.steps(11)
    rig.steps(200)
    words = rig.words()
    expected = ["MISSED", "MISSED", "PASS", "PASS", "MISSED", "MISSED", "MISSED", "FAIL", "PASS"]
    assert [words[f"bar-{part}"] for part in range(1, 10)] == expected
    assert len(words) == 11


def test_a_camera_that_is_back_elsewhere_is_followed_and_told_of(tmp_path: Path) -> None:
    """Its ids no longer fit the counter: a condition while nothing fits, then the parts are inspected again."""
    rig = Rig(tmp_path, ANNOUNCED, gate_ms=150, slack_ms=10)
    seen: list[str] = []
    for part in range(1, 31):
        rig.announce(part, f"bar-{part}")
        rig.clock.push(5 * MS)
        if not 5 <= part < 20:
            rig.frame(part if part < 5 else part + 100)
        for _ in range(5):
            rig.steps(11)
        seen += [f"{condition.name} at {part}" for condition in rig.conditions.present()]
    rig.steps(200)
    words = rig.words()
    assert {words[f"bar-{part}"] for part in range(22, 31)} == {"PASS"}
    assert {words[f"bar-{part}"] for part in range(5, 22)} == {"MISSED"}
    assert seen[0].startswith("pairing at 1")
    assert seen[-1] == "pairing at 21"
    assert len(words) == 30


def test_a_frame_read_late_keeps_its_due_time(tmp_path: Path) -> None:
    """The part is where it is, however late this process was with its announcement."""
    rig = Rig(tmp_path, ANNOUNCED, gate_ms=150, slack_ms=10)
    for part in (1, 2, 3):
        rig.clock.push(100 * MS)
        rig.announce(part, "bar")
        rig.frame(part, age_ms=4)
        rig.steps(2)
    sent_ns, answer = rig.wire.sent[-1]
    assert (word(answer), answer.sequence) == ("PASS", 3)
    assert answer.taken_ns == answer.due_ns - 140 * MS == sent_ns - 6 * MS


def test_frames_nobody_pairs_do_not_grow(tmp_path: Path) -> None:
    """The answering thread stands still: the oldest frames are given up, and that is told."""
    rig = Rig(tmp_path, ANNOUNCED)
    for number in range(70):
        rig.frame(number)
    assert [kind for kind, _ in rig.events].count("frame given up") == 6
    rig.steps(30)
    assert len(rig.told()) == 64
    assert {answer.reason for answer in rig.told().values()} == {Reason.MISSED}


def test_a_reader_that_stands_still_holds_nobody_up() -> None:
    """A full pipe: lines are queued, then given up and counted; what is read later says how many."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as sink, os.fdopen(reading, "rb") as source:
        journal = Unhurried(sink)
        writer = threading.Thread(target=lambda: [journal.write("x" * 200 + "\n") for _ in range(30_000)], daemon=True)
        writer.start()
        writer.join(30)
        assert not writer.is_alive()
        drained = threading.Thread(target=lambda: found.extend(source.read().splitlines()), daemon=True)
        found: list[bytes] = []
        drained.start()
        journal.write("the last\n")
        journal.finish(30)
        sink.close()
        drained.join(30)
    lost = [json.loads(line)["lines"] for line in found if line.startswith(b"{")]
    assert found[-1] == b"the last"
    assert sum(lost) + sum(not line.startswith(b"{") for line in found) == 30_001
    assert sum(lost) > 10_000


def test_a_journal_nobody_reads_any_more_is_no_fault() -> None:
    """The reader is gone: the line goes on."""
    reading, writing = os.pipe()
    os.close(reading)
    sink = os.fdopen(writing, "w")
    journal = Unhurried(sink)
    journal.write("a line\n")
    journal.finish()
    sink.close()


def test_an_announcement_is_ignored_where_the_camera_triggers(tmp_path: Path) -> None:
    """It opens no part, and somebody hears of it."""
    rig = Rig(tmp_path)
    rig.wire.say(wire.pack_announce(1, "bar", 0))
    rig.line.answer()
    assert rig.docket.statistics().opened == 0
    assert ("announcement", "ignored part bar: link.announcements is off") in rig.events


def test_what_is_displaced_for_ever_is_never_told_again(tmp_path: Path) -> None:
    """However long an outage: each number has a row or a gap, and a gap of any length is one."""
    rig = Rig(tmp_path, rows=2)
    _outage(rig, 40)
    for _ in range(3):
        rig.line.book()
    found = verify(tmp_path / "ledger.db")
    assert found.ok
    assert sum(finding.kind == "gap" for finding in found.findings) <= 2


def test_a_commit_that_hangs_in_the_disk_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Its answers leave, the rows that could not be written are told, and the process is free to go."""
    hangs, writing = threading.Event(), threading.Event()
    journal = Journal()
    with running(settings(tmp_path), wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen:
        seen.wait_for(lambda came: len(came) >= 5)
        seen.station.log = journal
        write = seen.station.rooms.book.write

        def hang(batch: Sequence[Row]) -> None:
            with seen.station.rooms.book._gate:
                writing.set()
                hangs.wait(60)
            write(batch)

        seen.station.rooms.book.write = hang  # type: ignore[method-assign]
        assert writing.wait(30)
        seen.station.stop("SIGTERM")
        seen.thread.join(30)
        assert not seen.thread.is_alive()
        assert not hangs.is_set()
        hangs.set()
    counts = seen.station.line.docket.statistics()
    assert counts.opened == counts.answered == len({one.answer.sequence for one in seen.arrivals})
    assert any("rows not written" in one for one in journal.events)


def test_sigterm_does_not_wait_for_an_engine_that_is_being_loaded(tmp_path: Path) -> None:
    """A swap, or the first start: the loading is left to itself, every part is answered."""
    loads, loading = threading.Event(), threading.Event()
    wanted = settings(tmp_path)
    with running(wanted, wrap_engine=lambda engine: Wrapped(engine, trivial)) as seen:
        seen.wait_for(lambda came: len(came) >= 5)
        station, opener = seen.station, engine_opener(wanted)

        def slow(bundle: Bundle) -> Opened:
            loading.set()
            loads.wait(60)
            return opener(bundle)

        station.hooks.opener = slow
        swap = threading.Thread(target=lambda: _swap(station), daemon=True)
        swap.start()
        assert loading.wait(30)
        station.stop("SIGTERM")
        seen.thread.join(30)
        assert not seen.thread.is_alive()
        assert station.crew.left == ["inspect"]
        loads.set()
        swap.join(30)
    counts = seen.station.line.docket.statistics()
    assert counts.opened == counts.answered == len({one.answer.sequence for one in seen.arrivals})


def _swap(station: Station) -> None:
    with contextlib.suppress(StoppedEarly):
        station.seat_engine(station.ingredients)


def test_so_many_parts_are_whole_parts(tmp_path: Path) -> None:
    """The last one has all its views."""
    seen = finish(settings(tmp_path, camera={"views": 2, "rate_hz": 50.0}), 4, wrap_engine=_trivial)
    assert [one.answer.verdict for one in seen.arrivals] == [Verdict.PASS] * 4


def _trivial(engine: Engine) -> Wrapped:
    return Wrapped(engine, trivial)


def test_the_last_words_do_not_keep_a_process_whose_reader_stands_still() -> None:
    """A service is started again only when its process has ended."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    command = [sys.executable, "-m", "inspector", "run", "--config", "/nowhere/config.toml"]
    done = subprocess.run(command, stderr=writing, timeout=60, check=False)
    assert done.returncode == 2
    os.close(reading)
    os.close(writing)


def test_standard_error_may_be_closed(tmp_path: Path) -> None:
    """Nobody hears of it, and it is no fault."""
    command = f"{sys.executable} -m inspector run --config /nowhere/config.toml 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], timeout=60, check=False).returncode == 2
    code = "import sys; sys.stderr = None\nfrom inspector.journal import open_journal\nopen_journal().info('nothing')"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_pipe_that_does_not_block_loses_no_line() -> None:
    """Somebody who shares it may have set it so."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "w") as sink, os.fdopen(reading, "rb") as source:
        journal = Unhurried(sink)
        for number in range(3000):
            journal.write(f"{number:060d}\n")
        found: list[bytes] = []
        drained = threading.Thread(target=lambda: found.extend(source.read().splitlines()), daemon=True)
        drained.start()
        journal.finish(30)
        sink.close()
        drained.join(30)
    assert [int(line) for line in found] == list(range(3000))
