"""What the link's sockets have in common: endpoints, binding, and a wake-up that other threads may pull."""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import threading
from urllib.parse import urlsplit

import zmq

from inspector.errors import ConfigError, LinkError

_SELECT_LIMIT = 1024
"""select() knows no descriptor from here on."""


def is_local(endpoint: str) -> bool:
    """Whether an endpoint can be reached from this host alone: ipc, inproc, or tcp on a loopback address."""
    if endpoint.startswith(("ipc://", "inproc://")):
        return True
    host = urlsplit(endpoint).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(endpoint: str, *, encrypted: bool, allow_plaintext: bool) -> None:
    """Raises ConfigError where plaintext would leave this host without having been allowed."""
    if not (encrypted or allow_plaintext or is_local(endpoint)):
        raise ConfigError(
            "plaintext on an address that others can reach",
            expected="CURVE keys, or a loopback address",
            found=endpoint,
            do="Set link.keys_dir, or link.allow_plaintext = true if the network is yours alone.",
        )


def check_endpoint(endpoint: str) -> None:
    """Raises ConfigError for what no socket can be bound to, whatever this host has."""
    if "://" not in endpoint:
        raise ConfigError("endpoint cannot be used", expected="tcp://ADDRESS:PORT", found=endpoint)
    port = endpoint.rpartition(":")[2]
    if endpoint.startswith("tcp://") and port != "*" and not (port.isascii() and port.isdigit() and int(port) < 65536):
        # libzmq itself takes 99999 for 34463 and -1 for 65535
        raise ConfigError("endpoint has no usable port", expected="tcp://ADDRESS:PORT, 0 to 65535 or *", found=endpoint)


def connect(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Begin to connect. Raises ConfigError for what is no endpoint."""
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise ConfigError(
            "endpoint cannot be used", expected="tcp://ADDRESS:PORT", found=f"{endpoint} ({error})"
        ) from error


def bind(socket: zmq.Socket[bytes], endpoint: str) -> str:
    """Bind and return the endpoint with its real port. Raises LinkError (in use) or ConfigError (not usable)."""
    check_endpoint(endpoint)
    try:
        if "[" in endpoint:
            socket.setsockopt(zmq.IPV6, 1)
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise LinkError("port in use", found=endpoint, do="Stop the other program, or set another port.") from error
        if error.errno == errno.EACCES:
            raise LinkError("endpoint may not be used", found=endpoint, do="Take a port from 1024 on.") from error
        raise ConfigError(
            "endpoint cannot be used", expected="tcp://ADDRESS:PORT", found=f"{endpoint} ({error})"
        ) from error
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


def harden_tcp(socket: zmq.Socket[bytes]) -> None:
    """Drop who does not finish its handshake within 2 s, and a dead cable or host after 3 s (16 s in silence).

    No ZMTP heartbeats (ZMQ_HEARTBEAT_IVL), on purpose. They prove no application, and in libzmq 4.3.5 their timer
    aborts the process (assertion !_io_error in out_event) when a peer whose queue is full resets its connection."""
    for option, value in (
        (zmq.HANDSHAKE_IVL, 2000),
        (zmq.TCP_MAXRT, 3000),
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, 10),
        (zmq.TCP_KEEPALIVE_INTVL, 2),
        (zmq.TCP_KEEPALIVE_CNT, 3),
    ):
        socket.setsockopt(option, value)


class Wake:
    """Lets any thread end the wait of the one that owns a socket."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def pull(self) -> None:
        """End the current or the next wait; does nothing once closed. Any thread."""
        with self._lock:  # a closed descriptor's number may belong to someone else by now
            if self._handle >= 0:
                os.eventfd_write(self._handle, 1)

    def wait(self, socket: zmq.Socket[bytes], timeout_s: float) -> bool:
        """Until a message is there, the wake-up was pulled, or the time is over. The socket's own thread only.

        Returns False where nothing came. May return True without a message: the caller drains without blocking."""
        # libzmq's descriptor only tells of changes, so what is already there must be asked for first
        if int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self.drain()
            return True
        handles = (int(socket.getsockopt(zmq.FD)), self._handle)
        if max(handles) < _SELECT_LIMIT:
            # microseconds; poll() would round a due time up to the next millisecond
            came = bool(select.select(handles, (), (), max(0.0, timeout_s))[0])
        else:
            poller = select.poll()
            for handle in handles:
                poller.register(handle, select.POLLIN)
            came = bool(poller.poll(max(0.0, timeout_s) * 1e3))
        self.drain()
        return came

    @property
    def handle(self) -> int:
        """The descriptor, readable once pulled, for an owner that polls more than one socket."""
        return self._handle

    def close(self) -> None:
        """Release the descriptor; idempotent."""
        with self._lock:
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1

    def drain(self) -> None:
        """Take note of having woken. The owner only."""
        try:
            os.eventfd_read(self._handle)
        except BlockingIOError:
            return
