"""The page as a whole: its rooms, its routes behind their rules, and its life."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from inspector import __version__
from inspector.clock import Clock
from inspector.config import Settings
from inspector.errors import ConfigError, InspectorError
from inspector.journal import Log
from inspector.link.keys import ClientKeys
from inspector.page import browsing, judging, learning, signin, watching
from inspector.page.access import RULES, Role, Rule, tabs
from inspector.page.alarms import FILE_NAME as ALARMS_FILE
from inspector.page.alarms import Alarms
from inspector.page.digest import FILE_NAME as DIGEST_FILE
from inspector.page.digest import Digest
from inspector.page.feed import Feed
from inspector.page.guard import LOCAL, LOCAL_ROLES, Handler, Headers, guarded
from inspector.page.hub import Hub
from inspector.page.live import Live
from inspector.page.pace import Slowed
from inspector.page.parts import Parts
from inspector.page.promise import PromiseDesk
from inspector.page.pulse import Pulse
from inspector.page.sessions import Brake, Sessions, read_secret
from inspector.page.shown import FILTERS
from inspector.page.users import User, Users
from inspector.review.room import read_sources

FOLLOW_S = 0.25
"""The ledger is asked so often; a part is counted on the page within this of its commit."""
_ASKING = 4
"""Questions to the files at once."""
_CATCH_UP_REST_S = 0.02
"""Between two pieces of an old ledger, so that the pages stay quick meanwhile."""

T = TypeVar("T")
HANDLERS: dict[str, Handler] = {
    **signin.HANDLERS,
    **watching.HANDLERS,
    **browsing.HANDLERS,
    **judging.HANDLERS,
    **learning.HANDLERS,
}


class Page:
    """Everything a handler may use. ``open`` and ``close`` bracket its life; ``application`` is what uvicorn runs."""

    def __init__(self, settings: Settings, clock: Clock, log: Log) -> None:
        """Nothing is opened yet. Raises ConfigError (keys, users' file)."""
        own = settings.page
        self.settings, self.clock, self.log = settings, clock, log
        self.folder = (own.state_dir or settings.station.state_dir / "page").resolve()
        self.ledger = settings.station.state_dir / "ledger.db"
        self.users = Users(self.folder)
        self.sessions = Sessions(self.users, read_secret(self.folder), clock, hours=own.session_hours)
        self.brake = Brake(clock)
        self.table = judging.Table()
        self.guessing = asyncio.Semaphore(1)  # scrypt takes 32 MiB each time
        self.doors: dict[tuple[str, int], asyncio.Transport] = {}
        self.templates = _templates(self)
        self.feed = Feed(settings.link.viewers, clock, _keys(settings))
        self.digest = Digest(self.folder / DIGEST_FILE, self.ledger)
        self.alarms = Alarms(self.folder / ALARMS_FILE, clock)
        self.pulse = Pulse(settings.station.state_dir, self.ledger, self.alarms, clock)
        self.hub = Hub(own.viewers_max)
        self.parts = Parts(read_sources(settings), self.feed)
        self.promise = PromiseDesk(settings, clock)
        self.live = Live(
            self.templates,
            self.hub,
            self.feed,
            self.digest,
            self.pulse,
            self.alarms,
            clock,
            updates_hz=own.updates_hz,
            stale_s=own.stale_s,
        )
        self._asking = asyncio.Semaphore(_ASKING)
        self._stopping = threading.Event()
        self._follower: threading.Thread | None = None
        self.application = self._build()

    # -- who -----------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """No user was made yet: whoever sits at this computer may do everything."""
        return not self.users.all()

    def user_of(self, cookie: str | None) -> User | None:
        """The user behind a cookie; while there are no users, everybody is ``local``."""
        return LOCAL if self.is_open else self.sessions.user_of(cookie)

    def roles_of(self, user: User | None) -> frozenset[Role]:
        """What this user is."""
        if user is None:
            return frozenset()
        return LOCAL_ROLES if user is LOCAL else frozenset({user.role})

    def refused(self, request: Request, rule: Rule) -> Response:
        """403, and a line in the journal."""
        user: User = request.state.user
        self.log.warning("refused", user=user.name, role=user.role.value, route=rule.name)
        wanted = ", ".join(sorted(role.value for role in rule.roles or ()))
        return self.html(request, "error.html", 403, what="Not for you", why=f"This needs the role {wanted}.")

    # -- answering -------------------------------------------------------------------------------------------------

    async def ask(self, question: Callable[..., T], *values: Any) -> T:
        """A question to files, in a thread, a few at once."""
        async with self._asking:
            return await asyncio.to_thread(question, *values)

    def html(self, request: Request, template: str, status: int = 200, **shown: Any) -> Response:
        """A page or a piece of one."""
        state = request.state
        user: User | None = getattr(state, "user", None)
        roles: frozenset[Role] = getattr(state, "roles", frozenset())
        text = self.templates.get_template(template).render(
            user=user, tabs=tabs(roles), path=request.url.path, is_open=user is LOCAL, **shown
        )
        return HTMLResponse(text, status)

    # -- life ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the files and start following. Raises LedgerError."""
        self.digest.open()
        self.alarms.open()
        self.promise.open()
        self._follower = threading.Thread(target=self._follow, name="follow", daemon=True)
        self._follower.start()
        self.pulse.start()
        self.feed.start()

    def close(self) -> None:
        """Idempotent."""
        self._stopping.set()
        self.hub.close()
        self.feed.stop()
        self.pulse.stop()
        if self._follower is not None:
            self._follower.join(5)
            self._follower = None
        self.promise.close()
        self.alarms.close()
        self.digest.close()

    def _follow(self) -> None:
        while not self._stopping.is_set():
            more = self.digest.step()
            self._stopping.wait(_CATCH_UP_REST_S if more else FOLLOW_S)

    def _build(self) -> Starlette:
        if set(HANDLERS) != {rule.name for rule in RULES}:
            raise AssertionError(f"rules and handlers differ: {set(HANDLERS) ^ {rule.name for rule in RULES}}")
        routes = [Route(rule.path, guarded(self, rule, HANDLERS[rule.name]), methods=[rule.method]) for rule in RULES]
        faults: dict[Any, Any] = {
            HTTPException: self._http_fault,
            InspectorError: self._own_fault,
            apsw.Error: self._own_fault,
            Exception: self._unknown_fault,
        }
        return Starlette(
            routes=routes,
            lifespan=self._lifespan,
            middleware=[
                Middleware(Slowed, clock=self.clock, log=self.log, requests_hz=self.settings.page.requests_hz),
                Middleware(Headers),
            ],
            exception_handlers=faults,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(self.open)
        live = asyncio.create_task(self.live.run())
        try:
            yield
        finally:
            live.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await live
            await asyncio.to_thread(self.close)

    # -- faults ----------------------------------------------------------------------------------------------------

    async def _http_fault(self, request: Request, fault: HTTPException) -> Response:
        return self.html(request, "error.html", fault.status_code, what=fault.detail, why="")

    async def _own_fault(self, request: Request, fault: Exception) -> Response:
        """What a client got wrong is 400; what the files refuse is 503, and tried again at the next request."""
        status = 400 if isinstance(fault, ConfigError) else 503
        if status == 503:
            self.log.error("page", path=request.url.path, fault=str(fault))
        return self.html(request, "error.html", status, what="This cannot be shown", why=str(fault))

    async def _unknown_fault(self, request: Request, fault: Exception) -> Response:
        self.log.error("page", path=request.url.path, fault=f"{type(fault).__name__}: {fault}")
        return PlainTextResponse("A fault of the page; its journal says more.\n", 500)


def _templates(page: Page) -> Environment:
    made = Environment(
        loader=PackageLoader("inspector.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.filters.update(FILTERS)
    made.globals.update(station=page.settings.station.name, version=__version__)
    return made


def _keys(settings: Settings) -> ClientKeys | None:
    own = settings.page
    if own.viewer_key is None or own.server_key is None:
        return None
    return ClientKeys.load(own.server_key, own.viewer_key)


def static_folder() -> Path:
    """Scripts, styles and what is vendored."""
    return Path(__file__).parent / "static"
