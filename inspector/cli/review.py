"""review stats, agreement, show, verify: what people judged, and what it says about the machine and about them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.cli.common import Commands, config_option, json_option, load, positive, print_json
from inspector.errors import ConfigError

if TYPE_CHECKING:
    from inspector.config import Settings
    from inspector.review.records import Review


def add(commands: Commands) -> None:
    """Add these commands."""
    review = commands.group("review", "What people judged: escapes, overkill, agreement, verify")
    places = (config_option, _place_options)
    review.add("stats", "Escapes, overkill, the promise", _stats, *places, _scope_options, _html_option, json_option)
    review.add(
        "agreement", "Reviewers, machine, reference", _agreement, *places, _kind_options, _html_option, json_option
    )
    review.add("show", "The newest judgements", _show, *places, _show_options, json_option)
    review.add("verify", "Chain, pictures, answers; exit 1 on findings", _verify, *places, json_option)


def _place_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--state-dir", type=Path, metavar="DIR", help="where ledger.db and reviews.db lie")
    sub.add_argument("--reviews", type=Path, metavar="FILE", help="the reviews' file (default: reviews.db there)")


def _scope_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--all", action="store_true", help="all parts, not only those decided as the newest was")


def _html_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--html", type=Path, metavar="FILE", help="write a report that needs nothing else")


def _kind_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--reference",
        choices=("consensus", "truth"),
        default="consensus",
        help="the other reviewers' majority (default), or the truth where the ledger knows it",
    )
    sub.add_argument("--not-blind", action="store_true", help="count judgements made with the answer in sight, too")


def _show_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--limit", type=positive, default=20, metavar="N", help="at most so many (default 20)")


def _where(arguments: argparse.Namespace) -> tuple[Settings, Path]:
    """The station's settings, with the state directory that was named, and the reviews' file."""
    from inspector.review.room import FILE, path_of

    settings = load(arguments).settings
    path: Path = arguments.reviews or path_of(settings)
    if arguments.state_dir is not None:
        station = settings.station.model_copy(update={"state_dir": arguments.state_dir})
        settings = settings.model_copy(update={"station": station})
        path = arguments.reviews or arguments.state_dir / FILE
    if not path.is_file():
        raise ConfigError(
            "nothing was judged yet",
            expected=f"a file {path}",
            found="none",
            do="Judge parts with `inspector page`, or name the station with --config, --state-dir or --reviews.",
        )
    return settings, path


def _stats(arguments: argparse.Namespace) -> int:
    from inspector.review.html import rate_cells, stats_page
    from inspector.review.population import Population
    from inspector.review.room import read_plan, read_sources, report
    from inspector.review.store import read_reviews

    settings, path = _where(arguments)
    population = Population(read_sources(settings).ledger, read_plan(settings))
    population.refresh()
    found = report(settings, read_reviews(path), population, everything=arguments.all)
    learned = found.learned
    if arguments.html is not None:
        arguments.html.write_text(stats_page(settings.station.name, found), encoding="utf-8")
    if arguments.json:
        told = asdict(found)
        told["learned"]["cells"] = {stratum.value: asdict(cell) for stratum, cell in learned.cells.items()}
        told["standing"]["state"] = found.standing.state.value
        print_json(told)
        return 0
    print("\n".join(found.standing.sentences))
    _table(
        ("", "estimate", "at least", "at most"),
        [
            (name, *rate_cells(rate))
            for name, rate in (
                ("escapes, of defective parts", learned.escapes),
                ("defective, of passed parts", learned.outgoing),
                ("overkill, of good parts", learned.overkill),
                ("false calls, of rejected parts", learned.false_calls),
            )
        ],
    )
    _table(
        ("answered", "parts", "judged", "defect", "good", "unclear"),
        [
            (stratum.value, *map(str, (cell.parts, cell.judged, cell.defect, cell.good, cell.unclear)))
            for stratum, cell in learned.cells.items()
        ],
    )
    return 0


def _agreement(arguments: argparse.Namespace) -> int:
    from inspector.review.agreement import analyse
    from inspector.review.html import agreement_page, kappa_cells, share_text
    from inspector.review.store import read_reviews

    settings, path = _where(arguments)
    found = analyse(read_reviews(path), reference=arguments.reference, blind_only=not arguments.not_blind)
    if arguments.html is not None:
        arguments.html.write_text(agreement_page(settings.station.name, found), encoding="utf-8")
    if arguments.json:
        print_json(_finite(asdict(found)))
        return 0
    print(f"{found.ratings} judgements of {found.parts} parts; reference: {found.reference}")
    pairs = [(f"{pair.first}, {pair.second}", *kappa_cells(pair.kappa)) for pair in found.pairs]
    if found.together is not None:
        pairs.append(("all reviewers (Fleiss)", *kappa_cells(found.together)))
    _table(("", "kappa", "95 % interval", "judged", ""), pairs)
    _table(
        ("against the reference", "kappa", "effectiveness", "misses", "false alarms"),
        [
            (
                each.rater,
                kappa_cells(each.kappa)[0],
                *map(share_text, (each.effectiveness, each.misses, each.false_alarms)),
            )
            for each in found.against
        ],
    )
    within = [(each.rater, share_text(each.repeated)) for each in found.within]
    _table(("repeated alike", "parts"), [*within, ("all reviewers agree", share_text(found.between))])
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from inspector.review.store import read_reviews

    _, path = _where(arguments)
    newest = read_reviews(path)[-arguments.limit :][::-1]
    if arguments.json:
        print_json({"reviews": [_row(each) for each in newest]})
        return 0
    for each in newest:
        told = _row(each)
        seen = "blind" if each.blind else "seen"
        line = (
            f"{told['time']}  {each.key.text}  {each.reviewer:<16} {told['opinion']:<11} {told['machine']:<7} {seen:<5}"
        )
        print(f"{line}  {each.note}".rstrip())
    return 0


def _row(review: Review) -> dict[str, Any]:
    from inspector.ledger.rows import utc_time

    return {
        "time": utc_time(review.decided_at_ns),
        "part": review.key.text,
        "part_id": review.part_id,
        "reviewer": review.reviewer,
        "opinion": review.opinion.value,
        "machine": review.machine_verdict.value,
        "reason": None if review.machine_reason is None else review.machine_reason.value,
        "stratum": review.stratum.value,
        "probability": review.probability,
        "blind": review.blind,
        "mask": review.mask_sha256,
        "note": review.note,
        "took_ms": review.took_ms,
        "hash": review.hash,
    }


def _verify(arguments: argparse.Namespace) -> int:
    from inspector.review.room import read_sources
    from inspector.review.verify import verify

    settings, path = _where(arguments)
    ledger = read_sources(settings).ledger
    found = verify(path, ledger if ledger.is_file() else None)
    if arguments.json:
        print_json(asdict(found))
        return 0 if found.ok else 1
    for finding in found.findings:
        print(f"FINDING  {finding.kind}: {finding.text}")
    against = "" if ledger.is_file() else "; the ledger is not here, answers were not compared"
    counts = f"{found.reviews} reviews, {found.blobs} pictures and masks, head {found.head}"
    print(f"{counts}: {'ok' if found.ok else 'NOT ok'}{against}")
    return 0 if found.ok else 1


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """The first column to the left, the others to the right."""
    every = [header, *lines]
    widths = [max(len(line[column]) for line in every) for column in range(len(header))]
    print()
    for line in every:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells]).rstrip())


def _finite(value: Any) -> Any:
    """NaN has no place in JSON."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
