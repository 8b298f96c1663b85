"""When a frame was there: a clock that keeps time bounds it, any other is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.camera.stamp import CameraClock

MS, S = 1_000_000, 1_000_000_000
READ_NS = 100_000
"""What the process spends on each frame besides waiting."""
FARTHEST_NS = 10 * S
START_NS = 50 * S


@dataclass(frozen=True)
class Shot:
    """One frame: when it was taken in truth, when it was there, and when the process fetched it."""

    true_ns: int
    there_ns: int
    fetched_ns: int
    waited_ns: int
    taken_ns: int


def run(
    clock: CameraClock,
    true_ns: list[int],
    stamp: Callable[[int, int], int],
    ways_ns: list[int] | None = None,
    stalls: dict[int, int] | None = None,
) -> list[Shot]:
    """Frames through a reader: ``stamp`` (number, true time) is the camera's, frame n takes ``ways_ns[n]`` to the host,
    and where ``stalls`` names it the process stands still for so long, from the moment at which it was taken."""
    shots, ready_ns, there_ns = list[Shot](), true_ns[0], 0
    for number, taken in enumerate(true_ns):
        there_ns = max(there_ns, taken + (ways_ns[number % len(ways_ns)] if ways_ns else 0))
        stands_until_ns = taken + stalls[number] if stalls and number in stalls else 0
        fetched_ns = max(there_ns, ready_ns, stands_until_ns)
        waited_ns = fetched_ns - ready_ns
        given_ns = clock.taken_ns(fetched_ns, stamp(number, taken), waited_ns)
        shots.append(Shot(taken, there_ns, fetched_ns, waited_ns, given_ns))
        ready_ns = fetched_ns + READ_NS
    return shots


def every(period_ns: int, frames: int) -> list[int]:
    return [START_NS + n * period_ns for n in range(frames)]


def check_rules(shots: list[Shot]) -> None:
    """What holds for any stamps whatever."""
    assert all(shot.fetched_ns - FARTHEST_NS <= shot.taken_ns <= shot.fetched_ns for shot in shots)
    assert all(one.taken_ns <= next_one.taken_ns for one, next_one in pairwise(shots))


@settings(max_examples=150, deadline=None)
@given(
    pauses_ns=st.lists(st.integers(5 * MS, 400 * MS) | st.integers(S, 60 * S), min_size=20, max_size=80),
    origin_ns=st.integers(1, 10**18),
    drift_ppm=st.integers(-200, 200),
    ways_ns=st.lists(st.integers(0, 15 * MS), min_size=1, max_size=80),
    stalls=st.dictionaries(st.integers(0, 79), st.integers(0, 5 * S), max_size=4),
)
def test_a_stall_does_not_make_frames_young(
    pauses_ns: list[int], origin_ns: int, drift_ppm: int, ways_ns: list[int], stalls: dict[int, int]
) -> None:
    """With a true camera clock a frame's time is never before the truth, and after it by its way and the drift only."""
    true_ns = every(50 * MS, 40)  # learns from these
    for pause_ns in pauses_ns:
        true_ns.append(true_ns[-1] + pause_ns)

    def stamp(_: int, at_ns: int) -> int:
        return origin_ns + (at_ns - START_NS) * (1_000_000 + drift_ppm) // 1_000_000

    shots = run(CameraClock(0), true_ns, stamp, ways_ns, {40 + at: ns for at, ns in stalls.items()})
    check_rules(shots)
    way_ns, prompt_ns = max(ways_ns), START_NS
    for shot in shots[40:]:
        if shot.fetched_ns == shot.there_ns:
            prompt_ns = shot.true_ns
        drifted_ns = (shot.true_ns - prompt_ns) * 401 // 1_000_000  # the drift, and the allowance for it
        assert shot.true_ns - MS // 10 <= shot.taken_ns <= shot.true_ns + way_ns + drifted_ns + 10


def test_a_stall_of_two_seconds_is_seen_to_the_millisecond() -> None:
    """10 Hz and a way of 1 to 2 ms: all twenty frames of a stall count from when they were there."""
    ways_ns = [MS, 2 * MS, 1500_000]
    shots = run(CameraClock(0), every(100 * MS, 100), lambda _, at_ns: at_ns + 7 * S, ways_ns, {60: 2 * S})
    late = [shot for shot in shots if shot.fetched_ns - shot.there_ns > 5 * MS]
    assert len(late) == 20
    assert all(-MS <= shot.taken_ns - shot.there_ns <= MS for shot in late)
    prompt = [shot for shot in shots if shot.fetched_ns == shot.there_ns]
    assert all(0 <= shot.fetched_ns - shot.taken_ns <= MS for shot in prompt)


def test_before_the_clock_is_proven_the_fetch_counts() -> None:
    """The first frames have nothing to compare with: a stall there is not seen, and nothing is made old."""
    shots = run(CameraClock(0), every(100 * MS, 8), lambda _, at_ns: at_ns, stalls={3: 300 * MS})
    assert all(shot.taken_ns == shot.fetched_ns for shot in shots)


def test_a_stall_beyond_all_bounds_makes_a_frame_ten_seconds_old() -> None:
    """Older than the bound is too late in any case; it is not told as young."""
    shots = run(CameraClock(0), every(S, 60), lambda _, at_ns: at_ns, stalls={30: 14 * S})
    assert shots[30].fetched_ns - shots[30].taken_ns == FARTHEST_NS
    assert shots[-1].taken_ns == shots[-1].fetched_ns


def test_a_reader_that_is_always_behind_is_seen_for_ever() -> None:
    """Frames that lie unread at every fetch do not teach the clock that this is how it should be."""
    clock = CameraClock(0)
    for n in range(40):
        clock.taken_ns(START_NS + n * 50 * MS, n * 50 * MS + 1, 40 * MS)
    for n in range(40, 4000):
        at_ns = START_NS + n * 50 * MS
        taken_ns = clock.taken_ns(at_ns + 300 * MS, n * 50 * MS + 1, 0)
    assert -MS < taken_ns - at_ns < 50 * MS
    assert not clock.told()


@pytest.mark.parametrize("rate", [0.000001, 0.001, 0.125, 0.5, 0.9, 1.1, 2.0, 8.0, 1000.0])
@pytest.mark.parametrize("period_ns", [10 * MS, 150 * MS, 3 * S])
def test_stamps_in_other_units_are_left_alone(rate: float, period_ns: int) -> None:
    """Ticks, microseconds: every frame counts from its fetch, and the journal gets one line."""
    clock = CameraClock(0)
    shots = run(clock, every(period_ns, 400), lambda _, at_ns: int(at_ns * rate), [MS, 3 * MS], {200: S})
    assert all(shot.taken_ns == shot.fetched_ns for shot in shots)
    assert "fetched" in clock.told()
    assert clock.told() == ""


@pytest.mark.parametrize(("stamp", "why"), [(0, "missing"), (12345, "do not advance")])
def test_absent_and_standing_stamps_are_left_alone(stamp: int, why: str) -> None:
    """No stamp, or always the same: every frame counts from its fetch, and the journal gets one line."""
    clock = CameraClock(0)
    shots = run(clock, every(20 * MS, 50), lambda *_: stamp, stalls={30: S})
    assert all(shot.taken_ns == shot.fetched_ns for shot in shots)
    assert why in clock.told()


@settings(max_examples=200, deadline=None)
@given(stamps=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=100), period_ns=st.integers(MS, 2 * S))
def test_random_stamps_change_nothing(stamps: list[int], period_ns: int) -> None:
    """Stamps without sense never prove a clock: every frame counts from its fetch."""
    shots = run(CameraClock(0), every(period_ns, len(stamps)), lambda n, _: stamps[n])
    check_rules(shots)
    assert all(shot.taken_ns == shot.fetched_ns for shot in shots)


@settings(max_examples=200, deadline=None)
@given(
    errors_ns=st.dictionaries(st.integers(0, 199), st.integers(-20 * S, 20 * S), max_size=20),
    stalls=st.dictionaries(st.integers(0, 199), st.integers(0, 20 * S), max_size=5),
    steps_ns=st.dictionaries(st.integers(0, 199), st.integers(-2 * S, 2 * S), max_size=5),
)
def test_whatever_the_stamps_times_run_forward(
    errors_ns: dict[int, int], stalls: dict[int, int], steps_ns: dict[int, int]
) -> None:
    """Wrong stamps, steps and stalls mixed: not after the fetch, not backward, at most ten seconds before the fetch."""

    def stamp(number: int, at_ns: int) -> int:
        return max(0, at_ns + errors_ns.get(number, 0) + sum(ns for at, ns in steps_ns.items() if at <= number))

    check_rules(run(CameraClock(0), every(100 * MS, 200), stamp, [0, 3 * MS, MS], stalls))


BREAKS: dict[str, Callable[[int], int]] = {
    "stands still": lambda _: 100 * S,
    "goes missing": lambda _: 0,
    "begins anew": lambda at_ns: at_ns - 60 * S + 1,
    "runs backward": lambda at_ns: 200 * S - at_ns,
    "jumps ahead": lambda at_ns: at_ns + 40 * S,
    "steps back a little": lambda at_ns: at_ns + 10 * S - 300 * MS,
    "turns to ticks": lambda at_ns: 70 * S + (at_ns - 60 * S) // 8,
}


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("period_ns", [20 * MS, 500 * MS])
def test_a_proven_clock_that_breaks_is_dropped(how: str, period_ns: int) -> None:
    """Whatever happens to it, within two watches of five seconds frames count from their fetch again; where it then
    keeps time, it bounds them again."""
    frames = 60 * S // period_ns
    broken_ns = START_NS + 10 * S
    stamp = BREAKS[how]
    shots = run(
        CameraClock(0),
        every(period_ns, frames),
        lambda _, at_ns: at_ns + 10 * S if at_ns < broken_ns else stamp(at_ns),
        stalls={frames - 10: 3 * S},
    )
    check_rules(shots)
    wrong = [shot for shot in shots if shot.fetched_ns - shot.taken_ns > 25 * MS and shot.fetched_ns == shot.there_ns]
    assert all(broken_ns <= shot.true_ns <= broken_ns + 10 * S for shot in wrong)
    if how not in ("steps back a little", "turns to ticks"):
        assert len(wrong) <= 2
    stalled = shots[frames - 10]
    recovers = how in ("begins anew", "jumps ahead", "steps back a little")
    assert (stalled.fetched_ns - stalled.taken_ns > 2 * S) == recovers


@pytest.mark.parametrize("period_ns", [20 * MS, 500 * MS])
def test_a_clock_that_is_worse_than_a_crystal_is_left_alone_in_the_end(period_ns: int) -> None:
    """2000 ppm slow: too little to be seen at once, it makes no frame older than 45 ms and is then dropped."""
    clock = CameraClock(0)
    shots = run(clock, every(period_ns, 120 * S // period_ns), lambda _, at_ns: at_ns * 998 // 1000)
    assert max(shot.fetched_ns - shot.taken_ns for shot in shots) < 45 * MS
    assert "fall behind" in clock.told()
    assert shots[-1].taken_ns == shots[-1].fetched_ns


@pytest.mark.parametrize("wild_ns", [5 * S, 250 * MS, -(10**18)])
def test_a_single_wild_stamp_costs_no_part(wild_ns: int) -> None:
    """One stamp far ahead, half a frame ahead, or missing makes two frames old at most, and by one period."""
    clock = CameraClock(0)
    shots = run(clock, every(500 * MS, 100), lambda n, at_ns: max(0, at_ns + (wild_ns if n == 50 else 0)))
    assert all(shot.fetched_ns - shot.taken_ns <= 500 * MS for shot in shots)
    assert sum(shot.taken_ns < shot.fetched_ns for shot in shots) <= 2
    assert clock.told() == ""


def test_old_faults_are_forgiven() -> None:
    """A clock that jumps once an hour is learned anew each time, not left alone for good."""
    clock = CameraClock(0)
    true_ns = every(500 * MS, 7 * 7200)
    shots = run(clock, true_ns, lambda n, at_ns: at_ns + n // 7200 * 40 * S, stalls={7 * 7200 - 20: 2 * S})
    assert clock.told() == ""
    assert shots[-20].fetched_ns - shots[-20].taken_ns > 1900 * MS


def test_no_frame_is_older_than_its_connection() -> None:
    """The time at which the camera was started bounds every frame from below."""
    clock = CameraClock(START_NS + 5 * S)
    for n in range(40):
        clock.taken_ns(START_NS + 5 * S + n * 100 * MS, 10 * S + n * 100 * MS, MS)
    assert clock.taken_ns(START_NS + 12 * S, 1, MS) == START_NS + 5 * S + 3900 * MS
