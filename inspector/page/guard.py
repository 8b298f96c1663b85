"""Stands before every handler: who asks, may they, does the request come from our own page, is it short enough."""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inspector.page.access import Role, Rule
from inspector.page.sessions import COOKIE
from inspector.page.users import User

if TYPE_CHECKING:
    from inspector.page.app import Page

Handler = Callable[["Page", Request], Awaitable[Response]]
LOCAL = User("local", Role.SETUP)
"""Whoever sits at this computer, while there are no users."""
LOCAL_ROLES = frozenset(Role)
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_OUR_NAMES = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_MOST_FIELDS = 32

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def guarded(page: Page, rule: Rule, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """The handler behind its rule. Nothing of the handler runs before the rule has admitted the request."""

    @functools.wraps(handler)
    async def admitted(request: Request) -> Response:
        refused = await _refusal(page, rule, request)
        return refused if refused is not None else await handler(page, request)

    return admitted


async def _refusal(page: Page, rule: Rule, request: Request) -> Response | None:
    if page.is_open and not _is_local(request):
        return _plain(421, "This page is for this computer alone, by the name localhost, until there are users.")
    user = page.user_of(request.cookies.get(COOKIE))
    request.state.user, request.state.roles = user, page.roles_of(user)
    if rule.method == "POST" and not is_own(request):
        return _plain(403, "Refused: the request does not come from this page.")
    if rule.roles is not None:
        if user is None:
            return login_first(request)
        if not rule.roles & request.state.roles:
            return page.refused(request, rule)
    if rule.method == "POST":
        return await _read_form(request, rule.body_bytes)
    return None


def is_own(request: Request) -> bool:
    """Whether a browser says that our own page sent this: the Origin header, or else Sec-Fetch-Site."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None:
        return bool(host) and origin.lower() in {f"http://{host}".lower(), f"https://{host}".lower()}
    return request.headers.get("sec-fetch-site") == "same-origin"


def login_first(request: Request) -> Response:
    """To the login and back: for a page a redirect, for what a script asked a plain 401."""
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?back={quote(back, safe='')}", 303)
    return _plain(401, "Log in first.")


async def _read_form(request: Request, body_bytes: int) -> Response | None:
    """The form's fields in ``request.state.form``; refused where there is more than the route takes."""
    told = request.headers.get("content-length", "0")
    if not told.isdecimal() or int(told) > body_bytes:
        return _plain(413, f"Too long: at most {body_bytes} bytes are taken.")
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > body_bytes:
                return _plain(413, f"Too long: at most {body_bytes} bytes are taken.")
    except ClientDisconnect:
        return _plain(400, "Broken off.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and kind != "application/x-www-form-urlencoded":
        return _plain(415, "A form is expected.")
    try:
        fields = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=_MOST_FIELDS
        )
    except ValueError:
        return _plain(400, "This is no form.")
    request.state.form = dict(fields)
    return None


class Headers:
    """Puts the security headers on every answer, the error pages' too; pages are not kept by browsers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                if b"cache-control" not in present:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


def _is_local(request: Request) -> bool:
    """From this computer, and by its own name: another site's name may lead here too, and brings that site's script."""
    client = request.client
    came = client is None or client.host.removeprefix("::ffff:") in _LOOPBACK
    return came and _OUR_NAMES.fullmatch(request.headers.get("host", "")) is not None


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(text + "\n", status)
