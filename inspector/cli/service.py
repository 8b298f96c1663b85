"""status, keys: the running daemon, and who may talk to it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from inspector.cli.common import Commands, config_option, json_option, load, print_json, seconds


def add(commands: Commands) -> None:
    """Add these commands."""
    commands.add("status", "Ask the running daemon how it is", _status, config_option, _status_options, json_option)
    keys = commands.group("keys", "CURVE keys: make, admit and list them")
    keys.add("new", "Make a key pair", _keys_new, config_option, _keys_new_options, json_option)
    keys.add("allow", "Admit a client by its public key", _keys_allow, config_option, _keys_allow_options, json_option)
    keys.add("list", "List the admitted keys", _keys_list, config_option, _dir_option, json_option)


# -- status ----------------------------------------------------------------------------------------------------------


def _status_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--state-dir", type=Path, metavar="DIR", help="the daemon's (default: the configuration's)")
    sub.add_argument("--timeout", type=seconds, default=3.0, metavar="S", help="wait so long (default 3)")
    sub.epilog = "exit codes: 0 it runs, 1 it runs in state Error or does not answer, 3 no daemon runs here"


def _status(arguments: argparse.Namespace) -> int:
    from inspector.clock import SystemClock
    from inspector.health.asking import ask

    state_dir = arguments.state_dir or load(arguments).settings.station.state_dir
    report = ask(state_dir, clock=SystemClock(), timeout_s=arguments.timeout)
    if arguments.json:
        print_json(report)
    else:
        for line in status_lines(report):
            print(line)
    return 1 if report["state"] == "Error" else 0


def status_lines(report: dict[str, Any]) -> list[str]:
    """The report for people, the state first, then what is wrong and what to do."""
    station, counts, engine, hashes = report["station"], report["counts"], report["engine"], report["hashes"]
    lines = [f"{station['name']}: {report['state']}, epoch {station['epoch']}, up {_span(station['uptime_s'])}"]
    for one in report["conditions"]:
        weight = "parts are not inspected" if one["stops"] else "parts are inspected"
        lines += [f"  {one['name']}, for {_span(one['for_s'])}: {one['text']} ({weight})", f"    {one['do']}"]
    standing = report.get("qualification", {"qualified": True})
    if not standing["qualified"]:
        lines += [f"  not qualified, because {standing['why']}", "    Run `inspector qualify`; answers are flagged"]
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(counts["reasons"].items()))
    rows = [
        ("parts", f"{counts['triggered']} triggered, {counts['answered']} answered, {counts['acknowledged']} acked"),
        ("verdicts", f"{counts['pass']} PASS, {counts['fail']} FAIL, {counts['invalid']} INVALID"),
        ("reasons", reasons),
        ("latency", _milliseconds(report["latency_ms"], ("p50", "p99", "max")) + " of the last parts"),
        ("margin", _milliseconds(report["margin_ms"], ("min", "p1", "p50")) + " left at the answer"),
        ("camera", f"{station['camera']}: {_counts(report['camera'])}"),
        ("link", f"{station['endpoint']}: {_counts(report['link'], _LINK)}"),
        ("viewers", station["viewers"]),
        ("metrics", station["metrics"]),
        ("ledger", f"{report['ledger']['rows']} rows, commit p99 {report['ledger']['commit_p99_us'] / 1000:.2f} ms"),
        ("images", f"{_bytes(report['store']['used_bytes'])} kept, {report['store']['shed']} shed"),
        ("disk", f"{_bytes(report['disk'].get('free_bytes'))} free"),
    ]
    if engine:
        rows.append(("engine", " ".join(engine[key] for key in ("bundle", "backend", "precision", "device"))))
        rows.append(("hashes", " ".join(f"{name} {digest}" for name, digest in sorted(hashes.items()))))
    if standing["qualified"] and "why" in standing:
        rows.append(("standing", standing["why"]))
    rows.append(("shadow", _shadow(report.get("shadow", {}))))
    return lines + [f"  {name:<9} {text}" for name, text in rows if text]


def _shadow(section: dict[str, Any]) -> str:
    """Empty where none is configured."""
    if not section.get("on"):
        return ""
    flips = ", ".join(f"{name.replace('_', ' ')} {section[name]}" for name in _FLIPS)
    skipped = sum(count for name, count in section.items() if name.startswith("skipped_"))
    which = f"{section['bundle']} {section['engine']}" if section["up"] else "not up"
    return f"{which}: {section['compared']} compared, {flips}, {skipped} skipped, {section['restarts']} restarts"


_FLIPS = ("pass_to_fail", "fail_to_pass", "to_invalid", "from_invalid")


_LINK = ("connected", "sent", "resent", "unacknowledged", "expired", "refused")


def _counts(section: dict[str, Any], names: tuple[str, ...] = ()) -> str:
    chosen = names or tuple(section)
    return ", ".join(f"{name.replace('_', ' ')} {_word(section[name])}" for name in chosen)


def _word(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _milliseconds(section: dict[str, float | None], names: tuple[str, ...]) -> str:
    known = [(name, section.get(name)) for name in names]
    return ", ".join(f"{name} {'-' if value is None else f'{value:.1f} ms'}" for name, value in known)


def _span(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"


def _bytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


# -- keys ------------------------------------------------------------------------------------------------------------


def _dir_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--keys-dir", type=Path, metavar="DIR", help="(default: the configuration's link.keys_dir, or keys)"
    )


def _keys_dir(arguments: argparse.Namespace) -> Path:
    chosen: Path | None = arguments.keys_dir or load(arguments).settings.link.keys_dir
    return chosen or Path("keys")


def _keys_new_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", nargs="?", default="server", help="server (default): the daemon's; else a client's")
    _dir_option(sub)


def _keys_new(arguments: argparse.Namespace) -> int:
    from inspector.link.keys import new

    public, secret = new(_keys_dir(arguments), arguments.name)
    if arguments.json:
        print_json({"public": str(public), "secret": str(secret)})
    else:
        print(
            f"public key  {public}\nsecret key  {secret}  (keep it where it is used; never copy it to the other side)"
        )
    return 0


def _keys_allow_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("public_file", type=Path, metavar="FILE.key", help="the client's public key file")
    sub.add_argument("--role", choices=("controllers", "viewers"), default="controllers", help="(default controllers)")
    sub.add_argument("--name", help="list it under this name (default: the file's)")
    _dir_option(sub)


def _keys_allow(arguments: argparse.Namespace) -> int:
    from inspector.link.keys import allow

    target = allow(_keys_dir(arguments), arguments.public_file, arguments.role, arguments.name)
    if arguments.json:
        print_json({"admitted": str(target), "role": arguments.role})
    else:
        print(f"admitted among the {arguments.role}: {target}; a running daemon takes it up when it reloads")
    return 0


def _keys_list(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from inspector.link.keys import listed

    keys = listed(_keys_dir(arguments))
    if arguments.json:
        print_json({"keys": [asdict(key) for key in keys]})
        return 0
    for key in keys:
        print(f"{key.role:<12} {key.name:<24} {key.public}")
    if not keys:
        print("no keys are admitted")
    return 0
