"""The review beside the line: the store that is judged into, its queue, and where the promise stands by it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from inspector.clock import Clock
from inspector.config import Settings
from inspector.engine.bundle import Bundle, load_bundle
from inspector.errors import InspectorError
from inspector.review.agreement import Agreement, analyse
from inspector.review.learn import Learned
from inspector.review.population import Population
from inspector.review.records import Review
from inspector.review.room import Report as Learnt
from inspector.review.room import Room, open_room, report
from inspector.review.standing import Standing

_EVERY_S = 10.0
"""The standing is worked out again after a verdict, or after so long."""


@dataclass(frozen=True, slots=True)
class Told:
    """Where the promise stands, and what it was made from."""

    standing: Standing | None
    """None while it cannot be worked out."""
    threshold: float | None
    min_area_px: int | None
    evidence: tuple[str, ...]
    """Of the bundle's operating point."""
    why_not: str = ""
    """Why there is no standing."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the learn page shows."""

    told: Told
    learned: Learned
    agreement: Agreement
    reviews: tuple[Review, ...]
    """The newest, newest first."""
    count: int
    reference: str


class PromiseDesk:
    """Any thread. What fails here is told on the page; watching goes on without it."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._lock = threading.Lock()
        self._room: Room | None = None
        self._population: Population | None = None
        self._bundle: Bundle | None = None
        self._fault = "the reviews are not open"
        self._told = Told(None, None, None, (), "it is being worked out")
        self._wanted, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open what can be opened, and keep the standing fresh in a thread of its own."""
        with self._lock:
            self._open()
        self._thread = threading.Thread(target=self._keep_fresh, name="promise", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Idempotent."""
        self._stopping.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(10)
            self._thread = None
        with self._lock:
            if self._room is not None:
                self._room.close()
                self._room = None

    def room(self) -> Room:
        """Where verdicts go. Raises InspectorError where it cannot be opened, after one more try."""
        with self._lock:
            return self._opened()

    def changed(self) -> None:
        """A verdict was added."""
        self._wanted.set()

    def standing(self) -> Told:
        """Where the promise stood when it was last worked out; at once, for pages that must not wait."""
        return self._told

    def fresh(self) -> Told:
        """Where the promise stands now. The first time it counts the whole ledger, some seconds for millions."""
        try:
            told = Told(self._learned().standing, *self._point())
        except InspectorError as error:
            told = replace(Told(None, *self._point()), why_not=str(error))
        self._told = told
        return told

    def _keep_fresh(self) -> None:
        while not self._stopping.is_set():
            self.fresh()
            self._wanted.wait(_EVERY_S)
            self._wanted.clear()

    def report(self, reference: str) -> Report:
        """Everything the reviews say. Raises InspectorError."""
        learned = self._learned().learned
        all_reviews = self.room().store.reviews()
        agreement = analyse(all_reviews, reference="truth" if reference == "truth" else "consensus")
        newest = tuple(reversed(all_reviews[-50:]))
        return Report(self.fresh(), learned, agreement, newest, len(all_reviews), agreement.reference)

    def _learned(self) -> Learnt:
        """What the reviews say of the machine as it is now. Raises InspectorError."""
        with self._lock:
            room = self._opened()
            population = self._population
        assert population is not None
        population.refresh()
        return report(self._settings, room.store.reviews(), population)

    def _point(self) -> tuple[float | None, int | None, tuple[str, ...]]:
        bundle = self._bundle
        if bundle is None:
            return None, None, ()
        evidence = tuple(str(line) for line in bundle.manifest["operating_point"]["evidence"])
        threshold = self._settings.decision.threshold
        return (bundle.threshold if threshold is None else threshold), bundle.min_area_px, evidence

    def _opened(self) -> Room:
        if self._room is None:
            self._open()
        if self._room is None:
            raise InspectorError(self._fault)
        return self._room

    def _open(self) -> None:
        try:
            self._bundle = load_bundle(self._settings.engine.bundle)
            self._room = open_room(self._settings, self._clock)
            self._population = Population(self._room.store.sources.ledger, self._room.store.plan)
        except InspectorError as error:
            self._fault = str(error)
