"""How old stored things are, by a reckoning that no step of the wall clock can fool. Rows and images use the same one.

- Age is time on the monotonic clock. What is stored has a position that only grows (a row's link, an image's number);
  about once an hour a mark is kept: up to this position everything had been stored at that time. A thing is as old as
  the first mark behind it, whatever its stamp says: never too old, and at most hours too young.
- Daemons of one boot share the monotonic clock, so a pause between them counts in full. How long the machine itself
  was off only the wall clock knows: it is believed when it has run evenly for an hour, and up to four days. So a clock
  that is wrong at boot and set right within the hour costs nothing, one that stays ahead at most four days of age for
  that boot; after months off, things stay as much longer. Nothing was made meanwhile: they take no more room.
- While the wall clock is more than a minute from where it should be, nothing leaves. When it has run evenly for an
  hour the reckoning takes its time on, without counting it as age; a slow drift is followed all along.
- What was there before the first mark is placed by its stamps, none later than that moment, which itself is at most
  four days behind the youngest of them. Up to the first young one they leave; all of them once the first mark is old.

Marks and reckoning lie in the table ``state`` of the very file that holds the things, so a copy of it stays in step.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields

import apsw

from inspector.clock import Clock, boot_id

HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS
_APART_NS = 60_000_000_000
_EVEN_NS = HOUR_NS
_OFF_NS = 4 * DAY_NS
"""A long weekend: the most that one time off counts for."""
_MARK_EVERY_NS = HOUR_NS

_STATE, _MARK = "age.", "age at "
_PUT = "INSERT OR REPLACE INTO state (key, value) VALUES (?, ?)"
_PUT_MARK = "INSERT OR IGNORE INTO state (key, value) VALUES (?, ?)"
"""A position that was reached earlier is older."""
_PRUNE = "DELETE FROM state WHERE key >= ? AND key < ?"
_LAST_MARK = f"SELECT max(key) FROM state WHERE key GLOB '{_MARK}*' AND value < ?"


@dataclass(slots=True)
class _Reckoning:
    """As it is kept in ``state``; all whole numbers."""

    time_ns: int
    """Marks are on this scale: it began at wall time and never runs ahead of what has passed."""
    wall_ns: int
    """What the wall clock shows if nobody steps it."""
    mono_ns: int
    """When both were read."""
    boot: int
    off: int
    """1: the machine was off, and for how long has not been counted yet."""
    first_ns: int
    first: int
    """The first mark; up to it stamps tell."""


@dataclass(frozen=True, slots=True)
class _Due:
    state: list[tuple[str, int]]
    mark: list[tuple[str, int]]
    below: int
    """Marks below this position are no longer needed."""


class Ages:
    """Of the things in one table. ``look`` and the questions are one thread's; ``write`` may be another's."""

    def __init__(self, clock: Clock, table: str, position: str, longest_ns: int) -> None:
        """``position``: the table's column that only grows. ``longest_ns``: no greater age will be asked for."""
        self._clock, self._longest_ns = clock, longest_ns
        self._youngest = f"SELECT wall_ns FROM {table} ORDER BY {position} DESC LIMIT 1"
        self._young = (
            f"SELECT {position} FROM {table} WHERE {position} <= ? AND wall_ns >= ? ORDER BY {position} LIMIT 1"
        )
        self._now: _Reckoning | None = None
        self._begun_ns = self._even_since_ns = self._ahead_ns = self._apart_ns = 0
        self._seen, self._seen_ns = -1, 0
        self._marked_ns: int | None = None
        self._due: _Due | None = None

    def look(self, connection: apsw.Connection, position: int, *, at_once: bool = False) -> None:
        """Reckon anew; ``position`` is the last one given. Prepares a mark when it is time. Raises apsw.Error."""
        now = self._now or self._begin(connection, position)
        self.see(position)
        if self._marked_ns is not None and now.time_ns - self._marked_ns < _MARK_EVERY_NS and not at_once:
            return
        self._marked_ns = now.time_ns
        state = [(_STATE + name, value) for name, value in asdict(now).items()]
        mark = [] if now.off else [(_key(self._seen), self._seen_ns)]  # a time off would make them too old
        self._due = _Due(state, mark, self.until(connection, self._longest_ns))

    def see(self, position: int) -> None:
        """Note when this position was first there; costs two readings of the clock."""
        if self._now is not None:
            self._reckon(self._now)
            if position != self._seen:
                self._seen, self._seen_ns = position, self._now.time_ns

    @property
    def due(self) -> bool:
        """True when there is something to ``write``."""
        return self._due is not None

    def write(self, connection: apsw.Connection) -> None:
        """Keep what ``look`` prepared, in one transaction. Raises apsw.Error."""
        due = self._due
        if due is None:
            return
        with connection:
            connection.executemany(_PUT, due.state)
            connection.executemany(_PUT_MARK, due.mark)
            connection.execute(_PRUNE, (_MARK, _key(due.below)))
        if self._due is due:
            self._due = None

    def until(self, connection: apsw.Connection, age_ns: int) -> int:
        """The position up to which everything is older than this; after ``look``. Raises apsw.Error."""
        now = self._now
        if now is None:
            return 0
        then_ns = now.time_ns - age_ns
        if then_ns <= now.first_ns:
            young = connection.execute(self._young, (now.first, then_ns)).get if now.first else None
            return now.first if young is None else int(young) - 1
        mark = connection.execute(_LAST_MARK, (then_ns,)).get
        return now.first if mark is None else int(mark.removeprefix(_MARK))

    @property
    def held(self) -> bool:
        """True while nothing may leave because the wall clock is not where it should be."""
        return abs(self._apart_ns) > _APART_NS

    @property
    def fault(self) -> str:
        """Why nothing leaves, in one line; empty otherwise, and in the first hour after the machine was off."""
        now = self._now
        if now is None or not self.held or (now.off and now.mono_ns - self._begun_ns < _EVEN_NS):
            return ""
        way = "ahead of" if self._apart_ns > 0 else "behind"
        return (
            f"the wall clock is {_span(abs(self._apart_ns))} {way} the time that has passed; what is old stays, "
            "nothing is lost, until it has run evenly for an hour: check NTP and the clock's battery"
        )

    def _begin(self, connection: apsw.Connection, position: int) -> _Reckoning:
        mono_ns, wall_ns, boot = self._clock.now_ns(), self._clock.wall_ns(), _boot()
        names = [field.name for field in fields(_Reckoning)]
        query = f"SELECT key, value FROM state WHERE key GLOB '{_STATE}*'"
        kept = {key.removeprefix(_STATE): int(value) for key, value in connection.execute(query)}
        if all(name in kept for name in names):
            now = _Reckoning(**{name: kept[name] for name in names})
            if not boot or now.boot != boot or now.mono_ns > mono_ns:
                now.mono_ns, now.boot, now.off = mono_ns, boot, 1
        else:
            youngest = connection.execute(self._youngest).get
            first_ns = wall_ns if youngest is None else min(wall_ns, int(youngest) + _OFF_NS)
            now = _Reckoning(first_ns, wall_ns, mono_ns, boot, 0, first_ns, position)
        self._now, self._ahead_ns = now, wall_ns - mono_ns
        self._begun_ns = self._even_since_ns = mono_ns
        return now

    def _reckon(self, now: _Reckoning) -> None:
        mono_ns, wall_ns = self._clock.now_ns(), self._clock.wall_ns()
        passed_ns, ahead_ns = mono_ns - now.mono_ns, wall_ns - mono_ns
        now.mono_ns, now.time_ns, now.wall_ns = mono_ns, now.time_ns + passed_ns, now.wall_ns + passed_ns
        if abs(ahead_ns - self._ahead_ns) > _APART_NS:
            self._even_since_ns = mono_ns
        self._ahead_ns, self._apart_ns = ahead_ns, wall_ns - now.wall_ns
        if mono_ns - self._even_since_ns < _EVEN_NS:
            return
        if now.off:
            now.time_ns += min(max(self._apart_ns, 0), _OFF_NS)
            now.off, self._seen_ns = 0, now.time_ns
        now.wall_ns, self._apart_ns = wall_ns, 0


def last_position(connection: apsw.Connection) -> int:
    """The last position that a mark names, so that none is given twice once its thing is gone. Raises apsw.Error."""
    first = connection.execute("SELECT value FROM state WHERE key = ?", (f"{_STATE}first",)).get or 0
    mark = connection.execute(_LAST_MARK, ((1 << 63) - 1,)).get
    return max(int(first), 0 if mark is None else int(mark.removeprefix(_MARK)))


def _key(position: int) -> str:
    """Sorts as the positions do."""
    return f"{_MARK}{position:019d}"


def _boot() -> int:
    """The boot as a whole number; 0 where the kernel does not tell."""
    name = boot_id()
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") if name else 0


def _span(span_ns: int) -> str:
    return f"{span_ns / DAY_NS:.1f} days" if span_ns >= DAY_NS else f"{span_ns / 60_000_000_000:.0f} minutes"
