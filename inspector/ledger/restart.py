"""What earlier epochs left undone, read from the ledger: answers to resend, numbers never decided, gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import apsw

from inspector.frame import Answer, Reason, Settled, Verdict
from inspector.ledger import schema
from inspector.ledger.marks import Marks
from inspector.ledger.removed import removed_numbers
from inspector.ledger.rows import (
    ANSWER_COLUMNS,
    Cells,
    Note,
    Override,
    Row,
    answer_of,
    overridden,
    restarted,
)

CLOSED = "closed"
"""Kind of the event that ends an epoch in order."""
GAP = "gap"
"""Kind of the event that accounts for numbers without a row."""
LOST = "lost"
"""Kind of the event that says an epoch's rows are no longer all there."""

HORIZON_ROWS = 100_000
"""How many of the last rows may hold answers still in time: 50 s at 2,000 a second, an hour at 25."""
RESTARTED_LIMIT = 100_000
"""More undecided numbers than any line has in flight: then it is a gap, not a restart."""

_PAST = """
SELECT p.epoch, coalesce(n.previous_opened, -1), coalesce(e.boot_id, '')
FROM (SELECT epoch FROM epochs UNION SELECT previous_epoch FROM epochs) p
LEFT JOIN epochs e ON e.epoch = p.epoch LEFT JOIN epochs n ON n.previous_epoch = p.epoch
WHERE p.epoch > 0 AND p.epoch < ? AND p.epoch >= ? ORDER BY p.epoch"""
"""Former epochs, also those whose own row is gone, with what the next one knew of the numbers they had opened."""
_HIGHEST = "SELECT coalesce(max(sequence), 0) FROM answers WHERE epoch = ?"
_EVENT = "SELECT text FROM events WHERE kind = ? AND epoch = ?"
_ANSWERS = f"SELECT {', '.join('a.' + column for column in ANSWER_COLUMNS)} FROM answers a"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the answering thread must do about earlier epochs."""

    resend: tuple[Answer, ...] = ()
    """Unacknowledged and still in time: to be sent again as they were."""
    restarted: tuple[Answer, ...] = ()
    """INVALID RESTARTED: opened and never decided, or decided so at an earlier restart and not acknowledged."""
    gaps: tuple[Note, ...] = ()
    """Numbers that cannot be accounted for; each is booked as an event."""


def rows_lost(known_epoch: int, link: int, marks: Marks) -> str:
    """One line when the file ends before the last row that was committed to it; empty when it does not."""
    if marks.committed_epoch < known_epoch or marks.committed_epoch == 0:
        return ""
    if marks.committed_epoch == known_epoch and marks.committed <= link:
        return ""
    committed = f"row {marks.committed} of epoch {marks.committed_epoch} had been committed"
    return f"the file ends at row {link} of epoch {known_epoch}, but {committed}"


def stored_answer(connection: apsw.Connection, epoch: int, sequence: int) -> Cells | None:
    """The row of one answer in the order of ANSWER_COLUMNS."""
    row = connection.execute(f"{_ANSWERS} WHERE a.epoch = ? AND a.sequence = ?", (epoch, sequence)).fetchone()
    return None if row is None else tuple(row)


def done(connection: apsw.Connection, epoch: int) -> None:
    """Note that every epoch below this one is accounted for."""
    connection.execute("INSERT OR REPLACE INTO state (key, value) VALUES ('recovered_below', ?)", (epoch,))


def recover(
    connection: apsw.Connection,
    *,
    epoch: int,
    boot_id: str,
    now_ns: int,
    wall_ns: int,
    sent: Mapping[tuple[int, int], Answer],
) -> tuple[Recovery, list[Row]]:
    """What is undone below ``epoch``, and the rows that account for it. Reads only.

    ``sent``: answers that left before their row was booked; what was told once is booked as it was told.
    """
    below = connection.execute("SELECT value FROM state WHERE key = 'recovered_below'").get or 0
    past: list[tuple[int, int, str]] = list(connection.execute(_PAST, (epoch, below)))
    rows: list[Row] = []
    gaps: list[Note] = []
    for old, opened, old_boot in past:
        undecided, unknown = _undone(connection, old, opened, same_boot=bool(boot_id) and old_boot == boot_id)
        rows.extend(
            Settled(sent.get((old, number)) or _decided_now(connection, old, number, now_ns, wall_ns))
            for number in undecided
        )
        gaps.extend(Note(wall_ns, GAP, text, old, first, last) for text, first, last in unknown)
    unacknowledged = _unacknowledged(connection, epoch, boot_id, now_ns)
    found = [row.answer for row in rows if isinstance(row, Settled)]
    told = [answer for answer in unacknowledged if answer.reason is Reason.RESTARTED] + found
    decided = [answer for answer in unacknowledged if answer.reason is not Reason.RESTARTED]
    resend = [sent.get((answer.epoch, answer.sequence), answer) for answer in decided]
    return Recovery(tuple(resend), tuple(told), tuple(gaps)), [*rows, *_unbooked_overrides(connection, sent), *gaps]


def _unbooked_overrides(connection: apsw.Connection, sent: Mapping[tuple[int, int], Answer]) -> list[Override]:
    """What was sent instead of a decision that did reach the ledger, its override not."""
    found = []
    for (epoch, sequence), answer in sent.items():
        cells = stored_answer(connection, epoch, sequence)
        if cells is None or stored_override(connection, epoch, sequence) is not None or answer.reason is None:
            continue
        if answer_of(cells).verdict is not Verdict.INVALID:
            found.append(Override(epoch, sequence, answer.reason, answer.settled_ns, answer.detail))
    return found


def _undone(
    connection: apsw.Connection, old: int, opened: int, *, same_boot: bool
) -> tuple[list[int], list[tuple[str, int, int]]]:
    """Numbers of a former epoch that were surely never answered, and ranges (why, first, last) of which nobody knows.

    ``opened`` is -1 where the marks did not tell.
    """
    noted = noted_gaps(connection, old) + removed_numbers(connection, old)
    highest = max(opened, schema.number(connection, _HIGHEST, (old,)))
    ranges = without(missing(connection, old, highest), noted)
    lost = connection.execute(_EVENT, (LOST, old)).get
    too_many = sum(last - first + 1 for first, last in ranges) > RESTARTED_LIMIT
    if same_boot and not lost and not too_many:
        numbers = [number for first, last in ranges for number in range(first, last + 1)]
        unknown = []
    else:
        numbers = []
        why = lost or ("the machine was reset" if not same_boot else "more numbers than a line has in flight")
        unknown = [(f"numbers without a row: {why}", first, last) for first, last in ranges]
    ended = connection.execute(_EVENT, (CLOSED, old)).get is not None
    if not ended and (not same_boot or opened < 0) and not any(end == 0 for _, end in noted):
        why = "no mark of the last number" if same_boot else "the machine was reset"
        unknown.append((f"no orderly end, {why}: higher numbers may have been answered and lost", highest + 1, 0))
    return numbers, unknown


def _decided_now(connection: apsw.Connection, epoch: int, sequence: int, now_ns: int, wall_ns: int) -> Answer:
    """RESTARTED; or what was sent instead of a decision that never reached the disk."""
    answer = restarted(epoch, sequence, now_ns, wall_ns)
    override = stored_override(connection, epoch, sequence)
    if override is None:
        return answer
    return replace(overridden(answer, override), taken_ns=override.sent_ns, due_ns=override.sent_ns)


def stored_override(connection: apsw.Connection, epoch: int, sequence: int) -> Override | None:
    """What was sent instead of the stored decision, if so."""
    query = "SELECT reason, sent_ns, detail FROM overrides WHERE epoch = ? AND sequence = ?"
    row = connection.execute(query, (epoch, sequence)).fetchone()
    return None if row is None else Override(epoch, sequence, Reason(row[0]), row[1], row[2])


def noted_gaps(connection: apsw.Connection, epoch: int) -> list[tuple[int, int]]:
    """Ranges of an epoch that an event accounts for; last = 0 means all above."""
    query = "SELECT first, last FROM events WHERE kind = ? AND epoch = ? AND first > 0"
    return [(int(first), int(last)) for first, last in connection.execute(query, (GAP, epoch))]


def missing(connection: apsw.Connection, epoch: int, opened: int) -> list[tuple[int, int]]:
    """Ranges of 1..opened without a row."""
    query = "SELECT count(*) FROM answers WHERE epoch = ? AND sequence BETWEEN 1 AND ?"
    if connection.execute(query, (epoch, opened)).get == opened:
        return []
    ranges, expected = [], 1
    query = "SELECT sequence FROM answers WHERE epoch = ? AND sequence BETWEEN 1 AND ? ORDER BY sequence"
    for (sequence,) in connection.execute(query, (epoch, opened)):
        if sequence > expected:
            ranges.append((expected, sequence - 1))
        expected = sequence + 1
    if expected <= opened:
        ranges.append((expected, opened))
    return ranges


def without(ranges: list[tuple[int, int]], noted: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of ``ranges`` that no range of ``noted`` covers (there, last = 0 means all above)."""
    left, noted = [], sorted(noted)
    for first, last in ranges:
        at = first
        for start, end in noted:
            stop = end or last
            if stop < at or start > last:
                continue
            if start > at:
                left.append((at, start - 1))
            at = stop + 1
        if at <= last:
            left.append((at, last))
    return left


def _unacknowledged(connection: apsw.Connection, epoch: int, boot_id: str, now_ns: int) -> list[Answer]:
    """Answers of earlier epochs of this boot without a receipt: in time, or RESTARTED and never heard of."""
    if not boot_id:
        return []
    query = (
        f"{_ANSWERS} JOIN epochs e ON e.epoch = a.epoch "
        "LEFT JOIN receipts r ON r.epoch = a.epoch AND r.sequence = a.sequence "
        "WHERE a.link > (SELECT max(link) FROM answers) - ? AND a.epoch < ? AND e.boot_id = ? "
        "AND r.epoch IS NULL AND (a.due_ns > ? OR a.reason = 'RESTARTED') ORDER BY a.link"
    )
    answers = []
    for row in connection.execute(query, (HORIZON_ROWS, epoch, boot_id, now_ns)):
        answer = answer_of(row)
        override = stored_override(connection, answer.epoch, answer.sequence)
        if override is not None:
            answer = overridden(answer, override)
        answers.append(answer)
    return answers
