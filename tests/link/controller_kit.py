"""What the tests of the controller's link share: its clock and address, a bare DEALER, and questions to the events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import link_help
import zmq
from link_help import EPOCH, an_answer

from inspector.clock import Clock, SystemClock
from inspector.frame import Answer
from inspector.link import wire
from inspector.link.controller import ControllerLink
from inspector.link.events import Acked, ControllerUp, Event

CLOCK = SystemClock()


LOCAL = "tcp://127.0.0.1:*"
PATIENCE_S = 30.0
PATIENCE_MS = 30_000
"""Far beyond what anything here takes; only a hang reaches it."""


def fresh(sequence: int, **more: Any) -> Answer:
    """An answer settled now, with more time left than any test here has patience."""
    return an_answer(sequence, **({"now_ns": CLOCK.now_ns(), "left_s": 10 * PATIENCE_S} | more))


def serve(link: ControllerLink, until: Callable[[list[Event]], bool], *, clock: Clock | None = None) -> list[Event]:
    """As the link's other tests serve theirs, with this module's patience."""
    return link_help.serve(link, until, clock=clock, timeout_s=PATIENCE_S)


class Raw:
    """A bare DEALER, for what a reference controller never does."""

    def __init__(self, endpoint: str, identity: bytes = b"raw") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.ROUTING_ID, identity)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)

    def received(self) -> list[object]:
        """All messages that are there."""
        found: list[object] = []
        while self.socket.poll(0):
            found.append(wire.unpack(self.socket.recv_multipart()))
        return found

    def close(self) -> None:
        self.socket.close(linger=0)
        self._context.term()


def is_up(seen: list[Event]) -> bool:
    """A controller has come."""
    return any(isinstance(event, ControllerUp) for event in seen)


def acked(seen: list[Event]) -> list[int]:
    """The numbers that were acknowledged, in the order of the receipts."""
    return [event.receipt.sequence for event in seen if isinstance(event, Acked)]


@contextlib.contextmanager
def linked(clock: Clock, **options: Any) -> Iterator[tuple[ControllerLink, Raw]]:
    """A link of its own clock, and the bare controller that has said HELLO to it."""
    link = ControllerLink(LOCAL, epoch=EPOCH, clock=clock, **options)
    link.open()
    other = Raw(link.endpoint, b"plc")
    try:
        other.socket.send_multipart(wire.pack_hello(0, 0))
        serve(link, is_up, clock=clock)
        yield link, other
    finally:
        other.close()
        link.close(0)
