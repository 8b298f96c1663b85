"""Answers questions about the station: metrics over HTTP, status over a local socket. One thread, nobody holds it up.

Sockets do not block; a client has a fixed time in all and a small request; when too many are there, the oldest goes.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from inspector.clock import Clock
from inspector.health.doors import SOCKET_NAME, listen_http, listen_unix

_REQUEST_BYTES = 8192

Render = Callable[[str], tuple[bytes, str]]
"""Accept header -> (body, content type)."""


@dataclass(slots=True)
class _Client:
    channel: socket.socket
    give_up_ns: int
    is_http: bool
    heard: bytearray = field(default_factory=bytearray)
    to_send: memoryview = field(default_factory=lambda: memoryview(b""))
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class DeskStatistics:
    """Counts since ``open``."""

    answered: int
    given_up: int
    """Clients that were too slow, asked too much, or went away."""
    failed: int
    """Answers that could not be made; the client was told so."""


class Desk:
    """``open`` binds and starts the thread, ``close`` ends it. ``status`` makes the line a status client gets."""

    def __init__(
        self,
        *,
        status: Callable[[], bytes],
        metrics: Render | None,
        clock: Clock,
        clients_max: int = 16,
        patience_s: float = 2.0,
    ) -> None:
        self._status, self._metrics, self._clock = status, metrics, clock
        self._clients_max, self._patience_ns = clients_max, int(patience_s * 1e9)
        self._selector: selectors.BaseSelector | None = None
        self._doors: dict[socket.socket, bool] = {}
        self._clients: dict[socket.socket, _Client] = {}
        self._path: Path | None = None
        self._wake, self._woken = -1, -1
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._answered = self._given_up = self._failed = 0
        self.address = ""
        """host:port of the metrics with the real port; empty without."""

    def open(self, folder: Path, metrics_address: str = "", *, group: bool = False) -> None:
        """Listen on ``folder/inspector.sock`` and, where given, on host:port for metrics. ``group``: the owner's group
        may ask too.

        The caller holds the ledger's lock, so a socket file that lies there is a dead daemon's. Raises ConfigError
        (address malformed, in use, not ours) and LinkError (no socket in the folder)."""
        self._selector = selectors.DefaultSelector()
        try:
            if metrics_address:
                self._listen(listen_http(metrics_address), is_http=True)
            path = folder / SOCKET_NAME
            self._listen(listen_unix(path, group=group), is_http=False)
            self._path = path
            self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._selector.register(self._wake, selectors.EVENT_READ)
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._run, name="desk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and remove the socket file; idempotent."""
        self._stopping.set()
        if self._thread is not None:
            os.write(self._woken, b"x")
            self._thread.join(2.0)
            self._thread = None
        self._release()

    def statistics(self) -> DeskStatistics:
        """A snapshot."""
        return DeskStatistics(self._answered, self._given_up, self._failed)

    def _listen(self, door: socket.socket, *, is_http: bool) -> None:
        self._doors[door] = is_http
        if is_http:
            host, port = door.getsockname()[:2]
            self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        assert self._selector is not None
        self._selector.register(door, selectors.EVENT_READ)

    def _release(self) -> None:
        for client in list(self._clients.values()):
            self._drop(client)
        for door, is_http in self._doors.items():
            door.close()
            if not is_http and self._path is not None:
                self._path.unlink(missing_ok=True)
        self._doors.clear()
        for descriptor in (self._wake, self._woken):
            if descriptor >= 0:
                os.close(descriptor)
        self._wake = self._woken = -1
        if self._selector is not None:
            self._selector.close()
            self._selector = None

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._selector is not None
        while not self._stopping.is_set():
            for key, _ in self._selector.select(self._idle_s()):
                found = key.fileobj
                if isinstance(found, socket.socket):
                    self._serve(found)
            self._give_up_late()

    def _serve(self, found: socket.socket) -> None:
        if found in self._doors:
            self._admit(found, self._doors[found])
            return
        client = self._clients.get(found)
        if client is None:
            return  # dropped a moment ago
        try:
            if client.is_last:
                self._send(client)
            else:
                self._hear(client)
        except OSError:  # gone away: its business
            self._given_up += 1
            self._drop(client)

    def _admit(self, door: socket.socket, is_http: bool) -> None:
        try:
            channel, _ = door.accept()
        except OSError:
            self._stopping.wait(0.1)  # gone again, or no descriptor is left: then the door stays ready, so do not spin
            return
        channel.setblocking(False)
        if len(self._clients) >= self._clients_max:
            self._given_up += 1
            self._drop(min(self._clients.values(), key=lambda one: one.give_up_ns))
        client = _Client(channel, self._clock.now_ns() + self._patience_ns, is_http)
        self._clients[channel] = client
        assert self._selector is not None
        self._selector.register(channel, selectors.EVENT_READ if is_http else selectors.EVENT_WRITE)
        if not is_http:
            self._reply(client, self._made(lambda: self._status() + b"\n", b'{"error": "no status"}\n'))

    def _hear(self, client: _Client) -> None:
        piece = client.channel.recv(_REQUEST_BYTES)
        client.heard += piece
        if b"\r\n\r\n" in client.heard:
            self._reply(client, self._http(bytes(client.heard)))
        elif not piece or len(client.heard) > _REQUEST_BYTES:
            self._given_up += 1
            self._drop(client)

    def _reply(self, client: _Client, answer: bytes) -> None:
        client.to_send, client.is_last = memoryview(answer), True
        assert self._selector is not None
        self._selector.modify(client.channel, selectors.EVENT_WRITE)

    def _send(self, client: _Client) -> None:
        client.to_send = client.to_send[client.channel.send(client.to_send) :]
        if not client.to_send:
            self._answered += 1
            self._drop(client)

    def _http(self, request: bytes) -> bytes:
        head = request.split(b"\r\n\r\n", 1)[0].decode("latin-1").split("\r\n")
        words = head[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response("400 Bad Request", b"not HTTP/1\n")
        method, target = words[0], words[1].split("?", 1)[0]
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", b"GET only\n")
        if target != "/metrics" or self._metrics is None:
            return _response("404 Not Found", b"see /metrics\n")
        accept = next((line[7:].strip() for line in head[1:] if line.lower().startswith("accept:")), "")
        return self._made(
            lambda: _metrics_response(self._metrics, accept, has_body=method == "GET"),
            _response("500 Internal Server Error", b"the metrics could not be made\n"),
        )

    def _made(self, make: Callable[[], bytes], instead: bytes) -> bytes:
        try:
            return make()
        except Exception:  # noqa: BLE001 - a fault in telling must not end the desk; it is counted and told
            self._failed += 1
            return instead

    def _idle_s(self) -> float | None:
        if not self._clients:
            return None
        first_ns = min(client.give_up_ns for client in self._clients.values())
        return max(0.0, (first_ns - self._clock.now_ns()) / 1e9)

    def _give_up_late(self) -> None:
        now_ns = self._clock.now_ns()
        for client in [one for one in self._clients.values() if one.give_up_ns <= now_ns]:
            self._given_up += 1
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if self._selector is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(client.channel)
        del self._clients[client.channel]
        client.channel.close()


def _metrics_response(metrics: Render | None, accept: str, *, has_body: bool) -> bytes:
    assert metrics is not None
    body, content_type = metrics(accept)
    return _response("200 OK", body, content_type, has_body=has_body)


def _response(
    status: str, body: bytes, content_type: str = "text/plain; charset=utf-8", *, has_body: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "\r\n",
    )
    return "\r\n".join(head).encode("latin-1") + (body if has_body else b"")
