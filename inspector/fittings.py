"""What a line is fitted with: its seams to ledger and link, and the recipe parts are decided by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inspector.decision import Rules
from inspector.engine import Engine
from inspector.frame import Answer, Entry, Frame, Hashes
from inspector.ledger.book import Row
from inspector.link.events import Event, Handed
from inspector.preprocess import Preprocess

Stages = tuple[tuple[str, int], ...]
"""(stage, microseconds), in the order in which they ran."""


class Ledger(Protocol):
    """What the line needs of the ledger: the book on disk, or one in memory for the simulated drill."""

    @property
    def durable(self) -> int: ...

    def write(self, batch: Sequence[Row]) -> None: ...


class Link(Protocol):
    """What the line needs of the controller's link: the socket, or a simulated network."""

    @property
    def heard_ns(self) -> int: ...

    def wait(self, timeout_s: float) -> None: ...

    def wake(self) -> None: ...

    def send(self, answer: Answer, *, durable: int) -> Handed: ...

    def service(self, now_ns: int) -> list[Event]: ...

    def raise_alarm(self, text: str) -> None: ...

    def next_wake_ns(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """What parts are decided with. Swapped whole, between two parts."""

    engine: Engine
    preprocess: Preprocess
    rules: Rules
    hashes: Hashes
    promised: float | None = None
    """Share of defective parts that may pass, as the operating point promises; None where nothing is promised."""


@dataclass(frozen=True, slots=True)
class Part:
    """A frame with its line in the docket, waiting for the engine."""

    entry: Entry
    frame: Frame


@dataclass(frozen=True, slots=True)
class Pace:
    """Numbers of the line that are neither rules nor sizes of its channels."""

    views: int = 1
    view_gap_ns: int = 0
    announcements: bool = False
    frame_earliest_ns: int = -5_000_000
    frame_latest_ns: int = 30_000_000
    keep_alive_ns: int = 0
