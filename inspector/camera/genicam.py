"""A GenICam camera through any GenTL producer, in its own process.

The camera's driver and the genicam binding live in a child process (see acquirer.py): the binding holds the GIL in
every register access, and a vendor's driver may crash or hang. This side reads the ring of frames, counts what is
missing by the frame ids, and starts the child anew when it dies or stands still.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspector.camera import CameraStatistics
from inspector.camera.acquirer import Pulse
from inspector.camera.child import CameraProcess
from inspector.camera.counter import FrameCounter
from inspector.camera.devices import list_devices, producer_paths, simulator, told_error
from inspector.camera.features import Feature
from inspector.camera.ring import Kind, Layout, Record, RingReader
from inspector.camera.session import DeviceLine, Order
from inspector.clock import Clock
from inspector.errors import CameraError, ConfigError, InspectorError
from inspector.frame import Frame, Missed, Reason

__all__ = ["DeviceLine", "GenicamCamera", "list_devices", "simulator"]

Tell = Callable[[str, Mapping[str, object]], None]
"""Takes an event that people should read: what happened, and details."""

_SLICE_MS = 250.0
"""Longest wait between two looks at the child's heartbeat."""
_RESPAWN_NS = 500_000_000
"""Pause before a child that died without ever streaming is started again."""
_CLOSE_GRACE_S = 1.5


def _journal(what: str, details: Mapping[str, object]) -> None:
    import structlog

    structlog.get_logger("inspector").warning(what, **details)


class GenicamCamera:
    """Camera protocol over GenICam.

    ``producers``: .cti files; none = the simulator in the genicam wheel. ``serial``, ``model``, ``user_name`` choose
    the device; an empty one does not restrict, and what is left must be exactly one device. ``features`` are written
    in order and read back, at every (re)connection. ``window`` (x, y, width, height) is cut out of each frame; None =
    all. ``buffers`` are the producer's, ``ring_slots`` the frames that may wait for the line; one beyond them is
    Missed. ``frame_id_bits`` is 16 for GigE Vision 1.x. A gap of more than ``max_gap`` ids is one event, not that many
    Missed (see FrameCounter). A child without a sign of life for ``hang_s`` (``connect_s`` while it looks for the
    camera) is ended and started anew; a camera that is in use is asked for again for ``patience_s``. ``tell`` takes
    the events; without it they go to the journal."""

    def __init__(
        self,
        *,
        clock: Clock,
        producers: Sequence[Path] = (),
        serial: str = "",
        model: str = "",
        user_name: str = "",
        features: Sequence[Feature] = (),
        buffers: int = 32,
        window: tuple[int, int, int, int] | None = None,
        frame_id_bits: int = 64,
        ring_slots: int = 32,
        max_gap: int = 1000,
        hang_s: float = 4.0,
        connect_s: float = 15.0,
        patience_s: float = 5.0,
        tell: Tell = _journal,
    ) -> None:
        if buffers < 1 or ring_slots < 1:
            raise ConfigError("a camera needs buffers", expected="1 or more", found=f"{buffers} and {ring_slots} slots")
        self._clock, self._tell = clock, tell
        self._producers = tuple(producers)
        self._asked = Order((), serial, model, user_name, "", tuple(features), buffers, window, ring_slots, patience_s)
        self._frame_id_bits, self._max_gap = frame_id_bits, max_gap
        self._hang_s, self._connect_s = hang_s, connect_s
        self._child: CameraProcess | None = None
        self._ring: RingReader | None = None
        self._pending: deque[Frame | Missed] = deque()
        self._reset()

    def _reset(self) -> None:
        self._order = self._asked
        self._counter = FrameCounter(self._frame_id_bits, self._max_gap)
        self._device: DeviceLine | None = None
        self._origin_px = self._full_px = (0, 0)
        self._failed: InspectorError | None = None
        self._spawn_ns = 0
        self._connections = self._frames = self._missed = self._incomplete = 0
        self._underruns_before = self._overruns_before = 0
        self._connected = False

    @property
    def name(self) -> str:
        device = self._device
        return f"genicam {device.model} {device.serial or device.device_id}" if device is not None else "genicam"

    @property
    def exhausted(self) -> bool:
        """Never: a lost camera is expected back."""
        return False

    @property
    def device(self) -> DeviceLine | None:
        """The device that was opened; None before."""
        return self._device

    def open(self) -> None:
        """Starts the camera's process and waits until it streams.

        Raises ConfigError (several cameras match, window outside the image, not Mono8, wrong type of a feature's value)
        or CameraError (producer file missing, no such camera, busy, feature refused, driver fails)."""
        self.close()
        self._reset()
        self._order = replace(self._asked, producers=producer_paths(self._producers))
        self._spawn(first=True)
        until_ns = self._clock.now_ns() + int(self._connect_s * 1e9)
        child = self._child
        while self._connections == 0 and child is not None:
            if not child.wait(_SLICE_MS) and self._clock.now_ns() >= until_ns:
                child.kill()
                raise CameraError(
                    "the camera did not start", expected=f"frames within {self._connect_s:g} s", found=self._end()
                )
            self._hear(child)
            if self._failed is not None:
                failed = self._failed
                self.close()
                raise failed
            if child.ended and self._connections == 0:
                raise CameraError("the camera's process ended while it started", found=self._end())

    def next(self, timeout_s: float) -> Frame | Missed | None:
        """The next frame or known loss, in the order of the ids; None when nothing came within ``timeout_s``."""
        if not self._pending and self._order.producers:
            self._pump(timeout_s)
        if not self._pending:
            return None
        item = self._pending.popleft()
        if isinstance(item, Frame):
            self._frames += 1
        elif item.reason is Reason.INCOMPLETE:
            self._incomplete += 1
        else:
            self._missed += 1
        return item

    def close(self) -> None:
        """Stops the camera and ends its process; idempotent, never raises."""
        if self._child is not None:
            self._end()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._pending.clear()
        self._order = self._asked
        self._connected = False

    def statistics(self) -> CameraStatistics:
        """A snapshot; callable from any thread."""
        child = self._child
        underruns, overruns = self._underruns_before, self._overruns_before
        if child is not None:
            underruns, overruns = underruns + child.pulse[Pulse.UNDERRUNS], overruns + child.pulse[Pulse.OVERRUNS]
        return CameraStatistics(
            frames=self._frames,
            missed=self._missed,
            incomplete=self._incomplete,
            reconnects=max(0, self._connections - 1),
            connected=self._connected,
            producer_underruns=underruns,
            overruns=overruns,
            resyncs=self._counter.resyncs,
        )

    # -- the child ----------------------------------------------------------------------------------------------

    def _spawn(self, *, first: bool) -> None:
        self._child = CameraProcess("run", self._order, first=first, hang_s=self._hang_s, connect_s=self._connect_s)
        self._spawned_ns = self._clock.now_ns()

    def _end(self) -> str:
        """Ends the child; how it went."""
        child, self._child = self._child, None
        self._connected = False
        if child is None:
            return ""
        self._underruns_before += child.pulse[Pulse.UNDERRUNS]
        self._overruns_before += child.pulse[Pulse.OVERRUNS]
        return child.finish(_CLOSE_GRACE_S)

    def _hear(self, child: CameraProcess) -> None:
        while (message := child.receive()) is not None:
            said, fds = message
            match said["event"]:
                case "opened":
                    self._opened(said, fds)
                case "lost":
                    self._connected = False
                    self._tell("camera lost", {"camera": self.name, "why": said["why"]})
                case "failed":
                    self._failed = told_error(said)
                case "note":
                    self._tell(said["what"], {"camera": self.name, **said["details"]})

    def _opened(self, said: Mapping[str, Any], fds: Sequence[int]) -> None:
        self._drain()
        opened = said["opened"]
        self._ring = RingReader(Layout(**said["layout"]), *fds)
        self._device = device = DeviceLine(**opened["device"])
        self._origin_px = (opened["window"][0], opened["window"][1])
        self._full_px = (opened["width"], opened["height"])
        self._order = replace(self._order, serial=device.serial, device_id="" if device.serial else device.device_id)
        if self._connections:
            self._counter.restart()
        self._connections += 1
        self._connected = True
        details = {
            "camera": self.name,
            "producer": device.producer,
            "image": f"{opened['width']} x {opened['height']}",
            "window": opened["window"],
            "features": {one["name"]: one["found"] for one in opened["written"]},
            "way": opened["way"],
        }
        self._tell("camera back" if self._connections > 1 else "camera open", details)
        if opened["way_why"]:
            self._tell("frames come through harvesters: incomplete ones show only as gaps", {"why": opened["way_why"]})

    def _tend(self) -> None:
        """Hears the child; buries and replaces one that ended or stands still."""
        child, now_ns = self._child, self._clock.now_ns()
        if child is None:
            if now_ns >= self._spawn_ns:
                self._spawn(first=False)
            return
        self._hear(child)
        if not child.ended:
            beat_ns = max(self._spawned_ns, child.pulse[Pulse.BEAT_NS])
            limit_s = self._hang_s if child.pulse[Pulse.STREAMING] else self._connect_s
            if now_ns - beat_ns <= limit_s * 1e9:
                return
            self._tell(
                "camera process stands still", {"camera": self.name, "for_s": round((now_ns - beat_ns) / 1e9, 1)}
            )
            child.kill()
        streamed = self._ring is not None
        self._drain()
        self._spawn_ns = now_ns if streamed else now_ns + _RESPAWN_NS
        why = self._failed or self._end()
        self._end()
        self._failed = None
        self._tell("camera process ended", {"camera": self.name, "why": str(why)})

    # -- the frames ---------------------------------------------------------------------------------------------

    def _pump(self, timeout_s: float) -> None:
        """Until something is pending, or ``timeout_s`` is over by the clock or by quiet waiting."""
        until_ns = self._clock.now_ns() + int(timeout_s * 1e9)
        left_ms = timeout_s * 1000
        while True:
            self._read()
            if not self._pending:
                self._tend()
            if self._pending or left_ms <= 0:
                return
            slice_ms = min(left_ms, _SLICE_MS)
            poll = select.poll()
            for end in (self._ring, self._child):
                if end is not None:
                    poll.register(end, select.POLLIN)
            if poll.poll(slice_ms):
                left_ms = min(left_ms, (until_ns - self._clock.now_ns()) / 1e6)
            else:
                left_ms -= slice_ms

    def _read(self) -> None:
        try:
            while not self._pending and self._ring is not None and (record := self._ring.take()) is not None:
                self._count(record)
        except CameraError as torn:
            self._tell("camera process gave torn frames", {"camera": self.name, "why": str(torn)})
            self._discard()
            if self._child is not None:
                self._child.kill()

    def _drain(self) -> None:
        """What the old ring still holds comes before anything new; then it is released."""
        try:
            while self._ring is not None and (record := self._ring.take()) is not None:
                self._count(record)
        except CameraError as torn:
            self._tell("camera process gave torn frames", {"camera": self.name, "why": str(torn)})
        self._discard()

    def _discard(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def _count(self, record: Record) -> None:
        step = self._counter.step(record.frame_id)
        if step.note:
            self._tell("frame ids", {"camera": self.name, "what": step.note})
        self._pending.extend(Missed(lost, record.taken_ns) for lost in step.lost)
        if step.frame_id is None:
            return
        if record.pixels is not None:
            self._pending.append(
                Frame(
                    step.frame_id,
                    record.pixels,
                    record.taken_ns,
                    self._origin_px,
                    self._full_px,
                    record.camera_ns,
                    timely=record.timely,
                )
            )
            return
        reason = Reason.INCOMPLETE if record.kind is Kind.INCOMPLETE else Reason.MISSED
        self._pending.append(Missed(step.frame_id, record.taken_ns, reason, timely=record.timely))
