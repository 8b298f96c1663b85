"""Plan and queue: what is asked of whom, without telling anybody what the machine said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_kit import Open, Station, judge, part

from inspector.clock import PushedClock
from inspector.frame import Verdict
from inspector.ledger.store import Policy
from inspector.review.plan import DAY_NS, Plan
from inspector.review.queue import Queue
from inspector.review.records import Opinion, PartKey, Stratum
from inspector.review.store import ReviewStore

GOOD, DEFECT, UNSURE = Opinion.GOOD, Opinion.DEFECT, Opinion.CANNOT_TELL


def _all(queue: Queue, store: ReviewStore, reviewer: str, opinion: Opinion = GOOD) -> list[int]:
    """Judge until nothing is left; the numbers in the order in which they came."""
    seen = []
    while (item := queue.next(reviewer)) is not None:
        judge(store, item.key, opinion, reviewer)
        seen.append(item.key.sequence)
        assert len(seen) <= 50, "the queue does not end"
        queue.refresh()
    return seen


def test_all_fail_and_invalid_borderline_and_a_sample_of_pass(
    open_store: Open, station: Station, clock: PushedClock
) -> None:
    """Every part that the plan wants comes once, in an order that another run repeats."""
    store = open_store()
    queue = Queue(store, clock)
    assert queue.refresh() == 12
    told = queue.by_stratum()
    assert told == {Stratum.FAIL: 4, Stratum.INVALID: 1, Stratum.BORDERLINE: 2, Stratum.PASS: 5}
    again = Queue(store, clock)
    again.refresh()
    first = _all(queue, store, "ann")
    assert sorted(first) == list(range(1, 13)) and first != sorted(first)
    assert queue.waiting("ann") == queue.waiting("bob") == 0 and queue.next("bob") is None
    assert again.refresh() == 0  # it hears of reviews that came by another way


def test_the_order_does_not_tell_the_machines_answer(open_store: Open, station: Station, clock: PushedClock) -> None:
    """Strata are mixed: after the same number of parts, as many FAIL have come as of any other kind."""
    station.add([part(n, Verdict.FAIL if n % 2 else Verdict.PASS) for n in range(13, 213)])
    store = open_store()
    queue = Queue(store, clock)
    queue.refresh()
    ranks = (
        sorted(store.plan.place(1, n, 0)[1] for n in range(13, 213, 2)),
        sorted(store.plan.place(1, n, 0)[1] for n in range(14, 213, 2)),
    )
    for odd, even in zip(*ranks, strict=True):
        assert abs(odd - even) < 0.2


def test_new_parts_come_in_and_the_newest_day_comes_first(
    open_store: Open, station: Station, clock: PushedClock
) -> None:
    """Only what is new is read; today's parts are judged while they can still be looked at."""
    store = open_store()
    queue = Queue(store, clock)
    queue.refresh()
    station.add([part(13, Verdict.FAIL, wall_ns=1_700_000_000_000_000_000 + DAY_NS)])
    assert queue.refresh() == 13
    item = queue.next("ann")
    assert item is not None and item.key.sequence == 13
    assert queue.refresh() == 13


def test_a_part_whose_row_is_not_booked_yet_comes_later(open_store: Open, station: Station, clock: PushedClock) -> None:
    """Pictures and rows are written by different threads."""
    late = part(13, Verdict.FAIL)
    station.store.offer(late)
    station.store.step(0)
    queue = Queue(open_store(), clock)
    assert queue.refresh() == 12
    station.book.write([late])
    assert queue.refresh() == 13


def test_nobody_gets_a_part_twice_and_two_never_hold_the_same(
    open_store: Open, station: Station, clock: PushedClock
) -> None:
    """A claim keeps a part for its reviewer for two minutes; then it is free again."""
    store = open_store()
    queue = Queue(store, clock)
    queue.refresh()
    ann, bob = queue.next("ann"), queue.next("bob")
    assert ann is not None and bob is not None and ann.key != bob.key
    assert queue.next("ann") == ann  # a page that was loaded again
    clock.push(121_000_000_000)
    assert queue.next("bob") == ann
    queue.skip("bob", ann.key)
    assert queue.next("bob") == bob
    judge(store, bob.key, GOOD, "bob")
    queue.refresh()
    assert bob.key.sequence not in _all(queue, store, "bob")


@pytest.mark.parametrize(
    ("said", "reviewers"),
    [([GOOD], 1), ([UNSURE, GOOD], 2), ([UNSURE, UNSURE], 2), ([UNSURE, DEFECT, GOOD], 3)],
)
def test_doubt_asks_another_person(
    open_store: Open, station: Station, clock: PushedClock, said: list[Opinion], reviewers: int
) -> None:
    """Two where the first cannot tell, three where two do not say the same."""
    store = open_store()
    queue = Queue(store, clock)
    queue.refresh()
    for number, opinion in enumerate(said):
        item = next((i for i in _waiting(queue, f"r{number}") if i == station.key(1)), None)
        assert (item is not None) == (number < reviewers)
        if item is not None:
            judge(store, item, opinion, f"r{number}")
            queue.refresh()
    left = station.key(1) in _waiting(queue, "another")
    assert left == (len(set(said[:2])) > 1 and len(said) < 3)


def _waiting(queue: Queue, reviewer: str) -> list[PartKey]:
    return [each.item.key for each in queue._waiting(reviewer)]


def test_a_share_is_judged_by_two(open_store: Open, station: Station, clock: PushedClock) -> None:
    """Which parts those are is decided by the seed, not by who comes first."""
    store = open_store(replace(station.plan, second_rate=0.5, seed=3))
    queue = Queue(store, clock)
    queue.refresh()
    first, second = _all(queue, store, "ann"), _all(queue, store, "bob")
    assert len(first) == 12
    assert second and set(second) == {n for n in range(1, 13) if store.plan.wants_second(1, n)}


def test_parts_whose_picture_is_gone_are_told(open_store: Open, station: Station, clock: PushedClock) -> None:
    """The queue knows the index, not the files: who asks for the picture is told that it was removed."""
    from inspector.errors import LedgerError

    store = open_store()
    queue = Queue(store, clock)
    queue.refresh()
    for path in station.sources.images.rglob("*.png"):
        path.unlink()
    item = queue.next("ann")
    assert item is not None
    with pytest.raises(LedgerError, match="no picture"):
        store.picture(item.key)
    queue.skip("ann", item.key)
    assert queue.next("ann") != item


rates = st.sampled_from([0.0, 0.01, 0.3, 1.0])


@settings(max_examples=40, deadline=None)
@given(rates, rates, st.integers(0, 50), st.sampled_from([0.0, 0.5]), st.integers(0, 9))
def test_the_probability_is_the_share_that_is_asked_for(
    pass_rate: float, borderline_rate: float, every_pass: int, from_score: float, seed: int
) -> None:
    """What is stored with a review is how often such a part is taken: else no estimate would be right."""
    plan = Plan(
        threshold=0.6,
        pass_rate=pass_rate,
        borderline_rate=borderline_rate,
        every_pass=every_pass,
        pass_from_score=from_score,
        seed=seed,
    )
    policy = Policy(every_pass=every_pass, pass_from_score=from_score)
    total = 2000
    for score in (0.1, 0.55):
        stratum = plan.stratum(Verdict.PASS, score)
        asked = (
            sum(
                policy.wants(part(n, score=score, picture=False).answer) and plan.wants(1, n, stratum)
                for n in range(1, total + 1)
            )
            if seed == 0
            else sum(plan.wants(1, n, stratum) for n in range(1, total + 1))
        )
        expected = plan.probability(stratum)
        assert abs(asked / total - expected) < 5 * (expected / total) ** 0.5 + 1e-3


@given(st.floats(0, 1), st.floats(0.01, 0.99))
def test_a_borderline_part_always_has_a_picture(score: float, threshold: float) -> None:
    """The stratum begins no lower than the store keeps, whatever the threshold."""
    plan = Plan(threshold=threshold, every_pass=0)
    if plan.stratum(Verdict.PASS, score) is Stratum.BORDERLINE:
        answer = replace(part(1, score=score, picture=False).answer)
        assert Policy(every_pass=0, pass_from_score=plan.pass_from_score).wants(answer)
