"""requalify: a candidate engine over the archive."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from inspector.cli.common import Commands, json_option, positive, print_figures, print_json


def add(commands: Commands) -> None:
    """Add the command."""
    does = "Judge an archive with a candidate engine: which verdicts would change"
    commands.add("requalify", does, _requalify, _options, json_option)


def _options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("archive", metavar="ARCHIVE", help="directory or URL that `ledger export --parquet` filled")
    sub.add_argument("--engine", type=Path, required=True, metavar="NEW", help="bundle of the candidate")
    sub.add_argument("--backend", default="auto", help="as in [engine] (default auto)")
    sub.add_argument("--precision", default="auto", help="as in [engine] (default auto)")
    sub.add_argument("--against", type=Path, metavar="OLD", help="bundle of the old side (default: archived answers)")
    sub.add_argument("--station", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    sub.add_argument("--out", default="requalified", metavar="DIR", help="report and results; a second call resumes")
    sub.add_argument("--ray", metavar="ADDRESS", help="on a Ray cluster; local starts one here (inspector[fleet])")
    sub.add_argument("--workers", type=positive, default=0, metavar="N", help="default: one a core")
    sub.add_argument("--pictures", type=int, default=200, metavar="N", help="flips shown with pictures (default 200)")


def _requalify(arguments: argparse.Namespace) -> int:
    from inspector.requalify.run import Wanted, requalify

    wanted = Wanted(
        archive=arguments.archive,
        engine=arguments.engine,
        out=arguments.out,
        against=arguments.against,
        backend=arguments.backend,
        precision=arguments.precision,
        ray=arguments.ray,
        workers=arguments.workers,
        stations=tuple(arguments.station),
        pictures=arguments.pictures,
    )
    figures = requalify(wanted, on_progress=_tell)
    for line in figures["faults"]:
        print(f"inspector: {line}", file=sys.stderr)
    if arguments.json:
        print_json(figures)
    else:
        print_figures(_short(figures))
    return 1 if figures["errors"] else 0


def _tell(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} shards", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    names = ("parts", "flips", "pass_to_fail", "fail_to_pass", "errors", "mask_changes", "shards", "resumed_shards")
    return {name: figures[name] for name in (*names, "parts_per_s", "workers", "report", "results")}
