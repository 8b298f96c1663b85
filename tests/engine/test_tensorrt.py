"""The TensorRT back end on the strict fakes: failures, staleness, teardown; and that the fakes do punish."""

from __future__ import annotations

import gc
import json
import sys
import threading
import warnings
from pathlib import Path
from types import ModuleType

import networks
import numpy as np
import pytest
from networks import LOOSE, SIZE, MakeBundle, image, judge, on_fake_gpu

from inspector.engine import EngineInfo, cuda
from inspector.engine.build import ProofImages, build_plan
from inspector.engine.bundle import Bundle, load_bundle
from inspector.engine.choose import candidates, open_engine
from inspector.engine.cpu import CpuOptions
from inspector.engine.tensorrt import TensorRtEngine
from inspector.errors import EngineError


class TestPlans:
    def test_the_passport_tells_the_gpu(self, gpu_bundle: Bundle) -> None:
        """A plan's passport names GPU, compute capability, driver, TensorRT, islands and build settings."""
        plan = gpu_bundle.plans[0]
        assert plan.machine.device == "Fake RTX 4000"
        assert plan.machine.compute_capability == "8.9"
        assert plan.machine.multiprocessors == 48
        assert "CUDA 13.0" in plan.machine.driver
        assert plan.backend_version == sys.modules["tensorrt"].__version__
        assert plan.fp32_islands == ["lam.rows", "lam.cols", "lam.outer", "lam.out", "map"]
        assert plan.settings["tf32"] is False

    def test_both_majors_take_one_path(
        self, gpu: ModuleType, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """TensorRT 11, where STRONGLY_TYPED is 0 and the FP16 flag is gone, builds and runs the same plan."""
        monkeypatch.setenv("FAKE_TRT_VERSION", "11.4.0.106")
        fresh = make_bundle(networks.lsa_like(3, SIZE), SIZE)
        build_plan(fresh, "tensorrt", "fp16", judge=judge, runs=50, limits=LOOSE)
        engine = on_fake_gpu(load_bundle(fresh.path))
        assert engine.info.backend_version == "11.4.0.106"
        assert engine.infer(image()).shape == (1, 1, *SIZE)
        engine.close()

    def test_the_timing_cache_lies_in_the_bundle(self, gpu_bundle: Bundle) -> None:
        """Timings are kept by release and GPU for the next build; a damaged file is dropped, not fatal."""
        found = list((gpu_bundle.path / "plans").glob("timing-*.cache"))
        assert [path.name for path in found] == ["timing-10.16.1.11-Fake-RTX-4000-sm8.9.cache"]
        for damage in (b"garbage", b"CACHE 10.13.0 another GPU "):
            found[0].write_bytes(damage)
            build_plan(gpu_bundle, "tensorrt", "fp16", judge=judge, runs=50, limits=LOOSE)
            assert found[0].read_bytes().startswith(b"CACHE 10.16.1.11")

    @pytest.mark.parametrize(
        ("variable", "value", "word"),
        [
            ("FAKE_TRT_VERSION", "10.13.3.9", "TensorRT 10.16.1.11, here 10.13.3.9"),
            ("FAKE_GPU_NAME", "Fake RTX 6000", "Fake RTX 6000"),
            ("FAKE_GPU_SM", "8.6", "compute capability 8.9, here 8.6"),
            ("FAKE_CUDA_DRIVER", "12080", "CUDA 12.8"),
            ("FAKE_CUDA_DRIVER", "none", "no usable CUDA device"),
        ],
    )
    def test_a_stale_plan_is_refused_with_the_command(
        self, gpu_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, word: str
    ) -> None:
        """Another TensorRT, GPU or driver: refused by name before anything is loaded, with the rebuild command."""
        monkeypatch.setenv(variable, value)
        monkeypatch.setattr(sys.modules["tensorrt"], "__version__", value if "TRT" in variable else "10.16.1.11")
        with pytest.raises(EngineError) as caught:
            open_engine(gpu_bundle, backend="tensorrt")
        assert word in str(caught.value)
        assert f"inspector build-engine {gpu_bundle.path} --backend tensorrt --precision fp16" in str(caught.value)
        assert not candidates(gpu_bundle)[0].fits
        # auto goes on with the CPU, but says why
        chosen = open_engine(gpu_bundle)
        assert chosen.engine.info.backend == "openvino"
        assert word in chosen.reason
        chosen.engine.close()

    def test_an_unsigned_quantiser_never_reaches_tensorrt(self, gpu: ModuleType) -> None:
        """UINT8 activations are refused before the build: TensorRT would only warn, and clip half of each range."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        from inspector.engine.tensorrt_build import build_serialized

        scale = numpy_helper.from_array(np.float32(0.1), "scale")
        zero = numpy_helper.from_array(np.uint8(0), "zero")
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 8, 8]) for name in ("x", "y")]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="quantise"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="restore"),
        ]
        graph = helper.make_graph(nodes, "unsigned", ends[:1], ends[1:], [scale, zero])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        import tensorrt  # the fake

        with pytest.raises(EngineError, match="UINT8"):
            build_serialized(tensorrt, model.SerializeToString(), b"", lambda what, done, of: None)


class TestFailures:
    """TensorRT's None and False become EngineError with the words of its log; nothing stays behind on the GPU."""

    @pytest.mark.parametrize(
        ("failing", "word"),
        [("create_execution_context", "OutOfMemory"), ("mem_alloc", "out of memory")],
    )
    def test_opening_fails_cleanly(
        self, gpu_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, failing: str, word: str
    ) -> None:
        """A plan that cannot be opened says why and frees what it had taken (the fixture checks the rest)."""
        monkeypatch.setenv("FAKE_FAIL", failing)
        with pytest.raises(EngineError, match=word):
            on_fake_gpu(gpu_bundle)

    def test_cuda_that_does_not_start_is_said(self, gpu_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        """The TypeError of a NULL runtime is reported as what it is: no usable driver."""
        monkeypatch.setenv("FAKE_GPU_BROKEN", "1")
        with pytest.raises(EngineError, match=r"driver or CUDA.*CUDA initialization failure with error: 35"):
            on_fake_gpu(gpu_bundle)
        with pytest.raises(EngineError, match="builder does not start"):
            build_plan(gpu_bundle, "tensorrt", "fp16", judge=judge, runs=50, limits=LOOSE)

    def test_a_damaged_plan_is_refused_by_its_hash(self, gpu_bundle: Bundle) -> None:
        """One flipped byte is seen before TensorRT, which runs code from plans, gets the file."""
        path = gpu_bundle.file(gpu_bundle.plans[0].files[0].file)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(EngineError, match="not the file that the manifest describes"):
            on_fake_gpu(gpu_bundle)

    def test_a_plan_that_others_may_write_is_refused(self, gpu_bundle: Bundle) -> None:
        """Plans run code when loaded: plan and manifest must be safe from other users."""
        plan = gpu_bundle.file(gpu_bundle.plans[0].files[0].file)
        for path in (plan, plan.parent, gpu_bundle.path / "manifest.json"):
            before = path.stat().st_mode
            path.chmod(before | 0o002)
            with pytest.raises(EngineError, match="replaced by another user"):
                on_fake_gpu(gpu_bundle)
            path.chmod(before)
        on_fake_gpu(gpu_bundle).close()

    def test_tensorrts_own_refusal_is_forwarded(self, gpu_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        """A plan that TensorRT itself rejects gives the text of its log."""
        info = EngineInfo("b", "tensorrt", "10.16.1.11", "fp16", "gpu", "0" * 64, "1" * 64, *SIZE)
        plan = gpu_bundle.file(gpu_bundle.plans[0].files[0].file).read_bytes()
        for damaged, word in ((b"junk", "magicTagRead"), (plan.replace(b'"8.9"', b'"8.6"'), "incompatible device")):
            with pytest.raises(EngineError, match=word):
                TensorRtEngine(damaged, info, CpuOptions(), ("image", "map"), "rebuild it")

    def test_another_interface_is_refused(self, gpu_bundle: Bundle) -> None:
        """Names and shapes of the plan are compared with the bundle's before anything runs."""
        info = EngineInfo("b", "tensorrt", "10.16.1.11", "fp16", "gpu", "0" * 64, "1" * 64, *SIZE)
        plan = gpu_bundle.file(gpu_bundle.plans[0].files[0].file).read_bytes()
        with pytest.raises(EngineError, match="another interface"):
            TensorRtEngine(plan, info, CpuOptions(), ("image", "mask"), "rebuild it")

    def test_a_failed_run_is_an_error_and_the_engine_goes_on(
        self, gpu_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """False from execute_async_v3 raises with the log's text; the next inference is right again."""
        engine = on_fake_gpu(gpu_bundle)
        good = engine.infer(image())
        monkeypatch.setenv("FAKE_FAIL", "execute_async_v3")
        with pytest.raises(EngineError, match="launch failure"):
            engine.infer(image() + 1.0)
        monkeypatch.delenv("FAKE_FAIL")
        assert np.array_equal(engine.infer(image()), good)
        engine.close()

    def test_a_failed_build_gives_the_log(self, gpu_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        """None from the builder raises with the log's text, and the installed plan stays."""
        monkeypatch.setenv("FAKE_FAIL", "build_serialized_network")
        with pytest.raises(EngineError, match="Could not find any implementation"):
            build_plan(gpu_bundle, "tensorrt", "fp16", judge=judge, runs=50, limits=LOOSE)
        assert [plan.id for plan in load_bundle(gpu_bundle.path).plans] == [gpu_bundle.plans[0].id]


def test_throughput_overlaps_over_slots(gpu_bundle: Bundle, gpu: ModuleType) -> None:
    """For replay one image uploads while another computes and a third downloads; for the line there is one slot."""
    for throughput, slots in ((False, 1), (True, 3)):
        gpu.busy_peak[0] = 0
        engine = open_engine(gpu_bundle, backend="tensorrt", throughput=throughput).engine
        engine.infer(np.repeat(image(), 7, axis=0))
        assert gpu.busy_peak[0] == slots
        engine.close()


class TestThreads:
    def test_a_foreign_thread_may_not_run_it(self, gpu_bundle: Bundle) -> None:
        """Only the thread that opened the engine runs it."""
        engine = on_fake_gpu(gpu_bundle)
        caught: list[BaseException] = []

        def work() -> None:
            try:
                engine.infer(image())
            except EngineError as error:
                caught.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert "another thread" in str(caught[0])
        engine.close()

    def test_closing_in_a_foreign_thread_warns_and_frees_nothing(self, gpu_bundle: Bundle) -> None:
        """Freed in the wrong thread, pycuda leaks with a warning nobody reads; here it is refused and said."""
        engine = on_fake_gpu(gpu_bundle)
        said: list[str] = []

        def work() -> None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                engine.close()
            said.extend(str(each.message) for each in caught)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert any("did not open it" in text for text in said)
        engine.close()

    def test_a_forgotten_engine_is_not_freed_by_the_collector(self, gpu_bundle: Bundle, gpu: ModuleType) -> None:
        """Garbage collection runs in any thread, so an engine nobody closed keeps its GPU objects."""
        engine = on_fake_gpu(gpu_bundle)
        keys = list(sys.modules["inspector.engine.tensorrt"]._OPEN)
        owned = sys.modules["inspector.engine.tensorrt"]._OPEN[keys[-1]]
        del engine
        gc.collect()
        assert gpu.alive["engine"] == 1
        # tidy up by hand, in the owning thread
        with cuda.gpu().current("tidy up"):
            lanes = [thing for thing in owned if hasattr(thing, "context")]
            slots = [lane.slot for lane in lanes]
            for lane in lanes:
                lane.context = None
            owned.clear()
            lanes.clear()
            del lane
            for slot in slots:
                slot.free()


def test_a_plan_proven_on_images_is_reported(gpu_bundle: Bundle) -> None:
    """The report holds the keys that `build-engine --json` prints, and is JSON."""
    images = ProofImages(networks.images(4, SIZE), "noise")
    report = build_plan(gpu_bundle, "tensorrt", "fp16", judge=judge, runs=50, images=images, limits=LOOSE)
    keys = {"backend", "precision", "device", "verdict_flips", "images", "mask_iou", "max_abs_diff", "speedup"}
    assert keys | {"latency_ms", "fp32_latency_ms", "installed"} <= set(report)
    assert json.loads(json.dumps(report))["installed"] is True


def test_the_kernels_driver_version_is_read(tmp_path: Path) -> None:
    """The driver's version is the first dotted number of the kernel's line."""
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build\nGCC version: 12\n"
    )
    assert cuda.kernel_driver(file) == "580.82.07"
    assert cuda.kernel_driver(tmp_path / "none") == ""
