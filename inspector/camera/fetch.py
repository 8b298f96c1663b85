"""Frames out of a started harvesters acquirer: straight from the producer, or through harvesters where that fails.

The straight way calls the producer's own ``EventGetData`` through ctypes: incomplete frames are seen (harvesters
drops them), nothing is zeroed on requeueing, and the GIL is free while waiting. It needs a few private names of
harvesters 1.4.3 and genicam 1.6.0, which the project pins; without them frames come through ``try_fetch``, and
incomplete ones show only as gaps in the ids.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from inspector.clock import Clock
from inspector.errors import CameraError
from inspector.frame import Grey

# GenTL 1.5: error codes, buffer info commands, payload types
_TIMEOUT = -1011
_BASE, _IS_INCOMPLETE, _SIZE_FILLED, _WIDTH, _HEIGHT, _X_PADDING, _FRAME_ID = 0, 7, 9, 10, 11, 14, 16
_IMAGE_OFFSET, _PAYLOAD_TYPE, _TIMESTAMP_NS, _TOO_LARGE = 18, 19, 28, 29
_PAYLOADS_WITH_IMAGE = (1, 4)  # image, chunk data


class LinkLost(CameraError):
    """The camera or its driver no longer answers; what was started must be torn down."""


class NoDirectPath(Exception):
    """A private name or a function that the straight way needs is missing."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One frame in the producer's buffer; its pixels are valid until it is given back."""

    frame_id: int
    fetched_ns: int
    """Host's time right after the fetch; see stamp.py for when it was there."""
    camera_ns: int
    """The producer's time stamp; 0 = none."""
    pixels: Grey | None
    """H x W uint8 view of the whole image; None = incomplete."""
    token: Any
    flaw: str = ""
    """Why it counts as incomplete, where that is not the producer's own word."""


class Fetcher(Protocol):
    """The two ways to frames."""

    way: str

    def fetch(self, timeout_ms: int) -> Taken | None:
        """The next frame; None on timeout. Raises LinkLost."""

    def give_back(self, taken: Taken) -> None:
        """Requeues the buffer. Raises LinkLost."""


class _NewBuffer(ctypes.Structure):
    _fields_ = (("buffer", ctypes.c_void_p), ("user", ctypes.c_void_p))


class DirectFetcher:
    """``EventGetData``, ``DSGetBufferInfo`` and ``DSQueueBuffer`` of the producer itself.

    ``acquirer`` is a started harvesters acquirer, ``path`` its producer. Raises NoDirectPath."""

    way = "direct"

    def __init__(self, acquirer: Any, path: str, width: int, height: int, clock: Clock) -> None:
        self._clock, self._width, self._height = clock, width, height
        try:
            library = ctypes.CDLL(path)  # already loaded and initialised: this only names it
            self._get_data, self._info = library.EventGetData, library.DSGetBufferInfo
            self._queue = library.DSQueueBuffer
            monitor = next(iter(acquirer._new_buffer_event_monitor_dict.values()))
            self._event = ctypes.c_void_p(int(monitor.handle))
            self._stream = ctypes.c_void_p(int(acquirer.data_streams[0].module._handle))
            self._memory = {
                int(buffer._handle): np.frombuffer(buffer.raw_buffer, np.uint8)
                for buffer in acquirer._announced_buffers
            }
        except (OSError, AttributeError, StopIteration, IndexError, TypeError, ValueError) as error:
            raise NoDirectPath(f"{type(error).__name__}: {error}") from error
        self._get_data.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)
        self._info.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, *[ctypes.c_void_p] * 3)
        self._queue.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        for call in (self._get_data, self._info, self._queue):
            call.restype = ctypes.c_int32
        self._data, self._size = _NewBuffer(), ctypes.c_size_t()
        self._kind, self._value, self._length = ctypes.c_int32(), ctypes.c_uint64(), ctypes.c_size_t()
        self._check_memory()

    def _check_memory(self) -> None:
        """The bytes that harvesters holds must be the memory that the producer fills."""
        for handle, memory in self._memory.items():
            if self._ask(handle, _BASE) not in (None, memory.ctypes.data):
                raise NoDirectPath("the producer fills other memory than it was given")

    def _ask(self, handle: int, command: int) -> int | None:
        """One number about a buffer; None where the producer does not know it."""
        self._value.value, self._length.value = 0, 8
        code = self._info(
            self._stream,
            handle,
            command,
            ctypes.byref(self._kind),
            ctypes.byref(self._value),
            ctypes.byref(self._length),
        )
        return int(self._value.value) if code == 0 else None

    def fetch(self, timeout_ms: int) -> Taken | None:
        self._size.value = ctypes.sizeof(_NewBuffer)
        code = self._get_data(self._event, ctypes.byref(self._data), ctypes.byref(self._size), timeout_ms)
        fetched_ns = self._clock.now_ns()
        if code == _TIMEOUT:
            return None
        if code:
            raise LinkLost(f"the GenTL producer's EventGetData failed with {code}")
        handle = int(self._data.buffer or 0)
        if handle not in self._memory:
            raise LinkLost("the GenTL producer delivered a buffer that was never announced")
        flaw = self._flaw(handle)
        return Taken(
            self._ask(handle, _FRAME_ID) or 0,
            fetched_ns,
            self._ask(handle, _TIMESTAMP_NS) or 0,
            self._image(handle) if flaw is None else None,
            handle,
            flaw or "",
        )

    def _flaw(self, handle: int) -> str | None:
        """None for a whole image; "" where the producer itself calls it incomplete (or does not say)."""
        if self._ask(handle, _IS_INCOMPLETE) != 0 or self._ask(handle, _TOO_LARGE):
            return ""
        payload = self._ask(handle, _PAYLOAD_TYPE)
        if payload is not None and payload not in _PAYLOADS_WITH_IMAGE:
            return f"payload type {payload} instead of an image"
        size = (self._ask(handle, _WIDTH) or self._width, self._ask(handle, _HEIGHT) or self._height)
        if size != (self._width, self._height):
            return f"{size[0]} x {size[1]} pixels instead of {self._width} x {self._height}"
        filled = self._ask(handle, _SIZE_FILLED)
        if filled is not None and filled < self._width * self._height:
            return f"{filled} bytes instead of {self._width * self._height}"
        return None

    def _image(self, handle: int) -> Grey | None:
        start, stride = self._ask(handle, _IMAGE_OFFSET) or 0, self._width + (self._ask(handle, _X_PADDING) or 0)
        memory = self._memory[handle]
        if start + stride * self._height > memory.size:
            return None
        return memory[start : start + stride * self._height].reshape(self._height, stride)[:, : self._width]

    def give_back(self, taken: Taken) -> None:
        code = self._queue(self._stream, taken.token)
        if code:
            raise LinkLost(f"the GenTL producer's DSQueueBuffer failed with {code}")


class HarvestersFetcher:
    """``try_fetch``: incomplete frames never show; for use where the straight way is closed."""

    way = "harvesters"

    def __init__(self, acquirer: Any, width: int, height: int, clock: Clock) -> None:
        self._acquirer, self._width, self._height, self._clock = acquirer, width, height, clock

    def fetch(self, timeout_ms: int) -> Taken | None:
        from genicam import genapi, gentl

        try:
            raw = self._acquirer.try_fetch(timeout=timeout_ms / 1000, is_raw=True)
            fetched_ns = self._clock.now_ns()
            if raw is None:
                return None
            memory = np.frombuffer(raw.raw_buffer, np.uint8)
            count = self._width * self._height
            whole = raw.size_filled >= count and (raw.width, raw.height) == (self._width, self._height)
            pixels = memory[:count].reshape(self._height, self._width) if whole else None
            flaw = "" if whole else f"{raw.size_filled} bytes of {raw.width} x {raw.height} pixels"
            return Taken(int(raw.frame_id), fetched_ns, _stamp_ns(raw), pixels, raw, flaw)
        except (gentl.GenericException, genapi.GenericException, IndexError, KeyError) as error:
            raise LinkLost(f"the camera's stream failed: {error or type(error).__name__}") from error

    def give_back(self, taken: Taken) -> None:
        from genicam import gentl

        try:
            taken.token.parent.queue_buffer(taken.token, False)
        except gentl.GenericException as error:
            raise LinkLost(f"the camera's stream takes no buffer back: {error}") from error


def _stamp_ns(raw: Any) -> int:
    from genicam import gentl

    try:
        return int(raw.timestamp_ns)
    except gentl.GenericException:  # many devices have no time stamp
        return 0
