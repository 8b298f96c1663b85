"""A flood is slowed down: how long requests wait, and what it leaves to the others."""

from __future__ import annotations

import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.page.pace import BURST_S, LONGEST_S, Pace
from tests.page.page_kit import Journal, make_page, served

CLIENTS, FLOOD_S = 8, 2.0


def test_a_burst_is_free_and_a_flood_waits() -> None:
    """Five seconds' worth at once, then one step more each, a second at most; after a rest all is forgotten."""
    pace = Pace(10.0)
    waits = [pace.wait_s(100.0) for _ in range(80)]
    assert waits[:51] == [0.0] * 51
    assert waits[51:61] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert waits[61:] == [LONGEST_S] * 19
    assert pace.wait_s(100.0 + LONGEST_S + 0.05) == pytest.approx(0.05)
    assert [pace.wait_s(200.0) for _ in range(50)] == [0.0] * 50


@given(st.lists(st.floats(0, 3), max_size=200), st.sampled_from([0.5, 3.0, 20.0]))
def test_no_more_than_the_pace_gets_through_unless_it_waited_its_longest(gaps: list[float], per_s: float) -> None:
    """In any stretch of time: the burst and the pace, beside those who waited a whole second."""
    pace, now_s, began = Pace(per_s), 0.0, list[float]()
    for gap in gaps:
        now_s += gap
        wait_s = pace.wait_s(now_s)
        assert 0.0 <= wait_s <= LONGEST_S
        if wait_s < LONGEST_S:
            began.append(now_s + wait_s)
    began.sort()
    for index, first in enumerate(began):
        for count, last in enumerate(began[index:], 1):
            assert count <= per_s * (last - first + BURST_S) + 2


@given(st.lists(st.floats(0.05, 3), max_size=200))
def test_who_asks_within_the_pace_never_waits(gaps: list[float]) -> None:
    """One request each step or less."""
    pace, now_s = Pace(20.0), 0.0
    for gap in gaps:
        now_s += gap
        assert pace.wait_s(now_s) == 0.0


def test_a_flood_of_pages_is_held_back_and_files_come_at_once(tmp_path: Path) -> None:
    """Over real sockets: clients that ask without a pause get the burst and the pace, the rest of the page is quick,
    everybody is answered, and the journal says so once."""
    journal = Journal()
    page = make_page(tmp_path / "state", journal=journal, page={"requests_hz": 10.0})
    over, answered = threading.Event(), [0] * CLIENTS
    with served(page) as url:
        where = urlsplit(url)

        def ask(path: str, door: HTTPConnection) -> float:
            began = time.monotonic()
            door.request("GET", path)
            answer = door.getresponse()
            answer.read()
            assert answer.status == 200, (path, answer.status)
            return time.monotonic() - began

        def flood(number: int) -> None:
            door = HTTPConnection(where.hostname or "", where.port, timeout=20)
            while not over.is_set():
                ask("/station", door)
                answered[number] += 1
            door.close()

        crowd = [threading.Thread(target=flood, args=(number,)) for number in range(CLIENTS)]
        began = time.monotonic()
        for one in crowd:
            one.start()
        door = HTTPConnection(where.hostname or "", where.port, timeout=20)
        quick = []
        while time.monotonic() - began < FLOOD_S:
            quick.append(ask("/health", door))
            over.wait(0.05)
        over.set()
        for one in crowd:
            one.join(20)
        lasted = time.monotonic() - began
        door.close()
    assert min(answered) >= 1
    assert sum(answered) <= 10.0 * (lasted + BURST_S) + CLIENTS * (lasted / LONGEST_S + 1)
    assert sorted(quick)[len(quick) // 2] < LONGEST_S / 2
    told = [line for line in journal.lines if line.get("event") == "requests slowed down"]
    assert [(line["path"], line["client"]) for line in told] == [("/station", "127.0.0.1")]
