"""Answers over real sockets: each arrives once, whoever goes and comes back, and none too late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import zmq
from controller_kit import CLOCK, PATIENCE_MS, PATIENCE_S, Raw, acked, fresh, is_up, linked, serve
from link_help import EPOCH, an_answer

from inspector.clock import PushedClock
from inspector.frame import Reason, Verdict
from inspector.link import wire
from inspector.link.controller import ControllerLink
from inspector.link.events import ControllerDown, ControllerUp, Event, Handed
from inspector.link.listen import Arrival, Behaviour, ReferenceController
from inspector.link.messages import AnswerMessage, Flag, StateMessage


def test_each_answer_arrives_exactly_once_though_acks_are_lost_and_doubled(
    link: ControllerLink, controller: Callable[..., ReferenceController]
) -> None:
    """With 40 % of the acknowledgements lost and 30 % doubled, each answer is taken once and receipted once."""
    arrived: list[Arrival] = []
    other = controller(on_answer=arrived.append, behaviour=Behaviour(drop_ack=0.4, duplicate_ack=0.3), seed=11)
    seen = serve(link, is_up)
    for sequence in range(1, 301):
        link.send(fresh(sequence), durable=sequence)
        seen += link.service(CLOCK.now_ns())
    seen += serve(link, lambda _: link.unacknowledged == 0)
    assert sorted(acked(seen)) == list(range(1, 301))
    assert sorted(each.answer.sequence for each in arrived) == list(range(1, 301))
    assert other.wait_for(lambda now: now.duplicates == link.statistics().resent, PATIENCE_S), (
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
        assert link.send(fresh(sequence), durable=0) is Handed.KEPT
    assert link.service(CLOCK.now_ns()) == []
    arrived: list[Arrival] = []
    controller(on_answer=arrived.append)
    serve(link, lambda seen: len(acked(seen)) == 5)
    assert [each.answer.sequence for each in arrived] == [1, 2, 3, 4, 5]


def test_a_reconnecting_controller_gets_what_it_missed(
    link: ControllerLink, controller: Callable[..., ReferenceController]
) -> None:
    """A controller that drops its connection again and again gets every answer, none with another content."""
    other = controller()
    seen = serve(link, is_up)
    for sequence in range(1, 101):
        link.send(fresh(sequence), durable=0)
        if sequence % 20 == 0:
            other.reconnect()
        seen += link.service(CLOCK.now_ns())
        link.wait(0.002)
    seen += serve(link, lambda _: link.unacknowledged == 0)
    assert sorted(acked(seen)) == list(range(1, 101))
    counts = other.statistics()
    assert (counts.received, counts.conflicts) == (100, 0)
    assert counts.handshakes >= 2


def test_a_killed_controller_is_replaced_by_its_successor(
    link: ControllerLink, raw: Raw, controller: Callable[..., ReferenceController]
) -> None:
    """After a controller went away without a word, its successor gets what was not acknowledged, marked RESENT."""
    first = controller(behaviour=Behaviour(drop_ack=1.0))
    serve(link, is_up)
    link.send(fresh(1), durable=0)
    assert first.wait_for(lambda counts: counts.received == 1, PATIENCE_S)
    first.stop()
    down = serve(link, lambda seen: any(isinstance(event, ControllerDown) for event in seen))
    assert not acked(down)
    assert [event.why for event in down if isinstance(event, ControllerDown)] == ["unreachable"]
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    messages: list[object] = []

    def arrived(_: list[Event]) -> bool:
        messages.extend(raw.received())
        return any(isinstance(message, AnswerMessage) for message in messages)

    seen = serve(link, arrived)
    assert [event.identity for event in seen if isinstance(event, ControllerUp)] == ["raw"]
    answer = next(message for message in messages if isinstance(message, AnswerMessage))
    assert (answer.answer.sequence, Flag.RESENT in answer.flags) == (1, True)
    raw.socket.send_multipart(wire.pack_ack(EPOCH, [1]))
    serve(link, lambda seen: acked(seen) == [1])


def test_fixed_identity_is_handed_over_to_the_newer_connection(link: ControllerLink) -> None:
    """A second connection under the controller's identity takes its place at once, while the first still stands."""
    first = Raw(link.endpoint, b"plc")
    first.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, is_up)
    second = Raw(link.endpoint, b"plc")
    second.socket.send_multipart(wire.pack_hello(0, 0))
    hellos = link.statistics().received
    serve(link, lambda _: link.statistics().received > hellos)
    assert link.send(fresh(1), durable=0) is Handed.SENT
    assert second.socket.poll(PATIENCE_MS)
    serve(link, lambda _: any(isinstance(message, AnswerMessage) for message in second.received()))
    first.close()
    second.close()


def test_silent_controller_is_noticed_and_answers_are_kept(link: ControllerLink) -> None:
    """A controller that says nothing for the timeout is down; what waits for it goes out when it speaks again."""
    clock = PushedClock()
    with linked(clock, controller_timeout_s=3.0) as (silent, other):
        clock.push(2_999_000_000)
        assert not any(isinstance(event, ControllerDown) for event in silent.service(clock.now_ns()))
        clock.push(1_000_000)
        assert [type(event) for event in silent.service(clock.now_ns())] == [ControllerDown]
        assert silent.send(an_answer(1, now_ns=clock.now_ns()), durable=0) is Handed.KEPT
        assert not silent.statistics().connected
        other.socket.send_multipart(wire.pack_ack(EPOCH, [77]))
        seen = serve(silent, is_up, clock=clock)
        assert not acked(seen)
        assert silent.statistics().acks_unknown == 1
        serve(silent, lambda _: any(isinstance(message, AnswerMessage) for message in other.received()), clock=clock)


class Stalling(PushedClock):
    """The thread that asks does not run for a second after it has been told the time so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def now_ns(self) -> int:
        now_ns = super().now_ns()
        self.looks -= 1
        if self.looks == 0:
            self.push(1_000_000_000)
        return now_ns


@pytest.mark.parametrize("looks", range(1, 6))
def test_a_thread_that_stalls_while_it_sends_leaves_no_number_unanswered(looks: int) -> None:
    """A PASS whose due time comes between two lines is sent, or said to be too late; then an INVALID has its place."""
    clock = Stalling(0)
    with linked(clock, controller_timeout_s=100) as (link, other):
        answer = an_answer(1, now_ns=clock.now_ns(), verdict=Verdict.PASS, left_s=0.5)
        clock.looks = looks
        handed = link.send(answer, durable=0)
        if handed is Handed.TOO_LATE:
            assert link.unacknowledged == 0
            instead = replace(answer, verdict=Verdict.INVALID, reason=Reason.LATE)
            assert link.send(instead, durable=0) is Handed.SENT
        else:
            assert handed is Handed.SENT
        heard: list[AnswerMessage] = []
        while not heard:
            assert other.socket.poll(PATIENCE_MS)
            heard += [message for message in other.received() if isinstance(message, AnswerMessage)]
        assert [(m.answer.sequence, m.answer.verdict is Verdict.PASS) for m in heard] == [(1, handed is Handed.SENT)]
        assert link.statistics().conflicts == 0
        assert link.statistics().withheld == (handed is Handed.TOO_LATE)


def test_pass_is_never_sent_or_resent_after_its_due_time() -> None:
    """Once the due time is over a PASS or FAIL is silent, an INVALID is resent during its grace, with no time left."""
    clock = PushedClock()
    with linked(clock, grace_s=1.0, resend_s=0.05, controller_timeout_s=100) as (link, other):
        for sequence, verdict in enumerate(Verdict, 1):
            assert (
                link.send(an_answer(sequence, now_ns=clock.now_ns(), verdict=verdict, left_s=0.1), durable=0)
                is Handed.SENT
            )
        clock.push(60_000_000)
        link.service(clock.now_ns())
        clock.push(40_000_000)
        late = an_answer(4, now_ns=clock.now_ns(), left_s=0.0)
        assert link.send(late, durable=0) is Handed.TOO_LATE
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
            assert other.socket.poll(PATIENCE_MS)
            messages += other.received()
        lefts = {
            verdict: [m.left_us for m in messages if isinstance(m, AnswerMessage) and m.answer.verdict is verdict]
            for verdict in Verdict
        }
        assert lefts[Verdict.PASS] == lefts[Verdict.FAIL] == [100_000, 40_000]
        assert lefts[Verdict.INVALID] == [100_000, 40_000, *range(-100_000, -1_000_000, -100_000)]
        assert (link.statistics().withheld, link.statistics().expired) == (1, 3)


def test_answer_of_an_earlier_run_is_marked_resent(link: ControllerLink, raw: Raw) -> None:
    """After a restart, answers of the old epoch keep their identity and say RESENT: the old run may have sent them."""
    raw.socket.send_multipart(wire.pack_hello(EPOCH - 1, 41))
    (up,) = [event for event in serve(link, is_up) if isinstance(event, ControllerUp)]
    assert (up.epoch, up.last_sequence) == (EPOCH - 1, 41)
    old = fresh(42, epoch=EPOCH - 1)
    assert link.send(old, durable=40) is Handed.SENT
    messages: list[object] = []

    def arrived(_: list[Event]) -> bool:
        messages.extend(raw.received())
        return any(isinstance(message, AnswerMessage) for message in messages)

    serve(link, arrived)
    answer = next(message for message in messages if isinstance(message, AnswerMessage))
    assert answer.answer == old
    assert Flag.RESENT in answer.flags
    raw.socket.send_multipart(wire.pack_ack(EPOCH - 1, [42]))
    serve(link, lambda seen: acked(seen) == [42])


def test_what_was_sent_before_close_still_leaves(link: ControllerLink, raw: Raw) -> None:
    """Close gives the last answers their linger time to leave."""
    raw.socket.send_multipart(wire.pack_hello(0, 0))
    serve(link, is_up)
    for sequence in range(1, 51):
        link.send(fresh(sequence), durable=0)
    link.close(PATIENCE_S)
    found: list[int] = []
    while len(found) < 50 and raw.socket.poll(PATIENCE_MS):
        found += [m.answer.sequence for m in raw.received() if isinstance(m, AnswerMessage)]
    assert found == list(range(1, 51))


def test_conflicting_copies_are_seen_by_the_controller(link: ControllerLink) -> None:
    """The reference controller keeps the first of two contents under one number, and counts the conflict."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    arrived: list[Arrival] = []
    other = ReferenceController(f"tcp://127.0.0.1:{port}", clock=CLOCK, on_answer=arrived.append).start()
    try:
        assert router.poll(PATIENCE_MS)
        identity, *hello = router.recv_multipart()
        assert wire.unpack(hello) == wire.unpack(wire.pack_hello(0, 0))
        first = fresh(1, verdict=Verdict.FAIL)
        for answer in (first, an_answer(1, now_ns=first.settled_ns), first):
            router.send_multipart([identity, *wire.pack_answer(answer, left_us=1000, durable=0)])
        router.send_multipart([identity, *wire.pack_answer(an_answer(2, now_ns=0), left_us=0, durable=0)])
        assert other.wait_for(lambda counts: counts.received == 2, PATIENCE_S)
        counts = other.statistics()
        assert (counts.conflicts, counts.duplicates, counts.failed) == (1, 1, 1)
        assert (counts.passed, counts.out_of_time, counts.accepted) == (1, 1, 0), "a PASS without time left is a reject"
        assert [each.answer.sequence for each in arrived] == [1, 2]
    finally:
        other.stop()
        router.close(linger=0)
        context.term()
