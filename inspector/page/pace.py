"""A flood of requests is slowed down, not served: its clients wait, and the line's cores do not."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from inspector.clock import Clock
from inspector.journal import Log

BURST_S = 5.0
"""What was not asked for so long may be asked at once: browsers that all come back after a restart."""
LONGEST_S = 1.0
"""The longest that one request is held back: a person in the middle of a flood still gets the page."""
PICTURES = 10.0
"""Pictures and files, which cost little, may come so much more often than pages and questions."""
_CHEAP = ("/static/", "/picture/", "/live", "/health")
_TOLD_AGAIN_NS = 60_000_000_000


class Pace:
    """How long each request waits so that no more than ``per_s`` come in the long run.

    The generic cell rate algorithm (ITU-T I.371): each request is due one step after the one before, and may come
    ``BURST_S`` ahead of that. Where it would wait longer than ``LONGEST_S``, it waits so long and adds no debt.
    """

    def __init__(self, per_s: float) -> None:
        self._step_s = 1.0 / per_s
        self._next_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """For a request that came just now; 0 = it need not wait."""
        wait_s = max(self._next_s, now_s) - BURST_S - now_s
        if wait_s > LONGEST_S:
            return LONGEST_S
        self._next_s = max(self._next_s, now_s) + self._step_s
        return max(0.0, wait_s)


class Slowed:
    """Stands before the application."""

    def __init__(self, app: ASGIApp, *, clock: Clock, log: Log, requests_hz: float) -> None:
        self._app, self._clock, self._log = app, clock, log
        self._questions, self._pictures = Pace(requests_hz), Pace(PICTURES * requests_hz)
        self._told_ns = -_TOLD_AGAIN_NS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            now_ns = self._clock.now_ns()
            pace = self._pictures if scope["path"].startswith(_CHEAP) else self._questions
            wait_s = pace.wait_s(now_ns / 1e9)
            if wait_s > 0.0:
                self._tell(scope, now_ns)
                await asyncio.sleep(wait_s)
        await self._app(scope, receive, send)

    def _tell(self, scope: Scope, now_ns: int) -> None:
        if now_ns - self._told_ns >= _TOLD_AGAIN_NS:
            self._told_ns = now_ns
            client = scope.get("client")
            self._log.warning(
                "requests slowed down",
                path=scope["path"][:200],
                client=client[0] if client else "",
                do="More is asked than page.requests_hz allows. Find out who asks, or allow more.",
            )
