"""install-service: unit, drop-ins, user, directories and a first configuration, with the paths of this installation."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import inspector
from inspector.cli.common import Commands, json_option, print_json
from inspector.errors import ConfigError, InspectorError

UNIT = "etc/systemd/system/inspector.service"
PAGE_UNIT = "etc/systemd/system/inspector-page.service"
DROP_INS = {"gpu": "50-gpu.conf", "usb": "50-usb.conf", "realtime": "60-realtime.conf", "page": "70-page.conf"}
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What the unit's sandbox hides from the daemon."""
NEXT = (
    "systemd-sysusers && systemd-tmpfiles --create",
    "inspector check-config --config {config}",
    "systemctl daemon-reload && systemctl enable --now inspector",
)
NEXT_PAGE = (
    "sudo -u inspector-page INSPECTOR_PAGE__STATE_DIR=/var/lib/inspector-page {command} page users add NAME "
    "--role setup",
    "systemctl enable --now inspector-page",
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One file to write."""

    path: Path
    """Below the prefix, without a leading slash."""
    text: str
    keep: bool = False
    """Leave what is there: it belongs to the plant."""


def add(commands: Commands) -> None:
    """Add the command."""
    commands.add("install-service", "Write the systemd unit and what belongs to it", _install, _options, json_option)


def _options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--dry-run", action="store_true", help="print the files instead of writing them")
    sub.add_argument("--prefix", type=Path, default=Path("/"), metavar="DIR", help="write below DIR (default /)")
    sub.add_argument("--config", type=Path, default=Path("/etc/inspector/config.toml"), help="the unit's configuration")
    sub.add_argument("--exec", type=Path, metavar="FILE", help="the inspector command (default: this installation's)")
    needs = {"gpu": "NVIDIA GPU", "usb": "USB3 Vision camera", "realtime": "real-time priority", "page": "the web page"}
    for name, what in needs.items():
        sub.add_argument(f"--{name}", action="store_true", help=f"with the drop-in for a station with {what}")


def _install(arguments: argparse.Namespace) -> int:
    command = arguments.exec or this_command()
    wanted = [name for name in DROP_INS if getattr(arguments, name)]
    made = pieces(command, arguments.config, wanted)
    needed = (command, Path(sys.prefix), _root())
    hidden = [str(path) for path in needed if any(path.is_relative_to(place) for place in HIDDEN)]
    if hidden and not arguments.dry_run and arguments.prefix == Path("/"):
        raise ConfigError(
            "the unit hides this installation from the daemon",
            expected="an installation outside " + ", ".join(HIDDEN),
            found=hidden[0],
            do="Install under /opt/inspector.",
        )
    if hidden:
        print(f"note: {hidden[0]} is hidden from the daemon by the unit's sandbox", file=sys.stderr)
    if arguments.dry_run:
        for piece in made:
            print(f"# {'-' * 8} {arguments.prefix / piece.path}\n{piece.text}")
        return 0
    done = {str(arguments.prefix / piece.path): write(arguments.prefix, piece) for piece in made}
    if arguments.json:
        print_json({"files": done})
        return 0
    for name, what in done.items():
        print(f"{what:<9}  {name}")
    print("next:")
    for line in (*NEXT, *(NEXT_PAGE if "page" in wanted else ())):
        print(f"  {line.format(config=arguments.config, command=command)}")
    return 0


def pieces(command: Path, config: Path, drop_ins: list[str]) -> list[Piece]:
    """All files. Raises ConfigError: a path that is not absolute or cannot stand in a unit; templates missing."""
    for path in (command, config):
        if not path.is_absolute() or any(sign in str(path) for sign in " \t\n\"'\\%$;"):
            raise ConfigError("a path cannot stand in the unit", expected="absolute, without blanks", found=str(path))
    made = [Piece(Path(UNIT), _unit("inspector.service", f"{command} run --config {config}"))]
    made += [Piece(Path(f"{UNIT}.d") / DROP_INS[name], template(f"{name}.conf")) for name in drop_ins]
    made.append(Piece(Path("etc/sysusers.d/inspector.conf"), template("sysusers.conf")))
    made.append(Piece(Path("etc/tmpfiles.d/inspector.conf"), template("tmpfiles.conf")))
    if "page" in drop_ins:
        made.append(Piece(Path(PAGE_UNIT), _unit("inspector-page.service", f"{command} page --config {config}")))
        made.append(Piece(Path("etc/sysusers.d/inspector-page.conf"), template("sysusers-page.conf")))
    if "usb" in drop_ins:
        made.append(Piece(Path("etc/udev/rules.d/70-inspector.rules"), template("udev.rules")))
    if "realtime" in drop_ins:
        made.append(Piece(Path("etc/udev/rules.d/71-inspector-realtime.rules"), template("udev-realtime.rules")))
    made.append(Piece(config.relative_to("/"), first_config(page="page" in drop_ins), keep=True))
    return made


def _unit(name: str, command: str) -> str:
    """The template with this installation's command."""
    lines = template(name).splitlines()
    return "\n".join(f"ExecStart={command}" if line.startswith("ExecStart=") else line for line in lines) + "\n"


def first_config(*, page: bool = False) -> str:
    """A simulated line: what is installed can be seen to run before a camera is there."""
    lines = [
        "# This station. The distribution's config.toml shows every key; `inspector check-config` checks this file.",
        "[station]",
        'name = "line-1"',
        'state_dir = "/var/lib/inspector"',
        "",
        "[camera]",
        'kind = "synthetic"                 # genicam, with producers = ["/path/to/producer.cti"]',
    ]
    engine, calibration = _root() / "engines" / "commutator", _root() / "calibration" / "synthetic.toml"
    if engine.is_dir():
        lines += ["", "[engine]", f'bundle = "{engine}"']
    if calibration.is_file():
        lines += ["", "[part]", f'calibration = "{calibration}"']
    if page:  # not by the unit's environment alone: `qualify` and `review` must find its users and reviews, too
        lines += ["", "[page]", 'state_dir = "/var/lib/inspector-page"']
    return "\n".join(lines) + "\n"


def write(prefix: Path, piece: Piece) -> str:
    """Write one file, whole or not at all; returns written, changed, unchanged or kept. Raises InspectorError."""
    path = prefix / piece.path
    try:
        former = path.read_text(encoding="utf-8") if path.exists() else None
        if former == piece.text:
            return "unchanged"
        if former is not None and piece.keep:
            return "kept"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.part")
        draft.write_text(piece.text, encoding="utf-8")
        draft.chmod(0o644)
        draft.replace(path)
    except OSError as error:
        do = "Run it as root, or give --prefix." if isinstance(error, PermissionError) else ""
        raise InspectorError(f"cannot write {path}", found=error.strerror or str(error), do=do) from error
    return "written" if former is None else "changed"


def template(name: str) -> str:
    """A file of systemd/, beside the source or where the wheel puts it. Raises ConfigError."""
    for folder in (_root() / "systemd", Path(sys.prefix) / "share" / "inspector" / "systemd"):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    raise ConfigError(f"the template {name} is missing", do="Install inspector anew, or copy systemd/ from its source.")


def this_command() -> Path:
    """The inspector command that belongs to the interpreter that runs now."""
    beside = Path(sys.executable).parent / "inspector"
    if not os.access(beside, os.X_OK):
        raise ConfigError("the inspector command is not beside its interpreter", found=str(beside), do="Give --exec.")
    return beside


def _root() -> Path:
    return Path(inspector.__file__).resolve().parent.parent
