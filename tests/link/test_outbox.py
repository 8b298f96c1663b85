"""Answers that wait for their acknowledgement, with pushed time and no socket."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from link_help import EPOCH, an_answer

from inspector.frame import Answer, Reason, Verdict
from inspector.link import wire
from inspector.link.events import Handed
from inspector.link.messages import AnswerMessage, Flag
from inspector.link.outbox import NEVER_NS, Outbox, Told, Waiting

_MS = 1_000_000
_NOW = 10**10


def _box(**options: int) -> Outbox:
    return Outbox(**{"resend_ns": 50 * _MS, "grace_ns": 1000 * _MS, **options})


def _put(box: Outbox, answer: Answer, now_ns: int = _NOW) -> Any:
    return box.put(answer, wire.pack_answer(answer, left_us=0, durable=0), 0, now_ns)


def test_resent_until_acknowledged() -> None:
    """An answer is due again after each resend time, and never again once it is acknowledged."""
    box = _box()
    waiting = _put(box, an_answer(1, now_ns=_NOW))
    assert waiting is not None
    box.sent(waiting, _NOW)
    assert box.ready(_NOW + 49 * _MS) == []
    assert box.next_ns() == _NOW + 50 * _MS
    assert box.ready(_NOW + 50 * _MS) == [waiting]
    box.sent(waiting, _NOW + 50 * _MS)
    assert box.next_ns() == _NOW + 100 * _MS
    assert box.acknowledge((EPOCH, 1)) is Told.NEW
    assert box.ready(_NOW + 1000 * _MS) == []
    assert box.next_ns() == NEVER_NS
    assert (box.acknowledge((EPOCH, 1)), box.acknowledge((EPOCH, 2))) == (Told.AGAIN, Told.UNKNOWN)


@settings(deadline=None)
@given(st.sampled_from(Verdict), st.integers(-1500, 1500))
def test_pass_and_fail_never_leave_after_due(verdict: Verdict, late_ms: int) -> None:
    """A PASS or FAIL is sent before its due time only; an INVALID until its grace after it."""
    answer = an_answer(1, now_ns=_NOW, verdict=verdict, left_s=2.0)
    box = _box()
    waiting = _put(box, answer)
    assert waiting is not None
    box.sent(waiting, _NOW)
    at_ns = answer.due_ns + late_ms * _MS
    in_time = late_ms < (1000 if verdict is Verdict.INVALID else 0)
    assert box.ready(at_ns) == ([waiting] if in_time else [])
    assert len(box) == (1 if in_time else 0)
    assert box.expired == (0 if in_time else 1)


@settings(deadline=None)
@given(st.sampled_from(Verdict), st.integers(0, 10**7))
def test_what_comes_too_late_is_withheld(verdict: Verdict, late_ms: int) -> None:
    """A PASS or FAIL that comes at or after its due time is never taken; an INVALID is at any time."""
    answer = an_answer(1, now_ns=_NOW, verdict=verdict, left_s=0.5)
    box = _box()
    waiting = _put(box, answer, answer.due_ns + late_ms * _MS)
    assert (waiting is Handed.TOO_LATE) is (verdict is not Verdict.INVALID)
    assert box.withheld == (waiting is Handed.TOO_LATE)
    instead = replace(answer, verdict=Verdict.INVALID, reason=Reason.LATE)
    if waiting is Handed.TOO_LATE:  # nothing of it has left, so its number can be answered with another content
        assert isinstance(_put(box, instead, answer.due_ns + late_ms * _MS), Waiting)
        assert box.conflicts == 0


def test_first_content_wins() -> None:
    """A number keeps the content it had first, while it waits and after it was acknowledged."""
    box = _box()
    answer = an_answer(1, now_ns=_NOW)
    assert _put(box, answer) is not None
    other = replace(answer, verdict=Verdict.FAIL)
    assert _put(box, other) is None
    box.acknowledge((EPOCH, 1))
    assert _put(box, other) is None
    assert box.conflicts == 2
    assert _put(box, answer) is None, "acknowledged: nothing is left to send"
    assert box.conflicts == 2


def test_memory_is_bounded() -> None:
    """Neither answers nor the memory of them grow beyond their capacity; what is displaced is counted."""
    box = _box(capacity=10, memory=20)
    for sequence in range(1, 101):
        _put(box, an_answer(sequence, now_ns=_NOW, left_s=1 + sequence / 100))
    assert len(box) == box.peak == 10
    assert box.displaced == 90
    box.hurry(_NOW)
    assert {waiting.key[1] for waiting in box.ready(_NOW)} == set(range(91, 101)), "those due first went"
    assert box.acknowledge((EPOCH, 81)) is Told.NEW
    assert box.acknowledge((EPOCH, 80)) is Told.UNKNOWN


def test_hurry_sends_all_in_order() -> None:
    """After a reconnect all that wait are due at once, in the order in which they came."""
    box = _box()
    for sequence in (1, 2, 3):
        waiting = _put(box, an_answer(sequence, now_ns=_NOW))
        assert waiting is not None
        box.postpone(waiting, NEVER_NS)
    assert box.ready(_NOW + 1000 * _MS) == []
    box.hurry(_NOW + 1001 * _MS)
    assert [waiting.key[1] for waiting in box.ready(_NOW + 1001 * _MS)] == [1, 2, 3]


def test_stamp_tells_the_time_left_and_repetition() -> None:
    """Each sending carries the time left then, the newest watermark, and RESENT from the second one on."""
    box = _box()
    waiting = _put(box, an_answer(1, now_ns=_NOW, left_s=1.0))
    assert waiting is not None
    first = wire.unpack(waiting.stamped(_NOW, 5, EPOCH))
    box.sent(waiting, _NOW)
    second = wire.unpack(waiting.stamped(_NOW + 600 * _MS, 9, EPOCH))
    other_run = wire.unpack(replace(waiting, key=(1, 1), durable=0, attempts=0).stamped(_NOW, 9, EPOCH))
    assert isinstance(first, AnswerMessage) and isinstance(second, AnswerMessage)
    assert isinstance(other_run, AnswerMessage)
    assert (first.left_us, first.durable, Flag.RESENT in first.flags) == (1_000_000, 5, False)
    assert (second.left_us, second.durable, Flag.RESENT in second.flags) == (400_000, 9, True)
    assert (other_run.durable, Flag.RESENT in other_run.flags) == (0, True), "an earlier run may have sent it"


def test_an_answer_that_a_full_outbox_displaced_at_once_can_be_withdrawn() -> None:
    """The new PASS is due first of all, so it goes; then its due time comes. The answering thread must outlive both."""
    box = _box(capacity=2)
    for sequence in (1, 2):
        _put(box, replace(an_answer(sequence, now_ns=_NOW, left_s=9.0), verdict=Verdict.INVALID, reason=Reason.LATE))
    waiting = _put(box, an_answer(3, now_ns=_NOW, left_s=0.1))
    box.withdraw(waiting)
    assert (len(box), box.displaced) == (2, 1)


def test_what_a_killed_run_left_is_told_to_a_controller_that_comes_late() -> None:
    """It may have gone down with the daemon, and comes back after minutes."""
    box = _box()
    left = replace(an_answer(1, now_ns=_NOW, left_s=0.0), verdict=Verdict.INVALID, reason=Reason.RESTARTED)
    waiting = _put(box, left)
    box.sent(waiting, _NOW)
    assert box.ready(_NOW + 300_000 * _MS) == [waiting]
    assert box.ready(_NOW + 600_001 * _MS) == []


def test_what_an_earlier_run_left_makes_room_first() -> None:
    """A fresh answer still has a gate to reach."""
    box = _box(capacity=3)
    for sequence in range(1, 6):
        left = an_answer(sequence, now_ns=_NOW, verdict=Verdict.INVALID, left_s=0.0)
        _put(box, replace(left, reason=Reason.RESTARTED))
    fresh = _put(box, an_answer(9, now_ns=_NOW, left_s=2.0))
    assert isinstance(fresh, Waiting)
    box.hurry(_NOW)
    assert fresh in box.ready(_NOW)
    assert (len(box), box.displaced) == (3, 3)
