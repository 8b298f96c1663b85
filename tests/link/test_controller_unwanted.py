"""What a controller should not send: refused with a reason, counted, bounded, and of no consequence for others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import zmq
from controller_kit import CLOCK, PATIENCE_MS, Raw, acked, fresh, is_up, serve
from link_help import EPOCH

from inspector.frame import State
from inspector.link import wire
from inspector.link.controller import ControllerLink
from inspector.link.events import Acked, Announced, ControllerUp, Event, Handed, Refused
from inspector.link.listen import Behaviour, ReferenceController
from inspector.link.messages import RefusedMessage


@pytest.mark.parametrize(
    "frames",
    [
        [b"garbage"],
        [b""],
        [b"", b""],
        [b"INSP" + b"\0" * 124, b""],
        [b"x"] * 50,
        [b"INSP\x02" + b"\0" * 123, b"{}"],
        wire.pack_state(State.READY, epoch=1, last_sequence=0, opened=0, durable=0, sent_ns=0),
        [*wire.pack_hello(0, 0), b""],
        wire.pack_ack(EPOCH, [1]),
        wire.pack_announce(1, "", 0),
    ],
    ids=[
        *("garbage", "empty", "two empty", "zeros", "fifty frames", "version 2", "a daemon's message", "a third frame"),
        *("ACK before HELLO", "ANNOUNCE before HELLO"),
    ],
)
def test_unusable_message_is_refused_with_a_reason(link: ControllerLink, raw: Raw, frames: list[bytes]) -> None:
    """Garbage is counted, told and answered with REFUSED; the link goes on."""
    raw.socket.send_multipart(frames)
    seen = serve(link, lambda seen: any(isinstance(event, Refused) for event in seen))
    assert not [event for event in seen if isinstance(event, Announced | ControllerUp)]
    assert raw.socket.poll(PATIENCE_MS)
    (reply,) = raw.received()
    assert isinstance(reply, RefusedMessage)
    assert reply.why == next(event.why for event in seen if isinstance(event, Refused))[:200]
    assert "\n" not in reply.why
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, is_up)


def test_oversized_message_never_reaches_the_daemon(
    link: ControllerLink, raw: Raw, controller: Callable[..., ReferenceController]
) -> None:
    """A message above the limit is dropped with its connection; another controller is served all the while."""
    other = controller()
    serve(link, is_up)
    raw.socket.send_multipart([b"y" * 70_000, b""])

    def again(seen: list[Event]) -> bool:
        with contextlib.suppress(zmq.Again):  # what is in the cut connection is lost with it
            raw.socket.send_multipart([b"after"], zmq.NOBLOCK)
        return any(isinstance(event, Refused) for event in seen)

    seen = serve(link, again)
    assert {event.why.split(";")[0] for event in seen if isinstance(event, Refused)} == {"message has the wrong form"}
    assert link.send(fresh(1), durable=0) is Handed.SENT
    serve(link, lambda seen: acked(seen) == [1])
    assert other.statistics().received == 1


def test_one_controller_at_a_time(
    link: ControllerLink, raw: Raw, controller: Callable[..., ReferenceController]
) -> None:
    """While a controller is connected, another identity's HELLO, acknowledgements and announcements are refused."""
    controller(behaviour=Behaviour(drop_ack=1.0))
    serve(link, is_up)
    assert link.send(fresh(1), durable=0) is Handed.SENT
    for frames in (wire.pack_hello(0, 0), wire.pack_ack(EPOCH, [1]), wire.pack_announce(1, "", 0)):
        raw.socket.send_multipart(frames)
    refused = link.statistics().refused
    seen = serve(link, lambda _: link.statistics().refused == refused + 3)
    assert not [event for event in seen if isinstance(event, Acked | Announced | ControllerUp)]
    replies: list[object] = []

    def told_again(_: list[Event]) -> bool:
        raw.socket.send_multipart(wire.pack_hello(0, 0))
        replies.extend(raw.received())
        return len(replies) >= 2  # a later reply has come, so every earlier one has

    serve(link, told_again)
    assert {type(reply) for reply in replies} == {RefusedMessage}, "a stranger is told nothing else"
    assert link.unacknowledged == 1


def test_strange_acknowledgements_are_counted(link: ControllerLink, raw: Raw) -> None:
    """Acknowledgements of numbers never sent, of another epoch, and repeated ones are counted and change nothing."""
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, is_up)
    link.send(fresh(1), durable=0)
    link.send(fresh(2), durable=0)
    raw.socket.send_multipart(wire.pack_ack(EPOCH, [1, 99, 1]))
    raw.socket.send_multipart(wire.pack_ack(EPOCH - 1, [2]))
    seen = serve(link, lambda _: link.statistics().acks_unknown == 2)
    assert acked(seen) == [1]
    assert link.statistics().acks_repeated == 1
    assert link.unacknowledged == 1


def test_a_flood_is_read_in_portions(link: ControllerLink, raw: Raw) -> None:
    """One service reads a bounded number of messages, so that a flood does not keep the thread from its due times."""
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, is_up)
    portions: list[int] = []
    while not portions or max(portions) < 64:  # until more had come at once than one service reads
        before = link.statistics().received
        for _ in range(200):
            raw.socket.send_multipart(wire.pack_ack(EPOCH, [5]))
        while link.statistics().received < before + 200:
            link.wait(1.0)
            so_far = link.statistics().received
            link.service(CLOCK.now_ns())
            portions.append(link.statistics().received - so_far)
    assert max(portions) == 64
