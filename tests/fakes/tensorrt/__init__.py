"""A strict stand-in for TensorRT 10.x and 11.x that executes the ONNX through onnxruntime (see fake_gpu).

Failures are None or False with the reason in the log alone, as in the real one. Names are those of the real bindings;
a test compares them. FAKE_TRT_VERSION chooses the release, and with it the names that 11 has lost.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import fake_gpu as rules
import numpy as np

from tensorrt._types import (
    _RELEASE,
    BuilderFlag,
    DataType,
    IHostMemory,
    ILogger,
    IProgressMonitor,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ParserError,
    ProfilingVerbosity,
    TensorIOMode,
    TensorLocation,
    _checked_logger,
    float16,
    float32,
    int8,
    int32,
)

__version__ = _RELEASE
_MAJOR = int(__version__.split(".", maxsplit=1)[0])
_MAGIC = b"FAKEPLAN"

__all__ = ["float16", "float32", "int8", "int32"]


class INetworkDefinition(rules.Resource):
    kind = "network"

    def __init__(self, flags: int) -> None:
        super().__init__()
        if _MAJOR < 11 and not flags & (1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)):
            rules.violate("the network is not strongly typed: TensorRT 10 would choose precisions by itself")
        self._onnx = b""


class OnnxParser(rules.Resource):
    kind = "parser"

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        super().__init__()
        self._network, self._logger, self._errors = network, _checked_logger(logger), list[ParserError]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper

        try:
            loaded = onnx.load_model_from_string(bytes(model))
            onnx.checker.check_model(loaded, full_check=True)
        except (DecodeError, onnx.checker.ValidationError) as error:
            self._errors.append(ParserError(f"Failed to parse the ONNX model: {error}"))
            return False
        weights = {w.name: w for w in loaded.graph.initializer}
        for node in loaded.graph.node:
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and len(node.input) > 2:
                zero = weights[node.input[2]]
                if zero.data_type == onnx.TensorProto.UINT8:
                    text = "TensorRT doesn't support QuantizeLinear/DequantizeLinear with UINT8 zero_point."
                    self._logger.log(ILogger.WARNING, text + " TensorRT will use INT8 instead.")
                    rules.violate("an unsigned quantiser reached TensorRT, which only warns and clips")
                if numpy_helper.to_array(zero).any():
                    self._errors.append(ParserError("Non-zero zero point is not supported"))
                    return False
        dims = [d.dim_value for v in loaded.graph.input for d in v.type.tensor_type.shape.dim]
        if 0 in dims:
            self._errors.append(ParserError("Network has dynamic inputs, but no optimization profile"))
            return False
        self._network._onnx = bytes(model)
        return True


class ITimingCache:
    def __init__(self, blob: bytes) -> None:
        self._blob = blob or _cache_header() + b"0"

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._blob)


def _cache_header() -> bytes:
    return f"CACHE {__version__} {rules.setting('GPU_NAME', 'Fake RTX 4000')} ".encode()


class IBuilderConfig(rules.Resource):
    kind = "builder config"

    def __init__(self, logger: ILogger) -> None:
        super().__init__()
        self._logger = logger
        self._flags = {BuilderFlag["TF32"]}
        self._cache: ITimingCache | None = None
        self.builder_optimization_level = 3
        self.max_aux_streams = -1
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor: IProgressMonitor | None = None
        self._workspace = 0

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._workspace = pool_size

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        blob = bytes(serialized_timing_cache)
        if blob and not blob.startswith(b"CACHE "):
            self._logger.log(ILogger.ERROR, "Timing cache is corrupt")
            return None
        return ITimingCache(blob)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not cache._blob.startswith(_cache_header()) and not ignore_mismatch:
            self._logger.log(ILogger.WARNING, "Timing cache was made on another device")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder(rules.Resource):
    kind = "builder"

    def __init__(self, logger: ILogger) -> None:
        _started("Builder", logger)
        super().__init__()
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._logger)

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        self._check_use("build")
        if BuilderFlag["TF32"] in config._flags:
            rules.violate("TF32 is on: the FP32 islands would run in TF32")
        if rules.fails("build_serialized_network") or not _monitored(config.progress_monitor):
            self._logger.log(ILogger.ERROR, "Error Code 10: Could not find any implementation for node Conv_0.")
            return None
        if config._cache is not None:
            config._cache._blob = _cache_header() + b"1"
        facts = {"version": __version__, "sm": rules.setting("GPU_SM", "8.9")}
        return IHostMemory(_MAGIC + json.dumps(facts).encode() + b"\n" + network._onnx)


def _monitored(monitor: IProgressMonitor | None) -> bool:
    """Report two steps from another thread; False where the monitor cancels, by whatever is not True."""
    if monitor is None:
        return True
    answers: list[Any] = []

    def report() -> None:
        monitor.phase_start("Building", None, 2)
        for step in range(2):
            answers.append(monitor.step_complete("Building", step))
        monitor.phase_finish("Building")

    thread = threading.Thread(target=report)
    thread.start()
    thread.join()
    return all(answer is True for answer in answers)


def _started(kind: str, logger: ILogger) -> None:
    _checked_logger(logger)
    if rules.setting("GPU_BROKEN", "") == "1":
        logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")
    if rules.current() is None:
        rules.violate(f"{kind} was made without a CUDA context current")


class Runtime(rules.Resource):
    kind = "runtime"

    def __init__(self, logger: ILogger) -> None:
        _started("Runtime", logger)
        super().__init__()
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        self._check_use("use")
        data = bytes(serialized_engine)
        if not data.startswith(_MAGIC) or b"\n" not in data:
            self._log("Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match")
            return None
        header, model = data[len(_MAGIC) :].split(b"\n", 1)
        facts = json.loads(header)
        if facts["version"] != __version__:
            self._log(
                "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. "
                f"Note: Current Version: {__version__}, Serialized Engine Version: {facts['version']}"
            )
            return None
        here = rules.setting("GPU_SM", "8.9")
        if facts["sm"] != here:
            self._log(
                "The engine plan file is generated on an incompatible device, "
                f"expecting compute {here} got compute {facts['sm']}, please rebuild."
            )
            return None
        return ICudaEngine(self, model)

    def _log(self, text: str) -> None:
        # From a thread of its own, as the real one may.
        thread = threading.Thread(target=self._logger.log, args=(ILogger.ERROR, text))
        thread.start()
        thread.join()


class ICudaEngine(rules.Resource):
    kind = "engine"

    def __init__(self, runtime: Runtime, model: bytes) -> None:
        super().__init__()
        import onnxruntime

        self._runtime = runtime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tensors = {v.name: (TensorIOMode.INPUT, v) for v in self._session.get_inputs()}
        self._tensors |= {v.name: (TensorIOMode.OUTPUT, v) for v in self._session.get_outputs()}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name][1].shape)

    def get_tensor_dtype(self, name: str) -> DataType:
        return {"tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF}[self._tensors[name][1].type]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def create_execution_context(self) -> IExecutionContext | None:
        self._check_use("use")
        if rules.fails("create_execution_context"):
            self._runtime._log("Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)")
            return None
        return IExecutionContext(self)


class IExecutionContext(rules.Resource):
    kind = "execution context"

    def __init__(self, engine: ICudaEngine) -> None:
        super().__init__()
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._running: tuple[rules.Queue, int] | None = None

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._tensors:
            self._engine._runtime._log(f"Given invalid tensor name: {name}.")
            return False
        if memory not in rules.memory:
            rules.violate(f"the address of {name} is not device memory")
        self._addresses[name] = memory
        rules.addressed[memory] = rules.addressed.get(memory, 0) + 1
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._check_use("run")
        if threading.get_ident() != self._home:
            rules.violate("an execution context was used by a second thread")
        if stream_handle == 0:
            rules.violate("TensorRT was run on stream 0")
            return False
        missing = [name for name in self._engine._tensors if name not in self._addresses]
        if missing or rules.fails("execute_async_v3"):
            text = f"Address is not set for output tensor {missing[0]}." if missing else "launch failure"
            self._engine._runtime._log(f"Error Code 3: API Usage Error ({text})")
            return False
        queue = rules.streams[stream_handle]
        if self._running is not None:
            former, mark = self._running
            if former is not queue and any(number <= mark for number, _ in former.pending):
                rules.violate("one execution context runs on two streams at a time")
        self._running = (queue, queue.put(self._compute))
        return True

    def _compute(self) -> None:
        feeds, fetches = {}, []
        for name, (mode, value) in self._engine._tensors.items():
            memory = rules.memory[self._addresses[name]]
            size = int(np.prod(value.shape))
            if len(memory) < 4 * size:
                rules.violate(f"the buffer of {name} is too small")
            if mode is TensorIOMode.INPUT:
                feeds[name] = np.frombuffer(memory, np.float32, size).reshape(value.shape)
            else:
                fetches.append(name)
        for name, found in zip(fetches, self._engine._session.run(fetches, feeds), strict=True):
            memory = rules.memory[self._addresses[name]]
            memory[: found.nbytes] = np.ascontiguousarray(found, np.float32).tobytes()

    def _release(self, how: str) -> None:
        if self._live:
            for address in self._addresses.values():
                rules.addressed[address] -= 1
        super()._release(how)
