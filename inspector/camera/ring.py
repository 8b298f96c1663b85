"""A ring of frames between two processes: one writes, one reads, and nothing unread is ever overwritten.

Two rings share one anonymous memory file: small records (what became of each frame) and pixel slots. A frame that
finds no free slot still gets its record, so the reader knows which frame was lost. Two eventfds carry the counts: the
writer adds one per record, the reader adds one per record it is done with. The kernel's lock around them orders the
memory accesses on every architecture; each record and slot carries its sequence number besides, checked before and
after the copy.

    memory = | record 0 | ... | record R-1 | slot 0 | ... | slot S-1 |
    record = 64 bytes, little-endian: sequence u64, frame id u64, taken ns u64, camera ns u64,
             kind u32, slot u32, width u32, height u32, timely u32, 12 bytes unused
    slot   = sequence u64, 56 bytes unused, then height x width bytes
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspector.errors import CameraError
from inspector.frame import Grey

_RECORD = struct.Struct("<QQQQIIIII12x")
_SLOT_HEAD_BYTES = 64
_NO_SLOT = 0xFFFFFFFF
RECORDS = 4096
"""40 s at 100 Hz without a reader; beyond it losses are still found as gaps in the frame ids."""


class Kind(enum.IntEnum):
    """What became of one frame in the camera process."""

    FRAME = 0
    INCOMPLETE = 1
    OVERRUN = 2
    """Complete, but every pixel slot held an unread frame."""


class Put(enum.Enum):
    """What the writer did with a frame."""

    STORED = "stored"
    OVERRUN = "overrun"
    """Recorded without its pixels."""
    UNRECORDED = "unrecorded"
    """Not even a record was free; the gap in the ids will tell."""


@dataclass(frozen=True, slots=True)
class Record:
    """One frame as it left the camera process."""

    kind: Kind
    frame_id: int
    """The camera's own counter, not unwrapped."""
    taken_ns: int
    camera_ns: int
    pixels: Grey | None
    """H x W uint8, owned, C-contiguous; for FRAME only."""
    timely: bool = True
    """Whether ``taken_ns`` is known to be when it came, not just when it was read."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes both ends must agree on."""

    slots: int
    slot_bytes: int
    """Pixels of one frame."""
    records: int = RECORDS

    def __post_init__(self) -> None:
        if min(self.slots, self.slot_bytes, self.records) < 1:
            raise ValueError(f"a ring needs at least one slot, one pixel and one record: {self}")

    @property
    def stride(self) -> int:
        return -(-(_SLOT_HEAD_BYTES + self.slot_bytes) // 64) * 64

    @property
    def slots_at(self) -> int:
        return self.records * _RECORD.size

    @property
    def size(self) -> int:
        return self.slots_at + self.slots * self.stride


class _Memory:
    """The mapped rings; the file descriptors belong to the owner."""

    def __init__(self, layout: Layout, memory_fd: int) -> None:
        found = os.fstat(memory_fd).st_size
        if found < layout.size:
            raise CameraError("the frame ring has the wrong size", expected=f"{layout.size} bytes", found=str(found))
        self.layout = layout
        self.map = mmap.mmap(memory_fd, layout.size)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self.map, np.uint8)
        self.heads: NDArray[np.uint64] = self.bytes[layout.slots_at :].reshape(layout.slots, layout.stride).view("<u8")

    def slot(self, index: int, height: int, width: int) -> Grey:
        start = self.layout.slots_at + index * self.layout.stride + _SLOT_HEAD_BYTES
        return self.bytes[start : start + height * width].reshape(height, width)

    def close(self) -> None:
        del self.bytes, self.heads
        self.map.close()


class RingWriter:
    """The camera's end. Creates the memory; one thread writes."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._memory_fd = os.memfd_create("inspector-frames", os.MFD_CLOEXEC)
        os.ftruncate(self._memory_fd, layout.size)
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        self._filled_fd, self._freed_fd = os.eventfd(0, flags), os.eventfd(0, flags)
        self._memory = _Memory(layout, self._memory_fd)
        self._unread: deque[bool] = deque()  # True: this unread record holds a pixel slot
        self._slots_used = 0
        self._sequence = 0
        self._slot = 0

    @property
    def fds(self) -> tuple[int, int, int]:
        """Memory, filled and freed: what the reader is given."""
        return self._memory_fd, self._filled_fd, self._freed_fd

    def _reclaim(self) -> None:
        try:
            freed = os.eventfd_read(self._freed_fd)
        except BlockingIOError:
            return
        for _ in range(freed):
            self._slots_used -= self._unread.popleft()

    def put(
        self,
        kind: Kind,
        frame_id: int,
        taken_ns: int,
        camera_ns: int,
        pixels: Grey | None = None,
        *,
        timely: bool = True,
    ) -> Put:
        """Copies ``pixels`` (any 2-D uint8 view) once into a free slot and wakes the reader. Never waits."""
        self._reclaim()
        layout = self.layout
        if len(self._unread) >= layout.records:
            return Put.UNRECORDED
        self._sequence += 1
        slot, height, width = _NO_SLOT, 0, 0
        if kind is Kind.FRAME:
            if pixels is None or pixels.size > layout.slot_bytes:
                raise ValueError(f"a frame of at most {layout.slot_bytes} pixels is needed")
            if self._slots_used < layout.slots:
                slot, (height, width) = self._slot, pixels.shape
                self._memory.heads[slot, 0] = self._sequence
                np.copyto(self._memory.slot(slot, height, width), pixels)
                self._slot = (slot + 1) % layout.slots
                self._slots_used += 1
            else:
                kind = Kind.OVERRUN
        at = (self._sequence - 1) % layout.records * _RECORD.size
        head = (self._sequence, frame_id, taken_ns, camera_ns, kind, slot, width, height, timely)
        _RECORD.pack_into(self._memory.map, at, *head)
        self._unread.append(slot != _NO_SLOT)
        os.eventfd_write(self._filled_fd, 1)
        return Put.OVERRUN if kind is Kind.OVERRUN else Put.STORED

    def close(self) -> None:
        """Releases this end; what was put stays readable at the other."""
        self._memory.close()
        for fd in self.fds:
            os.close(fd)


class RingReader:
    """The line's end. Owns the descriptors it is given; one thread reads."""

    def __init__(self, layout: Layout, memory_fd: int, filled_fd: int, freed_fd: int) -> None:
        self._fds = (memory_fd, filled_fd, freed_fd)
        self._filled_fd, self._freed_fd = filled_fd, freed_fd
        self._memory = _Memory(layout, memory_fd)
        self._sequence = 0
        self._available = 0

    def fileno(self) -> int:
        """Readable while records wait that :meth:`take` has not yet counted."""
        return self._filled_fd

    def take(self) -> Record | None:
        """The next record, its pixels copied out and its slot given back; None when there is none.

        Raises CameraError when the ring is torn (a sequence number does not match)."""
        if not self._available:
            try:
                self._available = os.eventfd_read(self._filled_fd)
            except BlockingIOError:
                return None
        self._available -= 1
        self._sequence += 1
        layout = self._memory.layout
        at = (self._sequence - 1) % layout.records * _RECORD.size
        (sequence, frame_id, taken_ns, camera_ns, kind, slot, width, height, timely) = _RECORD.unpack_from(
            self._memory.map, at
        )
        self._check(sequence)
        pixels = None
        if kind == Kind.FRAME:
            if slot >= layout.slots or width * height > layout.slot_bytes:
                raise CameraError("the frame ring is torn", found=f"slot {slot}, {width} x {height}")
            self._check(int(self._memory.heads[slot, 0]))
            pixels = self._memory.slot(slot, height, width).copy()
            self._check(int(self._memory.heads[slot, 0]))
        os.eventfd_write(self._freed_fd, 1)
        return Record(Kind(kind), frame_id, taken_ns, camera_ns, pixels, bool(timely))

    def _check(self, found: int) -> None:
        if found != self._sequence:
            raise CameraError("the frame ring is torn", expected=f"sequence {self._sequence}", found=str(found))

    def close(self) -> None:
        """Unmaps the memory and closes the descriptors."""
        self._memory.close()
        for fd in self._fds:
            os.close(fd)
