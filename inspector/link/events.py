"""What the controller's link tells its owner: events, and its counts."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from inspector.frame import Answer, Receipt


class Handed(enum.Enum):
    """What became of an answer that was given to the link."""

    SENT = "sent"
    """Handed to the socket."""
    KEPT = "kept"
    """It follows when a controller is there, while it is in time; or its number has been answered before."""
    TOO_LATE = "too late"
    """A PASS or FAIL whose due time came before it left. It never leaves; its number must be answered otherwise."""


@dataclass(frozen=True, slots=True)
class Acked:
    """The controller has received an answer; told once for each."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Announced:
    """The controller announced a part."""

    counter: int
    part_id: str
    encoder: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class ControllerUp:
    """A controller said HELLO, or speaks again; (epoch, last_sequence) is the last answer it has, where it told."""

    identity: str
    epoch: int = 0
    last_sequence: int = 0


@dataclass(frozen=True, slots=True)
class ControllerDown:
    """The controller is silent or gone; answers wait for it until they are too late."""

    identity: str
    why: str


@dataclass(frozen=True, slots=True)
class Unsent:
    """The socket had no room for a PASS or FAIL until it was too late; its number must be answered otherwise."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Refused:
    """A message was not used; told at most 20 times a second."""

    why: str


Event = Acked | Announced | ControllerUp | ControllerDown | Unsent | Refused


@dataclass(frozen=True, slots=True)
class ControllerStatistics:
    """Counts since ``open``."""

    connected: bool = False
    authenticating: bool = True
    """False where keys are in use and their thread is not running: no new client is admitted."""
    sent: int = 0
    """Answers handed to the socket for the first time."""
    resent: int = 0
    acknowledged: int = 0
    acks_repeated: int = 0
    acks_unknown: int = 0
    unacknowledged: int = 0
    unacknowledged_peak: int = 0
    withheld: int = 0
    """Answers that came to the link too late to be sent."""
    expired: int = 0
    """Answers that became too late without an acknowledgement."""
    displaced: int = 0
    conflicts: int = 0
    """Answers refused because another content is known under their number."""
    unreachable: int = 0
    """Sends that the socket refused: no controller, or its queue is full."""
    received: int = 0
    refused: int = 0
    announced: int = 0
    announcements_repeated: int = 0
    connects: int = 0
    disconnects: int = 0
    heartbeats: int = 0
