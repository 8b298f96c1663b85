"""The shadow's own file: how often its verdicts agreed, and each flip with its pictures. Apart from the ledger.

``shadow.db`` has one row per pair of recipes and verdicts, so it does not grow with the parts, and the newest flips;
``flips/`` has the part, the live mask and the shadow's mask of each. The shadow's process alone writes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import cv2
import numpy as np

from inspector.errors import ConfigError, LedgerError
from inspector.frame import BoolMap, Decision, Evidence, Grey, Verdict
from inspector.ledger import schema
from inspector.shadow.records import FLIPS, Change, Job, Live, change

FILE = "shadow.db"
PICTURES = ("part", "live", "shadow")
_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS compared (
  live_engine TEXT NOT NULL, shadow_engine TEXT NOT NULL, calibration TEXT NOT NULL, settings TEXT NOT NULL,
  live TEXT NOT NULL, shadow TEXT NOT NULL, bundle TEXT NOT NULL, parts INTEGER NOT NULL, cpu_us INTEGER NOT NULL,
  first_wall_ns INTEGER NOT NULL, last_wall_ns INTEGER NOT NULL,
  PRIMARY KEY (live_engine, shadow_engine, calibration, settings, live, shadow)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS flips (
  number INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, part_id TEXT NOT NULL,
  wall_ns INTEGER NOT NULL, change TEXT NOT NULL, live TEXT NOT NULL, live_reason TEXT NOT NULL,
  live_score REAL NOT NULL, live_rules TEXT NOT NULL, live_engine TEXT NOT NULL, shadow TEXT NOT NULL,
  shadow_reason TEXT NOT NULL, shadow_score REAL NOT NULL, shadow_rules TEXT NOT NULL, shadow_engine TEXT NOT NULL,
  truth INTEGER, pictures TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS by_part ON flips (epoch, sequence)
"""
_FLIP = (
    "INSERT INTO flips (epoch, sequence, part_id, wall_ns, change, live, live_reason, live_score, live_rules, "
    "live_engine, shadow, shadow_reason, shadow_score, shadow_rules, shadow_engine, truth, pictures) VALUES "
    f"({', '.join('?' * 17)})"
)
_COUNT = (
    "INSERT INTO compared VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?) ON CONFLICT DO UPDATE SET parts = parts + 1, "
    "cpu_us = cpu_us + excluded.cpu_us, last_wall_ns = excluded.last_wall_ns, bundle = excluded.bundle"
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All parts that one live recipe and one shadow engine have both judged."""

    live_engine: str
    shadow_engine: str
    bundle: str
    """The shadow's."""
    calibration: str
    settings: str
    parts: int
    changes: dict[Change, int]
    cpu_ms: float
    """Mean processor time of the shadow's judgement."""
    first_wall_ns: int
    last_wall_ns: int

    @property
    def flips(self) -> int:
        return self.parts - self.changes[Change.SAME]


class ShadowBook:
    """The writer. One process opens it."""

    def __init__(self, root: Path, *, keep: int, min_free_bytes: int) -> None:
        """``keep``: flips that stay, with their pictures. Raises LedgerError."""
        self._root, self._keep, self._min_free_bytes = root, keep, min_free_bytes
        try:
            (root / "flips").mkdir(parents=True, exist_ok=True)
            self._connection = schema.connect(root / FILE, busy_ms=2000)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.wal_autocheckpoint(250)
            version = int(self._connection.pragma("user_version") or 0)
            if version > _VERSION:
                raise LedgerError(f"{root / FILE} was written by a newer inspector", do="Move it aside.")
            self._connection.execute(_TABLES)
            self._connection.execute(f"PRAGMA user_version={_VERSION}")
        except (OSError, apsw.Error) as error:
            raise LedgerError(f"cannot open {root / FILE}", found=str(error), do="Move it aside.") from error

    def add(self, job: Job, decision: Decision, evidence: Evidence, *, engine: str, bundle: str, cpu_us: int) -> Change:
        """Count one part, and keep it where the verdicts differ. ``engine``: first 16 hex digits of the plan's hash.

        Raises LedgerError; then nothing of this part was counted."""
        live = job.live
        found = change(live.verdict, decision.verdict)
        hashes = (live.hashes.engine, engine, live.hashes.calibration, live.hashes.settings)
        verdicts = (live.verdict.value, decision.verdict.value)
        try:
            name = self._picture(job, engine, evidence) if found is not Change.SAME else ""
            with self._connection:
                self._connection.execute(_COUNT, (*hashes, *verdicts, bundle, cpu_us, live.wall_ns, live.wall_ns))
                if found is not Change.SAME:
                    self._connection.execute(_FLIP, _cells(live, decision, engine, found, name))
            if found is not Change.SAME:
                self._prune()
        except (OSError, apsw.Error, cv2.error) as error:
            raise LedgerError(f"cannot write {self._root / FILE}", found=str(error)) from error
        return found

    def close(self) -> None:
        """Idempotent."""
        self._connection.close()

    def _picture(self, job: Job, engine: str, evidence: Evidence) -> str:
        """Writes what is there of the part and its masks; the name they share, empty where the disk is short."""
        if evidence.image is None or shutil.disk_usage(self._root).free < self._min_free_bytes:
            return ""
        name = f"{job.live.epoch}-{job.live.sequence:06d}-{engine[:8]}"
        for what, pixels in zip(PICTURES, (evidence.image, _grey(job.mask), _grey(evidence.mask)), strict=True):
            if pixels is not None:
                path = self._path(name, what)
                draft = path.with_suffix(".part")
                draft.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
                draft.rename(path)
        return name

    def _path(self, name: str, what: str) -> Path:
        return self._root / "flips" / f"{name}-{what}.png"

    def _prune(self) -> None:
        """The oldest flips beyond ``keep`` go, files first: a kill in between leaves a row without pictures."""
        query = "SELECT number, pictures FROM flips ORDER BY number DESC LIMIT -1 OFFSET ?"
        for number, name in list(self._connection.execute(query, (self._keep,))):
            for what in PICTURES if name else ():
                self._path(name, what).unlink(missing_ok=True)
            self._connection.execute("DELETE FROM flips WHERE number = ?", (number,))


def _grey(mask: BoolMap | None) -> Grey | None:
    return None if mask is None else mask.astype(np.uint8) * np.uint8(255)


def _cells(live: Live, decision: Decision, engine: str, found: Change, name: str) -> tuple[Any, ...]:
    rules = decision.rules or ((decision.detail,) if decision.detail else ())
    return (
        live.epoch, live.sequence, live.part_id, live.wall_ns, found.value,
        live.verdict.value, live.reason.value if live.reason else "", live.score, json.dumps(live.rules),
        live.hashes.engine, decision.verdict.value, decision.reason.value if decision.reason else "",
        float(decision.score), json.dumps(rules), engine,
        None if live.truth is None else int(live.truth), name,
    )  # fmt: skip


# -- reading -----------------------------------------------------------------------------------------------------------


@contextmanager
def _reader(root: Path) -> Iterator[apsw.Connection]:
    path = root / FILE
    if not path.is_file():
        raise ConfigError(
            "no shadow has run here", expected=f"a file {path}", do="Set shadow.bundle, or name another --state-dir."
        )
    try:
        with apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as connection:
            connection.set_busy_timeout(2000)
            yield connection
    except apsw.Error as error:
        raise LedgerError(f"{path} cannot be read", found=str(error)) from error


def comparisons(root: Path) -> list[Comparison]:
    """Every pair of recipes that was compared, the newest last. Raises ConfigError (nothing there), LedgerError."""
    query = (
        "SELECT live_engine, shadow_engine, calibration, settings, live, shadow, bundle, parts, cpu_us, first_wall_ns, "
        "last_wall_ns FROM compared ORDER BY last_wall_ns"
    )
    with _reader(root) as connection:
        rows = list(connection.execute(query))
    pairs: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for row in rows:
        pairs.setdefault(row[:4], []).append(row)
    out = [_comparison(pair, of_pair) for pair, of_pair in pairs.items()]
    return sorted(out, key=lambda one: one.last_wall_ns)


def _comparison(pair: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Comparison:
    changes = dict.fromkeys(Change, 0)
    for row in rows:
        changes[change(Verdict(row[4]), Verdict(row[5]))] += row[7]
    parts = sum(changes.values())
    return Comparison(
        live_engine=pair[0],
        shadow_engine=pair[1],
        calibration=pair[2],
        settings=pair[3],
        bundle=rows[-1][6],
        parts=parts,
        changes=changes,
        cpu_ms=sum(row[8] for row in rows) / parts / 1000,
        first_wall_ns=min(row[9] for row in rows),
        last_wall_ns=max(row[10] for row in rows),
    )


def flips(root: Path, *, limit: int, kinds: tuple[Change, ...] = FLIPS, engine: str = "") -> list[dict[str, Any]]:
    """The newest flips first, as mappings; ``pictures`` are the paths that exist. Raises as ``pairs`` does."""
    columns = (
        "epoch", "sequence", "part_id", "wall_ns", "change", "live", "live_reason", "live_score", "live_rules",
        "live_engine", "shadow", "shadow_reason", "shadow_score", "shadow_rules", "shadow_engine", "truth", "pictures",
    )  # fmt: skip
    marks = ", ".join("?" * len(kinds))
    query = (
        f"SELECT {', '.join(columns)} FROM flips WHERE change IN ({marks}) AND shadow_engine LIKE ? || '%' "
        "ORDER BY number DESC LIMIT ?"
    )
    with _reader(root) as connection:
        rows = list(connection.execute(query, (*(kind.value for kind in kinds), engine, limit)))
    out = []
    for row in rows:
        fields: dict[str, Any] = dict(zip(columns, row, strict=True))
        fields |= {key: json.loads(fields[key]) for key in ("live_rules", "shadow_rules")}
        fields["truth"] = None if fields["truth"] is None else bool(fields["truth"])
        names = {what: root / "flips" / f"{fields['pictures']}-{what}.png" for what in PICTURES}
        fields["pictures"] = {what: str(path) for what, path in names.items() if fields["pictures"] and path.is_file()}
        out.append(fields)
    return out
