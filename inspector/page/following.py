"""Follows the ledger into the digest: new rows by their link, in short reads, counted once.

The ledger has no index for people's questions, and gets none: each would cost the line a write. So the page keeps
its own counts and its own list of rejects, in a file that may be deleted at any time and is then made anew.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import apsw

from inspector.ledger import schema

PIECE = 2000
"""Rows of one read: some 10 ms, during which the ledger's log cannot begin anew."""
MINUTE_NS = 60_000_000_000
HOUR_NS = 60 * MINUTE_NS

ANSWERS = """
SELECT a.link, a.epoch, a.sequence, a.part_id, a.verdict, a.reason, a.review, a.score, a.taken_ns, a.due_ns,
       a.settled_ns, a.wall_ns, a.stages, a.defects, o.reason
FROM answers a LEFT JOIN overrides o ON o.epoch = a.epoch AND o.sequence = a.sequence AND o.link <= ?2
WHERE a.link > ?1 AND a.link <= ?2 ORDER BY a.link"""
_OVERRIDES = """
SELECT a.link, a.epoch, a.sequence, a.part_id, a.verdict, a.reason, a.review, a.score, a.taken_ns, a.due_ns,
       a.settled_ns, a.wall_ns, a.stages, a.defects, o.reason
FROM overrides o JOIN answers a ON a.epoch = o.epoch AND a.sequence = o.sequence
WHERE o.link > ?1 AND o.link <= ?2 AND a.link <= ?1 ORDER BY o.link"""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer, as far as the digest counts it."""

    link: int
    epoch: int
    sequence: int
    part_id: str
    verdict: str
    """What the controller was told."""
    reason: str | None
    decided: str
    """What had been decided; differs from ``verdict`` where that came too late."""
    review: bool
    """As decided, like the ledger's own figures."""
    score: float | None
    margin_us: int
    """Due time less settled: what was left when the part was decided."""
    spent_us: int
    """Frame available -> decided."""
    wall_ns: int
    stages: tuple[tuple[str, int], ...]
    defects: tuple[dict[str, Any], ...]
    """Those that count, largest first."""

    @property
    def area_px(self) -> float:
        """Of all defects that count, in frame pixels."""
        return float(sum(one["area_px"] for one in self.defects))

    @property
    def timed(self) -> bool:
        """Whether its times mean anything: an answer made up after a restart has none."""
        return self.reason != "RESTARTED"


@dataclass(slots=True)
class Counts:
    """What a piece of the ledger adds to the digest."""

    minutes: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    peaks: defaultdict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    """Largest values of a minute; ``margin_us`` is the least."""
    stages: defaultdict[tuple[int, str], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    """(minute, stage): parts, sum, most, in microseconds."""
    reasons: Counter[tuple[int, str]] = field(default_factory=Counter)
    kinds: defaultdict[tuple[int, str, str], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    """(hour, shape, zone): defects, parts."""
    epochs: defaultdict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, row: Row) -> None:
        """Count an answer."""
        minute, hour = row.wall_ns // MINUTE_NS, row.wall_ns // HOUR_NS
        self._verdict(row.epoch, minute, row.verdict, 1)
        numbers, peaks = self.minutes[minute], self.peaks[minute]
        numbers["review"] += row.review
        if row.reason is not None:
            self.reasons[hour, row.reason] += 1
        if row.verdict == "FAIL":
            self._kinds(hour, row, 1)
        if row.score is not None and row.decided != "INVALID":
            numbers["scored"] += 1
            numbers["score_sum"] += row.score  # type: ignore[assignment]
            numbers["area_sum"] += row.area_px  # type: ignore[assignment]
            peaks["score"] = max(peaks.get("score", 0.0), row.score)
            peaks["area"] = max(peaks.get("area", 0.0), row.area_px)
        if row.timed:
            numbers["timed"] += 1
            numbers["spent_sum_us"] += row.spent_us
            peaks["spent"] = max(peaks.get("spent", 0.0), row.spent_us)
            peaks["margin"] = min(peaks.get("margin", float(row.margin_us)), row.margin_us)
        for stage, spent_us in row.stages:
            one = self.stages[minute, stage]
            one[0] += 1
            one[1] += spent_us
            one[2] = max(one[2], spent_us)

    def replace(self, row: Row) -> None:
        """An answer that was counted as decided turns out to have been sent as INVALID."""
        minute, hour = row.wall_ns // MINUTE_NS, row.wall_ns // HOUR_NS
        self._verdict(row.epoch, minute, row.decided, -1)
        self._verdict(row.epoch, minute, row.verdict, 1)
        if row.decided == "FAIL":
            self._kinds(hour, row, -1)
        if row.reason is not None:
            self.reasons[hour, row.reason] += 1

    def _verdict(self, epoch: int, minute: int, verdict: str, by: int) -> None:
        for numbers in (self.minutes[minute], self.epochs[epoch]):
            numbers[verdict] += by

    def _kinds(self, hour: int, row: Row, by: int) -> None:
        seen = set()
        for one in row.defects:
            kind = (hour, one["shape"], one["zone"])
            self.kinds[kind][0] += by
            self.kinds[kind][1] += by * (kind not in seen)
            seen.add(kind)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one read of the ledger brought."""

    last: int
    """The link up to which everything was read."""
    anchor: bytes
    """The hash of that row: the same ledger has it again at the next look."""
    head: int
    """The ledger's last link."""
    added: tuple[Row, ...]
    replaced: tuple[Row, ...]


def read(connection: apsw.Connection, after: int, limit: int = PIECE) -> Piece:
    """What was booked after link ``after``, at most ``limit`` links, in one short read transaction."""
    with connection:  # one snapshot for both questions; SQLite counts it as a reader
        head, _ = schema.head(connection)
        last = min(head, after + limit)
        added = tuple(row_of(cells) for cells in connection.execute(ANSWERS, (after, last)))
        replaced = tuple(row_of(cells) for cells in connection.execute(_OVERRIDES, (after, last)))
        anchor = schema.link_hash(connection, last) or b""
    return Piece(last, anchor, head, added, replaced)


def newest(connection: apsw.Connection, count: int) -> tuple[Row, ...]:
    """The last answers, oldest first."""
    query = ANSWERS.replace("WHERE a.link > ?1 AND a.link <= ?2 ORDER BY a.link", "ORDER BY a.link DESC LIMIT ?1")
    rows = [row_of(cells) for cells in connection.execute(query, (count, 1 << 62))]
    return tuple(reversed(rows))


def row_of(cells: tuple[Any, ...]) -> Row:
    """A row of the queries above."""
    link, epoch, sequence, part_id, verdict, reason, review, score, taken, due, settled, wall = cells[:12]
    stages, defects, instead = cells[12:]
    counting = [one for one in json.loads(defects) if one["counts"]] if defects != "[]" else []
    return Row(
        link=link,
        epoch=epoch,
        sequence=sequence,
        part_id=part_id,
        verdict=verdict if instead is None else "INVALID",
        reason=reason if instead is None else instead,
        decided=verdict,
        review=bool(review),
        score=score,
        margin_us=(due - settled) // 1000,
        spent_us=(settled - taken) // 1000,
        wall_ns=wall,
        stages=tuple((str(name), int(spent_us)) for name, spent_us in json.loads(stages)),
        defects=tuple(sorted(counting, key=lambda one: -float(one["area_px"]))),
    )
