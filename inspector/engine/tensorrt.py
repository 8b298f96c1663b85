"""TensorRT 10 and 11 by one code path: run a plan that ``tensorrt_build`` made for this very GPU.

TensorRT says what went wrong only in its log and returns None or False; both are turned into EngineError here. All GPU
objects belong to the thread that opened the engine and are released by ``close`` in that thread, in reverse order.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from inspector.engine import EngineInfo, cuda
from inspector.engine.cpu import CpuOptions, check_batch, closed
from inspector.errors import EngineError
from inspector.frame import FloatMap

if TYPE_CHECKING:
    from inspector.engine.manifest import Machine

SLOTS_THROUGHPUT = 3
"""+1 uploading, +1 computing, +1 downloading."""
SUPPORTED = ((10, 13), (12, 0))
"""From the first release with a sound strong typing to before the next major one."""
_OPEN: dict[int, list[Any]] = {}
"""GPU objects of engines that are not closed. Held here so that the garbage collector, which runs in any thread, never
releases them: an engine that is forgotten leaks until the process ends instead of breaking pycuda's rules."""


def module() -> Any:
    """The tensorrt package. Raises EngineError where it is missing or of a release that is not supported."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise EngineError(
            "TensorRT cannot be imported",
            found=str(error)[:200],
            do="Install it: pip install 'inspector[tensorrt]' --extra-index-url https://pypi.nvidia.com",
        ) from error
    release = tuple(int(part) for part in str(tensorrt.__version__).split(".")[:2])
    if not SUPPORTED[0] <= release < SUPPORTED[1]:
        raise EngineError(
            "this TensorRT is not supported", expected=">=10.13,<12", found=str(tensorrt.__version__), do="Install one."
        )
    return tensorrt


def why_stale(version: str, machine: Machine) -> str:
    """What of the plan's machine is not this one; empty where all is. Loads no plan and makes no context."""
    try:
        found_version, here = str(module().__version__), cuda.facts()
    except EngineError as error:
        return str(error)
    built = {
        "TensorRT": (version, found_version),
        "GPU": (machine.device, here.name),
        "compute capability": (machine.compute_capability, here.compute_capability),
        "multiprocessors": (str(machine.multiprocessors), str(here.multiprocessors)),
        "driver": (machine.driver, here.driver),
    }
    changes = [f"{what} {was}, here {now}" for what, (was, now) in built.items() if was != now]
    return "it was built for " + "; ".join(changes) if changes else ""


class Log:
    """TensorRT's messages, kept. It is called from any thread, so it only appends and never raises."""

    def __init__(self, trt: Any) -> None:
        kept: deque[tuple[bool, str]] = deque(maxlen=200)
        errors = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                kept.append((severity in errors, str(msg)))

        self.logger = Logger()
        self._kept = kept

    def errors(self) -> str:
        """The error messages since the last call, oldest first, in one line."""
        found = []
        while self._kept:
            is_error, text = self._kept.popleft()
            if is_error:
                found.append(text.strip())
        return " / ".join(found)[-600:] or "nothing in TensorRT's log"


class _Lane:
    """A slot with an execution context whose addresses are set once."""

    def __init__(self, engine: Any, slot: cuda.Slot, names: tuple[str, str]) -> None:
        self.slot, self.context = slot, engine.create_execution_context()
        if self.context is None:
            raise _Refused("it cannot create an execution context")
        for name, memory in zip(names, (slot.device_in, slot.device_out), strict=True):
            if not self.context.set_tensor_address(name, int(memory)):
                raise _Refused(f"it does not take the address of {name}")


class _Refused(Exception):
    """TensorRT returned None or False."""


class TensorRtEngine:
    """A deserialised plan. The thread that opens it runs and closes it."""

    def __init__(
        self, plan: bytes, info: EngineInfo, options: CpuOptions, names: tuple[str, str], rebuild: str
    ) -> None:
        """Deserialise ``plan`` and allocate everything. ``options.throughput``: several slots that overlap copies and
        computing; ``options.pinning``: spin while waiting; ``names``: of input and output; ``rebuild``: the command
        that errors recommend. Raises EngineError with TensorRT's own words."""
        self._info, self._thread, self._lanes = info, threading.get_ident(), list[_Lane]()
        self._names, self._rebuild = names, rebuild
        trt = module()
        if str(trt.__version__) != info.backend_version:
            raise self._error(
                "the plan was built by another TensorRT", f"TensorRT {info.backend_version}", str(trt.__version__)
            )
        self._log = Log(trt)
        self._gpu = cuda.gpu()
        self._owned: list[Any] = []
        _OPEN[id(self._owned)] = self._owned
        try:
            with self._gpu.current("open the plan"):
                self._load(trt, plan, options)
        except (EngineError, _Refused) as error:
            text = self._log.errors()
            self.close()
            if isinstance(error, EngineError):
                raise
            raise self._error(f"TensorRT refuses the plan: {error}", "", text) from error

    def _load(self, trt: Any, plan: bytes, options: CpuOptions) -> None:
        try:
            runtime = trt.Runtime(self._log.logger)
        except TypeError as error:
            if "nullptr" not in str(error):  # what the binding makes of a NULL runtime
                raise
            raise _Refused("its runtime does not start, so the driver or CUDA is not usable") from error
        self._owned.append(runtime)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise _Refused("it cannot be deserialised")
        self._owned.append(engine)
        self._check_interface(trt, engine)
        size = (self._info.input_height, self._info.input_width)
        for _ in range(SLOTS_THROUGHPUT if options.throughput else 1):
            slot = cuda.Slot(self._gpu, size, blocking=not options.pinning)
            self._owned.append(slot)
            lane = _Lane(engine, slot, self._names)
            self._owned.append(lane)
            self._lanes.append(lane)

    def _check_interface(self, trt: Any, engine: Any) -> None:
        shape = (1, 1, self._info.input_height, self._info.input_width)
        wanted = {
            self._names[0]: (trt.TensorIOMode.INPUT, shape),
            self._names[1]: (trt.TensorIOMode.OUTPUT, shape),
        }
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = {name: (engine.get_tensor_mode(name), tuple(engine.get_tensor_shape(name))) for name in names}
        floats = all(engine.get_tensor_dtype(name) == trt.float32 for name in names)
        on_device = all(engine.get_tensor_location(name) == trt.TensorLocation.DEVICE for name in names)
        if found != wanted or not floats or not on_device:
            raise self._error(
                "the plan has another interface than the bundle", f"{list(wanted)} {shape} float32", str(found)
            )

    @property
    def info(self) -> EngineInfo:
        return self._info

    def infer(self, batch: FloatMap) -> FloatMap:
        """n x 1 x H x W float32, normalised -> n x 1 x H x W float32 probabilities, owned by the caller."""
        check_batch(self._info, batch)
        if not self._lanes:
            raise closed(self._info)
        self._own_thread("run")
        result = np.empty(batch.shape, np.float32)
        lanes = self._lanes
        try:
            with self._gpu.current("run the plan"):
                for index in range(len(batch) + len(lanes)):
                    lane, done = lanes[index % len(lanes)], index - len(lanes)
                    if 0 <= done < len(batch):
                        lane.slot.wait()
                        result[done] = lane.slot.host_out[0]
                    if index < len(batch):
                        lane.slot.host_in[0] = batch[index]
                        lane.slot.upload()
                        if not lane.context.execute_async_v3(lane.slot.stream.handle):
                            raise _Refused("it does not queue the plan")
                        lane.slot.download()
        except _Refused as error:
            self._drain()
            raise self._error(f"TensorRT fails: {error}", "", self._log.errors()) from error
        return result

    def _drain(self) -> None:
        """After a failure nothing may still be writing into the buffers that the next run uses."""
        with self._gpu.current("wait for the stream"):
            for lane in self._lanes:
                lane.slot.stream.synchronize()

    def close(self) -> None:
        """Release everything in reverse order; idempotent. In a foreign thread nothing can be released: it warns."""
        if id(self._owned) not in _OPEN:
            return
        if threading.get_ident() != self._thread:
            warnings.warn(
                f"engine {self._info.bundle} was closed by a thread that did not open it; its GPU memory stays taken",
                ResourceWarning,
                stacklevel=2,
            )
            self._lanes = []
            return
        try:
            with self._gpu.current("release the plan"):
                self._lanes = []
                # Execution contexts first: their addresses point into the slots.
                for lane in (thing for thing in self._owned if isinstance(thing, _Lane)):
                    lane.context = None
                slots = [thing for thing in self._owned if isinstance(thing, cuda.Slot)]
                self._owned[:] = [thing for thing in self._owned if not isinstance(thing, _Lane | cuda.Slot)]
                while self._owned:  # engine, then runtime
                    self._owned.pop()
                for slot in slots:
                    slot.free()
                slots.clear()
        except EngineError as error:
            warnings.warn(f"engine {self._info.bundle}: {error}", ResourceWarning, stacklevel=2)
        finally:
            _OPEN.pop(id(self._owned), None)

    def _own_thread(self, doing: str) -> None:
        if threading.get_ident() != self._thread:
            raise self._error(f"another thread than the one that opened the engine tries to {doing} it", "", "")

    def _error(self, what: str, expected: str, found: str) -> EngineError:
        info = self._info
        return EngineError(
            f"engine {info.bundle} (tensorrt {info.precision}): {what}",
            expected=expected,
            found=found,
            do=f"Rebuild it: {self._rebuild}",
        )
