"""Listening sockets of the desk, and the client's way to its local one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inspector.errors import ConfigError, LinkError

SOCKET_NAME = "inspector.sock"
_LONGEST_PATH_BYTES = 107
"""Of a unix socket, without the closing zero."""


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port``. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ConfigError(
            "health.metrics is no address", expected="host:port such as 127.0.0.1:9570, or empty", found=repr(address)
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def listen_http(address: str) -> socket.socket:
    """A listening TCP socket that does not block. Raises ConfigError: malformed, in use, not this host's address."""
    host, port = split_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
        try:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(place)
            door.listen(16)
            door.setblocking(False)
        except BaseException:
            door.close()
            raise
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"the metrics endpoint {address} cannot be opened",
            found=getattr(error, "strerror", None) or str(error),
            do="Set health.metrics to a free address of this host, or leave it empty.",
        ) from error
    return door


def listen_unix(path: Path, *, group: bool = False) -> socket.socket:
    """A listening local socket for its owner alone, or with ``group`` for the owner's group too.

    A file that lies there goes: the caller is the only daemon. Raises LinkError."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        with short(path) as name:
            door.bind(name)
        path.chmod(0o660 if group else 0o600)  # before listen: until then nobody can connect
        door.listen(16)
        door.setblocking(False)
    except OSError as error:
        door.close()
        raise LinkError(
            f"the local socket {path} cannot be opened",
            found=error.strerror or str(error),
            do="Check that the state directory is writable.",
        ) from error
    except BaseException:
        door.close()
        raise
    return door


@contextmanager
def short(path: Path) -> Iterator[str]:
    """A name of ``path`` that fits into a socket address: a deep directory is reached through its descriptor."""
    if len(os.fsencode(path)) <= _LONGEST_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
