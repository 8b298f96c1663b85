"""A GPU made of rules: what the fakes of tensorrt and pycuda share.

It computes nothing by itself; it keeps the order. Work queued on a stream happens when something waits for it, host
memory that a queued copy will fill holds NaN until then, and whatever a real GPU, its driver or pycuda would punish
with a crash, a leak or a wrong result is noted in ``violations``.

Environment: FAKE_TRT_VERSION, FAKE_GPU_NAME, FAKE_GPU_SM, FAKE_CUDA_DRIVER; FAKE_GPU_BROKEN=1 makes TensorRT's
runtime and builder fail as they do where CUDA does not start; FAKE_FAIL names operations that fail, as
``execute_async_v3`` or ``create_execution_context``.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

violations: list[str] = []
"""Every broken rule, in words. Tests require it to stay empty."""
alive: dict[str, int] = {}
"""Objects on the fake GPU by kind; all zero after an orderly close, except the primary context."""
_lock = threading.Lock()


def setting(name: str, default: str) -> str:
    return os.environ.get(f"FAKE_{name}", default)


def fails(operation: str) -> bool:
    return operation in os.environ.get("FAKE_FAIL", "").split(",")


def violate(rule: str) -> None:
    with _lock:
        violations.append(rule)
    warnings.warn(f"GPU rule broken: {rule}", ResourceWarning, stacklevel=3)


def count(kind: str, by: int) -> None:
    with _lock:
        alive[kind] = alive.get(kind, 0) + by


class _Stack:
    """pycuda's context stack of one thread; its destructor runs when the thread ends."""

    def __init__(self) -> None:
        self.contexts: list[Any] = []

    def __del__(self) -> None:
        if self.contexts:
            violate("a thread ended with a CUDA context pushed; pycuda aborts the process")


_threads = threading.local()


def stack() -> list[Any]:
    if not hasattr(_threads, "stack"):
        _threads.stack = _Stack()
    contexts: list[Any] = _threads.stack.contexts
    return contexts


def current() -> Any | None:
    contexts = stack()
    return contexts[-1] if contexts else None


class Resource:
    """Something on the GPU: made with a context current, and to be freed in the same thread with it current."""

    kind = "resource"

    def __init__(self) -> None:
        self._home, self._context = threading.get_ident(), current()
        self._live = True
        count(self.kind, 1)

    def _check_use(self, doing: str) -> None:
        if not self._live:
            violate(f"{doing} of a {self.kind} that was freed")
        if current() is not self._context:
            violate(f"{doing} of a {self.kind} without its context current")

    def _release(self, how: str) -> None:
        if not self._live:
            return
        self._live = False
        count(self.kind, -1)
        if threading.get_ident() != self._home:
            violate(f"{self.kind} {how} in a thread that does not own it")
        elif current() is not self._context:
            violate(f"{self.kind} {how} while its context is not current")

    def __del__(self) -> None:
        if getattr(self, "_live", False):
            self._release("destroyed")


class Queue:
    """Work of one stream, done in order when something waits."""

    def __init__(self) -> None:
        self.pending: list[tuple[int, Callable[[], None]]] = []
        self._number = 0

    def put(self, work: Callable[[], None]) -> int:
        self._number += 1
        self.pending.append((self._number, work))
        busy_peak[0] = max(busy_peak[0], sum(bool(queue.pending) for queue in streams.values()))
        return self._number

    @property
    def mark(self) -> int:
        return self._number

    def drain(self, up_to: int | None = None) -> None:
        while self.pending and (up_to is None or self.pending[0][0] <= up_to):
            self.pending.pop(0)[1]()


busy_peak = [0]
"""The most streams that had work queued at one time."""
streams: dict[int, Queue] = {}
"""By handle; 0 is the default stream, which nobody should use."""
memory: dict[int, bytearray] = {}
"""Device memory by address."""
pinned: dict[int, int] = {}
"""Page-locked host memory: address -> bytes."""
addressed: dict[int, int] = {}
"""How many execution contexts point into each device allocation."""
_next_address = [0x7F00_0000_0000]


def new_address(size: int) -> int:
    with _lock:
        _next_address[0] += (size + 511) // 256 * 256
        return _next_address[0]


def reset() -> None:
    """Forget the violations and counts, between tests."""
    violations.clear()
    alive.clear()
    busy_peak[0] = 0
