"""What the tests of health share: scrapes as samples, a desk of its own, and sockets to it."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from inspector.clock import SystemClock
from inspector.health.desk import Desk
from inspector.health.doors import split_address

PATIENCE_S = 30.0
"""Far beyond what anything here takes; only a hang reaches it."""
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(text: str) -> Samples:
    """Every sample by name and labels."""
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def scrape(address: str, path: str = "/metrics") -> Samples:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=PATIENCE_S) as reply:
        return samples_of(reply.read().decode())


def value(samples: Samples, name: str, **labels: str) -> float:
    """The one sample of this family, named without its prefix, with exactly these labels."""
    return samples[(f"inspector_{name}", frozenset(labels.items()))]


@contextmanager
def desk(folder: Path, clock: Any = None, **wanted: Any) -> Iterator[Desk]:
    """An open desk in ``folder``, on a free port; what it tells and its patience among ``wanted``."""
    made = Desk(
        status=wanted.pop("status", lambda: b'{"state": "Ready"}'),
        metrics=wanted.pop("metrics", lambda accept: (b"up 1\n", "text/plain")),
        clock=clock or SystemClock(),
        **wanted,
    )
    made.open(folder, "127.0.0.1:0")
    try:
        yield made
    finally:
        made.close()


def http_socket(made: Desk) -> socket.socket:
    return socket.create_connection(split_address(made.address), timeout=PATIENCE_S)


def ended(channel: socket.socket) -> bool:
    """The desk has closed the connection."""
    try:
        return channel.recv(1) == b""
    except ConnectionResetError:
        return True
