"""Channels, stages and the latch."""

from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from inspector.clock import PushedClock
from inspector.flow import Channel, Latch, Stage


def test_a_full_channel_hands_back_its_oldest_item() -> None:
    """What is displaced comes back to the caller, who must settle it."""
    channel: Channel[int] = Channel(2)
    assert [channel.offer(n) for n in (1, 2, 3, 4)] == [None, None, 1, 2]
    assert channel.take_all(0) == [3, 4]


def test_a_closed_channel_refuses_and_still_gives_what_waits() -> None:
    """Nothing that was accepted is lost by closing, and nothing is accepted afterwards."""
    channel: Channel[str] = Channel(3)
    channel.offer("a")
    channel.close()
    assert channel.offer("b") == "b"
    assert (channel.take(1.0), channel.take(1.0)) == ("a", None)


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 5))
def test_every_item_is_taken_or_comes_back(moves: list[bool], capacity: int) -> None:
    """offered = taken + displaced + waiting, and no item is seen twice."""
    channel: Channel[int] = Channel(capacity)
    out: list[int] = []
    offered = 0
    for is_offer in moves:
        got = channel.offer(offered) if is_offer else channel.take(0)
        offered += is_offer
        out += [got] if got is not None else []
    counts = channel.statistics()
    assert counts.offered == counts.taken + counts.displaced + counts.waiting == offered
    assert sorted(out + channel.take_all(0)) == list(range(offered))


def test_a_taker_wakes_when_an_item_comes() -> None:
    """Waiting ends by the item, not by the timeout."""
    channel: Channel[int] = Channel(1)
    taken: list[int | None] = []
    thread = threading.Thread(target=lambda: taken.append(channel.take(30.0)))
    thread.start()
    channel.offer(7)
    thread.join(10)
    assert taken == [7]


def test_many_makers_and_takers_share_every_item_once() -> None:
    """Whoever is faster, nobody sleeps beside an item and nobody gets it twice."""
    channel: Channel[int] = Channel(4000)
    taken: list[list[int]] = [[], []]

    def take(mine: list[int]) -> None:
        while not (channel.statistics().waiting == 0 and done.is_set()):
            mine += channel.take_all(30.0, limit=3)

    done = threading.Event()
    takers = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    makers = [
        threading.Thread(target=lambda base=base: [channel.offer(base + i) for i in range(1000)])  # type: ignore[misc]
        for base in (0, 1000, 2000, 3000)
    ]
    for thread in (*takers, *makers):
        thread.start()
    for thread in makers:
        thread.join(20)
    done.set()
    channel.close()
    for thread in takers:
        thread.join(20)
        assert not thread.is_alive()
    assert sorted(taken[0] + taken[1]) == list(range(4000))
    counts = channel.statistics()
    assert (counts.offered, counts.taken, counts.displaced) == (4000, 4000, 0)


def test_an_empty_channel_lets_nobody_through() -> None:
    """After any traffic a taker waits for its timeout, instead of turning round and round."""
    channel: Channel[int] = Channel(2)
    for number in range(5):
        channel.offer(number)
    assert channel.take_all(0, limit=1) == [3]
    assert channel.take_all(0) == [4]
    started = time.monotonic()
    assert channel.take(0.05) is None
    assert time.monotonic() - started >= 0.05


def test_the_first_reason_to_stop_wins() -> None:
    """Shutdown is a latch."""
    latch = Latch()
    assert latch.trip("first")
    assert not latch.trip("second")
    assert latch.reason == "first"


def test_a_stage_that_fails_trips_the_latch() -> None:
    """A line with a dead stage must not look fine."""
    latch = Latch()

    def step() -> None:
        raise RuntimeError("broken on purpose")

    closed = threading.Event()
    stage = Stage("inspect", step, clock=PushedClock(), latch=latch, teardown=closed.set)
    stage.start()
    assert latch.wait(10)
    assert stage.join(10)
    assert closed.is_set()
    assert "inspect" in latch.reason
    assert isinstance(latch.error, RuntimeError)


def test_a_stage_beats_after_each_step() -> None:
    """The heartbeat is the time at which the last step ended."""
    clock, stepped, go = PushedClock(), threading.Event(), threading.Event()

    def step() -> None:
        clock.push(5)
        stepped.set()
        go.wait(10)

    stage = Stage("acquire", step, clock=clock, latch=Latch())
    before = stage.beat_ns
    stage.start()
    assert stepped.wait(10)
    stage.stop()
    go.set()
    assert stage.join(10)
    assert (stage.steps, stage.beat_ns) == (1, before + 5)
