"""The little of CUDA that an engine needs, by pycuda: one primary context, slots of buffers with a stream each.

Rules that this module keeps (pycuda aborts the process or leaks where they are broken):

* the primary context is retained once per process and shared; no ``autoinit``, no context of our own;
* a thread pushes it for as long as one call lasts and pops it in ``finally``, so no thread ends with it pushed;
* what was made is freed by name, in the thread that made it, while the context is current;
* never stream 0: TensorRT adds device-wide waits there.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inspector.errors import EngineError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING; pycuda has no name for it
_PRIMARY: dict[int, Gpu] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What of a GPU decides whether a plan fits it."""

    name: str
    compute_capability: str
    multiprocessors: int
    driver: str
    """Version of the kernel driver and of the CUDA that it offers."""


class Gpu:
    """A device with its retained primary context."""

    def __init__(self, driver: Any, device: Any, facts: GpuFacts) -> None:
        self.driver, self.facts = driver, facts
        self._context = device.retain_primary_context()

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        """Make the context current in this thread; CUDA errors inside become EngineError ("cannot ``doing``")."""
        try:
            self._context.push()
            try:
                yield
            except BaseException as error:
                # The frames that failed still hold GPU objects: let them go now, while the context is current.
                _forget_frames(error)
                raise
            finally:
                self.driver.Context.pop()
        except self.driver.Error as error:
            raise EngineError(
                f"CUDA on {self.facts.name} cannot {doing}",
                found=str(error),
                do="Check the GPU with nvidia-smi and restart.",
            ) from error


def _forget_frames(error: BaseException) -> None:
    each: BaseException | None = error
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__cause__ or each.__context__


class Slot:
    """Pinned and device buffers of one image, with a stream of their own. Made and freed with the context current."""

    def __init__(self, gpu: Gpu, size: tuple[int, int], blocking: bool) -> None:
        """``size``: height and width. ``blocking``: sleep while waiting instead of spinning on a core."""
        driver, shape = gpu.driver, (1, 1, *size)
        flags = driver.event_flags.DISABLE_TIMING | (driver.event_flags.BLOCKING_SYNC if blocking else 0)
        self._driver = driver
        self.stream: Any = driver.Stream(_NON_BLOCKING)
        self._done: Any = driver.Event(flags)
        self.host_in: Any = driver.pagelocked_empty(shape, np.float32)
        self.host_out: Any = driver.pagelocked_empty(shape, np.float32)
        self.device_in: Any = driver.mem_alloc(self.host_in.nbytes)
        self.device_out: Any = driver.mem_alloc(self.host_out.nbytes)

    def upload(self) -> None:
        """Queue host_in -> device_in."""
        self._driver.memcpy_htod_async(self.device_in, self.host_in, self.stream)

    def download(self) -> None:
        """Queue device_out -> host_out, and the mark that ``wait`` waits for."""
        self._driver.memcpy_dtoh_async(self.host_out, self.device_out, self.stream)
        self._done.record(self.stream)

    def wait(self) -> None:
        """Until everything queued is done; only then host_out may be read and host_in be written."""
        self._done.synchronize()

    def free(self) -> None:
        """Wait and release everything, buffers before the stream."""
        self.stream.synchronize()
        for memory in (self.device_in, self.device_out, self.host_in.base, self.host_out.base):
            memory.free()
        self.host_in = self.host_out = self.device_in = self.device_out = None
        self._done = None
        self.stream = None


def gpu(index: int = 0) -> Gpu:
    """The process's one ``Gpu`` of a device. Raises EngineError where pycuda, the driver or the device is missing."""
    with _LOCK:
        if index not in _PRIMARY:
            driver = _driver()
            try:
                device = driver.Device(index)
                _PRIMARY[index] = Gpu(driver, device, _facts(driver, device))
            except driver.Error as error:
                raise _unusable(error) from error
        return _PRIMARY[index]


def facts(index: int = 0) -> GpuFacts:
    """What GPU this is, without making a context. Raises EngineError as ``gpu`` does."""
    driver = _driver()
    try:
        return _facts(driver, driver.Device(index))
    except driver.Error as error:
        raise _unusable(error) from error


def _facts(driver: Any, device: Any) -> GpuFacts:
    major, minor = device.compute_capability()
    cuda = int(driver.get_driver_version())
    return GpuFacts(
        name=str(device.name()),
        compute_capability=f"{major}.{minor}",
        multiprocessors=int(device.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT)),
        driver=f"{kernel_driver()} (CUDA {cuda // 1000}.{cuda % 1000 // 10})".strip(),
    )


def kernel_driver(path: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Version of the kernel's NVIDIA driver, such as 580.82.07; empty where the kernel does not tell."""
    try:
        line = path.read_text(encoding="ascii", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return ""
    numbers = [word for word in line.split() if word[:1].isdigit() and "." in word]
    return numbers[0] if numbers else ""


def _driver() -> Any:
    try:
        from pycuda import driver
    except ImportError as error:
        raise EngineError(
            "pycuda cannot be imported",
            found=str(error)[:200],
            do="Install it beside the CUDA driver: pip install 'inspector[tensorrt]'.",
        ) from error
    try:
        driver.init()
    except driver.Error as error:
        raise _unusable(error) from error
    return driver


def _unusable(error: BaseException) -> EngineError:
    return EngineError(
        "no usable CUDA device",
        found=str(error)[:200],
        do="Check the driver with nvidia-smi, or name another back end.",
    )
