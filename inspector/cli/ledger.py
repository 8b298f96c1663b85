"""ledger show, stats, export, verify: what was answered, and whether all of it is there."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.cli.common import Commands, config_option, json_option, load, positive, print_figures, print_json
from inspector.errors import ConfigError

if TYPE_CHECKING:
    from inspector.archive.place import Place
    from inspector.ledger.audit import Filter, Record

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def add(commands: Commands) -> None:
    """Add these commands."""
    ledger = commands.group("ledger", "What was answered: look, count, export, verify")
    places = (config_option, _place_options)
    ledger.add("show", "The newest answers", _show, *places, _filter_options, _show_options, json_option)
    ledger.add("stats", "Yield, defects, latency", _stats, *places, _filter_options, json_option)
    ledger.add("export", "CSV, Parquet, images", _export, *places, _filter_options, _export_options, json_option)
    ledger.add("verify", "Reconcile all of it; exit 1 on findings", _verify, *places, _verify_options, json_option)


def _place_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--state-dir", type=Path, metavar="DIR", help="where ledger.db and images lie")
    sub.add_argument("--ledger", type=Path, metavar="FILE", help="another file: a backup, or one below retired/")


def _file(arguments: argparse.Namespace) -> Path:
    """The ledger's file."""
    chosen: Path | None = arguments.ledger
    return chosen if chosen is not None else _place(arguments) / "ledger.db"


def _place(arguments: argparse.Namespace) -> Path:
    """The state directory. Raises ConfigError where it has no ledger."""
    chosen: Path = arguments.state_dir or load(arguments).settings.station.state_dir
    if arguments.ledger is None and not (chosen / "ledger.db").is_file():
        raise ConfigError(
            f"no ledger in {chosen}", expected="ledger.db", do="Name the station with --config or --state-dir."
        )
    return chosen


def _filter_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--since", metavar="TIME", help="2026-03-01, 2026-03-01T06:00, or 8h, 2d before now")
    sub.add_argument("--until", metavar="TIME", help="exclusive, as --since")
    sub.add_argument("--verdict", choices=("PASS", "FAIL", "INVALID"))
    sub.add_argument("--reason", help="of INVALID: LATE, MISSED, ...")
    sub.add_argument("--part", metavar="ID", help="one part's answers")
    sub.add_argument("--epoch", type=int, help="one run of the daemon")


def _filter(arguments: argparse.Namespace) -> Filter:
    from inspector.frame import Reason, Verdict
    from inspector.ledger.audit import Filter

    reason = None
    if arguments.reason is not None:
        names = {each.value for each in Reason}
        if arguments.reason.upper() not in names:
            known = ", ".join(sorted(names))
            raise ConfigError("--reason is unknown", expected=f"one of {known}", found=arguments.reason)
        reason = Reason(arguments.reason.upper())
    return Filter(
        since_ns=_when(arguments.since),
        until_ns=_when(arguments.until),
        verdict=Verdict(arguments.verdict) if arguments.verdict else None,
        reason=reason,
        part_id=arguments.part,
        epoch=arguments.epoch,
    )


def _when(text: str | None) -> int | None:
    """Wall time in nanoseconds. A time without a zone is this machine's."""
    from datetime import datetime

    from inspector.clock import SystemClock

    if text is None:
        return None
    ago = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if ago:
        return SystemClock().wall_ns() - int(ago[1]) * _SECONDS[ago[2]] * 1_000_000_000
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1e6) * 1000
    except (ValueError, OverflowError, OSError):
        raise ConfigError("a time cannot be read", expected="2026-03-01T06:00, or 8h", found=text) from None


# -- show ------------------------------------------------------------------------------------------------------------


def _show_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--limit", type=positive, default=20, metavar="N", help="at most so many (default 20)")


def _show(arguments: argparse.Namespace) -> int:
    from inspector.ledger.audit import show

    records = show(_file(arguments), _filter(arguments), limit=arguments.limit)
    if arguments.json:
        print_json({"answers": [record_json(one) for one in records]})
        return 0
    for one in records:
        told = record_json(one)
        why = told["reason"] or "; ".join(told["rules"])
        acknowledged = "acked" if one.received_ns is not None else "no ack"
        number = f"{told['epoch']}-{told['sequence']:06d}"
        print(f"{told['time']}  {number}  {told['part_id']:<20} {told['verdict']:<7} {acknowledged:<6}  {why}")
    if not records:
        print("no answers")
    return 0


def record_json(record: Record) -> dict[str, Any]:
    """One part: what was sent, what was decided where that differs, and its acknowledgement."""
    from inspector.ledger.rows import utc_time

    sent, stored = record.sent, record.settled.answer
    told = asdict(sent) | {
        "time": utc_time(sent.wall_ns),
        "verdict": sent.verdict.value,
        "reason": sent.reason.value if sent.reason is not None else None,
        "stages_us": dict(stored.stages_us),
        "defects": [defect._asdict() | {"shape": defect.shape.value} for defect in stored.defects],
        "acknowledged": None if record.received_wall_ns is None else utc_time(record.received_wall_ns),
        "truth": record.settled.truth,
    }
    if sent.verdict is not stored.verdict:
        told["stored_verdict"] = stored.verdict.value
    return told


# -- stats -----------------------------------------------------------------------------------------------------------


def _stats(arguments: argparse.Namespace) -> int:
    from inspector.ledger.audit import stats

    found = stats(_file(arguments), _filter(arguments))
    figures = asdict(found)
    figures["yield"] = figures.pop("yield_")
    if arguments.json:
        print_json(figures)
        return 0
    figures.pop("pareto")
    print_figures(figures)
    if found.pareto:
        print(f"\n{'defect':<10} {'zone':<16} {'count':>7} {'parts':>7} {'share':>7} {'total':>7}")
    for line in found.pareto:
        shares = f"{line.share:>7.1%} {line.cumulated:>7.1%}"
        print(f"{line.shape:<10} {line.zone or '-':<16} {line.defects:>7} {line.parts:>7} {shares}")
    return 0


# -- export ----------------------------------------------------------------------------------------------------------


def _export_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--csv", type=Path, metavar="FILE", help="one line a part")
    sub.add_argument(
        "--parquet",
        metavar="FILE.parquet|DIR|URL",
        help="the same as one file; or into an archive of many stations, adding what is new (docs/requalify.md)",
    )
    sub.add_argument("--station", metavar="NAME", help="archive: the station's name (default: the configuration's)")
    sub.add_argument("--reviews", type=Path, metavar="FILE", help="archive: default reviews.db beside the ledger")
    sub.add_argument("--shard-parts", type=positive, default=2000, metavar="N", help="archive: parts in one shard")
    sub.add_argument("--images", type=Path, metavar="DIR", help="images and masks as `python -m train` reads them")
    sub.add_argument(
        "--masks",
        choices=("auto", "found", "empty"),
        default="auto",
        help="found: as the network saw it; empty: false calls become good parts; auto (default): by the known truth",
    )
    sub.add_argument(
        "--reviewed",
        action="store_true",
        help="with --images DIR: only what people judged, by their verdicts and masks, with groups, COCO, Label Studio",
    )
    sub.add_argument(
        "--group-by", choices=("part", "day", "run"), default="part", help="--reviewed: what no split may tear apart"
    )
    sub.add_argument(
        "--image-url",
        default="/data/local-files/?d=",
        metavar="PREFIX",
        help="--reviewed: what stands before a picture's name in the Label Studio import",
    )


def _export(arguments: argparse.Namespace) -> int:
    from inspector.ledger.export import export_csv, export_images, export_parquet

    if not (arguments.csv or arguments.parquet or arguments.images):
        raise ConfigError("nothing to export", do="Give --csv, --parquet or --images.")
    if arguments.reviewed:
        return _export_reviewed(arguments)
    place, wanted = _place(arguments), _filter(arguments)
    done: dict[str, Any] = {}
    to_archive = arguments.parquet is not None and not arguments.parquet.endswith(".parquet")
    if to_archive:
        done["archive"] = _to_archive(arguments, place)
    tables: list[tuple[str, Path | None, Callable[..., int]]] = [
        ("csv", arguments.csv, export_csv),
        ("parquet", None if to_archive or not arguments.parquet else Path(arguments.parquet), export_parquet),
    ]
    for name, out, export in tables:
        if out is not None:
            done[name] = {"file": str(out), "parts": export(_file(arguments), out, wanted)}
    if arguments.images is not None:
        images = export_images(_file(arguments), place / "images", arguments.images, wanted, masks=arguments.masks)
        done["images"] = {"folder": str(arguments.images), **asdict(images)}
    if arguments.json:
        print_json(done)
    else:
        print_figures(done)
    return 0


def _export_reviewed(arguments: argparse.Namespace) -> int:
    from inspector.review.export import export_reviewed
    from inspector.review.room import FILE, path_of

    others = ("csv", "parquet", "since", "until", "verdict", "reason", "part", "epoch")
    if arguments.images is None or any(getattr(arguments, name) is not None for name in others):
        raise ConfigError(
            "--reviewed exports everything that was judged",
            expected="--images DIR and no filter",
            do="Filter sources.csv.",
        )
    chosen: Path | None = arguments.state_dir
    path = path_of(load(arguments).settings) if chosen is None else chosen / FILE
    if not path.is_file():
        raise ConfigError("nothing was judged yet", expected=f"a file {path}", do="Judge parts with `inspector page`.")
    done = export_reviewed(path, arguments.images, grouping=arguments.group_by, url=arguments.image_url)
    told = {"reviewed": {"folder": str(arguments.images), **asdict(done)}}
    if arguments.json:
        print_json(told)
    else:
        print_figures(told)
    return 0


def _to_archive(arguments: argparse.Namespace, state_dir: Path) -> dict[str, Any]:
    from inspector.archive.export import Source, export_archive
    from inspector.archive.place import Place
    from inspector.clock import SystemClock

    if any((arguments.until, arguments.verdict, arguments.reason, arguments.part, arguments.epoch)):
        raise ConfigError(
            "an archive holds every answer from --since on",
            expected="--since alone",
            do="Query the archive, or export one file: --parquet FILE.parquet.",
        )
    name = arguments.station or load(arguments).settings.station.name
    place = Place(arguments.parquet)
    done = export_archive(
        Source(name, state_dir),
        place,
        clock=SystemClock(),
        since_ns=_when(arguments.since),
        shard_rows=arguments.shard_parts,
    )
    return {"archive": place.url, **asdict(done), "reviews": _reviews_to_archive(arguments, state_dir, place, name)}


def _reviews_to_archive(arguments: argparse.Namespace, state_dir: Path, place: Place, station: str) -> int:
    """All opinions anew, each time: they are few, and come long after the part. Returns how many."""
    from inspector.archive.opinions import write_reviews
    from inspector.review.room import FILE, path_of
    from inspector.review.store import read_reviews

    beside = state_dir / FILE if arguments.state_dir is not None else path_of(load(arguments).settings)
    path = arguments.reviews or beside
    if not path.is_file():
        if arguments.reviews is not None:
            raise ConfigError(f"no reviews at {path}", do="Name the file that `inspector review` writes.")
        return 0
    rows = (
        {name: getattr(one, name) for name in ("reviewer", "note", "decided_at_ns", "blind", "probability", "engine")}
        | {"picture_sha256": one.picture_sha256, "mask_sha256": one.mask_sha256}
        | {"station": station, "epoch": one.key.epoch, "sequence": one.key.sequence}
        | {"opinion": one.opinion.value, "stratum": one.stratum.value, "machine_verdict": one.machine_verdict.value}
        for one in read_reviews(path)
    )
    return write_reviews(place, station, rows)


# -- verify ----------------------------------------------------------------------------------------------------------


def _verify_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--no-images", action="store_true", help="leave the image store out")
    sub.add_argument("--deep", action="store_true", help="read every image and compare its digest")
    sub.add_argument("--quarantine", action="store_true", help="move images that no row knows to quarantine/")
    sub.add_argument("--strict", action="store_true", help="an answer without acknowledgement is a finding, too")


def _verify(arguments: argparse.Namespace) -> int:
    from inspector.ledger.audit import verify

    place = _place(arguments)
    store = place / "images"
    whole = arguments.ledger is None  # another file does not answer for all the images
    found = verify(
        _file(arguments),
        store if whole and store.is_dir() and not arguments.no_images else None,
        quarantine=arguments.quarantine,
        deep=arguments.deep,
        strict=arguments.strict,
    )
    if arguments.json:
        print_json(asdict(found))
        return 0 if found.ok else 1
    for epoch in found.epochs:
        opened = "?" if epoch.opened is None else epoch.opened
        ending = "ended in order" if epoch.closed else "open or killed"
        counts = (
            f"{opened} triggers, {epoch.answers} answers, {epoch.receipts} acknowledged, {epoch.overrides} replaced"
        )
        away = f", {epoch.removed} left by age" if epoch.removed else ""
        print(f"epoch {epoch.epoch}: {counts}{away}, {ending}")
    for finding in found.findings:
        print(f"{'known' if finding.known else 'FINDING'}  {finding.kind}: {finding.text}")
    print(f"{found.rows} rows, {found.pictures} images, head {found.head}: {'ok' if found.ok else 'NOT ok'}")
    return 0 if found.ok else 1
