"""The page for tests: over a ledger that the real line wrote, called directly or served by the real server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog
from starlette.testclient import TestClient

from inspector.clock import Clock, SystemClock
from inspector.config import Settings, load
from inspector.page.access import Role
from inspector.page.app import Page
from inspector.page.serve import PageServer, address, listening
from tests.station_kit import BUNDLE

OWN = {"Origin": "http://localhost"}
"""What a browser adds to a POST from our own page."""
HTML = {"Accept": "text/html"}
PASSWORD = "correct horse battery"
USERS = {"olga": Role.OPERATOR, "quentin": Role.QUALITY, "sam": Role.SETUP}


class Journal:
    """A log that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.log = structlog.wrap_logger(
            None, processors=[self._keep], wrapper_class=structlog.make_filtering_bound_logger(0)
        )

    def _keep(self, logger: object, level: str, fields: dict[str, Any]) -> dict[str, Any]:
        self.lines.append({"level": level, **fields})
        raise structlog.DropEvent


def page_settings(state: Path, **overrides: dict[str, Any]) -> Settings:
    """Settings of a page over the station's state directory ``state``."""
    tables: dict[str, dict[str, Any]] = {
        "station": {"name": "test", "state_dir": state},
        "engine": {"bundle": BUNDLE},
        "store": {"every_pass": 1, "pass_from_score": 0.0},
        "link": {"viewers": ""},
        "page": {"port": 0, "requests_hz": 1e6},
    }
    for section, table in overrides.items():
        tables.setdefault(section, {}).update(table)
    return load(None, {}, **tables).settings


def make_page(state: Path, clock: Clock | None = None, journal: Journal | None = None, **overrides: Any) -> Page:
    """A page that is not open yet."""
    return Page(page_settings(state, **overrides), clock or SystemClock(), (journal or Journal()).log)


@contextlib.contextmanager
def browsing(page: Page) -> Iterator[TestClient]:
    """A client of the open page, on this computer; redirects are not followed."""
    with TestClient(
        page.application, base_url="http://localhost", client=("127.0.0.1", 50000), follow_redirects=False
    ) as client:
        yield client


def count_all(page: Page) -> None:
    """Until the digest has counted the whole ledger."""
    wait(lambda: page.digest.followed().error == "" and page.digest.followed().behind == 0, "the ledger is counted")


def wait(holds: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Until it holds; asked a few times a second, because nothing tells."""
    pause, clock = threading.Event(), SystemClock()
    end_ns = clock.now_ns() + int(timeout_s * 1e9)
    while not holds():
        assert clock.now_ns() < end_ns, f"waited in vain: {what}"
        pause.wait(0.02)


def log_in(client: TestClient, name: str) -> None:
    """As one of USERS."""
    answer = client.post("/login", data={"name": name, "password": PASSWORD}, headers=OWN)
    assert answer.status_code == 303, answer.text


@contextlib.contextmanager
def served(page: Page) -> Iterator[str]:
    """The real server in a thread; gives its address."""
    with listening(page.settings) as door:
        server = PageServer(page, door)
        ready = threading.Event()
        server.on_ready = ready.set
        thread = threading.Thread(target=lambda: server.run(sockets=[door]), name="server", daemon=True)
        thread.start()
        assert ready.wait(30)
        try:
            yield address(page.settings, door)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
