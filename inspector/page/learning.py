"""What people's verdicts say: the promise, bounds of overkill and escapes, agreement, and the verdicts as a table."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from inspector.ledger.rows import utc_time
from inspector.page.guard import Handler
from inspector.review.records import Review

if TYPE_CHECKING:
    from inspector.page.app import Page

COLUMNS = (
    "link", "part", "part_id", "taken", "reviewer", "opinion", "note", "decided", "took_ms", "blind", "machine",
    "reason", "score", "stratum", "probability", "engine", "calibration", "settings", "hash",
)  # fmt: skip


async def learn(page: Page, request: Request) -> Response:
    """The report."""
    reference = "truth" if request.query_params.get("reference") == "truth" else "consensus"
    report = await page.ask(page.promise.report, reference)
    return page.html(request, "learn.html", report=report, config=page.settings)


async def reviews(page: Page, request: Request) -> Response:
    """Every verdict as CSV."""
    rows = await page.ask(page.promise.room().store.reviews)
    name = f"reviews-{page.settings.station.name}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(_table(rows), media_type="text/csv; charset=utf-8", headers=headers)


def _table(rows: list[Review]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(
            [
                row.link, row.key.text, _plain(row.part_id), utc_time(row.part_wall_ns), _plain(row.reviewer),
                row.opinion.value, _plain(row.note), utc_time(row.decided_at_ns), row.took_ms, int(row.blind),
                row.machine_verdict.value, row.machine_reason.value if row.machine_reason else "",
                row.machine_score, row.stratum.value, row.probability, row.engine, row.calibration, row.settings,
                row.hash,
            ]
        )  # fmt: skip
    return out.getvalue()


def _plain(text: str) -> str:
    """Spreadsheets run a cell that begins like a formula."""
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


HANDLERS: dict[str, Handler] = {"learn": learn, "reviews": reviews}
