"""The live stream: the newest part at once, slow viewers let go, age by the server's clock, an end in order."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from inspector.clock import PushedClock
from inspector.frame import Evidence, Settled
from inspector.link.viewers import decode, encode
from inspector.page.app import Page
from inspector.page.feed import KEPT_BYTES, Feed
from inspector.page.hub import QUEUE, Hub, event
from inspector.page.outline import LONGEST_PATH, path_of
from tests.page.page_kit import count_all, make_page, served, wait
from tests.page.test_counting import WALL_NS, make_part

import numpy as np  # isort: skip


def shown_part(sequence: int, wall_ns: int = WALL_NS, size_px: int = 64) -> list[bytes]:
    """A publication as the line makes it."""
    image = np.random.default_rng(sequence).integers(0, 256, (size_px, size_px), np.uint8)
    mask = np.zeros((size_px, size_px), np.bool_)
    mask[5:9, 5:9] = True
    settled: Settled = make_part(1, sequence, wall_ns=wall_ns, evidence=Evidence(image, mask))
    return encode(settled, sequence, now_ns=0, images=True)


def at_once(message: bytes) -> Callable[[], Awaitable[list[bytes]]]:
    """What a viewer is sent first."""

    async def first() -> list[bytes]:
        return [message]

    return first


def test_what_is_published_while_a_viewer_comes_in_is_not_missed() -> None:
    """A part between its first messages and its place on the list would stay unseen on a line that then stands."""

    async def run() -> None:
        hub = Hub(1)

        async def first() -> list[bytes]:
            message = b"before"
            hub.publish(b"meanwhile")
            return [message]

        viewer = hub.messages(first, lambda: None, lambda: True)
        assert [await anext(viewer), await asyncio.wait_for(anext(viewer), 5)] == [b"before", b"meanwhile"]

    asyncio.run(run())


def test_a_viewer_that_takes_nothing_is_dropped_and_counted_others_get_all() -> None:
    """Never more than QUEUE messages wait for anybody."""

    async def run() -> None:
        hub, aborted = Hub(4), []
        slow = hub.messages(at_once(b"first"), lambda: aborted.append(True), lambda: True)
        fast = hub.messages(at_once(b"first"), lambda: None, lambda: True)
        assert await anext(slow) == await anext(fast) == b"first"
        waiting = asyncio.ensure_future(anext(slow))
        await asyncio.sleep(0)
        got = []
        for number in range(3 * QUEUE):
            hub.publish(b"%d" % number)
            got.append(await anext(fast))
            assert hub.statistics().waiting_peak <= QUEUE
        assert got == [b"%d" % number for number in range(3 * QUEUE)]
        assert await waiting == b"0"
        assert aborted == [True]
        assert hub.statistics().dropped == 1 and hub.statistics().viewers == 1

    asyncio.run(run())


def test_one_viewer_too_many_is_refused_and_a_place_becomes_free_again() -> None:
    """And after the end nobody comes in."""

    async def run() -> None:
        hub = Hub(1)
        assert not hub.is_full
        viewer = hub.messages(at_once(b"x"), lambda: None, lambda: True)
        await anext(viewer)
        assert hub.is_full and hub.statistics().refused == 1
        await viewer.aclose()
        assert not hub.is_full
        hub.close()
        assert hub.is_full

    asyncio.run(run())


def test_who_is_no_longer_allowed_is_told_and_let_go() -> None:
    """A removed user's wall screen does not look on."""

    async def run() -> None:
        hub, allowed = Hub(1), [True]
        viewer = hub.messages(at_once(b"x"), lambda: None, lambda: allowed[0])
        await anext(viewer)
        hub.publish(event("tick", "{}"))
        assert (await anext(viewer)).startswith(b"event: tick")
        allowed[0] = False
        hub.publish(event("tick", "{}"))
        assert [one async for one in viewer] == [event("signed-out", "")]

    asyncio.run(run())


def test_the_age_is_of_the_part_and_outlives_a_stepped_clock() -> None:
    """Taken before it came, and older with every second; a wall clock that jumps changes nothing."""
    clock = PushedClock(wall_ns=WALL_NS + 300_000_000)
    feed = Feed("", clock, None)
    feed.came(decode(shown_part(1)))
    part = feed.newest()
    assert part is not None and part.age_s(clock.now_ns()) == pytest.approx(0.3)
    clock.push(2_000_000_000)
    clock.step_wall(-3600 * 1_000_000_000)
    assert part.age_s(clock.now_ns()) == pytest.approx(2.3)
    feed.came(decode(shown_part(2)))  # taken "in the future"
    newest = feed.newest()
    assert newest is not None and newest.age_s(clock.now_ns()) == 0


def test_the_feed_keeps_the_newest_and_a_bounded_heap_of_pictures() -> None:
    """A page that is slow skips parts and says how many; pictures never take more than their bytes."""
    feed = Feed("", PushedClock(), None)
    for number in range(1, 60):
        feed.came(decode(shown_part(number, size_px=600)))
    taken = feed.take()
    assert taken is not None and taken.answer.sequence == 59 and feed.take() is None
    assert feed.statistics().skipped == 58
    assert sum(len(png) for png in feed._pictures.values()) == feed._kept_bytes <= KEPT_BYTES
    assert feed.picture(1, 59) is not None and feed.picture(1, 1) is None


def test_the_outline_is_the_mask_and_never_too_long() -> None:
    """One pixel has an outline around it; a map full of specks is drawn coarser."""
    mask = np.zeros((64, 64), np.bool_)
    mask[3, 5] = True
    xs = [float(pair.split()[0]) for pair in path_of(mask)[1:-1].split("L")]
    ys = [float(pair.split()[1]) for pair in path_of(mask)[1:-1].split("L")]
    assert 5 <= min(xs) < max(xs) <= 6 and 3 <= min(ys) < max(ys) <= 4
    assert path_of(np.zeros((64, 64), np.bool_)) == ""
    noise = np.random.default_rng(0).random((1024, 1024)) > 0.5
    path = path_of(noise)
    assert 0 < len(path) <= LONGEST_PATH and path.startswith("M") and path.endswith("Z")


class Stream:
    """A viewer by hand: reads server-sent events from a socket, or does not."""

    def __init__(self, url: str, receive_bytes: int = 0) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._socket = socket.socket()
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(20)
        self._socket.connect((host, int(port)))
        self._socket.sendall(f"GET /live HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
        self._heard = b""

    def until(self, word: bytes) -> bytes:
        """Everything up to this word."""
        while word not in self._heard:
            piece = self._socket.recv(65536)
            assert piece, self._heard[-300:]
            self._heard += piece
        heard, _, self._heard = self._heard.partition(word)
        return heard

    def is_cut(self) -> bool:
        """Whether the server let go, once everything that is on the way was read."""
        try:
            while self._socket.recv(65536):
                pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def live_page(state: Path) -> Page:
    """Pictures as often as they come."""
    return make_page(state, page={"port": 0, "updates_hz": 60})


def test_a_part_is_on_the_stream_at_once_with_its_picture(live_page: Page) -> None:
    """Rendered once, with the age; the picture can be fetched by its number."""
    with served(live_page) as url:
        viewer = Stream(url)
        viewer.until(b"event: tick")
        live_page.feed.came(decode(shown_part(77)))
        viewer.until(b"event: part")
        text = viewer.until(b"\n\n").decode()
        head = json.loads(text.strip().splitlines()[0].removeprefix("data: "))
        assert head["age_ms"] >= 0 and "part-77" in text and 'class="found"' in text
        late = Stream(url)  # one that comes later sees it at once
        late.until(b"part-77")
        viewer.close()
        late.close()
        wait(lambda: live_page.hub.statistics().viewers == 0, "both are gone")


def test_a_sleeping_browser_is_cut_and_the_server_ends_in_order(live_page: Page) -> None:
    """What it does not take is bounded by the kernel's buffers and QUEUE; an end waits for no stream."""
    with served(live_page) as url:
        asleep, awake = Stream(url, receive_bytes=4096), Stream(url)
        awake.until(b"event: tick")
        loop = live_page.live._loop
        assert loop is not None
        padding = event("numbers", "x" * 60_000)
        for _ in range(200):
            loop.call_soon_threadsafe(live_page.hub.publish, padding)
            awake.until(b"event: numbers")
            if live_page.hub.statistics().dropped:
                break
        assert live_page.hub.statistics().dropped == 1
        assert asleep.is_cut()
        assert live_page.hub.statistics().viewers == 1
        asleep.close()
    awake.close()


def test_a_restarted_server_takes_up_where_it_was(state: Path) -> None:
    """The same cookie key, counts and alarms; a viewer that comes back is sent everything."""
    first = make_page(state)
    with served(first) as url:
        viewer = Stream(url)
        viewer.until(b"event: numbers")
        viewer.close()
        count_all(first)
        link = first.digest.followed().link
    second = make_page(state)
    assert second.sessions._signer.secret_keys == first.sessions._signer.secret_keys
    with served(second) as url:
        assert second.digest.followed().link == link
        viewer = Stream(url)
        assert b"of triggered" in viewer.until(b"event: tick")
        viewer.close()
