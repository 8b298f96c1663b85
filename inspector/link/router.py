"""The daemon's ROUTER socket: options, keys, ownership. Knows frames and identities, nothing of the messages."""

from __future__ import annotations

import enum
import errno
import threading
from dataclasses import dataclass
from typing import Protocol

import zmq

from inspector.link.keys import CurveKeys, Doorman
from inspector.link.sockets import Wake, bind, harden_tcp

_PARTS = 3
"""Frames kept of a message; one more than it may have, to see that it has too many."""


class Sent(enum.Enum):
    """What became of a message that was handed to the socket. QUEUED is not delivered."""

    QUEUED = "queued"
    FULL = "full"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Received:
    """One message: who sent it, its frames (three at most), and the client's public key where keys are in use."""

    identity: bytes
    parts: list[bytes]
    user_id: str


class Router(Protocol):
    """What ControllerLink needs of its socket; the simulated drill plays the network behind it."""

    @property
    def keyed(self) -> bool:
        """Whether clients must show a key."""

    @property
    def authenticating(self) -> bool:
        """Whether new clients can be admitted."""

    def open(self, endpoint: str) -> str:
        """Bind; returns the real endpoint."""

    def owned(self) -> object:
        """RuntimeError for any thread but the owner, and once closed."""

    def wake(self) -> None:
        """End the owner's ``wait``."""

    def wait(self, timeout_s: float) -> None:
        """Until a message, a wake-up, or the timeout."""

    def receive(self) -> Received | None:
        """The next message; None where none is there."""

    def put(self, identity: bytes, frames: list[bytes]) -> Sent:
        """Hand a message over without blocking."""

    def admits(self, user_id: str) -> bool:
        """Whether this key is allowed now."""

    def reload_keys(self) -> None:
        """Read the allowed keys again."""

    def close(self, linger_s: float) -> None:
        """Close; idempotent."""


class RouterSocket:
    """One ROUTER socket in a context of its own. The thread that calls ``open`` owns it; ``wake`` is for any."""

    def __init__(self, *, keys: CurveKeys | None, max_message_bytes: int, hwm: int) -> None:
        self._keys, self._max_message_bytes, self._hwm = keys, max_message_bytes, hwm
        self._wake = Wake()
        self._owner = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._doorman: Doorman | None = None

    def open(self, endpoint: str) -> str:
        """Bind; returns the endpoint with its real port. Raises LinkError (port in use) or ConfigError."""
        self._owner = threading.get_ident()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        try:
            self._configure(self._socket)
            if self._keys is not None:
                self._doorman = Doorman(self._context, self._keys)
                self._doorman.start()
                self._doorman.protect(self._socket)
            return bind(self._socket, endpoint)
        except BaseException:
            self.close(0)
            raise

    def wake(self) -> None:
        """End the owner's ``wait``. Any thread."""
        self._wake.pull()

    def wait(self, timeout_s: float) -> None:
        """Until a message, a wake-up, or the timeout."""
        self._wake.wait(self.owned(), timeout_s)

    def receive(self) -> Received | None:
        """The next message; None where none is there."""
        socket = self.owned()
        try:
            frame = socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        identity = frame.bytes
        parts: list[bytes] = []
        while frame.more:
            frame = socket.recv(zmq.NOBLOCK, copy=False)
            if len(parts) < _PARTS:
                parts.append(frame.bytes)
        return Received(identity, parts, "" if self._doorman is None else str(frame.get("User-Id")))

    def put(self, identity: bytes, frames: list[bytes]) -> Sent:
        """Hand a message to the socket without blocking."""
        try:
            socket = self.owned()
            socket.send(identity, zmq.NOBLOCK | zmq.SNDMORE)
            for frame in frames[:-1]:
                socket.send(frame, zmq.NOBLOCK | zmq.SNDMORE)
            socket.send(frames[-1], zmq.NOBLOCK)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return Sent.UNREACHABLE
        return Sent.QUEUED

    @property
    def keyed(self) -> bool:
        """Whether clients must show a key."""
        return self._keys is not None

    @property
    def authenticating(self) -> bool:
        """False where keys are in use and their thread is not running: no new client is admitted."""
        return self._keys is None or (self._doorman is not None and self._doorman.alive)

    def admits(self, user_id: str) -> bool:
        """Whether this key is allowed now; always, where no keys are in use."""
        return self._doorman is None or self._doorman.admits(user_id)

    def reload_keys(self) -> None:
        """Read the allowed keys again. Raises ConfigError; the keys admitted so far stay then."""
        self.owned()
        if self._doorman is not None:
            self._doorman.reload()

    def close(self, linger_s: float) -> None:
        """Close, letting what was sent leave for at most ``linger_s``; idempotent."""
        if self._socket is not None:
            self.owned().close(linger=int(linger_s * 1000))
            self._socket = None
        if self._doorman is not None:
            self._doorman.stop()
        if self._context is not None:
            self._context.term()  # returns within the linger time: no socket is left open
            self._context = None
        self._wake.close()

    def owned(self) -> zmq.Socket[bytes]:
        """The socket, for its owner. RuntimeError for any other thread and once closed: a fault in our code."""
        if self._socket is None or threading.get_ident() != self._owner:
            raise RuntimeError("the link belongs to the thread that opened it, until it is closed")
        return self._socket

    def _configure(self, socket: zmq.Socket[bytes]) -> None:
        # without HANDOVER a controller that reconnects while we are busy stays unheard for ever; without MANDATORY
        # what cannot be delivered vanishes without an error
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDHWM, self._hwm)
        # a peer that fills this queue and goes can leave a descriptor behind in libzmq, so it is far above the need
        socket.setsockopt(zmq.RCVHWM, 4 * self._hwm)
        socket.setsockopt(zmq.SNDTIMEO, 0)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, self._max_message_bytes)
        harden_tcp(socket)
