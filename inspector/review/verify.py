"""``review verify``: an unbroken chain, every picture and mask as it was, every answer still in the ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from inspector.ledger.finding import Finding
from inspector.ledger.marks import read_marks
from inspector.ledger.opening import suffixed
from inspector.ledger.query import Reading
from inspector.ledger.removed import removed_numbers
from inspector.review import rows

_MOST = 100
"""Findings of one kind that are listed one by one."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found; ``ok`` when nothing was."""

    ok: bool
    reviews: int
    blobs: int
    """Pictures and masks."""
    head: str
    """Hash of the last row, to be kept elsewhere: a chain alone does not show that all of it was rewritten."""
    findings: tuple[Finding, ...]


def verify(path: Path, ledger: Path | None = None) -> Verification:
    """Check the reviews at ``path`` and, where given, that each speaks of an answer that the ledger has, unchanged.

    Beside a running page too. Raises LedgerError when nothing can be read.
    """
    path = Path(path)
    committed = read_marks(suffixed(path, ".marks")).committed  # before the rows: what is added later is no gap
    with Reading(path, rows.STEPS) as connection:
        link, last = rows.head(connection)
        blobs = connection.execute("SELECT count(*) FROM blobs").get
        findings = list(_shortened("damaged", _integrity(connection)))
        findings += _shortened("schema", _structure(connection))
        if committed > link:
            text = f"the reviews end at row {link}, but row {committed} had been committed"
            findings.append(Finding("truncated", text, count=committed - link))
        findings += _shortened("chain", (f"row {number}: {what}" for number, what in rows.broken_links(connection)))
        findings += _shortened("blob", _blobs(connection))
        if ledger is not None:
            findings += _shortened("answer", _answers(connection, ledger))
    return Verification(not findings, link, blobs, last.hex(), tuple(findings))


def _integrity(connection: apsw.Connection) -> Iterator[str]:
    """The database's own checks."""
    for (line,) in connection.execute("PRAGMA integrity_check(10)"):
        if line != "ok":
            yield f"integrity_check: {line}"


def _structure(connection: apsw.Connection) -> Iterator[str]:
    """That nobody dropped a trigger, or added one."""
    expected = {" ".join(text.split()) for step in rows.STEPS for text in step}
    found = {
        " ".join(str(row[0]).split()) for row in connection.execute("SELECT sql FROM sqlite_schema WHERE sql > ''")
    }
    for text in sorted(expected - found):
        yield f"not as this version makes it: {text[:60]}"
    for text in sorted(found - expected):
        yield f"not made by this version: {text[:60]}"


def _blobs(connection: apsw.Connection) -> Iterator[str]:
    """Bytes that are not what their name says, and names without bytes."""
    present = set()
    for name, data in connection.execute("SELECT sha256, bytes FROM blobs"):
        present.add(name)
        if hashlib.sha256(data).hexdigest() != name:
            yield f"picture or mask {name[:16]} was changed"
    query = (
        "SELECT link, picture_sha256 FROM reviews UNION ALL SELECT link, mask_sha256 FROM reviews WHERE mask_sha256 "
        "IS NOT NULL UNION ALL SELECT link, machine_mask_sha256 FROM reviews WHERE machine_mask_sha256 IS NOT NULL"
    )
    for link, name in connection.execute(query):
        if name not in present:
            yield f"row {link}: picture or mask {name[:16]} is missing"


def _answers(connection: apsw.Connection, ledger: Path) -> Iterator[str]:
    """Reviews of answers that the ledger has not, or has with another hash. What left it by age cannot be told."""
    with Reading(ledger) as other:
        gone: dict[int, list[tuple[int, int]]] = {}
        query = "SELECT link, epoch, sequence, answer_hash FROM reviews ORDER BY link"
        for link, epoch, sequence, told in connection.execute(query):
            values = (epoch, sequence)
            found = other.execute("SELECT hash FROM answers WHERE epoch = ? AND sequence = ?", values).get
            if found is None:
                ranges = gone.setdefault(epoch, removed_numbers(other, epoch))
                if any(first <= sequence <= end for first, end in ranges):
                    continue
                yield f"row {link}: the ledger has no answer {epoch}/{sequence}"
            elif found.hex() != told:
                yield f"row {link}: answer {epoch}/{sequence} is not the one that was judged"


def _shortened(kind: str, texts: Iterator[str]) -> Iterator[Finding]:
    further = 0
    try:
        for number, text in enumerate(texts):
            if number < _MOST:
                yield Finding(kind, text)
            else:
                further += 1
    except (apsw.Error, ValueError, TypeError) as error:  # a damaged page also gives text or numbers of the wrong kind
        yield Finding("damaged", f"the rest cannot be read: {error}")
    if further:
        yield Finding(kind, f"and {further} more", count=further)
