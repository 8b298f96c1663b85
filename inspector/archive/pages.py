"""The ledger in pages of bounded size, by link: each is one short read, so that the WAL can start again between."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import apsw

from inspector.errors import LedgerError
from inspector.frame import Reason
from inspector.ledger import schema
from inspector.ledger.query import Reading, Record
from inspector.ledger.rows import ANSWER_COLUMNS, Override, overridden, settled_of

PAGE_BYTES = 32 << 20
"""Of defects, rules and details in one page: what a row may hold has no limit of its own."""
_COLUMNS = ", ".join("a." + column for column in ANSWER_COLUMNS)
_PAGE = (
    f"SELECT {_COLUMNS}, o.reason, o.sent_ns, o.detail, r.received_ns, r.wall_ns FROM answers a "
    "LEFT JOIN overrides o ON o.epoch = a.epoch AND o.sequence = a.sequence "
    "LEFT JOIN receipts r ON r.epoch = a.epoch AND r.sequence = a.sequence "
    "WHERE a.link > ? ORDER BY a.link LIMIT ?"
)
_LATE = (
    "SELECT o.link, o.epoch, o.sequence, o.reason, o.sent_ns FROM overrides o "
    "JOIN answers a ON a.epoch = o.epoch AND a.sequence = o.sequence "
    "WHERE o.link > ? AND a.link <= ? ORDER BY o.link LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Page:
    """Answers in the order in which they were booked."""

    records: list[Record]
    links: list[int]
    """Their place in the ledger, ascending."""


@dataclass(frozen=True, slots=True)
class LateOverride:
    """An INVALID that was sent instead of a stored answer."""

    link: int
    epoch: int
    sequence: int
    reason: str
    sent_ns: int


class Pages:
    """Reads one ledger, also beside a running daemon. One thread."""

    def __init__(self, ledger: Path) -> None:
        self._path = ledger

    def next(self, after_link: int, limit: int) -> Page:
        """Up to ``limit`` answers behind ``after_link``; fewer where they are large. Raises LedgerError."""
        records, links, size = [], [], 0
        width = len(ANSWER_COLUMNS)
        with Reading(self._path) as connection:
            for row in connection.execute(_PAGE, (after_link, limit)):
                settled = settled_of(row[:width])
                answer = sent = settled.answer
                reason, sent_ns, detail, received_ns, received_wall_ns = row[width:]
                if reason is not None:
                    sent = overridden(answer, Override(answer.epoch, answer.sequence, Reason(reason), sent_ns, detail))
                records.append(Record(settled, sent, received_ns, received_wall_ns))
                links.append(int(row[0]))
                size += sum(len(cell) for cell in row if isinstance(cell, str))
                if size >= PAGE_BYTES:
                    break
        return Page(records, links)

    def behind(self, wall_ns: int) -> int:
        """The link behind which the answers taken at or after ``wall_ns`` lie, by bisection: wall time rises with links
        but for steps of the clock, and a scan would be one long read. Raises LedgerError."""
        query = "SELECT wall_ns FROM answers WHERE link >= ? ORDER BY link LIMIT 1"
        with Reading(self._path) as connection:
            low, high = 0, schema.head(connection)[0]
            while low < high:
                middle = (low + high) // 2
                found = connection.execute(query, (middle + 1,)).get
                if found is None or found >= wall_ns:
                    high = middle
                else:
                    low = middle + 1
            return low

    def first_epoch(self) -> int:
        """The lowest epoch that has answers; 0 without any."""
        with Reading(self._path) as connection:
            return schema.number(connection, "SELECT coalesce(min(epoch), 0) FROM answers")

    def identity(self) -> str:
        """What tells this ledger from any other: the hash of its first row, which holds time and boot."""
        with Reading(self._path) as connection:
            return (schema.link_hash(connection, 1) or b"").hex()

    def late_overrides(self, after_override: int, up_to_link: int, limit: int) -> list[LateOverride]:
        """Overrides behind ``after_override`` of answers up to ``up_to_link``. Raises LedgerError."""
        with Reading(self._path) as connection:
            rows = connection.execute(_LATE, (after_override, up_to_link, limit))
            return [LateOverride(*row) for row in rows]

    def last_override(self) -> int:
        with Reading(self._path) as connection:
            return schema.number(connection, "SELECT coalesce(max(link), 0) FROM overrides")


def pictures_between(
    root: Path, first: tuple[int, int], last: tuple[int, int]
) -> dict[tuple[int, int], tuple[str, bool, str]]:
    """(epoch, sequence) -> (name, whether there is a mask, digest) of what the image store holds in this range.

    Raises LedgerError; empty where there is no store.
    """
    index = root / "index.db"
    if not index.is_file():
        return {}
    query = (
        "SELECT epoch, sequence, name, mask_bytes, digest FROM pictures "
        "WHERE (epoch, sequence) BETWEEN (?, ?) AND (?, ?) AND state = 1"
    )
    try:
        connection = apsw.Connection(str(index), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(2000)
            rows = connection.execute(query, (*first, *last))
            return {(epoch, sequence): (name, mask > 0, digest) for epoch, sequence, name, mask, digest in rows}
        finally:
            connection.close()
    except apsw.Error as error:
        raise LedgerError(f"cannot read the image index {index}", found=str(error)) from error
