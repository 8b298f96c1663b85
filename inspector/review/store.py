"""The reviews of one station: rows that are added, never changed, chained like the ledger's.

One process writes (``ReviewStore``), any number read (``read_reviews``). The picture that was judged and the masks are
kept beside the rows by their digest, because the image store removes old pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import apsw

from inspector.clock import Clock
from inspector.errors import ConfigError, LedgerError, quoted
from inspector.frame import Answer
from inspector.ledger import schema
from inspector.ledger.marks import MarksFile, read_marks
from inspector.ledger.opening import lock, suffixed
from inspector.ledger.query import Reading
from inspector.ledger.rows import chain
from inspector.ledger.transaction import refusal
from inspector.review import masks, rows
from inspector.review.plan import Plan
from inspector.review.records import Judgement, PartKey, Picture, Review, Stratum
from inspector.review.sources import Part, Sources

NOTE_CHARACTERS_MAX = 2000
TOOK_MS_MAX = 24 * 3600 * 1000
_REVIEWER = re.compile(r"[\w.@-][\w.@ -]{0,63}")
_MARKS_EPOCH = 1
"""The marks file speaks of epochs; the reviews have one."""


@dataclass(frozen=True, slots=True)
class Where:
    """Which reviews; None = any."""

    key: PartKey | None = None
    reviewer: str | None = None
    after_link: int = 0
    """Only rows added after this one: for readers that keep up."""


class ReviewStore:
    """The reviews, open for adding by this process alone. Any thread may call anything."""

    def __init__(self, path: Path, *, sources: Sources, plan: Plan, clock: Clock) -> None:
        self.path, self.sources, self.plan = Path(path), sources, plan
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: apsw.Connection | None = None
        self._marks: MarksFile | None = None
        self._lock_fd = -1
        self._link, self._head = rows.head_of_nothing()
        self._listeners: list[Callable[[Review], None]] = []

    # -- opening and closing ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open or make the file. Raises LedgerError: in use, damaged, cut off at its end, from a newer inspector."""
        schema.check_library()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_fd = lock(self.path)
            self._open_file()
        except apsw.Error as error:
            self.close()
            raise refusal(error, self.path)[0] from error
        except OSError as error:
            self.close()
            raise LedgerError(f"cannot open the reviews {self.path}", found=error.strerror or str(error)) from error
        except BaseException:
            self.close()
            raise

    def _open_file(self) -> None:
        committed = read_marks(suffixed(self.path, ".marks")).committed
        connection = schema.connect(self.path)
        self._connection = connection
        connection.pragma("journal_mode", "wal")
        connection.execute("PRAGMA synchronous=FULL")  # a person's minute of work is worth a write to the disk
        connection.wal_autocheckpoint(256)
        schema.migrate(connection, self.path, rows.STEPS)
        self._link, self._head = rows.head(connection)
        if committed > self._link:
            raise LedgerError(
                f"the reviews {self.path} were cut off",
                expected=f"{committed} rows",
                found=f"{self._link}",
                do="Restore the file from a copy, or set it aside with its .marks.",
            )
        self._marks = MarksFile(suffixed(self.path, ".marks"))

    def close(self) -> None:
        """Copy the WAL into the file and let go; idempotent."""
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(apsw.Error):  # a reader holds it up: the rows are in the WAL all the same
                    self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                self._connection.close()
            if self._marks is not None:
                self._marks.close()
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
            self._connection, self._marks, self._lock_fd = None, None, -1

    # -- adding ----------------------------------------------------------------------------------------------------

    def add(self, judgement: Judgement) -> Review:
        """Keep one judgement for ever, on the disk when this returns; what the machine had said is read here.

        Raises ConfigError for what the client got wrong (name, note, mask, another picture), LedgerError where there
        is no such part or picture, or the file refuses.
        """
        reviewer, note = _checked_texts(judgement)
        part = self.sources.part(judgement.key)
        picture = self.picture(judgement.key, part)
        if judgement.picture_sha256 != picture.sha256:
            raise ConfigError(
                f"another picture of part {judgement.key.text} was judged",
                expected=picture.sha256[:16],
                found=quoted(judgement.picture_sha256[:16]),
                do="Load the part again.",
            )
        mask = judgement.mask_png
        if mask is not None:
            mask = masks.checked(mask, (picture.width_px, picture.height_px))
        blobs = {_sha256(data): data for data in (picture.png, picture.machine_mask_png, mask) if data is not None}
        with self._lock:
            draft = self._draft(judgement, part, picture, reviewer, note)
            draft = replace(draft, mask_sha256=None if mask is None else _sha256(mask))
            review = self._commit(draft, blobs)
        for listener in self._listeners:
            listener(review)
        return review

    def on_added(self, listener: Callable[[Review], None]) -> None:
        """Have ``listener`` called with every review after it was committed, in the thread that added it."""
        self._listeners.append(listener)

    def _draft(self, judgement: Judgement, part: Part, picture: Picture, reviewer: str, note: str) -> Review:
        sent, stored = part.record.sent, part.record.settled.answer
        stratum, probability = self._placed(judgement, sent, stored)
        machine_mask = picture.machine_mask_png
        return Review(
            link=self._link + 1,
            key=judgement.key,
            part_id=stored.part_id,
            part_wall_ns=stored.wall_ns,
            answer_hash=part.answer_hash,
            picture_sha256=picture.sha256,
            reviewer=reviewer,
            opinion=judgement.opinion,
            note=note,
            mask_sha256=None,
            machine_mask_sha256=None if machine_mask is None else _sha256(machine_mask),
            decided_at_ns=self._clock.wall_ns(),
            took_ms=judgement.took_ms,
            blind=judgement.blind,
            machine_verdict=sent.verdict,
            machine_reason=sent.reason,
            machine_score=score_of(stored),
            engine=stored.hashes.engine,
            calibration=stored.hashes.calibration,
            settings=stored.hashes.settings,
            stratum=stratum,
            probability=probability,
            truth=part.record.settled.truth,
            hash="",
        )

    def _placed(self, judgement: Judgement, sent: Answer, stored: Answer) -> tuple[Stratum, float]:
        """Stratum and probability by the plan; PICKED where the plan had not asked for it, or it was not blind."""
        stratum = self.plan.stratum(sent.verdict, score_of(stored))
        if not judgement.blind or not self.plan.wants(stored.epoch, stored.sequence, stratum):
            return Stratum.PICKED, 0.0
        return stratum, self.plan.probability(stratum)

    def _commit(self, draft: Review, blobs: dict[str, bytes]) -> Review:
        if self._connection is None or self._marks is None:
            raise LedgerError("the reviews are not open")
        cells = rows.cells_of(draft)
        digest = chain(self._head, cells)
        try:
            with self._connection:
                self._connection.executemany("INSERT OR IGNORE INTO blobs VALUES (?, ?)", list(blobs.items()))
                self._connection.execute(rows.INSERT, (*cells, digest))
        except apsw.Error as error:
            raise refusal(error, self.path)[0] from error
        self._link, self._head = draft.link, digest
        self._marks.committed(_MARKS_EPOCH, draft.link)
        return replace(draft, hash=digest.hex())

    # -- looking ---------------------------------------------------------------------------------------------------

    def picture(self, key: PartKey, part: Part | None = None) -> Picture:
        """What is to be judged: from the image store, or as it was kept with an earlier review. Raises LedgerError."""
        part = part or self.sources.part(key)
        found = self.sources.picture(part)
        if found is not None:
            return found
        earlier = self.reviews(Where(key=key))
        if not earlier:
            raise LedgerError(f"there is no picture of part {key.text}", found="none stored, or removed by the quota")
        png, mask = self.blob(earlier[-1].picture_sha256), earlier[-1].machine_mask_sha256
        width, height = masks.read_size(png)
        return Picture(key, png, earlier[-1].picture_sha256, width, height, None if mask is None else self.blob(mask))

    def reviews(self, where: Where | None = None) -> list[Review]:
        """The reviews that fit, oldest first; those of one part are found by index. Raises LedgerError."""
        with self._lock:
            if self._connection is None:
                raise LedgerError("the reviews are not open")
            return select(self._connection, where or Where())

    def blob(self, sha256: str) -> bytes:
        """A picture or mask by its digest. Raises LedgerError."""
        with self._lock:
            if self._connection is None:
                raise LedgerError("the reviews are not open")
            return read_blob(self._connection, sha256)


def read_reviews(path: Path, where: Where | None = None) -> list[Review]:
    """The reviews in a file that another process may have open; none where there is no file. Raises LedgerError."""
    if not Path(path).is_file():
        return []
    with Reading(path, rows.STEPS) as connection:
        return select(connection, where or Where())


def select(connection: apsw.Connection, where: Where) -> list[Review]:
    """The reviews that fit, oldest first. Raises apsw.Error, and LedgerError for a row that no version wrote."""
    tests: list[tuple[str, int | str]] = [("link > ?", where.after_link)]
    if where.key is not None:
        tests += [
            ("epoch = ?", where.key.epoch),
            ("sequence = ?", where.key.sequence),
            ("station = ?", where.key.station),
        ]
    if where.reviewer is not None:
        tests.append(("reviewer = ?", where.reviewer))
    query = f"{rows.SELECT} WHERE {' AND '.join(test for test, _ in tests)} ORDER BY link"
    try:
        return [rows.review_of(row) for row in connection.execute(query, [value for _, value in tests])]
    except (ValueError, TypeError) as error:
        raise LedgerError("the reviews are damaged", found=str(error), do="Run `inspector review verify`.") from error


def read_blob(connection: apsw.Connection, sha256: str) -> bytes:
    """A picture or mask by its digest. Raises LedgerError."""
    found = connection.execute("SELECT bytes FROM blobs WHERE sha256 = ?", (sha256,)).get
    if found is None:
        raise LedgerError(f"the reviews have no picture or mask {sha256[:16]}", do="Run `inspector review verify`.")
    return bytes(found)


def score_of(answer: Answer) -> float | None:
    """The highest score; None where the map was not finite."""
    return None if math.isnan(answer.score) else float(answer.score)


def _checked_texts(judgement: Judgement) -> tuple[str, str]:
    reviewer, note = judgement.reviewer.strip(), judgement.note.strip()
    if not _REVIEWER.fullmatch(reviewer):
        raise ConfigError(
            "a reviewer needs a name", expected="1 to 64 letters, digits, . _ @ -", found=quoted(judgement.reviewer)
        )
    if len(note) > NOTE_CHARACTERS_MAX or "\0" in note or not _is_lines(note):
        raise ConfigError(
            "the note cannot be kept",
            expected=f"up to {NOTE_CHARACTERS_MAX} printable characters",
            found=f"{len(note)}",
        )
    if not 0 <= judgement.took_ms <= TOOK_MS_MAX:
        raise ConfigError("no such duration", expected=f"0 to {TOOK_MS_MAX} ms", found=quoted(judgement.took_ms))
    return reviewer, note


def _is_lines(text: str) -> bool:
    return all(line.isprintable() for line in text.splitlines())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
