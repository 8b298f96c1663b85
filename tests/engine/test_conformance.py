"""One contract for every back end; TensorRT runs on the strict fakes of tests/fakes."""

from __future__ import annotations

import gc
import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networks
import numpy as np
import psutil
import pytest
from networks import MakeBundle

from inspector.engine import Engine, cuda
from inspector.engine.build import Limits, ProofImages, build_plan
from inspector.engine.bundle import Bundle, load_bundle
from inspector.engine.choose import open_engine, self_test, warm_up
from inspector.engine.machine import cpu
from inspector.errors import EngineError
from inspector.frame import FloatMap

SIZE = (48, 64)
LOOSE = Limits(verdict_flips=1000, mask_iou=0.0)
"""Random weights: their maps hover round the threshold, so overlap says nothing here."""
BACKENDS: list[Any] = [
    "openvino fp32",
    "openvino fp16",
    "openvino bf16",
    "openvino int8",
    "onnxruntime fp32",
    "tensorrt fp32",
    "tensorrt fp16",
    "tensorrt int8",
    "openvino fp32 throughput",
    "tensorrt fp16 throughput",
    pytest.param("tensorrt fp32 gpu", marks=pytest.mark.gpu),
    pytest.param("tensorrt fp16 gpu", marks=pytest.mark.gpu),
    pytest.param("tensorrt int8 gpu", marks=pytest.mark.gpu),
    pytest.param("tensorrt fp16 gpu throughput", marks=pytest.mark.gpu),
]
TOLERANCE = {"fp32": (1e-4, 1e-5), "fp16": (5e-3, 5e-4), "bf16": (0.05, 0.005), "int8": (0.4, 0.03)}
"""Largest and mean difference of a probability on random weights, whose maps are steep everywhere."""

Open = Callable[[], Engine]


def judge(found: FloatMap) -> str:
    return "FAIL" if (found >= 0.5).mean() > 0.5 else "PASS"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Bundles with a plan, made once for all tests of this module."""
    return {}


@pytest.fixture(params=BACKENDS)
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if "bf16" in name and not cpu().bf16:
        pytest.skip("this CPU has no bf16 arithmetic")
    if "gpu" in name:
        real_gpu()
    elif name.startswith("tensorrt"):
        request.getfixturevalue("gpu")
    return name


def real_gpu() -> None:
    """Skip unless TensorRT, pycuda and a device are here: these cases run on the real ones, unchanged."""
    for module in ("tensorrt", "pycuda"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed, so nothing runs on a GPU here")
    try:
        cuda.facts()
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture
def bundle(
    case: str, built: dict[str, Bundle], make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    backend, precision = case.split()[:2]
    key = f"{backend} {precision}" + (" gpu" if "gpu" in case else "")
    if key not in built:
        fresh = make_bundle(networks.lsa_like(3, SIZE, "pool"), SIZE, key.replace(" ", "-"))
        keep = tmp_path_factory.mktemp("built") / fresh.path.name
        fresh.path.rename(keep)
        images = ProofImages(networks.images(12, SIZE, seed=5), "noise")
        build_plan(load_bundle(keep), backend, precision, judge=judge, runs=50, images=images, limits=LOOSE)
        built[key] = load_bundle(keep)
    return built[key]


@pytest.fixture
def open_(case: str, bundle: Bundle) -> Iterator[Open]:
    backend, precision, *mode = case.split()
    opened: list[Engine] = []

    def opener() -> Engine:
        throughput = "throughput" in mode
        threads = 2 if throughput else 1  # OpenVINO overlaps as many images as it has threads
        engine = open_engine(
            bundle, backend=backend, precision=precision, threads=threads, throughput=throughput
        ).engine
        opened.append(engine)
        return engine

    yield opener
    for engine in opened:
        engine.close()


def batch(count: int, seed: int = 11) -> FloatMap:
    pixels = networks.images(count, SIZE, seed).astype(np.float32)
    return ((pixels / 255 - 0.5) / 0.25)[:, np.newaxis].astype(np.float32)


@pytest.fixture(scope="module")
def expected() -> FloatMap:
    """FP32 maps of ``batch(5)`` by onnxruntime."""
    from inspector.engine.reference import reference_maps

    return reference_maps(networks.lsa_like(3, SIZE, "pool"), batch(5))


class TestEveryEngine:
    """What the line may rely on, whatever runs below."""

    def test_maps_have_the_shape_and_type_of_the_batch(self, open_: Open) -> None:
        """A batch of n images gives n maps of float32 probabilities."""
        for count in (1, 2, 5):
            maps = open_().infer(batch(count))
            assert maps.shape == (count, 1, *SIZE)
            assert maps.dtype == np.float32
            assert maps.min() >= 0.0
            assert maps.max() <= 1.0

    def test_maps_are_those_of_fp32(self, case: str, open_: Open, expected: FloatMap) -> None:
        """A plan computes the bundle's network: its maps are FP32's, as near as its precision allows."""
        found = open_().infer(batch(5))
        assert expected.std() > 0.02  # the network is not constant, or the next line could not fail
        difference, (largest, mean) = np.abs(found - expected), TOLERANCE[case.split()[1]]
        assert difference.max() < largest
        assert difference.mean() < mean

    def test_images_of_a_batch_do_not_mix(self, open_: Open) -> None:
        """Each map of a batch is the one that its image gets alone."""
        engine, images = open_(), batch(7)
        together = engine.infer(images)
        for index in range(len(images)):
            assert np.array_equal(engine.infer(images[index : index + 1])[0], together[index])

    def test_a_non_contiguous_batch_is_taken(self, open_: Open) -> None:
        """Strides do not matter: a view gives what its copy gives."""
        engine = open_()
        wide = np.repeat(batch(4), 2, axis=3)
        view = wide[::2, :, :, ::2]
        assert not view.flags.c_contiguous
        assert np.array_equal(engine.infer(view), engine.infer(np.ascontiguousarray(view)))

    def test_a_read_only_batch_is_taken(self, open_: Open) -> None:
        """The caller's array is read, never written or needed afterwards."""
        images = batch(1)
        images.flags.writeable = False
        kept = images.copy()
        open_().infer(images)
        assert np.array_equal(images, kept)

    @pytest.mark.parametrize(
        "wrong",
        [
            np.zeros((1, 1, SIZE[1], SIZE[0]), np.float32),
            np.zeros((1, 3, *SIZE), np.float32),
            np.zeros((1, *SIZE), np.float32),
            np.zeros((0, 1, *SIZE), np.float32),
            np.zeros((1, 1, *SIZE), np.float64),
            np.zeros((1, 1, *SIZE), np.uint8),
        ],
        ids=["turned", "colour", "no channel", "empty", "float64", "uint8"],
    )
    def test_a_wrong_input_is_refused(self, open_: Open, wrong: FloatMap) -> None:
        """Another shape or type is an EngineError that says both, and the engine still runs afterwards."""
        engine = open_()
        with pytest.raises(EngineError, match="float32"):
            engine.infer(wrong)
        assert engine.infer(batch(1)).shape == (1, 1, *SIZE)

    def test_the_caller_owns_the_map(self, open_: Open) -> None:
        """A later inference does not change an earlier result."""
        engine = open_()
        first = engine.infer(batch(1, seed=1))
        kept = first.copy()
        engine.infer(batch(3, seed=2))
        assert np.array_equal(first, kept)
        first[:] = 0.0  # writable, and not a view of the engine's memory
        assert np.array_equal(engine.infer(batch(1, seed=1)), kept)

    def test_results_are_deterministic(self, open_: Open) -> None:
        """The same image gives the same bytes, in this instance and in the next."""
        first, second = open_(), open_()
        images = batch(3)
        once = first.infer(images)
        assert all(np.array_equal(once, first.infer(images)) for _ in range(5))
        assert np.array_equal(once, second.infer(images))

    def test_it_says_what_it_is(self, case: str, bundle: Bundle, open_: Open) -> None:
        """Info names back end, precision, device and the hashes that stand in every answer."""
        info = open_().info
        assert (info.backend, info.precision) == tuple(case.split()[:2])
        assert info.bundle == bundle.name
        assert info.onnx_hash == bundle.onnx_sha256
        assert len(info.plan_hash) == 64
        assert info.device
        assert info.backend_version
        assert (info.input_height, info.input_width) == SIZE

    def test_it_passes_its_own_self_test(self, bundle: Bundle, open_: Open) -> None:
        """A plan that was just built passes the start-up check against its passport."""
        engine = open_()
        warm_up(engine, 2)
        result = self_test(engine, bundle)
        assert result.images == 3
        assert result.max_abs_diff <= result.max_abs_diff_limit

    def test_close_is_idempotent_and_final(self, open_: Open) -> None:
        """After close an inference is an EngineError, and closing again is nothing."""
        engine = open_()
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            engine.infer(batch(1))

    def test_instances_run_beside_each_other(self, open_: Open, case: str, bundle: Bundle) -> None:
        """Threads with an engine each do not disturb one another."""
        backend, precision, *mode = case.split()
        images = [batch(3, seed=seed) for seed in range(3)]
        alone = [open_().infer(each) for each in images]
        faults: list[BaseException] = []

        def work(index: int) -> None:
            try:
                throughput = "throughput" in mode
                engine = open_engine(
                    bundle, backend=backend, precision=precision, threads=1 + throughput, throughput=throughput
                ).engine
                try:
                    for _ in range(10):
                        assert np.array_equal(engine.infer(images[index]), alone[index])
                finally:
                    engine.close()
            except BaseException as fault:  # noqa: BLE001 - a thread's fault must reach the test
                faults.append(fault)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []

    def test_opening_and_closing_does_not_grow(self, open_: Open) -> None:
        """Repeated opening, running and closing leaves no memory behind."""

        def cycle(times: int) -> int:
            for _ in range(times):
                engine = open_()
                engine.infer(batch(1))
                engine.close()
            gc.collect()
            return int(psutil.Process().memory_info().rss)

        before = cycle(6)
        assert cycle(12) - before < 6 << 20


def test_throughput_overlaps(make_bundle: MakeBundle) -> None:
    """For replay several images are under way at a time; for the line one."""
    bundle = make_bundle(networks.lsa_like(3, SIZE), SIZE)
    for throughput in (False, True):
        engine = open_engine(bundle, backend="openvino", precision="fp32", threads=2, throughput=throughput).engine
        assert (engine.parallel > 1) is throughput  # type: ignore[attr-defined]
        engine.close()


def test_caches_make_no_other_engine(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A model from the cache gives the same bytes as a compiled one, and says where it is from."""
    bundle = make_bundle(networks.lsa_like(3, SIZE), SIZE)
    cache = tmp_path / "cache"
    first = open_engine(bundle, backend="openvino", precision="fp32", cache_dir=cache).engine
    second = open_engine(bundle, backend="openvino", precision="fp32", cache_dir=cache).engine
    try:
        assert not first.loaded_from_cache  # type: ignore[attr-defined]
        assert second.loaded_from_cache  # type: ignore[attr-defined]
        assert np.array_equal(first.infer(batch(2)), second.infer(batch(2)))
    finally:
        first.close()
        second.close()
