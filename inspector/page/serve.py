"""Runs the page: the listening socket, uvicorn around the application, an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any

from h11 import LocalProtocolError
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from inspector.clock import Clock
from inspector.config import Settings
from inspector.errors import ConfigError
from inspector.health import Notifier
from inspector.journal import Log
from inspector.page.app import Page

_SEND_BUFFER_BYTES = 256 << 10
"""Of the kernel, for each connection: what a browser that sleeps can hold."""
_FIRST_REQUEST_S = 15.0
_OTHERS = 64
"""Connections besides the live pages'."""
_HEADER_BYTES = 16 << 10


def serve(settings: Settings, clock: Clock, log: Log, on_ready: Callable[[str, Page], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``on_ready`` is told the address. Raises ConfigError, LedgerError."""
    page = Page(settings, clock, log)
    check_exposure(settings, is_open=page.is_open)
    with listening(settings) as door:
        server = PageServer(page, door)
        server.on_ready = lambda: on_ready(address(settings, door), page)
        server.run(sockets=[door])


class PageServer(Server):
    """uvicorn's, which ends the live streams before it waits for them, and tells the service manager."""

    def __init__(self, page: Page, door: socket.socket, **options: Any) -> None:
        own = page.settings.page
        self.page = page
        self.on_ready: Callable[[], None] = lambda: None
        self._notifier = Notifier()
        super().__init__(
            Config(
                page.application,
                http=protocol(page),
                loop="asyncio",
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="error",  # strangers must not fill the journal with malformed requests
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=own.viewers_max + _OTHERS,
                timeout_keep_alive=10,
                timeout_graceful_shutdown=3,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                ssl_certfile=own.certificate,
                ssl_keyfile=own.key,
                timeout_notify=1,
                callback_notify=self._beat,
                **options,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; then everybody is told."""
        await super().startup(sockets)
        if self.started:
            self._notifier.tell("READY=1")
            self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The live streams first: they never end by themselves."""
        self._notifier.tell("STOPPING=1")
        self.page.hub.close()
        await super().shutdown(sockets)

    async def _beat(self) -> None:
        """The event loop turns: the service manager's watchdog is fed."""
        self._notifier.tell("WATCHDOG=1")


def protocol(page: Page) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, which knows its connections, so that one that takes nothing can be cut."""

    class PageProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            channel = transport.get_extra_info("socket")
            if channel is not None:
                channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            if self.client is not None:
                page.doors[self.client] = transport
            self._give_up = self.loop.call_later(_FIRST_REQUEST_S, self._silent)

        def connection_lost(self, exc: Exception | None) -> None:
            self._give_up.cancel()
            if self.client is not None:
                page.doors.pop(self.client, None)
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """A body that turned out malformed: its handler is at work, and what it sends later goes nowhere."""
            try:
                super().send_400_response(msg)
            except LocalProtocolError:  # the answer is out already; what follows it is rubbish
                self.transport.close()
            if self.cycle:
                self.cycle.disconnected = True
                self.cycle.message_event.set()

        def _silent(self) -> None:
            """Connected, but asked nothing whole: the place is for others."""
            if not self.cycle:  # None until a request began, whatever its annotation says
                self.transport.abort()

    return PageProtocol


def check_exposure(settings: Settings, *, is_open: bool) -> None:
    """Raises ConfigError where others could come in without a password, or passwords would travel in the clear."""
    own = settings.page
    if is_loopback(own.host):
        return
    if is_open:
        raise ConfigError(
            f"the page would be open to everybody at {own.host}",
            expected="at least one user, or page.host = 127.0.0.1",
            found="no users",
            do="Run `inspector page users add NAME --role setup` first.",
        )
    if own.certificate is None and not own.allow_plaintext:
        raise ConfigError(
            f"passwords would travel unencrypted to {own.host}",
            expected="page.certificate and page.key",
            found="neither",
            do="Name them, or set page.allow_plaintext where a proxy in front adds TLS.",
        )


def is_loopback(host: str) -> bool:
    """Whether only this computer can come in."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The bound socket. Raises ConfigError: in use, not an address of this host."""
    own = settings.page
    try:
        family, kind, number, _, place = socket.getaddrinfo(own.host, own.port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, number)
    except OSError as error:
        raise _no_door(settings, error) from error
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(place)
        yield door
    except OSError as error:
        raise _no_door(settings, error) from error
    finally:
        door.close()


def address(settings: Settings, door: socket.socket) -> str:
    """Where a browser finds the page."""
    host, port = door.getsockname()[:2]
    scheme = "http" if settings.page.certificate is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _no_door(settings: Settings, error: OSError) -> ConfigError:
    own = settings.page
    return ConfigError(
        f"the page cannot listen at {own.host} port {own.port}",
        found=error.strerror or str(error),
        do="Set page.host and page.port to a free address of this computer, or give --port.",
    )
