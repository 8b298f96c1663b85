"""Damaged configuration, manifest and calibration files: each is read or refused in words, soon and without growing.

Good files are mutated (bytes flipped, cut, doubled; keys renamed, dropped and swapped; values of other types, huge,
not finite, deeply nested) and read by the loaders that the daemon starts with. What is read must also serve: a
configuration must give rules or be refused, a bundle its reference images, a calibration must prepare a frame.
Only InspectorError may come out. Prints one JSON object; what broke is kept in ``--keep``.

    python benchmarks/fuzz_files.py --files 100000
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from inspector.camera.render import render_part
from inspector.cameras import make_camera
from inspector.clock import SystemClock
from inspector.config import Settings, load
from inspector.decision import Alarms
from inspector.engine.bundle import Bundle, load_bundle
from inspector.frame import Frame
from inspector.preprocess import Preprocess, load_calibration
from inspector.recipe import read_rules

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.file_damage import Target, a_file, toml  # noqa: E402

BUNDLE = ROOT / "engines" / "commutator"
LONGEST_S = 10
FOREVER_S = 600
"""A file that takes longer hangs."""
SPARE_BYTES = 3 << 30
"""Address space above what is in use at the start; a file that asks for more dies of MemoryError."""
FRAME_PX_MAX = 4_000_000
_TOLD_EVERY = 5_000


class Hang(BaseException):
    """Not an Exception, so that no handler of ours takes it for a fault of the file."""


# -- who reads -------------------------------------------------------------------------------------------------------


def config_reader(bundle: Bundle) -> Callable[[Path], object]:
    """The configuration as the daemon uses it: settings, their rows, the rules, and the files it names."""
    usual = Settings()

    def read(path: Path) -> object:
        loaded = load(path, {})
        settings = loaded.settings
        rules = read_rules(settings, bundle)
        rules.check(bundle.height, bundle.width, None)
        make_camera(settings.camera, clock=SystemClock(), window=None)
        Alarms(settings.alarm.fails, settings.alarm.among, settings.alarm.no_reject_run)
        if settings.part.calibration != Path("calibration/synthetic.toml"):
            load_calibration(settings.part.calibration)
        if settings.engine.bundle != usual.engine.bundle:
            load_bundle(settings.engine.bundle)
        return list(loaded.rows()), settings.short_hash()

    return read


def read_manifest(path: Path) -> object:
    """The bundle, its reference images and the files of its plans."""
    bundle = load_bundle(path.parent)
    images, _ = bundle.golden()
    return bundle.normalise(images)


def calibration_reader(bundle: Bundle) -> Callable[[Path], object]:
    """The calibration, and one frame of the size it was made for."""
    part = render_part(1, 1).image
    frames: dict[tuple[int, int], Frame] = {}

    def read(path: Path) -> object:
        calibration = load_calibration(path)
        calibration.check_expiry(1_700_000_000_000_000_000)
        made = Preprocess(calibration, height=bundle.height, width=bundle.width, mean=bundle.mean, std=bundle.std)
        size = calibration.file.frame
        wide, high = (size.width_px, size.height_px) if size is not None else (400, 400)
        made.check_frame_size(wide, high)
        if wide * high > FRAME_PX_MAX:
            return made
        key = (wide, high)
        if key not in frames:
            frames.clear()
            pixels = np.asarray(cv2.resize(part, key, interpolation=cv2.INTER_NEAREST), np.uint8)
            frames[key] = Frame(1, pixels, 0)
        whole = frames[key]
        x, y, w, h = made.window or (0, 0, wide, high)
        frame = Frame(1, np.ascontiguousarray(whole.pixels[y : y + h, x : x + w]), 0, (x, y))
        return made.prepare_tiles(frame) if made.tiled else made.prepare(frame)

    return read


# -- good files ------------------------------------------------------------------------------------------------------

_RULES = """
[decision]
threshold = 0.6
limits = { min_area_map_px = 12, max_count = 3 }
review = { min_area_map_px = 8 }
zones = [{ name = "rim", rectangle = [0, 0, 40, 256], limits = { min_area_map_px = 30 } },
         { name = "hole", polygon = [[100, 100], [150, 100], [125, 150]], ignore = true }]
[camera]
kind = "genicam"
features = [["PixelFormat", "Mono8"], ["ExposureTime", 200.0], ["Width", 400], ["ReverseX", true]]
"""


def targets(folder: Path) -> list[Target]:
    """The three kinds of files, with what belongs beside them, in ``folder``."""
    bundle = load_bundle(BUNDLE)
    home = folder / "bundle"
    home.mkdir()
    for name in ("model.onnx", "golden.npz"):
        shutil.copyfile(BUNDLE / name, home / name)
    manifest = (BUNDLE / "manifest.json").read_bytes()
    config = (ROOT / "config.toml").read_bytes()
    calibrations = _calibrations(folder)
    readers = (config_reader(bundle), read_manifest, calibration_reader(bundle))
    return [
        Target("config", folder / "config.toml", (config, _RULES.encode()), _from_toml, toml, readers[0]),
        Target("manifest", home / "manifest.json", (manifest, _with_plan(manifest)), json.loads, _json, readers[1]),
        Target("calibration", folder / "station.toml", calibrations, _from_toml, toml, readers[2]),
    ]


def _calibrations(folder: Path) -> tuple[bytes, ...]:
    """The one that ships, and one with every section."""
    source = ROOT / "calibration"
    shutil.copyfile(source / "synthetic.template.png", folder / "synthetic.template.png")
    gain = io.BytesIO()
    np.savez_compressed(gain, gain=np.ones((400, 400), np.float16))
    (folder / "flat.npz").write_bytes(gain.getvalue())
    whole = f"""
[flat_field]
file = "flat.npz"
sha256 = "{hashlib.sha256(gain.getvalue()).hexdigest()}"
created = 2023-01-01T00:00:00Z
expires = 2099-01-01T00:00:00Z
[scale]
mm_per_px = 0.05
residual_px = 0.1
residual_mm = 0.005
[lens]
matrix = [900.0, 0.0, 200.0, 0.0, 900.0, 200.0, 0.0, 0.0, 1.0]
distortion = [-0.1, 0.02, 0.0, 0.0, 0.0]
largest_px = 3.5
"""
    shipped = (source / "synthetic.toml").read_bytes()
    tiled = b'format = 1\nname = "t"\ncreated = 2023-01-01T00:00:00Z\n[frame]\nwidth_px = 400\nheight_px = 400\n'
    tiled += b"[roi]\nx = 10\ny = 10\nw = 380\nh = 300\n[tiles]\nenabled = true\noverlap_px = 32\n"
    return shipped, shipped + whole.encode(), tiled


def _with_plan(manifest: bytes) -> bytes:
    """The manifest with a plan in it; its file need not exist, since only the opening back end reads it."""
    raw = json.loads(manifest)
    times: dict[str, Any] = {"runs": 10, "p50": 1.0, "p99": 2.0, "p999": 3.0}
    zeros = "0" * 64
    parity: dict[str, Any] = {
        "images": 3,
        "source": "golden",
        "max_abs_diff": 0.01,
        "mean_abs_diff": 0.001,
        "mask_iou": 1.0,
    }
    parity |= {"mask_iou_worst": 1.0, "verdict_flips": 0, "flipped": []}
    parity |= {"input_mean": 0.0, "input_std": 1.0, "input_min": -2.0, "input_max": 2.0}
    plan: dict[str, Any] = {
        "id": "p1",
        "backend": "openvino",
        "backend_version": "1",
        "precision": "fp32",
        "onnx_sha256": zeros,
    }
    plan |= {"files": [{"file": "plans/p1.xml", "sha256": zeros}], "plan_hash": zeros}
    plan |= {"built": "2026-01-01T00:00:00Z", "machine": {"device": "CPU"}, "settings": {}, "parity": parity}
    plan |= {"limits": {}, "forced": False, "reference_max_abs_diff": 0.01, "reference_mask_iou": 1.0}
    plan |= {"latency_ms": times, "fp32_latency_ms": times, "speedup": 1.5}
    return _json(raw | {"plans": [plan]})


def _from_toml(data: bytes) -> dict[str, Any]:
    return tomllib.loads(data.decode())


def _json(tree: Any) -> bytes:
    return json.dumps(tree).encode("utf-8", "surrogatepass")


# -- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class Count:
    """What came of one kind of files."""

    read: int = 0
    refused: int = 0
    slowest_ms: float = 0.0
    broken: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        return {
            "files": self.read + self.refused + self.broken.total(),
            "read": self.read,
            "refused": self.refused,
            "slowest_ms": round(self.slowest_ms, 1),
            "broken": self.broken.total(),
            "kinds_of_breaks": dict(self.broken.most_common(20)),
        }


def one(target: Target, data: bytes, count: Count, keep: Path | None) -> None:
    """Read one file under a timer, and count what comes of it."""
    began_s = time.perf_counter()
    _armed.append(True)
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    signal.setitimer(signal.ITIMER_REAL, FOREVER_S)
    try:
        if target.try_out(data):
            count.read += 1
        else:
            count.refused += 1
    except (Exception, Hang) as error:  # noqa: BLE001 - counted and kept: this is what is looked for
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "inspector" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "here"
        kind = f"{type(error).__name__} at {where}: {str(error)[:100]}"
        if keep is not None and kind not in count.broken:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{target.name}-{len(count.broken)}").write_bytes(data)
        count.broken[kind] += 1
    finally:
        _armed.clear()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    count.slowest_ms = max(count.slowest_ms, (time.perf_counter() - began_s) * 1000)


def memory_mb() -> tuple[float, float]:
    """(resident now, most so far) of this process."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    now = int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return now, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _limit_memory() -> None:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    used = int(pages[0]) * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, hard))


_armed: list[bool] = []
"""Holds something while a file is read; a timer that fires later means nothing."""


def _hangs(number: int, frame: object) -> None:
    if _armed:
        raise Hang(f"not done after {LONGEST_S} s of work, or {FOREVER_S} s of waiting")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="in all; a third of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for one example of each kind of break")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _hangs)
    signal.signal(signal.SIGPROF, _hangs)
    began_s = time.monotonic()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="fuzz-files-") as scratch:
        kinds = targets(Path(scratch))
        counts = {target.name: Count() for target in kinds}
        _limit_memory()
        warm_mb = 0.0
        for number in range(options.files):
            target = kinds[number % len(kinds)]
            one(target, a_file(chance, target), counts[target.name], options.keep)
            if number == options.files // 10:
                warm_mb = memory_mb()[0]
            if number % _TOLD_EVERY == _TOLD_EVERY - 1:
                broken = sum(count.broken.total() for count in counts.values())
                print(f"{number + 1} files, {broken} broken, {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    now_mb, peak_mb = memory_mb()
    broken = sum(count.broken.total() for count in counts.values())
    result = {
        "files": options.files,
        "broken": broken,
        **{name: count.to_json() for name, count in counts.items()},
        "rss_growth_mb": round(now_mb - warm_mb, 1),
        "rss_peak_mb": round(peak_mb, 1),
        "seconds": round(time.monotonic() - began_s, 1),
        "seed": options.seed,
    }
    print(json.dumps(result))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
