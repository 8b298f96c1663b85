"""The messages of the wire protocol and the numbers that stand for words in them; wire.py turns them into bytes."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from inspector.frame import Answer, Reason, State, Verdict


class Kind(enum.IntEnum):
    """Message kinds; numbers are fixed for ever. From 32 on: sent by the controller."""

    ANSWER = 1
    STATE = 2
    REFUSED = 3
    HELLO = 32
    ACK = 33
    ANNOUNCE = 34


class Flag(enum.IntFlag):
    """Header flags; bits a reader does not know are ignored."""

    RESENT = 1
    """This message was, or may have been, sent before."""
    REVIEW = 2
    """A person should look at the part."""
    CUT = 4
    """The detail lists less than the ledger keeps."""
    PART_ID_CUT = 8
    """The part id does not fit into the header's 32 bytes; the detail has it whole."""
    UNQUALIFIED = 16
    """The station was not qualified for what this answer was decided with when it was first packed."""


# Zero is never a valid verdict, so that cleared memory cannot read as PASS.
VERDICT_NUMBERS = {Verdict.PASS: 1, Verdict.FAIL: 2, Verdict.INVALID: 3}
REASON_NUMBERS = {
    Reason.LATE: 1,
    Reason.DROPPED: 2,
    Reason.MISSED: 3,
    Reason.INCOMPLETE: 4,
    Reason.NOT_LOCATED: 5,
    Reason.BAD_IMAGE: 6,
    Reason.ENGINE_FAULT: 7,
    Reason.NOT_FINITE: 8,
    Reason.VIEW_MISSING: 9,
    Reason.UNRECORDED: 10,
    Reason.STOPPED: 11,
    Reason.RESTARTED: 12,
}
# The numbers of OPC 40100-1; 4 is Operational, which is no state of its own.
STATE_NUMBERS = {
    State.PREOPERATIONAL: 1,
    State.HALTED: 2,
    State.ERROR: 3,
    State.INITIALIZED: 5,
    State.READY: 6,
    State.SINGLE_EXECUTION: 7,
    State.CONTINUOUS_EXECUTION: 8,
}
if (set(VERDICT_NUMBERS), set(REASON_NUMBERS), set(STATE_NUMBERS)) != (set(Verdict), set(Reason), set(State)):
    raise AssertionError("every verdict, reason and state has its number on the wire")


@dataclass(frozen=True, slots=True)
class AnswerMessage:
    """One answer as it arrived. ``left_us`` <= 0: too late, treat as reject."""

    answer: Answer
    left_us: int
    durable: int
    flags: Flag
    defect_count: int
    """Defects found; more than ``answer.defects`` lists where the flag CUT is set."""


@dataclass(frozen=True, slots=True)
class StateMessage:
    """Heartbeat: where the daemon stands."""

    state: State
    epoch: int
    last_sequence: int
    """Highest sequence of this epoch that was sent; 0 = none yet."""
    opened: int
    """Triggers opened in this epoch; 0 where the daemon does not say."""
    durable: int
    sent_ns: int
    """The daemon's monotonic clock at sending."""
    alarms: int = 0
    """Alarms that began in this epoch; a controller that sees it rise has an alarm."""
    alarm: str = ""
    """The last of them, in words."""


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """The daemon could not use a message, or will not."""

    why: str
    epoch: int


@dataclass(frozen=True, slots=True)
class HelloMessage:
    """The controller is here; ``epoch`` and ``last_sequence`` are the last answer it received (0, 0: none)."""

    epoch: int
    last_sequence: int


@dataclass(frozen=True, slots=True)
class AckMessage:
    """The controller has received these answers."""

    epoch: int
    sequences: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnnounceMessage:
    """A part is coming; its announcement is the trigger where the daemon is configured so."""

    counter: int
    part_id: str
    encoder: int
    resent: bool = False


Message = AnswerMessage | StateMessage | RefusedMessage | HelloMessage | AckMessage | AnnounceMessage
