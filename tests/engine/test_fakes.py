"""Each rule of the GPU, broken on purpose: the fakes must see it, or passing on them means nothing."""

from __future__ import annotations

import gc
import sys
import threading
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from networks import image, on_fake_gpu

from inspector.engine import cuda
from inspector.engine.bundle import Bundle


@pytest.fixture
def forgiven(gpu: ModuleType) -> Iterator[list[str]]:
    """For tests that break a rule on purpose: the violations, forgotten at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield gpu.violations
        gc.collect()
    gpu.reset()


class TestTheFakesPunish:
    """Each rule of the GPU, broken on purpose: the fakes must see it, or passing on them means nothing."""

    def test_reading_before_waiting_gives_nan(self, gpu_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the wait the map is not there yet."""
        engine = on_fake_gpu(gpu_bundle)
        with monkeypatch.context() as planted:
            planted.setattr(cuda.Slot, "wait", lambda slot: None)
            assert np.isnan(engine.infer(image())).all()
        engine.close()

    def test_reusing_an_input_before_waiting_mixes_images(self, gpu_bundle: Bundle, forgiven: list[str]) -> None:
        """An upload reads the pinned buffer when it happens, not when it was queued."""
        engine = on_fake_gpu(gpu_bundle)
        slot = engine._lanes[0].slot
        first, second = image(), image() + 1.0
        right = engine.infer(first)
        with cuda.gpu().current("upload"):
            slot.host_in[0] = first[0]
            slot.upload()
            slot.host_in[0] = second[0]
            assert engine._lanes[0].context.execute_async_v3(slot.stream.handle)
            slot.download()
            slot.wait()
        assert not np.array_equal(slot.host_out, right)
        assert forgiven == ["pinned memory was written while a queued upload still had to read it"]
        del slot
        engine.close()

    def test_a_blocking_stream(self, gpu: ModuleType, forgiven: list[str]) -> None:
        """A stream made without the non-blocking flag."""
        from pycuda import driver

        with cuda.gpu().current("make"):
            stream = driver.Stream()
            del stream
        assert "non-blocking" in forgiven[0]

    def test_stream_0(self, gpu_bundle: Bundle, forgiven: list[str]) -> None:
        """TensorRT on stream 0."""
        engine = on_fake_gpu(gpu_bundle)
        with cuda.gpu().current("run"):
            assert not engine._lanes[0].context.execute_async_v3(0)
        assert forgiven == ["TensorRT was run on stream 0"]
        engine.close()

    def test_a_missing_address(self, gpu_bundle: Bundle, gpu: ModuleType) -> None:
        """A tensor without an address: False, and the reason only in the log."""
        engine = on_fake_gpu(gpu_bundle)
        context, slot = engine._lanes[0].context, engine._lanes[0].slot
        kept = dict(context._addresses)
        context._addresses.pop("map")
        with cuda.gpu().current("run"):
            assert not context.execute_async_v3(slot.stream.handle)
        assert "Address is not set for output tensor map" in engine._log.errors()
        context._addresses = kept
        del context, slot
        engine.close()

    def test_freeing_without_the_context(self, gpu_bundle: Bundle, forgiven: list[str]) -> None:
        """Dropping the engine's objects outside the context, in no order."""
        engine = on_fake_gpu(gpu_bundle)
        sys.modules["inspector.engine.tensorrt"]._OPEN.clear()
        del engine
        gc.collect()
        assert any("engine destroyed while its context is not current" in each for each in forgiven)
        assert any("stream destroyed while its context is not current" in each for each in forgiven)

    def test_buffers_before_contexts(self, gpu_bundle: Bundle, forgiven: list[str]) -> None:
        """Device memory freed while an execution context points to it."""
        engine = on_fake_gpu(gpu_bundle)
        with cuda.gpu().current("free"):
            engine._lanes[0].slot.free()
        assert "device memory was freed while an execution context points to it" in forgiven
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sys.modules["inspector.engine.tensorrt"]._OPEN.clear()

    def test_a_thread_that_ends_with_a_context(self, gpu: ModuleType, forgiven: list[str]) -> None:
        """The bug that aborts a real daemon."""
        primary = cuda.gpu()

        def work() -> None:
            primary._context.push()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        gc.collect()
        assert forgiven == ["a thread ended with a CUDA context pushed; pycuda aborts the process"]

    def test_two_retains(self, gpu: ModuleType, forgiven: list[str]) -> None:
        """A second retained primary context is another context to pycuda."""
        cuda.gpu()
        cuda._PRIMARY.clear()
        cuda.gpu()
        assert "retained twice" in forgiven[0]

    def test_weak_typing_and_tf32(self, gpu: ModuleType, forgiven: list[str]) -> None:
        """A network without strong typing, and TF32 left on."""
        import tensorrt as trt

        from inspector.engine.tensorrt import Log

        with cuda.gpu().current("build"):
            builder = trt.Builder(Log(trt).logger)
            network, config = builder.create_network(0), builder.create_builder_config()
            builder.build_serialized_network(network, config)
            del builder, network, config
        assert [each.split(":")[0] for each in forgiven] == ["the network is not strongly typed", "TF32 is on"]
