"""shadow stats, show: how often the shadow's verdicts agreed with the live ones, and each flip."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.cli.common import Commands, config_option, json_option, load, positive, print_json

if TYPE_CHECKING:
    from inspector.shadow.book import Comparison

_CHANGES = ("pass_to_fail", "fail_to_pass", "to_invalid", "from_invalid")


def add(commands: Commands) -> None:
    """Add these commands."""
    shadow = commands.group("shadow", "The second engine that judges in idle time: look at what it would have said")
    shadow.add("stats", "Agreement by pair of engines", _stats, config_option, _place_options, json_option)
    shadow.add("show", "The newest flips", _show, config_option, _place_options, _show_options, json_option)


def _place_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--state-dir", type=Path, metavar="DIR", help="the daemon's (default: the configuration's)")


def _root(arguments: argparse.Namespace) -> Path:
    chosen: Path = arguments.state_dir or load(arguments).settings.station.state_dir
    return chosen / "shadow"


def _stats(arguments: argparse.Namespace) -> int:
    from inspector.shadow.book import comparisons

    rows = [_figures(one) for one in comparisons(_root(arguments))]
    if arguments.json:
        print_json({"pairs": rows})
        return 0
    for row in rows:
        changes = ", ".join(f"{name.replace('_', ' ')} {row[name]}" for name in _CHANGES)
        print(f"{row['bundle']} {row['shadow_engine']} against {row['live_engine']}, {row['first']} to {row['last']}")
        print(f"  {row['parts']} parts, {row['flips']} flips ({changes})")
        print(f"  at most {100 * row['flip_rate_upper']:.3g} % flip (95 % sure); {row['cpu_ms']:.1f} ms CPU a part")
    return 0


def _figures(one: Comparison) -> dict[str, Any]:
    """The keys of ``shadow stats --json``; the bound is the one-sided exact 95 % bound."""
    from inspector.bounds import upper_bound
    from inspector.shadow.records import FLIPS

    return {
        "bundle": one.bundle,
        "shadow_engine": one.shadow_engine,
        "live_engine": one.live_engine,
        "calibration": one.calibration,
        "settings": one.settings,
        "parts": one.parts,
        "flips": one.flips,
        **{change.value: one.changes[change] for change in FLIPS},
        "flip_rate_upper": upper_bound(one.flips, one.parts),
        "cpu_ms": one.cpu_ms,
        "first": _when(one.first_wall_ns),
        "last": _when(one.last_wall_ns),
    }


def _show_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--limit", type=positive, default=20, metavar="N", help="so many flips (default 20)")
    sub.add_argument("--change", choices=_CHANGES, help="only these")
    sub.add_argument("--engine", default="", metavar="HEX", help="only of this shadow engine (first digits)")


def _show(arguments: argparse.Namespace) -> int:
    from inspector.shadow.book import flips
    from inspector.shadow.records import FLIPS, Change

    kinds = (Change(arguments.change),) if arguments.change else FLIPS
    rows = flips(_root(arguments), limit=arguments.limit, kinds=kinds, engine=arguments.engine)
    if arguments.json:
        print_json({"flips": rows})
        return 0
    for row in rows:
        truth = {None: "", True: ", known defective", False: ", known good"}[row["truth"]]
        number = f"{row['epoch']}-{row['sequence']:06d}"
        print(f"{_when(row['wall_ns'])}  {number}  {row['part_id']}: {row['change'].replace('_', ' ')}{truth}")
        for who in ("live", "shadow"):
            why = "; ".join(row[f"{who}_rules"]) or row[f"{who}_reason"] or "nothing found"
            print(f"  {who:<7} {row[who]:<8} score {row[f'{who}_score']:.3f}  {why}")
        for path in row["pictures"].values():
            print(f"  {path}")
    if not rows:
        print("no flips")
    return 0


def _when(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
