"""What the commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspector.config import Loaded

EPILOG = "exit codes: 0 done, 1 a fault of ours, 2 bad usage or configuration, 3 camera or engine not available"

Options = Callable[[argparse.ArgumentParser], None]


class Commands:
    """Adds commands one by one; each room's module adds its own."""

    def __init__(self, parser: argparse.ArgumentParser, *, required: bool = True) -> None:
        self._sub = parser.add_subparsers(required=required, metavar="COMMAND", title="commands")

    def add(self, name: str, does: str, function: Callable[[argparse.Namespace], int], *options: Options) -> None:
        """One command: its name, what it does in one line, the function, and what adds its options."""
        sub = self._sub.add_parser(name, help=does, description=does, epilog=EPILOG)
        for option in options:
            option(sub)
        sub.set_defaults(command=function)

    def add_group(
        self, name: str, does: str, function: Callable[[argparse.Namespace], int], *options: Options
    ) -> Commands:
        """A command that does something by itself and has commands of its own."""
        sub = self._sub.add_parser(name, help=does, description=does, epilog=EPILOG)
        for option in options:
            option(sub)
        sub.set_defaults(command=function)
        return Commands(sub, required=False)

    def group(self, name: str, does: str) -> Commands:
        """A command with commands of its own."""
        return Commands(self._sub.add_parser(name, help=does, description=does, epilog=EPILOG))


def config_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--config", type=Path, metavar="FILE", help="config.toml (default: built-in values)")


def json_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print one JSON object on the last line")


def engine_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--engine", type=Path, metavar="BUNDLE", help="engine bundle (default: the configuration's)")


def load(arguments: argparse.Namespace) -> Loaded:
    """The configuration that ``--config`` and ``--engine`` name."""
    from inspector import config

    engine = getattr(arguments, "engine", None)
    overrides = {"engine": {"bundle": engine}} if engine is not None else {}
    return config.load(arguments.config, **overrides)


def print_json(figures: dict[str, Any]) -> None:
    """The one object on the last line of stdout."""
    print(json.dumps(figures, sort_keys=True), flush=True)


def print_figures(figures: dict[str, Any]) -> None:
    """The same for people."""
    for key, value in figures.items():
        shown = f"{value:.4f}" if isinstance(value, float) else json.dumps(value)
        print(f"{key:>18}  {shown}")


def positive(text: str) -> int:
    """An argument type: a count of at least 1."""
    value = int(text)
    if not 1 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text} is not a count of at least 1")
    return value


def port(text: str) -> int:
    """An argument type: a port, or 0 for any free one."""
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is not a port, 0 to 65535")
    return value


def share(text: str) -> float:
    """An argument type: a share above 0 and below 1."""
    value = float(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not a share between 0 and 1")
    return value


def seconds(text: str) -> float:
    """An argument type: a time above 0, a day at most."""
    value = float(text)
    if not 0.0 < value <= 86_400.0:
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds, above 0")
    return value


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr that goes when it is done; what it gives is told (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
