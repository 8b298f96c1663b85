"""What people said about archived parts: one table a station, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from inspector.archive.catalogue import shard_path
from inspector.archive.place import Place, library
from inspector.archive.table import Cells, parquet_bytes, parquet_rows

REVIEWS = "reviews.parquet"


def reviews_schema() -> Any:
    """One row an opinion, in the order in which they were given."""
    pa = library("pyarrow")
    whole, text = pa.int64(), pa.string()
    return pa.schema(
        [
            ("station", text), ("epoch", whole), ("sequence", whole), ("reviewer", text), ("opinion", text),
            ("note", text), ("decided_at_ns", whole), ("blind", pa.bool_()), ("stratum", text),
            ("probability", pa.float64()), ("machine_verdict", text), ("engine", text), ("picture_sha256", text),
            ("mask_sha256", text),
        ]
    )  # fmt: skip


def write_reviews(place: Place, station: str, rows: Iterable[Cells]) -> int:
    """Replace the station's table; returns the number of opinions. Raises LedgerError."""
    found = list(rows)
    place.write(shard_path(station, REVIEWS), parquet_bytes(found, reviews_schema()))
    return len(found)


def read_truths(place: Place, station: str) -> dict[tuple[int, int], bool]:
    """(epoch, sequence) -> defective, as blind reviewers say in one voice; empty where nobody reviewed.

    A later opinion of the same reviewer replaces the earlier; parts on which reviewers differ are left out.
    """
    name = shard_path(station, REVIEWS)
    if not place.exists(name):
        return {}
    latest: dict[tuple[int, int], dict[str, str]] = {}
    for row in parquet_rows(place.read(name), ("epoch", "sequence", "reviewer", "opinion", "blind")):
        if row["blind"]:
            latest.setdefault((row["epoch"], row["sequence"]), {})[row["reviewer"]] = row["opinion"]
    said = {key: set(opinions.values()) - {"cannot_tell"} for key, opinions in latest.items()}
    return {key: opinions == {"defect"} for key, opinions in said.items() if len(opinions) == 1}
