"""The watch page and its live stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from inspector.errors import LedgerError
from inspector.page.guard import Handler
from inspector.page.sessions import COOKIE

if TYPE_CHECKING:
    from inspector.page.app import Page

_RETRY_S = 2


async def home(page: Page, request: Request) -> Response:
    """To the watch page."""
    return RedirectResponse("/watch", 303)


async def watch(page: Page, request: Request) -> Response:
    """The whole page as it is now; what follows comes over the live stream."""
    shown = await page.ask(_shown, page)
    standing = await page.ask(page.promise.standing)
    return page.html(request, "watch.html", standing=standing, **shown)


async def live(page: Page, request: Request) -> Response:
    """Server-sent events: ``part``, the panels by name, ``tick`` each second."""
    if page.hub.is_full:
        return Response("Too many live pages are open.\n", 503, {"Retry-After": str(_RETRY_S)})
    cookie, client = request.cookies.get(COOKIE), request.client
    address = None if client is None else (client.host, client.port)

    def abort() -> None:
        transport = page.doors.get(address) if address is not None else None
        if transport is not None:
            transport.abort()

    async def first() -> list[bytes]:
        try:
            return await page.ask(page.live.first)
        except LedgerError as fault:  # the stream has begun: what follows brings the panels
            page.log.warning("live", fault=str(fault))
            return []

    return StreamingResponse(
        page.hub.messages(first, abort, lambda: page.user_of(cookie) is not None),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _shown(page: Page) -> dict[str, Any]:
    return {
        "part": page.live.part_html(),
        "panels": page.live.panels_html(),
        "engine": page.pulse.last.section("engine"),
        "stale_ms": round(page.live.stale_s * 1000),
        "viewers": page.feed.endpoint,
    }


HANDLERS: dict[str, Handler] = {"home": home, "watch": watch, "live": live}
