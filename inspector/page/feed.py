"""The page's end of the viewers' socket: the newest part with its picture, and a few pictures before it.

Loss is harmless and counted. The thread keeps only the newest part; a page that is slow to show it skips some.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from inspector.clock import Clock
from inspector.frame import Answer
from inspector.link.keys import ClientKeys
from inspector.link.viewers import Viewed, ViewerFeed

KEPT_BYTES = 16 << 20
"""Of pictures: some hundred of 256 x 256 px, so that what is on a screen can still be fetched."""
_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class LivePart:
    """One part as it came."""

    viewed: Viewed
    received_ns: int
    """Monotonic."""
    age_ns: int
    """How old it already was when it came, by the wall clock; never below 0."""

    @property
    def answer(self) -> Answer:
        return self.viewed.message.answer

    def age_s(self, now_ns: int) -> float:
        """How old the part is now. A wall clock that is stepped in the meantime does not matter."""
        return (self.age_ns + max(0, now_ns - self.received_ns)) / 1e9


@dataclass(frozen=True, slots=True)
class FeedStatistics:
    """Counts since the start."""

    received: int
    lost: int
    """Parts that were published and did not come: the page was too slow, or the network was."""
    malformed: int
    skipped: int
    """Parts that came and were not shown, because a newer one did."""


class Feed:
    """``start`` subscribes in a thread of its own; ``on_part`` is called there after each part, and must not wait."""

    def __init__(
        self, endpoint: str, clock: Clock, keys: ClientKeys | None, on_part: Callable[[], None] = lambda: None
    ) -> None:
        """``endpoint``: empty = the line shows nothing; then nothing ever comes."""
        self.endpoint, self.on_part = endpoint, on_part
        self._clock, self._keys = clock, keys
        self._lock = threading.Lock()
        self._newest: LivePart | None = None
        self._is_shown = True
        self._pictures: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._kept_bytes = self._skipped = 0
        self._feed: ViewerFeed | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Idempotent; nothing happens without an endpoint."""
        if self.endpoint and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Idempotent."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5)
            self._thread = None

    def newest(self) -> LivePart | None:
        """The newest part, shown or not."""
        with self._lock:
            return self._newest

    def take(self) -> LivePart | None:
        """The newest part, once; None when it was taken already."""
        with self._lock:
            if self._is_shown:
                return None
            self._is_shown = True
            return self._newest

    def picture(self, epoch: int, sequence: int) -> bytes | None:
        """A PNG that came not long ago."""
        with self._lock:
            return self._pictures.get((epoch, sequence))

    def statistics(self) -> FeedStatistics:
        """A snapshot."""
        feed = self._feed
        counts = (0, 0, 0) if feed is None else (feed.received, feed.lost, feed.malformed)
        return FeedStatistics(*counts, skipped=self._skipped)

    def came(self, viewed: Viewed) -> None:
        """A part came."""
        answer = viewed.message.answer
        now_ns, wall_ns = self._clock.now_ns(), self._clock.wall_ns()
        part = LivePart(viewed, now_ns, max(0, wall_ns - answer.wall_ns))
        with self._lock:
            self._skipped += not self._is_shown
            self._newest, self._is_shown = part, False
            if viewed.image_png:
                self._pictures[answer.epoch, answer.sequence] = viewed.image_png
                self._kept_bytes += len(viewed.image_png)
                while self._kept_bytes > KEPT_BYTES and len(self._pictures) > 1:
                    self._kept_bytes -= len(self._pictures.popitem(last=False)[1])
        self.on_part()

    def _run(self) -> None:
        self._feed = feed = ViewerFeed(self.endpoint, self._keys)
        try:
            while not self._stopping.is_set():
                viewed = feed.next(_POLL_S)
                if viewed is not None:
                    self.came(viewed)
        finally:
            feed.close()
