"""Engines side by side, as ratios taken in one run; memory over many runs; throughput against the framework's own loop.

    python benchmarks/engines.py table --width 8 16 32          random weights; speed only
    python benchmarks/engines.py table --bundle engines/commutator
    python benchmarks/engines.py throughput --bundle engines/commutator
    python benchmarks/engines.py replay --bundle engines/magnetic-tile --folder DIR
    python benchmarks/engines.py memory --bundle engines/commutator

``table`` alternates between all rows, so load on the machine falls on all alike; the bare rows are the framework's own
loop without our engine. The machine's limit is a large matrix product in the same run. ``replay`` reads,
decodes, prepares, infers and decides a folder's images; the framework's loop beside it infers as many ready tensors.
Needs the extras build, train.
"""

from __future__ import annotations

import argparse
import gc
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
from inspector.engine.measure import latency
from inspector.engine.openvino import OpenVinoEngine, properties
from inspector.engine.reference import reference_maps
from inspector.frame import FloatMap


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
    target = folder / f"{bundle.name}-{recipe.keep}.xml"
    quantise_openvino(bundle.onnx_path, Calibration(tensors, maps, bundle.threshold), recipe, target)
    return target


def rows(bundle: Bundle, options: CpuOptions, folder: Path) -> dict[str, Engine]:
    """Every engine of the table, opened. torch comes first: it is the 1.0x."""
    threads = options.thread_count
    int8 = quantised(bundle, Recipe("mixed"), folder)
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
    engines = rows(bundle, options, folder)
    batch = bundle.normalise(bundle.golden()[0][:1])
    taken = latency(engines, batch, SystemClock(), lambda *_: None, runs, budget_s)
    first = taken["torch eager f32"]["p50"]
    print(f"\n{bundle.name}: {bundle.height} x {bundle.width}, batch 1, {options.thread_count} threads")
    print(f"{'':38} {'p50 ms':>9} {'p99 ms':>9} {'p99.9 ms':>9} {'ratio':>7}")
    for name, times in taken.items():
        times["ratio"] = first / times["p50"]
        print(f"{name:38} {times['p50']:9.2f} {times['p99']:9.2f} {times['p999']:9.2f} {times['ratio']:6.2f}x")
    overhead = {
        name: taken[name]["p50"] / taken[f"{name}, bare"]["p50"] - 1.0 for name in taken if f"{name}, bare" in taken
    }
    for name, share in overhead.items():
        print(f"our infer over the bare loop, {name}: {share:+.1%} at p50")
    for engine in engines.values():
        engine.close()
    return {"bundle": bundle.name, "rows": taken, "overhead": overhead}


def throughput(bundle: Bundle, options: CpuOptions, images: int) -> dict[str, Any]:
    """Images a second of our throughput engine and of OpenVINO's AsyncInferQueue, in turns."""
    import openvino

    wide = CpuOptions(options.threads, options.pinning, None, throughput=True)
    ours = OpenVinoEngine(bundle.onnx_path, info_of(bundle, "openvino", "fp32"), wide)
    core = openvino.Core()
    network = core.read_model(str(bundle.onnx_path))
    network.reshape([1, 1, bundle.height, bundle.width])
    queue = openvino.AsyncInferQueue(core.compile_model(network, "CPU", properties(wide, "f32")))
    batch = np.repeat(bundle.normalise(bundle.golden()[0][:1]), images, axis=0)
    results = np.empty_like(batch)

    def keep(request: Any, index: int) -> None:
        results[index] = request.get_output_tensor().data[0]

    queue.set_callback(keep)

    def bare() -> None:
        for index in range(images):
            queue.start_async({0: batch[index : index + 1]}, index)
        queue.wait_all()

    rates: dict[str, list[float]] = {"ours": [], "AsyncInferQueue": []}
    for turn in range(6):
        for name, call in (("ours", lambda: ours.infer(batch)), ("AsyncInferQueue", bare)):
            before = time.perf_counter()
            call()
            if turn:  # the first turn warms up
                rates[name].append(images / (time.perf_counter() - before))
    medians = {name: float(np.median(found)) for name, found in rates.items()}
    share = medians["ours"] / medians["AsyncInferQueue"]
    print(
        f"{bundle.name}: {medians['ours']:.1f} images/s, AsyncInferQueue {medians['AsyncInferQueue']:.1f}: {share:.1%}"
    )
    ours.close()
    return {"bundle": bundle.name, "images_per_s": medians, "share": share, "requests": wide.thread_count}


def replayed(bundle: Bundle, options: CpuOptions, folder: Path, turns: int = 2) -> dict[str, Any]:
    """Images a second of ``inspector replay --throughput`` in FP32, and of AsyncInferQueue, in turns."""
    import openvino

    from inspector.config import Settings
    from inspector.replay import replay

    engine = {"bundle": bundle.path, "backend": "openvino", "precision": "fp32", "threads": options.threads}
    settings = Settings.model_validate({"engine": engine})
    core, wide = openvino.Core(), CpuOptions(options.threads, throughput=True)
    network = core.read_model(str(bundle.onnx_path))
    network.reshape([1, 1, bundle.height, bundle.width])
    queue = openvino.AsyncInferQueue(core.compile_model(network, "CPU", properties(wide, "f32")))
    tensors = bundle.normalise(bundle.golden()[0])
    rates: dict[str, list[float]] = {"replay": [], "AsyncInferQueue": []}
    for _ in range(turns):
        found = replay(folder, settings, throughput=True)
        rates["replay"].append(found["images_per_s"])
        before = time.perf_counter()
        for index in range(found["images"]):
            queue.start_async({0: tensors[index % len(tensors)][np.newaxis]})
        queue.wait_all()
        rates["AsyncInferQueue"].append(found["images"] / (time.perf_counter() - before))
    medians = {name: float(np.median(each)) for name, each in rates.items()}
    share = medians["replay"] / medians["AsyncInferQueue"]
    told = ", ".join(f"{name} {rate:.1f} images/s" for name, rate in medians.items())
    print(f"{bundle.name}: {told}: {share:.1%}")
    return {"bundle": bundle.name, "images_per_s": rates, "share": share}


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
    parser.add_argument("--images", type=int, default=64, help="a batch of the throughput run")
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
                found = throughput(bundle, options, wanted.images)
            elif wanted.what == "replay":
                found = replayed(bundle, options, wanted.folder)
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
