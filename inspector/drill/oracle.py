"""What must follow from what was injected. Counting answers is not enough: the due-time net hides most bugs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from inspector.clock import Clock
from inspector.drill.plan import Cause, Shot
from inspector.frame import Answer, Reason, Settled, Verdict
from inspector.ledger.book import Override, Row

Key = tuple[int, int]

LATE_OR_LOST = frozenset({Reason.LATE, Reason.DROPPED, Reason.STOPPED, Reason.RESTARTED})
"""May befall any part whose frame came, each under its own condition."""
OVERRIDES = (Reason.UNRECORDED, Reason.LATE)
"""May be told instead of a decision that stands in the ledger, which then has an override of it."""
EXPECTED: dict[Cause, tuple[Verdict, Reason | None]] = {
    Cause.GOOD: (Verdict.PASS, None),
    Cause.DEFECT: (Verdict.FAIL, None),
    Cause.MISSED: (Verdict.INVALID, Reason.MISSED),
    Cause.INCOMPLETE: (Verdict.INVALID, Reason.INCOMPLETE),
    Cause.BLANK: (Verdict.INVALID, Reason.BAD_IMAGE),
    Cause.NOT_LOCATED: (Verdict.INVALID, Reason.NOT_LOCATED),
    Cause.ENGINE_ERROR: (Verdict.INVALID, Reason.ENGINE_FAULT),
    Cause.NOT_FINITE: (Verdict.INVALID, Reason.NOT_FINITE),
}


@dataclass(slots=True)
class Oracle:
    """Hears everything the line does and keeps a list of what must not be."""

    clock: Clock
    commit_margin_ns: int
    jitter_ns: int
    """The longest that the answering thread was kept from running."""
    faults: list[str] = field(default_factory=list)
    sent: dict[Key, tuple[Answer, int]] = field(default_factory=dict)
    committed: dict[Key, tuple[Answer, int]] = field(default_factory=dict)
    overridden: set[Key] = field(default_factory=set)
    displaced_in_time: set[Key] = field(default_factory=set)
    killed: set[int] = field(default_factory=set)
    """Epochs that ended by kill -9."""
    repeated: int = 0
    lateness_us: list[int] = field(default_factory=list)

    def hear_commit(self, rows: Sequence[Row]) -> None:
        """The ledger has committed these."""
        now_ns = self.clock.now_ns()
        for row in rows:
            if isinstance(row, Settled):
                key = _key(row.answer)
                if key in self.committed:
                    self._blame(row.answer, "has two rows")
                self.committed[key] = (row.answer, now_ns)
            elif isinstance(row, Override):
                self.overridden.add((row.epoch, row.sequence))

    def hear_settled(self, answer: Answer) -> None:
        """The docket settled a part just now; its row is on its way to the book."""
        now_ns = self.clock.now_ns()
        if answer.settled_ns != now_ns:
            self._blame(answer, f"says it was settled {(now_ns - answer.settled_ns) / 1e6:.3f} ms earlier than it was")
        if answer.verdict is not Verdict.INVALID and now_ns >= answer.due_ns:
            self._blame(answer, "was decided at or after its due time")

    def hear_send(self, answer: Answer) -> None:
        """The answer is handed to the link."""
        now_ns, key = self.clock.now_ns(), _key(answer)
        known = self.sent.get(key)
        if known is not None:
            self.repeated += 1
            if key[0] not in self.killed:
                self._blame(answer, "answered twice by one run")
            elif known[0] != answer:
                self._blame(answer, f"first answered {known[0].verdict.value}, then {_word(answer)}")
            return
        self.sent[key] = (answer, now_ns)
        if answer.verdict is not Verdict.INVALID:
            stored = self.committed.get(key)
            if stored is None or stored[0] != answer:
                self._blame(answer, "sent without a committed row")
            if now_ns >= answer.due_ns:
                self._blame(answer, "sent at or after its due time")
        if answer.reason is not Reason.RESTARTED:
            self.lateness_us.append((now_ns - answer.due_ns) // 1000)
            if now_ns > answer.due_ns + self.jitter_ns:
                self._blame(answer, f"sent {(now_ns - answer.due_ns) / 1e6:.3f} ms after its due time")

    def hear_displaced(self, key: Key, due_ns: int) -> None:
        """A full queue handed this part back."""
        if self.clock.now_ns() < due_ns:
            self.displaced_in_time.add(key)

    def nothing_overdue(self, next_due_ns: int | None) -> None:
        """After an answering step nothing may be overdue."""
        now_ns = self.clock.now_ns()
        if next_due_ns is not None and next_due_ns <= now_ns:
            self.faults.append(f"a part is overdue by {now_ns - next_due_ns} ns after an answering step")

    def judge(self, shots: dict[int, Shot], opened: dict[Key, int]) -> None:
        """At the end: each opened number has its answer, each answer its cause. ``opened``: number -> frame id."""
        seen = Counter(opened.values())
        for frame_id, count in seen.items():
            if count > 1:
                self.faults.append(f"frame {frame_id} was opened {count} times")
        for key, frame_id in opened.items():
            if key not in self.sent:
                self.faults.append(f"{key} (frame {frame_id}) was never answered")
                continue
            self._judge_one(self.sent[key][0], shots[frame_id], key)
            self._judge_row(self.sent[key][0], key)
        for key in self.sent:
            if key not in opened:
                self.faults.append(f"{key} was answered and never opened")

    def _judge_one(self, answer: Answer, shot: Shot, key: Key) -> None:
        verdict, reason = EXPECTED[shot.cause]
        found = answer.reason
        if found is Reason.RESTARTED:
            if key[0] not in self.killed:
                self._blame(answer, "RESTARTED, but its run was not killed")
            return
        if (found is Reason.LATE) != (answer.settled_ns >= answer.due_ns) and found in (Reason.LATE, None):
            self._blame(answer, f"settled {(answer.settled_ns - answer.due_ns) / 1e6:.3f} ms after its due time")
        if found is Reason.UNRECORDED:
            self._judge_unrecorded(answer, key)
        elif key in self.displaced_in_time:
            if found is not Reason.DROPPED:
                self._blame(answer, "was displaced in time, expected DROPPED")
        elif found is Reason.DROPPED:
            self._blame(answer, "DROPPED, but nothing displaced it")
        elif shot.cause in (Cause.MISSED, Cause.INCOMPLETE):
            if found is not reason:
                self._blame(answer, f"the frame was {shot.cause.value}")
        elif found in LATE_OR_LOST:
            return
        elif (answer.verdict, found) != (verdict, reason):
            self._blame(answer, f"the shot was {shot.cause.value}")

    def _judge_row(self, answer: Answer, key: Key) -> None:
        """The ledger tells of each part what the controller was told. A killed run may owe rows of INVALID parts."""
        stored = self.committed.get(key)
        if key[0] in self.killed:
            return
        if stored is None:
            self._blame(answer, "has no row")
        elif stored[0] != answer and not (answer.reason in OVERRIDES and key in self.overridden):
            self._blame(answer, f"its row says {_word(stored[0])}")

    def _judge_unrecorded(self, answer: Answer, key: Key) -> None:
        stored = self.committed.get(key)
        in_time_ns = answer.due_ns - self.commit_margin_ns - self.jitter_ns
        if stored is not None and stored[1] < in_time_ns:
            self._blame(answer, "its row was committed in time")
        if stored is not None and stored[0].verdict is Verdict.INVALID and key[0] not in self.killed:
            self._blame(answer, "the stored decision was INVALID with a reason of its own")

    def _blame(self, answer: Answer, what: str) -> None:
        self.faults.append(f"{_key(answer)} frame {answer.frame_id} {_word(answer)}: {what}")


def _key(answer: Answer) -> Key:
    return (answer.epoch, answer.sequence)


def _word(answer: Answer) -> str:
    return answer.reason.value if answer.reason is not None else answer.verdict.value
