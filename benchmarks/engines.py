"""Engines side by side, as ratios taken in one run; memory over many runs; throughput against the framework's own loop.

    python benchmarks/engines.py table --width 8 16 32          random weights; speed only
    python benchmarks/engines.py table --bundle engines/commutator
    python benchmarks/engines.py throughput --bundle engines/commutator
    python benchmarks/engines.py replay --bundle engines/magnetic-tile --folder DIR
    python benchmarks/engines.py memory --bundle engines/commutator

``table`` alternates between all rows, so load on the machine falls on all alike, and takes its ratios turn by turn; the
bare rows are the framework's own loop without our engine. The machine's limit is a large matrix product in the same
run. ``replay`` reads, decodes, prepares, infers, decides and writes a folder's images; the framework's loop beside it
infers the same images, prepared before. Processor time tells what load beside it cannot move.
Needs the extras build, train.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inspector.clock import SystemClock
from inspector.engine import Engine, EngineInfo
from inspector.engine.bundle import Bundle, load_bundle, write_bundle
from inspector.engine.choose import open_engine
from inspector.engine.cpu import CpuOptions
from inspector.engine.int8 import Calibration, Recipe, quantise_openvino
from inspector.engine.machine import cpu, physical_cores
from inspector.engine.measure import latency, take_turns, times_faster
from inspector.engine.openvino import OpenVinoEngine, properties
from inspector.engine.reference import reference_maps
from inspector.frame import FloatMap

Queue = Callable[[FloatMap], FloatMap]


def info_of(bundle: Bundle, backend: str, precision: str) -> EngineInfo:
    """A label for engines that no passport knows."""
    return EngineInfo(bundle.name, backend, "", precision, cpu().name, "", "", bundle.height, bundle.width)


class Bare:
    """A framework's own call, dressed as an engine."""

    def __init__(self, info: EngineInfo, call: Callable[[FloatMap], Any]) -> None:
        self.info, self._call = info, call

    def infer(self, batch: FloatMap) -> Any:
        return self._call(batch)

    def close(self) -> None:
        pass


def random_bundle(width: int, size: int, folder: Path) -> Bundle:
    """LSA-Net of a width with random weights, exported as training exports it."""
    import torch

    from train.export import to_onnx
    from train.model import LSANet, ModelConfig

    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (2, size, size), dtype=np.uint8)
    return write_bundle(
        folder / f"lsanet-w{width}",
        name=f"lsanet-w{width}",
        onnx_bytes=to_onnx(LSANet(ModelConfig(width=width)).eval(), size, size),
        mean=0.5,
        std=0.25,
        classes=["defect"],
        threshold=0.5,
        min_area_px=1,
        training={"weights": "random"},
        parity={},
        cite=[],
        golden_images=images,
    )


def width_of(bundle: Bundle) -> int:
    """Channels of the first convolution."""
    import onnx

    graph = onnx.load_model(str(bundle.onnx_path)).graph
    first = next(node for node in graph.node if node.op_type == "Conv")
    return int(next(w.dims[0] for w in graph.initializer if w.name == first.input[1]))


def torch_eager(bundle: Bundle, width: int, threads: int) -> Bare:
    """The network as the paper's users run it: eager, FP32; weights do not change its speed."""
    import torch

    from train.model import LSANet, ModelConfig

    torch.set_num_threads(threads)
    network = LSANet(ModelConfig(width=width)).eval()

    def call(batch: FloatMap) -> Any:
        with torch.inference_mode():
            return torch.sigmoid(network(torch.from_numpy(batch)).logits).numpy()

    return Bare(info_of(bundle, "torch", "fp32"), call)


def openvino_bare(bundle: Bundle, model: Path, hint: str, options: CpuOptions) -> Bare:
    """OpenVINO's own loop with the same properties: fill the shared input, infer, read the output."""
    import openvino

    core = openvino.Core()
    network = core.read_model(str(model))
    network.reshape([1, 1, bundle.height, bundle.width])
    request = core.compile_model(network, "CPU", properties(options, hint)).create_infer_request()
    held = np.zeros((1, 1, bundle.height, bundle.width), np.float32)
    request.set_input_tensor(openvino.Tensor(held, shared_memory=True))

    def call(batch: FloatMap) -> Any:
        held[:] = batch
        request.infer()
        return request.get_output_tensor().data.copy()

    return Bare(info_of(bundle, "openvino", hint), call)


def quantised(bundle: Bundle, recipe: Recipe, folder: Path) -> Path:
    """An INT8 model by one recipe; calibrated on the reference images, so its speed alone is meant."""
    tensors = bundle.normalise(bundle.golden()[0])
    maps = reference_maps(bundle.onnx_path.read_bytes(), tensors)[:, 0]
    target = folder / f"{bundle.name}-{recipe.name.replace(' ', '-')}.xml"
    quantise_openvino(bundle.onnx_path, Calibration(tensors, maps, bundle.threshold), recipe, target)
    return target


def rows(bundle: Bundle, options: CpuOptions, folder: Path) -> dict[str, Engine]:
    """Every engine of the table, opened. torch comes first: it is the 1.0x."""
    threads = options.thread_count
    int8 = quantised(bundle, Recipe("folded", folded=True), folder)
    plain = quantised(bundle, Recipe("mixed"), folder)
    outer = quantised(bundle, Recipe("outer kept", keep="outer"), folder)
    found: dict[str, Engine] = {
        "torch eager f32": torch_eager(bundle, width_of(bundle), threads),
        "onnxruntime f32": open_engine(bundle, backend="onnxruntime", precision="fp32", threads=threads).engine,
        "openvino f32": OpenVinoEngine(bundle.onnx_path, info_of(bundle, "openvino", "fp32"), options),
        "openvino f32, bare": openvino_bare(bundle, bundle.onnx_path, "f32", options),
    }
    if cpu().bf16:
        found["openvino bf16"] = OpenVinoEngine(bundle.onnx_path, info_of(bundle, "openvino", "bf16"), options)
        found["openvino bf16, bare"] = openvino_bare(bundle, bundle.onnx_path, "bf16", options)
    found["openvino int8"] = OpenVinoEngine(int8, info_of(bundle, "openvino", "int8"), options)
    found["openvino int8, bare"] = openvino_bare(bundle, int8, "f32", options)
    found["openvino int8, not folded"] = OpenVinoEngine(plain, info_of(bundle, "openvino", "int8"), options)
    hint = "bf16" if cpu().bf16 else "f32"
    label = f"openvino int8, full resolution in {hint}"
    found[label] = OpenVinoEngine(outer, info_of(bundle, "openvino", "int8"), options, hint)
    return found


def machine_limit(threads: int) -> dict[str, float]:
    """GFLOP/s of a large matrix product, the best of ten: what the CPU can do at most."""
    import torch

    torch.set_num_threads(threads)
    limits = {}
    for name, kind in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.ones(1536, 1536, dtype=kind), torch.ones(1536, 1536, dtype=kind)
        times = []
        for _ in range(10):
            before = time.perf_counter()
            torch.mm(a, b)
            times.append(time.perf_counter() - before)
        limits[name] = 2 * 1536**3 / min(times) / 1e9
    return limits


def table(bundle: Bundle, options: CpuOptions, runs: int, budget_s: float, folder: Path) -> dict[str, Any]:
    """Every row's latency; ratios are medians over the turns that all rows took one after another."""
    engines = rows(bundle, options, folder)
    batch = bundle.normalise(bundle.golden()[0][:1])
    turns = take_turns(engines, batch, SystemClock(), lambda *_: None, runs, budget_s)
    taken = latency(turns)
    for name, times in taken.items():
        times["over_torch"] = times_faster(turns, name, than="torch eager f32")
        times["over_openvino_f32"] = times_faster(turns, name, than="openvino f32")
    print(f"\n{bundle.name}: {bundle.height} x {bundle.width}, batch 1, {options.thread_count} threads")
    print(f"{'':38} {'p50 ms':>9} {'p99 ms':>9} {'p99.9 ms':>9} {'x torch':>8} {'x OV f32':>8}")
    for name, times in taken.items():
        told = f"{times['p50']:9.2f} {times['p99']:9.2f} {times['p999']:9.2f}"
        print(f"{name:38} {told} {times['over_torch']:8.2f} {times['over_openvino_f32']:8.2f}")
    overhead = {name: 1 / times_faster(turns, name, f"{name}, bare") - 1 for name in turns if f"{name}, bare" in turns}
    for name, share in overhead.items():
        print(f"our infer over the bare loop, {name}: {share:+.1%} at p50")
    for engine in engines.values():
        engine.close()
    ours = [name for name in taken if name.startswith("openvino") and not name.endswith("bare")]
    return {
        "bundle": bundle.name,
        "turns": len(turns["torch eager f32"]),
        "rows": taken,
        "overhead": overhead,
        "best_over_torch": max(taken[name]["over_torch"] for name in ours),
        "int8_over_f32": taken["openvino int8"]["over_openvino_f32"],
    }


def queue_loop(bundle: Bundle, options: CpuOptions, hint: str = "f32", model: Path | None = None) -> Queue:
    """OpenVINO's own throughput loop: a function that infers n x 1 x H x W and gives the maps."""
    import openvino

    core = openvino.Core()
    network = core.read_model(str(model or bundle.onnx_path))
    network.reshape([1, 1, bundle.height, bundle.width])
    queue = openvino.AsyncInferQueue(core.compile_model(network, "CPU", properties(options, hint)))

    def call(batch: FloatMap) -> FloatMap:
        results = np.empty_like(batch)
        queue.set_callback(lambda request, index: np.copyto(results[index], request.get_output_tensor().data[0]))
        for index in range(len(batch)):
            queue.start_async({0: batch[index : index + 1]}, index)
        queue.wait_all()
        return results

    return call


def spent(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock and of processor time, all threads."""
    wall, cpu_time = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu_time


def throughput(bundle: Bundle, options: CpuOptions, images: int, turns: int) -> dict[str, Any]:
    """Images a second of our throughput engine and of OpenVINO's AsyncInferQueue, in turns."""
    wide = CpuOptions(options.threads, options.pinning, None, throughput=True)
    ours = OpenVinoEngine(bundle.onnx_path, info_of(bundle, "openvino", "fp32"), wide)
    batch = np.repeat(bundle.normalise(bundle.golden()[0][:1]), images, axis=0)
    loop = queue_loop(bundle, wide)
    found = in_turns({"ours": lambda: ours.infer(batch), "AsyncInferQueue": lambda: loop(batch)}, images, turns)
    ours.close()
    return {"bundle": bundle.name, "requests": wide.thread_count, **found}


def in_turns(calls: dict[str, Callable[[], Any]], images: int, turns: int) -> dict[str, Any]:
    """The first against the second: the ratio of images a second, turn by turn, each begun by the other of the two."""
    ours, theirs = calls
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():  # a turn to warm up
        call()
    for turn in range(turns):
        for name in (ours, theirs) if turn % 2 else (theirs, ours):
            taken[name].append(spent(calls[name]))
    pairs = list(zip(taken[ours], taken[theirs], strict=True))
    shares = [other[0] / own[0] for own, other in pairs]
    cpu_shares = [other[1] / own[1] for own, other in pairs]
    rates = {name: [images / wall for wall, _ in each] for name, each in taken.items()}
    cpu_ms = {name: [1000 * cpu_s / images for _, cpu_s in each] for name, each in taken.items()}
    for name, each in rates.items():
        print(
            f"  {name:<16} {np.median(each):7.1f} images/s, {np.median(cpu_ms[name]):6.2f} ms processor time an image"
        )
    print(
        f"  {ours} / {theirs}: {np.median(shares):.1%} (median of {turns} paired turns, {min(shares):.1%} to "
        f"{max(shares):.1%}); by processor time {np.median(cpu_shares):.1%}"
    )
    return {
        "images": images,
        "images_per_s": rates,
        "cpu_ms": cpu_ms,
        "shares": shares,
        "share": float(np.median(shares)),
        "cpu_share": float(np.median(cpu_shares)),
    }


def replayed(bundle: Bundle, options: CpuOptions, folder: Path, images: int, turns: int) -> dict[str, Any]:
    """``inspector replay --throughput`` in FP32, and AsyncInferQueue on the same images, prepared before.

    Replay's time holds reading and decoding the files, preparing, inferring, deciding, comparing with the true masks
    and writing the results file; the framework's holds inferring and copying the maps. Opening an engine is in neither.
    """
    from inspector.config import Settings
    from inspector.frame import Crop, Frame
    from inspector.layouts import list_samples, read_grey
    from inspector.recipe import engine_opener, open_proven, read_ingredients
    from inspector.replay import replay_with

    engine = {"bundle": bundle.path, "backend": "openvino", "precision": "fp32", "threads": options.threads}
    settings = Settings.model_validate({"engine": engine})
    ingredients = read_ingredients(settings, SystemClock())
    listed = list_samples(folder)
    samples = listed[:: max(1, len(listed) // images)][:images]
    crops = [ingredients.preprocess.prepare(Frame(n, read_grey(one.image), 0)) for n, one in enumerate(samples, 1)]
    tensors = np.concatenate([crop.tensor for crop in crops if isinstance(crop, Crop)])
    if len(tensors) < len(samples):
        raise SystemExit(f"{len(samples) - len(tensors)} of the images show no part: take others")
    opened = open_proven(ingredients.bundle, engine_opener(settings, throughput=True)).engine
    loop = queue_loop(bundle, CpuOptions(options.threads, throughput=True))
    recipe, written = ingredients.recipe(opened), set[str]()
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "results.jsonl"

        def once() -> None:
            replay_with(recipe, samples, throughput=True, results=target)
            written.add(hashlib.sha256(target.read_bytes()).hexdigest())

        print(f"{bundle.name}: {len(samples)} images of {folder.name}")
        found = in_turns({"replay": once, "AsyncInferQueue": lambda: loop(tensors)}, len(samples), turns)
    opened.close()
    print(f"  results files of the {turns + 1} replays: {'the same bytes' if len(written) == 1 else 'DIFFERENT BYTES'}")
    return {"bundle": bundle.name, "different_results": len(written), **found}


def resident_kib() -> int:
    """Resident memory of this process; freed pages are handed back first, so that only what is held counts."""
    import ctypes

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise RuntimeError("the kernel tells no VmRSS")


def memory(bundle: Bundle, options: CpuOptions, inferences: int, cycles: int) -> dict[str, Any]:
    """Growth of resident memory over many inferences, and over many times opening and closing."""
    grown: dict[str, Any] = {}
    batch = bundle.normalise(bundle.golden()[0][:1])
    for backend in ("openvino", "onnxruntime"):

        def opened(backend: str = backend) -> Engine:
            return open_engine(bundle, backend=backend, precision="fp32", threads=options.threads).engine

        engine = opened()
        for _ in range(200):
            engine.infer(batch)
        before = resident_kib()
        for _ in range(inferences):
            engine.infer(batch)
        over_runs = resident_kib() - before
        engine.close()
        for _ in range(10):
            engine = opened()
            engine.infer(batch)
            engine.close()
        before = resident_kib()
        for _ in range(cycles):
            engine = opened()
            engine.infer(batch)
            engine.close()
        over_cycles = resident_kib() - before
        grown[backend] = {"inferences_kib": over_runs, "open_close_kib": over_cycles}
        print(f"{backend}: {over_runs} KiB over {inferences} inferences, {over_cycles} KiB over {cycles} open/close")
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["table", "throughput", "replay", "memory"])
    parser.add_argument("--folder", type=Path, help="images to replay")
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument("--width", type=int, nargs="+", default=[])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=0, help="0 = physical cores that this process may use")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--budget-s", type=float, default=120.0, help="for one table")
    parser.add_argument("--images", type=int, default=96, help="of a turn of throughput or replay")
    parser.add_argument("--turns", type=int, default=9, help="of throughput or replay, each of both in pairs")
    parser.add_argument("--inferences", type=int, default=10_000)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    if not wanted.bundle and not wanted.width:
        parser.error("name a --bundle or a --width")
    if wanted.what == "replay" and wanted.folder is None:
        parser.error("replay needs a --folder")
    options = CpuOptions(wanted.threads)
    here = cpu()
    load = Path("/proc/loadavg").read_text()[:14]
    print(f"{here.name}, {physical_cores()} cores for us, {' '.join(here.isa)}; load {load}")
    result: dict[str, Any] = {"cpu": here.name, "isa": here.isa, "threads": options.thread_count, "results": []}
    with tempfile.TemporaryDirectory() as scratch:
        bundles = [load_bundle(path) for path in wanted.bundle]
        bundles += [random_bundle(width, wanted.size, Path(scratch)) for width in wanted.width]
        for bundle in bundles:
            if wanted.what == "table":
                found = table(bundle, options, wanted.runs, wanted.budget_s, Path(scratch))
            elif wanted.what == "throughput":
                found = throughput(bundle, options, wanted.images, wanted.turns)
            elif wanted.what == "replay":
                found = replayed(bundle, options, wanted.folder, wanted.images, wanted.turns)
            else:
                found = memory(bundle, options, wanted.inferences, wanted.cycles)
            result["results"].append(found)
    if wanted.what == "table":
        result["limit_gflops"] = machine_limit(options.thread_count)
        print(f"\nlarge matrix product: {', '.join(f'{k} {v:.0f} GFLOP/s' for k, v in result['limit_gflops'].items())}")
    if wanted.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
