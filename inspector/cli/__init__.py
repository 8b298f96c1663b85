"""The command line. Exit codes: 0 done, 1 a fault of ours, 2 bad usage or configuration, 3 camera or engine missing.

Rooms are imported where a command needs them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from inspector import __version__
from inspector.cli import (
    calibrate,
    drill,
    engines,
    install,
    ledger,
    line,
    page,
    qualify,
    replay,
    requalify,
    review,
    service,
    shadow,
)
from inspector.cli.common import EPILOG, Commands
from inspector.errors import InspectorError


def run(argv: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        code = arguments.command(arguments)
    except InspectorError as error:
        _tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.filename is None:
            raise  # not about a file that somebody named
        _tell(f"{error.filename} cannot be used; found {error.strerror}.")
        return InspectorError.exit_code
    return int(code or 0)


def _tell(what: object) -> None:
    """The process must end though nobody reads it: a service is started again only then."""
    from inspector.unhurried import say

    say(f"inspector: {what}", sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """All commands."""
    does = "Inline inspection: camera to verdict on the wire, for every part, exactly once."
    parser = argparse.ArgumentParser(prog="inspector", description=does, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"inspector {__version__}")
    commands = Commands(parser)
    rooms = (
        line,
        page,
        replay,
        qualify,
        requalify,
        calibrate,
        engines,
        ledger,
        review,
        drill,
        shadow,
        service,
        install,
    )
    for room in rooms:
        room.add(commands)
    return parser
