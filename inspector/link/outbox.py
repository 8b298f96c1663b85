"""Answers that wait for their acknowledgement. No sockets and no clock: the caller brings both."""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from inspector.frame import Answer, Reason, Verdict
from inspector.link import wire
from inspector.link.events import Handed

Key = tuple[int, int]
"""(epoch, sequence): the identity of an answer."""
NEVER_NS = 1 << 63
RESTARTED_GRACE_NS = 600_000_000_000
"""What a killed run left undecided is told to a controller that comes within ten minutes: it may have gone, too."""


class Told(enum.Enum):
    """What an acknowledgement said."""

    NEW = "new"
    AGAIN = "again"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Waiting:
    """One answer on its way."""

    key: Key
    frames: list[bytes]
    due_ns: int
    until_ns: int
    """From here on it is not sent any more: its due time; for an INVALID its grace after that or after it came."""
    durable: int
    next_ns: int
    answer: Answer
    attempts: int = 0

    def stamped(self, now_ns: int, durable: int, epoch: int) -> list[bytes]:
        """The frames as they are sent now; whatever an earlier run may have sent counts as sent before."""
        self.durable = max(self.durable, durable) if self.key[0] == epoch else self.durable
        return wire.restamp(
            self.frames,
            left_us=(self.due_ns - now_ns) // 1000,
            durable=self.durable,
            resent=self.attempts > 0 or self.key[0] != epoch,
        )


@dataclass(slots=True)
class _Known:
    frames: list[bytes]
    """As they came, while the answer waits; the digest is worked out when it is needed, not before the answer left."""
    digest: bytes = b""
    acknowledged: bool = False

    def says(self, frames: list[bytes]) -> bool:
        """Whether these are another copy of the same answer."""
        self.seal()
        return self.digest == wire.content_digest(frames)

    def seal(self) -> None:
        """Keep the digest instead of the frames."""
        if self.frames:
            self.digest, self.frames = wire.content_digest(self.frames), []


class Outbox:
    """Keeps each answer until it is acknowledged or too late. First content wins; memory is bounded.

    ``capacity`` answers wait at most (one more displaces the one that is due first); of ``memory`` answers it is
    remembered what they said and whether they were acknowledged."""

    def __init__(self, *, resend_ns: int, grace_ns: int, capacity: int = 4096, memory: int = 8192) -> None:
        self._resend_ns, self._grace_ns = resend_ns, grace_ns
        self._capacity, self._memory = capacity, memory
        self._waiting: OrderedDict[Key, Waiting] = OrderedDict()
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._soonest_ns = NEVER_NS
        self._unsent: list[Answer] = []
        self.peak = 0
        self.conflicts = self.withheld = self.expired = self.displaced = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(
        self, answer: Answer, frames: list[bytes], durable: int, now_ns: int
    ) -> Waiting | Literal[Handed.TOO_LATE] | None:
        """Take an answer in, for the caller to send or ``postpone`` now.

        None where it must not be sent: known with other content, or acknowledged already. TOO_LATE where nothing of
        it has left and it may not leave any more: another answer to its number is welcome then."""
        key = (answer.epoch, answer.sequence)
        known = self._known.get(key)
        if known is not None and not known.says(frames):
            self.conflicts += 1
            return None
        if known is not None and known.acknowledged:
            return None
        until_ns = answer.due_ns
        if answer.verdict is Verdict.INVALID:  # harmless at any time, so it has its grace even where it comes late
            grace_ns = RESTARTED_GRACE_NS if answer.reason is Reason.RESTARTED else self._grace_ns
            until_ns = max(until_ns, now_ns) + grace_ns
        if now_ns >= until_ns:
            self.withheld += 1
            return None if known is not None else Handed.TOO_LATE
        self._remember(key, frames)
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = Waiting(key, frames, answer.due_ns, until_ns, durable, now_ns, answer)
            self._waiting[key] = waiting
            if len(self._waiting) > self._capacity:
                self._forget(self._victim().key)
                self.displaced += 1
            self.peak = max(self.peak, len(self._waiting))
        self._soonest_ns = min(self._soonest_ns, until_ns)
        return waiting

    def _victim(self) -> Waiting:
        """Who makes room: what an earlier run left, then whatever is due first."""
        for waiting in self._waiting.values():
            if waiting.answer.reason is Reason.RESTARTED:
                return waiting
        return min(self._waiting.values(), key=lambda each: each.until_ns)

    def sent(self, waiting: Waiting, now_ns: int) -> None:
        """It was handed to the socket; the next attempt follows after the resend time."""
        waiting.attempts += 1
        self.postpone(waiting, now_ns + self._resend_ns)

    def withdraw(self, waiting: Waiting) -> None:
        """Its due time came before it could leave. As if it had never been put: another answer is welcome."""
        self.withheld += 1
        self._waiting.pop(waiting.key, None)  # a full outbox may have displaced it at once
        self._known.pop(waiting.key, None)

    def postpone(self, waiting: Waiting, until_ns: int) -> None:
        """Try again at ``until_ns``; NEVER_NS = not before the next ``hurry``."""
        waiting.next_ns = until_ns
        self._soonest_ns = min(self._soonest_ns, until_ns)

    def hurry(self, now_ns: int) -> None:
        """The controller is back: all of them are to be sent now, in the order in which they came."""
        for waiting in self._waiting.values():
            waiting.next_ns = now_ns
        if self._waiting:
            self._soonest_ns = now_ns

    def ready(self, now_ns: int) -> list[Waiting]:
        """Those to be sent or postponed now. What is too late by now is dropped and counted."""
        if now_ns < self._soonest_ns:
            return []
        for waiting in [each for each in self._waiting.values() if now_ns >= each.until_ns]:
            self._forget(waiting.key)
            self.expired += 1
            if not waiting.attempts and waiting.answer.verdict is not Verdict.INVALID:
                self._unsent.append(waiting.answer)
        ready, self._soonest_ns = [], NEVER_NS
        for waiting in self._waiting.values():
            if now_ns >= waiting.next_ns:
                ready.append(waiting)
                self._soonest_ns = min(self._soonest_ns, waiting.until_ns)
            else:
                self._soonest_ns = min(self._soonest_ns, waiting.until_ns, waiting.next_ns)
        return ready

    def take_unsent(self, epoch: int) -> list[Answer]:
        """Each PASS or FAIL of this epoch of which no copy left before it was too late; told once. Another answer to
        its number is welcome. (Of an earlier epoch a copy may have left.)"""
        unsent, self._unsent = [answer for answer in self._unsent if answer.epoch == epoch], []
        for answer in unsent:
            self._known.pop((answer.epoch, answer.sequence), None)
        return unsent

    def acknowledge(self, key: Key) -> Told:
        """Forget the frames of an answer; also of one that was too late to be resent."""
        waiting = self._waiting.pop(key, None)
        known = self._known.get(key)
        if known is None:
            return Told.UNKNOWN if waiting is None else Told.NEW
        if known.acknowledged:
            return Told.AGAIN
        known.acknowledged = True
        known.seal()
        return Told.NEW

    def next_ns(self) -> int:
        """When ``ready`` has something to do at the earliest; NEVER_NS where nothing waits."""
        return self._soonest_ns if self._waiting else NEVER_NS

    def _forget(self, key: Key) -> None:
        """It waits no longer; what it said is remembered without its frames."""
        del self._waiting[key]
        known = self._known.get(key)
        if known is not None:
            known.seal()

    def _remember(self, key: Key, frames: list[bytes]) -> None:
        if key not in self._known:
            self._known[key] = _Known(frames)
            if len(self._known) > self._memory:
                self._known.popitem(last=False)
