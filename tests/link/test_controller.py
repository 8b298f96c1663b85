"""The controller's link over real sockets, with the reference controller or a raw DEALER at the other end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
import zmq
from link_help import EPOCH, an_answer, serve

from inspector.clock import PushedClock, SystemClock
from inspector.errors import ConfigError, LinkError
from inspector.frame import State, Verdict
from inspector.link import wire
from inspector.link.controller import ControllerLink
from inspector.link.events import Acked, Announced, ControllerDown, ControllerUp, Event, Refused
from inspector.link.listen import Arrival, Behaviour, ReferenceController
from inspector.link.messages import AnswerMessage, Flag, RefusedMessage, StateMessage

CLOCK = SystemClock()
LOCAL = "tcp://127.0.0.1:*"


@pytest.fixture
def link() -> Iterator[ControllerLink]:
    """A link on a free port, owned by the test's thread."""
    made = ControllerLink(LOCAL, epoch=EPOCH, clock=CLOCK, resend_s=0.02, heartbeat_s=0.05)
    made.open()
    yield made
    made.close(0)


@pytest.fixture
def controller(link: ControllerLink) -> Iterator[Callable[..., ReferenceController]]:
    """Makes reference controllers that are stopped at the test's end."""
    made: list[ReferenceController] = []

    def make(**options: object) -> ReferenceController:
        made.append(ReferenceController(link.endpoint, clock=CLOCK, **options).start())  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.stop()


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


@pytest.fixture
def raw(link: ControllerLink) -> Iterator[Raw]:
    """A bare DEALER connected to the link."""
    made = Raw(link.endpoint)
    yield made
    made.close()


def _is_up(seen: list[Event]) -> bool:
    return any(isinstance(event, ControllerUp) for event in seen)


def _acked(seen: list[Event]) -> list[int]:
    return [event.receipt.sequence for event in seen if isinstance(event, Acked)]


def test_each_answer_arrives_exactly_once_though_acks_are_lost_and_doubled(
    link: ControllerLink, controller: Callable[..., ReferenceController]
) -> None:
    """With 40 % of the acknowledgements lost and 30 % doubled, each answer is taken once and receipted once."""
    arrived: list[Arrival] = []
    other = controller(on_answer=arrived.append, behaviour=Behaviour(drop_ack=0.4, duplicate_ack=0.3), seed=11)
    seen = serve(link, _is_up)
    for sequence in range(1, 301):
        link.send(an_answer(sequence, now_ns=CLOCK.now_ns()), durable=sequence)
        seen += link.service(CLOCK.now_ns())
    seen += serve(link, lambda _: link.unacknowledged == 0)
    assert sorted(_acked(seen)) == list(range(1, 301))
    assert sorted(each.answer.sequence for each in arrived) == list(range(1, 301))
    assert other.wait_for(lambda now: now.duplicates == link.statistics().resent, 5), (
        "some copies are still on their way"
    )
    counts = other.statistics()
    assert (counts.received, counts.accepted, counts.conflicts, counts.malformed) == (300, 300, 0, 0)
    assert counts.duplicates >= counts.acks_dropped > 0, "each lost acknowledgement brought the answer again"
    statistics = link.statistics()
    assert (statistics.sent, statistics.acknowledged, statistics.expired) == (300, 300, 0)


def test_answers_wait_for_a_controller_that_is_not_there_yet(
    link: ControllerLink, controller: Callable[..., ReferenceController]
) -> None:
    """What is decided without a controller is kept and sent at its HELLO, in order, if still in time."""
    for sequence in range(1, 6):
        assert not link.send(an_answer(sequence, now_ns=CLOCK.now_ns()), durable=0)
    assert link.service(CLOCK.now_ns()) == []
    arrived: list[Arrival] = []
    controller(on_answer=arrived.append)
    serve(link, lambda seen: len(_acked(seen)) == 5)
    assert [each.answer.sequence for each in arrived] == [1, 2, 3, 4, 5]


def test_a_reconnecting_controller_gets_what_it_missed(
    link: ControllerLink, controller: Callable[..., ReferenceController]
) -> None:
    """A controller that drops its connection again and again gets every answer, none with another content."""
    other = controller()
    seen = serve(link, _is_up)
    for sequence in range(1, 101):
        link.send(an_answer(sequence, now_ns=CLOCK.now_ns()), durable=0)
        if sequence % 20 == 0:
            other.reconnect()
        seen += link.service(CLOCK.now_ns())
        link.wait(0.002)
    seen += serve(link, lambda _: link.unacknowledged == 0)
    assert sorted(_acked(seen)) == list(range(1, 101))
    counts = other.statistics()
    assert (counts.received, counts.conflicts) == (100, 0)
    assert counts.handshakes >= 2


def test_a_killed_controller_is_replaced_by_its_successor(
    link: ControllerLink, controller: Callable[..., ReferenceController]
) -> None:
    """After a controller went away without a word, its successor gets what was not acknowledged, marked RESENT."""
    first = controller(behaviour=Behaviour(drop_ack=1.0))
    serve(link, _is_up)
    link.send(an_answer(1, now_ns=CLOCK.now_ns()), durable=0)
    assert first.wait_for(lambda counts: counts.received == 1, 5)
    first.stop()
    down = serve(link, lambda seen: any(isinstance(event, ControllerDown) for event in seen))
    assert not _acked(down)
    assert [event.why for event in down if isinstance(event, ControllerDown)] == ["unreachable"]
    arrived: list[Arrival] = []
    controller(on_answer=arrived.append, identity=b"successor")
    seen = serve(link, lambda seen: _acked(seen) == [1])
    assert [event.identity for event in seen if isinstance(event, ControllerUp)] == ["successor"]
    assert arrived[0].answer.sequence == 1


def test_fixed_identity_is_handed_over_to_the_newer_connection(link: ControllerLink) -> None:
    """A second connection under the controller's identity takes its place at once, while the first still stands."""
    first = Raw(link.endpoint, b"plc")
    first.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, _is_up)
    second = Raw(link.endpoint, b"plc")
    second.socket.send_multipart(wire.pack_hello(0, 0))
    hellos = link.statistics().received
    serve(link, lambda _: link.statistics().received > hellos)
    assert link.send(an_answer(1, now_ns=CLOCK.now_ns()), durable=0)
    assert second.socket.poll(5000)
    serve(link, lambda _: any(isinstance(message, AnswerMessage) for message in second.received()))
    first.close()
    second.close()


def test_silent_controller_is_noticed_and_answers_are_kept(link: ControllerLink) -> None:
    """A controller that says nothing for the timeout is down; what waits for it goes out when it speaks again."""
    clock = PushedClock()
    silent = ControllerLink(LOCAL, epoch=EPOCH, clock=clock, controller_timeout_s=3.0)
    silent.open()
    other = Raw(silent.endpoint, b"plc")
    try:
        other.socket.send_multipart(wire.pack_hello(0, 0))
        serve(silent, _is_up, clock=clock)
        clock.push(2_999_000_000)
        assert not any(isinstance(event, ControllerDown) for event in silent.service(clock.now_ns()))
        clock.push(1_000_000)
        assert [type(event) for event in silent.service(clock.now_ns())] == [ControllerDown]
        assert not silent.send(an_answer(1, now_ns=clock.now_ns()), durable=0)
        assert not silent.statistics().connected
        other.socket.send_multipart(wire.pack_ack(EPOCH, [77]))
        seen = serve(silent, _is_up, clock=clock)
        assert not _acked(seen)
        assert silent.statistics().acks_unknown == 1
        serve(silent, lambda _: any(isinstance(message, AnswerMessage) for message in other.received()), clock=clock)
    finally:
        other.close()
        silent.close(0)


def test_pass_is_never_sent_or_resent_after_its_due_time() -> None:
    """Once the due time is over a PASS or FAIL is silent, an INVALID is resent during its grace, with no time left."""
    clock = PushedClock()
    link = ControllerLink(LOCAL, epoch=EPOCH, clock=clock, grace_s=1.0, resend_s=0.05, controller_timeout_s=100)
    link.open()
    other = Raw(link.endpoint, b"plc")
    try:
        other.socket.send_multipart(wire.pack_hello(0, 0))
        serve(link, _is_up, clock=clock)
        for sequence, verdict in enumerate(Verdict, 1):
            assert link.send(an_answer(sequence, now_ns=clock.now_ns(), verdict=verdict, left_s=0.1), durable=0)
        clock.push(60_000_000)
        link.service(clock.now_ns())
        clock.push(40_000_000)
        assert not link.send(an_answer(4, now_ns=clock.now_ns(), left_s=0.0), durable=0)
        for _ in range(10):
            link.service(clock.now_ns())
            clock.push(100_000_000)
        link.service(clock.now_ns())
        assert link.unacknowledged == 0
        other.socket.send_multipart(wire.pack_hello(0, 0))
        states = link.statistics().heartbeats
        serve(link, lambda _: link.statistics().heartbeats > states, clock=clock)
        messages: list[object] = []
        while not any(isinstance(m, StateMessage) and m.sent_ns == clock.now_ns() for m in messages):
            assert other.socket.poll(5000)
            messages += other.received()
        lefts = {
            verdict: [m.left_us for m in messages if isinstance(m, AnswerMessage) and m.answer.verdict is verdict]
            for verdict in Verdict
        }
        assert lefts[Verdict.PASS] == lefts[Verdict.FAIL] == [100_000, 40_000]
        assert lefts[Verdict.INVALID] == [100_000, 40_000, *range(-100_000, -1_000_000, -100_000)]
        assert (link.statistics().withheld, link.statistics().expired) == (1, 3)
    finally:
        other.close()
        link.close(0)


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
    assert raw.socket.poll(5000)
    (reply,) = raw.received()
    assert isinstance(reply, RefusedMessage)
    assert reply.why == next(event.why for event in seen if isinstance(event, Refused))[:200]
    assert "\n" not in reply.why
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, _is_up)


def test_oversized_message_never_reaches_the_daemon(
    link: ControllerLink, raw: Raw, controller: Callable[..., ReferenceController]
) -> None:
    """A message above the limit is dropped with its connection; another controller is served all the while."""
    other = controller()
    serve(link, _is_up)
    raw.socket.send_multipart([b"y" * 70_000, b""])

    def again(seen: list[Event]) -> bool:
        with contextlib.suppress(zmq.Again):  # what is in the cut connection is lost with it
            raw.socket.send_multipart([b"after"], zmq.NOBLOCK)
        return any(isinstance(event, Refused) for event in seen)

    seen = serve(link, again)
    assert {event.why.split(";")[0] for event in seen if isinstance(event, Refused)} == {"message has the wrong form"}
    assert link.send(an_answer(1, now_ns=CLOCK.now_ns()), durable=0)
    serve(link, lambda seen: _acked(seen) == [1])
    assert other.statistics().received == 1


def test_one_controller_at_a_time(
    link: ControllerLink, raw: Raw, controller: Callable[..., ReferenceController]
) -> None:
    """While a controller is connected, another identity's HELLO, acknowledgements and announcements are refused."""
    controller(behaviour=Behaviour(drop_ack=1.0))
    serve(link, _is_up)
    assert link.send(an_answer(1, now_ns=CLOCK.now_ns()), durable=0)
    for frames in (wire.pack_hello(0, 0), wire.pack_ack(EPOCH, [1]), wire.pack_announce(1, "", 0)):
        raw.socket.send_multipart(frames)
    refused = link.statistics().refused
    seen = serve(link, lambda _: link.statistics().refused == refused + 3)
    assert not [event for event in seen if isinstance(event, Acked | Announced | ControllerUp)]
    assert not any(isinstance(message, AnswerMessage) for message in raw.received())
    assert link.unacknowledged == 1


def test_strange_acknowledgements_are_counted(link: ControllerLink, raw: Raw) -> None:
    """Acknowledgements of numbers never sent, of another epoch, and repeated ones are counted and change nothing."""
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, _is_up)
    link.send(an_answer(1, now_ns=CLOCK.now_ns()), durable=0)
    link.send(an_answer(2, now_ns=CLOCK.now_ns()), durable=0)
    raw.socket.send_multipart(wire.pack_ack(EPOCH, [1, 99, 1]))
    raw.socket.send_multipart(wire.pack_ack(EPOCH - 1, [2]))
    seen = serve(link, lambda _: link.statistics().acks_unknown == 2)
    assert _acked(seen) == [1]
    assert link.statistics().acks_repeated == 1
    assert link.unacknowledged == 1


def test_a_flood_is_read_in_portions(link: ControllerLink, raw: Raw) -> None:
    """One service reads a bounded number of messages, so that a flood does not keep the thread from its due times."""
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, _is_up)
    before = link.statistics().received
    for _ in range(200):
        raw.socket.send_multipart(wire.pack_ack(EPOCH, [5]))
    portions = []
    while link.statistics().received < before + 200:
        link.wait(1.0)
        so_far = link.statistics().received
        link.service(CLOCK.now_ns())
        portions.append(link.statistics().received - so_far)
    assert max(portions) <= 64


def test_announcements_arrive_once_each(link: ControllerLink, controller: Callable[..., ReferenceController]) -> None:
    """An announcement arrives with counter, id and encoder; a repeated one counts once, a restarted counter anew."""
    other = controller()
    serve(link, _is_up)
    assert other.wait_for(lambda counts: counts.connected, 5)
    other.announce(7, "bar-7", -12345)
    other.announce(8)
    seen = serve(link, lambda seen: sum(isinstance(event, Announced) for event in seen) == 2)
    found = [event for event in seen if isinstance(event, Announced)]
    assert [(each.counter, each.part_id, each.encoder) for each in found] == [(7, "bar-7", -12345), (8, "", 0)]
    with pytest.raises(LinkError, match="does not fit"):
        other.announce(9, "x" * 33)


def test_repeated_announcement_counts_once(link: ControllerLink, raw: Raw) -> None:
    """RESENT with a known counter is a repetition; the same counter without RESENT is a restarted controller's part."""
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    raw.socket.send_multipart(wire.pack_announce(1, "a", 0))
    raw.socket.send_multipart(wire.pack_announce(1, "a", 0, resent=True))
    raw.socket.send_multipart(wire.pack_announce(2, "b", 0, resent=True))
    raw.socket.send_multipart(wire.pack_announce(1, "c", 0))
    seen = serve(link, lambda seen: sum(isinstance(event, Announced) for event in seen) == 3)
    assert [event.part_id for event in seen if isinstance(event, Announced)] == ["a", "b", "c"]
    assert link.statistics().announcements_repeated == 1


def test_heartbeat_tells_state_and_progress(
    link: ControllerLink, controller: Callable[..., ReferenceController]
) -> None:
    """A change of state is told at once; heartbeats carry opened, last sequence and the durable watermark."""
    states: list[StateMessage] = []
    other = controller(on_state=states.append)
    serve(link, _is_up)
    link.set_state(State.READY)
    link.send(an_answer(4, now_ns=CLOCK.now_ns()), durable=2)
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
            lambda: link.send(an_answer(1, now_ns=CLOCK.now_ns()), durable=0),
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


def test_what_was_sent_before_close_still_leaves(link: ControllerLink, raw: Raw) -> None:
    """Close gives the last answers their linger time to leave."""
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, _is_up)
    for sequence in range(1, 51):
        link.send(an_answer(sequence, now_ns=CLOCK.now_ns()), durable=0)
    link.close(1.0)
    found: list[int] = []
    while len(found) < 50 and raw.socket.poll(5000):
        found += [m.answer.sequence for m in raw.received() if isinstance(m, AnswerMessage)]
    assert found == list(range(1, 51))


def test_answer_of_an_earlier_run_is_marked_resent(link: ControllerLink, raw: Raw) -> None:
    """After a restart, answers of the old epoch keep their identity and say RESENT: the old run may have sent them."""
    raw.socket.send_multipart(wire.pack_hello(EPOCH - 1, 41))
    (up,) = [event for event in serve(link, _is_up) if isinstance(event, ControllerUp)]
    assert (up.epoch, up.last_sequence) == (EPOCH - 1, 41)
    old = an_answer(42, now_ns=CLOCK.now_ns(), epoch=EPOCH - 1)
    assert link.send(old, durable=40)
    messages: list[object] = []

    def arrived(_: list[Event]) -> bool:
        messages.extend(raw.received())
        return any(isinstance(message, AnswerMessage) for message in messages)

    serve(link, arrived)
    answer = next(message for message in messages if isinstance(message, AnswerMessage))
    assert answer.answer == old
    assert Flag.RESENT in answer.flags
    raw.socket.send_multipart(wire.pack_ack(EPOCH - 1, [42]))
    serve(link, lambda seen: _acked(seen) == [42])


def test_conflicting_copies_are_seen_by_the_controller(link: ControllerLink) -> None:
    """The reference controller keeps the first of two contents under one number, and counts the conflict."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    arrived: list[Arrival] = []
    other = ReferenceController(f"tcp://127.0.0.1:{port}", clock=CLOCK, on_answer=arrived.append).start()
    try:
        assert router.poll(5000)
        identity, *hello = router.recv_multipart()
        assert wire.unpack(hello) == wire.unpack(wire.pack_hello(0, 0))
        first = an_answer(1, now_ns=CLOCK.now_ns(), verdict=Verdict.FAIL)
        for answer in (first, an_answer(1, now_ns=first.settled_ns), first):
            router.send_multipart([identity, *wire.pack_answer(answer, left_us=1000, durable=0)])
        router.send_multipart([identity, *wire.pack_answer(an_answer(2, now_ns=0), left_us=0, durable=0)])
        assert other.wait_for(lambda counts: counts.received == 2, 5)
        counts = other.statistics()
        assert (counts.conflicts, counts.duplicates, counts.failed) == (1, 1, 1)
        assert (counts.passed, counts.out_of_time, counts.accepted) == (1, 1, 0), "a PASS without time left is a reject"
        assert [each.answer.sequence for each in arrived] == [1, 2]
    finally:
        other.stop()
        router.close(linger=0)
        context.term()
