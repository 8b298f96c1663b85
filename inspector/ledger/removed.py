"""What has left the ledger by age: the event that says so, read back."""

from __future__ import annotations

import json
from dataclasses import dataclass

import apsw

from inspector.ledger.rows import GENESIS

REMOVED = "removed"
"""Kind of the event that accounts for rows that have left by age."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Every answer and override up to ``link`` has left; the chain goes on from ``hash``."""

    link: int = 0
    hash: bytes = GENESIS
    file: str = ""
    """Where they are, below the ledger's folder; empty where no copy was kept."""


def note_text(what: Removed) -> str:
    """The event's text."""
    return json.dumps({"link": what.link, "hash": what.hash.hex(), "file": what.file})


def removed(connection: apsw.Connection) -> Removed:
    """Where the chain of this file begins: a ledger says it in its last such event, retired rows in a table."""
    if is_piece(connection):
        link, hashed = connection.execute("SELECT link, hash FROM base").get
        return Removed(link, hashed)
    text = connection.execute("SELECT text FROM events WHERE kind = ? ORDER BY link DESC LIMIT 1", (REMOVED,)).get
    if not isinstance(text, str):
        return Removed()
    try:
        told = json.loads(text)
        return Removed(int(told["link"]), bytes.fromhex(told["hash"]), str(told["file"]))
    except (ValueError, KeyError, TypeError):
        return Removed()  # damaged: then the rows count as missing, which is told loudly


def is_piece(connection: apsw.Connection) -> bool:
    """True for a file that holds a piece of the chain."""
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'base'").get is not None


def removed_numbers(connection: apsw.Connection, epoch: int) -> list[tuple[int, int]]:
    """Ranges of an epoch's numbers whose rows have left."""
    query = "SELECT first, last FROM events WHERE kind = ? AND epoch = ? AND first > 0"
    return [(int(first), int(last)) for first, last in connection.execute(query, (REMOVED, epoch))]
