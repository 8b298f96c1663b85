"""How many parts of each stratum the line answered: what a sample of reviews speaks for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from inspector.frame import Hashes, Verdict
from inspector.ledger.query import Reading
from inspector.ledger.removed import removed
from inspector.review.plan import DAY_NS, Plan
from inspector.review.records import Review, Stratum

_GROUPED = (
    "SELECT count(*), a.wall_ns / ?, a.engine, a.calibration, a.settings, "
    "CASE WHEN o.link IS NULL THEN a.verdict ELSE 'INVALID' END, a.score IS NOT NULL AND a.score >= ? "
    "FROM answers a LEFT JOIN overrides o ON o.epoch = a.epoch AND o.sequence = a.sequence "
    "WHERE a.link > ? AND a.link <= ? GROUP BY 2, 3, 4, 5, 6, 7"
)
_OVERRIDDEN_LATER = (
    "SELECT a.wall_ns / ?, a.engine, a.calibration, a.settings, a.verdict, a.score IS NOT NULL AND a.score >= ? "
    "FROM overrides o JOIN answers a ON a.epoch = o.epoch AND a.sequence = o.sequence "
    "WHERE o.link > ? AND o.link <= ? AND a.link <= ?"
)
_OLDEST = "SELECT wall_ns / ? FROM answers ORDER BY link LIMIT 1"
_NEWEST = "SELECT engine, calibration, settings FROM answers WHERE engine > '' ORDER BY link DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which parts an estimate speaks of. A promise speaks of one set of hashes."""

    hashes: Hashes | None = None
    """Only parts decided with exactly these; None = any."""
    first_day: int | None = None
    """UTC days since 1970, inclusive."""
    last_day: int | None = None
    """Inclusive."""

    def holds(self, day: int, hashes: Hashes) -> bool:
        """Whether a part of that day, decided with these, is meant."""
        if self.hashes is not None and hashes != self.hashes:
            return False
        return (self.first_day is None or day >= self.first_day) and (self.last_day is None or day <= self.last_day)

    def of(self, reviews: Iterable[Review]) -> list[Review]:
        """The reviews of parts that are meant."""
        return [
            each
            for each in reviews
            if self.holds(each.part_wall_ns // DAY_NS, Hashes(each.engine, each.calibration, each.settings))
        ]


class Population:
    """Counts of a ledger by day, hashes and stratum. ``refresh`` reads only what is new. Any thread."""

    def __init__(self, ledger: Path, plan: Plan) -> None:
        self._ledger, self._plan = Path(ledger), plan
        self._lock = threading.Lock()
        self._link = 0
        self._counts: Counter[tuple[int, Hashes, Stratum]] = Counter()
        self._newest = Hashes()
        self._first_day: int | None = None

    def refresh(self) -> None:
        """Count what was booked since. About a second for the first million parts. Raises LedgerError."""
        edge = self._plan.borderline_from
        with self._lock, Reading(self._ledger) as connection:
            connection.execute("BEGIN")  # one view of the ledger for all three queries
            last = max(
                connection.execute(f"SELECT coalesce(max(link), 0) FROM {table}").get
                for table in ("answers", "overrides")
            )
            since = self._link
            if not since and removed(connection).link:  # the rest of that day has left by age
                self._first_day = (connection.execute(_OLDEST, (DAY_NS,)).get or 0) + 1
            for day, *made_with, sent, near in connection.execute(
                _OVERRIDDEN_LATER, (DAY_NS, edge, since, last, since)
            ):
                self._counts[day, Hashes(*made_with), self._stratum(sent, near)] -= 1
                self._counts[day, Hashes(*made_with), Stratum.INVALID] += 1
            for count, day, *made_with, sent, near in connection.execute(_GROUPED, (DAY_NS, edge, since, last)):
                self._counts[day, Hashes(*made_with), self._stratum(sent, near)] += count
            newest = connection.execute(_NEWEST).get
            self._newest = Hashes(*newest) if newest is not None else Hashes()
            self._link = last

    def scope(self, *, everything: bool = False) -> Scope:
        """Parts decided as the last one was, or all, of the days that can be counted: a review of a part whose row has
        left the ledger by age has nothing that it could be a share of."""
        return Scope(None if everything else self._newest, self._first_day)

    def reviews(self, scope: Scope, reviews: Iterable[Review]) -> list[Review]:
        """Those in scope, each in the stratum that the plan puts it into now, as the parts are counted.

        Where the border was moved, the stratum holds more of the high scores than its share: an escape rate too high.
        """
        return [
            each
            if each.stratum is Stratum.PICKED
            else replace(each, stratum=self._plan.stratum(each.machine_verdict, each.machine_score))
            for each in scope.of(reviews)
        ]

    def newest_hashes(self) -> Hashes:
        """What the last part was decided with."""
        return self._newest

    def parts(self, scope: Scope) -> dict[Stratum, int]:
        """Parts of each stratum."""
        out: dict[Stratum, int] = {each: 0 for each in Stratum if each is not Stratum.PICKED}
        with self._lock:
            for (day, hashes, stratum), count in self._counts.items():
                if scope.holds(day, hashes):
                    out[stratum] += count
        return out

    def _stratum(self, sent: str, near: int) -> Stratum:
        return self._plan.stratum(Verdict(sent), self._plan.borderline_from if near else None)
