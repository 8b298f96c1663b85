"""The docket: each part is opened once, settled once and answered once. Pure bookkeeping under one lock.

Numbers open in order. The first settlement wins; a second is normal and ignored. From ``due_ns`` on the outcome
is INVALID LATE whoever brings it, a PASS too. The answering thread claims what it sends: a claim succeeds once.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from inspector.frame import Answer, Decision, Entry, Evidence, Hashes, Reason, Settled, Verdict, invalid


@dataclass(frozen=True, slots=True)
class DocketStatistics:
    """A snapshot; after ``close`` and the last answer ``opened = settled = answered``."""

    opened: int
    settled: int
    answered: int
    open_peak: int
    second: int
    """Settlements that came after the first; normal after a due time has passed."""
    late: int
    unrecorded: int


@dataclass(frozen=True, slots=True)
class Overdue:
    """An answer that must leave now because its due time has come."""

    settled: Settled
    booked: bool
    """True when the settlement had already gone to the ledger."""
    overrides: bool = False
    """True for UNRECORDED: the stored decision exists but was not committed in time."""


@dataclass(slots=True)
class _Line:
    entry: Entry
    views_wanted: int
    views_seen: int
    settled: Settled | None = None


class Docket:
    """Open once, settle once, answer once."""

    def __init__(
        self,
        *,
        epoch: int,
        gate_ns: int,
        slack_ns: int,
        commit_margin_ns: int,
        on_open: Callable[[int], None] | None = None,
    ) -> None:
        """``due = taken + gate - slack``; ``on_open(sequence)`` is called before the number is used."""
        if not 0 <= slack_ns < gate_ns:
            raise ValueError(f"slack {slack_ns} ns must be less than the gate {gate_ns} ns")
        self.epoch = epoch
        self._due_after_ns = gate_ns - slack_ns
        self._commit_margin_ns = commit_margin_ns
        self._on_open = on_open
        self._lock = threading.Lock()
        self._lines: dict[int, _Line] = {}
        self._dues: list[tuple[int, int]] = []
        self._next = 1
        self._closed = False
        self._hashes = Hashes()
        self._settled = self._answered = self._peak = self._second = self._late = self._unrecorded = 0

    def open(
        self,
        *,
        part_id: str,
        frame_id: int,
        taken_ns: int,
        wall_ns: int,
        truth: bool | None = None,
        views: int = 1,
        frame_seen: bool = True,
    ) -> Entry:
        """Give the part its number and its due time."""
        with self._lock:
            sequence = self._next
            self._next += 1
            if self._on_open is not None:
                self._on_open(sequence)
            due_ns = taken_ns + self._due_after_ns
            named = part_id or f"{self.epoch}-{sequence:06d}"
            entry = Entry(sequence, named, frame_id, taken_ns, due_ns, wall_ns, truth)
            self._lines[sequence] = _Line(entry, views, 1 if frame_seen else 0)
            self._await(entry)
            self._peak = max(self._peak, len(self._lines))
            return entry

    def see(self, sequence: int, taken_ns: int, frame_id: int | None = None) -> Entry | None:
        """One more frame of this part, taken then (its first, where it was announced); None when it is answered.

        Its due time counts from the earliest sign of it."""
        with self._lock:
            line = self._lines.get(sequence)
            if line is None:
                return None
            line.views_seen += 1
            entry = line.entry
            seen_ns = min(entry.taken_ns, taken_ns)
            line.entry = replace(
                entry,
                taken_ns=seen_ns,
                due_ns=seen_ns + self._due_after_ns,
                frame_id=entry.frame_id if frame_id is None else frame_id,
            )
            if seen_ns < entry.taken_ns:
                self._await(line.entry)
            return line.entry

    def settle(
        self,
        sequence: int,
        decision: Decision,
        *,
        now_ns: int,
        hashes: Hashes,
        stages_us: tuple[tuple[str, int], ...] = (),
        evidence: Evidence | None = None,
    ) -> Settled | None:
        """The settled part, or None when it was settled before."""
        with self._lock:
            line = self._lines.get(sequence)
            if line is None or line.settled is not None:
                self._second += 1
                return None
            return self._settle(line, decision, now_ns, hashes, stages_us, evidence)

    def claim(self, sequence: int) -> bool:
        """True exactly once per part, for the caller who may now answer it."""
        with self._lock:
            return self._claim(sequence) is not None

    def overdue(self, now_ns: int) -> list[Overdue]:
        """Claims and returns every part whose answer may wait no longer, earliest due first."""
        out: list[Overdue] = []
        with self._lock:
            while self._dues and self._dues[0][0] <= now_ns:
                _, sequence = heapq.heappop(self._dues)
                line = self._lines.get(sequence)
                if line is None:
                    continue
                settled = line.settled
                if settled is None:
                    if now_ns < line.entry.due_ns:
                        continue
                    late = self._settle(line, self._why_late(line), now_ns, self._hashes, (), None)
                    out.append(Overdue(late, booked=False))
                elif settled.answer.verdict is Verdict.INVALID:
                    out.append(Overdue(settled, booked=True))
                else:
                    self._unrecorded += 1
                    text = f"decided {settled.answer.verdict.value}, but the ledger had not committed it in time"
                    answer = self._answer(
                        line.entry, invalid(Reason.UNRECORDED, text), now_ns, settled.answer.hashes, ()
                    )
                    out.append(Overdue(Settled(answer, settled.evidence, settled.truth), booked=True, overrides=True))
                self._claim(sequence)
        return out

    def next_due_ns(self) -> int | None:
        """When ``overdue`` is to be asked next; None while nothing is open."""
        with self._lock:
            while self._dues and self._dues[0][1] not in self._lines:
                heapq.heappop(self._dues)
            return self._dues[0][0] if self._dues else None

    def close(self, now_ns: int) -> list[Settled]:
        """Settle what is still undecided as STOPPED; settled parts keep what they have."""
        with self._lock:
            self._closed = True
            stopped = invalid(Reason.STOPPED, "the daemon stopped before the part was decided")
            return [
                self._settle(line, stopped, now_ns, self._hashes, (), None)
                for line in self._lines.values()
                if line.settled is None
            ]

    def hurry(self, now_ns: int) -> None:
        """What is settled and waits to be answered is overdue from now on."""
        with self._lock:
            for sequence in self._lines:
                heapq.heappush(self._dues, (now_ns, sequence))

    @property
    def closed(self) -> bool:
        """True once ``close`` has been called; a part that is opened afterwards must be answered at once."""
        with self._lock:
            return self._closed

    def set_hashes(self, hashes: Hashes) -> None:
        """What stands in answers that the docket itself decides (LATE, MISSED, STOPPED)."""
        with self._lock:
            self._hashes = hashes

    def count_late(self) -> None:
        """A part's decision could not leave before its due time; it was answered LATE."""
        with self._lock:
            self._late += 1

    @property
    def unanswered(self) -> int:
        with self._lock:
            return len(self._lines)

    @property
    def undecided(self) -> int:
        with self._lock:
            return sum(line.settled is None for line in self._lines.values())

    def statistics(self) -> DocketStatistics:
        """Counts so far."""
        with self._lock:
            return DocketStatistics(
                self._next - 1, self._settled, self._answered, self._peak, self._second, self._late, self._unrecorded
            )

    def _await(self, entry: Entry) -> None:
        for at_ns in (entry.due_ns - self._commit_margin_ns, entry.due_ns):
            heapq.heappush(self._dues, (at_ns, entry.sequence))

    def _why_late(self, line: _Line) -> Decision:
        if line.views_seen == 0:
            return invalid(Reason.MISSED, "announced, but no frame came")
        if line.views_seen < line.views_wanted:
            return invalid(Reason.VIEW_MISSING, f"{line.views_seen} of {line.views_wanted} views came")
        return invalid(Reason.LATE, "not decided before its due time")

    def _settle(
        self,
        line: _Line,
        decision: Decision,
        now_ns: int,
        hashes: Hashes,
        stages_us: tuple[tuple[str, int], ...],
        evidence: Evidence | None,
    ) -> Settled:
        if now_ns >= line.entry.due_ns and decision.verdict is not Verdict.INVALID:
            over_us = (now_ns - line.entry.due_ns) // 1000
            decision = invalid(Reason.LATE, f"decided {decision.verdict.value} {over_us} us after its due time")
        if decision.reason is Reason.LATE:
            self._late += 1
        self._settled += 1
        answer = self._answer(line.entry, decision, now_ns, hashes, stages_us)
        line.settled = Settled(answer, evidence or Evidence(), line.entry.truth)
        return line.settled

    def _claim(self, sequence: int) -> _Line | None:
        line = self._lines.pop(sequence, None)
        if line is not None:
            self._answered += 1
        return line

    def _answer(
        self, entry: Entry, decision: Decision, now_ns: int, hashes: Hashes, stages_us: tuple[tuple[str, int], ...]
    ) -> Answer:
        return Answer(
            epoch=self.epoch,
            sequence=entry.sequence,
            part_id=entry.part_id,
            frame_id=entry.frame_id,
            verdict=decision.verdict,
            reason=decision.reason,
            review=decision.review,
            rules=decision.rules,
            defects=decision.defects,
            score=decision.score,
            taken_ns=entry.taken_ns,
            due_ns=entry.due_ns,
            settled_ns=now_ns,
            wall_ns=entry.wall_ns,
            hashes=hashes,
            stages_us=stages_us,
            detail=decision.detail,
        )
