"""The reference controller: a DEALER that does what docs/wire-protocol.md asks of a controller, and counts.

Used by ``inspector listen``, the demo, the drill and the tests. It can also misbehave on purpose (``Behaviour``)."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import recv_monitor_message

from inspector.clock import Clock
from inspector.errors import LinkError
from inspector.frame import Answer, Verdict
from inspector.link import wire
from inspector.link.keys import ClientKeys
from inspector.link.messages import AnswerMessage, Flag, RefusedMessage, StateMessage
from inspector.link.sockets import Wake, connect, harden_tcp

_BURST = 256
_MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
_AUTH_RETRY_NS = 2_000_000_000
"""A client that was refused by its key does not retry by itself: its socket is made anew so often."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the controller treats its duties; the default is to keep them."""

    silent: bool = False
    """Listen, but say nothing at all."""
    drop_ack: float = 0.0
    """Probability that an acknowledgement is not sent."""
    duplicate_ack: float = 0.0
    """Probability that an acknowledgement is sent twice."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One answer, at its first arrival."""

    answer: Answer
    left_us: int
    arrived_ns: int
    """Monotonic, comparable with the answer's times where both run on one host."""
    qualified: bool = True

    @property
    def accepted(self) -> bool:
        """Whether the part goes through the gate: a PASS that is in time. Everything else is a reject."""
        return self.answer.verdict is Verdict.PASS and self.left_us > 0


@dataclass(frozen=True, slots=True)
class ListenStatistics:
    """Counts since the start."""

    connected: bool = False
    """The daemon has spoken within the silence limit."""
    received: int = 0
    """Different answers."""
    accepted: int = 0
    passed: int = 0
    failed: int = 0
    invalid: int = 0
    out_of_time: int = 0
    """Answers whose time was over when they were sent; rejects whatever they say."""
    duplicates: int = 0
    conflicts: int = 0
    """Answers with a known number and another content; the first one counts."""
    acks_sent: int = 0
    acks_dropped: int = 0
    acks_doubled: int = 0
    announced: int = 0
    unsent: int = 0
    """Messages that found no connection."""
    hellos: int = 0
    states: int = 0
    refused: int = 0
    malformed: int = 0
    handshakes: int = 0
    auth_failures: int = 0
    silences: int = 0
    """Times the daemon was silent for longer than the limit."""


_COUNTED = tuple(name for name in ListenStatistics.__dataclass_fields__ if name != "connected")


class ReferenceController:
    """Receives, keeps the first of each answer, acknowledges every copy. ``run`` in a thread of yours, or ``start``."""

    def __init__(
        self,
        endpoint: str,
        *,
        clock: Clock,
        identity: bytes = b"controller",
        keys: ClientKeys | None = None,
        on_answer: Callable[[Arrival], None] | None = None,
        on_state: Callable[[StateMessage], None] | None = None,
        behaviour: Behaviour | None = None,
        seed: int = 0,
        hello_s: float = 1.0,
        silence_s: float = 1.0,
        keep: int = 65_536,
    ) -> None:
        """``on_answer`` and ``on_state`` run in the running thread; ``keep`` answers are known for duplicates."""
        self._endpoint, self._clock, self._identity, self._keys = endpoint, clock, identity, keys
        self._on_answer, self._on_state = on_answer, on_state
        self._behaviour = behaviour or Behaviour()
        self._random = random.Random(seed)
        self._hello_ns, self._silence_ns, self._keep = int(hello_s * 1e9), int(silence_s * 1e9), keep
        self._changed = threading.Condition()
        self._count: dict[str, int] = dict.fromkeys(_COUNTED, 0)
        self._known: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._last = (0, 0)
        self._heard_ns, self.refusal = 0, ""
        self._connected = self._joined = False
        self._state: StateMessage | None = None
        self._orders: deque[Callable[[], None]] = deque()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._poller = zmq.Poller()
        self._wake = Wake()
        self._hello_at_ns = 0
        self._renew_at_ns: int | None = None

    def start(self) -> ReferenceController:
        """Run in a thread of its own until ``stop``."""
        self._thread = threading.Thread(target=self.run, name="reference-controller", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End ``run``; idempotent. What was not sent yet is lost, as when a controller is switched off."""
        self._stopping.set()
        self._wake.pull()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def run(self, until: Callable[[], bool] | None = None, timeout_s: float | None = None) -> bool:
        """Serve until ``until()`` is true (returns True), ``timeout_s`` is over or ``stop`` was called (False). Once.

        ``until`` is asked after each batch of messages and every 50 ms."""
        end_ns = None if timeout_s is None else self._clock.now_ns() + int(timeout_s * 1e9)
        self._context = zmq.Context()
        self._connect()
        try:
            while not self._stopping.is_set():
                if until is not None and until():
                    return True
                if end_ns is not None and self._clock.now_ns() >= end_ns:
                    return False
                self._step()
            return False
        finally:
            self._disconnect()
            self._context.term()
            self._wake.close()

    def wait_for(self, holds: Callable[[ListenStatistics], bool], timeout_s: float) -> bool:
        """Block another thread until the statistics satisfy ``holds``; False after ``timeout_s``."""
        with self._changed:
            return self._changed.wait_for(lambda: holds(self.statistics()), timeout_s)

    def behave(self, behaviour: Behaviour) -> None:
        """Change the behaviour from now on. Any thread."""
        self._behaviour = behaviour

    def reconnect(self) -> None:
        """Drop the connection and make a new one under the same identity. Any thread."""
        self._order(self._renew)

    def announce(self, counter: int, part_id: str = "", encoder: int = 0) -> None:
        """Tell the daemon that a part is coming. Any thread. Raises LinkError where the part id does not fit."""
        frames = wire.pack_announce(counter, part_id, encoder)
        self._order(lambda: self._count_up("announced", self._put(frames)))

    @property
    def state(self) -> StateMessage | None:
        """The last heartbeat."""
        return self._state

    def statistics(self) -> ListenStatistics:
        """A snapshot. Any thread."""
        return ListenStatistics(connected=self._connected, **self._count)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        self._wake.pull()

    def _connect(self) -> None:
        assert self._context is not None
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, self._identity)
        # No ZMQ_IMMEDIATE: with it libzmq 4.3.5 aborts the process (!_more in fq.cpp) when the connection breaks while
        # answers wait to be read. ``_put`` keeps nothing for a daemon that is not there.
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, 1000)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDTIMEO, 0)
        socket.setsockopt(zmq.SNDHWM, 256)
        socket.setsockopt(zmq.RCVHWM, 4096)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
        harden_tcp(socket)
        if self._keys is not None:
            self._keys.protect(socket)
        self._monitor = socket.get_monitor_socket(_MONITORED)
        connect(socket, self._endpoint)
        self._poller = zmq.Poller()
        for readable in (socket, self._monitor, self._wake.handle):
            self._poller.register(readable, zmq.POLLIN)
        # the first HELLO goes out when the handshake is done
        self._socket, self._hello_at_ns, self._renew_at_ns = socket, self._clock.now_ns() + self._hello_ns, None

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.disable_monitor()
            if self._monitor is not None:
                self._monitor.close(linger=0)  # the context does not end while it is open
                self._monitor = None
            self._socket.close(linger=0)
            self._socket = None
        with self._changed:
            self._connected = self._joined = False

    def _renew(self) -> None:
        self._disconnect()
        self._connect()

    def _step(self) -> None:
        socket, monitor = self._socket, self._monitor
        assert socket is not None and monitor is not None
        ready = dict(self._poller.poll(50))
        self._wake.drain()
        with self._changed:
            if monitor in ready:
                self._watch(monitor)
            for _ in range(_BURST):
                if not self._receive(socket):
                    break
            now_ns = self._clock.now_ns()
            if self._connected and now_ns - self._heard_ns > self._silence_ns:
                self._connected = False
                self._count["silences"] += 1
            self._changed.notify_all()
        while self._orders:
            self._orders.popleft()()
        if self._renew_at_ns is not None and now_ns >= self._renew_at_ns:
            self._renew()
        if now_ns >= self._hello_at_ns:
            self._hello_at_ns = now_ns + self._hello_ns
            if not self._behaviour.silent:
                self._count_up("hellos", self._put(wire.pack_hello(*self._last)))

    def _watch(self, monitor: zmq.Socket[bytes]) -> None:
        while monitor.poll(0):
            event = recv_monitor_message(monitor, zmq.NOBLOCK)["event"]
            self._joined = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._count["handshakes"] += 1
                self._hello_at_ns = 0
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._count["auth_failures"] += 1
                self._renew_at_ns = self._clock.now_ns() + _AUTH_RETRY_NS

    def _receive(self, socket: zmq.Socket[bytes]) -> bool:
        try:
            frames = socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        arrived_ns = self._clock.now_ns()
        try:
            message = wire.unpack(frames)
        except LinkError:
            self._count["malformed"] += 1
            return True
        self._heard_ns, self._connected = arrived_ns, True
        if isinstance(message, AnswerMessage):
            self._take(message, wire.content_digest(frames), arrived_ns)
        elif isinstance(message, StateMessage):
            self._count["states"] += 1
            self._state = message
            if self._on_state is not None:
                self._on_state(message)
        elif isinstance(message, RefusedMessage):
            self._count["refused"], self.refusal = self._count["refused"] + 1, message.why
        else:
            self._count["malformed"] += 1
        return True

    def _take(self, message: AnswerMessage, digest: bytes, arrived_ns: int) -> None:
        answer = message.answer
        key = (answer.epoch, answer.sequence)
        known = self._known.get(key)
        if known is not None:
            self._count["duplicates" if known == digest else "conflicts"] += 1
        else:
            self._known[key] = digest
            if len(self._known) > self._keep:
                self._known.popitem(last=False)
            self._last = max(self._last, key)
            arrival = Arrival(answer, message.left_us, arrived_ns, Flag.UNQUALIFIED not in message.flags)
            self._count["received"] += 1
            self._count[_BY_VERDICT[answer.verdict]] += 1
            self._count["accepted"] += arrival.accepted
            self._count["out_of_time"] += message.left_us <= 0
            if self._on_answer is not None:
                self._on_answer(arrival)
        self._acknowledge(key)

    def _acknowledge(self, key: tuple[int, int]) -> None:
        """Every copy is acknowledged: a repeated answer says that the first acknowledgement was lost."""
        behaviour = self._behaviour
        if behaviour.silent:
            return
        if self._random.random() < behaviour.drop_ack:
            self._count["acks_dropped"] += 1
            return
        frames = wire.pack_ack(key[0], [key[1]])
        self._count["acks_sent"] += self._put(frames)
        if self._random.random() < behaviour.duplicate_ack:
            self._count["acks_doubled"] += self._put(frames)

    def _put(self, frames: list[bytes]) -> bool:
        assert self._socket is not None
        try:
            if self._joined:
                self._socket.send_multipart(frames, zmq.NOBLOCK)
                return True
        except zmq.Again:
            pass  # the queue is full
        self._count["unsent"] += 1
        return False

    def _count_up(self, name: str, sent: bool) -> None:
        self._count[name] += sent


_BY_VERDICT = {Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.INVALID: "invalid"}
