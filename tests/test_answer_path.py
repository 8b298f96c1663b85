"""A part's answer where things go wrong at the worst moment: one thread, pushed time, real docket, book and link."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

from inspector.errors import LedgerError
from inspector.fittings import Pace
from inspector.frame import Reason
from inspector.journal import Unhurried
from inspector.ledger.audit import show, verify
from inspector.ledger.book import Row
from inspector.link import wire
from inspector.link.router import Sent
from tests.line_kit import HASHES, MS, Rig, word
from tests.station_kit import Wrapped, running, settings, trivial

ANNOUNCED = Pace(announcements=True)


def _in_ledger(rig: Rig, folder: Path) -> dict[int, str]:
    rig.line.book()
    return {record.sent.sequence: word(record.sent) for record in show(folder / "ledger.db")}


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
    rig.refuses = True
    for number in range(1, 13):
        rig.frame(number)
        rig.line.inspect()
        rig.steps(60)
    assert set(rig.words().values()) == {"UNRECORDED"}
    rig.refuses = False
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

    def stuck(batch: list[Row]) -> None:
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
    """Part 3 was never photographed, and the camera did not count it; part 6 is defective."""
    rig = Rig(tmp_path, ANNOUNCED, gate_ms=150, slack_ms=10)
    frame_id = 0
    for part in range(1, 12):
        rig.announce(part, f"bar-{part}")
        rig.clock.push(5 * MS)
        if part != 3:
            frame_id += 1
            rig.frame(frame_id, white=part == 6)
        for _ in range(5):
            rig.steps(11)
    rig.steps(200)
    words = rig.words()
    assert [words[f"bar-{part}"] for part in range(1, 8)] == ["PASS", "PASS", *["MISSED"] * 3, "FAIL", "PASS"]
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
    rig.clock.push(4 * MS)
    rig.announce(1, "bar")
    rig.frame(1, age_ms=4)
    rig.line.answer()
    assert rig.docket.next_due_ns() is not None
    rig.steps(2)
    (answer,) = rig.told().values()
    assert answer.taken_ns == answer.due_ns - 140 * MS == rig.wire.sent[0][0] - 6 * MS


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
