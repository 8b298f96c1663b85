"""qualify: what the station may inspect with, by evidence or by name."""

from __future__ import annotations

import argparse
import getpass
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.cli.common import Commands, config_option, json_option, load, print_json, progress, share

if TYPE_CHECKING:
    from inspector.config import Settings
    from inspector.qualification import Record, Standing


def add(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "qualify",
        "Qualify the station for what it inspects with: by its qualification set, or by name",
        _qualify,
        config_option,
        _options,
        json_option,
    )


def _options(sub: argparse.ArgumentParser) -> None:
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="DIR", help="judge this qualification set, and qualify by it")
    what.add_argument("--accept", action="store_true", help="answer for the present recipe without a set")
    what.add_argument("--withdraw", action="store_true", help="take the present recipe's qualification back")
    what.add_argument("--show", action="store_true", help="where the station stands, and all records")
    sub.add_argument("--by", metavar="NAME", help="who qualifies; with users of the page: one of role setup")
    sub.add_argument("--note", default="", metavar="TEXT", help="why; needed with --accept and --withdraw")
    sub.add_argument("--layout", default="auto", help="of --data: auto, folder, kolektor-sdd, magnetic-tile, neu-seg")
    sub.add_argument("--max-flips", type=_count, default=0, metavar="N", help="verdicts that may differ (default 0)")
    sub.add_argument("--max-escape", type=share, metavar="SHARE", help="(default: what is promised)")
    sub.add_argument("--confidence", type=share, metavar="SHARE", help="(default: review.confidence)")
    sub.add_argument("--password-stdin", action="store_true", help="read the user's password from standard input")
    sub.epilog = "exit codes: 0 qualified (or shown), 1 not qualified, 2 bad usage or configuration, 3 no engine"


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def _qualify(arguments: argparse.Namespace) -> int:
    from inspector.clock import SystemClock
    from inspector.errors import ConfigError

    settings = load(arguments).settings
    if arguments.show:
        return _show(arguments, settings)
    by = _somebody(arguments, settings)
    if arguments.data is not None:
        return _by_replay(arguments, settings, by)
    if not arguments.note.strip():
        raise ConfigError("a person's word needs its reason", expected="--note TEXT", do="Say why, for the record.")
    from inspector.qualify import accept

    standing = accept(settings, by=by, note=arguments.note, clock=SystemClock(), withdraw=arguments.withdraw)
    _print_standing(arguments, standing)
    _print_where(arguments, settings)
    return 0 if standing.qualified or arguments.withdraw else 1


def _by_replay(arguments: argparse.Namespace, settings: Settings, by: str) -> int:
    from inspector.clock import SystemClock
    from inspector.qualify import percent, qualify

    with progress("qualify") as on_progress:
        outcome = qualify(
            settings,
            arguments.data,
            by=by,
            clock=SystemClock(),
            note=arguments.note,
            layout=arguments.layout,
            max_flips=arguments.max_flips,
            max_escape=arguments.max_escape,
            confidence=arguments.confidence,
            on_progress=on_progress,
        )
    if arguments.json:
        print_json(outcome.to_json())
    else:
        figures = outcome.figures
        print(
            f"{figures['images']} images: {figures['escapes']} of {figures['defective']} defective passed (at most "
            f"{percent(figures['escape_bound'])}, promised {percent(figures['max_escape'])}), "
            f"{figures['overkill']} of {figures['good']} good failed, {figures['flips']} of {figures['compared']} "
            "verdicts differ from the last qualification"
        )
        print(f"qualified by {by}" if outcome.qualified else "not qualified, because " + "; ".join(outcome.reasons))
        _print_where(arguments, settings)
    return 0 if outcome.qualified else 1


def _somebody(arguments: argparse.Namespace, settings: Settings) -> str:
    """Who answers for it. Where the page has users it must be one of role setup, and the password is asked."""
    from inspector.errors import ConfigError
    from inspector.page.access import Role
    from inspector.page.users import Users, fits

    by = (arguments.by or "").strip()
    if not by or not by.isprintable():
        raise ConfigError("nobody answers for this qualification", expected="--by NAME", do="Name yourself.")
    users = Users(settings.page.state_dir or settings.station.state_dir / "page")
    if not users.all():
        return by
    user = users.get(by)
    if not arguments.password_stdin and not sys.stdin.isatty():
        raise ConfigError(f"no password for {by} can be asked for here", do="Pipe it in, with --password-stdin.")
    ask = sys.stdin.readline if arguments.password_stdin else lambda: getpass.getpass(f"password for {by}: ")
    if not fits(user, ask().rstrip("\n")) or user is None or user.role is not Role.SETUP:
        raise ConfigError(
            f"{by} may not qualify this station",
            expected="the name and password of a user of role setup",
            do="`inspector page users list` names them.",
        )
    return by


def _print_where(arguments: argparse.Namespace, settings: Settings) -> None:
    """Which station it was: without --config it is the one of the folder one stands in."""
    if not arguments.json:
        print(f"station {settings.station.name}, records in {settings.station.state_dir.resolve()}")


def _show(arguments: argparse.Namespace, settings: Settings) -> int:
    from inspector import qualification
    from inspector.clock import SystemClock
    from inspector.qualify import present

    records = qualification.read(settings.station.state_dir)
    standing = qualification.stand(records, present(settings, SystemClock()))
    if arguments.json:
        print_json({**standing.to_json(), "records": [_fields(record) for record in records]})
        return 0
    _print_standing(arguments, standing)
    for record in records:
        fields = _fields(record)
        print(f"  {fields['at']}  {record.how:<9} {record.by:<16} {record.recipe.engine}  {record.note}")
    return 0


def _fields(record: Record) -> dict[str, Any]:
    from dataclasses import asdict

    at = datetime.fromtimestamp(record.wall_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M")
    return {**asdict(record), "at": at}


def _print_standing(arguments: argparse.Namespace, standing: Standing) -> None:
    if arguments.json:
        print_json(standing.to_json())
    else:
        print(standing.why if standing.qualified else f"not qualified, because {standing.why}")
