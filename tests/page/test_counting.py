"""The page's own counts: equal to the ledger's, made once, cheap to ask, and nothing to the line."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.clock import PushedClock
from inspector.frame import Reason, Settled, Verdict
from inspector.ledger.book import Book
from inspector.ledger.query import Reading, stats
from inspector.ledger.rows import Override, Row
from inspector.page import following
from inspector.page.alarms import Alarms, Trouble
from inspector.page.digest import Digest
from inspector.page.questions import (
    Wanted,
    epoch_totals,
    known_kinds,
    pareto,
    reasons,
    recent_trend,
    reject_links,
    rows_of,
    totals,
    window_trend,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "ledger"))
from ledger_parts import make_part

MINUTE_NS = 60_000_000_000
WALL_NS = 1_700_000_000_000_000_000


def opened(folder: Path, clock: PushedClock) -> Book:
    """A new ledger in ``folder``."""
    book = Book(folder / "ledger.db", clock=clock, ballast_bytes=0)
    book.open()
    return book


def digest_of(folder: Path) -> Digest:
    """Opened, nothing counted yet."""
    made = Digest(folder / "digest.db", folder / "ledger.db")
    made.open()
    return made


def count(digest: Digest) -> Digest:
    """To the end of the ledger."""
    while digest.step():
        pass
    assert digest.followed().error == ""
    return digest


def agrees(digest: Digest, ledger: Path) -> None:
    """Every figure of the digest is the ledger's own."""
    told = stats(ledger)
    with digest.reading() as connection:
        found = totals(connection, 0)
        assert (found.passed, found.failed, found.invalid) == (told.passed, told.failed, told.invalid)
        assert found.review == told.review
        assert dict(reasons(connection, 0)) == told.reasons
        kinds = {(one.shape, one.zone, one.defects, one.parts) for one in pareto(connection, 0)}
        assert kinds == {(one.shape, one.zone, one.defects, one.parts) for one in told.pareto}
        listed = connection.execute("SELECT verdict, count(*) FROM rejects GROUP BY 1").fetchall()
        wanted = {"FAIL": told.failed, "INVALID": told.invalid}
        assert dict(listed) == {name: number for name, number in wanted.items() if number}


PARTS = st.lists(
    st.tuples(
        st.sampled_from([Verdict.PASS, Verdict.FAIL, Verdict.INVALID]),
        st.booleans(),  # flagged for review
        st.sampled_from(["", "before", "after", "much later"]),  # sent as INVALID instead, and when that was booked
        st.integers(0, 3),  # minute
        st.booleans(),  # the digest looks after this part
    ),
    max_size=25,
)


@settings(max_examples=30, deadline=None)
@given(parts=PARTS)
def test_counts_are_the_ledgers_whatever_came_too_late(
    parts: list[tuple[Verdict, bool, str, int, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Answers replaced by INVALID are counted once, as they were sent, whenever the page happened to look."""
    folder = tmp_path_factory.mktemp("ledger")
    clock = PushedClock()
    book = opened(folder, clock)
    digest = digest_of(folder)
    later: list[Row] = []
    for number, (verdict, review, instead, minute, looks) in enumerate(parts, 1):
        settled: Settled = make_part(book.epoch, number, verdict, review=review, wall_ns=WALL_NS + minute * MINUTE_NS)
        override = Override(book.epoch, number, Reason.UNRECORDED, clock.now_ns())
        rows: list[Row] = [settled]
        if instead and verdict is not Verdict.INVALID:
            if instead == "before":
                rows = [override, settled]
            elif instead == "after":
                rows = [settled, override]
            else:
                later.append(override)
        for row in rows:
            book.write([row])
        if looks:
            count(digest)
    for row in later:
        book.write([row])
    agrees(count(digest), folder / "ledger.db")
    digest.close()
    agrees(count(digest_of(folder)), folder / "ledger.db")  # begun again at its place
    (folder / "digest.db").unlink()
    agrees(count(digest_of(folder)), folder / "ledger.db")  # made anew
    book.close()


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Digest]:
    """A ledger of some thousand parts, counted."""
    folder = tmp_path_factory.mktemp("long")
    book = opened(folder, PushedClock())
    chance = random.Random(3)
    rows: list[Row] = []
    for number in range(1, 6001):
        verdict = chance.choices([Verdict.PASS, Verdict.FAIL, Verdict.INVALID], [90, 7, 3])[0]
        reason = chance.choice([Reason.LATE, Reason.MISSED]) if verdict is Verdict.INVALID else None
        rows.append(make_part(book.epoch, number, verdict, reason=reason, wall_ns=WALL_NS + number * 1_000_000_000))
    for start in range(0, len(rows), 500):
        book.write(rows[start : start + 500])
    book.close()
    return folder, count(digest_of(folder))


def test_a_long_ledger_is_counted_in_short_reads(long: tuple[Path, Digest], tmp_path: Path) -> None:
    """Several pieces, none longer than PIECE rows; the sum is the ledger's."""
    folder, digest = long
    agrees(digest, folder / "ledger.db")
    with Reading(folder / "ledger.db") as connection:
        piece = following.read(connection, 0)
        assert len(piece.added) <= following.PIECE < piece.head


WANTED = [
    Wanted(),
    Wanted(verdict="FAIL"),
    Wanted(verdict="INVALID"),
    Wanted(reason="LATE"),
    Wanted(verdict="INVALID", reason="MISSED"),
    Wanted(shape="strip"),
    Wanted(zone="bar"),
    Wanted(shape="strip", zone="bar"),
    Wanted(shape="strip", verdict="FAIL", since_ns=WALL_NS),
    Wanted(zone=""),
    Wanted(part="part-59"),
    Wanted(since_ns=WALL_NS, until_ns=WALL_NS + 2_000_000_000_000),
    Wanted(before=4000),
    Wanted(shape="strip", before=4000),
    Wanted(verdict="FAIL", before=4000),
]


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_rejects_are_found_and_paged_by_an_index(long: tuple[Path, Digest], wanted: Wanted) -> None:
    """Each once, newest first, as a plain filter finds them."""
    _, digest = long
    with digest.reading() as connection:
        found: list[int] = []
        before = wanted.before
        while links := reject_links(connection, Wanted(**{**as_dict(wanted), "before": before}), 24):
            found += links
            before = links[-1]
        rows = connection.execute("SELECT link, verdict, reason, part_id, wall_ns FROM rejects").fetchall()
        kinds = set(connection.execute("SELECT shape, zone, link FROM reject_kinds"))
    expected = [
        link
        for link, verdict, reason, part_id, wall_ns in sorted(rows, reverse=True)
        if (not wanted.verdict or verdict == wanted.verdict)
        and (not wanted.reason or reason == wanted.reason)
        and part_id.startswith(wanted.part)
        and wall_ns >= wanted.since_ns
        and (not wanted.until_ns or wall_ns < wanted.until_ns)
        and (not wanted.before or link < wanted.before)
        and (
            not (wanted.shape or wanted.zone is not None)
            or any(
                k[2] == link and (not wanted.shape or k[0] == wanted.shape) and wanted.zone in {None, k[1]}
                for k in kinds
            )
        )
    ]
    assert found == expected


def as_dict(wanted: Wanted) -> dict[str, object]:
    return {name: getattr(wanted, name) for name in Wanted.__slots__}


class Plans:
    """Asks SQLite how it would answer every statement that runs."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.steps: list[tuple[str, str]] = []
        self._connection = connection
        self._asking = False

    def __enter__(self) -> Plans:
        self._connection.exec_trace = self._trace
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.exec_trace = None

    def _trace(self, cursor: apsw.Cursor, statement: str, bindings: object) -> bool:
        if not self._asking and statement.lstrip().upper().startswith("SELECT"):
            self._asking = True
            plan = self._connection.execute(f"EXPLAIN QUERY PLAN {statement}", bindings)  # type: ignore[arg-type]
            self.steps += [(statement, str(row[3])) for row in plan]
            self._asking = False
        return True


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_a_page_of_rejects_needs_no_sorting(long: tuple[Path, Digest], wanted: Wanted) -> None:
    """Rows come in the order of an index; only what a part id begins with may be sorted, few as they are."""
    _, digest = long
    with digest.reading() as connection, Plans(connection) as plans:
        reject_links(connection, wanted)
    assert plans.steps
    for statement, step in plans.steps:
        sorts = "TEMP B-TREE FOR ORDER BY" in step
        assert not sorts or wanted.part, (statement, step)


def test_no_question_walks_through_the_answers(long: tuple[Path, Digest]) -> None:
    """The ledger is asked by link alone; what is counted over time is asked of minutes and hours."""
    folder, digest = long
    with Reading(folder / "ledger.db") as ledger, Plans(ledger) as plans:
        recent_trend(ledger, 300)
        following.read(ledger, 4000)
        following.newest(ledger, 100)
        rows_of(ledger, [5, 9, 77])
    for statement, step in plans.steps:
        if "SCAN" in step:  # from the newest row backwards, as far as the limit
            assert "link DESC LIMIT" in statement, (statement, step)
    with digest.reading() as connection, Plans(connection) as plans:
        totals(connection, WALL_NS)
        epoch_totals(connection)
        window_trend(connection, WALL_NS, WALL_NS + 10**13)
    for statement, step in plans.steps:
        assert "SCAN" not in step or "epochs" in step, (statement, step)
    with digest.reading() as connection:
        assert known_kinds(connection) == (["strip"], ["bar"], ["LATE", "MISSED"])


def test_the_digest_begins_anew_for_another_ledger(tmp_path: Path) -> None:
    """A restored or replaced ledger is not added to what was counted of the old one."""
    clock = PushedClock()
    for name, parts in (("a", 30), ("b", 50)):
        (tmp_path / name).mkdir()
        book = opened(tmp_path / name, clock)
        book.write([make_part(book.epoch, number, part_id=f"{name}{number}") for number in range(1, parts + 1)])
        book.close()
        clock.push(5_000_000_000)
    digest = Digest(tmp_path / "digest.db", tmp_path / "a" / "ledger.db")
    digest.open()
    agrees(count(digest), tmp_path / "a" / "ledger.db")
    digest.close()
    digest = Digest(tmp_path / "digest.db", tmp_path / "b" / "ledger.db")
    digest.open()
    agrees(count(digest), tmp_path / "b" / "ledger.db")
    assert digest.followed().rebuilt == 1
    assert [row.part_id for row in digest.recent] == [f"b{number}" for number in range(1, 51)]


def test_a_missing_ledger_is_told_and_waited_for(tmp_path: Path) -> None:
    """The page may start before the first run of the daemon."""
    digest = digest_of(tmp_path)
    assert not digest.step()
    assert "no ledger" in digest.followed().error
    book = opened(tmp_path, PushedClock())
    book.write([make_part(book.epoch, 1)])
    agrees(count(digest), tmp_path / "ledger.db")
    book.close()


def test_the_reader_never_holds_up_the_ledgers_log(tmp_path: Path) -> None:
    """Between its reads the page holds nothing: the log can be copied whole and begin anew; the file is not written."""
    book = opened(tmp_path, PushedClock())
    digest = digest_of(tmp_path)
    checking = apsw.Connection(str(tmp_path / "ledger.db"))
    assert checking.pragma("journal_mode") == "wal"
    for start in range(1, 400, 40):
        book.write([make_part(book.epoch, number) for number in range(start, start + 40)])
        count(digest)
        busy = checking.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        assert (tmp_path / "ledger.db-wal").stat().st_size == 0, busy
    with Reading(tmp_path / "ledger.db") as connection, pytest.raises(apsw.ReadOnlyError):
        connection.execute("DELETE FROM answers")
    checking.close()
    book.close()


def test_another_user_reads_what_the_group_may_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A page without the right to write the ledger or its index reads beside the daemon, what was booked last too."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to read as another user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        former = os.umask(0o022)
        try:
            book = opened(folder, PushedClock())
            book.write([make_part(book.epoch, number) for number in range(1, 8)])
            child = os.fork()
            if child == 0:
                found = -1
                try:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                    with Reading(folder / "ledger.db") as connection:
                        found = len(following.read(connection, 0).added)
                finally:
                    os._exit(found & 0xFF)
            _, status = os.waitpid(child, 0)
            book.close()
        finally:
            os.umask(former)
    assert os.waitstatus_to_exitcode(status) == 7


def test_alarms_come_go_and_are_acknowledged_once(tmp_path: Path) -> None:
    """One row for as long as it holds; the first who saw it stays; it is all there after a restart."""
    clock = PushedClock()
    alarms = Alarms(tmp_path / "page.db", clock)
    alarms.open()
    camera = Trouble("camera", "camera is gone", "Check the cable", True, 3.0)
    for _ in range(5):
        alarms.hold("daemon", [camera])
        clock.push(1_000_000_000)
    (one,) = alarms.calling()
    assert (one.text, one.holds, one.stops) == ("camera is gone", True, True)
    alarms.hold("page", [])
    assert alarms.calling()[0].holds  # another source says nothing about it
    alarms.hold("daemon", [])
    (one,) = alarms.calling()
    assert not one.holds  # over, but nobody has seen it
    assert alarms.acknowledge(one.number, "olga", "cable was loose")
    assert alarms.acknowledge(one.number, "sam", "me too")
    assert not alarms.acknowledge(999, "olga", "")
    assert alarms.calling() == []
    alarms.close()
    again = Alarms(tmp_path / "page.db", clock)
    again.open()
    (kept,) = again.history(0, 10)
    assert (kept.seen_by, kept.note) == ("olga", "cable was loose")
    again.hold("daemon", [camera])
    again.close()
    third = Alarms(tmp_path / "page.db", clock)
    third.open()
    third.hold("daemon", [camera])
    assert len(third.history(0, 10)) == 2  # it held over the restart: still the same alarm
    third.close()
