"""Reading the ledger: single answers, figures, filters. Never writes; one short statement at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw
import numpy as np

from inspector.errors import LedgerError
from inspector.frame import Answer, Reason, Settled, Verdict
from inspector.ledger import schema
from inspector.ledger.rows import ANSWER_COLUMNS, Override, overridden, settled_of

_SENT = "CASE WHEN o.link IS NULL THEN a.verdict ELSE 'INVALID' END"
_SENT_REASON = "CASE WHEN o.link IS NULL THEN a.reason ELSE o.reason END"
_FROM = (
    "FROM answers a LEFT JOIN overrides o ON o.epoch = a.epoch AND o.sequence = a.sequence "
    "LEFT JOIN receipts r ON r.epoch = a.epoch AND r.sequence = a.sequence"
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which answers; None = any. Verdict and reason are those that were sent."""

    since_ns: int | None = None
    """Wall time, inclusive."""
    until_ns: int | None = None
    """Wall time, exclusive."""
    verdict: Verdict | None = None
    reason: Reason | None = None
    part_id: str | None = None
    epoch: int | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One part as the ledger has it."""

    settled: Settled
    """The stored decision, with the truth where it was known; no images."""
    sent: Answer
    """What the controller was told: the stored answer, or the INVALID that went out instead."""
    received_ns: int | None
    """When its acknowledgement came (monotonic); None without one."""
    received_wall_ns: int | None


@dataclass(frozen=True, slots=True)
class ParetoLine:
    """One kind of defect, by shape and zone, over the FAIL answers."""

    shape: str
    zone: str
    defects: int
    parts: int
    share: float
    """Of all counting defects."""
    cumulated: float


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures over a filter; shares are None where there is nothing to divide by."""

    answers: int
    passed: int
    failed: int
    invalid: int
    reasons: dict[str, int]
    review: int
    parts: int
    """Distinct part ids; an answer without an id is its own part."""
    yield_: float | None
    """Parts whose last answer is PASS / parts."""
    fpy: float | None
    """First pass yield: parts whose first answer is PASS / parts."""
    acknowledged: int
    overridden: int
    latency_ms: dict[str, float | None]
    """p50, p99, p999 and max of settled - taken; RESTARTED answers have none."""
    pareto: tuple[ParetoLine, ...]
    first_wall_ns: int | None
    last_wall_ns: int | None


def show(path: Path, wanted: Filter | None = None, *, limit: int = 20) -> list[Record]:
    """The newest ``limit`` answers that fit, newest first. Raises LedgerError."""
    return list(records(path, wanted, limit=limit, newest_first=True))


def records(
    path: Path, wanted: Filter | None = None, *, limit: int = -1, newest_first: bool = False
) -> Iterator[Record]:
    """Answers that fit, in the order in which they were booked. Raises LedgerError."""
    where, values = conditions(wanted or Filter())
    columns = ", ".join("a." + column for column in ANSWER_COLUMNS)
    query = (
        f"SELECT {columns}, o.reason, o.sent_ns, o.detail, r.received_ns, r.wall_ns {_FROM} WHERE {where} "
        f"ORDER BY a.link {'DESC' if newest_first else 'ASC'} LIMIT ?"
    )
    width = len(ANSWER_COLUMNS)
    with Reading(path) as connection:
        for row in connection.execute(query, (*values, limit)):
            settled = settled_of(row[:width])
            answer = sent = settled.answer
            reason, sent_ns, detail, received_ns, received_wall_ns = row[width:]
            if reason is not None:
                sent = overridden(answer, Override(answer.epoch, answer.sequence, Reason(reason), sent_ns, detail))
            yield Record(settled, sent, received_ns, received_wall_ns)


def stats(path: Path, wanted: Filter | None = None) -> Stats:
    """Counts, yields, Pareto of defects and latency percentiles. Raises LedgerError."""
    where, values = conditions(wanted or Filter())
    with Reading(path) as connection:
        counts = dict.fromkeys(("PASS", "FAIL", "INVALID"), 0)
        reasons: dict[str, int] = {}
        review = acknowledged = replaced = 0
        first_ns: int | None = None
        last_ns: int | None = None
        query = (
            f"SELECT {_SENT}, {_SENT_REASON}, count(*), sum(a.review), count(r.epoch), count(o.link), "
            f"min(a.wall_ns), max(a.wall_ns) {_FROM} WHERE {where} GROUP BY 1, 2"
        )
        for verdict, reason, count, in_review, received, instead, first, last in connection.execute(query, values):
            counts[verdict] += count
            if reason is not None:
                reasons[reason] = count
            review, acknowledged, replaced = review + in_review, acknowledged + received, replaced + instead
            first_ns = first if first_ns is None else min(first_ns, first)
            last_ns = last if last_ns is None else max(last_ns, last)
        parts, good_first, good_last = _parts(connection, where, values)
        return Stats(
            answers=sum(counts.values()),
            passed=counts["PASS"],
            failed=counts["FAIL"],
            invalid=counts["INVALID"],
            reasons=dict(sorted(reasons.items())),
            review=review,
            parts=parts,
            yield_=good_last / parts if parts else None,
            fpy=good_first / parts if parts else None,
            acknowledged=acknowledged,
            overridden=replaced,
            latency_ms=_latency_ms(connection, where, values),
            pareto=_pareto(connection, where, values),
            first_wall_ns=first_ns,
            last_wall_ns=last_ns,
        )


def conditions(wanted: Filter) -> tuple[str, tuple[int | str, ...]]:
    """WHERE clause over a (answers) and o (overrides), with its values."""
    tests: list[tuple[str, int | str | None]] = [
        ("a.wall_ns >= ?", wanted.since_ns),
        ("a.wall_ns < ?", wanted.until_ns),
        (f"{_SENT} = ?", wanted.verdict.value if wanted.verdict else None),
        (f"{_SENT_REASON} = ?", wanted.reason.value if wanted.reason else None),
        ("a.part_id = ?", wanted.part_id),
        ("a.epoch = ?", wanted.epoch),
        ("a.sequence = ?", wanted.sequence),
    ]
    used = [(text, value) for text, value in tests if value is not None]
    return " AND ".join(text for text, _ in used) or "1", tuple(value for _, value in used)


class Reading:
    """``with Reading(path) as connection``: closes it, and turns what SQLite says into a LedgerError."""

    def __init__(self, path: Path, steps: schema.Steps | None = None) -> None:
        self._path, self._steps = Path(path), steps

    def __enter__(self) -> apsw.Connection:
        self._connection = schema.reader(self._path, steps=self._steps)
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._connection.close(force=True)
        if isinstance(error, apsw.Error):
            raise LedgerError(f"cannot read the ledger {self._path}", found=str(error)) from error


def _parts(connection: apsw.Connection, where: str, values: tuple[int | str, ...]) -> tuple[int, int, int]:
    """Parts, those whose first answer is PASS, those whose last answer is."""
    nameless = good_nameless = 0
    ends: dict[str, list[bool]] = {}
    query = f"SELECT a.part_id, {_SENT} = 'PASS' {_FROM} WHERE {where} ORDER BY a.link"
    for part_id, passed in connection.execute(query, values):
        if not part_id:
            nameless += 1
            good_nameless += passed
        else:
            known = ends.setdefault(part_id, [bool(passed), bool(passed)])
            known[1] = bool(passed)
    first = good_nameless + sum(one for one, _ in ends.values())
    last = good_nameless + sum(one for _, one in ends.values())
    return nameless + len(ends), first, last


def _latency_ms(connection: apsw.Connection, where: str, values: tuple[int | str, ...]) -> dict[str, float | None]:
    query = f"SELECT a.settled_ns - a.taken_ns {_FROM} WHERE {where} AND a.reason IS NOT 'RESTARTED'"
    spent_ns = np.fromiter((row[0] for row in connection.execute(query, values)), dtype=np.int64)
    if spent_ns.size == 0:
        return dict.fromkeys(("p50", "p99", "p999", "max"))
    p50, p99, p999 = np.percentile(spent_ns, (50, 99, 99.9)) / 1e6
    return {"p50": float(p50), "p99": float(p99), "p999": float(p999), "max": float(spent_ns.max()) / 1e6}


def _pareto(connection: apsw.Connection, where: str, values: tuple[int | str, ...]) -> tuple[ParetoLine, ...]:
    query = (
        "SELECT d.value ->> 'shape', d.value ->> 'zone', count(*) AS n, count(DISTINCT a.link) "
        f"{_FROM}, json_each(a.defects) d WHERE {where} AND {_SENT} = 'FAIL' AND d.value ->> 'counts' "
        "GROUP BY 1, 2 ORDER BY n DESC, 1, 2"
    )
    rows = list(connection.execute(query, values))
    total = sum(row[2] for row in rows)
    lines, so_far = [], 0
    for shape, zone, defects, parts in rows:
        so_far += defects
        lines.append(ParetoLine(shape, zone, defects, parts, defects / total, so_far / total))
    return tuple(lines)
