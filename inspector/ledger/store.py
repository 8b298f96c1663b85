"""Images and masks of parts, as PNG files in dated folders: what to save, for how long, within which space.

Its own thread runs ``step``; the line only ``offer``s, which never waits. When space or time is short images are
shed and counted: rows matter more, answers most.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import apsw
import cv2
import numpy as np

from inspector.clock import Clock
from inspector.errors import LedgerError
from inspector.frame import Answer, Grey, Settled, Verdict
from inspector.ledger.age import DAY_NS, Ages
from inspector.ledger.imprint import stamped
from inspector.ledger.pictures import REMOVING, STORED, WRITING, Index, Stored, set_keep
from inspector.ledger.rows import picture_name

_BATCH = 16
_TIDY_EVERY_NS = 10_000_000_000
_TIDY_LIMIT = 500
"""Parts that retention removes in one go: the images that wait are saved in between."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Which parts are saved. By number and score, not by chance, so that a replay saves the same ones."""

    save: frozenset[Verdict] = frozenset({Verdict.FAIL, Verdict.INVALID})
    every_pass: int = 100
    """Every n-th PASS as well; 0 = none."""
    pass_from_score: float = 0.0
    """Every PASS with at least this score as well; 0 = none."""

    def wants(self, answer: Answer) -> bool:
        """True when this part's image is to be kept. Parts for review always are."""
        if answer.verdict in self.save or answer.review:
            return True
        if answer.verdict is not Verdict.PASS:
            return False
        if 0.0 < self.pass_from_score <= answer.score:
            return True
        return self.every_pass > 0 and answer.sequence % self.every_pass == 0


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """Counts since ``open``."""

    saved: int
    shed: int
    """Wanted, but not saved: queue full, no room, or the disk refused."""
    removed: int
    """Removed by quota, retention or a short disk."""
    waiting: int
    waiting_peak: int
    used_bytes: int
    quota_bytes: int | None
    short: bool
    """The disk has less than ``min_free_bytes`` and no PASS image is left to remove."""
    last_error: str


class Store:
    """The image store of one station; one process writes it."""

    def __init__(
        self,
        root: Path,
        *,
        policy: Policy,
        quota_bytes: int | None,
        keep_days: float,
        clock: Clock,
        min_free_bytes: int,
        capacity: int = 64,
    ) -> None:
        """``quota_bytes``: None = whatever leaves ``min_free_bytes`` free. ``capacity``: parts that wait, in memory."""
        self.root = Path(root)
        self._policy, self._quota_bytes, self._keep_ns = policy, quota_bytes, int(keep_days * DAY_NS)
        self._clock, self._min_free_bytes = clock, min_free_bytes
        self._queue: queue.Queue[Settled] = queue.Queue(capacity)
        self._ages = Ages(clock, "pictures", "number", self._keep_ns)
        self._index: Index | None = None
        self._used_bytes = 0
        self._saved = self._shed = self._removed = self._peak = 0
        self._short, self._error = False, ""
        self._tidied_ns = 0
        self._made: set[Path] = set()

    def open(self) -> None:
        """Make the folders, finish what a kill interrupted. Raises LedgerError."""
        try:
            for name in ("images", "masks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            self._index = Index(self.root)
            unfinished = self._index.unfinished()
            whole = [each for each in unfinished if each.state == WRITING and self._is_whole(each)]
            self._index.set_state(whole, STORED)
            self._remove([each for each in unfinished if each not in whole])
            self._used_bytes = self._index.used_bytes()
        except (OSError, apsw.Error) as error:
            raise LedgerError(f"cannot open the image store {self.root}", found=str(error)) from error

    def close(self) -> None:
        """Save what waits and let go; idempotent."""
        if self._index is not None:
            while not self._queue.empty():
                self.step(0)
            with contextlib.suppress(OSError, apsw.Error):  # then the last images count as stored at the next start
                self._index.mark(self._ages, at_once=True)
            self._index.close()
            self._index = None

    def offer(self, settled: Settled) -> bool:
        """Hand over a part without waiting; True when it will be saved if there is room. Any thread."""
        if settled.evidence.image is None or not self._policy.wants(settled.answer):
            return False
        try:
            self._queue.put_nowait(settled)
        except queue.Full:
            self._shed += 1
            return False
        self._peak = max(self._peak, self._queue.qsize())
        return True

    def step(self, timeout_s: float) -> list[Stored]:
        """Save what waits, at most a few parts; keep within quota, retention and the disk's free space.

        Never raises for a disk that refuses: the images are shed, counted, and ``statistics`` says why.
        """
        index = self._opened()
        parts = self._take(timeout_s)
        done: list[Stored] = []
        try:
            if self._clock.now_ns() - self._tidied_ns >= _TIDY_EVERY_NS or not self._tidied_ns:
                self._tidied_ns = self._clock.now_ns()
                self._tidy(index)
            done = self._save(index, parts)
            self._ages.see(index.number)
            self._error = self._error if self._short else ""
        except (OSError, apsw.Error) as error:
            self._error = str(error)
        self._saved += len(done)
        self._shed += len(parts) - len(done)
        return done

    def keep(self, epoch: int, sequence: int, keep: bool = True) -> bool:
        """Put a part's images on the keep list, or take them off. False when there are none. Any thread."""
        return set_keep(self.root, epoch, sequence, keep)

    def statistics(self) -> StoreStatistics:
        """A snapshot."""
        return StoreStatistics(
            saved=self._saved,
            shed=self._shed,
            removed=self._removed,
            waiting=self._queue.qsize(),
            waiting_peak=self._peak,
            used_bytes=self._used_bytes,
            quota_bytes=self._quota_bytes,
            short=self._short,
            last_error=self._error or self._ages.fault,
        )

    # -- saving ----------------------------------------------------------------------------------------------------

    def _take(self, timeout_s: float) -> list[Settled]:
        parts: list[Settled] = []
        try:
            parts.append(self._queue.get(timeout=timeout_s) if timeout_s > 0 else self._queue.get_nowait())
            while len(parts) < _BATCH:
                parts.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return parts

    def _save(self, index: Index, parts: list[Settled]) -> list[Stored]:
        """Intent, files, deed. What is killed in between is finished at the next ``open``."""
        ready: list[tuple[Stored, bytes, bytes]] = []
        claimed_bytes = 0
        for settled in parts:
            try:
                stored, image, mask = _encode(settled)
            except cv2.error as error:
                self._error = f"an image cannot be written as PNG: {error.err}"
                continue
            if self._make_room(index, claimed_bytes + stored.blocks_bytes):
                claimed_bytes += stored.blocks_bytes
                ready.append((stored, image, mask))
        if not ready:
            return []
        index.put([stored for stored, _, _ in ready], WRITING)
        done: list[Stored] = []
        try:
            for stored, image, mask in ready:
                for name, data in zip(stored.names, (image, mask), strict=False):
                    self._write(self.root / name, data)
                self._used_bytes += stored.blocks_bytes
                done.append(replace(stored, state=STORED))
        finally:
            index.set_state(done, STORED)
            self._remove(stored for stored, _, _ in ready[len(done) :])
        return done

    def _write(self, path: Path, data: bytes) -> None:
        """Whole or not at all: written under another name, then renamed."""
        if path.parent not in self._made:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(path.parent)
        draft = path.with_name(f".{path.name}.part")
        try:
            draft.write_bytes(data)
            draft.rename(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    # -- room ------------------------------------------------------------------------------------------------------

    def _make_room(self, index: Index, wanted_bytes: int) -> bool:
        """Remove the oldest until ``wanted_bytes`` fit; False when they cannot."""
        over = self._excess_bytes(index, wanted_bytes)
        while over > 0:
            if not self._remove_some(index, over, passes_only=False):
                return False
            over = self._excess_bytes(index, wanted_bytes)
        # Somebody else may be filling the disk: then only PASS images go, a FAIL is not given up for that.
        missing = self._missing_bytes(wanted_bytes)
        if missing > 0 and self._remove_some(index, missing, passes_only=True):
            missing = self._missing_bytes(wanted_bytes)
        if missing > 0:
            self._short = True
            self._error = f"the disk has less than {self._min_free_bytes} bytes left: images are not saved"
            return False
        self._short = False
        return True

    def _excess_bytes(self, index: Index, wanted_bytes: int) -> int:
        if self._quota_bytes is None:
            return 0
        return self._used_bytes + index.reserved_bytes + wanted_bytes - self._quota_bytes

    def _missing_bytes(self, wanted_bytes: int) -> int:
        return self._min_free_bytes + wanted_bytes - shutil.disk_usage(self.root).free

    def _remove_some(self, index: Index, at_least_bytes: int, *, passes_only: bool) -> bool:
        """Remove the next few parts, as many as it takes; False when there are none."""
        chosen: list[Stored] = []
        freed = 0
        for each in index.oldest(64, passes_only=passes_only):
            chosen.append(each)
            freed += each.blocks_bytes
            if freed >= at_least_bytes:
                break
        self._remove(chosen)
        return bool(chosen)

    def _remove(self, parts: Iterable[Stored]) -> None:
        """Intent, files, deed."""
        index, gone = self._opened(), list(parts)
        if not gone:
            return
        index.set_state(gone, REMOVING)
        for each in gone:
            for name in each.names:
                path = self.root / name
                path.unlink(missing_ok=True)
                path.with_name(f".{path.name}.part").unlink(missing_ok=True)
                self._remove_folder(path.parent)
            if each.state == STORED:
                self._used_bytes -= each.blocks_bytes
                self._removed += 1
        index.drop(gone)

    def _remove_folder(self, folder: Path) -> None:
        """Remove a day's folder once it is empty."""
        try:
            folder.rmdir()
        except OSError:
            return  # not empty, or gone already
        self._made.discard(folder)

    def _tidy(self, index: Index) -> None:
        """Retention; and, where the quota has been lowered or another fills the disk, room."""
        self._remove(index.outlived(self._ages, self._keep_ns, _TIDY_LIMIT))
        self._make_room(index, 0)

    def _is_whole(self, stored: Stored) -> bool:
        sizes = (stored.image_bytes, stored.mask_bytes)
        paths = [self.root / name for name in stored.names]
        return all(path.is_file() and path.stat().st_size == size for path, size in zip(paths, sizes, strict=False))

    def _opened(self) -> Index:
        if self._index is None:
            raise LedgerError("the image store is not open")
        return self._index


def _encode(settled: Settled) -> tuple[Stored, bytes, bytes]:
    """The part's row and its two files."""
    answer, evidence = settled.answer, settled.evidence
    assert evidence.image is not None
    image = _png(evidence.image)
    if evidence.geometry is not None:
        image = stamped(image, evidence.geometry)
    mask = b"" if evidence.mask is None else _png(evidence.mask.astype(np.uint8) * np.uint8(255))
    stored = Stored(
        epoch=answer.epoch,
        sequence=answer.sequence,
        verdict=answer.verdict.value,
        wall_ns=answer.wall_ns,
        name=picture_name(answer),
        image_bytes=len(image),
        mask_bytes=len(mask),
        digest=hashlib.sha256(image + mask).hexdigest()[:16],
        state=WRITING,
    )
    return stored, image, mask


def _png(pixels: Grey) -> bytes:
    _, data = cv2.imencode(".png", pixels)
    return data.tobytes()
