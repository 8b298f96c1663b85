"""The docket's promise: opened once, settled once, answered once, never a PASS after the due time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inspector.docket import Docket
from inspector.frame import Decision, Entry, Hashes, Reason, Settled, Verdict, invalid

GATE, SLACK, MARGIN = 100, 10, 5
PASS, FAIL = Decision(Verdict.PASS), Decision(Verdict.FAIL, rules=("area",))


def make(on_open: list[int] | None = None) -> Docket:
    return Docket(
        epoch=3,
        gate_ns=GATE,
        slack_ns=SLACK,
        commit_margin_ns=MARGIN,
        on_open=on_open.append if on_open is not None else None,
    )


def enter(docket: Docket, now: int, frame_id: int = 1, views: int = 1, frame_seen: bool = True) -> Entry:
    return docket.open(
        part_id="", frame_id=frame_id, taken_ns=now, wall_ns=0, truth=None, views=views, frame_seen=frame_seen
    )


def settle(docket: Docket, entry: Entry, decision: Decision, now: int) -> Settled | None:
    return docket.settle(entry.sequence, decision, now_ns=now, hashes=Hashes())


def test_due_is_the_gate_minus_the_slack() -> None:
    """due = taken + gate - slack, and the number is marked before it is used."""
    marked: list[int] = []
    entry = enter(make(marked), 1000)
    assert (entry.due_ns, entry.sequence, marked) == (1000 + GATE - SLACK, 1, [1])


def test_the_first_settlement_wins() -> None:
    """A second settlement is normal and ignored."""
    docket = make()
    entry = enter(docket, 0)
    first = settle(docket, entry, FAIL, 20)
    assert first is not None and first.answer.verdict is Verdict.FAIL
    assert settle(docket, entry, PASS, 21) is None
    assert docket.statistics().second == 1


def test_from_its_due_time_on_a_pass_is_late() -> None:
    """Whoever brings it."""
    docket = make()
    in_time, too_late = enter(docket, 0), enter(docket, 0, frame_id=2)
    good, bad = settle(docket, in_time, PASS, 89), settle(docket, too_late, PASS, 90)
    assert good is not None and good.answer.verdict is Verdict.PASS
    assert bad is not None and bad.answer.reason is Reason.LATE


def test_a_fault_keeps_its_own_reason_after_the_due_time() -> None:
    """LATE replaces verdicts, not reasons."""
    docket = make()
    settled = settle(docket, enter(docket, 0), invalid(Reason.DROPPED), 95)
    assert settled is not None and settled.answer.reason is Reason.DROPPED


def test_an_undecided_part_is_answered_late_at_its_due_time() -> None:
    """Not a nanosecond earlier."""
    docket = make()
    enter(docket, 0)
    assert docket.overdue(89) == []
    (overdue,) = docket.overdue(90)
    assert (overdue.settled.answer.reason, overdue.booked) == (Reason.LATE, False)
    assert docket.overdue(91) == []


def test_an_uncommitted_pass_goes_out_as_unrecorded() -> None:
    """No path yields a PASS without a committed row."""
    docket = make()
    entry = enter(docket, 0)
    settle(docket, entry, PASS, 50)
    assert docket.overdue(84) == []
    (overdue,) = docket.overdue(85)
    assert (overdue.settled.answer.reason, overdue.overrides) == (Reason.UNRECORDED, True)
    assert not docket.claim(entry.sequence)


def test_an_invalid_may_leave_before_its_row_is_committed() -> None:
    """It is booked behind, unchanged."""
    docket = make()
    settled = settle(docket, enter(docket, 0), invalid(Reason.NOT_LOCATED), 50)
    (overdue,) = docket.overdue(85)
    assert overdue.settled is settled and overdue.booked and not overdue.overrides


def test_a_claimed_part_is_never_overdue() -> None:
    """Answered once."""
    docket = make()
    entry = enter(docket, 0)
    settle(docket, entry, PASS, 50)
    assert docket.claim(entry.sequence)
    assert not docket.claim(entry.sequence)
    assert docket.overdue(10_000) == []


def test_an_announced_part_without_a_frame_is_missed() -> None:
    """MISSED, not LATE: the cause is the camera, not the engine."""
    docket = make()
    enter(docket, 0, frame_id=7, frame_seen=False)
    (overdue,) = docket.overdue(90)
    assert overdue.settled.answer.reason is Reason.MISSED


def test_a_part_with_a_view_too_few_is_view_missing() -> None:
    """The worst view cannot be known while one is missing."""
    docket = make()
    first = enter(docket, 0, views=2)
    assert docket.see(first.sequence, 5) is not None
    enter(docket, 0, frame_id=3, views=2)
    reasons = [one.settled.answer.reason for one in docket.overdue(90)]
    assert reasons == [Reason.LATE, Reason.VIEW_MISSING]


def test_close_settles_what_is_open_as_stopped() -> None:
    """Then opened = settled, and a decided part keeps its decision."""
    docket = make()
    decided = enter(docket, 0)
    enter(docket, 0, frame_id=2)
    settle(docket, decided, FAIL, 10)
    (stopped,) = docket.close(20)
    counts = docket.statistics()
    assert stopped.answer.reason is Reason.STOPPED
    assert counts.opened == counts.settled == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["open", "settle", "fault", "claim", "sweep"]), st.integers(0, 12), st.integers(0, 40)
        ),
        max_size=80,
    )
)
def test_any_order_of_events_answers_each_part_once(moves: list[tuple[str, int, int]]) -> None:
    """opened = settled = answered in the end, one answer each, and no PASS that was decided or swept too late."""
    docket, now = make(), 0
    entries: list[Entry] = []
    waiting: dict[int, Settled] = {}
    answers: dict[int, Settled] = {}

    def note(settled: Settled) -> None:
        assert settled.answer.sequence not in answers
        answers[settled.answer.sequence] = settled

    def sweep() -> None:
        for overdue in docket.overdue(now):
            note(overdue.settled)

    for move, which, wait in moves:
        now += wait
        if move == "open":
            entries.append(enter(docket, now, frame_id=len(entries) + 1))
        elif move in ("settle", "fault") and entries:
            decision = PASS if move == "settle" else invalid(Reason.DROPPED)
            settled = settle(docket, entries[which % len(entries)], decision, now)
            if settled is not None:
                waiting[settled.answer.sequence] = settled
        elif move == "claim" and waiting:
            sequence = sorted(waiting)[which % len(waiting)]
            if docket.claim(sequence):
                note(waiting[sequence])
        elif move == "sweep":
            sweep()
    docket.close(now)
    now += 1000
    sweep()
    counts = docket.statistics()
    assert counts.opened == counts.settled == counts.answered == len(answers) == len(entries)
    passed = [one.answer for one in answers.values() if one.answer.verdict is Verdict.PASS]
    assert all(answer.settled_ns < answer.due_ns for answer in passed)
