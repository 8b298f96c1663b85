"""What is looked up: rejects, one part, its picture, trends, alarms, the station."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from inspector.errors import ConfigError, quoted
from inspector.frame import Reason, Verdict
from inspector.ledger.query import Reading
from inspector.page.guard import Handler
from inspector.page.questions import (
    PAGE,
    WINDOWS,
    Wanted,
    epoch_totals,
    known_kinds,
    pareto,
    reasons,
    recent_trend,
    reject_links,
    rows_of,
    totals,
    window_trend,
)
from inspector.page.shown import card_of, card_of_row
from inspector.review.records import PartKey

if TYPE_CHECKING:
    from inspector.page.app import Page

LAST_PARTS = 300
_ALARMS = 50
_LONGEST = 64
_MOST = (1 << 63) - 1
_DAYS_NS = 86_400_000_000_000


async def rejects(page: Page, request: Request) -> Response:
    """FAIL and INVALID by what was wrong with them, newest first."""
    wanted, asked = _wanted(dict(request.query_params))
    links, cards, kinds = await page.ask(_rejects, page, wanted)
    following = "/rejects?" + urlencode({**asked, "before": links[PAGE - 1]}) if len(links) > PAGE else ""
    template = "_cards.html" if request.headers.get("hx-request") and wanted.before else "rejects.html"
    return page.html(request, template, cards=cards, asked=asked, following=following, kinds=kinds)


async def part(page: Page, request: Request) -> Response:
    """All that is known of one part."""
    key = _key(page, request.path_params["key"])
    record = await page.ask(page.parts.record, key)
    if record is None:
        raise HTTPException(404, f"There is no part {key.text}")
    overlay = await page.ask(page.parts.overlay, key)
    replaced = record.sent is not record.settled.answer
    shown: dict[str, Any] = {
        "card": card_of(record.sent),
        "decided": card_of(record.settled.answer) if replaced else None,
        "answer": record.settled.answer,
        "received_wall_ns": record.received_wall_ns,
        "overlay": overlay,
    }
    return page.html(request, "part.html", **shown)


async def picture(page: Page, request: Request) -> Response:
    """The part as the engine saw it, as it was stored. It never changes, so browsers keep it."""
    key = _key(page, request.path_params["key"].removesuffix(".png"))
    png = await page.ask(page.parts.picture, key)
    if png is None:
        raise HTTPException(404, "No picture of this part is kept")
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})


async def trends(page: Page, request: Request) -> Response:
    """Charts, Pareto and reasons of a window."""
    window = _window(request)
    shown = await page.ask(_trends, page, window)
    return page.html(request, "trends.html", window=window, windows=["parts", *WINDOWS], last_parts=LAST_PARTS, **shown)


async def trend_data(page: Page, request: Request) -> Response:
    """What the charts draw."""
    data = await page.ask(_trend_data, page, _window(request))
    return JSONResponse(data)


async def alarms(page: Page, request: Request) -> Response:
    """What calls, and what was."""
    before = _number(request.query_params.get("before", ""))
    calling = await page.ask(page.alarms.calling)
    history = await page.ask(page.alarms.history, before, _ALARMS + 1)
    following = history[_ALARMS - 1].number if len(history) > _ALARMS else 0
    return page.html(request, "alarms.html", alarms=calling, history=history[:_ALARMS], following=following)


async def acknowledge(page: Page, request: Request) -> Response:
    """Somebody has seen it; kept with the name, in the page's own file."""
    number, user = _number(request.path_params["number"]), request.state.user.name
    note = request.state.form.get("note", "")[:500]
    if not number or not await page.ask(page.alarms.acknowledge, number, user, note):
        raise HTTPException(404, "There is no such alarm")
    page.log.info("alarm acknowledged", number=number, user=user)
    if request.headers.get("hx-request"):
        return page.html(request, "_alarms.html", alarms=await page.ask(page.alarms.calling))
    return RedirectResponse("/alarms", 303)


async def station(page: Page, request: Request) -> Response:
    """What decides here: engine, precision, hashes, promise; and how the parts of the system are."""
    told = await page.ask(page.promise.standing)
    shown: dict[str, Any] = {
        "beat": page.pulse.last,
        "followed": page.digest.followed(),
        "feed": page.feed.statistics(),
        "hub": page.hub.statistics(),
        "told": told,
    }
    return page.html(request, "station.html", **shown)


# -- inside ------------------------------------------------------------------------------------------------------------


def _rejects(page: Page, wanted: Wanted) -> tuple[list[int], list[tuple[Any, bool]], Any]:
    """Links of one page and one more; cards of those that the ledger still has, and whether there is a picture; what
    filters may name."""
    with page.digest.reading() as connection:
        links = reject_links(connection, wanted, PAGE + 1)
        kinds = known_kinds(connection)
    if not links:
        return [], [], kinds
    with Reading(page.ledger) as ledger:
        rows = rows_of(ledger, links[:PAGE])
    keys = [PartKey(page.settings.station.name, row.epoch, row.sequence) for row in rows]
    kept = page.parts.kept(keys)
    return links, [(card_of_row(row), key in kept) for row, key in zip(rows, keys, strict=True)], kinds


def _since_ns(page: Page, window: str) -> int:
    return page.clock.wall_ns() - WINDOWS.get(window, WINDOWS["8h"]) * 1_000_000_000


def _trends(page: Page, window: str) -> dict[str, Any]:
    since_ns = _since_ns(page, window)
    with page.digest.reading() as connection:
        return {
            "totals": totals(connection, since_ns),
            "run": epoch_totals(connection),
            "pareto": pareto(connection, since_ns),
            "reasons": reasons(connection, since_ns),
        }


def _trend_data(page: Page, window: str) -> dict[str, Any]:
    threshold = page.promise.standing().threshold
    if window == "parts":
        with Reading(page.ledger) as ledger:
            return {**recent_trend(ledger, LAST_PARTS), "threshold": threshold}
    with page.digest.reading() as connection:
        trend = window_trend(connection, _since_ns(page, window), page.clock.wall_ns())
    return {**trend, "threshold": threshold}


def _window(request: Request) -> str:
    window = request.query_params.get("window", "parts")
    return window if window in WINDOWS else "parts"


def _wanted(query: dict[str, str]) -> tuple[Wanted, dict[str, str]]:
    """The filters, and those that are set for links. Raises ConfigError for what is none."""
    known = {"verdict", "reason", "shape", "zone", "part", "since", "until"}
    asked = {name: query[name][:_LONGEST] for name in sorted(known) if query.get(name)}
    if asked.get("verdict") not in {None, Verdict.FAIL.value, Verdict.INVALID.value}:
        raise ConfigError("no such verdict among rejects", expected="FAIL or INVALID", found=quoted(asked["verdict"]))
    if asked.get("reason") not in {None, *(reason.value for reason in Reason)}:
        raise ConfigError("no such reason", found=quoted(asked["reason"]))
    wanted = Wanted(
        verdict=asked.get("verdict", ""),
        reason=asked.get("reason", ""),
        shape=asked.get("shape", ""),
        zone=None if "zone" not in asked else asked["zone"].removeprefix("-"),
        part=asked.get("part", ""),
        since_ns=_day(asked.get("since")),
        before=_number(query.get("before", "")),
    )
    until_ns = _day(asked.get("until"))
    return (replace(wanted, until_ns=until_ns + _DAYS_NS) if until_ns else wanted), asked


def _day(text: str | None) -> int:
    """2026-11-22 at the station's midnight in nanoseconds; 0 for none. Raises ConfigError."""
    if not text:
        return 0
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").astimezone().timestamp()) * 1_000_000_000
    except (ValueError, OverflowError, OSError):
        raise ConfigError("no such day", expected="YYYY-MM-DD", found=quoted(text)) from None


def _number(text: str) -> int:
    """A whole number from an address; 0 for none. Raises ConfigError."""
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) > _MOST:
        raise ConfigError("no such number", found=quoted(text))
    return int(text)


def _key(page: Page, text: str) -> Any:
    try:
        return page.parts.key(text)
    except ConfigError as error:
        raise HTTPException(404, str(error)) from None


HANDLERS: dict[str, Handler] = {
    "rejects": rejects,
    "part": part,
    "picture": picture,
    "trends": trends,
    "trend_data": trend_data,
    "alarms": alarms,
    "acknowledge": acknowledge,
    "station": station,
}
