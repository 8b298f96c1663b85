"""The camera's own process: opens the camera, copies each frame's window into the ring, reconnects by itself.

Started as ``python -m inspector.camera.acquirer PAGE_FD SOCKET_FD`` by :mod:`inspector.camera.child`. The socket
(SOCK_SEQPACKET) carries one JSON message each way per event and tells each side of the other's end; the page carries
the heartbeat; frames go through the ring, whose descriptors travel with the message "opened".
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import logging
import mmap
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from inspector.camera.fetch import LinkLost, Taken
from inspector.camera.ring import Kind, Layout, Put, RingWriter
from inspector.camera.session import Busy, Opened, Order, Session, StaleProcess
from inspector.camera.stamp import CameraClock
from inspector.clock import SystemClock, sleep_s
from inspector.errors import CameraError, ConfigError

STALE_EXIT = 75
"""Exit code of a process that asks to be started anew."""
MESSAGE_BYTES = 1 << 17
_TICK_MS = 50
_SILENCE_NS = 300_000_000
"""Without a frame for so long, the camera is asked whether it is still there; silence alone is legal."""
_ASK_EVERY_NS = 500_000_000
_RETRY_S = 0.2
_FAILED_STARTS = 10
_LOG_BYTES = 1 << 16


class Pulse:
    """One shared page: the child writes that it lives and what it counted, the parent reads it at any time."""

    BYTES = 4096
    _WORD = struct.Struct("<Q")
    BEAT_NS, STREAMING, UNDERRUNS, OVERRUNS = range(4)

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, self.BYTES)

    def __getitem__(self, word: int) -> int:
        return int(self._WORD.unpack_from(self._map, word * 8)[0])

    def __setitem__(self, word: int, value: int) -> None:
        self._WORD.pack_into(self._map, word * 8, value)


class Link:
    """The child's end of the socket."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def receive(self) -> dict[str, Any]:
        """The order that starts everything."""
        return dict(json.loads(self._socket.recv(MESSAGE_BYTES)))

    def tell(self, event: str, fds: Sequence[int] = (), **details: object) -> None:
        """One message, with descriptors if any. Raises OSError where the parent is gone."""
        data = json.dumps({"event": event, **details}).encode()
        if fds:
            socket.send_fds(self._socket, [data], list(fds))
        else:
            self._socket.send(data)

    def note(self, what: str, **details: object) -> None:
        """A line for the journal; dropped where the parent does not read (it has a hundred unread ones then)."""
        data = json.dumps({"event": "note", "what": what, "details": details}).encode()
        with contextlib.suppress(BlockingIOError):
            self._socket.send(data, socket.MSG_DONTWAIT)

    def ended(self, wait_ms: float = 0) -> bool:
        """Whether the parent closed its end: nothing else comes after the order."""
        return bool(self._poll.poll(wait_ms))


class Acquirer:
    """Connects, streams, and connects again, until the parent hangs up."""

    def __init__(self, order: Order, *, first: bool, hang_s: float, connect_s: float, link: Link, pulse: Pulse) -> None:
        self._order, self._first, self._link, self._pulse = order, first, link, pulse
        self._hang_s, self._connect_s = hang_s, connect_s
        self._clock = SystemClock()
        self._last_note = ""

    def run(self) -> None:
        """Raises CameraError or ConfigError where the first opening fails, StaleProcess where only a restart helps."""
        self._beat(streaming=False)
        self._session = Session(self._order, self._clock, sleep_s)
        while (opened := self._connect()) is not None:
            try:
                self._stream(opened)
                return
            except LinkLost as lost:
                self._link.tell("lost", why=str(lost))
            finally:
                self._beat(streaming=True)  # a tear-down that hangs is not waited for longer than a stream that does
                self._session.close()

    def _beat(self, *, streaming: bool) -> None:
        """Lives. Should the parent die while a driver holds this process, the kernel's timer ends it."""
        self._pulse[Pulse.STREAMING] = int(streaming)
        self._pulse[Pulse.BEAT_NS] = self._clock.now_ns()
        signal.setitimer(signal.ITIMER_REAL, 2 * (self._hang_s if streaming else self._connect_s))

    def _connect(self) -> Opened | None:
        """Tries until the camera runs; None when the parent hung up. At first start the error is the parent's."""
        patient_until_ns = self._clock.now_ns() + int(self._order.patience_s * 1e9)
        failed_starts = 0
        while not self._link.ended():
            self._beat(streaming=False)
            try:
                opened = self._session.open()
            except (CameraError, ConfigError) as error:
                self._session.close()
                wait = isinstance(error, Busy) and self._clock.now_ns() < patient_until_ns
                if self._first and not wait:
                    raise
                failed_starts += isinstance(error, LinkLost)
                if failed_starts >= _FAILED_STARTS:
                    raise StaleProcess(f"{failed_starts} starts failed, the last: {error}") from error
                if str(error) != self._last_note:
                    self._last_note = str(error)
                    self._link.note("camera not back yet", why=str(error))
            else:
                self._first, self._last_note = False, ""
                device = opened.device
                self._order = replace(
                    self._order, serial=device.serial, device_id="" if device.serial else device.device_id
                )
                self._session.pin(self._order)
                return opened
            if self._link.ended(_RETRY_S * 1000):
                return None
        return None

    def _stream(self, opened: Opened) -> None:
        """Until the parent hangs up. Raises LinkLost."""
        x, y, width, height = opened.window
        ring = RingWriter(Layout(self._order.ring_slots, width * height))
        window = (slice(y, y + height), slice(x, x + width))
        fetcher, clock = self._session.fetcher, self._clock
        camera_clock = CameraClock(clock.now_ns())
        try:
            self._link.tell("opened", ring.fds, opened=asdict(opened), layout=asdict(ring.layout))
            gc.collect()
            gc.freeze()  # harvesters' many objects stay out of every later collection
            heard_ns = asked_ns = clock.now_ns()
            chores_ns = 0
            while True:
                now_ns = clock.now_ns()
                if now_ns >= chores_ns:
                    chores_ns = now_ns + _TICK_MS * 1_000_000
                    if self._chores():
                        return
                asking_ns = clock.now_ns()
                taken = fetcher.fetch(_TICK_MS)
                if taken is not None:
                    heard_ns = taken.fetched_ns
                    waited_ns = heard_ns - asking_ns
                    taken_ns = camera_clock.taken_ns(heard_ns, taken.camera_ns, waited_ns)
                    self._hand_over(taken, taken_ns, window, ring, timely=camera_clock.is_timely(waited_ns))
                    fetcher.give_back(taken)
                    if why := camera_clock.told():
                        self._link.note("camera clock not used", why=why)
                elif now_ns - heard_ns > _SILENCE_NS and now_ns - asked_ns > _ASK_EVERY_NS:
                    asked_ns = now_ns
                    if not self._session.alive():
                        raise LinkLost("no frames, and the camera does not answer")
        finally:
            gc.unfreeze()  # or the old acquirer's cycles would never be collected
            ring.close()

    def _hand_over(
        self, taken: Taken, taken_ns: int, window: tuple[slice, slice], ring: RingWriter, *, timely: bool
    ) -> None:
        if taken.pixels is None:
            put = ring.put(Kind.INCOMPLETE, taken.frame_id, taken_ns, taken.camera_ns, timely=timely)
            if taken.flaw and taken.flaw != self._last_note:
                self._last_note = taken.flaw
                self._link.note("frame counted as incomplete", frame=taken.frame_id, why=taken.flaw)
        else:
            pixels = taken.pixels[window]
            put = ring.put(Kind.FRAME, taken.frame_id, taken_ns, taken.camera_ns, pixels, timely=timely)
        if put is not Put.STORED:
            self._pulse[Pulse.OVERRUNS] += 1

    def _chores(self) -> bool:
        """True when the parent hung up."""
        self._beat(streaming=True)
        self._pulse[Pulse.UNDERRUNS] = self._session.underruns()
        if os.fstat(2).st_size > _LOG_BYTES:  # a driver that talks must not fill the memory
            os.ftruncate(2, 0)
        return self._link.ended()


def _order(message: dict[str, Any]) -> Order:
    found = dict(message["order"])
    found["features"] = tuple((name, value) for name, value in found["features"])
    found["producers"] = tuple(found["producers"])
    found["window"] = tuple(found["window"]) if found["window"] else None
    return Order(**found)


def _work(message: dict[str, Any], link: Link, pulse: Pulse) -> None:
    order = _order(message)
    hang_s, connect_s = float(message["hang_s"]), float(message["connect_s"])
    if message["task"] == "list":
        signal.setitimer(signal.ITIMER_REAL, 2 * connect_s)
        session = Session(order, SystemClock(), sleep_s)
        link.tell("devices", devices=[asdict(line) for line in session.discover()])
        return
    Acquirer(order, first=bool(message["first"]), hang_s=hang_s, connect_s=connect_s, link=link, pulse=pulse).run()


def main() -> int:
    """Entry of the camera's process; returns its exit code."""
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent decides; a service manager signals the whole group
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    logging.getLogger("harvesters").setLevel(logging.CRITICAL)  # what it logs comes to us as an exception too
    pulse, link = Pulse(int(sys.argv[1])), Link(int(sys.argv[2]))
    try:
        _work(link.receive(), link, pulse)
    except StaleProcess as error:
        sys.stderr.write(f"{error}\n")
        return STALE_EXIT
    except (CameraError, ConfigError) as error:
        kind = "ConfigError" if isinstance(error, ConfigError) else "CameraError"
        link.tell("failed", kind=kind, what=error.what, expected=error.expected, found=error.found, do=error.do)
        return error.exit_code
    except (BrokenPipeError, ConnectionResetError):  # the parent is gone: nobody to tell
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
