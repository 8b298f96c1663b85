"""A frame goes to the part it was taken of, or to none."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inspector.docket import Docket
from inspector.frame import Decision, Frame, Hashes, Missed, Reason
from inspector.intake import Meeting

MS = 1_000_000
EARLIEST_MS, LATEST_MS = -5, 30
PIXELS = np.zeros((2, 2), np.uint8)


@dataclass(frozen=True)
class Shot:
    """One part on its way past the camera."""

    pitch_ms: int = 60
    """Since the part before."""
    delay_ms: int = 5
    """From its announcement to its frame."""
    fate: str = "taken"
    """taken, twice, lost (a gap in the ids tells), slipped (lost without a trace), anew (the ids jump)."""


@dataclass
class Played:
    """What became of the parts."""

    pairs: list[tuple[int, str]]
    """(number of the part a frame was taken of, id of the part it was given to)"""
    invalid: dict[str, Decision]
    strangers: int
    unmet: int
    """The most in a row."""

    @property
    def seen(self) -> set[int]:
        return {number for number, _ in self.pairs}


def play(shots: list[Shot], *, first_counter: int = 1, first_id: int = 1) -> Played:
    """Announcements and frames at their times; the meeting is asked each millisecond."""
    docket = Docket(epoch=1, gate_ns=150 * MS, slack_ns=10 * MS, commit_margin_ns=0)
    meeting = Meeting(docket, lambda: 0, earliest_ns=EARLIEST_MS * MS, latest_ns=LATEST_MS * MS)
    announced, taken = defaultdict(list), defaultdict(list)
    at_ms = taken_ms = 1000
    for number, shot in enumerate(shots):
        at_ms += shot.pitch_ms
        announced[at_ms].append(number)
        taken_ms = max(taken_ms, at_ms + shot.delay_ms)  # frames come in order
        taken[taken_ms].append(number)
    owner: dict[int, int] = {}
    played = Played([], {}, 0, 0)
    frame_id, lost = first_id, list[int]()
    for now_ms in range(900, at_ms + 400):
        for number in announced[now_ms]:
            meeting.announce(first_counter + number, f"part {number}", now_ms * MS)
        for number in taken[now_ms]:
            fate = shots[number].fate
            if fate == "lost":
                lost.append(frame_id)
            elif fate != "slipped":
                frame_id += 50 * (fate == "anew")
                for _ in range(2 if fate == "twice" else 1):
                    for one in lost:
                        meeting.arrive(Missed(one, now_ms * MS))
                    lost.clear()
                    owner[frame_id] = number
                    meeting.arrive(Frame(frame_id, PIXELS, now_ms * MS))
                    frame_id += 1
                continue
            frame_id += fate == "lost"
        for late in docket.overdue(now_ms * MS):
            assert late.settled.answer.part_id not in played.invalid
        for one in meeting.pair(now_ms * MS, now_ms * MS):
            if isinstance(one.what, Frame):
                played.pairs.append((owner[one.what.frame_id], one.entry.part_id))
            else:
                played.invalid[one.entry.part_id] = one.what
                played.strangers += one.stranger
                docket.settle(one.entry.sequence, one.what, now_ns=now_ms * MS, hashes=Hashes())
                docket.claim(one.entry.sequence)
        played.unmet = max(played.unmet, meeting.unmet)
    return played


FATES = st.sampled_from(["taken"] * 6 + ["twice", "lost", "slipped", "anew"])
IN_TIME = st.builds(Shot, st.integers(3, 120), st.integers(EARLIEST_MS, LATEST_MS), FATES)


@settings(max_examples=300, deadline=None)
@given(st.lists(IN_TIME, min_size=1, max_size=25), st.integers(1, 10**6), st.integers(0, 10**6))
def test_no_part_is_judged_by_the_frame_of_another(shots: list[Shot], first_counter: int, first_id: int) -> None:
    """Whatever the camera loses, counted or not, and however close the parts come."""
    played = play(shots, first_counter=first_counter, first_id=first_id)
    assert all(part == f"part {number}" for number, part in played.pairs)
    assert max(Counter(part for _, part in played.pairs).values(), default=0) <= 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([5, 5, 5, 5, 5, 41, 65, 90, 300]), min_size=1, max_size=25))
def test_numbers_find_out_a_frame_that_came_when_the_next_part_was_due(delays_ms: list[int]) -> None:
    """As long as no three in a row come so late that they look like a missed trigger."""
    shots, late, there_ms = list[Shot](), 0, 0
    for number, delay_ms in enumerate(delays_ms):
        there_ms = max(there_ms, 60 * number + delay_ms)  # a late frame holds those behind it up
        late = late + 1 if there_ms - 60 * number > LATEST_MS else 0
        assume(late < 3)
        shots.append(Shot(60, delay_ms))
    assert all(part == f"part {number}" for number, part in play(shots).pairs)


def test_parts_far_enough_apart_are_all_seen() -> None:
    """A frame before its announcement, at once, and at the latest; ids and counters may begin anywhere."""
    shots = [Shot(60, delay_ms) for delay_ms in (-5, 0, 30) * 5]
    played = play(shots, first_counter=700, first_id=0)
    assert (played.seen, played.strangers, played.unmet) == (set(range(2, 15)), 0, 2)
    assert "3 in a row must agree before one is believed" in played.invalid["part 1"].detail


def test_a_counted_loss_costs_one_part() -> None:
    """The gap in the ids says whose frame is missing."""
    played = play([Shot(fate="lost" if number == 4 else "taken") for number in range(10)])
    assert played.seen == set(range(2, 10)) - {4}


def test_a_slip_costs_its_part_and_two_more() -> None:
    """Then three frames agree on another distance of the numbers."""
    played = play([Shot(fate="slipped" if number == 4 else "taken") for number in range(10)])
    assert played.seen == set(range(2, 10)) - {4, 5, 6}
    assert all(one.reason is Reason.MISSED for one in played.invalid.values())
    assert "frame 5 came in its time, but frame 6 is its own by the numbers" in played.invalid["part 5"].detail


def test_a_camera_that_is_back_is_followed_again() -> None:
    """Its ids go on elsewhere; the parts meanwhile are MISSED at their due time."""
    away = [Shot(fate="slipped")] * 8
    played = play([Shot()] * 5 + away + [Shot(fate="anew")] + [Shot()] * 10)
    assert played.seen == {*range(2, 5), *range(15, 24)}
    assert played.unmet >= 5


def test_parts_that_come_too_close_are_invalid_and_say_why() -> None:
    """What cannot be proven is not guessed, even where the numbers agree."""
    played = play([Shot()] * 3 + [Shot(20)] * 3 + [Shot()] * 3)
    assert played.seen == {2, 6, 7, 8}
    assert "announced 20.0 ms apart; they are told apart from 35 ms on" in played.invalid["part 4"].detail


def test_a_frame_that_nobody_announced_is_a_part_of_its_own() -> None:
    """INVALID, and told as a stranger."""
    docket = Docket(epoch=1, gate_ns=150 * MS, slack_ns=10 * MS, commit_margin_ns=0)
    meeting = Meeting(docket, lambda: 0)
    meeting.arrive(Frame(3, PIXELS, 1000 * MS))
    assert meeting.pair(1004 * MS, 1004 * MS) == []
    assert meeting.next_ns() == 1005 * MS
    (one,) = meeting.pair(1005 * MS, 1005 * MS)
    assert one.stranger
    assert isinstance(one.what, Decision)
    assert one.what.reason is Reason.MISSED


def test_a_late_frame_settles_its_part_at_once() -> None:
    """With the time it took and what is allowed; it is no part of its own."""
    played = play([Shot()] * 3 + [Shot(200, 45), Shot(200)])
    assert played.seen == {2, 4}
    assert played.invalid["part 3"].detail == "frame 4 came 45.0 ms after it; allowed: -5 to 30 ms"
    assert played.strangers == 0


def test_a_frame_brings_its_due_time_along() -> None:
    """An announcement that was read late is no reason to answer late."""
    docket = Docket(epoch=1, gate_ns=150 * MS, slack_ns=10 * MS, commit_margin_ns=0)
    meeting = Meeting(docket, lambda: 0)
    for number in (1, 2, 3):
        at_ns = number * 1000 * MS
        entry = meeting.announce(number, "", at_ns)
        meeting.arrive(Frame(number + 8, PIXELS, at_ns - 3 * MS))
        placed = meeting.pair(at_ns + 2 * MS, at_ns + 2 * MS)
    (one,) = placed
    assert isinstance(one.what, Frame)
    assert (entry.due_ns, one.entry.due_ns, one.entry.frame_id) == (3140 * MS, 3137 * MS, 11)


@pytest.mark.parametrize("timely", [True, False])
def test_a_frame_that_lay_unread_teaches_nothing(timely: bool) -> None:
    """It may be an older part's; once the numbers are known, they find that out."""
    docket = Docket(epoch=1, gate_ns=150 * MS, slack_ns=10 * MS, commit_margin_ns=0)
    meeting = Meeting(docket, lambda: 0)
    seen = []
    for number in range(1, 9):
        at_ns = number * 1000 * MS
        meeting.announce(number, "", at_ns)
        meeting.arrive(Frame(number, PIXELS, at_ns, timely=timely or number > 4))
        seen += [isinstance(one.what, Frame) for one in meeting.pair(at_ns + 5 * MS, at_ns + 5 * MS)]
    assert seen.index(True) == (2 if timely else 6)


def test_parts_are_settled_though_a_flood_keeps_announcements_unread() -> None:
    """Frames wait for what has not been heard; the parts that are due are counted as unmet."""
    docket = Docket(epoch=1, gate_ns=150 * MS, slack_ns=10 * MS, commit_margin_ns=0)
    meeting = Meeting(docket, lambda: 0)
    for number in range(1, 9):
        meeting.announce(number, "", number * 100 * MS)
        meeting.arrive(Frame(number, PIXELS, number * 100 * MS))
        assert meeting.pair(0, number * 100 * MS) == []
    assert (meeting.parked, meeting.unmet) == (8, 6)
