"""Rows and images leave by the time that has passed, whatever the wall clock says meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_parts import Make, Open, make_evidence, make_part

from inspector.clock import PushedClock
from inspector.frame import Verdict
from inspector.ledger.audit import show, verify
from inspector.ledger.book import Book
from inspector.ledger.pictures import STORED, Index, read_index
from inspector.ledger.retention import DAY_NS, Retention
from inspector.ledger.store import Policy, Store

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
YEAR_NS = 365 * DAY_NS
KEEP_DAYS = 10


@pytest.fixture
def retain(clock: PushedClock) -> Iterator[Callable[..., Retention]]:
    made: list[Retention] = []

    def make(book: Book) -> Retention:
        made.append(Retention(book, keep_days=float(KEEP_DAYS), keep_copy=False, clock=clock))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def store(tmp_path: Path, clock: PushedClock) -> Iterator[Store]:
    made = images(tmp_path, clock)
    yield made
    made.close()


def images(folder: Path, clock: PushedClock, quota_bytes: int | None = None) -> Store:
    policy = Policy(save=frozenset(Verdict), every_pass=1)
    made = Store(
        folder / "images", policy=policy, quota_bytes=quota_bytes, keep_days=KEEP_DAYS, clock=clock, min_free_bytes=0
    )
    made.open()
    return made


def look(retention: Retention, clock: PushedClock) -> None:
    """A minute passes; what is old enough leaves."""
    clock.push(61 * SECOND_NS)
    for _ in range(20):
        retention.copy()
        clock.push(50_000_000)
        retention.remove()


def save(store: Store, clock: PushedClock, sequence: int, epoch: int = 1, verdict: Verdict = Verdict.FAIL) -> None:
    part = make_part(epoch, sequence, verdict, evidence=make_evidence(sequence), wall_ns=clock.wall_ns())
    assert store.offer(part)
    store.step(0)


def tidy(store: Store, clock: PushedClock) -> None:
    clock.push(11 * SECOND_NS)
    store.step(0)


def numbers(path: Path) -> list[int]:
    return [record.sent.sequence for record in reversed(show(path, limit=10_000))]


def saved(store: Store) -> list[int]:
    return [each.sequence for each in read_index(store.root) if each.state == STORED]


# -- rows --------------------------------------------------------------------------------------------------------------


def test_a_clock_years_ahead_removes_no_row(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock
) -> None:
    """For a moment or for good: nothing leaves before its days have passed, and the fault says why it waits."""
    book = open_book()
    retention = retain(book)
    look(retention, clock)
    book.write([part(book.epoch, number, wall_ns=clock.wall_ns()) for number in range(1, 11)])
    clock.step_wall(2 * YEAR_NS)
    look(retention, clock)
    assert len(numbers(book.path)) == 10
    assert "730.0 days ahead" in retention.fault and "check NTP" in retention.fault and "\n" not in retention.fault
    for _ in range(KEEP_DAYS * 24 - 1):
        clock.push(HOUR_NS)
        look(retention, clock)
        assert len(numbers(book.path)) == 10
    assert not retention.fault
    for _ in range(26):
        clock.push(HOUR_NS)
        look(retention, clock)
    assert numbers(book.path) == [] and verify(book.path).ok


def test_rows_stamped_by_a_clock_that_was_behind_are_as_young_as_they_are(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock
) -> None:
    """A dead battery stamps them 1970; when the clock is set right they are not decades old."""
    clock.step_wall(DAY_NS - clock.wall_ns())
    book = open_book()
    retention = retain(book)
    look(retention, clock)
    book.write([part(book.epoch, number, wall_ns=clock.wall_ns()) for number in range(1, 11)])
    clock.step_wall(54 * YEAR_NS)
    for _ in range(48):
        clock.push(HOUR_NS)
        look(retention, clock)
    assert len(numbers(book.path)) == 10 and not retention.fault


def test_rows_from_the_future_hold_nobody_up(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock
) -> None:
    """Written while the clock was ahead they leave in their turn, and so do those behind them."""
    book = open_book()
    retention = retain(book)
    for day in range(15):
        ahead_ns = 3 * YEAR_NS if day == 1 else 0
        clock.step_wall(ahead_ns)
        book.write([part(book.epoch, day + 1, wall_ns=clock.wall_ns())])
        clock.step_wall(-ahead_ns)
        for _ in range(24):
            clock.push(HOUR_NS)
            look(retention, clock)
    left = numbers(book.path)
    assert left[0] in (4, 5, 6) and left[-1] == 15 and len(left) == 16 - left[0]


def test_a_clock_that_is_set_right_at_once_holds_nothing_up(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock
) -> None:
    """The fault goes with its cause: back where it should be there is nothing to wait for."""
    book = open_book()
    retention = retain(book)
    look(retention, clock)
    clock.step_wall(-YEAR_NS)
    look(retention, clock)
    assert "365.0 days behind" in retention.fault
    clock.step_wall(YEAR_NS)
    look(retention, clock)
    assert not retention.fault


def test_while_the_clock_is_wrong_what_is_old_stays(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock, store: Store
) -> None:
    """Rows and images; when it has run evenly for an hour they leave."""
    book = open_book()
    retention = retain(book)
    look(retention, clock)
    book.write([part(book.epoch, 1, wall_ns=clock.wall_ns())])
    save(store, clock, 1)
    look(retention, clock)
    clock.push((KEEP_DAYS + 2) * DAY_NS)
    clock.step_wall(YEAR_NS)
    for _ in range(50):
        look(retention, clock)
        tidy(store, clock)
    assert numbers(book.path) == [1] and saved(store) == [1] and retention.fault
    for _ in range(10):
        look(retention, clock)
        tidy(store, clock)
    assert numbers(book.path) == [] and saved(store) == [] and not retention.fault


def test_what_was_stored_last_before_a_pause_is_no_younger_for_it(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock, tmp_path: Path
) -> None:
    """An orderly end keeps its age; the daemon's pause counts."""
    book, store = open_book(), images(tmp_path, clock)
    retention = retain(book)
    look(retention, clock)
    tidy(store, clock)
    book.write([part(book.epoch, 1, wall_ns=clock.wall_ns())])
    save(store, clock, 1)
    retention.close()
    store.close()
    clock.push((KEEP_DAYS + 1) * DAY_NS)
    retention, store = retain(book), images(tmp_path, clock)
    look(retention, clock)
    tidy(store, clock)
    assert numbers(book.path) == [] and saved(store) == []
    store.close()


def test_a_clock_that_drifts_is_followed(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock
) -> None:
    """500 ppm over a year are hours; they never hold old rows up."""
    book = open_book()
    retention = retain(book)
    book.write([part(book.epoch, 1, wall_ns=clock.wall_ns())])
    for _ in range(365 * 2):
        clock.push(12 * HOUR_NS)
        clock.step_wall(12 * HOUR_NS // 2000)
        retention.copy()
        retention.remove()
        assert not retention.fault
    assert numbers(book.path) == []


def test_rows_that_no_mark_covers_leave_by_their_stamps(
    open_book: Open, part: Make, retain: Callable[..., Retention], clock: PushedClock
) -> None:
    """A ledger from before marks were kept; a clock years ahead just now, or in its last row, changes little."""
    for number, (now_ns, last_ns) in enumerate(((YEAR_NS, 0), (0, YEAR_NS), (0, 0))):
        book = open_book()
        now = clock.wall_ns()
        days = (30, 20, 9, 5)
        rows = [part(book.epoch, day, wall_ns=now - day * DAY_NS) for day in days]
        book.write([*rows, part(book.epoch, 99, wall_ns=now + last_ns)])
        clock.step_wall(now_ns)
        look(retain(book), clock)
        clock.step_wall(-now_ns)
        assert numbers(book.path) == ([5, 99] if now_ns else [9, 5, 99]), number
        book.close()
        for old in book.path.parent.glob("ledger.db*"):
            old.unlink()


HOURS = (1, 5, 26, 70, 9 * 24, 11 * 24)
STEPS = tuple(sign * hours for hours in (*HOURS, 365 * 24, 3 * 365 * 24) for sign in (1, -1))
WORK = st.one_of(
    st.tuples(st.just("push"), st.sampled_from(HOURS)),
    st.tuples(st.just("step"), st.sampled_from(STEPS)),
    st.tuples(st.just("row"), st.integers(1, 3)),
    st.tuples(st.just("restart"), st.integers(0, 1)),
)


@settings(max_examples=80, deadline=None)
@given(work=st.lists(WORK, min_size=5, max_size=40))
def test_nothing_young_ever_leaves(tmp_path_factory: pytest.TempPathFactory, work: list[tuple[str, int]]) -> None:
    """Whatever the wall clock does, and however often the daemon starts, in whichever order."""
    clock = PushedClock()
    folder = tmp_path_factory.mktemp("stepped")
    book = Book(folder / "ledger.db", clock=clock, ballast_bytes=0)
    book.open()
    pictures = images(folder, clock)
    retention = Retention(book, keep_days=float(KEEP_DAYS), keep_copy=False, clock=clock)
    written: dict[int, int] = {}
    look(retention, clock)
    for what, value in work:
        if what == "push":
            clock.push(value * HOUR_NS)
        elif what == "step":
            clock.step_wall(value * HOUR_NS)
        elif what == "row":
            for _ in range(value):
                number = len(written) + 1
                written[number] = clock.now_ns()
                book.write([make_part(book.epoch, number, wall_ns=clock.wall_ns())])
                save(pictures, clock, number)
        else:
            if value:
                retention.close()
                pictures.close()
            elif pictures._index is not None:
                pictures._index.close()  # as kill -9 leaves it
            pictures = images(folder, clock)
            retention = Retention(book, keep_days=float(KEEP_DAYS), keep_copy=False, clock=clock)
        look(retention, clock)
        tidy(pictures, clock)
        young = {number for number, at_ns in written.items() if clock.now_ns() - at_ns <= KEEP_DAYS * DAY_NS}
        assert young <= set(numbers(book.path)) and young <= set(saved(pictures))
    retention.close()
    pictures.close()
    book.close()


@settings(max_examples=5, deadline=None)
@given(pushes=st.lists(st.integers(15, 60), min_size=400, max_size=420), every=st.integers(1, 9))
def test_undisturbed_all_that_is_old_does_leave(
    tmp_path_factory: pytest.TempPathFactory, pushes: list[int], every: int
) -> None:
    """Rows after their days and one more, images after their days and the hours between two marks; not before."""
    clock = PushedClock()
    folder = tmp_path_factory.mktemp("even")
    book = Book(folder / "ledger.db", clock=clock, ballast_bytes=0)
    book.open()
    pictures = images(folder, clock)
    retention = Retention(book, keep_days=float(KEEP_DAYS), keep_copy=False, clock=clock)
    written: dict[int, int] = {}
    for turn, push_min in enumerate(pushes):
        if turn % every == 0:
            number = len(written) + 1
            written[number] = clock.now_ns()
            book.write([make_part(book.epoch, number, wall_ns=clock.wall_ns())])
            save(pictures, clock, number)
        clock.push(push_min * 60 * SECOND_NS)
        look(retention, clock)
        tidy(pictures, clock)
        ages = {number: clock.now_ns() - at_ns for number, at_ns in written.items()}
        rows, files = numbers(book.path), saved(pictures)
        assert all(ages[number] <= (KEEP_DAYS + 1) * DAY_NS for number in rows)
        assert all(ages[number] <= KEEP_DAYS * DAY_NS + 3 * HOUR_NS for number in files)
        young = {number for number, age_ns in ages.items() if age_ns <= KEEP_DAYS * DAY_NS}
        assert young <= set(rows) and young <= set(files)
    assert not retention.fault and not pictures.statistics().last_error
    retention.close()
    pictures.close()
    book.close()


# -- images ------------------------------------------------------------------------------------------------------------


def test_a_clock_years_ahead_removes_no_image(store: Store, clock: PushedClock) -> None:
    """They stay until their days have passed; the store says what it waits for, and goes on saving."""
    for number in range(1, 4):
        save(store, clock, number)
    clock.step_wall(2 * YEAR_NS)
    tidy(store, clock)
    assert "730.0 days ahead" in store.statistics().last_error
    save(store, clock, 4)
    for _ in range(KEEP_DAYS * 24 - 2):
        clock.push(HOUR_NS)
        tidy(store, clock)
    assert saved(store) == [1, 2, 3, 4] and not store.statistics().last_error
    for _ in range(5):
        clock.push(HOUR_NS)
        tidy(store, clock)
    assert saved(store) == []


def test_the_quota_goes_by_the_order_of_storing(tmp_path: Path, clock: PushedClock) -> None:
    """A stepped clock neither stops it nor changes who goes first."""
    store = images(tmp_path, clock, quota_bytes=500 << 10)
    steps = (0, YEAR_NS, -3 * YEAR_NS, 5 * YEAR_NS)
    for number in range(1, 61):
        clock.step_wall(steps[number % 4])
        save(store, clock, number)
        clock.push(SECOND_NS)
    kept = saved(store)
    assert kept == list(range(61 - len(kept), 61)) and 1 < len(kept) < 60
    assert store.statistics().shed == 0
    store.close()


def test_no_number_is_given_twice(tmp_path: Path, clock: PushedClock) -> None:
    """When the last images are gone at a restart, new ones do not pass for them."""
    store = images(tmp_path, clock)
    for number in range(1, 4):
        save(store, clock, number)
    clock.push((KEEP_DAYS + 1) * DAY_NS)
    tidy(store, clock)
    assert saved(store) == []
    store.close()
    store = images(tmp_path, clock)
    for number in range(4, 6):
        save(store, clock, number)
    clock.push((KEEP_DAYS - 1) * DAY_NS)
    tidy(store, clock)
    assert saved(store) == [4, 5]
    store.close()


def test_an_index_without_numbers_gets_them(tmp_path: Path, clock: PushedClock) -> None:
    """Of an earlier inspector, or of one that ran in between: in the order of storing, and its images leave in time."""
    store = images(tmp_path, clock)
    for number in range(1, 4):
        save(store, clock, number)
        clock.push(DAY_NS)
    store.close()
    connection = apsw.Connection(str(store.root / "index.db"))
    connection.execute("DROP INDEX leaving; ALTER TABLE pictures DROP COLUMN number; DROP TABLE state")
    connection.execute("CREATE INDEX removal ON pictures (keep, goes_first DESC, wall_ns)")
    connection.close()
    index = Index(store.root)
    assert [each.sequence for each in index.oldest(9)] == [1, 2, 3] and index.number == 3
    index.close()
    store = images(tmp_path, clock)
    tidy(store, clock)
    clock.push((KEEP_DAYS - 3) * DAY_NS + HOUR_NS)
    tidy(store, clock)
    assert saved(store) == [2, 3]
    connection = apsw.Connection(str(store.root / "index.db"))
    connection.execute("UPDATE pictures SET number = NULL WHERE sequence = 3")
    connection.close()
    store.close()
    clock.push(HOUR_NS)
    store = images(tmp_path, clock)
    clock.push(DAY_NS)
    tidy(store, clock)
    assert saved(store) == [3]
    store.close()
