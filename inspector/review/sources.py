"""What the line left behind about a part: its answer in the ledger, its picture in the image store. Only reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from inspector.errors import LedgerError
from inspector.ledger.query import Filter, Reading, Record, records
from inspector.ledger.rows import picture_name
from inspector.review.masks import read_size
from inspector.review.records import PartKey, Picture


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the ledger."""

    record: Record
    answer_hash: str
    """Of its row, 64 hex digits."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a station keeps what is judged. Any thread, any process; beside a running daemon."""

    station: str
    ledger: Path
    images: Path
    """The image store's root."""

    def part(self, key: PartKey) -> Part:
        """Raises LedgerError where this ledger has no such part."""
        query = "SELECT hash FROM answers WHERE epoch = ? AND sequence = ?"
        with Reading(self.ledger) as connection:
            found = connection.execute(query, (key.epoch, key.sequence)).get
        if found is None or key.station != self.station:
            raise LedgerError(f"the ledger of {self.station} has no part {key.station} {key.text}")
        record = next(records(self.ledger, Filter(epoch=key.epoch, sequence=key.sequence), limit=1))
        return Part(record, found.hex())

    def picture(self, part: Part) -> Picture | None:
        """The stored picture and the machine's mask; None where the store has none, or none any more.

        Raises LedgerError for a file that cannot be read, ConfigError for one that is no PNG.
        """
        answer = part.record.settled.answer
        key, name = PartKey(self.station, answer.epoch, answer.sequence), picture_name(answer)
        png = _bytes(self.images / "images" / name)
        if png is None:
            return None
        width, height = read_size(png)
        mask = _bytes(self.images / "masks" / name)
        return Picture(key, png, hashlib.sha256(png).hexdigest(), width, height, mask)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(f"cannot read {path}", found=error.strerror or str(error)) from error
