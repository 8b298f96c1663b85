"""Live pages: every viewer has a bounded queue; one that does not take what it is sent is dropped and counted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

QUEUE = 16
"""Messages that may wait for a viewer: about a second at the highest rate; who is slower is too slow."""


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """Counts since the start."""

    viewers: int
    viewers_peak: int
    sent: int
    dropped: int
    """Viewers that were let go because they were too slow; their pages come back by themselves."""
    refused: int
    """Viewers that were one too many."""
    waiting_peak: int


@dataclass(eq=False, slots=True)
class _Viewer:
    abort: Callable[[], None]
    queue: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(QUEUE))


class Hub:
    """One event loop owns it."""

    def __init__(self, viewers_max: int) -> None:
        self._viewers_max = viewers_max
        self._viewers: set[_Viewer] = set()
        self._peak = self._sent = self._dropped = self._refused = self._waiting_peak = 0
        self._numbers = itertools.count(1)
        self._closing = False

    @property
    def is_full(self) -> bool:
        """Whether one more viewer is refused; asking counts as a refusal when it is."""
        full = self._closing or len(self._viewers) >= self._viewers_max
        self._refused += full
        return full

    @property
    def watched(self) -> bool:
        """Whether anybody looks."""
        return bool(self._viewers)

    async def messages(
        self, first: Callable[[], Awaitable[list[bytes]]], abort: Callable[[], None], allowed: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """What one viewer is sent, until it goes, is too slow, is no longer ``allowed``, or the page ends.

        ``first`` makes what it is sent at once; it is asked when the viewer stands on the list, so that nothing that is
        published meanwhile is missed.
        ``abort`` cuts its connection: a browser that sleeps would otherwise hold what is unsent for ever.
        """
        viewer = _Viewer(abort)
        self._viewers.add(viewer)
        self._peak = max(self._peak, len(self._viewers))
        try:
            for message in await first():
                yield message
            while (waited := await viewer.queue.get()) is not None:
                if waited.startswith(b"event: tick") and not allowed():
                    yield event("signed-out", "")
                    return
                yield waited
                self._sent += 1
        finally:
            self._viewers.discard(viewer)

    def publish(self, message: bytes) -> None:
        """To every viewer; never waits."""
        for viewer in list(self._viewers):
            try:
                viewer.queue.put_nowait(message)
                self._waiting_peak = max(self._waiting_peak, viewer.queue.qsize())
            except asyncio.QueueFull:
                self._viewers.discard(viewer)
                self._dropped += 1
                viewer.abort()

    def close(self) -> None:
        """End every stream, so that the server can end; no new one begins."""
        self._closing = True
        for viewer in list(self._viewers):
            self._viewers.discard(viewer)
            try:
                viewer.queue.put_nowait(None)
            except asyncio.QueueFull:
                viewer.abort()

    def statistics(self) -> HubStatistics:
        """A snapshot."""
        return HubStatistics(
            len(self._viewers), self._peak, self._sent, self._dropped, self._refused, self._waiting_peak
        )


def event(name: str, data: str) -> bytes:
    """A server-sent event; ``data`` may have several lines."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\n{lines}\n".encode()
