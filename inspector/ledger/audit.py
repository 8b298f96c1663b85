"""``ledger verify``: opened = answers = receipts, an unbroken chain, and every image in its place.

Also the one place the command line imports ``show`` and ``stats`` from.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import apsw

from inspector.ledger import schema
from inspector.ledger.counts import ranges
from inspector.ledger.finding import Finding
from inspector.ledger.marks import Marks, read_marks
from inspector.ledger.opening import is_held, suffixed
from inspector.ledger.pictures_audit import check_pictures
from inspector.ledger.query import Filter, ParetoLine, Reading, Record, Stats, records, show, stats
from inspector.ledger.removed import is_piece, removed, removed_numbers
from inspector.ledger.restart import CLOSED, missing, noted_gaps, without

__all__ = [
    "EpochCount",
    "Filter",
    "Finding",
    "ParetoLine",
    "Record",
    "Stats",
    "Verification",
    "records",
    "show",
    "stats",
    "verify",
]

_MOST_BREAKS = 100
"""Breaks of the chain that are listed one by one."""


@dataclass(frozen=True, slots=True)
class EpochCount:
    """One run of the daemon in numbers."""

    epoch: int
    opened: int | None
    """Last number opened; None where no mark tells."""
    answers: int
    receipts: int
    overrides: int
    noted: int
    """Numbers without a row that an event accounts for."""
    closed: bool
    """Ended in order."""
    removed: int = 0
    """Numbers whose rows have left by age."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify`` found; ``ok`` when every finding is one that the ledger itself accounts for."""

    ok: bool
    rows: int
    """Rows of the chain."""
    head: str
    """Hash of the last row, to be kept elsewhere: a chain alone does not show that all of it was rewritten."""
    epochs: tuple[EpochCount, ...]
    pictures: int
    findings: tuple[Finding, ...]


def verify(
    path: Path, store: Path | None = None, *, quarantine: bool = False, deep: bool = False, strict: bool = False
) -> Verification:
    """Check the ledger at ``path`` and, where given, the image store; beside a running daemon too.

    ``quarantine`` moves orphan images to ``quarantine/``. ``deep`` reads every image and compares its digest.
    ``strict`` also counts answers without a receipt as an error. Raises LedgerError when nothing can be read.
    """
    path = Path(path)
    live = is_held(path)
    marks = read_marks(suffixed(path, ".marks"))  # before the rows: what is opened later is no gap
    with Reading(path) as connection:
        findings = _structure(connection)
        link, last_hash = schema.head(connection)
        findings += _end(connection, link, marks)
        findings += _chain(connection)
        epochs, counted = _reconcile(connection, path, marks, live, strict)
        findings += counted
        pictures = 0
        if store is not None:
            pictures, seen = check_pictures(connection, Path(store), quarantine=quarantine, deep=deep)
            findings += seen
    ok = all(finding.known for finding in findings)
    return Verification(ok, link, last_hash.hex(), tuple(epochs), pictures, tuple(findings))


def _structure(connection: apsw.Connection) -> list[Finding]:
    """The database's own checks, and that nobody dropped a UNIQUE."""
    said = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(10)")]
    findings = [Finding("damaged", f"integrity_check: {line}") for line in said if line != "ok"]
    expected = {" ".join(text.split()) for step in schema.MIGRATIONS for text in step}
    found = {
        " ".join(str(row[0]).split()) for row in connection.execute("SELECT sql FROM sqlite_schema WHERE sql > ''")
    }
    findings += [Finding("schema", f"not as this version makes it: {text[:60]}") for text in sorted(expected - found)]
    return findings


def _end(connection: apsw.Connection, link: int, marks: Marks) -> list[Finding]:
    """Rows cut off at the end leave the chain whole; only the mark knows of them."""
    last = schema.number(connection, "SELECT coalesce(max(epoch), 0) FROM epochs")
    if marks.committed_epoch == last and marks.committed > link:
        text = f"the ledger ends at row {link}, but row {marks.committed} had been committed"
        return [Finding("truncated", text, epoch=last, count=marks.committed - link)]
    if marks.committed_epoch > last:
        return [Finding("truncated", f"the ledger ends with epoch {last}, but {marks.committed_epoch} had begun")]
    return []


def _chain(connection: apsw.Connection) -> list[Finding]:
    findings: list[Finding] = []
    further = 0
    for link, what in schema.broken_links(connection):
        if len(findings) < _MOST_BREAKS:
            findings.append(Finding("chain", f"row {link}: {what}"))
        else:
            further += 1
    if further:
        findings.append(Finding("chain", f"and {further} further breaks", count=further))
    return findings


def _reconcile(
    connection: apsw.Connection, path: Path, marks: Marks, live: bool, strict: bool
) -> tuple[list[EpochCount], list[Finding]]:
    """Per epoch: numbers opened, answers, receipts."""
    answers = _by_epoch(connection, "SELECT epoch, count(*) FROM answers GROUP BY epoch")
    receipts = _by_epoch(connection, "SELECT epoch, count(*) FROM receipts GROUP BY epoch")
    overrides = _by_epoch(connection, "SELECT epoch, count(*) FROM overrides GROUP BY epoch")
    closed = _by_epoch(connection, f"SELECT epoch, count(*) FROM events WHERE kind = '{CLOSED}' GROUP BY epoch")
    opened = _by_epoch(connection, "SELECT previous_epoch, previous_opened FROM epochs WHERE previous_epoch > 0")
    started = _by_epoch(connection, "SELECT epoch, 1 FROM epochs")
    last = max(started, default=0)
    if marks.opened_epoch == last:
        opened[last] = marks.opened
    counts: list[EpochCount] = []
    piece = is_piece(connection)  # of retired rows: what is missing in it stood, or stands, elsewhere
    strays = _strays(connection, piece)
    findings = _duplicates(connection) + strays + _retired(connection, path)
    for epoch in sorted(started | answers | opened):
        told = opened.get(epoch, -1)
        highest = schema.number(connection, "SELECT coalesce(max(sequence), 0) FROM answers WHERE epoch = ?", (epoch,))
        away = removed_numbers(connection, epoch)
        up_to = 0 if piece else max(told, highest)
        noted, seen = _gaps(connection, epoch, up_to, away, live=live and epoch == last)
        findings += seen
        if epoch not in started and epoch in answers:
            findings.append(Finding("gap", f"epoch {epoch} has answers, but its own row is gone", epoch=epoch))
        counts.append(
            EpochCount(
                epoch=epoch,
                opened=told if told >= 0 else None,
                answers=answers.get(epoch, 0),
                receipts=receipts.get(epoch, 0),
                overrides=overrides.get(epoch, 0),
                noted=noted,
                closed=epoch in closed,
                removed=sum(last - first + 1 for first, last in away),
            )
        )
    astray = sum(finding.count for finding in strays if finding.kind == "receipt")
    silent = sum(answers.values()) - sum(receipts.values()) + astray
    if silent > 0:
        text = f"{silent} answers without an acknowledgement: whether they arrived is not known"
        findings.append(Finding("unacknowledged", text, count=silent, known=not strict))
    return counts, findings


def _gaps(
    connection: apsw.Connection, epoch: int, opened: int, away: list[tuple[int, int]], *, live: bool
) -> tuple[int, list[Finding]]:
    """How many numbers an event accounts for, and a finding for each range without a row that has not left by age."""
    noted = noted_gaps(connection, epoch)
    rowless = without(missing(connection, epoch, opened), away)
    open_ranges = without(rowless, noted)
    accounted_ranges = without(rowless, open_ranges)
    findings = []
    for first, last in accounted_ranges:
        text = f"epoch {epoch}: numbers {first} to {last} have no row; a gap event accounts for them"
        findings.append(Finding("gap", text, epoch, first, last, last - first + 1, known=True))
    for first, last in open_ranges:
        kind = "in flight" if live else "gap"
        what = "are on their way" if live else "were opened and have no row"
        text = f"epoch {epoch}: numbers {first} to {last} {what}"
        findings.append(Finding(kind, text, epoch, first, last, last - first + 1, known=live))
    for start, end in noted:
        if end == 0:
            text = f"epoch {epoch}: a gap event says that numbers from {start} on may have been answered and lost"
            findings.append(Finding("gap", text, epoch, start, 0, known=True))
    return sum(last - first + 1 for first, last in accounted_ranges), findings


def _retired(connection: apsw.Connection, path: Path) -> list[Finding]:
    """What has left by age, and a finding where the file it went into is not there."""
    base = removed(connection)
    if not base.link or is_piece(connection):
        return []
    away = f"rows up to {base.link} have left by age"
    if not base.file:
        return [Finding("retired", f"{away}, no copy was kept", count=base.link, known=True)]
    gone = "" if (path.parent / base.file).is_file() else "; that file is not here"
    return [Finding("retired", f"{away}, the last of them into {base.file}{gone}", count=base.link, known=True)]


def _duplicates(connection: apsw.Connection) -> list[Finding]:
    """Two rows for one number; the table itself is asked, not its index."""
    query = "SELECT epoch, sequence, count(*) FROM answers GROUP BY epoch, sequence HAVING count(*) > 1 LIMIT 100"
    return [
        Finding("duplicate", f"answer {epoch}/{sequence} has {count} rows", epoch, sequence, sequence, count)
        for epoch, sequence, count in connection.execute(query)
    ]


def _strays(connection: apsw.Connection, piece: bool) -> list[Finding]:
    """Receipts and overrides of answers that are not there; known where an event says where those went."""
    findings = []
    for table, what in (("receipts", "receipt"), ("overrides", "override")):
        query = (
            f"SELECT t.epoch, t.sequence FROM {table} t LEFT JOIN answers a "
            "ON a.epoch = t.epoch AND a.sequence = t.sequence WHERE a.link IS NULL ORDER BY t.epoch"
        )
        for epoch, rows in groupby(connection.execute(query), itemgetter(0)):
            astray = ranges(sequence for _, sequence in rows)
            unnoted = without(astray, noted_gaps(connection, epoch))
            loose = [] if piece else without(unnoted, removed_numbers(connection, epoch))
            for some, why in (
                (without(astray, unnoted), "; a gap event accounts for them"),
                (without(unnoted, loose), "; this file is only a piece" if piece else "; those have left by age"),
                (loose, ""),
            ):
                count = sum(last - first + 1 for first, last in some)
                if count:
                    text = f"epoch {epoch}: {count} {what}s without an answer{why}"
                    findings.append(Finding(what, text, epoch, some[0][0], some[-1][1], count, known=bool(why)))
    return findings


def _by_epoch(connection: apsw.Connection, query: str) -> dict[int, int]:
    return {int(epoch): int(value) for epoch, value in connection.execute(query)}
