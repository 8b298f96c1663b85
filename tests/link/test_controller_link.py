"""The link itself: announcements, heartbeats, state, its one owner, its address and its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from controller_kit import CLOCK, LOCAL, PATIENCE_MS, PATIENCE_S, Raw, fresh, is_up, serve
from link_help import EPOCH

from inspector.errors import ConfigError, LinkError
from inspector.frame import State
from inspector.link import wire
from inspector.link.controller import ControllerLink
from inspector.link.events import Announced, Handed, Refused
from inspector.link.listen import ReferenceController
from inspector.link.messages import RefusedMessage, StateMessage


def test_announcements_arrive_once_each(link: ControllerLink, controller: Callable[..., ReferenceController]) -> None:
    """An announcement arrives with counter, id and encoder, or without; one whose id does not fit is refused."""
    other = controller()
    serve(link, is_up)
    assert other.wait_for(lambda counts: counts.connected, PATIENCE_S)
    other.announce(7, "bar-7", -12345)
    other.announce(8)
    seen = serve(link, lambda seen: sum(isinstance(event, Announced) for event in seen) == 2)
    found = [event for event in seen if isinstance(event, Announced)]
    assert [(each.counter, each.part_id, each.encoder) for each in found] == [(7, "bar-7", -12345), (8, "", 0)]
    with pytest.raises(LinkError, match="does not fit"):
        other.announce(9, "x" * 33)


def test_a_counter_that_no_answer_could_carry_is_refused(link: ControllerLink, raw: Raw) -> None:
    """And a camera's 2^64 - 1 leaves as the largest number there is: neither may end the answering thread."""
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, is_up)
    raw.socket.send_multipart(wire.pack_announce(1 << 63, "", 0))
    events = serve(link, lambda seen: any(isinstance(event, Refused) for event in seen))
    assert not any(isinstance(event, Announced) for event in events)
    told: list[object] = []
    while not any(isinstance(each, RefusedMessage) for each in told):  # the STATE comes first
        assert raw.socket.poll(PATIENCE_MS), told
        told += raw.received()
    assert link.send(replace(fresh(1), frame_id=(1 << 64) - 1), durable=0) is Handed.SENT


def test_repeated_announcement_counts_once(link: ControllerLink, raw: Raw) -> None:
    """RESENT with a known counter and id is a repetition; without RESENT, or with another id, it is a part."""
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    raw.socket.send_multipart(wire.pack_announce(1, "a", 0))
    raw.socket.send_multipart(wire.pack_announce(1, "a", 0, resent=True))
    raw.socket.send_multipart(wire.pack_announce(2, "b", 0, resent=True))
    raw.socket.send_multipart(wire.pack_announce(1, "c", 0))
    raw.socket.send_multipart(wire.pack_announce(2, "d", 0, resent=True))
    seen = serve(link, lambda seen: sum(isinstance(event, Announced) for event in seen) == 4)
    assert [event.part_id for event in seen if isinstance(event, Announced)] == ["a", "b", "c", "d"]
    assert link.statistics().announcements_repeated == 1


def test_heartbeat_tells_state_and_progress(
    link: ControllerLink, controller: Callable[..., ReferenceController]
) -> None:
    """A change of state is told at once; heartbeats carry opened, last sequence and the durable watermark."""
    states: list[StateMessage] = []
    other = controller(on_state=states.append)
    serve(link, is_up)
    link.set_state(State.READY)
    link.send(fresh(4), durable=2)
    link.set_progress(opened=9, durable=3)
    serve(link, lambda _: other.state is not None and other.state.opened == 9)
    assert other.state is not None
    last = other.state
    assert (last.state, last.epoch, last.last_sequence, last.durable) == (State.READY, EPOCH, 4, 3)
    beats = len(states)
    serve(link, lambda _: len(states) >= beats + 3)


def test_change_of_state_is_told_at_once() -> None:
    """A change of state does not wait for the next heartbeat."""
    link = ControllerLink(LOCAL, epoch=EPOCH, clock=CLOCK, heartbeat_s=3600)
    link.open()
    other = ReferenceController(link.endpoint, clock=CLOCK, hello_s=3600).start()
    try:
        serve(link, lambda _: other.state is not None)
        for state in (State.ERROR, State.READY):
            link.set_state(state)
            serve(link, lambda _, state=state: other.state is not None and other.state.state is state)  # type: ignore[misc]
    finally:
        other.stop()
        link.close(0)


def test_port_in_use_and_bad_endpoints_are_one_line_errors(link: ControllerLink) -> None:
    """A port in use is a LinkError; a wrong endpoint, or plaintext that others can reach, a ConfigError."""
    with pytest.raises(LinkError, match="port in use"):
        ControllerLink(link.endpoint, epoch=1, clock=CLOCK).open()
    for endpoint in ("tcp://127.0.0.1:99999", "tcp://127.0.0.1:-1", "tcp://nowhere", "nonsense", "tcp://[::1]"):
        with pytest.raises(ConfigError) as caught:
            ControllerLink(endpoint, epoch=1, clock=CLOCK, allow_plaintext=True).open()
        assert "\n" not in str(caught.value)
    for endpoint in ("tcp://*:5570", "tcp://0.0.0.0:5570", "tcp://192.168.1.4:5570", "tcp://[::]:5570", "tcp://eth0:1"):
        with pytest.raises(ConfigError, match="plaintext"):
            ControllerLink(endpoint, epoch=1, clock=CLOCK)
        ControllerLink(endpoint, epoch=1, clock=CLOCK, allow_plaintext=True).close()


def test_only_its_owner_touches_the_link(link: ControllerLink) -> None:
    """Another thread that sends, waits, serves or closes is a fault of ours; wake and set_state are for all."""
    faults: list[str] = []

    def elsewhere() -> None:
        for act in (
            lambda: link.send(fresh(1), durable=0),
            lambda: link.service(0),
            lambda: link.wait(0),
            link.reload_keys,
            link.close,
        ):
            try:
                act()
            except RuntimeError as error:
                faults.append(str(error))
        link.wake()
        link.set_state(State.READY)
        link.statistics()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(faults) == 5


def test_wake_ends_the_wait(link: ControllerLink) -> None:
    """A wake-up from another thread ends a long wait, also one that was pulled before the wait began."""
    link.wake()
    before_ns = CLOCK.now_ns()
    link.wait(60)
    thread = threading.Timer(0.01, link.wake)
    thread.start()
    link.wait(60)
    thread.join()
    assert CLOCK.now_ns() - before_ns < 30_000_000_000
    link.wait(0.001)


def test_closed_link_is_quiet(link: ControllerLink) -> None:
    """After close, wake and a second close do nothing; anything else is a fault of ours."""
    link.close()
    link.close()
    link.wake()
    with pytest.raises(RuntimeError):
        link.service(0)
