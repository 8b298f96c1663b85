"""Login, logout, static files, health check: what needs no login."""

from __future__ import annotations

import asyncio
import mimetypes
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from inspector import __version__
from inspector.page.guard import Handler
from inspector.page.sessions import COOKIE
from inspector.page.users import fits

if TYPE_CHECKING:
    from inspector.page.app import Page

_STATIC = Path(__file__).parent / "static"
_FILES = {path.relative_to(_STATIC).as_posix(): path for path in _STATIC.rglob("*") if path.is_file()}
"""What may be fetched, by its whole name: nothing is looked up by a path from outside."""
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


async def static(page: Page, request: Request) -> Response:
    """A file that came with the page."""
    path = _FILES.get(request.path_params["file"])
    if path is None:
        raise HTTPException(404, "There is no such file")
    kind = _KINDS.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
    return FileResponse(path, media_type=kind, headers={"Cache-Control": "public, max-age=3600"})


async def health(page: Page, request: Request) -> Response:
    """For supervisors: that the page answers, how far it has read, who looks. Nothing of the parts."""
    followed = page.digest.followed()
    told = {
        "version": __version__,
        "behind": max(0, followed.behind),
        "ledger": followed.error or "ok",
        "hub": asdict(page.hub.statistics()),
        "feed": asdict(page.feed.statistics()),
    }
    return JSONResponse(told)


async def login_form(page: Page, request: Request) -> Response:
    """Name and password."""
    if request.state.user is not None:
        return RedirectResponse("/watch", 303)
    return page.html(request, "login.html", back=_back(request.query_params.get("back", "")), said="")


async def login(page: Page, request: Request) -> Response:
    """A cookie for the right password; slower and slower for wrong ones."""
    form: dict[str, str] = request.state.form
    name, password, back = form.get("name", "").strip(), form.get("password", ""), _back(form.get("back", ""))
    address = request.client.host if request.client is not None else "?"
    keys = (f"{name[:64]}@{address}", f"@{address}")
    wait_s = page.brake.wait_s(*keys)
    if wait_s > 0:
        said = f"Too many attempts. Wait {max(1, round(wait_s))} s."
        answer = page.html(request, "login.html", 429, back=back, said=said)
        answer.headers["Retry-After"] = str(max(1, round(wait_s)))
        return answer
    user = page.users.get(name) if len(password) <= 1024 else None
    async with page.guessing:
        right = await asyncio.to_thread(fits, user, password[:1024])
    if user is None or not right:
        page.brake.failed(*keys)
        page.log.warning("login refused", user=name[:32], address=address)
        return page.html(request, "login.html", 403, back=back, said="This name and password do not fit.")
    page.brake.passed(*keys)
    page.log.info("login", user=user.name, role=user.role.value, address=address)
    answer = RedirectResponse(back, 303)
    answer.set_cookie(
        COOKIE,
        page.sessions.issue(user),
        max_age=int(page.settings.page.session_hours * 3600),
        secure=page.settings.page.certificate is not None,
        httponly=True,
        samesite="strict",
    )
    return answer


async def logout(page: Page, request: Request) -> Response:
    """Forget the cookie."""
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def _back(path: str) -> str:
    """Only to our own pages: neither another host nor ``//host``, nor what a browser reads as one."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and len(path) < 300
    return path if plain and "\\" not in path else "/watch"


HANDLERS: dict[str, Handler] = {
    "static": static,
    "health": health,
    "login_form": login_form,
    "login": login,
    "logout": logout,
}
