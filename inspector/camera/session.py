"""One camera, opened through harvesters: found, set, started, torn down. Lives in the camera's own process.

One Harvester per process, since a producer can be initialised once; it is updated to find a camera that came back.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import signal
from dataclasses import dataclass
from typing import Any

from inspector.camera import features as nodes
from inspector.camera.features import Feature, Written
from inspector.camera.fetch import DirectFetcher, Fetcher, HarvestersFetcher, LinkLost, NoDirectPath
from inspector.clock import Clock
from inspector.errors import CameraError, ConfigError

_ACCESS = {1: "free", 2: "read only", 3: "no access", 4: "busy", 5: "open", 6: "open read only"}


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """One device as its producer lists it."""

    producer: str
    """Path of the .cti."""
    serial: str
    model: str
    user_name: str
    access: str
    """free, read only, no access, busy (another program has it), open, open read only or unknown."""
    device_id: str = ""
    """The producer's own name for it; unique where a serial number is not."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the camera process is to do; every field may cross the process border as JSON."""

    producers: tuple[str, ...]
    serial: str = ""
    model: str = ""
    user_name: str = ""
    device_id: str = ""
    """Set from the second start on: the device that was opened first."""
    features: tuple[Feature, ...] = ()
    buffers: int = 32
    window: tuple[int, int, int, int] | None = None
    ring_slots: int = 32
    patience_s: float = 5.0
    """How long to ask for a camera that is in use: one whose owner crashed stays so until its heartbeat runs out."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A started camera."""

    device: DeviceLine
    width: int
    """Pixels of the whole image."""
    height: int
    window: tuple[int, int, int, int]
    written: tuple[Written, ...]
    way: str
    """direct or harvesters: see fetch.py."""
    way_why: str = ""


class Busy(CameraError):
    """Another program, or the dead owner's heartbeat, holds the camera."""


class StaleProcess(CameraError):
    """The tear-down failed half-way: only a new process starts clean."""


def describe(lines: list[DeviceLine]) -> str:
    """The devices in one line, for errors."""
    shown = [f"{line.model} serial {line.serial or '-'} name {line.user_name or '-'} ({line.access})" for line in lines]
    return ", ".join(shown) if shown else "no device at all"


def choose(lines: list[DeviceLine], order: Order) -> int:
    """Index of the one device that the order means; an empty serial, model or user name does not restrict.

    Raises CameraError where none matches, ConfigError where several do."""
    asked = {
        name: value for name in ("serial", "model", "user_name", "device_id") if (value := str(getattr(order, name)))
    }
    hits = [n for n, line in enumerate(lines) if all(getattr(line, name) == value for name, value in asked.items())]
    words = ", ".join(f"{name} {value}" for name, value in asked.items()) or "any camera"
    if not hits:
        raise CameraError("no such camera", expected=words, found=describe(lines), do="List them: inspector cameras.")
    if len(hits) > 1:
        raise ConfigError(
            "more than one camera matches",
            expected=f"one for {words}",
            found=describe([lines[n] for n in hits]),
            do="Give its serial.",
        )
    return hits[0]


class Session:
    """At most one open camera; ``open`` again after ``close``."""

    def __init__(self, order: Order, clock: Clock, sleep: Any) -> None:
        from harvesters.core import Harvester

        self._order, self._clock, self._sleep = order, clock, sleep
        for path in order.producers:
            _check_producer(path)
        self._harvester = Harvester()
        for path in order.producers:
            self._harvester.add_file(path, check_existence=True)
        self._acquirer: Any = None
        self._fetcher: Fetcher | None = None

    def pin(self, order: Order) -> None:
        """From now on this order holds: the device that was opened first, and no other like it."""
        self._order = order

    def discover(self) -> list[DeviceLine]:
        """Every device of every producer. Destroys what was open."""
        from genicam import genapi, gentl

        try:
            self._harvester.update()
        except (gentl.GenericException, genapi.GenericException) as error:
            raise CameraError(f"a GenTL producer failed to list its devices: {error}") from error
        return [_line(info) for info in self._harvester.device_info_list]

    def open(self) -> Opened:
        """Finds, opens, sets and starts the camera.

        Raises CameraError (Busy where another owner may go), ConfigError; LinkLost where it went away meanwhile."""
        from genicam import genapi, gentl

        order = self._order
        lines = self.discover()
        index = choose(lines, order)
        try:
            self._create(index)
            node_map = self._acquirer.remote_device.node_map
            written = nodes.write_all(node_map, order.features, self._sleep)
            width, height = nodes.image_size(node_map)
            window = nodes.check_window(order.window, width, height)
            self._keep_oldest_first()
            self._acquirer.num_buffers = max(order.buffers, self._acquirer.min_num_buffers)
            self._acquirer.start()
        except (gentl.AccessDeniedException, gentl.ResourceInUseException) as error:
            raise Busy(
                f"camera {lines[index].model} {lines[index].serial} is in use", do="Close its other user."
            ) from error
        except (gentl.GenericException, genapi.GenericException) as error:
            raise LinkLost(f"the camera does not start: {error or type(error).__name__}") from error
        way_why = ""
        try:
            self._fetcher = DirectFetcher(self._acquirer, lines[index].producer, width, height, self._clock)
        except NoDirectPath as error:
            way_why = str(error)
            self._fetcher = HarvestersFetcher(self._acquirer, width, height, self._clock)
        return Opened(lines[index], width, height, window, tuple(written), self._fetcher.way, way_why)

    def _create(self, index: int) -> None:
        kept = signal.getsignal(signal.SIGINT)
        try:
            self._acquirer = self._harvester.create(index)
        finally:
            signal.signal(signal.SIGINT, kept)  # harvesters takes Ctrl-C over

    def _keep_oldest_first(self) -> None:
        """Every part counts: unread frames are not to be overwritten by newer ones."""
        from genicam import genapi, gentl

        stream = self._acquirer.data_streams[0].node_map
        # A stream without a node map, or without this choice, keeps the producer's own order.
        with contextlib.suppress(genapi.GenericException, gentl.GenericException):
            if stream is not None and stream.has_node("StreamBufferHandlingMode"):
                stream.StreamBufferHandlingMode.value = "OldestFirst"

    @property
    def fetcher(self) -> Fetcher:
        if self._fetcher is None:
            raise LinkLost("the camera is not open")
        return self._fetcher

    def alive(self) -> bool:
        """Asks the camera itself."""
        return nodes.answers(self._acquirer.remote_device.node_map)

    def underruns(self) -> int:
        """Frames the producer says it lost for want of a buffer; 0 where it does not count."""
        from genicam import gentl

        try:
            return int(self._acquirer.data_streams[0].module.num_underrun)
        except gentl.GenericException:
            return 0

    def close(self) -> None:
        """Stops and destroys, in the order that also works on a dead link. Raises StaleProcess if it does not."""
        from genicam import genapi, gentl

        acquirer, self._acquirer, self._fetcher = self._acquirer, None, None
        if acquirer is None:
            return
        errors = (gentl.GenericException, genapi.GenericException)
        chunks = getattr(acquirer, "_chunk_adapter", None)
        try:
            acquirer.stop()
        except errors:
            _kill_streams(acquirer, errors)
        try:
            acquirer.destroy()
        except errors as error:
            raise StaleProcess(f"the camera cannot be released: {error or type(error).__name__}") from error
        finally:
            # Without this each acquirer stays in memory for good: finalizers hold it, and the list never shrinks.
            for owner in (acquirer, chunks):
                finalizer = getattr(owner, "_finalizer", None)
                if finalizer is not None:
                    finalizer.detach()
            self._harvester._ias.clear()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            gc.collect()


def _kill_streams(acquirer: Any, errors: tuple[type[Exception], ...]) -> None:
    """``stop`` gave up at the dead camera before it stopped the host's side: do that here."""
    from genicam.gentl import ACQ_QUEUE_TYPE_LIST, ACQ_STOP_FLAGS_LIST

    for stream in acquirer.data_streams:
        with contextlib.suppress(*errors):  # whatever fails here shows in destroy()
            stream.stop_acquisition(ACQ_STOP_FLAGS_LIST.ACQ_STOP_FLAGS_KILL)
        with contextlib.suppress(*errors):
            stream.flush_buffer_queue(ACQ_QUEUE_TYPE_LIST.ACQ_QUEUE_ALL_DISCARD)


def _check_producer(path: str) -> None:
    """A .cti that cannot be loaded would only show as "0 devices"."""
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise CameraError(f"GenTL producer {path} cannot be loaded", found=str(error)) from error
    if not hasattr(library, "GCInitLib"):
        raise CameraError(f"{path} is not a GenTL producer", expected="a library with GCInitLib", found="none")


def _line(info: Any) -> DeviceLine:
    found = info.property_dict
    return DeviceLine(
        producer=str(info.parent.parent.parent.path_name),
        serial=str(found.get("serial_number") or ""),
        model=str(found.get("model") or ""),
        user_name=str(found.get("user_defined_name") or ""),
        access=_ACCESS.get(int(found.get("access_status") or 0), "unknown"),
        device_id=str(found.get("id_") or ""),
    )
