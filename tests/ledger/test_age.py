"""The reckoning of ages over restarts and reboots, on a table of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.clock import PushedClock
from inspector.ledger import age as module
from inspector.ledger import schema
from inspector.ledger.age import DAY_NS, HOUR_NS, Ages, last_position

KEEP_NS = 10 * DAY_NS
OFF_NS = 4 * DAY_NS
YEAR_NS = 365 * DAY_NS
BIRTH_NS = 1_700_000_000_000_000_000
MINUTE_NS = 60_000_000_000
BOOTS = [1]


@dataclass
class Machine:
    """Stores things, loses power, comes up again with whatever its clock shows; knows the true time."""

    true_ns: int = BIRTH_NS
    stored: list[int] = field(default_factory=list)
    """When, in truth."""

    def __post_init__(self) -> None:
        self.clock = PushedClock(wall_ns=self.true_ns)
        self.connection = apsw.Connection(":memory:")
        self.connection.execute(schema.STATE)
        self.connection.execute("CREATE TABLE things (place INTEGER PRIMARY KEY, wall_ns INTEGER NOT NULL)")
        self.start()

    def start(self) -> None:
        self.ages = Ages(self.clock, "things", "place", KEEP_NS)
        self.look()

    def look(self, *, at_once: bool = False) -> int:
        """Up to which place things are old."""
        self.ages.look(self.connection, len(self.stored), at_once=at_once)
        self.ages.write(self.connection)
        return 0 if self.ages.held else self.ages.until(self.connection, KEEP_NS)

    def run(self, span_ns: int, *, every_ns: int = MINUTE_NS * 30) -> int:
        """Time passes; things are stored now and then."""
        old = self.look()
        while span_ns > 0:
            step_ns = min(every_ns, span_ns)
            self.clock.push(step_ns)
            self.true_ns, span_ns = self.true_ns + step_ns, span_ns - step_ns
            self.store()
            old = self.look()
        return old

    def store(self) -> None:
        self.stored.append(self.true_ns)
        self.connection.execute("INSERT INTO things VALUES (?, ?)", (len(self.stored), self.clock.wall_ns()))

    def rest(self, span_ns: int) -> None:
        """Time passes, nothing is stored."""
        self.clock.push(span_ns)
        self.true_ns += span_ns

    def reboot(self, off_ns: int, *, wrong_ns: int = 0, now_ns: int = 40_000_000_000) -> None:
        """Off for a while, then a start with a clock that is wrong by so much."""
        self.true_ns += off_ns
        BOOTS.append(BOOTS[-1] + 1)
        self.clock = PushedClock(now_ns=now_ns, wall_ns=self.true_ns + wrong_ns)
        self.start()

    def age_ns(self, place: int) -> int:
        return self.true_ns - self.stored[place - 1]

    def oldest_kept_ns(self) -> int:
        old = self.look()
        return self.age_ns(old + 1) if old < len(self.stored) else 0


@contextmanager
def powered() -> Iterator[Machine]:
    """A machine whose boots have names of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "boot_id", lambda: f"boot {BOOTS[-1]}")
        machine = Machine()
        try:
            yield machine
        finally:
            machine.connection.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    with powered() as made:
        yield made


def test_a_thing_is_old_when_its_time_has_passed(machine: Machine) -> None:
    """Not before, and at most about an hour after."""
    machine.run(15 * DAY_NS)
    assert KEEP_NS - HOUR_NS <= machine.oldest_kept_ns() <= KEEP_NS + 2 * HOUR_NS
    assert not machine.ages.fault


def test_a_pause_of_the_daemon_counts_in_full(machine: Machine) -> None:
    """One boot has one monotonic clock, whatever the wall clock did meanwhile."""
    machine.run(DAY_NS)
    machine.look(at_once=True)
    machine.rest(KEEP_NS)
    machine.clock.step_wall(-YEAR_NS)
    machine.start()
    assert machine.ages.held and "behind" in machine.ages.fault
    machine.rest(HOUR_NS)
    assert machine.look() == len(machine.stored)


def test_nights_and_weekends_off_count(machine: Machine) -> None:
    """A line that works by day keeps its things for days of the calendar, and nobody is told of a fault."""
    for day in range(28):
        machine.run(8 * HOUR_NS)
        assert not machine.ages.fault
        machine.look(at_once=True)
        machine.reboot((64 if day % 5 == 4 else 16) * HOUR_NS)
        assert not machine.ages.fault
    machine.run(2 * HOUR_NS)
    assert KEEP_NS - 3 * DAY_NS <= machine.oldest_kept_ns() <= KEEP_NS + DAY_NS


def test_months_off_keep_things_longer_and_hold_nothing_up(machine: Machine) -> None:
    """Four days of them count; then it goes on as ever, without anybody's help."""
    machine.run(5 * DAY_NS)
    machine.reboot(90 * DAY_NS)
    assert machine.run(5 * HOUR_NS) == 0 and not machine.ages.fault
    machine.run(2 * DAY_NS)
    assert machine.age_ns(machine.look()) > 90 * DAY_NS and machine.look() < 5 * 48 + 1
    machine.run(8 * DAY_NS)
    assert machine.look() > 5 * 48


@pytest.mark.parametrize("wrong_ns", [-30 * YEAR_NS, 2 * HOUR_NS, 20 * YEAR_NS])
def test_a_boot_with_a_wrong_clock_that_is_set_right_costs_nothing(machine: Machine, wrong_ns: int) -> None:
    """A dead battery, local time taken for UTC, a typing error: the reckoning waits until the clock is right."""
    for _ in range(12):
        machine.run(8 * HOUR_NS)
        machine.look(at_once=True)
        machine.reboot(16 * HOUR_NS, wrong_ns=wrong_ns)
        machine.run(10 * MINUTE_NS, every_ns=MINUTE_NS)
        machine.clock.step_wall(-wrong_ns)
        assert not machine.ages.fault
    machine.run(2 * HOUR_NS)
    assert KEEP_NS - DAY_NS <= machine.oldest_kept_ns() <= KEEP_NS + DAY_NS
    old = machine.look()
    assert old and machine.age_ns(old) > KEEP_NS


def test_a_boot_with_a_clock_that_stays_ahead_costs_four_days_once(machine: Machine) -> None:
    """Right again after days, or never: no more than that, and never all at once."""
    machine.run(6 * DAY_NS)
    machine.reboot(HOUR_NS, wrong_ns=3 * YEAR_NS)
    assert machine.run(2 * DAY_NS) == 0 or machine.age_ns(machine.look()) > KEEP_NS - OFF_NS
    machine.reboot(HOUR_NS, wrong_ns=3 * YEAR_NS)
    machine.run(2 * DAY_NS)
    assert KEEP_NS - OFF_NS < machine.age_ns(machine.look()) < KEEP_NS
    machine.clock.step_wall(-3 * YEAR_NS)
    machine.run(2 * DAY_NS)
    assert KEEP_NS - OFF_NS < machine.age_ns(machine.look()) < KEEP_NS


def test_things_stored_before_the_time_off_is_counted_do_not_share_it(machine: Machine) -> None:
    """What was stored in the first hour after a weekend is not a weekend old."""
    machine.reboot(3 * DAY_NS)
    machine.run(HOUR_NS // 2)
    for _ in range(3):
        machine.look(at_once=True)
        machine.rest(HOUR_NS // 3)
    machine.look(at_once=True)
    machine.start()
    machine.rest(KEEP_NS - 2 * HOUR_NS)
    assert machine.look() == 0
    machine.rest(2 * HOUR_NS)
    assert machine.look() == len(machine.stored)


def test_the_monotonic_clock_of_another_boot_counts_for_nothing(machine: Machine) -> None:
    """It may well be further on than that of the boot before."""
    machine.run(DAY_NS)
    machine.reboot(HOUR_NS, now_ns=100 * DAY_NS)
    machine.run(2 * HOUR_NS)
    assert machine.look() == 0
    machine.reboot(HOUR_NS, now_ns=DAY_NS)
    machine.run(8 * DAY_NS)
    assert machine.look() == 0


def test_a_clock_that_never_runs_evenly_is_told_of(machine: Machine) -> None:
    """Two time sources that fight hold things up for as long as they do; people hear of it."""
    machine.run(11 * DAY_NS)
    for turn in range(5):
        machine.clock.step_wall(2 * HOUR_NS if turn % 2 == 0 else -2 * HOUR_NS)
        machine.run(HOUR_NS // 2)
        assert ("ahead" in machine.ages.fault) == (turn % 2 == 0)
    machine.run(2 * HOUR_NS)
    assert not machine.ages.fault and machine.look() > 0


def test_a_longer_age_asked_for_later_makes_nothing_old(machine: Machine) -> None:
    """Marks that were given up are not guessed from stamps."""
    machine.run(30 * DAY_NS)
    assert machine.ages.until(machine.connection, 25 * DAY_NS) == 0
    marks = machine.connection.execute("SELECT count(*) FROM state WHERE key GLOB 'age at *'").get
    assert 10 * 24 <= marks <= 10 * 24 + 3
    assert last_position(machine.connection) >= len(machine.stored) - 2


def test_before_the_first_mark_stamps_tell_up_to_the_first_young_one(machine: Machine) -> None:
    """None counts as later than the first mark, so one of the future holds the rest up for its days, not for ever."""
    machine.connection.execute("DELETE FROM state")
    for days in (40, 30, -9000, 20, 1):
        machine.stored.append(machine.true_ns - days * DAY_NS)
        machine.connection.execute("INSERT INTO things VALUES (?, ?)", (len(machine.stored), machine.stored[-1]))
    machine.start()
    assert machine.look() == 2
    machine.run(KEEP_NS + HOUR_NS)
    assert machine.look() >= 5


HOURS = (1, 7, 26, 80, 9 * 24, 11 * 24)
STEPS = tuple(sign * hours for hours in (*HOURS, 365 * 24, 3 * 365 * 24) for sign in (1, -1))
EVENTS = st.one_of(
    st.tuples(st.just("run"), st.sampled_from(HOURS[:-1])),
    st.tuples(st.just("step"), st.sampled_from(STEPS)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("reboot"), st.sampled_from((0, *HOURS))),
    st.tuples(st.just("wrong"), st.sampled_from(STEPS)),
)
RIGHT = st.one_of(
    st.tuples(st.just("run"), st.sampled_from(HOURS[:-1])), st.tuples(st.just("reboot"), st.sampled_from((0, *HOURS)))
)


@settings(max_examples=150, deadline=None)
@given(events=st.one_of(st.lists(EVENTS, max_size=25), st.lists(RIGHT, max_size=25)))
def test_nothing_young_is_ever_old(events: list[tuple[str, int]]) -> None:
    """Steps and restarts cost nothing; each boot at most four days, and none while the clock was never wrong."""
    with powered() as machine:
        wrong, boots = False, 0
        for what, value in events:
            if what == "run":
                machine.run(value * HOUR_NS, every_ns=HOUR_NS * 5 // 3)
            elif what == "step":
                machine.clock.step_wall(value * HOUR_NS)
                wrong = True
            elif what == "restart":
                machine.start()
            elif what == "reboot":
                machine.reboot(value * HOUR_NS)
                boots += 1
            else:
                machine.reboot(HOUR_NS, wrong_ns=value * HOUR_NS)
                wrong, boots = True, boots + 1
            machine.store()
            old = machine.look()
            if old:
                assert machine.age_ns(old) > KEEP_NS - (OFF_NS * boots if wrong else 0)
