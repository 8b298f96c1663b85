"""Learned figures and agreement as one HTML file that needs nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from inspector.review.agreement import Agreement, Share
from inspector.review.kappa import Kappa, words
from inspector.review.learn import Rate
from inspector.review.records import Stratum
from inspector.review.room import Report

_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #999;padding:.3em .7em;text-align:right}"
    "td:first-child,th:first-child{text-align:left}caption{text-align:left;font-weight:bold}"
)


def stats_page(station: str, report: Report) -> str:
    """The promise, the rates and the cells."""
    learned, standing = report.learned, report.standing
    rates = [
        ("escapes, of defective parts", learned.escapes),
        ("defective, of passed parts", learned.outgoing),
        ("overkill, of good parts", learned.overkill),
        ("false calls, of rejected parts", learned.false_calls),
    ]
    cells = [
        (stratum.value, *map(str, (cell.parts, cell.judged, cell.defect, cell.good, cell.unclear)))
        for stratum, cell in learned.cells.items()
        if stratum is not Stratum.PICKED
    ]
    return _page(
        f"Reviews of {station}",
        [f"<p>{escape(line)}</p>" for line in standing.sentences],
        _table("Rates", ("", "estimate", "at least", "at most"), [(name, *rate_cells(rate)) for name, rate in rates]),
        _table("Parts", ("answered", "parts", "judged", "defect", "good", "unclear"), cells),
    )


def agreement_page(station: str, found: Agreement) -> str:
    """Pairs, each rater against the reference, repeatability."""
    pairs = [(f"{pair.first} and {pair.second}", *kappa_cells(pair.kappa)) for pair in found.pairs]
    if found.together is not None:
        pairs.append(("all reviewers (Fleiss)", *kappa_cells(found.together)))
    against = [
        (
            each.rater,
            *kappa_cells(each.kappa)[:1],
            *map(share_text, (each.effectiveness, each.misses, each.false_alarms)),
        )
        for each in found.against
    ]
    within = [(each.rater, share_text(each.repeated)) for each in found.within]
    within.append(("all reviewers agree", share_text(found.between)))
    return _page(
        f"Agreement at {station}",
        [f"<p>{found.ratings} judgements of {found.parts} parts; reference: {found.reference}.</p>"],
        _table("Raters against each other", ("", "kappa", "95 % interval", "parts", ""), pairs),
        _table("Against the reference", ("", "kappa", "effectiveness", "misses", "false alarms"), against),
        _table("Repeated alike", ("", "parts"), within),
    )


def rate_cells(rate: Rate) -> tuple[str, str, str]:
    """Estimate and one-sided bounds, for people."""
    return "-" if rate.estimate is None else f"{rate.estimate:.2%}", f"{rate.lower:.2%}", f"{rate.upper:.2%}"


def kappa_cells(kappa: Kappa | None) -> tuple[str, str, str, str]:
    """Kappa, interval, number, and what the manual calls it."""
    if kappa is None:
        return "-", "-", "0", "nothing in common"
    if kappa.kappa != kappa.kappa:
        return "-", "-", str(kappa.n), words(kappa.kappa)
    return f"{kappa.kappa:.2f}", f"{kappa.lower:.2f} to {kappa.upper:.2f}", str(kappa.n), words(kappa.kappa)


def share_text(share: Share) -> str:
    """k of n, the rate and its exact interval."""
    if share.rate is None:
        return "-"
    return f"{share.k} of {share.n}: {share.rate:.1%} ({share.lower:.1%} to {share.upper:.1%})"


def _table(caption: str, header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    rows = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines]
    return [f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>", *rows, "</table>"]


def _page(title: str, *blocks: list[str]) -> str:
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
    body = [line for block in blocks for line in block]
    return "\n".join([f"{head}<style>{_STYLE}</style><h1>{escape(title)}</h1>", *body, "</html>", ""])
