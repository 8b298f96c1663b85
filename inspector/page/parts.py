"""One part by its identity: what the ledger says, its picture, and where the machine found something.

Pictures are found by number, never by a path from outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from inspector.errors import ConfigError, LedgerError
from inspector.ledger.pictures import INDEX_NAME, STORED
from inspector.ledger.query import Record
from inspector.page.feed import Feed
from inspector.page.outline import path_of, path_of_png
from inspector.review.masks import read_size
from inspector.review.records import PartKey
from inspector.review.sources import Part, Sources

_KEPT = "SELECT 1 FROM pictures WHERE epoch = ? AND sequence = ? AND state = ?"


@dataclass(frozen=True, slots=True)
class Overlay:
    """What lies over a picture."""

    width_px: int
    height_px: int
    path: str


@dataclass(frozen=True, slots=True)
class Parts:
    """Looks parts up: in the ledger and the image store, and among the pictures that just came. Any thread."""

    sources: Sources
    feed: Feed

    def key(self, text: str) -> PartKey:
        """Raises ConfigError for what is no key."""
        return PartKey.parse(self.sources.station, text)

    def record(self, key: PartKey) -> Record | None:
        """The ledger's row; None where there is none."""
        try:
            part = self._part(key)
        except LedgerError:
            return None
        return part.record

    def picture(self, key: PartKey) -> bytes | None:
        """PNG; None where none is kept."""
        came = self.feed.picture(key.epoch, key.sequence)
        if came is not None:
            return came
        try:
            found = self.sources.picture(self._part(key))
        except LedgerError:
            return None
        return None if found is None else found.png

    def kept(self, keys: list[PartKey]) -> set[PartKey]:
        """Those of which a picture can be shown: asked of the image store's index, not tried out file by file."""
        came = {key for key in keys if self.feed.picture(key.epoch, key.sequence) is not None}
        index = self.sources.images / INDEX_NAME
        if not index.is_file():
            return came
        try:
            connection = apsw.Connection(str(index), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                connection.set_busy_timeout(1000)
                asked = [(key, (key.epoch, key.sequence, STORED)) for key in keys if key not in came]
                return came | {key for key, values in asked if connection.execute(_KEPT, values).get}
            finally:
                connection.close()
        except apsw.Error as error:
            raise LedgerError(f"cannot read the image index {index}", found=str(error)) from error

    def overlay(self, key: PartKey) -> Overlay | None:
        """None where no picture is kept."""
        newest = self.feed.newest()
        if newest is not None and (newest.answer.epoch, newest.answer.sequence) == (key.epoch, key.sequence):
            image, mask = newest.viewed.image, newest.viewed.mask
            if image is not None:
                height, width = image.shape
                return Overlay(width, height, "" if mask is None else path_of(mask))
        try:
            found = self.sources.picture(self._part(key))
        except (LedgerError, ConfigError):
            found = None
        if found is not None:
            mask_png = found.machine_mask_png
            return Overlay(found.width_px, found.height_px, "" if mask_png is None else path_of_png(mask_png))
        came = self.feed.picture(key.epoch, key.sequence)
        return None if came is None else Overlay(*read_size(came), "")

    def _part(self, key: PartKey) -> Part:
        return self.sources.part(key)
