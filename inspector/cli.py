"""The command line. Exit codes: 0 done, 1 a fault of ours, 2 bad usage or configuration, 3 camera or engine missing.

Rooms are imported where a command needs them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector import __version__
from inspector.errors import InspectorError

if TYPE_CHECKING:
    from inspector.config import Loaded

EPILOG = "exit codes: 0 done, 1 a fault of ours, 2 bad usage or configuration, 3 camera or engine not available"


def run(argv: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        code = arguments.command(arguments)
    except InspectorError as error:
        print(f"inspector: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    return int(code or 0)


def build_parser() -> argparse.ArgumentParser:
    """All commands."""
    parser = argparse.ArgumentParser(prog="inspector", description=__doc__.split("\n", maxsplit=1)[0], epilog=EPILOG)
    parser.description = "Inline inspection: camera to verdict on the wire, for every part, exactly once."
    parser.add_argument("--version", action="version", version=f"inspector {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    def command(name: str, does: str, function: Any, *options: Any) -> None:
        sub = commands.add_parser(name, help=does, description=does, epilog=EPILOG)
        for option in options:
            option(sub)
        sub.set_defaults(command=function)

    command("demo", "Run a simulated commutator line and show it", _demo, _demo_options, _json_option)
    command("run", "Run the daemon", _run, _config_option, _run_options, _json_option)
    command("replay", "Judge recorded images with the line's own code", _replay, _replay_options, _json_option)
    command("listen", "Reference controller: receive, acknowledge, print", _listen, _listen_options)
    command("cameras", "List the cameras each GenTL producer sees", _cameras, _cameras_options, _json_option)
    command("check-config", "Validate and print the effective configuration", _check_config, _config_option)
    command("bench", "Latency of the bare engine loop and of the whole line", _bench, _bench_options, _json_option)
    return parser


def _config_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--config", type=Path, metavar="FILE", help="config.toml (default: built-in values)")


def _json_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print one JSON object on the last line")


def _load(arguments: argparse.Namespace) -> Loaded:
    from inspector import config

    return config.load(arguments.config)


def _print_json(figures: dict[str, Any]) -> None:
    print(json.dumps(figures, sort_keys=True), flush=True)


# ---------------------------------------------------------------------------------------------------------------- demo


def _demo_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--parts", type=_positive, default=60, metavar="N", help="parts to inspect (default 60)")
    sub.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="parts per second (default 10)")
    sub.add_argument("--seed", type=int, default=1, metavar="S", help="which parts come (default 1)")
    sub.add_argument("--engine", type=Path, metavar="BUNDLE", help="engine bundle (default engines/commutator)")
    sub.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR", help="pictures and ledger go here")


def _demo(arguments: argparse.Namespace) -> int:
    from inspector.demo import Demo
    from inspector.demo_view import View

    demo = Demo(arguments.parts, arguments.rate, arguments.seed, arguments.out, arguments.engine)
    with View(arguments.parts, quiet=arguments.json) as view:
        demo.on_answer = view.add
        figures = demo.run()
    view.summary(figures)
    if arguments.json:
        _print_json(figures)
    whole = figures["triggered"] == figures["answered"] == figures["acknowledged"]
    return 0 if whole and not figures["conflicts"] else 1


# ----------------------------------------------------------------------------------------------------------------- run


def _run_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--max-parts", type=_positive, metavar="N", help="stop in order after N parts")


def _run(arguments: argparse.Namespace) -> int:
    from inspector.station import Station

    loaded = _load(arguments)
    station = Station(loaded.settings, config_path=arguments.config, max_parts=arguments.max_parts)
    with station.signals():
        tally = station.run()
    if arguments.json:
        _print_json(tally.figures())
    return 0


# -------------------------------------------------------------------------------------------------------------- replay


def _replay_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", type=Path, help="images, in one of the known layouts")
    _config_option(sub)
    sub.add_argument("--engine", type=Path, metavar="BUNDLE", help="engine bundle (default: the configuration's)")
    sub.add_argument("--layout", default="auto", help="auto, folder, kolektor-sdd, magnetic-tile or neu-seg")
    sub.add_argument("--results", type=Path, metavar="FILE.jsonl", help="write one line per image")
    sub.add_argument("--overlays", type=Path, metavar="DIR", help="write annotated images")
    sub.add_argument("--limit", type=_positive, metavar="N", help="only the first N images")


def _replay(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from inspector import config
    from inspector.replay import replay

    overrides = {"engine": {"bundle": arguments.engine}} if arguments.engine is not None else {}
    settings = config.load(arguments.config, **overrides).settings
    columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=None)
        figures = replay(
            arguments.folder,
            settings,
            layout=arguments.layout,
            results=arguments.results,
            overlays=arguments.overlays,
            limit=arguments.limit,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if arguments.json:
        _print_json(figures)
    else:
        _print_figures(figures)
    return 0


def _print_figures(figures: dict[str, Any]) -> None:
    for key, value in figures.items():
        shown = f"{value:.4f}" if isinstance(value, float) else json.dumps(value)
        print(f"{key:>18}  {shown}")


# ------------------------------------------------------------------------------------------------------- small commands


def _listen_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--endpoint", default="tcp://127.0.0.1:5570", help="the daemon's controller socket")
    sub.add_argument("--keys", type=Path, metavar="DIR", help="CURVE keys of this controller")
    sub.add_argument("--count", type=_positive, metavar="N", help="end after N answers")


def _listen(arguments: argparse.Namespace) -> int:
    from inspector.link.listen import listen_and_print

    listen_and_print(arguments.endpoint, keys_dir=arguments.keys, count=arguments.count, show=print)
    return 0


def _cameras_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--producer", type=Path, action="append", default=[], metavar="FILE.cti", help="may be repeated")


def _cameras(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from inspector.camera.genicam import list_devices

    devices = list_devices(arguments.producer)
    if arguments.json:
        _print_json({"devices": [asdict(one) for one in devices]})
        return 0
    for one in devices:
        print(f"{one.model:<12} serial {one.serial:<12} {one.user_name:<16} {one.access:<10} {one.producer}")
    if not devices:
        print("no devices")
    return 0


def _check_config(arguments: argparse.Namespace) -> int:
    from inspector.recipe import read_ingredients

    loaded = _load(arguments)
    rows = list(loaded.rows())
    width = max(len(name) for name, _, _ in rows)
    for name, value, source in rows:
        print(f"{name:<{width}}  {value:<40}  {source}")
    ingredients = read_ingredients(loaded.settings)
    print(f"engine bundle {ingredients.bundle.name}, calibration {ingredients.calibration.hash[:16]}: ok")
    return 0


def _bench_options(sub: argparse.ArgumentParser) -> None:
    _config_option(sub)
    sub.add_argument("--parts", type=_positive, default=300, metavar="N", help="parts per loop (default 300)")
    sub.add_argument("--engine", type=Path, metavar="BUNDLE", help="engine bundle (default: the configuration's)")


def _bench(arguments: argparse.Namespace) -> int:
    from inspector import config
    from inspector.bench import bench

    overrides = {"engine": {"bundle": arguments.engine}} if arguments.engine is not None else {}
    figures = bench(config.load(arguments.config, **overrides).settings, parts=arguments.parts)
    if arguments.json:
        _print_json(figures)
    else:
        _print_figures(figures)
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a count of at least 1")
    return value
