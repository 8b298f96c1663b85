"""page, page users: the web page beside the line, and who may use it."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.cli.common import Commands, config_option, json_option, port, print_json

if TYPE_CHECKING:
    from inspector.config import Settings
    from inspector.page.app import Page

ROLES = ("operator", "quality", "setup")


def add(commands: Commands) -> None:
    """Add these commands."""
    page = commands.add_group(
        "page", "Serve the page: watch the line, judge parts, learn", _page, config_option, _options
    )
    users = page.group("users", "Who may use the page")
    users.add("add", "Add a user, or set a new password and role", _add, config_option, _name, _add_options)
    users.add("list", "List the users", _list, config_option, json_option)
    users.add("remove", "Remove a user; their sessions end at once", _remove, config_option, _name)


def _options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--host", help="listen at this address (default: the configuration's page.host)")
    sub.add_argument("--port", type=port, metavar="N", help="listen at this port; 0 = any free one")
    sub.add_argument(
        "--priority",
        choices=("idle", "nice"),
        default="nice",
        help="idle: only where a core is left over (default nice)",
    )


def _settings(arguments: argparse.Namespace) -> Settings:
    from inspector import config

    given = {name: getattr(arguments, name, None) for name in ("host", "port")}
    overrides: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return config.load(arguments.config, **({"page": overrides} if overrides else {})).settings


def _page(arguments: argparse.Namespace) -> int:
    from inspector.clock import SystemClock
    from inspector.errors import ConfigError
    from inspector.journal import open_journal

    try:
        from inspector.page.priority import step_behind
        from inspector.page.serve import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the page's libraries are not installed", found=str(error), do="Run `pip install inspector[page]`."
        ) from error
    settings = _settings(arguments)
    at = step_behind(arguments.priority)  # below the line, also where no service manager says so
    log = open_journal(settings.log.level, settings.log.format)
    log.info("page runs behind the line", priority=at)
    serve(settings, SystemClock(), log, _ready)
    return 0


def _ready(url: str, page: Page) -> None:
    print(f"page: {url}", flush=True)
    if page.is_open:
        print(
            "      no users yet: everybody at this computer may do everything, nobody else may come in.\n"
            "      add the first with: inspector page users add NAME --role setup",
            flush=True,
        )


# -- users -----------------------------------------------------------------------------------------------------------


def _name(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", metavar="NAME")


def _add_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--role", choices=ROLES, required=True, help="what they may do; docs/page.md has the table")
    sub.add_argument("--password-stdin", action="store_true", help="read the password from standard input")


def _folder(arguments: argparse.Namespace) -> Path:
    settings = _settings(arguments)
    return settings.page.state_dir or settings.station.state_dir / "page"


def _add(arguments: argparse.Namespace) -> int:
    from inspector.page.access import Role
    from inspector.page.users import Users

    is_new = Users(_folder(arguments)).add(arguments.name, Role(arguments.role), _password(arguments))
    print(f"{'added' if is_new else 'changed'}: {arguments.name}, {arguments.role}")
    return 0


def _password(arguments: argparse.Namespace) -> str:
    from inspector.errors import ConfigError

    if arguments.password_stdin:
        return sys.stdin.readline().rstrip("\n")
    first = getpass.getpass(f"password for {arguments.name}: ")
    if getpass.getpass("once more: ") != first:
        raise ConfigError("the two passwords differ", do="Type it again.")
    return first


def _list(arguments: argparse.Namespace) -> int:
    from inspector.page.users import Users

    users = Users(_folder(arguments)).all()
    if arguments.json:
        print_json({"users": [{"name": user.name, "role": user.role.value} for user in users.values()]})
        return 0
    for user in users.values():
        print(f"{user.name:<32} {user.role.value}")
    if not users:
        print("no users: the page is open to this computer, and to nobody else")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from inspector.page.users import Users

    Users(_folder(arguments)).remove(arguments.name)
    print(f"removed: {arguments.name}")
    return 0
