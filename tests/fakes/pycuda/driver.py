"""pycuda.driver by the rules of fake_gpu. Names and signatures are those of pycuda 2026.1; a test compares them."""

from __future__ import annotations

from typing import Any

import fake_gpu as rules
import numpy as np

_initialised = [False]
_primary_taken: dict[int, int] = {}


class Error(Exception):
    """Base of pycuda's errors."""


class LogicError(Error):
    """Misuse."""


class MemoryError(Error):
    """Out of device memory."""


class event_flags:
    DEFAULT = 0
    BLOCKING_SYNC = 1
    DISABLE_TIMING = 2


class device_attribute:
    MULTIPROCESSOR_COUNT = 16


def init(flags: int = 0) -> None:
    if rules.setting("CUDA_DRIVER", "13000") == "none":
        raise LogicError("cuInit failed: no CUDA-capable device is detected")
    _initialised[0] = True


def get_driver_version() -> int:
    return int(rules.setting("CUDA_DRIVER", "13000"))


def _need_context(doing: str) -> Any:
    context = rules.current()
    if context is None:
        raise LogicError(f"{doing} failed: invalid device context - no currently active context?")
    return context


class Device:
    def __init__(self, number: int) -> None:
        if not _initialised[0]:
            raise LogicError("cuDeviceGet failed: initialization error")
        if number != 0:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")
        self._number = number

    def name(self) -> str:
        return rules.setting("GPU_NAME", "Fake RTX 4000")

    def compute_capability(self) -> tuple[int, int]:
        major, minor = rules.setting("GPU_SM", "8.9").split(".")
        return int(major), int(minor)

    def get_attribute(self, attribute: int) -> int:
        if attribute != device_attribute.MULTIPROCESSOR_COUNT:
            raise LogicError("the fake knows no such attribute")
        return 48

    def retain_primary_context(self) -> Context:
        _primary_taken[self._number] = _primary_taken.get(self._number, 0) + 1
        if _primary_taken[self._number] > 1:
            rules.violate("the primary context was retained twice; pycuda takes them for two contexts")
        return Context()


class Context:
    def push(self) -> None:
        rules.stack().append(self)

    @staticmethod
    def pop() -> None:
        contexts = rules.stack()
        if not contexts:
            raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
        contexts.pop()


class Stream(rules.Resource):
    kind = "stream"

    def __init__(self, flags: int = 0) -> None:
        _need_context("cuStreamCreate")
        super().__init__()
        if flags != 1:
            rules.violate("a stream that is not non-blocking waits for whatever runs on stream 0")
        self.handle = rules.new_address(64)
        rules.streams[self.handle] = rules.Queue()

    def synchronize(self) -> Stream:
        self._check_use("use")
        rules.streams[self.handle].drain()
        return self

    def _release(self, how: str) -> None:
        if self._live and rules.streams[self.handle].pending:
            rules.violate("a stream was destroyed with work queued")
        super()._release(how)


class Event(rules.Resource):
    kind = "event"

    def __init__(self, flags: int = 0) -> None:
        _need_context("cuEventCreate")
        super().__init__()
        self._queue: rules.Queue | None = None
        self._mark = 0

    def record(self, stream: Stream | None = None) -> Event:
        self._check_use("use")
        if stream is None:
            rules.violate("an event was recorded on stream 0")
            return self
        self._queue, self._mark = rules.streams[stream.handle], rules.streams[stream.handle].mark
        return self

    def synchronize(self) -> Event:
        self._check_use("use")
        if self._queue is not None:
            self._queue.drain(self._mark)
        return self


class DeviceAllocation(rules.Resource):
    kind = "device memory"

    def __init__(self, size: int) -> None:
        super().__init__()
        self._address = rules.new_address(size)
        poison = np.full((size + 3) // 4, np.nan, np.float32).tobytes()[:size]
        rules.memory[self._address] = bytearray(poison)

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        if not self._live:
            raise LogicError("device_allocation::free failed: invalid resource handle")
        self._release("freed")

    def _release(self, how: str) -> None:
        if self._live:
            if rules.addressed.get(self._address, 0):
                rules.violate("device memory was freed while an execution context points to it")
            rules.memory.pop(self._address, None)
        super()._release(how)


class PagelockedHostAllocation(rules.Resource):
    kind = "pinned memory"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bytes = bytearray(size)
        self._address = np.frombuffer(self.bytes, np.uint8).ctypes.data
        rules.pinned[self._address] = size

    def free(self) -> None:
        if not self._live:
            raise LogicError("pagelocked_host_allocation::free failed: invalid resource handle")
        self._release("freed")

    def _release(self, how: str) -> None:
        if self._live:
            rules.pinned.pop(self._address, None)
        super()._release(how)


class _PinnedArray(np.ndarray):
    """An array whose ``base`` is the allocation, as pycuda makes it."""

    _allocation: PagelockedHostAllocation | None = None

    def __array_finalize__(self, source: Any) -> None:
        self._allocation = getattr(source, "_allocation", None)

    @property
    def base(self) -> Any:  # type: ignore[override]
        return self._allocation


def mem_alloc(size: int) -> DeviceAllocation:
    _need_context("cuMemAlloc")
    if rules.fails("mem_alloc"):
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(int(size))


def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
    _need_context("cuMemHostAlloc")
    kind = np.dtype(dtype)
    allocation = PagelockedHostAllocation(int(np.prod(shape)) * kind.itemsize)
    array = np.frombuffer(allocation.bytes, kind).reshape(shape, order=order).view(_PinnedArray)
    array._allocation = allocation
    return array


def _host_bytes(array: np.ndarray, doing: str) -> np.ndarray:
    if array.ctypes.data not in rules.pinned:
        rules.violate(f"{doing} with host memory that is not pinned is silently synchronous")
    if not array.flags.c_contiguous:
        raise LogicError("ndarray is not contiguous")
    return np.asarray(array).reshape(-1).view(np.uint8)


def _queue(stream: Stream | None, doing: str) -> rules.Queue:
    if stream is None:
        rules.violate(f"{doing} on stream 0")
        return rules.streams.setdefault(0, rules.Queue())
    stream._check_use("use")
    return rules.streams[stream.handle]


def memcpy_htod_async(dest: DeviceAllocation, src: np.ndarray, stream: Stream | None = None) -> None:
    _need_context("cuMemcpyHtoDAsync")
    source, target = _host_bytes(src, "memcpy_htod_async"), rules.memory[int(dest)]
    queued = source.tobytes()

    def copy() -> None:
        if source.tobytes() != queued:
            rules.violate("pinned memory was written while a queued upload still had to read it")
        target[: source.nbytes] = source.tobytes()  # read when it happens, not when it was queued

    _queue(stream, "memcpy_htod_async").put(copy)


def memcpy_dtoh_async(dest: np.ndarray, src: DeviceAllocation, stream: Stream | None = None) -> None:
    _need_context("cuMemcpyDtoHAsync")
    target, source = _host_bytes(dest, "memcpy_dtoh_async"), rules.memory[int(src)]
    target.view(np.float32)[:] = np.nan  # whoever reads before waiting reads this

    def copy() -> None:
        target[:] = np.frombuffer(source, np.uint8, target.nbytes)

    _queue(stream, "memcpy_dtoh_async").put(copy)
