"""The controller's link: one ROUTER socket, owned by the thread that answers.

It sends answers, keeps them until they are acknowledged or too late, takes announcements and gives the heartbeat.
ZeroMQ may lose any message at any time (a send only means "queued here"), so only acknowledgements count."""

from __future__ import annotations

from collections import OrderedDict

from inspector.clock import Clock
from inspector.errors import LinkError
from inspector.frame import Answer, Hashes, Receipt, State
from inspector.link import wire
from inspector.link.events import (
    Acked,
    Announced,
    ControllerDown,
    ControllerStatistics,
    ControllerUp,
    Event,
    Handed,
    Refused,
    Unsent,
)
from inspector.link.keys import CurveKeys
from inspector.link.messages import AckMessage, AnnounceMessage, HelloMessage, Message
from inspector.link.outbox import NEVER_NS, Outbox, Told, Waiting
from inspector.link.peer import Peer
from inspector.link.router import Router, RouterSocket, Sent
from inspector.link.sockets import check_exposure

_BURST = 64
"""Messages read in one ``service``: a flood must not keep the thread from its due times."""
_REFUSAL_GAP_NS = 50_000_000
_FULL_NS = 1_000_000
"""At most one refusal is told so often; all are counted."""
_MEMORY = 1024
"""Announcement counters that are remembered to know a repeated one."""
_REPEATED_NS = 10_000_000_000
"""An announcement is repeated within so long, with the same part id; later the counter has begun anew."""
_COUNTED = (
    *("sent", "resent", "acknowledged", "acks_repeated", "acks_unknown", "unreachable", "received", "refused"),
    *("announced", "announcements_repeated", "connects", "disconnects", "heartbeats"),
)


class ControllerLink:
    """Answers out, acknowledgements and announcements in. All methods but ``wake``, ``set_...``, ``raise_alarm``
    and ``statistics`` belong to the thread that called ``open``."""

    def __init__(
        self,
        endpoint: str,
        *,
        epoch: int,
        clock: Clock,
        keys: CurveKeys | None = None,
        allow_plaintext: bool = False,
        max_message_bytes: int = 65536,
        heartbeat_s: float = 0.2,
        resend_s: float = 0.05,
        grace_s: float = 1.0,
        controller_timeout_s: float = 3.0,
        hwm: int = 256,
        capacity: int = 4096,
        router: Router | None = None,
    ) -> None:
        """Nothing is opened yet. Raises ConfigError where plaintext would leave this host without being allowed.

        ``router`` replaces the real socket, for a drill that plays the network."""
        check_exposure(endpoint, encrypted=keys is not None, allow_plaintext=allow_plaintext)
        self._wanted, self._epoch, self._clock = endpoint, epoch, clock
        self._max_message_bytes = max_message_bytes
        self._heartbeat_ns, self._timeout_ns = int(heartbeat_s * 1e9), int(controller_timeout_s * 1e9)
        self._resend_ns = int(resend_s * 1e9)
        self._outbox = Outbox(resend_ns=self._resend_ns, grace_ns=int(grace_s * 1e9), capacity=capacity)
        self._endpoint = ""
        self._router: Router = router or RouterSocket(keys=keys, max_message_bytes=max_message_bytes, hwm=hwm)
        self._peer: Peer | None = None
        self._users: OrderedDict[bytes, str] = OrderedDict()
        self._counters: OrderedDict[int, tuple[str, int]] = OrderedDict()
        self._state, self._opened, self._durable, self._last_sequence = State.PREOPERATIONAL, 0, 0, 0
        self._heartbeat_at_ns = self._refusal_at_ns = 0
        self.heard_ns = 0
        """Whatever came before this time has been read."""
        self._alarms, self._alarm = 0, ""
        self._qualified: frozenset[Hashes] = frozenset()
        self._events: list[Event] = []
        self._count: dict[str, int] = dict.fromkeys(_COUNTED, 0)

    @property
    def endpoint(self) -> str:
        """The bound endpoint with its real port; empty before ``open``."""
        return self._endpoint

    @property
    def unacknowledged(self) -> int:
        """Answers that still wait for their acknowledgement and are not too late."""
        return len(self._outbox)

    def open(self) -> None:
        """Bind; this thread owns the link now. Raises LinkError (port in use) or ConfigError (endpoint, keys)."""
        self._endpoint = self._router.open(self._wanted)

    def wake(self) -> None:
        """End the owner's ``wait``. Any thread."""
        self._router.wake()

    def wait(self, timeout_s: float) -> None:
        """Until a message, a wake-up, or the timeout."""
        self._router.wait(timeout_s)

    def set_state(self, state: State) -> None:
        """What the heartbeat says from now on; a change is told at once. Any thread."""
        if state is not self._state:
            self._state, self._heartbeat_at_ns = state, 0
            self.wake()

    def raise_alarm(self, text: str) -> None:
        """Tell the controller at once; every heartbeat repeats it, so that a lost one does no harm. Any thread."""
        self._alarms, self._alarm, self._heartbeat_at_ns = self._alarms + 1, text, 0
        self.wake()

    def set_progress(self, *, opened: int, durable: int) -> None:
        """Triggers opened in this epoch, and the ledger's durable watermark, for the next heartbeat. Any thread."""
        self._opened, self._durable = opened, max(self._durable, durable)

    def set_qualified(self, recipes: frozenset[Hashes]) -> None:
        """What the station is qualified to decide with; answers of anything else are flagged. Any thread."""
        self._qualified = recipes

    def send(self, answer: Answer, *, durable: int = 0) -> Handed:
        """Send an answer, and keep it until it is acknowledged or too late.

        A PASS or FAIL is sent and resent before its due time only; an INVALID until ``grace_s`` after it, and after it
        came. The caller's thread may be kept from running at any line, so what was in time for the caller can be
        TOO_LATE here: then nothing has left, and the caller answers INVALID. Raises LinkError as ``wire.pack_answer``
        does."""
        self._router.owned()
        now_ns = self._clock.now_ns()
        if answer.epoch == self._epoch:
            self._durable = max(self._durable, durable)
        qualified = answer.hashes in self._qualified
        frames = wire.pack_answer(
            answer, left_us=(answer.due_ns - now_ns) // 1000, durable=durable, qualified=qualified
        )
        waiting = self._outbox.put(answer, frames, durable, now_ns)
        if not isinstance(waiting, Waiting):
            return waiting or Handed.KEPT
        if self._transmit(waiting):
            return Handed.SENT
        if waiting.attempts or self._clock.now_ns() < waiting.until_ns:
            return Handed.KEPT
        self._outbox.withdraw(waiting)
        return Handed.TOO_LATE

    def service(self, now_ns: int) -> list[Event]:
        """Read what came (at most 64 messages), resend, give the heartbeat. Never blocks."""
        self._router.owned()
        for _ in range(_BURST):
            received = self._router.receive()
            if received is None:
                self.heard_ns = now_ns
                break
            self._handle(received.identity, received.parts, received.user_id, now_ns)
        peer = self._peer
        if peer is not None and peer.up and now_ns - peer.heard_ns >= self._timeout_ns:
            self._down(f"silent for {self._timeout_ns / 1e9:g} s")
        for waiting in self._outbox.ready(now_ns):
            self._transmit(waiting)
        unsent = self._outbox.take_unsent(self._epoch)
        if peer is not None and peer.up:  # one that is away takes silence for a reject
            self._events += [Unsent(answer) for answer in unsent]
        if now_ns >= self._heartbeat_at_ns:
            self._beat(now_ns)
        events, self._events = self._events, []
        return events

    def next_wake_ns(self) -> int | None:
        """When ``service`` has something to do without a message; None while no controller and no answer is there."""
        at_ns = self._outbox.next_ns()
        if self._peer is not None and self._peer.up:
            at_ns = min(at_ns, self._heartbeat_at_ns, self._peer.heard_ns + self._timeout_ns)
        return None if at_ns == NEVER_NS else at_ns

    def reload_keys(self) -> None:
        """Read the allowed keys again; a controller whose key is gone gets nothing more. Raises ConfigError."""
        self._router.owned()
        self._router.reload_keys()
        if self._peer is not None and self._peer.up and not self._router.admits(self._peer.user_id):
            self._down("key is not allowed any more")

    def statistics(self) -> ControllerStatistics:
        """A snapshot. Any thread."""
        peer, box = self._peer, self._outbox
        return ControllerStatistics(
            connected=peer is not None and peer.up,
            authenticating=self._router.authenticating,
            unacknowledged=len(box),
            unacknowledged_peak=box.peak,
            withheld=box.withheld,
            expired=box.expired,
            displaced=box.displaced,
            conflicts=box.conflicts,
            **self._count,
        )

    def close(self, linger_s: float = 0.2) -> None:
        """Close the socket, letting what was sent leave for at most ``linger_s``; idempotent."""
        self._router.close(linger_s)

    def _handle(self, identity: bytes, parts: list[bytes], user_id: str, now_ns: int) -> None:
        self._count["received"] += 1
        if not self._router.admits(user_id):
            self._refuse(None, "message with a key that is not allowed", now_ns)
            return
        try:
            message = wire.unpack(parts, max_bytes=self._max_message_bytes)
        except LinkError as error:
            self._refuse(identity, str(error), now_ns)
            return
        if not isinstance(message, HelloMessage | AckMessage | AnnounceMessage):
            self._refuse(identity, "message is not for the daemon; expected HELLO, ACK or ANNOUNCE", now_ns)
        elif self._is_controller(identity, user_id, message, now_ns):
            if isinstance(message, HelloMessage):
                self._outbox.hurry(now_ns)
                self._heartbeat_at_ns = 0  # the heartbeat is the reply to a HELLO
            elif isinstance(message, AckMessage):
                self._acknowledge(message, now_ns)
            else:
                self._announce(identity, message, now_ns)

    def _is_controller(self, identity: bytes, user_id: str, message: Message, now_ns: int) -> bool:
        """One controller at a time: the first to say HELLO, until it is silent or gone."""
        peer = self._peer
        bound = self._users.get(identity)
        if self._router.keyed and bound not in {None, user_id} and self._router.admits(bound or ""):
            # HANDOVER gave this client the answers' way; stop until the right one is back
            if peer is not None and peer.up and peer.identity == identity:
                self._down("another key uses its identity")
            self._refuse(None, "identity belongs to another key", now_ns)
            return False
        if peer is not None and peer.identity == identity:
            peer.heard_ns, peer.user_id = now_ns, user_id
            if not peer.up:
                peer.up = True
                self._up(peer, message, now_ns)
            return True
        if not isinstance(message, HelloMessage):
            self._refuse(identity, "no HELLO came from this identity yet", now_ns)
            return False
        if peer is not None and peer.up:
            self._refuse(identity, f"another controller is connected: {peer.name}", now_ns)
            return False
        self._peer = Peer(identity, user_id, now_ns)
        self._users[identity] = user_id
        if len(self._users) > _MEMORY:
            self._users.popitem(last=False)
        self._counters.clear()
        self._up(self._peer, message, now_ns)
        return True

    def _up(self, peer: Peer, message: Message, now_ns: int) -> None:
        self._count["connects"] += 1
        last = (message.epoch, message.last_sequence) if isinstance(message, HelloMessage) else (0, 0)
        self._events.append(ControllerUp(peer.name, *last))
        self._outbox.hurry(now_ns)
        self._heartbeat_at_ns = 0

    def _down(self, why: str) -> None:
        if self._peer is not None and self._peer.up:
            self._peer.up = False
            self._count["disconnects"] += 1
            self._events.append(ControllerDown(self._peer.name, why))

    def _acknowledge(self, message: AckMessage, now_ns: int) -> None:
        for sequence in message.sequences:
            told = self._outbox.acknowledge((message.epoch, sequence))
            self._count[_TOLD[told]] += 1
            if told is Told.NEW:
                self._events.append(Acked(Receipt(message.epoch, sequence, now_ns)))

    def _announce(self, identity: bytes, message: AnnounceMessage, now_ns: int) -> None:
        if message.counter >= 1 << 63:
            self._refuse(identity, f"announcement with counter {message.counter}, below 2^63 is expected", now_ns)
            return
        # a counter alone proves no repetition: a controller that restarted counts from 1 again
        part_id, heard_ns = self._counters.get(message.counter, ("", -_REPEATED_NS))
        if message.resent and part_id == message.part_id and now_ns - heard_ns < _REPEATED_NS:
            self._count["announcements_repeated"] += 1
            return
        self._counters[message.counter] = message.part_id, now_ns
        if len(self._counters) > _MEMORY:
            self._counters.popitem(last=False)
        self._count["announced"] += 1
        self._events.append(Announced(message.counter, message.part_id, message.encoder, now_ns))

    def _refuse(self, identity: bytes | None, why: str, now_ns: int) -> None:
        self._count["refused"] += 1
        if now_ns >= self._refusal_at_ns:
            self._refusal_at_ns = now_ns + _REFUSAL_GAP_NS
            self._events.append(Refused(why))
            if identity is not None:
                self._put(identity, wire.pack_refused(why, epoch=self._epoch))

    def _transmit(self, waiting: Waiting) -> bool:
        now_ns, peer = self._clock.now_ns(), self._peer
        if now_ns >= waiting.until_ns or peer is None or not peer.up:
            self._outbox.postpone(waiting, NEVER_NS)
            return False
        if not self._put(peer.identity, waiting.stamped(now_ns, self._durable, self._epoch)):
            self._count["unreachable"] += 1
            self._outbox.postpone(waiting, now_ns + _FULL_NS)  # its due time does not wait
            return False
        self._count["resent" if waiting.attempts else "sent"] += 1
        self._outbox.sent(waiting, now_ns)
        if waiting.key[0] == self._epoch:
            self._last_sequence = max(self._last_sequence, waiting.key[1])
        return True

    def _beat(self, now_ns: int) -> None:
        self._heartbeat_at_ns = now_ns + self._heartbeat_ns
        peer = self._peer
        if peer is None or not peer.up:
            return
        frames = wire.pack_state(
            self._state,
            epoch=self._epoch,
            last_sequence=self._last_sequence,
            opened=self._opened,
            durable=self._durable,
            sent_ns=self._clock.now_ns(),
            alarms=self._alarms,
            alarm=self._alarm,
        )
        self._count["heartbeats"] += self._put(peer.identity, frames)

    def _put(self, identity: bytes, frames: list[bytes]) -> bool:
        """False where the socket has no room or no way; nothing is lost, the answer stays for resending."""
        sent = self._router.put(identity, frames)
        if sent is Sent.UNREACHABLE and self._peer is not None and self._peer.identity == identity:
            self._down("unreachable")
        return sent is Sent.QUEUED


_TOLD = {Told.NEW: "acknowledged", Told.AGAIN: "acks_repeated", Told.UNKNOWN: "acks_unknown"}
