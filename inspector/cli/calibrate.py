"""calibrate roi | flat-field | scale | threshold."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.cli.common import EPILOG, Commands, load, positive, print_json
from inspector.errors import CameraError, ConfigError

if TYPE_CHECKING:
    from inspector.frame import Grey


def add(commands: Commands) -> None:
    """Add the command."""
    commands.add(
        "calibrate",
        "Where the part is, how it is lit, how large a pixel is, where the threshold stands",
        _none,
        _subcommands,
    )


def _none(arguments: argparse.Namespace) -> int:
    return int(arguments.part(arguments))


def _subcommands(sub: argparse.ArgumentParser) -> None:
    parts = sub.add_subparsers(required=True, metavar="WHAT", title="what to calibrate")

    def part(name: str, does: str, function: Any) -> argparse.ArgumentParser:
        parser = parts.add_parser(name, help=does, description=does, epilog=EPILOG)
        parser.set_defaults(part=function)
        parser.add_argument("--config", type=Path, metavar="FILE", help="config.toml (default: built-in values)")
        parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
        return parser

    roi = part("roi", "Find the contact piece and write a calibration file", _roi)
    _image_options(roi)
    roi.add_argument("--name", default="station", help="name of the calibration (default: station)")
    roi.add_argument("--out", type=Path, default=Path("calibration"), metavar="DIR", help="(default: calibration)")
    roi.add_argument("--roi", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="draw the piece yourself")
    roi.add_argument("--max-shift-px", type=float, default=20.0, help="play of the part (default 20)")
    roi.add_argument("--max-angle-deg", type=float, default=3.0, help="play of its rotation (default 3)")

    flat = part("flat-field", "Shading reference from frames of a clean reference", _flat_field)
    _image_options(flat)
    flat.add_argument("--calibration", type=Path, required=True, metavar="FILE.toml")
    flat.add_argument("--valid-days", type=float, default=30.0, help="until it expires (default 30)")

    scale = part("scale", "Pixels to millimetres from a printed target", _scale)
    _image_options(scale)
    scale.add_argument("--calibration", type=Path, required=True, metavar="FILE.toml")
    scale.add_argument("--target", choices=("checkerboard", "dots"), default="checkerboard")
    scale.add_argument("--columns", type=positive, required=True, help="inner corners or dots across")
    scale.add_argument("--rows", type=positive, required=True, help="inner corners or dots down")
    scale.add_argument("--pitch-mm", type=float, required=True, help="distance of neighbours")

    threshold = part("threshold", "Threshold and least area with a promise about escapes", _threshold)
    threshold.add_argument("--engine", type=Path, metavar="BUNDLE", help="engine bundle (default: the configuration's)")
    threshold.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled images")
    threshold.add_argument("--layout", default="auto", help="auto, folder, kolektor-sdd, magnetic-tile or neu-seg")
    threshold.add_argument("--max-escape", type=float, default=0.01, help="the promise (default 0.01)")
    threshold.add_argument("--confidence", type=float, default=0.95, help="of the promise (default 0.95)")
    threshold.add_argument(
        "--areas", type=int, nargs="+", default=[0, 8, 16, 32], metavar="PX", help="least areas to try"
    )
    threshold.add_argument("--curve", type=Path, metavar="FILE.svg", help="plot the trade-off")
    threshold.add_argument("--install", action="store_true", help="write the operating point into the bundle")


def _image_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="*", help="image files or one folder")
    parser.add_argument("--camera", action="store_true", help="take the frames from the configured camera")
    parser.add_argument("--count", type=positive, default=10, metavar="N", help="frames to take (default 10)")


def _images(arguments: argparse.Namespace) -> list[Grey]:
    from inspector.layouts import list_samples, read_grey

    if arguments.camera:
        return _from_camera(arguments)
    paths: list[Path] = []
    for path in arguments.images:
        paths += [one.image for one in list_samples(path, read_masks=False)] if path.is_dir() else [path]
    if not paths:
        raise ConfigError("no images", expected="image files, a folder, or --camera")
    return [read_grey(path) for path in paths[: max(arguments.count, len(arguments.images))]]


def _from_camera(arguments: argparse.Namespace) -> list[Grey]:
    from inspector.cameras import make_camera
    from inspector.clock import SystemClock
    from inspector.frame import Frame

    camera = make_camera(load(arguments).settings.camera, clock=SystemClock(), window=None, count=arguments.count)
    camera.open()
    try:
        frames: list[Grey] = []
        for _ in range(100 * int(arguments.count)):
            arrived = camera.next(0.2)
            if isinstance(arrived, Frame):
                frames.append(arrived.pixels)
            if len(frames) == arguments.count:
                return frames
    finally:
        camera.close()
    raise CameraError("the camera gave too few frames", expected=str(arguments.count), found=str(len(frames)))


def _told(arguments: argparse.Namespace, figures: dict[str, Any]) -> int:
    if arguments.json:
        print_json(figures)
    else:
        for key, value in figures.items():
            print(f"{key:>16}  {value}")
    return 0


def _roi(arguments: argparse.Namespace) -> int:
    from inspector.calibrate.roi import calibrate_roi
    from inspector.clock import SystemClock
    from inspector.preprocess import load_calibration

    path = calibrate_roi(
        _images(arguments),
        name=arguments.name,
        out_dir=arguments.out,
        clock=SystemClock(),
        roi=tuple(arguments.roi) if arguments.roi else None,
        max_shift_px=arguments.max_shift_px,
        max_angle_deg=arguments.max_angle_deg,
    )
    calibration = load_calibration(path)
    roi = calibration.file.roi
    place = [roi.x, roi.y, roi.w, roi.h] if roi is not None else None
    overlay = path.with_suffix(".overlay.png")
    return _told(arguments, {"calibration": str(path), "roi": place, "hash": calibration.hash, "overlay": str(overlay)})


def _flat_field(arguments: argparse.Namespace) -> int:
    from inspector.calibrate.flatfield import calibrate_flat_field
    from inspector.clock import SystemClock

    path = calibrate_flat_field(
        _images(arguments),
        calibration_path=arguments.calibration,
        clock=SystemClock(),
        valid_days=arguments.valid_days,
    )
    return _told(arguments, {"reference": str(path), "calibration": str(arguments.calibration)})


def _scale(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from inspector.calibrate.scale import calibrate_scale
    from inspector.clock import SystemClock

    measured = calibrate_scale(
        _images(arguments)[0],
        calibration_path=arguments.calibration,
        target=arguments.target,
        columns=arguments.columns,
        rows=arguments.rows,
        pitch_mm=arguments.pitch_mm,
        clock=SystemClock(),
    )
    return _told(arguments, {key: value for key, value in asdict(measured).items() if isinstance(value, int | float)})


def _threshold(arguments: argparse.Namespace) -> int:
    from inspector.calibrate.threshold import OperatingPoint, choose, curve_svg, install, outcomes_of_images
    from inspector.clock import SystemClock
    from inspector.frame import Decision, FloatMap, Frame, Geometry
    from inspector.layouts import Sample, list_samples, read_grey, usable
    from inspector.recipe import engine_opener, open_proven, read_ingredients

    settings = load(arguments).settings
    ingredients = read_ingredients(settings, SystemClock())
    opened = open_proven(ingredients.bundle, engine_opener(settings))

    def infer(sample: Sample) -> tuple[FloatMap, Geometry]:
        crop = ingredients.preprocess.prepare(Frame(1, read_grey(sample.image), 0))
        if isinstance(crop, Decision):
            raise ConfigError(f"{sample.id} cannot be judged", found=crop.detail, do="Take it out of the data")
        return opened.engine.infer(crop.tensor)[0, 0], crop.geometry

    try:
        samples = usable(list_samples(arguments.data, arguments.layout))
        outcomes = outcomes_of_images(samples, infer, areas_map_px=sorted(set(arguments.areas)))
    finally:
        opened.engine.close()
    found = choose(outcomes, arguments.max_escape, arguments.confidence)
    if arguments.curve is not None:
        arguments.curve.write_text(curve_svg(outcomes, found), encoding="utf-8")
    if not isinstance(found, OperatingPoint):
        if arguments.json:
            print_json({"promised": False, "needs": found.needs, "parts": found.parts, "why": str(found)})
        else:
            print(found)
        return 1
    if arguments.install:
        install(ingredients.bundle.path, found)
    if arguments.json:
        print_json({"promised": True, **found.evidence(), "installed": arguments.install})
    else:
        for sentence in found.sentences():
            print(sentence)
    return 0
