"""What the pages ask: counts over a window, trends, Pareto, pages of rejects. All by index, none by a scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apsw

from inspector.page.following import ANSWERS, HOUR_NS, MINUTE_NS, Row, newest, row_of

WINDOWS = {"1h": 3600, "8h": 8 * 3600, "24h": 24 * 3600, "7d": 7 * 24 * 3600}
"""Seconds of each window that may be asked for."""
POINTS = 300
"""At most so many of a trend: more than a screen shows apart would only be sent."""
PAGE = 24
"""Rejects of one page of the gallery."""
_PARETO_LINES = 12


@dataclass(frozen=True, slots=True)
class Totals:
    """Answers of a window, by what was sent."""

    passed: int
    failed: int
    invalid: int
    review: int = 0

    @property
    def answers(self) -> int:
        return self.passed + self.failed + self.invalid

    @property
    def yield_(self) -> float | None:
        """PASS of all answers; None where there is none."""
        return self.passed / self.answers if self.answers else None


@dataclass(frozen=True, slots=True)
class Kind:
    """A line of the Pareto."""

    shape: str
    zone: str
    defects: int
    parts: int
    share: float
    cumulated: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rejects; empty = any."""

    verdict: str = ""
    reason: str = ""
    shape: str = ""
    zone: str | None = None
    """None = any; the empty zone is the one without a name."""
    part: str = ""
    """Beginning of the part id."""
    since_ns: int = 0
    until_ns: int = 0
    before: int = 0
    """Only links below this one: the next page begins where the last ended."""


def totals(connection: apsw.Connection, since_ns: int) -> Totals:
    """Whole minutes from ``since_ns`` on."""
    query = "SELECT sum(PASS), sum(FAIL), sum(INVALID), sum(review) FROM minutes WHERE minute >= ?"
    return Totals(*(int(one or 0) for one in connection.execute(query, (since_ns // MINUTE_NS,)).get))


def epoch_totals(connection: apsw.Connection) -> tuple[int, Totals]:
    """The newest run of the daemon and its answers; (0, nothing) before the first."""
    row = connection.execute("SELECT epoch, PASS, FAIL, INVALID FROM epochs ORDER BY epoch DESC LIMIT 1").get
    return (0, Totals(0, 0, 0)) if row is None else (row[0], Totals(*row[1:]))


def reasons(connection: apsw.Connection, since_ns: int) -> list[tuple[str, int]]:
    """INVALID by reason, the most frequent first."""
    query = "SELECT reason, sum(parts) AS n FROM reasons WHERE hour >= ? GROUP BY 1 HAVING n > 0 ORDER BY n DESC, 1"
    return list(connection.execute(query, (since_ns // HOUR_NS,)))


def pareto(connection: apsw.Connection, since_ns: int) -> list[Kind]:
    """Kinds of defect of FAIL parts, the most frequent first; the rest of them in one last line."""
    query = (
        "SELECT shape, zone, sum(defects) AS n, sum(parts) FROM kinds WHERE hour >= ? "
        "GROUP BY 1, 2 HAVING n > 0 ORDER BY n DESC, 1, 2"
    )
    rows = list(connection.execute(query, (since_ns // HOUR_NS,)))
    if len(rows) > _PARETO_LINES:
        rest = rows[_PARETO_LINES - 1 :]
        rows = [*rows[: _PARETO_LINES - 1], ("other", "", sum(r[2] for r in rest), sum(r[3] for r in rest))]
    total, so_far, lines = sum(row[2] for row in rows), 0, []
    for shape, zone, defects, parts in rows:
        so_far += defects
        lines.append(Kind(shape, zone, defects, parts, defects / total, so_far / total))
    return lines


def known_kinds(connection: apsw.Connection) -> tuple[list[str], list[str], list[str]]:
    """Shapes, zones and reasons that ever occurred, for the filters."""
    shapes, zones, seen = (
        [row[0] for row in connection.execute(f"SELECT DISTINCT {column} FROM {table} ORDER BY 1")]
        for column, table in (("shape", "kinds"), ("zone", "kinds"), ("reason", "reasons"))
    )
    return shapes, zones, seen


def reject_links(connection: apsw.Connection, wanted: Wanted, limit: int = PAGE) -> list[int]:
    """Links of the newest rejects that fit, newest first, below ``wanted.before``."""
    tests: list[str] = []
    values: list[int | str] = []

    def test(text: str, *given: int | str) -> None:
        tests.append(text)
        values.extend(given)

    source, link = "rejects r", "r.link"
    if wanted.shape or wanted.zone is not None:
        # CROSS: the small index first, then the row, whatever the planner guesses
        source, link = "reject_kinds k CROSS JOIN rejects r ON r.link = k.link", "k.link"
        if wanted.shape:
            test("k.shape = ?", wanted.shape)
        if wanted.zone is not None:
            test("k.zone = ?", wanted.zone)
    for column, value in (("verdict", wanted.verdict), ("reason", wanted.reason)):
        if value:
            test(f"r.{column} = ?", value)
    if wanted.part:
        test("r.part_id >= ? AND r.part_id < ?", wanted.part, wanted.part + "\U0010ffff")
    if wanted.since_ns:
        test("r.wall_ns >= ?", wanted.since_ns)
    if wanted.until_ns:
        test("r.wall_ns < ?", wanted.until_ns)
    if wanted.before:
        test(f"{link} < ?", wanted.before)
    where = " AND ".join(tests) or "1"
    query = f"SELECT DISTINCT {link} FROM {source} WHERE {where} ORDER BY {link} DESC LIMIT ?"
    return [row[0] for row in connection.execute(query, (*values, limit))]


def rows_of(ledger: apsw.Connection, links: list[int]) -> list[Row]:
    """These answers of the ledger, in this order."""
    asked = ANSWERS.replace(
        "WHERE a.link > ?1 AND a.link <= ?2 ORDER BY a.link",
        f"WHERE a.link IN ({', '.join(map(str, links))}) AND ?1 ORDER BY a.link",
    )
    found = {row.link: row for row in map(row_of, ledger.execute(asked, (1, 1 << 62)))}
    return [found[link] for link in links if link in found]


def recent_trend(ledger: apsw.Connection, count: int) -> dict[str, Any]:
    """The last parts one by one, oldest first: x is the sequence number."""
    rows = [row for row in newest(ledger, count) if row.timed]
    names = _stage_names(name for row in rows for name, _ in row.stages)
    spent = [dict(row.stages) for row in rows]
    return {
        "x": [row.wall_ns / 1e9 for row in rows],
        "part": [f"{row.epoch}-{row.sequence}" for row in rows],
        "verdict": [row.verdict for row in rows],
        "score": [_rounded(row.score) if row.decided != "INVALID" else None for row in rows],
        "area": [_rounded(row.area_px) if row.decided != "INVALID" else None for row in rows],
        "spent_ms": [_rounded(row.spent_us / 1000) for row in rows],
        "margin_ms": [_rounded(row.margin_us / 1000) for row in rows],
        "stages_ms": {name: [_milliseconds(one.get(name)) for one in spent] for name in names},
    }


def window_trend(connection: apsw.Connection, since_ns: int, now_ns: int) -> dict[str, Any]:
    """A window in at most POINTS equal steps of whole minutes: means, and the worst of each step."""
    first, last = since_ns // MINUTE_NS, now_ns // MINUTE_NS
    step = max(1, -(-(last - first + 1) // POINTS))
    query = f"""SELECT minute / {step} * {step} AS at, sum(PASS), sum(FAIL), sum(INVALID), sum(scored), sum(score_sum),
      max(score_max), sum(area_sum), max(area_max), sum(timed), sum(spent_sum_us), max(spent_max_us), min(margin_min_us)
      FROM minutes WHERE minute >= ? AND minute <= ? GROUP BY at ORDER BY at"""
    rows = list(connection.execute(query, (first, last)))
    times = [row[0] for row in rows]
    stages: dict[str, dict[int, float]] = {}
    asked = (
        f"SELECT minute / {step} * {step} AS at, stage, sum(sum_us), sum(parts) FROM stages "
        "WHERE minute >= ? AND minute <= ? GROUP BY at, stage"
    )
    for at, stage, sum_us, parts in connection.execute(asked, (first, last)):
        stages.setdefault(stage, {})[at] = sum_us / parts / 1000
    return {
        "x": [at * 60 for at in times],
        "pass": [row[1] for row in rows],
        "fail": [row[2] for row in rows],
        "invalid": [row[3] for row in rows],
        "score": [_rounded(row[5] / row[4]) if row[4] else None for row in rows],
        "score_max": [_rounded(row[6]) for row in rows],
        "area": [_rounded(row[7] / row[4]) if row[4] else None for row in rows],
        "area_max": [_rounded(row[8]) for row in rows],
        "spent_ms": [_rounded(row[10] / row[9] / 1000) if row[9] else None for row in rows],
        "spent_max_ms": [_milliseconds(row[11]) for row in rows],
        "margin_ms": [_milliseconds(row[12]) for row in rows],
        "stages_ms": {name: [_rounded(by.get(at)) for at in times] for name, by in stages.items()},
    }


def _stage_names(names: Any) -> list[str]:
    """Each once, in the order in which the stages ran."""
    return list(dict.fromkeys(names))


def _milliseconds(us: int | None) -> float | None:
    return None if us is None else _rounded(us / 1000)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
