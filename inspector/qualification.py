"""Change control: what a station was qualified to inspect with, by whom and on what evidence, and whether it still is.

A station inspects with a *recipe*: the engine's plan, the calibration, and the settings (rules, timing, views, camera
features). Their hashes stand in every answer. ``qualifications.jsonl`` in the state directory holds one record a line,
each with the hash of the line before, only ever appended to. The newest record of a recipe says whether it is
qualified, so going back to an earlier recipe needs no new qualification.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from inspector.errors import ConfigError
from inspector.frame import Hashes
from inspector.smallfile import read_small

FILE_NAME = "qualifications.jsonl"
FOLDER = "qualifications"
"""Beside the file: the verdicts of each qualification set, that the next qualification is compared with."""
REPLAY, ACCEPTED, WITHDRAWN = "replay", "accepted", "withdrawn"
_HOW = (REPLAY, ACCEPTED, WITHDRAWN)
_GENESIS = "0" * 64
_LARGEST_BYTES = 16 << 20
_MOST_DIFFERENCES = 4


@dataclass(frozen=True, slots=True)
class RecipeCard:
    """What a station inspects with, by hash and in words."""

    hashes: Hashes
    engine: str = ""
    """Bundle, back end and precision."""
    calibration: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What ``hashes.settings`` is the hash of."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the file."""

    how: str
    """``replay``: the qualification set was judged; ``accepted``: a person answers for it; ``withdrawn``."""
    by: str
    wall_ns: int
    recipe: RecipeCard
    note: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the qualification set; empty where a person accepted or withdrew."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a station is qualified now, and why."""

    qualified: bool
    why: str
    """In one line; for a station that is not qualified: what changed, or what is missing."""
    record: Record | None = None
    """The record that speaks for the present recipe; None where there is none."""

    def to_json(self) -> dict[str, str | bool | int | None]:
        """For status and page."""
        record = self.record
        return {
            "qualified": self.qualified,
            "why": self.why,
            "how": record.how if record is not None else None,
            "by": record.by if record is not None else None,
            "wall_ns": record.wall_ns if record is not None else None,
            "note": record.note if record is not None else None,
        }


def read(state_dir: Path) -> tuple[Record, ...]:
    """All records, oldest first; none where there is no file. Raises ConfigError: unreadable, damaged or changed."""
    return tuple(record for record, _ in _lines(state_dir / FILE_NAME))


def append(state_dir: Path, record: Record) -> None:
    """Add a record and bring it to the disk. Raises ConfigError, with nothing added."""
    path = state_dir / FILE_NAME
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two who qualify at once must not continue the same line
            known = _lines(path)
            line = _text(record, known[-1][1] if known else _GENESIS)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}", found=error.strerror or str(error), do="Run it as the daemon's user."
        ) from error


def stand(records: Sequence[Record], present: RecipeCard) -> Standing:
    """Whether the present recipe is qualified by these records. Pure."""
    own = [record for record in records if record.recipe.hashes == present.hashes]
    if own:
        last = own[-1]
        if last.how != WITHDRAWN:
            return Standing(True, f"{_how(last)} by {last.by}", last)
        return Standing(False, f"withdrawn by {last.by}" + (f": {last.note}" if last.note else ""), last)
    kept = [record for record in records if record.how != WITHDRAWN]
    if not kept:
        return Standing(False, "nobody has qualified this station")
    return Standing(False, "; ".join(differences(kept[-1].recipe, present)))


def differences(qualified: RecipeCard, present: RecipeCard) -> list[str]:
    """What changed since, in words: engine, calibration, and the settings key by key."""
    then, now = qualified.hashes, present.hashes
    found = []
    if then.engine != now.engine:
        found.append(f"engine {_named(present.engine, now.engine)} instead of {_named(qualified.engine, then.engine)}")
    if then.calibration != now.calibration:
        words = _named(present.calibration, now.calibration), _named(qualified.calibration, then.calibration)
        found.append("calibration {} instead of {}".format(*words))
    if then.settings != now.settings:
        keys = _changed(qualified.settings, present.settings)
        shown = ", ".join(keys[:_MOST_DIFFERENCES]) or f"settings {now.settings} instead of {then.settings}"
        found.append(shown + (f" and {len(keys) - _MOST_DIFFERENCES} more" if len(keys) > _MOST_DIFFERENCES else ""))
    return found


def qualified(records: Sequence[Record]) -> frozenset[Hashes]:
    """The hashes of all recipes that are qualified by these records."""
    last = {record.recipe.hashes: record.how for record in records}
    return frozenset(hashes for hashes, how in last.items() if how != WITHDRAWN)


class Register:
    """The file as it stands now, read again only when it changed. One thread."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir
        self._stamp: tuple[int, int, int] | None = None
        self._records: tuple[Record, ...] = ()
        self._fault = ""

    def look(self, present: RecipeCard) -> Standing:
        """The standing of the present recipe; a file that cannot be trusted qualifies nothing, and says why."""
        stamp = self._stat()
        if stamp != self._stamp:
            self._stamp, self._fault = stamp, ""
            try:
                self._records = read(self._folder)
            except ConfigError as error:
                self._records, self._fault = (), str(error)
        return Standing(False, self._fault) if self._fault else stand(self._records, present)

    @property
    def qualified(self) -> frozenset[Hashes]:
        """As of the last look."""
        return qualified(self._records)

    def _stat(self) -> tuple[int, int, int]:
        with contextlib.suppress(OSError):
            status = (self._folder / FILE_NAME).stat()
            return status.st_mtime_ns, status.st_size, status.st_ino
        return 0, 0, 0


def _how(record: Record) -> str:
    return "qualified by replay" if record.how == REPLAY else "accepted"


def _named(name: str, short_hash: str) -> str:
    return f"{name} {short_hash}".strip()


def _changed(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``decision.threshold 0.5 instead of 0.4`` for every key that differs."""
    out: list[str] = []
    for key in sorted(then.keys() | now.keys()):
        one, other = then.get(key), now.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            out += _changed(one, other, f"{prefix}{key}.")
        elif one != other:
            out.append(f"{prefix}{key} {_short(other)} instead of {_short(one)}")
    return out


def _short(value: object) -> str:
    return "unset" if value is None else json.dumps(value)[:60]


def _text(record: Record, previous: str) -> bytes:
    fields = {"previous": previous, **asdict(record)}
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _lines(path: Path) -> list[tuple[Record, str]]:
    """Each record with the hash of its line."""
    try:
        data = read_small(path, _LARGEST_BYTES)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"cannot read {path}", found=error.strerror or str(error)) from error
    found: list[tuple[Record, str]] = []
    previous = _GENESIS
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            fields = json.loads(line)
            told = fields.pop("previous")
            recipe = RecipeCard(**{**fields["recipe"], "hashes": Hashes(**fields["recipe"]["hashes"])})
            record = Record(**{**fields, "recipe": recipe})
            good = record.how in _HOW and told == previous and line == _text(record, previous)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            good = False
        if not good:
            raise ConfigError(
                f"{path} was changed or damaged at line {number}",
                expected="lines that each continue the one before",
                do="Restore the file, or move it away and qualify anew.",
            )
        previous = hashlib.sha256(line).hexdigest()
        found.append((record, previous))
    return found
