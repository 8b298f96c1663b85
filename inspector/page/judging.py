"""Judging: a part without the machine's answer, a decision, then the answer.

Until the decision is stored nothing that is sent names the part or tells what the machine said: the picture is fetched
by a token that only this server can resolve, for this reviewer, for a while.
"""

from __future__ import annotations

import base64
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from inspector.errors import ConfigError, LedgerError
from inspector.page.guard import Handler
from inspector.page.outline import path_of_png
from inspector.page.parts import Overlay
from inspector.page.shown import card_of
from inspector.review.masks import from_canvas
from inspector.review.records import Judgement, Opinion, PartKey, Picture, Review

if TYPE_CHECKING:
    from inspector.page.app import Page

_CANVAS = "data:image/png;base64,"
_PENDING_MAX = 256
_TRIES = 8
"""Parts of the queue whose picture is gone are passed over, at most so many at once."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A part that a reviewer looks at."""

    key: PartKey
    picture_sha256: str
    width_px: int
    height_px: int
    reviewer: str
    shown_ns: int
    waiting: int


@dataclass(slots=True)
class Table:
    """What lies on the table, by token. One event loop."""

    parts: OrderedDict[str, Pending] = field(default_factory=OrderedDict)

    def put(self, pending: Pending) -> str:
        """A token for it; the oldest goes when there are too many."""
        token = secrets.token_urlsafe(18)
        self.parts[token] = pending
        while len(self.parts) > _PENDING_MAX:
            self.parts.popitem(last=False)
        return token

    def of(self, token: str, reviewer: str) -> Pending | None:
        """None: another reviewer's, decided already, or from before a restart."""
        found = self.parts.get(token)
        return found if found is not None and found.reviewer == reviewer else None

    def take(self, token: str) -> None:
        """It was decided."""
        self.parts.pop(token, None)


async def judge(page: Page, request: Request) -> Response:
    """The next part, blind."""
    pending = await page.ask(_next, page, request.state.user.name)
    token = "" if pending is None else page.table.put(pending)
    template = "_judge.html" if request.headers.get("hx-request") else "judge.html"
    return page.html(request, template, pending=pending, token=token)


async def judge_picture(page: Page, request: Request) -> Response:
    """The picture alone."""
    pending = page.table.of(request.path_params["token"], request.state.user.name)
    if pending is None:
        raise HTTPException(404, "This part is no longer on the table")
    picture = await page.ask(_picture, page, pending.key)
    return Response(picture.png, media_type="image/png")


async def decide(page: Page, request: Request) -> Response:
    """Store the decision, then show what the machine had said."""
    form, user = request.state.form, request.state.user.name
    token = request.path_params["token"]
    pending = page.table.of(token, user)
    if pending is None:
        return RedirectResponse("/judge", 303)
    try:
        opinion = Opinion(form.get("opinion", ""))
    except ValueError:
        raise ConfigError("no such opinion", expected="defect, good or cannot_tell") from None
    took_ms = (page.clock.now_ns() - pending.shown_ns) // 1_000_000
    judgement = Judgement(
        key=pending.key,
        picture_sha256=pending.picture_sha256,
        reviewer=user,
        opinion=opinion,
        note=form.get("note", ""),
        mask_png=_mask(form.get("mask", ""), pending),
        took_ms=min(took_ms, 24 * 3600 * 1000),
    )
    review = await page.ask(page.promise.room().store.add, judgement)
    page.table.take(token)
    page.promise.changed()
    page.log.info("judged", part=pending.key.text, reviewer=user, opinion=opinion.value, took_ms=took_ms)
    shown = await page.ask(_reveal, page, review)
    template = "_reveal.html" if request.headers.get("hx-request") else "reveal.html"
    return page.html(request, template, pending=pending, review=review, **shown)


def _next(page: Page, reviewer: str) -> Pending | None:
    queue = page.promise.room().queue
    queue.refresh()
    for _ in range(_TRIES):
        item = queue.next(reviewer)
        if item is None:
            return None
        try:
            picture = _picture(page, item.key)
        except (LedgerError, ConfigError):
            queue.skip(reviewer, item.key)  # its picture went by quota meanwhile
            continue
        size = (picture.width_px, picture.height_px)
        return Pending(item.key, picture.sha256, *size, reviewer, page.clock.now_ns(), queue.waiting(reviewer))
    return None


def _picture(page: Page, key: PartKey) -> Picture:
    find: Callable[[PartKey], Picture] = page.promise.room().store.picture
    return find(key)


def _mask(text: str, pending: Pending) -> bytes | None:
    """A brushed canvas; None where nothing was brushed. Raises ConfigError."""
    if not text:
        return None
    if not text.startswith(_CANVAS):
        raise ConfigError("the mask cannot be used", expected="a canvas as PNG")
    try:
        png = base64.b64decode(text[len(_CANVAS) :], validate=True)
    except ValueError:  # binascii.Error, or signs that are not ASCII
        raise ConfigError("the mask cannot be used", expected="a canvas as PNG", found="no base64") from None
    return from_canvas(png, (pending.width_px, pending.height_px))


def _reveal(page: Page, review: Review) -> dict[str, Any]:
    record = page.parts.record(review.key)
    picture = _picture(page, review.key)
    found = "" if picture.machine_mask_png is None else path_of_png(picture.machine_mask_png)
    brushed = review.mask_sha256
    own = "" if brushed is None else path_of_png(page.promise.room().store.blob(brushed))
    return {
        "card": None if record is None else card_of(record.sent),
        "overlay": Overlay(picture.width_px, picture.height_px, found),
        "own_path": own,
        "agree": _agree(review),
    }


def _agree(review: Review) -> bool | None:
    """Whether person and machine say the same; None where one of them did not say."""
    said = {Opinion.DEFECT: "FAIL", Opinion.GOOD: "PASS"}.get(review.opinion)
    if said is None or review.machine_verdict.value == "INVALID":
        return None
    return said == review.machine_verdict.value


HANDLERS: dict[str, Handler] = {"judge": judge, "judge_picture": judge_picture, "decide": decide}
