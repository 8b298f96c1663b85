"""The page in a real browser: everything renders, is accessible, lives, and comes back by itself."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inspector.clock import SystemClock
from inspector.link.viewers import decode
from tests.conftest import ROOT
from tests.page.conftest import quick
from tests.page.fetch_browser import NAMES
from tests.page.page_kit import PASSWORD, count_all, make_page, served, wait
from tests.page.test_live import shown_part
from tests.station_kit import Wrapped, running, settings

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = os.environ.get("CHROMIUM") or next((path for path in map(shutil.which, NAMES) if path), None)
AXE = ROOT / "build" / "browser" / "axe.min.js"
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed (apt-get install chromium)")
PAGES = (
    "/watch",
    "/rejects",
    "/trends",
    "/trends?window=1h",
    "/alarms",
    "/station",
    "/judge",
    "/learn",
    "/part/000001-000000001",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests."""
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a tab; what its console complains of fails the test at the end."""
    complaints: list[str] = []
    contexts = []

    def opened(**options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints


def violations(tab: Any) -> list[str]:
    """What axe-core finds serious or critical."""
    tab.evaluate(AXE.read_text(encoding="utf-8"))
    found = tab.evaluate("axe.run()")["violations"]
    return [
        f"{tab.url} {one['id']}: {one['help']} {[node['target'] for node in one['nodes']][:3]}"
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]


@pytest.mark.timeout(400)
def test_every_page_is_accessible_in_both_themes(state: Path, tab: Callable[..., Any]) -> None:
    """axe-core finds nothing serious: names, labels, contrast, landmarks; on a tablet too; no script error anywhere."""
    if not AXE.is_file():
        pytest.skip("axe-core was not fetched (python tests/page/fetch_browser.py)")
    page = make_page(state)
    found: list[str] = []
    with served(page) as url:
        count_all(page)
        page.feed.came(decode(shown_part(3)))
        for scheme, width, paths in (("light", 1280, PAGES), ("dark", 800, ("/watch", "/rejects", "/learn"))):
            view = tab(color_scheme=scheme, viewport={"width": width, "height": 1000})
            for path in paths:
                view.goto(url.replace("127.0.0.1", "localhost") + path)
                view.wait_for_timeout(300)
                found += violations(view)
            view.goto(url + "/judge")
            view.keyboard.press("g")
            view.wait_for_selector("[data-reveal]")
            found += violations(view)
    assert not found, "\n".join(found)


def test_the_page_lives_while_the_line_runs(tmp_path: Path, tab: Callable[..., Any]) -> None:
    """Parts appear one after the other with picture, verdict and figures, without a reload."""
    wanted = settings(
        tmp_path, camera={"rate_hz": 5.0}, timing={"gate_ms": 60_000.0}, link={"viewers": "tcp://127.0.0.1:*"}
    )
    with running(wanted, wrap_engine=lambda engine: Wrapped(engine, quick)) as seen:
        viewers = seen.station.rooms.viewers
        assert viewers is not None
        page = make_page(tmp_path / "state", link={"viewers": viewers.endpoint})
        with served(page) as url:
            view = tab()
            view.goto(url + "/watch")
            shown = set()
            while len(shown) < 6:
                view.wait_for_function(
                    "k => !k.includes(document.querySelector('[data-part]')?.dataset.part ?? k[0])", arg=["", *shown]
                )
                shown.add(view.locator("[data-part]").get_attribute("data-part"))
                word = view.locator(".verdict strong").inner_text()
                assert word in {"PASS", "FAIL", "INVALID"}
            assert view.evaluate("document.querySelector('.picture img')?.naturalWidth ?? 1") > 0
            view.wait_for_function(
                "/Inspecting|Not inspecting/.test(document.querySelector('[data-state]').textContent)"
            )
            view.wait_for_function("document.querySelectorAll('.strip rect.pass, .strip rect.fail').length > 3")
            assert "picture" in view.locator("[data-age]").inner_text()
            view.wait_for_selector(".chart canvas")


def test_a_stale_picture_says_so_and_turns_grey(state: Path, tab: Callable[..., Any]) -> None:
    """Peers show a frozen picture as if it were live; here it is grey, and in words how old it is."""
    page = make_page(state, page={"port": 0, "stale_s": 1.0})
    with served(page) as url:
        view = tab()
        view.goto(url + "/watch")
        view.wait_for_function("document.querySelector('[data-state]').textContent !== 'connecting'")
        page.feed.came(decode(shown_part(5, wall_ns=SystemClock().wall_ns())))
        view.wait_for_selector('[data-part="000001-000000005"]')
        view.wait_for_selector("[data-live].stale")
        assert view.locator("[data-age]").inner_text().startswith("OLD PICTURE: no new part for")
        filtered = view.evaluate("getComputedStyle(document.querySelector('.picture img')).filter")
        assert "grayscale(1)" in filtered
        page.feed.came(decode(shown_part(6, wall_ns=SystemClock().wall_ns())))
        view.wait_for_selector("[data-live]:not(.stale)")


def test_the_page_comes_back_after_a_killed_server(state: Path, tab: Callable[..., Any]) -> None:
    """It says that it has no contact, and shows the newest part again when the server is back; nobody presses a key."""
    first = make_page(state)
    view = tab()
    with served(first) as url:
        view.goto(url + "/watch")
        first.feed.came(decode(shown_part(7)))
        view.wait_for_selector('[data-part="000001-000000007"]')
    view.wait_for_selector("[data-contact]:not([hidden])")
    assert "No contact" in view.locator("[data-contact]").inner_text()
    view.evaluate("window.untouched = true")
    second = make_page(state, page={"port": int(url.rpartition(":")[2])})
    with served(second):
        second.feed.came(decode(shown_part(8)))
        view.wait_for_selector('[data-part="000001-000000008"]')
        view.wait_for_selector("[data-contact]", state="hidden")
        assert view.evaluate("window.untouched")


def test_parts_are_judged_by_keyboard_alone(state: Path, tab: Callable[..., Any]) -> None:
    """D, G or C, then Space: one part after the other; a brushed stroke is kept with the verdict."""
    page = make_page(state)
    with served(page) as url:
        count_all(page)
        view = tab()
        view.goto(url + "/judge")
        for key in itertools.islice(itertools.cycle("dgc"), 6):
            view.wait_for_selector("[data-judge] img")
            view.keyboard.press(key)
            view.wait_for_selector("[data-reveal]")
            view.keyboard.press(" ")
        view.wait_for_selector("[data-judge] img")
        box = view.locator("canvas").bounding_box()
        assert box is not None
        view.mouse.move(box["x"] + 60, box["y"] + 60)
        view.mouse.down()
        view.mouse.move(box["x"] + 160, box["y"] + 100, steps=4)
        view.mouse.up()
        view.keyboard.press("n")
        view.keyboard.type("good grief: a scratch")  # letters that are keys elsewhere are text here
        view.keyboard.press("Escape")
        view.keyboard.press("d")
        view.wait_for_selector("[data-reveal] .own")
        reviews = page.promise.room().store.reviews()
        said = [review.opinion.value for review in reviews]
        assert said == ["defect", "good", "cannot_tell"] * 2 + ["defect"]
        assert reviews[-1].note == "good grief: a scratch" and reviews[-1].mask_sha256 is not None


def test_a_role_sees_its_pages(state: Path, users_file: Path, tab: Callable[..., Any]) -> None:
    """An operator logs in, acknowledges an alarm, and finds no way to judge."""
    page = make_page(state)
    shutil.copy2(users_file, page.users.path)
    with served(page) as url:
        wait(lambda: page.pulse.last.error, "the daemon was asked")
        page.alarms.tell("line: rejects", "5 of the last 10 parts failed", "Look at the last rejects", 10**18)
        view = tab()
        view.goto(url + "/rejects")
        view.fill("[name=name]", "olga")
        view.fill("[name=password]", PASSWORD)
        view.keyboard.press("Enter")
        view.wait_for_url("**/rejects")
        assert view.locator("nav >> text=Judge").count() == 0
        view.goto(url + "/watch")
        view.click("text=Acknowledge")
        view.wait_for_selector("text=Nothing calls for anybody")
        assert page.alarms.history(0, 1)[0].seen_by == "olga"
        assert view.goto(url + "/judge").status == 403
        view.click("text=Log out")
        view.wait_for_url("**/login")
