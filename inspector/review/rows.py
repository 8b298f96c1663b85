"""Reviews <-> table rows, their tables, and the chain through them."""

from __future__ import annotations

from collections.abc import Iterator

import apsw

from inspector.errors import LedgerError
from inspector.frame import Reason, Verdict
from inspector.ledger import schema
from inspector.ledger.rows import GENESIS, Cells, chain
from inspector.review.records import Opinion, PartKey, Review, Stratum

REVIEWS = """
CREATE TABLE reviews (
  link INTEGER PRIMARY KEY, station TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
  part_id TEXT NOT NULL, part_wall_ns INTEGER NOT NULL, answer_hash TEXT NOT NULL, picture_sha256 TEXT NOT NULL,
  reviewer TEXT NOT NULL, opinion TEXT NOT NULL, note TEXT NOT NULL, mask_sha256 TEXT, machine_mask_sha256 TEXT,
  decided_at_ns INTEGER NOT NULL, took_ms INTEGER NOT NULL, blind INTEGER NOT NULL,
  machine_verdict TEXT NOT NULL, machine_reason TEXT, machine_score REAL,
  engine TEXT NOT NULL, calibration TEXT NOT NULL, settings TEXT NOT NULL,
  stratum TEXT NOT NULL, probability REAL NOT NULL, truth INTEGER, hash BLOB NOT NULL
) STRICT"""
BY_PART = "CREATE INDEX by_part ON reviews (epoch, sequence)"
BLOBS = "CREATE TABLE blobs (sha256 TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT"
COLUMNS = [
    "link", "station", "epoch", "sequence", "part_id", "part_wall_ns", "answer_hash", "picture_sha256", "reviewer",
    "opinion", "note", "mask_sha256", "machine_mask_sha256", "decided_at_ns", "took_ms", "blind", "machine_verdict",
    "machine_reason", "machine_score", "engine", "calibration", "settings", "stratum", "probability", "truth",
]  # fmt: skip
"""The chained cells of a review, in the order in which they are hashed. Pictures and masks are chained by digest."""


def _refuse(table: str, deed: str) -> str:
    said = f"SELECT RAISE(ABORT, '{table} are added, never changed')"
    return f"CREATE TRIGGER {table}_no_{deed.lower()} BEFORE {deed} ON {table} BEGIN {said}; END"


STEPS: schema.Steps = (
    (
        REVIEWS,
        BY_PART,
        BLOBS,
        *(_refuse(table, deed) for table in ("reviews", "blobs") for deed in ("UPDATE", "DELETE")),
    ),
)
"""What leads from version n to n + 1 of the file; only ever appended to."""

INSERT = schema.insert("reviews", COLUMNS)
SELECT = f"SELECT {', '.join(COLUMNS)}, hash FROM reviews"


def cells_of(review: Review) -> Cells:
    """The row in the order of COLUMNS."""
    reason, truth = review.machine_reason, review.truth
    return (
        review.link,
        *(review.key.station, review.key.epoch, review.key.sequence),
        *(review.part_id, review.part_wall_ns, review.answer_hash, review.picture_sha256),
        *(review.reviewer, review.opinion.value, review.note, review.mask_sha256, review.machine_mask_sha256),
        *(review.decided_at_ns, review.took_ms, int(review.blind)),
        *(review.machine_verdict.value, None if reason is None else reason.value, review.machine_score),
        *(review.engine, review.calibration, review.settings),
        *(review.stratum.value, float(review.probability), None if truth is None else int(truth)),
    )


def review_of(row: tuple[object, ...]) -> Review:
    """The Review in a row of COLUMNS and hash; equal to the one that was written."""
    cell = dict(zip([*COLUMNS, "hash"], row, strict=True))
    key = PartKey(str(cell.pop("station")), cell.pop("epoch"), cell.pop("sequence"))  # type: ignore[arg-type]
    reason, truth = cell.pop("machine_reason"), cell.pop("truth")
    return Review(
        key=key,
        opinion=Opinion(cell.pop("opinion")),
        blind=bool(cell.pop("blind")),
        machine_verdict=Verdict(cell.pop("machine_verdict")),
        machine_reason=None if reason is None else Reason(reason),
        stratum=Stratum(cell.pop("stratum")),
        truth=None if truth is None else bool(truth),
        hash=cell.pop("hash").hex(),  # type: ignore[attr-defined]
        **cell,  # type: ignore[arg-type]
    )


def head_of_nothing() -> tuple[int, bytes]:
    """Where an empty chain stands."""
    return 0, GENESIS


def head(connection: apsw.Connection) -> tuple[int, bytes]:
    """Link and hash of the last review; (0, GENESIS) where there is none. Raises LedgerError for a damaged row."""
    try:
        row = connection.execute("SELECT link, hash FROM reviews ORDER BY link DESC LIMIT 1").get
        return (0, GENESIS) if row is None else (int(row[0]), bytes(row[1]))
    except (ValueError, TypeError) as error:  # a damaged page also gives text or numbers of the wrong kind
        raise LedgerError("the last review cannot be read", found=str(error), do="Restore the file.") from error


def broken_links(connection: apsw.Connection) -> Iterator[tuple[int, str]]:
    """Walk the whole chain; yields (link, what is wrong). Each row is checked against the hash stored before it."""
    previous, expected = GENESIS, 1
    for row in connection.execute(f"{SELECT} ORDER BY link"):
        link, stored = row[0], row[-1]
        if link != expected:
            yield (
                expected,
                "the row is missing" if link == expected + 1 else f"rows {expected} to {link - 1} are missing",
            )
        elif chain(previous, row[:-1]) != stored:
            yield link, "the row, or the hash before it, was changed"
        previous, expected = stored, link + 1
