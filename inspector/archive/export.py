"""``ledger export --parquet DIR``: a station's answers and images into an archive; each call adds only what is new.

The manifest says what counts. A shard is written, then the manifest that names it; what a crash leaves in between is
removed by the next call, which begins where the manifest ends.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inspector.archive.catalogue import Manifest, Shard, manifest_name, picture_path, read_manifest, shard_path
from inspector.archive.pages import Page, Pages, pictures_between
from inspector.archive.place import Place, sha256
from inspector.archive.recipes import CALIBRATION_FILE, calibration_folder, named_files, rules_name
from inspector.archive.table import Cells, late_schema, parquet_bytes, part_row, part_schema
from inspector.clock import Clock
from inspector.engine.machine import cpu, device_class
from inspector.errors import ConfigError, LedgerError
from inspector.ledger.opening import is_held
from inspector.ledger.query import Record
from inspector.preprocess.calibration import load_calibration

SHARD_ROWS = 2000
"""A minute or two of one core's work: small enough to lose, large enough that the task itself costs nothing."""
SETTLING_S = 10.0
"""Beside a running daemon, younger answers wait for the next call: their image and acknowledgement may be under way."""


@dataclass(slots=True)
class Exported:
    """What one call added."""

    station: str
    parts: int = 0
    shards: int = 0
    images: int = 0
    """Parts with an image."""
    images_gone: int = 0
    """Removed by quota or retention while it was exported."""
    images_damaged: int = 0
    """Not what the store's index says; left out."""
    late: int = 0
    shards_in_all: int = 0
    parts_in_all: int = 0
    missing_recipes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where a station keeps its things."""

    station: str
    state_dir: Path

    @property
    def ledger(self) -> Path:
        return self.state_dir / "ledger.db"

    @property
    def pictures(self) -> Path:
        return self.state_dir / "images"


def export_archive(
    source: Source,
    place: Place,
    *,
    clock: Clock,
    since_ns: int | None = None,
    shard_rows: int = SHARD_ROWS,
    on_shard: Callable[[Exported], None] = lambda done: None,
) -> Exported:
    """Add to the archive what the station's ledger has since the last call; the first one begins at ``since_ns``.

    Raises ConfigError where the archive holds another ledger of this name or begins later than asked, LedgerError.
    """
    with _alone(source):
        return _Export(source, place, clock, shard_rows).run(since_ns, on_shard)


class _Export:
    def __init__(self, source: Source, place: Place, clock: Clock, shard_rows: int) -> None:
        self._source, self._place, self._clock, self._shard_rows = source, place, clock, shard_rows
        self._pages = Pages(source.ledger)
        self._manifest = Manifest(source.station)
        self._done = Exported(source.station)

    def run(self, since_ns: int | None, on_shard: Callable[[Exported], None]) -> Exported:
        self._begin(since_ns)
        manifest, done = self._manifest, self._done
        # Read before the rows: what is decided while they are read belongs to the next call.
        late_up_to = self._pages.last_override()
        late_from = manifest.last_link
        horizon_ns = self._clock.wall_ns() - int(SETTLING_S * 1e9) if is_held(self._source.ledger) else None
        self._recipes()
        self._late(late_from, late_up_to)
        while True:
            page = settled(self._pages.next(manifest.last_link, self._shard_rows), horizon_ns)
            if not page.records:
                break
            self._shard(page)
            # Now and then: a long manifest after every shard would cost more than the shards.
            if done.shards % (1 + len(manifest.shards) // 32) == 0:
                self._save()
            on_shard(done)
        self._save()
        done.shards_in_all = len(manifest.shards)
        done.parts_in_all = sum(shard.rows for shard in manifest.shards)
        done.missing_recipes = tuple(manifest.missing_recipes)
        return done

    def _begin(self, since_ns: int | None) -> None:
        """Read the manifest or begin one; remove what an interrupted call left."""
        name, identity = manifest_name(self._source.station), self._pages.identity()
        if not self._place.exists(name):
            self._manifest.since_ns = since_ns
            self._manifest.last_link = 0 if since_ns is None else self._pages.behind(since_ns)
        else:
            self._manifest = manifest = read_manifest(self._place, self._source.station)
            begins_ns = manifest.since_ns
            if begins_ns is not None and since_ns is not None and since_ns < begins_ns:
                what = f"the archive of {manifest.station} begins later than --since asks, and cannot grow backwards"
                raise ConfigError(what, expected=f"a time from {begins_ns} ns on", do="Export to another directory.")
            if manifest.ledger != identity:
                self._next_ledger(manifest)
        self._manifest.ledger = identity
        self._manifest.device, self._manifest.device_class = cpu().name, device_class()
        known = {shard.name for shard in self._manifest.shards}
        for left in self._place.names(f"stations/{self._source.station}"):
            if left.startswith("parts-") and left not in known:
                self._place.remove(shard_path(self._source.station, left))

    def _next_ledger(self, manifest: Manifest) -> None:
        """A ledger that was set aside is followed by one with later epochs; anything else is another station."""
        last, first = max((shard.last[0] for shard in manifest.shards), default=0), self._pages.first_epoch()
        if first <= last:
            raise ConfigError(
                f"the archive holds another ledger of a station named {manifest.station}",
                expected=f"epochs above {last}",
                found=str(first),
                do="Give each station a name of its own, or export to another directory.",
            )
        manifest.last_link = manifest.last_override = 0

    def _shard(self, page: Page) -> None:
        station, done = self._source.station, self._done
        records = sorted(page.records, key=_identity)
        rows = list(self._rows(records))
        data = parquet_bytes(rows, part_schema())
        digest = sha256(data)
        (epoch, sequence), last = _identity(records[0]), _identity(records[-1])
        name = f"parts-{epoch:06d}-{sequence:09d}-{digest[:16]}.parquet"
        self._place.write(shard_path(station, name), data)
        walls = [record.settled.answer.wall_ns for record in records]
        images = sum(row["image_sha256"] is not None for row in rows)
        self._manifest.shards.append(
            Shard(name, digest, len(data), len(rows), images, (epoch, sequence), last, min(walls), max(walls))
        )
        self._manifest.last_link = page.links[-1]
        self._note_recipes(rows)
        done.parts, done.shards, done.images = done.parts + len(rows), done.shards + 1, done.images + images

    def _rows(self, records: list[Record]) -> Iterator[Cells]:
        stored = pictures_between(self._source.pictures, _identity(records[0]), _identity(records[-1]))
        for record in records:
            found = stored.get(_identity(record))
            digests = self._pictures(*found) if found is not None else (None, None)
            yield part_row(self._source.station, record, *digests)

    def _pictures(self, name: str, has_mask: bool, digest: str) -> tuple[str | None, str | None]:
        """Bring a part's files into the archive; their hashes, None where they are gone or damaged."""
        paths = [self._source.pictures / folder / name for folder in ("images", "masks")[: 1 + has_mask]]
        try:
            files = [path.read_bytes() for path in paths]
        except FileNotFoundError:
            self._done.images_gone += 1
            return None, None
        except OSError as error:
            raise LedgerError(f"an image cannot be read: {error.filename}", found=str(error.strerror)) from error
        if hashlib.sha256(b"".join(files)).hexdigest()[:16] != digest:
            self._done.images_damaged += 1
            return None, None
        names = [sha256(data) for data in files]
        for path, data, each in zip(paths, files, names, strict=True):
            self._place.adopt(picture_path(each), path, data)
        return names[0], names[1] if has_mask else None

    def _late(self, up_to_link: int, up_to_override: int) -> None:
        """Overrides that were booked after the shard with their answer was written."""
        manifest, station = self._manifest, self._source.station
        while up_to_link:
            found = self._pages.late_overrides(manifest.last_override, up_to_link, self._shard_rows)
            if not found:
                break
            rows = [
                {"station": station, "epoch": e.epoch, "sequence": e.sequence, "reason": e.reason, "sent_ns": e.sent_ns}
                for e in found
            ]
            name = f"late-{found[0].link:012d}.parquet"
            self._place.write(shard_path(station, name), parquet_bytes(rows, late_schema()))
            manifest.last_override, self._done.late = found[-1].link, self._done.late + len(found)
        manifest.last_override = max(manifest.last_override, up_to_override)

    def _recipes(self) -> None:
        """Calibrations and rules that the daemon kept, each once."""
        kept = self._source.state_dir / "recipes"
        for path in sorted(kept.glob("rules/*.json")):
            name = rules_name(path.stem)
            if not self._place.exists(name):
                self._place.write(name, path.read_bytes())
        for folder in sorted(each for each in kept.glob("calibrations/*") if (each / CALIBRATION_FILE).is_file()):
            target = calibration_folder(folder.name)
            if not self._place.exists(f"{target}/{CALIBRATION_FILE}"):
                calibration = load_calibration(folder / CALIBRATION_FILE)
                for name, _ in named_files(calibration):
                    self._place.write(f"{target}/{name}", (folder / name).read_bytes())
                self._place.write(f"{target}/{CALIBRATION_FILE}", (folder / CALIBRATION_FILE).read_bytes())

    def _note_recipes(self, rows: Iterable[Cells]) -> None:
        """Keep in the manifest which recipes the rows name and the archive lacks."""
        wanted = {f"{calibration_folder(row['calibration'])}/{CALIBRATION_FILE}" for row in rows if row["calibration"]}
        wanted |= {rules_name(row["settings"]) for row in rows if row["settings"]}
        missing = {name for name in wanted if not self._place.exists(name)}
        self._manifest.missing_recipes = sorted(missing | set(self._manifest.missing_recipes))

    def _save(self) -> None:
        self._place.write(manifest_name(self._source.station), self._manifest.to_json())


def settled(page: Page, horizon_ns: int | None) -> Page:
    """The page up to the first answer that is younger than ``horizon_ns``."""
    for index, record in enumerate(page.records):
        if horizon_ns is not None and record.settled.answer.wall_ns > horizon_ns:
            return Page(page.records[:index], page.links[:index])
    return page


def _identity(record: Record) -> tuple[int, int]:
    return record.settled.answer.epoch, record.settled.answer.sequence


@contextmanager
def _alone(source: Source) -> Iterator[None]:
    """One export of a station at a time: a second would take the first one's drafts for leavings."""
    try:
        file = (source.state_dir / ".export.lock").open("w")
    except OSError as error:
        raise LedgerError(f"cannot export from {source.state_dir}", found=str(error.strerror)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerError(f"another export of {source.station} is running", do="Wait for it to end.") from None
        yield
