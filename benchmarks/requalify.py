"""An archive written by the real line, judged again: throughput against the framework's own loop, memory, parts a core.

python benchmarks/requalify.py write DIR --parts 20000 --rate 40     the line with a stand-in engine, then the export
python benchmarks/requalify.py run DIR --engine engines/commutator   all of it; memory as it goes
python benchmarks/requalify.py ratio DIR --engine engines/commutator the same images through AsyncInferQueue, in turns
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from inspector.archive.catalogue import Shard, manifest_name, picture_path, read_shard, shard_path
from inspector.archive.export import Source, export_archive
from inspector.archive.place import Place, sha256
from inspector.archive.table import parquet_bytes, parquet_rows, part_schema
from inspector.clock import SystemClock
from inspector.config import load
from inspector.engine import Engine, EngineInfo
from inspector.engine.bundle import load_bundle
from inspector.engine.machine import physical_cores
from inspector.frame import FloatMap
from inspector.link.listen import ReferenceController
from inspector.requalify.fleet import run_processes
from inspector.requalify.plan import Task, make_plan, read_manifests, resolve
from inspector.station import Hooks, Station

STATION = "bench"
WARM = 8
"""Parts in the first shard of each worker, which imports and opens."""


class StandIn:
    """Instead of the network: every fifth part has a defect. Quick, so that the line can write at speed."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._calls = engine, 0

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def infer(self, batch: FloatMap) -> FloatMap:
        self._calls += 1
        found = np.zeros_like(batch)
        if self._calls % 5 == 0:
            found[0, 0, 40:60, 50:90] = 0.9
        return found

    def close(self) -> None:
        self._engine.close()


def write(folder: Path, parts: int, rate_hz: float, bundle: Path) -> dict[str, Any]:
    """A station with the synthetic camera, every part new, every image kept; then its export."""
    settings = load(
        None,
        {},
        station={"name": STATION, "state_dir": folder / "state"},
        camera={"kind": "synthetic", "rate_hz": rate_hz, "seed": 9},
        part={"calibration": Path("calibration/synthetic.toml")},
        engine={"bundle": bundle, "keep_alive_s": 0.0},
        timing={"gate_ms": 5000.0, "queue": 64},
        store={"save": ["PASS", "FAIL", "INVALID"], "every_pass": 1, "quota_mb": 20_000.0},
        alarm={"fails": 0},
        link={"endpoint": "tcp://127.0.0.1:*", "viewers": ""},
        log={"parts": False, "level": "error"},
        health={"metrics": ""},
    ).settings
    controllers: list[ReferenceController] = []
    hooks = Hooks(wrap_engine=StandIn)
    station = Station(settings, hooks=hooks, max_parts=parts)
    hooks.on_linked = lambda: controllers.append(ReferenceController(station.endpoint, clock=station.clock).start())
    before = time.perf_counter()
    station.run()
    seconds = time.perf_counter() - before
    for controller in controllers:
        controller.stop()
    before = time.perf_counter()
    done = export_archive(Source(STATION, folder / "state"), Place(folder / "archive"), clock=SystemClock())
    export_s = time.perf_counter() - before
    return {
        "parts": done.parts, "images": done.images, "shards": done.shards, "line_parts_per_s": parts / seconds,
        "export_parts_per_s": done.parts / export_s,
    }  # fmt: skip


def run(folder: Path, bundle: Path, out: Path, workers: int) -> dict[str, Any]:
    """The command itself; resident memory of its processes, sampled once a second."""
    command = [sys.executable, "-m", "inspector", "requalify", str(folder / "archive"), "--engine", str(bundle)]
    command += ["--out", str(out), "--json", *(["--workers", str(workers)] if workers else [])]
    samples: list[tuple[float, float, float]] = []
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said)
        watch = threading.Thread(target=_watch, args=(process, samples))
        watch.start()
        code = process.wait()
        watch.join()
        said.seek(0)
        lines = said.read().splitlines()
    figures = json.loads(lines[-1])
    steady = samples[len(samples) // 10 :]
    quarters = [steady[i * len(steady) // 4 : (i + 1) * len(steady) // 4] for i in range(4)]
    memory = {
        "driver_mib_by_quarter": [round(max((s[1] for s in q), default=0.0), 1) for q in quarters],
        "workers_mib_by_quarter": [round(max((s[2] for s in q), default=0.0), 1) for q in quarters],
    }
    keys = ("parts", "flips", "errors", "shards", "resumed_shards", "parts_per_s", "workers", "seconds", "known_truth")
    return {"exit": code, **{key: figures[key] for key in keys}, **memory}


def _watch(process: subprocess.Popen[bytes], samples: list[tuple[float, float, float]]) -> None:
    import psutil

    driver = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            own = driver.memory_info().rss
            children = sum(child.memory_info().rss for child in driver.children(recursive=True))
            samples.append((time.perf_counter(), own / 2**20, children / 2**20))
        except psutil.NoSuchProcess:
            pass
        time.sleep(1.0)


def ratio(folder: Path, bundle_path: Path, workers: int, images: int, turns: int) -> dict[str, Any]:
    """Images a second of OpenVINO's AsyncInferQueue on prepared tensors, and of requalify's workers with all they do.

    Before, between and after the turns of the one comes a turn of the other; each is set against its neighbours.
    Workers count while they work on shards, from their second on: over an archive their start is nothing.
    """
    with tempfile.TemporaryDirectory() as scratch:
        small = Place(_sample(folder / "archive", Path(scratch) / "sample", images, workers))
        choice = resolve(bundle_path, backend="openvino", precision="fp32")
        plan = make_plan(choice, read_manifests(small))
        bare = _Bare(bundle_path, small, plan.tasks, workers)
        bare.turn()
        theirs, ours = [bare.turn()], []
        for turn in range(turns):
            done = list(run_processes(plan.tasks, small, Place(Path(scratch) / f"out-{turn}"), workers))
            steady = [each for each in done if each.parts > WARM]
            ours.append(workers * sum(each.parts for each in steady) / sum(each.seconds for each in steady))
            theirs.append(bare.turn())
    rates = {"requalify": float(np.median(ours)), "AsyncInferQueue": float(np.median(theirs))}
    shares = [2 * rate / (before + after) for rate, (before, after) in zip(ours, pairwise(theirs), strict=True)]
    return {"images_per_s": rates, "share": float(np.median(shares)), "shares": shares, "workers": workers}


class _Bare:
    """The framework's own throughput loop: tensors ready in memory, answers thrown away."""

    def __init__(self, bundle_path: Path, archive: Place, tasks: tuple[Task, ...], threads: int) -> None:
        import openvino

        bundle = load_bundle(bundle_path)
        pixels = [_image(archive, digest) for task in tasks for digest in _digests(archive, task)]
        self._tensors = bundle.normalise(np.stack(pixels[WARM * threads :]))
        core = openvino.Core()
        network = core.read_model(str(bundle.onnx_path))
        network.reshape([1, 1, bundle.height, bundle.width])
        wide = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._queue = openvino.AsyncInferQueue(core.compile_model(network, "CPU", wide))
        self._sink = np.empty(self._tensors.shape[2:], np.float32)
        self._queue.set_callback(lambda request, _: np.copyto(self._sink, request.get_output_tensor().data[0, 0]))

    def turn(self) -> float:
        """Images a second."""
        before = time.perf_counter()
        for index in range(len(self._tensors)):
            self._queue.start_async({0: self._tensors[index : index + 1]}, index)
        self._queue.wait_all()
        return len(self._tensors) / (time.perf_counter() - before)


def _sample(archive: Path, target: Path, images: int, workers: int) -> Path:
    """An archive of the first images in as many equal shards as there are workers; pictures and recipes are shared."""
    place = Place(archive)
    manifest = read_manifests(place)[0]
    rows: list[Any] = []
    for shard in manifest.shards:
        rows += parquet_rows(read_shard(place, manifest.station, shard))
        if len(rows) >= 2 * images:
            break
    rows = [row for row in rows if row["image_sha256"]][: images + WARM * workers]
    target.mkdir()
    for name in ("pictures", "recipes"):
        (target / name).symlink_to((archive / name).resolve())
    shards: list[Shard] = []
    cuts = [WARM * k for k in range(workers)] + [WARM * workers + images // workers * k for k in range(workers + 1)]
    for start, end in pairwise(cuts):
        part, size = rows[start:end], end - start
        data = parquet_bytes(part, part_schema())
        name, first = f"parts-{start}.parquet", manifest.shards[0]
        Place(target).write(shard_path(manifest.station, name), data)
        shards.append(replace(first, name=name, sha256=sha256(data), bytes=len(data), rows=size, images=size))
    manifest.shards = shards
    Place(target).write(manifest_name(manifest.station), manifest.to_json())
    return target


def _digests(archive: Place, task: Task) -> list[str]:
    return [row["image_sha256"] for row in parquet_rows(read_shard(archive, task.station, task.shard))]


def _image(archive: Place, digest: str) -> Any:
    return cv2.imdecode(np.frombuffer(archive.read(picture_path(digest)), np.uint8), cv2.IMREAD_GRAYSCALE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "run", "ratio"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=40.0, help="of the camera, parts a second")
    parser.add_argument("--engine", type=Path, default=Path("engines/commutator"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int, default=0, help="0 = one a core")
    parser.add_argument("--images", type=int, default=120, help="of the ratio, in each turn")
    parser.add_argument("--turns", type=int, default=6)
    wanted = parser.parse_args()
    if wanted.what == "write":
        found = write(wanted.folder, wanted.parts, wanted.rate, wanted.engine)
    elif wanted.what == "run":
        found = run(wanted.folder, wanted.engine, wanted.out or wanted.folder / "out", wanted.workers)
    else:
        found = ratio(wanted.folder, wanted.engine, wanted.workers or physical_cores(), wanted.images, wanted.turns)
    print(json.dumps(found, sort_keys=True))


if __name__ == "__main__":
    main()
