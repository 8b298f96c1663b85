"""replay: recorded images."""

from __future__ import annotations

import argparse
from pathlib import Path

from inspector.cli.common import (
    Commands,
    config_option,
    engine_option,
    json_option,
    load,
    positive,
    print_figures,
    print_json,
    progress,
)


def add(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "replay",
        "Judge recorded images with the line's own code",
        _replay,
        config_option,
        engine_option,
        _replay_options,
        json_option,
    )


def _replay_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", type=Path, help="images, in one of the known layouts")
    sub.add_argument("--layout", default="auto", help="auto, folder, kolektor-sdd, magnetic-tile or neu-seg")
    sub.add_argument("--results", type=Path, metavar="FILE.jsonl", help="write one line per image")
    sub.add_argument("--overlays", type=Path, metavar="DIR", help="write annotated images")
    sub.add_argument("--throughput", action="store_true", help="many images in the engine at a time")
    sub.add_argument("--limit", type=positive, metavar="N", help="only the first N images")


def _replay(arguments: argparse.Namespace) -> int:
    from inspector.replay import replay

    with progress("replay") as on_progress:
        figures = replay(
            arguments.folder,
            load(arguments).settings,
            layout=arguments.layout,
            results=arguments.results,
            overlays=arguments.overlays,
            limit=arguments.limit,
            throughput=arguments.throughput,
            on_progress=on_progress,
        )
    if arguments.json:
        print_json(figures)
    else:
        print_figures(figures)
    return 0
