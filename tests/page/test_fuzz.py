"""Random requests to the page's own routes: no 500, no hang, nobody let in. The long run is benchmarks/page_fuzz.py."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.responses import Response

from inspector.clock import SystemClock
from inspector.page import app
from inspector.page.access import RULES
from inspector.page.app import Page
from tests.page.fuzz_kit import Fuzzer
from tests.page.page_kit import PASSWORD, Journal, count_all, make_page, served


def test_random_requests_find_no_fault(with_users: Page, journal: Journal) -> None:
    """Every route is asked, most are reached, and the journal has no error and no password."""
    with served(with_users) as url:
        count_all(with_users)
        found = Fuzzer(with_users, url, 7, SystemClock()).run(700)
    assert found.faults == []
    assert set(found.routes) == {rule.name for rule in RULES}
    reached = {name for name, count in found.admitted.items() if count}
    assert {"watch", "live", "rejects", "trend_data", "picture", "judge", "reviews", "static", "acknowledge"} <= reached
    assert [line for line in journal.lines if line["level"] == "error" or PASSWORD in str(line)] == []


def test_the_fuzz_finds_a_handler_that_stumbles_and_one_that_lets_in(
    with_users: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a handler that trusts a number, and a rule that was forgotten."""

    async def trusting(page: Page, request: Request) -> Response:
        return Response(str(int(request.url.query or "0")))

    monkeypatch.setitem(app.HANDLERS, "rejects", trusting)
    monkeypatch.setattr("inspector.page.guard._refusal", _admit_all)
    page = make_page(with_users.settings.station.state_dir)
    with served(page) as url:
        count_all(page)
        found = Fuzzer(page, url, 7, SystemClock()).run(300)
    assert any("500" in fault and "/rejects" in fault for fault in found.faults)
    assert any("let in with 200" in fault for fault in found.faults)


async def _admit_all(page: Page, rule: object, request: Request) -> Response | None:
    request.state.user, request.state.form = next(iter(page.users.all().values())), {}
    request.state.roles = page.roles_of(request.state.user)
    return None
